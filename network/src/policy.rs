//! Who may reach whom: what NetworkPolicies admit, for each pod of the node and both directions.
//!
//! Whoever follows the Kubernetes API compiles policies into [`PodRules`] and gives them to the
//! [`PolicyTable`] of a fabric by the pod's UID, so that they hold from the pod's first connection on.
//! Peers are [`AddressSet`]s, shared by all rules that select the same pods: a pod that comes or goes
//! is a change of a few sets, not of rules.
//!
//! The semantics are those of `networking.k8s.io/v1`: a pod without rules for a direction is open in
//! it; with rules, what none of them admits is dropped. A connection is judged once, when it is made
//! and after a Service's endpoint is chosen: its source by the rules for egress, its destination by
//! those for ingress, so replies are never judged. The node always reaches its pods and they reach it,
//! and a pod always reaches itself.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use parking_lot::{Mutex, RwLock};

use crate::publish::Protocol;

mod crossing;
mod gate;

use gate::Gate;

pub(crate) use crossing::reset_at_end;

/// What is admitted to and from one pod.
#[derive(Debug, Clone, Default)]
pub struct PodRules {
    /// What may come in; nothing where the pod is open.
    pub ingress: Option<Vec<Rule>>,
    /// What may go out; nothing where the pod is open.
    pub egress: Option<Vec<Rule>>,
}

/// Admits what fits peers and ports.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The other side.
    pub peers: Peers,
    /// The ports of the destination; nothing for all of them, whatever the protocol.
    pub ports: Option<Vec<PortMatch>>,
}

/// The other side of a connection.
#[derive(Debug, Clone)]
pub enum Peers {
    /// Anyone.
    All,
    /// Whoever is in one of the sets or blocks.
    Any {
        /// Sets of pods.
        sets: Vec<Arc<AddressSet>>,
        /// Blocks of addresses.
        blocks: Vec<AddressBlock>,
    },
}

/// A range of addresses without some of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressBlock {
    /// The range.
    pub cidr: IpNet,
    /// What is left out.
    pub except: Vec<IpNet>,
}

/// Ports of the destination.
#[derive(Debug, Clone)]
pub enum PortMatch {
    /// Ports of a protocol, both ends included.
    Range {
        /// The protocol.
        protocol: Protocol,
        /// The first.
        first: u16,
        /// The last.
        last: u16,
    },
    /// The ports that destinations give a name.
    Named(Arc<NamedPorts>),
}

/// The addresses of the pods that a selector means, changed in place while rules use it.
#[derive(Debug, Default)]
pub struct AddressSet {
    /// How many pods have the address: one may come before the last one has gone.
    holders: RwLock<HashMap<IpAddr, usize>>,
}

/// The ports that pods give a name, changed in place while rules use it.
#[derive(Debug)]
pub struct NamedPorts {
    protocol: Protocol,
    ports: RwLock<HashMap<IpAddr, Vec<u16>>>,
}

/// The rules of all pods of a fabric.
pub struct PolicyTable {
    pods: Mutex<HashMap<String, Entry>>,
    /// The node's addresses.
    node: ArcSwap<HashSet<IpAddr>>,
    /// Whether the rules are not known yet; every pod's policy has it too.
    is_held: Arc<AtomicBool>,
    gate: Gate,
}

struct Entry {
    policy: Arc<PodPolicy>,
    is_attached: bool,
}

/// The rules of one pod, which its connections read.
#[derive(Debug, Default)]
pub(crate) struct PodPolicy {
    rules: ArcSwapOption<PodRules>,
    is_held: Arc<AtomicBool>,
}

/// A connection or a datagram that is about to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crossing<'a> {
    /// By which protocol.
    pub(crate) protocol: Protocol,
    /// From where.
    pub(crate) from: IpAddr,
    /// To where, after a Service's endpoint was chosen.
    pub(crate) to: SocketAddr,
    /// The source, if it is a pod of this node.
    pub(crate) source: Option<&'a PodPolicy>,
    /// The destination, if it is a pod of this node.
    pub(crate) target: Option<&'a PodPolicy>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is made.
    Admit,
    /// Nobody hears of it.
    Drop,
}

impl PolicyTable {
    /// Returns a table without rules.
    pub(crate) fn new(node: IpAddr) -> PolicyTable {
        PolicyTable {
            pods: Mutex::default(),
            node: ArcSwap::from_pointee(HashSet::from([node])),
            is_held: Arc::default(),
            gate: Gate::default(),
        }
    }

    /// Closes all pods to each other and to the world until [`PolicyTable::open`]: for whoever follows
    /// policies and does not know them yet. The node reaches pods and they reach it all the same;
    /// established connections stay.
    pub fn hold(&self) {
        self.is_held.store(true, Ordering::Release);
    }

    /// Judges by the rules from now on. A table that was never held does so from the start.
    pub fn open(&self) {
        self.is_held.store(false, Ordering::Release);
    }

    /// Says that policies have come, changed or gone and that the rules are of before: pods that start
    /// wait until [`PolicyTable::settle`].
    pub fn fall_behind(&self) {
        self.gate.fall_behind();
    }

    /// Says that all rules are those of the policies of now, and whose pods' they are by their UIDs: every
    /// other one waits for [`PolicyTable::judged`]. Nothing where there is no policy, and nobody waits.
    pub fn settle(&self, judged: Option<HashSet<String>>) {
        self.gate.settle(judged);
    }

    /// Says that one more pod has its rules, or that no policy selects it.
    pub fn judged(&self, uid: &str) {
        self.gate.judged(uid);
    }

    /// Forgets that a pod was judged.
    pub fn forget(&self, uid: &str) {
        self.gate.forget(uid);
    }

    /// Waits until the policies that are known are in force for a pod, or for so long; tells whether they
    /// are. Costs one look where there is no policy.
    pub async fn in_force(&self, uid: &str, patience: Duration) -> bool {
        self.gate.passed(uid, patience).await
    }

    fn policy(&self) -> Arc<PodPolicy> {
        Arc::new(PodPolicy {
            rules: ArcSwapOption::empty(),
            is_held: Arc::clone(&self.is_held),
        })
    }

    /// Adds addresses of the node, from which all pods are reached and which all pods reach.
    pub fn add_node_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut node = HashSet::clone(&self.node.load());
        node.extend(addresses.into_iter().map(|ip| ip.to_canonical()));
        self.node.store(Arc::new(node));
    }

    /// Replaces the rules of the pod with this UID, whether it is attached yet or not; nothing where no
    /// policy selects it. Established connections stay.
    pub fn set(&self, uid: &str, rules: Option<PodRules>) {
        let mut pods = self.pods.lock();
        match (pods.get(uid), rules) {
            (Some(entry), None) if !entry.is_attached => drop(pods.remove(uid)),
            (Some(entry), rules) => entry.policy.rules.store(rules.map(Arc::new)),
            (None, None) => {}
            (None, rules) => {
                let policy = self.policy();
                policy.rules.store(rules.map(Arc::new));
                let is_attached = false;
                let entry = Entry {
                    policy,
                    is_attached,
                };
                pods.insert(uid.to_owned(), entry);
            }
        }
    }

    /// Returns the UIDs of pods that have rules.
    pub fn selected(&self) -> Vec<String> {
        let pods = self.pods.lock();
        let selected = pods
            .iter()
            .filter(|(_, entry)| entry.policy.rules.load().is_some());
        selected.map(|(uid, _)| uid.clone()).collect()
    }

    /// Returns the rules of a pod that is attached, present and to come.
    pub(crate) fn attach(&self, uid: &str) -> Arc<PodPolicy> {
        let mut pods = self.pods.lock();
        let entry = pods.entry(uid.to_owned()).or_insert_with(|| Entry {
            policy: self.policy(),
            is_attached: true,
        });
        entry.is_attached = true;
        Arc::clone(&entry.policy)
    }

    /// Forgets a pod that was detached, unless rules say that it may come back.
    pub(crate) fn detach(&self, uid: &str) {
        let mut pods = self.pods.lock();
        if let Some(entry) = pods.get_mut(uid) {
            entry.is_attached = false;
            if entry.policy.rules.load().is_none() {
                pods.remove(uid);
            }
        }
    }

    /// Judges a connection. Costs two reads where no policy selects either side.
    pub(crate) fn judge(&self, crossing: Crossing<'_>) -> Verdict {
        let Crossing {
            protocol,
            from,
            to,
            source,
            target,
        } = crossing;
        let source = source.map(|policy| policy.rules.load());
        let target = target.map(|policy| policy.rules.load());
        let egress = source
            .as_ref()
            .and_then(|rules| rules.as_ref()?.egress.as_ref());
        let ingress = target
            .as_ref()
            .and_then(|rules| rules.as_ref()?.ingress.as_ref());
        let is_held = self.is_held.load(Ordering::Acquire);
        if egress.is_none() && ingress.is_none() && !is_held {
            return Verdict::Admit;
        }
        let from = from.to_canonical();
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let node = self.node.load();
        if from == to.ip() || node.contains(&from) || node.contains(&to.ip()) {
            return Verdict::Admit;
        }
        if is_held {
            return Verdict::Drop;
        }
        let admits = |rules: &Vec<Rule>, peer| {
            let mut rules = rules.iter();
            rules.any(|rule| rule.admits(protocol, peer, to))
        };
        let is_admitted = egress.is_none_or(|rules| admits(rules, to.ip()))
            && ingress.is_none_or(|rules| admits(rules, from));
        match is_admitted {
            true => Verdict::Admit,
            false => Verdict::Drop,
        }
    }
}

impl PodPolicy {
    /// Tells whether anything is judged at all.
    pub(crate) fn is_selected(&self) -> bool {
        self.is_held.load(Ordering::Acquire) || self.rules.load().is_some()
    }
}

impl Rule {
    fn admits(&self, protocol: Protocol, peer: IpAddr, to: SocketAddr) -> bool {
        let fits_port = self
            .ports
            .as_ref()
            .is_none_or(|ports| ports.iter().any(|port| port.matches(protocol, to)));
        fits_port && self.peers.contains(peer)
    }
}

impl Peers {
    fn contains(&self, peer: IpAddr) -> bool {
        match self {
            Peers::All => true,
            Peers::Any { sets, blocks } => {
                sets.iter().any(|set| set.contains(peer))
                    || blocks.iter().any(|block| block.contains(peer))
            }
        }
    }
}

impl AddressBlock {
    fn contains(&self, ip: IpAddr) -> bool {
        self.cidr.contains(&ip) && !self.except.iter().any(|except| except.contains(&ip))
    }
}

impl PortMatch {
    fn matches(&self, by: Protocol, to: SocketAddr) -> bool {
        match self {
            PortMatch::Range {
                protocol,
                first,
                last,
            } => *protocol == by && (*first..=*last).contains(&to.port()),
            PortMatch::Named(named) => named.contains(by, to),
        }
    }
}

impl AddressSet {
    /// Adds an address, which stays until it is removed as often as it was added.
    pub fn insert(&self, ip: IpAddr) {
        *self.holders.write().entry(ip.to_canonical()).or_default() += 1;
    }

    /// Removes an address once.
    pub fn remove(&self, ip: IpAddr) {
        let (ip, mut holders) = (ip.to_canonical(), self.holders.write());
        if let Some(count) = holders.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                holders.remove(&ip);
            }
        }
    }

    /// Tells whether an address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.holders.read().contains_key(&ip)
    }
}

impl NamedPorts {
    /// Returns an empty set of ports of a protocol.
    pub fn new(protocol: Protocol) -> NamedPorts {
        NamedPorts {
            protocol,
            ports: RwLock::default(),
        }
    }

    /// Adds a port that an address gives the name.
    pub fn insert(&self, ip: IpAddr, port: u16) {
        let mut ports = self.ports.write();
        ports.entry(ip.to_canonical()).or_default().push(port);
    }

    /// Removes a port of an address once.
    pub fn remove(&self, ip: IpAddr, port: u16) {
        let (ip, mut ports) = (ip.to_canonical(), self.ports.write());
        if let Some(own) = ports.get_mut(&ip) {
            if let Some(place) = own.iter().position(|known| *known == port) {
                own.swap_remove(place);
            }
            if own.is_empty() {
                ports.remove(&ip);
            }
        }
    }

    /// Tells whether the port of a destination has the name.
    pub fn contains(&self, protocol: Protocol, to: SocketAddr) -> bool {
        let of_destination = |ports: &Vec<u16>| ports.contains(&to.port());
        protocol == self.protocol && self.ports.read().get(&to.ip()).is_some_and(of_destination)
    }
}

impl fmt::Debug for PolicyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyTable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
