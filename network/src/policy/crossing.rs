//! Judges what pods send and what comes to them, where it crosses from one to the other.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Crossing, Verdict};
use crate::pod::Pod;
use crate::publish::Protocol;

impl Pod {
    /// Judges what this pod sends from `source`, to another pod of the node or elsewhere.
    pub(crate) fn judge_sent(
        &self,
        protocol: Protocol,
        source: IpAddr,
        target: Option<&Pod>,
        to: SocketAddr,
    ) -> Verdict {
        self.fabric().policies().judge(Crossing {
            protocol,
            from: source,
            to,
            source: Some(self.policy()),
            target: target.map(Pod::policy),
        })
    }

    /// Judges what comes to a port of this pod from outside of the fabric, where the peer is `peer`.
    pub(crate) fn judge_received(
        &self,
        protocol: Protocol,
        peer: SocketAddr,
        port: u16,
    ) -> Verdict {
        let fabric = self.fabric();
        fabric.policies().judge(Crossing {
            protocol,
            from: fabric.shown(peer).ip(),
            to: SocketAddr::new(self.ip().into(), port),
            source: None,
            target: Some(self.policy()),
        })
    }
}

/// Makes the end of an accepted connection that no policy admits a reset: its handshake is over, so
/// that it cannot be dropped unheard.
pub(crate) fn reset_at_end(tcp: socket2::SockRef<'_>) {
    if let Err(error) = tcp.set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a forbidden connection is closed instead of reset");
    }
}
