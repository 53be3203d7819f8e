//! All containers of a pod start again, the first init container first, on the ground that is there (contract
//! B.4, `RestartAllContainers`).
//!
//! Everything that lives is ended without a grace and without hooks, in reverse, and whatever was about to
//! live is abandoned; when nothing is left, what each container was is forgotten but for its counts and its
//! last end, and the pod begins as it did at first. Containers that look around are left alone.

use std::time::Duration;

use super::plan::{Plan, Step};
use super::stopping::{Order, Patience, ask, go_on};
use super::{ContainerFacts, Life, PodFacts, StopReason, is_complete};
use crate::spec::{PodSpecPlan, Role};
use crate::time::Moment;

/// How long a pod says at least that it starts over, so that a watcher sees it: a kubelet goes through it in
/// rounds of a second.
const SHOWN_MIN: Duration = Duration::from_secs(1);

/// A pod on its way to begin again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartOver {
    /// The container that asked for it by its end; unknown when an earlier agent saw it.
    pub(super) source: Option<usize>,
    /// When that was.
    pub(super) since: Moment,
}

impl StartOver {
    /// Takes up what an earlier agent began.
    pub(super) fn recovered(now: Moment) -> StartOver {
        StartOver {
            source: None,
            since: now,
        }
    }
}

impl PodFacts {
    /// Whether an end of this container with `code` starts all containers again.
    ///
    /// To be asked before the end is noted: a pod that has come to its end, or is brought to it, stays there,
    /// and an end that was the plan's own wish asks for nothing.
    pub(super) fn asks_to_start_over(&self, spec: &PodSpecPlan, index: usize, code: i32) -> bool {
        let (container, facts) = (&spec.containers[index], &self.containers[index]);
        let is_wanted = match container.role {
            Role::Ephemeral => false,
            // One that succeeded has done its part.
            Role::Init => code != 0,
            Role::Sidecar | Role::App => true,
        };
        let is_ours = matches!(
            facts.life,
            Life::Stopping {
                reason: StopReason::Redefined | StopReason::Resized,
                ..
            }
        );
        is_wanted
            && !is_ours
            && self.starting_over.is_none()
            && self.ending.is_none()
            && self.rejected.is_none()
            && self.evicted.is_none()
            && container.restarts.restart_all(code)
            && !is_complete(spec, self)
    }

    /// Notes that all containers are to start again.
    pub(super) fn begin_to_start_over(&mut self, spec: &PodSpecPlan, source: usize, now: Moment) {
        self.starting_over = Some(StartOver {
            source: Some(source),
            since: now,
        });
        self.was_initialised |= self.is_initialised(spec);
        for (container, facts) in spec.containers.iter().zip(&mut self.containers) {
            facts.anew |= takes_part(container.role);
        }
    }

    /// An end while all start over says nothing about the next start.
    pub(super) fn keep_starting_over(&mut self, spec: &PodSpecPlan, index: usize) {
        if self.starting_over.is_some() {
            self.containers[index].anew |= takes_part(spec.containers[index].role);
        }
    }

    /// Notes that nothing of the last run is left.
    pub(super) fn start_over(&mut self, spec: &PodSpecPlan, now: Moment) {
        let source = self.starting_over.take().and_then(|over| over.source);
        let pairs = spec.containers.iter().zip(&mut self.containers);
        for (index, (container, facts)) in pairs.enumerate() {
            if !takes_part(container.role) {
                continue;
            }
            if source == Some(index)
                && let Life::Ended { at, .. } = facts.life
            {
                facts.crash.restarted(at, now);
            }
            facts.forget();
        }
    }

    /// Whether all that comes before the apps has done its part.
    pub(crate) fn is_initialised(&self, spec: &PodSpecPlan) -> bool {
        let mut pairs = spec.containers.iter().zip(&self.containers);
        pairs.all(|(container, facts)| match container.role {
            Role::Init => facts.completed,
            Role::Sidecar => facts.was_started,
            Role::App | Role::Ephemeral => true,
        })
    }
}

impl ContainerFacts {
    /// As at first, but for counts, the last end and the back-offs.
    fn forget(&mut self) {
        if let Life::Ended { end, .. } | Life::CrashLoop { end, .. } = &self.life {
            self.last = Some(end.clone());
        }
        self.life = Life::Waiting;
        self.given = None;
        self.resize_failure = None;
        self.resized = false;
        self.anew = true;
        self.completed = false;
        self.was_started = false;
    }
}

/// Whether a container starts again with all others.
pub(crate) fn takes_part(role: Role) -> bool {
    match role {
        Role::Init | Role::Sidecar | Role::App => true,
        Role::Ephemeral => false,
    }
}

/// Brings the last run to its end, and begins anew when nothing of it is left and the back-off of the container
/// that asked is over.
pub(super) fn plan_start_over(
    spec: &PodSpecPlan,
    over: StartOver,
    pod: &PodFacts,
    now: Moment,
    plan: &mut Plan,
) {
    let patience = Patience {
        grace: Duration::ZERO,
        limit: Some(now),
        minimum: Duration::ZERO,
    };
    let mut is_quiet = true;
    let pairs = spec.containers.iter().zip(&pod.containers).enumerate();
    for (index, (container, facts)) in pairs.rev() {
        if !takes_part(container.role) {
            continue;
        }
        is_quiet &= !facts.life.is_alive() && facts.life != Life::Fetching;
        match &facts.life {
            Life::Fetching | Life::Starting => plan.steps.push(Step::Cancel(index)),
            Life::Running { .. } | Life::Greeting { .. } => {
                let reason = StopReason::StartsOver;
                plan.steps.push(ask(container, index, patience, reason));
            }
            Life::Stopping { .. } => {
                go_on(index, &facts.life, patience, Order::InTurn, now, plan);
            }
            Life::Waiting
            | Life::FetchFailed { .. }
            | Life::Ready
            | Life::Cancelling
            | Life::StartFailed { .. }
            | Life::Ended { .. }
            | Life::CrashLoop { .. } => {}
        }
    }
    if !is_quiet {
        return;
    }
    let due = due(over, pod);
    if now.reached(due) {
        plan.steps.push(Step::StartOver);
    } else {
        plan.wake_at(due);
    }
}

fn due(over: StartOver, pod: &PodFacts) -> Moment {
    let shown = over.since.after(SHOWN_MIN);
    let held = over.source.and_then(|source| {
        let facts = &pod.containers[source];
        let Life::Ended { at, .. } = facts.life else {
            return None;
        };
        Some(at.after(facts.crash.delay_after(at)?))
    });
    match held {
        Some(held) if held.reached(shown) => held,
        Some(_) | None => shown,
    }
}
