//! What the node has promised its pods, and whether it can promise more (contract B.11, B.12).
//!
//! Every accepted pod has an entry with what it requests, or has, whichever is more. Sums are kept, so that a
//! decision costs the same with one pod and with ten thousand.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::node::Amounts;
use crate::spec::{PodSpecPlan, Resources, Role};

/// What a pod takes of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// In thousandths of a processor.
    pub(crate) cpu_milli: u64,
    /// In bytes.
    pub(crate) memory: u64,
    /// Ephemeral storage, in bytes.
    pub(crate) storage: u64,
}

/// A node that has not enough of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Node didn't have enough resource: {}, requested: {requested}, used: {used}, capacity: {capacity}", .what.name())]
pub(crate) struct Shortage {
    what: Scarce,
    requested: u64,
    used: u64,
    capacity: u64,
}

/// Why a resize is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResizeRefused {
    /// It would fit if others had less.
    #[error(transparent)]
    Deferred(Shortage),
    /// It never fits.
    #[error("Node didn't have enough capacity: {}, requested: {requested}, capacity: {capacity}", .what.name())]
    Infeasible {
        /// What there is too little of.
        what: Scarce,
        /// What was wanted.
        requested: u64,
        /// What there is.
        capacity: u64,
    },
}

/// What a node can run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scarce {
    Cpu,
    Memory,
    Storage,
    Pods,
}

/// The promises of one node.
pub(crate) struct Ledger {
    capacity: Amounts,
    book: Mutex<Book>,
    /// Counts how often something was given back.
    room: watch::Sender<u64>,
}

#[derive(Default)]
struct Book {
    entries: HashMap<Arc<str>, Demand>,
    sum: Demand,
}

impl Demand {
    /// Sums up a pod: containers run together, init containers one after the other beside the sidecars
    /// before them.
    fn of(containers: impl Iterator<Item = (Role, Resources)>) -> Demand {
        let (mut together, mut sidecars, mut peak) =
            (Demand::default(), Demand::default(), Demand::default());
        for (role, resources) in containers {
            let own = Demand {
                cpu_milli: resources.cpu_request_milli.unwrap_or(0),
                memory: resources.memory_request.unwrap_or(0),
                storage: resources.storage_request.unwrap_or(0),
            };
            match role {
                Role::App => together = together.plus(own),
                Role::Sidecar => {
                    sidecars = sidecars.plus(own);
                    peak = peak.max(sidecars);
                }
                Role::Init => peak = peak.max(sidecars.plus(own)),
                // It takes what is left.
                Role::Ephemeral => {}
            }
        }
        together.plus(sidecars).max(peak)
    }

    /// Sums up a pod by its plan, with these resources of its containers: what it requests as a whole goes
    /// before what they request, and what it costs beside them is added.
    pub(crate) fn of_pod(
        pod: &PodSpecPlan,
        containers: impl Iterator<Item = (Role, Resources)>,
    ) -> Demand {
        let of_containers = Demand::of(containers);
        let whole = pod.whole.unwrap_or_default();
        let demand = Demand {
            cpu_milli: whole.cpu_request_milli.unwrap_or(of_containers.cpu_milli),
            memory: whole.memory_request.unwrap_or(of_containers.memory),
            storage: of_containers.storage,
        };
        demand.plus(Demand {
            cpu_milli: pod.overhead.cpu_request_milli.unwrap_or(0),
            memory: pod.overhead.memory_request.unwrap_or(0),
            storage: 0,
        })
    }

    fn plus(self, other: Demand) -> Demand {
        self.with(other, u64::saturating_add)
    }

    fn minus(self, other: Demand) -> Demand {
        self.with(other, u64::saturating_sub)
    }

    fn max(self, other: Demand) -> Demand {
        self.with(other, u64::max)
    }

    fn with(self, other: Demand, join: impl Fn(u64, u64) -> u64) -> Demand {
        Demand {
            cpu_milli: join(self.cpu_milli, other.cpu_milli),
            memory: join(self.memory, other.memory),
            storage: join(self.storage, other.storage),
        }
    }

    /// What of a resource is asked for.
    fn rows(self) -> [(Scarce, u64); 3] {
        [
            (Scarce::Cpu, self.cpu_milli),
            (Scarce::Memory, self.memory),
            (Scarce::Storage, self.storage),
        ]
    }
}

impl Scarce {
    /// Its name among a node's resources.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scarce::Cpu => "cpu",
            Scarce::Memory => "memory",
            Scarce::Storage => "ephemeral-storage",
            Scarce::Pods => "pods",
        }
    }
}

impl Shortage {
    /// The contract's code of a pod that is refused for it.
    pub(crate) fn code(self) -> &'static str {
        match self.what {
            Scarce::Cpu => "OutOfcpu",
            Scarce::Memory => "OutOfmemory",
            Scarce::Storage => "OutOfephemeral-storage",
            Scarce::Pods => "OutOfpods",
        }
    }
}

impl Ledger {
    pub(crate) fn new(capacity: Amounts) -> Ledger {
        Ledger {
            capacity,
            book: Mutex::default(),
            room: watch::Sender::new(0),
        }
    }

    /// Enters a pod that never ran here, if the node has room for it.
    pub(crate) fn admit(&self, uid: &Arc<str>, demand: Demand) -> Result<(), Shortage> {
        let mut book = self.book.lock();
        let pods = u64::try_from(book.entries.len()).unwrap_or(u64::MAX);
        if pods >= self.capacity.pods && !book.entries.contains_key(uid) {
            return Err(Shortage {
                what: Scarce::Pods,
                requested: 1,
                used: pods,
                capacity: self.capacity.pods,
            });
        }
        self.fits(&book, uid, demand)?;
        book.enter(uid, demand);
        Ok(())
    }

    /// Enters what a pod has, whatever is left: it ran here before, or its containers have it already.
    pub(crate) fn note(&self, uid: &Arc<str>, demand: Demand) {
        let is_less = self.book.lock().enter(uid, demand);
        if is_less {
            self.tell_of_room();
        }
    }

    /// Enters what a pod will have, if the node can give it. Less than before can always be had.
    pub(crate) fn resize(&self, uid: &Arc<str>, demand: Demand) -> Result<(), ResizeRefused> {
        // Memory is named first, as by a kubelet.
        let never = [
            (Scarce::Memory, demand.memory, self.capacity.memory),
            (Scarce::Cpu, demand.cpu_milli, self.capacity.cpu_milli),
        ];
        let mut book = self.book.lock();
        let known = book.entries.get(uid).copied().unwrap_or_default();
        if known.max(demand) != known {
            if let Some((what, requested, capacity)) = never.into_iter().find(|row| row.1 > row.2) {
                return Err(ResizeRefused::Infeasible {
                    what,
                    requested,
                    capacity,
                });
            }
            self.fits(&book, uid, demand)
                .map_err(ResizeRefused::Deferred)?;
        }
        if book.enter(uid, demand) {
            drop(book);
            self.tell_of_room();
        }
        Ok(())
    }

    /// Forgets a pod that takes nothing any more.
    pub(crate) fn release(&self, uid: &str) {
        if self.book.lock().leave(uid) {
            self.tell_of_room();
        }
    }

    /// Told whenever something was given back.
    pub(crate) fn room(&self) -> watch::Receiver<u64> {
        self.room.subscribe()
    }

    fn tell_of_room(&self) {
        self.room
            .send_modify(|times| *times = times.wrapping_add(1));
    }

    fn fits(&self, book: &Book, uid: &str, demand: Demand) -> Result<(), Shortage> {
        let own = book.entries.get(uid).copied().unwrap_or_default();
        let used = book.sum.minus(own);
        let capacity = Demand {
            cpu_milli: self.capacity.cpu_milli,
            memory: self.capacity.memory,
            storage: self.capacity.storage,
        };
        let rows = demand
            .rows()
            .into_iter()
            .zip(used.rows())
            .zip(capacity.rows());
        for (((what, requested), (_, used)), (_, capacity)) in rows {
            if requested > 0 && requested > capacity.saturating_sub(used) {
                return Err(Shortage {
                    what,
                    requested,
                    used,
                    capacity,
                });
            }
        }
        Ok(())
    }
}

impl Book {
    /// Replaces an entry; true when it was larger before.
    fn enter(&mut self, uid: &Arc<str>, demand: Demand) -> bool {
        let known = self.entries.insert(uid.clone(), demand).unwrap_or_default();
        self.sum = self.sum.minus(known).plus(demand);
        known.max(demand) != demand
    }

    fn leave(&mut self, uid: &str) -> bool {
        let known = self.entries.remove(uid);
        self.sum = self.sum.minus(known.unwrap_or_default());
        known.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(Amounts {
            cpu_milli: 4_000,
            memory: 1_000,
            memory_least: 0,
            storage: 500,
            pods: 3,
        })
    }

    fn demand(cpu_milli: u64, memory: u64, storage: u64) -> Demand {
        Demand {
            cpu_milli,
            memory,
            storage,
        }
    }

    #[test]
    fn a_pod_that_does_not_fit_is_refused_by_what_is_short() {
        let ledger = ledger();
        ledger.admit(&"a".into(), demand(500, 400, 100)).unwrap();
        for (wanted, code, text) in [
            (
                demand(3_501, 0, 0),
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 3501, used: 500, capacity: 4000",
            ),
            (
                demand(0, 601, 0),
                "OutOfmemory",
                "Node didn't have enough resource: memory, requested: 601, used: 400, capacity: 1000",
            ),
            (
                demand(0, 0, 401),
                "OutOfephemeral-storage",
                "Node didn't have enough resource: ephemeral-storage, requested: 401, used: 100, \
                 capacity: 500",
            ),
        ] {
            let refused = ledger.admit(&"b".into(), wanted).unwrap_err();
            assert_eq!((refused.code(), &*refused.to_string()), (code, text));
        }
        ledger.admit(&"b".into(), demand(3_500, 600, 400)).unwrap();
        ledger.admit(&"c".into(), demand(0, 0, 0)).unwrap();
        let refused = ledger.admit(&"d".into(), demand(0, 0, 0)).unwrap_err();
        assert_eq!(refused.code(), "OutOfpods");
        ledger.release("b");
        ledger.admit(&"d".into(), demand(3_500, 600, 400)).unwrap();
    }

    #[test]
    fn a_pod_that_asks_for_nothing_fits_on_a_node_that_promised_too_much() {
        let ledger = ledger();
        ledger.note(&"a".into(), demand(9_000, 9_000, 9_000));
        ledger.admit(&"b".into(), demand(0, 0, 0)).unwrap();
        ledger.admit(&"c".into(), demand(1, 0, 0)).unwrap_err();
    }

    #[test]
    fn a_resize_is_granted_deferred_or_infeasible() {
        let ledger = ledger();
        let (a, b) = ("a".into(), "b".into());
        ledger.admit(&a, demand(1_000, 100, 0)).unwrap();
        ledger.admit(&b, demand(2_000, 100, 0)).unwrap();
        ledger.resize(&a, demand(2_000, 900, 0)).unwrap();
        let told = |cpu, memory| {
            ledger
                .resize(&a, demand(cpu, memory, 0))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            told(2_001, 900),
            "Node didn't have enough resource: cpu, requested: 2001, used: 2000, capacity: 4000"
        );
        assert_eq!(
            told(4_001, 1_001),
            "Node didn't have enough capacity: memory, requested: 1001, capacity: 1000"
        );
        assert_eq!(
            told(4_001, 900),
            "Node didn't have enough capacity: cpu, requested: 4001, capacity: 4000"
        );
        let mut room = ledger.room();
        ledger.resize(&b, demand(500, 100, 0)).unwrap();
        assert!(room.has_changed().unwrap(), "who waits is told");
        room.mark_unchanged();
        ledger.resize(&a, demand(3_500, 900, 0)).unwrap();
        assert!(!room.has_changed().unwrap());
        // A pod that has more than the node by now may still have less than that.
        ledger.note(&a, demand(9_000, 900, 0));
        ledger.resize(&a, demand(8_000, 900, 0)).unwrap();
    }

    #[test]
    fn a_pod_counts_as_a_whole_and_with_what_it_costs_beside() {
        let demand = |more: serde_json::Value| {
            let mut spec = serde_json::json!({"containers": [
                {"name": "a", "image": "i", "resources": {"requests": {"cpu": "1", "memory": "10"}}},
                {"name": "b", "image": "i", "resources": {"requests": {"cpu": "1"}}}]});
            for (field, value) in more.as_object().unwrap() {
                spec[field] = value.clone();
            }
            let metadata = serde_json::json!({"name": "p", "namespace": "n", "uid": "u"});
            let pod = serde_json::json!({"metadata": metadata, "spec": spec});
            let pod = serde_json::from_value(pod).unwrap();
            let plan = crate::spec::check_pod(&pod, crate::spec::HostPathPolicy::Refuse).unwrap();
            let containers = plan.containers.iter().map(|one| (one.role, one.resources));
            let demand = Demand::of_pod(&plan, containers);
            (demand.cpu_milli, demand.memory)
        };
        assert_eq!(demand(serde_json::json!({})), (2_000, 10));
        let overhead = serde_json::json!({"cpu": "250m", "memory": "5"});
        assert_eq!(
            demand(serde_json::json!({"overhead": overhead})),
            (2_250, 15)
        );
        let whole = serde_json::json!({"requests": {"memory": "100"}, "limits": {"cpu": "3"}});
        assert_eq!(
            demand(serde_json::json!({"resources": whole, "overhead": overhead})),
            (3_250, 105)
        );
    }

    #[test]
    fn init_containers_count_beside_the_sidecars_before_them() {
        let one = |role, cpu| {
            let resources = Resources {
                cpu_request_milli: Some(cpu),
                ..Resources::default()
            };
            (role, resources)
        };
        let sum =
            |containers: &[(Role, Resources)]| Demand::of(containers.iter().copied()).cpu_milli;
        use Role::{App, Ephemeral, Init, Sidecar};
        assert_eq!(sum(&[one(App, 1), one(App, 2), one(Ephemeral, 9)]), 3);
        assert_eq!(sum(&[one(Init, 5), one(Init, 4), one(App, 3)]), 5);
        assert_eq!(sum(&[one(Sidecar, 2), one(Init, 5), one(App, 3)]), 7);
        assert_eq!(sum(&[one(Init, 5), one(Sidecar, 2), one(App, 4)]), 6);
    }
}
