//! macOS and other systems where only `127.0.0.1` is a loopback address.

use std::io;
use std::net::SocketAddr;

use socket2::Socket;

/// Whether every address of `127.0.0.0/8` can be bound.
pub(crate) const LOOPBACK_BLOCKS: bool = false;

const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 55;

/// Binds; with `SO_REUSEADDR` these systems ignore remains of closed connections and still refuse a
/// second socket on the same address.
pub(super) fn bind_exclusively(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_reuse_address(true)?;
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
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
}

/// Tells whether a failed look-up may succeed later; these systems say so only in words we do not
/// read.
pub(crate) fn is_temporary_lookup_failure(_error: &io::Error) -> bool {
    false
}
