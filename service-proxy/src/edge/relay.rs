//! Joins two connections: what one side sends reaches the other, the end of its stream and a reset
//! included.
//!
//! A relay that waits holds no buffer. Bytes are read into a buffer of the thread and written at once;
//! what the other side does not take is kept, and until it is taken nothing more is read, so a slow
//! reader costs at most [`SCRATCH_BYTES`] in each direction. Once a read fills the whole buffer the
//! direction is in bulk, and on Linux its bytes then go from socket to socket through a pipe without
//! being copied into this process, until the source pauses.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use coracle_network::Endpoint;

use super::counters::{EdgeCounters, count};
use super::limits::Permit;
use bulk::{Pipe, Pipes};

pub(super) mod bulk;
mod side;

pub(super) use side::Side;

/// Bytes read at once, and the most that one direction keeps for a slow reader. One read of this size
/// is what haproxy and the prototypes found best; below it system calls dominate.
pub(super) const SCRATCH_BYTES: usize = 64 * 1024;

/// Bytes that one poll moves in one direction before others get their turn: a millisecond's work in bulk.
const TURN_BYTES: usize = 4 * 1024 * 1024;

thread_local! {
    /// What is read passes through here; between polls it holds nothing that matters.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// Two joined connections. Ready once both directions have ended, or one side broke and the other was
/// told. Dropped before that, it resets both.
pub(super) struct Relay {
    client: Side,
    server: Side,
    /// From the client to the server, and back.
    up: Direction,
    down: Direction,
    endpoint: Arc<Endpoint>,
    relays: Arc<Relays>,
    _permit: Permit,
}

/// What all relays share.
pub(super) struct Relays {
    pub(super) pipes: Arc<Pipes>,
    pub(super) counters: Arc<EdgeCounters>,
}

/// One way through a relay.
enum Direction {
    /// All that was read is written.
    Open(Pace),
    /// Bytes that the reader did not take yet.
    Held(Box<Held>),
    /// In bulk, through a pipe.
    Bulk(Box<Pipe>),
    /// The source has ended, and all its bytes are written.
    Ended,
}

/// Bytes that wait for a slow reader.
struct Held {
    bytes: Vec<u8>,
    written: usize,
    /// The pace at which they were read.
    pace: Pace,
}

/// What the last read says about the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// It comes in small pieces: copying is cheapest.
    Pieces,
    /// It fills every read.
    Bulk,
    /// As before, but the system would not splice these two.
    Unspliceable,
}

/// The other side must be reset: this one broke, or cannot be told of the end.
struct Broken;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Broken {
        Broken
    }
}

impl Relay {
    /// Joins `client` to `server`, a connection to `endpoint`, whose bytes are counted.
    pub(super) fn new(
        client: Side,
        server: Side,
        endpoint: Arc<Endpoint>,
        relays: Arc<Relays>,
        permit: Permit,
    ) -> Relay {
        Relay {
            client,
            server,
            up: Direction::Open(Pace::Pieces),
            down: Direction::Open(Pace::Pieces),
            endpoint,
            relays,
            _permit: permit,
        }
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let (client, server, pipes) = (&mut self.client, &mut self.server, &self.relays.pipes);
        let counters = self.endpoint.counters();
        let were_ended = (self.up.is_ended(), self.down.is_ended());
        let mut moved = 0;
        let up = self.up.pump(cx, client, server, pipes, &mut moved);
        tally(&counters.received_bytes, moved);
        // The second end is passed on by closing both, which follows at once.
        if !were_ended.0 && self.up.is_ended() && !were_ended.1 {
            server.end()?;
        }
        moved = 0;
        let down = self.down.pump(cx, server, client, pipes, &mut moved);
        tally(&counters.sent_bytes, moved);
        if !were_ended.1 && self.down.is_ended() && !self.up.is_ended() {
            client.end()?;
        }
        match (up, down) {
            (Poll::Ready(Err(broken)), _) | (_, Poll::Ready(Err(broken))) => {
                Poll::Ready(Err(broken))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            (Poll::Pending, _) | (_, Poll::Pending) => Poll::Pending,
        }
    }

    fn has_ended(&self) -> bool {
        self.up.is_ended() && self.down.is_ended()
    }
}

impl Future for Relay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_both(cx).map(|_| ())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.has_ended() {
            count(&self.relays.counters.reset);
            self.client.reset_on_close();
            self.server.reset_on_close();
        }
    }
}

impl Direction {
    /// Moves what there is; ready once the source has ended and all its bytes are written.
    fn pump(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side,
        to: &mut Side,
        pipes: &Arc<Pipes>,
        moved: &mut usize,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if *moved >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self {
                Direction::Ended => return Poll::Ready(Ok(())),
                Direction::Held(held) => {
                    ready!(held.poll_write(cx, to))?;
                    *self = Direction::Open(held.pace);
                }
                Direction::Bulk(pipe) => {
                    ready!(pipe.poll_drain(cx, to))?;
                    match pipe.fill(from) {
                        Ok(0) => *self = Direction::Ended,
                        Ok(bytes) => *moved += bytes,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            // The pipe is given back while the source pauses. After a turn that moved
                            // much the next bytes are expected to be many, too.
                            *self = Direction::Open(match *moved < SCRATCH_BYTES {
                                true => Pace::Pieces,
                                false => Pace::Bulk,
                            });
                            ready!(from.poll_read_ready(cx))?;
                        }
                        Err(error) if bulk::is_impossible(&error) => {
                            *self = Direction::Open(Pace::Unspliceable);
                        }
                        Err(error) => return Poll::Ready(Err(error.into())),
                    }
                }
                Direction::Open(pace) => {
                    if *pace == Pace::Bulk
                        && let Some(pipe) = pipes.take()
                    {
                        pipe.prepare(to);
                        *self = Direction::Bulk(Box::new(pipe));
                        continue;
                    }
                    let pace = *pace;
                    match ready!(self.copy(cx, from, to, pace))? {
                        0 => *self = Direction::Ended,
                        bytes => *moved += bytes,
                    }
                }
            }
        }
    }

    /// Copies one read; returns how many bytes, 0 at the end.
    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side,
        to: &mut Side,
        pace: Pace,
    ) -> Poll<Result<usize, Broken>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let bytes = ready!(from.poll_read(cx, scratch))?;
            let pace = pace.after(bytes);
            *self = Direction::Open(pace);
            let mut written = 0;
            while written < bytes {
                match to.poll_write(cx, &scratch[written..bytes]) {
                    Poll::Ready(more) => written += more?,
                    Poll::Pending => {
                        let bytes = scratch[written..bytes].to_vec();
                        *self = Direction::Held(Box::new(Held {
                            bytes,
                            written: 0,
                            pace,
                        }));
                        break;
                    }
                }
            }
            Poll::Ready(Ok(bytes))
        })
    }

    fn is_ended(&self) -> bool {
        matches!(self, Direction::Ended)
    }
}

fn tally(counter: &AtomicU64, bytes: usize) {
    if bytes > 0 {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Pace {
    fn after(self, bytes: usize) -> Pace {
        match self {
            Pace::Pieces | Pace::Bulk if bytes == SCRATCH_BYTES => Pace::Bulk,
            Pace::Pieces | Pace::Bulk => Pace::Pieces,
            Pace::Unspliceable => Pace::Unspliceable,
        }
    }
}

impl Held {
    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Side) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            self.written += ready!(to.poll_write(cx, &self.bytes[self.written..]))?;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
