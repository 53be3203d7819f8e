//! What one container uses and may use: memory over all its stores, processor time over all its tasks.
//!
//! Memory is charged to the container's limit and to the node's budget at once, or to neither.
//! Processor time moves two things: the container's virtual time, which orders those who wait, and
//! its token bucket, which parks a container that has used up its quota.

use crate::spec::{ContainerId, Limits};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a guest runs before it is asked to let others run: one tick of the engine's clock.
pub(crate) const SLICE: Duration = Duration::from_millis(1);
/// The period of quotas, as in the kernel's bandwidth control: a bucket holds one period's worth.
const QUOTA_PERIOD: Duration = Duration::from_millis(100);
/// What may be owed beyond one period's worth. A stall of the machine in the middle of a poll is
/// charged like work; without this bound it could park a small container for minutes.
const DEBT_MAX: Duration = Duration::from_millis(10);
/// The weight of containers that request nothing, in thousandths of a processor.
const WEIGHT_MIN: u64 = 10;
/// The weight at which virtual time passes like real time.
const WEIGHT_UNIT: u64 = 1_000;

/// The bytes that all containers of the node may use together.
pub(crate) struct NodeBudget {
    limit: u64,
    used: AtomicU64,
}

/// Memory that was asked for is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum MemoryRefused {
    /// The container would pass its own limit.
    #[error("the container's memory limit is reached")]
    Container,
    /// All containers together would pass the node's budget.
    #[error("the node's memory is used up")]
    Node,
}

/// The meter of one container, shared by its stores and tasks.
pub(crate) struct Account {
    id: ContainerId,
    budget: Arc<NodeBudget>,
    memory_limit: u64,
    memory: Mutex<Memory>,
    weight: u64,
    cpu_nanos: AtomicU64,
    virtual_nanos: AtomicU64,
    quota: Option<Mutex<Bucket>>,
}

#[derive(Default)]
struct Memory {
    used: u64,
    peak: u64,
}

/// A token bucket whose tokens are nanoseconds of processor time; it may be in debt.
struct Bucket {
    milli: u64,
    capacity: i64,
    tokens: i64,
    filled_at: Instant,
}

impl NodeBudget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            limit: bytes,
            used: AtomicU64::new(0),
        }
    }

    fn take(&self, bytes: u64) -> Result<(), MemoryRefused> {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(|_| ()).map_err(|_| MemoryRefused::Node)
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Account {
    pub(crate) fn new(id: &ContainerId, limits: &Limits, budget: Arc<NodeBudget>) -> Self {
        Self {
            id: id.clone(),
            budget,
            memory_limit: limits.memory.unwrap_or(u64::MAX),
            memory: Mutex::default(),
            weight: limits.cpu_request_milli.max(WEIGHT_MIN),
            cpu_nanos: AtomicU64::new(0),
            virtual_nanos: AtomicU64::new(0),
            quota: limits
                .cpu_milli
                .map(|milli| Mutex::new(Bucket::full(milli, Instant::now()))),
        }
    }

    /// Charges `bytes` to the container and the node, or to neither.
    pub(crate) fn grow(&self, bytes: u64) -> Result<(), MemoryRefused> {
        let mut memory = self.memory.lock();
        let within = memory
            .used
            .checked_add(bytes)
            .filter(|used| *used <= self.memory_limit);
        let grown = match within {
            Some(used) => self.budget.take(bytes).map(|()| used),
            None => Err(MemoryRefused::Container),
        };
        match grown {
            Ok(used) => {
                memory.used = used;
                memory.peak = memory.peak.max(used);
                Ok(())
            }
            Err(refused) => {
                drop(memory);
                tracing::debug!(container = %self.id, bytes, %refused, "memory refused");
                Err(refused)
            }
        }
    }

    /// Gives back `bytes` that were charged before.
    pub(crate) fn shrink(&self, bytes: u64) {
        let mut memory = self.memory.lock();
        // Invariant: nobody gives back more than was charged; a mistake here must not wrap around.
        let bytes = bytes.min(memory.used);
        memory.used -= bytes;
        self.budget.give_back(bytes);
    }

    /// Returns the bytes charged now.
    pub(crate) fn memory(&self) -> u64 {
        self.memory.lock().used
    }

    /// Returns the most bytes that were ever charged at once.
    pub(crate) fn memory_peak(&self) -> u64 {
        self.memory.lock().peak
    }

    /// Returns the processor time used so far, with the host code that guests called.
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_nanos.load(Ordering::Relaxed))
    }

    /// Charges the time of one poll that ended at `now`.
    pub(crate) fn charge(&self, used: Duration, now: Instant) {
        let nanos = nanos(used);
        self.cpu_nanos.fetch_add(nanos, Ordering::Relaxed);
        let weighted = nanos.saturating_mul(WEIGHT_UNIT) / self.weight;
        self.virtual_nanos.fetch_add(weighted, Ordering::Relaxed);
        if let Some(bucket) = &self.quota {
            bucket.lock().take(nanos, now);
        }
    }

    /// Returns the processor time used so far, divided by the container's weight.
    pub(crate) fn virtual_nanos(&self) -> u64 {
        self.virtual_nanos.load(Ordering::Relaxed)
    }

    /// Returns whether the container's processor time is bounded.
    pub(crate) fn has_quota(&self) -> bool {
        self.quota.is_some()
    }

    /// Returns when the container may run again, if it has used up its quota at `now`.
    pub(crate) fn parked_until(&self, now: Instant) -> Option<Instant> {
        self.quota.as_ref()?.lock().empty_until(now)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.budget.give_back(self.memory.get_mut().used);
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

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(limits: Limits, budget: &Arc<NodeBudget>) -> Account {
        let id = ContainerId {
            namespace: "default".into(),
            pod: "pod".into(),
            container: "main".into(),
        };
        Account::new(&id, &limits, budget.clone())
    }

    #[test]
    fn growth_is_charged_to_the_container_and_the_node_or_to_neither() {
        let budget = Arc::new(NodeBudget::new(100));
        let limits = Limits {
            memory: Some(60),
            ..Limits::default()
        };
        let (first, second) = (account(limits, &budget), account(limits, &budget));
        assert_eq!(first.grow(60), Ok(()));
        assert_eq!(first.grow(1), Err(MemoryRefused::Container));
        assert_eq!(second.grow(41), Err(MemoryRefused::Node));
        assert_eq!((second.memory(), second.memory_peak()), (0, 0));
        first.shrink(20);
        assert_eq!(second.grow(60), Ok(()));
        assert_eq!((first.memory(), first.memory_peak()), (40, 60));
    }

    #[test]
    fn a_growth_beyond_all_numbers_is_refused() {
        let budget = Arc::new(NodeBudget::new(u64::MAX));
        let account = account(Limits::default(), &budget);
        assert_eq!(account.grow(1), Ok(()));
        assert_eq!(account.grow(u64::MAX), Err(MemoryRefused::Container));
    }

    #[test]
    fn a_dropped_account_gives_everything_back_to_the_node() {
        let budget = Arc::new(NodeBudget::new(10));
        assert_eq!(account(Limits::default(), &budget).grow(10), Ok(()));
        assert_eq!(account(Limits::default(), &budget).grow(10), Ok(()));
    }

    #[test]
    fn virtual_time_passes_more_slowly_for_heavier_containers() {
        let budget = Arc::new(NodeBudget::new(0));
        let virtual_nanos = |cpu_request_milli| {
            let account = account(
                Limits {
                    cpu_request_milli,
                    ..Limits::default()
                },
                &budget,
            );
            account.charge(SLICE, Instant::now());
            account.virtual_nanos()
        };
        assert_eq!(virtual_nanos(1_000), 1_000_000);
        assert_eq!(virtual_nanos(3_000), 333_333);
        assert_eq!(
            virtual_nanos(0),
            100_000_000,
            "no request still counts as a small one"
        );
    }

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
}
