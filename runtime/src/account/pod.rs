//! What one pod uses and may use above its containers: their memory and processor time together, and what
//! its volumes hold in memory.

use super::quota::Quota;
use super::{MemoryRefused, NodeBudget};
use crate::spec::{BelowUse, PodLimits, QosClass};
use coracle_network::Purse;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The meter of one pod, shared by the accounts of its containers. Clones are the same pod; it is there as
/// long as one of them is.
#[derive(Clone)]
pub struct PodAccount {
    inner: Arc<Inner>,
}

struct Inner {
    class: QosClass,
    budget: Arc<NodeBudget>,
    memory: Mutex<Memory>,
    quota: Quota,
    /// Files of the machine that its programs hold open.
    files: AtomicUsize,
}

struct Memory {
    used: u64,
    /// Of that, what is held beside the containers and comes back with the pod alone.
    held: u64,
    limit: u64,
}

impl PodAccount {
    pub(crate) fn new(limits: PodLimits, budget: Arc<NodeBudget>) -> Self {
        let inner = Inner {
            class: limits.class,
            budget,
            memory: Mutex::new(Memory {
                used: 0,
                held: 0,
                limit: limits.memory.unwrap_or(u64::MAX),
            }),
            quota: Quota::new(limits.cpu_milli),
            files: AtomicUsize::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Changes what the pod may use, from now on; its class stays.
    ///
    /// # Errors
    /// It uses more memory already than it then might; nothing has changed.
    pub fn resize(&self, limits: &PodLimits) -> Result<(), BelowUse> {
        let limit = limits.memory.unwrap_or(u64::MAX);
        let mut memory = self.inner.memory.lock();
        if memory.used > limit && limit < memory.limit {
            return Err(BelowUse {
                limit,
                used: memory.used,
            });
        }
        memory.limit = limit;
        drop(memory);
        self.inner.quota.set(limits.cpu_milli);
        Ok(())
    }

    /// Returns the bytes that its containers and volumes use now.
    pub fn memory(&self) -> u64 {
        self.inner.memory.lock().used
    }

    pub(super) fn class(&self) -> QosClass {
        self.inner.class
    }

    pub(super) fn budget(&self) -> &NodeBudget {
        &self.inner.budget
    }

    pub(super) fn quota(&self) -> &Quota {
        &self.inner.quota
    }

    /// Returns what is held beside the containers.
    pub(super) fn held(&self) -> u64 {
        self.inner.memory.lock().held
    }

    /// Charges `bytes` of a container to the pod and the node, or to neither.
    pub(super) fn grow(&self, bytes: u64) -> Result<(), MemoryRefused> {
        let mut memory = self.inner.memory.lock();
        self.take(&mut memory, bytes)
    }

    pub(super) fn shrink(&self, bytes: u64) {
        let mut memory = self.inner.memory.lock();
        self.give_back(&mut memory, bytes);
    }

    /// Charges `bytes` that the pod has beside its containers.
    pub(crate) fn hold(&self, bytes: u64) -> Result<(), MemoryRefused> {
        let mut memory = self.inner.memory.lock();
        self.take(&mut memory, bytes)?;
        memory.held += bytes;
        Ok(())
    }

    /// Gives back `bytes` that were held before.
    pub(crate) fn let_go(&self, bytes: u64) {
        let mut memory = self.inner.memory.lock();
        memory.held = memory.held.saturating_sub(bytes);
        self.give_back(&mut memory, bytes);
    }

    /// Counts one more open file, unless there are `most`.
    pub(crate) fn open_file(&self, most: usize) -> bool {
        let more = |open: usize| (open < most).then_some(open + 1);
        let files = &self.inner.files;
        files
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Counts one less.
    pub(crate) fn close_file(&self) {
        self.inner.files.fetch_sub(1, Ordering::Relaxed);
    }

    fn take(&self, memory: &mut Memory, bytes: u64) -> Result<(), MemoryRefused> {
        let within = memory.used.checked_add(bytes);
        let used = within.filter(|used| *used <= memory.limit);
        let used = used.ok_or(MemoryRefused::Pod)?;
        self.inner.budget.take(bytes)?;
        memory.used = used;
        Ok(())
    }

    fn give_back(&self, memory: &mut Memory, bytes: u64) {
        // Invariant: nobody gives back more than was charged; a mistake here must not wrap around.
        let bytes = bytes.min(memory.used);
        memory.used -= bytes;
        self.inner.budget.give_back(bytes);
    }
}

/// What a pod's sockets buffer is the pod's memory, like what its volumes hold.
impl Purse for PodAccount {
    fn take(&self, bytes: usize) -> bool {
        self.hold(bytes as u64).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.let_go(bytes as u64);
    }
}

impl fmt::Debug for PodAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodAccount")
            .field("class", &self.inner.class)
            .field("memory", &self.memory())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.budget.give_back(self.memory.get_mut().used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(memory: Option<u64>, budget: &Arc<NodeBudget>) -> PodAccount {
        let limits = PodLimits {
            memory,
            ..PodLimits::default()
        };
        PodAccount::new(limits, budget.clone())
    }

    #[test]
    fn a_pod_is_bounded_above_its_containers() {
        let budget = Arc::new(NodeBudget::new(100));
        let (bounded, free) = (pod(Some(50), &budget), pod(None, &budget));
        assert_eq!(bounded.grow(50), Ok(()));
        assert_eq!(bounded.grow(1), Err(MemoryRefused::Pod));
        assert_eq!(free.grow(51), Err(MemoryRefused::Node));
        assert_eq!((bounded.memory(), free.memory()), (50, 0));
        let limits = |memory| PodLimits {
            memory: Some(memory),
            ..PodLimits::default()
        };
        let refused = bounded.resize(&limits(49));
        assert_eq!(
            refused,
            Err(BelowUse {
                limit: 49,
                used: 50
            })
        );
        assert_eq!(bounded.resize(&limits(60)), Ok(()));
        assert_eq!(bounded.grow(10), Ok(()));
        bounded.shrink(60);
        drop(bounded);
        assert_eq!(free.grow(100), Ok(()));
    }

    #[test]
    fn what_sockets_buffer_is_the_pods_memory() {
        let budget = Arc::new(NodeBudget::new(100));
        let pod = pod(Some(50), &budget);
        let purse: &dyn Purse = &pod;
        assert!(purse.take(50));
        assert!(!purse.take(1));
        assert_eq!((pod.memory(), pod.held()), (50, 50));
        assert_eq!(pod.grow(1), Err(MemoryRefused::Pod));
        purse.give_back(50);
        assert_eq!((pod.memory(), budget.state().used), (0, 0));
    }

    #[test]
    fn a_pod_that_is_gone_gives_everything_back() {
        let budget = Arc::new(NodeBudget::new(10));
        assert_eq!(pod(None, &budget).grow(10), Ok(()));
        assert_eq!(pod(None, &budget).grow(10), Ok(()));
    }
}
