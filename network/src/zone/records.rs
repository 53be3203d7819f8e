//! The records of one Service, as they are given and as they are looked up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use super::{Record, RecordKind};

/// The weights of the ports of one name add up to about this, as other servers of clusters do it.
const WEIGHT_SUM: usize = 100;

/// The records of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceRecords {
    /// A Service with addresses of its own.
    Cluster {
        /// Its cluster IPs.
        ips: Vec<IpAddr>,
        /// Its ports that have names.
        ports: Vec<ZonePort>,
    },
    /// A Service whose name stands for its endpoints: those that are ready, or all of them if the
    /// Service publishes addresses that are not. Without any the name does not exist.
    Headless {
        /// The endpoints.
        endpoints: Vec<HeadlessEndpoint>,
    },
    /// A Service that is another name for something elsewhere.
    External {
        /// That name, or an address.
        target: String,
    },
}

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZonePort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: ZoneProtocol,
    /// Its number: of the Service, or of the endpoint if the Service is headless.
    pub port: u16,
}

/// The protocols that ports may be named for, whether we carry them or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ZoneProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// An endpoint of a headless Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadlessEndpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its host name, if it has one; else its address stands in for it in names.
    pub hostname: Option<String>,
    /// Its ports that have names.
    pub ports: Vec<ZonePort>,
}

/// The same, with everything found by the name it is asked for.
#[derive(Debug)]
pub(super) struct Entry {
    kind: EntryKind,
    /// By `_<port>._<protocol>`.
    ports: HashMap<String, Vec<PortRecord>>,
    /// The protocols there are ports of, as `_<protocol>`: names above those of the ports.
    protocols: HashSet<&'static str>,
}

#[derive(Debug)]
enum EntryKind {
    Cluster(Vec<IpAddr>),
    Headless {
        all: Vec<IpAddr>,
        by_host: BTreeMap<String, Vec<IpAddr>>,
        /// Endpoints that were given a host name, by which their addresses are known.
        named: Vec<(IpAddr, String)>,
    },
    External(String),
}

#[derive(Debug)]
struct PortRecord {
    port: u16,
    /// The host below the Service, or the Service itself.
    host: Option<String>,
}

/// What is found below a Service.
pub(super) enum Found {
    Records(Vec<Record>),
    Alias(String),
    NoData,
    NoSuchName,
    /// The Service does not say: pods here may have the name.
    Unknown,
}

impl ZoneProtocol {
    fn label(self) -> &'static str {
        match self {
            ZoneProtocol::Tcp => "_tcp",
            ZoneProtocol::Udp => "_udp",
            ZoneProtocol::Sctp => "_sctp",
        }
    }
}

impl Entry {
    pub(super) fn new(records: ServiceRecords) -> Entry {
        match records {
            ServiceRecords::Cluster { ips, ports } => {
                let mut entry = Entry::empty(EntryKind::Cluster(distinct(ips)));
                for port in &ports {
                    entry.add_port(port, None);
                }
                entry
            }
            ServiceRecords::Headless { endpoints } => Entry::headless(endpoints),
            ServiceRecords::External { target } => {
                let target = target.strip_suffix('.').unwrap_or(&target);
                Entry::empty(EntryKind::External(target.to_ascii_lowercase()))
            }
        }
    }

    fn headless(endpoints: Vec<HeadlessEndpoint>) -> Entry {
        let mut entry = Entry::empty(EntryKind::External(String::new()));
        let mut by_host: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let mut named = Vec::new();
        let mut seen = HashSet::new();
        for HeadlessEndpoint {
            ip,
            hostname,
            ports,
        } in endpoints
        {
            let ip = ip.to_canonical();
            let host = match hostname {
                Some(hostname) => {
                    let host = hostname.to_ascii_lowercase();
                    named.push((ip, host.clone()));
                    host
                }
                None => dashed(ip),
            };
            for port in &ports {
                if seen.insert((port.name.clone(), port.protocol, port.port, host.clone())) {
                    entry.add_port(port, Some(host.clone()));
                }
            }
            by_host.entry(host).or_default().push(ip);
        }
        let all = by_host.values().flatten().copied().collect();
        by_host
            .values_mut()
            .for_each(|ips| *ips = distinct(std::mem::take(ips)));
        let all = distinct(all);
        entry.kind = EntryKind::Headless {
            all,
            by_host,
            named,
        };
        entry
    }

    fn empty(kind: EntryKind) -> Entry {
        Entry {
            kind,
            ports: HashMap::new(),
            protocols: HashSet::new(),
        }
    }

    fn add_port(&mut self, port: &ZonePort, host: Option<String>) {
        if port.name.is_empty() {
            return;
        }
        let label = port.protocol.label();
        let name = format!("_{}.{label}", port.name.to_ascii_lowercase());
        self.protocols.insert(label);
        self.ports.entry(name).or_default().push(PortRecord {
            port: port.port,
            host,
        });
    }

    /// Looks `prefix` up below the Service; empty for the Service itself, whose name is `full`.
    pub(super) fn find(&self, prefix: &str, kind: RecordKind, full: &str) -> Found {
        match &self.kind {
            EntryKind::External(target) if prefix.is_empty() => match target.parse::<IpAddr>() {
                Ok(ip) => Found::addresses(&[ip], kind),
                Err(_) => Found::Alias(target.clone()),
            },
            EntryKind::External(_) => Found::NoSuchName,
            EntryKind::Headless { all, .. } if all.is_empty() => Found::NoSuchName,
            EntryKind::Cluster(all) | EntryKind::Headless { all, .. } if prefix.is_empty() => {
                Found::addresses(all, kind)
            }
            EntryKind::Cluster(_) | EntryKind::Headless { .. } => {
                if let Some(ports) = self.ports.get(prefix) {
                    return Found::ports(ports, kind, full);
                }
                if self.protocols.contains(prefix) {
                    return Found::NoData;
                }
                match &self.kind {
                    EntryKind::Headless { by_host, .. } => match by_host.get(prefix) {
                        Some(ips) => Found::addresses(ips, kind),
                        None => Found::NoSuchName,
                    },
                    EntryKind::Cluster(_) | EntryKind::External(_) => Found::Unknown,
                }
            }
        }
    }

    /// Returns the names that addresses have by this Service, whose own name is `full`.
    pub(super) fn names_of_addresses(&self, full: &str) -> Vec<(IpAddr, String)> {
        match &self.kind {
            EntryKind::Cluster(ips) => ips.iter().map(|ip| (*ip, full.to_owned())).collect(),
            EntryKind::Headless { named, .. } => named
                .iter()
                .map(|(ip, host)| (*ip, format!("{host}.{full}")))
                .collect(),
            EntryKind::External(_) => Vec::new(),
        }
    }
}

impl Found {
    fn addresses(all: &[IpAddr], kind: RecordKind) -> Found {
        let records = of_kind(all, kind);
        match records.is_empty() {
            true => Found::NoData,
            false => Found::Records(records),
        }
    }

    fn ports(ports: &[PortRecord], kind: RecordKind, full: &str) -> Found {
        if kind != RecordKind::Srv {
            return Found::NoData;
        }
        let weight = u16::try_from((WEIGHT_SUM / ports.len().max(1)).max(1)).unwrap_or(1);
        let records = ports.iter().map(|record| Record::Port {
            weight,
            port: record.port,
            target: match &record.host {
                Some(host) => format!("{host}.{full}"),
                None => full.to_owned(),
            },
        });
        Found::Records(records.collect())
    }
}

/// Returns those addresses that are of the kind asked for.
pub(super) fn of_kind(all: &[IpAddr], kind: RecordKind) -> Vec<Record> {
    let fits = |ip: &&IpAddr| match kind {
        RecordKind::A => ip.is_ipv4(),
        RecordKind::Aaaa => ip.is_ipv6(),
        _ => false,
    };
    all.iter()
        .filter(fits)
        .copied()
        .map(Record::Address)
        .collect()
}

/// The name that stands in for a host name, as other servers of clusters make it.
fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn distinct(all: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::with_capacity(all.len());
    let all = all.into_iter().map(|ip| ip.to_canonical());
    all.filter(|ip| seen.insert(*ip)).collect()
}
