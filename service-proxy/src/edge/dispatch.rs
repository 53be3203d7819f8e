//! Gives each accepted connection to an endpoint: a pod of this node gets the stream itself, an
//! endpoint elsewhere is connected to and joined with it.
//!
//! A refusal and a drop both are a reset here, for the kernel has accepted the connection already. An
//! endpoint that does not take it is followed by another one.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use coracle_network::{Client, Decision, Endpoint, Fabric, Front, GiveBack, HandedStream};
use ipnet::IpNet;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::clock;
use super::counters::{EdgeCounters, count};
use super::limits::{Connections, Permit};
use super::relay::{Relay, Relays, Side};
use super::sockets;

/// How long an endpoint may take to answer: room for one lost packet, which is sent again after a
/// second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// While connections come, a timer is always nearer than that of any of them. Setting one then is a note
/// in the runtime's wheel; the nearest timer of all would wake the reactor, for every connection.
const PACE: Duration = Duration::from_secs(1);

/// Endpoints tried for one connection.
const TRIES_MAX: usize = 5;

/// What every listener of the edge needs to place a connection.
pub(super) struct Dispatcher {
    pub(super) fabric: Option<Fabric>,
    pub(super) neighbourhood: Neighbourhood,
    pub(super) connections: Arc<Connections>,
    pub(super) relays: Arc<Relays>,
    pub(super) counters: Arc<EdgeCounters>,
    /// Where relays run; a stream may come back on a thread of a pod.
    pub(super) runtime: Handle,
    /// Whether a task keeps the [`PACE`].
    pub(super) is_paced: AtomicBool,
    /// Told when descriptors or memory for sockets are used up.
    pub(super) exhausted: Notify,
}

/// Which addresses are the node's and which are pods'.
#[derive(Debug, Default)]
pub(super) struct Neighbourhood {
    pub(super) node: Vec<IpAddr>,
    pub(super) pods: ArcSwap<Vec<IpNet>>,
}

/// A connection that has no endpoint yet.
struct Arrival {
    tcp: StdTcpStream,
    peer: SocketAddr,
    front: Arc<ArcSwap<Front>>,
    give_back: GiveBack,
    /// Endpoints that did not take it.
    tried: Vec<SocketAddr>,
}

impl Neighbourhood {
    /// Tells who connects from an address.
    pub(super) fn client(&self, ip: IpAddr) -> Client {
        let ip = ip.to_canonical();
        if ip.is_loopback() || self.node.contains(&ip) {
            Client::Node
        } else if self.pods.load().iter().any(|range| range.contains(&ip)) {
            Client::Pod(ip)
        } else {
            Client::Outside(ip)
        }
    }
}

impl Dispatcher {
    /// Returns what takes connections back that a pod was given and did not accept.
    pub(super) fn take_back(self: &Arc<Self>, front: &Arc<ArcSwap<Front>>) -> GiveBack {
        let (dispatcher, front) = (Arc::clone(self), Arc::clone(front));
        Arc::new(move |handed: HandedStream| {
            count(&dispatcher.counters.given_back);
            let from = handed.endpoint.iter().map(|endpoint| endpoint.address());
            dispatcher.place(Arrival {
                tried: from.collect(),
                tcp: handed.tcp,
                peer: handed.peer,
                front: Arc::clone(&front),
                give_back: handed.give_back,
            });
        })
    }

    /// Takes an accepted connection.
    pub(super) fn accept(
        self: &Arc<Self>,
        tcp: StdTcpStream,
        peer: SocketAddr,
        front: &Arc<ArcSwap<Front>>,
        give_back: &GiveBack,
    ) {
        count(&self.counters.accepted);
        self.place(Arrival {
            tcp,
            peer,
            front: Arc::clone(front),
            give_back: Arc::clone(give_back),
            tried: Vec::new(),
        });
    }

    /// Gives a connection that came for a pod's own address and port to what listens there, or resets it.
    /// Never waits.
    pub(super) fn accept_for_pod(
        &self,
        fabric: &Fabric,
        tcp: StdTcpStream,
        peer: SocketAddr,
        at: SocketAddr,
        give_back: GiveBack,
    ) {
        count(&self.counters.accepted);
        let handed = HandedStream {
            tcp,
            peer,
            endpoint: None,
            give_back,
        };
        match fabric.hand_over(at, handed) {
            Ok(()) => count(&self.counters.handed_over),
            Err(refused) => {
                tracing::debug!(%at, %peer, reason = %refused.reason, "a pod took no connection");
                count(&self.counters.refused);
                sockets::reset(refused.handed.tcp);
            }
        }
    }

    /// Notes that accepting or connecting met the end of descriptors or memory.
    pub(super) fn note_exhausted(&self) {
        count(&self.counters.exhausted);
        self.exhausted.notify_one();
    }

    /// Finds an endpoint. Never waits.
    fn place(self: &Arc<Self>, mut arrival: Arrival) {
        let client = self.neighbourhood.client(arrival.peer.ip());
        while arrival.tried.len() < TRIES_MAX {
            let front = arrival.front.load();
            let decision = front.decide(client, clock::now(), &arrival.tried);
            drop(front);
            let endpoint = match decision {
                Decision::Endpoint(_, endpoint) => endpoint,
                Decision::Refuse | Decision::NotService => break,
                Decision::Drop => {
                    count(&self.counters.dropped);
                    return sockets::reset(arrival.tcp);
                }
            };
            match self.inside(endpoint.address()) {
                Some(fabric) => match self.hand_over(fabric, arrival, endpoint) {
                    Ok(()) => return,
                    Err(refused) => arrival = refused,
                },
                None => return self.relay(arrival, endpoint),
            }
        }
        count(&self.counters.refused);
        sockets::reset(arrival.tcp);
    }

    /// Returns the fabric in which an address lies.
    pub(super) fn inside(&self, address: SocketAddr) -> Option<&Fabric> {
        let fabric = self.fabric.as_ref()?;
        fabric.is_inside(address.ip()).then_some(fabric)
    }

    fn hand_over(
        &self,
        fabric: &Fabric,
        arrival: Arrival,
        endpoint: Arc<Endpoint>,
    ) -> Result<(), Arrival> {
        let Arrival {
            tcp,
            peer,
            front,
            give_back,
            mut tried,
        } = arrival;
        let start = Instant::now();
        let handed = HandedStream {
            tcp,
            peer,
            endpoint: Some(Arc::clone(&endpoint)),
            give_back,
        };
        match fabric.hand_over(endpoint.address(), handed) {
            Ok(()) => {
                endpoint.counters().count(true, start.elapsed());
                count(&self.counters.handed_over);
                Ok(())
            }
            Err(refused) => {
                endpoint.counters().count(false, start.elapsed());
                tried.push(endpoint.address());
                let HandedStream {
                    tcp,
                    peer,
                    give_back,
                    ..
                } = refused.handed;
                Err(Arrival {
                    tcp,
                    peer,
                    front,
                    give_back,
                    tried,
                })
            }
        }
    }

    /// Connects to an endpoint elsewhere and joins the connection to it.
    fn relay(self: &Arc<Self>, arrival: Arrival, endpoint: Arc<Endpoint>) {
        let permit = match self.connections.enter(arrival.peer.ip()) {
            Ok(permit) => permit,
            Err(full) => {
                tracing::debug!(peer = %arrival.peer, ?full, "a connection is one too many");
                count(&self.counters.over_limit);
                return sockets::reset(arrival.tcp);
            }
        };
        self.keep_pace();
        let id = permit.id();
        let dispatcher = Arc::clone(self);
        let task = async move { dispatcher.connect(arrival, endpoint, permit).await };
        let task = self.runtime.spawn(task);
        self.connections.note_task(id, task.abort_handle());
    }

    /// Keeps the [`PACE`] until no connection has come for so long.
    fn keep_pace(self: &Arc<Self>) {
        if self.is_paced.swap(true, Ordering::AcqRel) {
            return;
        }
        let dispatcher = Arc::clone(self);
        self.runtime.spawn(async move {
            let accepted = || dispatcher.counters.accepted.load(Ordering::Relaxed);
            loop {
                let before = accepted();
                tokio::time::sleep(PACE).await;
                if accepted() == before {
                    break;
                }
            }
            dispatcher.is_paced.store(false, Ordering::Release);
        });
    }

    async fn connect(
        self: Arc<Self>,
        mut arrival: Arrival,
        endpoint: Arc<Endpoint>,
        permit: Permit,
    ) {
        let start = Instant::now();
        let connecting = connect_to(endpoint.address());
        let server = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        endpoint.counters().count(server.is_ok(), start.elapsed());
        match server {
            Ok(server) => self.join(arrival.tcp, server, endpoint, permit),
            Err(error) if coracle_network::is_exhausted(&error) => {
                self.note_exhausted();
                sockets::reset(arrival.tcp);
            }
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.address(), %error, "failed to connect");
                drop(permit);
                arrival.tried.push(endpoint.address());
                self.place(arrival);
            }
        }
    }

    /// Joins two connections in a task of their own, whose memory is that of the relay and nothing of
    /// what it took to connect.
    fn join(
        &self,
        client: StdTcpStream,
        server: TcpStream,
        endpoint: Arc<Endpoint>,
        permit: Permit,
    ) {
        let client = match TcpStream::from_std(client) {
            Ok(client) => client,
            Err(error) => {
                tracing::debug!(%error, "failed to register a connection");
                return self.note_exhausted();
            }
        };
        count(&self.counters.relayed);
        let id = permit.id();
        let relay = Relay::new(
            Side::new(client),
            Side::new(server),
            endpoint,
            Arc::clone(&self.relays),
            permit,
        );
        let task = self.runtime.spawn(relay);
        self.connections.note_task(id, task.abort_handle());
    }
}

async fn connect_to(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.connect(to).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_the_node_a_pod_or_from_outside() {
        let neighbourhood = Neighbourhood {
            node: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            pods: ArcSwap::from_pointee(vec!["10.244.0.0/16".parse().unwrap()]),
        };
        let ip = |ip: &str| ip.parse::<IpAddr>().unwrap();
        let table = [
            ("127.0.0.1", Client::Node),
            ("127.64.3.9", Client::Node),
            ("::1", Client::Node),
            ("192.0.2.1", Client::Node),
            ("::ffff:192.0.2.1", Client::Node),
            ("2001:db8::1", Client::Node),
            ("10.244.3.4", Client::Pod(ip("10.244.3.4"))),
            ("198.51.100.7", Client::Outside(ip("198.51.100.7"))),
        ];
        for (from, expected) in table {
            assert_eq!(neighbourhood.client(ip(from)), expected, "{from}");
        }
    }
}
