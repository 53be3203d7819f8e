//! Counts a probe's attempts to its verdict (contract C.2).

use crate::lifecycle::Verdict;
use crate::spec::{Probe, ProbeKind};

/// How the attempts of one probe on one instance have come out so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    kind: ProbeKind,
    verdict: Option<Verdict>,
    last: Option<Verdict>,
    run: u32,
}

impl Tally {
    /// A new instance is alive, not ready, and undecided about its start.
    pub(super) fn new(kind: ProbeKind) -> Tally {
        let verdict = match kind {
            ProbeKind::Startup => None,
            ProbeKind::Readiness => Some(Verdict::Failure),
            ProbeKind::Liveness => Some(Verdict::Success),
        };
        Tally {
            kind,
            verdict,
            last: None,
            run: 0,
        }
    }

    /// What the attempts amount to.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Counts an attempt. The run begins anew with each flip; below the threshold nothing changes.
    pub(super) fn note(&mut self, probe: &Probe, attempt: Verdict) {
        if self.last == Some(attempt) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(attempt);
            self.run = 1;
        }
        let threshold = match attempt {
            Verdict::Success => probe.success_threshold,
            Verdict::Failure => probe.failure_threshold,
        };
        if self.run >= threshold {
            self.verdict = Some(attempt);
        }
    }

    /// Whether the probe has nothing more to find out about this instance.
    pub(super) fn is_on_hold(&self) -> bool {
        match self.kind {
            ProbeKind::Startup => self.verdict.is_some(),
            ProbeKind::Liveness => self.verdict == Some(Verdict::Failure),
            ProbeKind::Readiness => false,
        }
    }
}
