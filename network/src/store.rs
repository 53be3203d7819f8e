//! A map for many readers: split into shards, so that they seldom meet, with values shared, so that a
//! look-up holds a lock for as long as it takes to count one reference.

use std::array;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use parking_lot::RwLock;

/// More than there are threads that read at once.
const SHARDS: usize = 64;

pub(crate) struct Store<K, V> {
    shards: [RwLock<HashMap<K, Arc<V>>>; SHARDS],
    hasher: RandomState,
}

impl<K: Hash + Eq, V> Store<K, V> {
    pub(crate) fn new() -> Store<K, V> {
        Store {
            shards: array::from_fn(|_| RwLock::default()),
            hasher: RandomState::new(),
        }
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.shard(key).read().get(key).cloned()
    }

    pub(crate) fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.shard(key).read().contains_key(key)
    }

    /// Puts a value in and returns the one it replaces.
    pub(crate) fn insert(&self, key: K, value: V) -> Option<Arc<V>> {
        self.shard(&key).write().insert(key, Arc::new(value))
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.shard(key).write().remove(key)
    }

    /// Changes a value, made anew where there is none; `change` tells whether to keep it.
    pub(crate) fn update(&self, key: K, change: impl FnOnce(&mut V) -> bool)
    where
        V: Default + Clone,
    {
        let mut shard = self.shard(&key).write();
        let mut value = shard.remove(&key).unwrap_or_default();
        if change(Arc::make_mut(&mut value)) {
            shard.insert(key, value);
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &RwLock<HashMap<K, Arc<V>>> {
        // The shards' maps use the low bits of hashes of their own.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }
}

impl<K, V> fmt::Debug for Store<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}
