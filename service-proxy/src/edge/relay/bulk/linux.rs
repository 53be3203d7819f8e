//! Linux: `splice(2)`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coracle_socket_lookup::shortest_round_trip;
use parking_lot::Mutex;
use rustix::pipe::{PipeFlags, SpliceFlags};
use socket2::SockRef;
use tokio::io::Interest;

use super::super::side::Side;

/// Pipes kept for the next bulk.
const PIPES_IDLE_MAX: usize = 32;

/// What a pipe is asked to hold. With half of it system calls take more of the time, with twice as much
/// the data leaves the processor's caches. A user's share of pages may be used up, then it stays at the
/// default of 64 KiB.
const PIPE_BYTES: usize = 512 * 1024;

/// Who is as near as this is on the same machine or in the same rack.
const NEAR: Duration = Duration::from_micros(100);

/// What may wait on its way to somebody near, as the option `SO_SNDBUF` is told; the kernel takes it twice,
/// bookkeeping included. More would fill no wire, and leave the caches: without a bound the kernel lets 4 MiB
/// wait, and each byte takes twice the processor time in all.
const NEAR_BYTES: usize = 96 * 1024;

/// The pool.
pub(in crate::edge) struct Pipes {
    idle: Mutex<Vec<Ends>>,
    made: AtomicUsize,
    max: usize,
}

/// Both ends of an empty pipe.
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe of the pool in use; it goes back when dropped, unless bytes are left in it.
pub(in crate::edge) struct Pipe {
    ends: Option<Ends>,
    bytes: usize,
    pool: Arc<Pipes>,
}

impl Pipes {
    /// Returns a pool of at most `max` pipes.
    pub(in crate::edge) fn new(max: usize) -> Arc<Pipes> {
        Arc::new(Pipes {
            idle: Mutex::default(),
            made: AtomicUsize::new(0),
            max,
        })
    }

    /// Takes a pipe; nothing if none is to be had.
    pub(in crate::edge) fn take(self: &Arc<Self>) -> Option<Pipe> {
        let idle = self.idle.lock().pop();
        let ends = match idle {
            Some(ends) => ends,
            None => self.make()?,
        };
        Some(Pipe {
            ends: Some(ends),
            bytes: 0,
            pool: Arc::clone(self),
        })
    }

    /// Returns how many pipes there are, in use and idle.
    #[cfg(test)]
    pub(in crate::edge) fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    fn make(&self) -> Option<Ends> {
        let fits = |made: usize| (made < self.max).then_some(made + 1);
        let counted = self
            .made
            .try_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        counted.ok()?;
        match rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC) {
            Ok((read, write)) => {
                // Without the larger size it works too.
                let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
                Some(Ends { read, write })
            }
            Err(_) => {
                self.made.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl Pipe {
    /// Lets no more wait on the way to a side than is of use, where that is near.
    pub(in crate::edge) fn prepare(&self, to: &Side) {
        let socket = SockRef::from(to.socket());
        let is_bounded = socket
            .send_buffer_size()
            .is_ok_and(|bytes| bytes == 2 * NEAR_BYTES);
        let is_near = || shortest_round_trip(to.socket()).is_ok_and(|time| time <= NEAR);
        if !is_bounded && is_near() {
            // Without the bound it works too.
            drop(socket.set_send_buffer_size(NEAR_BYTES));
        }
    }

    /// Fills the empty pipe from a socket: 0 at the end of the stream.
    pub(in crate::edge) fn fill(&mut self, from: &Side) -> io::Result<usize> {
        // A pipe with bytes in it may have no room, which looks as if the socket had no bytes.
        debug_assert_eq!(self.bytes, 0);
        let ends = self.ends.as_ref().expect("only dropping takes the ends");
        let tcp = from.socket();
        self.bytes = tcp.try_io(Interest::READABLE, || {
            Ok(rustix::pipe::splice(
                tcp,
                None,
                &ends.write,
                None,
                PIPE_BYTES,
                SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
            )?)
        })?;
        Ok(self.bytes)
    }

    /// Writes all that is in the pipe.
    pub(in crate::edge) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &Side,
    ) -> Poll<io::Result<()>> {
        let ends = self.ends.as_ref().expect("only dropping takes the ends");
        let tcp = to.socket();
        while self.bytes > 0 {
            let written = tcp.try_io(Interest::WRITABLE, || {
                Ok(rustix::pipe::splice(
                    &ends.read,
                    None,
                    tcp,
                    None,
                    self.bytes,
                    SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
                )?)
            });
            match written {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.bytes -= written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(tcp.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take()
            && self.bytes == 0
        {
            let mut idle = self.pool.idle.lock();
            if idle.len() < PIPES_IDLE_MAX {
                idle.push(ends);
                return;
            }
        }
        self.pool.made.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells whether a failure to splice says that these sockets cannot be, and not that one is broken.
pub(in crate::edge) fn is_impossible(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}
