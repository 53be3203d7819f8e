//! Decides what an address means to a guest: its own loopback, a pod, the outside, or nothing it
//! may reach.
//!
//! The decision is pure and is made on the address of each connection and datagram, never on a
//! name: whatever a resolver answered for a name, the address it led to is judged here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::error::NetError;

/// Which addresses outside the pod network guests may reach.
///
/// Closed whatever the rules say: the host's loopback (`127.0.0.0/8`, `::1`, `0.0.0.0/8`, `::`),
/// every address and port we publish, multicast, broadcast and reserved ranges, and all forms of
/// IPv6 that carry a closed IPv4 address (mapped, compatible, NAT64, 6to4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EgressRules {
    /// Whether link-local addresses, among them the metadata services of clouds, are open to
    /// guests.
    pub link_local: LinkLocal,
}

/// Whether `169.254.0.0/16`, `fe80::/10` and `fd00:ec2::254` are open to guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkLocal {
    /// Connections are refused with [`NetError::AccessDenied`].
    #[default]
    Closed,
    /// Connections leave through the host.
    Open,
}

/// What a destination is to the guest that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// `127.0.0.1`, which belongs to the guest's own pod.
    OwnLoopback4,
    /// `::1`, which belongs to the guest's own pod.
    OwnLoopback6,
    /// The node's address inside a range of pods, of this family.
    Node(Family),
    /// The pod with this address of IPv4, by that of a family.
    Pod(Ipv4Addr, Family),
    /// Reached through the host, in canonical form.
    Outside(IpAddr),
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The addresses a judgement depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Territory {
    /// Where pods live.
    pub(crate) pod_cidr: Ipv4Net,
    /// Where they have a second address each, at the same place in the range.
    pub(crate) pod_cidr6: Option<Ipv6Net>,
    /// The node's address in it.
    pub(crate) node: Ipv4Addr,
    /// What is open beyond.
    pub(crate) rules: EgressRules,
}

/// The metadata service of a large cloud on IPv6, the counterpart of `169.254.169.254`.
const METADATA_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

impl Family {
    /// Returns that of an address in canonical form.
    pub(crate) fn of(ip: IpAddr) -> Family {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

impl Territory {
    /// Returns the second address of who has this one in the range of IPv4.
    pub(crate) fn twin(&self, ip: Ipv4Addr) -> Option<Ipv6Addr> {
        let range = self.pod_cidr6?;
        let place = u32::from(ip) - u32::from(self.pod_cidr.network());
        Some(Ipv6Addr::from(
            u128::from(range.network()) + u128::from(place),
        ))
    }

    /// Returns the address of IPv4 of the place in the ranges of pods that an address is; nothing for one
    /// that is in none of them.
    pub(crate) fn place(&self, ip: IpAddr) -> Option<Ipv4Addr> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.pod_cidr.contains(&ip).then_some(ip),
            IpAddr::V6(ip) => {
                let range = self.pod_cidr6.filter(|range| range.contains(&ip))?;
                let place = u128::from(ip) - u128::from(range.network());
                let place = u32::try_from(place).ok()?;
                let ip = u32::from(self.pod_cidr.network()).checked_add(place)?;
                let ip = Ipv4Addr::from(ip);
                self.pod_cidr.contains(&ip).then_some(ip)
            }
        }
    }

    /// Returns the node's address of a family, that of IPv4 where it has no other.
    pub(crate) fn node_of(&self, family: Family) -> IpAddr {
        let twin = || self.twin(self.node).map(IpAddr::V6);
        match family {
            Family::V4 => self.node.into(),
            Family::V6 => twin().unwrap_or(self.node.into()),
        }
    }

    /// Tells whether an address may be a Service's to a guest: neither its own loopback nor the
    /// address of a pod, which no external address of a Service takes over.
    pub(crate) fn may_be_service(&self, to: IpAddr) -> bool {
        match to.to_canonical() {
            IpAddr::V4(ip) => {
                ip != Ipv4Addr::LOCALHOST && (ip == self.node || !self.pod_cidr.contains(&ip))
            }
            IpAddr::V6(ip) => {
                let is_pods = self.pod_cidr6.is_some_and(|range| range.contains(&ip));
                let is_node = || self.twin(self.node) == Some(ip);
                ip != Ipv6Addr::LOCALHOST && (!is_pods || is_node())
            }
        }
    }

    /// Tells what `to` is, or why no guest reaches it.
    pub(crate) fn judge(&self, to: IpAddr) -> Result<Destination, NetError> {
        match to.to_canonical() {
            IpAddr::V4(ip) => self.judge_v4(ip),
            IpAddr::V6(ip) => self.judge_v6(ip),
        }
    }

    fn judge_v4(&self, ip: Ipv4Addr) -> Result<Destination, NetError> {
        if ip == Ipv4Addr::LOCALHOST {
            return Ok(Destination::OwnLoopback4);
        }
        if self.pod_cidr.contains(&ip) {
            return Ok(if ip == self.node {
                Destination::Node(Family::V4)
            } else {
                Destination::Pod(ip, Family::V4)
            });
        }
        let first = ip.octets()[0];
        let closed = first == 0 || ip.is_loopback() || first >= 224;
        if closed || (ip.is_link_local() && self.rules.link_local == LinkLocal::Closed) {
            return Err(NetError::AccessDenied);
        }
        Ok(Destination::Outside(IpAddr::V4(ip)))
    }

    fn judge_v6(&self, ip: Ipv6Addr) -> Result<Destination, NetError> {
        if ip == Ipv6Addr::LOCALHOST {
            return Ok(Destination::OwnLoopback6);
        }
        if self.pod_cidr6.is_some_and(|range| range.contains(&ip)) {
            return match self.place(ip.into()) {
                Some(place) if place == self.node => Ok(Destination::Node(Family::V6)),
                Some(place) => Ok(Destination::Pod(place, Family::V6)),
                None => Err(NetError::Unreachable),
            };
        }
        let link_local = ip.is_unicast_link_local() || ip == METADATA_6;
        let closed = ip.is_unspecified() || ip.is_multicast();
        if closed || (link_local && self.rules.link_local == LinkLocal::Closed) {
            return Err(NetError::AccessDenied);
        }
        match embedded_v4(ip).map(|carried| self.judge_v4(carried)) {
            None | Some(Ok(Destination::Outside(_))) => Ok(Destination::Outside(IpAddr::V6(ip))),
            Some(_) => Err(NetError::AccessDenied),
        }
    }
}

/// Returns the IPv4 address that a translator or tunnel on the way would take out of `ip`.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(v4(g, h)),
        (0x64, 0xff9b, 1, ..) => Some(v4(g, h)),
        (0x2002, ..) => Some(v4(b, c)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
