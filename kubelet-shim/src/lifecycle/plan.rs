//! (desired, observed, now) → what to do at once and when to look again.

use std::time::Duration;

use super::resizing::{self, Change, change};
use super::start_over::{plan_start_over, takes_part};
use super::stopping::{Order, Patience, ask, go_on, stop_alive};
use super::{
    Ask, ContainerFacts, EndCause, Ending, Ground, Intent, Life, PodFacts, PullShown, Termination,
};
use crate::spec::{ContainerPlan, PodSpecPlan, ProbeKind, RestartPolicy, Role};
use crate::time::Moment;

/// How long a failed pull shows its own reason before it shows `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(1);

/// Grace of a pod that exceeds a limit of storage, whatever its own (a kubelet's immediate eviction).
const EVICTION_GRACE: Duration = Duration::from_secs(1);

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
    /// Begin to end an instance: tell of it, and run its `preStop` hook if that is asked for.
    Stop(usize, Ask),
    /// Ask an instance to end; a hook still under way is abandoned.
    Signal(usize),
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
    /// Give a living instance the resources of the plan.
    Resize(usize),
    /// Show `ImagePullBackOff`.
    ShowPullBackOff(usize),
    /// Show `CrashLoopBackOff` for this long, until then.
    HoldBack(usize, Duration, Moment),
    /// Forget the last run of all containers.
    StartOver,
}

/// Why a container is brought to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The pod ends.
    PodEnds,
    /// Everything a sidecar served has ended.
    WorkDone,
    /// A probe failed as often as counts.
    Unhealthy(ProbeKind),
    /// The plan has another image for it.
    Redefined,
    /// The plan has other resources for it, and it cannot follow while it runs.
    Resized,
    /// All containers of its pod start again.
    StartsOver,
    /// Its `postStart` hook failed, for this reason.
    PostStartFailed(std::sync::Arc<str>),
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
        let patience = Patience::of_container(spec.grace);
        stop_alive(spec, patience, &StopReason::WorkDone, pod, now, &mut plan);
        clear_ground(pod, &mut plan);
    } else {
        advance(spec, pod, now, &mut plan);
    }
    plan
}

/// Whether a container that ended so is started again while its pod runs.
pub(crate) fn may_restart(
    policy: RestartPolicy,
    container: &ContainerPlan,
    end: &Termination,
    completed: bool,
) -> bool {
    match container.role {
        Role::Sidecar => true,
        Role::Ephemeral => false,
        Role::Init if completed => false,
        // An init container that succeeded is never repeated, even under `Always`.
        Role::Init => end.code != 0 && container.restarts.decide(policy, end.code),
        Role::App => container.restarts.decide(policy, end.code),
    }
}

/// Whether the pod has come to its own end: all apps ended for good, or an init container failed so.
pub(crate) fn is_complete(spec: &PodSpecPlan, pod: &PodFacts) -> bool {
    let over = |(container, facts): (&ContainerPlan, &ContainerFacts)| {
        ended_for_good(spec.restart_policy, container, facts)
    };
    let mut pairs = spec.containers.iter().zip(&pod.containers);
    let init_failed = pairs.clone().any(|(c, f)| {
        c.role == Role::Init && !f.completed && ended_for_good(spec.restart_policy, c, f)
    });
    init_failed
        || pairs
            .by_ref()
            .filter(|(c, _)| c.role == Role::App)
            .all(over)
}

fn ended_for_good(
    policy: RestartPolicy,
    container: &ContainerPlan,
    facts: &ContainerFacts,
) -> bool {
    match &facts.life {
        Life::Ended { end, .. } => !facts.may_restart(policy, container, end),
        Life::Waiting
        | Life::Fetching
        | Life::FetchFailed { .. }
        | Life::Ready
        | Life::Starting
        | Life::Cancelling
        | Life::StartFailed { .. }
        | Life::Greeting { .. }
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
    if pod.evicted.is_some() {
        return Some(Ending {
            cause: EndCause::Evicted,
            grace: EVICTION_GRACE,
        });
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
        (EndCause::Evicted, _) | (_, EndCause::Evicted) => EndCause::Evicted,
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
    if !plan.steps.is_empty() {
        // Who waits for whom is decided when that is a fact.
        return;
    }
    let patience = Patience::of_ending(ending, since, now);
    stop_alive(spec, patience, &StopReason::PodEnds, pod, now, plan);
    clear_ground(pod, plan);
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
        Ground::Laid => {
            if let Some(over) = pod.starting_over {
                plan_start_over(spec, over, pod, now, plan);
            }
            advance_containers(spec, pod, now, plan);
        }
        Ground::Laying | Ground::Clearing | Ground::Cleared => {}
    }
}

/// Walks the containers in order; one whose start is under way holds back those behind it.
fn advance_containers(spec: &PodSpecPlan, pod: &PodFacts, now: Moment, plan: &mut Plan) {
    let mut held = false;
    for (index, (container, facts)) in spec.containers.iter().zip(&pod.containers).enumerate() {
        if pod.starting_over.is_some() && takes_part(container.role) {
            continue;
        }
        let is_free = container.role == Role::Ephemeral;
        let turn = Turn {
            index,
            role: container.role,
            // One that looks around waits for nobody.
            held: held && !is_free,
            now,
        };
        end_unfit(spec, container, facts, turn, plan);
        let gate = advance_one((spec, container), facts, turn, plan);
        held |= gate == Gate::Closed;
    }
}

/// Ends an instance that the plan, its probes or its `postStart` hook condemn, and goes on with one that is being
/// ended, while the pod goes on.
fn end_unfit(
    spec: &PodSpecPlan,
    container: &ContainerPlan,
    facts: &ContainerFacts,
    turn: Turn,
    plan: &mut Plan,
) {
    let Turn { index, now, .. } = turn;
    // An init container that runs to its end is left to it.
    let is_redefined = container.role != Role::Init && facts.is_outdated(container);
    let reason = match &facts.life {
        Life::Running { .. } | Life::Greeting { .. } if is_redefined => Some(StopReason::Redefined),
        Life::Running { .. } | Life::Greeting { .. }
            if change(container, facts) == Change::Restart =>
        {
            Some(StopReason::Resized)
        }
        Life::Running { health, .. } => health.failed().map(StopReason::Unhealthy),
        Life::Greeting { failed, .. } => failed.clone().map(StopReason::PostStartFailed),
        Life::Stopping { .. } => {
            let patience = Patience::of_container(spec.grace);
            go_on(index, &facts.life, patience, Order::InTurn, now, plan);
            None
        }
        Life::Waiting
        | Life::Fetching
        | Life::FetchFailed { .. }
        | Life::Ready
        | Life::Starting
        | Life::Cancelling
        | Life::StartFailed { .. }
        | Life::Ended { .. }
        | Life::CrashLoop { .. } => None,
    };
    if let Some(reason) = reason {
        let probe = match &reason {
            StopReason::Unhealthy(kind) => container.probes.get(*kind),
            StopReason::PodEnds
            | StopReason::WorkDone
            | StopReason::Redefined
            | StopReason::Resized
            | StopReason::StartsOver
            | StopReason::PostStartFailed(_) => None,
        };
        let grace = probe.and_then(|probe| probe.grace).unwrap_or(spec.grace);
        let patience = Patience::of_container(grace);
        plan.steps.push(ask(container, index, patience, reason));
    } else if matches!(facts.life, Life::Running { .. } | Life::Greeting { .. })
        && change(container, facts) == Change::InPlace
    {
        resizing::resize(container, facts, index, now, plan);
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

fn advance_one(
    (spec, container): (&PodSpecPlan, &ContainerPlan),
    facts: &ContainerFacts,
    turn: Turn,
    plan: &mut Plan,
) -> Gate {
    let Turn {
        index,
        role,
        held,
        now,
    } = turn;
    let stuck = stuck(role, facts);
    if facts.is_outdated(container) && awaits(spec, container, facts) {
        plan.retry(index, now, held, now);
        let is_under_way = facts.life == Life::Ready;
        return if is_under_way { Gate::Closed } else { stuck };
    }
    match &facts.life {
        Life::Waiting => {
            if !held {
                plan.steps.push(Step::Fetch(index));
            }
            Gate::Closed
        }
        // A slow `postStart` holds back those behind it.
        Life::Fetching | Life::Starting | Life::Cancelling | Life::Greeting { .. } => Gate::Closed,
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
        Life::Running { .. } | Life::Stopping { .. } => stuck,
        Life::Ended { end, at } => {
            if facts.may_restart(spec.restart_policy, container, end) {
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

/// Whether a container waits for its image or for a time, or has it and waits for its start: what it waits
/// for is another matter once the plan has another image.
fn awaits(spec: &PodSpecPlan, container: &ContainerPlan, facts: &ContainerFacts) -> bool {
    match &facts.life {
        Life::Ready
        | Life::FetchFailed { .. }
        | Life::StartFailed { .. }
        | Life::CrashLoop { .. } => true,
        Life::Ended { end, .. } => facts.may_restart(spec.restart_policy, container, end),
        Life::Waiting
        | Life::Fetching
        | Life::Starting
        | Life::Cancelling
        | Life::Greeting { .. }
        | Life::Running { .. }
        | Life::Stopping { .. } => false,
    }
}

/// What a container that does not get on means for those behind it: an app does not hold back its
/// neighbours; an init container does, and a sidecar until it has started once.
fn stuck(role: Role, facts: &ContainerFacts) -> Gate {
    match role {
        Role::App | Role::Ephemeral => Gate::Open,
        Role::Sidecar if facts.was_started => Gate::Open,
        Role::Sidecar | Role::Init => Gate::Closed,
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
        Some(_) if facts.resized => {
            if !held {
                plan.steps.push(Step::Fetch(index));
            }
        }
        Some(delay) if !now.reached(ended.after(delay)) => {
            plan.steps
                .push(Step::HoldBack(index, delay, ended.after(delay)));
        }
        Some(_) | None if !held => plan.steps.push(Step::Fetch(index)),
        Some(_) | None => {}
    }
}

impl Plan {
    pub(super) fn wake_at(&mut self, at: Moment) {
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
