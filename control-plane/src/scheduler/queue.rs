//! Pods without a node: who is tried next, who waits for a change, who waits for a time. Pure.
//!
//! ```text
//!  set ──► Active ──next──► Busy ──park──► Parked ──wake──► Active, or Delayed until its time
//!             ▲               └──retry───► Delayed ──time──► Active
//!             └────── set with other facts, from anywhere ──┘
//! ```
//!
//! A change moves what is parked once; a pod comes back only after it was tried. So the cost of a
//! change does not grow with the pods that wait.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{cluster::PodKey, facts::PodFacts};

/// The pause after the second failure; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The order in which pods are tried: priority, then age, then name.
type Rank = (Reverse<i32>, i64, PodKey);

/// A pod without a node.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) uid: Arc<str>,
    pub(super) facts: Arc<PodFacts>,
    pub(super) generation: Option<i64>,
    /// When it was made, in seconds.
    pub(super) created: i64,
    /// Why it was last told to wait, so that it is not told twice.
    pub(super) told: Option<Arc<str>>,
}

#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    failures: u32,
    state: State,
}

/// Where a pod is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is tried as soon as its turn comes.
    Active,
    /// It was tried and what came of it is being written. A change meanwhile is remembered.
    Busy { missed: bool, since: Instant },
    /// It is tried at this time.
    Delayed(Instant),
    /// It is tried when something changes, but not before this time.
    Parked(Instant),
}

/// Invariant: every entry is in the set that its state names, and in no other.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: HashMap<PodKey, Entry>,
    active: BTreeSet<Rank>,
    delayed: BTreeSet<(Instant, PodKey)>,
    busy: HashSet<PodKey>,
    parked: HashSet<PodKey>,
    /// Parked pods whose place depends on where others are: a new neighbour can let them in.
    sociable: HashSet<PodKey>,
}

impl Waiting {
    fn rank(&self, key: &PodKey) -> Rank {
        (Reverse(self.facts.priority), self.created, key.clone())
    }

    fn is_sociable(&self) -> bool {
        !(self.facts.near.is_empty() && self.facts.spread.is_empty())
    }
}

impl Entry {
    fn miss(&mut self) {
        if let State::Busy { missed, .. } = &mut self.state {
            *missed = true;
        }
    }
}

/// Returns how long a pod is left alone after so many failures.
///
/// The first retry is free: a pod made just before its room appears must not wait for a timer.
fn backoff(failures: u32) -> Duration {
    match failures.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => BACKOFF_FIRST
            .saturating_mul(1 << doublings.min(8))
            .min(BACKOFF_MAX),
    }
}

impl Queue {
    pub(super) fn get(&self, key: &PodKey) -> Option<&Waiting> {
        self.entries.get(key).map(|entry| &entry.waiting)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &PodKey> {
        self.entries.keys()
    }

    /// Notes a pod; one that is new or has changed is tried at once.
    pub(super) fn set(&mut self, key: PodKey, waiting: Waiting) {
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.waiting.uid == waiting.uid
        {
            entry.waiting.generation = waiting.generation;
            if entry.waiting.facts == waiting.facts {
                return;
            }
            if let State::Busy { missed, .. } = &mut entry.state {
                (*missed, entry.failures) = (true, 0);
                entry.waiting.facts = waiting.facts;
                return;
            }
        }
        let told = self.remove(&key).filter(|old| old.uid == waiting.uid);
        let told = told.map_or(waiting.told.clone(), |old| old.told);
        let waiting = Waiting { told, ..waiting };
        self.active.insert(waiting.rank(&key));
        let entry = Entry {
            waiting,
            failures: 0,
            state: State::Active,
        };
        self.entries.insert(key, entry);
    }

    pub(super) fn remove(&mut self, key: &PodKey) -> Option<Waiting> {
        self.leave(key);
        self.entries.remove(key).map(|entry| entry.waiting)
    }

    pub(super) fn told(&mut self, key: &PodKey, message: Arc<str>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.waiting.told = Some(message);
        }
    }

    /// Takes the pod whose turn it is; it stays busy until it is parked, delayed or removed.
    pub(super) fn next(&mut self, now: Instant) -> Option<PodKey> {
        while let Some((due, key)) = self.delayed.first().cloned() {
            if due > now {
                break;
            }
            self.enter(&key, State::Active);
        }
        let (_, _, key) = self.active.first()?.clone();
        let (missed, since) = (false, now);
        self.enter(&key, State::Busy { missed, since });
        Some(key)
    }

    /// Returns when the next pod's time comes; pods whose turn it is are not meant.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.first().map(|(due, _)| *due)
    }

    pub(super) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Lets a pod that fits nowhere wait for a change.
    pub(super) fn park(&mut self, key: &PodKey, now: Instant) {
        let Some((missed, ready)) = self.fail(key) else {
            return;
        };
        self.enter(key, State::Parked(ready));
        if missed {
            self.wake(key, now);
        }
    }

    /// Lets a pod whose binding or verdict could not be written wait for a time.
    pub(super) fn retry(&mut self, key: &PodKey, now: Instant) {
        if let Some((_, ready)) = self.fail(key) {
            self.enter(key, State::Delayed(ready.max(now + BACKOFF_FIRST)));
        }
    }

    /// Something has changed that may let pods in.
    pub(super) fn wake_all(&mut self, now: Instant) {
        for key in self.parked_keys() {
            self.wake(&key, now);
        }
        self.note_change();
    }

    /// A pod was placed, which takes room but may be what others wait for.
    pub(super) fn wake_sociable(&mut self, now: Instant) {
        let keys: Vec<PodKey> = self.sociable.iter().cloned().collect();
        keys.iter().for_each(|key| self.wake(key, now));
        for key in &self.busy {
            if let Some(entry) = self.entries.get_mut(key)
                && entry.waiting.is_sociable()
            {
                entry.miss();
            }
        }
    }

    /// A node has changed, which is rare: everyone is tried without regard to earlier failures.
    pub(super) fn wake_all_at_once(&mut self) {
        let mut keys = self.parked_keys();
        keys.extend(self.delayed.iter().map(|(_, key)| key.clone()));
        for key in keys {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.failures = 0;
            }
            self.enter(&key, State::Active);
        }
        self.note_change();
    }

    fn parked_keys(&self) -> Vec<PodKey> {
        self.parked.iter().chain(&self.sociable).cloned().collect()
    }

    fn note_change(&mut self) {
        for key in &self.busy {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.miss();
            }
        }
    }

    /// Counts a failure; returns whether a change was missed, and when the pod may be tried again.
    fn fail(&mut self, key: &PodKey) -> Option<(bool, Instant)> {
        let entry = self.entries.get_mut(key)?;
        let State::Busy { missed, since } = entry.state else {
            return None;
        };
        entry.failures = entry.failures.saturating_add(1);
        Some((missed, since + backoff(entry.failures)))
    }

    fn wake(&mut self, key: &PodKey, now: Instant) {
        let Some(Entry {
            state: State::Parked(ready),
            ..
        }) = self.entries.get(key)
        else {
            return;
        };
        let state = match *ready {
            ready if ready > now => State::Delayed(ready),
            _ => State::Active,
        };
        self.enter(key, state);
    }

    fn enter(&mut self, key: &PodKey, state: State) {
        self.leave(key);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.state = state;
        match state {
            State::Active => drop(self.active.insert(entry.waiting.rank(key))),
            State::Delayed(due) => drop(self.delayed.insert((due, key.clone()))),
            State::Parked(_) if entry.waiting.is_sociable() => {
                self.sociable.insert(key.clone());
            }
            State::Parked(_) => drop(self.parked.insert(key.clone())),
            State::Busy { .. } => drop(self.busy.insert(key.clone())),
        }
    }

    fn leave(&mut self, key: &PodKey) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        match entry.state {
            State::Active => drop(self.active.remove(&entry.waiting.rank(key))),
            State::Delayed(due) => drop(self.delayed.remove(&(due, key.clone()))),
            State::Parked(_) if entry.waiting.is_sociable() => drop(self.sociable.remove(key)),
            State::Parked(_) => drop(self.parked.remove(key)),
            State::Busy { .. } => drop(self.busy.remove(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> PodKey {
        PodKey {
            namespace: "d".into(),
            name: name.into(),
        }
    }

    fn waiting(priority: i32, created: i64) -> Waiting {
        let facts = PodFacts {
            priority,
            ..PodFacts::default()
        };
        Waiting {
            uid: "u".into(),
            facts: Arc::new(facts),
            generation: None,
            created,
            told: None,
        }
    }

    fn order(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.next(now))
            .map(|key| key.name.to_string())
            .collect()
    }

    #[test]
    fn the_important_come_first_then_the_old() {
        let mut queue = Queue::default();
        for (name, priority, created) in [("c", 0, 2), ("b", 0, 1), ("a", 0, 2), ("z", 9, 3)] {
            queue.set(key(name), waiting(priority, created));
        }
        assert_eq!(order(&mut queue, Instant::now()), ["z", "b", "a", "c"]);
    }

    /// Fails a pod again and again, with a change after each failure, and checks its pauses.
    #[test]
    fn pauses_grow_from_one_second_to_ten() {
        let mut queue = Queue::default();
        queue.set(key("a"), waiting(0, 0));
        let mut now = Instant::now();
        for pause in [0, 1, 2, 4, 8, 10, 10] {
            assert_eq!(queue.next(now), Some(key("a")));
            queue.park(&key("a"), now);
            assert_eq!(queue.next(now + BACKOFF_MAX), None, "nothing has changed");
            queue.wake_all(now);
            let due = now + Duration::from_secs(pause);
            assert_eq!(queue.next_due().unwrap_or(now), due);
            now = due;
        }
    }

    #[test]
    fn a_change_during_a_write_is_not_missed() {
        let mut queue = Queue::default();
        queue.set(key("a"), waiting(0, 0));
        let now = Instant::now();
        queue.next(now);
        queue.wake_all(now);
        queue.park(&key("a"), now);
        assert_eq!(queue.next(now), Some(key("a")));
    }

    #[test]
    fn a_changed_node_ends_all_pauses_and_a_failed_write_begins_one() {
        let mut queue = Queue::default();
        queue.set(key("a"), waiting(0, 0));
        let now = Instant::now();
        queue.next(now);
        queue.retry(&key("a"), now);
        queue.wake_all(now);
        assert_eq!(queue.next(now), None);
        queue.wake_all_at_once();
        assert_eq!(queue.next(now), Some(key("a")));
    }

    #[test]
    fn only_pods_that_look_at_others_are_woken_by_a_placed_one() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.set(key("a"), waiting(0, 0));
        let mut social = waiting(0, 0);
        let spread = serde_json::from_value(serde_json::json!({"topologyKey": "zone",
            "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}));
        let facts = PodFacts {
            spread: vec![super::super::facts::Spread::of(
                &spread.expect("a constraint"),
                &Default::default(),
            )],
            ..PodFacts::default()
        };
        social.facts = Arc::new(facts);
        queue.set(key("b"), social);
        for name in order(&mut queue, now) {
            queue.park(&key(&name), now);
        }
        queue.wake_sociable(now);
        assert_eq!(order(&mut queue, now), ["b"]);
    }

    #[test]
    fn what_is_removed_leaves_nothing_behind() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for name in ["active", "busy", "parked", "delayed"] {
            queue.set(key(name), waiting(0, 0));
        }
        order(&mut queue, now);
        queue.park(&key("parked"), now);
        queue.retry(&key("delayed"), now);
        for name in ["active", "busy", "parked", "delayed"] {
            queue.remove(&key(name));
        }
        assert!(queue.active.is_empty() && queue.delayed.is_empty());
        assert!(queue.busy.is_empty() && queue.parked.is_empty() && queue.entries.is_empty());
    }
}
