//! Pod.

use crate::*;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// One pod's view of the network.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    pub(crate) hostname: String,
}
/// A reserved port.
#[derive(Debug)]
pub struct TcpPort;
impl TcpPort {
    /// Local address as a guest sees it.
    pub fn local_addr(&self) -> SocketAddr {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    }
}

impl PodNetwork {
    /// Ip.
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::UNSPECIFIED
    }
    /// Hostname.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }
    /// Reserve.
    pub fn reserve_tcp(&self, _local: SocketAddr) -> Result<TcpPort, NetError> {
        Err(NetError::NotSupported)
    }
    /// Listen.
    pub fn listen(&self, _port: TcpPort, _backlog: usize) -> Result<Listener, NetError> {
        Err(NetError::NotSupported)
    }
    /// Connect.
    pub async fn connect(
        &self,
        _from: Option<TcpPort>,
        _to: SocketAddr,
    ) -> Result<Stream, NetError> {
        Err(NetError::NotSupported)
    }
    /// Bind UDP.
    pub fn bind_udp(&self, _local: SocketAddr) -> Result<UdpSocket, NetError> {
        Err(NetError::NotSupported)
    }
    /// Resolve.
    pub async fn resolve(&self, _name: &str) -> Result<Vec<IpAddr>, NetError> {
        Err(NetError::NotSupported)
    }
    /// Publish.
    pub fn publish(&self, _port: PublishPort) -> Result<Published, PublishError> {
        Err(PublishError::Nowhere)
    }
    /// Detach.
    pub fn detach(&self) {}
}
