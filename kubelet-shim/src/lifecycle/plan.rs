//! (desired, observed, now) → what to do at once and when to look again.

use std::time::Duration;

use super::{
    ContainerFacts, EndCause, Ending, Force, Ground, Intent, Life, PodFacts, PullShown, Termination,
};
use crate::spec::{PodSpecPlan, RestartPolicy, Role};
use crate::time::Moment;

/// How long a failed pull shows its own reason before it shows `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(1);

/// A container has at least this between the request to end and force, whatever the grace.
pub(crate) const STOP_GRACE_MIN: Duration = Duration::from_secs(2);

/// What to do at once, and when to look again though nothing happens.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// To be taken in hand in this order.
    pub(crate) steps: Vec<Step>,
    /// The earliest moment at which time alone changes the plan.
    pub(crate) wake: Option<Moment>,
    /// Nothing is left to do, now or later.
    pub(crate) finished: bool,
}

/// One thing to do. Containers are named by their index in the plan.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Note that the pod ends.
    BeginEnding(Ending),
    /// Abandon a fetch or a start that is under way.
    Cancel(usize),
    /// Ask an instance to end.
    Stop(usize, StopReason, Moment),
    /// End an instance by force.
    Kill(usize),
    /// Take away network, volumes and published ports.
    TearDown,
    /// Make volumes and network.
    SetUp,
    /// Get the image and its code.
    Fetch(usize),
    /// Make an instance.
    Start(usize),
    /// Show `ImagePullBackOff`.
    ShowPullBackOff(usize),
    /// Show `CrashLoopBackOff` for this long, until then.
    HoldBack(usize, Duration, Moment),
}

/// Why a container is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The pod ends.
    PodEnds,
    /// Everything a sidecar served has ended.
    WorkDone,
}

/// Decides what to do next for one pod.
///
/// Removals come before additions. Calling it again without any change returns the same plan; applying
/// its steps and calling it again comes to rest.
pub(crate) fn plan(spec: &PodSpecPlan, intent: Intent, pod: &PodFacts, now: Moment) -> Plan {
    let mut plan = Plan::default();
    if let Some(ending) = new_ending(spec, intent, pod, now, &mut plan) {
        plan.steps.push(Step::BeginEnding(ending));
        // The rest follows from the ending, so it is decided when the ending is a fact.
        return plan;
    }
    if let Some((ending, since)) = pod.ending {
        end_pod(spec, ending, since, pod, now, &mut plan);
    } else if pod.rejected.is_some() {
        clear_ground(pod, &mut plan);
    } else if is_complete(spec, pod) {
        let patience = Patience {
            grace: spec.grace,
            minimum: STOP_GRACE_MIN,
        };
        stop_alive(spec, patience, StopReason::WorkDone, pod, now, &mut plan);
        clear_ground(pod, &mut plan);
    } else {
        advance(spec, pod, now, &mut plan);
    }
    plan
}

/// Whether a container that ended so is started again while its pod runs.
pub(crate) fn may_restart(
    policy: RestartPolicy,
    role: Role,
    end: &Termination,
    completed: bool,
) -> bool {
    match role {
        Role::Sidecar => true,
        Role::Init if completed => false,
        // An init container that succeeded is never repeated, even under `Always`.
        Role::Init => end.code != 0 && policy != RestartPolicy::Never,
        Role::App => match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => end.code != 0,
            RestartPolicy::Never => false,
        },
    }
}

/// Whether the pod has come to its own end: all apps ended for good, or an init container failed so.
pub(crate) fn is_complete(spec: &PodSpecPlan, pod: &PodFacts) -> bool {
    let over = |(container, facts): (&crate::spec::ContainerPlan, &ContainerFacts)| {
        ended_for_good(spec.restart_policy, container.role, facts)
    };
    let mut pairs = spec.containers.iter().zip(&pod.containers);
    let init_failed = pairs.clone().any(|(c, f)| {
        c.role == Role::Init && !f.completed && ended_for_good(spec.restart_policy, c.role, f)
    });
    init_failed
        || pairs
            .by_ref()
            .filter(|(c, _)| c.role == Role::App)
            .all(over)
}

fn ended_for_good(policy: RestartPolicy, role: Role, facts: &ContainerFacts) -> bool {
    match &facts.life {
        Life::Ended { end, .. } => !may_restart(policy, role, end, facts.completed),
        Life::Waiting
        | Life::Fetching
        | Life::FetchFailed { .. }
        | Life::Ready
        | Life::Starting
        | Life::Cancelling
        | Life::StartFailed { .. }
        | Life::Running { .. }
        | Life::Stopping { .. }
        | Life::CrashLoop { .. } => false,
    }
}

/// Returns an ending that is not yet a fact: wanted from outside, or the pod's deadline.
fn new_ending(
    spec: &PodSpecPlan,
    intent: Intent,
    pod: &PodFacts,
    now: Moment,
    plan: &mut Plan,
) -> Option<Ending> {
    if let Intent::End(wanted) = intent {
        return match pod.ending {
            None => Some(wanted),
            // A later wish may only shorten the grace, and a deletion outranks other causes since only
            // it removes the object at the end.
            Some((known, _)) => {
                let merged = Ending {
                    cause: stronger(known.cause, wanted.cause),
                    grace: known.grace.min(wanted.grace),
                };
                (merged != known).then_some(merged)
            }
        };
    }
    if pod.ending.is_some() || pod.rejected.is_some() || is_complete(spec, pod) {
        return None;
    }
    let deadline = pod.accepted.after(spec.active_deadline?);
    if now.reached(deadline) {
        return Some(Ending {
            cause: EndCause::Deadline,
            grace: spec.grace,
        });
    }
    plan.wake_at(deadline);
    None
}

fn stronger(known: EndCause, wanted: EndCause) -> EndCause {
    match (known, wanted) {
        (EndCause::Vanished, _) | (_, EndCause::Vanished) => EndCause::Vanished,
        (EndCause::Deleted, _) | (_, EndCause::Deleted) => EndCause::Deleted,
        (EndCause::Deadline, _) | (_, EndCause::Deadline) => EndCause::Deadline,
        (EndCause::Shutdown, EndCause::Shutdown) => EndCause::Shutdown,
    }
}

/// Abandons what would make an instance that nobody wants any more.
fn cancel_all(pod: &PodFacts, plan: &mut Plan) {
    for (index, facts) in pod.containers.iter().enumerate() {
        if matches!(facts.life, Life::Fetching | Life::Starting) {
            plan.steps.push(Step::Cancel(index));
        }
    }
}

fn end_pod(
    spec: &PodSpecPlan,
    ending: Ending,
    since: Moment,
    pod: &PodFacts,
    now: Moment,
    plan: &mut Plan,
) {
    cancel_all(pod, plan);
    // The grace is the pod's: sidecars asked later get what is left of it.
    let left = ending.grace.saturating_sub(now.since(since));
    let minimum = match ending.cause {
        // Who stops the agent has said how long it may take.
        EndCause::Shutdown => Duration::ZERO,
        EndCause::Deleted | EndCause::Vanished | EndCause::Deadline => STOP_GRACE_MIN,
    };
    let patience = Patience {
        grace: left,
        minimum,
    };
    stop_alive(spec, patience, StopReason::PodEnds, pod, now, plan);
    clear_ground(pod, plan);
}

/// How long a container may take to end.
#[derive(Clone, Copy)]
struct Patience {
    /// What is left of the pod's grace.
    grace: Duration,
    /// What every container gets though the grace is used up.
    minimum: Duration,
}

/// Asks what lives to end: apps and init containers at once, sidecars when those are gone, in reverse.
fn stop_alive(
    spec: &PodSpecPlan,
    patience: Patience,
    reason: StopReason,
    pod: &PodFacts,
    now: Moment,
    plan: &mut Plan,
) {
    let Patience { grace, minimum } = patience;
    let kill_at = now.after(grace.max(minimum));
    let pairs = || spec.containers.iter().zip(&pod.containers).enumerate();
    let others_alive = pairs().any(|(_, (c, f))| c.role != Role::Sidecar && f.life.is_alive());
    let last_sidecar = pairs()
        .rev()
        .find(|(_, (c, f))| c.role == Role::Sidecar && f.life.is_alive());
    for (index, (container, facts)) in pairs() {
        match &facts.life {
            Life::Running { .. } => {
                let in_turn = container.role != Role::Sidecar
                    || (!others_alive && last_sidecar.as_ref().is_some_and(|(i, _)| *i == index));
                if in_turn {
                    plan.steps.push(Step::Stop(index, reason, kill_at));
                }
            }
            Life::Stopping {
                asked,
                force: Force::KillAt(kill_at),
                ..
            } => {
                // A grace shortened later shortens what is left, never below the minimum.
                let earliest = asked.after(minimum);
                let wanted = now.after(grace);
                let due = kill_at.min(if wanted.reached(earliest) {
                    wanted
                } else {
                    earliest
                });
                if now.reached(due) {
                    plan.steps.push(Step::Kill(index));
                } else {
                    plan.wake_at(due);
                }
            }
            Life::Stopping {
                force: Force::Killed,
                ..
            }
            | Life::Waiting
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

fn clear_ground(pod: &PodFacts, plan: &mut Plan) {
    if pod.any_under_way() {
        return;
    }
    match pod.ground {
        Ground::Bare | Ground::Failed { .. } | Ground::Laid => plan.steps.push(Step::TearDown),
        Ground::Laying | Ground::Clearing => {}
        Ground::Cleared => plan.finished = true,
    }
}

fn advance(spec: &PodSpecPlan, pod: &PodFacts, now: Moment, plan: &mut Plan) {
    match &pod.ground {
        Ground::Bare => plan.steps.push(Step::SetUp),
        Ground::Failed { retry_at, .. } if now.reached(*retry_at) => plan.steps.push(Step::SetUp),
        Ground::Failed { retry_at, .. } => plan.wake_at(*retry_at),
        Ground::Laid => advance_containers(spec, pod, now, plan),
        Ground::Laying | Ground::Clearing | Ground::Cleared => {}
    }
}

/// Walks the containers in order; one whose start is under way holds back those behind it.
fn advance_containers(spec: &PodSpecPlan, pod: &PodFacts, now: Moment, plan: &mut Plan) {
    let mut held = false;
    for (index, (container, facts)) in spec.containers.iter().zip(&pod.containers).enumerate() {
        let turn = Turn {
            index,
            role: container.role,
            held,
            now,
        };
        let gate = advance_one(spec, facts, turn, plan);
        held |= gate == Gate::Closed;
    }
}

/// One container's turn in the walk.
#[derive(Clone, Copy)]
struct Turn {
    index: usize,
    role: Role,
    /// One before it is not far enough for this one to start.
    held: bool,
    now: Moment,
}

/// Whether the containers behind may start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Closed,
}

fn advance_one(spec: &PodSpecPlan, facts: &ContainerFacts, turn: Turn, plan: &mut Plan) -> Gate {
    let Turn {
        index,
        role,
        held,
        now,
    } = turn;
    // An app that cannot start does not hold back its neighbours; an init container does, and a sidecar
    // until it has started once.
    let stuck = match role {
        Role::App => Gate::Open,
        Role::Sidecar if facts.attempts > 0 => Gate::Open,
        Role::Sidecar | Role::Init => Gate::Closed,
    };
    match &facts.life {
        Life::Waiting => {
            if !held {
                plan.steps.push(Step::Fetch(index));
            }
            Gate::Closed
        }
        Life::Fetching | Life::Starting | Life::Cancelling => Gate::Closed,
        Life::Ready => {
            if !held {
                plan.steps.push(Step::Start(index));
            }
            Gate::Closed
        }
        Life::FetchFailed {
            at,
            retry_at,
            shown,
            ..
        } => {
            let show_at = at.after(PULL_ERROR_SHOWN);
            match shown {
                PullShown::Error if now.reached(show_at) => {
                    plan.steps.push(Step::ShowPullBackOff(index));
                }
                PullShown::Error => plan.wake_at(show_at),
                PullShown::BackOff => plan.retry(index, *retry_at, held, now),
            }
            stuck
        }
        Life::StartFailed { retry_at, .. } => {
            plan.retry(index, *retry_at, held, now);
            stuck
        }
        Life::CrashLoop { until, .. } => {
            plan.retry(index, *until, held, now);
            stuck
        }
        Life::Running { .. } => match role {
            Role::Init => Gate::Closed,
            Role::Sidecar | Role::App => Gate::Open,
        },
        // Only the end of the pod asks containers to end.
        Life::Stopping { .. } => Gate::Closed,
        Life::Ended { end, at } => {
            if may_restart(spec.restart_policy, role, end, facts.completed) {
                restart(facts, *at, turn, plan);
                stuck
            } else if role == Role::Init && !facts.completed {
                Gate::Closed
            } else {
                Gate::Open
            }
        }
    }
}

/// Starts an ended container again, at once or after its back-off.
fn restart(facts: &ContainerFacts, ended: Moment, turn: Turn, plan: &mut Plan) {
    let Turn {
        index,
        held,
        now,
        role: _,
    } = turn;
    match facts.crash.delay_after(ended) {
        Some(delay) if !now.reached(ended.after(delay)) => {
            plan.steps
                .push(Step::HoldBack(index, delay, ended.after(delay)));
        }
        Some(_) | None if !held => plan.steps.push(Step::Fetch(index)),
        Some(_) | None => {}
    }
}

impl Plan {
    fn wake_at(&mut self, at: Moment) {
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }

    fn retry(&mut self, index: usize, at: Moment, held: bool, now: Moment) {
        if !now.reached(at) {
            self.wake_at(at);
        } else if !held {
            self.steps.push(Step::Fetch(index));
        }
    }
}
