//! A pod's listening socket: one queue of connections from pods, and the kernel sockets of the
//! port's publications.
//!
//! Nothing accepts on its behalf. [`Listener::poll_accept`] looks into the queue and asks the
//! kernel sockets itself; a kernel socket is registered with the reactor of the thread that polls
//! first, and an accepted kernel socket becomes the guest's [`Stream`] as it is. Connections that came
//! through a Service and were not accepted when the listener ends go to another endpoint.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::Sleep;

use crate::connect::Balanced;
use crate::error::NetError;
use crate::handover::HandedStream;
use crate::platform;
use crate::pod::{Pod, TcpPort};
use crate::policy::{self, Verdict};
use crate::publish::{KernelListener, Protocol, Publication};
use crate::stream::Stream;
use crate::stream::kernel::Place;

/// The longest queue of connections not yet accepted; what Linux allows by default.
pub(crate) const BACKLOG_MAX: usize = 4_096;

/// Connections waiting for room in one full queue; the next is refused at once.
pub(crate) const BACKLOG_WAITERS_MAX: usize = 4_096;

/// How long kernel sockets rest when the process or the pod has no room for another one.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// A listening TCP socket of a pod. Dropping it resets what nobody accepted and makes the port's
/// publications refuse connections again.
pub struct Listener {
    backlog: Arc<Backlog>,
    port: TcpPort,
}

/// The shared part of a listener, found by connecting pods through the port table.
pub(crate) struct Backlog {
    state: Mutex<State>,
    /// One permit for each free place in the queue; waiting for one is what a full backlog does.
    room: Semaphore,
    waiters: AtomicUsize,
    size: usize,
    local: SocketAddr,
}

/// A connection that waits to be accepted.
pub(crate) enum Queued {
    /// In memory.
    Memory {
        /// The accepting side.
        stream: Stream,
        /// How it was balanced, if it was.
        balanced: Option<Balanced>,
    },
    /// Accepted outside and handed over.
    Handed(Handed),
}

/// A kernel connection that becomes a stream of the thread that accepts it.
pub(crate) struct Handed {
    pub(crate) stream: HandedStream,
    /// Its place among the pod's kernel sockets.
    pub(crate) place: Place,
}

/// Why a backlog takes no connection without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its listener is gone.
    Closed,
    /// All places are taken.
    Full,
}

struct State {
    queue: VecDeque<Queued>,
    kernel: Vec<KernelListener>,
    /// What a look for readiness got from the kernel.
    found: Option<io::Result<Stream>>,
    acceptor: Option<Waker>,
    turn: Turn,
    pause: Option<Pin<Box<Sleep>>>,
    life: Life,
}

/// Who is asked first, so that neither side starves the other.
#[derive(Clone, Copy)]
enum Turn {
    Queue,
    Kernel,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    Closed,
}

impl Listener {
    /// Takes over a port whose table entry already leads to `backlog`.
    pub(crate) fn new(backlog: Arc<Backlog>, port: TcpPort) -> Listener {
        Listener { backlog, port }
    }

    /// Accepts one connection, from a pod or from the host. Needs a tokio runtime when the port is
    /// published. Keeps the waker of the last caller; fails for good once the pod is detached.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let mut state = self.backlog.state.lock();
        if state.life == Life::Closed {
            return Poll::Ready(Err(NetError::Detached.into()));
        }
        if let Some(found) = state.found.take() {
            return Poll::Ready(found);
        }
        state.turn = match state.turn {
            Turn::Queue => Turn::Kernel,
            Turn::Kernel => Turn::Queue,
        };
        let accepted = match state.turn {
            Turn::Queue => self
                .poll_queue(&mut state)
                .or_else(|| self.poll_kernel(&mut state, cx)),
            Turn::Kernel => self
                .poll_kernel(&mut state, cx)
                .or_else(|| self.poll_queue(&mut state)),
        };
        match accepted {
            Some(result) => Poll::Ready(result),
            None => {
                state.acceptor = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Becomes ready when [`Listener::poll_accept`] may give a connection or an error, which it takes
    /// nothing for that could go elsewhere: if the listener ends first, whatever came through a Service
    /// finds another endpoint. Keeps the waker of the last caller, as that does.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.backlog.state.lock();
        let is_ready = state.life == Life::Closed || state.found.is_some();
        if is_ready || !state.queue.is_empty() {
            return Poll::Ready(());
        }
        // The kernel does not tell of a connection without giving it.
        state.found = self.poll_kernel(&mut state, cx);
        if state.found.is_some() {
            return Poll::Ready(());
        }
        state.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Accepts one connection. Cancel safe.
    pub async fn accept(&self) -> io::Result<Stream> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Returns the address the socket was bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.backlog.local
    }

    fn poll_queue(&self, state: &mut State) -> Option<io::Result<Stream>> {
        loop {
            let handed = match state.queue.pop_front()? {
                Queued::Memory { stream, .. } => {
                    self.backlog.room.add_permits(1);
                    return Some(Ok(stream));
                }
                Queued::Handed(handed) => handed,
            };
            if tokio::runtime::Handle::try_current().is_err() {
                state.queue.push_front(Queued::Handed(handed));
                return Some(Err(outside_a_runtime()));
            }
            self.backlog.room.add_permits(1);
            let HandedStream {
                tcp,
                peer,
                endpoint,
                give_back: _,
            } = handed.stream;
            match tokio::net::TcpStream::from_std(tcp) {
                Ok(tcp) => {
                    let (pod, local) = (self.port.pod(), self.backlog.local);
                    return Some(pod.take_kernel_stream(tcp, peer, handed.place, local, endpoint));
                }
                // The stream is lost with it; the next one may fare better.
                Err(error) => tracing::debug!(%error, "a connection handed over is out of order"),
            }
        }
    }

    fn poll_kernel(&self, state: &mut State, cx: &mut Context<'_>) -> Option<io::Result<Stream>> {
        if state.kernel.is_empty() {
            return None;
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Some(Err(outside_a_runtime()));
        }
        if let Some(pause) = &mut state.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return None;
            }
            state.pause = None;
        }
        let pod = self.port.pod();
        for listener in &mut state.kernel {
            let place = match pod.kernel_count().take() {
                Ok(place) => place,
                Err(_) => return rest(state, cx),
            };
            match listener.poll_accept(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok((tcp, peer))) => {
                    let local = self.backlog.local;
                    let verdict = pod.judge_received(Protocol::Tcp, peer, local.port());
                    if verdict == Verdict::Drop {
                        policy::reset_at_end((&tcp).into());
                        // Others may wait behind it.
                        cx.waker().wake_by_ref();
                        continue;
                    }
                    return Some(pod.take_kernel_stream(tcp, peer, place, local, None));
                }
                Poll::Ready(Err(error)) if platform::is_exhausted(&error) => {
                    return rest(state, cx);
                }
                Poll::Ready(Err(error)) => return Some(Err(error)),
            }
        }
        None
    }
}

fn outside_a_runtime() -> io::Error {
    io::Error::other("a host connection is accepted outside a tokio runtime")
}

/// Lets the kernel sockets rest, since each further try would fail at once and spin.
fn rest(state: &mut State, cx: &mut Context<'_>) -> Option<io::Result<Stream>> {
    let mut pause = Box::pin(tokio::time::sleep(EXHAUSTED_PAUSE));
    if pause.as_mut().poll(cx).is_pending() {
        state.pause = Some(pause);
    }
    None
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The port leaves the table first, so that no publication is joined to a closed backlog.
        self.port.release();
        let lent = self.backlog.close();
        let pod = Arc::clone(self.port.pod());
        for listener in lent {
            let publication = listener.give_back();
            Pod::join_publication(&pod, &publication);
        }
    }
}

impl Backlog {
    /// Returns an empty backlog of at least one and at most [`BACKLOG_MAX`] places.
    pub(crate) fn new(size: usize, local: SocketAddr) -> Arc<Backlog> {
        let size = size.clamp(1, BACKLOG_MAX);
        let state = State {
            queue: VecDeque::new(),
            kernel: Vec::new(),
            found: None,
            acceptor: None,
            turn: Turn::Kernel,
            pause: None,
            life: Life::Open,
        };
        Arc::new(Backlog {
            state: Mutex::new(state),
            room: Semaphore::new(size),
            waiters: AtomicUsize::new(0),
            size,
            local,
        })
    }

    /// Returns the address the listener was bound to.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits for a place in the queue, at once in the usual case. A closed backlog refuses.
    pub(crate) async fn place(&self) -> Result<SemaphorePermit<'_>, NetError> {
        if let Ok(permit) = self.room.try_acquire() {
            return Ok(permit);
        }
        let _waiting = Waiting::enter(&self.waiters)?;
        self.room
            .acquire()
            .await
            .map_err(|_| NetError::ConnectionRefused)
    }

    /// Puts a connection in memory into the queue, in the place taken before.
    pub(crate) fn push(
        &self,
        stream: Stream,
        balanced: Option<Balanced>,
        place: SemaphorePermit<'_>,
    ) -> Result<(), NetError> {
        self.put(place, move || Queued::Memory { stream, balanced })
            .map_err(|_| NetError::ConnectionRefused)
    }

    /// Puts what `queued` makes of `value` into the queue if there is a place, else gives it back.
    pub(crate) fn offer<V>(
        &self,
        value: V,
        queued: impl FnOnce(V) -> Queued,
    ) -> Result<(), (V, Refusal)> {
        let place = match self.room.try_acquire() {
            Ok(place) => place,
            Err(TryAcquireError::Closed) => return Err((value, Refusal::Closed)),
            Err(TryAcquireError::NoPermits) => return Err((value, Refusal::Full)),
        };
        let mut offered = Some(value);
        let taken = self.put(place, || {
            queued(offered.take().expect("a queue takes a connection once"))
        });
        match (taken, offered) {
            (Err(refusal), Some(value)) => Err((value, refusal)),
            (Ok(()) | Err(_), _) => Ok(()),
        }
    }

    fn put(
        &self,
        place: SemaphorePermit<'_>,
        queued: impl FnOnce() -> Queued,
    ) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        if state.life == Life::Closed {
            return Err(Refusal::Closed);
        }
        place.forget();
        state.queue.push_back(queued());
        let acceptor = state.acceptor.take();
        drop(state);
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
        Ok(())
    }

    /// Joins a publication: its socket listens from here on. Returns whether the backlog is open
    /// still.
    pub(crate) fn join(&self, publication: &Arc<Publication>) -> io::Result<Joined> {
        let mut state = self.state.lock();
        if state.life == Life::Closed {
            return Ok(Joined::Closed);
        }
        let Some(listener) = publication.lend_tcp(self.size)? else {
            return Ok(Joined::Open);
        };
        state.kernel.push(listener);
        let acceptor = state.acceptor.take();
        drop(state);
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
        Ok(Joined::Open)
    }

    /// Drops the kernel socket of a publication that ends.
    pub(crate) fn leave(&self, publication: &Arc<Publication>) {
        let mut state = self.state.lock();
        let gone = state
            .kernel
            .extract_if(.., |listener| listener.serves(publication));
        let gone = gone.collect::<Vec<_>>();
        drop(state);
        drop(gone);
    }

    /// Refuses what follows, sends what nobody accepted to other endpoints or resets it, and returns
    /// the kernel sockets.
    pub(crate) fn close(&self) -> Vec<KernelListener> {
        let mut state = self.state.lock();
        state.life = Life::Closed;
        let queue = std::mem::take(&mut state.queue);
        let kernel = std::mem::take(&mut state.kernel);
        let found = state.found.take();
        state.pause = None;
        let acceptor = state.acceptor.take();
        drop(state);
        self.room.close();
        queue.into_iter().for_each(Queued::leave);
        if let Some(Ok(stream)) = found {
            stream.abort();
        }
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
        kernel
    }
}

impl Queued {
    /// Leaves a backlog that closed.
    fn leave(self) {
        match self {
            Queued::Memory {
                stream,
                balanced: Some(balanced),
            } => balanced.dispatch_again(stream),
            Queued::Memory {
                stream,
                balanced: None,
            } => stream.abort(),
            Queued::Handed(Handed { stream, place }) => {
                drop(place);
                let give_back = Arc::clone(&stream.give_back);
                give_back(stream);
            }
        }
    }
}

/// What became of joining a publication to a backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joined {
    /// It serves the publication, or another listener got it first.
    Open,
    /// The listener is gone; its port may have a new one.
    Closed,
}

/// A counted wait for room in a full queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Result<Waiting<'a>, NetError> {
        let fits = |waiting: usize| (waiting < BACKLOG_WAITERS_MAX).then_some(waiting + 1);
        count
            .try_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(|_| Waiting(count))
            .map_err(|_| NetError::ConnectionRefused)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("local", &self.backlog.local)
            .finish_non_exhaustive()
    }
}
