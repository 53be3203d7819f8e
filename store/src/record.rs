//! What a store holds and announces.

use std::{fmt, sync::Arc};

use bytes::Bytes;

/// A point in the history of a store: the number of writes up to and including it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

/// One value at the revision that wrote it, with what its owner keeps decoded beside it.
#[derive(Debug)]
pub struct Record<I> {
    /// The path of the value.
    pub key: Arc<str>,
    /// The write that produced this value.
    pub revision: Revision,
    /// The value, opaque to the store.
    pub value: Bytes,
    /// The owner's own notes on the value, never written to a file.
    pub index: I,
}

/// What a write did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key did not exist before.
    Created,
    /// The key held another value before.
    Updated,
    /// The key is gone; the event's record holds the last value, rendered at this revision.
    Deleted,
}

/// One write, as watchers see it.
#[derive(Debug)]
pub struct Event<I> {
    /// What happened.
    pub change: Change,
    /// The new value, or the last one for [`Change::Deleted`].
    pub record: Arc<Record<I>>,
    /// The value that was current before, absent for [`Change::Created`].
    pub before: Option<Arc<Record<I>>>,
}

impl Revision {
    /// Returns the number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Revision(number)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<I> Event<I> {
    /// Returns the revision of the write.
    pub fn revision(&self) -> Revision {
        self.record.revision
    }
}

// Derived `Clone` would demand it of `I`, which is shared and never cloned.
impl<I> Clone for Event<I> {
    fn clone(&self) -> Self {
        Event {
            change: self.change,
            record: Arc::clone(&self.record),
            before: self.before.clone(),
        }
    }
}
