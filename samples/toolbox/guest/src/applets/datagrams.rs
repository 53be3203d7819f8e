//! Sockets of UDP. std has nothing to wait for here, so they are looked at again after a pause that grows.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::platform;
use crate::reactor;

/// The longest datagram.
const BYTES_MAX: usize = 65_507;
/// How soon a socket is looked at again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(20);

/// A socket that talks to one peer.
pub(super) struct Datagrams(UdpSocket);

impl Datagrams {
    /// Talks to `peer` from a free port.
    pub(super) fn to(peer: SocketAddr) -> io::Result<Self> {
        let any = match peer {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(peer)?;
        Ok(Self(socket))
    }

    /// Waits at `address` for whoever comes first, and talks to that peer; its first datagram comes along.
    pub(super) async fn of_first(address: SocketAddr) -> io::Result<(Self, Vec<u8>)> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let mut buffer = vec![0; BYTES_MAX];
        let (bytes, peer) = patiently(|| socket.recv_from(&mut buffer)).await?;
        buffer.truncate(bytes);
        socket.connect(peer)?;
        Ok((Self(socket), buffer))
    }

    /// Waits for the next datagram.
    pub(super) async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; BYTES_MAX];
        let bytes = patiently(|| self.0.recv(&mut buffer)).await?;
        buffer.truncate(bytes);
        Ok(buffer)
    }

    /// Sends one datagram.
    pub(super) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        patiently(|| self.0.send(bytes)).await.map(drop)
    }
}

/// Tries something until it need not wait.
async fn patiently<T>(mut action: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut pause = FIRST_PAUSE;
    loop {
        match action() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            ended => return ended,
        }
        reactor::wait_until(platform::now().saturating_add(pause)).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}
