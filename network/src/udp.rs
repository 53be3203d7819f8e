//! UDP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll};

/// A UDP socket of a pod.
#[derive(Debug)]
pub struct UdpSocket;
impl UdpSocket {
    /// Receives one datagram; `WouldBlock` when none is there. Longer ones are cut.
    pub fn try_recv_from(&self, _buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    /// Ready when `try_recv_from` may succeed.
    pub fn poll_recv_ready(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    /// Sends one datagram; a connected socket takes only its peer.
    pub fn try_send_to(&self, _data: &[u8], _to: SocketAddr) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    /// Sends one datagram to the connected peer.
    pub fn try_send(&self, _data: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    /// Ready when `try_send_to` may succeed.
    pub fn poll_send_ready(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    /// Sets or clears the peer.
    pub fn connect(&self, _peer: Option<SocketAddr>) -> io::Result<()> {
        Ok(())
    }
    /// Local address.
    pub fn local_addr(&self) -> SocketAddr {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    }
    /// Peer.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        None
    }
}
