//! Linux and macOS: connections are accepted as plain descriptors, so that one which is handed over is
//! registered only once, with the reactor of who gets it.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::task::{Context, Poll, ready};

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A listening socket on the reactor.
pub(in crate::edge) struct Acceptor(AsyncFd<TcpListener>);

impl Acceptor {
    /// Registers a listening socket. Needs a tokio runtime.
    #[expect(
        deprecated,
        reason = "the way around it is unsafe; the listener owns its descriptor, so this one is sound"
    )]
    pub(in crate::edge) fn new(socket: Socket) -> io::Result<Acceptor> {
        AsyncFd::with_interest(socket.into(), Interest::READABLE).map(Acceptor)
    }

    /// Accepts one connection, non-blocking.
    pub(in crate::edge) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            if let Ok(accepted) = ready.try_io(|listener| accept(listener.get_ref())) {
                return Poll::Ready(accepted);
            }
        }
    }
}

/// Accepts one connection, non-blocking, as soon as the listening socket's own mode lets it.
#[cfg(target_os = "linux")]
pub(in crate::edge) fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    use rustix::net::SocketFlags;

    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (accepted, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or_else(|| io::Error::other("a connection has no peer"))?;
    Ok((TcpStream::from(accepted), peer))
}

/// Accepts one connection, non-blocking, as soon as the listening socket's own mode lets it.
#[cfg(not(target_os = "linux"))]
pub(in crate::edge) fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (tcp, peer) = listener.accept()?;
    tcp.set_nonblocking(true)?;
    Ok((tcp, peer))
}

/// Lets a port be opened again while connections of an earlier listener are in TIME_WAIT. Two
/// listening sockets cannot share a port even so.
pub(super) fn ignore_closed_connections(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Lets an address be bound that a route makes local, also while a socket of this user's that is about to
/// be closed has it.
#[cfg(target_os = "linux")]
pub(super) fn allow_routed(socket: &Socket, at: SocketAddr) -> io::Result<()> {
    socket.set_reuse_port(true)?;
    if at.is_ipv6() {
        socket.set_freebind_v6(true)?;
    }
    Ok(())
}

/// Is never asked to do anything: such routes are Linux'.
#[cfg(not(target_os = "linux"))]
pub(super) fn allow_routed(_socket: &Socket, _at: SocketAddr) -> io::Result<()> {
    Ok(())
}
