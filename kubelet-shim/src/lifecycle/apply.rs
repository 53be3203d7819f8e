//! How steps and their outcomes change what is known.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{
    ContainerFacts, Force, Ground, Life, Outlook, PodFacts, Problem, PullShown, Step, Termination,
};
use crate::spec::{PodSpecPlan, Role};
use crate::time::Moment;

/// How long a container whose configuration could not be resolved waits, as the kubelet's sync does.
const START_RETRY: Duration = Duration::from_secs(10);

/// First delay after volumes or network could not be made; doubles (contract D.3).
const SETUP_RETRY_FIRST: Duration = Duration::from_millis(500);

/// Longest such delay.
const SETUP_RETRY_MAX: Duration = Duration::from_secs(122);

/// Beyond this the delay has reached its maximum; bounds the shift.
const SETUP_DOUBLINGS_MAX: u32 = 10;

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
}

/// How a start came out.
#[derive(Clone, Debug)]
pub(crate) enum Launched {
    /// An instance lives.
    Alive(Timestamp),
    /// An instance was made and ended before it ran.
    Dead(Termination),
    /// No instance was made.
    Refused(Problem),
}

impl PodFacts {
    /// Notes that a step was taken in hand at `now`.
    pub(crate) fn begin(&mut self, step: &Step, now: Moment) {
        match step {
            Step::BeginEnding(ending) => {
                let since = self.ending.map_or(now, |(_, since)| since);
                self.ending = Some((*ending, since));
            }
            Step::SetUp => self.ground = Ground::Laying,
            Step::TearDown => self.ground = Ground::Clearing,
            Step::Cancel(index) => self.containers[*index].life = Life::Cancelling,
            Step::Stop(index, _, kill_at) => {
                let life = &mut self.containers[*index].life;
                if let Life::Running { since } = *life {
                    *life = Life::Stopping {
                        since,
                        asked: now,
                        force: Force::KillAt(*kill_at),
                    };
                }
            }
            Step::Kill(index) => {
                if let Life::Stopping { force, .. } = &mut self.containers[*index].life {
                    *force = Force::Killed;
                }
            }
            Step::Fetch(index) => self.containers[*index].begin_fetch(now),
            Step::Start(index) => self.containers[*index].life = Life::Starting,
            Step::ShowPullBackOff(index) => {
                if let Life::FetchFailed { shown, .. } = &mut self.containers[*index].life {
                    *shown = PullShown::BackOff;
                }
            }
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
                let role = spec.containers[index].role;
                self.containers[index].launched(launched, role, now);
            }
            Outcome::Exited(index, end) => {
                let role = spec.containers[index].role;
                self.containers[index].ended(end, role, now);
            }
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

impl ContainerFacts {
    /// A fetch after an end is a restart, and restarts are counted for the back-off here.
    fn begin_fetch(&mut self, now: Moment) {
        if let Life::Ended { end, at } | Life::CrashLoop { end, at, .. } = &self.life {
            self.crash.restarted(*at, now);
            self.last = Some(end.clone());
        }
        self.life = Life::Fetching;
    }

    fn fetched(&mut self, result: Result<Arc<str>, Problem>, now: Moment) {
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

    fn launched(&mut self, launched: Launched, role: Role, now: Moment) {
        match launched {
            Launched::Alive(since) => {
                self.attempts = self.attempts.saturating_add(1);
                self.life = Life::Running { since };
            }
            Launched::Dead(end) => {
                self.attempts = self.attempts.saturating_add(1);
                self.ended(end, role, now);
            }
            Launched::Refused(problem) => {
                self.life = Life::StartFailed {
                    problem,
                    retry_at: now.after(START_RETRY),
                };
            }
        }
    }

    fn ended(&mut self, end: Termination, role: Role, now: Moment) {
        self.completed |= role == Role::Init && end.code == 0;
        self.life = Life::Ended {
            end: Arc::new(end),
            at: now,
        };
    }
}
