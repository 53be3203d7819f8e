//! What one container uses and may use: memory over all its stores, processor time over all its tasks.
//!
//! Memory is charged to the container's limit and to the node's budget at once, or to neither. When the
//! node's is used up, containers are ended until there is room, before the kernel would end us all.
//! Processor time moves two things: the container's virtual time, which orders those who wait, and
//! its token bucket, which parks a container that has used up its quota.

use crate::spec::{ContainerId, Limits};
use parking_lot::Mutex;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::Notify;
use victim::{Class, Standing};

mod victim;

/// How long a guest runs before it is asked to let others run: one tick of the engine's clock.
pub(crate) const SLICE: Duration = Duration::from_millis(1);
/// The period of quotas, as in the kernel's bandwidth control: a bucket holds one period's worth.
const QUOTA_PERIOD: Duration = Duration::from_millis(100);
/// What may be owed beyond one period's worth. A stall of the machine in the middle of a poll is
/// charged like work; without this bound it could park a small container for minutes.
const DEBT_MAX: Duration = Duration::from_millis(10);
/// How long a growth waits for the memory of those that were ended for it. A guest is gone within a slice;
/// what takes longer is a machine that stalls.
const ROOM_DEADLINE: Duration = Duration::from_secs(10);
/// Accounts that are known before the list of them is first cleared of those that are gone.
const SWEEP_MIN: usize = 64;
/// The weight of containers that request nothing, in thousandths of a processor.
const WEIGHT_MIN: u64 = 10;
/// The weight at which virtual time passes like real time.
const WEIGHT_UNIT: u64 = 1_000;

/// The bytes that all containers of the node may use together.
pub(crate) struct NodeBudget {
    limit: u64,
    used: AtomicU64,
    /// Told at every giving back.
    freed: Notify,
    accounts: Mutex<Known>,
}

/// Accounts of containers that can be ended; swept when it has grown to twice its live size.
#[derive(Default)]
struct Known {
    all: Vec<Weak<Account>>,
    sweep_at: usize,
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
    memory_request: u64,
    class: Class,
    memory: Mutex<Memory>,
    /// Ends the container for want of memory.
    end: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Whether it was chosen to end; its memory is on its way back.
    doomed: AtomicBool,
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
            freed: Notify::new(),
            accounts: Mutex::default(),
        }
    }

    /// Chooses who ends so that `asking` can have `bytes`, and ends them; tells whether there will be room.
    ///
    /// Whoever asks stands for what it would have then, so that one container cannot end the others by
    /// asking for more than any of them has.
    fn make_room(&self, asking: &Account, bytes: u64) -> bool {
        if bytes > self.limit {
            return false;
        }
        let used = self.used.load(Ordering::Relaxed);
        let missing = used.saturating_add(bytes).saturating_sub(self.limit);
        let (victims, enough) = {
            let known = self.accounts.lock();
            let accounts: Vec<_> = known.all.iter().filter_map(Weak::upgrade).collect();
            doom(&accounts, asking, bytes, missing)
        };
        for victim in victims {
            tracing::warn!(container = %victim.id, asking = %asking.id, "the node's memory is used up");
            if let Some(end) = victim.end.get() {
                end();
            }
        }
        enough
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
        self.freed.notify_waiters();
    }
}

impl Known {
    fn add(&mut self, account: &Arc<Account>) {
        if self.all.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.all.retain(|account| account.strong_count() > 0);
            self.sweep_at = self.all.len() * 2;
        }
        self.all.push(Arc::downgrade(account));
    }
}

/// Dooms accounts until what the doomed have is at least `missing`, or the one that asks is among them.
/// Returns the newly doomed, and whether that is enough.
fn doom(
    accounts: &[Arc<Account>],
    asking: &Account,
    bytes: u64,
    missing: u64,
) -> (Vec<Arc<Account>>, bool) {
    let is_doomed = |account: &Account| account.doomed.load(Ordering::Relaxed);
    let (mut coming, mut living) = (0_u64, Vec::new());
    for account in accounts {
        if is_doomed(account) {
            coming = coming.saturating_add(account.memory());
        } else {
            living.push(account.clone());
        }
    }
    let mut victims = Vec::new();
    while coming < missing && !is_doomed(asking) {
        let standing = |account: &Arc<Account>| account.standing(asking, bytes);
        let standings: Vec<_> = living.iter().map(standing).collect();
        let Some(chosen) = victim::choose(&standings) else {
            return (victims, false);
        };
        let victim = living.swap_remove(chosen);
        victim.doomed.store(true, Ordering::Relaxed);
        coming = coming.saturating_add(victim.memory());
        victims.push(victim);
    }
    (victims, true)
}

impl Account {
    pub(crate) fn new(id: &ContainerId, limits: &Limits, budget: Arc<NodeBudget>) -> Self {
        Self {
            id: id.clone(),
            budget,
            memory_limit: limits.memory.unwrap_or(u64::MAX),
            memory_request: limits.memory_request,
            class: Class::of(limits),
            memory: Mutex::default(),
            end: OnceLock::new(),
            doomed: AtomicBool::new(false),
            weight: limits.cpu_request_milli.max(WEIGHT_MIN),
            cpu_nanos: AtomicU64::new(0),
            virtual_nanos: AtomicU64::new(0),
            quota: limits
                .cpu_milli
                .map(|milli| Mutex::new(Bucket::full(milli, Instant::now()))),
        }
    }

    /// Says how the container is ended when the node's memory is used up and it is chosen. The first call
    /// counts: later ones are of programs that run in the container.
    pub(crate) fn end_by(self: &Arc<Self>, end: impl Fn() + Send + Sync + 'static) {
        if self.end.set(Box::new(end)).is_ok() {
            self.budget.accounts.lock().add(self);
        }
    }

    /// Charges like [`Account::grow`]; when the node's memory is used up, ends the container furthest above
    /// its request in the lowest class, which may be this one, and waits for what it had.
    pub(crate) async fn grow_or_make_room(&self, bytes: u64) -> Result<(), MemoryRefused> {
        match self.grow(bytes) {
            Err(MemoryRefused::Node) => {}
            settled => return settled,
        }
        let deadline = tokio::time::Instant::now() + ROOM_DEADLINE;
        loop {
            let mut freed = pin!(self.budget.freed.notified());
            // What comes back from here on is not missed.
            freed.as_mut().enable();
            match self.grow(bytes) {
                Err(MemoryRefused::Node) => {}
                settled => return settled,
            }
            let will_fit = self.budget.make_room(self, bytes);
            if !will_fit || tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Err(MemoryRefused::Node);
            }
        }
    }

    /// What it has, with `bytes` more if it is the one that asks.
    fn standing(&self, asking: &Account, bytes: u64) -> Standing {
        let more = if std::ptr::eq(self, asking) { bytes } else { 0 };
        Standing {
            class: self.class,
            used: self.memory().saturating_add(more),
            request: self.memory_request,
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
    use futures_util::FutureExt as _;

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

    /// Three containers of a node of 100 bytes, with what each asked for, has, and whether it was ended.
    struct Crowd {
        accounts: Vec<Arc<Account>>,
        ended: Arc<Mutex<Vec<usize>>>,
    }

    fn crowd(members: &[(Limits, u64)]) -> Crowd {
        let budget = Arc::new(NodeBudget::new(100));
        let ended = Arc::new(Mutex::new(Vec::new()));
        let accounts: Vec<_> = members
            .iter()
            .enumerate()
            .map(|(index, (limits, used))| {
                let account = Arc::new(account(*limits, &budget));
                account.grow(*used).expect("it fits");
                let (ended, dying) = (ended.clone(), Arc::downgrade(&account));
                account.end_by(move || {
                    ended.lock().push(index);
                    let dying = dying.upgrade().expect("it is alive");
                    dying.shrink(dying.memory());
                });
                account
            })
            .collect();
        Crowd { accounts, ended }
    }

    fn requests(memory_request: u64) -> Limits {
        Limits {
            memory_request,
            ..Limits::default()
        }
    }

    #[tokio::test]
    async fn a_used_up_node_ends_the_one_furthest_above_its_request_in_the_lowest_class() {
        let crowd = crowd(&[(requests(0), 20), (requests(0), 40), (requests(10), 40)]);
        assert_eq!(crowd.accounts[2].grow_or_make_room(10).await, Ok(()));
        assert_eq!(*crowd.ended.lock(), [1]);
        // There is room now: nobody else ends.
        assert_eq!(crowd.accounts[2].grow_or_make_room(10).await, Ok(()));
        assert_eq!(*crowd.ended.lock(), [1]);
    }

    #[tokio::test]
    async fn as_many_end_as_are_needed() {
        let crowd = crowd(&[(requests(0), 20), (requests(0), 40), (requests(40), 40)]);
        assert_eq!(crowd.accounts[2].grow_or_make_room(60).await, Ok(()));
        assert_eq!(*crowd.ended.lock(), [1, 0]);
    }

    #[tokio::test]
    async fn one_that_asks_for_more_than_others_have_ends_itself() {
        let crowd = crowd(&[(requests(0), 1), (requests(0), 50), (requests(0), 49)]);
        let asking = crowd.accounts[0].grow_or_make_room(90);
        assert_eq!(asking.now_or_never(), None, "its growth is not granted");
        assert_eq!(*crowd.ended.lock(), [0]);
        assert_eq!(crowd.accounts[1].memory(), 50);
    }

    #[tokio::test]
    async fn nobody_ends_for_what_no_node_could_give() {
        let crowd = crowd(&[(requests(0), 50), (requests(0), 1)]);
        let refused = crowd.accounts[1].grow_or_make_room(101).await;
        assert_eq!(refused, Err(MemoryRefused::Node));
        assert!(crowd.ended.lock().is_empty());
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
