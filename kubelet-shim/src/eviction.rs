//! Which pod ends when the node runs short of memory, before guests are refused any (contract B.10).
//!
//! ```text
//! the guests' budget or the machine falls below the least ──▶ rank ──▶ the first pod is told, and ends
//!        ▲                                                                                  │
//!        └────────────── its memory has come back, or took too long to ◀────────────────────┘
//! ```
//!
//! A pod's use is that of its containers and of its volumes in memory, as under a kubelet, where both are
//! charged to its control group. That is the one way to what a volume holds: its bytes stay through the end
//! of a container and go with the pod. One pod is evicted at a time.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use coracle_runtime::{PodAccount, Runtime};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::allocation::Demand;
use crate::exec::ExecBook;
use crate::spec::{PodSpecPlan, bytes_text};

/// How often the machine is looked at; of the guests' budget we are told.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Least time between two looks, however often guests are refused memory.
const LOOK_GAP: Duration = Duration::from_millis(250);

/// How long the memory of an evicted pod is waited for before the next one is chosen; the kubelet's number.
const GOING_TIMEOUT: Duration = Duration::from_secs(30);

/// The kubelet's `memory.available`.
const MEMORY_LEAST: u64 = 100 << 20;

/// A small budget is short with this part of it left: the kubelet's number would be most of it.
const MEMORY_LEAST_PART: u64 = 16;

/// Pods with this priority or more are the cluster's own and stay (`SystemCriticalPriority`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Pods that are known before the list of them is first cleared of those that are gone.
const SWEEP_MIN: usize = 64;

/// Returns the bytes of a budget that are to be left: with less, pods are evicted.
pub(crate) fn memory_least(budget: u64) -> u64 {
    MEMORY_LEAST.min(budget / MEMORY_LEAST_PART)
}

/// The pods of the node that may have to go. Clones are the same.
#[derive(Clone)]
pub(crate) struct Evictor {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Runtime,
    execs: Arc<ExecBook>,
    known: Mutex<Known>,
    was_short: AtomicBool,
}

#[derive(Default)]
struct Known {
    all: Vec<Weak<PodMemory>>,
    sweep_at: usize,
}

/// What one pod uses and has asked for.
pub(crate) struct PodMemory {
    account: PodAccount,
    /// The plan that the pod follows now.
    plan: Mutex<Arc<PodSpecPlan>>,
    told: watch::Sender<Option<Arc<str>>>,
}

/// What decides about one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    used: u64,
    request: u64,
    priority: i32,
}

/// A container that uses more than it asked for.
#[derive(Debug)]
struct Offender {
    name: Arc<str>,
    used: u64,
    request: u64,
}

impl PodMemory {
    /// Describes a pod; `told` is how it learns that it is evicted, and why.
    pub(crate) fn new(
        account: PodAccount,
        plan: Arc<PodSpecPlan>,
        told: watch::Sender<Option<Arc<str>>>,
    ) -> Arc<PodMemory> {
        Arc::new(PodMemory {
            account,
            plan: Mutex::new(plan),
            told,
        })
    }

    /// Takes in a plan with other resources.
    pub(crate) fn follow(&self, plan: &Arc<PodSpecPlan>) {
        self.plan.lock().clone_from(plan);
    }

    /// Told once, when the pod is evicted, for want of memory or of storage.
    pub(crate) fn excess(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.told.subscribe()
    }

    fn standing(&self) -> Standing {
        let plan = self.plan.lock().clone();
        let containers = plan.containers.iter().map(|one| (one.role, one.resources));
        Standing {
            used: self.account.memory(),
            request: Demand::of_pod(&plan, containers).memory,
            priority: plan.priority,
        }
    }
}

impl Evictor {
    pub(crate) fn new(runtime: Runtime, execs: Arc<ExecBook>) -> Evictor {
        let shared = Shared {
            runtime,
            execs,
            known: Mutex::default(),
            was_short: AtomicBool::new(false),
        };
        Evictor {
            shared: Arc::new(shared),
        }
    }

    /// Counts a pod among those that may have to go, for as long as it is held.
    pub(crate) fn watch(&self, pod: &Arc<PodMemory>) {
        let mut known = self.shared.known.lock();
        if known.all.len() >= known.sweep_at.max(SWEEP_MIN) {
            known.all.retain(|pod| pod.strong_count() > 0);
            known.sweep_at = known.all.len() * 2;
        }
        known.all.push(Arc::downgrade(pod));
    }

    /// Tells whether memory was short since this was last asked.
    pub(crate) fn was_short(&self) -> bool {
        self.shared.was_short.swap(false, Ordering::Relaxed)
    }

    /// Evicts pods when memory is short, for as long as it is polled. `machine` measures what memory the
    /// machine has left, if that can be measured; it may block.
    pub(crate) async fn run(self, machine: impl Fn() -> Option<u64> + Clone + Send + 'static) {
        let least = memory_least(self.shared.runtime.memory().budget);
        loop {
            let told = self.shared.runtime.memory_falls_short(least);
            // Time passes without news when the machine runs short.
            let _ = tokio::time::timeout(LOOK_EVERY, told).await;
            let machine = machine.clone();
            let machine = crate::images::blocking(machine).await;
            let budget = self.shared.runtime.memory().available();
            let available = machine.map_or(budget, |machine| machine.min(budget));
            if available < least {
                self.shared.was_short.store(true, Ordering::Relaxed);
                self.evict(least, available).await;
            }
            tokio::time::sleep(LOOK_GAP).await;
        }
    }

    /// Evicts one pod and waits until it has given its memory back.
    async fn evict(&self, least: u64, available: u64) {
        let Some(chosen) = self.choose() else {
            return;
        };
        let message = message(least, available, &self.offenders(&chosen));
        let told = chosen.told.clone();
        // The pod's memory is its own to keep.
        drop(chosen);
        told.send_replace(Some(message.into()));
        if tokio::time::timeout(GOING_TIMEOUT, told.closed())
            .await
            .is_err()
        {
            tracing::warn!("the memory of an evicted pod does not come back");
        }
    }

    fn choose(&self) -> Option<Arc<PodMemory>> {
        let mut living: Vec<Arc<PodMemory>> = {
            let known = self.shared.known.lock();
            known.all.iter().filter_map(Weak::upgrade).collect()
        };
        // One that was told is on its way out.
        living.retain(|pod| pod.told.borrow().is_none() && !pod.told.is_closed());
        let standings: Vec<Standing> = living.iter().map(|pod| pod.standing()).collect();
        choose(&standings).map(|index| living.swap_remove(index))
    }

    fn offenders(&self, pod: &PodMemory) -> Vec<Offender> {
        let plan = pod.plan.lock().clone();
        let occupants = self.shared.execs.occupants_of(&plan.key);
        let found = occupants.into_iter().filter_map(|occupant| {
            let mut containers = plan.containers.iter();
            let container = containers.find(|one| one.name == occupant.container)?;
            let used = occupant.instance.usage().memory;
            let request = container.resources.memory_request.unwrap_or(0);
            (used > request).then_some(Offender {
                name: occupant.container,
                used,
                request,
            })
        });
        found.collect()
    }
}

/// Chooses who ends, as a kubelet ranks: first who uses more than it asked for, then the lowest priority, then
/// who is furthest above its request. The cluster's own pods stay, and one that has nothing has nothing to give.
fn choose(standings: &[Standing]) -> Option<usize> {
    let above = |one: &Standing| i128::from(one.used) - i128::from(one.request);
    let may_go = |one: &Standing| one.priority < CRITICAL_PRIORITY && one.used > 0;
    let candidates = standings.iter().enumerate();
    candidates
        .filter(|(_, one)| may_go(one))
        .min_by_key(|(_, one)| (above(one) <= 0, one.priority, Reverse(above(one))))
        .map(|(index, _)| index)
}

/// What a kubelet says of an eviction.
fn message(least: u64, available: u64, offenders: &[Offender]) -> String {
    let mut message = format!(
        "The node was low on resource: memory. Threshold quantity: {}, available: {}. ",
        bytes_text(least),
        bytes_text(available)
    );
    for Offender {
        name,
        used,
        request,
    } in offenders
    {
        message.push_str(&format!(
            "Container {name} was using {}, request is {}, has larger consumption of memory. ",
            bytes_text(*used),
            bytes_text(*request)
        ));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_exceeds_its_request_goes_first_then_who_matters_least_then_who_exceeds_it_most() {
        let check = |standings: &[(u64, u64, i32)], expected: Option<usize>| {
            let standings = standings.iter().map(|&(used, request, priority)| Standing {
                used,
                request,
                priority,
            });
            let standings: Vec<_> = standings.collect();
            assert_eq!(choose(&standings), expected, "{standings:?}");
        };
        check(&[], None);
        check(&[(0, 0, 0)], None);
        check(&[(50, 60, 0), (11, 10, 9)], Some(1));
        check(&[(90, 10, 9), (11, 10, 0)], Some(1));
        check(&[(90, 50, 5), (60, 10, 5)], Some(1));
        check(&[(10, 10, 0), (11, 10, 0)], Some(1));
        // Nobody exceeds what it asked for.
        check(&[(10, 100, 0), (20, 30, 0)], Some(1));
        check(&[(10, 100, -1), (20, 30, 0)], Some(0));
        check(&[(90, 0, CRITICAL_PRIORITY), (1, 9, 0)], Some(1));
        check(&[(90, 0, CRITICAL_PRIORITY)], None);
        check(&[(1, u64::MAX, 0), (u64::MAX, 0, 0)], Some(1));
    }

    #[test]
    fn an_eviction_is_told_as_a_kubelet_tells_it() {
        assert_eq!(
            message(100 << 20, 5 << 10, &[]),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 5Ki. "
        );
        let offender = Offender {
            name: "main".into(),
            used: 3 << 20,
            request: 0,
        };
        assert!(message(1, 0, &[offender]).ends_with(
            "available: 0. Container main was using 3Mi, request is 0, has larger consumption of \
             memory. "
        ));
    }

    #[test]
    fn a_small_budget_is_short_with_little_of_it_left() {
        assert_eq!(memory_least(64 << 20), 4 << 20);
        assert_eq!(memory_least(64 << 30), 100 << 20);
    }
}
