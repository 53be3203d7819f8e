//! What differs between operating systems, all of it.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

#[cfg(target_os = "linux")]
#[path = "platform/linux.rs"]
mod system;
#[cfg(windows)]
#[path = "platform/windows.rs"]
mod system;
#[cfg(not(any(target_os = "linux", windows)))]
#[path = "platform/unix.rs"]
mod system;

pub use system::is_exhausted;
pub(crate) use system::{LOOPBACK_BLOCKS, is_temporary_lookup_failure};

/// Binds `address` for TCP without listening: connections are refused, and no other socket gets the
/// port.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = new_socket(address, Type::STREAM, Protocol::TCP)?;
    // Accepted sockets inherit it, so no connection pays for setting it.
    socket.set_tcp_nodelay(true)?;
    system::bind_exclusively(&socket, address)?;
    Ok(socket)
}

/// Binds `address` for UDP.
pub(crate) fn bind_udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Makes a bound socket accept connections.
pub(crate) fn start_listening(socket: &Socket, backlog: usize) -> io::Result<()> {
    system::prepare_listening(socket)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// Makes a listening socket refuse connections again and keep its address.
pub(crate) fn stop_listening(socket: Socket, address: SocketAddr) -> io::Result<Socket> {
    system::stop_listening(socket, address)
}

fn new_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
