//! What placement knows about one pod and about one node. Pure.
//!
//! Pods made from one template have equal facts, and equal facts are kept once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{Affinity, TopologySpreadConstraint};
use kube::ResourceExt;

use super::{
    terms::{Labels, NodeTerm, PodTerm, Selector},
    view::{
        Amounts, Condition, ContainerStatusView, ContainerView, NodeView, PodSpecView,
        PodStatusView, PodView, Taint, Toleration,
    },
};
use crate::{
    admission::{NOT_READY, UNREACHABLE},
    quantity::Quantity,
};

/// What a container without a request counts as when nodes are compared, in thousandths: 100m and
/// 200 MiB, as in the stock scheduler. Otherwise pods without requests would all go to one node.
const UNSTATED: [(&str, i64); 2] = [("cpu", 100), ("memory", 200 * 1024 * 1024 * 1000)];

/// A port of the host: address (empty for all), protocol, number.
type HostPort = (String, String, u16);

/// What placement looks at in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct PodFacts {
    pub(super) labels: Labels,
    pub(super) priority: i32,
    pub(super) preempts: Preempts,
    pub(super) demand: Demand,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) node_selector: Labels,
    /// None admits every node, no term admits none.
    pub(super) node_terms: Option<Vec<NodeTerm>>,
    pub(super) preferred_nodes: Vec<(i64, NodeTerm)>,
    /// Pods that must be near.
    pub(super) near: Vec<PodTerm>,
    /// Pods that must not be near.
    pub(super) apart: Vec<PodTerm>,
    /// Pods that better are near (positive weight) or not (negative).
    pub(super) preferred_pods: Vec<(i64, PodTerm)>,
    pub(super) spread: Vec<Spread>,
    /// The claims of its volumes.
    pub(super) claims: BTreeSet<String>,
    /// The nodes that reach the volumes of its claims: for each volume one of the terms holds.
    pub(super) reach: Vec<Vec<NodeTerm>>,
}

/// Whether a pod may push others off a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Preempts {
    #[default]
    LowerPriority,
    Never,
}

/// A limit on how unevenly pods lie over the parts of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spread {
    pub(super) topology_key: String,
    pub(super) selector: Option<Selector>,
    pub(super) max_skew: i64,
    pub(super) min_domains: usize,
    pub(super) strength: Strength,
    pub(super) honours_affinity: bool,
    pub(super) honours_taints: bool,
}

/// What an uneven spread means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Strength {
    DoNotSchedule,
    ScheduleAnyway,
}

/// What a pod takes of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Demand {
    /// Thousandths of each resource.
    pub(super) amounts: BTreeMap<String, i64>,
    /// The same for cpu and memory with [`UNSTATED`] where nothing is requested.
    pub(super) weights: [i64; 2],
    pub(super) host_ports: BTreeSet<HostPort>,
}

/// What is taken of a node.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) pods: i64,
    pub(super) weights: [i64; 2],
    amounts: HashMap<String, i64>,
    host_ports: HashMap<HostPort, u32>,
}

/// What a node offers.
#[derive(Debug, PartialEq)]
pub(super) struct NodeFacts {
    pub(super) unschedulable: bool,
    pub(super) labels: Labels,
    pub(super) taints: Vec<Taint>,
    allocatable: BTreeMap<String, i64>,
}

impl PodFacts {
    pub(super) fn of(pod: &PodView) -> PodFacts {
        let (spec, labels) = (&pod.spec, pod.labels());
        let no_status = PodStatusView::default();
        let never = spec.preemption_policy.as_deref() == Some("Never");
        let spread = spec.topology_spread_constraints.iter();
        let mut facts = PodFacts {
            labels: labels.clone(),
            priority: spec.priority.unwrap_or(0),
            preempts: match never {
                true => Preempts::Never,
                false => Preempts::LowerPriority,
            },
            demand: Demand::of(spec, pod.status.as_ref().unwrap_or(&no_status)),
            tolerations: spec.tolerations.clone(),
            node_selector: spec.node_selector.clone(),
            spread: spread.map(|one| Spread::of(one, labels)).collect(),
            claims: claims(spec),
            ..PodFacts::default()
        };
        if let Some(affinity) = &spec.affinity {
            facts.read_affinity(affinity);
        }
        facts
    }

    fn read_affinity(&mut self, affinity: &Affinity) {
        let own = &self.labels;
        if let Some(node) = &affinity.node_affinity {
            let required = &node.required_during_scheduling_ignored_during_execution;
            let terms = required.as_ref().map(|all| &all.node_selector_terms);
            self.node_terms = terms.map(|all| all.iter().map(NodeTerm::of).collect());
            let preferred = &node.preferred_during_scheduling_ignored_during_execution;
            let preferred = preferred.iter().flatten();
            self.preferred_nodes = preferred
                .map(|one| (i64::from(one.weight), NodeTerm::of(&one.preference)))
                .collect();
        }
        if let Some(near) = &affinity.pod_affinity {
            let required = &near.required_during_scheduling_ignored_during_execution;
            let required = required.iter().flatten();
            self.near = required.map(|term| PodTerm::of(term, own)).collect();
            let preferred = &near.preferred_during_scheduling_ignored_during_execution;
            for one in preferred.iter().flatten() {
                let term = PodTerm::of(&one.pod_affinity_term, own);
                self.preferred_pods.push((i64::from(one.weight), term));
            }
        }
        if let Some(apart) = &affinity.pod_anti_affinity {
            let required = &apart.required_during_scheduling_ignored_during_execution;
            let required = required.iter().flatten();
            self.apart = required.map(|term| PodTerm::of(term, own)).collect();
            let preferred = &apart.preferred_during_scheduling_ignored_during_execution;
            for one in preferred.iter().flatten() {
                let term = PodTerm::of(&one.pod_affinity_term, own);
                self.preferred_pods.push((-i64::from(one.weight), term));
            }
        }
    }

    /// Says whether the pod's selector and required node affinity admit a node.
    pub(super) fn admits(&self, name: &str, labels: &Labels) -> bool {
        let selected = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        let terms = self.node_terms.as_ref();
        self.node_selector.iter().all(selected)
            && terms.is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }

    /// Says whether a node reaches the volumes of the pod's claims.
    pub(super) fn reaches(&self, name: &str, labels: &Labels) -> bool {
        let mut volumes = self.reach.iter();
        volumes.all(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }

    /// Returns the only nodes that the terms' fields leave over, if every term names some.
    pub(super) fn named_nodes(&self) -> Option<BTreeSet<&str>> {
        let terms = self.node_terms.as_ref().filter(|terms| !terms.is_empty())?;
        let mut names = BTreeSet::new();
        for term in terms {
            names.extend(term.names()?);
        }
        Some(names)
    }

    pub(super) fn tolerates(&self, taint: &Taint) -> bool {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        self.tolerations.iter().any(|toleration| {
            let exists = toleration.operator.as_deref() == Some("Exists");
            let same_key = match text(&toleration.key) {
                none if none.is_empty() => exists,
                wanted => wanted == taint.key,
            };
            let same_value = exists || text(&toleration.value) == text(&taint.value);
            let wanted = text(&toleration.effect);
            same_key && same_value && (wanted.is_empty() || wanted == taint.effect)
        })
    }
}

impl Spread {
    pub(super) fn of(constraint: &TopologySpreadConstraint, own: &Labels) -> Spread {
        let keys = constraint.match_label_keys.as_ref();
        let selector = constraint.label_selector.as_ref();
        let hard = constraint.when_unsatisfiable != "ScheduleAnyway";
        let domains = constraint.min_domains.unwrap_or(1);
        Spread {
            topology_key: constraint.topology_key.clone(),
            selector: selector.map(|selector| Selector::of(selector).with_own(keys, own)),
            max_skew: i64::from(constraint.max_skew),
            min_domains: usize::try_from(domains).unwrap_or(1),
            strength: match hard {
                true => Strength::DoNotSchedule,
                false => Strength::ScheduleAnyway,
            },
            honours_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honours_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

impl Demand {
    /// Sums up what a pod's containers request, or have from their node while a resize is under way.
    fn of(spec: &PodSpecView, status: &PodStatusView) -> Demand {
        let given = Given::of(status);
        let requested = |container: &ContainerView| given.or_requested(container);
        let mut amounts = requests(spec, requested);
        for (name, amount) in thousandths(&spec.resources.requests) {
            if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
                amounts.insert(name, amount);
            }
        }
        let stated = UNSTATED.map(|(name, _)| spec.resources.requests.contains_key(name));
        let weighed = requests(spec, |container| {
            let mut amounts = requested(container);
            for (name, amount) in UNSTATED {
                amounts.entry(name.to_owned()).or_insert(amount);
            }
            amounts
        });
        let overhead = thousandths(&spec.overhead);
        add(&mut amounts, overhead.clone());
        let mut weights = [0; 2];
        for (index, (name, _)) in UNSTATED.into_iter().enumerate() {
            let of = |amounts: &BTreeMap<_, i64>| amounts.get(name).copied().unwrap_or(0);
            weights[index] = match stated[index] {
                true => of(&amounts),
                false => of(&weighed).saturating_add(of(&overhead)),
            };
        }
        Demand {
            amounts,
            weights,
            host_ports: host_ports(spec),
        }
    }
}

/// What a node has given a pod's containers, by their names.
struct Given<'s> {
    statuses: HashMap<&'s str, &'s ContainerStatusView>,
    /// Its node will never give it what it requests now.
    is_infeasible: bool,
}

impl<'s> Given<'s> {
    fn of(status: &'s PodStatusView) -> Given<'s> {
        let lists = [&status.container_statuses, &status.init_container_statuses];
        let statuses = lists.into_iter().flatten();
        let infeasible = |condition: &Condition| {
            condition.kind == "PodResizePending"
                && condition.reason.as_deref() == Some("Infeasible")
        };
        Given {
            statuses: statuses.map(|one| (one.name.as_str(), one)).collect(),
            is_infeasible: status.conditions.iter().any(infeasible),
        }
    }

    /// Whichever is most of what a container requests, was promised and has.
    fn or_requested(&self, container: &ContainerView) -> BTreeMap<String, i64> {
        let mut amounts = thousandths(&container.resources.requests);
        let Some(status) = self.statuses.get(container.name.as_str()) else {
            return amounts;
        };
        let has = |list: &Amounts, name| thousandths(list).get(name).copied().unwrap_or(0);
        for name in ["cpu", "memory"] {
            let promised = has(&status.allocated_resources, name);
            let given = promised.max(has(&status.resources.requests, name));
            if given == 0 {
                continue;
            }
            let amount = amounts.entry(name.to_owned()).or_default();
            *amount = if self.is_infeasible {
                given
            } else {
                given.max(*amount)
            };
        }
        amounts
    }
}

/// Containers run together, init containers one after the other beside the sidecars before them.
fn requests(
    spec: &PodSpecView,
    amounts: impl Fn(&ContainerView) -> BTreeMap<String, i64>,
) -> BTreeMap<String, i64> {
    let mut together = BTreeMap::new();
    spec.containers
        .iter()
        .for_each(|container| add(&mut together, amounts(container)));
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::new());
    for container in &spec.init_containers {
        let mut now = sidecars.clone();
        add(&mut now, amounts(container));
        if is_sidecar(container) {
            sidecars.clone_from(&now);
        }
        raise(&mut peak, now);
    }
    add(&mut together, sidecars);
    raise(&mut together, peak);
    together
}

fn claims(spec: &PodSpecView) -> BTreeSet<String> {
    let volumes = spec.volumes.iter();
    let claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims.map(|claim| claim.claim_name.clone()).collect()
}

fn is_sidecar(container: &ContainerView) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The host ports of what runs as long as the pod does.
fn host_ports(spec: &PodSpecView) -> BTreeSet<HostPort> {
    let sidecars = spec.init_containers.iter().filter(|one| is_sidecar(one));
    let ports = sidecars.chain(&spec.containers).flat_map(|one| &one.ports);
    let host_ports = ports.filter_map(|port| {
        let number = port.host_port.filter(|&number| number != 0)?;
        let address = port.host_ip.clone().unwrap_or_default();
        let address = match address.as_str() {
            "0.0.0.0" => String::new(),
            _ => address,
        };
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((address, protocol, number))
    });
    host_ports.collect()
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
        for (slot, weight) in self.weights.iter_mut().zip(demand.weights) {
            *slot = slot.saturating_add(weight);
        }
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
        for (slot, weight) in self.weights.iter_mut().zip(demand.weights) {
            *slot = slot.saturating_sub(weight);
        }
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

    pub(super) fn amount(&self, resource: &str) -> i64 {
        self.amounts.get(resource).copied().unwrap_or(0)
    }

    /// Says whether a port is taken; no address stands for all of them.
    pub(super) fn conflicts(&self, (address, protocol, number): &HostPort) -> bool {
        let ports = self.host_ports.keys();
        let mut same = ports.filter(|(_, other, port)| other == protocol && port == number);
        same.any(|(taken, ..)| taken == address || taken.is_empty() || address.is_empty())
    }
}

impl NodeFacts {
    pub(super) fn of(node: &NodeView) -> NodeFacts {
        let status = node.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|one| one.kind == "Ready");
        let mut taints = node.spec.taints.clone();
        // A stock cluster taints such nodes; where nobody does, they are no place for a pod either.
        let missing = match ready.map(|ready| ready.status.as_str()) {
            Some("True") => None,
            Some("Unknown") => Some(UNREACHABLE),
            _ => Some(NOT_READY),
        };
        if let Some(key) = missing
            && !taints.iter().any(|taint| taint.key == key)
        {
            taints.push(Taint {
                key: key.to_owned(),
                value: None,
                effect: "NoSchedule".to_owned(),
            });
        }
        NodeFacts {
            unschedulable: node.spec.unschedulable,
            labels: node.labels().clone(),
            taints,
            allocatable: thousandths(&status.allocatable),
        }
    }

    /// Says whether the node has not been ready since it joined, or is no longer.
    pub(super) fn is_not_ready(&self) -> bool {
        self.taints.iter().any(|taint| taint.key == NOT_READY)
    }

    /// Returns how much of a resource pods may take, in thousandths.
    pub(super) fn offer(&self, resource: &str) -> i64 {
        self.allocatable.get(resource).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value, expected: Value) {
        let spec: PodSpecView = serde_json::from_value(spec).expect("a spec");
        let found = serde_json::to_value(&Demand::of(&spec, &PodStatusView::default()).amounts)
            .expect("numbers");
        assert_eq!(found, expected);
    }

    fn container(cpu: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> Value {
        json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn a_pod_asks_for_the_most_it_ever_needs() {
        for (spec, cpu) in [
            (
                json!({"containers": [container("1"), container("500m")]}),
                1500,
            ),
            (
                json!({"initContainers": [container("4"), container("2")],
                    "containers": [container("1")]}),
                4000,
            ),
            (
                json!({"initContainers": [sidecar("1")], "containers": [container("1")]}),
                2000,
            ),
            // The init container before the sidecar runs alone, the one after beside it.
            (
                json!({"initContainers": [container("2"), sidecar("1"), container("2")],
                    "containers": [container("1")]}),
                3000,
            ),
            (
                json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}),
                1250,
            ),
            (
                json!({"containers": [container("1"), container("1")],
                    "resources": {"requests": {"cpu": "3"}}, "overhead": {"cpu": "1"}}),
                4000,
            ),
        ] {
            check(spec, json!({"cpu": cpu}));
        }
        check(
            json!({"containers": [{"resources": {"requests": {"x.io/gpu": "2"}}}]}),
            json!({"x.io/gpu": 2000}),
        );
    }

    #[test]
    fn only_what_lives_as_long_as_the_pod_holds_a_host_port() {
        let port = |number: u16| json!([{"hostPort": number, "hostIP": "0.0.0.0"}]);
        let spec = json!({"initContainers": [{"ports": port(1)},
            {"ports": port(2), "restartPolicy": "Always"}], "containers": [{"ports": port(3)}]});
        let spec: PodSpecView = serde_json::from_value(spec).expect("a spec");
        let ports = host_ports(&spec);
        let numbers: Vec<_> = ports.iter().map(|(_, _, number)| *number).collect();
        assert_eq!(numbers, [2, 3]);
        assert!(ports.iter().all(|(address, ..)| address.is_empty()));
    }

    #[test]
    fn tolerations_match_as_kubernetes_says() {
        let taint: Taint = serde_json::from_value(json!({"key": "a", "value": "b",
            "effect": "NoSchedule"}))
        .expect("a taint");
        for (toleration, expected) in [
            (
                json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}),
                true,
            ),
            (json!({"key": "a", "value": "b"}), true),
            (json!({"key": "a", "value": "c"}), false),
            (json!({"key": "a", "operator": "Exists"}), true),
            (
                json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}),
                false,
            ),
            (json!({"operator": "Exists"}), true),
            (json!({"value": "b"}), false),
            (json!({"key": "c", "operator": "Exists"}), false),
        ] {
            let facts = PodFacts {
                tolerations: vec![serde_json::from_value(toleration.clone()).expect("one")],
                ..PodFacts::default()
            };
            assert_eq!(facts.tolerates(&taint), expected, "{toleration}");
        }
    }
}
