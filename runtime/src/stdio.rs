//! A guest's standard streams over the container's [`Input`] and [`Output`]s.

use crate::spec::{Chunk, Input, Output, Terminal};
use crate::termination::Closing;
use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Bytes a guest may write at once, and so the most that one stream holds back.
const WRITE_MAX_BYTES: usize = 64 * 1024;

/// Bytes that one read takes at most, so that a guest's wish decides no allocation of ours.
const READ_MAX_BYTES: usize = 64 * 1024;

/// One standard stream of one instance. Clones are the same stream.
#[derive(Clone)]
pub(crate) struct GuestOutput {
    output: Arc<dyn Output>,
    /// Taken from the guest and not yet by the output.
    rest: Arc<Mutex<Bytes>>,
    terminal: Terminal,
}

/// The standard input of one instance. Clones are the same stream; without a source it is at its end.
#[derive(Clone)]
pub(crate) struct GuestInput {
    input: Option<Arc<dyn Input>>,
    terminal: Terminal,
    /// Ends the input behind what has come.
    closing: Option<Arc<Closing>>,
}

impl GuestOutput {
    pub(crate) fn new(output: Arc<dyn Output>, terminal: Terminal) -> Self {
        Self {
            output,
            rest: Arc::default(),
            terminal,
        }
    }

    /// Waits until the output has taken everything the guest wrote.
    pub(crate) async fn drained(&self) {
        std::future::poll_fn(|cx| self.poll_drained(cx)).await;
    }

    /// Writes a line of the host's own, behind everything the guest wrote.
    pub(crate) fn print(&self, line: &str) {
        self.accept(Bytes::from(format!("{line}\n")));
    }

    /// Hands over what is held back; tells whether nothing is left.
    fn push(&self) -> bool {
        let mut rest = self.rest.lock();
        while !rest.is_empty() {
            match self.output.write(&rest) {
                0 => return false,
                n => {
                    let taken = n.min(rest.len());
                    rest.advance(taken);
                }
            }
        }
        true
    }

    fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.push() {
            std::task::ready!(self.output.poll_ready(cx));
        }
        Poll::Ready(())
    }

    /// Ready when a write of any permitted size is taken.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        std::task::ready!(self.poll_drained(cx));
        self.output.poll_ready(cx)
    }

    fn accept(&self, bytes: Bytes) {
        let mut rest = self.rest.lock();
        if rest.is_empty() {
            *rest = bytes;
        } else {
            // Two streams of one instance were both permitted to write before either did.
            *rest = [rest.as_ref(), bytes.as_ref()].concat().into();
        }
        drop(rest);
        self.push();
    }
}

#[async_trait::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_writable(cx)).await;
    }
}

#[async_trait::async_trait]
impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_MAX_BYTES {
            return Err(StreamError::trap("write larger than permitted"));
        }
        self.accept(bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.push();
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        if !self.push() {
            return Ok(0);
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Ok(if self.output.poll_ready(&mut cx).is_ready() {
            WRITE_MAX_BYTES
        } else {
            0
        })
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        self.terminal == Terminal::Present
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_writable(cx));
        let taken = bytes.len().min(WRITE_MAX_BYTES);
        self.accept(Bytes::copy_from_slice(&bytes[..taken]));
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drained(cx).map(Ok)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl GuestInput {
    pub(crate) fn new(
        input: Option<Arc<dyn Input>>,
        terminal: Terminal,
        closing: Option<Arc<Closing>>,
    ) -> Self {
        Self {
            input,
            terminal,
            closing,
        }
    }

    fn take(&self, max: usize) -> Chunk {
        let Some(input) = &self.input else {
            return Chunk::End;
        };
        match input.read(max.min(READ_MAX_BYTES)) {
            Chunk::NotYet if self.closing.as_ref().is_some_and(|one| one.is_asked()) => Chunk::End,
            chunk => chunk,
        }
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(closing) = &self.closing
            && closing.poll(cx).is_ready()
        {
            return Poll::Ready(());
        }
        match &self.input {
            Some(input) => input.poll_ready(cx),
            None => Poll::Ready(()),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for GuestInput {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_readable(cx)).await;
    }
}

#[async_trait::async_trait]
impl InputStream for GuestInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        match self.take(size) {
            Chunk::Data(bytes) => Ok(bytes),
            Chunk::NotYet => Ok(Bytes::new()),
            Chunk::End => Err(StreamError::Closed),
        }
    }
}

impl IsTerminal for GuestInput {
    fn is_terminal(&self) -> bool {
        self.terminal == Terminal::Present
    }
}

impl StdinStream for GuestInput {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

impl AsyncRead for GuestInput {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match self.take(buffer.remaining()) {
                Chunk::Data(bytes) => {
                    buffer.put_slice(&bytes);
                    return Poll::Ready(Ok(()));
                }
                Chunk::End => return Poll::Ready(Ok(())),
                Chunk::NotYet => std::task::ready!(self.poll_readable(cx)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Takes `room` bytes and then none until more room is given.
    #[derive(Default)]
    struct Narrow {
        state: Mutex<(usize, Vec<u8>, Option<Waker>)>,
    }

    impl Narrow {
        fn widen(&self, room: usize) {
            let mut state = self.state.lock();
            state.0 += room;
            if let Some(waker) = state.2.take() {
                waker.wake();
            }
        }
    }

    impl Output for Narrow {
        fn write(&self, bytes: &[u8]) -> usize {
            let mut state = self.state.lock();
            let taken = bytes.len().min(state.0);
            state.0 -= taken;
            state.1.extend_from_slice(&bytes[..taken]);
            taken
        }

        fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
            let mut state = self.state.lock();
            if state.0 > 0 {
                return Poll::Ready(());
            }
            state.2 = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
        let narrow = Arc::new(Narrow::default());
        narrow.widen(3);
        let mut stream = GuestOutput::new(narrow.clone(), Terminal::Absent);
        assert_eq!(stream.check_write().expect("open"), WRITE_MAX_BYTES);
        stream
            .write(Bytes::from_static(b"abcdef"))
            .expect("permitted");
        assert_eq!(stream.check_write().expect("open"), 0);
        let drained = tokio::spawn({
            let stream = stream.clone();
            async move { stream.drained().await }
        });
        narrow.widen(8);
        drained.await.expect("it ends");
        assert_eq!(narrow.state.lock().1, b"abcdef");
        assert_eq!(stream.check_write().expect("open"), WRITE_MAX_BYTES);
    }

    #[test]
    fn a_write_beyond_the_permit_is_a_trap() {
        let mut stream = GuestOutput::new(Arc::new(Narrow::default()), Terminal::Absent);
        let long = Bytes::from(vec![0; WRITE_MAX_BYTES + 1]);
        assert!(matches!(stream.write(long), Err(StreamError::Trap(_))));
    }
}
