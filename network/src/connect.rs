//! Establishes connections: between pods in memory, from the host side into a pod, and out through
//! the host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rand::RngExt;
use tokio::net::TcpSocket;

use crate::egress::Destination;
use crate::error::NetError;
use crate::fabric::Shared;
use crate::pod::live::Held;
use crate::pod::ports::{EPHEMERAL_PORTS, Slots};
use crate::pod::{Membership, Pod, TcpPort};
use crate::publish::Protocol;
use crate::stream::kernel::KernelSocket;
use crate::stream::memory::Connection;
use crate::stream::{Addresses, Stream, Transport};

/// The addresses of a connection within the fabric, not yet as either side sees them.
struct Route {
    target: Arc<Pod>,
    slot: Slots,
    source: IpAddr,
    to: SocketAddr,
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
    let own = |slot, source| Route {
        target: Arc::clone(pod),
        slot,
        source,
        to,
    };
    let route = match pod.fabric().territory().judge(to.ip())? {
        Destination::OwnLoopback4 => own(Slots::LOOPBACK_4, Ipv4Addr::LOCALHOST.into()),
        Destination::OwnLoopback6 => own(Slots::LOOPBACK_6, Ipv6Addr::LOCALHOST.into()),
        // Nothing of the node listens inside the fabric.
        Destination::Node => return Err(NetError::ConnectionRefused),
        Destination::Pod(ip) if ip == pod.ip() => own(Slots::POD, ip.into()),
        Destination::Pod(ip) => {
            let target = pod.fabric().find(ip).ok_or(NetError::Unreachable)?;
            Route {
                target,
                slot: Slots::POD,
                source: pod.ip().into(),
                to,
            }
        }
        Destination::Outside(ip) => {
            return outwards(pod, from, to, SocketAddr::new(ip, to.port())).await;
        }
    };
    within(pod, from, route).await
}

/// Connects from the host side into a pod; the pod sees the node's address inside the pod CIDR.
pub(crate) async fn from_host(fabric: &Arc<Shared>, to: SocketAddr) -> io::Result<Stream> {
    let IpAddr::V4(ip) = to.ip().to_canonical() else {
        return Err(NetError::Unreachable.into());
    };
    let target = fabric.find(ip).ok_or(NetError::Unreachable)?;
    let backlog = target
        .listening(Slots::POD, to.port())
        .ok_or(NetError::ConnectionRefused)?;
    let place = backlog.place().await?;
    let source = IpAddr::V4(fabric.territory().node);
    let local = SocketAddr::new(source, rand::rng().random_range(EPHEMERAL_PORTS));
    let connection = Connection::new(
        Arc::clone(fabric.host_budget()),
        Arc::clone(target.budget()),
    );
    let (client, server) = connection.ends();
    let membership = target.enter(Held::memory(&connection))?;
    let accepted = Addresses {
        local: SocketAddr::new(ip.into(), to.port()),
        peer: local,
    };
    let seen = accepted.seen_by(backlog.local());
    let stream = Stream::new(Transport::Memory(server), seen, Some(membership), None);
    backlog.push(stream, place)?;
    let dialled = Addresses { local, peer: to };
    Ok(Stream::new(
        Transport::Memory(client),
        dialled.seen_by(to),
        None,
        None,
    ))
}

async fn within(pod: &Arc<Pod>, from: Option<TcpPort>, route: Route) -> Result<Stream, NetError> {
    let Route {
        target,
        slot,
        source,
        to,
    } = route;
    let backlog = target
        .listening(slot, to.port())
        .ok_or(NetError::ConnectionRefused)?;
    let place = backlog.place().await?;
    let port = source_port(pod, from, slot, source)?;
    let local = SocketAddr::new(source, port.local_addr().port());
    let connection = Connection::new(Arc::clone(pod.budget()), Arc::clone(target.budget()));
    let (client, server) = connection.ends();
    let own = pod.enter(Held::memory(&connection))?;
    let theirs = target
        .enter(Held::memory(&connection))
        .map_err(refused_if_gone)?;
    let accepted = Addresses {
        local: SocketAddr::new(to.ip().to_canonical(), to.port()),
        peer: local,
    };
    backlog.push(
        stream_in_memory(server, accepted.seen_by(backlog.local()), theirs, None),
        place,
    )?;
    let dialled = Addresses { local, peer: to };
    Ok(stream_in_memory(
        client,
        dialled.seen_by(to),
        own,
        Some(port),
    ))
}

fn stream_in_memory(
    end: crate::stream::memory::End,
    seen: Addresses,
    membership: Membership,
    port: Option<TcpPort>,
) -> Stream {
    Stream::new(Transport::Memory(end), seen, Some(membership), port)
}

/// Connects through the host. The pod holds a port of its own for it, which is what it sees.
async fn outwards(
    pod: &Arc<Pod>,
    from: Option<TcpPort>,
    to: SocketAddr,
    canonical: SocketAddr,
) -> Result<Stream, NetError> {
    if pod.fabric().outside().is_ours(Protocol::Tcp, canonical) {
        return Err(NetError::AccessDenied);
    }
    let source = IpAddr::V4(pod.ip());
    let port = source_port(pod, from, Slots::POD, source)?;
    let place = pod.kernel_count().take()?;
    let socket = match canonical {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    let socket = KernelSocket::new(socket.connect(canonical).await?, place);
    let membership = pod.enter(Held::Kernel(Arc::downgrade(&socket)))?;
    let local = SocketAddr::new(source, port.local_addr().port());
    let seen = Addresses { local, peer: to }.seen_by(to);
    Ok(Stream::new(
        Transport::Kernel(socket),
        seen,
        Some(membership),
        Some(port),
    ))
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

/// A pod that is detached while it is connected to is one that does not listen.
fn refused_if_gone(error: NetError) -> NetError {
    match error {
        NetError::Detached => NetError::ConnectionRefused,
        other => other,
    }
}
