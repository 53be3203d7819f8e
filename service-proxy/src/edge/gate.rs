//! One listening socket for every address and port that is served, where the kernel can be told so.
//!
//! The kernel's table says which addresses and ports there are, and refuses all others of the ranges; the
//! [`Board`] says what each leads to. Ten thousand pods and as many Services cost a handful of
//! descriptors.
//!
//! All connections come through one queue of the kernel's, so that whoever does not take them away would
//! hold up all others. A thread of its own accepts and gives them on, which never waits: a pod has its
//! queue in the pods' network, and what does not fit there is reset.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use coracle_network::{Front, Protocol};
use ipnet::IpNet;
use socket2::{SockRef, Socket};

use super::Mechanism;
use super::doors::{self, EXHAUSTED_PAUSE};
use super::sockets::{self, Locality};
use super::udp::ports::UdpPorts;

pub(super) mod board;
mod host_ports;
#[cfg(target_os = "linux")]
mod lookup;
#[cfg(not(target_os = "linux"))]
#[path = "gate/elsewhere.rs"]
mod lookup;
pub(super) mod pods;

use board::Board;
pub(super) use lookup::Failures;
use lookup::{Lookup, LookupError};

/// Why there is no gate. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateError {
    /// The kernel keeps no table.
    #[error("the kernel takes no table of what is served")]
    Lookup(#[source] LookupError),
    /// There is no socket that the table could lead to.
    #[error("failed to listen for all addresses")]
    Listen(#[source] io::Error),
    /// There is no thread that accepts.
    #[error("failed to start the thread that accepts")]
    Accept(#[source] io::Error),
}

/// How the kernel is told what is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By a program that it asks for the socket of what comes.
    Program,
    /// By rules of nftables that give what comes to a transparent socket.
    Rules,
}

/// Which addresses a gate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    /// Those of IPv4.
    V4,
    /// Those of IPv6 too.
    Both,
}

/// The sockets and tables. Dropping it closes the sockets.
pub(super) struct Gate {
    lookup: Lookup,
    board: Arc<Board>,
    /// Where the sockets are bound, in each family: an address that is served by nobody itself.
    bases: Vec<IpAddr>,
    udp: UdpPorts,
    accepting: Vec<Accepting>,
}

/// A thread that accepts. It ends soon after this is dropped.
struct Accepting {
    listener: Arc<Closable>,
    thread: Option<JoinHandle<()>>,
}

/// A listening socket that a thread waits for.
struct Closable {
    listener: TcpListener,
    is_closing: AtomicBool,
}

impl Way {
    /// All of them, the better one first.
    pub(super) const ALL: [Way; 2] = [Way::Program, Way::Rules];

    /// Returns what it is, for the log.
    pub(super) fn told(self) -> &'static str {
        match self {
            Way::Program => "a program in the kernel (`sk_lookup`)",
            Way::Rules => "rules of nftables (`tproxy`)",
        }
    }

    pub(super) fn mechanism(self) -> Mechanism {
        match self {
            Way::Program => Mechanism::SocketLookup,
            Way::Rules => Mechanism::SocketRules,
        }
    }
}

impl Gate {
    /// Opens the gate of these ranges, which routes make local, for addresses of IPv4, and of IPv6 where
    /// that is asked for. Needs a tokio runtime.
    pub(super) fn open(
        way: Way,
        ranges: &[IpNet],
        families: Families,
        board: &Arc<Board>,
        udp: UdpPorts,
    ) -> Result<Gate, GateError> {
        let lookup = Lookup::attach(way, ranges).map_err(GateError::Lookup)?;
        let mut gate = Gate {
            lookup,
            board: Arc::clone(board),
            bases: Vec::new(),
            udp,
            accepting: Vec::new(),
        };
        gate.listen(base(ranges, Ipv4Addr::LOCALHOST.into()))?;
        if families == Families::Both {
            gate.listen(base(ranges, Ipv6Addr::LOCALHOST.into()))?;
        }
        Ok(gate)
    }

    fn listen(&mut self, base: IpAddr) -> Result<(), GateError> {
        let listener = listen(base, &self.lookup).map_err(GateError::Listen)?;
        let accepting = Accepting::start(listener, Arc::clone(&self.board));
        self.accepting.push(accepting.map_err(GateError::Accept)?);
        self.bases.push(base);
        Ok(())
    }

    /// Serves a front at an address and port.
    pub(super) fn serve_front(
        &self,
        protocol: Protocol,
        at: SocketAddr,
        front: &Arc<ArcSwap<Front>>,
    ) -> io::Result<()> {
        self.board.enter(protocol, at, Arc::clone(front))?;
        let served = self.serve(protocol, at);
        if served.is_err() {
            self.board.remove(protocol, at);
        }
        served
    }

    /// Serves a front no longer.
    pub(super) fn end_front(&self, protocol: Protocol, at: SocketAddr) {
        self.end(protocol, at);
        self.board.remove(protocol, at);
    }

    /// Has the flows of a UDP port looked through: the front or its endpoints may have changed.
    pub(super) fn look_again(&self, protocol: Protocol, at: SocketAddr) {
        if protocol == Protocol::Udp
            && let Some(bound) = self.bound(at)
        {
            self.udp.look_again(bound);
        }
    }

    /// Returns how often the kernel found an entry and no socket for it; nothing where that is not counted.
    pub(super) fn failures(&self) -> io::Result<Option<Failures>> {
        self.lookup.failures()
    }

    /// Closes the sockets; relayed connections go on.
    pub(super) async fn close(&mut self) {
        for accepting in self.accepting.drain(..) {
            accepting.close().await;
        }
        self.udp.close().await;
    }

    /// Makes the kernel give what comes for an address and port to us.
    fn serve(&self, protocol: Protocol, at: SocketAddr) -> io::Result<()> {
        let bound = self.bound(at).ok_or(io::ErrorKind::AddrNotAvailable)?;
        if protocol == Protocol::Udp {
            let put = |socket: &Socket| self.lookup.put_udp(bound, socket);
            self.udp.open(at, bound, put)?;
        }
        let served = self.lookup.serve(protocol, at);
        if served.is_err() && protocol == Protocol::Udp {
            self.udp.close_one(at, bound);
        }
        served
    }

    fn end(&self, protocol: Protocol, at: SocketAddr) {
        if let Err(error) = self.lookup.end(protocol, at) {
            tracing::warn!(%at, %error, "what is served no longer is reset instead of refused");
        }
        if protocol == Protocol::Udp
            && let Some(bound) = self.bound(at)
        {
            self.udp.close_one(at, bound);
        }
    }

    /// Returns where the UDP socket for an address and port is bound.
    fn bound(&self, at: SocketAddr) -> Option<SocketAddr> {
        let mut bases = self.bases.iter();
        let base = bases.find(|base| base.is_ipv4() == at.is_ipv4())?;
        Some(SocketAddr::new(*base, at.port()))
    }
}

/// Returns where the sockets of a family are bound: at the first address of a range, which nobody has, so
/// that the sockets themselves are reached by nobody either; else on loopback.
fn base(ranges: &[IpNet], loopback: IpAddr) -> IpAddr {
    let mut of_family = ranges
        .iter()
        .filter(|range| range.addr().is_ipv4() == loopback.is_ipv4());
    of_family.next().map_or(loopback, IpNet::network)
}

fn listen(base: IpAddr, lookup: &Lookup) -> io::Result<TcpListener> {
    let socket = sockets::listen(SocketAddr::new(base, 0), Locality::Routed)?;
    lookup.put_listener(SocketAddr::new(base, 0), &socket)?;
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

impl Accepting {
    /// Starts to accept on a thread.
    fn start(listener: TcpListener, board: Arc<Board>) -> io::Result<Accepting> {
        let listener = Arc::new(Closable {
            listener,
            is_closing: AtomicBool::new(false),
        });
        let accepted = Arc::clone(&listener);
        let thread = std::thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || accepted.accept_all(&board))?;
        Ok(Accepting {
            listener,
            thread: Some(thread),
        })
    }

    /// Stops accepting, and waits until the thread has ended, which is at once.
    async fn close(mut self) {
        self.listener.close();
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(|| thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the thread that accepts did not end by itself");
            }
        }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.listener.close();
    }
}

impl Closable {
    fn accept_all(&self, board: &Board) {
        while !self.is_closing.load(Ordering::Acquire) {
            match sockets::accept(&self.listener) {
                Ok((tcp, peer)) => board.accept(tcp, peer),
                // The client went away between its handshake and now; the next one counts.
                Err(error) if doors::is_client_gone(&error) => {}
                Err(_) if self.is_closing.load(Ordering::Acquire) => {}
                Err(error) => {
                    tracing::debug!(%error, "failed to accept");
                    board.note_exhausted();
                    std::thread::sleep(EXHAUSTED_PAUSE);
                }
            }
        }
    }

    fn close(&self) {
        if !self.is_closing.swap(true, Ordering::AcqRel) {
            // Whoever waits in `accept` hears of it; closing the descriptor alone would not tell.
            let socket = SockRef::from(&self.listener);
            if let Err(error) = socket.shutdown(Shutdown::Both) {
                tracing::debug!(%error, "a listening socket was gone before");
            }
        }
    }
}
