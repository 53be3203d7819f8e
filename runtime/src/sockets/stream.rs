//! The two halves of a connection as `wasi:io` streams.

use super::{READ_BYTES_MAX, with_scratch};
use crate::pools::give_way;
use bytes::{Buf as _, Bytes};
use coracle_network::Stream;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, OutputStream, StreamError, StreamResult};

/// The most bytes a guest may write at once. What the connection does not take of them is held for
/// the guest, so this is also what one connection holds at most.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// A connection that a guest's socket and its two streams share.
pub(super) struct Connection {
    stream: Stream,
    is_read_over: AtomicBool,
    writing: Mutex<Writing>,
    written: AtomicWaker,
}

/// Where the writing half is.
#[derive(Debug)]
enum Writing {
    /// The guest may write when the stream takes bytes.
    Open,
    /// A task delivers what the stream did not take; the guest waits. `then_close` if the guest has
    /// shut the half down meanwhile.
    Delivering { then_close: bool },
    /// The guest is to be told of this failure once.
    Failed(io::Error),
    /// Nothing can be written any more.
    Closed,
}

/// The connections of an instance by the streams that stand for them in its table of resources, where
/// a stream's own type is not to be seen.
#[derive(Default)]
pub(super) struct Connections(Vec<Option<Arc<Connection>>>);

/// The reading half.
pub(super) struct Reader(pub(super) Arc<Connection>);

/// The writing half.
pub(super) struct Writer(pub(super) Arc<Connection>);

impl Connection {
    pub(super) fn new(stream: Stream) -> Arc<Self> {
        Arc::new(Self {
            stream,
            is_read_over: AtomicBool::new(false),
            writing: Mutex::new(Writing::Open),
            written: AtomicWaker::new(),
        })
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Ends reading; a second time has no effect.
    pub(super) fn shutdown_read(&self) {
        if !self.is_read_over.swap(true, Ordering::SeqCst) {
            // A connection that is gone already has nothing to shut down.
            let _ = self.stream.shutdown_read();
        }
    }

    /// Ends writing after what was written before; a second time has no effect.
    pub(super) fn shutdown_write(&self) {
        let mut writing = self.writing.lock();
        match &mut *writing {
            Writing::Open => {
                *writing = Writing::Closed;
                drop(writing);
                // As above.
                let _ = self.stream.shutdown_write();
                self.written.wake();
            }
            Writing::Delivering { then_close } => *then_close = true,
            Writing::Failed(_) | Writing::Closed => {}
        }
    }

    /// Takes what has arrived, which may be nothing.
    pub(super) fn read(&self, size: usize) -> StreamResult<Vec<u8>> {
        if self.is_read_over.load(Ordering::SeqCst) {
            return Err(StreamError::Closed);
        }
        let size = size.min(READ_BYTES_MAX);
        if size == 0 {
            return Ok(Vec::new());
        }
        let read = with_scratch(|scratch| {
            let read = self.stream.try_read(&mut scratch[..size]);
            read.map(|count| scratch[..count].to_vec())
        });
        match read {
            Ok(bytes) if bytes.is_empty() => {
                self.is_read_over.store(true, Ordering::SeqCst);
                Err(StreamError::Closed)
            }
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => {
                self.is_read_over.store(true, Ordering::SeqCst);
                Err(StreamError::LastOperationFailed(error.into()))
            }
        }
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_read_over.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        // A failure is met by the read.
        self.stream.poll_read_ready(cx).map(|_| ())
    }

    /// Waits for bytes, but no longer than those who wait for this thread, and only if the guest has woken
    /// one of them: its peer, most likely, whose answer it reads for.
    pub(super) async fn wait_for_answer(&self) {
        let mut has_waited = false;
        poll_fn(|cx| {
            if has_waited || self.poll_readable(cx).is_ready() || !give_way() {
                return Poll::Ready(());
            }
            has_waited = true;
            Poll::Pending
        })
        .await;
    }

    /// Takes all of `bytes`; what the stream does not take now is delivered by a task.
    pub(super) fn write(self: &Arc<Self>, mut bytes: &[u8]) -> StreamResult<()> {
        let mut writing = self.writing.lock();
        match &*writing {
            Writing::Open => {}
            Writing::Delivering { .. } => {
                let message = "a write was not permitted by `check-write`";
                return Err(StreamError::Trap(wasmtime::format_err!("{message}")));
            }
            Writing::Failed(_) | Writing::Closed => return Err(take_failure(&mut writing)),
        }
        if bytes.len() > WRITE_BYTES_MAX {
            let message = "a write is longer than `check-write` permitted";
            return Err(StreamError::Trap(wasmtime::format_err!("{message}")));
        }
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    *writing = Writing::Delivering { then_close: false };
                    let rest = Bytes::copy_from_slice(bytes);
                    tokio::spawn(self.clone().deliver(rest));
                    return Ok(());
                }
                Err(error) => {
                    *writing = Writing::Failed(error);
                    return Err(take_failure(&mut writing));
                }
            }
        }
        Ok(())
    }

    /// Writes the rest of a write as its peer makes room. Ends when it is written, when the peer is
    /// gone, or when the pod is detached; a guest that has ended does not end it, as a kernel would
    /// not forget what was written before either.
    async fn deliver(self: Arc<Self>, mut rest: Bytes) {
        let result = poll_fn(|cx| self.poll_deliver(cx, &mut rest)).await;
        let mut writing = self.writing.lock();
        let then_close = matches!(*writing, Writing::Delivering { then_close: true });
        *writing = match result {
            Err(error) => Writing::Failed(error),
            Ok(()) if then_close => Writing::Closed,
            Ok(()) => Writing::Open,
        };
        drop(writing);
        if then_close {
            let _ = self.stream.shutdown_write();
        }
        self.written.wake();
    }

    fn poll_deliver(&self, cx: &mut Context<'_>, rest: &mut Bytes) -> Poll<io::Result<()>> {
        while !rest.is_empty() {
            std::task::ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(rest) {
                Ok(count) => rest.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match *self.writing.lock() {
            // A failure is met by the write.
            Writing::Open => self.stream.poll_write_ready(cx).map(|_| ()),
            Writing::Delivering { .. } => {
                // Under the lock, so that whoever delivers finds it.
                self.written.register(cx.waker());
                Poll::Pending
            }
            Writing::Failed(_) | Writing::Closed => Poll::Ready(()),
        }
    }

    /// Says how many bytes may be written now.
    pub(super) fn check_write(&self) -> StreamResult<usize> {
        let mut writing = self.writing.lock();
        match &*writing {
            Writing::Open => {
                let mut cx = Context::from_waker(Waker::noop());
                let ready = self.stream.poll_write_ready(&mut cx).is_ready();
                Ok(if ready { WRITE_BYTES_MAX } else { 0 })
            }
            Writing::Delivering { .. } => Ok(0),
            Writing::Failed(_) | Writing::Closed => Err(take_failure(&mut writing)),
        }
    }

    /// Becomes ready when what was written is on its way, and more may be written.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<StreamResult<()>> {
        self.poll_writable(cx)
            .map(|()| self.check_write().map(|_| ()))
    }

    fn flush(&self) -> StreamResult<()> {
        // Whatever was written is on its way already; the guest waits for it by polling.
        let mut writing = self.writing.lock();
        match &*writing {
            Writing::Open | Writing::Delivering { .. } => Ok(()),
            Writing::Failed(_) | Writing::Closed => Err(take_failure(&mut writing)),
        }
    }
}

impl Connections {
    /// Notes what a stream stands for.
    pub(super) fn insert(&mut self, stream: u32, connection: &Arc<Connection>) {
        let index = stream as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, None);
        }
        self.0[index] = Some(connection.clone());
    }

    /// Returns what a stream stands for, if it is one of a connection.
    pub(super) fn get(&self, stream: u32) -> Option<&Arc<Connection>> {
        self.0.get(stream as usize)?.as_ref()
    }

    /// Forgets a stream that is about to go: its index may be another's then.
    pub(super) fn remove(&mut self, stream: u32) {
        if let Some(entry) = self.0.get_mut(stream as usize) {
            *entry = None;
        }
    }
}

/// Tells a failure once, and from then on that the half is closed.
fn take_failure(writing: &mut Writing) -> StreamError {
    match std::mem::replace(writing, Writing::Closed) {
        // The other side has closed: nothing failed that was asked for.
        Writing::Failed(error) if error.kind() == io::ErrorKind::BrokenPipe => StreamError::Closed,
        Writing::Failed(error) => StreamError::LastOperationFailed(error.into()),
        Writing::Open | Writing::Delivering { .. } | Writing::Closed => StreamError::Closed,
    }
}

#[async_trait::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.poll_readable(cx)).await;
    }
}

#[async_trait::async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.0.read(size).map(Bytes::from)
    }
}

#[async_trait::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.poll_writable(cx)).await;
    }
}

#[async_trait::async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.0.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.0.check_write()
    }
}
