//! Services and EndpointSlices in, what the network routes by out.
//!
//! A slice touches the [`Routes`] of its own Service and nothing else, so that a pod's readiness costs
//! the same with one Service and with ten thousand; of its Service it touches the endpoints that it names
//! (`roster`). A Service changes [`Fronts`], which are made anew
//! from all Services; whoever drives the compiler does that once for all changes that are there.
//! Ports and endpoints are kept over changes, with their counters and with the clients they have.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{
    Endpoint, Front, FrontAddress, FrontKind, Fronts, Routes, ServicePort, ServicePortName,
};
use ipnet::IpNet;

use crate::facts::{
    EndpointFacts, Family, PortFacts, ServiceFacts, ServiceKey, SliceFacts, SliceKey,
};
use crate::topology::{Candidate, Place};

mod roster;

use roster::{Outcome, Roster};

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
    /// The addresses of the node in any case.
    own_ips: Vec<IpAddr>,
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
    roster: Roster,
}

impl Compiler {
    /// Returns a compiler that knows nothing yet.
    pub(crate) fn new(ground: Ground, node: Option<String>) -> Compiler {
        let own_ips = ground.node_ips.clone();
        Compiler {
            ground,
            own_ips,
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
        let changes = self.services.values_mut().map(|entry| entry.route(place));
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
        let routed = entry.route(&self.place);
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
        let name = key.name.clone();
        self.owners.insert(key, owner);
        let before = entry.slices.insert(name.clone(), slice);
        left.max(entry.turn(&self.place, before.as_ref(), Some(&name)))
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
        let change = entry.turn(&self.place, Some(&gone), None);
        self.drop_if_empty(&owner);
        change
    }

    /// Says which addresses of the node serve node ports, beside those it has in any case.
    pub(crate) fn set_node_ips(&mut self, ips: impl IntoIterator<Item = IpAddr>) -> Change {
        let ground = &mut self.ground;
        let mut now = self.own_ips.clone();
        now.extend(ips);
        now.sort_unstable();
        now.dedup();
        match now == ground.node_ips {
            true => Change::Nothing,
            false => {
                ground.node_ips = now;
                Change::Fronts
            }
        }
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
            entry.add_fronts(&mut fronts);
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

    /// Routes all ports anew.
    fn route(&mut self, place: &Place) -> Change {
        let Some(service) = self.service.clone() else {
            return Change::Nothing;
        };
        let slices = &self.slices;
        let routed = self.ports.iter_mut().map(|compiled| {
            let name = compiled.port.name().clone();
            let entries = slices
                .values()
                .flat_map(|slice| entries(slice, compiled.family, &name, place));
            compiled.roster.renew(entries);
            compiled.route(&service)
        });
        routed.max().unwrap_or(Change::Nothing)
    }

    /// Routes by the slice of this name what was routed by `before`.
    fn turn(
        &mut self,
        place: &Place,
        before: Option<&SliceFacts>,
        after: Option<&String>,
    ) -> Change {
        let Some(service) = self.service.clone() else {
            return Change::Nothing;
        };
        let slices = &self.slices;
        let after = after.and_then(|name| slices.get(name));
        let routed = self.ports.iter_mut().map(|compiled| {
            let (family, name) = (compiled.family, compiled.port.name().clone());
            let of = |slice| entries(slice, family, &name, place);
            let outcome = compiled.roster.turn(
                before.into_iter().flat_map(of),
                after.into_iter().flat_map(of),
                || slices.values().flat_map(of),
            );
            match outcome {
                Outcome::Same => Change::Nothing,
                Outcome::Changed => compiled.route(&service),
            }
        });
        routed.max().unwrap_or(Change::Nothing)
    }

    fn add_fronts(&self, fronts: &mut Fronts) {
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
            // Every address of the node leads to the main family, unless the other one has it.
            let second = (main != Some(compiled.family)).then_some(match compiled.family {
                Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            });
            add(FrontKind::NodePort, second, node_port);
        }
    }
}

impl Compiled {
    fn new(family: Family, name: ServicePortName, affinity: Option<Duration>) -> Compiled {
        Compiled {
            family,
            port: Arc::new(ServicePort::new(name, affinity)),
            roster: Roster::default(),
        }
    }

    fn is(&self, family: Family, name: &ServicePortName) -> bool {
        self.family == family && self.port.name() == name
    }

    /// Chooses endpoints, and routes to them if they are others than before.
    fn route(&self, service: &ServiceFacts) -> Change {
        let before = self.port.routes();
        let (cluster, local) = self.roster.chosen();
        let same = |a: &[Arc<Endpoint>], b: &[Arc<Endpoint>]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        let policies = (service.internal, service.external);
        if same(&before.cluster, &cluster)
            && same(&before.local, &local)
            && (before.internal, before.external) == policies
        {
            return Change::Nothing;
        }
        let was = (before.cluster.is_empty(), before.local.is_empty());
        let is = (cluster.is_empty(), local.is_empty());
        self.port.set_routes(Routes {
            cluster: cluster.into(),
            local: local.into(),
            internal: service.internal,
            external: service.external,
        });
        match was == is {
            true => Change::Routes,
            false => Change::Reachability,
        }
    }
}

/// Returns what a slice says of the endpoints of a port.
fn entries<'a>(
    slice: &'a SliceFacts,
    family: Family,
    port: &'a ServicePortName,
    place: &'a Place,
) -> impl Iterator<Item = roster::Entry> + 'a {
    let is_meant = slice.is_proxied && slice.family == family;
    let ports = slice.ports.iter().filter(move |_| is_meant);
    let matching = ports.filter(|one| one.name == port.port && one.protocol == port.protocol);
    matching.flat_map(move |number| {
        let named = slice.endpoints.iter();
        named.map(move |one| {
            let address = SocketAddr::new(one.ip, number.port);
            (address, candidate(one).standing(place))
        })
    })
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
