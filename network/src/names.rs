//! Answers names as `getaddrinfo` in a container would: those of the pod and the cluster here, the
//! others by whoever is asked upstream.
//!
//! What a name means is decided without looking anything up ([`Meaning::of`], pure): which full names
//! are tried, in which order, as the pod's resolver file says. The zone answers those of the cluster;
//! the aliases of ExternalName Services lead back into it or upstream.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;

use rand::seq::SliceRandom;

use crate::error::NetError;
use crate::fabric::{PodIdentity, Shared};
use crate::pod::{Pod, PodNetwork};
use crate::zone::{Answer, Question, Record, RecordKind, Zone};

mod host;

/// Look-ups upstream at once; with the host's resolver each occupies a thread until the system gives up
/// on it.
pub(crate) const LOOKUPS_MAX: usize = 64;

/// Of these for one pod.
pub(crate) const LOOKUPS_PER_POD_MAX: usize = 4;

/// The longest name DNS can carry, without the final dot.
const NAME_CHARS_MAX: usize = 253;

/// The longest label.
const LABEL_CHARS_MAX: usize = 63;

/// Domains that names are completed with; a resolver file holds as many at most.
pub const SEARCHES_MAX: usize = 32;

/// Names with fewer dots are completed first, where nothing else is said (contract D.8).
const NDOTS: u8 = 5;

/// How a pod's names are completed and who answers them, as its resolver file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolverConfig {
    /// Who answers.
    pub source: NameSource,
    /// The domains that names are completed with, in order; those after [`SEARCHES_MAX`] are not used.
    pub searches: Vec<String>,
    /// Names with fewer dots are completed first and taken as they are last.
    pub ndots: u8,
}

/// Who answers the names of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameSource {
    /// The cluster: its own names here, the others upstream.
    Cluster,
    /// The machine's resolver, which knows no names of the cluster.
    Host,
    /// These name servers, asked by the pod itself.
    Servers(Vec<IpAddr>),
}

/// Who answers the names that lie outside of the zone, for all pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Upstream {
    /// The machine's resolver.
    #[default]
    Host,
    /// These name servers, asked by the node: those of a cluster.
    Servers(Vec<IpAddr>),
}

/// A look-up under way.
pub type LookUp<'a> = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, NetError>> + Send + 'a>>;

/// Speaks DNS to name servers. The wire format is none of this crate's.
pub trait NameClient: Send + Sync {
    /// Asks the servers, in order until one answers, for all addresses of a full name, on behalf of
    /// `from`: a pod, or the node. Gives up within a bounded time.
    fn look_up<'a>(
        &'a self,
        from: &'a PodNetwork,
        servers: &'a [IpAddr],
        name: &'a str,
    ) -> LookUp<'a>;
}

/// What a name means to a pod.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// These addresses, whoever asks.
    Literal(Vec<IpAddr>),
    /// The asking pod itself.
    Own,
    /// The first of these full names that exists.
    Names(Vec<String>),
}

/// What became of one full name.
enum Found {
    Addresses(Vec<IpAddr>),
    /// It does not exist or has no address: the next one is tried.
    Nothing,
}

impl ResolverConfig {
    /// Returns what holds for a pod of `namespace` that says nothing else: the policy `ClusterFirst`.
    pub fn cluster(namespace: &str, domain: &str) -> ResolverConfig {
        ResolverConfig {
            source: NameSource::Cluster,
            searches: vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_owned(),
            ],
            ndots: NDOTS,
        }
    }
}

/// Answers `name` as a container of the pod would see it.
pub(crate) async fn resolve(
    network: &PodNetwork,
    pod: &Arc<Pod>,
    name: &str,
) -> Result<Vec<IpAddr>, NetError> {
    let config = pod.resolver();
    let domain = pod.fabric().zone().domain();
    let meaning = Meaning::of(name, pod.identity(), &config, domain)?;
    let aliases = pod.aliases(name);
    match meaning {
        Meaning::Literal(addresses) => Ok(addresses),
        Meaning::Own | Meaning::Names(_) if !aliases.is_empty() => Ok(aliases),
        Meaning::Own => {
            let second = pod.ip6().map(IpAddr::V6);
            Ok([pod.ip().into()].into_iter().chain(second).collect())
        }
        Meaning::Names(names) => first_of(network, pod, &config.source, &names).await,
    }
}

/// Tries the names in order. One that nobody could answer does not hide a later one that exists, but it
/// is what is told if none does.
async fn first_of(
    network: &PodNetwork,
    pod: &Arc<Pod>,
    source: &NameSource,
    names: &[String],
) -> Result<Vec<IpAddr>, NetError> {
    let mut outcome = NetError::NameNotFound;
    for name in names {
        let found = match source {
            NameSource::Cluster => by_cluster(pod, name).await,
            NameSource::Host => upstream(pod, &Upstream::Host, name).await,
            NameSource::Servers(servers) => by_servers(network, pod, servers, name).await,
        };
        match found {
            Ok(Found::Addresses(addresses)) => return Ok(addresses),
            Ok(Found::Nothing) => {}
            Err(NetError::ResolverUnavailable) => outcome = NetError::ResolverUnavailable,
            Err(other) => return Err(other),
        }
    }
    Err(outcome)
}

async fn by_cluster(pod: &Arc<Pod>, name: &str) -> Result<Found, NetError> {
    let (found, elsewhere) = in_zone(pod.fabric().zone(), name);
    if !found.is_empty() {
        return Ok(Found::Addresses(found));
    }
    match elsewhere {
        Some(name) => {
            let asked = pod.fabric().upstream();
            upstream(pod, &asked, &name).await
        }
        None => Ok(Found::Nothing),
    }
}

/// Looks the addresses of a name up in the zone; IPv4 first, as pods have it, and in random order
/// among each kind, so that callers spread over the endpoints of a headless Service. Also the name
/// that somebody else has to be asked for.
fn in_zone(zone: &Zone, name: &str) -> (Vec<IpAddr>, Option<String>) {
    let mut found = Vec::new();
    let mut elsewhere = None;
    for kind in [RecordKind::A, RecordKind::Aaaa] {
        let followed = zone.follow(&Question::new(name, kind));
        match followed.answer {
            Some(Answer::Records(records)) => {
                let begin = found.len();
                found.extend(records.into_iter().filter_map(|record| match record {
                    Record::Address(ip) => Some(ip),
                    Record::Port { .. }
                    | Record::Pointer(_)
                    | Record::Text(_)
                    | Record::Authority(_)
                    | Record::Server(_) => None,
                }));
                found[begin..].shuffle(&mut rand::rng());
            }
            Some(Answer::NotOurs) => {
                let mut aliases = followed.aliases;
                elsewhere = Some(aliases.pop().unwrap_or_else(|| name.to_owned()));
            }
            Some(Answer::NoSuchName) | None => break,
            Some(Answer::NoData | Answer::Alias(_)) => {}
        }
    }
    (found, elsewhere)
}

/// Asks upstream within the bounds of the pod and of all.
async fn upstream(pod: &Arc<Pod>, asked: &Upstream, name: &str) -> Result<Found, NetError> {
    let fabric = pod.fabric();
    let permits = permits(pod, fabric).await?;
    let client = fabric.name_client();
    let answer = match (asked, client) {
        (Upstream::Servers(servers), Some(client)) => {
            let node = fabric.find(fabric.territory().node);
            let node = PodNetwork::lent(node.ok_or(NetError::ResolverUnavailable)?);
            client.look_up(&node, servers, name).await
        }
        // Without a client there is nobody but the host to ask.
        (Upstream::Host, _) | (Upstream::Servers(_), None) => {
            return found(host::look_up(name.to_owned(), permits).await);
        }
    };
    drop(permits);
    found(answer)
}

async fn by_servers(
    network: &PodNetwork,
    pod: &Arc<Pod>,
    servers: &[IpAddr],
    name: &str,
) -> Result<Found, NetError> {
    let permits = permits(pod, pod.fabric()).await?;
    let Some(client) = pod.fabric().name_client() else {
        return Err(NetError::ResolverUnavailable);
    };
    let answer = client.look_up(network, servers, name).await;
    drop(permits);
    found(answer)
}

fn found(answer: Result<Vec<IpAddr>, NetError>) -> Result<Found, NetError> {
    match answer {
        Ok(addresses) if addresses.is_empty() => Ok(Found::Nothing),
        Ok(addresses) => Ok(Found::Addresses(addresses)),
        Err(NetError::NameNotFound) => Ok(Found::Nothing),
        Err(other) => Err(other),
    }
}

/// A place in both counts of look-ups under way.
type Permits = (
    tokio::sync::OwnedSemaphorePermit,
    tokio::sync::OwnedSemaphorePermit,
);

async fn permits(pod: &Arc<Pod>, fabric: &Arc<Shared>) -> Result<Permits, NetError> {
    let closed = |_| NetError::ResolverUnavailable;
    let of_pod = Arc::clone(pod.lookups()).acquire_owned().await;
    let of_pod = of_pod.map_err(closed)?;
    let of_all = Arc::clone(fabric.lookups()).acquire_owned().await;
    Ok((of_pod, of_all.map_err(closed)?))
}

impl Meaning {
    fn of(
        name: &str,
        asking: &PodIdentity,
        config: &ResolverConfig,
        domain: &str,
    ) -> Result<Meaning, NetError> {
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok(Meaning::Literal(vec![ip.to_canonical()]));
        }
        let canonical = canonical(name)?;
        if let Some(addresses) = loopback_name(&canonical) {
            return Ok(Meaning::Literal(addresses));
        }
        if is_own(&canonical, asking, domain) {
            return Ok(Meaning::Own);
        }
        if name.ends_with('.') {
            return Ok(Meaning::Names(vec![canonical]));
        }
        let dots = canonical.matches('.').count();
        let searches = config.searches.iter().take(SEARCHES_MAX);
        let completed = searches.filter_map(|search| completed(&canonical, search));
        let mut names = completed.collect::<Vec<_>>();
        if dots >= usize::from(config.ndots) {
            names.insert(0, canonical);
        } else {
            names.push(canonical);
        }
        Ok(Meaning::Names(names))
    }
}

/// Tells whether a name is one of those in the pod's hosts file.
fn is_own(name: &str, asking: &PodIdentity, domain: &str) -> bool {
    if name.eq_ignore_ascii_case(&asking.hostname) {
        return true;
    }
    let Some(subdomain) = &asking.subdomain else {
        return false;
    };
    let (hostname, namespace) = (&asking.hostname, &asking.namespace);
    name.eq_ignore_ascii_case(&format!("{hostname}.{subdomain}.{namespace}.svc.{domain}"))
}

/// Returns the name with a domain of the search list; nothing if that is no name, or the root, which
/// would be the name as it is.
fn completed(name: &str, search: &str) -> Option<String> {
    let search = canonical(search).ok()?;
    let full = format!("{name}.{search}");
    (full.len() <= NAME_CHARS_MAX).then_some(full)
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
pub(crate) fn inside_zone<'a>(name: &'a str, zone: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(zone)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_suffix('.')
    }
}

impl fmt::Debug for dyn NameClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameClient")
    }
}

#[cfg(test)]
mod tests;
