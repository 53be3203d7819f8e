//! Probes and hooks of a pod's containers: puts them to work as the planner wants, and takes in what they say.

use std::net::IpAddr;

use futures::future::abortable;

use super::execute::Report;
use super::{Taken, Worker};
use crate::events::Severity::Warning;
use crate::hooks::{self, HookDone, HookError, HookTarget};
use crate::lifecycle::{Life, Outcome, Probed, is_probed};
use crate::probes::{Names, News, Programs, Watch, Watched, What, Whose};
use crate::spec::{ContainerPlan, Hook, Probe, ProbeKind};

impl Worker {
    /// Watches the probes that are wanted now, and lets go of the others.
    pub(super) fn care(&mut self) {
        let is_ending = self.facts.ending.is_some();
        for index in 0..self.spec.containers.len() {
            for kind in ProbeKind::ALL {
                let container = &self.spec.containers[index];
                let facts = &self.facts.containers[index];
                let is_wanted = is_probed(kind, container, facts, is_ending);
                let attempt = facts.attempts;
                let known = &self.holds[index].watches[kind as usize];
                if !is_wanted {
                    self.holds[index].watches[kind as usize] = None;
                } else if known.as_ref().is_none_or(|(of, _)| *of != attempt) {
                    let watch = self.watch(index, kind).map(|watch| (attempt, watch));
                    self.holds[index].watches[kind as usize] = watch;
                }
            }
        }
    }

    fn watch(&self, index: usize, kind: ProbeKind) -> Option<Watch> {
        let container = &self.spec.containers[index];
        let probe = container.probes.get(kind)?;
        let (news, _) = self.news.as_ref()?;
        let facts = &self.facts.containers[index];
        let since = match &facts.life {
            Life::Running { since, .. } | Life::Stopping { since, .. } => *since,
            Life::Waiting
            | Life::Fetching
            | Life::FetchFailed { .. }
            | Life::Ready
            | Life::Starting
            | Life::Cancelling
            | Life::StartFailed { .. }
            | Life::Greeting { .. }
            | Life::Ended { .. }
            | Life::CrashLoop { .. } => return None,
        };
        let first = self.node.prober.first_due(
            (&self.spec.key, index, kind),
            probe,
            since,
            self.node.clock.now(),
        );
        Some(self.node.prober.watch(Watched {
            container: index,
            attempt: facts.attempts,
            kind,
            probe: probe.clone(),
            pod_ip: self.pod_ip()?,
            first,
            whose: Whose::new(&self.spec.key, &container.name),
            names: self.names(),
            programs: Programs(self.holds[index].exec.clone()),
            news: news.clone(),
        }))
    }

    fn names(&self) -> Names {
        Names(self.kit.as_ref().map(|kit| kit.network.clone()))
    }

    fn pod_ip(&self) -> Option<IpAddr> {
        Some(self.kit.as_ref()?.network.ip().into())
    }

    /// Takes in what a probe says, and says whether it may change the plan.
    pub(super) fn take_news(&mut self, news: News) -> Taken {
        let News {
            container: index,
            attempt,
            kind,
            what,
        } = news;
        if self.facts.containers[index].attempts != attempt {
            return Taken::NoChange;
        }
        let title = kind.title();
        match what {
            What::Failed(text) => {
                let message = format!("{title} probe failed: {text}");
                self.tell(index, Warning, "Unhealthy", message);
                self.attempted(kind)
            }
            What::Warned(text) => {
                let message = format!("{title} probe warning: {text}");
                self.tell(index, Warning, "ProbeWarning", message);
                Taken::NoChange
            }
            What::Errored(text) => {
                let message =
                    format!("{title} probe errored and resulted in unknown state: {text}");
                self.tell(index, Warning, "Unhealthy", message);
                self.attempted(kind)
            }
            What::Verdict(verdict) => {
                let probed = Probed {
                    attempt,
                    kind,
                    verdict,
                };
                let now = self.node.clock.now();
                self.facts
                    .settle(&self.spec, Outcome::Probed(index, probed), now);
                Taken::Change
            }
        }
    }

    /// Notes that a probe's attempt did not succeed: a status that waits for readiness goes out.
    fn attempted(&mut self, kind: ProbeKind) -> Taken {
        match kind {
            ProbeKind::Readiness if self.reporter.give_up_ready() => Taken::Change,
            ProbeKind::Readiness | ProbeKind::Startup | ProbeKind::Liveness => Taken::NoChange,
        }
    }

    /// Runs the `postStart` hook of an instance that just started, if there is one.
    pub(super) fn greet(&mut self, index: usize) {
        let Some(hook) = self.spec.containers[index].hooks.post_start.clone() else {
            return;
        };
        let attempt = self.facts.containers[index].attempts.saturating_add(1);
        self.run_hook(index, &hook, move |result| {
            Report::PostStarted(index, attempt, result)
        });
    }

    /// Runs the `preStop` hook of an instance that is to end.
    pub(super) fn take_leave(&mut self, index: usize) {
        let Some(hook) = self.spec.containers[index].hooks.pre_stop.clone() else {
            return;
        };
        let attempt = self.facts.containers[index].attempts;
        self.run_hook(index, &hook, move |result| {
            Report::PreStopped(index, attempt, result)
        });
    }

    /// A hook that is abandoned reports nothing: whoever abandons it knows.
    fn run_hook(
        &mut self,
        index: usize,
        hook: &std::sync::Arc<Hook>,
        report: impl FnOnce(Option<Result<HookDone, HookError>>) -> Report + Send + 'static,
    ) {
        self.abandon_hook(index);
        let Some(pod_ip) = self.pod_ip() else {
            return;
        };
        let target = HookTarget {
            reach: self.node.prober.reach().clone(),
            pod: self.spec.key.clone(),
            pod_ip,
            names: self.names(),
            exec: self.holds[index].exec.clone(),
        };
        let (spec, hook) = (self.spec.clone(), hook.clone());
        let (work, abort) =
            abortable(async move { hooks::run(&hook, &spec.containers[index], &target).await });
        self.holds[index].hook = Some(abort);
        self.under_way
            .push(Box::pin(async move { report(work.await.ok()) }));
    }

    /// Ends a hook that is under way.
    pub(super) fn abandon_hook(&mut self, index: usize) {
        if let Some(abort) = self.holds[index].hook.take() {
            abort.abort();
        }
    }

    pub(super) fn post_started(
        &mut self,
        index: usize,
        result: Result<HookDone, HookError>,
    ) -> Outcome {
        self.holds[index].hook = None;
        match result {
            Ok(done) => {
                self.tell_fallback(index, done);
                Outcome::PostStarted(index, Ok(()))
            }
            Err(error) => {
                self.tell(
                    index,
                    Warning,
                    "FailedPostStartHook",
                    "PostStartHook failed".to_owned(),
                );
                Outcome::PostStarted(index, Err(error.to_string().into()))
            }
        }
    }

    pub(super) fn pre_stopped(
        &mut self,
        index: usize,
        result: Result<HookDone, HookError>,
    ) -> Outcome {
        self.holds[index].hook = None;
        match result {
            Ok(done) => self.tell_fallback(index, done),
            Err(error) => {
                tracing::debug!(pod = %self.spec.key, index, %error, "preStop failed");
                self.tell(
                    index,
                    Warning,
                    "FailedPreStopHook",
                    "PreStopHook failed".to_owned(),
                );
            }
        }
        Outcome::PreStopped(index)
    }

    fn tell_fallback(&self, index: usize, done: HookDone) {
        match done {
            HookDone::AsAsked => {}
            HookDone::WithoutTls => self.tell(
                index,
                Warning,
                "LifecycleHTTPFallback",
                "request to HTTPS lifecycle hook got HTTP response, retry with HTTP succeeded"
                    .to_owned(),
            ),
        }
    }
}

/// Whether its readiness is asked for as soon as it runs.
pub(super) fn is_asked_at_once(container: &ContainerPlan) -> bool {
    let readiness = container.probes.get(ProbeKind::Readiness);
    readiness.is_none_or(|probe| probe.initial_delay.is_zero())
}

/// Whether a container has any probe.
pub(super) fn has_probes(container: &ContainerPlan) -> bool {
    let probes: [Option<&std::sync::Arc<Probe>>; 3] =
        ProbeKind::ALL.map(|kind| container.probes.get(kind));
    probes.iter().any(Option::is_some)
}
