//! A bounded stream of bytes between a guest and the agent, in either direction.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use coracle_runtime::{Chunk, Input, Output};
use parking_lot::Mutex;

/// Bytes on the way. Whoever writes more waits for the reader.
const PIPE_BYTES_MAX: usize = 64 * 1024;

/// Ends of input that were typed and not read yet.
const PAUSES_MAX: usize = 16;

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
    /// A read gives one line at most, as that of a terminal.
    of_lines: bool,
    /// Places in `bytes` at which one read gives nothing, in order.
    pauses: VecDeque<usize>,
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
    /// A pipe whose readers get one line at a time, so that a program leaves the next one to whom it starts.
    pub(crate) fn of_lines() -> Pipe {
        Pipe(Mutex::new(State {
            of_lines: true,
            ..State::default()
        }))
    }

    /// Makes one read give nothing, behind what was written: a program takes that for the end of a file,
    /// and may read again, as at a terminal.
    pub(crate) fn pause(&self) {
        let waiters = {
            let mut state = self.0.lock();
            let at = state.bytes.len();
            if state.pauses.len() < PAUSES_MAX {
                state.pauses.push_back(at);
            }
            state.readers.take()
        };
        wake(waiters);
    }

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

    /// Tells whether bytes were written that no reader has taken.
    pub(crate) fn holds_bytes(&self) -> bool {
        !self.0.lock().bytes.is_empty()
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

impl State {
    /// The bytes that one read may give.
    fn readable(&self) -> usize {
        let all = self.pauses.front().copied().unwrap_or(self.bytes.len());
        if !self.of_lines {
            return all;
        }
        let line = self.bytes.iter().position(|byte| *byte == b'\n');
        line.map_or(all, |at| all.min(at + 1))
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
            if state.pauses.front() == Some(&0) {
                state.pauses.pop_front();
                return Chunk::Data(Bytes::new());
            }
            if state.bytes.is_empty() {
                return match state.ended {
                    true => Chunk::End,
                    false => Chunk::NotYet,
                };
            }
            let taken = max.min(state.readable());
            for pause in &mut state.pauses {
                *pause -= taken;
            }
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
        if state.ended || !state.bytes.is_empty() || !state.pauses.is_empty() {
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

    #[test]
    fn a_terminal_gives_line_by_line_and_an_end_that_is_none() {
        let pipe = Pipe::of_lines();
        pipe.write(b"a\nbc\nd");
        pipe.pause();
        pipe.write(b"e\n");
        for expected in ["a\n", "b", "c\n", "d", "", "e\n"] {
            let max = if expected == "b" { 1 } else { 100 };
            assert_eq!(pipe.read(max), Chunk::Data(expected.into()));
        }
        assert_eq!(pipe.read(1), Chunk::NotYet);
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
