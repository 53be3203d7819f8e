//! How living containers are brought to their end: hook, request, force, each in its time (contract B.8).

use std::time::Duration;

use super::plan::{Plan, STOP_GRACE_MIN, Step};
use super::{EndCause, Ending, Force, Life, PodFacts, StopReason};
use crate::spec::{ContainerPlan, PodSpecPlan, Role};
use crate::time::Moment;

/// A pod has at least this, whatever grace it is given.
const POD_GRACE_MIN: Duration = Duration::from_secs(1);

/// How a container is brought to its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    /// Why.
    pub(crate) reason: StopReason,
    /// From now to the use of force, the hook's time included.
    pub(crate) grace: Duration,
    /// What comes before the request.
    pub(crate) pre_stop: PreStop,
}

/// What comes before the request to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PreStop {
    /// The `preStop` hook.
    Run,
    /// Nothing: there is no hook, or no time for it.
    Skip,
}

/// How long living containers may take to end.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// What a container that is asked now is given.
    pub(super) grace: Duration,
    /// When the pod's grace is used up, whatever a container was given.
    pub(super) limit: Option<Moment>,
    /// What every container gets between the request and force.
    pub(super) minimum: Duration,
}

impl Patience {
    /// For containers of a pod that goes on, or has come to its own end.
    pub(super) fn of_container(grace: Duration) -> Patience {
        Patience {
            grace,
            limit: None,
            minimum: STOP_GRACE_MIN,
        }
    }

    /// For a pod that ends since `since`. The grace is the pod's: whoever is asked later gets what is left.
    pub(super) fn of_ending(ending: Ending, since: Moment, now: Moment) -> Patience {
        let (grace, minimum) = match ending.cause {
            // Who stops the agent has said how long it may take.
            EndCause::Shutdown => (ending.grace, Duration::ZERO),
            EndCause::Deleted | EndCause::Vanished | EndCause::Deadline | EndCause::Evicted => {
                (ending.grace.max(POD_GRACE_MIN), STOP_GRACE_MIN)
            }
        };
        Patience {
            grace: grace.saturating_sub(now.since(since)),
            limit: Some(since.after(grace)),
            minimum,
        }
    }
}

/// Asks one container to end.
pub(super) fn ask(
    container: &ContainerPlan,
    index: usize,
    patience: Patience,
    reason: StopReason,
) -> Step {
    let has_hook = container.hooks.pre_stop.is_some() && !patience.grace.is_zero();
    Step::Stop(
        index,
        Ask {
            reason,
            grace: patience.grace,
            pre_stop: if has_hook {
                PreStop::Run
            } else {
                PreStop::Skip
            },
        },
    )
}

/// Whether a container whose hook is done may be asked to end, or waits for others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    InTurn,
    Waits,
}

/// Goes on with one container that is being ended; any other is left alone.
pub(super) fn go_on(
    index: usize,
    life: &Life,
    patience: Patience,
    order: Order,
    now: Moment,
    plan: &mut Plan,
) {
    let Life::Stopping {
        asked,
        grace,
        force,
        ..
    } = life
    else {
        return;
    };
    let own = asked.after(*grace);
    let deadline = patience.limit.map_or(own, |limit| limit.min(own));
    let signal = |is_due: bool, plan: &mut Plan| {
        if is_due || now.reached(deadline) {
            plan.steps.push(Step::Signal(index));
        } else {
            plan.wake_at(deadline);
        }
    };
    match force {
        Force::Hook => signal(false, plan),
        Force::Due => signal(order == Order::InTurn, plan),
        Force::Asked(at) => {
            let earliest = at.after(patience.minimum);
            let due = if deadline.reached(earliest) {
                deadline
            } else {
                earliest
            };
            if now.reached(due) {
                plan.steps.push(Step::Kill(index));
            } else {
                plan.wake_at(due);
            }
        }
        Force::Killed => {}
    }
}

/// Ends everything that lives: all hooks at once, then apps and init containers, and sidecars when those
/// are gone, in reverse.
pub(super) fn stop_alive(
    spec: &PodSpecPlan,
    patience: Patience,
    reason: &StopReason,
    pod: &PodFacts,
    now: Moment,
    plan: &mut Plan,
) {
    let pairs = || spec.containers.iter().zip(&pod.containers).enumerate();
    let goes_first = |role| match role {
        Role::App | Role::Init => true,
        Role::Sidecar | Role::Ephemeral => false,
    };
    let others_alive = pairs().any(|(_, (c, f))| goes_first(c.role) && f.life.is_alive());
    let last_sidecar = pairs()
        .rev()
        .find(|(_, (c, f))| c.role == Role::Sidecar && f.life.is_alive())
        .map(|(index, _)| index);
    for (index, (container, facts)) in pairs() {
        match &facts.life {
            Life::Running { .. } | Life::Greeting { .. } => {
                plan.steps
                    .push(ask(container, index, patience, reason.clone()));
            }
            Life::Stopping { .. } => {
                let waits = container.role == Role::Sidecar
                    && (others_alive || last_sidecar != Some(index));
                let order = if waits { Order::Waits } else { Order::InTurn };
                go_on(index, &facts.life, patience, order, now, plan);
            }
            Life::Waiting
            | Life::Fetching
            | Life::FetchFailed { .. }
            | Life::Ready
            | Life::Starting
            | Life::Cancelling
            | Life::StartFailed { .. }
            | Life::Ended { .. }
            | Life::CrashLoop { .. } => {}
        }
    }
}
