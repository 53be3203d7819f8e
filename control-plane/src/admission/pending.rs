//! What is given out and not yet written: addresses, ports and shares of quotas.
//!
//! What is taken is never kept in a table of its own: the objects in the store say it. Only
//! between the decision and the write is there a gap, and in it two requests could take the same.
//! A claim closes the gap: it is noted under the lock under which the store was looked through,
//! and is dropped when the write is visible or has failed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use super::Charge;
use crate::kinds::KindInfo;

/// A write whose request was given up may still arrive; its claim is kept this long.
const ABANDONED_FOR: Duration = Duration::from_secs(30);

/// All claims there are.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
pub(super) struct Entries {
    next: u64,
    entries: HashMap<u64, Entry>,
}

/// An object on its way into the store.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) info: &'static KindInfo,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) charge: Charge,
    abandoned: Option<Instant>,
}

/// The claims of one request.
#[derive(Debug, Default)]
pub(crate) struct Claims<'a> {
    held: Vec<(&'a Pending, u64)>,
    in_flight: bool,
}

impl Pending {
    /// Locks the claims; nothing is given out meanwhile.
    pub(super) fn lock(&self) -> MutexGuard<'_, Entries> {
        let mut entries = self.entries.lock();
        let fresh = |since: Instant| since.elapsed() < ABANDONED_FOR;
        entries
            .entries
            .retain(|_, entry| entry.abandoned.is_none_or(fresh));
        entries
    }

    /// Notes what an object takes, under the lock under which it was decided.
    pub(super) fn claim<'a>(
        &'a self,
        mut entries: MutexGuard<'_, Entries>,
        (info, namespace, uid): (&'static KindInfo, &str, &str),
        charge: Charge,
        claims: &mut Claims<'a>,
    ) {
        entries.next += 1;
        let id = entries.next;
        let entry = Entry {
            info,
            namespace: namespace.to_owned(),
            uid: uid.to_owned(),
            charge,
            abandoned: None,
        };
        entries.entries.insert(id, entry);
        claims.held.push((self, id));
    }
}

impl Entries {
    /// Goes through the claims for objects of a kind.
    pub(super) fn of<'a>(&'a self, info: &'a KindInfo) -> impl Iterator<Item = &'a Entry> {
        let entries = self.entries.values();
        entries.filter(move |entry| std::ptr::eq(entry.info, info))
    }
}

impl Claims<'_> {
    /// Says that the write begins: from here on it may arrive even if nobody waits for it.
    pub(crate) fn begin(&mut self) {
        self.in_flight = true;
    }

    /// Says that the write is visible or has failed.
    pub(crate) fn end(mut self) {
        self.in_flight = false;
    }
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        for (pending, id) in self.held.drain(..) {
            let mut entries = pending.entries.lock();
            if !self.in_flight {
                entries.entries.remove(&id);
            } else if let Some(entry) = entries.entries.get_mut(&id) {
                entry.abandoned = Some(Instant::now());
            }
        }
    }
}
