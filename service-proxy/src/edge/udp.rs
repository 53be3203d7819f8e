//! The UDP side of a published port: a socket for the port, and a table of flows.
//!
//! A flow is one client's address and port. Its first datagram chooses the endpoint; the next ones go
//! there too, and answers leave by the port's socket, so that the client sees them come from the
//! Service. A flow to a pod of this node is an entry in memory; one to an endpoint elsewhere has a
//! connected socket. A flow ends when it was silent for long, when its endpoint is gone, or when the
//! endpoint says that nothing listens; what comes next begins a new one.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use coracle_network::{Decision, Front};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use socket2::Socket;
use tokio::time::Sleep;

use super::counters::count;
use super::dispatch::Dispatcher;
use super::limits::Connections;

mod batch;
mod flow;

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
    front: Arc<ArcSwap<Front>>,
    flows: HashMap<SocketAddr, Flow>,
    /// What reads the answers of endpoints elsewhere.
    answers: FuturesUnordered<Answers>,
    sweep: Option<Pin<Box<Sleep>>>,
}

impl Datagrams {
    /// Takes a bound socket over. Needs a tokio runtime.
    pub(super) fn new(
        socket: Socket,
        dispatcher: &Arc<Dispatcher>,
        places: &Arc<Connections>,
        front: Arc<ArcSwap<Front>>,
    ) -> io::Result<Datagrams> {
        Ok(Datagrams {
            outlet: Arc::new(Outlet::new(socket)?),
            dispatcher: Arc::clone(dispatcher),
            places: Arc::clone(places),
            front,
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
        while let Poll::Ready(Some(client)) = self.answers.poll_next_unpin(cx) {
            // Its endpoint said that nothing listens, unless the flow was ended here before.
            if self.flows.get(&client).is_some_and(Flow::is_over) {
                self.flows.remove(&client);
            }
        }
        self.poll_sweep(cx);
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURN_BATCHES {
            let outlet = Arc::clone(&self.outlet);
            let received = outlet.poll_receive(cx, |client, datagram| {
                self.forward(client, datagram);
            });
            if let Err(error) = ready!(received) {
                // What the kernel reports here was said about an answer sent before.
                tracing::debug!(%error, "failed to receive datagrams");
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn forward(&mut self, client: SocketAddr, datagram: &[u8]) {
        let front = self.front.load_full();
        if let Some(flow) = self.flows.get_mut(&client) {
            if flow.serves(&front) && flow.send(datagram) {
                return;
            }
            self.flows.remove(&client);
        }
        if !self.begin(client, datagram, &front) {
            count(&self.dispatcher.counters.udp_lost);
        }
    }

    /// Begins a flow with its first datagram; false when that is lost.
    fn begin(&mut self, client: SocketAddr, datagram: &[u8], front: &Arc<Front>) -> bool {
        let Ok(place) = self.places.enter(client.ip()) else {
            return false;
        };
        let who = self.dispatcher.neighbourhood.client(client.ip());
        let mut place = Some(place);
        let mut tried = Vec::new();
        while tried.len() < TRIES_MAX {
            let Decision::Endpoint(service, endpoint) = front.decide(who, Instant::now(), &tried)
            else {
                return false;
            };
            let start = Instant::now();
            let address = endpoint.address();
            let opened = Opened {
                client,
                service,
                endpoint: Arc::clone(&endpoint),
            };
            let inside = self.dispatcher.inside(address);
            let flow = Flow::open(opened, inside, &self.outlet)
                .ok()
                .filter(|flow| flow.send(datagram));
            endpoint.counters().count(flow.is_some(), start.elapsed());
            if let Some(mut flow) = flow {
                count(&self.dispatcher.counters.udp_flows);
                flow.keep(place.take());
                self.answers.extend(flow.answers());
                self.flows.insert(client, flow);
                return true;
            }
            tried.push(address);
        }
        false
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
        let front = self.front.load_full();
        let now = Instant::now();
        self.flows
            .retain(|_, flow| flow.serves(&front) && !flow.is_idle(now));
    }
}
