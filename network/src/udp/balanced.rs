//! Which endpoint a UDP socket's datagrams to a Service go to, and whose address the answers show.
//! Pure.
//!
//! UDP knows no connections, so a flow is one while it is used: what a socket sends to a Service goes
//! to the endpoint chosen for the first datagram, until nothing has passed for a while or the endpoint
//! leaves the routes. Answers of the endpoint come from the Service's address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::services::{Endpoint, Routes, ServicePort};

/// Services one socket has flows to; the one used least recently is forgotten for a new one.
pub(super) const SERVICE_FLOWS_MAX: usize = 1_024;

/// How long a flow lasts that was never answered, as in Linux (`nf_conntrack_udp_timeout`).
const UNREPLIED_IDLE_MAX: Duration = Duration::from_secs(30);

/// How long one lasts that was (`nf_conntrack_udp_timeout_stream`).
const REPLIED_IDLE_MAX: Duration = Duration::from_secs(120);

/// The flows of one socket.
#[derive(Debug, Default)]
pub(super) struct ServiceFlows {
    by_service: HashMap<SocketAddr, ServiceFlow>,
    /// Which Service an endpoint answers for. Where one endpoint serves two, the one that was sent to
    /// last: a datagram does not tell.
    by_endpoint: HashMap<SocketAddr, SocketAddr>,
}

/// One flow. Its bytes are added to the endpoint's as they pass.
#[derive(Debug)]
struct ServiceFlow {
    service: Arc<ServicePort>,
    endpoint: Arc<Endpoint>,
    /// The routes that are known to hold the endpoint.
    routes: Arc<Routes>,
    used: Instant,
    answers: Answers,
}

/// Whether a flow was ever answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    None,
    Some,
}

impl ServiceFlows {
    /// Returns the endpoint of the flow to the Service at `to`, if it lasts still, and counts a
    /// datagram of this length for it.
    pub(super) fn follow(
        &mut self,
        to: SocketAddr,
        service: &Arc<ServicePort>,
        length: usize,
        now: Instant,
    ) -> Option<Arc<Endpoint>> {
        let flow = self.by_service.get_mut(&to)?;
        if !Arc::ptr_eq(&flow.service, service) || !flow.lasts(now) {
            self.forget(to);
            return None;
        }
        flow.used = now;
        flow.endpoint.counters().add_received(length as u64);
        let endpoint = Arc::clone(&flow.endpoint);
        self.by_endpoint.insert(endpoint.address(), to);
        Some(endpoint)
    }

    /// Begins a flow with a datagram of this length.
    pub(super) fn begin(
        &mut self,
        to: SocketAddr,
        service: &Arc<ServicePort>,
        endpoint: &Arc<Endpoint>,
        length: usize,
        now: Instant,
    ) {
        self.forget(to);
        if self.by_service.len() >= SERVICE_FLOWS_MAX {
            self.make_room(now);
        }
        let flow = ServiceFlow {
            service: Arc::clone(service),
            endpoint: Arc::clone(endpoint),
            routes: service.routes(),
            used: now,
            answers: Answers::None,
        };
        endpoint.counters().add_received(length as u64);
        self.by_service.insert(to, flow);
        self.by_endpoint.insert(endpoint.address(), to);
    }

    /// Ends the flow to the Service at `to`.
    pub(super) fn forget(&mut self, to: SocketAddr) {
        if let Some(flow) = self.by_service.remove(&to) {
            let endpoint = flow.endpoint.address();
            if self.by_endpoint.get(&endpoint) == Some(&to) {
                self.by_endpoint.remove(&endpoint);
            }
        }
    }

    /// Tells whether answers of an endpoint are those of another Service than the one at `to`.
    pub(super) fn is_taken(&self, endpoint: SocketAddr, to: SocketAddr) -> bool {
        self.by_endpoint
            .get(&endpoint)
            .is_some_and(|other| *other != to)
    }

    /// Takes note of a datagram sent to `to` itself, by no Service: what answers is that address.
    pub(super) fn sent_directly(&mut self, to: SocketAddr) {
        self.by_endpoint.remove(&to);
    }

    /// Returns the address that a datagram of `from` shows, of this length.
    pub(super) fn shown(&mut self, from: SocketAddr, length: usize, now: Instant) -> SocketAddr {
        let Some(to) = self.by_endpoint.get(&from).copied() else {
            return from;
        };
        let Some(flow) = self.by_service.get_mut(&to) else {
            return from;
        };
        if flow.is_idle(now) {
            self.forget(to);
            return from;
        }
        flow.used = now;
        flow.answers = Answers::Some;
        flow.endpoint.counters().add_sent(length as u64);
        to
    }

    fn make_room(&mut self, now: Instant) {
        let idle = |(_, flow): &(&SocketAddr, &ServiceFlow)| flow.is_idle(now);
        let mut over: Vec<_> = self.by_service.iter().filter(idle).map(|f| *f.0).collect();
        if over.is_empty() {
            let all = self.by_service.iter();
            let oldest = all.min_by_key(|(_, flow)| flow.used);
            over.extend(oldest.map(|(to, _)| *to));
        }
        for to in over {
            self.forget(to);
        }
    }
}

impl ServiceFlow {
    /// Tells whether datagrams may go this way still.
    fn lasts(&mut self, now: Instant) -> bool {
        if self.is_idle(now) {
            return false;
        }
        // The routes change seldom, so the search through them is seldom too.
        if self.service.has_routes(&self.routes) {
            return true;
        }
        self.routes = self.service.routes();
        self.routes.serves(self.endpoint.address())
    }

    fn is_idle(&self, now: Instant) -> bool {
        let limit = match self.answers {
            Answers::None => UNREPLIED_IDLE_MAX,
            Answers::Some => REPLIED_IDLE_MAX,
        };
        now.saturating_duration_since(self.used) >= limit
    }
}

#[cfg(test)]
mod tests;
