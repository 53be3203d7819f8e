//! What is known of policies, pods and namespaces, and what of the table changes with a piece of news.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use coracle_network::PolicyTable;
use tokio::sync::watch;

use super::read::{PodFacts, Policy};
use super::selector::Labels;
use super::world::World;

/// An object by namespace and name.
pub(crate) type Key = (String, String);

/// All of it.
pub(crate) struct State {
    table: Arc<PolicyTable>,
    /// The node whose pods get rules; nothing for all pods.
    node: Option<String>,
    pub(crate) policies: Known<Key, Policy>,
    pub(crate) pods: Known<Key, PodFacts>,
    pub(crate) namespaces: Known<String, Labels>,
    world: World,
    is_stale: bool,
    /// Whether the table has been compiled once.
    known: watch::Sender<bool>,
}

/// Objects of one kind, and the list of them that is under way.
#[derive(Debug)]
pub(crate) struct Known<K, V> {
    objects: HashMap<K, V>,
    coming: Option<HashMap<K, V>>,
    is_complete: bool,
}

/// A piece of news about objects of one kind.
#[derive(Debug)]
pub(crate) enum Change<K, V> {
    /// A new list begins.
    Begins,
    /// An object of the list.
    Listed(K, V),
    /// The list is complete: what is not in it is gone.
    Complete,
    /// An object is new or has changed.
    Applied(K, V),
    /// An object is gone.
    Gone(K),
}

impl<K: Hash + Eq, V> Known<K, V> {
    fn new() -> Known<K, V> {
        Known {
            objects: HashMap::new(),
            coming: None,
            is_complete: false,
        }
    }

    /// Applies a change of the whole, and tells whether the objects may be others now.
    fn apply(&mut self, change: Change<K, V>) -> bool {
        match change {
            Change::Begins => {
                self.coming = Some(HashMap::new());
                false
            }
            Change::Listed(key, value) => {
                self.coming.get_or_insert_default().insert(key, value);
                false
            }
            Change::Complete => {
                self.objects = self.coming.take().unwrap_or_default();
                self.is_complete = true;
                true
            }
            Change::Applied(key, value) => {
                self.objects.insert(key, value);
                true
            }
            Change::Gone(key) => self.objects.remove(&key).is_some(),
        }
    }

    fn forget(&mut self) {
        *self = Known::new();
    }
}

impl State {
    pub(crate) fn new(
        table: Arc<PolicyTable>,
        node: Option<String>,
        known: watch::Sender<bool>,
    ) -> State {
        State {
            table,
            node,
            policies: Known::new(),
            pods: Known::new(),
            namespaces: Known::new(),
            world: World::default(),
            is_stale: false,
            known,
        }
    }

    /// Tells whether pods and namespaces have to be known.
    pub(crate) fn needs_pods(&self) -> bool {
        !self.policies.objects.is_empty()
    }

    /// Tells whether [`State::compile`] has something to do.
    pub(crate) fn is_stale(&self) -> bool {
        let is_known = self.pods.is_complete && self.namespaces.is_complete;
        self.is_stale && (is_known || !self.needs_pods())
    }

    /// Tells whether the table has been compiled once, so that pods are open to what it admits.
    pub(crate) fn is_open(&self) -> bool {
        *self.known.borrow()
    }

    pub(crate) fn policy(&mut self, change: Change<Key, Policy>) {
        if self.policies.apply(change) {
            self.is_stale = true;
            self.table.fall_behind();
        }
        if !self.needs_pods() {
            self.pods.forget();
            self.namespaces.forget();
        }
    }

    pub(crate) fn namespace(&mut self, change: Change<String, Labels>) {
        if let Change::Applied(name, labels) = &change
            && self.namespaces.objects.get(name) == Some(labels)
        {
            return;
        }
        self.is_stale |= self.namespaces.apply(change);
    }

    /// Applies news of pods. One pod costs the same however many there are, unless all is to be
    /// compiled anyway.
    pub(crate) fn pod(&mut self, change: Change<Key, PodFacts>) {
        let (key, new) = match change {
            Change::Begins | Change::Listed(..) | Change::Complete => {
                self.is_stale |= self.pods.apply(change);
                return;
            }
            Change::Applied(key, pod) => (key, Some(pod)),
            Change::Gone(key) => (key, None),
        };
        let old = match new.clone() {
            Some(pod) => self.pods.objects.insert(key, pod),
            None => self.pods.objects.remove(&key),
        };
        if old == new || !self.pods.is_complete {
            return;
        }
        if let Some(old) = &old {
            self.world.leave(old);
        }
        if let Some(new) = &new {
            self.world.enter(new);
        }
        if self.is_stale {
            return;
        }
        if let Some(old) = old.filter(|old| new.as_ref().is_none_or(|new| new.uid != old.uid)) {
            self.table.set(&old.uid, None);
            self.table.forget(&old.uid);
        }
        if let Some(new) = new.filter(|new| self.is_here(new)) {
            self.table.set(&new.uid, self.world.rules_of(&new));
            self.table.judged(&new.uid);
        }
    }

    /// Compiles everything anew. Sets are filled before rules with them are in force, and these are
    /// before pods that wait for them may start; the first time opens the table.
    pub(crate) fn compile(&mut self) {
        let namespaces = self.namespaces.objects.clone();
        let world = World::new(self.policies.objects.values(), namespaces);
        let pods = self.pods.objects.values();
        pods.clone().for_each(|pod| world.enter(pod));
        let (mut selected, mut judged) = (HashSet::new(), HashSet::new());
        for pod in pods.filter(|pod| self.is_here(pod)) {
            judged.insert(pod.uid.clone());
            if let Some(rules) = world.rules_of(pod) {
                self.table.set(&pod.uid, Some(rules));
                selected.insert(pod.uid.as_str());
            }
        }
        for uid in self.table.selected() {
            if !selected.contains(uid.as_str()) {
                self.table.set(&uid, None);
            }
        }
        self.world = world;
        self.is_stale = false;
        self.table.settle(self.needs_pods().then_some(judged));
        self.table.open();
        self.known
            .send_if_modified(|known| !std::mem::replace(known, true));
    }

    fn is_here(&self, pod: &PodFacts) -> bool {
        match &self.node {
            None => true,
            Some(node) => pod.node.as_ref() == Some(node),
        }
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
