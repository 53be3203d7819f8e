//! Keys of work to do: each at most once, and again later if it failed.
//!
//! A key stands for "look at this again"; adding it twice is adding it once. The queue is bounded
//! by the number of things that keys can name, since a key is never in it twice.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::{Future, pending},
    hash::Hash,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

/// How long a key waits after each failure in a row: twice as long each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

/// What the one who works has to do next.
#[derive(Debug)]
pub(super) enum Step<K, R> {
    /// Begin with this key, and say so by [`Workers::start`].
    Begin(K),
    /// Judge this result, by [`Workers::done`] or [`Workers::retry`].
    Finished(K, R),
}

/// A queue, and the futures that work on a few of its keys at a time; none is a task of its own.
pub(super) struct Workers<K, R> {
    queue: Queue<K>,
    running: FuturesUnordered<BoxFuture<'static, (K, R)>>,
    at_once: usize,
}

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In line.
    Ready,
    /// Being worked on; `again` if it was added meanwhile.
    Running { again: bool },
    /// In line from this time on.
    Waiting(Instant),
}

#[derive(Debug)]
struct Entry {
    place: Place,
    failures: u32,
}

#[derive(Debug)]
struct Queue<K> {
    entries: HashMap<K, Entry>,
    ready: VecDeque<K>,
    /// By time and a number that keeps keys of the same time apart.
    waiting: BTreeMap<(Instant, u64), K>,
    next_number: u64,
    backoff: Backoff,
}

impl Backoff {
    fn delay(self, failures: u32) -> Duration {
        let factor = 1_u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

impl<K, R> Workers<K, R>
where
    K: Clone + Eq + Hash + Send + 'static,
    R: Send + 'static,
{
    pub(super) fn new(at_once: usize, backoff: Backoff) -> Workers<K, R> {
        Workers {
            queue: Queue::new(backoff),
            running: FuturesUnordered::new(),
            at_once,
        }
    }

    pub(super) fn add(&mut self, key: K) {
        self.queue.add(key);
    }

    /// Waits for the next thing to do. Cancel-safe: what it returns is all it takes.
    pub(super) async fn next(&mut self) -> Step<K, R> {
        loop {
            let free = self.running.len() < self.at_once;
            if free && let Some(key) = self.queue.pop(Instant::now()) {
                return Step::Begin(key);
            }
            let deadline = self.queue.deadline().filter(|_| free);
            let timer = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => pending().await,
                }
            };
            // Both lose nothing when the other wins.
            tokio::select! {
                Some((key, result)) = self.running.next(), if !self.running.is_empty() => {
                    return Step::Finished(key, result);
                }
                () = timer => (),
            }
        }
    }

    /// Works on a key that was begun.
    pub(super) fn start(&mut self, key: K, work: impl Future<Output = R> + Send + 'static) {
        self.running
            .push(Box::pin(async move { (key, work.await) }));
    }

    /// Returns how often the key has failed in a row.
    pub(super) fn failures(&self, key: &K) -> u32 {
        self.queue
            .entries
            .get(key)
            .map_or(0, |entry| entry.failures)
    }

    /// The work on a key is done, until it is added again.
    pub(super) fn done(&mut self, key: &K) {
        self.queue.done(key);
    }

    /// The work on a key has failed, or has to be looked at again later.
    pub(super) fn retry(&mut self, key: &K) {
        self.queue.retry(key, Instant::now());
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    fn new(backoff: Backoff) -> Queue<K> {
        Queue {
            entries: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeMap::new(),
            next_number: 0,
            backoff,
        }
    }

    fn add(&mut self, key: K) {
        let entry = self.entries.entry(key.clone()).or_insert(Entry {
            place: Place::Waiting(Instant::now()),
            failures: 0,
        });
        match entry.place {
            Place::Ready => (),
            Place::Running { .. } => entry.place = Place::Running { again: true },
            // Something has changed, so it may succeed earlier than expected.
            Place::Waiting(_) => {
                entry.place = Place::Ready;
                self.ready.push_back(key);
            }
        }
    }

    fn pop(&mut self, now: Instant) -> Option<K> {
        while let Some(first) = self.waiting.first_entry() {
            let (at, _) = *first.key();
            if at > now {
                break;
            }
            let key = first.remove();
            // Keys that were added or worked on meanwhile have another place by now.
            if let Some(entry) = self.entries.get_mut(&key)
                && entry.place == Place::Waiting(at)
            {
                entry.place = Place::Ready;
                self.ready.push_back(key);
            }
        }
        let key = self.ready.pop_front()?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.place = Place::Running { again: false };
        }
        Some(key)
    }

    fn deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    fn done(&mut self, key: &K) {
        let removed = self.entries.remove(key);
        if removed.is_some_and(|entry| entry.place == Place::Running { again: true }) {
            self.add(key.clone());
        }
    }

    fn retry(&mut self, key: &K, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.failures = entry.failures.saturating_add(1);
        if entry.place == (Place::Running { again: true }) {
            entry.place = Place::Ready;
            self.ready.push_back(key.clone());
            return;
        }
        let at = now + self.backoff.delay(entry.failures);
        entry.place = Place::Waiting(at);
        self.waiting.insert((at, self.next_number), key.clone());
        self.next_number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_millis(5),
        longest: Duration::from_secs(1),
    };

    fn queue() -> (Queue<&'static str>, Instant) {
        (Queue::new(BACKOFF), Instant::now())
    }

    #[test]
    fn a_key_is_in_line_once() {
        let (mut queue, now) = queue();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.pop(now), Some("a"));
        assert_eq!(queue.pop(now), Some("b"));
        assert_eq!(queue.pop(now), None);
        queue.done(&"a");
        queue.done(&"b");
        assert!(queue.entries.is_empty());
    }

    #[test]
    fn a_key_added_while_it_is_worked_on_comes_again() {
        let (mut queue, now) = queue();
        queue.add("a");
        queue.pop(now);
        queue.add("a");
        assert_eq!(queue.pop(now), None);
        queue.done(&"a");
        assert_eq!(queue.pop(now), Some("a"));
        queue.add("a");
        queue.retry(&"a", now);
        assert_eq!(queue.pop(now), Some("a"));
    }

    #[test]
    fn a_failed_key_waits_twice_as_long_each_time() {
        let (mut queue, mut now) = queue();
        queue.add("a");
        for failures in 0..12 {
            assert_eq!(queue.pop(now), Some("a"), "after {failures} failures");
            queue.retry(&"a", now);
            let wait = Duration::from_millis(5 << failures).min(BACKOFF.longest);
            assert_eq!(queue.deadline(), Some(now + wait));
            assert_eq!(queue.pop(now + wait - Duration::from_millis(1)), None);
            now += wait;
        }
        // A key that has waited long is taken at once when something changes, and only once.
        queue.pop(now);
        queue.retry(&"a", now);
        queue.add("a");
        assert_eq!(queue.pop(now), Some("a"));
        queue.done(&"a");
        assert_eq!(queue.pop(now + BACKOFF.longest), None);
        assert!(queue.waiting.is_empty());
    }
}
