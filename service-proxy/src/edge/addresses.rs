//! Where outside the fabric a Service is reached.
//!
//! Inside, a Service has the address that the API gave it. Outside it depends on what this process may
//! do: without privilege each address of a Service stands for one of this process' block of
//! `127.64.0.0/10`; on Linux with privilege the Services' ranges are made local by a route and the
//! addresses are the true ones.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use coracle_network::{FrontAddress, FrontKind, LoopbackBlock};
use ipnet::IpNet;

use super::sockets::Locality;
use super::{EdgeConfig, EdgePlan, machine_addresses};

#[cfg(target_os = "linux")]
pub(super) mod routes;

/// The places of Services by the plan that holds.
pub(super) struct Addresses {
    plan: Plan,
    /// Where node ports are served whatever addresses this machine has.
    given: Vec<IpAddr>,
    /// Ranges in which it serves them at the addresses that it has.
    followed: Vec<IpNet>,
    /// Where node ports are served now.
    node_ports: Vec<IpAddr>,
}

enum Plan {
    Loopback {
        /// Nothing where only `127.0.0.1` exists, or every block is taken.
        block: Option<Arc<LoopbackBlock>>,
        /// The address that stands for a Service's.
        taken: HashMap<IpAddr, Ipv4Addr>,
    },
    Host {
        /// What routes make local.
        ranges: Vec<IpNet>,
    },
    Nowhere,
}

/// A place for a front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) ip: IpAddr,
    pub(super) port: Port,
}

/// How much the port matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Port {
    /// This one or none.
    Exactly(u16),
    /// This one, or a free one where somebody else has it or this user may not.
    Preferably(u16),
    /// Any free one.
    Any,
}

impl Addresses {
    /// Returns the places of the plan; `block` is the one the pods' network has, if it has one.
    pub(super) fn new(config: &EdgeConfig, block: Option<Arc<LoopbackBlock>>) -> Addresses {
        let plan = match config.plan {
            EdgePlan::Loopback => Plan::Loopback {
                block: block.or_else(|| LoopbackBlock::claim().map(Arc::new)),
                taken: HashMap::new(),
            },
            EdgePlan::Host => Plan::Host {
                ranges: config.ranges.clone(),
            },
            EdgePlan::Nowhere => Plan::Nowhere,
        };
        let mut given = config.node_ports();
        let node = config.node_addresses.iter();
        let of_node = node.filter(|ip| within(&config.node_port_ranges, **ip));
        given.extend(of_node);
        let mut addresses = Addresses {
            plan,
            given,
            followed: config.node_port_ranges.clone(),
            node_ports: Vec::new(),
        };
        addresses.look(|| {
            // Loopback is there even where the system does not tell.
            Ok(machine_addresses().unwrap_or_else(|_| vec![Ipv4Addr::LOCALHOST.into()]))
        });
        if addresses.node_ports.is_empty() && addresses.follows() {
            tracing::warn!("this machine has no address in the ranges for node ports");
        }
        addresses
    }

    /// Tells whether where node ports are served depends on the addresses that this machine has.
    pub(super) fn follows(&self) -> bool {
        !self.followed.is_empty()
    }

    /// Looks at the addresses that this machine has now; true where other ones serve node ports than before.
    pub(super) fn look(&mut self, machine: impl Fn() -> io::Result<Vec<IpAddr>>) -> bool {
        let machine = match self.follows().then(machine) {
            Some(Ok(machine)) => machine,
            Some(Err(error)) => {
                tracing::debug!(%error, "the addresses of this machine are not known");
                return false;
            }
            None => Vec::new(),
        };
        let found = machine.into_iter().filter(|ip| within(&self.followed, *ip));
        let mut now = self.given.iter().copied().chain(found).collect::<Vec<_>>();
        now.sort_unstable();
        now.dedup();
        let is_new = now != self.node_ports;
        self.node_ports = now;
        is_new
    }

    /// Returns where node ports are served now; nowhere by a plan without listeners.
    pub(super) fn node_ports(&self) -> Arc<[IpAddr]> {
        match self.plan {
            Plan::Nowhere => Arc::default(),
            Plan::Loopback { .. } | Plan::Host { .. } => self.node_ports.as_slice().into(),
        }
    }

    /// Tells what an address is to this machine.
    pub(super) fn locality(&self, ip: IpAddr) -> Locality {
        match &self.plan {
            Plan::Host { ranges } if ranges.iter().any(|range| range.contains(&ip)) => {
                Locality::Routed
            }
            Plan::Host { .. } | Plan::Loopback { .. } | Plan::Nowhere => Locality::Own,
        }
    }

    /// Returns where a front is served: none at all, or one for each address of the node.
    pub(super) fn places(&mut self, front: FrontAddress, kind: FrontKind) -> Vec<Place> {
        let exactly = |ip| Place {
            ip,
            port: Port::Exactly(front.port),
        };
        match (&mut self.plan, kind, front.ip) {
            (Plan::Nowhere, _, _) => Vec::new(),
            (_, FrontKind::NodePort, ip) | (_, _, ip @ None) => {
                let all = self.node_ports.iter().copied();
                all.filter(|one| ip.is_none_or(|ip| ip.is_ipv4() == one.is_ipv4()))
                    .map(exactly)
                    .collect()
            }
            (Plan::Host { .. }, _, Some(ip)) => vec![exactly(ip)],
            (Plan::Loopback { block, taken }, _, Some(ip)) => {
                let own = block.as_ref().and_then(|block| match taken.get(&ip) {
                    Some(own) => Some(*own),
                    None => {
                        let own = block.take(preferred(ip))?;
                        taken.insert(ip, own);
                        Some(own)
                    }
                });
                vec![match own {
                    Some(own) => Place {
                        ip: own.into(),
                        port: Port::Preferably(front.port),
                    },
                    // The address is shared by all, so a Service's port would be the first one's.
                    None => Place {
                        ip: Ipv4Addr::LOCALHOST.into(),
                        port: Port::Any,
                    },
                }]
            }
        }
    }

    /// Gives up the addresses that stood for Services' which are no more.
    pub(super) fn keep_only(&mut self, services: &HashSet<IpAddr>) {
        let Plan::Loopback {
            block: Some(block),
            taken,
        } = &mut self.plan
        else {
            return;
        };
        taken.retain(|service, own| {
            let stays = services.contains(service);
            if !stays {
                block.give_back(*own);
            }
            stays
        });
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        self.keep_only(&HashSet::new());
    }
}

fn within(ranges: &[IpNet], ip: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&ip))
}

/// Returns the place in the block that a Service's address prefers, so that it is the same in the next
/// run: in the upper half, for pods prefer the lower.
fn preferred(ip: IpAddr) -> u32 {
    let low = match ip {
        IpAddr::V4(ip) => u32::from(ip),
        // Cut off on purpose: the low bits tell addresses of one range apart.
        IpAddr::V6(ip) => u128::from(ip) as u32,
    };
    let half = LoopbackBlock::ADDRESSES / 2;
    half + low % half
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use coracle_network::Protocol;

    use super::*;

    fn front(ip: Option<&str>, port: u16) -> FrontAddress {
        FrontAddress {
            ip: ip.map(|ip| ip.parse().unwrap()),
            port,
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn a_node_port_is_exactly_that_port_on_each_given_address() {
        let node: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        for plan in [EdgePlan::Loopback, EdgePlan::Host] {
            let config = EdgeConfig {
                plan,
                node_port_addresses: Some(node.clone()),
                ..EdgeConfig::default()
            };
            let mut addresses = Addresses::new(&config, None);
            let places = addresses.places(front(None, 30_080), FrontKind::NodePort);
            let expected = node.iter().map(|ip| Place {
                ip: *ip,
                port: Port::Exactly(30_080),
            });
            assert!(places.into_iter().eq(expected));
        }
    }

    #[test]
    fn loopback_serves_node_ports_in_the_families_that_pods_have() {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let places = |ranges: &[&str], ip| {
            let config = EdgeConfig {
                pod_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
                ..EdgeConfig::default()
            };
            let mut addresses = Addresses::new(&config, None);
            let places = addresses.places(front(ip, 30_080), FrontKind::NodePort);
            places.into_iter().map(|place| place.ip).collect::<Vec<_>>()
        };
        assert_eq!(places(&["10.244.0.0/16"], None), loopback[..1]);
        let both = ["10.244.0.0/16", "fd00:10:244::/64"];
        // A machine without IPv6 has no second one.
        let there = usize::from(std::net::UdpSocket::bind("[::1]:0").is_ok());
        assert_eq!(places(&both, None), loopback[..=there]);
        assert_eq!(places(&both, Some("::")), loopback[1..=there]);
        assert_eq!(places(&both, Some("0.0.0.0")), loopback[..1]);
    }

    #[test]
    fn node_ports_follow_the_addresses_that_the_machine_has() {
        let all = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let config = EdgeConfig {
            plan: EdgePlan::Host,
            node_addresses: all(&["198.18.77.1"]),
            node_port_addresses: Some(all(&["203.0.113.7"])),
            node_port_ranges: vec!["198.18.77.0/24".parse().unwrap()],
            ..EdgeConfig::default()
        };
        let mut addresses = Addresses::new(&config, None);
        assert_eq!(addresses.node_ports, all(&["198.18.77.1", "203.0.113.7"]));
        let now = || Ok(all(&["127.0.0.1", "198.18.77.9", "198.51.100.1"]));
        assert!(addresses.look(now));
        assert!(!addresses.look(now), "nothing has changed");
        let expected = all(&["198.18.77.1", "198.18.77.9", "203.0.113.7"]);
        assert_eq!(addresses.node_ports, expected);
        assert!(!addresses.look(|| Err(io::ErrorKind::Unsupported.into())));
        assert_eq!(addresses.node_ports, expected, "as it was");
    }

    #[test]
    fn with_privilege_a_cluster_ip_is_itself() {
        let config = EdgeConfig {
            plan: EdgePlan::Host,
            ranges: vec!["10.96.0.0/16".parse().unwrap()],
            ..EdgeConfig::default()
        };
        let mut addresses = Addresses::new(&config, None);
        let places = addresses.places(front(Some("10.96.0.7"), 443), FrontKind::ClusterIp);
        let ip = "10.96.0.7".parse().unwrap();
        let port = Port::Exactly(443);
        assert_eq!(places, [Place { ip, port }]);
        assert_eq!(addresses.locality(ip), Locality::Routed);
        let external = "192.0.2.9".parse().unwrap();
        assert_eq!(addresses.locality(external), Locality::Own);
    }

    #[test]
    fn nowhere_is_nowhere() {
        let config = EdgeConfig {
            plan: EdgePlan::Nowhere,
            ..EdgeConfig::default()
        };
        let mut addresses = Addresses::new(&config, None);
        let cluster_ip = front(Some("10.96.0.7"), 443);
        assert_eq!(addresses.places(cluster_ip, FrontKind::ClusterIp), []);
        assert_eq!(
            addresses.places(front(None, 30_080), FrontKind::NodePort),
            []
        );
    }

    #[cfg(any(target_os = "linux", windows))]
    #[test]
    fn a_service_keeps_its_loopback_address_for_all_ports_until_it_is_gone() {
        let block = Arc::new(LoopbackBlock::claim().expect("a block is free"));
        let mut addresses = Addresses::new(&EdgeConfig::default(), Some(Arc::clone(&block)));
        let first = addresses.places(front(Some("10.96.0.7"), 80), FrontKind::ClusterIp);
        let second = addresses.places(front(Some("10.96.0.7"), 443), FrontKind::ClusterIp);
        let other = addresses.places(front(Some("10.97.0.7"), 80), FrontKind::LoadBalancer);
        assert_eq!(first[0].ip, second[0].ip);
        assert_ne!(first[0].ip, other[0].ip);
        assert_eq!(first[0].port, Port::Preferably(80));
        addresses.keep_only(&HashSet::from(["10.97.0.7".parse().unwrap()]));
        let again = addresses.places(front(Some("10.96.0.7"), 80), FrontKind::ClusterIp);
        assert_eq!(first, again, "the same address is preferred again");
    }
}
