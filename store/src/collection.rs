//! One collection: its current values, its recent history, and who waits for more.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
    task::Waker,
};

use crate::{
    record::{Change, Event, Record, Revision},
    store::{Limits, Page, Range, RangeError},
    watch::Slot,
};

/// What an event costs beyond its value; the number is the size of its parts, rounded up.
const EVENT_OVERHEAD_BYTES: usize = 256;

/// Invariant: `history` is ordered by revision and complete for every revision above `compacted`.
#[derive(Debug)]
pub(crate) struct Collection<I> {
    current: BTreeMap<Arc<str>, Arc<Record<I>>>,
    history: VecDeque<Event<I>>,
    history_bytes: usize,
    compacted: Revision,
    slots: BTreeMap<u64, Arc<Slot>>,
}

impl<I> Collection<I> {
    /// Makes an empty collection whose history begins at `compacted`.
    pub(crate) fn new(compacted: Revision) -> Collection<I> {
        Collection {
            current: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            compacted,
            slots: BTreeMap::new(),
        }
    }

    /// Puts a value in place without an event.
    pub(crate) fn restore(&mut self, record: &Arc<Record<I>>) {
        self.current
            .insert(Arc::clone(&record.key), Arc::clone(record));
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Record<I>>> {
        self.current.get(key)
    }

    /// The newest revision whose event is no longer kept.
    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn add_slot(&mut self, id: u64, slot: Arc<Slot>) {
        self.slots.insert(id, slot);
    }

    pub(crate) fn remove_slot(&mut self, id: u64) {
        self.slots.remove(&id);
    }

    /// Applies one write; the caller wakes the returned tasks after it has let go of its lock.
    pub(crate) fn apply(
        &mut self,
        change: Change,
        record: &Arc<Record<I>>,
        limits: &Limits,
    ) -> Vec<Waker> {
        let before = match change {
            Change::Created | Change::Updated => self
                .current
                .insert(Arc::clone(&record.key), Arc::clone(record)),
            Change::Deleted => self.current.remove(&record.key),
        };
        self.history_bytes += EVENT_OVERHEAD_BYTES + record.value.len();
        self.history.push_back(Event {
            change,
            record: Arc::clone(record),
            before,
        });
        self.compact(limits);
        self.slots
            .values()
            .filter_map(|slot| slot.announce(record))
            .collect()
    }

    /// Drops the oldest events above the limits; the newest stays, so a live watcher sees it.
    fn compact(&mut self, limits: &Limits) {
        while self.history.len() > 1
            && (self.history.len() > limits.history_events
                || self.history_bytes > limits.history_bytes)
        {
            if let Some(event) = self.history.pop_front() {
                self.history_bytes -= EVENT_OVERHEAD_BYTES + event.record.value.len();
                self.compacted = event.revision();
            }
        }
    }

    /// Returns the kept events from `first` on, oldest first.
    pub(crate) fn events_from(&self, first: Revision) -> impl Iterator<Item = &Event<I>> {
        let start = self
            .history
            .partition_point(|event| event.revision() < first);
        self.history.range(start..)
    }

    /// Reads a range as it was at `at`; `at` is never above the store's revision.
    pub(crate) fn range(
        &self,
        range: &Range<'_>,
        at: Revision,
        select: impl FnMut(&Record<I>) -> bool,
    ) -> Result<Page<I>, RangeError> {
        let lower = match range.after {
            Some(key) if key >= range.prefix => Bound::Excluded(key),
            _ => Bound::Included(range.prefix),
        };
        let newest = self.history.back().map_or(self.compacted, Event::revision);
        let current = self.current.range::<str, _>((lower, Bound::Unbounded));
        let current = current.map(|(_, record)| record);
        if at >= newest {
            return Ok(page(current, range, at, select));
        }
        if at < self.compacted {
            return Err(RangeError::Compacted {
                oldest: self.compacted,
            });
        }
        let earlier = self.earlier(range.prefix, lower, at);
        Ok(page(taken_back(current, earlier), range, at, select))
    }

    /// Returns the keys that were written after `at`, each with its value at `at`; nothing for one that was
    /// not there.
    fn earlier(&self, prefix: &str, lower: Bound<&str>, at: Revision) -> Earlier<'_, I> {
        let events = self.history.iter().rev();
        let later = events.take_while(|event| event.revision() > at);
        let is_asked_for = |key: &str| {
            let is_behind = match lower {
                Bound::Excluded(after) => key > after,
                Bound::Included(first) => key >= first,
                Bound::Unbounded => true,
            };
            is_behind && key.starts_with(prefix)
        };
        // The oldest of a key's events comes last, and stays.
        later
            .filter(|event| is_asked_for(&event.record.key))
            .map(|event| (&*event.record.key, event.before.as_ref()))
            .collect()
    }
}

/// Values of keys at an earlier revision.
type Earlier<'a, I> = BTreeMap<&'a str, Option<&'a Arc<Record<I>>>>;

/// Returns current records with the earlier values in their places, in the order of their keys. Costs a step
/// for each that is taken, and nothing for the rest.
fn taken_back<'a, I>(
    current: impl Iterator<Item = &'a Arc<Record<I>>>,
    earlier: Earlier<'a, I>,
) -> impl Iterator<Item = &'a Arc<Record<I>>> {
    let (mut current, mut earlier) = (current.peekable(), earlier.into_iter().peekable());
    let next = move || {
        let order = match (current.peek(), earlier.peek()) {
            (Some(record), Some((key, _))) => (*record.key).cmp(key),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        Some(match order {
            Ordering::Less => current.next(),
            Ordering::Greater => earlier.next().and_then(|(_, value)| value),
            Ordering::Equal => {
                current.next();
                earlier.next().and_then(|(_, value)| value)
            }
        })
    };
    std::iter::from_fn(next).flatten()
}

fn page<'a, I: 'a>(
    records: impl Iterator<Item = &'a Arc<Record<I>>>,
    range: &Range<'_>,
    revision: Revision,
    mut select: impl FnMut(&Record<I>) -> bool,
) -> Page<I> {
    let limit = range.limit.unwrap_or(usize::MAX);
    let mut page = Page {
        records: Vec::new(),
        remaining: 0,
        revision,
    };
    let inside = records.take_while(|record| record.key.starts_with(range.prefix));
    for record in inside.filter(|record| select(record)) {
        if page.records.len() < limit {
            page.records.push(Arc::clone(record));
        } else {
            page.remaining += 1;
        }
    }
    page
}

#[cfg(test)]
mod tests;
