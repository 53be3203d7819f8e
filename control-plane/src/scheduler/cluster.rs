//! What the scheduler knows of the cluster: nodes, namespaces, and which pods are placed where.
//!
//! Pods with equal facts are counted in groups, so what is asked about all pods of a node costs as
//! much as it has kinds of pods.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    hash::Hash,
    sync::Arc,
};

use kube::{ResourceExt, runtime::watcher::Event};

use super::{
    facts::{NodeFacts, PodFacts, Usage},
    terms::{Labels, Namespaces},
    view::{NamespaceView, NodeView, PodView},
};

/// Facts that no pod has any more are dropped when there are this many more than at the last time.
const STALE_FACTS_MAX: usize = 256;

/// A pod's name. Ordered, so that ties are broken in a stable way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PodKey {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// A pod on a node, or about to be.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) uid: Arc<str>,
    pub(super) node: Arc<str>,
    pub(super) facts: Arc<PodFacts>,
    /// When it was started, in seconds.
    pub(super) since: i64,
    pub(super) course: Course,
}

/// Where a placed pod is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Course {
    /// Its binding is being written; the watch does not know of it yet.
    Assumed,
    Bound,
    /// It is being deleted.
    Leaving,
}

/// Pods of one namespace with equal facts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) namespace: Arc<str>,
    pub(super) facts: Arc<PodFacts>,
    pub(super) is_leaving: bool,
}

/// What lies on one node.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) usage: Usage,
    pub(super) groups: HashMap<Group, u32>,
    pub(super) pods: HashSet<PodKey>,
}

/// A pod that waits for its victims to leave a node.
#[derive(Clone, Debug)]
pub(super) struct Nominee {
    pub(super) uid: Arc<str>,
    pub(super) node: Arc<str>,
    pub(super) facts: Arc<PodFacts>,
}

/// Invariant: `loads` is what `placed` says, per node.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<Arc<str>, NodeFacts>,
    pub(super) namespaces: Namespaces,
    pub(super) nominees: BTreeMap<PodKey, Nominee>,
    loads: HashMap<Arc<str>, Load>,
    placed: HashMap<PodKey, Placed>,
    /// How many placed pods have rules about other pods.
    with_rules: usize,
    facts: HashSet<Arc<PodFacts>>,
    facts_live: usize,
    nodes_list: Listing<Arc<str>>,
    namespaces_list: Listing<String>,
}

/// How far the list of a kind has come; what a new list does not name is gone at its end.
#[derive(Debug)]
pub(super) struct Listing<K> {
    seen: Option<HashSet<K>>,
    once: bool,
}

/// Whether an event may let pods in that did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// A pod was placed: it takes room, but others may want to be near it.
    Company,
    Room,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl PodKey {
    pub(super) fn of(pod: &PodView) -> PodKey {
        PodKey {
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
        }
    }
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Listing {
            seen: None,
            once: false,
        }
    }
}

impl<K: Eq + Hash> Listing<K> {
    pub(super) fn begin(&mut self) {
        self.seen = Some(HashSet::new());
    }

    pub(super) fn saw(&mut self, key: K) {
        if let Some(seen) = &mut self.seen {
            seen.insert(key);
        }
    }

    /// Ends a list and returns what it has named.
    pub(super) fn end(&mut self) -> HashSet<K> {
        self.once = true;
        self.seen.take().unwrap_or_default()
    }

    /// Says whether a list has been read to its end at least once.
    pub(super) fn is_known(&self) -> bool {
        self.once
    }
}

impl Placed {
    fn group(&self, key: &PodKey) -> Group {
        Group {
            namespace: Arc::clone(&key.namespace),
            facts: Arc::clone(&self.facts),
            is_leaving: self.course == Course::Leaving,
        }
    }

    fn is_same(&self, other: &Placed) -> bool {
        self.uid == other.uid
            && self.node == other.node
            && self.course == other.course
            && self.facts == other.facts
    }
}

impl Cluster {
    /// Says whether the lists of nodes and namespaces have been read once.
    pub(super) fn is_known(&self) -> bool {
        self.nodes_list.is_known() && self.namespaces_list.is_known()
    }

    pub(super) fn load(&self, node: &str) -> Option<&Load> {
        self.loads.get(node)
    }

    pub(super) fn placed(&self, key: &PodKey) -> Option<&Placed> {
        self.placed.get(key)
    }

    pub(super) fn placed_keys(&self) -> impl Iterator<Item = &PodKey> {
        self.placed.keys()
    }

    /// Says whether another placed pod of the namespace mounts the claim.
    pub(super) fn mounts(&self, pod: &PodKey, claim: &str) -> bool {
        let mut others = self
            .placed
            .iter()
            .filter(|(key, _)| key.namespace == pod.namespace && *key != pod);
        others.any(|(_, placed)| placed.facts.claims.contains(claim))
    }

    /// Says whether any placed pod has rules about others.
    pub(super) fn has_rules(&self) -> bool {
        self.with_rules > 0
    }

    /// Returns every group on a known node, with the node's labels.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&Arc<str>, &NodeFacts, &Group, u32)> {
        self.nodes.iter().flat_map(|(name, node)| {
            let groups = self.loads.get(name).map(|load| load.groups.iter());
            let groups = groups.into_iter().flatten();
            groups.map(move |(group, count)| (name, node, group, *count))
        })
    }

    pub(super) fn on_node(&mut self, event: Event<NodeView>) -> Change {
        let name = |node: &NodeView| Arc::from(node.name_any());
        match event {
            Event::Apply(node) => self.set_node(name(&node), &node),
            Event::InitApply(node) => {
                self.nodes_list.saw(name(&node));
                self.set_node(name(&node), &node)
            }
            Event::Delete(node) => {
                // A smaller cluster can even out a spread.
                self.nodes.remove(&name(&node));
                Change::Room
            }
            Event::Init => {
                self.nodes_list.begin();
                Change::Nothing
            }
            Event::InitDone => {
                let seen = self.nodes_list.end();
                self.nodes.retain(|name, _| seen.contains(name));
                Change::Room
            }
        }
    }

    fn set_node(&mut self, name: Arc<str>, node: &NodeView) -> Change {
        let facts = NodeFacts::of(node);
        // Heartbeats change nothing that matters here.
        if self.nodes.get(&name) == Some(&facts) {
            return Change::Nothing;
        }
        self.nodes.insert(name, facts);
        Change::Room
    }

    pub(super) fn on_namespace(&mut self, event: Event<NamespaceView>) -> Change {
        match event {
            Event::Apply(namespace) => self.set_namespace(&namespace),
            Event::InitApply(namespace) => {
                self.namespaces_list.saw(namespace.name_any());
                self.set_namespace(&namespace)
            }
            Event::Delete(namespace) => {
                self.namespaces.remove(&namespace.name_any());
                Change::Nothing
            }
            Event::Init => {
                self.namespaces_list.begin();
                Change::Nothing
            }
            Event::InitDone => {
                let seen = self.namespaces_list.end();
                self.namespaces.retain(|name, _| seen.contains(name));
                Change::Room
            }
        }
    }

    fn set_namespace(&mut self, namespace: &NamespaceView) -> Change {
        let labels: Labels = namespace.labels().clone();
        match self.namespaces.insert(namespace.name_any(), labels) {
            Some(old) if old != *namespace.labels() => Change::Room,
            _ => Change::Nothing,
        }
    }

    /// Returns the one copy of facts that is kept.
    pub(super) fn share(&mut self, facts: PodFacts) -> Arc<PodFacts> {
        if let Some(known) = self.facts.get(&facts) {
            return Arc::clone(known);
        }
        if self.facts.len() > self.facts_live + STALE_FACTS_MAX {
            self.facts.retain(|facts| Arc::strong_count(facts) > 1);
            // Doubling keeps the cost of looking through them small against that of adding them.
            self.facts_live = self.facts.len() * 2;
        }
        let facts = Arc::new(facts);
        self.facts.insert(Arc::clone(&facts));
        facts
    }

    /// Puts a pod on a node; says whether that took something from where it was before.
    pub(super) fn put(&mut self, key: PodKey, placed: Placed) -> Change {
        if let Some(old) = self.placed.get(&key)
            && old.is_same(&placed)
        {
            return Change::Nothing;
        }
        let before = self.take(&key);
        let load = self.loads.entry(Arc::clone(&placed.node)).or_default();
        load.usage.add(&placed.facts.demand);
        *load.groups.entry(placed.group(&key)).or_default() += 1;
        load.pods.insert(key.clone());
        self.with_rules += usize::from(placed.facts.has_rules());
        let change = match before {
            // Other labels may end a conflict, fewer requests give room.
            Some(before) if before.facts != placed.facts || before.node != placed.node => {
                Change::Room
            }
            None => Change::Company,
            Some(_) => Change::Nothing,
        };
        self.placed.insert(key, placed);
        change
    }

    /// Takes a pod off its node.
    pub(super) fn take(&mut self, key: &PodKey) -> Option<Placed> {
        let old = self.placed.remove(key)?;
        self.with_rules -= usize::from(old.facts.has_rules());
        if let Some(load) = self.loads.get_mut(&old.node) {
            load.usage.remove(&old.facts.demand);
            load.pods.remove(key);
            let group = old.group(key);
            if let Some(count) = load.groups.get_mut(&group) {
                *count -= 1;
                if *count == 0 {
                    load.groups.remove(&group);
                }
            }
            if load.pods.is_empty() {
                self.loads.remove(&old.node);
            }
        }
        Some(old)
    }

    /// Notes that a pod is being deleted, before the watch says so.
    pub(super) fn mark_leaving(&mut self, key: &PodKey) {
        if let Some(placed) = self.placed.get(key) {
            let leaving = Placed {
                course: Course::Leaving,
                ..placed.clone()
            };
            self.put(key.clone(), leaving);
        }
    }
}

impl PodFacts {
    fn has_rules(&self) -> bool {
        !(self.near.is_empty() && self.apart.is_empty() && self.preferred_pods.is_empty())
    }
}
