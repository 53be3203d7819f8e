//! The names of the cluster: which records it has, and what a question about one of them is answered.
//!
//! Whoever follows the Kubernetes API gives the [`Zone`] of a fabric the records of each Service
//! ([`Zone::set`]); the fabric enters its pods. The answer to a question is decided without looking
//! anything up elsewhere ([`Zone::answer`]), and follows version 1.1.0 of the specification of names in
//! a cluster: `<service>.<namespace>.svc.<domain>` and what hangs below it,
//! `<a-b-c-d>.<namespace>.pod.<domain>`, and the reverse names of the addresses. A change of one
//! Service costs the same however many there are, and readers meet only in one shard of many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::names::inside_zone;
use crate::store::Store;

mod pods;
mod records;
mod reverse;

use pods::Pods;
use records::{Entry, Found};
pub use records::{HeadlessEndpoint, ServiceRecords, ZonePort, ZoneProtocol};
use reverse::Reverse;

/// For how many seconds an answer may be kept: names follow the readiness of pods.
pub const TTL_SECONDS: u32 = 5;

/// The version of the specification that `dns-version.<domain>` tells.
const SPECIFICATION_VERSION: &str = "1.1.0";

/// Aliases followed for one question; ExternalName Services may point at each other in a circle.
pub const ALIASES_MAX: usize = 8;

/// A question about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    name: String,
    kind: RecordKind,
}

/// The kinds of records asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Ports and where they are.
    Srv,
    /// The name of an address.
    Ptr,
    /// The name behind an alias.
    Cname,
    /// A text.
    Txt,
    /// The zone itself.
    Soa,
    /// The zone's servers.
    Ns,
    /// A kind that no name of the zone has.
    Other,
}

/// What a question is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These records of the name, at least one. Of addresses and ports the asker takes any.
    Records(Vec<Record>),
    /// The name is an alias of this one, whatever was asked.
    Alias(String),
    /// The name exists and has no record of the kind.
    NoData,
    /// The name does not exist, and nobody else knows it.
    NoSuchName,
    /// The name lies outside of the zone.
    NotOurs,
}

/// What a record says, beside its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An address.
    Address(IpAddr),
    /// A port and the name of the host it is on.
    Port {
        /// The share of this record among all: equal for all.
        weight: u16,
        /// The port.
        port: u16,
        /// A name of the zone that has addresses.
        target: String,
    },
    /// A name.
    Pointer(String),
    /// A text.
    Text(String),
    /// The start of authority, see [`Zone::authority`].
    Authority(Authority),
    /// The name of a server of the zone.
    Server(String),
}

/// The start of authority of a zone, which also says for how long it holds that a name is not there:
/// [`TTL_SECONDS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The name of the zone.
    pub zone: String,
    /// The name of its server.
    pub server: String,
    /// Its mailbox, as a name.
    pub mailbox: String,
    /// Grows with every change.
    pub serial: u32,
}

/// Where a question ends when aliases are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The names behind each other, without the one that was asked.
    pub aliases: Vec<String>,
    /// The answer to the last of them; nothing when there were too many.
    pub answer: Option<Answer>,
}

/// The records of a cluster. Read and changed from all threads.
#[derive(Debug)]
pub struct Zone {
    domain: String,
    services: Store<String, Entry>,
    /// Names that exist since a Service is below them.
    namespaces: Store<String, usize>,
    /// Names of addresses.
    names: Store<IpAddr, Vec<String>>,
    pods: Pods,
    /// Ranges in which nobody else has addresses.
    ranges: ArcSwap<Vec<IpNet>>,
    servers: ArcSwap<Vec<IpAddr>>,
    serial: AtomicU32,
    /// Held while a Service changes, so that what is kept of it in several places fits together.
    changing: Mutex<()>,
}

impl Question {
    /// Returns the question about a name, which is compared without regard to case and to a final dot.
    pub fn new(name: &str, kind: RecordKind) -> Question {
        let name = name.strip_suffix('.').unwrap_or(name);
        Question {
            name: name.to_ascii_lowercase(),
            kind,
        }
    }

    /// Returns the name, in lower case and without a final dot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the kind of records asked for.
    pub fn kind(&self) -> RecordKind {
        self.kind
    }
}

impl Zone {
    /// Returns an empty zone. `domain` is in lower case and without a final dot.
    pub(crate) fn new(domain: String) -> Zone {
        Zone {
            domain,
            services: Store::new(),
            namespaces: Store::new(),
            names: Store::new(),
            pods: Pods::new(),
            ranges: ArcSwap::default(),
            servers: ArcSwap::default(),
            serial: AtomicU32::new(1),
            changing: Mutex::default(),
        }
    }

    /// Returns the domain of the cluster, in lower case and without a final dot.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Sets the ranges in which all addresses are the cluster's own, so that nobody else is asked for
    /// the names of those that have none.
    pub fn set_ranges(&self, ranges: Vec<IpNet>) {
        self.ranges.store(ranges.into());
    }

    /// Sets where the zone's server is.
    pub fn set_servers(&self, servers: Vec<IpAddr>) {
        self.servers.store(servers.into());
    }

    /// Replaces the records of a Service.
    pub fn set(&self, namespace: &str, name: &str, records: ServiceRecords) {
        let key = key_of(namespace, name);
        let entry = Entry::new(records);
        let full = self.full(&key);
        let changing = self.changing.lock();
        let new = entry.names_of_addresses(&full);
        let old = self.services.insert(key, entry);
        match &old {
            Some(old) => self.forget_names(&old.names_of_addresses(&full), &new),
            None => self.namespaces.update(namespace.to_ascii_lowercase(), |n| {
                *n += 1;
                true
            }),
        }
        for (ip, name) in new {
            self.names.update(ip, |names| {
                if !names.contains(&name) {
                    names.push(name);
                }
                true
            });
        }
        self.serial.fetch_add(1, Ordering::Relaxed);
        drop(changing);
    }

    /// Removes the records of a Service. Harmless where there are none.
    pub fn remove(&self, namespace: &str, name: &str) {
        let key = key_of(namespace, name);
        let changing = self.changing.lock();
        let Some(old) = self.services.remove(&key) else {
            return;
        };
        self.forget_names(&old.names_of_addresses(&self.full(&key)), &[]);
        self.namespaces.update(namespace.to_ascii_lowercase(), |n| {
            *n = n.saturating_sub(1);
            *n > 0
        });
        self.serial.fetch_add(1, Ordering::Relaxed);
        drop(changing);
    }

    /// Answers a question from the records of this moment.
    pub fn answer(&self, question: &Question) -> Answer {
        let Question { name, kind } = question;
        if let Some(inside) = inside_zone(name, &self.domain) {
            return self.answer_inside(inside, *kind);
        }
        match Reverse::parse(name) {
            Some(Reverse::Address(ip)) => self.answer_reverse(ip, *kind),
            // A part of an address: whatever lies below it is not only ours.
            Some(Reverse::Part) | None => Answer::NotOurs,
        }
    }

    /// Answers a question, following at most [`ALIASES_MAX`] aliases.
    pub fn follow(&self, question: &Question) -> Followed {
        let mut aliases: Vec<String> = Vec::new();
        let mut answer = self.answer(question);
        while let Answer::Alias(target) = &answer
            && question.kind != RecordKind::Cname
        {
            if aliases.len() == ALIASES_MAX {
                return Followed {
                    aliases,
                    answer: None,
                };
            }
            let next = Question::new(target, question.kind);
            aliases.push(target.clone());
            answer = self.answer(&next);
        }
        Followed {
            aliases,
            answer: Some(answer),
        }
    }

    /// Returns the start of authority that goes with an answer about `name`.
    pub fn authority(&self, name: &str) -> Authority {
        let name = name.to_ascii_lowercase();
        let zone = match Reverse::parse(name.strip_suffix('.').unwrap_or(&name)) {
            Some(_) if name.trim_end_matches('.').ends_with("ip6.arpa") => "ip6.arpa",
            Some(_) => "in-addr.arpa",
            None => &self.domain,
        };
        Authority {
            zone: zone.to_owned(),
            server: format!("ns.dns.{}", self.domain),
            mailbox: format!("hostmaster.{}", self.domain),
            serial: self.serial.load(Ordering::Relaxed),
        }
    }

    /// Enters a pod that was attached.
    pub(crate) fn enter_pod(
        &self,
        ip: Ipv4Addr,
        second: Option<Ipv6Addr>,
        pod: &crate::PodIdentity,
    ) {
        self.pods.enter(ip, second, pod);
    }

    /// Removes a pod that was detached.
    pub(crate) fn forget_pod(
        &self,
        ip: Ipv4Addr,
        second: Option<Ipv6Addr>,
        pod: &crate::PodIdentity,
    ) {
        self.pods.forget(ip, second, pod);
    }

    fn answer_inside(&self, inside: &str, kind: RecordKind) -> Answer {
        match inside {
            "" => match kind {
                RecordKind::Soa => {
                    Answer::Records(vec![Record::Authority(self.authority(&self.domain))])
                }
                RecordKind::Ns => {
                    Answer::Records(vec![Record::Server(format!("ns.dns.{}", self.domain))])
                }
                _ => Answer::NoData,
            },
            "svc" | "pod" | "dns" => Answer::NoData,
            "ns.dns" => addresses(&self.servers.load(), kind),
            "dns-version" if kind == RecordKind::Txt => {
                Answer::Records(vec![Record::Text(SPECIFICATION_VERSION.to_owned())])
            }
            "dns-version" => Answer::NoData,
            _ => match inside.rsplit_once('.') {
                Some((below, "svc")) => self.answer_service(below, kind),
                Some((below, "pod")) => self.answer_pod(below, kind),
                Some(_) | None => Answer::NoSuchName,
            },
        }
    }

    /// Answers `below`.svc: a namespace, a Service, or what is below one.
    fn answer_service(&self, below: &str, kind: RecordKind) -> Answer {
        let Some((above, namespace)) = below.rsplit_once('.') else {
            return existing(self.namespaces.contains(below));
        };
        let (prefix, service) = match above.rsplit_once('.') {
            Some((prefix, service)) => (prefix, service),
            None => ("", above),
        };
        let key = &below[below.len() - service.len() - namespace.len() - 1..];
        let entry = self.services.get(key);
        let found = match &entry {
            Some(entry) => entry.find(prefix, kind, &self.full(key)),
            None => Found::Unknown,
        };
        match found {
            Found::Records(records) => Answer::Records(records),
            Found::Alias(target) => Answer::Alias(target),
            Found::NoData => Answer::NoData,
            Found::NoSuchName => Answer::NoSuchName,
            Found::Unknown => {
                let named = self.pods.named(prefix, service, namespace);
                match named.is_empty() {
                    true => Answer::NoSuchName,
                    false => addresses(&named, kind),
                }
            }
        }
    }

    fn answer_pod(&self, below: &str, kind: RecordKind) -> Answer {
        let Some((dashed, namespace)) = below.rsplit_once('.') else {
            return existing(self.pods.has_namespace(below));
        };
        let v4 = dashed.replace('-', ".").parse::<Ipv4Addr>();
        let v6 = || dashed.replace('-', ":").parse::<Ipv6Addr>();
        match v4.map(IpAddr::V4).or_else(|_| v6().map(IpAddr::V6)) {
            Ok(ip) if self.pods.is_in(ip, namespace) => addresses(&[ip], kind),
            Ok(_) | Err(_) => Answer::NoSuchName,
        }
    }

    fn answer_reverse(&self, ip: IpAddr, kind: RecordKind) -> Answer {
        let names = self.names.get(&ip);
        match names {
            Some(_) if kind != RecordKind::Ptr => Answer::NoData,
            Some(names) => {
                let names = names.iter().cloned().map(Record::Pointer);
                Answer::Records(names.collect())
            }
            None if self.ranges.load().iter().any(|range| range.contains(&ip)) => {
                Answer::NoSuchName
            }
            None => Answer::NotOurs,
        }
    }

    /// Forgets the `old` names of addresses that are not among the `new` ones.
    fn forget_names(&self, old: &[(IpAddr, String)], new: &[(IpAddr, String)]) {
        let kept = new.iter().collect::<std::collections::HashSet<_>>();
        for entry in old.iter().filter(|entry| !kept.contains(entry)) {
            let (ip, name) = entry;
            self.names.update(*ip, |names| {
                names.retain(|known| known != name);
                !names.is_empty()
            });
        }
    }

    /// Returns the full name of a Service by its key.
    fn full(&self, key: &str) -> String {
        format!("{key}.svc.{}", self.domain)
    }
}

/// The name of a Service relative to `svc`, which is also a piece of every name below it.
fn key_of(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}").to_ascii_lowercase()
}

fn existing(is_there: bool) -> Answer {
    match is_there {
        true => Answer::NoData,
        false => Answer::NoSuchName,
    }
}

/// Answers with those addresses that are of the kind asked for.
fn addresses(all: &[IpAddr], kind: RecordKind) -> Answer {
    let records = records::of_kind(all, kind);
    match records.is_empty() {
        true => Answer::NoData,
        false => Answer::Records(records),
    }
}

#[cfg(test)]
mod tests;
