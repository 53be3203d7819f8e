//! Sends datagrams of a pod to a Service: to the endpoint of the flow, or to one chosen now.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Sent, UdpSocket};
use crate::egress::Destination;
use crate::error::NetError;
use crate::publish::Protocol;
use crate::services::{Decision, Endpoint, Front};

/// Endpoints tried for one datagram before it is taken that there is none.
const ENDPOINTS_TRIED_MAX: usize = 16;

/// Endpoints looked at to find one whose answers are not taken for those of another Service.
const UNTAKEN_DRAWS_MAX: usize = 4;

impl UdpSocket {
    /// Tells whether an address is a Service's to this socket.
    pub(super) fn is_of_service(&self, to: SocketAddr) -> bool {
        let fabric = self.pod.fabric();
        let fronts = fabric.services().current();
        fabric.territory().may_be_service(to.ip())
            && (fronts.find(Protocol::Udp, to).is_some() || fronts.is_owned(to.ip()))
    }

    /// Sends to the Service at `to`, nothing if there is none.
    pub(super) fn send_balanced(&self, data: &[u8], to: SocketAddr) -> Option<io::Result<Sent>> {
        let fronts = self.pod.fabric().services().current();
        match fronts.find(Protocol::Udp, to) {
            Some(front) => Some(self.send_to_front(data, to, front)),
            None if fronts.is_owned(to.ip()) => Some(Ok(Sent::Nobody)),
            None => None,
        }
    }

    fn send_to_front(&self, data: &[u8], to: SocketAddr, front: &Front) -> io::Result<Sent> {
        let now = Instant::now();
        let known = self
            .services
            .lock()
            .follow(to, &front.service, data.len(), now);
        let mut tried = Vec::new();
        if let Some(endpoint) = known {
            if let Some(result) = self.try_endpoint(data, to, &endpoint) {
                return result;
            }
            tried.push(endpoint.address());
        }
        while tried.len() < ENDPOINTS_TRIED_MAX {
            let (service, endpoint) = match self.choose(to, front, now, &tried) {
                Decision::Endpoint(service, endpoint) => (service, endpoint),
                Decision::Drop => return Ok(Sent::Taken),
                Decision::Refuse | Decision::NotService => break,
            };
            // Before it is sent: the answer may be read at once on another thread.
            self.services
                .lock()
                .begin(to, &service, &endpoint, data.len(), now);
            if let Some(result) = self.try_endpoint(data, to, &endpoint) {
                endpoint.counters().count(true, Duration::ZERO);
                return result;
            }
            endpoint.counters().count(false, Duration::ZERO);
            tried.push(endpoint.address());
        }
        Ok(Sent::Nobody)
    }

    /// Sends to the endpoint of a flow; nothing, and the flow has ended, if it does not take it.
    fn try_endpoint(
        &self,
        data: &[u8],
        to: SocketAddr,
        endpoint: &Arc<Endpoint>,
    ) -> Option<io::Result<Sent>> {
        match self.send_to_endpoint(data, endpoint.address()) {
            Ok(Sent::Nobody) => {}
            Err(error) if is_of_endpoint(&error) => {}
            result => return Some(result),
        }
        self.services.lock().forget(to);
        None
    }

    /// Chooses the endpoint of a new flow. One that answers this socket for another Service is taken
    /// only if there is no other: its answers could not be told apart.
    fn choose(
        &self,
        to: SocketAddr,
        front: &Front,
        now: Instant,
        tried: &[SocketAddr],
    ) -> Decision {
        let client = self.pod.client();
        let first = front.decide(client, now, tried);
        let is_taken = |endpoint: &Arc<Endpoint>| {
            let flows = self.services.lock();
            flows.is_taken(endpoint.address(), to)
        };
        let mut taken = match &first {
            // Affinity names the one endpoint there is to take.
            Decision::Endpoint(service, endpoint)
                if is_taken(endpoint) && service.affinity().is_none() =>
            {
                [tried, &[endpoint.address()]].concat()
            }
            _ => return first,
        };
        for _ in 1..UNTAKEN_DRAWS_MAX {
            match front.decide(client, now, &taken) {
                Decision::Endpoint(_, endpoint) if is_taken(&endpoint) => {
                    taken.push(endpoint.address());
                }
                Decision::Endpoint(service, endpoint) => {
                    return Decision::Endpoint(service, endpoint);
                }
                Decision::Refuse | Decision::Drop | Decision::NotService => break,
            }
        }
        first
    }

    fn send_to_endpoint(&self, data: &[u8], endpoint: SocketAddr) -> io::Result<Sent> {
        let fabric = self.pod.fabric();
        let destination = fabric.territory().judge(endpoint.ip())?;
        match destination {
            // Whoever writes endpoints must not lead a pod to what it would not reach itself.
            Destination::OwnLoopback4 | Destination::OwnLoopback6 => {
                Err(NetError::AccessDenied.into())
            }
            Destination::Outside(ip) if fabric.services().is_owned(ip) => {
                Err(NetError::AccessDenied.into())
            }
            Destination::Node(_) | Destination::Pod(..) | Destination::Outside(_) => {
                self.send_by(data, &destination, endpoint)
            }
        }
    }
}

/// Tells whether a failure says something about the endpoint, so that another one may do better.
fn is_of_endpoint(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::ConnectionRefused
    )
}
