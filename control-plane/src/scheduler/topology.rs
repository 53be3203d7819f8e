//! Where pods lie in the parts of a cluster: inter-pod affinity and topology spread. Pure.
//!
//! What concerns all nodes is counted once per pod that is placed; then each node is asked.

use std::collections::{HashMap, HashSet};

use super::{
    cluster::{Cluster, PodKey},
    facts::{NodeFacts, PodFacts, Spread, Strength},
    fit::Problem,
    terms::{PodTerm, Subject},
};

/// A part of the cluster: a label and its value.
type Domain<'a> = (&'a str, &'a str);

/// What has been counted for one pod.
#[derive(Debug, Default)]
pub(super) struct Topology<'a> {
    /// Pods that match every term of `near`, per domain of each term.
    near: HashMap<Domain<'a>, u32>,
    /// Domains with pods that the pod must not be near.
    apart: HashSet<Domain<'a>>,
    /// Domains with pods that do not want the pod near.
    repelled: HashSet<Domain<'a>>,
    /// The sum of weights that speak for a domain.
    wishes: HashMap<Domain<'a>, i64>,
    /// The pod is the first of those it wants to be near.
    is_its_own_company: bool,
    spreads: Vec<Counted<'a>>,
}

/// A constraint with the pods in each domain.
#[derive(Debug)]
struct Counted<'a> {
    spread: &'a Spread,
    domains: HashMap<&'a str, i64>,
    /// Whether the pod itself is among the counted ones.
    adds: i64,
}

impl<'a> Topology<'a> {
    /// Counts what placing `facts` as `key` depends on.
    pub(super) fn of(cluster: &'a Cluster, key: &PodKey, facts: &'a PodFacts) -> Topology<'a> {
        let mut topology = Topology::default();
        let subject = Subject {
            namespace: &key.namespace,
            labels: &facts.labels,
        };
        let own = |term: &PodTerm| term.selects(&key.namespace, subject, &cluster.namespaces);
        topology.is_its_own_company = facts.near.iter().all(own);
        let wants =
            !(facts.near.is_empty() && facts.apart.is_empty() && facts.preferred_pods.is_empty());
        if wants || cluster.has_rules() {
            topology.count_neighbours(cluster, key, facts);
        }
        for strength in [Strength::DoNotSchedule, Strength::ScheduleAnyway] {
            let same = facts.spread.iter().filter(|one| one.strength == strength);
            let same: Vec<_> = same.collect();
            for spread in &same {
                let counted = Counted::of(cluster, key, facts, spread, &same);
                topology.spreads.push(counted);
            }
        }
        topology
    }

    fn count_neighbours(&mut self, cluster: &'a Cluster, key: &PodKey, facts: &'a PodFacts) {
        let namespaces = &cluster.namespaces;
        let subject = Subject {
            namespace: &key.namespace,
            labels: &facts.labels,
        };
        for (_, node, group, count) in cluster.groups() {
            let other = Subject {
                namespace: &group.namespace,
                labels: &group.facts.labels,
            };
            let selects = |term: &PodTerm| term.selects(&key.namespace, other, namespaces);
            let selected = |term: &PodTerm| term.selects(&group.namespace, subject, namespaces);
            if !facts.near.is_empty() && facts.near.iter().all(selects) {
                for domain in domains(&facts.near, node) {
                    *self.near.entry(domain).or_default() += count;
                }
            }
            let apart = facts.apart.iter().filter(|term| selects(term));
            self.apart.extend(domains(apart, node));
            let repelled = group.facts.apart.iter().filter(|term| selected(term));
            self.repelled.extend(domains(repelled, node));
            // A pod's required company draws others like a small wish, as in the stock scheduler.
            let drawn = group.facts.near.iter().map(|term| (1, term));
            let theirs = group.facts.preferred_pods.iter();
            let theirs = theirs.map(|(weight, term)| (*weight, term)).chain(drawn);
            let theirs = theirs.filter(|(_, term)| selected(term));
            let ours = facts.preferred_pods.iter();
            let ours = ours.map(|(weight, term)| (*weight, term));
            for (weight, term) in ours.filter(|(_, term)| selects(term)).chain(theirs) {
                for domain in domains([term], node) {
                    *self.wishes.entry(domain).or_default() += weight * i64::from(count);
                }
            }
        }
    }

    /// Returns why other pods keep the pod off a node.
    pub(super) fn problem(&self, facts: &PodFacts, node: &NodeFacts) -> Option<Problem> {
        self.uneven(node)
            .or_else(|| self.company(facts, node))
            .or_else(|| self.conflict(facts, node))
    }

    fn uneven(&self, node: &NodeFacts) -> Option<Problem> {
        for counted in &self.spreads {
            if counted.spread.strength == Strength::ScheduleAnyway {
                continue;
            }
            let Some(value) = node.labels.get(&counted.spread.topology_key) else {
                return Some(Problem::lasting(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            if counted.skew(value) > counted.spread.max_skew {
                return Some(Problem::passing(
                    "node(s) didn't match pod topology spread constraints",
                ));
            }
        }
        None
    }

    fn company(&self, facts: &PodFacts, node: &NodeFacts) -> Option<Problem> {
        let lonely = Problem::lasting("node(s) didn't match pod affinity rules");
        let mut found = true;
        for term in &facts.near {
            let Some(domain) = domain(term, node) else {
                return Some(lonely);
            };
            found &= self.near.contains_key(&domain);
        }
        // The first pod of a group that wants to be together cannot wait for the others.
        let is_first = self.near.is_empty() && self.is_its_own_company;
        (!found && !is_first).then_some(lonely)
    }

    fn conflict(&self, facts: &PodFacts, node: &NodeFacts) -> Option<Problem> {
        let taken =
            |term: &PodTerm| domain(term, node).is_some_and(|domain| self.apart.contains(&domain));
        if facts.apart.iter().any(taken) {
            return Some(Problem::passing(
                "node(s) didn't match pod anti-affinity rules",
            ));
        }
        let mut labels = node.labels.iter();
        let repels = |(key, value): (&String, &String)| {
            self.repelled.contains(&(key.as_str(), value.as_str()))
        };
        (!self.repelled.is_empty() && labels.any(repels))
            .then(|| Problem::passing("node(s) didn't satisfy existing pods anti-affinity rules"))
    }

    /// Returns the weights that speak for a node.
    pub(super) fn wishes(&self, node: &NodeFacts) -> i64 {
        if self.wishes.is_empty() {
            return 0;
        }
        let labels = node.labels.iter();
        labels
            .filter_map(|(key, value)| self.wishes.get(&(key.as_str(), value.as_str())))
            .sum()
    }

    /// Returns how crowded the node's domains are by the constraints that are only wishes.
    pub(super) fn crowd(&self, node: &NodeFacts) -> i64 {
        let soft = self.spreads.iter();
        let soft = soft.filter(|one| one.spread.strength == Strength::ScheduleAnyway);
        soft.filter_map(|one| {
            let value = node.labels.get(&one.spread.topology_key)?;
            one.domains.get(value.as_str()).copied()
        })
        .sum()
    }
}

impl<'a> Counted<'a> {
    fn of(
        cluster: &'a Cluster,
        key: &PodKey,
        facts: &PodFacts,
        spread: &'a Spread,
        all: &[&Spread],
    ) -> Counted<'a> {
        let mut domains = HashMap::new();
        let counts = |labels| {
            spread
                .selector
                .as_ref()
                .is_some_and(|one| one.matches(labels))
        };
        for (name, node) in &cluster.nodes {
            let complete = all
                .iter()
                .all(|one| node.labels.contains_key(&one.topology_key));
            let Some(value) = node.labels.get(&spread.topology_key).filter(|_| complete) else {
                continue;
            };
            if !is_counted(facts, spread, name, node) {
                continue;
            }
            let groups = cluster.load(name).map(|load| load.groups.iter());
            let pods: i64 = groups
                .into_iter()
                .flatten()
                .filter(|(group, _)| group.namespace == key.namespace && !group.is_leaving)
                .filter(|(group, _)| counts(&group.facts.labels))
                .map(|(_, count)| i64::from(*count))
                .sum();
            *domains.entry(value.as_str()).or_default() += pods;
        }
        Counted {
            spread,
            domains,
            adds: i64::from(counts(&facts.labels)),
        }
    }

    /// Returns how much fuller than the emptiest domain this one would be.
    fn skew(&self, value: &str) -> i64 {
        let here = self.domains.get(value).copied().unwrap_or(0);
        let least = match self.domains.values().min() {
            Some(_) if self.domains.len() < self.spread.min_domains => 0,
            Some(least) => *least,
            // Nothing to be uneven against.
            None => i64::MAX,
        };
        here.saturating_add(self.adds).saturating_sub(least)
    }
}

/// Says whether a node's pods count for a constraint.
fn is_counted(facts: &PodFacts, spread: &Spread, name: &str, node: &NodeFacts) -> bool {
    let mut taints = node.taints.iter().filter(|taint| taint.is_hard());
    (!spread.honours_affinity || facts.admits(name, &node.labels))
        && (!spread.honours_taints || taints.all(|taint| facts.tolerates(taint)))
}

fn domain<'n>(term: &'n PodTerm, node: &'n NodeFacts) -> Option<Domain<'n>> {
    let value = node.labels.get(&term.topology_key)?;
    Some((term.topology_key.as_str(), value.as_str()))
}

fn domains<'n>(
    terms: impl IntoIterator<Item = &'n PodTerm>,
    node: &'n NodeFacts,
) -> impl Iterator<Item = Domain<'n>> {
    terms.into_iter().filter_map(|term| domain(term, node))
}
