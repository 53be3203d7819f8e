//! Serves the names of the cluster over DNS: to guests with a resolver of their own, at the node's
//! address in the fabric, and by flag to the machine.
//!
//! What the zone of the fabric knows is answered from there; all other questions are forwarded to
//! whoever answers names for the fabric upstream. Long-running tasks:
//! * one for each socket: input: requests; output: answers, or a task for each question that is
//!   forwarded (bounded, for each client too);
//! * one for each stream (bounded in the same way).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use coracle_network::{Fabric, Listener, NetError};
use tokio::net::{TcpListener, UdpSocket};

mod client;
mod forward;
mod places;
pub(crate) mod request;
pub(crate) mod resolv_conf;
mod road;
mod serve;
pub(crate) mod wire;

use client::DnsClient;
use forward::Forwarder;
use serve::Service;

/// The port in the fabric.
const PORT: u16 = 53;

/// Streams that wait to be accepted in the fabric.
const BACKLOG: usize = 128;

/// Ports tried where any would do, until one is free for both transports.
const ANY_PORT_TRIES: usize = 16;

/// What is served.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Whose names.
    pub fabric: Fabric,
    /// An address of the machine to answer at as well; port 0 takes a free one.
    pub listen: Option<SocketAddr>,
}

/// A server of names.
pub struct DnsServer {
    service: Arc<Service>,
    listening: Option<SocketAddr>,
}

/// Why names are not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// The address of the machine cannot be had.
    #[error("failed to listen for DNS at `{address}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The port in the fabric cannot be had.
    #[error("failed to listen for DNS on port {PORT} of the node in the fabric")]
    Fabric(#[source] NetError),
}

impl DnsServer {
    /// Starts to serve. The fabric's pods also ask name servers of their own by the client that comes
    /// with it.
    pub async fn start(config: DnsConfig) -> Result<DnsServer, DnsError> {
        let DnsConfig { fabric, listen } = config;
        let outside = match listen {
            Some(address) => Some(listen_at(address).await?),
            None => None,
        };
        let listening = outside.as_ref().map(|(address, ..)| *address);
        let inside = fabric.node_ips().into_iter();
        let inside = inside.map(|ip| listen_inside(&fabric, SocketAddr::new(ip, PORT)));
        let inside = inside.collect::<Result<Vec<_>, _>>();
        let inside = inside.map_err(DnsError::Fabric)?;
        fabric.set_name_client(Arc::new(DnsClient::new(fabric.node_ip())));
        let zone = Arc::clone(fabric.zone());
        let service = Service::new(zone, Forwarder::new(fabric, listening));
        for (datagrams, streams) in inside {
            service.serve_datagrams(datagrams);
            service.serve_streams(streams);
        }
        if let Some((_, datagrams, streams)) = outside {
            service.serve_datagrams(datagrams);
            service.serve_streams(streams);
        }
        Ok(DnsServer { service, listening })
    }

    /// Returns the address of the machine it answers at.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.listening
    }

    /// Stops. Requests under way are not answered.
    pub async fn stop(self) {
        self.service.stop().await;
    }
}

/// Listens for both transports at an address of the node in the fabric.
fn listen_inside(
    fabric: &Fabric,
    at: SocketAddr,
) -> Result<(coracle_network::UdpSocket, Listener), NetError> {
    let node = fabric.host();
    let datagrams = node.bind_udp(at)?;
    let streams = node.listen(node.reserve_tcp(at)?, BACKLOG)?;
    Ok((datagrams, streams))
}

/// Listens for both transports on one port.
async fn listen_at(address: SocketAddr) -> Result<(SocketAddr, UdpSocket, TcpListener), DnsError> {
    let failed = |source| DnsError::Listen { address, source };
    let mut tries = if address.port() == 0 {
        ANY_PORT_TRIES
    } else {
        1
    };
    loop {
        tries -= 1;
        let streams = TcpListener::bind(address).await.map_err(failed)?;
        let taken = streams.local_addr().map_err(failed)?;
        match UdpSocket::bind(taken).await {
            Ok(datagrams) => return Ok((taken, datagrams, streams)),
            Err(error) if tries == 0 => return Err(failed(error)),
            // Somebody holds the same port for datagrams.
            Err(_) => {}
        }
    }
}

impl Drop for DnsServer {
    /// Whoever does not wait for the end asks for it all the same.
    fn drop(&mut self) {
        self.service.begin_to_stop();
    }
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsServer")
            .field("listening", &self.listening)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
