//! Windows: connections come from tokio's listener.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::task::{Context, Poll, ready};

use socket2::Socket;
use tokio::net::TcpListener;

/// A listening socket on the reactor.
pub(in crate::edge) struct Acceptor(TcpListener);

impl Acceptor {
    /// Registers a listening socket. Needs a tokio runtime.
    pub(in crate::edge) fn new(socket: Socket) -> io::Result<Acceptor> {
        TcpListener::from_std(socket.into()).map(Acceptor)
    }

    /// Accepts one connection, non-blocking.
    pub(in crate::edge) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let (tcp, peer) = ready!(self.0.poll_accept(cx))?;
        Poll::Ready(tcp.into_std().map(|tcp| (tcp, peer)))
    }
}

/// Accepts one connection, non-blocking, as soon as the listening socket's own mode lets it.
pub(in crate::edge) fn accept(
    listener: &std::net::TcpListener,
) -> io::Result<(TcpStream, SocketAddr)> {
    let (tcp, peer) = listener.accept()?;
    tcp.set_nonblocking(true)?;
    Ok((tcp, peer))
}

/// Needs nothing: closed connections do not hold a port, and `SO_REUSEADDR` would let a stranger have
/// it.
pub(super) fn ignore_closed_connections(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// Is never asked to do anything: such routes are Linux'.
pub(super) fn allow_routed(_socket: &Socket, _at: SocketAddr) -> io::Result<()> {
    Ok(())
}
