//! What carries a connection: a socket of the kernel's, or a stream of whoever else has accepted it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A stream of any kind.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// What carries a connection. One type, so that what serves connections is compiled once.
pub(super) enum Wire {
    /// The kernel's.
    Kernel(TcpStream),
    /// Another one.
    Given(Box<dyn Duplex>),
}

impl Wire {
    /// Sends what is written at once: answers are written whole, and waiting to fill a packet would
    /// only delay them.
    pub(super) fn send_at_once(&self) {
        match self {
            Wire::Kernel(stream) => {
                let _ = stream.set_nodelay(true);
            }
            Wire::Given(_) => (),
        }
    }

    fn project(&mut self) -> Pin<&mut dyn Duplex> {
        match self {
            Wire::Kernel(stream) => Pin::new(stream),
            Wire::Given(stream) => Pin::new(stream.as_mut()),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.project().poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.project().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Wire::Kernel(stream) => stream.is_write_vectored(),
            Wire::Given(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().poll_shutdown(cx)
    }
}
