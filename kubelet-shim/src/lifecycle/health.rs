//! What probes say of a living instance, what follows from it, and which probes are wanted (contract C.2).

use super::{ContainerFacts, Life};
use crate::spec::{ContainerPlan, ProbeKind, Probes};

/// What the probes say of one instance. A new instance has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    startup: Startup,
    ready: bool,
    live: bool,
}

/// The verdict of the startup probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Startup {
    /// There is none, or it succeeded.
    Passed,
    /// Undecided.
    Awaited,
    /// It failed: the instance is to end.
    Failed,
}

impl Health {
    /// The initial verdicts: not started, not ready, alive; without a probe the good one.
    pub(crate) fn new(probes: &Probes) -> Health {
        Health {
            startup: match probes.startup {
                Some(_) => Startup::Awaited,
                None => Startup::Passed,
            },
            ready: probes.readiness.is_none(),
            live: true,
        }
    }

    /// `started`
    pub(crate) fn is_started(self) -> bool {
        match self.startup {
            Startup::Passed => true,
            Startup::Awaited | Startup::Failed => false,
        }
    }

    /// `ready`
    pub(crate) fn is_ready(self) -> bool {
        self.is_started() && self.ready
    }

    /// The probe for which the instance is to end.
    pub(crate) fn failed(self) -> Option<ProbeKind> {
        match self.startup {
            Startup::Failed => Some(ProbeKind::Startup),
            Startup::Passed | Startup::Awaited => (!self.live).then_some(ProbeKind::Liveness),
        }
    }

    /// Notes a verdict; those of startup and liveness probes that ended the instance are final.
    pub(super) fn note(&mut self, kind: ProbeKind, verdict: Verdict) {
        let is_good = verdict == Verdict::Success;
        match kind {
            ProbeKind::Startup if self.startup == Startup::Awaited => {
                self.startup = if is_good {
                    Startup::Passed
                } else {
                    Startup::Failed
                };
            }
            ProbeKind::Startup => {}
            ProbeKind::Readiness => self.ready = is_good,
            ProbeKind::Liveness => self.live &= is_good,
        }
    }
}

/// What a probe's attempts amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As many successes in a row as count.
    Success,
    /// As many failures in a row as count.
    Failure,
}

/// Whether a probe shall be at work on a container's present instance.
///
/// Until it is started only the startup probe is, afterwards only the others. Of a pod that ends only
/// readiness is still asked for. A verdict that ends the instance puts its probe on hold.
pub(crate) fn is_probed(
    kind: ProbeKind,
    container: &ContainerPlan,
    facts: &ContainerFacts,
    is_ending: bool,
) -> bool {
    if container.probes.get(kind).is_none() {
        return false;
    }
    match &facts.life {
        Life::Running { health, .. } => match kind {
            ProbeKind::Startup => health.startup == Startup::Awaited && !is_ending,
            ProbeKind::Readiness => health.is_started(),
            ProbeKind::Liveness => health.is_started() && health.live && !is_ending,
        },
        Life::Stopping { .. } => match kind {
            ProbeKind::Readiness => facts.life.health().is_some_and(Health::is_started),
            ProbeKind::Startup | ProbeKind::Liveness => false,
        },
        Life::Waiting
        | Life::Fetching
        | Life::FetchFailed { .. }
        | Life::Ready
        | Life::Starting
        | Life::Cancelling
        | Life::StartFailed { .. }
        | Life::Greeting { .. }
        | Life::Ended { .. }
        | Life::CrashLoop { .. } => false,
    }
}
