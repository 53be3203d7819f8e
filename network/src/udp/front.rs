//! UDP flows that come in through a Service from outside: their datagrams reach a pod's socket
//! without a kernel socket for each, and its answers go back the way they came.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::egress::Family;
use crate::error::NetError;
use crate::fabric::Shared;
use crate::pod::ports::Slots;
use crate::policy::Verdict;
use crate::publish::Protocol;

/// A flow from outside, kept by whoever received it for as long as it lasts. Sockets of pods know it
/// weakly: once it is dropped, nothing goes back.
pub struct UdpFlow {
    id: u64,
    peer: SocketAddr,
    answer: Box<Answer>,
}

impl UdpFlow {
    /// Returns the flow of a client, as the kernel knows it. `answer` sends to the client; it is called
    /// on the thread of the pod that answers, with no lock held, and must not wait.
    pub fn new(peer: SocketAddr, answer: impl Fn(&[u8]) + Send + Sync + 'static) -> Arc<UdpFlow> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(UdpFlow {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            peer,
            answer: Box::new(answer),
        })
    }

    /// Returns the client.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Returns what tells the flow from all others.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Sends an answer to the client.
    pub(super) fn answer(&self, data: &[u8]) {
        (self.answer)(data);
    }
}

/// What sends an answer back.
type Answer = dyn Fn(&[u8]) + Send + Sync;

/// Delivers a datagram of a flow to the socket that a pod has bound at `to`.
pub(crate) fn deliver(
    fabric: &Shared,
    to: SocketAddr,
    data: &[u8],
    flow: &Arc<UdpFlow>,
) -> Result<(), NetError> {
    if data.len() > super::DATAGRAM_BYTES_MAX {
        return Err(NetError::DatagramTooLarge);
    }
    let ip = to.ip().to_canonical();
    let (target, slot) = (fabric.find_at(ip), Slots::own(Family::of(ip)));
    let target = target.ok_or(NetError::Unreachable)?;
    let shown = fabric.shown(flow.peer);
    // Pods do not come from outside: who says so there made the address up.
    if !fabric.territory().may_be_service(shown.ip()) {
        return Err(NetError::AccessDenied);
    }
    let inbox = target.udp_ports().lock().find(slot, to.port()).cloned();
    let verdict = target.judge_received(Protocol::Udp, shown, to.port());
    if verdict == Verdict::Drop && !inbox.as_ref().is_some_and(|inbox| inbox.is_reply(shown)) {
        return Ok(());
    }
    let inbox = inbox.ok_or(NetError::ConnectionRefused)?;
    inbox.deliver_of(flow, data, shown);
    Ok(())
}

impl fmt::Debug for UdpFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpFlow")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
