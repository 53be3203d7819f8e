//! Hands accepted kernel connections to what listens in the fabric: the stream itself, no copy.
//!
//! Whoever accepts for a Service outside does so on threads of its own; the guest accepts on the
//! reactor of its pool. Between the two lies the listener's backlog, where a stream waits unregistered.
//! A listener that ends gives back what nobody accepted, for another endpoint to take.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crate::egress::Family;
use crate::fabric::Shared;
use crate::listener::{Handed, Queued, Refusal};
use crate::pod::ports::Slots;
use crate::policy::{self, Verdict};
use crate::publish::Protocol;
use crate::services::Endpoint;

/// Takes a stream back whose listener ended before it accepted it. Called on the thread that ends the
/// listener, with no lock held; must not block. It may hand the stream over again.
pub type GiveBack = Arc<dyn Fn(HandedStream) + Send + Sync>;

/// An accepted kernel connection on its way to a listener of the fabric.
pub struct HandedStream {
    /// The connection, in non-blocking mode and registered with no reactor.
    pub tcp: TcpStream,
    /// The client, as the kernel knows it.
    pub peer: SocketAddr,
    /// The endpoint it was balanced to, where its bytes are counted.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Where it goes when nobody accepts it.
    pub give_back: GiveBack,
}

/// A stream that was not handed over, with the reason.
#[derive(Debug, thiserror::Error)]
#[error("failed to hand a connection over to `{to}`: {reason}")]
pub struct HandOverError {
    /// The stream, for another endpoint.
    pub handed: HandedStream,
    /// Where it was to go.
    pub to: SocketAddr,
    /// Why it did not.
    pub reason: HandOverRefusal,
}

/// Why a stream is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandOverRefusal {
    /// No pod of this fabric has the address.
    #[error("no such pod")]
    NoPod,
    /// The pod does not listen there.
    #[error("nothing listens")]
    NotListening,
    /// The listener's backlog is full, or the pod holds all the kernel sockets it may.
    #[error("no room")]
    Full,
}

/// Puts a stream into the backlog of what listens at `to`. One that a policy of the pod forbids is
/// reset, which counts as done: no other endpoint is meant to take it.
pub(crate) fn hand_over(
    fabric: &Shared,
    to: SocketAddr,
    handed: HandedStream,
) -> Result<(), HandOverError> {
    let refused = |handed, reason| Err(HandOverError { handed, to, reason });
    let ip = to.ip().to_canonical();
    let (target, slot) = (fabric.find_at(ip), Slots::own(Family::of(ip)));
    let Some(target) = target else {
        return refused(handed, HandOverRefusal::NoPod);
    };
    if target.judge_received(Protocol::Tcp, handed.peer, to.port()) == Verdict::Drop {
        policy::reset_at_end((&handed.tcp).into());
        return Ok(());
    }
    let Some(backlog) = target.listening(slot, to.port()) else {
        return refused(handed, HandOverRefusal::NotListening);
    };
    let Ok(place) = target.kernel_count().take() else {
        return refused(handed, HandOverRefusal::Full);
    };
    let queued = |stream| Queued::Handed(Handed { stream, place });
    match backlog.offer(handed, queued) {
        Ok(()) => Ok(()),
        Err((handed, Refusal::Closed)) => refused(handed, HandOverRefusal::NotListening),
        Err((handed, Refusal::Full)) => refused(handed, HandOverRefusal::Full),
    }
}

impl fmt::Debug for HandedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedStream")
            .field("peer", &self.peer)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
