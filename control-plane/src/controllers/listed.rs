//! What a watch has told about the objects of a kind.

use std::{
    collections::{BTreeMap, HashSet},
    hash::Hash,
};

use kube::runtime::watcher::Event;

/// The objects of a kind, in the order of their names.
#[derive(Debug)]
pub(super) struct Listed<K, V> {
    pub(super) all: BTreeMap<K, V>,
    /// What a list under way has named so far.
    seen: HashSet<K>,
    pub(super) is_known: bool,
}

impl<K, V> Default for Listed<K, V> {
    fn default() -> Self {
        Listed {
            all: BTreeMap::new(),
            seen: HashSet::new(),
            is_known: false,
        }
    }
}

impl<K: Ord + Clone + Hash, V> Listed<K, V> {
    /// Takes in what a watch says; returns the keys that it is about.
    pub(super) fn apply(&mut self, event: Event<V>, key: impl Fn(&V) -> K) -> Vec<K> {
        match event {
            Event::Apply(object) => {
                let key = key(&object);
                self.all.insert(key.clone(), object);
                vec![key]
            }
            Event::InitApply(object) => {
                let key = key(&object);
                self.seen.insert(key.clone());
                self.all.insert(key.clone(), object);
                vec![key]
            }
            Event::Delete(object) => {
                let key = key(&object);
                self.all.remove(&key);
                vec![key]
            }
            Event::Init => {
                self.seen.clear();
                Vec::new()
            }
            Event::InitDone => {
                self.is_known = true;
                let seen = std::mem::take(&mut self.seen);
                let gone = self.all.keys().filter(|key| !seen.contains(*key));
                let gone: Vec<K> = gone.cloned().collect();
                for key in &gone {
                    self.all.remove(key);
                }
                // Before the first list is complete, nothing was decided.
                gone.into_iter().chain(self.all.keys().cloned()).collect()
            }
        }
    }
}
