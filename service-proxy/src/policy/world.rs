//! Compiles policies, pods and namespaces into rules: pure, but for the sets of addresses that rules
//! share, which follow the pods.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_network::{AddressSet, NamedPorts, Peers, PodRules, PortMatch, Protocol, Rule};

use super::read::{Namespaces, Peer, PodFacts, PodPeer, Policy, PolicyPort, PolicyRule};
use super::selector::{Labels, Selector};

/// What all policies of one moment say, for any pod.
#[derive(Debug, Default)]
pub(crate) struct World {
    by_namespace: HashMap<String, Vec<Compiled>>,
    peers: HashMap<PodPeer, Arc<AddressSet>>,
    named: HashMap<(Protocol, String), Arc<NamedPorts>>,
    namespaces: HashMap<String, Labels>,
}

/// A policy whose rules are ready to be given to pods.
#[derive(Debug)]
struct Compiled {
    subjects: Selector,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

impl World {
    /// Returns what the policies say, with sets that are empty until pods enter. `namespaces` are their
    /// labels.
    pub(crate) fn new<'p>(
        policies: impl IntoIterator<Item = &'p Policy>,
        namespaces: HashMap<String, Labels>,
    ) -> World {
        let mut world = World {
            namespaces,
            ..World::default()
        };
        for policy in policies {
            let compiled = Compiled {
                subjects: policy.subjects.clone(),
                ingress: policy.ingress.as_ref().map(|rules| world.rules(rules)),
                egress: policy.egress.as_ref().map(|rules| world.rules(rules)),
            };
            let namespace = world.by_namespace.entry(policy.namespace.clone());
            namespace.or_default().push(compiled);
        }
        world
    }

    /// Returns the rules of a pod; nothing if no policy selects it.
    pub(crate) fn rules_of(&self, pod: &PodFacts) -> Option<PodRules> {
        let policies = self.by_namespace.get(&pod.namespace)?;
        let mut rules = PodRules::default();
        for policy in policies {
            if !policy.subjects.selects(&pod.labels) {
                continue;
            }
            for (of_policy, of_pod) in [
                (&policy.ingress, &mut rules.ingress),
                (&policy.egress, &mut rules.egress),
            ] {
                if let Some(of_policy) = of_policy {
                    let of_pod = of_pod.get_or_insert_default();
                    of_pod.extend(of_policy.iter().cloned());
                }
            }
        }
        (rules.ingress.is_some() || rules.egress.is_some()).then_some(rules)
    }

    /// Puts a pod into the sets that mean it.
    pub(crate) fn enter(&self, pod: &PodFacts) {
        for set in self.sets_of(pod) {
            pod.ips.iter().for_each(|ip| set.insert(*ip));
        }
        for (named, port) in self.ports_of(pod) {
            pod.ips.iter().for_each(|ip| named.insert(*ip, port));
        }
    }

    /// Takes a pod out again; it has to be as it was when it was put in.
    pub(crate) fn leave(&self, pod: &PodFacts) {
        for set in self.sets_of(pod) {
            pod.ips.iter().for_each(|ip| set.remove(*ip));
        }
        for (named, port) in self.ports_of(pod) {
            pod.ips.iter().for_each(|ip| named.remove(*ip, port));
        }
    }

    fn sets_of(&self, pod: &PodFacts) -> impl Iterator<Item = &Arc<AddressSet>> {
        let means = |peer: &PodPeer| {
            let is_there = match &peer.namespaces {
                Namespaces::One(namespace) => *namespace == pod.namespace,
                Namespaces::Selected(selector) => {
                    let labels = self.namespaces.get(&pod.namespace);
                    labels.is_some_and(|labels| selector.selects(labels))
                }
            };
            is_there && peer.pods.selects(&pod.labels)
        };
        let sets = self.peers.iter();
        sets.filter(move |(peer, _)| means(peer))
            .map(|(_, set)| set)
    }

    fn ports_of(&self, pod: &PodFacts) -> impl Iterator<Item = (&Arc<NamedPorts>, u16)> {
        pod.ports.iter().filter_map(|(name, protocol, port)| {
            let named = self.named.get(&(*protocol, name.clone()))?;
            Some((named, *port))
        })
    }

    fn rules(&mut self, rules: &[PolicyRule]) -> Vec<Rule> {
        rules.iter().map(|rule| self.rule(rule)).collect()
    }

    fn rule(&mut self, rule: &PolicyRule) -> Rule {
        let peers = match &rule.peers {
            None => Peers::All,
            Some(peers) => {
                let (mut sets, mut blocks) = (Vec::new(), Vec::new());
                for peer in peers {
                    match peer {
                        Peer::Block(block) => blocks.push(block.clone()),
                        Peer::Pods(peer) => {
                            let set = self.peers.entry(peer.clone()).or_default();
                            sets.push(Arc::clone(set));
                        }
                    }
                }
                Peers::Any { sets, blocks }
            }
        };
        let ports = rule
            .ports
            .as_ref()
            .map(|ports| ports.iter().map(|port| self.port(port)).collect());
        Rule { peers, ports }
    }

    fn port(&mut self, port: &PolicyPort) -> PortMatch {
        match port {
            PolicyPort::Range(protocol, first, last) => PortMatch::Range {
                protocol: *protocol,
                first: *first,
                last: *last,
            },
            PolicyPort::Named(protocol, name) => {
                let named = self.named.entry((*protocol, name.clone()));
                let named = named.or_insert_with(|| Arc::new(NamedPorts::new(*protocol)));
                PortMatch::Named(Arc::clone(named))
            }
        }
    }
}

#[cfg(test)]
mod tests;
