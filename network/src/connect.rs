//! Establishes connections: between pods in memory, from the host side into a pod, and out through
//! the host. Where the address is a Service's, [`service`] says which of these it becomes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use rand::RngExt;
use tokio::net::TcpSocket;

use crate::egress::{Destination, Family};
use crate::error::NetError;
use crate::fabric::Shared;
use crate::pod::live::Held;
use crate::pod::ports::{EPHEMERAL_PORTS, Slots};
use crate::pod::{Membership, Pod, TcpPort};
use crate::policy::Verdict;
use crate::publish::Protocol;
use crate::services::{Decision, Endpoint};
use crate::stream::kernel::{Holder, KernelSocket, Traffic};
use crate::stream::memory::Connection;
use crate::stream::{Addresses, Stream, Transport};

mod service;

pub(crate) use service::Balanced;

/// Where a connection of a pod leads.
enum Way {
    /// To a pod of this fabric, or the node's place.
    Within {
        target: Arc<Pod>,
        slot: Slots,
        /// What the other side sees the connection come from.
        source: IpAddr,
        /// What it was reached at.
        at: SocketAddr,
    },
    /// Through the host, to an address in canonical form.
    Outwards(SocketAddr),
}

/// An established connection that nobody holds as a stream yet.
struct Link {
    transport: Transport,
    source: IpAddr,
    membership: Membership,
}

/// Connects from a pod.
pub(crate) async fn from_pod(
    pod: &Arc<Pod>,
    from: Option<TcpPort>,
    to: SocketAddr,
) -> Result<Stream, NetError> {
    if to.port() == 0
        || from
            .as_ref()
            .is_some_and(|port| !Arc::ptr_eq(port.pod(), pod))
    {
        return Err(NetError::InvalidArgument);
    }
    let fabric = pod.fabric();
    if fabric.territory().may_be_service(to.ip()) {
        let begun = Instant::now();
        let services = fabric.services();
        match services.decide(Protocol::Tcp, to, pod.client(), begun) {
            Decision::NotService => {}
            decision => {
                let patience = service::PATIENCE;
                return service::connect(pod, from, to, decision, begun, patience).await;
            }
        }
    }
    let way = Way::of(pod, to)?;
    let port = source_port(pod, from, way.slot(pod), way.source(pod))?;
    Ok(way.follow(pod, &port, None).await?.into_stream(to, port))
}

/// Connects from the host side into a pod; the pod sees the node's address inside the pod CIDR.
pub(crate) async fn from_host(fabric: &Arc<Shared>, to: SocketAddr) -> io::Result<Stream> {
    let ip = to.ip().to_canonical();
    let family = Family::of(ip);
    let target = fabric.find_at(ip).ok_or(NetError::Unreachable)?;
    let backlog = target
        .listening(Slots::own(family), to.port())
        .ok_or(NetError::ConnectionRefused)?;
    let place = backlog.place().await?;
    let source = fabric.territory().node_of(family);
    let local = SocketAddr::new(source, rand::rng().random_range(EPHEMERAL_PORTS));
    let budgets = (fabric.host_budget(), target.budget());
    let connection = Connection::new(Arc::clone(budgets.0), Arc::clone(budgets.1), None);
    let (client, server) = connection.ends();
    let membership = target.enter(Held::memory(&connection))?;
    let accepted = Addresses {
        local: SocketAddr::new(ip, to.port()),
        peer: local,
    };
    let seen = accepted.seen_by(backlog.local());
    let stream = Stream::new(Transport::Memory(server), seen, Some(membership), None);
    backlog.push(stream, None, place)?;
    let dialled = Addresses { local, peer: to };
    Ok(Stream::new(
        Transport::Memory(client),
        dialled.seen_by(to),
        None,
        None,
    ))
}

impl Way {
    /// Tells where an address leads that is no Service's.
    fn of(pod: &Arc<Pod>, to: SocketAddr) -> Result<Way, NetError> {
        let at = SocketAddr::new(to.ip().to_canonical(), to.port());
        let own = |slot, source| Way::Within {
            target: Arc::clone(pod),
            slot,
            source,
            at,
        };
        let node = pod.fabric().territory().node;
        Ok(match pod.fabric().territory().judge(to.ip())? {
            Destination::OwnLoopback4 => own(Slots::LOOPBACK_4, Ipv4Addr::LOCALHOST.into()),
            Destination::OwnLoopback6 => own(Slots::LOOPBACK_6, Ipv6Addr::LOCALHOST.into()),
            Destination::Node(family) => Way::to_pod(pod, node, family, at)?,
            Destination::Pod(ip, family) if ip == pod.ip() => {
                own(Slots::own(family), pod.address(family))
            }
            Destination::Pod(ip, family) => Way::to_pod(pod, ip, family, at)?,
            Destination::Outside(_) => Way::Outwards(at),
        })
    }

    fn to_pod(
        pod: &Arc<Pod>,
        ip: Ipv4Addr,
        family: Family,
        at: SocketAddr,
    ) -> Result<Way, NetError> {
        Ok(Way::Within {
            target: pod.fabric().find(ip).ok_or(NetError::Unreachable)?,
            slot: Slots::own(family),
            source: pod.address(family),
            at,
        })
    }

    fn slot(&self, pod: &Pod) -> Slots {
        match self {
            Way::Within { slot, .. } => *slot,
            Way::Outwards(at) => source_slot(pod, at.ip()),
        }
    }

    /// Returns what the pod sees the connection come from.
    fn source(&self, pod: &Pod) -> IpAddr {
        match self {
            Way::Within { source, .. } => *source,
            Way::Outwards(at) => pod.address(Family::of(at.ip())),
        }
    }

    /// Asks the policies of both sides.
    fn judge(&self, pod: &Pod) -> Verdict {
        let (target, at) = match self {
            Way::Within { target, at, .. } => (Some(&**target), *at),
            Way::Outwards(at) => (None, *at),
        };
        pod.judge_sent(Protocol::Tcp, self.source(pod), target, at)
    }

    /// Establishes the connection, from a port that the pod holds; if a policy forbids it, it waits as
    /// one whose packets are dropped. Cancel safe.
    async fn follow(
        self,
        pod: &Arc<Pod>,
        port: &TcpPort,
        balanced: Option<(Balanced, Arc<Endpoint>)>,
    ) -> Result<Link, NetError> {
        if self.judge(pod) == Verdict::Drop {
            service::be_dropped().await;
            return Err(NetError::TimedOut);
        }
        match self {
            Way::Within {
                target,
                slot,
                source,
                at,
            } => {
                let local = SocketAddr::new(source, port.local_addr().port());
                let accepted = Addresses {
                    local: at,
                    peer: local,
                };
                within(pod, &target, slot, accepted, balanced).await
            }
            Way::Outwards(at) => outwards(pod, at, balanced.map(|(_, endpoint)| endpoint)).await,
        }
    }
}

impl Link {
    /// Returns the stream, as who connected to `to` sees it.
    fn into_stream(self, to: SocketAddr, port: TcpPort) -> Stream {
        let local = SocketAddr::new(self.source, port.local_addr().port());
        let seen = Addresses { local, peer: to }.seen_by(to);
        Stream::new(self.transport, seen, Some(self.membership), Some(port))
    }
}

/// Connects in memory. `accepted` are the addresses as the target sees them.
async fn within(
    pod: &Arc<Pod>,
    target: &Arc<Pod>,
    slot: Slots,
    accepted: Addresses,
    balanced: Option<(Balanced, Arc<Endpoint>)>,
) -> Result<Link, NetError> {
    let backlog = target
        .listening(slot, accepted.local.port())
        .ok_or(NetError::ConnectionRefused)?;
    let place = backlog.place().await?;
    let budgets = (Arc::clone(pod.budget()), Arc::clone(target.budget()));
    let endpoint = balanced.as_ref().map(|(_, endpoint)| Arc::clone(endpoint));
    let connection = Connection::new(budgets.0, budgets.1, endpoint);
    let (client, server) = connection.ends();
    let own = pod.enter(Held::memory(&connection))?;
    let theirs = target
        .enter(Held::memory(&connection))
        .map_err(refused_by_target)?;
    let seen = accepted.seen_by(backlog.local());
    let server = Stream::new(Transport::Memory(server), seen, Some(theirs), None);
    let balanced = balanced.map(|(balanced, _)| balanced);
    backlog.push(server, balanced, place)?;
    Ok(Link {
        transport: Transport::Memory(client),
        source: accepted.peer.ip(),
        membership: own,
    })
}

/// Connects through the host. The port that the pod holds for it is what it sees, the host's own is
/// another.
async fn outwards(
    pod: &Arc<Pod>,
    to: SocketAddr,
    endpoint: Option<Arc<Endpoint>>,
) -> Result<Link, NetError> {
    if pod.fabric().outside().is_ours(Protocol::Tcp, to) {
        return Err(NetError::AccessDenied);
    }
    let place = pod.kernel_count().take()?;
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    if let Some(source) = pod.source_abroad(to.ip()) {
        #[cfg(target_os = "linux")]
        if source.is_ipv6() {
            // It is this machine's by a route alone.
            socket2::SockRef::from(&socket).set_freebind_v6(true)?;
        }
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let traffic = endpoint.map(|endpoint| Traffic::new(endpoint, Holder::Client));
    let socket = KernelSocket::new(socket.connect(to).await?, place, traffic);
    let membership = pod.enter(Held::Kernel(Arc::downgrade(&socket)))?;
    Ok(Link {
        transport: Transport::Kernel(socket),
        source: pod.address(Family::of(to.ip())),
        membership,
    })
}

/// Returns the pod's own address from which it goes to one, in canonical form.
fn source_slot(pod: &Pod, to: IpAddr) -> Slots {
    Slots::own(Family::of(pod.address(Family::of(to))))
}

/// Takes the port the caller bound, if it covers the source address of this connection, or a random
/// one.
fn source_port(
    pod: &Arc<Pod>,
    from: Option<TcpPort>,
    slot: Slots,
    source: IpAddr,
) -> Result<TcpPort, NetError> {
    match from {
        None => pod.hold_any(slot, source),
        Some(port) if port.slots().meets(slot) => Ok(port),
        Some(_) => Err(NetError::InvalidArgument),
    }
}

/// A pod that is detached while it is connected to is one that does not listen, and one that has all
/// connections it may have takes no further one.
fn refused_by_target(error: NetError) -> NetError {
    match error {
        NetError::Detached | NetError::Limit(_) => NetError::ConnectionRefused,
        other => other,
    }
}
