//! Whether a pod fits on a node, and which node it gets. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kube::ResourceExt;

use super::{
    cluster::Cluster,
    view::{Amounts, ContainerView, NodeView, PodSpecView, Taint, Toleration},
};
use crate::quantity::Quantity;

/// A port of the host: address (empty for all), protocol, number.
type HostPort = (String, String, u16);

/// What a pod asks of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Demand {
    /// Thousandths of each resource.
    amounts: BTreeMap<String, i64>,
    host_ports: BTreeSet<HostPort>,
    selector: BTreeMap<String, String>,
    tolerations: Vec<Toleration>,
}

/// What is taken of a node.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pods: i64,
    amounts: HashMap<String, i64>,
    host_ports: HashMap<HostPort, u32>,
}

/// What a node offers.
#[derive(Debug, PartialEq)]
pub(super) struct NodeFacts {
    ready: bool,
    unschedulable: bool,
    labels: BTreeMap<String, String>,
    taints: Vec<(String, String, String)>,
    allocatable: BTreeMap<String, i64>,
}

/// Chooses the node with the fewest pods among those with room, or says why there is none.
pub(super) fn choose<'a>(cluster: &'a Cluster, demand: &Demand) -> Result<&'a str, String> {
    let total = cluster.nodes().len();
    if total == 0 {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let mut best: Option<(i64, &str)> = None;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for (name, node) in cluster.nodes() {
        let nothing = Usage::default();
        let used = cluster.used(name).unwrap_or(&nothing);
        let problems = node.problems(used, demand);
        if problems.is_empty() && best.is_none_or(|(pods, _)| used.pods < pods) {
            best = Some((used.pods, name));
        }
        problems
            .into_iter()
            .for_each(|problem| *reasons.entry(problem).or_default() += 1);
    }
    best.map(|(_, name)| name).ok_or_else(|| {
        let reasons: Vec<_> = reasons
            .into_iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        format!("0/{total} nodes are available: {}.", reasons.join(", "))
    })
}

impl Demand {
    /// Sums up what a pod's containers request.
    pub(super) fn of(spec: &PodSpecView) -> Demand {
        let containers = spec.init_containers.iter().chain(&spec.containers);
        let ports = containers.flat_map(|container| &container.ports);
        let host_ports = ports.filter_map(|port| {
            let number = port.host_port.filter(|&number| number != 0)?;
            let address = port.host_ip.clone().unwrap_or_default();
            let address = if address == "0.0.0.0" {
                String::new()
            } else {
                address
            };
            Some((
                address,
                port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                number,
            ))
        });
        Demand {
            amounts: requests(spec),
            host_ports: host_ports.collect(),
            selector: spec.node_selector.clone(),
            tolerations: spec.tolerations.clone(),
        }
    }

    fn tolerates(&self, (key, value, effect): &(String, String, String)) -> bool {
        self.tolerations.iter().any(|toleration| {
            let exists = toleration.operator.as_deref() == Some("Exists");
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let same_key = match text(&toleration.key) {
                none if none.is_empty() => exists,
                wanted => wanted == *key,
            };
            let same_value = exists || text(&toleration.value) == *value;
            let wanted = text(&toleration.effect);
            same_key && same_value && (wanted.is_empty() || wanted == *effect)
        })
    }
}

/// Containers run together, init containers one after the other beside the sidecars before them.
fn requests(spec: &PodSpecView) -> BTreeMap<String, i64> {
    let mut together = BTreeMap::new();
    spec.containers
        .iter()
        .for_each(|container| add(&mut together, amounts(container)));
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::new());
    for container in &spec.init_containers {
        let mut now = sidecars.clone();
        add(&mut now, amounts(container));
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.clone_from(&now);
        }
        raise(&mut peak, now);
    }
    add(&mut together, sidecars);
    raise(&mut together, peak);
    add(&mut together, thousandths(&spec.overhead));
    together
}

fn amounts(container: &ContainerView) -> BTreeMap<String, i64> {
    thousandths(&container.resources.requests)
}

fn thousandths(amounts: &Amounts) -> BTreeMap<String, i64> {
    let read = |text: &String| Quantity::parse(text).map_or(0, Quantity::milli);
    amounts
        .iter()
        .map(|(name, text)| (name.clone(), read(text)))
        .collect()
}

fn add(sum: &mut BTreeMap<String, i64>, more: BTreeMap<String, i64>) {
    for (name, amount) in more {
        let slot = sum.entry(name).or_default();
        *slot = slot.saturating_add(amount);
    }
}

fn raise(peak: &mut BTreeMap<String, i64>, other: BTreeMap<String, i64>) {
    for (name, amount) in other {
        let slot = peak.entry(name).or_default();
        *slot = amount.max(*slot);
    }
}

impl Usage {
    pub(super) fn add(&mut self, demand: &Demand) {
        self.pods += 1;
        for (name, amount) in &demand.amounts {
            let slot = self.amounts.entry(name.clone()).or_default();
            *slot = slot.saturating_add(*amount);
        }
        for port in &demand.host_ports {
            *self.host_ports.entry(port.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, demand: &Demand) {
        self.pods -= 1;
        for (name, amount) in &demand.amounts {
            if let Some(slot) = self.amounts.get_mut(name) {
                *slot = slot.saturating_sub(*amount);
            }
        }
        for port in &demand.host_ports {
            if let Some(count) = self.host_ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.host_ports.remove(port);
                }
            }
        }
    }

    /// Says whether a port is taken; no address stands for all of them.
    fn conflicts(&self, (address, protocol, number): &HostPort) -> bool {
        self.host_ports
            .keys()
            .any(|(taken, taken_protocol, taken_number)| {
                let overlap = taken == address || taken.is_empty() || address.is_empty();
                overlap && taken_protocol == protocol && taken_number == number
            })
    }
}

impl NodeFacts {
    pub(super) fn of(node: &NodeView) -> NodeFacts {
        let status = node.status.clone().unwrap_or_default();
        let ready = |condition: &super::view::Condition| {
            condition.kind == "Ready" && condition.status == "True"
        };
        let hard = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        let taint = |taint: &Taint| {
            (
                taint.key.clone(),
                taint.value.clone().unwrap_or_default(),
                taint.effect.clone(),
            )
        };
        NodeFacts {
            ready: status.conditions.iter().any(ready),
            unschedulable: node.spec.unschedulable,
            labels: node.labels().clone(),
            taints: node.spec.taints.iter().filter(hard).map(taint).collect(),
            allocatable: thousandths(&status.allocatable),
        }
    }

    /// Returns why a pod cannot go here, in Kubernetes' words; empty if it can.
    fn problems(&self, used: &Usage, demand: &Demand) -> Vec<String> {
        let first = if self.unschedulable {
            Some("node(s) were unschedulable")
        } else if !self.ready {
            Some("node(s) were not ready")
        } else if self.taints.iter().any(|taint| !demand.tolerates(taint)) {
            Some("node(s) had untolerated taint(s)")
        } else if demand
            .selector
            .iter()
            .any(|(key, value)| self.labels.get(key) != Some(value))
        {
            Some("node(s) didn't match Pod's node affinity/selector")
        } else if demand.host_ports.iter().any(|port| used.conflicts(port)) {
            Some("node(s) didn't have free ports for the requested pod ports")
        } else {
            None
        };
        if let Some(problem) = first {
            return vec![problem.to_owned()];
        }
        let mut problems = Vec::new();
        if (used.pods + 1).saturating_mul(1000) > self.offer("pods") {
            problems.push("Too many pods".to_owned());
        }
        for (name, wanted) in demand.amounts.iter().filter(|(_, wanted)| **wanted > 0) {
            let taken = used.amounts.get(name).copied().unwrap_or(0);
            if taken.saturating_add(*wanted) > self.offer(name) {
                problems.push(format!("Insufficient {name}"));
            }
        }
        problems
    }

    fn offer(&self, resource: &str) -> i64 {
        self.allocatable.get(resource).copied().unwrap_or(0)
    }
}
