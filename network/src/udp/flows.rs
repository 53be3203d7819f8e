//! Who a UDP socket talks to outside the fabric: address translation for publications and Services,
//! answers for what it sent. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use rand::RngExt;

use super::front::UdpFlow;
use crate::pod::ports::EPHEMERAL_PORTS;

/// Peers that a socket has sent to and takes answers from; the oldest is forgotten for a new one, as
/// in a NAT.
pub(crate) const RECENT_PEERS_MAX: usize = 1_024;

/// Peers that reached a socket from outside and may be answered; the oldest is forgotten for a new
/// one. About two megabytes; a server with more clients at once answers the older ones in vain.
pub(crate) const FLOWS_MAX: usize = 8_192;

/// Draws for a free port to show a peer under before the oldest flow of that port is replaced.
const PORT_DRAWS: usize = 16;

/// A peer as it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Flow {
    /// Through a publication.
    Published {
        /// The publication's number within the socket.
        number: u64,
        /// The peer's real address.
        real: SocketAddr,
    },
    /// Through a Service, with the number of its [`UdpFlow`].
    Front(u64),
}

/// Peers from outside under the addresses the guest sees them at, each address one peer.
#[derive(Debug)]
pub(super) struct Flows {
    by_shown: HashMap<SocketAddr, Flow>,
    by_flow: HashMap<Flow, SocketAddr>,
    fronts: HashMap<u64, Weak<UdpFlow>>,
    order: VecDeque<SocketAddr>,
}

impl Flows {
    /// Returns an empty table, which owns no memory.
    pub(super) fn new() -> Flows {
        Flows {
            by_shown: HashMap::new(),
            by_flow: HashMap::new(),
            fronts: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Returns the address to show a peer at that came in through a Service: `wanted`, unless another
    /// peer is shown there.
    pub(super) fn enter_front(&mut self, flow: &Arc<UdpFlow>, wanted: SocketAddr) -> SocketAddr {
        let shown = self.enter(Flow::Front(flow.id()), wanted);
        self.fronts
            .entry(flow.id())
            .or_insert_with(|| Arc::downgrade(flow));
        shown
    }

    /// Returns the address to show a peer at: `wanted`, unless another one is shown there.
    pub(super) fn enter(&mut self, flow: Flow, wanted: SocketAddr) -> SocketAddr {
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

    /// Returns a flow that came in through a Service; forgets it if it is over.
    pub(super) fn front(&mut self, id: u64) -> Option<Arc<UdpFlow>> {
        let flow = self.fronts.get(&id).and_then(Weak::upgrade);
        if flow.is_none()
            && let Some(shown) = self.by_flow.get(&Flow::Front(id)).copied()
        {
            self.forget(shown);
        }
        flow
    }

    /// Makes room at an address that is still taken after all draws.
    fn forget(&mut self, shown: SocketAddr) {
        if self.remove(shown) {
            self.order.retain(|address| *address != shown);
        }
    }

    fn remove(&mut self, shown: SocketAddr) -> bool {
        let Some(flow) = self.by_shown.remove(&shown) else {
            return false;
        };
        if let Flow::Front(id) = flow {
            self.fronts.remove(&id);
        }
        self.by_flow.remove(&flow).is_some()
    }
}

/// The addresses a socket has sent to, up to [`RECENT_PEERS_MAX`] of them.
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
        if self.order.len() > RECENT_PEERS_MAX
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

    fn published(number: u64, real: SocketAddr) -> Flow {
        Flow::Published { number, real }
    }

    #[test]
    fn a_flow_that_its_owner_dropped_is_nobodys_address() {
        let mut flows = Flows::new();
        let (first, second) = (
            UdpFlow::new(address(1), |_| {}),
            UdpFlow::new(address(1), |_| {}),
        );
        let shown = flows.enter_front(&first, address(1));
        let other = flows.enter_front(&second, address(1));
        assert_eq!(shown, address(1));
        assert_ne!(other, shown, "two front addresses, one client");
        let Some(Flow::Front(id)) = flows.find(shown) else {
            panic!("it is known")
        };
        assert!(flows.front(id).is_some());
        drop(first);
        assert!(flows.front(id).is_none());
        assert!(flows.find(shown).is_none() && flows.fronts.len() == 1);
    }

    #[test]
    fn a_peer_keeps_its_address_and_two_peers_never_share_one() {
        let mut flows = Flows::new();
        let shown = "10.244.0.1:4000".parse().expect("an address");
        let (first, second) = (address(1), address(2));
        assert_eq!(flows.enter(published(1, first), shown), shown);
        let other = flows.enter(published(1, second), shown);
        assert_eq!(other.ip(), shown.ip());
        assert_ne!(other, shown);
        assert_eq!(flows.enter(published(1, first), shown), shown);
        assert_eq!(flows.find(other), Some(published(1, second)));
    }

    #[test]
    fn the_oldest_peer_is_forgotten_for_one_too_many() {
        let mut peers = RecentPeers::new();
        let mut flows = Flows::new();
        for number in 0..=RECENT_PEERS_MAX as u32 {
            peers.insert(address(number));
        }
        for number in 0..=FLOWS_MAX as u32 {
            flows.enter(published(1, address(number)), address(number));
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
                let flow = published(number, address(real));
                let shown = flows.enter(flow, address(1000 + wanted));
                prop_assert_eq!(flows.find(shown), Some(flow));
                prop_assert_eq!(flows.by_shown.len(), flows.by_flow.len());
                prop_assert_eq!(flows.by_shown.len(), flows.order.len());
            }
        }
    }
}
