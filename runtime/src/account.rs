//! What one container uses and may use: memory over all its stores, processor time over all its tasks.
//!
//! Memory is charged to the container's limit, to its pod's and to the node's budget at once, or to none
//! of them. When the node's is used up, containers are ended until there is room, before the kernel would
//! end us all. Processor time moves two things: the container's virtual time, which orders those who wait,
//! and the token buckets of container and pod, which park a container that has used up a quota.

use crate::spec::{BelowUse, ContainerId, Limits};
use parking_lot::Mutex;
use quota::Quota;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use thiserror::Error;
use victim::Standing;

mod budget;
mod pod;
mod quota;
mod victim;

pub(crate) use budget::NodeBudget;
pub use budget::NodeMemory;
pub use pod::PodAccount;

/// How long a guest runs before it is asked to let others run: one tick of the engine's clock.
pub(crate) const SLICE: Duration = Duration::from_millis(1);
/// How long a growth waits for the memory of those that were ended for it. A guest is gone within a slice;
/// what takes longer is a machine that stalls.
const ROOM_DEADLINE: Duration = Duration::from_secs(10);
/// The weight of containers that request nothing, in thousandths of a processor.
const WEIGHT_MIN: u64 = 10;
/// The weight at which virtual time passes like real time.
const WEIGHT_UNIT: u64 = 1_000;

/// Memory that was asked for is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum MemoryRefused {
    /// The container would pass its own limit.
    #[error("the container's memory limit is reached")]
    Container,
    /// The containers of the pod together would pass the pod's limit.
    #[error("the pod's memory limit is reached")]
    Pod,
    /// All containers together would pass the node's budget.
    #[error("the node's memory is used up")]
    Node,
}

/// The meter of one container, shared by its stores and tasks.
pub(crate) struct Account {
    id: ContainerId,
    pod: PodAccount,
    memory: Mutex<Memory>,
    /// Ends the container for want of memory.
    end: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Whether it was chosen to end; its memory is on its way back.
    doomed: AtomicBool,
    weight: AtomicU64,
    cpu_nanos: AtomicU64,
    virtual_nanos: AtomicU64,
    quota: Quota,
}

struct Memory {
    used: u64,
    peak: u64,
    limit: u64,
    request: u64,
}

/// Bytes that we hold for a container's program; given back when dropped.
pub(crate) struct Held {
    account: Arc<Account>,
    bytes: u64,
}

impl Held {
    /// Charges `bytes`, or ends the container.
    pub(crate) fn new(account: &Arc<Account>, bytes: u64) -> Option<Self> {
        account.hold(bytes).ok()?;
        Some(Self {
            account: account.clone(),
            bytes,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.shrink(self.bytes);
    }
}

impl Memory {
    fn of(limits: &Limits) -> Self {
        Self {
            used: 0,
            peak: 0,
            limit: limits.memory.unwrap_or(u64::MAX),
            request: limits.memory_request,
        }
    }
}

impl Account {
    pub(crate) fn new(id: &ContainerId, limits: &Limits, pod: PodAccount) -> Self {
        Self {
            id: id.clone(),
            pod,
            memory: Mutex::new(Memory::of(limits)),
            end: OnceLock::new(),
            doomed: AtomicBool::new(false),
            weight: AtomicU64::new(weight(limits)),
            cpu_nanos: AtomicU64::new(0),
            virtual_nanos: AtomicU64::new(0),
            quota: Quota::new(limits.cpu_milli),
        }
    }

    /// Returns the account of its pod.
    pub(crate) fn pod(&self) -> &PodAccount {
        &self.pod
    }

    /// Changes what the container may use, from now on; or nothing, if it uses more memory already.
    pub(crate) fn resize(&self, limits: &Limits) -> Result<(), BelowUse> {
        let wanted = Memory::of(limits);
        {
            let mut memory = self.memory.lock();
            if memory.used > wanted.limit && wanted.limit < memory.limit {
                return Err(BelowUse {
                    limit: wanted.limit,
                    used: memory.used,
                });
            }
            (memory.limit, memory.request) = (wanted.limit, wanted.request);
        }
        self.weight.store(weight(limits), Ordering::Relaxed);
        self.quota.set(limits.cpu_milli);
        Ok(())
    }

    /// Says how the container is ended when the node's memory is used up and it is chosen. The first call
    /// counts: later ones are of programs that run in the container.
    pub(crate) fn end_by(self: &Arc<Self>, end: impl Fn() + Send + Sync + 'static) {
        if self.end.set(Box::new(end)).is_ok() {
            self.pod.budget().enrol(self);
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
            let mut freed = pin!(self.pod.budget().freed());
            // What comes back from here on is not missed.
            freed.as_mut().enable();
            match self.grow(bytes) {
                Err(MemoryRefused::Node) => {}
                settled => return settled,
            }
            let will_fit = self.pod.budget().make_room(self, bytes);
            if !will_fit || tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Err(MemoryRefused::Node);
            }
        }
    }

    /// What it has, with `bytes` more if it is the one that asks. What its pod's volumes hold in memory is
    /// held against each of its containers.
    fn standing(&self, asking: &Account, bytes: u64) -> Standing {
        let more = if std::ptr::eq(self, asking) { bytes } else { 0 };
        let memory = self.memory.lock();
        Standing {
            class: self.pod.class(),
            own: memory.used.saturating_add(more),
            shared: self.pod.held(),
            request: memory.request,
        }
    }

    /// Charges `bytes` to the container, its pod and the node, or to none of them.
    pub(crate) fn grow(&self, bytes: u64) -> Result<(), MemoryRefused> {
        let mut memory = self.memory.lock();
        let within = memory
            .used
            .checked_add(bytes)
            .filter(|used| *used <= memory.limit);
        let grown = match within {
            Some(used) => self.pod.grow(bytes).map(|()| used),
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

    /// Charges `bytes` that we hold for the container's program. A container for which there is no room ends,
    /// as one does that the kernel has no memory for.
    pub(crate) fn hold(&self, bytes: u64) -> Result<(), MemoryRefused> {
        let held = self.grow(bytes);
        if held.is_err()
            && let Some(end) = self.end.get()
        {
            end();
        }
        held
    }

    /// Gives back `bytes` that were charged before.
    pub(crate) fn shrink(&self, bytes: u64) {
        let mut memory = self.memory.lock();
        // Invariant: nobody gives back more than was charged; a mistake here must not wrap around.
        let bytes = bytes.min(memory.used);
        memory.used -= bytes;
        self.pod.shrink(bytes);
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
        let weighted = nanos.saturating_mul(WEIGHT_UNIT) / self.weight.load(Ordering::Relaxed);
        self.virtual_nanos.fetch_add(weighted, Ordering::Relaxed);
        self.quota.take(nanos, now);
        self.pod.quota().take(nanos, now);
    }

    /// Returns the processor time used so far, divided by the container's weight.
    pub(crate) fn virtual_nanos(&self) -> u64 {
        self.virtual_nanos.load(Ordering::Relaxed)
    }

    /// Returns whether the container's processor time is bounded, or its pod's.
    pub(crate) fn has_quota(&self) -> bool {
        self.quota.is_set() || self.pod.quota().is_set()
    }

    /// Returns when the container may run again, if it or its pod has used up a quota at `now`.
    pub(crate) fn parked_until(&self, now: Instant) -> Option<Instant> {
        self.quota
            .empty_until(now)
            .max(self.pod.quota().empty_until(now))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.pod.shrink(self.memory.get_mut().used);
    }
}

fn weight(limits: &Limits) -> u64 {
    limits.cpu_request_milli.max(WEIGHT_MIN)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{PodLimits, QosClass};
    use futures_util::FutureExt as _;

    fn pod(budget: &Arc<NodeBudget>, class: QosClass) -> PodAccount {
        let limits = PodLimits {
            class,
            ..PodLimits::default()
        };
        PodAccount::new(limits, budget.clone())
    }

    fn account(limits: Limits, budget: &Arc<NodeBudget>) -> Account {
        let id = ContainerId {
            namespace: "default".into(),
            pod: "pod".into(),
            container: "main".into(),
        };
        let class = match limits.memory_request {
            0 => QosClass::BestEffort,
            _ => QosClass::Burstable,
        };
        Account::new(&id, &limits, pod(budget, class))
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

    #[tokio::test]
    async fn the_class_is_the_pods() {
        let budget = Arc::new(NodeBudget::new(100));
        let ended = Arc::new(Mutex::new(Vec::new()));
        let member = |name: &'static str, class, used| {
            let id = ContainerId {
                namespace: "default".into(),
                pod: name.into(),
                container: "main".into(),
            };
            // By themselves all of them ask for nothing.
            let account = Account::new(&id, &Limits::default(), pod(&budget, class));
            let account = Arc::new(account);
            account.grow(used).expect("it fits");
            let (ended, dying) = (ended.clone(), Arc::downgrade(&account));
            account.end_by(move || {
                ended.lock().push(name);
                let dying = dying.upgrade().expect("it is alive");
                dying.shrink(dying.memory());
            });
            account
        };
        let large = member("burstable", QosClass::Burstable, 60);
        let small = member("best-effort", QosClass::BestEffort, 5);
        assert_eq!(large.grow_or_make_room(40).await, Ok(()));
        assert_eq!(*ended.lock(), ["best-effort"]);
        assert_eq!(small.memory(), 0);
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

    #[test]
    fn a_resize_holds_from_then_on() {
        let budget = Arc::new(NodeBudget::new(1_000));
        let limits = |memory, cpu_request_milli| Limits {
            memory: Some(memory),
            cpu_request_milli,
            ..Limits::default()
        };
        let account = account(limits(60, 1_000), &budget);
        assert_eq!(account.grow(60), Ok(()));
        assert_eq!(account.resize(&limits(100, 2_000)), Ok(()));
        assert_eq!(account.grow(40), Ok(()));
        account.charge(SLICE, Instant::now());
        assert_eq!(account.virtual_nanos(), 500_000, "the new weight");
        let refused = account.resize(&limits(99, 1_000));
        assert_eq!(
            refused,
            Err(BelowUse {
                limit: 99,
                used: 100
            })
        );
        account.charge(SLICE, Instant::now());
        assert_eq!(
            account.virtual_nanos(),
            1_000_000,
            "a refused resize changes nothing"
        );
        account.shrink(50);
        assert_eq!(account.resize(&limits(50, 0)), Ok(()));
        assert_eq!(account.grow(1), Err(MemoryRefused::Container));
    }
}
