//! How steps and their outcomes change what is known.

use std::sync::Arc;

use coracle_runtime::fs::User;
use std::time::Duration;

use jiff::Timestamp;

use super::{
    Ask, ContainerFacts, CrashBackoff, FailedPull, Force, Ground, Health, Life, Outlook, PodFacts,
    PreStop, Problem, PullShown, Step, StopReason, Termination, Verdict,
};
use crate::spec::{ContainerPlan, PodSpecPlan, ProbeKind, Role};
use crate::time::Moment;

/// How long a container whose configuration could not be resolved waits, as the kubelet's sync does.
const START_RETRY: Duration = Duration::from_secs(10);

/// First delay after volumes or network could not be made; doubles (contract D.3).
const SETUP_RETRY_FIRST: Duration = Duration::from_millis(500);

/// Longest such delay.
const SETUP_RETRY_MAX: Duration = Duration::from_secs(122);

/// Beyond this the delay has reached its maximum; bounds the shift.
const SETUP_DOUBLINGS_MAX: u32 = 10;

/// Why a container has ended, or waits, that starts again with all others, as the kubelet says it.
pub(crate) const REASON_STARTS_OVER: &str = "RestartingAllContainers";

/// What the kubelet says with it.
pub(crate) const MESSAGE_STARTS_OVER: &str =
    "The container is removed because RestartAllContainers in place";

/// How a step came out, or what an instance did.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// `SetUp` came out.
    SetUp(Result<(), Problem>),
    /// `TearDown` came out; it cannot fail, only leave a log line.
    TornDown,
    /// `Fetch` came out.
    Fetched(usize, Result<Arc<str>, Problem>),
    /// `Start` came out.
    Started(usize, Launched),
    /// An instance ended.
    Exited(usize, Termination),
    /// A fetch or start was abandoned.
    Cancelled(usize),
    /// The `postStart` hook came out, with the reason when it failed.
    PostStarted(usize, Result<(), Arc<str>>),
    /// The `preStop` hook came out, well or badly.
    PreStopped(usize),
    /// A living instance has the resources of the plan, or why it could not have them.
    Resized(usize, Result<(), Arc<str>>),
    /// A probe of the container's so-manieth instance came to a verdict.
    Probed(usize, Probed),
}

/// A verdict, and of which instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    /// [`ContainerFacts::attempts`] of the instance that was probed.
    pub(crate) attempt: u32,
    /// Which probe.
    pub(crate) kind: ProbeKind,
    /// What its attempts amount to.
    pub(crate) verdict: Verdict,
}

/// How a start came out.
#[derive(Clone, Debug)]
pub(crate) enum Launched {
    /// An instance lives since then, as that user.
    Alive(Timestamp, Arc<User>),
    /// An instance was made and ended before it ran.
    Dead(Termination),
    /// No instance was made.
    Refused(Problem),
}

impl PodFacts {
    /// Notes that a step was taken in hand at `now`.
    pub(crate) fn begin(&mut self, spec: &PodSpecPlan, step: &Step, now: Moment) {
        match step {
            Step::BeginEnding(ending) => {
                let since = self.ending.map_or(now, |(_, since)| since);
                self.ending = Some((*ending, since));
                self.starting_over = None;
            }
            Step::SetUp => self.ground = Ground::Laying,
            Step::TearDown => self.ground = Ground::Clearing,
            Step::Cancel(index) => self.containers[*index].life = Life::Cancelling,
            Step::Stop(index, ask) => {
                let health = Health::new(&spec.containers[*index].probes);
                self.containers[*index].begin_stop(ask, health, now);
            }
            Step::Signal(index) => {
                if let Life::Stopping { force, .. } = &mut self.containers[*index].life {
                    *force = Force::Asked(now);
                }
            }
            Step::Kill(index) => {
                if let Life::Stopping { force, .. } = &mut self.containers[*index].life {
                    *force = Force::Killed;
                }
            }
            Step::Fetch(index) => {
                let image = &spec.containers[*index].image;
                self.containers[*index].begin_fetch(image, now);
            }
            Step::Start(index) => {
                let facts = &mut self.containers[*index];
                facts.life = Life::Starting;
                facts.given = Some(spec.containers[*index].resources);
                facts.resize_failure = None;
            }
            // It comes out at once.
            Step::Resize(_) => {}
            Step::ShowPullBackOff(index) => {
                if let Life::FetchFailed { shown, .. } = &mut self.containers[*index].life {
                    *shown = PullShown::BackOff;
                }
            }
            Step::StartOver => self.start_over(spec, now),
            Step::HoldBack(index, delay, until) => {
                let life = &mut self.containers[*index].life;
                if let Life::Ended { end, at } = &*life {
                    let (end, at) = (end.clone(), *at);
                    *life = Life::CrashLoop {
                        end,
                        at,
                        delay: *delay,
                        until: *until,
                    };
                }
            }
        }
    }

    /// Notes an outcome at `now`.
    pub(crate) fn settle(&mut self, spec: &PodSpecPlan, outcome: Outcome, now: Moment) {
        match outcome {
            Outcome::SetUp(Ok(())) => self.ground = Ground::Laid,
            Outcome::SetUp(Err(problem)) => {
                self.setup_failures = self.setup_failures.saturating_add(1);
                let doublings = self.setup_failures.min(SETUP_DOUBLINGS_MAX) - 1;
                let delay = SETUP_RETRY_FIRST
                    .saturating_mul(1 << doublings)
                    .min(SETUP_RETRY_MAX);
                if problem.outlook == Outlook::Refused {
                    self.rejected = Some(problem.clone());
                }
                self.ground = Ground::Failed {
                    problem,
                    retry_at: now.after(delay),
                };
            }
            Outcome::TornDown => self.ground = Ground::Cleared,
            Outcome::Fetched(index, result) => self.containers[index].fetched(result, now),
            Outcome::Started(index, launched) => {
                let code = match &launched {
                    Launched::Dead(end) => Some(end.code),
                    Launched::Alive(..) | Launched::Refused(_) => None,
                };
                self.note_end(spec, index, code, now, |container| {
                    container.launched(launched, &spec.containers[index], now);
                });
            }
            Outcome::Exited(index, end) => {
                let role = spec.containers[index].role;
                self.note_end(spec, index, Some(end.code), now, |container| {
                    container.ended(end, role, now);
                });
            }
            Outcome::PostStarted(index, result) => {
                let health = Health::new(&spec.containers[index].probes);
                self.containers[index].post_started(result, health);
            }
            Outcome::PreStopped(index) => {
                if let Life::Stopping { force, .. } = &mut self.containers[index].life
                    && *force == Force::Hook
                {
                    *force = Force::Due;
                }
            }
            Outcome::Resized(index, result) => {
                self.containers[index].resized(result, &spec.containers[index], now);
            }
            Outcome::Probed(index, probed) => self.containers[index].probed(probed),
            Outcome::Cancelled(index) => {
                let container = &mut self.containers[index];
                container.life = match container.last.clone() {
                    Some(end) => Life::Ended { end, at: now },
                    None => Life::Waiting,
                };
            }
        }
    }
}

impl PodFacts {
    /// Notes what may be an end, with its code if it is one, and what that means for all containers.
    fn note_end(
        &mut self,
        spec: &PodSpecPlan,
        index: usize,
        code: Option<i32>,
        now: Moment,
        note: impl FnOnce(&mut ContainerFacts),
    ) {
        let starts_over = code.is_some_and(|code| self.asks_to_start_over(spec, index, code));
        note(&mut self.containers[index]);
        if starts_over {
            self.begin_to_start_over(spec, index, now);
        } else if code.is_some() {
            self.keep_starting_over(spec, index);
        }
    }
}

impl ContainerFacts {
    /// A fetch after an end is a restart, and restarts are counted for the back-off here.
    fn begin_fetch(&mut self, image: &str, now: Moment) {
        let mut is_first_of_another = false;
        // What went wrong with another image says nothing about this one.
        self.retried = None;
        if let Life::FetchFailed { problem, shown, .. } = &self.life
            && self.image.as_deref() == Some(image)
        {
            self.retried = Some(FailedPull {
                problem: problem.clone(),
                shown: *shown,
            });
        }
        if self.image.as_deref() != Some(image) {
            // Either back-off is one of container and image.
            self.crash = CrashBackoff::default();
            self.pull.cleared();
            is_first_of_another = self.image.replace(image.into()).is_some();
        }
        if let Life::Ended { end, at } | Life::CrashLoop { end, at, .. } = &self.life {
            // Of a restart that its owner asked for, no fault is held against it.
            if is_first_of_another || !self.resized {
                self.crash.restarted(*at, now);
            }
            self.last = Some(end.clone());
        } else if is_first_of_another && self.last.is_some() {
            self.crash.restarted(now, now);
        }
        self.life = Life::Fetching;
    }

    fn fetched(&mut self, result: Result<Arc<str>, Problem>, now: Moment) {
        self.retried = None;
        match result {
            Ok(image_id) => {
                self.image_id = Some(image_id);
                self.pull.cleared();
                self.life = Life::Ready;
            }
            Err(problem) => {
                let retry_at = now.after(self.pull.failed(now));
                self.life = Life::FetchFailed {
                    problem,
                    at: now,
                    retry_at,
                    shown: PullShown::Error,
                };
            }
        }
    }

    fn begin_stop(&mut self, ask: &Ask, health: Health, now: Moment) {
        let (since, health) = match self.life {
            Life::Running { since, health } => (since, health),
            Life::Greeting { since, .. } => (since, health),
            // Invariant: only what lives is asked to end.
            Life::Waiting
            | Life::Fetching
            | Life::FetchFailed { .. }
            | Life::Ready
            | Life::Starting
            | Life::Cancelling
            | Life::StartFailed { .. }
            | Life::Stopping { .. }
            | Life::Ended { .. }
            | Life::CrashLoop { .. } => return,
        };
        self.life = Life::Stopping {
            since,
            health,
            reason: ask.reason.clone(),
            asked: now,
            grace: ask.grace,
            force: match ask.pre_stop {
                PreStop::Run => Force::Hook,
                PreStop::Skip => Force::Due,
            },
        };
    }

    fn post_started(&mut self, result: Result<(), Arc<str>>, health: Health) {
        let Life::Greeting { since, failed } = &mut self.life else {
            return;
        };
        match result {
            Ok(()) => {
                let since = *since;
                self.run(since, health);
            }
            Err(reason) => *failed = Some(reason),
        }
    }

    fn run(&mut self, since: Timestamp, health: Health) {
        self.was_started |= health.is_started();
        self.life = Life::Running { since, health };
    }

    /// A verdict about an instance that is gone says nothing about the present one.
    fn probed(&mut self, probed: Probed) {
        let Probed {
            attempt,
            kind,
            verdict,
        } = probed;
        if attempt != self.attempts {
            return;
        }
        if let Life::Running { health, .. } | Life::Stopping { health, .. } = &mut self.life {
            health.note(kind, verdict);
            self.was_started |= health.is_started();
        }
    }

    fn launched(&mut self, launched: Launched, container: &ContainerPlan, now: Moment) {
        match launched {
            Launched::Alive(since, user) => {
                self.user = Some(user);
                self.attempts = self.attempts.saturating_add(1);
                self.anew = false;
                self.resized = false;
                if container.hooks.post_start.is_some() {
                    self.life = Life::Greeting {
                        since,
                        failed: None,
                    };
                } else {
                    self.run(since, Health::new(&container.probes));
                }
            }
            Launched::Dead(end) => {
                self.attempts = self.attempts.saturating_add(1);
                self.anew = false;
                self.resized = false;
                self.ended(end, container.role, now);
            }
            Launched::Refused(problem) => {
                self.life = Life::StartFailed {
                    problem,
                    retry_at: now.after(START_RETRY),
                };
            }
        }
    }

    fn ended(&mut self, mut end: Termination, role: Role, now: Moment) {
        if let Life::Stopping {
            reason: StopReason::StartsOver,
            ..
        } = self.life
        {
            end.reason = REASON_STARTS_OVER;
            end.message = Some(MESSAGE_STARTS_OVER.to_owned());
        }
        self.completed |= role == Role::Init && end.code == 0;
        self.given = None;
        self.resize_failure = None;
        self.resized = matches!(
            self.life,
            Life::Stopping {
                reason: StopReason::Resized,
                ..
            }
        );
        self.anew = matches!(
            self.life,
            Life::Stopping {
                reason: StopReason::Redefined | StopReason::Resized,
                ..
            }
        );
        self.life = Life::Ended {
            end: Arc::new(end),
            at: now,
        };
    }
}
