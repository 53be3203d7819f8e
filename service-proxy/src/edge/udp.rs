//! The UDP side of a published port: a socket for the port, and a table of flows.
//!
//! A flow is one client's address and port, and the address that it sends to where a socket serves
//! several. Its first datagram chooses the endpoint; the next ones go
//! there too, and answers leave by the port's socket, so that the client sees them come from the
//! Service. A flow to a pod of this node is an entry in memory; one to an endpoint elsewhere has a
//! connected socket. A flow ends when it was silent for long, when its endpoint is gone, or when the
//! endpoint says that nothing listens; what comes next begins a new one.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use coracle_network::{Decision, Fabric, Front, Protocol};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use socket2::Socket;
use tokio::time::Sleep;

use super::clock;
use super::counters::count;
use super::dispatch::Dispatcher;
use super::gate::board::{Board, Found};
use super::limits::{Connections, Permit};
use super::sockets;

mod batch;
mod flow;
pub(super) mod ports;

use batch::Outlet;
use flow::{Answers, Flow, Opened};

/// A flow that nobody answered ends after so long, as in the kernel's connection tracking.
pub(super) const UNREPLIED_IDLE: Duration = Duration::from_secs(30);

/// One that was answered ends after so long.
pub(super) const REPLIED_IDLE: Duration = Duration::from_secs(120);

/// How often flows are looked through while there are any.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Batches received from one socket before others get their turn.
const TURN_BATCHES: usize = 16;

/// Endpoints tried for the first datagram of a flow.
const TRIES_MAX: usize = 3;

/// A published UDP port.
pub(super) struct Datagrams {
    outlet: Arc<Outlet>,
    dispatcher: Arc<Dispatcher>,
    /// Bounds the flows of all ports together.
    places: Arc<Connections>,
    serves: Serves,
    flows: HashMap<Origin, Flow>,
    /// What reads the answers of endpoints elsewhere.
    answers: FuturesUnordered<Answers>,
    sweep: Option<Pin<Box<Sleep>>>,
}

/// Where a datagram comes from, and what it was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Origin {
    client: SocketAddr,
    /// Nothing where the socket is bound to it.
    at: Option<IpAddr>,
}

/// What the datagrams of a socket are for.
enum Serves {
    /// A front, at the socket's address.
    Front(Arc<ArcSwap<Front>>),
    /// Whatever the address leads to that they were sent to, with this port.
    Board { board: Arc<Board>, port: u16 },
}

/// Where datagrams of an origin go.
enum Lead {
    Front(Arc<Front>),
    Pod(Fabric, SocketAddr),
    Nowhere,
}

impl Datagrams {
    /// Takes a bound socket over. Needs a tokio runtime.
    pub(super) fn new(
        socket: Socket,
        dispatcher: &Arc<Dispatcher>,
        places: &Arc<Connections>,
        front: Arc<ArcSwap<Front>>,
    ) -> io::Result<Datagrams> {
        Datagrams::start(socket, dispatcher, places, Serves::Front(front))
    }

    /// Takes a socket over that serves all that is on a board, at the port it is bound to. Needs a tokio
    /// runtime.
    fn of_board(
        socket: Socket,
        dispatcher: &Arc<Dispatcher>,
        places: &Arc<Connections>,
        board: &Arc<Board>,
    ) -> io::Result<Datagrams> {
        let serves = Serves::Board {
            board: Arc::clone(board),
            port: sockets::bound_to(&socket)?.port(),
        };
        Datagrams::start(socket, dispatcher, places, serves)
    }

    fn start(
        socket: Socket,
        dispatcher: &Arc<Dispatcher>,
        places: &Arc<Connections>,
        serves: Serves,
    ) -> io::Result<Datagrams> {
        Ok(Datagrams {
            outlet: Arc::new(Outlet::new(socket)?),
            dispatcher: Arc::clone(dispatcher),
            places: Arc::clone(places),
            serves,
            flows: HashMap::new(),
            answers: FuturesUnordered::new(),
            sweep: None,
        })
    }

    /// Moves datagrams in both directions, as long as there are any.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        // Pending always: how it came to be does not matter to the caller.
        let _: Poll<()> = self.poll_receive(cx);
        // After receiving, which begins flows whose answers are waited for from here on.
        while let Poll::Ready(Some(origin)) = self.answers.poll_next_unpin(cx) {
            // Its endpoint said that nothing listens, unless the flow was ended here before.
            if self.flows.get(&origin).is_some_and(Flow::is_over) {
                self.flows.remove(&origin);
            }
        }
        self.poll_sweep(cx);
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURN_BATCHES {
            let outlet = Arc::clone(&self.outlet);
            let received = outlet.poll_receive(cx, |origin, datagram| {
                self.forward(origin, datagram);
            });
            if let Err(error) = ready!(received) {
                // What the kernel reports here was said about an answer sent before.
                tracing::debug!(%error, "failed to receive datagrams");
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn forward(&mut self, origin: Origin, datagram: &[u8]) {
        let (origin, lead) = self.serves.lead(origin);
        if let Some(flow) = self.flows.get_mut(&origin) {
            if flow.serves(lead.front()) && flow.send(datagram) {
                return;
            }
            self.flows.remove(&origin);
        }
        let begun = match &lead {
            Lead::Front(front) => self.begin(origin, datagram, front),
            Lead::Pod(fabric, to) => self.begin_to_pod(origin, datagram, fabric, *to),
            // It was taken off the board after the kernel had looked.
            Lead::Nowhere => false,
        };
        if !begun {
            count(&self.dispatcher.counters.udp_lost);
        }
    }

    /// Begins a flow with its first datagram; false when that is lost.
    fn begin(&mut self, origin: Origin, datagram: &[u8], front: &Arc<Front>) -> bool {
        let client = origin.client.ip();
        let Ok(place) = self.places.enter(client) else {
            return false;
        };
        let who = self.dispatcher.neighbourhood.client(client);
        let mut tried = Vec::new();
        while tried.len() < TRIES_MAX {
            let Decision::Endpoint(service, endpoint) = front.decide(who, clock::now(), &tried)
            else {
                return false;
            };
            let start = clock::now();
            let to = endpoint.address();
            let opened = Opened {
                origin,
                to,
                balanced: Some((service, Arc::clone(&endpoint))),
            };
            let inside = self.dispatcher.inside(to);
            let flow = Flow::open(opened, inside, &self.outlet)
                .ok()
                .filter(|flow| flow.send(datagram));
            endpoint.counters().count(flow.is_some(), start.elapsed());
            if let Some(flow) = flow {
                self.keep(origin, flow, place);
                return true;
            }
            tried.push(to);
        }
        false
    }

    /// Begins a flow to a pod's own port; false when nobody has bound that.
    fn begin_to_pod(
        &mut self,
        origin: Origin,
        datagram: &[u8],
        fabric: &Fabric,
        to: SocketAddr,
    ) -> bool {
        let Ok(place) = self.places.enter(origin.client.ip()) else {
            return false;
        };
        let opened = Opened {
            origin,
            to,
            balanced: None,
        };
        let flow = Flow::open(opened, Some(fabric), &self.outlet);
        match flow.ok().filter(|flow| flow.send(datagram)) {
            Some(flow) => self.keep(origin, flow, place),
            None => return false,
        }
        true
    }

    fn keep(&mut self, origin: Origin, mut flow: Flow, place: Permit) {
        count(&self.dispatcher.counters.udp_flows);
        flow.keep(place);
        self.answers.extend(flow.answers());
        self.flows.insert(origin, flow);
    }

    fn poll_sweep(&mut self, cx: &mut Context<'_>) {
        loop {
            if self.flows.is_empty() {
                self.sweep = None;
                return;
            }
            let sweep = self
                .sweep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(SWEEP_INTERVAL)));
            if sweep.as_mut().poll(cx).is_pending() {
                return;
            }
            self.sweep = None;
            self.flush();
        }
    }

    /// Ends flows that were silent for long or whose endpoint is gone.
    pub(super) fn flush(&mut self) {
        let now = clock::now();
        let serves = &self.serves;
        self.flows.retain(|origin, flow| {
            let (_, lead) = serves.lead(*origin);
            !matches!(lead, Lead::Nowhere) && flow.serves(lead.front()) && !flow.is_idle(now)
        });
    }

    /// Returns what sends to clients.
    fn outlet(&self) -> Arc<Outlet> {
        Arc::clone(&self.outlet)
    }
}

impl Serves {
    /// Tells where datagrams of an origin go, and by which origin their flow is known.
    fn lead(&self, origin: Origin) -> (Origin, Lead) {
        match self {
            Serves::Front(front) => {
                let origin = Origin { at: None, ..origin };
                (origin, Lead::Front(front.load_full()))
            }
            Serves::Board { board, port } => {
                let at = origin.at.map(|ip| SocketAddr::new(ip, *port));
                let lead = match at.map(|at| (at, board.find(Protocol::Udp, at))) {
                    Some((_, Some(Found::Front(front, _)))) => Lead::Front(front.load_full()),
                    Some((_, Some(Found::Pod(fabric, pod)))) => Lead::Pod(fabric, pod),
                    Some((_, None)) | None => Lead::Nowhere,
                };
                (origin, lead)
            }
        }
    }
}

impl Lead {
    fn front(&self) -> Option<&Front> {
        match self {
            Lead::Front(front) => Some(front),
            Lead::Pod(..) | Lead::Nowhere => None,
        }
    }
}
