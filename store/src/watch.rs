//! Watchers: each reads the collection's shared history at its own pace.
//!
//! A watcher owns no queue. A write notes in the watcher's [`Slot`] the first event it has not
//! read and wakes it; the watcher then takes events from the history in batches. Its backlog is
//! therefore bounded by the history's limits: one that falls behind them is told so and ends.
//! A watcher whose prefix nothing touches stays current without being woken.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use thiserror::Error;

use crate::{
    record::{Event, Record, Revision},
    store::Shared,
};

/// Events handed over at once: large enough to spare locking, small enough to be fair.
const BATCH_EVENTS: usize = 128;

/// Why a watch cannot start or go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WatchError {
    /// The history no longer holds the events that would come next.
    #[error("history before revision `{oldest}` is no longer kept")]
    Compacted {
        /// The oldest revision from which a watch can start.
        oldest: Revision,
    },
    /// The revision to start from has not happened yet.
    #[error("revision is newer than `{newest}`, the newest there is")]
    Future {
        /// The newest revision.
        newest: Revision,
    },
}

/// Reads the events under one prefix, in order and without gaps.
#[derive(Debug)]
pub struct Watcher<I> {
    shared: Arc<Shared<I>>,
    id: u64,
    slot: Arc<Slot>,
    seen: Revision,
}

/// Where a write leaves its mark for one watcher.
#[derive(Debug)]
pub(crate) struct Slot {
    prefix: Box<str>,
    mark: Mutex<Mark>,
}

/// Invariant: `next` is the oldest event under the prefix that was not read, if there is one.
#[derive(Debug)]
struct Mark {
    next: Option<Revision>,
    waker: Option<Waker>,
}

impl<I> Watcher<I> {
    pub(crate) fn new(shared: Arc<Shared<I>>, id: u64, slot: Arc<Slot>, seen: Revision) -> Self {
        Watcher {
            shared,
            id,
            slot,
            seen,
        }
    }

    /// Returns the revision up to which every event has been handed over.
    pub fn seen(&self) -> Revision {
        self.seen
    }

    /// Appends the next events to `batch`, or registers the task to be woken for them.
    ///
    /// Ready with at least one event, or with an error after which the watcher is of no more use.
    pub fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Event<I>>,
    ) -> Poll<Result<(), WatchError>> {
        let state = self.shared.state.read();
        let mut mark = self.slot.mark.lock();
        let collection = match (mark.next, state.collection(&self.slot.prefix)) {
            (Some(first), Some(collection)) => {
                if first <= collection.compacted() {
                    let oldest = collection.compacted();
                    return Poll::Ready(Err(WatchError::Compacted { oldest }));
                }
                collection.events_from(first)
            }
            (None, _) | (_, None) => {
                self.seen = state.revision;
                mark.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        let mut unread = collection.filter(|event| self.slot.covers(&event.record));
        batch.extend(unread.by_ref().take(BATCH_EVENTS).cloned());
        mark.next = unread.next().map(Event::revision);
        self.seen = match mark.next {
            Some(_) => batch.last().map_or(self.seen, Event::revision),
            None => state.revision,
        };
        if batch.is_empty() {
            // The watch began at a revision after which nothing under its prefix happened.
            mark.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the next events; cancelling loses none.
    pub async fn next_batch(&mut self) -> Result<Vec<Event<I>>, WatchError> {
        let mut batch = Vec::new();
        poll_fn(|cx| self.poll_batch(cx, &mut batch)).await?;
        Ok(batch)
    }
}

impl<I> Drop for Watcher<I> {
    fn drop(&mut self) {
        let mut state = self.shared.state.write();
        state.collection_mut(&self.slot.prefix).remove_slot(self.id);
    }
}

impl Slot {
    pub(crate) fn new(prefix: &str, next: Option<Revision>) -> Slot {
        Slot {
            prefix: Box::from(prefix),
            mark: Mutex::new(Mark { next, waker: None }),
        }
    }

    /// Notes a new event; returns the task to wake if it waits for this one.
    pub(crate) fn announce<I>(&self, record: &Record<I>) -> Option<Waker> {
        if !self.covers(record) {
            return None;
        }
        let mut mark = self.mark.lock();
        mark.next.get_or_insert(record.revision);
        mark.waker.take()
    }

    fn covers<I>(&self, record: &Record<I>) -> bool {
        record.key.starts_with(&*self.prefix)
    }
}
