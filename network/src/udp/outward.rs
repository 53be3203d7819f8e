//! The kernel sockets behind one UDP socket of a pod: those of its publications, and its own for
//! what it sends out.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;

use super::flows::{Flow, Flows, RecentPeers};
use super::inbox::View;
use crate::error::NetError;
use crate::publish::Publication;
use crate::stream::kernel::{KernelCount, Place};

/// Datagrams looked at in one call before giving the thread back, when none of them is wanted.
const UNWANTED_PER_CALL_MAX: usize = 64;

/// Datagrams dropped from a publication's socket when it gets a reader: they came before there was
/// one.
const STALE_DATAGRAMS_MAX: usize = 4_096;

/// The kernel sockets of one UDP socket.
pub(super) struct Outward {
    published: Vec<PublishedSocket>,
    own: Vec<OwnSocket>,
    next_number: u64,
}

/// A publication's socket.
pub(super) struct PublishedSocket {
    publication: Arc<Publication>,
    socket: Registered,
    number: u64,
}

/// A socket bound for what is sent out, with the peers it takes answers from.
struct OwnSocket {
    socket: tokio::net::UdpSocket,
    family: Family,
    peers: RecentPeers,
    _place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// A socket before and after its first poll, which registers it with the reactor of that thread.
enum Registered {
    Raw(std::net::UdpSocket),
    Live(tokio::net::UdpSocket),
    Failed,
}

impl Outward {
    /// Returns the state of a socket that needs no kernel yet; it owns no memory.
    pub(super) fn new() -> Outward {
        Outward {
            published: Vec::new(),
            own: Vec::new(),
            next_number: 0,
        }
    }

    /// Takes one wanted datagram from any of the sockets. Peers of publications are entered among
    /// `peers`.
    pub(super) fn try_recv(
        &mut self,
        buf: &mut [u8],
        peers: &Mutex<Flows>,
        wanted: &dyn Fn(SocketAddr) -> bool,
        view: &View<'_>,
    ) -> io::Result<(usize, SocketAddr)> {
        for own in &self.own {
            for _ in 0..UNWANTED_PER_CALL_MAX {
                match own.socket.try_recv_from(buf) {
                    Ok((length, from)) if own.peers.contains(&from) => {
                        let from = (view.named)(from, length);
                        if wanted(from) {
                            return Ok((length, from));
                        }
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_of_another_datagram(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for published in &mut self.published {
            let number = published.number;
            let socket = published.socket.live()?;
            for _ in 0..UNWANTED_PER_CALL_MAX {
                match socket.try_recv_from(buf) {
                    Ok((length, real)) => {
                        let shown = (view.shown)(real);
                        if !(view.admitted)(shown) {
                            continue;
                        }
                        let flow = Flow::Published { number, real };
                        let from = peers.lock().enter(flow, shown);
                        if wanted(from) {
                            return Ok((length, from));
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_of_another_datagram(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Becomes ready when one of the sockets has a datagram.
    pub(super) fn poll_recv_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ready = Poll::Pending;
        for published in &mut self.published {
            match published.socket.live()?.poll_recv_ready(cx) {
                Poll::Pending => {}
                Poll::Ready(result) => ready = Poll::Ready(result),
            }
        }
        for own in &self.own {
            match own.socket.poll_recv_ready(cx) {
                Poll::Pending => {}
                Poll::Ready(result) => ready = Poll::Ready(result),
            }
        }
        ready
    }

    /// Becomes ready when every socket of its own takes a datagram; publications answer or lose.
    pub(super) fn poll_send_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ready = Poll::Ready(Ok(()));
        for own in &self.own {
            match own.socket.poll_send_ready(cx) {
                Poll::Pending => ready = Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        ready
    }

    /// Sends to a peer of a publication, from the published address; nothing if that is gone.
    pub(super) fn try_answer(
        &mut self,
        data: &[u8],
        number: u64,
        real: SocketAddr,
    ) -> Option<io::Result<usize>> {
        let published = self
            .published
            .iter_mut()
            .find(|entry| entry.number == number)?;
        Some(published.socket.live().and_then(|socket| {
            match socket.try_send_to(data, real) {
                // The kernel's queue is full or not yet reported empty: sent or lost, as UDP may.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    send_past_readiness(socket, data, real)
                }
                result => result,
            }
        }))
    }

    /// Sends out and tells whether a socket was bound for it.
    pub(super) fn try_send(
        &mut self,
        data: &[u8],
        to: SocketAddr,
        count: &KernelCount,
    ) -> (io::Result<usize>, bool) {
        let (own, fresh) = match self.own_socket(Family::of(to), count) {
            Ok(found) => found,
            Err(error) => return (Err(error), false),
        };
        own.peers.insert(to);
        let sent = match own.socket.try_send_to(data, to) {
            // Nobody has reported the new socket writable yet; it is.
            Err(error) if fresh && error.kind() == io::ErrorKind::WouldBlock => {
                send_past_readiness(&own.socket, data, to)
            }
            result => result,
        };
        (sent, fresh)
    }

    /// Takes a publication's socket over; what it received before is dropped.
    pub(super) fn join(&mut self, publication: &Arc<Publication>) {
        let Some(socket) = publication.lend_udp() else {
            return;
        };
        drop_stale(&socket);
        self.next_number += 1;
        self.published.push(PublishedSocket {
            publication: Arc::clone(publication),
            socket: Registered::Raw(socket),
            number: self.next_number,
        });
    }

    /// Takes out the socket of a publication that ends, for the caller to drop.
    pub(super) fn leave(&mut self, publication: &Arc<Publication>) -> Option<PublishedSocket> {
        let mut entries = self.published.iter();
        let place = entries.position(|entry| Arc::ptr_eq(&entry.publication, publication))?;
        Some(self.published.swap_remove(place))
    }

    /// Gives the sockets of publications back and closes the others.
    pub(super) fn close(&mut self) -> Vec<Arc<Publication>> {
        self.own.clear();
        let published = std::mem::take(&mut self.published);
        published
            .into_iter()
            .map(PublishedSocket::give_back)
            .collect()
    }

    fn own_socket(
        &mut self,
        family: Family,
        count: &KernelCount,
    ) -> io::Result<(&mut OwnSocket, bool)> {
        let found = self.own.iter().position(|own| own.family == family);
        let fresh = found.is_none();
        if fresh {
            self.own.push(OwnSocket::bind(family, count)?);
        }
        let place = found.unwrap_or(self.own.len() - 1);
        Ok((&mut self.own[place], fresh))
    }
}

impl PublishedSocket {
    fn give_back(self) -> Arc<Publication> {
        let PublishedSocket {
            publication,
            socket,
            number: _,
        } = self;
        let socket = match socket {
            Registered::Raw(socket) => Ok(socket),
            Registered::Live(socket) => socket.into_std(),
            Registered::Failed => Err(io::ErrorKind::NotConnected.into()),
        };
        match socket {
            Ok(socket) => publication.give_back_udp(socket),
            Err(error) => {
                let address = publication.address();
                tracing::warn!(%address, %error, "a published port is lost after its socket ended");
            }
        }
        publication
    }
}

impl OwnSocket {
    fn bind(family: Family, count: &KernelCount) -> io::Result<OwnSocket> {
        let place = count.take()?;
        let any = match family {
            Family::V4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            Family::V6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = crate::platform::bind_udp(any)?;
        let socket = register(socket.into())?;
        Ok(OwnSocket {
            socket,
            family,
            peers: RecentPeers::new(),
            _place: place,
        })
    }
}

impl Family {
    fn of(address: SocketAddr) -> Family {
        match address {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        }
    }
}

impl Registered {
    fn live(&mut self) -> io::Result<&tokio::net::UdpSocket> {
        if let Registered::Raw(_) = self
            && let Registered::Raw(socket) = std::mem::replace(self, Registered::Failed)
        {
            *self = Registered::Live(register(socket)?);
        }
        match self {
            Registered::Live(socket) => Ok(socket),
            Registered::Raw(_) | Registered::Failed => {
                Err(io::Error::other("the published port is out of order"))
            }
        }
    }
}

fn register(socket: std::net::UdpSocket) -> io::Result<tokio::net::UdpSocket> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(NetError::Io(io::Error::other(
            "a host socket is used outside a tokio runtime",
        ))
        .into());
    }
    tokio::net::UdpSocket::from_std(socket)
}

/// Sends without asking the reactor, whose knowledge of a young socket lags behind.
fn send_past_readiness(
    socket: &tokio::net::UdpSocket,
    data: &[u8],
    to: SocketAddr,
) -> io::Result<usize> {
    match socket2::SockRef::from(socket).send_to(data, &to.into()) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(data.len()),
        result => result,
    }
}

/// Tells whether the error reports what became of something sent earlier, as Windows does on
/// receiving.
fn is_of_another_datagram(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn drop_stale(socket: &std::net::UdpSocket) {
    let mut nothing = [0; 1];
    for _ in 0..STALE_DATAGRAMS_MAX {
        match socket.recv_from(&mut nothing) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => {}
        }
    }
}
