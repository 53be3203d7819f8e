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
use super::{Origin, REPLIED_IDLE, UNREPLIED_IDLE};
use crate::edge::clock;
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
    pub(super) origin: Origin,
    /// Where the datagrams go.
    pub(super) to: SocketAddr,
    /// How that was chosen, if it was.
    pub(super) balanced: Option<(Arc<ServicePort>, Arc<Endpoint>)>,
}

/// A flow in the table. Dropping it ends it.
pub(super) struct Flow {
    to: SocketAddr,
    balanced: Option<Balanced>,
    way: Way,
    life: Arc<Life>,
    _place: Option<Permit>,
}

/// The choice of a Service.
struct Balanced {
    service: Arc<ServicePort>,
    endpoint: Arc<Endpoint>,
    /// The routes at which the endpoint was last looked up.
    routes: Arc<Routes>,
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
    origin: Origin,
    outlet: Arc<Outlet>,
    endpoint: Option<Arc<Endpoint>>,
    reader: AtomicWaker,
    is_over: AtomicBool,
}

/// When something last went through a flow.
struct Life {
    last: Mutex<Instant>,
    is_replied: AtomicBool,
}

/// Reads the answers of an endpoint elsewhere; ends with whose flow it was when that is over.
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
            origin,
            to,
            balanced,
        } = opened;
        let endpoint = balanced.as_ref().map(|(_, endpoint)| Arc::clone(endpoint));
        let life = Arc::new(Life {
            last: Mutex::new(clock::now()),
            is_replied: AtomicBool::new(false),
        });
        let way = match fabric {
            Some(fabric) => {
                let (outlet, life) = (Arc::clone(outlet), Arc::clone(&life));
                let answer = move |datagram: &[u8]| {
                    life.reply(endpoint.as_deref(), datagram.len());
                    pass_on(&outlet, origin, datagram);
                };
                Way::Inside {
                    fabric: fabric.clone(),
                    flow: UdpFlow::new(origin.client, answer),
                }
            }
            None => Way::Outside(Arc::new(Remote {
                socket: connect(to)?,
                origin,
                outlet: Arc::clone(outlet),
                endpoint,
                reader: AtomicWaker::new(),
                is_over: AtomicBool::new(false),
            })),
        };
        Ok(Flow {
            to,
            balanced: balanced.map(|(service, endpoint)| Balanced {
                routes: service.routes(),
                service,
                endpoint,
            }),
            way,
            life,
            _place: None,
        })
    }

    /// Keeps the flow's place in the count of flows.
    pub(super) fn keep(&mut self, place: Permit) {
        self._place = Some(place);
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
        *self.life.last.lock() = clock::now();
        let sent = match &self.way {
            Way::Inside { fabric, flow } => fabric.send_datagram(self.to, datagram, flow).is_ok(),
            // By the socket itself: tokio's knows that it is writable only after the reactor has
            // looked.
            Way::Outside(remote) => match SockRef::from(&remote.socket).send(datagram) {
                Ok(_) => true,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            },
        };
        if sent && let Some(balanced) = &self.balanced {
            let bytes = datagram.len() as u64;
            let counters = balanced.endpoint.counters();
            counters.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        sent
    }

    /// Tells whether the front still leads to the flow's endpoint; no front, whether a pod's own port
    /// still does, which is not to be known here.
    pub(super) fn serves(&mut self, front: Option<&Front>) -> bool {
        let is_over = self.is_over();
        match (&mut self.balanced, front) {
            _ if is_over => false,
            (None, None) => true,
            (Some(balanced), Some(front)) => balanced.stands(front, self.to),
            (Some(_), None) | (None, Some(_)) => false,
        }
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

impl Balanced {
    /// Tells whether the choice still stands.
    fn stands(&mut self, front: &Front, endpoint: SocketAddr) -> bool {
        if !Arc::ptr_eq(&front.service, &self.service) {
            return false;
        }
        let routes = self.service.routes();
        if !Arc::ptr_eq(&routes, &self.routes) {
            if !routes.serves(endpoint) {
                return false;
            }
            self.routes = routes;
        }
        true
    }
}

impl Life {
    fn reply(&self, endpoint: Option<&Endpoint>, bytes: usize) {
        *self.last.lock() = clock::now();
        self.is_replied.store(true, Ordering::Relaxed);
        let Some(endpoint) = endpoint else {
            return;
        };
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
                .reply(self.remote.endpoint.as_deref(), buffer.filled().len());
            pass_on(&self.remote.outlet, self.remote.origin, buffer.filled());
            Poll::Ready(Ok(()))
        })
    }
}

impl Future for Answers {
    type Output = Origin;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Origin> {
        let remote = &self.remote;
        remote.reader.register(cx.waker());
        for _ in 0..ANSWERS_BURST {
            if remote.is_over.load(Ordering::Acquire) {
                return Poll::Ready(remote.origin);
            }
            if ready!(self.poll_answer(cx)).is_err() {
                remote.is_over.store(true, Ordering::Release);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn pass_on(outlet: &Outlet, origin: Origin, datagram: &[u8]) {
    if let Err(error) = outlet.send(origin, datagram) {
        tracing::debug!(client = %origin.client, %error, "an answer is lost");
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
