//! Windows: all of `127.0.0.0/8` is local; `SO_REUSEADDR` would let a stranger take the port and is
//! never set.

use std::io;
use std::net::SocketAddr;

use socket2::Socket;

/// Whether every address of `127.0.0.0/8` can be bound.
pub(crate) const LOOPBACK_BLOCKS: bool = true;

const WSAEMFILE: i32 = 10_024;
const WSAENOBUFS: i32 = 10_055;
const WSATRY_AGAIN: i32 = 11_002;

/// Binds; without further options a second bind of the same address fails.
pub(super) fn bind_exclusively(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.bind(&address.into())
}

/// Needs nothing here.
pub(super) fn prepare_listening(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// Replaces the socket, for a listening one cannot be stopped.
pub(super) fn stop_listening(socket: Socket, address: SocketAddr) -> io::Result<Socket> {
    drop(socket);
    crate::platform::bind_tcp(address)
}

/// Tells whether the process or the system has no room for another socket.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(WSAEMFILE | WSAENOBUFS))
}

/// Tells whether a failed look-up may succeed later.
pub(crate) fn is_temporary_lookup_failure(error: &io::Error) -> bool {
    error.raw_os_error() == Some(WSATRY_AGAIN)
}
