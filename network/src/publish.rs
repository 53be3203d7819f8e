//! Makes ports of pods reachable from the host, without privilege.
//!
//! A publication *binds* its host port at once, so that a clash is known before the pod starts, and
//! *listens* only while a guest listens on the pod's port: before and after, the kernel refuses
//! connections. Its socket has three places to be:
//!
//! ```text
//!   Resting ──lend──▶ Lent (inside the guest's listener or UDP socket) ──give back──▶ Resting
//!      └──────────────────────── end ────────────────────────▶ Ended
//! ```
//!
//! Who ends a lent publication also takes the socket out of its borrower, which closes the port.
//!
//! Where [`Outside`](crate::Outside) publishes host ports, a publication has no socket: what it stands for is
//! held until it ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use socket2::Socket;

use crate::error::PublishError;
use crate::outside::HeldPort;
use crate::platform;
use crate::pod::Pod;

pub(crate) mod block;
pub(crate) mod outside;

/// Publications of one pod; more would be a mistake, and each costs a descriptor.
pub(crate) const PUBLICATIONS_PER_POD_MAX: usize = 256;

/// Where a fabric publishes ports that have no host port of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PublishPlan {
    /// On loopback: each pod on an address of its own out of a block of `127.64.0.0/10` that only
    /// this process uses. Where only `127.0.0.1` exists (macOS), and when every block is taken, on
    /// a free port of `127.0.0.1`.
    #[default]
    Loopback,
    /// Not at all; host ports still work.
    Nowhere,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where on the host a port is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAddress {
    /// On the pod's loopback address: the same port if this user may bind it and nobody holds it,
    /// else a free high one.
    Loopback,
    /// On exactly this port, or not at all.
    HostPort {
        /// The host's address. Unless given, `127.0.0.1`, or all of them where
        /// [`Outside::publish`](crate::Outside::publish) does it.
        ip: Option<IpAddr>,
        /// The host's port.
        port: u16,
    },
}

/// A port of a pod and where it is to appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The pod's port.
    pub port: u16,
    /// Where on the host.
    pub host: HostAddress,
}

/// A published port; dropping it closes the host port. Established connections stay.
#[derive(Debug)]
pub struct Published {
    /// Where the port is reached from the host.
    pub address: SocketAddr,
    pub(crate) publication: Arc<Publication>,
    pub(crate) pod: Weak<Pod>,
}

impl Drop for Published {
    fn drop(&mut self) {
        if let Some(pod) = self.pod.upgrade() {
            pod.unpublish(&self.publication);
        }
        self.publication.end();
    }
}

/// One published port.
#[derive(Debug)]
pub(crate) struct Publication {
    protocol: Protocol,
    port: u16,
    address: SocketAddr,
    place: Mutex<Place>,
    _announced: Vec<outside::Announced>,
}

/// Where a publication's socket is.
#[derive(Debug)]
enum Place {
    /// Here, bound and refusing.
    Resting(Socket),
    /// With a guest's listener or UDP socket.
    Lent,
    /// Nowhere: others publish the port as long as this is held.
    Outside(#[expect(dead_code, reason = "held to be dropped")] HeldPort),
    /// Closed for good.
    Ended,
}

impl Publication {
    /// Takes a bound socket over.
    pub(crate) fn new(
        port: &PublishPort,
        bound: Bound,
        announced: Vec<outside::Announced>,
    ) -> Arc<Publication> {
        let PublishPort {
            protocol,
            port,
            host: _,
        } = *port;
        let place = Mutex::new(match bound.holder {
            Holder::Socket(socket) => Place::Resting(socket),
            Holder::Outside(held) => Place::Outside(held),
        });
        Arc::new(Publication {
            protocol,
            port,
            address: bound.address,
            place,
            _announced: announced,
        })
    }

    /// Tells whether this publishes `port`.
    pub(crate) fn is_for(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && self.port == port
    }

    /// Returns the pod's port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the protocol.
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns the host's address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lends the socket to a listener and makes it listen; nothing if it is lent or ended.
    pub(crate) fn lend_tcp(self: &Arc<Self>, backlog: usize) -> io::Result<Option<KernelListener>> {
        let mut place = self.place.lock();
        if let Place::Resting(socket) = &*place {
            platform::start_listening(socket, backlog)?;
        }
        Ok(take_socket(&mut place).map(|socket| KernelListener {
            publication: Arc::clone(self),
            socket: Registered::Raw(socket.into()),
        }))
    }

    /// Lends the socket to a guest's UDP socket; nothing if it is lent or ended.
    pub(crate) fn lend_udp(self: &Arc<Self>) -> Option<std::net::UdpSocket> {
        take_socket(&mut self.place.lock()).map(Into::into)
    }

    /// Takes a UDP socket back.
    pub(crate) fn give_back_udp(&self, socket: std::net::UdpSocket) {
        self.put_back(socket.into());
    }

    /// Closes the port for good, unless it is lent: then its borrower lets it go.
    pub(crate) fn end(&self) {
        *self.place.lock() = Place::Ended;
    }

    fn put_back(&self, socket: Socket) {
        let mut place = self.place.lock();
        if let Place::Lent = *place {
            *place = Place::Resting(socket);
        }
    }
}

fn take_socket(place: &mut Place) -> Option<Socket> {
    match std::mem::replace(place, Place::Lent) {
        Place::Resting(socket) => Some(socket),
        Place::Lent => None,
        elsewhere @ (Place::Outside(_) | Place::Ended) => {
            *place = elsewhere;
            None
        }
    }
}

/// A publication's listening socket inside a guest's listener.
pub(crate) struct KernelListener {
    publication: Arc<Publication>,
    socket: Registered,
}

/// A listening socket before and after its first poll. Registration waits for the first poll
/// because it belongs to the reactor of the thread that runs the guest.
enum Registered {
    Raw(std::net::TcpListener),
    Live(tokio::net::TcpListener),
    /// Neither: registering failed, which a later poll reports again.
    Failed,
}

impl KernelListener {
    /// Accepts one connection. Needs a tokio runtime.
    pub(crate) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(tokio::net::TcpStream, SocketAddr)>> {
        loop {
            match &self.socket {
                Registered::Live(socket) => match ready!(socket.poll_accept(cx)) {
                    // The client went away between its handshake and now; the next one counts.
                    Err(error) if is_client_gone(&error) => {}
                    accepted => return Poll::Ready(accepted),
                },
                Registered::Failed => {
                    return Poll::Ready(Err(io::Error::other(
                        "the published port is out of order",
                    )));
                }
                Registered::Raw(_) => self.register()?,
            }
        }
    }

    /// Tells whether this is the socket of `publication`.
    pub(crate) fn serves(&self, publication: &Arc<Publication>) -> bool {
        Arc::ptr_eq(&self.publication, publication)
    }

    /// Stops listening and returns the socket to its publication.
    pub(crate) fn give_back(self) -> Arc<Publication> {
        let KernelListener {
            publication,
            socket,
        } = self;
        let socket = match socket {
            Registered::Raw(socket) => Ok(socket),
            Registered::Live(socket) => socket.into_std(),
            Registered::Failed => Err(io::ErrorKind::NotConnected.into()),
        };
        let address = publication.address;
        match socket.and_then(|socket| platform::stop_listening(socket.into(), address)) {
            Ok(socket) => publication.put_back(socket),
            Err(error) => {
                tracing::warn!(%address, %error, "a published port is lost with its listener");
            }
        }
        publication
    }

    fn register(&mut self) -> io::Result<()> {
        if let Registered::Raw(socket) = std::mem::replace(&mut self.socket, Registered::Failed) {
            self.socket = Registered::Live(tokio::net::TcpListener::from_std(socket)?);
        }
        Ok(())
    }
}

fn is_client_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// A port of the host that we have, and where it is.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) holder: Holder,
    pub(crate) address: SocketAddr,
}

/// What keeps a port of the host ours.
#[derive(Debug)]
pub(crate) enum Holder {
    /// A bound socket.
    Socket(Socket),
    /// Whoever gives pods their addresses outside.
    Outside(HeldPort),
}

/// Binds exactly `ip` and `port`; whatever prevents it is an error that names them.
pub(crate) fn bind_host_port(
    protocol: Protocol,
    ip: Option<IpAddr>,
    port: u16,
) -> Result<Bound, PublishError> {
    let address = host_address(ip, port);
    bind(protocol, address).map_err(|source| refusal(address, source))
}

/// Returns where a port of the host is reached from the host itself.
pub(crate) fn host_address(ip: Option<IpAddr>, port: u16) -> SocketAddr {
    let ip = ip.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ip| ip.to_canonical());
    SocketAddr::new(ip, port)
}

/// Says why a port of the host is not to be had.
pub(crate) fn refusal(address: SocketAddr, source: io::Error) -> PublishError {
    match source.kind() {
        io::ErrorKind::AddrInUse => PublishError::PortInUse { address },
        io::ErrorKind::PermissionDenied => PublishError::PortForbidden { address },
        io::ErrorKind::AddrNotAvailable => PublishError::AddressNotLocal { address },
        _ => PublishError::Bind { address, source },
    }
}

/// Binds `port` of a loopback address, or a free high one where that is held or forbidden.
pub(crate) fn bind_loopback(
    protocol: Protocol,
    ip: Ipv4Addr,
    port: u16,
) -> Result<Bound, PublishError> {
    let address = SocketAddr::new(IpAddr::V4(ip), port);
    let bound = bind(protocol, address).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => {
            bind(protocol, SocketAddr::new(IpAddr::V4(ip), 0))
        }
        _ => Err(error),
    });
    bound.map_err(|source| PublishError::Bind { address, source })
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<Bound> {
    let socket = match protocol {
        Protocol::Tcp => platform::bind_tcp(address)?,
        Protocol::Udp => platform::bind_udp(address)?,
    };
    let address = socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("a bound socket has no address"))?;
    Ok(Bound {
        holder: Holder::Socket(socket),
        address,
    })
}
