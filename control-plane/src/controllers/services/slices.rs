//! Decides which slices a Service needs: what is there → what to write. Pure.
//!
//! An endpoint stays in the slice that it is in, and as few slices as possible are written: first
//! those that change anyway are filled up, then one that has room for all the rest, then new ones
//! (contract F.5).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    pod::{NamedPort, NodeFacts, PodFacts},
    seen::{Extras, Labels, Version},
    service::{Distribution, Family, ServiceFacts},
    slice::{
        Conditions, Endpoint, EndpointId, HEADLESS, Hints, MANAGED_BY, MANAGER, PodName,
        SERVICE_NAME, Slice, SlicePort,
    },
};

/// So many endpoints are in one slice, as by the stock controller.
pub(super) const ENDPOINTS_MAX: usize = 100;

/// What a plan is made from.
pub(super) struct Observed<'a> {
    pub(super) name: &'a str,
    pub(super) service: &'a ServiceFacts,
    /// The pods that it selects, in the order of their names.
    pub(super) pods: Vec<(&'a Arc<str>, &'a PodFacts)>,
    pub(super) nodes: &'a HashMap<Arc<str>, NodeFacts>,
    /// Its slices, in the order of their names.
    pub(super) slices: Vec<&'a Slice>,
}

/// What has to be written so that the slices are right.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) creates: Vec<Slice>,
    pub(super) updates: Vec<Slice>,
    /// By name.
    pub(super) deletes: Vec<Arc<str>>,
}

/// Endpoints with the same ports, which are together in slices.
struct Group<'a> {
    ports: Vec<SlicePort>,
    endpoints: Vec<Endpoint>,
    slices: Vec<&'a Slice>,
}

/// A slice and the endpoints that it shall have, by their places in the group.
struct Filled<'a> {
    slice: &'a Slice,
    endpoints: Vec<usize>,
    changed: bool,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.creates.is_empty() && self.updates.is_empty() && self.deletes.is_empty()
    }
}

/// Plans the slices of a Service that selects pods.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let service = observed.service;
    let is_ours = |slice: &&Slice| {
        let family = slice.family;
        slice.is_owned_by(&service.uid) && family.is_some_and(|one| service.families.contains(&one))
    };
    let known = observed
        .slices
        .iter()
        .copied()
        .filter(|slice| !slice.deleting);
    let (ours, others): (Vec<_>, Vec<_>) = known.partition(is_ours);
    let mut families = service.families.clone();
    families.dedup();
    for family in families {
        let slices = ours.iter().copied();
        let slices = slices
            .filter(|slice| slice.family == Some(family))
            .collect();
        plan_family(observed, family, slices, &mut plan);
    }
    let others = others.into_iter().filter_map(|slice| slice.name.clone());
    plan.deletes.extend(others);
    plan
}

fn plan_family(observed: &Observed<'_>, family: Family, slices: Vec<&Slice>, plan: &mut Plan) {
    let mut groups = groups(observed, family);
    let mut deletes = Vec::new();
    for slice in slices {
        match groups.get_mut(&slice.ports) {
            Some(group) => group.slices.push(slice),
            None => deletes.push(slice),
        }
    }
    if groups.is_empty() {
        groups.insert(Vec::new(), placeholder(&mut deletes));
    }
    let template = Slice {
        name: None,
        version: Version::default(),
        labels: labels(observed.name, observed.service),
        extras: Extras {
            owner_references: vec![observed.service.owner(observed.name)],
            ..Extras::default()
        },
        family: Some(family),
        ports: Vec::new(),
        endpoints: Vec::new(),
        deleting: false,
    };
    let mut creates = Vec::new();
    for group in groups.into_values() {
        plan_group(&group, &template, (&mut creates, &mut deletes), plan);
    }
    // A slice that would go is written anew rather than deleted beside a new one.
    while !deletes.is_empty()
        && let Some(mut create) = creates.pop()
    {
        let reused = deletes.remove(0);
        create.name.clone_from(&reused.name);
        create.version.clone_from(&reused.version);
        plan.updates.push(create);
    }
    // What is made for a Service that is going would only have to be collected.
    if !observed.service.deleting {
        plan.creates.extend(creates);
    }
    let names = deletes.iter().filter_map(|slice| slice.name.clone());
    plan.deletes.extend(names);
}

/// Without endpoints there is still one slice, which says that somebody has looked.
fn placeholder<'a>(unwanted: &mut Vec<&'a Slice>) -> Group<'a> {
    let empty = |slice: &&Slice| slice.ports.is_empty() && slice.endpoints.is_empty();
    let known = unwanted.iter().position(empty);
    Group {
        ports: Vec::new(),
        endpoints: Vec::new(),
        slices: known.map(|at| unwanted.remove(at)).into_iter().collect(),
    }
}

fn plan_group<'a>(
    group: &Group<'a>,
    template: &Slice,
    (creates, deletes): (&mut Vec<Slice>, &mut Vec<&'a Slice>),
    plan: &mut Plan,
) {
    let draft = |places: &[usize]| Slice {
        ports: group.ports.clone(),
        endpoints: places
            .iter()
            .map(|&at| group.endpoints[at].clone())
            .collect(),
        ..template.clone()
    };
    if group.endpoints.is_empty() && group.slices.is_empty() {
        return creates.push(draft(&[]));
    }
    let (filled, empty, rest) = fill(group, &template.labels);
    deletes.extend(empty);
    creates.extend(rest.chunks(ENDPOINTS_MAX).map(draft));
    let changed = filled.iter().filter(|one| one.changed);
    plan.updates.extend(changed.map(|one| Slice {
        name: one.slice.name.clone(),
        version: one.slice.version.clone(),
        extras: one.slice.extras.clone(),
        ..draft(&one.endpoints)
    }));
}

/// Puts endpoints into slices. Returns the slices, those that nothing is left in, and what has no
/// place in any.
fn fill<'a>(group: &Group<'a>, labels: &Labels) -> (Vec<Filled<'a>>, Vec<&'a Slice>, Vec<usize>) {
    let wanted = group.endpoints.iter().enumerate();
    let mut places: HashMap<EndpointId<'_>, usize> = wanted
        .map(|(place, endpoint)| (endpoint.id(), place))
        .collect();
    let (mut filled, mut empty) = (Vec::new(), Vec::new());
    for &slice in &group.slices {
        let mut changed = slice.labels != *labels;
        let mut endpoints = Vec::with_capacity(slice.endpoints.len());
        for endpoint in &slice.endpoints {
            match places.remove(&endpoint.id()) {
                Some(place) => {
                    changed |= group.endpoints[place] != *endpoint;
                    endpoints.push(place);
                }
                None => changed = true,
            }
        }
        match endpoints.is_empty() && !slice.endpoints.is_empty() {
            true => empty.push(slice),
            false => filled.push(Filled {
                slice,
                endpoints,
                changed,
            }),
        }
    }
    let mut rest: Vec<usize> = places.into_values().collect();
    rest.sort_unstable();
    let mut rest = rest.into_iter();
    let mut changed: Vec<_> = filled.iter_mut().filter(|one| one.changed).collect();
    changed.sort_by_key(|one| std::cmp::Reverse(one.endpoints.len()));
    for one in changed {
        let room = ENDPOINTS_MAX.saturating_sub(one.endpoints.len());
        one.endpoints.extend(rest.by_ref().take(room));
    }
    let mut rest: Vec<usize> = rest.collect();
    // What a new slice would not be full of may fit into one that would stay as it is.
    let tail = rest.len() % ENDPOINTS_MAX;
    if tail > 0 {
        let fitting = filled
            .iter_mut()
            .filter(|one| !one.changed && one.endpoints.len() + tail <= ENDPOINTS_MAX);
        if let Some(fullest) = fitting.max_by_key(|one| one.endpoints.len()) {
            fullest.endpoints.extend(rest.drain(rest.len() - tail..));
            fullest.changed = true;
        }
    }
    (filled, empty, rest)
}

/// Sorts the endpoints of a family by their ports.
fn groups<'a>(observed: &Observed<'a>, family: Family) -> BTreeMap<Vec<SlicePort>, Group<'a>> {
    let mut groups: BTreeMap<Vec<SlicePort>, Group<'a>> = BTreeMap::new();
    // Pods made from one template share their ports, so these are looked up once for all of them.
    let mut ports_of: HashMap<*const NamedPort, Vec<SlicePort>> = HashMap::new();
    for &(name, pod) in &observed.pods {
        let Some(endpoint) = endpoint(observed, family, name, pod) else {
            continue;
        };
        let ports = ports_of
            .entry(pod.ports.as_ptr())
            .or_insert_with(|| ports(observed.service, pod));
        match groups.get_mut(ports) {
            Some(group) => group.endpoints.push(endpoint),
            None => {
                let group = Group {
                    ports: ports.clone(),
                    endpoints: vec![endpoint],
                    slices: Vec::new(),
                };
                groups.insert(ports.clone(), group);
            }
        }
    }
    groups
}

/// Returns the ports of a Service in a pod; one that the pod does not have is left out.
pub(super) fn ports(service: &ServiceFacts, pod: &PodFacts) -> Vec<SlicePort> {
    let ports = service.ports.iter().filter_map(|port| {
        Some(SlicePort {
            name: Some(port.name.clone()),
            protocol: Some(port.protocol.clone()),
            port: Some(port.in_pod(pod)?),
            app_protocol: port.app_protocol.clone(),
        })
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort();
    ports
}

/// Returns a pod as an endpoint, unless it is none.
fn endpoint(
    observed: &Observed<'_>,
    family: Family,
    name: &Arc<str>,
    pod: &PodFacts,
) -> Option<Endpoint> {
    let service = observed.service;
    let node = observed.nodes.get(&pod.node);
    // Where a node is unknown, so is its zone: the pod waits for its node to be seen.
    if node.is_none() && !service.publishes_unready {
        return None;
    }
    let addresses = pod.addresses.iter().copied();
    let addresses: Vec<_> = addresses.filter(|address| family.has(*address)).collect();
    if addresses.is_empty() {
        return None;
    }
    let ready = service.publishes_unready || (pod.ready && !pod.terminating);
    let mut endpoint = Endpoint {
        addresses,
        pod: Some(PodName {
            name: Arc::clone(name),
            uid: Arc::clone(&pod.uid),
        }),
        node: Some(Arc::clone(&pod.node)).filter(|node| !node.is_empty()),
        zone: node.and_then(|node| node.zone.clone()),
        hostname: hostname(observed.name, pod),
        conditions: Conditions {
            ready: Some(ready),
            serving: Some(pod.ready),
            terminating: Some(pod.terminating),
        },
        hints: None,
    };
    endpoint.hints = hints(service.distribution, &endpoint);
    Some(endpoint)
}

/// Returns a pod's name among the pods of a Service, if the Service is the pod's subdomain.
pub(super) fn hostname(service: &str, pod: &PodFacts) -> Option<Arc<str>> {
    let host = pod.host.as_ref()?;
    (*host.subdomain == *service).then(|| Arc::clone(&host.name))
}

/// Only who is ready is recommended to anyone.
fn hints(distribution: Distribution, endpoint: &Endpoint) -> Option<Box<Hints>> {
    if distribution == Distribution::Anywhere || endpoint.conditions.ready != Some(true) {
        return None;
    }
    let nodes = endpoint
        .node
        .iter()
        .filter(|_| distribution == Distribution::SameNode);
    let hints = Hints {
        zones: endpoint.zone.iter().cloned().collect(),
        nodes: nodes.cloned().collect(),
    };
    (hints != Hints::default()).then(|| Box::new(hints))
}

/// Returns the labels of a Service's slices: its own, and those that tell what they are.
fn labels(name: &str, service: &ServiceFacts) -> Labels {
    let mut labels = service.labels.clone();
    labels.remove(HEADLESS);
    if service.is_headless() {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

#[cfg(test)]
mod tests;
