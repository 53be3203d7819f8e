//! The listening sockets, watched by a few tasks.
//!
//! Each socket is a future that ends when it is closed; a task for each core watches a share of them, so
//! ten thousand Services are ten thousand sockets and a handful of tasks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use coracle_network::{Announced, Front, GiveBack};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Sleep;

use super::dispatch::Dispatcher;
use super::gate::board::Board;
use super::sockets::Acceptor;
use super::udp::Datagrams;

/// Connections accepted from one socket before others get their turn.
const ACCEPT_BURST: usize = 64;

/// How long a socket rests when the process or the system has no room for another connection: each
/// further try would fail at once.
pub(super) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Sockets on their way to the task that will watch them.
const OPENING_MAX: usize = 256;

/// The most tasks; beyond that many cores accepting is not what takes the time.
const WATCHERS_MAX: usize = 16;

/// The tasks that watch the sockets.
pub(super) struct Doors {
    watchers: Vec<mpsc::Sender<Door>>,
    tasks: JoinSet<()>,
    next: usize,
}

/// A socket that is watched, as its owner holds it. Dropping it closes the socket.
pub(super) struct DoorHandle {
    shared: Arc<Shared>,
    closed: oneshot::Receiver<()>,
}

/// What the holder of a door and its future share.
#[derive(Default)]
struct Shared {
    is_closing: AtomicBool,
    /// The front or its endpoints may have changed.
    is_stale: AtomicBool,
    waker: AtomicWaker,
}

/// One watched socket; ready once it is closed.
pub(super) struct Door {
    shared: Arc<Shared>,
    kind: Kind,
    /// Dropped after the socket, which tells that the port is free.
    _closed: oneshot::Sender<()>,
    _announced: Option<Announced>,
}

/// What is watched.
pub(super) enum Kind {
    /// A listening TCP socket.
    Tcp(TcpDoor),
    /// A UDP socket and its flows.
    Udp(Box<Datagrams>),
}

/// A listening TCP socket.
pub(super) struct TcpDoor {
    acceptor: Acceptor,
    dispatcher: Arc<Dispatcher>,
    serves: Serves,
    rest: Option<Pin<Box<Sleep>>>,
}

/// What the connections of a socket are for.
enum Serves {
    /// A front, at its address.
    Front(Arc<ArcSwap<Front>>, GiveBack),
    /// Whatever their own address leads to.
    Board(Arc<Board>),
}

impl Doors {
    /// Starts the tasks. Needs a tokio runtime.
    pub(super) fn start() -> Doors {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let mut tasks = JoinSet::new();
        let watchers = (0..cores.min(WATCHERS_MAX)).map(|_| {
            let (sender, doors) = mpsc::channel(OPENING_MAX);
            tasks.spawn(watch(doors));
            sender
        });
        Doors {
            watchers: watchers.collect(),
            tasks,
            next: 0,
        }
    }

    /// Has a socket watched.
    pub(super) async fn open(&mut self, kind: Kind, announced: Option<Announced>) -> DoorHandle {
        let (door, handle) = Door::new(kind, announced);
        self.next = (self.next + 1) % self.watchers.len();
        // It fails only when the runtime ends, and then the door is closed as its handle will tell.
        drop(self.watchers[self.next].send(door).await);
        handle
    }

    /// Ends the tasks once all doors are closed.
    pub(super) async fn stop(mut self) {
        self.watchers.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl DoorHandle {
    /// Makes a UDP door look again at its front and endpoints; a TCP one does so for each connection.
    pub(super) fn look_again(&self) {
        self.shared.is_stale.store(true, Ordering::Release);
        self.shared.waker.wake();
    }

    /// Closes the socket; its port is free when this returns.
    pub(super) async fn close(mut self) {
        self.begin_closing();
        // The sender is only ever dropped.
        drop((&mut self.closed).await);
    }

    fn begin_closing(&self) {
        self.shared.is_closing.store(true, Ordering::Release);
        self.shared.waker.wake();
    }
}

impl Drop for DoorHandle {
    fn drop(&mut self) {
        self.begin_closing();
    }
}

async fn watch(mut opened: mpsc::Receiver<Door>) {
    let mut doors = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !doors.is_empty() {
        tokio::select! {
            // Receiving and waiting for a door lose nothing when the other comes first.
            door = opened.recv(), if is_open => match door {
                Some(door) => doors.push(door),
                None => is_open = false,
            },
            Some(()) = doors.next(), if !doors.is_empty() => {}
        }
    }
}

impl Door {
    /// Returns a door, to be polled by a task, and what closes it.
    pub(super) fn new(kind: Kind, announced: Option<Announced>) -> (Door, DoorHandle) {
        let shared = Arc::new(Shared::default());
        let (sender, closed) = oneshot::channel();
        let door = Door {
            shared: Arc::clone(&shared),
            kind,
            _closed: sender,
            _announced: announced,
        };
        (door, DoorHandle { shared, closed })
    }
}

impl Future for Door {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.waker.register(cx.waker());
        if self.shared.is_closing.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let is_stale = self.shared.is_stale.swap(false, Ordering::AcqRel);
        match &mut self.kind {
            Kind::Tcp(door) => door.poll(cx),
            Kind::Udp(datagrams) => {
                if is_stale {
                    datagrams.flush();
                }
                datagrams.poll(cx);
            }
        }
        Poll::Pending
    }
}

impl TcpDoor {
    /// Returns what accepts for a front.
    pub(super) fn new(
        acceptor: Acceptor,
        dispatcher: &Arc<Dispatcher>,
        front: Arc<ArcSwap<Front>>,
    ) -> TcpDoor {
        let give_back = dispatcher.take_back(&front);
        TcpDoor {
            acceptor,
            dispatcher: Arc::clone(dispatcher),
            serves: Serves::Front(front, give_back),
            rest: None,
        }
    }

    /// Returns what accepts for all that is on a board.
    pub(super) fn of_board(
        acceptor: Acceptor,
        dispatcher: &Arc<Dispatcher>,
        board: &Arc<Board>,
    ) -> TcpDoor {
        TcpDoor {
            acceptor,
            dispatcher: Arc::clone(dispatcher),
            serves: Serves::Board(Arc::clone(board)),
            rest: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        // Pending always: how it came to be does not matter to the caller.
        let _: Poll<()> = self.poll_accept(cx);
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ACCEPT_BURST {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
            }
            match ready!(self.acceptor.poll_accept(cx)) {
                Ok((tcp, peer)) => match &self.serves {
                    Serves::Front(front, give_back) => {
                        self.dispatcher.accept(tcp, peer, front, give_back);
                    }
                    Serves::Board(board) => board.accept(tcp, peer),
                },
                // The client went away between its handshake and now; the next one counts.
                Err(error) if is_client_gone(&error) => {}
                Err(error) => {
                    tracing::debug!(%error, "failed to accept");
                    self.dispatcher.note_exhausted();
                    self.rest = Some(Box::pin(tokio::time::sleep(EXHAUSTED_PAUSE)));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Tells whether accepting failed for a client that had gone again.
pub(super) fn is_client_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
