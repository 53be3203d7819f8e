//! One collection: its current values, its recent history, and who waits for more.

use std::{
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
        if at >= newest {
            let records = self.current.range::<str, _>((lower, Bound::Unbounded));
            return Ok(page(records, range, at, select));
        }
        if at < self.compacted {
            return Err(RangeError::Compacted {
                oldest: self.compacted,
            });
        }
        let past = self.as_of(range.prefix, at);
        Ok(page(
            past.range::<str, _>((lower, Bound::Unbounded)),
            range,
            at,
            select,
        ))
    }

    /// Rebuilds the values under `prefix` at `at` by taking later events back.
    fn as_of(&self, prefix: &str, at: Revision) -> BTreeMap<Arc<str>, Arc<Record<I>>> {
        let mut past: BTreeMap<_, _> = self
            .current
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, record)| (Arc::clone(key), Arc::clone(record)))
            .collect();
        let later = self
            .history
            .iter()
            .rev()
            .take_while(|event| event.revision() > at);
        for event in later.filter(|event| event.record.key.starts_with(prefix)) {
            match &event.before {
                Some(record) => past.insert(Arc::clone(&record.key), Arc::clone(record)),
                None => past.remove(&event.record.key),
            };
        }
        past
    }
}

fn page<'a, I: 'a>(
    records: impl Iterator<Item = (&'a Arc<str>, &'a Arc<Record<I>>)>,
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
    let inside = records.take_while(|(key, _)| key.starts_with(range.prefix));
    for (_, record) in inside.filter(|(_, record)| select(record)) {
        if page.records.len() < limit {
            page.records.push(Arc::clone(record));
        } else {
            page.remaining += 1;
        }
    }
    page
}
