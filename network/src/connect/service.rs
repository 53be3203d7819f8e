//! Connects a pod to a Service: to an endpoint chosen now, with no proxy between and no second
//! socket.
//!
//! An endpoint that is a place of this fabric is reached in memory, any other through the host like
//! any address outside. The guest's stream has the Service's address as its peer; the server sees its
//! own address and the client's.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Link, Way, source_port, source_slot};
use crate::egress::{Destination, Family};
use crate::error::NetError;
use crate::listener::Queued;
use crate::pod::live::Held;
use crate::pod::{Pod, TcpPort};
use crate::policy::Verdict;
use crate::publish::Protocol;
use crate::services::{Decision, Endpoint};
use crate::stream::memory::End;
use crate::stream::{Addresses, Stream, Transport};

/// For how long a connection whose packets are dropped is tried: Linux sends six more SYNs, after 1,
/// 2, 4, … 32 seconds, and waits 64 for an answer to the last (`tcp_syn_retries`).
const DROPPED_CONNECT_TIMEOUT: Duration = Duration::from_secs(127);

/// How long an endpoint has to take a connection before another one is tried: by then three further
/// SYNs were lost, or a backlog stayed full.
const ENDPOINT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connections to a Service wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the network as a whole.
    total: Duration,
    /// For one endpoint.
    endpoint: Duration,
}

/// What guests get.
pub(super) const PATIENCE: Patience = Patience {
    total: DROPPED_CONNECT_TIMEOUT,
    endpoint: ENDPOINT_CONNECT_TIMEOUT,
};

/// Endpoints tried for one connection. When half of all are dead and not yet known to be, all of
/// these are in one case of 65,536.
const ENDPOINTS_TRIED_MAX: usize = 16;

/// Waits until a connection whose packets are dropped is given up.
pub(super) async fn be_dropped() {
    tokio::time::sleep(DROPPED_CONNECT_TIMEOUT).await;
}

/// Connects to the Service that `decision` was made for.
pub(super) async fn connect(
    pod: &Arc<Pod>,
    from: Option<TcpPort>,
    to: SocketAddr,
    mut decision: Decision,
    begun: Instant,
    patience: Patience,
) -> Result<Stream, NetError> {
    let towards = to.ip().to_canonical();
    let source = pod.address(Family::of(towards));
    let port = source_port(pod, from, source_slot(pod, towards), source)?;
    let mut tried = Vec::new();
    let mut failure = NetError::ConnectionRefused;
    loop {
        let endpoint = match decision {
            Decision::Endpoint(_, endpoint) => endpoint,
            Decision::Drop => {
                tokio::time::sleep(patience.total).await;
                return Err(NetError::TimedOut);
            }
            // The Service itself may go between two tries.
            Decision::Refuse | Decision::NotService => return Err(failure),
        };
        let start = if tried.is_empty() {
            begun
        } else {
            Instant::now()
        };
        match attempt(pod, &port, to, &endpoint, patience).await {
            Ok(link) => {
                endpoint.counters().count(true, start.elapsed());
                return Ok(link.into_stream(to, port));
            }
            Err(error) if !is_of_endpoint(&error) => return Err(error),
            Err(error) => {
                endpoint.counters().count(false, start.elapsed());
                failure = error;
            }
        }
        tried.push(endpoint.address());
        if tried.len() >= ENDPOINTS_TRIED_MAX || begun.elapsed() >= patience.total {
            return Err(failure);
        }
        let (services, now) = (pod.fabric().services(), Instant::now());
        decision = services.decide_again(Protocol::Tcp, to, pod.client(), now, &tried);
    }
}

/// How a connection in memory was balanced, in case its endpoint ends before accepting it.
pub(crate) struct Balanced {
    /// Who connected.
    client: Arc<Pod>,
    /// To what.
    to: SocketAddr,
}

async fn attempt(
    pod: &Arc<Pod>,
    port: &TcpPort,
    to: SocketAddr,
    endpoint: &Arc<Endpoint>,
    patience: Patience,
) -> Result<Link, NetError> {
    let way = Way::to_endpoint(pod, endpoint.address())?;
    let balanced = Balanced {
        client: Arc::clone(pod),
        to,
    };
    let mut following = pin!(way.follow(pod, port, Some((balanced, Arc::clone(endpoint)))));
    // In memory it is usually over at once: no timer for that.
    let at_once = poll_fn(|cx| Poll::Ready(following.as_mut().poll(cx))).await;
    match at_once {
        Poll::Ready(reached) => reached,
        Poll::Pending => tokio::time::timeout(patience.endpoint, following)
            .await
            .unwrap_or(Err(NetError::TimedOut)),
    }
}

impl Balanced {
    /// Gives a connection whose listener ended before it accepted it to another endpoint of the
    /// fabric; resets it if none takes it. What the client has written meanwhile goes along.
    pub(crate) fn dispatch_again(self, stream: Stream) {
        let Some((end, peer)) = stream.into_memory() else {
            return;
        };
        let fabric = Arc::clone(self.client.fabric());
        let (to, client) = (self.to, self.client.client());
        let mut tried: Vec<_> = end
            .endpoint()
            .map(|old| old.address())
            .into_iter()
            .collect();
        let mut waiting = Waiting {
            end,
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            balanced: self,
        };
        while tried.len() < ENDPOINTS_TRIED_MAX {
            let (services, now) = (fabric.services(), Instant::now());
            let decision = services.decide_again(Protocol::Tcp, to, client, now, &tried);
            let Decision::Endpoint(_, endpoint) = decision else {
                break;
            };
            waiting = match waiting.offer_to(&endpoint) {
                Ok(()) => return endpoint.counters().count(true, Duration::ZERO),
                Err(waiting) => waiting,
            };
            tried.push(endpoint.address());
        }
        waiting.end.reset();
    }
}

/// A connection that nobody has accepted, between two listeners.
struct Waiting {
    end: End,
    peer: SocketAddr,
    balanced: Balanced,
}

impl Waiting {
    /// Puts the connection into the backlog of an endpoint in memory, if it has a place.
    fn offer_to(self, endpoint: &Arc<Endpoint>) -> Result<(), Waiting> {
        let at = endpoint.address();
        let way = Way::to_endpoint(&self.balanced.client, at);
        let way = way
            .ok()
            .filter(|way| way.judge(&self.balanced.client) == Verdict::Admit);
        let Some(Way::Within { target, slot, .. }) = way else {
            return Err(self);
        };
        let held = Held::memory(self.end.connection());
        let (Some(backlog), Ok(membership)) =
            (target.listening(slot, at.port()), target.enter(held))
        else {
            return Err(self);
        };
        let accepted = Addresses {
            local: at,
            peer: self.peer,
        };
        let seen = accepted.seen_by(backlog.local());
        let queued = |waiting: Waiting| {
            waiting.end.move_to(endpoint, target.budget());
            let transport = Transport::Memory(waiting.end);
            Queued::Memory {
                stream: Stream::new(transport, seen, Some(membership), None),
                balanced: Some(waiting.balanced),
            }
        };
        backlog.offer(self, queued).map_err(|(waiting, _)| waiting)
    }
}

impl Way {
    /// Tells where an endpoint is. Whoever writes endpoints must not lead a pod to what a connection
    /// of its own would not reach: its loopback, the ports we publish, a Service.
    fn to_endpoint(pod: &Arc<Pod>, endpoint: SocketAddr) -> Result<Way, NetError> {
        let fabric = pod.fabric();
        let within = |ip, family| {
            let way = Way::to_pod(pod, ip, family, endpoint);
            // A pod that is gone refuses, as far as a client of the Service can tell.
            way.map_err(|_| NetError::ConnectionRefused)
        };
        match fabric.territory().judge(endpoint.ip())? {
            Destination::OwnLoopback4 | Destination::OwnLoopback6 => Err(NetError::AccessDenied),
            Destination::Node(family) => within(fabric.territory().node, family),
            Destination::Pod(ip, family) => within(ip, family),
            Destination::Outside(ip) if fabric.services().is_owned(ip) => {
                Err(NetError::AccessDenied)
            }
            Destination::Outside(_) => Ok(Way::Outwards(endpoint)),
        }
    }
}

/// Tells whether a failure says something about the endpoint, so that another one may do better.
fn is_of_endpoint(error: &NetError) -> bool {
    match error {
        NetError::ConnectionRefused
        | NetError::ConnectionReset
        | NetError::ConnectionAborted
        | NetError::Unreachable
        | NetError::AccessDenied
        | NetError::TimedOut
        | NetError::Io(_) => true,
        NetError::AddressInUse
        | NetError::AddressNotAvailable
        | NetError::NameNotFound
        | NetError::ResolverUnavailable
        | NetError::InvalidArgument
        | NetError::DatagramTooLarge
        | NetError::NotSupported
        | NetError::Detached
        | NetError::Limit(_) => false,
    }
}

#[cfg(test)]
mod tests;
