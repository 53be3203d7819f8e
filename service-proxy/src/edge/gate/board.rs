//! What an address and port lead to, for sockets that serve many of them: a front, or a pod's own port.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use arc_swap::ArcSwap;
use coracle_network::{Fabric, Front, GiveBack, Protocol};
use parking_lot::RwLock;

use crate::edge::counters::count;
use crate::edge::dispatch::Dispatcher;
use crate::edge::sockets;

/// Fronts by address. Ports of pods are not entered: the pods' network knows who listens.
pub(in crate::edge) struct Board {
    dispatcher: Arc<Dispatcher>,
    fronts: RwLock<HashMap<(Protocol, SocketAddr), Entry>>,
    /// Where connections go that a pod did not accept.
    reset: GiveBack,
}

#[derive(Clone)]
struct Entry {
    front: Arc<ArcSwap<Front>>,
    give_back: GiveBack,
}

/// What an address and port lead to.
pub(in crate::edge) enum Found {
    /// A front, and what takes its connections back.
    Front(Arc<ArcSwap<Front>>, GiveBack),
    /// A port of a pod, which may listen or not.
    Pod(Fabric),
}

impl Board {
    /// Returns one without entries.
    pub(in crate::edge) fn new(dispatcher: &Arc<Dispatcher>) -> Arc<Board> {
        let counting = Arc::clone(dispatcher);
        Arc::new(Board {
            dispatcher: Arc::clone(dispatcher),
            fronts: RwLock::default(),
            reset: Arc::new(move |handed| {
                count(&counting.counters.given_back);
                sockets::reset(handed.tcp);
            }),
        })
    }

    /// Enters a front. The unspecified address stands for all that have no entry of their own.
    pub(in crate::edge) fn enter(
        &self,
        protocol: Protocol,
        at: SocketAddr,
        front: Arc<ArcSwap<Front>>,
    ) {
        let give_back = self.dispatcher.take_back(&front);
        let entry = Entry { front, give_back };
        self.fronts.write().insert((protocol, at), entry);
    }

    /// Takes a front out.
    pub(in crate::edge) fn remove(&self, protocol: Protocol, at: SocketAddr) {
        self.fronts.write().remove(&(protocol, at));
    }

    /// Returns what an address and port lead to, if to anything.
    pub(in crate::edge) fn find(&self, protocol: Protocol, at: SocketAddr) -> Option<Found> {
        if let Some(fabric) = self.dispatcher.inside(at) {
            return Some(Found::Pod(fabric.clone()));
        }
        let everywhere = match at.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let everywhere = SocketAddr::new(everywhere, at.port());
        let fronts = self.fronts.read();
        let entry = fronts.get(&(protocol, at));
        let entry = entry.or_else(|| fronts.get(&(protocol, everywhere)))?;
        let Entry { front, give_back } = entry.clone();
        Some(Found::Front(front, give_back))
    }

    /// Counts that accepting met the end of descriptors or memory.
    pub(in crate::edge) fn count_exhausted(&self) {
        count(&self.dispatcher.counters.exhausted);
    }

    /// Takes an accepted connection, whose own address says what it is for.
    pub(in crate::edge) fn accept(&self, tcp: TcpStream, peer: SocketAddr) {
        let Ok(at) = tcp.local_addr() else {
            // The client has gone again.
            return;
        };
        match self.find(Protocol::Tcp, at) {
            Some(Found::Front(front, give_back)) => {
                self.dispatcher.accept(tcp, peer, &front, &give_back);
            }
            Some(Found::Pod(fabric)) => {
                let reset = Arc::clone(&self.reset);
                self.dispatcher
                    .accept_for_pod(&fabric, tcp, peer, at, reset);
            }
            // It was taken off the board after the kernel had looked.
            None => {
                count(&self.dispatcher.counters.accepted);
                count(&self.dispatcher.counters.refused);
                sockets::reset(tcp);
            }
        }
    }
}
