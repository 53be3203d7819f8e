//! A bound on processor time: a token bucket per container or pod, which a resize may change or take away.

use super::{SLICE, nanos};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The period of quotas, as in the kernel's bandwidth control: a bucket holds one period's worth.
const QUOTA_PERIOD: Duration = Duration::from_millis(100);
/// What may be owed beyond one period's worth. A stall of the machine in the middle of a poll is
/// charged like work; without this bound it could park a small container for minutes.
const DEBT_MAX: Duration = Duration::from_millis(10);

/// A bound on processor time, if there is one.
#[derive(Default)]
pub(super) struct Quota {
    /// Says without a lock what most containers say: there is none.
    is_set: AtomicBool,
    bucket: Mutex<Option<Bucket>>,
}

/// A token bucket whose tokens are nanoseconds of processor time; it may be in debt.
struct Bucket {
    milli: u64,
    capacity: i64,
    tokens: i64,
    filled_at: Instant,
}

impl Quota {
    pub(super) fn new(milli: Option<u64>) -> Self {
        let quota = Self::default();
        quota.set(milli);
        quota
    }

    /// Bounds what is used from now on; what was owed is forgiven, which is a period's worth at most.
    pub(super) fn set(&self, milli: Option<u64>) {
        let mut bucket = self.bucket.lock();
        if bucket.as_ref().map(|bucket| bucket.milli) == milli.map(|milli| milli.max(1)) {
            return;
        }
        *bucket = milli.map(|milli| Bucket::full(milli, Instant::now()));
        self.is_set.store(milli.is_some(), Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Charges the time of one poll that ended at `now`.
    pub(super) fn take(&self, nanos: u64, now: Instant) {
        if self.is_set()
            && let Some(bucket) = &mut *self.bucket.lock()
        {
            bucket.take(nanos, now);
        }
    }

    /// Returns when there will be tokens for a whole slice, if there are none at `now`.
    pub(super) fn empty_until(&self, now: Instant) -> Option<Instant> {
        if !self.is_set() {
            return None;
        }
        self.bucket.lock().as_mut()?.empty_until(now)
    }
}

impl Bucket {
    fn full(milli: u64, now: Instant) -> Self {
        let milli = milli.max(1);
        let period = nanos(QUOTA_PERIOD).saturating_mul(milli) / 1_000;
        let capacity = i64::try_from(period.max(nanos(SLICE))).unwrap_or(i64::MAX / 2);
        Self {
            milli,
            capacity,
            tokens: capacity,
            filled_at: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = nanos(now.saturating_duration_since(self.filled_at));
        let filled = elapsed.saturating_mul(self.milli) / 1_000;
        let filled = i64::try_from(filled).unwrap_or(i64::MAX);
        self.tokens = self.tokens.saturating_add(filled).min(self.capacity);
        self.filled_at = self.filled_at.max(now);
    }

    fn take(&mut self, used: u64, now: Instant) {
        self.fill(now);
        let owed_max = self.capacity.saturating_add_unsigned(nanos(DEBT_MAX));
        self.tokens = self.tokens.saturating_sub_unsigned(used).max(-owed_max);
    }

    /// Returns when there will be tokens for a whole slice, if there are none at `now`.
    fn empty_until(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        if self.tokens > 0 {
            return None;
        }
        let missing = self.tokens.unsigned_abs() + nanos(SLICE);
        Some(now + Duration::from_nanos(missing.saturating_mul(1_000) / self.milli))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a spinner in whole slices against a clock of its own for ten seconds.
    fn share_of_a_spinner(milli: u64) -> f64 {
        let start = Instant::now();
        let mut bucket = Bucket::full(milli, start);
        let (mut now, mut used) = (start, Duration::ZERO);
        let end = start + Duration::from_secs(10);
        while now < end {
            match bucket.empty_until(now) {
                Some(until) => now = until,
                None => {
                    now += SLICE;
                    used += SLICE;
                    bucket.take(nanos(SLICE), now);
                }
            }
        }
        used.as_secs_f64() / 10.0
    }

    #[test]
    fn a_spinner_gets_its_quota_and_no_more() {
        for milli in [10, 50, 100, 250, 500, 900] {
            let (share, quota) = (share_of_a_spinner(milli), milli as f64 / 1_000.0);
            // One bucket of burst over ten seconds, and a slice of debt.
            let tolerance = quota * 0.01 + 0.000_2;
            assert!(
                (share - quota).abs() <= tolerance,
                "{milli}m: used {share:.4}"
            );
        }
        assert!(
            share_of_a_spinner(2_000) > 0.999,
            "one task cannot use two processors"
        );
    }

    #[test]
    fn a_stall_is_not_owed_for_ever() {
        let start = Instant::now();
        let mut bucket = Bucket::full(10, start);
        bucket.take(nanos(Duration::from_secs(60)), start);
        let until = bucket.empty_until(start).expect("the bucket is in debt");
        assert!(until - start < Duration::from_secs(2));
    }

    #[test]
    fn a_bound_is_set_changed_and_taken_away() {
        let quota = Quota::new(None);
        let now = Instant::now();
        quota.take(nanos(Duration::from_secs(1)), now);
        assert_eq!((quota.is_set(), quota.empty_until(now)), (false, None));
        quota.set(Some(100));
        quota.take(nanos(Duration::from_secs(1)), Instant::now());
        assert!(quota.empty_until(Instant::now()).is_some());
        // The same again forgives nothing.
        quota.set(Some(100));
        assert!(quota.empty_until(Instant::now()).is_some());
        quota.set(Some(200));
        assert_eq!(quota.empty_until(Instant::now()), None);
        quota.set(None);
        assert!(!quota.is_set());
    }
}
