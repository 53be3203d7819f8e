//! What an address and port lead to, for sockets that serve many of them: a front, a pod's own port, or a
//! port of the host that stands for one.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;

use arc_swap::ArcSwap;
use coracle_network::{Fabric, Front, GiveBack, Protocol};
use parking_lot::RwLock;

use crate::edge::counters::{EdgeCounters, count};
use crate::edge::dispatch::Dispatcher;
use crate::edge::sockets;

/// Fronts and ports of the host by address. Pods' own ports are not entered: the pods' network knows who
/// listens.
pub(in crate::edge) struct Board {
    dispatcher: Arc<Dispatcher>,
    entries: RwLock<HashMap<(Protocol, SocketAddr), Entry>>,
    /// Where connections go that a pod did not accept.
    reset: GiveBack,
}

#[derive(Clone)]
enum Entry {
    Front(Arc<ArcSwap<Front>>, GiveBack),
    HostPort(SocketAddrV4),
}

/// What an address and port lead to.
pub(in crate::edge) enum Found {
    /// A front, and what takes its connections back.
    Front(Arc<ArcSwap<Front>>, GiveBack),
    /// A port of a pod, which may listen or not.
    Pod(Fabric, SocketAddr),
}

impl Board {
    /// Returns one without entries.
    pub(in crate::edge) fn new(dispatcher: &Arc<Dispatcher>) -> Arc<Board> {
        let counting = Arc::clone(dispatcher);
        Arc::new(Board {
            dispatcher: Arc::clone(dispatcher),
            entries: RwLock::default(),
            reset: Arc::new(move |handed| {
                count(&counting.counters.given_back);
                sockets::reset(handed.tcp);
            }),
        })
    }

    /// Enters a front. The unspecified address stands for all that have no entry of their own.
    ///
    /// # Errors
    ///
    /// `AddrInUse` where a pod has that port of the host.
    pub(in crate::edge) fn enter(
        &self,
        protocol: Protocol,
        at: SocketAddr,
        front: Arc<ArcSwap<Front>>,
    ) -> io::Result<()> {
        let give_back = self.dispatcher.take_back(&front);
        let entry = Entry::Front(front, give_back);
        let mut entries = self.entries.write();
        if let Some(Entry::HostPort(_)) = entries.get(&(protocol, at)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        entries.insert((protocol, at), entry);
        Ok(())
    }

    /// Enters a port of the host that stands for a pod's.
    ///
    /// # Errors
    ///
    /// `AddrInUse` where a front or another pod has it.
    pub(super) fn enter_host_port(
        &self,
        protocol: Protocol,
        at: SocketAddr,
        pod: SocketAddrV4,
    ) -> io::Result<()> {
        match self.entries.write().entry((protocol, at)) {
            Place::Occupied(_) => Err(io::ErrorKind::AddrInUse.into()),
            Place::Vacant(vacant) => {
                vacant.insert(Entry::HostPort(pod));
                Ok(())
            }
        }
    }

    /// Takes an entry out.
    pub(in crate::edge) fn remove(&self, protocol: Protocol, at: SocketAddr) {
        self.entries.write().remove(&(protocol, at));
    }

    /// Returns what an address and port lead to, if to anything.
    pub(in crate::edge) fn find(&self, protocol: Protocol, at: SocketAddr) -> Option<Found> {
        if let Some(fabric) = self.dispatcher.inside(at) {
            return Some(Found::Pod(fabric.clone(), at));
        }
        let everywhere = match at.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let everywhere = SocketAddr::new(everywhere, at.port());
        let entries = self.entries.read();
        let entry = entries.get(&(protocol, at));
        let entry = entry.or_else(|| entries.get(&(protocol, everywhere)))?;
        Some(match entry {
            Entry::Front(front, give_back) => {
                Found::Front(Arc::clone(front), Arc::clone(give_back))
            }
            Entry::HostPort(pod) => Found::Pod(self.dispatcher.fabric.clone()?, (*pod).into()),
        })
    }

    /// Tells whether an address is a pod's.
    pub(super) fn is_of_pod(&self, at: SocketAddr) -> bool {
        self.dispatcher.inside(at).is_some()
    }

    /// Returns what is counted.
    pub(super) fn counters(&self) -> &EdgeCounters {
        &self.dispatcher.counters
    }

    /// Returns the node's addresses.
    pub(super) fn node_addresses(&self) -> &[IpAddr] {
        &self.dispatcher.neighbourhood.node
    }

    /// Notes that accepting met the end of descriptors or memory.
    pub(in crate::edge) fn note_exhausted(&self) {
        self.dispatcher.note_exhausted();
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
            Some(Found::Pod(fabric, pod)) => {
                let reset = Arc::clone(&self.reset);
                self.dispatcher
                    .accept_for_pod(&fabric, tcp, peer, pod, reset);
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
