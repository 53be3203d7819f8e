//! Linux: all of `127.0.0.0/8` is local, and a listening socket can be told to stop and keep its
//! port.

use std::io;
use std::net::{Shutdown, SocketAddr};

use socket2::Socket;

/// Whether every address of `127.0.0.0/8` can be bound.
pub(crate) const LOOPBACK_BLOCKS: bool = true;

const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;

/// Binds so that a second bind fails even though neither socket listens yet. `SO_REUSEADDR` would
/// let two idle sockets share a port; without it, connections of an earlier run in TIME_WAIT hold
/// the port for a minute. So it is set only for the bind that met such a port, and cleared at once.
pub(super) fn bind_exclusively(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match socket.bind(&address.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.set_reuse_address(false)
        }
        result => result,
    }
}

/// Lets accepted sockets inherit `SO_REUSEADDR`: their TIME_WAIT remains then do not hold the port.
pub(super) fn prepare_listening(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Shutting a listening socket down for reading ends listening and keeps the bind
/// (`inet_shutdown`).
pub(super) fn stop_listening(socket: Socket, _address: SocketAddr) -> io::Result<Socket> {
    socket.shutdown(Shutdown::Read)?;
    socket.set_reuse_address(false)?;
    Ok(socket)
}

/// Tells whether the process or the system has no room for another socket.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(ENOMEM | ENFILE | EMFILE | ENOBUFS)
    )
}

/// Tells whether a failed look-up may succeed later. The standard library keeps only the text of
/// `getaddrinfo`'s answer.
pub(crate) fn is_temporary_lookup_failure(error: &io::Error) -> bool {
    error.to_string().contains("Temporary failure")
}
