//! The world that a history plays in: what the worker and the runtime would do.

use super::*;

impl World {
    pub(super) fn new(spec: PodSpecPlan) -> World {
        let (clock, hand) = Clock::manual(Timestamp::UNIX_EPOCH);
        let pod = PodFacts::new(&spec, clock.now());
        let clock_now = clock.now();
        let count = spec.containers.len();
        World {
            spec,
            clock,
            hand,
            second: 0,
            intent: Intent::Run,
            pod,
            instances: vec![Instance::None; count],
            expected: vec![Expected::default(); count],
            told: vec![(clock_now, Duration::ZERO); count],
            edits: 0,
            work: Vec::new(),
            over: None,
            source: None,
        }
    }

    /// Does what the worker does, and returns when the plan wants to look again.
    pub(super) fn advance(&mut self) -> Option<Moment> {
        for _ in 0..64 {
            let now = self.clock.now();
            let plan = plan(&self.spec, self.intent, &self.pod, now);
            if plan.steps.is_empty() {
                if plan.finished {
                    assert_eq!(self.pod.ground, Ground::Cleared);
                    assert!(
                        self.work.is_empty(),
                        "finished with {:?} under way",
                        self.work
                    );
                    assert!(self.instances.iter().all(|i| *i == Instance::None));
                }
                self.check_images();
                return plan.wake;
            }
            for step in &plan.steps {
                self.check_step(step);
                self.pod.begin(&self.spec, step, now);
                self.execute(step);
            }
            self.check();
        }
        panic!("the plan does not come to rest");
    }

    pub(super) fn execute(&mut self, step: &Step) {
        match step {
            Step::SetUp => self.work.push(Work::SetUp),
            Step::TearDown => self.work.push(Work::TearDown),
            Step::Fetch(index) => {
                let expected = &mut self.expected[*index];
                let image = self.spec.containers[*index].image.clone();
                if expected.image.as_ref() != Some(&image) {
                    expected.delay = None;
                    expected.image = Some(image);
                }
                let is_resized = self.pod.containers[*index].resized;
                if let Some(ended) = expected.ended_at.take().filter(|_| !is_resized) {
                    expected.delay = Some((expected.doubled(ended), self.second));
                }
                self.work.push(Work::Fetch(*index));
            }
            Step::Start(index) => self.work.push(Work::Start(*index)),
            Step::Resize(index) => self.settle(Outcome::Resized(*index, Ok(()))),
            Step::Cancel(index) => {
                for work in &mut self.work {
                    if *work == Work::Fetch(*index) || *work == Work::Start(*index) {
                        *work = Work::Cancelled(*index);
                    }
                }
            }
            Step::Stop(index, ask) => {
                self.instances[*index] = Instance::Leaving;
                self.told[*index] = (self.clock.now(), ask.grace);
                self.abandon(*index);
                if ask.pre_stop == PreStop::Run {
                    self.work.push(Work::PreStop(*index));
                }
            }
            Step::Signal(index) => {
                self.abandon(*index);
                self.instances[*index] = Instance::Asked {
                    until: self.second + 2,
                };
            }
            Step::Kill(index) => self.instances[*index] = Instance::Killed,
            Step::StartOver => self.started_over(),
            Step::BeginEnding(_) | Step::ShowPullBackOff(_) | Step::HoldBack(..) => {}
        }
    }

    /// The container that asked is held back by what it did before, and nobody else is.
    fn started_over(&mut self) {
        let source = self.source.take();
        for (index, expected) in self.expected.iter_mut().enumerate() {
            if self.spec.containers[index].role == Role::Ephemeral {
                continue;
            }
            let ended = expected.ended_at.take();
            if source == Some(index)
                && let Some(ended) = ended
            {
                expected.delay = Some((expected.doubled(ended), self.second));
            }
        }
    }

    /// A hook that is abandoned says nothing.
    pub(super) fn abandon(&mut self, index: usize) {
        self.work
            .retain(|work| ![Work::PostStart(index), Work::PreStop(index)].contains(work));
    }

    pub(super) fn settle(&mut self, outcome: Outcome) {
        let now = self.clock.now();
        let was_starting_over = self.pod.starting_over.is_some();
        let index = match &outcome {
            Outcome::Exited(index, _) => Some(*index),
            _ => None,
        };
        self.pod.settle(&self.spec, outcome, now);
        if !was_starting_over && self.pod.starting_over.is_some() {
            assert!(index.is_some(), "only an end starts all over");
            self.source = index;
        }
        self.check();
    }

    pub(super) fn happen(&mut self, happening: &Happening, wake: Option<Moment>) {
        match happening {
            Happening::Settle { pick, well } => {
                if !self.work.is_empty() {
                    let work = self.work.remove(pick % self.work.len());
                    self.come_out(work, *well);
                }
            }
            Happening::Exit { pick, code } => {
                let index = pick % self.instances.len();
                if self.instances[index] != Instance::None {
                    self.exit(index, *code);
                }
            }
            Happening::Probe {
                pick,
                kind,
                well,
                late,
            } => {
                let index = pick % self.instances.len();
                let verdict = if *well {
                    Verdict::Success
                } else {
                    Verdict::Failure
                };
                self.probe(index, *kind, verdict, *late);
            }
            Happening::Wait(seconds) => self.wait(Duration::from_secs(*seconds)),
            Happening::Sleep => {
                if let Some(wake) = wake {
                    let left = wake.since(self.clock.now());
                    self.wait(Duration::from_secs(left.as_secs_f64().ceil() as u64));
                }
            }
            Happening::Delete(grace) => self.end(EndCause::Deleted, *grace),
            Happening::Vanish => self.end(EndCause::Vanished, 1),
            Happening::Evict => {
                self.pod.evict(&self.spec, "too much".into());
            }
            Happening::Edit(pick) => {
                let container = &mut self.spec.containers[pick % self.instances.len()];
                // The image of an ephemeral container cannot change.
                if container.role != Role::Ephemeral {
                    self.edits += 1;
                    container.image = format!("i{}", self.edits);
                }
            }
            Happening::Resize { pick, cpu, memory } => {
                let container = &mut self.spec.containers[pick % self.instances.len()];
                if matches!(container.role, Role::App | Role::Sidecar) {
                    container.resources.cpu_limit_milli = Some(*cpu);
                    container.resources.memory_limit = Some(*memory);
                }
            }
            Happening::LookAround => self.look_around(),
            Happening::Shorten(seconds) => {
                let wanted = Duration::from_secs(*seconds);
                let known = self.spec.active_deadline.unwrap_or(wanted);
                self.spec.active_deadline = Some(wanted.min(known));
            }
            Happening::Shutdown(grace) => {
                if self.intent == Intent::Run {
                    self.end(EndCause::Shutdown, *grace);
                }
            }
        }
    }

    pub(super) fn look_around(&mut self) {
        let plan = plan_of(&["app"], "Always", None);
        self.spec.containers.push(ContainerPlan {
            role: Role::Ephemeral,
            ..plan.containers[0].clone()
        });
        self.pod.extend(&self.spec);
        self.instances.push(Instance::None);
        self.expected.push(Expected::default());
        self.told.push((self.clock.now(), Duration::ZERO));
    }

    /// Only a probe that is wanted speaks; a late one speaks of the instance before.
    pub(super) fn probe(&mut self, index: usize, kind: ProbeKind, verdict: Verdict, is_late: bool) {
        let facts = &self.pod.containers[index];
        let container = &self.spec.containers[index];
        let attempt = if is_late {
            facts.attempts.saturating_sub(1)
        } else if is_probed(kind, container, facts, self.pod.ending.is_some()) {
            facts.attempts
        } else {
            return;
        };
        let before = facts.life.clone();
        let probed = Probed {
            attempt,
            kind,
            verdict,
        };
        self.settle(Outcome::Probed(index, probed));
        if is_late {
            assert_eq!(
                self.pod.containers[index].life, before,
                "a late verdict counts"
            );
        }
    }

    pub(super) fn exit(&mut self, index: usize, code: i32) {
        self.abandon(index);
        self.instances[index] = Instance::None;
        self.expected[index].ended_at = Some(self.second);
        self.settle(Outcome::Exited(index, termination(code)));
    }

    pub(super) fn end(&mut self, cause: EndCause, grace: u64) {
        self.intent = Intent::End(Ending {
            cause,
            grace: Duration::from_secs(grace),
        });
    }

    pub(super) fn wait(&mut self, by: Duration) {
        self.hand.advance(by);
        self.second += by.as_secs();
    }

    pub(super) fn come_out(&mut self, work: Work, well: bool) {
        let now = self.clock.now().wall();
        let outcome = match work {
            Work::SetUp if well => Outcome::SetUp(Ok(())),
            Work::SetUp => Outcome::SetUp(Err(problem("FailedMount"))),
            Work::TearDown => Outcome::TornDown,
            Work::Fetch(index) if well => Outcome::Fetched(index, Ok("id".into())),
            Work::Fetch(index) => Outcome::Fetched(index, Err(problem("ErrImagePull"))),
            // What is abandoned may have come out alive before it noticed.
            Work::Cancelled(index) if well => Outcome::Cancelled(index),
            Work::Start(index) | Work::Cancelled(index) if well => {
                self.instances[index] = Instance::Alive;
                if self.spec.containers[index].hooks.post_start.is_some() {
                    self.work.push(Work::PostStart(index));
                }
                Outcome::Started(index, Launched::Alive(now, Arc::default()))
            }
            Work::PostStart(index) if well => Outcome::PostStarted(index, Ok(())),
            Work::PostStart(index) => Outcome::PostStarted(index, Err("no answer".into())),
            Work::PreStop(index) => Outcome::PreStopped(index),
            Work::Cancelled(index) => Outcome::Cancelled(index),
            Work::Start(index) => Outcome::Started(
                index,
                Launched::Refused(problem("CreateContainerConfigError")),
            ),
        };
        self.settle(outcome);
    }

    pub(super) fn run_out(&mut self) {
        self.end(EndCause::Vanished, 1);
        for _ in 0..200 {
            let wake = self.advance();
            if let Some(work) = self.work.pop() {
                self.come_out(work, true);
            } else if let Some(index) = self.instances.iter().position(|i| *i == Instance::Killed) {
                self.exit(index, 137);
            } else if let Some(wake) = wake {
                let left = wake.since(self.clock.now());
                self.wait(Duration::from_secs(left.as_secs() + 1));
            } else {
                break;
            }
        }
        let plan = plan(&self.spec, self.intent, &self.pod, self.clock.now());
        assert!(plan.finished, "never at its end: {:?}", self.pod);
    }
}
