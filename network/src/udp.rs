//! A pod's UDP socket: datagrams between pods in memory, to and from the host by kernel sockets it
//! polls itself.
//!
//! Three sources feed one socket: its inbox, which other pods write to; the kernel sockets of its
//! port's publications; and up to two kernel sockets for what it sends out, bound when first
//! needed. From those it takes only datagrams of addresses it has sent to, as a NAT in front of a
//! pod would. What it sends to a Service goes straight to an endpoint ([`balance`]).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::Mutex;

use crate::egress::{Destination, Family};
use crate::error::NetError;
use crate::outside::Outside;
use crate::pod::Pod;
use crate::pod::ports::Slots;
use crate::policy::Verdict;
use crate::publish::Protocol;
use crate::stream::in_family;

mod balance;
mod balanced;
pub(crate) mod flows;
pub(crate) mod front;
pub(crate) mod inbox;
mod outward;
mod replies;

use balanced::ServiceFlows;
use inbox::{Inbox, View};

/// The most bytes of one datagram: what IPv4 leaves beside its own header and that of UDP.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 65_507;

/// A UDP socket of a pod.
///
/// Receiving and sending never wait: a full inbox loses datagrams, as a kernel's does.
pub struct UdpSocket {
    pod: Arc<Pod>,
    inbox: Arc<Inbox>,
    slots: Slots,
    local: SocketAddr,
    peer: Mutex<Option<SocketAddr>>,
    services: Mutex<ServiceFlows>,
}

impl UdpSocket {
    /// Binds a socket and takes over the publications of its port.
    pub(crate) fn bind(pod: &Arc<Pod>, local: SocketAddr) -> Result<UdpSocket, NetError> {
        let slots = Slots::bound_to(local.ip(), pod.ip(), pod.ip6())
            .ok_or(NetError::AddressNotAvailable)?;
        let inbox = Inbox::new(Arc::clone(pod.budget()));
        let entry = Arc::clone(&inbox);
        let mut table = pod.udp_ports().lock();
        let port = match local.port() {
            // A client's: it is reached from outside once it has sent something there.
            0 => table.reserve_ephemeral(slots, entry, &mut rand::rng())?,
            port => {
                table.reserve(slots, port, entry)?;
                inbox.note_open_outside();
                pod.opened_outside(Protocol::Udp, slots, port);
                port
            }
        };
        drop(table);
        let local = SocketAddr::new(local.ip(), port);
        if slots.meets(Slots::POD) {
            for publication in pod.udp_publications(port) {
                inbox.join(&publication);
            }
        }
        Ok(UdpSocket {
            pod: Arc::clone(pod),
            inbox,
            slots,
            local,
            peer: Mutex::new(None),
            services: Mutex::default(),
        })
    }

    /// Receives one datagram and tells who sent it, `WouldBlock` when none is there. What does not
    /// fit into `buf` is lost. A connected socket receives from its peer only.
    pub fn try_recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let view = View {
            shown: &|peer| self.pod.fabric().shown(peer),
            admitted: &|peer| {
                let verdict = self
                    .pod
                    .judge_received(Protocol::Udp, peer, self.local.port());
                verdict == Verdict::Admit
            },
            named: &|from, length| self.services.lock().shown(from, length, Instant::now()),
        };
        let (length, from) = self.inbox.try_recv(buf, self.peer_addr(), &view)?;
        Ok((length, in_family(from, self.local)))
    }

    /// Becomes ready when [`UdpSocket::try_recv_from`] may give a datagram or an error. Needs a
    /// tokio runtime when the port is published or the socket has sent something out.
    pub fn poll_recv_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inbox.poll_recv_ready(cx)
    }

    /// Sends one datagram. A connected socket takes only its peer as `to`. Inside the fabric a
    /// datagram to a port that nobody has bound is lost, and refused if the socket is connected; so
    /// is one to a Service without endpoints.
    pub fn try_send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self.peer_addr() {
            Some(peer) if peer != to => Err(NetError::InvalidArgument.into()),
            Some(_) => self.send(data, to, Unheard::Refused),
            None => self.send(data, to, Unheard::Lost),
        }
    }

    /// Sends one datagram to the peer the socket is connected to.
    pub fn try_send(&self, data: &[u8]) -> io::Result<usize> {
        match self.peer_addr() {
            Some(peer) => self.send(data, peer, Unheard::Refused),
            None => Err(NetError::InvalidArgument.into()),
        }
    }

    /// Becomes ready when [`UdpSocket::try_send_to`] may succeed: at once inside the fabric, when
    /// the kernel has room for what goes out.
    pub fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inbox.poll_send_ready(cx)
    }

    /// Sets the only peer to exchange datagrams with, or lifts that again. What waits in the inbox
    /// from others is dropped when it is met.
    pub fn connect(&self, peer: Option<SocketAddr>) -> io::Result<()> {
        if let Some(peer) = peer {
            self.source_towards(peer)?;
        }
        *self.peer.lock() = peer;
        Ok(())
    }

    /// Returns the address the socket was bound to; once connected, the one its peer sees.
    pub fn local_addr(&self) -> SocketAddr {
        let peer = self.peer_addr();
        match peer.and_then(|peer| self.source_towards(peer).ok()) {
            Some(source) if self.local.ip().is_unspecified() => in_family(source, self.local),
            _ => self.local,
        }
    }

    /// Returns the peer the socket is connected to.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        *self.peer.lock()
    }

    fn send(&self, data: &[u8], to: SocketAddr, unheard: Unheard) -> io::Result<usize> {
        if data.len() > DATAGRAM_BYTES_MAX {
            return Err(NetError::DatagramTooLarge.into());
        }
        if to.port() == 0 {
            return Err(NetError::InvalidArgument.into());
        }
        let canonical = SocketAddr::new(to.ip().to_canonical(), to.port());
        let sent = if self.pod.fabric().territory().may_be_service(to.ip()) {
            // A peer that came in is answered the way it came, whatever its address is otherwise.
            if let Some(result) = self.inbox.try_answer(data, canonical) {
                self.pod.budget().count_sent(data.len() as u64);
                return result;
            }
            self.send_balanced(data, canonical)
        } else {
            None
        };
        let sent = match sent {
            Some(sent) => sent?,
            None => {
                let destination = self.pod.fabric().territory().judge(canonical.ip())?;
                self.services.lock().sent_directly(canonical);
                self.send_by(data, &destination, canonical)?
            }
        };
        match (sent, unheard) {
            (Sent::Nobody, Unheard::Refused) => Err(NetError::ConnectionRefused.into()),
            (Sent::Taken, _) | (Sent::Nobody, Unheard::Lost) => Ok(data.len()),
        }
    }

    /// Sends to an address that is no Service's, or an endpoint.
    fn send_by(&self, data: &[u8], destination: &Destination, to: SocketAddr) -> io::Result<Sent> {
        let fabric = self.pod.fabric();
        let (target, slot) = match destination {
            Destination::OwnLoopback4 => (Some(Arc::clone(&self.pod)), Slots::LOOPBACK_4),
            Destination::OwnLoopback6 => (Some(Arc::clone(&self.pod)), Slots::LOOPBACK_6),
            Destination::Pod(ip, family) => (fabric.find(*ip), Slots::own(*family)),
            Destination::Node(family) => {
                let node = fabric.territory().node;
                (fabric.find(node), Slots::own(*family))
            }
            Destination::Outside(_) => return self.send_out(data, to),
        };
        let target = target.ok_or(NetError::Unreachable)?;
        // Loopback talks to loopback only, as in a kernel.
        if !self.slots.meets(slot) {
            return Err(NetError::InvalidArgument.into());
        }
        let source = self.source_for(destination);
        if !self.is_admitted(source, Some(&target), to) {
            return Ok(Sent::Taken);
        }
        let inbox = target.udp_ports().lock().find(slot, to.port()).cloned();
        let Some(inbox) = inbox else {
            return Ok(Sent::Nobody);
        };
        if target.policy().is_selected() {
            inbox.expect_replies_to(source);
        }
        inbox.deliver(data, source);
        if !Arc::ptr_eq(&target, &self.pod) {
            self.pod.budget().count_sent(data.len() as u64);
            target.budget().count_received(data.len() as u64);
        }
        Ok(Sent::Taken)
    }

    /// Asks the policies of both sides about a datagram, unless it is a reply.
    fn is_admitted(&self, source: SocketAddr, target: Option<&Pod>, to: SocketAddr) -> bool {
        let is_selected = |pod: &Pod| pod.policy().is_selected();
        if !is_selected(&self.pod) && !target.is_some_and(is_selected) {
            return true;
        }
        self.inbox.is_reply(to)
            || self.pod.judge_sent(Protocol::Udp, source.ip(), target, to) == Verdict::Admit
    }

    /// Sends by a kernel socket of its own.
    fn send_out(&self, data: &[u8], to: SocketAddr) -> io::Result<Sent> {
        if self.pod.fabric().outside().is_ours(Protocol::Udp, to) {
            return Err(NetError::AccessDenied.into());
        }
        let source = self.pod.address(Family::of(to.ip()));
        if !self.slots.meets(Slots::own(Family::of(source))) {
            return Err(NetError::InvalidArgument.into());
        }
        let source = SocketAddr::new(source, self.local.port());
        if !self.is_admitted(source, None, to) {
            return Ok(Sent::Taken);
        }
        let abroad = self.pod.fabric().abroad().towards(to.ip());
        match abroad.filter(|_| !self.pod.is_node()) {
            Some(outside) => self.send_abroad(&*outside, data, source, to)?,
            None => {
                self.inbox.try_send_out(data, to, self.pod.kernel_count())?;
            }
        }
        self.pod.budget().count_sent(data.len() as u64);
        Ok(Sent::Taken)
    }

    /// Sends from the pod's own address outside.
    fn send_abroad(
        &self,
        outside: &dyn Outside,
        data: &[u8],
        source: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<()> {
        let port = self.local.port();
        if !self.inbox.is_open_outside() {
            let table = self.pod.udp_ports().lock();
            if table.find(self.slots, port).is_none() {
                return Err(NetError::Detached.into());
            }
            self.inbox.note_open_outside();
            self.pod.opened_outside(Protocol::Udp, self.slots, port);
        }
        if self.pod.policy().is_selected() {
            // Its answers are no news to be judged.
            self.inbox.expect_replies_to(to);
        }
        outside.send(source, to, data)
    }

    /// Returns the address that `to` sees this socket at, if it may be sent to.
    fn source_towards(&self, to: SocketAddr) -> Result<SocketAddr, NetError> {
        if to.port() == 0 {
            return Err(NetError::InvalidArgument);
        }
        if self.is_of_service(to) {
            let source = self.pod.address(Family::of(to.ip().to_canonical()));
            return Ok(SocketAddr::new(source, self.local.port()));
        }
        let destination = self.pod.fabric().territory().judge(to.ip())?;
        Ok(self.source_for(&destination))
    }

    fn source_for(&self, destination: &Destination) -> SocketAddr {
        let ip = match destination {
            Destination::OwnLoopback4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Destination::OwnLoopback6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
            Destination::Node(family) | Destination::Pod(_, family) => self.pod.address(*family),
            Destination::Outside(ip) => self.pod.address(Family::of(*ip)),
        };
        SocketAddr::new(ip, self.local.port())
    }
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It is on its way, or lost on it.
    Taken,
    /// Nobody has bound the port in the fabric.
    Nobody,
}

/// What becomes of a datagram nobody has bound a port for.
#[derive(Clone, Copy)]
enum Unheard {
    Lost,
    Refused,
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        let mut table = self.pod.udp_ports().lock();
        let entry = table.release(self.slots, self.local.port());
        if entry.is_some() && self.inbox.is_open_outside() {
            let (slots, port) = (self.slots, self.local.port());
            self.pod.closed_outside(Protocol::Udp, slots, port);
        }
        drop(table);
        drop(entry);
        for publication in self.inbox.close() {
            Pod::join_publication(&self.pod, &publication);
        }
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}
