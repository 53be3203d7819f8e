//! The kernel's sockets of the edge: how they are opened and accepted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

#[cfg(unix)]
#[path = "sockets/unix.rs"]
mod system;
#[cfg(windows)]
#[path = "sockets/windows.rs"]
mod system;

pub(super) use system::{Acceptor, accept};

/// Connections that the kernel keeps for us to accept; what Linux allows by default.
const BACKLOG: i32 = 4_096;

/// After so long without a byte the kernel asks whether the other side is there still: one that
/// vanished gives its place back within two minutes, without a timer of ours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// How often it asks until it gives up.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// What an address is to this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Locality {
    /// One of its own, or it cannot be bound.
    Own,
    /// One in a range that a route of ours makes local. IPv4 takes it for an own one; of IPv6 it must be
    /// asked to. A socket there may be opened before an earlier one of ours is closed.
    Routed,
}

/// Opens a listening socket. What it accepts inherits its options, so no connection pays for them.
pub(super) fn listen(at: SocketAddr, locality: Locality) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if locality == Locality::Routed {
        system::allow_routed(&socket, at)?;
    }
    system::ignore_closed_connections(&socket)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Binds a UDP socket.
pub(super) fn bind_udp(at: SocketAddr, locality: Locality) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if locality == Locality::Routed {
        system::allow_routed(&socket, at)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// Tells whether an address is this machine's own, as the unspecified one always is.
///
/// # Errors
///
/// What the system says of binding it, `AddrNotAvailable` where it is another's.
pub(super) fn check_own(ip: IpAddr) -> io::Result<()> {
    let at = SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&at.into())
}

/// Tells whether an address and port could be bound: that it is this machine's own, that nobody has it, and
/// that this user may. What remains of closed connections does not count.
///
/// # Errors
///
/// What the system says of it.
pub(super) fn probe(protocol: coracle_network::Protocol, at: SocketAddr) -> io::Result<()> {
    let (kind, protocol) = match protocol {
        coracle_network::Protocol::Tcp => (Type::STREAM, Protocol::TCP),
        coracle_network::Protocol::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::TCP {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&at.into())
}

/// Returns the address a socket is bound to.
pub(super) fn bound_to(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| io::Error::other("a bound socket has no address"))
}

/// Makes closing a connection a reset.
pub(super) fn reset(tcp: std::net::TcpStream) {
    // It fails where the other side was first.
    drop(socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)));
}
