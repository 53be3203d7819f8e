//! Ports of the host that stand for ports of pods, where there is a gate: entries of its tables while the
//! pod serves its port, and no sockets.
//!
//! A port is held from when it is published, and refused while the pod does not serve it. Two pods never
//! have the same port, and one on all addresses overlaps every other. A program of this machine that has the
//! port already keeps it, as with a socket of our own; one that comes later is not reached there. A Service
//! that has the port at one address keeps it there, as with kube-proxy.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Weak};

use coracle_network::{HeldPort, HostPort, Protocol};
use parking_lot::Mutex;

use super::Gate;
use crate::edge::counters::count;
use crate::edge::sockets;

/// Which ports of the host stand for which of pods.
pub(super) struct HostPorts {
    gate: Arc<Gate>,
    state: Mutex<State>,
}

type Port = (Protocol, SocketAddrV4);

#[derive(Default)]
struct State {
    /// The ports that pods serve.
    served: HashSet<Port>,
    /// Where they are published, one address in each family or one in all.
    published: HashMap<Port, Vec<SocketAddr>>,
}

/// One that is published until this is dropped.
struct Held {
    /// Gone when nothing is served any more.
    ports: Weak<HostPorts>,
    of: Port,
    at: Vec<SocketAddr>,
}

impl HostPorts {
    pub(super) fn new(gate: Arc<Gate>) -> Arc<HostPorts> {
        Arc::new(HostPorts {
            gate,
            state: Mutex::default(),
        })
    }

    /// A pod serves a port from now on. May be said more than once.
    pub(super) fn opened(&self, protocol: Protocol, pod: SocketAddrV4) {
        let mut state = self.state.lock();
        if state.served.insert((protocol, pod)) {
            let published = state.published.get(&(protocol, pod));
            for at in published.into_iter().flatten() {
                self.serve(protocol, *at);
            }
        }
    }

    /// A pod serves a port no longer.
    pub(super) fn closed(&self, protocol: Protocol, pod: SocketAddrV4) {
        let mut state = self.state.lock();
        if state.served.remove(&(protocol, pod)) {
            let published = state.published.get(&(protocol, pod));
            for at in published.into_iter().flatten() {
                self.gate.end(protocol, *at);
            }
        }
    }

    /// Publishes a port.
    pub(super) fn publish(self: &Arc<Self>, port: HostPort) -> io::Result<HeldPort> {
        let HostPort { protocol, pod, .. } = port;
        let at = self.places(&port);
        if at.is_empty() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if at.iter().any(|at| self.gate.board.is_of_pod(*at)) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        self.probe(&port, &at)?;
        let mut state = self.state.lock();
        if state.overlaps(protocol, &at) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        for (number, place) in at.iter().enumerate() {
            if let Err(error) = self.gate.board.enter_host_port(protocol, *place, pod) {
                let entered = &at[..number];
                entered
                    .iter()
                    .for_each(|at| self.gate.board.remove(protocol, *at));
                return Err(error);
            }
        }
        let of = (protocol, pod);
        state.published.entry(of).or_default().extend(&at);
        if state.served.contains(&of) {
            at.iter().for_each(|at| self.serve(protocol, *at));
        }
        drop(state);
        let ports = Arc::downgrade(self);
        Ok(HeldPort::new(Held { ports, of, at }))
    }

    /// Returns the places of a port: that of its address, or that of all addresses of each family.
    fn places(&self, port: &HostPort) -> Vec<SocketAddr> {
        let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let given = port.ip.into_iter();
        let all = everywhere.into_iter().filter(|_| port.ip.is_none());
        let places = given.chain(all).map(|ip| SocketAddr::new(ip, port.port));
        // The gate may be of one family.
        places.filter(|at| self.gate.bound(*at).is_some()).collect()
    }

    /// Asks the kernel whether somebody has the port at its places. Of one on all addresses, that is asked
    /// of loopback, which whoever has all addresses has too, and of the node's.
    fn probe(&self, port: &HostPort, places: &[SocketAddr]) -> io::Result<()> {
        let loopback = places.iter().map(|at| match at {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
        });
        let all = self.gate.board.node_addresses().iter();
        let all = all.copied().chain(loopback);
        let asked: Vec<IpAddr> = match port.ip {
            Some(ip) => vec![ip],
            None => all.collect(),
        };
        asked
            .into_iter()
            .map(|ip| SocketAddr::new(ip, port.port))
            .try_for_each(|at| sockets::probe(port.protocol, at))
    }

    fn serve(&self, protocol: Protocol, at: SocketAddr) {
        if let Err(error) = self.gate.serve(protocol, at) {
            count(&self.gate.board.counters().listen_failures);
            tracing::warn!(%at, ?protocol, %error, "a port of the host is not served");
        }
    }

    fn end(&self, of: Port, places: &[SocketAddr]) {
        let mut state = self.state.lock();
        let is_served = state.served.contains(&of);
        for at in places {
            if is_served {
                self.gate.end(of.0, *at);
            }
            self.gate.board.remove(of.0, *at);
        }
        if let Some(published) = state.published.get_mut(&of) {
            published.retain(|at| !places.contains(at));
            if published.is_empty() {
                state.published.remove(&of);
            }
        }
    }
}

impl State {
    /// Tells whether one of these is published, or one that is on all addresses, or any if these are.
    fn overlaps(&self, protocol: Protocol, places: &[SocketAddr]) -> bool {
        let of_protocol = self.published.iter().filter(|((of, _), _)| *of == protocol);
        let mut all = of_protocol.flat_map(|(_, published)| published);
        all.any(|other| {
            places.iter().any(|at| {
                let is_everywhere = at.ip().is_unspecified() || other.ip().is_unspecified();
                at.port() == other.port()
                    && at.is_ipv4() == other.is_ipv4()
                    && (is_everywhere || at.ip() == other.ip())
            })
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(ports) = self.ports.upgrade() {
            ports.end(self.of, &self.at);
        }
    }
}
