//! `wasi:sockets/tcp`: a guest's TCP socket over the pod's ports, listeners and streams.

use super::address::{check_local, check_remote};
use super::error::{code_of, refuse, refuse_io};
use super::options::{TcpOptions, positive};
use super::stream::{Connection, Reader, Writer};
use super::{NetCtx, Slot, ours, ours_owned, theirs};
use crate::termination::Closing;
use coracle_network::{Listener, NetError, Stream, TcpPort};
use futures_util::future::BoxFuture;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::SocketResult;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Network,
};
use wasmtime_wasi::p2::bindings::sockets::tcp::{self, ShutdownType, TcpSocket};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

/// Connections that wait to be accepted, if the guest does not say.
const BACKLOG_DEFAULT: usize = 128;
/// The most of them a guest may ask for, as Linux has it.
const BACKLOG_MAX: usize = 4_096;

type Streams = (Resource<DynInputStream>, Resource<DynOutputStream>);

/// A TCP socket of a guest.
struct Socket {
    family: IpAddressFamily,
    options: TcpOptions,
    backlog: usize,
    state: State,
    _slot: Slot,
}

/// Where a socket is in its life; the arrows are the functions of `wasi:sockets/tcp`.
///
/// ```text
/// Unbound ─start-bind─▶ Binding ─finish-bind─▶ Bound ─start-listen─▶ StartingToListen ─▶ Listening
///    └─────────────────start-connect─────────────┴──▶ Connecting ─finish-connect─▶ Connected
/// ```
enum State {
    Unbound,
    /// The port is held; the guest has not asked for the result.
    Binding(TcpPort),
    Bound(TcpPort),
    /// It listens; the guest has not asked for the result.
    StartingToListen(Listener),
    /// The listener is gone when the container was asked to end: whoever waits for connections then
    /// waits on.
    Listening {
        listener: Option<Listener>,
        local: SocketAddr,
        closing: Option<Arc<Closing>>,
    },
    Connecting(BoxFuture<'static, Result<Stream, NetError>>),
    /// A result that somebody who polled has found and nobody has taken.
    ConnectDone(Result<Stream, NetError>),
    Connected(Arc<Connection>),
    /// It could not connect, and nothing else can be done with it.
    Closed,
}

impl Socket {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Connecting(connecting) => {
                let result = std::task::ready!(connecting.as_mut().poll(cx));
                self.state = State::ConnectDone(result);
            }
            State::Listening {
                listener,
                closing,
                local: _,
            } => {
                if let Some(closing) = closing
                    && closing.poll(cx).is_ready()
                {
                    *listener = None;
                }
                let Some(listener) = listener else {
                    return Poll::Pending;
                };
                // A connection stays in the backlog until the guest takes it: if the guest ends
                // before, another endpoint of the Service gets it.
                std::task::ready!(listener.poll_ready(cx));
            }
            _ => {}
        }
        Poll::Ready(())
    }

    fn poll_now(&mut self) -> Poll<()> {
        self.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Takes the state out if `wanted`, else says why not.
    fn take(&mut self, wanted: fn(&State) -> bool, otherwise: ErrorCode) -> SocketResult<State> {
        match wanted(&self.state) {
            true => Ok(std::mem::replace(&mut self.state, State::Closed)),
            false => Err(otherwise.into()),
        }
    }

    /// What to answer when an operation is begun in a state that does not allow it.
    fn refusal(&self) -> ErrorCode {
        match self.state {
            State::Binding(_)
            | State::StartingToListen(_)
            | State::Connecting(_)
            | State::ConnectDone(_) => ErrorCode::ConcurrencyConflict,
            _ => ErrorCode::InvalidState,
        }
    }

    fn local_address(&self) -> SocketResult<SocketAddr> {
        match &self.state {
            State::Bound(port) => Ok(port.local_addr()),
            State::StartingToListen(listener) => Ok(listener.local_addr()),
            State::Listening { local, .. } => Ok(*local),
            State::Connected(connection) => Ok(connection.stream().local_addr()),
            _ => Err(ErrorCode::InvalidState.into()),
        }
    }

    fn connection(&self) -> SocketResult<&Arc<Connection>> {
        match &self.state {
            State::Connected(connection) => Ok(connection),
            _ => Err(ErrorCode::InvalidState.into()),
        }
    }

    fn set_backlog(&mut self, value: u64) -> SocketResult<()> {
        let backlog = usize::try_from(positive(value)?)
            .unwrap_or(BACKLOG_MAX)
            .min(BACKLOG_MAX);
        match self.state {
            State::Unbound | State::Binding(_) | State::Bound(_) => {
                self.backlog = backlog;
                Ok(())
            }
            State::StartingToListen(_) | State::Listening { .. } => {
                Err(ErrorCode::NotSupported.into())
            }
            _ => Err(ErrorCode::InvalidState.into()),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Socket {
    async fn ready(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

impl NetCtx<'_> {
    fn tcp(&mut self, socket: &Resource<TcpSocket>) -> SocketResult<&mut Socket> {
        Ok(self.table.get_mut(&ours(socket))?)
    }

    /// Gives the guest the two streams of a connected socket.
    fn push_streams(
        &mut self,
        socket: &Resource<Socket>,
        connection: &Arc<Connection>,
    ) -> SocketResult<Streams> {
        let input: DynInputStream = Box::new(Reader(connection.clone()));
        let output: DynOutputStream = Box::new(Writer(connection.clone()));
        let input = self.table.push_child(input, socket)?;
        let output = self.table.push_child(output, socket)?;
        self.state.connections.insert(input.rep(), connection);
        self.state.connections.insert(output.rep(), connection);
        Ok((input, output))
    }

    fn begin_connect(&mut self, socket: &Resource<TcpSocket>, to: SocketAddr) -> SocketResult<()> {
        let network = self.state.network.clone();
        let socket = self.tcp(socket)?;
        if !matches!(socket.state, State::Unbound | State::Bound(_)) {
            return Err(socket.refusal().into());
        }
        check_remote(to, socket.family)?;
        let from = match std::mem::replace(&mut socket.state, State::Closed) {
            State::Bound(port) => Some(port),
            _ => None,
        };
        let connecting = async move { network.connect(from, to).await };
        socket.state = State::Connecting(Box::pin(connecting));
        // Inside the fabric this is all there is to it.
        let _ = socket.poll_now();
        Ok(())
    }
}

impl tcp_create_socket::Host for NetCtx<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let socket = Socket {
            family,
            options: TcpOptions::default(),
            backlog: BACKLOG_DEFAULT,
            state: State::Unbound,
            _slot: self.state.slot()?,
        };
        Ok(theirs(self.table.push(socket)?))
    }
}

impl tcp::Host for NetCtx<'_> {}

impl tcp::HostTcpSocket for NetCtx<'_> {
    async fn start_bind(
        &mut self,
        socket: Resource<TcpSocket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_network(&network)?;
        let network = self.state.network.clone();
        let socket = self.tcp(&socket)?;
        if !matches!(socket.state, State::Unbound) {
            return Err(socket.refusal().into());
        }
        let local = SocketAddr::from(local_address);
        check_local(local, socket.family)?;
        socket.state = State::Binding(network.reserve_tcp(local).map_err(refuse)?);
        Ok(())
    }

    fn finish_bind(&mut self, socket: Resource<TcpSocket>) -> SocketResult<()> {
        let socket = self.tcp(&socket)?;
        let is_binding = |state: &State| matches!(state, State::Binding(_));
        if let State::Binding(port) = socket.take(is_binding, ErrorCode::NotInProgress)? {
            socket.state = State::Bound(port);
        }
        Ok(())
    }

    fn start_connect(
        &mut self,
        socket: Resource<TcpSocket>,
        network: Resource<Network>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_network(&network)?;
        self.begin_connect(&socket, remote_address.into())
    }

    fn finish_connect(&mut self, socket: Resource<TcpSocket>) -> SocketResult<Streams> {
        let this = self.tcp(&socket)?;
        if matches!(this.state, State::Connecting(_)) && this.poll_now().is_pending() {
            return Err(ErrorCode::WouldBlock.into());
        }
        let is_done = |state: &State| matches!(state, State::ConnectDone(_));
        let State::ConnectDone(result) = this.take(is_done, ErrorCode::NotInProgress)? else {
            return Err(ErrorCode::NotInProgress.into());
        };
        let connection = Connection::new(result.map_err(|error| code_of(&error))?);
        this.state = State::Connected(connection.clone());
        self.push_streams(&ours(&socket), &connection)
    }

    async fn start_listen(&mut self, socket: Resource<TcpSocket>) -> SocketResult<()> {
        let network = self.state.network.clone();
        let socket = self.tcp(&socket)?;
        let refusal = socket.refusal();
        let is_bound = |state: &State| matches!(state, State::Bound(_));
        if let State::Bound(port) = socket.take(is_bound, refusal)? {
            let listener = network.listen(port, socket.backlog).map_err(refuse)?;
            socket.state = State::StartingToListen(listener);
        }
        Ok(())
    }

    fn finish_listen(&mut self, socket: Resource<TcpSocket>) -> SocketResult<()> {
        let closing = self.state.closing.clone();
        let socket = self.tcp(&socket)?;
        let is_starting = |state: &State| matches!(state, State::StartingToListen(_));
        let state = socket.take(is_starting, ErrorCode::NotInProgress)?;
        if let State::StartingToListen(listener) = state {
            socket.state = State::Listening {
                local: listener.local_addr(),
                listener: Some(listener),
                closing,
            };
        }
        Ok(())
    }

    fn accept(
        &mut self,
        socket: Resource<TcpSocket>,
    ) -> SocketResult<(
        Resource<TcpSocket>,
        Resource<DynInputStream>,
        Resource<DynOutputStream>,
    )> {
        // Before a connection is taken that could not be handed out.
        let slot = self.state.slot()?;
        let this = self.tcp(&socket)?;
        if !matches!(this.state, State::Listening { .. }) {
            return Err(ErrorCode::InvalidState.into());
        }
        // Ends the listener if the container was asked to end.
        let _ = this.poll_now();
        let State::Listening {
            listener: Some(listener),
            ..
        } = &mut this.state
        else {
            return Err(ErrorCode::WouldBlock.into());
        };
        let stream = match listener.poll_accept(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(accepted) => accepted.map_err(refuse_io)?,
            Poll::Pending => return Err(ErrorCode::WouldBlock.into()),
        };
        let connection = Connection::new(stream);
        let accepted = Socket {
            family: this.family,
            options: this.options,
            backlog: this.backlog,
            state: State::Connected(connection.clone()),
            _slot: slot,
        };
        let accepted = self.table.push(accepted)?;
        let (input, output) = self.push_streams(&accepted, &connection)?;
        Ok((theirs(accepted), input, output))
    }

    fn local_address(&mut self, socket: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp(&socket)?.local_address()?.into())
    }

    fn remote_address(&mut self, socket: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp(&socket)?.connection()?.stream().peer_addr().into())
    }

    fn is_listening(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        let socket: &Socket = self.table.get(&ours(&socket))?;
        Ok(matches!(socket.state, State::Listening { .. }))
    }

    fn address_family(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        let socket: &Socket = self.table.get(&ours(&socket))?;
        Ok(socket.family)
    }

    fn set_listen_backlog_size(
        &mut self,
        socket: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        self.tcp(&socket)?.set_backlog(value)
    }

    fn keep_alive_enabled(&mut self, socket: Resource<TcpSocket>) -> SocketResult<bool> {
        Ok(self.tcp(&socket)?.options.keep_alive)
    }

    fn set_keep_alive_enabled(
        &mut self,
        socket: Resource<TcpSocket>,
        value: bool,
    ) -> SocketResult<()> {
        self.tcp(&socket)?.options.keep_alive = value;
        Ok(())
    }

    fn keep_alive_idle_time(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&socket)?.options.keep_alive_idle())
    }

    fn set_keep_alive_idle_time(
        &mut self,
        socket: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        self.tcp(&socket)?.options.set_keep_alive_idle(value)
    }

    fn keep_alive_interval(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&socket)?.options.keep_alive_interval())
    }

    fn set_keep_alive_interval(
        &mut self,
        socket: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        self.tcp(&socket)?.options.set_keep_alive_interval(value)
    }

    fn keep_alive_count(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u32> {
        Ok(self.tcp(&socket)?.options.keep_alive_count())
    }

    fn set_keep_alive_count(
        &mut self,
        socket: Resource<TcpSocket>,
        value: u32,
    ) -> SocketResult<()> {
        self.tcp(&socket)?.options.set_keep_alive_count(value)
    }

    fn hop_limit(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u8> {
        Ok(self.tcp(&socket)?.options.common.hop_limit())
    }

    fn set_hop_limit(&mut self, socket: Resource<TcpSocket>, value: u8) -> SocketResult<()> {
        self.tcp(&socket)?.options.common.set_hop_limit(value)
    }

    fn receive_buffer_size(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&socket)?.options.common.receive_buffer())
    }

    fn set_receive_buffer_size(
        &mut self,
        socket: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        self.tcp(&socket)?.options.common.set_receive_buffer(value)
    }

    fn send_buffer_size(&mut self, socket: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp(&socket)?.options.common.send_buffer())
    }

    fn set_send_buffer_size(
        &mut self,
        socket: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        self.tcp(&socket)?.options.common.set_send_buffer(value)
    }

    fn subscribe(
        &mut self,
        socket: Resource<TcpSocket>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<_, Socket>(&socket))
    }

    fn shutdown(&mut self, socket: Resource<TcpSocket>, how: ShutdownType) -> SocketResult<()> {
        let connection = self.tcp(&socket)?.connection()?;
        match how {
            ShutdownType::Receive => connection.shutdown_read(),
            ShutdownType::Send => connection.shutdown_write(),
            ShutdownType::Both => {
                connection.shutdown_read();
                connection.shutdown_write();
            }
        }
        Ok(())
    }

    fn drop(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<_, Socket>(socket))?;
        Ok(())
    }
}
