//! A pod's life as data: what is known about it, what to do next, and how outcomes change it.
//!
//! Nothing here waits or does anything: [`fn@plan`] is a pure function from (desired, observed, now) to
//! steps, [`PodFacts::begin`] notes that a step was taken in hand, [`PodFacts::settle`] notes how it came
//! out. The worker only carries messages between these and the world, so the generated histories in the
//! tests drive exactly what runs in production.
//!
//! ```text
//!             Fetch                 Start                 postStart       exited
//!  Waiting ───────▶ Fetching ─ok─▶ Ready ───▶ Starting ─ok─▶ Greeting ─ok─▶ Running ───▶ Ended
//!     ▲                │failed       ▲           │failed        │failed        │Stop      │ may restart
//!     │                ▼             │           ▼              ▼              ▼          │  at once: Fetch
//!     │           FetchFailed ◀──────┘      StartFailed     Stopping ◀─────────┘          ▼  later: CrashLoop
//!     └───────── (retry at its time, both)                      │preStop, Signal, Kill         ─▶ Fetch
//!                                                               ▼
//!                                                             Ended
//! ```
//!
//! A container without a `postStart` hook goes from Starting to Running. Where the plan's image is no longer
//! the one a container was made from, a living instance is stopped and started again whatever its policy,
//! and whatever waits, waits no longer: both back-offs begin afresh. Where the end of one container starts all
//! again, everything that lives is killed, and then every container stands at Waiting, as at first.
//! A change of resources that needs a restart restarts its container alone and leaves the back-offs alone; any
//! other changes a living instance as it runs.

mod apply;
mod backoff;
mod health;
mod plan;
mod recover;
mod resizing;
mod start_over;
mod stopping;

#[cfg(test)]
mod histories;

use std::sync::Arc;

use coracle_runtime::fs::User;
use std::time::Duration;

use jiff::Timestamp;

pub(crate) use apply::{Launched, MESSAGE_STARTS_OVER, Outcome, Probed, REASON_STARTS_OVER};
pub(crate) use backoff::{CrashBackoff, PullBackoff};
pub use health::Verdict;
pub(crate) use health::{Health, is_probed};
use plan::may_restart;
pub(crate) use plan::{Plan, Step, StopReason, is_complete, plan};
pub(crate) use resizing::{PendingResize, ResizeFailure, ResizeOutlook};
pub(crate) use start_over::{StartOver, takes_part};
pub(crate) use stopping::{Ask, PreStop};

use crate::spec::{ContainerPlan, PodSpecPlan, Resources, RestartPolicy};
use crate::time::Moment;

/// What the pod's owner wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// It shall run to its end.
    Run,
    /// It shall end.
    End(Ending),
}

/// Why and how a pod ends before its containers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Who ended it.
    pub(crate) cause: EndCause,
    /// Time between asking a container to end and ending it by force.
    pub(crate) grace: Duration,
}

/// Who ended a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndCause {
    /// Its object is being deleted; the agent removes it when all is done.
    Deleted,
    /// Its object is gone already.
    Vanished,
    /// The agent is stopping.
    Shutdown,
    /// `activeDeadlineSeconds` passed.
    Deadline,
    /// It uses more than it may; [`PodFacts::evicted`] says of what.
    Evicted,
}

/// Everything known about one pod on this node.
#[derive(Clone, Debug)]
pub(crate) struct PodFacts {
    /// When the agent accepted it; `activeDeadlineSeconds` counts from here.
    pub(crate) accepted: Moment,
    /// `status.startTime`.
    pub(crate) start_time: Timestamp,
    /// Volumes and network.
    pub(crate) ground: Ground,
    /// How often laying the ground failed.
    pub(crate) setup_failures: u32,
    /// One per planned container, in the same order.
    pub(crate) containers: Vec<ContainerFacts>,
    /// Set when the pod can never stand on this node; never unset.
    pub(crate) rejected: Option<Problem>,
    /// Set when the pod uses more of something than it may; never unset.
    pub(crate) evicted: Option<Arc<str>>,
    /// Other resources were wished for than the plan has; the node does not grant them.
    pub(crate) pending_resize: Option<PendingResize>,
    /// Set once something other than the containers ends the pod; never unset.
    pub(crate) ending: Option<(Ending, Moment)>,
    /// Set while all containers are brought to their end to start again.
    pub(crate) starting_over: Option<StartOver>,
    /// It was initialised before its containers started again, and so it stays.
    pub(crate) was_initialised: bool,
}

/// What a pod's containers stand on: mounted volumes, an address, published ports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ground {
    /// Nothing is there. Entered at birth; left by `SetUp`.
    Bare,
    /// Volumes and network are being made. Left by the outcome only.
    Laying,
    /// It failed; nothing is left behind. Left by `SetUp` at `retry_at`.
    Failed {
        /// What went wrong.
        problem: Problem,
        /// When it is tried again.
        retry_at: Moment,
    },
    /// Containers may start. Left by `TearDown` when none lives.
    Laid,
    /// It is being taken away. Left by the outcome only.
    Clearing,
    /// Nothing is left and nothing comes back. Final.
    Cleared,
}

/// Everything known about one container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerFacts {
    /// Where it stands.
    pub(crate) life: Life,
    /// How often an instance of it was made; `restartCount` is one less.
    pub(crate) attempts: u32,
    /// The end before the present state.
    pub(crate) last: Option<Arc<Termination>>,
    /// The image as the plan named it when it was fetched last: what its instance was made by.
    pub(crate) image: Option<Arc<str>>,
    /// The image its latest instance came from.
    pub(crate) image_id: Option<Arc<str>>,
    /// Whom its latest instance runs as.
    pub(crate) user: Option<Arc<User>>,
    /// Its definition has changed, or all containers start again: so does it, whatever its policy.
    pub(crate) anew: bool,
    /// It was ended to get other resources, so no back-off holds its next start.
    pub(crate) resized: bool,
    /// What its living instance may use, or the one that is being made.
    pub(crate) given: Option<Resources>,
    /// Set when that could not be changed.
    pub(crate) resize_failure: Option<ResizeFailure>,
    /// Delay between restarts.
    pub(crate) crash: CrashBackoff,
    /// Delay between pulls.
    pub(crate) pull: PullBackoff,
    /// What was told of the last attempt at its image, while the next one is under way.
    pub(crate) retried: Option<FailedPull>,
    /// Ordinary init containers only: ended with 0 once, so later ones may start.
    pub(crate) completed: bool,
    /// An instance of it has run and passed its startup probe once, so those behind a sidecar may start.
    pub(crate) was_started: bool,
}

/// Where a container stands. See the module's diagram.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Life {
    /// Nothing under way. Entered at birth and by cancellation; left by `Fetch`.
    Waiting,
    /// The image is looked up, pulled, compiled. Left by the outcome, or by `Cancel`.
    Fetching,
    /// The image is not to be had now. Left by `Fetch` at `retry_at`.
    FetchFailed {
        /// What went wrong.
        problem: Problem,
        /// When it failed.
        at: Moment,
        /// When it is tried again.
        retry_at: Moment,
        /// What the outside has been told.
        shown: PullShown,
    },
    /// The code is here. Left by `Start`.
    Ready,
    /// Environment, mounts and instance are being made. Left by the outcome, or by `Cancel`.
    Starting,
    /// A fetch or start is being abandoned since the pod ends. Left by the outcome, which may still be a
    /// living instance.
    Cancelling,
    /// The configuration cannot be resolved now. Left by `Fetch` at `retry_at`.
    StartFailed {
        /// What went wrong.
        problem: Problem,
        /// When it is tried again.
        retry_at: Moment,
    },
    /// An instance lives and its `postStart` hook is under way or has failed; to the outside it still
    /// waits. Left by the hook's outcome, by its exit, or by `Stop`.
    Greeting {
        /// When it started.
        since: Timestamp,
        /// Why the hook failed, when it has.
        failed: Option<Arc<str>>,
    },
    /// An instance lives. Left by its exit, or by `Stop`.
    Running {
        /// When it started.
        since: Timestamp,
        /// What its probes say.
        health: Health,
    },
    /// An instance lives and is being ended. Left by its exit; `Signal` and `Kill` once each, in their
    /// time.
    Stopping {
        /// When it started.
        since: Timestamp,
        /// What its probes say.
        health: Health,
        /// Why it ends.
        reason: StopReason,
        /// When that was decided.
        asked: Moment,
        /// What it was given from then on.
        grace: Duration,
        /// How far it has gone.
        force: Force,
    },
    /// No instance lives. Final, or left by `Fetch` (a restart at once) or `HoldBack`.
    Ended {
        /// How it ended.
        end: Arc<Termination>,
        /// When the agent learned of it; back-off counts from here.
        at: Moment,
    },
    /// A restart is held back. Left by `Fetch` at `until`.
    CrashLoop {
        /// How it ended.
        end: Arc<Termination>,
        /// When it ended.
        at: Moment,
        /// The whole delay, as the message tells it.
        delay: Duration,
        /// When it is started again.
        until: Moment,
    },
}

/// How far the force against a stopping container has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Force {
    /// Its `preStop` hook is under way; it knows nothing yet.
    Hook,
    /// It is to be asked when its turn comes.
    Due,
    /// It was asked, then.
    Asked(Moment),
    /// It was ended by force; its exit is awaited.
    Killed,
}

/// Which of the two waiting reasons of a failed pull is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullShown {
    /// The problem's own reason, like `ErrImagePull`.
    Error,
    /// `ImagePullBackOff`.
    BackOff,
}

/// An attempt at an image that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailedPull {
    /// What went wrong.
    pub(crate) problem: Problem,
    /// What the outside has been told.
    pub(crate) shown: PullShown,
}

/// Something that keeps a container or a pod from going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The contract's reason, like `ErrImagePull`.
    pub(crate) reason: &'static str,
    /// What went wrong, for people.
    pub(crate) message: Arc<str>,
    /// Whether time may mend it.
    pub(crate) outlook: Outlook,
}

/// Whether time may mend a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// An unreachable registry, a missing object: tried again, nothing is decided.
    MayMend,
    /// Coracle's own refusal. Still tried again, since the image may be replaced, but a person who
    /// waits is told to stop waiting.
    Refused,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Termination {
    /// The exit code.
    pub(crate) code: i32,
    /// The contract's reason, like `Completed`.
    pub(crate) reason: &'static str,
    /// The last words.
    pub(crate) message: Option<String>,
    /// When its instance started.
    pub(crate) started_at: Option<Timestamp>,
    /// When it was gone.
    pub(crate) finished_at: Option<Timestamp>,
}

impl PodFacts {
    /// A pod just accepted.
    pub(crate) fn new(spec: &PodSpecPlan, now: Moment) -> PodFacts {
        PodFacts {
            accepted: now,
            start_time: now.wall(),
            ground: Ground::Bare,
            setup_failures: 0,
            containers: spec
                .containers
                .iter()
                .map(|_| ContainerFacts::new())
                .collect(),
            rejected: None,
            evicted: None,
            pending_resize: None,
            ending: None,
            starting_over: None,
            was_initialised: false,
        }
    }

    /// Takes up the containers that came with a changed plan.
    pub(crate) fn extend(&mut self, spec: &PodSpecPlan) {
        let count = spec.containers.len().max(self.containers.len());
        self.containers.resize_with(count, ContainerFacts::new);
    }

    /// Notes that the pod uses more than it may; false when it ends already, or has ended.
    pub(crate) fn evict(&mut self, spec: &PodSpecPlan, message: Arc<str>) -> bool {
        let is_late = self.ending.is_some() || self.rejected.is_some() || is_complete(spec, self);
        if !is_late {
            self.evicted = Some(message);
        }
        !is_late
    }

    /// Whether any instance lives, or something is under way that may still make one.
    pub(crate) fn any_under_way(&self) -> bool {
        self.containers
            .iter()
            .any(|c| c.life.is_alive() || c.life == Life::Fetching)
    }
}

impl ContainerFacts {
    fn new() -> ContainerFacts {
        ContainerFacts {
            life: Life::Waiting,
            attempts: 0,
            last: None,
            image: None,
            image_id: None,
            user: None,
            given: None,
            resize_failure: None,
            anew: false,
            resized: false,
            crash: CrashBackoff::default(),
            pull: PullBackoff::default(),
            retried: None,
            completed: false,
            was_started: false,
        }
    }

    /// Whether the plan has another image for it than the one it was made from.
    pub(crate) fn is_outdated(&self, container: &ContainerPlan) -> bool {
        let image = self.image.as_deref();
        image.is_some_and(|image| image != container.image)
    }

    /// Whether it is started again after this end while its pod runs.
    pub(crate) fn may_restart(
        &self,
        policy: RestartPolicy,
        container: &ContainerPlan,
        end: &Termination,
    ) -> bool {
        self.anew || may_restart(policy, container, end, self.completed)
    }

    /// The latest end, whether it is the present state or the one before.
    pub(crate) fn latest_end(&self) -> Option<&Arc<Termination>> {
        match &self.life {
            Life::Ended { end, .. } | Life::CrashLoop { end, .. } => Some(end),
            Life::Waiting
            | Life::Fetching
            | Life::FetchFailed { .. }
            | Life::Ready
            | Life::Starting
            | Life::Cancelling
            | Life::StartFailed { .. }
            | Life::Greeting { .. }
            | Life::Running { .. }
            | Life::Stopping { .. } => self.last.as_ref(),
        }
    }
}

impl Life {
    /// Whether an instance lives, or may be about to.
    pub(crate) fn is_alive(&self) -> bool {
        match self {
            Life::Starting
            | Life::Cancelling
            | Life::Greeting { .. }
            | Life::Running { .. }
            | Life::Stopping { .. } => true,
            Life::Waiting
            | Life::Fetching
            | Life::FetchFailed { .. }
            | Life::Ready
            | Life::StartFailed { .. }
            | Life::Ended { .. }
            | Life::CrashLoop { .. } => false,
        }
    }
    /// Returns what the probes say of an instance that the outside knows to run.
    pub(crate) fn health(&self) -> Option<Health> {
        match self {
            Life::Stopping {
                reason: StopReason::PostStartFailed(_),
                ..
            } => None,
            Life::Running { health, .. } | Life::Stopping { health, .. } => Some(*health),
            Life::Waiting
            | Life::Fetching
            | Life::FetchFailed { .. }
            | Life::Ready
            | Life::Starting
            | Life::Cancelling
            | Life::StartFailed { .. }
            | Life::Greeting { .. }
            | Life::Ended { .. }
            | Life::CrashLoop { .. } => None,
        }
    }
}
