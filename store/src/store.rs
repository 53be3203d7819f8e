//! The store: one revision over all collections, writes by compare-and-swap, reads from memory.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::RwLock;
use thiserror::Error;

use crate::{
    collection::Collection,
    record::{Change, Record, Revision},
    watch::{Slot, WatchError, Watcher},
};

/// How much history each collection keeps for watchers and for reads of the past.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Events kept per collection; Kubernetes' clients expect several thousand.
    pub history_events: usize,
    /// Bytes of values kept per collection, so that large values cannot fill the memory.
    pub history_bytes: usize,
}

/// What a write demands of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists, at any revision.
    Present,
    /// The key was last written at this revision.
    At(Revision),
}

/// Which keys to read.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// Keys that start with this; it reaches at least to the `/` behind the collection's name.
    pub prefix: &'a str,
    /// Only keys that sort behind this one.
    pub after: Option<&'a str>,
    /// At most this many records.
    pub limit: Option<usize>,
    /// The revision to read at; absent, the newest.
    pub at: Option<Revision>,
}

/// Records in the order of their keys, all as of one revision.
#[derive(Debug)]
pub struct Page<I> {
    /// What was selected, up to the limit.
    pub records: Vec<Arc<Record<I>>>,
    /// How many selected records the limit left out.
    pub remaining: usize,
    /// The revision this page shows.
    pub revision: Revision,
}

/// Why a write was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// [`Expect::Absent`] met a value.
    #[error("key exists already")]
    Exists,
    /// The key does not exist.
    #[error("key does not exist")]
    Missing,
    /// Another write came first.
    #[error("key was changed at revision {found}")]
    Changed {
        /// The revision at which the key was last written.
        found: Revision,
    },
}

/// Why a range cannot be read at the revision asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RangeError {
    /// The history no longer reaches back that far.
    #[error("revision is older than `{oldest}`, the oldest kept")]
    Compacted {
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision is newer than `{newest}`, the newest there is")]
    Future {
        /// The newest revision.
        newest: Revision,
    },
}

/// A handle to one store; clones share it.
///
/// `I` is what the owner of the values keeps decoded beside each of them. It is computed by the
/// writer, shared by all readers and never written to a file.
#[derive(Debug)]
pub struct Store<I> {
    shared: Arc<Shared<I>>,
}

#[derive(Debug)]
pub(crate) struct Shared<I> {
    pub(crate) state: RwLock<State<I>>,
    limits: Limits,
    slot_ids: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct State<I> {
    pub(crate) revision: Revision,
    collections: HashMap<Box<str>, Collection<I>>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            history_events: 8192,
            history_bytes: 32 << 20,
        }
    }
}

impl<I> Clone for Store<I> {
    fn clone(&self) -> Self {
        Store {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<I> Store<I> {
    /// Creates an empty store that lives as long as its handles.
    pub fn in_memory(limits: Limits) -> Store<I> {
        // Revision 0 means "any" to clients, so the empty store is already at 1.
        let state = State {
            revision: Revision::from(1),
            collections: HashMap::new(),
        };
        let shared = Shared {
            state: RwLock::new(state),
            limits,
            slot_ids: AtomicU64::new(0),
        };
        Store {
            shared: Arc::new(shared),
        }
    }

    /// Returns the revision of the newest write.
    pub fn revision(&self) -> Revision {
        self.shared.state.read().revision
    }

    /// Returns the current value of `key`.
    pub fn get(&self, key: &str) -> Option<Arc<Record<I>>> {
        let state = self.shared.state.read();
        state
            .collection(key)
            .and_then(|collection| collection.get(key))
            .cloned()
    }

    /// Reads the records of `range` that `select` accepts.
    ///
    /// `select` runs under the store's shared lock: it must be quick and must not call the store.
    pub fn range(
        &self,
        range: &Range<'_>,
        select: impl FnMut(&Record<I>) -> bool,
    ) -> Result<Page<I>, RangeError> {
        let state = self.shared.state.read();
        let at = range.at.unwrap_or(state.revision);
        if at > state.revision {
            return Err(RangeError::Future {
                newest: state.revision,
            });
        }
        match state.collection(range.prefix) {
            Some(collection) => collection.range(range, at, select),
            None => Ok(Page {
                records: Vec::new(),
                remaining: 0,
                revision: at,
            }),
        }
    }

    /// Writes the value that `render` makes for the revision it is given.
    ///
    /// The future resolves once the write is as durable as the store: readers and watchers never
    /// see a write that could still be lost. Dropping the future does not take the write back.
    pub async fn put(
        &self,
        key: &str,
        expect: Expect,
        render: impl FnOnce(Revision) -> (Bytes, I),
    ) -> Result<Arc<Record<I>>, WriteError> {
        self.shared.write(key, expect, Intent::Put, render)
    }

    /// Deletes `key`; `render` makes the last value that watchers see, at the deletion's revision.
    ///
    /// Resolves as [`Store::put`] does.
    pub async fn delete(
        &self,
        key: &str,
        expect: Expect,
        render: impl FnOnce(Revision) -> (Bytes, I),
    ) -> Result<Arc<Record<I>>, WriteError> {
        self.shared.write(key, expect, Intent::Delete, render)
    }

    /// Watches all keys under `prefix` for events after the revision `after`.
    pub fn watch(&self, prefix: &str, after: Revision) -> Result<Watcher<I>, WatchError> {
        let mut state = self.shared.state.write();
        if after > state.revision {
            return Err(WatchError::Future {
                newest: state.revision,
            });
        }
        let newest = state.revision;
        let collection = state.collection_mut(prefix);
        if after < collection.compacted() {
            return Err(WatchError::Compacted {
                oldest: collection.compacted(),
            });
        }
        let id = self.shared.slot_ids.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::new(Slot::new(prefix, (after < newest).then(|| after.next())));
        collection.add_slot(id, Arc::clone(&slot));
        Ok(Watcher::new(Arc::clone(&self.shared), id, slot, after))
    }
}

#[derive(Clone, Copy)]
enum Intent {
    Put,
    Delete,
}

impl<I> Shared<I> {
    fn write(
        &self,
        key: &str,
        expect: Expect,
        intent: Intent,
        render: impl FnOnce(Revision) -> (Bytes, I),
    ) -> Result<Arc<Record<I>>, WriteError> {
        let mut state = self.state.write();
        let revision = state.revision.next();
        let collection = state.collection_mut(key);
        let found = collection.get(key);
        check(expect, found.map(|record| record.revision))?;
        let (change, key) = match (intent, found) {
            (Intent::Put, None) => (Change::Created, Arc::from(key)),
            (Intent::Put, Some(record)) => (Change::Updated, Arc::clone(&record.key)),
            (Intent::Delete, None) => return Err(WriteError::Missing),
            (Intent::Delete, Some(record)) => (Change::Deleted, Arc::clone(&record.key)),
        };
        let (value, index) = render(revision);
        let record = Arc::new(Record {
            key,
            revision,
            value,
            index,
        });
        let wakers = collection.apply(change, &record, &self.limits);
        state.revision = revision;
        drop(state);
        wakers.into_iter().for_each(std::task::Waker::wake);
        Ok(record)
    }
}

fn check(expect: Expect, found: Option<Revision>) -> Result<(), WriteError> {
    match (expect, found) {
        (Expect::Absent, None) | (Expect::Present, Some(_)) => Ok(()),
        (Expect::Absent, Some(_)) => Err(WriteError::Exists),
        (Expect::Present | Expect::At(_), None) => Err(WriteError::Missing),
        (Expect::At(wanted), Some(found)) if wanted == found => Ok(()),
        (Expect::At(_), Some(found)) => Err(WriteError::Changed { found }),
    }
}

impl<I> State<I> {
    pub(crate) fn collection(&self, path: &str) -> Option<&Collection<I>> {
        self.collections.get(collection_name(path))
    }

    pub(crate) fn collection_mut(&mut self, path: &str) -> &mut Collection<I> {
        let name = collection_name(path);
        if !self.collections.contains_key(name) {
            self.collections
                .insert(Box::from(name), Collection::default());
        }
        self.collections
            .get_mut(name)
            .expect("the collection has just been inserted if missing")
    }
}

/// Returns the first segment of a path: `pods` of `/pods/default/web`.
fn collection_name(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').map_or(path, |(name, _)| name)
}
