//! Services: which addresses are theirs, and which endpoint a connection to one of them gets.
//!
//! Whoever follows the Kubernetes API compiles Services and EndpointSlices into [`ServicePort`]s, each
//! with its [`Routes`], and puts them into the [`ServiceTable`] of a fabric as [`Fronts`]. Two things
//! change at their own pace, so they are swapped apart, each whole and read without a lock:
//!
//! - which addresses and ports are served ([`ServiceTable::set_fronts`]), when a Service changes;
//! - which endpoints a port has ([`ServicePort::set_routes`]), when a pod becomes ready or goes. This
//!   costs the same with one Service and with ten thousand.
//!
//! The choice itself ([`ServiceTable::decide`]) follows kube-proxy (`pkg/proxy/topology.go`): policy,
//! source ranges, session affinity, then a random endpoint of the set.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use ipnet::IpNet;
use parking_lot::Mutex;
use rand::RngExt;

use crate::publish::Protocol;

mod affinity;

use affinity::Affinity;

/// The name of a port of a Service, as kube-proxy tells them apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePortName {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The port's name, empty for the only port of a Service.
    pub port: String,
    /// The port's protocol.
    pub protocol: Protocol,
}

/// A place where connections to a Service arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrontAddress {
    /// The address; an unspecified one for every address of the node in its family, nothing for every one
    /// of the node that its family has no front for.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// How a Service is reached at one of its addresses.
#[derive(Debug, Clone)]
pub struct Front {
    /// The port that is meant.
    pub service: Arc<ServicePort>,
    /// What kind of address it is.
    pub kind: FrontKind,
    /// The clients that may come (`loadBalancerSourceRanges`); nothing for all. Connections of others
    /// are dropped; the node itself may always come.
    pub source_ranges: Option<Arc<[IpNet]>>,
}

/// The kinds of addresses of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrontKind {
    /// A cluster IP: `internalTrafficPolicy` holds.
    ClusterIp,
    /// A node port on the node's addresses: `externalTrafficPolicy` holds, as for the next two.
    NodePort,
    /// One of `externalIPs`.
    ExternalIp,
    /// An address of `status.loadBalancer.ingress`.
    LoadBalancer,
}

/// All addresses at which Services are served, of one moment.
#[derive(Debug, Default)]
pub struct Fronts {
    by_address: HashMap<FrontAddress, Front>,
    /// Addresses of Services, whatever the port.
    owned: HashSet<IpAddr>,
    /// Ranges in which only Services have addresses.
    ranges: Vec<IpNet>,
    /// The node's addresses, on which node ports are served.
    node: HashSet<IpAddr>,
}

/// One port of a Service and where connections to it go. Shared by all its fronts.
pub struct ServicePort {
    name: ServicePortName,
    routes: ArcSwap<Routes>,
    affinity: Option<Mutex<Affinity>>,
    counters: ServiceCounters,
}

/// The endpoints of a port, chosen for each policy by the rules of topology.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// Where connections go under the policy `Cluster`.
    pub cluster: Arc<[Arc<Endpoint>]>,
    /// Where they go under the policy `Local`.
    pub local: Arc<[Arc<Endpoint>]>,
    /// The policy of cluster IPs.
    pub internal: TrafficPolicy,
    /// The policy of all other fronts for traffic from outside of the cluster.
    pub external: TrafficPolicy,
}

/// A traffic policy of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster.
    #[default]
    Cluster,
    /// Endpoints of this node only.
    Local,
}

/// One endpoint of a port of a Service. Kept over changes of the routes, for its counters' sake.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    counters: EndpointCounters,
}

/// What has come to a port of a Service.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    /// Connections and UDP flows that were given an endpoint.
    pub balanced: AtomicU64,
    /// Those refused since there was none.
    pub refused: AtomicU64,
    /// Those dropped by a policy or a source range.
    pub dropped: AtomicU64,
}

/// What went to an endpoint.
#[derive(Debug, Default)]
pub struct EndpointCounters {
    /// Connections and UDP flows that were established.
    pub connections: AtomicU64,
    /// Those that were not: refused, unreachable, timed out.
    pub errors: AtomicU64,
    /// Bytes from clients to the endpoint.
    pub received_bytes: AtomicU64,
    /// Bytes from the endpoint to clients.
    pub sent_bytes: AtomicU64,
    /// Nanoseconds that establishing took, in sum.
    pub connect_nanoseconds: AtomicU64,
}

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// A pod, of this node or another one.
    Pod(IpAddr),
    /// The node itself.
    Node,
    /// Anyone else.
    Outside(IpAddr),
}

/// Where a connection goes.
#[derive(Debug, Clone)]
pub enum Decision {
    /// The address is no Service's.
    NotService,
    /// To this endpoint of this port.
    Endpoint(Arc<ServicePort>, Arc<Endpoint>),
    /// Nowhere, and the client is told at once.
    Refuse,
    /// Nowhere, and the client hears nothing.
    Drop,
}

/// The Services of a fabric. Read without locks.
#[derive(Debug, Default)]
pub struct ServiceTable {
    fronts: ArcSwap<Fronts>,
}

impl ServiceTable {
    /// Replaces all fronts at once.
    pub fn set_fronts(&self, fronts: Fronts) {
        self.fronts.store(Arc::new(fronts));
    }

    /// Returns the fronts there are now.
    pub fn fronts(&self) -> Arc<Fronts> {
        self.fronts.load_full()
    }

    /// Decides where a connection or a new UDP flow of `client` to `to` goes, counts it, and keeps it
    /// in mind where the Service has session affinity.
    pub fn decide(
        &self,
        protocol: Protocol,
        to: SocketAddr,
        client: Client,
        now: Instant,
    ) -> Decision {
        self.decide_again(protocol, to, client, now, &[])
    }

    /// Decides like [`ServiceTable::decide`] for a connection that the endpoints in `tried` did not
    /// take: refused when there is no other.
    pub fn decide_again(
        &self,
        protocol: Protocol,
        to: SocketAddr,
        client: Client,
        now: Instant,
        tried: &[SocketAddr],
    ) -> Decision {
        let fronts = self.fronts.load();
        match fronts.find(protocol, to) {
            Some(front) => front.decide(client, now, tried),
            None if fronts.is_owned(to.ip()) => Decision::Refuse,
            None => Decision::NotService,
        }
    }

    /// Returns the fronts there are now, for a short look: no count that all threads share is touched.
    pub(crate) fn current(&self) -> Guard<Arc<Fronts>> {
        self.fronts.load()
    }

    /// Tells whether an address is only a Service's.
    pub(crate) fn is_owned(&self, ip: IpAddr) -> bool {
        self.fronts.load().is_owned(ip)
    }
}

impl Fronts {
    /// Returns no fronts, with the ranges in which only Services have addresses and the addresses of
    /// the node.
    pub fn new(ranges: Vec<IpNet>, node: impl IntoIterator<Item = IpAddr>) -> Fronts {
        Fronts {
            ranges,
            node: node.into_iter().collect(),
            ..Fronts::default()
        }
    }

    /// Adds a front; the first one at an address stays.
    pub fn insert(&mut self, address: FrontAddress, front: Front) {
        let ip = address.ip.map(|ip| ip.to_canonical());
        self.owned.extend(ip.filter(|ip| !ip.is_unspecified()));
        let address = FrontAddress { ip, ..address };
        self.by_address.entry(address).or_insert(front);
    }

    /// Returns the front at an address, the address' own before one on all of the node.
    pub fn find(&self, protocol: Protocol, to: SocketAddr) -> Option<&Front> {
        let ip = to.ip().to_canonical();
        let port = to.port();
        let at = |ip| self.by_address.get(&FrontAddress { ip, port, protocol });
        if let Some(front) = at(Some(ip)) {
            return Some(front);
        }
        if !self.node.contains(&ip) {
            return None;
        }
        at(Some(all_of_family(ip))).or_else(|| at(None))
    }

    /// Tells whether a front on all addresses of the node is the one at this address of it: not where the
    /// address' family has a front of its own.
    pub fn is_meant(&self, front: FrontAddress, ip: IpAddr) -> bool {
        let of_family = FrontAddress {
            ip: Some(all_of_family(ip)),
            ..front
        };
        front.ip.is_some() || !self.by_address.contains_key(&of_family)
    }

    /// Returns all fronts.
    pub fn iter(&self) -> impl Iterator<Item = (&FrontAddress, &Front)> {
        self.by_address.iter()
    }

    /// Tells whether an address is only a Service's, so that nothing else can be meant by it.
    pub fn is_owned(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        // A node's own address may be an external one of a Service too, and serves other things.
        (self.owned.contains(&ip) && !self.node.contains(&ip))
            || self.ranges.iter().any(|range| range.contains(&ip))
    }
}

/// Returns what stands for all addresses of an address' family.
fn all_of_family(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Front {
    /// Decides where a connection of `client` goes; endpoints in `tried` did not take it.
    pub fn decide(&self, client: Client, now: Instant, tried: &[SocketAddr]) -> Decision {
        if !self.admits(client) {
            self.service
                .counters
                .dropped
                .fetch_add(1, Ordering::Relaxed);
            return Decision::Drop;
        }
        self.service.decide(self.kind, client, now, tried)
    }

    fn admits(&self, client: Client) -> bool {
        let (Some(ranges), Client::Pod(ip) | Client::Outside(ip)) = (&self.source_ranges, client)
        else {
            return true;
        };
        let ip = ip.to_canonical();
        ranges.iter().any(|range| range.contains(&ip))
    }
}

impl ServicePort {
    /// Returns a port without endpoints. With `affinity`, a client stays at its endpoint until it has
    /// not connected for so long.
    pub fn new(name: ServicePortName, affinity: Option<Duration>) -> ServicePort {
        ServicePort {
            name,
            routes: ArcSwap::default(),
            affinity: affinity.map(|timeout| Mutex::new(Affinity::new(timeout))),
            counters: ServiceCounters::default(),
        }
    }

    /// Returns the port's name.
    pub fn name(&self) -> &ServicePortName {
        &self.name
    }

    /// Returns for how long a client stays at its endpoint, nothing without affinity.
    pub fn affinity(&self) -> Option<Duration> {
        Some(self.affinity.as_ref()?.lock().timeout())
    }

    /// Replaces the routes. Established connections stay.
    pub fn set_routes(&self, routes: Routes) {
        self.routes.store(Arc::new(routes));
    }

    /// Tells whether these are the routes of this moment.
    pub(crate) fn has_routes(&self, routes: &Arc<Routes>) -> bool {
        Arc::ptr_eq(&self.routes.load(), routes)
    }

    /// Returns the routes of this moment.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// Returns what has come to the port.
    pub fn counters(&self) -> &ServiceCounters {
        &self.counters
    }

    fn decide(
        self: &Arc<Self>,
        kind: FrontKind,
        client: Client,
        now: Instant,
        tried: &[SocketAddr],
    ) -> Decision {
        let routes = self.routes.load();
        let policy = routes.policy(kind, client);
        let set = routes.set(policy);
        if set.is_empty() {
            let elsewhere = policy == TrafficPolicy::Local && !routes.cluster.is_empty();
            let (counter, decision) = if elsewhere {
                (&self.counters.dropped, Decision::Drop)
            } else {
                (&self.counters.refused, Decision::Refuse)
            };
            counter.fetch_add(1, Ordering::Relaxed);
            return decision;
        }
        let chosen = match &self.affinity {
            Some(affinity) => {
                let mut affinity = affinity.lock();
                affinity.choose(
                    client.ip(),
                    now,
                    || pick(set, tried),
                    |address| {
                        let kept = set.iter().find(|one| one.address == address);
                        kept.filter(|one| !tried.contains(&one.address)).cloned()
                    },
                )
            }
            None => pick(set, tried),
        };
        let Some(endpoint) = chosen else {
            return Decision::Refuse;
        };
        if tried.is_empty() {
            self.counters.balanced.fetch_add(1, Ordering::Relaxed);
        }
        Decision::Endpoint(Arc::clone(self), endpoint)
    }
}

/// Returns a random endpoint that was not tried yet.
fn pick(set: &[Arc<Endpoint>], tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
    let start = rand::rng().random_range(0..set.len());
    let (before, after) = set.split_at(start);
    let mut turn = after.iter().chain(before);
    turn.find(|one| !tried.contains(&one.address)).cloned()
}

impl Routes {
    /// Tells whether connections may still go to an endpoint: flows to one that is gone are flushed.
    pub fn serves(&self, address: SocketAddr) -> bool {
        let mut all = self.cluster.iter().chain(self.local.iter());
        all.any(|endpoint| endpoint.address == address)
    }

    fn policy(&self, kind: FrontKind, client: Client) -> TrafficPolicy {
        match (kind, client) {
            (FrontKind::ClusterIp, _) => self.internal,
            // Who is inside of the cluster reaches all endpoints by every road.
            (_, Client::Pod(_) | Client::Node) => TrafficPolicy::Cluster,
            (_, Client::Outside(_)) => self.external,
        }
    }

    fn set(&self, policy: TrafficPolicy) -> &[Arc<Endpoint>] {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }
}

impl Endpoint {
    /// Returns an endpoint that nothing went to yet.
    pub fn new(address: SocketAddr) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            address: SocketAddr::new(address.ip().to_canonical(), address.port()),
            counters: EndpointCounters::default(),
        })
    }

    /// Returns where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what went to it.
    pub fn counters(&self) -> &EndpointCounters {
        &self.counters
    }
}

impl Client {
    /// Returns the address by which a client is known again; whoever connects on the node is one client.
    fn ip(self) -> IpAddr {
        match self {
            Client::Pod(ip) | Client::Outside(ip) => ip,
            Client::Node => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl EndpointCounters {
    /// Adds bytes that went to the endpoint.
    pub(crate) fn add_received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that came from the endpoint.
    pub(crate) fn add_sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a connection that was established, or not, within `took`.
    pub fn count(&self, is_established: bool, took: Duration) {
        if !is_established {
            self.errors.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.connect_nanoseconds
            .fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl fmt::Debug for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServicePort")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
