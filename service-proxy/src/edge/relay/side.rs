//! One side of a relay.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One of the two connections of a relay.
pub(in crate::edge) struct Side(TcpStream);

impl Side {
    /// Takes a connected socket over.
    pub(in crate::edge) fn new(tcp: TcpStream) -> Side {
        Side(tcp)
    }

    /// Returns the socket.
    #[cfg(target_os = "linux")]
    pub(super) fn socket(&self) -> &TcpStream {
        &self.0
    }

    /// Reads what has arrived into `buf`: 0 at the end of the stream.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        // A read that does not fill the buffer has emptied the socket, and the next one waits without
        // asking the kernel: `poll_read` knows that, `try_read` does not.
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Writes what fits; a side that takes nothing is a failure.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.0).poll_write(cx, bytes))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(Ok(written)),
        }
    }

    /// Waits for something to read.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    /// Passes the end of the stream on: the other side meets it after the last byte.
    pub(super) fn end(&self) -> io::Result<()> {
        SockRef::from(&self.0).shutdown(Shutdown::Write)
    }

    /// Makes the coming end of this side a reset.
    pub(super) fn reset_on_close(&self) {
        // It fails where the other side was first, and there is nobody left to tell.
        drop(self.0.set_zero_linger());
    }
}
