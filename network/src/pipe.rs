//! One direction of an in-memory connection: a bounded byte queue with one reader and one writer.
//!
//! The two ends live independently: each records how its holder left it, and every operation looks
//! at both. A reader sees all bytes written before the writer finished or reset. The buffer is
//! allocated by the first write, grows with need up to [`PIPE_BYTES_MAX`], is charged to the
//! writer's [`Budget`], and is freed as soon as the reader has drained it and waits: an idle
//! connection holds no buffer. Wakers run after the lock is released.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::budget::Budget;
use crate::services::Endpoint;

mod tally;

use tally::Tally;
pub(crate) use tally::Way;

/// The most bytes in flight in one direction, the usual size of a kernel's socket buffer.
pub(crate) const PIPE_BYTES_MAX: usize = 64 * 1024;

/// What a pipe may hold even when its pod's budget is used up, so that every connection makes
/// progress.
pub(crate) const PIPE_BYTES_MIN: usize = 4 * 1024;

/// A waiting writer is woken when this much is free, so that a slow reader does not cost one
/// wake-up a byte.
const WRITER_WAKE_BYTES: usize = PIPE_BYTES_MAX / 4;

/// What is copied at once: below what the C library copies by `rep movsb`, which is known to be many times
/// slower on AMD's Zen 3 for some alignments of source and target. Copies of 64 KiB were fifteen times slower
/// there with glibc 2.36 (`docs/performance.md`).
const COPY_BYTES: usize = 2 * 1024;

/// A byte queue shared by one reader and one writer.
pub(crate) struct Pipe {
    state: Mutex<State>,
}

struct State {
    buffer: VecDeque<u8>,
    budget: Arc<Budget>,
    charged: usize,
    /// What was written; counted here, under the lock, so that nobody pays for it.
    tally: Tally,
    write_end: WriteEnd,
    read_end: ReadEnd,
    read_waker: Option<Waker>,
    write_waker: Option<Waker>,
}

/// How the writing end stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteEnd {
    /// Bytes may follow.
    Open,
    /// No bytes follow; the reader meets the end of the stream after the last one.
    Finished,
    /// The connection broke; the reader meets an error after the last byte.
    Reset,
}

/// How the reading end stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadEnd {
    /// Bytes are read.
    Open,
    /// Reading was shut down: bytes are accepted and discarded, as a kernel does after `SHUT_RD`.
    Discarding,
    /// The reader is dropped: writing fails.
    Gone,
}

/// Whether a reader left bytes behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It read everything that had arrived.
    Nothing,
    /// Some bytes were never read.
    Something,
}

impl Pipe {
    /// Returns an empty pipe whose buffer is paid for by `budget`, and of which `reader` is told.
    pub(crate) fn new(budget: Arc<Budget>, reader: &Arc<Budget>) -> Pipe {
        let state = State {
            buffer: VecDeque::new(),
            charged: 0,
            tally: Tally::between(&budget, reader),
            budget,
            write_end: WriteEnd::Open,
            read_end: ReadEnd::Open,
            read_waker: None,
            write_waker: None,
        };
        Pipe {
            state: Mutex::new(state),
        }
    }

    /// Reads what is there, 0 at the end of the stream, `WouldBlock` when nothing has arrived.
    pub(crate) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        let (result, wake) = self.read_locked(&mut state, into);
        drop(state);
        wake_up(wake);
        match result {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Reads like [`Pipe::try_read`], registering for a wake-up when nothing has arrived.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state.lock();
        let (result, wake) = self.read_locked(&mut state, into);
        if result.is_pending() {
            register(&mut state.read_waker, cx);
        }
        drop(state);
        wake_up(wake);
        result
    }

    fn read_locked(
        &self,
        state: &mut State,
        into: &mut [u8],
    ) -> (Poll<io::Result<usize>>, Option<Waker>) {
        if into.is_empty() {
            return (Poll::Ready(Ok(0)), None);
        }
        if state.buffer.is_empty() {
            state.release_idle();
            return (state.read_at_end(), None);
        }
        let taken = copy_out(&mut state.buffer, into);
        let free = PIPE_BYTES_MAX - state.buffer.len().min(PIPE_BYTES_MAX);
        let wake = (free >= WRITER_WAKE_BYTES || state.buffer.is_empty())
            .then(|| state.write_waker.take())
            .flatten();
        (Poll::Ready(Ok(taken)), wake)
    }

    /// Becomes ready when a read would not block.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if !state.buffer.is_empty() || state.read_at_end().is_ready() {
            return Poll::Ready(());
        }
        state.release_idle();
        register(&mut state.read_waker, cx);
        Poll::Pending
    }

    /// Writes what fits of `bufs`, `WouldBlock` when nothing does.
    pub(crate) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.lock();
        let result = self.write_locked(&mut state, bufs);
        let wake = state.reader_to_wake(&result);
        drop(state);
        wake_up(wake);
        match result {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes like [`Pipe::try_write`], registering for a wake-up when nothing fits.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state.lock();
        let result = self.write_locked(&mut state, bufs);
        if result.is_pending() {
            register(&mut state.write_waker, cx);
        }
        let wake = state.reader_to_wake(&result);
        drop(state);
        wake_up(wake);
        result
    }

    fn write_locked(&self, state: &mut State, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Err(error) = state.may_write() {
            return Poll::Ready(Err(error));
        }
        let offered = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if offered == 0 || state.read_end == ReadEnd::Discarding {
            state.count(offered);
            return Poll::Ready(Ok(offered));
        }
        let mut room = state.make_room(offered);
        if room == 0 {
            return Poll::Pending;
        }
        let before = state.buffer.len();
        for buf in bufs {
            let part = &buf[..buf.len().min(room)];
            for piece in part.chunks(COPY_BYTES) {
                state.buffer.extend(piece);
            }
            room -= part.len();
        }
        let taken = state.buffer.len() - before;
        state.count(taken);
        Poll::Ready(Ok(taken))
    }

    /// Becomes ready when a write would not block. Allocates nothing.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        let open = state.may_write().is_ok() && state.read_end == ReadEnd::Open;
        if !open || state.has_room() {
            return Poll::Ready(());
        }
        register(&mut state.write_waker, cx);
        Poll::Pending
    }

    /// Ends the stream of bytes; what was written is still read.
    pub(crate) fn finish(&self) {
        self.end(|state| {
            if state.write_end == WriteEnd::Open {
                state.write_end = WriteEnd::Finished;
            }
        });
    }

    /// Breaks the connection: writing fails at once, reading after the last byte.
    pub(crate) fn reset(&self) {
        self.end(|state| state.write_end = WriteEnd::Reset);
    }

    /// Shuts reading down: what waits and what follows is discarded.
    pub(crate) fn discard(&self) {
        self.end(|state| {
            if state.read_end == ReadEnd::Open {
                state.read_end = ReadEnd::Discarding;
                state.buffer.clear();
            }
        });
        self.state.lock().release_idle();
    }

    /// Marks the reader as dropped and tells whether it left bytes behind.
    pub(crate) fn leave(&self) -> Unread {
        let mut unread = Unread::Nothing;
        self.end(|state| {
            if !state.buffer.is_empty() {
                unread = Unread::Something;
                state.buffer.clear();
            }
            state.read_end = ReadEnd::Gone;
        });
        self.state.lock().release_idle();
        unread
    }

    /// Makes another account pay for the buffer from here on.
    pub(crate) fn charge_to(&self, budget: &Arc<Budget>) {
        let mut state = self.state.lock();
        budget.charge_always(state.charged);
        state.budget.refund(state.charged);
        state.budget = Arc::clone(budget);
    }

    /// Says who reads from here on, to be told of what is written.
    pub(crate) fn read_by(&self, reader: &Arc<Budget>) {
        let mut state = self.state.lock();
        let State { tally, budget, .. } = &mut *state;
        tally.read_by(budget, reader);
    }

    /// Returns the account that pays.
    pub(crate) fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.state.lock().budget)
    }

    /// Counts what is written at an endpoint, what was written before included.
    pub(crate) fn count_at(&self, endpoint: &Arc<Endpoint>, way: Way) {
        self.state.lock().tally.count_at(endpoint, way);
    }

    /// Changes how an end stands and wakes both sides, for whom everything may have changed.
    fn end(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let wakers = [state.read_waker.take(), state.write_waker.take()];
        drop(state);
        for waker in wakers {
            wake_up(waker);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let State {
            tally,
            budget,
            charged,
            ..
        } = self.state.get_mut();
        tally.tell(budget);
        budget.refund(*charged);
    }
}

impl State {
    fn count(&mut self, written: usize) {
        self.tally.add(written, &self.budget);
    }

    /// Returns how many of `wanted` bytes fit, growing the buffer as far as limit and budget allow:
    /// to what is wanted, else to twice its size, else to what every pipe is promised.
    fn make_room(&mut self, wanted: usize) -> usize {
        let held = self.buffer.len();
        let needed = held.saturating_add(wanted).min(PIPE_BYTES_MAX);
        if needed > self.buffer.capacity() {
            let step = self.next_step();
            let sizes = [needed.max(step), step];
            let affordable = |size: &usize| self.budget.charge(size.saturating_sub(self.charged));
            let size = sizes.into_iter().find(affordable).unwrap_or_else(|| {
                let promised = PIPE_BYTES_MIN.max(self.charged);
                self.budget.charge_always(promised - self.charged);
                promised
            });
            self.charged = self.charged.max(size);
            self.buffer.reserve_exact(size.saturating_sub(held));
        }
        needed.min(self.buffer.capacity()).saturating_sub(held)
    }

    /// Tells whether [`State::make_room`] would find room for at least one byte.
    fn has_room(&self) -> bool {
        let held = self.buffer.len();
        let growable = || {
            self.budget
                .fits(self.next_step().saturating_sub(self.charged))
        };
        held < self.buffer.capacity().min(PIPE_BYTES_MAX)
            || held < PIPE_BYTES_MIN
            || (held < PIPE_BYTES_MAX && growable())
    }

    fn release_idle(&mut self) {
        if self.buffer.is_empty() && self.charged > 0 {
            self.buffer = VecDeque::new();
            self.budget.refund(std::mem::take(&mut self.charged));
        }
    }

    /// Tells what a reader of the empty buffer meets.
    fn read_at_end(&self) -> Poll<io::Result<usize>> {
        match (self.read_end, self.write_end) {
            (ReadEnd::Discarding | ReadEnd::Gone, _) | (ReadEnd::Open, WriteEnd::Finished) => {
                Poll::Ready(Ok(0))
            }
            (ReadEnd::Open, WriteEnd::Reset) => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            (ReadEnd::Open, WriteEnd::Open) => Poll::Pending,
        }
    }

    fn may_write(&self) -> io::Result<()> {
        match (self.write_end, self.read_end) {
            (WriteEnd::Reset, _) => Err(io::ErrorKind::ConnectionReset.into()),
            (WriteEnd::Finished, _) | (WriteEnd::Open, ReadEnd::Gone) => {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            (WriteEnd::Open, ReadEnd::Open | ReadEnd::Discarding) => Ok(()),
        }
    }

    /// Returns the size the buffer grows to when little is wanted.
    fn next_step(&self) -> usize {
        self.buffer
            .capacity()
            .saturating_mul(2)
            .clamp(1, PIPE_BYTES_MAX)
    }

    fn reader_to_wake(&mut self, written: &Poll<io::Result<usize>>) -> Option<Waker> {
        matches!(written, Poll::Ready(Ok(_)))
            .then(|| self.read_waker.take())
            .flatten()
    }
}

fn copy_out(buffer: &mut VecDeque<u8>, into: &mut [u8]) -> usize {
    let (front, back) = buffer.as_slices();
    let first = front.len().min(into.len());
    let (begin, rest) = into.split_at_mut(first);
    copy(&front[..first], begin);
    let second = back.len().min(rest.len());
    copy(&back[..second], &mut rest[..second]);
    buffer.drain(..first + second);
    first + second
}

/// Copies from a slice into one of the same length.
fn copy(from: &[u8], into: &mut [u8]) {
    for (from, into) in from.chunks(COPY_BYTES).zip(into.chunks_mut(COPY_BYTES)) {
        into.copy_from_slice(from);
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn wake_up(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
