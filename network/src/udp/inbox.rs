//! Where a UDP socket's datagrams arrive: a bounded queue for those of pods, and the kernel sockets
//! it polls.
//!
//! The queue, the peers from outside and the kernel sockets have a lock each, so that who sends never
//! waits for a system call of the receiver; of two held at once, the kernel sockets' is taken first.
//! The inbox is what the port table knows of a socket; detaching the
//! pod closes it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;

use super::flows::{Flow, Flows};
use super::front::UdpFlow;
use super::outward::Outward;
use super::replies::Replies;
use crate::budget::Budget;
use crate::error::NetError;
use crate::publish::Publication;
use crate::stream::kernel::KernelCount;

/// Bytes waiting in one inbox, about what Linux gives a UDP socket.
pub(crate) const INBOX_BYTES_MAX: usize = 208 * 1024;

/// What one datagram is charged beyond its bytes, so that empty ones are not free.
pub(crate) const DATAGRAM_OVERHEAD_BYTES: usize = 256;

/// The arriving side of a UDP socket, with its kernel sockets.
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    outward: Mutex<Outward>,
    peers: Mutex<Flows>,
    replies: Mutex<Replies>,
    /// Whether the port was told to whoever gives pods their addresses outside.
    is_open_outside: AtomicBool,
    budget: Arc<Budget>,
}

/// How addresses outside of the socket's own pod look to it.
pub(super) struct View<'a> {
    /// A peer of a publication.
    pub(super) shown: &'a dyn Fn(SocketAddr) -> SocketAddr,
    /// Whether such a peer may send here.
    pub(super) admitted: &'a dyn Fn(SocketAddr) -> bool,
    /// Whoever sent a datagram of this length: an endpoint shows the address of its Service.
    pub(super) named: &'a dyn Fn(SocketAddr, usize) -> SocketAddr,
}

struct Queue {
    datagrams: VecDeque<Datagram>,
    bytes: usize,
    reader: Option<Waker>,
    life: Life,
}

struct Datagram {
    from: SocketAddr,
    data: Box<[u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    Closed,
}

impl Datagram {
    fn cost(&self) -> usize {
        self.data.len() + DATAGRAM_OVERHEAD_BYTES
    }
}

impl Inbox {
    /// Returns an empty inbox whose datagrams are charged to `budget`.
    pub(crate) fn new(budget: Arc<Budget>) -> Arc<Inbox> {
        let queue = Queue {
            datagrams: VecDeque::new(),
            bytes: 0,
            reader: None,
            life: Life::Open,
        };
        Arc::new(Inbox {
            queue: Mutex::new(queue),
            outward: Mutex::new(Outward::new()),
            peers: Mutex::new(Flows::new()),
            replies: Mutex::default(),
            is_open_outside: AtomicBool::new(false),
            budget,
        })
    }

    /// Puts a datagram of another pod in, or loses it when there is no room.
    pub(crate) fn deliver(&self, data: &[u8], from: SocketAddr) {
        let cost = data.len() + DATAGRAM_OVERHEAD_BYTES;
        let mut queue = self.queue.lock();
        let fits = queue.life == Life::Open && queue.bytes + cost <= INBOX_BYTES_MAX;
        if !fits || !self.budget.charge(cost) {
            return;
        }
        queue.bytes += cost;
        queue.datagrams.push_back(Datagram {
            from,
            data: data.into(),
        });
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Notes that the port is known outside, or would be if pods had addresses there.
    pub(crate) fn note_open_outside(&self) {
        self.is_open_outside.store(true, Ordering::Release);
    }

    /// Tells whether the port is known outside.
    pub(crate) fn is_open_outside(&self) -> bool {
        self.is_open_outside.load(Ordering::Acquire)
    }

    /// Remembers that `peer` was admitted to send here, so that it is answered whatever policies say.
    pub(super) fn expect_replies_to(&self, peer: SocketAddr) {
        self.replies.lock().expect(peer, Instant::now());
    }

    /// Tells whether a datagram to `peer` is a reply.
    pub(super) fn is_reply(&self, peer: SocketAddr) -> bool {
        self.replies.lock().is_expected(peer, Instant::now())
    }

    /// Puts a datagram in that came in through a Service, from the address that is shown for it.
    pub(super) fn deliver_of(&self, flow: &Arc<UdpFlow>, data: &[u8], wanted: SocketAddr) {
        let from = self.peers.lock().enter_front(flow, wanted);
        self.budget.count_received(data.len() as u64);
        self.deliver(data, from);
    }

    /// Takes one datagram; with `only`, of that peer, dropping what others sent.
    pub(super) fn try_recv(
        &self,
        buf: &mut [u8],
        only: Option<SocketAddr>,
        view: &View<'_>,
    ) -> io::Result<(usize, SocketAddr)> {
        let only = only.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        let wanted = |from: SocketAddr| only.is_none_or(|peer| peer == from);
        while let Some(datagram) = self.pop()? {
            let from = (view.named)(datagram.from, datagram.data.len());
            if wanted(from) {
                let length = datagram.data.len().min(buf.len());
                buf[..length].copy_from_slice(&datagram.data[..length]);
                return Ok((length, from));
            }
        }
        let mut outward = self.outward.lock();
        let received = outward.try_recv(buf, &self.peers, &wanted, view)?;
        self.budget.count_received(received.0 as u64);
        Ok(received)
    }

    fn pop(&self) -> io::Result<Option<Datagram>> {
        let mut queue = self.queue.lock();
        if queue.life == Life::Closed {
            return Err(NetError::Detached.into());
        }
        let Some(datagram) = queue.datagrams.pop_front() else {
            queue.datagrams = VecDeque::new();
            return Ok(None);
        };
        queue.bytes -= datagram.cost();
        drop(queue);
        self.budget.refund(datagram.cost());
        Ok(Some(datagram))
    }

    /// Becomes ready when something arrived from a pod or the kernel.
    pub(super) fn poll_recv_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.queue.lock();
        if queue.life == Life::Closed || !queue.datagrams.is_empty() {
            return Poll::Ready(Ok(()));
        }
        queue.reader = Some(cx.waker().clone());
        drop(queue);
        self.outward.lock().poll_recv_ready(cx)
    }

    /// Becomes ready when the kernel takes a datagram.
    pub(super) fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outward.lock().poll_send_ready(cx)
    }

    /// Sends to a peer that reached the socket through a publication or a Service; nothing if `to` is
    /// none.
    pub(super) fn try_answer(&self, data: &[u8], to: SocketAddr) -> Option<io::Result<usize>> {
        let mut peers = self.peers.lock();
        match peers.find(to)? {
            Flow::Published { number, real } => {
                drop(peers);
                self.outward.lock().try_answer(data, number, real)
            }
            Flow::Front(id) => {
                let flow = peers.front(id)?;
                drop(peers);
                flow.answer(data);
                Some(Ok(data.len()))
            }
        }
    }

    /// Sends out by a kernel socket of this socket's own. A reader is woken when that was just
    /// bound, since it has a further source now.
    pub(super) fn try_send_out(
        &self,
        data: &[u8],
        to: SocketAddr,
        count: &KernelCount,
    ) -> io::Result<usize> {
        if self.queue.lock().life == Life::Closed {
            return Err(NetError::Detached.into());
        }
        let (sent, fresh) = self.outward.lock().try_send(data, to, count);
        if fresh {
            self.wake_reader();
        }
        sent
    }

    /// Joins a publication: its datagrams arrive here from now on.
    pub(crate) fn join(&self, publication: &Arc<Publication>) {
        let mut outward = self.outward.lock();
        if self.queue.lock().life == Life::Closed {
            return;
        }
        outward.join(publication);
        drop(outward);
        self.wake_reader();
    }

    /// Drops the kernel socket of a publication that ends.
    pub(crate) fn leave(&self, publication: &Arc<Publication>) {
        let socket = self.outward.lock().leave(publication);
        drop(socket);
    }

    /// Ends the socket: whatever waits is dropped, kernel sockets go back or are closed. Returns
    /// the publications that are free for another socket.
    pub(crate) fn close(&self) -> Vec<Arc<Publication>> {
        let mut queue = self.queue.lock();
        queue.life = Life::Closed;
        let dropped = std::mem::take(&mut queue.datagrams);
        queue.bytes = 0;
        let reader = queue.reader.take();
        drop(queue);
        self.budget.refund(dropped.iter().map(Datagram::cost).sum());
        let publications = self.outward.lock().close();
        if let Some(reader) = reader {
            reader.wake();
        }
        publications
    }

    fn wake_reader(&self) {
        let reader = self.queue.lock().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}
