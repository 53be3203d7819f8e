//! Linux: routes that make the ranges of Services local to this machine.
//!
//! Such a route says `local RANGE dev lo src NODE`: everything in the range is an address of ours, and
//! who connects from this machine comes from the node's address. Without that source a client would
//! come from the very address it connects to, and now and then connect to itself.
//!
//! A route outlives its process, so each carries our tag, and for each there is a socket in the
//! abstract namespace, which the kernel ends with the process: a tagged route whose socket is free is
//! stale. What overlaps a route of somebody else is refused.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};

use ipnet::IpNet;

mod netlink;

use netlink::Netlink;

/// The protocol number of our routes; nobody in iproute2's list of protocols has it.
const TAG: u8 = 201;

/// Routes of ours. Dropping this removes them.
#[derive(Debug)]
pub(in crate::edge) struct Routes {
    ranges: Vec<IpNet>,
    _claims: Vec<UnixListener>,
}

/// Why ranges could not be made local.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Another process of this machine has made it local.
    #[error("the range {range} is served by another process of this machine")]
    Claimed {
        /// The range.
        range: IpNet,
    },
    /// The range would hide what a route leads to.
    #[error("the range {range} overlaps the route {route}")]
    Overlaps {
        /// The range.
        range: IpNet,
        /// The route, as `ip route` names it.
        route: String,
    },
    /// No address of the node is of the range's family, so nothing could be the source.
    #[error("the node has no address for the range {range}")]
    NoNodeAddress {
        /// The range.
        range: IpNet,
    },
    /// The kernel did not list its routes.
    #[error("failed to list the routes")]
    List(#[source] io::Error),
    /// The kernel refused a route, usually for want of privilege.
    #[error("failed to add the route for {range}")]
    Add {
        /// The range.
        range: IpNet,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The kernel did not remove a stale route.
    #[error("failed to remove the stale route for {range}")]
    Remove {
        /// The range.
        range: IpNet,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

/// A route of this machine, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    destination: IpNet,
    device: Option<String>,
    is_tagged: bool,
}

impl Routes {
    /// Makes ranges local, with the first address of the node in each family as the source.
    pub(in crate::edge) fn claim(ranges: &[IpNet], node: &[IpAddr]) -> Result<Routes, RouteError> {
        let ranges = ranges.iter().map(IpNet::trunc).collect::<Vec<_>>();
        let claims = ranges
            .iter()
            .map(|range| claim(*range).ok_or(RouteError::Claimed { range: *range }));
        let claims = claims.collect::<Result<Vec<_>, _>>()?;
        let mut netlink = Netlink::open().map_err(RouteError::List)?;
        let routes = netlink.routes(TAG).map_err(RouteError::List)?;
        let (stale, others): (Vec<_>, Vec<_>) = routes
            .into_iter()
            .partition(|route| is_stale(route, &ranges));
        check_overlap(&ranges, &others)?;
        for route in stale {
            let range = route.destination;
            netlink
                .remove(range, TAG)
                .map_err(|source| RouteError::Remove { range, source })?;
        }
        let mut claimed = Routes {
            ranges: Vec::new(),
            _claims: claims,
        };
        for range in ranges {
            let mut of_family = node
                .iter()
                .filter(|ip| ip.is_ipv4() == range.addr().is_ipv4());
            let source = of_family.next();
            let source = *source.ok_or(RouteError::NoNodeAddress { range })?;
            netlink
                .add(range, source, TAG)
                .map_err(|source| RouteError::Add { range, source })?;
            claimed.ranges.push(range);
        }
        Ok(claimed)
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        let removed = Netlink::open().and_then(|mut netlink| {
            let mut ranges = self.ranges.iter();
            ranges.try_for_each(|range| netlink.remove(*range, TAG))
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "a route of ours is left, the next start removes it");
        }
    }
}

/// Lists the addresses of this machine's interfaces.
pub(in crate::edge) fn machine_addresses() -> io::Result<Vec<IpAddr>> {
    Netlink::open()?.addresses()
}

/// Takes the socket that stands for a range, nothing if a living process has it.
fn claim(range: IpNet) -> Option<UnixListener> {
    let name = format!("coracle/services/{range}");
    let name = UnixAddress::from_abstract_name(name).ok()?;
    UnixListener::bind_addr(&name).ok()
}

/// Tells whether a tagged route is left from a process that is no more: ours, or one nobody claims.
fn is_stale(route: &Route, claimed: &[IpNet]) -> bool {
    route.is_tagged && (claimed.contains(&route.destination) || claim(route.destination).is_some())
}

fn check_overlap(ranges: &[IpNet], routes: &[Route]) -> Result<(), RouteError> {
    let overlaps = |range: &IpNet, route: &Route| {
        let other = route.destination;
        // The default route leads to everything, and a narrower one before it takes nothing away.
        other.prefix_len() > 0 && (range.contains(&other) || other.contains(range))
    };
    for range in ranges {
        if let Some(route) = routes.iter().find(|route| overlaps(range, route)) {
            return Err(RouteError::Overlaps {
                range: *range,
                route: route.to_string(),
            });
        }
    }
    Ok(())
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        match &self.device {
            Some(device) => write!(f, " dev {device}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
