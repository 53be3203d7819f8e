//! Who may be answered whatever policies say: peers that were admitted to send to a socket. Pure.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Peers remembered; the oldest is forgotten for a new one.
const PEERS_MAX: usize = 1_024;

/// For how long after the last datagram of either side, as Linux has it for flows that were answered
/// (`nf_conntrack_udp_timeout_stream`).
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Peers that wait for replies.
#[derive(Debug, Default)]
pub(super) struct Replies {
    last: HashMap<SocketAddr, Instant>,
    order: VecDeque<SocketAddr>,
}

impl Replies {
    /// Expects replies to a peer that has sent now.
    pub(super) fn expect(&mut self, peer: SocketAddr, now: Instant) {
        if self.last.insert(peer, now).is_some() {
            return;
        }
        self.order.push_back(peer);
        if self.order.len() > PEERS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
    }

    /// Tells whether a datagram to a peer is a reply, and counts it as the flow's last one.
    pub(super) fn is_expected(&mut self, peer: SocketAddr, now: Instant) -> bool {
        match self.last.get_mut(&peer) {
            Some(last) if now.saturating_duration_since(*last) < IDLE_TIMEOUT => {
                *last = now;
                true
            }
            Some(_) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_expected_until_neither_side_has_sent_for_a_while() {
        let mut replies = Replies::default();
        let (peer, begin) = (SocketAddr::from(([10, 0, 0, 1], 5)), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(!replies.is_expected(peer, begin));
        replies.expect(peer, begin);
        assert!(replies.is_expected(peer, at(119)));
        assert!(replies.is_expected(peer, at(230)));
        assert!(!replies.is_expected(peer, at(350)));
        replies.expect(peer, at(400));
        assert!(replies.is_expected(peer, at(401)));
    }

    #[test]
    fn the_oldest_of_too_many_peers_is_forgotten() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        let peer = |number: u16| SocketAddr::from(([10, 0, 0, 1], number));
        for number in 0..=1024 {
            replies.expect(peer(number), now);
        }
        assert!(!replies.is_expected(peer(0), now));
        assert!(replies.is_expected(peer(1), now));
        assert_eq!(replies.last.len(), PEERS_MAX);
    }
}
