//! Keeps the sockets of the edge as the table of Services says.
//!
//! One task owns them. Being woken says only that something may have changed: it compares what should
//! be served with what is, closes first, opens then, and says what came of it. What could not be opened
//! is tried again at the next change and after [`RETRY_INTERVAL`].

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use coracle_network::{Announced, Front, FrontAddress, Fronts, Protocol};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::addresses::{Addresses, Place, Port};
use super::counters::count;
use super::dispatch::Dispatcher;
use super::doors::{DoorHandle, Doors, Kind, TcpDoor};
use super::gate::Gate;
use super::limits::Connections;
use super::machine_addresses;
use super::published::{ListenFailure, Published, PublishedAt};
use super::sockets::{self, Acceptor, Locality};
use super::udp::Datagrams;

/// How soon a port that could not be opened is tried again when nothing else changes.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How often the addresses of this machine are looked at, where node ports depend on them.
const ADDRESSES_INTERVAL: Duration = Duration::from_secs(5);

/// The owner of the sockets.
pub(super) struct Keeper {
    pub(super) addresses: Addresses,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) flows: Arc<Connections>,
    /// What serves a place without a socket of its own, where the kernel lets it.
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) doors: Doors,
    pub(super) fronts: watch::Receiver<Arc<Fronts>>,
    pub(super) published: watch::Sender<Arc<Published>>,
    /// Where node ports are served.
    pub(super) node_ports: watch::Sender<Arc<[IpAddr]>>,
    pub(super) stop: CancellationToken,
    pub(super) sockets: HashMap<Key, Open>,
    /// What could not be opened when it was last tried.
    pub(super) failed: HashMap<Key, ListenFailure>,
    /// The ports that fronts were given, so that a Service without endpoints comes back where it was.
    pub(super) ports: HashMap<Key, u16>,
}

/// A front at one of its places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    front: FrontAddress,
    place: Place,
}

/// A front that is served at a place.
pub(super) struct Open {
    way: Way,
    front: Arc<ArcSwap<Front>>,
    at: SocketAddr,
}

/// How a front is served.
enum Way {
    /// By a socket.
    Door(DoorHandle),
    /// By an entry of the gate, known to be ours as long as this is held.
    Gate(Arc<Gate>, Protocol, Option<Announced>),
}

/// Whether something is left to be tried again.
#[derive(PartialEq, Eq)]
enum Outcome {
    Complete,
    Partial,
}

impl Keeper {
    /// Follows the table until it is told to stop, then closes everything.
    pub(super) async fn run(mut self) {
        loop {
            let fronts = Arc::clone(&self.fronts.borrow_and_update());
            let outcome = self.reconcile(&fronts).await;
            if !self.is_woken(outcome).await {
                break;
            }
        }
        for (_, open) in self.sockets.drain() {
            open.close().await;
        }
        self.doors.stop().await;
    }

    /// Waits until something may have changed; false when it is told to stop.
    async fn is_woken(&mut self, outcome: Outcome) -> bool {
        loop {
            tokio::select! {
                // All four lose nothing when another comes first: each is looked at anew.
                () = self.stop.cancelled() => return false,
                changed = self.fronts.changed() => return changed.is_ok(),
                () = tokio::time::sleep(RETRY_INTERVAL), if outcome == Outcome::Partial => {
                    self.look();
                    return true;
                }
                () = tokio::time::sleep(ADDRESSES_INTERVAL), if self.addresses.follows() => {
                    if self.look() {
                        return true;
                    }
                }
            }
        }
    }

    /// Looks at the addresses of this machine; true where other ones serve node ports than before.
    fn look(&mut self) -> bool {
        let is_new = self.addresses.look(machine_addresses);
        if is_new {
            tracing::info!("this machine has other addresses for node ports");
            self.node_ports.send_replace(self.addresses.node_ports());
        }
        is_new
    }

    async fn reconcile(&mut self, fronts: &Fronts) -> Outcome {
        let wanted = self.wanted(fronts);
        self.close_others(&wanted).await;
        self.forget_others(fronts);
        let mut published = Published::default();
        let mut outcome = Outcome::Complete;
        for (key, front) in wanted {
            let at = match self.sockets.get(&key) {
                Some(open) => {
                    if !is_same(&open.front.load(), &front) {
                        open.front.store(Arc::new(front));
                    }
                    open.look_again();
                    PublishedAt::Address(open.at)
                }
                None => match self.open(key, front).await {
                    Ok(at) => PublishedAt::Address(at),
                    Err(failure) => {
                        outcome = Outcome::Partial;
                        PublishedAt::Failed(failure)
                    }
                },
            };
            published.insert(key.front, at);
        }
        self.published.send_if_modified(|current| {
            let differs = **current != published;
            if differs {
                *current = Arc::new(published);
            }
            differs
        });
        outcome
    }

    /// Returns what is to be served: the fronts of Services with endpoints, each at its places.
    fn wanted(&mut self, fronts: &Fronts) -> HashMap<Key, Front> {
        let mut wanted = HashMap::new();
        for (address, front) in fronts.iter().filter(|(_, front)| has_endpoints(front)) {
            let mut places = self.addresses.places(*address, front.kind);
            // Two fronts at one place would take turns.
            places.retain(|place| fronts.is_meant(*address, place.ip));
            wanted.extend(places.into_iter().map(|place| {
                let front_address = *address;
                let key = Key {
                    front: front_address,
                    place,
                };
                (key, front.clone())
            }));
        }
        wanted
    }

    /// Closes what is no longer served. What was accepted goes on.
    async fn close_others(&mut self, wanted: &HashMap<Key, Front>) {
        let gone = self
            .sockets
            .extract_if(|key, _| !wanted.contains_key(key))
            .collect::<Vec<_>>();
        for (_, open) in gone {
            open.close().await;
        }
    }

    fn forget_others(&mut self, fronts: &Fronts) {
        let known = fronts.iter().map(|(address, _)| *address);
        let known = known.collect::<HashSet<_>>();
        self.ports.retain(|key, _| known.contains(&key.front));
        self.failed.retain(|key, _| known.contains(&key.front));
        let services = known.iter().filter_map(|address| address.ip).collect();
        self.addresses.keep_only(&services);
    }

    async fn open(&mut self, key: Key, front: Front) -> Result<SocketAddr, ListenFailure> {
        let front = Arc::new(ArcSwap::from_pointee(front));
        let opened = match self.open_at_gate(key, &front) {
            Some(opened) => opened,
            None => self.open_door(key, &front).await,
        };
        let (way, at) = match opened {
            Ok(opened) => opened,
            Err(failure) => {
                count(&self.dispatcher.counters.listen_failures);
                // Once, not at each retry.
                if self.failed.insert(key, failure.clone()).as_ref() != Some(&failure) {
                    let ListenFailure { at, reason } = &failure;
                    tracing::warn!(%at, %reason, "a Service's port is not served");
                }
                return Err(failure);
            }
        };
        self.failed.remove(&key);
        self.ports.insert(key, at.port());
        self.sockets.insert(key, Open { way, front, at });
        Ok(at)
    }

    /// Serves a front by an entry of the gate; nothing where that is none of the gate's business.
    fn open_at_gate(
        &self,
        key: Key,
        front: &Arc<ArcSwap<Front>>,
    ) -> Option<Result<(Way, SocketAddr), ListenFailure>> {
        let (gate, Port::Exactly(port)) = (self.gate.as_ref()?, key.place.port) else {
            return None;
        };
        let (ip, protocol) = (key.place.ip, key.front.protocol);
        let at = SocketAddr::new(ip, port);
        let served = match self.addresses.locality(ip) {
            Locality::Routed => Ok(()),
            // The kernel looks only for who is reached at addresses of this machine.
            Locality::Own => sockets::check_own(ip),
        };
        let served = served.and_then(|()| gate.serve_front(protocol, at, front));
        let way = |()| Way::Gate(Arc::clone(gate), protocol, self.announce(protocol, at));
        Some(match served {
            Ok(()) => Ok((way(()), at)),
            Err(error) => Err(ListenFailure::new(at, &error)),
        })
    }

    /// Serves a front by a socket of its own.
    async fn open_door(
        &mut self,
        key: Key,
        front: &Arc<ArcSwap<Front>>,
    ) -> Result<(Way, SocketAddr), ListenFailure> {
        let (kind, at) = self.bind(key, front)?;
        let announced = self.announce(key.front.protocol, at);
        let door = self.doors.open(kind, announced).await;
        Ok((Way::Door(door), at))
    }

    fn announce(&self, protocol: Protocol, at: SocketAddr) -> Option<Announced> {
        let fabric = self.dispatcher.fabric.as_ref()?;
        fabric.announce(protocol, at)
    }

    fn bind(
        &self,
        key: Key,
        front: &Arc<ArcSwap<Front>>,
    ) -> Result<(Kind, SocketAddr), ListenFailure> {
        let had = self.ports.get(&key).copied();
        let mut failure = None;
        for port in ports_to_try(key.place.port, had) {
            let at = SocketAddr::new(key.place.ip, port);
            match self.bind_at(key.front.protocol, at, front) {
                Ok(opened) => return Ok(opened),
                // The first reason is about the port that was wanted.
                Err(error) => failure = failure.or(Some(ListenFailure::new(at, &error))),
            }
        }
        Err(failure.expect("there is at least one port to try"))
    }

    fn bind_at(
        &self,
        protocol: Protocol,
        at: SocketAddr,
        front: &Arc<ArcSwap<Front>>,
    ) -> io::Result<(Kind, SocketAddr)> {
        let front = Arc::clone(front);
        let locality = self.addresses.locality(at.ip());
        match protocol {
            Protocol::Tcp => {
                let socket = sockets::listen(at, locality)?;
                let at = sockets::bound_to(&socket)?;
                let door = TcpDoor::new(Acceptor::new(socket)?, &self.dispatcher, front);
                Ok((Kind::Tcp(door), at))
            }
            Protocol::Udp => {
                let socket = sockets::bind_udp(at, locality)?;
                let at = sockets::bound_to(&socket)?;
                let datagrams = Datagrams::new(socket, &self.dispatcher, &self.flows, front)?;
                Ok((Kind::Udp(Box::new(datagrams)), at))
            }
        }
    }
}

impl Open {
    /// Makes UDP flows look again at their front and endpoints.
    fn look_again(&self) {
        match &self.way {
            Way::Door(door) => door.look_again(),
            Way::Gate(gate, protocol, _) => gate.look_again(*protocol, self.at),
        }
    }

    /// Serves the front no longer; its port is free when this returns.
    async fn close(self) {
        match self.way {
            Way::Door(door) => door.close().await,
            Way::Gate(gate, protocol, _announced) => gate.end_front(protocol, self.at),
        }
    }
}

/// Tells whether a front has any endpoint. Where a policy leaves none of them to a client, the
/// connection is accepted and reset; where there is none at all, the kernel refuses.
fn has_endpoints(front: &Front) -> bool {
    let routes = front.service.routes();
    !routes.cluster.is_empty() || !routes.local.is_empty()
}

fn is_same(one: &Front, other: &Front) -> bool {
    Arc::ptr_eq(&one.service, &other.service)
        && one.kind == other.kind
        && one.source_ranges == other.source_ranges
}

/// Returns the ports to try in turn: the one that is wanted, the one the front had, a free one.
fn ports_to_try(wanted: Port, had: Option<u16>) -> Vec<u16> {
    match wanted {
        Port::Exactly(port) => vec![port],
        Port::Preferably(port) => [Some(port), had, Some(0)].into_iter().flatten().collect(),
        Port::Any => [had, Some(0)].into_iter().flatten().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_asks_for_its_port_then_for_the_one_it_had_then_for_any() {
        assert_eq!(ports_to_try(Port::Exactly(80), Some(9)), [80]);
        assert_eq!(ports_to_try(Port::Preferably(80), None), [80, 0]);
        assert_eq!(ports_to_try(Port::Preferably(80), Some(9)), [80, 9, 0]);
        assert_eq!(ports_to_try(Port::Any, Some(9)), [9, 0]);
        assert_eq!(ports_to_try(Port::Any, None), [0]);
    }
}
