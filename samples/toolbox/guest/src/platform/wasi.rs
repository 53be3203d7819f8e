//! The outside world of a pod: WASI 0.2, never blocking but in [`block`].

mod http;
mod mounts;
mod posix;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use wasip2::cli::{environment, exit as wasi_exit, stderr, stdin, stdout, terminal_stdin};
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::{preopens, types as files};
use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::network::{self, ErrorCode, IpAddressFamily, IpSocketAddress};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::{instance_network, ip_name_lookup, tcp_create_socket};

use super::Request;
use crate::reactor;
pub(crate) use http::{Response, request};
pub(crate) use mounts::mounts;
pub(crate) use posix::{permissions, set_mode, set_owner, user};

/// At most this much is written at once; the host takes 64 KiB.
const WRITE_BYTES_MAX: usize = 16 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u64 = 16;
/// The code when nothing can ever go on.
const DEADLOCK: i32 = 125;

/// Something that becomes ready.
pub(crate) struct Source(Pollable);

impl Source {
    fn of(pollable: Pollable) -> Self {
        Self(pollable)
    }

    pub(crate) fn ready(&self) -> bool {
        self.0.ready()
    }
}

pub(crate) fn now() -> Duration {
    Duration::from_nanos(monotonic_clock::now())
}

/// Waits for the first of the sources, or until the clock shows `deadline`.
pub(crate) fn block(sources: &[Rc<Source>], deadline: Option<Duration>) {
    let timer = deadline.map(|at| {
        let nanoseconds = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        monotonic_clock::subscribe_instant(nanoseconds)
    });
    let all: Vec<&Pollable> = sources
        .iter()
        .map(|source| &source.0)
        .chain(&timer)
        .collect();
    if all.is_empty() {
        eprintln!("toolbox: each part of the command waits for another one");
        exit(DEADLOCK);
    }
    poll(&all);
}

pub(crate) fn exit(code: i32) -> ! {
    // The low byte, as everywhere.
    wasi_exit::exit_with_code((code & 0xff) as u8);
    unreachable!("the instance has ended")
}

pub(crate) fn working_folder() -> Option<String> {
    environment::initial_cwd()
}

pub(crate) fn is_terminal() -> bool {
    terminal_stdin::get_terminal_stdin().is_some()
}

struct Standard {
    input: Input,
    output: Output,
    errors: Output,
}

thread_local! {
    static STANDARD: Rc<Standard> = Rc::new(Standard {
        input: Input::new(stdin::get_stdin()),
        output: Output::new(stdout::get_stdout()),
        errors: Output::new(stderr::get_stderr()),
    });
}

fn standard() -> Rc<Standard> {
    STANDARD.with(Rc::clone)
}

pub(crate) async fn read_stdin(max: usize) -> io::Result<Vec<u8>> {
    standard().input.read(max).await
}

pub(crate) async fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    standard().output.write(bytes).await
}

pub(crate) async fn write_stderr(bytes: &[u8]) -> io::Result<()> {
    standard().errors.write(bytes).await
}

/// Waits until what was written has left.
pub(crate) async fn flush() {
    let standard = standard();
    let _ = standard.output.stream.blocking_flush();
    let _ = standard.errors.stream.blocking_flush();
}

pub(crate) fn random(length: usize) -> Vec<u8> {
    wasip2::random::random::get_random_bytes(length as u64)
}

/// The folder `/` and a path within it.
fn in_root(path: &Path) -> io::Result<(files::Descriptor, String)> {
    let absent = || io::Error::new(io::ErrorKind::NotFound, "there is no folder `/`");
    let (root, _) = preopens::get_directories()
        .into_iter()
        .find(|(_, name)| name == "/")
        .ok_or_else(absent)?;
    let path = path.to_string_lossy();
    let inner = path.trim_start_matches('/');
    let inner = if inner.is_empty() { "." } else { inner };
    Ok((root, inner.to_owned()))
}

fn file_error(code: files::ErrorCode) -> io::Error {
    use io::ErrorKind as Kind;
    let kind = match code {
        files::ErrorCode::Exist => Kind::AlreadyExists,
        files::ErrorCode::NoEntry => Kind::NotFound,
        files::ErrorCode::Access | files::ErrorCode::NotPermitted => Kind::PermissionDenied,
        files::ErrorCode::ReadOnly => Kind::ReadOnlyFilesystem,
        files::ErrorCode::NotDirectory => Kind::NotADirectory,
        files::ErrorCode::Unsupported => Kind::Unsupported,
        other => return io::Error::other(other.message()),
    };
    kind.into()
}

pub(crate) fn symlink(target: &str, link: &Path) -> io::Result<()> {
    let (root, path) = in_root(link)?;
    root.symlink_at(target, &path).map_err(file_error)
}

pub(crate) fn set_times(path: &Path, modified: SystemTime) -> io::Result<()> {
    let since = modified
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let time = files::NewTimestamp::Timestamp(files::Datetime {
        seconds: since.as_secs(),
        nanoseconds: since.subsec_nanos(),
    });
    let (root, path) = in_root(path)?;
    root.set_times_at(files::PathFlags::SYMLINK_FOLLOW, &path, time, time)
        .map_err(file_error)
}

/// A stream to read from. What waits for it comes first, as it has to be dropped first.
pub(crate) struct Input {
    readable: Rc<Source>,
    stream: InputStream,
}

impl Input {
    pub(crate) fn new(stream: InputStream) -> Self {
        let readable = Rc::new(Source(stream.subscribe()));
        Self { readable, stream }
    }

    /// Reads some bytes; none are the end.
    pub(crate) async fn read(&self, max: usize) -> io::Result<Vec<u8>> {
        loop {
            match self.stream.read(max as u64) {
                Ok(bytes) if bytes.is_empty() => reactor::wait_for(&self.readable).await,
                Ok(bytes) => return Ok(bytes),
                Err(StreamError::Closed) => return Ok(Vec::new()),
                Err(error) => return Err(stream_error(error)),
            }
        }
    }
}

/// A stream to write to.
pub(crate) struct Output {
    writable: Rc<Source>,
    stream: OutputStream,
}

impl Output {
    pub(crate) fn new(stream: OutputStream) -> Self {
        let writable = Rc::new(Source(stream.subscribe()));
        Self { writable, stream }
    }

    /// Writes all bytes.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let permitted = self.stream.check_write().map_err(stream_error)?;
            let permitted = usize::try_from(permitted).unwrap_or(usize::MAX);
            if permitted == 0 {
                reactor::wait_for(&self.writable).await;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(permitted).min(WRITE_BYTES_MAX));
            self.stream.write(now).map_err(stream_error)?;
            bytes = later;
        }
        Ok(())
    }
}

fn stream_error(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::ErrorKind::BrokenPipe.into(),
        StreamError::LastOperationFailed(error) => io::Error::other(error.to_debug_string()),
    }
}

fn network_error(code: ErrorCode) -> io::Error {
    use io::ErrorKind as Kind;
    let kind = match code {
        ErrorCode::AccessDenied => Kind::PermissionDenied,
        ErrorCode::AddressInUse => Kind::AddrInUse,
        ErrorCode::AddressNotBindable => Kind::AddrNotAvailable,
        ErrorCode::ConnectionAborted => Kind::ConnectionAborted,
        ErrorCode::ConnectionRefused => Kind::ConnectionRefused,
        ErrorCode::ConnectionReset => Kind::ConnectionReset,
        ErrorCode::NameUnresolvable => Kind::NotFound,
        ErrorCode::RemoteUnreachable => Kind::HostUnreachable,
        ErrorCode::Timeout => Kind::TimedOut,
        other => return io::Error::other(other.message()),
    };
    kind.into()
}

/// Repeats what would block until it does not.
async fn settled<T>(
    source: &Rc<Source>,
    mut step: impl FnMut() -> Result<T, ErrorCode>,
) -> io::Result<T> {
    loop {
        match step() {
            Err(ErrorCode::WouldBlock) => reactor::wait_for(source).await,
            result => return result.map_err(network_error),
        }
    }
}

/// Finds the addresses of a name.
pub(crate) async fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    let network = instance_network::instance_network();
    let stream = ip_name_lookup::resolve_addresses(&network, name).map_err(network_error)?;
    let source = Rc::new(Source(stream.subscribe()));
    let mut found = Vec::new();
    while let Some(address) = settled(&source, || stream.resolve_next_address()).await? {
        found.push(match address {
            network::IpAddress::Ipv4((a, b, c, d)) => Ipv4Addr::new(a, b, c, d).into(),
            network::IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => {
                Ipv6Addr::new(a, b, c, d, e, f, g, h).into()
            }
        });
    }
    // The source goes before the stream, in the reverse order of their names here.
    Ok(found)
}

fn socket(address: SocketAddr) -> io::Result<(TcpSocket, IpSocketAddress)> {
    let (family, address) = match address {
        SocketAddr::V4(address) => {
            let [a, b, c, d] = address.ip().octets();
            let address = network::Ipv4SocketAddress {
                port: address.port(),
                address: (a, b, c, d),
            };
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(address))
        }
        SocketAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.ip().segments();
            let address = network::Ipv6SocketAddress {
                port: address.port(),
                flow_info: 0,
                address: (a, b, c, d, e, f, g, h),
                scope_id: 0,
            };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
    };
    let socket = tcp_create_socket::create_tcp_socket(family).map_err(network_error)?;
    Ok((socket, address))
}

/// A connection.
pub(crate) struct Connection {
    input: Input,
    output: Output,
    socket: TcpSocket,
}

impl Connection {
    fn new((socket, input, output): (TcpSocket, InputStream, OutputStream)) -> Self {
        Self {
            input: Input::new(input),
            output: Output::new(output),
            socket,
        }
    }

    /// Connects to an address.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let (socket, address) = socket(address)?;
        let network = instance_network::instance_network();
        socket
            .start_connect(&network, address)
            .map_err(network_error)?;
        let (input, output) = {
            let source = Rc::new(Source(socket.subscribe()));
            settled(&source, || socket.finish_connect()).await?
        };
        Ok(Self::new((socket, input, output)))
    }

    /// Reads some bytes; none are the end.
    pub(crate) async fn read(&self, max: usize) -> io::Result<Vec<u8>> {
        self.input.read(max).await
    }

    /// Writes all bytes.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.output.write(bytes).await
    }

    /// Says that nothing more will be written.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.socket
            .shutdown(ShutdownType::Send)
            .map_err(network_error)
    }
}

/// A socket that listens.
pub(crate) struct Listener {
    acceptable: Rc<Source>,
    socket: TcpSocket,
}

impl Listener {
    /// Listens at an address.
    pub(crate) async fn listen(address: SocketAddr) -> io::Result<Self> {
        let (socket, address) = socket(address)?;
        let network = instance_network::instance_network();
        let acceptable = Rc::new(Source(socket.subscribe()));
        socket
            .start_bind(&network, address)
            .map_err(network_error)?;
        settled(&acceptable, || socket.finish_bind()).await?;
        socket
            .set_listen_backlog_size(BACKLOG)
            .map_err(network_error)?;
        socket.start_listen().map_err(network_error)?;
        settled(&acceptable, || socket.finish_listen()).await?;
        Ok(Self { acceptable, socket })
    }

    /// Takes the next connection.
    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        let accepted = settled(&self.acceptable, || self.socket.accept()).await?;
        Ok(Connection::new(accepted))
    }
}
