//! Datagrams in batches: one system call receives many, and sends many to one address.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::task::{Context, Poll, ready};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Origin;

/// Buffers of one receive. Each may hold several datagrams of one sender that the kernel has joined.
const BATCH: usize = 8;

/// A datagram, or a row of joined ones, is no longer than this.
const BUFFER_BYTES: usize = 64 * 1024;

thread_local! {
    static BUFFERS: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH * BUFFER_BYTES]);
}

/// The socket of a published port.
pub(super) struct Outlet {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Outlet {
    /// Takes a bound socket over. Needs a tokio runtime.
    pub(super) fn new(socket: Socket) -> io::Result<Outlet> {
        let state = UdpSocketState::new((&socket).into())?;
        allow_fragments(&socket)?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Outlet { socket, state })
    }

    /// Receives one batch and gives its datagrams to `each`.
    pub(super) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        mut each: impl FnMut(Origin, &[u8]),
    ) -> Poll<io::Result<()>> {
        BUFFERS.with_borrow_mut(|buffers| {
            let mut metas = [RecvMeta::default(); BATCH];
            let received = loop {
                ready!(self.socket.poll_recv_ready(cx))?;
                let mut slices = buffers.chunks_exact_mut(BUFFER_BYTES).map(IoSliceMut::new);
                let mut slices: [_; BATCH] =
                    std::array::from_fn(|_| slices.next().expect("there are as many chunks"));
                let received = self.socket.try_io(Interest::READABLE, || {
                    let socket = (&self.socket).into();
                    self.state.recv(socket, &mut slices, &mut metas)
                });
                match received {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => break received?,
                }
            };
            for (buffer, meta) in buffers.chunks_exact(BUFFER_BYTES).zip(&metas[..received]) {
                let origin = Origin {
                    client: meta.addr,
                    at: meta.dst_ip,
                };
                for datagram in datagrams(&buffer[..meta.len], meta.stride) {
                    each(origin, datagram);
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Sends a datagram to a client, from the address that it has sent to. Never waits: what the socket
    /// does not take is lost, as on a wire.
    pub(super) fn send(&self, origin: Origin, datagram: &[u8]) -> io::Result<()> {
        let transmit = Transmit {
            destination: origin.client,
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: origin.at,
        };
        self.state.try_send((&self.socket).into(), &transmit)
    }
}

/// Returns the datagrams of a buffer, each `stride` long but for the last. An empty one is one, too.
fn datagrams(buffer: &[u8], stride: usize) -> impl Iterator<Item = &[u8]> {
    let empty = buffer.is_empty().then_some(buffer);
    buffer.chunks(stride.max(1)).chain(empty)
}

/// Takes back that datagrams may not be fragmented, which is for protocols that look for the path's
/// largest packet themselves.
#[cfg(target_os = "linux")]
fn allow_fragments(socket: &Socket) -> io::Result<()> {
    use rustix::net::sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    };

    if socket.domain()? == socket2::Domain::IPV6 {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::WANT)?;
    } else {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::WANT)?;
    }
    Ok(())
}

/// Elsewhere a datagram that is longer than the path's largest packet is lost: the systems offer no
/// safe way back.
#[cfg(not(target_os = "linux"))]
fn allow_fragments(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_datagrams_are_told_apart_by_their_stride() {
        let split = |bytes: &'static [u8], stride| datagrams(bytes, stride).collect::<Vec<_>>();
        assert_eq!(split(b"aabbc", 2), [&b"aa"[..], b"bb", b"c"]);
        assert_eq!(split(b"aa", 2), [b"aa"]);
        assert_eq!(split(b"", 0), [b""]);
    }
}
