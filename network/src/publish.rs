//! Publish.

use std::net::{IpAddr, SocketAddr};

/// Where a fabric publishes ports that have no host port of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishPlan {
    /// Loopback.
    Loopback,
    /// Nowhere.
    Nowhere,
}
/// Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}
/// Host address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAddress {
    /// Loopback.
    Loopback,
    /// HostPort.
    HostPort {
        /// Ip, 127.0.0.1 if none.
        ip: Option<IpAddr>,
        /// Port.
        port: u16,
    },
}
/// What to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Pod port.
    pub port: u16,
    /// Where.
    pub host: HostAddress,
}
/// A publication; dropping it unpublishes.
#[derive(Debug)]
pub struct Published {
    /// Where the port can be reached from the host.
    pub address: SocketAddr,
}
