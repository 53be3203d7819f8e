//! Who a UDP socket talks to outside the fabric: address translation for publications, answers for
//! what it sent. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use rand::RngExt;

use crate::pod::ports::EPHEMERAL_PORTS;

/// Peers one socket remembers; the oldest is forgotten for a new one, as in a NAT.
pub(crate) const FLOWS_MAX: usize = 1_024;

/// Draws for a free port to show a peer under before the oldest flow of that port is replaced.
const PORT_DRAWS: usize = 16;

/// A peer of a publication as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    /// The publication's number within the socket.
    pub(super) number: u64,
    /// The peer's real address.
    pub(super) real: SocketAddr,
}

/// Peers of publications under the addresses the guest sees them at, each address one peer.
#[derive(Debug)]
pub(super) struct Flows {
    by_shown: HashMap<SocketAddr, Flow>,
    by_flow: HashMap<Flow, SocketAddr>,
    order: VecDeque<SocketAddr>,
}

impl Flows {
    /// Returns an empty table, which owns no memory.
    pub(super) fn new() -> Flows {
        Flows {
            by_shown: HashMap::new(),
            by_flow: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Returns the address to show `real` at: `wanted`, unless another peer is shown there.
    pub(super) fn enter(
        &mut self,
        number: u64,
        real: SocketAddr,
        wanted: SocketAddr,
    ) -> SocketAddr {
        let flow = Flow { number, real };
        if let Some(shown) = self.by_flow.get(&flow) {
            return *shown;
        }
        let mut shown = wanted;
        for _ in 0..PORT_DRAWS {
            if !self.by_shown.contains_key(&shown) {
                break;
            }
            shown.set_port(rand::rng().random_range(EPHEMERAL_PORTS));
        }
        self.forget(shown);
        if self.order.len() >= FLOWS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.remove(oldest);
        }
        self.by_shown.insert(shown, flow);
        self.by_flow.insert(flow, shown);
        self.order.push_back(shown);
        shown
    }

    /// Returns the peer shown at `address`.
    pub(super) fn find(&self, address: SocketAddr) -> Option<Flow> {
        self.by_shown.get(&address).copied()
    }

    /// Makes room at an address that is still taken after all draws.
    fn forget(&mut self, shown: SocketAddr) {
        if self.remove(shown) {
            self.order.retain(|address| *address != shown);
        }
    }

    fn remove(&mut self, shown: SocketAddr) -> bool {
        let flow = self.by_shown.remove(&shown);
        flow.and_then(|flow| self.by_flow.remove(&flow)).is_some()
    }
}

/// The addresses a socket has sent to, up to [`FLOWS_MAX`] of them.
#[derive(Debug)]
pub(super) struct RecentPeers {
    known: HashSet<SocketAddr>,
    order: VecDeque<SocketAddr>,
}

impl RecentPeers {
    /// Returns an empty set.
    pub(super) fn new() -> RecentPeers {
        RecentPeers {
            known: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Remembers a peer.
    pub(super) fn insert(&mut self, peer: SocketAddr) {
        if !self.known.insert(peer) {
            return;
        }
        self.order.push_back(peer);
        if self.order.len() > FLOWS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Tells whether the socket has sent to `peer`.
    pub(super) fn contains(&self, peer: &SocketAddr) -> bool {
        self.known.contains(peer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(number: u32) -> SocketAddr {
        SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 9000))
    }

    #[test]
    fn a_peer_keeps_its_address_and_two_peers_never_share_one() {
        let mut flows = Flows::new();
        let shown = "10.244.0.1:4000".parse().expect("an address");
        let (first, second) = (address(1), address(2));
        assert_eq!(flows.enter(1, first, shown), shown);
        let other = flows.enter(1, second, shown);
        assert_eq!(other.ip(), shown.ip());
        assert_ne!(other, shown);
        assert_eq!(flows.enter(1, first, shown), shown);
        assert_eq!(
            flows.find(other),
            Some(Flow {
                number: 1,
                real: second
            })
        );
    }

    #[test]
    fn the_oldest_peer_is_forgotten_for_one_too_many() {
        let mut peers = RecentPeers::new();
        let mut flows = Flows::new();
        for number in 0..=FLOWS_MAX as u32 {
            peers.insert(address(number));
            flows.enter(1, address(number), address(number));
        }
        assert!(!peers.contains(&address(0)) && peers.contains(&address(1)));
        assert!(flows.find(address(0)).is_none() && flows.find(address(1)).is_some());
    }

    proptest! {
        /// Every shown address leads to exactly the peer that was given it last, and the tables
        /// agree.
        #[test]
        fn translation_is_one_to_one(
            entries in prop::collection::vec((0u64..3, 0u32..40, 0u32..5), 0..300),
        ) {
            let mut flows = Flows::new();
            for (number, real, wanted) in entries {
                let flow = Flow { number, real: address(real) };
                let shown = flows.enter(number, flow.real, address(1000 + wanted));
                prop_assert_eq!(flows.find(shown), Some(flow));
                prop_assert_eq!(flows.by_shown.len(), flows.by_flow.len());
                prop_assert_eq!(flows.by_shown.len(), flows.order.len());
            }
        }
    }
}
