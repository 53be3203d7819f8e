//! Two roads that messages travel: sockets of the kernel, and those of a pod's network.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use coracle_network::PodNetwork;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A socket for datagrams. Receiving is cancel safe.
pub(crate) trait Datagrams: Send + Sync + 'static {
    /// Receives one and tells from whom.
    fn receive(
        &self,
        into: &mut [u8],
    ) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send;

    /// Sends one.
    fn send(&self, data: &[u8], to: SocketAddr) -> impl Future<Output = io::Result<()>> + Send;
}

impl Datagrams for coracle_network::UdpSocket {
    async fn receive(&self, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            match self.try_recv_from(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| self.poll_recv_ready(cx)).await?;
                }
                result => return result,
            }
        }
    }

    async fn send(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        loop {
            match self.try_send_to(data, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| self.poll_send_ready(cx)).await?;
                }
                result => return result.map(drop),
            }
        }
    }
}

impl Datagrams for tokio::net::UdpSocket {
    async fn receive(&self, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.recv_from(into).await
    }

    async fn send(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        self.send_to(data, to).await.map(drop)
    }
}

/// From where a name server is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Road<'a> {
    /// From the machine.
    Kernel,
    /// From a place in the fabric, as whatever runs there would.
    Fabric(&'a PodNetwork),
}

/// A socket that has sent nothing yet.
pub(crate) enum Socket {
    Kernel(tokio::net::UdpSocket),
    Fabric(coracle_network::UdpSocket),
}

/// Reads and writes a stream.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

impl Road<'_> {
    /// Binds a socket on a random port, which makes answers hard to guess.
    pub(crate) async fn bind(self, to: SocketAddr) -> io::Result<Socket> {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        match self {
            Road::Kernel => {
                let socket = tokio::net::UdpSocket::bind(any).await?;
                socket.connect(to).await?;
                Ok(Socket::Kernel(socket))
            }
            Road::Fabric(place) => {
                let socket = place.bind_udp(any)?;
                socket.connect(Some(to))?;
                Ok(Socket::Fabric(socket))
            }
        }
    }

    /// Connects.
    pub(crate) async fn connect(self, to: SocketAddr) -> io::Result<Box<dyn Connection>> {
        match self {
            Road::Kernel => Ok(Box::new(tokio::net::TcpStream::connect(to).await?)),
            Road::Fabric(place) => Ok(Box::new(place.connect(None, to).await?)),
        }
    }
}

impl Socket {
    pub(crate) async fn receive(&self, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            Socket::Kernel(socket) => socket.receive(into).await,
            Socket::Fabric(socket) => socket.receive(into).await,
        }
    }

    pub(crate) async fn send(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            Socket::Kernel(socket) => socket.send(data).await.map(drop),
            Socket::Fabric(socket) => Datagrams::send(socket, data, to).await,
        }
    }
}

/// Reads one message behind its length; nothing where the stream ends before one begins. A longer one
/// than `limit` is an error: what follows it could not be told apart.
pub(crate) async fn read_message<S: Connection + ?Sized>(
    stream: &mut S,
    limit: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length[..1]).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the message is too long",
        ));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes one message behind its length.
pub(crate) async fn write_message<S: Connection + ?Sized>(
    stream: &mut S,
    message: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(message.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"))?;
    let mut bytes = Vec::with_capacity(2 + message.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(message);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Tells whether an address is reached from this machine only, whatever the fabric says.
pub(crate) fn is_of_machine(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}
