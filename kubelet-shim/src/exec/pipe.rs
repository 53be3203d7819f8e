//! A bounded stream of bytes between a guest and the agent, in either direction.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use coracle_runtime::{Chunk, Input, Output};
use parking_lot::Mutex;

/// Bytes on the way. Whoever writes more waits for the reader.
const PIPE_BYTES_MAX: usize = 64 * 1024;

/// Tasks that wait at one end; a handler has many instances.
const WAITERS_MAX: usize = 1024;

/// Bytes from any number of writers to any number of readers, each byte to one of them.
///
/// As an [`Output`] a guest writes and the agent reads, as an [`Input`] the other way round. When the
/// readers are gone, what is written is taken and dropped: a guest is not ended by it.
#[derive(Default)]
pub(crate) struct Pipe(Mutex<State>);

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Nothing more is written: readers find the end behind the last byte.
    ended: bool,
    /// Nobody reads any more.
    abandoned: bool,
    readers: Waiters,
    writers: Waiters,
}

#[derive(Default)]
struct Waiters(Vec<Waker>);

impl Waiters {
    fn add(&mut self, waker: &Waker) {
        if self.0.iter().any(|known| known.will_wake(waker)) {
            return;
        }
        if self.0.len() == WAITERS_MAX {
            // The oldest looks again at once and lines up behind.
            self.0.remove(0).wake();
        }
        self.0.push(waker.clone());
    }

    fn take(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.0)
    }
}

/// Never under the lock, since a task that is woken may look at once.
fn wake(waiters: Vec<Waker>) {
    waiters.into_iter().for_each(Waker::wake);
}

impl Pipe {
    /// Says that nothing more is written.
    pub(crate) fn end(&self) {
        let waiters = {
            let mut state = self.0.lock();
            state.ended = true;
            state.readers.take()
        };
        wake(waiters);
    }

    /// Says that nobody reads any more.
    pub(crate) fn abandon(&self) {
        let waiters = {
            let mut state = self.0.lock();
            state.abandoned = true;
            state.bytes = VecDeque::new();
            state.writers.take()
        };
        wake(waiters);
    }

    /// Tells whether a reader waits for bytes that have not come.
    pub(crate) fn is_awaited(&self) -> bool {
        let state = self.0.lock();
        state.bytes.is_empty() && !state.readers.0.is_empty()
    }

    /// The bytes that a write would take now.
    pub(crate) fn room(&self) -> usize {
        let state = self.0.lock();
        match state.abandoned {
            true => usize::MAX,
            false => PIPE_BYTES_MAX - state.bytes.len(),
        }
    }

    /// Waits for bytes; nothing is the end. Cancel safe.
    pub(crate) async fn next(&self) -> Option<Bytes> {
        loop {
            match self.read(PIPE_BYTES_MAX) {
                Chunk::Data(bytes) => return Some(bytes),
                Chunk::End => return None,
                Chunk::NotYet => poll_fn(|cx| Input::poll_ready(self, cx)).await,
            }
        }
    }

    /// Writes all of `bytes`, waiting for room. Cancelling it loses count of what was written.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.write(bytes) {
                0 => poll_fn(|cx| Output::poll_ready(self, cx)).await,
                taken => bytes = &bytes[taken..],
            }
        }
    }
}

impl Output for Pipe {
    fn write(&self, bytes: &[u8]) -> usize {
        let (taken, waiters) = {
            let mut state = self.0.lock();
            if state.abandoned {
                return bytes.len();
            }
            let taken = bytes.len().min(PIPE_BYTES_MAX - state.bytes.len());
            state.bytes.extend(&bytes[..taken]);
            (taken, state.readers.take())
        };
        wake(waiters);
        taken
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.abandoned || state.bytes.len() < PIPE_BYTES_MAX {
            return Poll::Ready(());
        }
        state.writers.add(cx.waker());
        Poll::Pending
    }
}

impl Input for Pipe {
    fn read(&self, max: usize) -> Chunk {
        let (bytes, waiters) = {
            let mut state = self.0.lock();
            if state.bytes.is_empty() {
                return match state.ended {
                    true => Chunk::End,
                    false => Chunk::NotYet,
                };
            }
            let taken = max.min(state.bytes.len());
            let bytes: Vec<u8> = state.bytes.drain(..taken).collect();
            if state.bytes.is_empty() {
                // An idle stream keeps no memory.
                state.bytes = VecDeque::new();
            }
            (bytes, state.writers.take())
        };
        wake(waiters);
        Chunk::Data(bytes.into())
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.ended || !state.bytes.is_empty() {
            return Poll::Ready(());
        }
        state.readers.add(cx.waker());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_writer_waits_for_the_reader_and_no_byte_is_lost() {
        let pipe = Arc::new(Pipe::default());
        let sent: Vec<u8> = (0..3 * PIPE_BYTES_MAX).map(|n| (n % 251) as u8).collect();
        let writer = tokio::spawn({
            let (pipe, sent) = (pipe.clone(), sent.clone());
            async move {
                pipe.write_all(&sent).await;
                pipe.end();
            }
        });
        let mut got = Vec::new();
        while let Some(bytes) = pipe.next().await {
            assert!(bytes.len() <= PIPE_BYTES_MAX);
            got.extend_from_slice(&bytes);
        }
        writer.await.expect("it ends");
        assert!(got == sent);
    }

    #[tokio::test]
    async fn the_end_comes_behind_the_last_byte() {
        let pipe = Pipe::default();
        assert_eq!(pipe.read(1), Chunk::NotYet);
        pipe.write_all(b"ab").await;
        pipe.end();
        assert_eq!(pipe.read(1), Chunk::Data(Bytes::from_static(b"a")));
        assert_eq!(pipe.next().await.as_deref(), Some(&b"b"[..]));
        assert_eq!(pipe.next().await, None);
        assert_eq!(pipe.read(1), Chunk::End);
    }

    #[tokio::test]
    async fn a_writer_without_readers_is_not_held_up() {
        let pipe = Arc::new(Pipe::default());
        let writer = tokio::spawn({
            let pipe = pipe.clone();
            async move { pipe.write_all(&vec![0; 2 * PIPE_BYTES_MAX]).await }
        });
        while pipe.room() > 0 {
            tokio::task::yield_now().await;
        }
        pipe.abandon();
        writer.await.expect("it ends");
        assert_eq!(pipe.room(), usize::MAX);
    }
}
