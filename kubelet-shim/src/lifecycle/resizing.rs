//! How a live container follows a change of its resources (contract B.12).
//!
//! The plan holds what the pod was promised. An instance has what it was started with until a `Resize` step
//! gave it the present limits; where a resource's policy says so, it is stopped and started with them.

use std::sync::Arc;
use std::time::Duration;

use super::{ContainerFacts, Life, Plan, PodFacts, Step, StopReason};
use crate::spec::{ContainerPlan, OnResize, PodSpecPlan, Resources};
use crate::time::Moment;

/// How long a refused change waits before it is tried again, as a kubelet's sync does.
pub(crate) const RESIZE_RETRY: Duration = Duration::from_secs(10);

/// A wish for other resources that the node does not grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingResize {
    /// Whether time may grant it.
    pub(crate) outlook: ResizeOutlook,
    /// What the node has too little of.
    pub(crate) message: Arc<str>,
}

/// Whether time may grant a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResizeOutlook {
    /// When others need less.
    Deferred,
    /// Never on this node.
    Infeasible,
}

/// A change that an instance could not follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResizeFailure {
    /// Why.
    pub(crate) message: Arc<str>,
    /// What was tried.
    pub(crate) wanted: Resources,
    /// When it is tried again.
    pub(crate) retry_at: Moment,
}

/// How an instance comes to the resources of its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has them.
    None,
    /// Its limits are changed.
    InPlace,
    /// It is started again.
    Restart,
}

impl ResizeOutlook {
    /// The reason of the condition.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            ResizeOutlook::Deferred => "Deferred",
            ResizeOutlook::Infeasible => "Infeasible",
        }
    }
}

/// Returns what a living instance lacks of its plan.
pub(crate) fn change(container: &ContainerPlan, facts: &ContainerFacts) -> Change {
    let Some(given) = facts.given else {
        return Change::None;
    };
    let wanted = container.resources;
    let cpu = given.cpu_limit_milli != wanted.cpu_limit_milli
        || given.cpu_request_milli != wanted.cpu_request_milli;
    // What it requests is the node's matter; only a limit is felt.
    let memory = given.memory_limit != wanted.memory_limit;
    let restarts = cpu && container.resize.cpu == OnResize::Restart
        || memory && container.resize.memory == OnResize::Restart;
    if restarts {
        Change::Restart
    } else if given != wanted {
        Change::InPlace
    } else {
        Change::None
    }
}

/// Plans a change in place, at once or when a refused one is due again.
pub(super) fn resize(
    container: &ContainerPlan,
    facts: &ContainerFacts,
    index: usize,
    now: Moment,
    plan: &mut Plan,
) {
    match &facts.resize_failure {
        Some(failure)
            if failure.wanted == container.resources && !now.reached(failure.retry_at) =>
        {
            plan.wake_at(failure.retry_at);
        }
        Some(_) | None => plan.steps.push(Step::Resize(index)),
    }
}

impl PodFacts {
    /// Whether any instance has not followed yet what its pod was promised.
    pub(crate) fn is_resizing(&self, spec: &PodSpecPlan) -> bool {
        let mut pairs = spec.containers.iter().zip(&self.containers);
        pairs.any(|(container, facts)| match &facts.life {
            Life::Running { .. } | Life::Greeting { .. } => {
                change(container, facts) != Change::None
            }
            Life::Stopping { reason, .. } => *reason == StopReason::Resized,
            Life::Ended { .. }
            | Life::Waiting
            | Life::Fetching
            | Life::FetchFailed { .. }
            | Life::Ready
            | Life::Starting
            | Life::Cancelling
            | Life::StartFailed { .. }
            | Life::CrashLoop { .. } => facts.resized,
        })
    }

    /// Why an instance could not follow, of the first that could not.
    pub(crate) fn resize_failure(&self, spec: &PodSpecPlan) -> Option<&Arc<str>> {
        let mut pairs = spec.containers.iter().zip(&self.containers);
        pairs.find_map(|(container, facts)| {
            let failure = facts.resize_failure.as_ref()?;
            (failure.wanted == container.resources).then_some(&failure.message)
        })
    }
}

impl ContainerFacts {
    /// Notes how a change in place came out.
    pub(super) fn resized(
        &mut self,
        result: Result<(), Arc<str>>,
        container: &ContainerPlan,
        now: Moment,
    ) {
        let wanted = container.resources;
        match result {
            Ok(()) => {
                self.given = Some(wanted);
                self.resize_failure = None;
            }
            Err(message) => {
                self.resize_failure = Some(ResizeFailure {
                    message,
                    wanted,
                    retry_at: now.after(RESIZE_RETRY),
                });
            }
        }
    }
}
