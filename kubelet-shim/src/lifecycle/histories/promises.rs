//! What must hold at every step of every history.

use super::*;
use crate::lifecycle::resizing::{Change, change};

impl World {
    pub(super) fn check_step(&self, step: &Step) {
        let ends = self.pod.ending.is_some();
        match step {
            Step::Start(index) => {
                assert!(!ends, "a start after the end began");
                self.check_waits(*index);
                assert_eq!(
                    self.instances[*index],
                    Instance::None,
                    "a second live instance"
                );
                assert!(!self.work.contains(&Work::Start(*index)), "a second start");
                assert_eq!(self.pod.ground, Ground::Laid);
                self.check_order(*index);
            }
            Step::Fetch(index) => {
                assert!(!ends, "a fetch after the end began");
                self.check_waits(*index);
                assert!(!self.work.contains(&Work::Fetch(*index)), "a second fetch");
                self.check_delay(*index);
            }
            Step::SetUp => assert!(!ends),
            Step::TearDown => {
                assert!(self.instances.iter().all(|i| *i == Instance::None));
                assert!(self.work.is_empty(), "torn down under {:?}", self.work);
            }
            Step::Kill(index) => {
                let Instance::Asked { until } = self.instances[*index] else {
                    panic!("killed without being asked: {:?}", self.instances[*index])
                };
                let at_once = self.is_shutdown() || self.pod.starting_over.is_some();
                assert!(at_once || self.second >= until, "too little time to end");
                assert!(
                    self.pod.starting_over.is_some() || self.is_used_up(*index),
                    "killed within its grace"
                );
            }
            Step::Stop(index, ask) => {
                assert_eq!(self.instances[*index], Instance::Alive);
                let hook = &self.spec.containers[*index].hooks.pre_stop;
                let expected = hook.is_some() && !ask.grace.is_zero();
                assert_eq!(ask.pre_stop == PreStop::Run, expected, "{ask:?}");
            }
            Step::Signal(index) => {
                assert_eq!(self.instances[*index], Instance::Leaving);
                let hook_runs = self.work.contains(&Work::PreStop(*index));
                let out_of_turn = self.ends_together() && self.has_before_it(*index);
                assert!(
                    !(hook_runs || out_of_turn)
                        || self.pod.starting_over.is_some()
                        || self.is_used_up(*index),
                    "asked before its turn"
                );
            }
            Step::StartOver => {
                assert!(!ends, "all started over after the end began");
                self.check_quiet();
                if let Some(source) = self.source {
                    self.check_delay(source);
                }
            }
            Step::BeginEnding(_)
            | Step::Cancel(_)
            | Step::Resize(_)
            | Step::ShowPullBackOff(_)
            | Step::HoldBack(..) => {}
        }
    }

    /// Whoever starts again with all others waits for them.
    fn check_waits(&self, index: usize) {
        let is_free = self.spec.containers[index].role == Role::Ephemeral;
        assert!(
            is_free || self.pod.starting_over.is_none(),
            "begun before the last run was over"
        );
    }

    /// Nothing of the last run is left when all start over.
    fn check_quiet(&self) {
        for (index, container) in self.spec.containers.iter().enumerate() {
            if container.role == Role::Ephemeral {
                continue;
            }
            assert_eq!(
                self.instances[index],
                Instance::None,
                "left of the last run"
            );
            let mine = [
                Work::Fetch(index),
                Work::Start(index),
                Work::Cancelled(index),
            ];
            assert!(!self.work.iter().any(|work| mine.contains(work)));
        }
    }

    /// While its pod goes on, nothing has other resources than it was granted, and nothing runs by an image that
    /// the plan no longer has, or waits for one.
    pub(super) fn check_images(&self) {
        let goes_on = self.pod.ending.is_none() && !is_complete(&self.spec, &self.pod);
        for (container, facts) in self.spec.containers.iter().zip(&self.pod.containers) {
            let is_outdated = facts.image.as_deref().is_some_and(|i| i != container.image);
            let lives = matches!(facts.life, Life::Running { .. } | Life::Greeting { .. });
            assert!(
                !(goes_on && is_outdated && lives && container.role != Role::Init),
                "an old image runs on: {facts:?}"
            );
            assert!(
                !(goes_on && lives)
                    || facts.resize_failure.is_some()
                    || change(container, facts) == Change::None,
                "old resources are had on: {facts:?}"
            );
        }
    }

    pub(super) fn is_shutdown(&self) -> bool {
        let ending = self.pod.ending;
        ending.is_some_and(|(e, _)| e.cause == EndCause::Shutdown)
    }

    /// Whether the whole pod is being ended, so that sidecars go last and in reverse.
    pub(super) fn ends_together(&self) -> bool {
        self.pod.ending.is_some() || is_complete(&self.spec, &self.pod)
    }

    /// Whether somebody lives who ends before this one.
    pub(super) fn has_before_it(&self, index: usize) -> bool {
        let is_sidecar = |i: usize| self.spec.containers[i].role == Role::Sidecar;
        let mut lives =
            (0..self.instances.len()).filter(|i| self.pod.containers[*i].life.is_alive());
        let is_free = |i: usize| self.spec.containers[i].role == Role::Ephemeral;
        is_sidecar(index) && lives.any(|i| !is_free(i) && (!is_sidecar(i) || i > index))
    }

    /// Whether the time a container was given is over, or that of its pod.
    pub(super) fn is_used_up(&self, index: usize) -> bool {
        let now = self.clock.now();
        let (told, given) = self.told[index];
        let pods = self.pod.ending.map(|(ending, since)| {
            let least = if self.is_shutdown() { 0 } else { 1 };
            since.after(ending.grace.max(Duration::from_secs(least)))
        });
        now.reached(told.after(given)) || pods.is_some_and(|at| now.reached(at))
    }

    /// Ordinary init containers before it have ended well, sidecars before it have started.
    pub(super) fn check_order(&self, index: usize) {
        if self.spec.containers[index].role == Role::Ephemeral {
            return;
        }
        for (other, facts) in self
            .spec
            .containers
            .iter()
            .zip(&self.pod.containers)
            .take(index)
        {
            match other.role {
                Role::Init => assert!(facts.completed, "an init container was not finished"),
                Role::Sidecar => assert!(facts.was_started, "a sidecar was not started"),
                Role::App | Role::Ephemeral => {}
            }
        }
    }

    /// A restart comes exactly when the contract says, never before.
    pub(super) fn check_delay(&self, index: usize) {
        let expected = &self.expected[index];
        if self.pod.containers[index].resized {
            return;
        }
        if expected.image.as_ref() != Some(&self.spec.containers[index].image) {
            return;
        }
        let Some(ended) = expected.ended_at else {
            return;
        };
        if let Some((delay, updated)) = expected.delay
            && ended - updated.min(ended) <= 600
        {
            assert!(self.second >= ended + delay, "restarted {delay} s early");
        }
    }

    pub(super) fn check(&mut self) {
        for (index, facts) in self.pod.containers.iter().enumerate() {
            let alive = matches!(
                facts.life,
                Life::Greeting { .. } | Life::Running { .. } | Life::Stopping { .. }
            );
            assert_eq!(
                alive,
                self.instances[index] != Instance::None,
                "{index}: {:?}",
                facts.life
            );
        }
        self.check_health();
        let pairs = self.spec.containers.iter().zip(&self.pod.containers);
        for (_, facts) in pairs.filter(|(c, _)| c.role == Role::Ephemeral) {
            assert!(facts.attempts <= 1, "an ephemeral container was restarted");
        }
        let phase = phase(&self.spec, &self.pod);
        if phase.is_terminal() {
            assert!(
                !self.pod.any_under_way(),
                "{phase:?} with a container alive"
            );
        }
        if let Some(over) = self.over {
            assert_eq!(phase, over, "a terminal phase was left");
        }
        self.over = phase.is_terminal().then_some(phase);
    }

    /// Ready is started, started is shown to run, and nobody is probed whose hook has not returned.
    pub(super) fn check_health(&self) {
        for (index, facts) in self.pod.containers.iter().enumerate() {
            let container = &self.spec.containers[index];
            let health = facts.life.health();
            if let Some(health) = health {
                assert!(!health.is_ready() || health.is_started());
            }
            let greets = self.work.contains(&Work::PostStart(index));
            assert!(
                !greets || health.is_none(),
                "shown to run before postStart returned"
            );
            let probed = ProbeKind::ALL.map(|kind| is_probed(kind, container, facts, false));
            let [startup, readiness, liveness] = probed;
            assert!(
                !(startup && (readiness || liveness)),
                "probed before it started"
            );
            assert!(health.is_some() || probed == [false; 3]);
        }
    }
}
