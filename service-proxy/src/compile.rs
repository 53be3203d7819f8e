//! Services and EndpointSlices in, what the network routes by out.
//!
//! A slice touches the [`Routes`] of its own Service and nothing else, so that a pod's readiness costs
//! the same with one Service and with ten thousand. A Service changes [`Fronts`], which are made anew
//! from all Services; whoever drives the compiler does that once for all changes that are there.
//! Ports and endpoints are kept over changes, with their counters and with the clients they have.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{
    Endpoint, Front, FrontAddress, FrontKind, Fronts, Protocol, Routes, ServicePort,
    ServicePortName,
};
use ipnet::IpNet;

use crate::facts::{
    EndpointFacts, Family, PortFacts, ServiceFacts, ServiceKey, SliceFacts, SliceKey,
};
use crate::topology::{self, Candidate, Chosen, Place};

/// What a change asks of whoever drives the compiler; the greater one includes the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Nothing: routing is as it was.
    Nothing,
    /// Nothing more: routes were replaced.
    Routes,
    /// Listeners follow: a port got its first endpoint or lost its last one.
    Reachability,
    /// New fronts are to be made.
    Fronts,
}

/// Where Services are served beside their own addresses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ground {
    /// Ranges in which only Services have addresses.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// The addresses that node ports are served on.
    pub(crate) node_ips: Vec<IpAddr>,
}

/// Whether this node has endpoints of a Service, for load balancers that ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalHealth {
    /// Where they ask.
    pub(crate) port: u16,
    /// The ready endpoints on this node.
    pub(crate) local: usize,
}

/// Follows the facts and keeps what is made of them.
#[derive(Debug, Default)]
pub(crate) struct Compiler {
    ground: Ground,
    place: Place,
    services: BTreeMap<ServiceKey, Entry>,
    /// Whose each slice is: a slice's label may change.
    owners: HashMap<SliceKey, ServiceKey>,
}

/// A Service, its slices, or both: either may come first.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Arc<ServiceFacts>>,
    slices: BTreeMap<String, SliceFacts>,
    ports: Vec<Compiled>,
}

/// One port of one family and the endpoints that its slices name, usable or not.
#[derive(Debug)]
struct Compiled {
    family: Family,
    port: Arc<ServicePort>,
    /// By address.
    endpoints: Vec<Arc<Endpoint>>,
}

impl Compiler {
    /// Returns a compiler that knows nothing yet.
    pub(crate) fn new(ground: Ground, node: Option<String>) -> Compiler {
        Compiler {
            ground,
            place: Place { node, zone: None },
            ..Compiler::default()
        }
    }

    /// Takes note of the node's zone, on which all routes depend.
    pub(crate) fn set_zone(&mut self, zone: Option<String>) -> Change {
        if self.place.zone == zone {
            return Change::Nothing;
        }
        self.place.zone = zone;
        let place = &self.place;
        let changes = self
            .services
            .values_mut()
            .map(|entry| entry.route(place, None));
        changes.max().unwrap_or(Change::Nothing)
    }

    /// Takes a Service, new or changed.
    pub(crate) fn set_service(&mut self, service: Arc<ServiceFacts>) -> Change {
        let entry = self.services.entry(service.key.clone()).or_default();
        if entry.service.as_ref() == Some(&service) {
            return Change::Nothing;
        }
        let had_ports = !entry.ports.is_empty();
        entry.renew_ports(&service);
        entry.service = Some(service);
        let routed = entry.route(&self.place, None);
        match had_ports || !entry.ports.is_empty() {
            true => Change::Fronts,
            false => routed,
        }
    }

    /// Forgets a Service.
    pub(crate) fn remove_service(&mut self, key: &ServiceKey) -> Change {
        let Some(entry) = self.services.get_mut(key) else {
            return Change::Nothing;
        };
        entry.service = None;
        let ports = std::mem::take(&mut entry.ports);
        // Whoever still holds a front of it must be refused, not routed.
        for compiled in &ports {
            compiled.port.set_routes(Routes::default());
        }
        self.drop_if_empty(key);
        match ports.is_empty() {
            true => Change::Nothing,
            false => Change::Fronts,
        }
    }

    /// Takes a slice, new or changed.
    pub(crate) fn set_slice(&mut self, key: SliceKey, slice: SliceFacts) -> Change {
        let owner = slice.service.clone();
        let left = match self.owners.get(&key) {
            Some(before) if *before != owner => self.remove_slice(&key),
            Some(_) | None => Change::Nothing,
        };
        let entry = self.services.entry(owner.clone()).or_default();
        if entry.slices.get(&key.name) == Some(&slice) {
            return left;
        }
        let family = slice.family;
        let before = entry.slices.insert(key.name.clone(), slice);
        self.owners.insert(key, owner);
        let other = before
            .map(|slice| slice.family)
            .filter(|before| *before != family);
        let other = other.map_or(Change::Nothing, |other| {
            entry.route(&self.place, Some(other))
        });
        left.max(other).max(entry.route(&self.place, Some(family)))
    }

    /// Forgets a slice.
    pub(crate) fn remove_slice(&mut self, key: &SliceKey) -> Change {
        let Some(owner) = self.owners.remove(key) else {
            return Change::Nothing;
        };
        let Some(entry) = self.services.get_mut(&owner) else {
            return Change::Nothing;
        };
        let Some(gone) = entry.slices.remove(&key.name) else {
            return Change::Nothing;
        };
        let change = entry.route(&self.place, Some(gone.family));
        self.drop_if_empty(&owner);
        change
    }

    /// Returns the Services that a new list did not name: they are gone.
    pub(crate) fn services_beside(&self, named: &HashSet<ServiceKey>) -> Vec<ServiceKey> {
        let known = self.services.iter();
        let known = known.filter(|(_, entry)| entry.service.is_some());
        let gone = known.map(|(key, _)| key).filter(|key| !named.contains(key));
        gone.cloned().collect()
    }

    /// Returns the slices that a new list did not name.
    pub(crate) fn slices_beside(&self, named: &HashSet<SliceKey>) -> Vec<SliceKey> {
        let gone = self.owners.keys().filter(|key| !named.contains(key));
        gone.cloned().collect()
    }

    /// Makes the fronts of all Services.
    pub(crate) fn fronts(&self) -> Fronts {
        let node_ips = self.ground.node_ips.iter().copied();
        let mut fronts = Fronts::new(self.ground.service_cidrs.clone(), node_ips);
        for entry in self.services.values() {
            entry.add_fronts(&self.ground, &mut fronts);
        }
        fronts
    }

    /// Returns what is known of a Service.
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<&ServiceFacts> {
        self.services.get(key)?.service.as_deref()
    }

    /// Returns whose a slice is.
    pub(crate) fn owner(&self, key: &SliceKey) -> Option<&ServiceKey> {
        self.owners.get(key)
    }

    /// Returns the slices of a Service.
    pub(crate) fn slices(&self, key: &ServiceKey) -> impl Iterator<Item = &SliceFacts> {
        let entry = self.services.get(key);
        entry.into_iter().flat_map(|entry| entry.slices.values())
    }

    /// Returns what load balancers are told about a Service, if they ask.
    pub(crate) fn local_health(&self, key: &ServiceKey) -> Option<LocalHealth> {
        let entry = self.services.get(key)?;
        let service = entry
            .service
            .as_ref()
            .filter(|service| service.is_proxied())?;
        let port = service.health_port?;
        let slices = entry.slices.values().filter(|slice| slice.is_proxied);
        let mut local = slices
            .flat_map(|slice| &slice.endpoints)
            .filter(|one| one.condition.is_ready && candidate(one).is_local(&self.place))
            .map(|one| one.ip)
            .collect::<Vec<_>>();
        local.sort_unstable();
        local.dedup();
        Some(LocalHealth {
            port,
            local: local.len(),
        })
    }

    fn drop_if_empty(&mut self, key: &ServiceKey) {
        let is_empty = |entry: &Entry| entry.service.is_none() && entry.slices.is_empty();
        if self.services.get(key).is_some_and(is_empty) {
            self.services.remove(key);
        }
    }
}

impl Entry {
    /// Makes the ports that the Service has, from those it had where they are the same.
    fn renew_ports(&mut self, service: &ServiceFacts) {
        let mut before = std::mem::take(&mut self.ports);
        let families = service.cluster_ips.iter().map(|ip| Family::of(*ip));
        let families = families.filter(|_| service.is_proxied());
        let families = families.collect::<BTreeSet<_>>().into_iter();
        for (family, facts) in
            families.flat_map(|family| service.ports.iter().map(move |port| (family, port)))
        {
            let name = ServicePortName {
                namespace: service.key.namespace.clone(),
                service: service.key.name.clone(),
                port: facts.name.clone(),
                protocol: facts.protocol,
            };
            let kept = before.iter().position(|one| one.is(family, &name));
            let mut compiled = match kept {
                Some(place) => before.swap_remove(place),
                None => Compiled::new(family, name.clone(), service.affinity),
            };
            // A port's time of affinity is fixed; a new one begins with no clients.
            if compiled.port.affinity() != service.affinity {
                compiled.port = Arc::new(ServicePort::new(name, service.affinity));
            }
            self.ports.push(compiled);
        }
        for gone in before {
            gone.port.set_routes(Routes::default());
        }
    }

    /// Routes the ports anew, of one family or of all.
    fn route(&mut self, place: &Place, family: Option<Family>) -> Change {
        let Some(service) = &self.service else {
            return Change::Nothing;
        };
        let mut change = Change::Nothing;
        for compiled in &mut self.ports {
            if family.is_some_and(|family| family != compiled.family) {
                continue;
            }
            let before = compiled.port.routes();
            let (cluster, local) = compiled.endpoints_of(&self.slices, place);
            let same = |a: &[Arc<Endpoint>], b: &[Arc<Endpoint>]| {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            let policies = (service.internal, service.external);
            if same(&before.cluster, &cluster)
                && same(&before.local, &local)
                && (before.internal, before.external) == policies
            {
                continue;
            }
            let was = (before.cluster.is_empty(), before.local.is_empty());
            let is = (cluster.is_empty(), local.is_empty());
            change = change.max(match was == is {
                true => Change::Routes,
                false => Change::Reachability,
            });
            compiled.port.set_routes(Routes {
                cluster: cluster.into(),
                local: local.into(),
                internal: service.internal,
                external: service.external,
            });
        }
        change
    }

    fn add_fronts(&self, ground: &Ground, fronts: &mut Fronts) {
        let Some(service) = &self.service else {
            return;
        };
        let main = service.cluster_ips.first().map(|ip| Family::of(*ip));
        for compiled in &self.ports {
            let name = compiled.port.name();
            let same = |port: &&PortFacts| port.name == name.port && port.protocol == name.protocol;
            let Some(facts) = service.ports.iter().find(same) else {
                continue;
            };
            let mut add = |kind, ip, port| {
                let address = FrontAddress {
                    ip,
                    port,
                    protocol: facts.protocol,
                };
                let ranges = (kind == FrontKind::LoadBalancer).then_some(&service.source_ranges);
                let front = Front {
                    service: Arc::clone(&compiled.port),
                    kind,
                    source_ranges: ranges.cloned().flatten(),
                };
                fronts.insert(address, front);
            };
            let own = |ips: &[IpAddr]| {
                let own = ips.iter().copied();
                own.filter(|ip| Family::of(*ip) == compiled.family)
                    .collect::<Vec<_>>()
            };
            for (kind, ips) in [
                (FrontKind::ClusterIp, &service.cluster_ips),
                (FrontKind::ExternalIp, &service.external_ips),
                (FrontKind::LoadBalancer, &service.load_balancer_ips),
            ] {
                for ip in own(ips) {
                    add(kind, Some(ip), facts.port);
                }
            }
            let Some(node_port) = facts.node_port else {
                continue;
            };
            // Every address of the node leads to the main family; the other one has its own addresses.
            if main == Some(compiled.family) {
                add(FrontKind::NodePort, None, node_port);
            } else {
                for ip in own(&ground.node_ips) {
                    add(FrontKind::NodePort, Some(ip), node_port);
                }
            }
        }
    }
}

impl Compiled {
    fn new(family: Family, name: ServicePortName, affinity: Option<Duration>) -> Compiled {
        Compiled {
            family,
            port: Arc::new(ServicePort::new(name, affinity)),
            endpoints: Vec::new(),
        }
    }

    fn is(&self, family: Family, name: &ServicePortName) -> bool {
        self.family == family && self.port.name() == name
    }

    /// Returns the endpoints of the port for both policies, and keeps an endpoint for every address
    /// that a slice names, so that one which is not ready for a while is the same afterwards.
    fn endpoints_of(
        &mut self,
        slices: &BTreeMap<String, SliceFacts>,
        place: &Place,
    ) -> (Vec<Arc<Endpoint>>, Vec<Arc<Endpoint>>) {
        let name = self.port.name();
        let named = gather(slices, self.family, &name.port, name.protocol);
        let candidates = named
            .iter()
            .map(|(_, one)| candidate(one))
            .collect::<Vec<_>>();
        let Chosen { cluster, local } = topology::choose(&candidates, place);
        // Both are in the order of addresses: one walk through both finds who was there before.
        let mut before = std::mem::take(&mut self.endpoints).into_iter().peekable();
        let all = named.iter().map(|(address, _)| {
            while before.next_if(|one| one.address() < *address).is_some() {}
            let kept = before.next_if(|one| one.address() == *address);
            kept.unwrap_or_else(|| Endpoint::new(*address))
        });
        let all = all.collect::<Vec<_>>();
        let pick = |places: Vec<usize>| {
            let picked = places.into_iter().filter_map(|place| all.get(place));
            picked.cloned().collect::<Vec<_>>()
        };
        let sets = (pick(cluster), pick(local));
        self.endpoints = all;
        sets
    }
}

/// Returns the endpoints that slices name for a port, each address once and in a stable order.
fn gather<'a>(
    slices: &'a BTreeMap<String, SliceFacts>,
    family: Family,
    port: &str,
    protocol: Protocol,
) -> Vec<(SocketAddr, &'a EndpointFacts)> {
    let mut found = Vec::<(SocketAddr, &EndpointFacts)>::new();
    let slices = slices
        .values()
        .filter(|slice| slice.is_proxied && slice.family == family);
    for slice in slices {
        let matching = slice.ports.iter();
        let matching = matching.filter(|one| one.name == port && one.protocol == protocol);
        for number in matching.map(|one| one.port) {
            let named = slice.endpoints.iter();
            found.extend(named.map(|one| (SocketAddr::new(one.ip, number), one)));
        }
    }
    // Slices are in order within themselves more often than not, which a stable sort makes use of. Of
    // equal entries the first one stays, that is the one to be believed.
    found.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| rank(other).cmp(&rank(one))));
    found.dedup_by_key(|(address, _)| *address);
    found
}

/// Which of two entries for one address is believed: while a pod moves between slices, the old entry
/// may say less than the new one.
fn rank(one: &EndpointFacts) -> (bool, bool, bool) {
    let condition = one.condition;
    (
        condition.is_ready,
        !condition.is_terminating,
        condition.is_serving,
    )
}

fn candidate(one: &EndpointFacts) -> Candidate<'_> {
    Candidate {
        condition: one.condition,
        node: one.node.as_deref(),
        for_nodes: &one.for_nodes,
        for_zones: &one.for_zones,
    }
}

#[cfg(test)]
mod tests;
