//! A TCP connection as guests and the host side hold it: in memory or a kernel socket, one type.
//!
//! All methods take `&self`, so that the two halves can be driven from one `Arc`. Each direction
//! keeps the waker of whoever polled it last, as tokio's sockets do.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pod::{Membership, TcpPort};

pub(crate) mod kernel;
pub(crate) mod memory;

/// One end of a TCP connection.
///
/// Dropping it closes the connection: the other side reads what was written and then meets the end;
/// if this side left bytes unread, the other side meets a reset instead. When the pod is detached
/// every operation fails with a reset.
pub struct Stream {
    transport: Transport,
    local: SocketAddr,
    peer: SocketAddr,
    _membership: Option<Membership>,
    _port: Option<TcpPort>,
}

/// What carries the bytes.
pub(crate) enum Transport {
    /// A pair of queues in this process.
    Memory(memory::End),
    /// A kernel socket, registered with the reactor that accepted or dialled it.
    Kernel(Arc<kernel::KernelSocket>),
}

/// The two addresses of a connection as its holder sees them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// This side.
    pub(crate) local: SocketAddr,
    /// The other side.
    pub(crate) peer: SocketAddr,
}

impl Addresses {
    /// Returns the addresses in the family of `socket`: a socket of IPv6 sees those of IPv4 mapped.
    pub(crate) fn seen_by(self, socket: SocketAddr) -> Addresses {
        let Addresses { local, peer } = self;
        Addresses {
            local: in_family(local, socket),
            peer: in_family(peer, socket),
        }
    }
}

/// Returns `address` as a socket of the family of `socket` shows it.
pub(crate) fn in_family(address: SocketAddr, socket: SocketAddr) -> SocketAddr {
    match (socket, address.ip()) {
        (SocketAddr::V6(_), IpAddr::V4(ip)) => {
            SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port())
        }
        _ => address,
    }
}

impl Stream {
    /// Assembles a stream; `membership` and `port` end with it.
    pub(crate) fn new(
        transport: Transport,
        addresses: Addresses,
        membership: Option<Membership>,
        port: Option<TcpPort>,
    ) -> Stream {
        let Addresses { local, peer } = addresses;
        Stream {
            transport,
            local,
            peer,
            _membership: membership,
            _port: port,
        }
    }

    /// Reads what has arrived: 0 at the end of the stream, `WouldBlock` when nothing has.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.transport {
            Transport::Memory(end) => end.incoming().try_read(buf),
            Transport::Kernel(socket) => socket.try_read(buf),
        }
    }

    /// Becomes ready when [`Stream::try_read`] may give bytes, the end or an error.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.transport {
            Transport::Memory(end) => end.incoming().poll_read_ready(cx).map(Ok),
            Transport::Kernel(socket) => socket.poll_read_ready(cx),
        }
    }

    /// Writes what fits, `WouldBlock` when nothing does.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(buf)])
    }

    /// Writes what fits of several buffers, in order.
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.transport {
            Transport::Memory(end) => end.outgoing().try_write(bufs),
            Transport::Kernel(socket) => socket.try_write(bufs),
        }
    }

    /// Becomes ready when [`Stream::try_write`] may take bytes or fail.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.transport {
            Transport::Memory(end) => end.outgoing().poll_write_ready(cx).map(Ok),
            Transport::Kernel(socket) => socket.poll_write_ready(cx),
        }
    }

    /// Ends reading: this side meets the end of the stream, what the other side sends is discarded.
    pub fn shutdown_read(&self) -> io::Result<()> {
        match &self.transport {
            Transport::Memory(end) => {
                end.incoming().discard();
                Ok(())
            }
            Transport::Kernel(socket) => socket.shutdown(std::net::Shutdown::Read),
        }
    }

    /// Ends writing: the other side meets the end of the stream after the last byte.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match &self.transport {
            Transport::Memory(end) => {
                end.outgoing().finish();
                Ok(())
            }
            Transport::Kernel(socket) => socket.shutdown(std::net::Shutdown::Write),
        }
    }

    /// Returns this side's address; for a pod always one of the pod's, also over a kernel socket.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Returns the other side's address. Programs on the host's loopback appear as the node's
    /// address inside the pod CIDR, for `127.0.0.1` means the pod's own loopback to a guest.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Tells whether a kernel socket carries the bytes.
    pub fn is_kernel(&self) -> bool {
        match self.transport {
            Transport::Memory(_) => false,
            Transport::Kernel(_) => true,
        }
    }

    /// Takes the stream apart, if it is in memory: it leaves its pod, and its port is free.
    pub(crate) fn into_memory(self) -> Option<(memory::End, SocketAddr)> {
        match self.transport {
            Transport::Memory(end) => Some((end, self.peer)),
            Transport::Kernel(_) => None,
        }
    }

    /// Breaks the connection, for a stream that nobody accepted.
    pub(crate) fn abort(self) {
        match &self.transport {
            Transport::Memory(end) => end.reset(),
            Transport::Kernel(socket) => socket.reset_on_close(),
        }
    }
}

impl AsyncRead for &Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &self.transport {
            Transport::Memory(end) => {
                let taken = ready!(end.incoming().poll_read(cx, buf.initialize_unfilled()))?;
                buf.advance(taken);
                Poll::Ready(Ok(()))
            }
            Transport::Kernel(socket) => socket.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for &Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &self.transport {
            Transport::Memory(end) => end.outgoing().poll_write(cx, bufs),
            Transport::Kernel(socket) => socket.poll_write(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown_write())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_shutdown(cx)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .field("kernel", &self.is_kernel())
            .finish_non_exhaustive()
    }
}
