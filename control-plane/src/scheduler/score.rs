//! Which of the nodes that take a pod is the best: weights and scales of the stock scheduler. Pure.

use std::sync::Arc;

use super::{
    cluster::Cluster,
    facts::{NodeFacts, PodFacts},
    fit::Candidate,
    topology::Topology,
};

/// The most that one consideration gives, before its weight.
const SCORE_MAX: i64 = 100;

const LEAST_ALLOCATED_WEIGHT: i64 = 1;
const NODE_AFFINITY_WEIGHT: i64 = 2;
const POD_AFFINITY_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;
const TAINT_WEIGHT: i64 = 3;

/// Returns the best node. Among equals it is the one with the fewest pods, then the first by name.
pub(super) fn best(
    cluster: &Cluster,
    pod: Candidate<'_>,
    fitting: &[Arc<str>],
) -> Option<Arc<str>> {
    if let [only] = fitting {
        return Some(Arc::clone(only));
    }
    let topology = Topology::of(cluster, pod.key, pod.facts);
    let known = |name: &Arc<str>| Some((Arc::clone(name), cluster.nodes.get(name)?));
    let nodes: Vec<(Arc<str>, &NodeFacts)> = fitting.iter().filter_map(known).collect();
    let rate = |of: &dyn Fn(&str, &NodeFacts) -> i64| -> Vec<i64> {
        nodes.iter().map(|(name, node)| of(name, node)).collect()
    };
    let free = rate(&|name, node| least_allocated(cluster, pod.facts, name, node));
    let liked = raised(rate(&|name, node| preference(pod.facts, name, node)));
    let wished = between(rate(&|_, node| topology.wishes(node)));
    let sparse = lowered(between(rate(&|_, node| topology.crowd(node))));
    let clean = lowered(raised(rate(&|_, node| soft_taints(pod.facts, node))));
    let ranked = nodes.iter().enumerate().map(|(index, (name, _))| {
        let score = free[index] * LEAST_ALLOCATED_WEIGHT
            + liked[index] * NODE_AFFINITY_WEIGHT
            + wished[index] * POD_AFFINITY_WEIGHT
            + sparse[index] * SPREAD_WEIGHT
            + clean[index] * TAINT_WEIGHT;
        let pods = cluster.load(name).map_or(0, |load| load.usage.pods);
        (-score, pods, name)
    });
    ranked.min().map(|(_, _, name)| Arc::clone(name))
}

/// Returns how much of cpu and memory would stay free.
fn least_allocated(cluster: &Cluster, pod: &PodFacts, name: &str, node: &NodeFacts) -> i64 {
    let used = cluster.load(name).map_or([0; 2], |load| load.usage.weights);
    let parts = ["cpu", "memory"].into_iter().enumerate();
    let parts = parts.map(|(index, resource)| {
        let offer = i128::from(node.offer(resource));
        let wanted = i128::from(used[index]) + i128::from(pod.demand.weights[index]);
        match offer > 0 && wanted <= offer {
            true => i64::try_from((offer - wanted) * i128::from(SCORE_MAX) / offer).unwrap_or(0),
            false => 0,
        }
    });
    parts.sum::<i64>() / 2
}

/// Returns the weights of the preferred terms that a node matches.
fn preference(pod: &PodFacts, name: &str, node: &NodeFacts) -> i64 {
    let terms = pod.preferred_nodes.iter();
    let matching = terms.filter(|(_, term)| term.matches(name, &node.labels));
    matching.map(|(weight, _)| weight).sum()
}

fn soft_taints(pod: &PodFacts, node: &NodeFacts) -> i64 {
    let taints = node.taints.iter();
    let soft = taints.filter(|taint| taint.effect == "PreferNoSchedule");
    let count = soft.filter(|taint| !pod.tolerates(taint)).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Scales so that the largest becomes [`SCORE_MAX`].
fn raised(scores: Vec<i64>) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    let scale = |score: i64| match most > 0 {
        true => score.saturating_mul(SCORE_MAX) / most,
        false => 0,
    };
    scores.into_iter().map(scale).collect()
}

/// Scales so that the smallest becomes 0 and the largest [`SCORE_MAX`].
fn between(scores: Vec<i64>) -> Vec<i64> {
    let least = scores.iter().copied().min().unwrap_or(0);
    raised(
        scores
            .into_iter()
            .map(|score| score.saturating_sub(least))
            .collect(),
    )
}

fn lowered(scores: Vec<i64>) -> Vec<i64> {
    scores.into_iter().map(|score| SCORE_MAX - score).collect()
}
