//! What the proxy takes from the Kubernetes API, in its own words.
//!
//! Converting a wire object into facts is where it is checked: addresses, ports and ranges that mean
//! nothing, or that could make the node reach what no Service may name, are left out here and told.

use std::fmt;
use std::net::IpAddr;

use coracle_network::{Protocol, ZonePort, ZoneProtocol};

mod service;
mod slice;

pub(crate) use service::{Addressing, NodeFacts, PortFacts, ServiceFacts};
pub(crate) use slice::{Condition, EndpointFacts, SliceFacts, SliceKey};

/// The label by which an object is left to another proxy than the node's own.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// A Service's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceKey {
    /// The namespace.
    pub(crate) namespace: String,
    /// The name.
    pub(crate) name: String,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The two families of addresses. A Service of both has two sets of endpoints that do not mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Returns the family of an address.
    pub(crate) fn of(ip: IpAddr) -> Family {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// Reads an address that a Service or an endpoint may have.
///
/// Loopback, link-local, multicast and unspecified addresses are the node's own business: the API
/// server refuses them in these places, and a server that does not must not open the node.
fn usable_ip(text: &str) -> Option<IpAddr> {
    let ip = text.parse::<IpAddr>().ok()?.to_canonical();
    let is_link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let is_special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local;
    (!is_special).then_some(ip)
}

/// Reads the number of a port; 0 is none.
fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// What a protocol's name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProtocolName {
    Known(Protocol),
    /// Accepted by the API, not carried by a proxy in user space.
    Sctp,
    Unknown,
}

/// Returns a port as names know it, if it has a name: also one that is not carried.
fn zone_port(name: Option<&str>, protocol_name: Option<&str>, number: i32) -> Option<ZonePort> {
    let protocol = match protocol(protocol_name) {
        ProtocolName::Known(Protocol::Tcp) => ZoneProtocol::Tcp,
        ProtocolName::Known(Protocol::Udp) => ZoneProtocol::Udp,
        ProtocolName::Sctp => ZoneProtocol::Sctp,
        ProtocolName::Unknown => return None,
    };
    Some(ZonePort {
        name: name.filter(|name| !name.is_empty())?.to_owned(),
        protocol,
        port: port_number(number)?,
    })
}

fn protocol(name: Option<&str>) -> ProtocolName {
    match name {
        None | Some("" | "TCP") => ProtocolName::Known(Protocol::Tcp),
        Some("UDP") => ProtocolName::Known(Protocol::Udp),
        Some("SCTP") => ProtocolName::Sctp,
        Some(_) => ProtocolName::Unknown,
    }
}
