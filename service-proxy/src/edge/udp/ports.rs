//! UDP sockets that serve many addresses at once, one for each port and family, or one for each pod's
//! port where the kernel keeps no table.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::Socket;

use super::batch::Outlet;
use super::{Datagrams, Origin};
use crate::edge::dispatch::Dispatcher;
use crate::edge::doors::{Door, DoorHandle, Kind};
use crate::edge::gate::board::Board;
use crate::edge::limits::Connections;
use crate::edge::sockets::{self, Locality};

/// The sockets by where they are bound.
pub(in crate::edge) struct UdpPorts {
    board: Arc<Board>,
    dispatcher: Arc<Dispatcher>,
    flows: Arc<Connections>,
    ports: Mutex<HashMap<SocketAddr, UdpPort>>,
}

struct UdpPort {
    outlet: Arc<Outlet>,
    door: DoorHandle,
    /// The addresses that it serves: with the last one it is closed.
    serves: HashSet<SocketAddr>,
}

impl UdpPorts {
    /// Returns none; what comes for them goes where the board says.
    pub(in crate::edge) fn new(
        board: &Arc<Board>,
        dispatcher: &Arc<Dispatcher>,
        flows: &Arc<Connections>,
    ) -> UdpPorts {
        UdpPorts {
            board: Arc::clone(board),
            dispatcher: Arc::clone(dispatcher),
            flows: Arc::clone(flows),
            ports: Mutex::default(),
        }
    }

    /// Serves an address and port by the socket that is bound at `bound`, which is bound and given to
    /// `enter` if there is none yet.
    pub(in crate::edge) fn open(
        &self,
        at: SocketAddr,
        bound: SocketAddr,
        enter: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut ports = self.ports.lock();
        if let Some(port) = ports.get_mut(&bound) {
            port.serves.insert(at);
            return Ok(());
        }
        let socket = sockets::bind_udp(bound, Locality::Routed)?;
        enter(&socket)?;
        let runtime = &self.dispatcher.runtime;
        // A pod's thread binds; the edge receives.
        let _runtime = runtime.enter();
        let datagrams = Datagrams::of_board(socket, &self.dispatcher, &self.flows, &self.board)?;
        let outlet = datagrams.outlet();
        let (door, handle) = Door::new(Kind::Udp(Box::new(datagrams)), None);
        runtime.spawn(door);
        let port = UdpPort {
            outlet,
            door: handle,
            serves: HashSet::from([at]),
        };
        ports.insert(bound, port);
        Ok(())
    }

    /// Serves an address and port no longer.
    pub(in crate::edge) fn close_one(&self, at: SocketAddr, bound: SocketAddr) {
        let mut ports = self.ports.lock();
        let Some(port) = ports.get_mut(&bound) else {
            return;
        };
        port.serves.remove(&at);
        let closed = match port.serves.is_empty() {
            true => ports.remove(&bound),
            false => None,
        };
        drop(ports);
        drop(closed);
    }

    /// Has the flows of a socket looked through.
    pub(in crate::edge) fn look_again(&self, bound: SocketAddr) {
        if let Some(port) = self.ports.lock().get(&bound) {
            port.door.look_again();
        }
    }

    /// Sends a datagram from an address and port that is served. Never waits.
    pub(in crate::edge) fn send(
        &self,
        from: SocketAddr,
        bound: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
    ) -> io::Result<()> {
        let ports = self.ports.lock();
        let port = ports.get(&bound).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let outlet = Arc::clone(&port.outlet);
        drop(ports);
        let origin = Origin {
            client: to,
            at: Some(from.ip()),
        };
        outlet.send(origin, datagram)
    }

    /// Closes all sockets.
    pub(in crate::edge) async fn close(&self) {
        let ports = std::mem::take(&mut *self.ports.lock());
        for (_, port) in ports {
            port.door.close().await;
        }
    }
}
