//! `wasi:sockets/udp`: a guest's UDP socket and its two datagram streams.

use super::address::{check_local, check_recipient, check_remote};
use super::error::{code_of_io, refuse, refuse_io};
use super::options::Options;
use super::{NetCtx, READ_BYTES_MAX, Slot, ours, ours_owned, theirs, with_scratch};
use coracle_network::UdpSocket as PodSocket;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Waker};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Network,
};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    self, IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
    UdpSocket,
};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket;
use wasmtime_wasi::p2::{SocketError, SocketResult};
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

/// Datagrams received or sent by one call at most.
const DATAGRAMS_MAX: usize = 16;

type Streams = (
    Resource<IncomingDatagramStream>,
    Resource<OutgoingDatagramStream>,
);

/// A UDP socket of a guest.
struct Socket {
    family: IpAddressFamily,
    options: Options,
    state: State,
    _slot: Slot,
}

enum State {
    Unbound,
    /// It is bound; the guest has not asked for the result.
    Binding(Arc<PodSocket>),
    Bound(Arc<PodSocket>),
}

/// What a guest receives from.
struct Incoming(Arc<PodSocket>);

/// What a guest sends with.
struct Outgoing {
    socket: Arc<PodSocket>,
    family: IpAddressFamily,
    /// How many datagrams the last `check-send` has permitted.
    permitted: usize,
}

impl Socket {
    fn bound(&self) -> SocketResult<&Arc<PodSocket>> {
        match &self.state {
            State::Bound(socket) => Ok(socket),
            State::Unbound | State::Binding(_) => Err(ErrorCode::InvalidState.into()),
        }
    }

    /// Begins a new pair of streams, connected to `peer` if there is one.
    fn connect(&self, peer: Option<SocketAddr>) -> SocketResult<(Incoming, Outgoing)> {
        let socket = self.bound()?;
        if let Some(peer) = peer {
            check_remote(peer, self.family)?;
        }
        socket.connect(peer).map_err(refuse_io)?;
        let outgoing = Outgoing {
            socket: socket.clone(),
            family: self.family,
            permitted: 0,
        };
        Ok((Incoming(socket.clone()), outgoing))
    }
}

impl Incoming {
    fn receive(&self) -> io::Result<IncomingDatagram> {
        let received = with_scratch(|scratch| {
            let received = self.0.try_recv_from(scratch);
            received.map(|(length, from)| (scratch[..length].to_vec(), from))
        });
        received.map(|(data, from)| IncomingDatagram {
            data,
            remote_address: from.into(),
        })
    }

    fn receive_some(&self, max: usize) -> SocketResult<Vec<IncomingDatagram>> {
        let (mut datagrams, mut bytes) = (Vec::new(), 0);
        while datagrams.len() < max && bytes < READ_BYTES_MAX {
            match self.receive() {
                Ok(datagram) => {
                    bytes += datagram.data.len();
                    datagrams.push(datagram);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Told by the next call, if it is still so.
                Err(_) if !datagrams.is_empty() => break,
                Err(error) => return Err(refuse_io(error)),
            }
        }
        Ok(datagrams)
    }
}

impl Outgoing {
    fn send(&self, datagram: &OutgoingDatagram) -> Result<(), ErrorCode> {
        let sent = match datagram.remote_address {
            Some(to) => {
                let to = SocketAddr::from(to);
                check_recipient(to, self.family).map_err(|_| ErrorCode::InvalidArgument)?;
                self.socket.try_send_to(&datagram.data, to)
            }
            None => self.socket.try_send(&datagram.data),
        };
        sent.map(|_| ()).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => ErrorCode::WouldBlock,
            _ => code_of_io(&error),
        })
    }

    fn send_some(&mut self, datagrams: &[OutgoingDatagram]) -> SocketResult<u64> {
        if datagrams.len() > self.permitted {
            let message = "a `send` was not permitted by `check-send`";
            return Err(SocketError::trap(wasmtime::format_err!("{message}")));
        }
        self.permitted = 0;
        for (sent, datagram) in (0..).zip(datagrams) {
            match self.send(datagram) {
                Ok(()) => {}
                // Once something was sent, a failure is told by the next call only.
                Err(code) if code != ErrorCode::WouldBlock && sent == 0 => return Err(code.into()),
                Err(_) => return Ok(sent),
            }
        }
        Ok(datagrams.len() as u64)
    }
}

#[async_trait::async_trait]
impl Pollable for Socket {
    async fn ready(&mut self) {
        // Nothing that a socket itself does takes time.
    }
}

#[async_trait::async_trait]
impl Pollable for Incoming {
    async fn ready(&mut self) {
        // A failure is met by the call that follows.
        let _ = poll_fn(|cx| self.0.poll_recv_ready(cx)).await;
    }
}

#[async_trait::async_trait]
impl Pollable for Outgoing {
    async fn ready(&mut self) {
        // As above.
        let _ = poll_fn(|cx| self.socket.poll_send_ready(cx)).await;
    }
}

impl NetCtx<'_> {
    fn udp(&mut self, socket: &Resource<UdpSocket>) -> SocketResult<&mut Socket> {
        Ok(self.table.get_mut(&ours(socket))?)
    }
}

impl udp_create_socket::Host for NetCtx<'_> {
    async fn create_udp_socket(
        &mut self,
        family: IpAddressFamily,
    ) -> SocketResult<Resource<UdpSocket>> {
        let socket = Socket {
            family,
            options: Options::default(),
            state: State::Unbound,
            _slot: self.state.slot()?,
        };
        Ok(theirs(self.table.push(socket)?))
    }
}

impl udp::Host for NetCtx<'_> {}

impl udp::HostUdpSocket for NetCtx<'_> {
    async fn start_bind(
        &mut self,
        socket: Resource<UdpSocket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_network(&network)?;
        let network = self.state.network.clone();
        let socket = self.udp(&socket)?;
        match socket.state {
            State::Unbound => {}
            State::Binding(_) => return Err(ErrorCode::ConcurrencyConflict.into()),
            State::Bound(_) => return Err(ErrorCode::InvalidState.into()),
        }
        let local = SocketAddr::from(local_address);
        check_local(local, socket.family)?;
        socket.state = State::Binding(Arc::new(network.bind_udp(local).map_err(refuse)?));
        Ok(())
    }

    fn finish_bind(&mut self, socket: Resource<UdpSocket>) -> SocketResult<()> {
        let socket = self.udp(&socket)?;
        let State::Binding(bound) = &socket.state else {
            return Err(ErrorCode::NotInProgress.into());
        };
        socket.state = State::Bound(bound.clone());
        Ok(())
    }

    async fn stream(
        &mut self,
        socket: Resource<UdpSocket>,
        remote_address: Option<IpSocketAddress>,
    ) -> SocketResult<Streams> {
        let this = ours::<_, Socket>(&socket);
        let is_in_use = {
            let mut children = self.table.iter_children(&this)?;
            children.any(|child| child.is::<Incoming>() || child.is::<Outgoing>())
        };
        if is_in_use {
            let message = "the socket's datagram streams are still in use";
            return Err(SocketError::trap(wasmtime::format_err!("{message}")));
        }
        let peer = remote_address.map(SocketAddr::from);
        let (incoming, outgoing) = self.udp(&socket)?.connect(peer)?;
        let incoming = self.table.push_child(incoming, &this)?;
        let outgoing = self.table.push_child(outgoing, &this)?;
        Ok((theirs(incoming), theirs(outgoing)))
    }

    fn local_address(&mut self, socket: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp(&socket)?.bound()?.local_addr().into())
    }

    fn remote_address(&mut self, socket: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        let peer = self.udp(&socket)?.bound()?.peer_addr();
        Ok(peer.ok_or(ErrorCode::InvalidState)?.into())
    }

    fn address_family(&mut self, socket: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        let socket: &Socket = self.table.get(&ours(&socket))?;
        Ok(socket.family)
    }

    fn unicast_hop_limit(&mut self, socket: Resource<UdpSocket>) -> SocketResult<u8> {
        Ok(self.udp(&socket)?.options.hop_limit())
    }

    fn set_unicast_hop_limit(
        &mut self,
        socket: Resource<UdpSocket>,
        value: u8,
    ) -> SocketResult<()> {
        self.udp(&socket)?.options.set_hop_limit(value)
    }

    fn receive_buffer_size(&mut self, socket: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp(&socket)?.options.receive_buffer())
    }

    fn set_receive_buffer_size(
        &mut self,
        socket: Resource<UdpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        self.udp(&socket)?.options.set_receive_buffer(value)
    }

    fn send_buffer_size(&mut self, socket: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp(&socket)?.options.send_buffer())
    }

    fn set_send_buffer_size(
        &mut self,
        socket: Resource<UdpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        self.udp(&socket)?.options.set_send_buffer(value)
    }

    fn subscribe(
        &mut self,
        socket: Resource<UdpSocket>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<_, Socket>(&socket))
    }

    fn drop(&mut self, socket: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<_, Socket>(socket))?;
        Ok(())
    }
}

impl udp::HostIncomingDatagramStream for NetCtx<'_> {
    fn receive(
        &mut self,
        stream: Resource<IncomingDatagramStream>,
        max_results: u64,
    ) -> SocketResult<Vec<IncomingDatagram>> {
        let incoming: &Incoming = self.table.get(&ours(&stream))?;
        let max = usize::try_from(max_results)
            .unwrap_or(DATAGRAMS_MAX)
            .min(DATAGRAMS_MAX);
        incoming.receive_some(max)
    }

    fn subscribe(
        &mut self,
        stream: Resource<IncomingDatagramStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<_, Incoming>(&stream))
    }

    fn drop(&mut self, stream: Resource<IncomingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<_, Incoming>(stream))?;
        Ok(())
    }
}

impl udp::HostOutgoingDatagramStream for NetCtx<'_> {
    fn check_send(&mut self, stream: Resource<OutgoingDatagramStream>) -> SocketResult<u64> {
        let outgoing: &mut Outgoing = self.table.get_mut(&ours(&stream))?;
        let mut context = Context::from_waker(Waker::noop());
        let is_ready = outgoing.socket.poll_send_ready(&mut context).is_ready();
        outgoing.permitted = if is_ready { DATAGRAMS_MAX } else { 0 };
        Ok(outgoing.permitted as u64)
    }

    fn send(
        &mut self,
        stream: Resource<OutgoingDatagramStream>,
        datagrams: Vec<OutgoingDatagram>,
    ) -> SocketResult<u64> {
        let outgoing: &mut Outgoing = self.table.get_mut(&ours(&stream))?;
        if datagrams.is_empty() {
            return Ok(0);
        }
        outgoing.send_some(&datagrams)
    }

    fn subscribe(
        &mut self,
        stream: Resource<OutgoingDatagramStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<_, Outgoing>(&stream))
    }

    async fn drop(&mut self, stream: Resource<OutgoingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<_, Outgoing>(stream))?;
        Ok(())
    }
}
