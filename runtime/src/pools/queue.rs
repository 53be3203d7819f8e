//! Who is polled next: those who wait, ordered by weighted virtual time.
//!
//! A pure structure without clock or threads. Each queue has a virtual time of its own, the highest
//! it has served; whoever arrives is placed no earlier than that, so that sleeping saves up nothing.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// How far ahead of a queue somebody may be placed, in virtual nanoseconds. The virtual times of
/// two queues drift apart; a container that comes from a faster one must not starve in a slower one.
const LEAD_MAX: u64 = 500_000_000;

/// Those who wait for one thread.
pub(super) struct RunQueue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    now: u64,
    arrivals: u64,
}

struct Entry<T> {
    place: u64,
    arrival: u64,
    item: T,
}

impl<T> RunQueue<T> {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            now: 0,
            arrivals: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Adds somebody whose own virtual time is `time`.
    pub(super) fn push(&mut self, time: u64, item: T) {
        let place = self.place(time);
        self.insert(place, item);
    }

    /// Adds somebody before everyone else.
    pub(super) fn push_first(&mut self, item: T) {
        self.insert(0, item);
    }

    /// Takes out whoever is furthest behind. `time_of` gives their virtual time now, which may have
    /// passed since they arrived: a container that is served by other threads too moves back.
    pub(super) fn pop(&mut self, time_of: impl Fn(&T) -> u64) -> Option<T> {
        while let Some(Reverse(mut entry)) = self.heap.pop() {
            let place = self.place(time_of(&entry.item));
            let others_first = self
                .heap
                .peek()
                .is_some_and(|Reverse(other)| other.place < place);
            if entry.place != 0 && entry.place < place && others_first {
                entry.place = place;
                self.heap.push(Reverse(entry));
                continue;
            }
            self.now = self.now.max(entry.place);
            return Some(entry.item);
        }
        None
    }

    fn place(&self, time: u64) -> u64 {
        time.clamp(self.now, self.now.saturating_add(LEAD_MAX))
    }

    fn insert(&mut self, place: u64, item: T) {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.heap.push(Reverse(Entry {
            place,
            arrival,
            item,
        }));
    }
}

impl<T> Entry<T> {
    fn key(&self) -> (u64, u64) {
        (self.place, self.arrival)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const SLICE: u64 = 1_000_000;

    /// Lets spinners of the given weights run `slices` slices and counts who got how many.
    fn shares(weights: &[u64], slices: u64) -> Vec<u64> {
        let mut times: HashMap<usize, u64> = HashMap::new();
        let mut counts = vec![0; weights.len()];
        let mut queue = RunQueue::new();
        (0..weights.len()).for_each(|spinner| queue.push(0, spinner));
        for _ in 0..slices {
            let time_of = |spinner: &usize| times.get(spinner).copied().unwrap_or(0);
            let spinner = queue.pop(time_of).expect("spinners always come back");
            counts[spinner] += 1;
            let time = times.entry(spinner).or_default();
            *time += SLICE * 1_000 / weights[spinner];
            queue.push(*time, spinner);
        }
        counts
    }

    #[test]
    fn spinners_share_by_weight() {
        assert_eq!(shares(&[1_000, 3_000], 4_000), [1_000, 3_000]);
        assert_eq!(shares(&[500, 500, 1_000], 4_000), [1_000, 1_000, 2_000]);
    }

    #[test]
    fn a_container_of_no_weight_is_served_once_in_a_while() {
        let counts = shares(&[10, 1_000], 1_010);
        assert!((9..=12).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn sleeping_saves_up_nothing() {
        let mut queue = RunQueue::new();
        queue.push(100 * SLICE, "busy");
        assert_eq!(queue.pop(|_| 100 * SLICE), Some("busy"));
        queue.push(101 * SLICE, "busy");
        queue.push(0, "sleeper");
        assert_eq!(queue.pop(|_| 0), Some("sleeper"));
        // One slice later the sleeper stands level with the one that was always there.
        queue.push(SLICE, "sleeper");
        queue.push(101 * SLICE, "busy");
        assert_eq!(queue.now, 100 * SLICE);
    }

    #[test]
    fn a_lead_over_a_slower_queue_is_bounded() {
        let mut queue = RunQueue::new();
        queue.push(u64::MAX, "from a faster queue");
        queue.push(LEAD_MAX + 1, "local");
        assert_eq!(queue.pop(|_| 0), Some("from a faster queue"));
    }

    #[test]
    fn who_was_served_elsewhere_in_the_meantime_moves_back() {
        let mut queue = RunQueue::new();
        queue.push(1, "served");
        queue.push(2, "waiting");
        let time_of = |name: &&str| if *name == "served" { 5 } else { 2 };
        assert_eq!(queue.pop(time_of), Some("waiting"));
        assert_eq!(queue.pop(time_of), Some("served"));
    }

    #[test]
    fn equals_are_served_in_the_order_of_their_arrival() {
        let mut queue = RunQueue::new();
        for name in ["first", "second", "third"] {
            queue.push(7, name);
        }
        queue.push_first("urgent");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(|_| 7)).collect();
        assert_eq!(order, ["urgent", "first", "second", "third"]);
        assert_eq!(queue.len(), 0);
    }
}
