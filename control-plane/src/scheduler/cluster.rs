//! What the scheduler knows: nodes, who is placed where, who waits.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use kube::{ResourceExt, runtime::watcher::Event};

use super::{
    SCHEDULER_NAME, Wake,
    fit::{Demand, NodeFacts, Usage},
    view::{NodeView, PodView},
};

/// A pod's name. Ordered, so that pods that wait are tried in a stable order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PodKey {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// A pod without a node.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) uid: String,
    pub(super) demand: Demand,
    /// Why it was last told to wait, so that it is not told twice.
    pub(super) told: Option<String>,
}

/// A pod on a node, or about to be.
#[derive(Debug)]
struct Placed {
    uid: String,
    node: String,
    demand: Demand,
}

/// Invariant: `used` is the sum of the demands in `placed`, per node.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    nodes: BTreeMap<String, NodeFacts>,
    waiting: BTreeMap<PodKey, Waiting>,
    placed: HashMap<PodKey, Placed>,
    used: HashMap<String, Usage>,
    pods: Knowledge,
    nodes_known: Knowledge,
}

/// How far a first list has come.
#[derive(Debug, Default)]
enum Knowledge {
    #[default]
    Nothing,
    /// A list after a break: what it does not name is gone at its end.
    Listing {
        seen: HashSet<PodKey>,
        once: bool,
    },
    Known,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl PodKey {
    fn of(pod: &PodView) -> PodKey {
        PodKey {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
        }
    }
}

impl Knowledge {
    fn begin(&mut self) {
        let once = self.is_complete();
        *self = Knowledge::Listing {
            seen: HashSet::new(),
            once,
        };
    }

    fn saw(&mut self, key: &PodKey) {
        if let Knowledge::Listing { seen, .. } = self {
            seen.insert(key.clone());
        }
    }

    fn end(&mut self) -> HashSet<PodKey> {
        match std::mem::replace(self, Knowledge::Known) {
            Knowledge::Listing { seen, .. } => seen,
            Knowledge::Nothing | Knowledge::Known => HashSet::new(),
        }
    }

    /// Says whether a list has been read to its end at least once.
    fn is_complete(&self) -> bool {
        match self {
            Knowledge::Known => true,
            Knowledge::Listing { once, .. } => *once,
            Knowledge::Nothing => false,
        }
    }
}

impl Cluster {
    /// Says whether both lists have been read once.
    pub(super) fn is_known(&self) -> bool {
        self.pods.is_complete() && self.nodes_known.is_complete()
    }

    pub(super) fn nodes(&self) -> impl ExactSizeIterator<Item = (&String, &NodeFacts)> {
        self.nodes.iter()
    }

    pub(super) fn used(&self, node: &str) -> Option<&Usage> {
        self.used.get(node)
    }

    pub(super) fn waiting(&self, key: &PodKey) -> Option<&Waiting> {
        self.waiting.get(key)
    }

    pub(super) fn waiting_keys(&self) -> Vec<PodKey> {
        self.waiting.keys().cloned().collect()
    }

    pub(super) fn on_pod(&mut self, event: Event<PodView>) -> Wake {
        match event {
            Event::Apply(pod) => self.set_pod(&pod),
            Event::InitApply(pod) => {
                self.pods.saw(&PodKey::of(&pod));
                self.set_pod(&pod);
                Wake::Nobody
            }
            Event::Delete(pod) => self.forget(&PodKey::of(&pod)),
            Event::Init => {
                self.pods.begin();
                Wake::Nobody
            }
            Event::InitDone => {
                let seen = self.pods.end();
                let gone = |key: &&PodKey| !seen.contains(*key);
                let keys = self.waiting.keys().chain(self.placed.keys());
                let gone: Vec<_> = keys.filter(gone).cloned().collect();
                gone.iter().for_each(|key| drop(self.forget(key)));
                Wake::All
            }
        }
    }

    pub(super) fn on_node(&mut self, event: Event<NodeView>) -> Wake {
        match event {
            Event::Apply(node) => self.set_node(&node),
            Event::InitApply(node) => {
                self.set_node(&node);
                Wake::Nobody
            }
            Event::Delete(node) => {
                self.nodes.remove(&node.name_any());
                Wake::Nobody
            }
            Event::Init => {
                // Verdicts wait until the list is complete again.
                self.nodes_known = Knowledge::Nothing;
                self.nodes.clear();
                Wake::Nobody
            }
            Event::InitDone => {
                self.nodes_known.end();
                Wake::All
            }
        }
    }

    fn set_node(&mut self, node: &NodeView) -> Wake {
        let facts = NodeFacts::of(node);
        let old = self.nodes.insert(node.name_any(), facts);
        // Heartbeats change nothing that matters here.
        if old.as_ref() == self.nodes.get(&node.name_any()) {
            Wake::Nobody
        } else {
            Wake::All
        }
    }

    fn set_pod(&mut self, pod: &PodView) -> Wake {
        let key = PodKey::of(pod);
        let uid = pod.uid().unwrap_or_default();
        let ended = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let ended = matches!(ended, Some("Succeeded" | "Failed"));
        let node = pod
            .spec
            .node_name
            .as_deref()
            .filter(|node| !node.is_empty());
        match node {
            _ if ended => self.forget(&key),
            Some(node) => {
                self.waiting.remove(&key);
                self.put(key, uid, node, Demand::of(&pod.spec));
                Wake::Nobody
            }
            None => self.set_waiting(key, uid, pod),
        }
    }

    fn set_waiting(&mut self, key: PodKey, uid: String, pod: &PodView) -> Wake {
        let ours = pod.spec.scheduler_name.as_deref().unwrap_or(SCHEDULER_NAME) == SCHEDULER_NAME;
        let deleting = pod.metadata.deletion_timestamp.is_some();
        if !ours || deleting || !pod.spec.scheduling_gates.is_empty() {
            return self.forget(&key);
        }
        match self.placed.get(&key) {
            // Its binding is on its way through the watch; this is the state before.
            Some(placed) if placed.uid == uid => return Wake::Nobody,
            // Another pod of the same name, whose end the watch has missed.
            Some(_) => drop(self.take(&key)),
            None => (),
        }
        let demand = Demand::of(&pod.spec);
        match self.waiting.get_mut(&key) {
            Some(known) if known.uid == uid && known.demand == demand => Wake::Nobody,
            _ => {
                self.waiting.insert(
                    key.clone(),
                    Waiting {
                        uid,
                        demand,
                        told: None,
                    },
                );
                Wake::One(key)
            }
        }
    }

    fn put(&mut self, key: PodKey, uid: String, node: &str, demand: Demand) {
        if self
            .placed
            .get(&key)
            .is_some_and(|old| old.uid == uid && old.node == node && old.demand == demand)
        {
            return;
        }
        self.take(&key);
        self.used.entry(node.to_owned()).or_default().add(&demand);
        self.placed.insert(
            key,
            Placed {
                uid,
                node: node.to_owned(),
                demand,
            },
        );
    }

    fn take(&mut self, key: &PodKey) -> bool {
        let Some(old) = self.placed.remove(key) else {
            return false;
        };
        if let Some(usage) = self.used.get_mut(&old.node) {
            usage.remove(&old.demand);
        }
        true
    }

    /// Drops a pod that is gone or has ended; its room may let others in.
    pub(super) fn forget(&mut self, key: &PodKey) -> Wake {
        self.waiting.remove(key);
        if self.take(key) {
            Wake::All
        } else {
            Wake::Nobody
        }
    }

    /// Counts a pod on the node it is being bound to.
    pub(super) fn assume(&mut self, key: &PodKey, node: &str) {
        if let Some(waiting) = self.waiting.remove(key) {
            self.put(key.clone(), waiting.uid, node, waiting.demand);
        }
    }

    /// Takes an assumed pod back.
    pub(super) fn wait_again(&mut self, key: &PodKey, waiting: Waiting) {
        self.take(key);
        self.waiting.insert(key.clone(), waiting);
    }

    pub(super) fn told(&mut self, key: &PodKey, message: String) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.told = Some(message);
        }
    }
}
