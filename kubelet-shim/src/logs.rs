//! What containers write: bounded log files in CRI format, and whole lines for whoever listens.
//!
//! One [`ContainerLog`] per instance, two [`LogStream`]s on it. Lines are cut at [`LINE_BYTES_MAX`] and
//! marked partial, so neither memory nor a line in the file grows with what a guest writes. A listener
//! that does not keep up makes the guest wait, never the agent: a stream takes no more bytes until the
//! bounded channel has room again.

mod book;
mod feed;
mod file;
mod reader;
mod shelf;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use coracle_runtime::Output;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

pub(crate) use book::{LogBook, Look, Missing};
pub(crate) use feed::Feed;
pub(crate) use file::{LOG_BYTES_MAX, LOG_FILES_MAX, LogFile, remove_attempt};
pub(crate) use reader::{LogQuery, LogReader};

use feed::FeedEnd;

use crate::spec::PodKey;
use crate::time::Clock;

/// Longest line kept whole; longer ones are cut and marked, as container runtimes do.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;

/// Lines kept for the termination message's fall-back (contract B.10).
const TAIL_LINES_MAX: usize = 80;

/// Bytes kept for the same.
const TAIL_BYTES_MAX: usize = 2048;

/// Guests that wait for room at once on one stream; a handler has many instances.
const WAITERS_MAX: usize = 1024;

/// Which of the two streams a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One whole line of a container.
#[derive(Clone, Debug)]
pub struct OutputLine {
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Name of the pod.
    pub pod: Arc<str>,
    /// Name of the container.
    pub container: Arc<str>,
    /// Where it was written.
    pub stream: StdStream,
    /// The line without its line feed.
    pub line: Bytes,
}

/// The log of one instance of a container.
pub(crate) struct ContainerLog {
    shared: Arc<Mutex<Shared>>,
    forward: Option<mpsc::Sender<OutputLine>>,
    identity: Arc<Identity>,
    end: Arc<FeedEnd>,
}

struct Identity {
    key: PodKey,
    container: Arc<str>,
    clock: Clock,
}

/// Both streams of a container write to one file.
struct Shared {
    file: LogFile,
    /// Lines with their line feeds, so that one that has none is told as it was written.
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
}

struct LogStream {
    stream: StdStream,
    shared: Arc<Mutex<Shared>>,
    identity: Arc<Identity>,
    state: Mutex<StreamState>,
    /// Dropped after the last line was written, since a drop of the whole comes first.
    _end: Arc<FeedEnd>,
}

struct StreamState {
    /// The line under way.
    partial: Vec<u8>,
    forward: Option<PollSender<OutputLine>>,
    /// A place in the channel is ours.
    reserved: bool,
    waiters: Arc<Waiters>,
}

/// Everyone who waits for room. A channel remembers one waker per sender, and that one may belong to a
/// guest that is gone by then, so it is given this one, which wakes all.
#[derive(Default)]
struct Waiters(Mutex<Vec<Waker>>);

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        for waker in std::mem::take(&mut *self.0.lock()) {
            waker.wake();
        }
    }
}

impl Waiters {
    fn add(&self, waker: &Waker) {
        let mut list = self.0.lock();
        if list.iter().any(|known| known.will_wake(waker)) {
            return;
        }
        if list.len() == WAITERS_MAX {
            // The oldest looks again at once and lines up behind.
            list.remove(0).wake();
        }
        list.push(waker.clone());
    }
}

impl ContainerLog {
    /// A log that is written to `path`, and to the listener if there is one.
    pub(crate) fn new(
        path: PathBuf,
        key: PodKey,
        container: Arc<str>,
        clock: Clock,
        forward: Option<mpsc::Sender<OutputLine>>,
    ) -> ContainerLog {
        let file = LogFile::new(path);
        let end = Arc::new(FeedEnd(file.feed().clone()));
        let shared = Shared {
            file,
            tail: VecDeque::new(),
            tail_bytes: 0,
        };
        ContainerLog {
            shared: Arc::new(Mutex::new(shared)),
            forward,
            identity: Arc::new(Identity {
                key,
                container,
                clock,
            }),
            end,
        }
    }

    /// Returns what readers of the log are told by.
    pub(crate) fn feed(&self) -> Arc<Feed> {
        self.end.0.clone()
    }

    /// Returns one of its streams. The line under way is written when the stream is dropped: as a
    /// partial one, since its line feed never came.
    pub(crate) fn stream(&self, stream: StdStream) -> Arc<dyn Output> {
        Arc::new(LogStream {
            stream,
            shared: self.shared.clone(),
            identity: self.identity.clone(),
            state: Mutex::new(StreamState {
                partial: Vec::new(),
                forward: self.forward.clone().map(PollSender::new),
                reserved: false,
                waiters: Arc::default(),
            }),
            _end: self.end.clone(),
        })
    }

    /// Returns the end of the log, for a termination message.
    pub(crate) fn tail(&self) -> String {
        let shared = self.shared.lock();
        let mut bytes = Vec::with_capacity(shared.tail_bytes);
        for line in &shared.tail {
            bytes.extend_from_slice(line);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Output for LogStream {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        let mut taken = 0;
        let mut has_lines = false;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            let room = LINE_BYTES_MAX.saturating_sub(state.partial.len());
            let window = &rest[..rest.len().min(room + 1)];
            let ending = match window.iter().position(|byte| *byte == b'\n') {
                Some(at) => Ending::Line(at),
                None if rest.len() > room => Ending::Cut(room),
                None => {
                    state.partial.extend_from_slice(rest);
                    taken = bytes.len();
                    break;
                }
            };
            if !state.try_reserve() {
                break;
            }
            let (end, skip, is_whole) = match ending {
                Ending::Line(at) => (at, at + 1, true),
                Ending::Cut(at) => (at, at, false),
            };
            state.partial.extend_from_slice(&rest[..end]);
            self.finish_line(&mut state, is_whole);
            has_lines = true;
            taken += skip;
        }
        if has_lines {
            self.flush();
        }
        taken
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.reserved || state.forward.is_none() {
            return Poll::Ready(());
        }
        let StreamState {
            forward,
            waiters,
            reserved,
            ..
        } = &mut *state;
        waiters.add(cx.waker());
        let all = Waker::from(waiters.clone());
        let Some(sender) = forward else {
            return Poll::Ready(());
        };
        match sender.poll_reserve(&mut Context::from_waker(&all)) {
            Poll::Ready(Ok(())) => *reserved = true,
            // The listener is gone: the file alone is written.
            Poll::Ready(Err(_)) => *forward = None,
            Poll::Pending => return Poll::Pending,
        }
        drop(state);
        all.wake();
        Poll::Ready(())
    }
}

enum Ending {
    /// A line feed at this offset.
    Line(usize),
    /// The line is too long and is cut here.
    Cut(usize),
}

impl StreamState {
    /// Makes sure that a line can be forwarded; false means that the channel is full.
    fn try_reserve(&mut self) -> bool {
        if self.reserved {
            return true;
        }
        let Some(sender) = &mut self.forward else {
            return true;
        };
        let all = Waker::from(self.waiters.clone());
        match sender.poll_reserve(&mut Context::from_waker(&all)) {
            Poll::Ready(Ok(())) => self.reserved = true,
            Poll::Ready(Err(_)) => self.forward = None,
            Poll::Pending => return false,
        }
        true
    }
}

impl LogStream {
    /// Writes the lines that are finished to the file: one call of the system for all that a guest wrote
    /// at once.
    fn flush(&self) {
        let at = self.identity.clock.now().wall();
        self.shared.lock().file.flush(at);
    }

    /// Takes the gathered line into the log and hands it on.
    fn finish_line(&self, state: &mut StreamState, is_whole: bool) {
        let length = state.partial.len();
        if is_whole {
            state.partial.push(b'\n');
        }
        let written = Bytes::copy_from_slice(&state.partial);
        let line = written.slice(..length);
        state.partial.clear();
        if state.partial.capacity() > LINE_BYTES_MAX / 4 {
            // A rare long line must not cost every idle container its buffer.
            state.partial = Vec::new();
        }
        let stream = self.stream;
        self.shared
            .lock()
            .append(&self.identity.clock, stream, written, is_whole);
        let reserved = std::mem::take(&mut state.reserved);
        if let (true, Some(sender)) = (reserved, &mut state.forward) {
            let line = OutputLine {
                namespace: self.identity.key.namespace.clone(),
                pod: self.identity.key.name.clone(),
                container: self.identity.container.clone(),
                stream,
                line,
            };
            if sender.send_item(line).is_err() {
                state.forward = None;
            }
        }
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        let mut state = std::mem::replace(
            &mut *self.state.lock(),
            StreamState {
                partial: Vec::new(),
                forward: None,
                reserved: false,
                waiters: Arc::default(),
            },
        );
        if !state.partial.is_empty() {
            // Best effort for the listener: a full channel at the very end costs it this one piece.
            state.try_reserve();
            self.finish_line(&mut state, false);
            self.flush();
        }
    }
}

impl Shared {
    /// Appends what was written: a line with its line feed if it is whole.
    fn append(&mut self, clock: &Clock, stream: StdStream, written: Bytes, is_whole: bool) {
        let line = &written[..written.len() - usize::from(is_whole)];
        self.file.append(clock.now().wall(), stream, line, is_whole);
        self.tail_bytes += written.len();
        self.tail.push_back(written);
        // Parts of a line count as lines, as the kubelet counts them.
        while self.tail.len() > TAIL_LINES_MAX {
            self.drop_first();
        }
        while let Some(first) = self.tail.front_mut()
            && self.tail_bytes > TAIL_BYTES_MAX
        {
            let excess = self.tail_bytes - TAIL_BYTES_MAX;
            if first.len() <= excess {
                self.drop_first();
                continue;
            }
            *first = match first.len() > TAIL_BYTES_MAX {
                // A long line must not be kept for the sake of its end.
                true => Bytes::copy_from_slice(&first[excess..]),
                false => first.slice(excess..),
            };
            self.tail_bytes -= excess;
        }
    }

    fn drop_first(&mut self) {
        if let Some(dropped) = self.tail.pop_front() {
            self.tail_bytes -= dropped.len();
        }
    }
}

#[cfg(test)]
mod tests;
