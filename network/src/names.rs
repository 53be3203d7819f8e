//! Answers names: those of the pod and the cluster here, the others by the host's resolver.
//!
//! What a name asks for is decided without looking anything up ([`Question::of`], pure). Records of
//! Services join with Services; today the zone holds
//! `<a-b-c-d>.<namespace>.pod.<zone>` and `<hostname>.<subdomain>.<namespace>.svc.<zone>`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::sync::Arc;

use crate::error::NetError;
use crate::fabric::PodIdentity;
use crate::platform;
use crate::pod::Pod;

/// Look-ups by the host's resolver at once; each occupies a thread until the system gives up on it.
pub(crate) const LOOKUPS_MAX: usize = 64;

/// Of these for one pod.
pub(crate) const LOOKUPS_PER_POD_MAX: usize = 4;

/// The longest name DNS can carry, without the final dot.
const NAME_CHARS_MAX: usize = 253;

/// The longest label.
const LABEL_CHARS_MAX: usize = 63;

/// What a name asks for.
#[derive(Debug, PartialEq, Eq)]
enum Question {
    /// These addresses, whoever asks.
    Literal(Vec<IpAddr>),
    /// The asking pod itself.
    Own,
    /// Records of the cluster, the first that exists.
    Cluster(Vec<Record>, Otherwise),
}

/// What happens to a name that no record of the cluster answers.
#[derive(Debug, PartialEq, Eq)]
enum Otherwise {
    /// It lies in the zone: nobody else is asked.
    NotFound,
    /// The host's resolver is asked.
    Host(String),
}

/// A record of the cluster's zone.
#[derive(Debug, PartialEq, Eq)]
enum Record {
    /// A pod by its address, if it is in the namespace.
    Address { ip: Ipv4Addr, namespace: String },
    /// A pod by host name and subdomain.
    Host(HostRecord),
}

/// A pod's host name record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HostRecord {
    hostname: String,
    subdomain: String,
    namespace: String,
}

impl HostRecord {
    /// Returns the record of a pod that has a subdomain.
    pub(crate) fn of(identity: &PodIdentity) -> Option<HostRecord> {
        Some(HostRecord {
            hostname: identity.hostname.to_ascii_lowercase(),
            subdomain: identity.subdomain.as_ref()?.to_ascii_lowercase(),
            namespace: identity.namespace.to_ascii_lowercase(),
        })
    }
}

/// Answers `name` as a container of `pod` would see it.
pub(crate) async fn resolve(pod: &Arc<Pod>, name: &str) -> Result<Vec<IpAddr>, NetError> {
    let question = Question::of(name, pod.identity(), pod.fabric().zone())?;
    let aliases = pod.aliases(name);
    match question {
        Question::Literal(addresses) => Ok(addresses),
        Question::Own | Question::Cluster(..) if !aliases.is_empty() => Ok(aliases),
        Question::Own => Ok(vec![IpAddr::V4(pod.ip())]),
        Question::Cluster(records, otherwise) => {
            let found = records.iter().map(|record| look_up(pod, record));
            match (
                found.into_iter().find(|addresses| !addresses.is_empty()),
                otherwise,
            ) {
                (Some(addresses), _) => Ok(addresses),
                (None, Otherwise::NotFound) => Err(NetError::NameNotFound),
                (None, Otherwise::Host(name)) => ask_host(pod, name).await,
            }
        }
    }
}

fn look_up(pod: &Arc<Pod>, record: &Record) -> Vec<IpAddr> {
    match record {
        Record::Host(record) => pod
            .fabric()
            .find_named(record)
            .into_iter()
            .map(IpAddr::V4)
            .collect(),
        Record::Address { ip, namespace } => {
            let there = pod.fabric().find(*ip);
            let same = there.filter(|other| other.identity().namespace == *namespace);
            same.map(|other| IpAddr::V4(other.ip()))
                .into_iter()
                .collect()
        }
    }
}

/// Asks the host's resolver on a thread for blocking work. The look-up keeps its place in both
/// counts until the system returns, even if the caller goes away: only then is the thread free.
async fn ask_host(pod: &Arc<Pod>, name: String) -> Result<Vec<IpAddr>, NetError> {
    let closed = |_| NetError::ResolverUnavailable;
    let of_pod = Arc::clone(pod.lookups())
        .acquire_owned()
        .await
        .map_err(closed)?;
    let of_all = Arc::clone(pod.fabric().lookups())
        .acquire_owned()
        .await
        .map_err(closed)?;
    let lookup = tokio::task::spawn_blocking(move || {
        let found = (name.as_str(), 0).to_socket_addrs().map(distinct);
        drop((of_pod, of_all));
        found
    });
    match lookup.await {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Err(error)) if platform::is_temporary_lookup_failure(&error) => {
            Err(NetError::ResolverUnavailable)
        }
        Ok(Ok(_) | Err(_)) => Err(NetError::NameNotFound),
        Err(error) => Err(NetError::Io(io::Error::other(error))),
    }
}

fn distinct(found: impl Iterator<Item = std::net::SocketAddr>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in found.map(|found| found.ip().to_canonical()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

impl Question {
    fn of(name: &str, asking: &PodIdentity, zone: &str) -> Result<Question, NetError> {
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok(Question::Literal(vec![ip.to_canonical()]));
        }
        let canonical = canonical(name)?;
        if let Some(addresses) = loopback_name(&canonical) {
            return Ok(Question::Literal(addresses));
        }
        if canonical.eq_ignore_ascii_case(&asking.hostname) {
            return Ok(Question::Own);
        }
        if let Some(inside) = inside_zone(&canonical, zone) {
            let records = Record::parse(inside).into_iter().collect();
            return Ok(Question::Cluster(records, Otherwise::NotFound));
        }
        let mut records = Vec::new();
        if !name.ends_with('.') {
            let namespace = asking.namespace.to_ascii_lowercase();
            let searched = [
                format!("{canonical}.{namespace}.svc"),
                format!("{canonical}.svc"),
                canonical.clone(),
            ];
            records.extend(searched.iter().filter_map(|name| Record::parse(name)));
        }
        Ok(Question::Cluster(records, Otherwise::Host(canonical)))
    }
}

impl Record {
    /// Reads a name relative to the zone.
    fn parse(inside: &str) -> Option<Record> {
        let labels = inside.split('.').collect::<Vec<_>>();
        match labels.as_slice() {
            [dashed, namespace, "pod"] => Some(Record::Address {
                ip: dashed.replace('-', ".").parse().ok()?,
                namespace: (*namespace).to_owned(),
            }),
            [hostname, subdomain, namespace, "svc"] => Some(Record::Host(HostRecord {
                hostname: (*hostname).to_owned(),
                subdomain: (*subdomain).to_owned(),
                namespace: (*namespace).to_owned(),
            })),
            _ => None,
        }
    }
}

/// Returns `name` in lower case and without a final dot, if it can be a host name at all.
pub(crate) fn canonical(name: &str) -> Result<String, NetError> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let of_host = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label =
        |label: &str| (1..=LABEL_CHARS_MAX).contains(&label.len()) && label.bytes().all(of_host);
    if name.len() > NAME_CHARS_MAX || !name.split('.').all(label) {
        return Err(NetError::InvalidArgument);
    }
    Ok(name.to_ascii_lowercase())
}

/// Returns the addresses of names that mean the asker's own loopback (RFC 6761 and a pod's hosts
/// file).
fn loopback_name(name: &str) -> Option<Vec<IpAddr>> {
    let (v4, v6) = (
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    );
    match name {
        "ip6-localhost" | "ip6-loopback" => Some(vec![v6]),
        "localhost" => Some(vec![v4, v6]),
        _ if name.ends_with(".localhost") => Some(vec![v4, v6]),
        _ => None,
    }
}

/// Returns the part of `name` before the zone, nothing if it lies elsewhere.
fn inside_zone<'a>(name: &'a str, zone: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(zone)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_suffix('.')
    }
}

#[cfg(test)]
mod tests;
