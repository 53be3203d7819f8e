//! One flow: a client, its endpoint, and the way there.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use coracle_network::{Endpoint, Fabric, Front, Routes, ServicePort, UdpFlow};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use super::batch::Outlet;
use super::{REPLIED_IDLE, UNREPLIED_IDLE};
use crate::edge::limits::Permit;

/// Answers read from one endpoint before others get their turn.
const ANSWERS_BURST: usize = 64;

/// The most bytes of one datagram.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice());
}

/// Who begins a flow, and with whom.
pub(super) struct Opened {
    pub(super) client: SocketAddr,
    pub(super) service: Arc<ServicePort>,
    pub(super) endpoint: Arc<Endpoint>,
}

/// A flow in the table. Dropping it ends it.
pub(super) struct Flow {
    service: Arc<ServicePort>,
    endpoint: Arc<Endpoint>,
    /// The routes at which the endpoint was last looked up.
    routes: Arc<Routes>,
    way: Way,
    life: Arc<Life>,
    _place: Option<Permit>,
}

/// How an endpoint is reached.
enum Way {
    /// In the fabric.
    Inside { fabric: Fabric, flow: Arc<UdpFlow> },
    /// Through a connected socket.
    Outside(Arc<Remote>),
}

/// The socket of a flow to an endpoint elsewhere.
struct Remote {
    socket: UdpSocket,
    client: SocketAddr,
    outlet: Arc<Outlet>,
    endpoint: Arc<Endpoint>,
    reader: AtomicWaker,
    is_over: AtomicBool,
}

/// When something last went through a flow.
struct Life {
    last: Mutex<Instant>,
    is_replied: AtomicBool,
}

/// Reads the answers of an endpoint elsewhere; ends with the client's address when the flow is over.
pub(super) struct Answers {
    remote: Arc<Remote>,
    life: Arc<Life>,
}

impl Flow {
    /// Opens the way to an endpoint: in `fabric` if it lies there, else by a socket of its own.
    pub(super) fn open(
        opened: Opened,
        fabric: Option<&Fabric>,
        outlet: &Arc<Outlet>,
    ) -> io::Result<Flow> {
        let Opened {
            client,
            service,
            endpoint,
        } = opened;
        let life = Arc::new(Life {
            last: Mutex::new(Instant::now()),
            is_replied: AtomicBool::new(false),
        });
        let way = match fabric {
            Some(fabric) => {
                let (outlet, life) = (Arc::clone(outlet), Arc::clone(&life));
                let counted = Arc::clone(&endpoint);
                let answer = move |datagram: &[u8]| {
                    life.reply(&counted, datagram.len());
                    pass_on(&outlet, client, datagram);
                };
                Way::Inside {
                    fabric: fabric.clone(),
                    flow: UdpFlow::new(client, answer),
                }
            }
            None => Way::Outside(Arc::new(Remote {
                socket: connect(endpoint.address())?,
                client,
                outlet: Arc::clone(outlet),
                endpoint: Arc::clone(&endpoint),
                reader: AtomicWaker::new(),
                is_over: AtomicBool::new(false),
            })),
        };
        Ok(Flow {
            routes: service.routes(),
            service,
            endpoint,
            way,
            life,
            _place: None,
        })
    }

    /// Keeps the flow's place in the count of flows.
    pub(super) fn keep(&mut self, place: Option<Permit>) {
        self._place = place;
    }

    /// Returns what reads the answers, where that is to be done.
    pub(super) fn answers(&self) -> Option<Answers> {
        match &self.way {
            Way::Inside { .. } => None,
            Way::Outside(remote) => Some(Answers {
                remote: Arc::clone(remote),
                life: Arc::clone(&self.life),
            }),
        }
    }

    /// Sends a datagram to the endpoint; false when nothing listens there.
    pub(super) fn send(&self, datagram: &[u8]) -> bool {
        *self.life.last.lock() = Instant::now();
        let sent = match &self.way {
            Way::Inside { fabric, flow } => fabric
                .send_datagram(self.endpoint.address(), datagram, flow)
                .is_ok(),
            // By the socket itself: tokio's knows that it is writable only after the reactor has
            // looked.
            Way::Outside(remote) => match SockRef::from(&remote.socket).send(datagram) {
                Ok(_) => true,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            },
        };
        if sent {
            let bytes = datagram.len() as u64;
            let counters = self.endpoint.counters();
            counters.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        sent
    }

    /// Tells whether the front still leads to the flow's endpoint.
    pub(super) fn serves(&mut self, front: &Front) -> bool {
        if self.is_over() || !Arc::ptr_eq(&front.service, &self.service) {
            return false;
        }
        let routes = self.service.routes();
        if !Arc::ptr_eq(&routes, &self.routes) {
            if !routes.serves(self.endpoint.address()) {
                return false;
            }
            self.routes = routes;
        }
        true
    }

    /// Tells whether it has been silent for too long.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let idle = now.saturating_duration_since(*self.life.last.lock());
        idle >= match self.life.is_replied.load(Ordering::Relaxed) {
            true => REPLIED_IDLE,
            false => UNREPLIED_IDLE,
        }
    }

    /// Tells whether the endpoint said that nothing listens.
    pub(super) fn is_over(&self) -> bool {
        match &self.way {
            Way::Inside { .. } => false,
            Way::Outside(remote) => remote.is_over.load(Ordering::Acquire),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if let Way::Outside(remote) = &self.way {
            remote.is_over.store(true, Ordering::Release);
            remote.reader.wake();
        }
    }
}

impl Life {
    fn reply(&self, endpoint: &Endpoint, bytes: usize) {
        *self.last.lock() = Instant::now();
        self.is_replied.store(true, Ordering::Relaxed);
        let counters = endpoint.counters();
        counters
            .sent_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Answers {
    fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(self.remote.socket.poll_recv(cx, &mut buffer))?;
            self.life
                .reply(&self.remote.endpoint, buffer.filled().len());
            pass_on(&self.remote.outlet, self.remote.client, buffer.filled());
            Poll::Ready(Ok(()))
        })
    }
}

impl Future for Answers {
    type Output = SocketAddr;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SocketAddr> {
        let remote = &self.remote;
        remote.reader.register(cx.waker());
        for _ in 0..ANSWERS_BURST {
            if remote.is_over.load(Ordering::Acquire) {
                return Poll::Ready(remote.client);
            }
            if ready!(self.poll_answer(cx)).is_err() {
                remote.is_over.store(true, Ordering::Release);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn pass_on(outlet: &Outlet, client: SocketAddr, datagram: &[u8]) {
    if let Err(error) = outlet.send(client, datagram) {
        tracing::debug!(%client, %error, "an answer is lost");
    }
}

fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
