//! What a pod's in-memory sockets may hold in buffers together, so that no guest fills the host by
//! connecting to itself; and what passed through its sockets.
//!
//! Beside their own limit buffers are memory of the pod, if somebody keeps an account of that. It is
//! asked for in steps that outlive what is in them for a while, so that a round trip costs one look at
//! a number and no question.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

/// The bytes buffered for one pod; four hundred busy connections with both directions full.
pub(crate) const BUFFER_BYTES_PER_POD_MAX: usize = 48 * 1024 * 1024;

/// Memory is asked for in multiples of this.
const STEP_BYTES: usize = 16 * 1024;

/// Memory that is kept without need: a pipe with a full buffer that is emptied and filled again asks
/// for nothing.
const KEPT_BYTES_MAX: usize = 4 * STEP_BYTES;

/// Whose memory a pod's buffers are. Called under a lock: it must not come back to the network.
pub trait Purse: Send + Sync {
    /// Takes `bytes`, or tells that they are not to be had.
    fn take(&self, bytes: usize) -> bool;

    /// Gives back what was taken before.
    fn give_back(&self, bytes: usize);
}

/// What passed through the sockets of a pod, in bytes. Connections in memory tell theirs once in 16 KiB
/// and at their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodTraffic {
    /// What others sent to the pod.
    pub received: u64,
    /// What the pod sent to others.
    pub sent: u64,
}

/// Reads what passed through a pod's sockets, for as long as the pod is there.
#[derive(Clone, Debug)]
pub struct TrafficMeter(Weak<Budget>);

impl TrafficMeter {
    pub(crate) fn new(budget: &Arc<Budget>) -> TrafficMeter {
        TrafficMeter(Arc::downgrade(budget))
    }

    /// Returns what passed so far; nothing when the pod is gone.
    pub fn read(&self) -> Option<PodTraffic> {
        self.0.upgrade().map(|budget| budget.traffic())
    }
}

/// An account of buffered bytes with an upper bound.
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
    /// What `used` may be before the purse is asked; everything without a purse.
    granted: AtomicUsize,
    purse: OnceLock<Arc<dyn Purse>>,
    /// Held while `granted` changes.
    granting: Mutex<()>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Budget {
    /// Returns an empty account that takes up to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Budget {
        Budget {
            used: AtomicUsize::new(0),
            limit,
            granted: AtomicUsize::new(usize::MAX),
            purse: OnceLock::new(),
            granting: Mutex::new(()),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Makes `purse` pay for what is held from here on. Only the first call counts.
    pub(crate) fn pay_from(&self, purse: Arc<dyn Purse>) {
        if self.purse.set(purse).is_ok() {
            self.granted.store(0, Ordering::SeqCst);
            self.cover();
        }
    }

    /// Takes `bytes` and tells whether they fit; nothing is taken when they do not.
    pub(crate) fn charge(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        // In one order with `granted`, so that of a taking and a giving back one sees the other.
        let before = self
            .used
            .try_update(Ordering::SeqCst, Ordering::Relaxed, fits);
        let Ok(before) = before else {
            return false;
        };
        let is_covered = before + bytes <= self.granted.load(Ordering::SeqCst) || self.cover();
        if !is_covered {
            self.used.fetch_sub(bytes, Ordering::SeqCst);
        }
        is_covered
    }

    /// Tells whether `bytes` more would fit now.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.used()
            .checked_add(bytes)
            .is_some_and(|sum| sum <= self.limit)
    }

    /// Takes `bytes` even beyond the limit; for the little every connection is promised.
    pub(crate) fn charge_always(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if used > self.granted.load(Ordering::SeqCst) {
            // What is promised is held all the same; the next who takes asks for it again.
            self.cover();
        }
    }

    /// Gives back what was taken.
    pub(crate) fn refund(&self, bytes: usize) {
        let used = self.used.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        let granted = self.granted.load(Ordering::SeqCst);
        if granted != usize::MAX && granted.saturating_sub(used) > KEPT_BYTES_MAX {
            self.shrink();
        }
    }

    /// Returns the bytes taken now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Adds to what the pod sent.
    pub(crate) fn count_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to what the pod received.
    pub(crate) fn count_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns what passed through.
    pub(crate) fn traffic(&self) -> PodTraffic {
        PodTraffic {
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }

    /// Asks for what is used and not granted; tells whether it is granted.
    fn cover(&self) -> bool {
        let Some(purse) = self.purse.get() else {
            return true;
        };
        let _granting = self.granting.lock();
        let (used, granted) = (
            self.used.load(Ordering::SeqCst),
            self.granted.load(Ordering::SeqCst),
        );
        if used <= granted {
            return true;
        }
        let wanted = used.next_multiple_of(STEP_BYTES) - granted;
        let is_granted = purse.take(wanted);
        if is_granted {
            self.granted.store(granted + wanted, Ordering::SeqCst);
        }
        is_granted
    }

    /// Gives back what is granted beyond one step above what is used.
    fn shrink(&self) {
        let Some(purse) = self.purse.get() else {
            return;
        };
        {
            let _granting = self.granting.lock();
            let used = self.used.load(Ordering::SeqCst);
            let granted = self.granted.load(Ordering::SeqCst);
            let kept = used.next_multiple_of(STEP_BYTES) + STEP_BYTES;
            if granted <= kept {
                return;
            }
            self.granted.store(kept, Ordering::SeqCst);
            purse.give_back(granted - kept);
        }
        if self.used.load(Ordering::SeqCst) > self.granted.load(Ordering::SeqCst) {
            // Somebody took some meanwhile and saw what was granted before.
            self.cover();
        }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        if let Some(purse) = self.purse.get() {
            purse.give_back(*self.granted.get_mut());
        }
    }
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget")
            .field("used", &self.used())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has so many bytes, and counts how often it was asked.
    struct Pocket {
        left: Mutex<(usize, usize)>,
    }

    impl Pocket {
        fn with(bytes: usize) -> Arc<Pocket> {
            Arc::new(Pocket {
                left: Mutex::new((bytes, 0)),
            })
        }

        fn left(&self) -> usize {
            self.left.lock().0
        }

        fn asked(&self) -> usize {
            self.left.lock().1
        }
    }

    impl Purse for Pocket {
        fn take(&self, bytes: usize) -> bool {
            let mut left = self.left.lock();
            left.1 += 1;
            let is_there = left.0 >= bytes;
            if is_there {
                left.0 -= bytes;
            }
            is_there
        }

        fn give_back(&self, bytes: usize) {
            self.left.lock().0 += bytes;
        }
    }

    #[test]
    fn what_is_held_is_somebodys_memory_until_it_is_gone() {
        let pocket = Pocket::with(10 * STEP_BYTES);
        let budget = Budget::new(usize::MAX);
        budget.charge_always(1);
        budget.pay_from(pocket.clone());
        assert_eq!(pocket.left(), 9 * STEP_BYTES, "what was held before");
        assert!(budget.charge(7 * STEP_BYTES));
        assert_eq!(pocket.left(), 2 * STEP_BYTES);
        budget.refund(7 * STEP_BYTES);
        assert_eq!(pocket.left(), 8 * STEP_BYTES, "a step is kept");
        drop(budget);
        assert_eq!(pocket.left(), 10 * STEP_BYTES);
    }

    #[test]
    fn what_is_not_to_be_had_is_not_taken_but_what_is_promised_is() {
        let pocket = Pocket::with(STEP_BYTES);
        let budget = Budget::new(usize::MAX);
        budget.pay_from(pocket.clone());
        assert!(budget.charge(STEP_BYTES));
        assert!(!budget.charge(1));
        assert_eq!(budget.used(), STEP_BYTES);
        budget.charge_always(4);
        assert_eq!(budget.used(), STEP_BYTES + 4);
        budget.refund(STEP_BYTES + 4);
        assert!(budget.charge(STEP_BYTES));
    }

    #[test]
    fn a_buffer_that_is_filled_and_emptied_asks_once() {
        let pocket = Pocket::with(usize::MAX / 2);
        let budget = Budget::new(usize::MAX);
        budget.pay_from(pocket.clone());
        for _ in 0..100 {
            assert!(budget.charge(KEPT_BYTES_MAX));
            budget.refund(KEPT_BYTES_MAX);
        }
        assert_eq!(pocket.asked(), 1);
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let pocket = Pocket::with(64 * STEP_BYTES);
        let budget = Budget::new(usize::MAX);
        budget.pay_from(pocket.clone());
        std::thread::scope(|scope| {
            for thread in 1..4 {
                let budget = &budget;
                scope.spawn(move || {
                    for turn in 0..2_000 {
                        let bytes = (turn * thread * 977) % (6 * STEP_BYTES);
                        if budget.charge(bytes) {
                            budget.refund(bytes);
                        }
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
        let kept = 64 * STEP_BYTES - pocket.left();
        assert!(kept <= KEPT_BYTES_MAX, "{kept}");
        drop(budget);
        assert_eq!(pocket.left(), 64 * STEP_BYTES);
    }
}
