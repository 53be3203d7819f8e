//! Pods at their own addresses: what each listens on is reached there, and nothing else is.
//!
//! Where there is a gate, a port is an entry of its tables. Elsewhere each port of a pod is a socket of the
//! kernel's own, and a task that watches it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use coracle_network::{Fabric, HeldPort, HostPort, Outside, Protocol};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::Gate;
use super::board::Board;
use super::host_ports::HostPorts;
use crate::edge::counters::count;
use crate::edge::dispatch::Dispatcher;
use crate::edge::doors::{Door, DoorHandle, Kind, TcpDoor};
use crate::edge::limits::Connections;
use crate::edge::sockets::{self, Acceptor, Locality};
use crate::edge::udp::ports::UdpPorts;

/// What the pods' network tells of their ports.
pub(in crate::edge) struct Pods {
    ground: Ground,
    dispatcher: Arc<Dispatcher>,
}

enum Ground {
    Gate(Arc<Gate>, Arc<HostPorts>),
    Sockets {
        board: Arc<Board>,
        tcp: Mutex<HashMap<SocketAddr, DoorHandle>>,
        udp: UdpPorts,
    },
}

/// Pods have addresses outside until this is dropped.
pub(in crate::edge) struct Placed {
    fabric: Fabric,
}

impl Pods {
    /// Serves pods through a gate.
    pub(in crate::edge) fn at_gate(gate: Arc<Gate>, dispatcher: &Arc<Dispatcher>) -> Pods {
        Pods {
            ground: Ground::Gate(Arc::clone(&gate), HostPorts::new(gate)),
            dispatcher: Arc::clone(dispatcher),
        }
    }

    /// Serves pods by a socket for each port.
    pub(in crate::edge) fn by_sockets(
        board: &Arc<Board>,
        dispatcher: &Arc<Dispatcher>,
        flows: &Arc<Connections>,
    ) -> Pods {
        Pods {
            ground: Ground::Sockets {
                board: Arc::clone(board),
                tcp: Mutex::default(),
                udp: UdpPorts::new(board, dispatcher, flows),
            },
            dispatcher: Arc::clone(dispatcher),
        }
    }

    /// Gives the pods of a fabric their addresses.
    pub(in crate::edge) fn place(self, fabric: &Fabric) -> Placed {
        fabric.set_outside(Arc::new(self));
        Placed {
            fabric: fabric.clone(),
        }
    }

    /// Tells whether the ranges of IPv6 are local: a node without an address of it has no route for them.
    fn has_ipv6(&self) -> bool {
        let mut node = self.dispatcher.neighbourhood.node.iter();
        node.any(IpAddr::is_ipv6)
    }

    fn try_open(&self, protocol: Protocol, at: SocketAddr) -> io::Result<()> {
        match (&self.ground, protocol) {
            (Ground::Gate(gate, _), _) => gate.serve(protocol, at),
            (Ground::Sockets { board, tcp, .. }, Protocol::Tcp) => {
                let mut tcp = tcp.lock();
                if let Entry::Vacant(vacant) = tcp.entry(at) {
                    vacant.insert(listen(at, board, &self.dispatcher)?);
                }
                Ok(())
            }
            (Ground::Sockets { udp, .. }, Protocol::Udp) => udp.open(at, at, |_| Ok(())),
        }
    }
}

impl Outside for Pods {
    fn open(&self, protocol: Protocol, at: SocketAddr) {
        if at.is_ipv6() && !self.has_ipv6() {
            return;
        }
        if let Err(error) = self.try_open(protocol, at) {
            count(&self.dispatcher.counters.listen_failures);
            tracing::warn!(%at, ?protocol, %error, "a port of a pod is not reached from outside");
        }
        if let (Ground::Gate(_, host_ports), SocketAddr::V4(at)) = (&self.ground, at) {
            host_ports.opened(protocol, at);
        }
    }

    fn close(&self, protocol: Protocol, at: SocketAddr) {
        if let (Ground::Gate(_, host_ports), SocketAddr::V4(at)) = (&self.ground, at) {
            host_ports.closed(protocol, at);
        }
        match (&self.ground, protocol) {
            (Ground::Gate(gate, _), _) => gate.end(protocol, at),
            (Ground::Sockets { tcp, .. }, Protocol::Tcp) => {
                let closed = tcp.lock().remove(&at);
                drop(closed);
            }
            (Ground::Sockets { udp, .. }, Protocol::Udp) => udp.close_one(at, at),
        }
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        match &self.ground {
            Ground::Gate(gate, _) => {
                let bound = gate.bound(from).ok_or(io::ErrorKind::AddrNotAvailable)?;
                gate.udp.send(from, bound, to, datagram)
            }
            Ground::Sockets { udp, .. } => udp.send(from, from, to, datagram),
        }
    }

    fn publish(&self, port: HostPort) -> Option<io::Result<HeldPort>> {
        match &self.ground {
            Ground::Gate(_, host_ports) => Some(host_ports.publish(port)),
            Ground::Sockets { .. } => None,
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.fabric.clear_outside();
    }
}

fn listen(
    at: SocketAddr,
    board: &Arc<Board>,
    dispatcher: &Arc<Dispatcher>,
) -> io::Result<DoorHandle> {
    let socket = sockets::listen(at, Locality::Routed)?;
    let runtime: &Handle = &dispatcher.runtime;
    // A pod's thread listens; the edge accepts.
    let _runtime = runtime.enter();
    let door = TcpDoor::of_board(Acceptor::new(socket)?, dispatcher, board);
    let (door, handle) = Door::new(Kind::Tcp(door), None);
    runtime.spawn(door);
    Ok(handle)
}
