//! The pod's phase, by the contract's list (B.1): the first rule that matches wins.

use crate::lifecycle::{ContainerFacts, Ground, Life, PodFacts, is_complete};
use crate::spec::{ContainerPlan, PodSpecPlan, Role};

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Accepted, not all of it has started.
    Pending,
    /// Something runs, or will run again.
    Running,
    /// Everything ended well.
    Succeeded,
    /// Everything ended, not all of it well.
    Failed,
}

impl Phase {
    /// The API's word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    /// Whether a pod never leaves this phase.
    pub(crate) fn is_terminal(self) -> bool {
        match self {
            Phase::Succeeded | Phase::Failed => true,
            Phase::Pending | Phase::Running => false,
        }
    }
}

/// Computes the phase.
///
/// Invariant: a terminal phase never while an instance lives or may still come to live, nor before a pod
/// that was ended from outside has let go of everything, whatever the rules say.
pub(crate) fn phase(spec: &PodSpecPlan, pod: &PodFacts) -> Phase {
    let computed = by_rules(spec, pod);
    let is_decided = pod.ending.is_none() || pod.rejected.is_some() || is_complete(spec, pod);
    let is_settled = !pod.any_under_way() && (is_decided || pod.ground == Ground::Cleared);
    if computed.is_terminal() && !is_settled {
        Phase::Running
    } else {
        computed
    }
}

fn by_rules(spec: &PodSpecPlan, pod: &PodFacts) -> Phase {
    // An evicted pod has failed, however its containers took their end.
    if pod.rejected.is_some() || pod.evicted.is_some() {
        return Phase::Failed;
    }
    let pairs = || spec.containers.iter().zip(&pod.containers);
    let ended_by_others = pod.ending.is_some();
    let is_over = ended_by_others && pod.ground == Ground::Cleared;
    let restarts = |(c, f): (&ContainerPlan, &ContainerFacts)| {
        !ended_by_others
            && f.latest_end()
                .is_some_and(|end| f.may_restart(spec.restart_policy, c, end))
    };
    let mut inits = pairs().filter(|(c, _)| c.role == Role::Init);
    // 1: an init container failed for good.
    if inits
        .clone()
        .any(|(c, f)| failed_for_good(f) && !f.completed && !restarts((c, f)))
    {
        return Phase::Failed;
    }
    // 2: initialising. A pod that ended meanwhile never ran, which is a failure.
    let initialised = inits.all(|(_, f)| f.completed)
        && pairs().all(|(c, f)| c.role != Role::Sidecar || f.was_started || pod.was_initialised);
    if !initialised {
        return if is_over {
            Phase::Failed
        } else {
            Phase::Pending
        };
    }
    let apps = || pairs().filter(|(c, _)| c.role == Role::App);
    // 3: something waits for its first start.
    if apps().any(|(_, f)| is_fresh(f)) {
        return if is_over {
            Phase::Failed
        } else {
            Phase::Pending
        };
    }
    // 4: something runs.
    if apps().any(|(_, f)| is_running(&f.life)) {
        return Phase::Running;
    }
    // 5: all stopped.
    let all_well = apps().all(|(_, f)| f.latest_end().is_some_and(|end| end.code == 0));
    if !ended_by_others && apps().any(restarts) {
        Phase::Running
    } else if all_well {
        Phase::Succeeded
    } else {
        Phase::Failed
    }
}

/// Whether a container waits and never ran.
fn is_fresh(facts: &ContainerFacts) -> bool {
    facts.latest_end().is_none() && !is_running(&facts.life)
}

fn is_running(life: &Life) -> bool {
    life.health().is_some()
}

fn failed_for_good(facts: &ContainerFacts) -> bool {
    matches!(&facts.life, Life::Ended { end, .. } if end.code != 0)
}
