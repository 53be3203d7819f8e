//! The store: one revision over all collections, writes by compare-and-swap, reads from memory.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;
use parking_lot::RwLock;
use thiserror::Error;

use crate::{
    collection::Collection,
    durable::{self, Keeper, OpenError, StoreConfig},
    intake::Intake,
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
    /// Key or value is larger than the store takes.
    #[error("key or value is larger than the store takes")]
    TooLarge,
    /// The disk is full. The store goes on by itself once there is room.
    #[error("no space is left for the store's journal")]
    NoSpace,
    /// The journal cannot be written. The store tries again with every write.
    ///
    /// The write is not shown, but if the process ends before the journal works again, it may
    /// turn out to have happened.
    #[error("the store's journal cannot be written: {kind}")]
    Unwritable {
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// The value could not be sealed.
    #[error("the system gives no random numbers to seal a value with")]
    Sealing,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
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
    /// Absent in a store that lives in memory only.
    keeper: Option<Arc<Keeper<I>>>,
}

#[derive(Debug)]
pub(crate) struct Shared<I> {
    pub(crate) state: RwLock<State<I>>,
    /// Where writes wait for the journal; absent in a store that lives in memory only.
    pub(crate) intake: Option<Intake<I>>,
    limits: Limits,
    slot_ids: AtomicU64,
    syncs: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct State<I> {
    pub(crate) revision: Revision,
    /// The revision the store was opened at; no history is kept over a restart.
    opened: Revision,
    collections: HashMap<Box<str>, Collection<I>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Intent {
    Put,
    Delete,
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
            keeper: self.keeper.clone(),
        }
    }
}

impl From<&io::Error> for WriteError {
    fn from(error: &io::Error) -> WriteError {
        match durable::is_full(error) {
            true => WriteError::NoSpace,
            false => WriteError::Unwritable { kind: error.kind() },
        }
    }
}

impl<I> Store<I> {
    /// Creates an empty store that lives as long as its handles.
    pub fn in_memory(limits: Limits) -> Store<I> {
        // Revision 0 means "any" to clients, so the empty store is already at 1.
        let state = State::new(Revision::from(1), Revision::default());
        Store::over(Arc::new(Shared::new(state, None, limits)), None)
    }

    /// Opens the store that is kept in a folder, or begins one there.
    ///
    /// `index` makes from every value what its owner keeps beside it. Reads files and blocks.
    /// History begins at the revision that was found: a watch from an older one is told so.
    pub fn open<E>(
        config: StoreConfig,
        index: impl Fn(&str, &Bytes) -> Result<I, E>,
    ) -> Result<Store<I>, OpenError>
    where
        I: Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (shared, keeper) = durable::open(config, index)?;
        Ok(Store::over(shared, Some(Arc::new(keeper))))
    }

    pub(crate) fn over(shared: Arc<Shared<I>>, keeper: Option<Arc<Keeper<I>>>) -> Store<I> {
        Store { shared, keeper }
    }

    /// Ends a durable store: refuses further writes, makes what waits durable, brings the
    /// compacted state up to date unless that is much work, and gives the folder free.
    ///
    /// Other handles can still read. The wait may be given up at any time, since the journal
    /// holds everything. Dropping all handles instead does the same in the background, without
    /// the checkpoint; a crash does no harm either.
    pub async fn close(self) {
        let keeper = self.keeper.clone();
        drop(self);
        if let Some(keeper) = keeper {
            keeper.close().await;
        }
    }

    /// Returns the revision of the newest write.
    pub fn revision(&self) -> Revision {
        self.shared.state.read().revision
    }

    /// Returns how many groups of writes were made durable since the store was opened.
    pub fn syncs(&self) -> u64 {
        self.shared.syncs.load(Ordering::Relaxed)
    }

    /// Returns the current value of `key`.
    pub fn get(&self, key: &str) -> Option<Arc<Record<I>>> {
        self.shared.state.read().get(key).cloned()
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
            None if at < state.opened => Err(RangeError::Compacted {
                oldest: state.opened,
            }),
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
    /// see a write that could still be lost. `render` runs under a lock of the store as soon as
    /// there is room in the queue; from then on dropping the future does not take the write back.
    /// A durable store answers [`WriteError::NoSpace`] or [`WriteError::Unwritable`] while its
    /// journal cannot be written, and goes on by itself.
    pub async fn put(
        &self,
        key: &str,
        expect: Expect,
        render: impl FnOnce(Revision) -> (Bytes, I),
    ) -> Result<Arc<Record<I>>, WriteError> {
        self.shared.write(key, expect, Intent::Put, render).await
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
        self.shared.write(key, expect, Intent::Delete, render).await
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

impl<I> Shared<I> {
    pub(crate) fn new(state: State<I>, intake: Option<Intake<I>>, limits: Limits) -> Shared<I> {
        Shared {
            state: RwLock::new(state),
            intake,
            limits,
            slot_ids: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        }
    }

    pub(crate) fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    async fn write(
        &self,
        key: &str,
        expect: Expect,
        intent: Intent,
        render: impl FnOnce(Revision) -> (Bytes, I),
    ) -> Result<Arc<Record<I>>, WriteError> {
        match &self.intake {
            Some(intake) => {
                self.write_durably(intake, key, expect, intent, render)
                    .await
            }
            None => self.write_to_memory(key, expect, intent, render),
        }
    }

    fn write_to_memory(
        &self,
        key: &str,
        expect: Expect,
        intent: Intent,
        render: impl FnOnce(Revision) -> (Bytes, I),
    ) -> Result<Arc<Record<I>>, WriteError> {
        let mut state = self.state.write();
        let revision = state.revision.next();
        let collection = state.collection_mut(key);
        let (change, key) = judge(collection.get(key), key, expect, intent)?;
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
        wakers.into_iter().for_each(Waker::wake);
        Ok(record)
    }

    /// Applies writes that are durable, all at once; the caller wakes the returned tasks.
    pub(crate) fn apply<'a>(
        &self,
        writes: impl Iterator<Item = (Change, &'a Arc<Record<I>>)>,
    ) -> Vec<Waker>
    where
        I: 'a,
    {
        let mut wakers = Vec::new();
        let mut state = self.state.write();
        for (change, record) in writes {
            let collection = state.collection_mut(&record.key);
            wakers.extend(collection.apply(change, record, &self.limits));
            state.revision = record.revision;
        }
        wakers
    }
}

/// Tells what a write does to its key, or why it is not done.
pub(crate) fn judge<I>(
    found: Option<&Arc<Record<I>>>,
    key: &str,
    expect: Expect,
    intent: Intent,
) -> Result<(Change, Arc<str>), WriteError> {
    check(expect, found.map(|record| record.revision))?;
    match (intent, found) {
        (Intent::Put, None) => Ok((Change::Created, Arc::from(key))),
        (Intent::Put, Some(record)) => Ok((Change::Updated, Arc::clone(&record.key))),
        (Intent::Delete, None) => Err(WriteError::Missing),
        (Intent::Delete, Some(record)) => Ok((Change::Deleted, Arc::clone(&record.key))),
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
    /// Makes a state at `revision` whose history begins at `opened`.
    pub(crate) fn new(revision: Revision, opened: Revision) -> State<I> {
        State {
            revision,
            opened,
            collections: HashMap::new(),
        }
    }

    /// Puts a value in place that was written before the store was opened.
    pub(crate) fn restore(&mut self, record: Record<I>) {
        let record = Arc::new(record);
        self.collection_mut(&record.key).restore(&record);
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Record<I>>> {
        self.collection(key)?.get(key)
    }

    pub(crate) fn collection(&self, path: &str) -> Option<&Collection<I>> {
        self.collections.get(collection_name(path))
    }

    pub(crate) fn collection_mut(&mut self, path: &str) -> &mut Collection<I> {
        let name = collection_name(path);
        if !self.collections.contains_key(name) {
            self.collections
                .insert(Box::from(name), Collection::new(self.opened));
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
