//! Whether a pod fits on a node, which node it gets, and what is said if there is none. Pure.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use super::{
    cluster::{Cluster, Course, Load, Nominee, Placed, PodKey},
    facts::{NodeFacts, PodFacts},
    score,
    terms::Labels,
    topology::Topology,
    view::Taint,
};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// A pod that looks for a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) key: &'a PodKey,
    pub(super) facts: &'a PodFacts,
}

/// Why a pod cannot go to a node, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    text: Cow<'static, str>,
    remedy: Remedy,
}

/// What could help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Fewer pods on the node.
    FewerPods,
    Nothing,
}

/// Why a pod fits nowhere.
#[derive(Debug, Default)]
pub(super) struct Unfit {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
    /// Nodes where fewer pods could help.
    pub(super) crowded: Vec<Arc<str>>,
}

impl Problem {
    /// One that removing pods may solve.
    pub(super) fn passing(text: &'static str) -> Problem {
        Problem {
            text: Cow::Borrowed(text),
            remedy: Remedy::FewerPods,
        }
    }

    /// One that stays whoever leaves.
    pub(super) fn lasting(text: &'static str) -> Problem {
        Problem {
            text: Cow::Borrowed(text),
            remedy: Remedy::Nothing,
        }
    }
}

impl Taint {
    /// Says whether it keeps pods away; otherwise it only makes a node less attractive.
    pub(super) fn is_hard(&self) -> bool {
        matches!(self.effect.as_str(), "NoSchedule" | "NoExecute")
    }
}

impl Unfit {
    /// Adds one node's answer, or that of preemption on it.
    pub(super) fn add<'t>(&mut self, reasons: impl IntoIterator<Item = &'t str>) {
        self.nodes += 1;
        for reason in reasons {
            *self.reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }

    fn add_problems(&mut self, node: &Arc<str>, problems: &[Problem]) {
        self.add(problems.iter().map(|problem| problem.text.as_ref()));
        if problems.iter().all(|one| one.remedy == Remedy::FewerPods) {
            self.crowded.push(Arc::clone(node));
        }
    }

    /// Returns the sentence that Kubernetes would say.
    pub(super) fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let reasons = self.reasons.iter();
        let mut reasons: Vec<_> = reasons
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        // As texts, so 10 comes before 2: clients compare the whole sentence.
        reasons.sort();
        let (total, reasons) = (self.nodes, reasons.join(", "));
        format!("0/{total} nodes are available: {reasons}.")
    }

    pub(super) fn has_nodes(&self) -> bool {
        self.nodes > 0
    }
}

/// Chooses the best node among those with room, or says why there is none.
pub(super) fn choose(cluster: &mut Cluster, pod: Candidate<'_>) -> Result<Arc<str>, Unfit> {
    let reserved = reserve(cluster, pod);
    let mut verdict = examine(cluster, pod);
    release(cluster, &reserved);
    // Room is only reserved: who needs company cannot count on pods that are not there yet.
    if !reserved.is_empty()
        && let Ok(fitting) = &verdict
    {
        verdict = examine(cluster, pod).map(|found| {
            let both = |node: &Arc<str>| fitting.contains(node);
            found.into_iter().filter(both).collect()
        });
    }
    let fitting = verdict?;
    let nominated = cluster.nominees.get(pod.key);
    match nominated.map(|nominee| &nominee.node) {
        Some(node) if fitting.contains(node) => Ok(Arc::clone(node)),
        _ => score::best(cluster, pod, &fitting).ok_or_else(Unfit::default),
    }
}

/// Says whether a pod fits on one node; room reserved for others counts as taken.
pub(super) fn fits_on(cluster: &mut Cluster, pod: Candidate<'_>, node: &str) -> Result<(), String> {
    let reserved = reserve(cluster, pod);
    let with = problems_on(cluster, pod, node);
    release(cluster, &reserved);
    let problems = match with {
        none if none.is_empty() && !reserved.is_empty() => problems_on(cluster, pod, node),
        found => found,
    };
    match problems.first() {
        None => Ok(()),
        Some(problem) => Err(problem.text.clone().into_owned()),
    }
}

/// Puts the pods on their nominated nodes that this one must leave room for.
fn reserve(cluster: &mut Cluster, pod: Candidate<'_>) -> Vec<PodKey> {
    let nominees = cluster.nominees.iter();
    let others: Vec<(PodKey, Nominee)> = nominees
        .filter(|(key, nominee)| *key != pod.key && nominee.facts.priority >= pod.facts.priority)
        .filter(|(key, _)| cluster.placed(key).is_none())
        .map(|(key, nominee)| (key.clone(), nominee.clone()))
        .collect();
    let mut reserved = Vec::with_capacity(others.len());
    for (key, nominee) in others {
        let placed = Placed {
            uid: nominee.uid,
            node: nominee.node,
            facts: nominee.facts,
            since: 0,
            course: Course::Assumed,
        };
        cluster.put(key.clone(), placed);
        reserved.push(key);
    }
    reserved
}

fn release(cluster: &mut Cluster, reserved: &[PodKey]) {
    for key in reserved {
        cluster.take(key);
    }
}

/// Returns the nodes that take the pod.
fn examine(cluster: &Cluster, pod: Candidate<'_>) -> Result<Vec<Arc<str>>, Unfit> {
    let topology = Topology::of(cluster, pod.key, pod.facts);
    let named = pod.facts.named_nodes();
    let (mut fitting, mut unfit) = (Vec::new(), Unfit::default());
    for (name, node) in &cluster.nodes {
        if named.as_ref().is_some_and(|named| !named.contains(&**name)) {
            unfit.add(["node(s) didn't satisfy plugin(s) [NodeAffinity]"]);
            continue;
        }
        let problems = problems(pod.facts, (name, node), cluster.load(name), &topology);
        match problems.is_empty() {
            true => fitting.push(Arc::clone(name)),
            false => unfit.add_problems(name, &problems),
        }
    }
    match fitting.is_empty() {
        true => Err(unfit),
        false => Ok(fitting),
    }
}

fn problems_on(cluster: &Cluster, pod: Candidate<'_>, name: &str) -> Vec<Problem> {
    let topology = Topology::of(cluster, pod.key, pod.facts);
    let Some(node) = cluster.nodes.get(name) else {
        return vec![Problem::lasting("node(s) are gone")];
    };
    problems(pod.facts, (name, node), cluster.load(name), &topology)
}

/// Returns why a pod cannot go to a node; empty if it can. The first check that fails is told.
fn problems(
    pod: &PodFacts,
    (name, node): (&str, &NodeFacts),
    load: Option<&Load>,
    topology: &Topology<'_>,
) -> Vec<Problem> {
    if let Some(problem) = node.refusal(pod).or_else(|| node.mismatch(pod, name)) {
        return vec![problem];
    }
    let nothing = Load::default();
    let usage = &load.unwrap_or(&nothing).usage;
    let mut ports = pod.demand.host_ports.iter();
    if ports.any(|port| usage.conflicts(port)) {
        let text = "node(s) didn't have free ports for the requested pod ports";
        return vec![Problem::passing(text)];
    }
    let scarce = node.scarce(pod, load.unwrap_or(&nothing));
    match scarce.is_empty() {
        false => scarce,
        true => topology.problem(pod, node).into_iter().collect(),
    }
}

impl NodeFacts {
    /// Returns why the node takes no pod, or not this one.
    fn refusal(&self, pod: &PodFacts) -> Option<Problem> {
        if self.unschedulable {
            let cordon = Taint {
                key: UNSCHEDULABLE_TAINT.to_owned(),
                value: None,
                effect: "NoSchedule".to_owned(),
            };
            if !pod.tolerates(&cordon) {
                return Some(Problem::lasting("node(s) were unschedulable"));
            }
        }
        let mut taints = self.taints.iter().filter(|taint| taint.is_hard());
        let taint = taints.find(|taint| !pod.tolerates(taint))?;
        let (key, value) = (&taint.key, taint.value.as_deref().unwrap_or_default());
        Some(Problem {
            text: format!("node(s) had untolerated taint {{{key}: {value}}}").into(),
            remedy: Remedy::Nothing,
        })
    }

    fn mismatch(&self, pod: &PodFacts, name: &str) -> Option<Problem> {
        let labels: &Labels = &self.labels;
        if !pod.admits(name, labels) {
            return Some(Problem::lasting(
                "node(s) didn't match Pod's node affinity/selector",
            ));
        }
        (!pod.reaches(name, labels))
            .then(|| Problem::lasting("node(s) didn't match PersistentVolume's node affinity"))
    }

    /// Returns the resources of which too little is left.
    fn scarce(&self, pod: &PodFacts, load: &Load) -> Vec<Problem> {
        let mut problems = Vec::new();
        if (load.usage.pods + 1).saturating_mul(1000) > self.offer("pods") {
            problems.push(Problem::passing("Too many pods"));
        }
        let amounts = pod.demand.amounts.iter();
        for (name, &wanted) in amounts.filter(|(_, wanted)| **wanted > 0) {
            let taken = load.usage.amount(name);
            if taken.saturating_add(wanted) > self.offer(name) {
                problems.push(Problem {
                    text: format!("Insufficient {name}").into(),
                    // More than the whole node has is not made free by anyone.
                    remedy: match wanted > self.offer(name) {
                        true => Remedy::Nothing,
                        false => Remedy::FewerPods,
                    },
                });
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests;
