//! Generated histories: whatever happens in whatever order, the planner's promises hold.
//!
//! A small world stands for the executor: it takes steps in hand, lets what is under way come out in any
//! order and any way, lets instances end, time pass, and the owner change their mind. After every change
//! the invariants are checked.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::spec::{
    ContainerPlan, ExitCodes, HostPathPolicy, ProbeKind, RestartPolicy, Restarts, Role, check_pod,
};
use crate::status::{Phase, phase};
use crate::time::{Clock, Hand};

/// Instances of one container, as the runtime would know them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Instance {
    None,
    Alive,
    /// Its `preStop` hook runs, or it waits for its turn.
    Leaving,
    Asked {
        until: u64,
    },
    Killed,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    SetUp,
    TearDown,
    Fetch(usize),
    Start(usize),
    Cancelled(usize),
    PostStart(usize),
    PreStop(usize),
}

/// What is expected of a container's back-off, computed from its ends alone.
#[derive(Clone, Debug, Default)]
struct Expected {
    ended_at: Option<u64>,
    delay: Option<(u64, u64)>,
    /// The image it was fetched by last.
    image: Option<String>,
}

struct World {
    spec: PodSpecPlan,
    clock: Clock,
    hand: Hand,
    second: u64,
    intent: Intent,
    pod: PodFacts,
    instances: Vec<Instance>,
    expected: Vec<Expected>,
    /// When each was told that it ends, and what time it was given.
    told: Vec<(Moment, Duration)>,
    /// Containers whose image has changed so often.
    edits: u32,
    work: Vec<Work>,
    over: Option<Phase>,
}

#[derive(Clone, Debug)]
enum Happening {
    /// Something under way comes out, well or badly.
    Settle { pick: usize, well: bool },
    /// An instance ends.
    Exit { pick: usize, code: i32 },
    /// A probe comes to a verdict, of the present instance or of the one before.
    Probe {
        pick: usize,
        kind: ProbeKind,
        well: bool,
        late: bool,
    },
    /// Time passes.
    Wait(u64),
    /// Time passes until the plan wants to look again.
    Sleep,
    /// The pod is deleted.
    Delete(u64),
    /// The object vanishes.
    Vanish,
    /// The agent stops.
    Shutdown(u64),
    /// A volume outgrows its limit.
    Evict,
    /// A container gets another image.
    Edit(usize),
    /// Somebody comes to look around.
    LookAround,
    /// The pod's deadline is brought nearer.
    Shorten(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (any::<prop::sample::Index>(), prop::bool::weighted(0.85))
            .prop_map(|(i, well)| Happening::Settle { pick: i.index(64), well }),
        4 => (0usize..8, prop_oneof![Just(0), Just(1), Just(137)])
            .prop_map(|(pick, code)| Happening::Exit { pick, code }),
        4 => (0usize..8, kind(), prop::bool::weighted(0.7), prop::bool::weighted(0.1))
            .prop_map(|(pick, kind, well, late)| Happening::Probe { pick, kind, well, late }),
        3 => (0u64..700).prop_map(Happening::Wait),
        4 => Just(Happening::Sleep),
        1 => (0u64..40).prop_map(Happening::Delete),
        1 => Just(Happening::Vanish),
        1 => (0u64..5).prop_map(Happening::Shutdown),
        1 => Just(Happening::Evict),
        3 => (0usize..8).prop_map(Happening::Edit),
        2 => Just(Happening::LookAround),
        1 => (1u64..400).prop_map(Happening::Shorten),
    ]
}

fn kind() -> impl Strategy<Value = ProbeKind> {
    prop::sample::select(ProbeKind::ALL.to_vec())
}

fn spec() -> impl Strategy<Value = PodSpecPlan> {
    let role = prop_oneof![Just("init"), Just("sidecar"), Just("app"), Just("app")];
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (
        prop::collection::vec((role, any::<[bool; 5]>(), own_restarts()), 1..5),
        policy,
        prop::option::weighted(0.2, 1u64..400),
    )
        .prop_map(|(containers, policy, deadline)| {
            let own: Vec<Restarts> = containers.iter().map(|(_, _, own)| own.clone()).collect();
            let containers: Vec<(&str, Vec<&str>)> = containers
                .into_iter()
                .map(|(role, wanted, _)| (role, care_of(role, wanted)))
                .collect();
            let mut plan = plan_with(&containers, policy, deadline);
            for (container, own) in plan.containers.iter_mut().zip(own) {
                if container.role != Role::Sidecar {
                    container.restarts = own;
                }
            }
            plan
        })
}

fn own_restarts() -> impl Strategy<Value = Restarts> {
    use RestartPolicy::{Always, Never, OnFailure};
    let policy = prop::sample::select(vec![Always, OnFailure, Never]);
    let rules = prop::collection::vec(
        prop_oneof![
            Just(ExitCodes::In(vec![1, 137])),
            Just(ExitCodes::NotIn(vec![0])),
        ],
        0..2,
    );
    prop::option::weighted(0.3, (policy, rules)).prop_map(|own| match own {
        Some((policy, rules)) => Restarts {
            policy: Some(policy),
            rules,
        },
        None => Restarts::default(),
    })
}

/// The probes and hooks a container may have.
const CARE: [&str; 5] = [
    "startupProbe",
    "readinessProbe",
    "livenessProbe",
    "postStart",
    "preStop",
];

fn care_of(role: &str, wanted: [bool; 5]) -> Vec<&'static str> {
    let pairs = CARE.into_iter().zip(wanted);
    pairs
        .filter(|(_, wanted)| *wanted && role != "init")
        .map(|(name, _)| name)
        .collect()
}

fn plan_of(roles: &[&str], policy: &str, deadline: Option<u64>) -> PodSpecPlan {
    let containers: Vec<_> = roles.iter().map(|role| (*role, Vec::new())).collect();
    plan_with(&containers, policy, deadline)
}

fn plan_with(containers: &[(&str, Vec<&str>)], policy: &str, deadline: Option<u64>) -> PodSpecPlan {
    let mut inits = Vec::new();
    let mut apps = Vec::new();
    for (index, (role, care)) in containers.iter().enumerate() {
        let mut container = serde_json::json!({"name": format!("c{index}"), "image": "i"});
        for name in care {
            let action = serde_json::json!({"httpGet": {"port": 80}});
            match *name {
                "postStart" | "preStop" => container["lifecycle"][name] = action,
                _ => container[name] = action,
            }
        }
        match *role {
            "init" => inits.push(container),
            "sidecar" => {
                container["restartPolicy"] = "Always".into();
                inits.push(container);
            }
            _ => apps.push(container),
        }
    }
    if apps.is_empty() {
        apps.push(serde_json::json!({"name": "app", "image": "i"}));
    }
    let pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {
            "initContainers": inits, "containers": apps, "restartPolicy": policy,
            "activeDeadlineSeconds": deadline,
        },
    }))
    .unwrap();
    check_pod(&pod, HostPathPolicy::Refuse).unwrap()
}

fn problem(reason: &'static str) -> Problem {
    Problem {
        reason,
        message: "m".into(),
        outlook: Outlook::MayMend,
    }
}

fn termination(code: i32) -> Termination {
    Termination {
        code,
        reason: "Error",
        message: None,
        started_at: None,
        finished_at: None,
    }
}

impl World {
    fn new(spec: PodSpecPlan) -> World {
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
        }
    }

    /// Does what the worker does, and returns when the plan wants to look again.
    fn advance(&mut self) -> Option<Moment> {
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

    fn check_step(&self, step: &Step) {
        let ends = self.pod.ending.is_some();
        match step {
            Step::Start(index) => {
                assert!(!ends, "a start after the end began");
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
                assert!(
                    self.is_shutdown() || self.second >= until,
                    "too little time to end"
                );
                assert!(self.is_used_up(*index), "killed within its grace");
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
                    !(hook_runs || out_of_turn) || self.is_used_up(*index),
                    "asked before its turn"
                );
            }
            Step::BeginEnding(_)
            | Step::Cancel(_)
            | Step::ShowPullBackOff(_)
            | Step::HoldBack(..) => {}
        }
    }

    /// While its pod goes on, nothing runs by an image that the plan no longer has, or waits for one.
    fn check_images(&self) {
        let goes_on = self.pod.ending.is_none() && !is_complete(&self.spec, &self.pod);
        for (container, facts) in self.spec.containers.iter().zip(&self.pod.containers) {
            let is_outdated = facts.image.as_deref().is_some_and(|i| i != container.image);
            let lives = matches!(facts.life, Life::Running { .. } | Life::Greeting { .. });
            assert!(
                !(goes_on && is_outdated && lives && container.role != Role::Init),
                "an old image runs on: {facts:?}"
            );
        }
    }

    fn is_shutdown(&self) -> bool {
        let ending = self.pod.ending;
        ending.is_some_and(|(e, _)| e.cause == EndCause::Shutdown)
    }

    /// Whether the whole pod is being ended, so that sidecars go last and in reverse.
    fn ends_together(&self) -> bool {
        self.pod.ending.is_some() || is_complete(&self.spec, &self.pod)
    }

    /// Whether somebody lives who ends before this one.
    fn has_before_it(&self, index: usize) -> bool {
        let is_sidecar = |i: usize| self.spec.containers[i].role == Role::Sidecar;
        let mut lives =
            (0..self.instances.len()).filter(|i| self.pod.containers[*i].life.is_alive());
        let is_free = |i: usize| self.spec.containers[i].role == Role::Ephemeral;
        is_sidecar(index) && lives.any(|i| !is_free(i) && (!is_sidecar(i) || i > index))
    }

    /// Whether the time a container was given is over, or that of its pod.
    fn is_used_up(&self, index: usize) -> bool {
        let now = self.clock.now();
        let (told, given) = self.told[index];
        let pods = self.pod.ending.map(|(ending, since)| {
            let least = if self.is_shutdown() { 0 } else { 1 };
            since.after(ending.grace.max(Duration::from_secs(least)))
        });
        now.reached(told.after(given)) || pods.is_some_and(|at| now.reached(at))
    }

    /// Ordinary init containers before it have ended well, sidecars before it have started.
    fn check_order(&self, index: usize) {
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
    fn check_delay(&self, index: usize) {
        let expected = &self.expected[index];
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

    fn execute(&mut self, step: &Step) {
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
                if let Some(ended) = expected.ended_at.take() {
                    let doubled = match expected.delay {
                        Some((delay, updated)) if ended - updated.min(ended) <= 600 => {
                            (delay * 2).min(300)
                        }
                        _ => 10,
                    };
                    expected.delay = Some((doubled, self.second));
                }
                self.work.push(Work::Fetch(*index));
            }
            Step::Start(index) => self.work.push(Work::Start(*index)),
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
            Step::BeginEnding(_) | Step::ShowPullBackOff(_) | Step::HoldBack(..) => {}
        }
    }

    /// A hook that is abandoned says nothing.
    fn abandon(&mut self, index: usize) {
        self.work
            .retain(|work| ![Work::PostStart(index), Work::PreStop(index)].contains(work));
    }

    fn settle(&mut self, outcome: Outcome) {
        let now = self.clock.now();
        self.pod.settle(&self.spec, outcome, now);
        self.check();
    }

    fn happen(&mut self, happening: &Happening, wake: Option<Moment>) {
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

    fn look_around(&mut self) {
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
    fn probe(&mut self, index: usize, kind: ProbeKind, verdict: Verdict, is_late: bool) {
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

    fn exit(&mut self, index: usize, code: i32) {
        self.abandon(index);
        self.instances[index] = Instance::None;
        self.expected[index].ended_at = Some(self.second);
        self.settle(Outcome::Exited(index, termination(code)));
    }

    fn end(&mut self, cause: EndCause, grace: u64) {
        self.intent = Intent::End(Ending {
            cause,
            grace: Duration::from_secs(grace),
        });
    }

    fn wait(&mut self, by: Duration) {
        self.hand.advance(by);
        self.second += by.as_secs();
    }

    fn come_out(&mut self, work: Work, well: bool) {
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
                Outcome::Started(index, Launched::Alive(now))
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

    fn check(&mut self) {
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
    fn check_health(&self) {
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

    /// Lets everything come out well from here on; the pod must come to its end when it is asked to.
    fn run_out(&mut self) {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 8192, ..ProptestConfig::default() })]

    /// Never two live instances of a container, no start after the end began, no early restart, no
    /// terminal phase with a container alive, no terminal phase left, and always an end.
    #[test]
    fn promises_hold_in_every_history(
        spec in spec(),
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut world = World::new(spec);
        for happening in &happenings {
            let wake = world.advance();
            world.happen(happening, wake);
        }
        world.run_out();
    }
}

/// Runs one container that ends at once with `code` until `ends` ends, and returns the waits in between.
fn waits(policy: &str, code: i32, ends: usize) -> (Vec<u64>, World) {
    let mut world = World::new(plan_of(&["app"], policy, None));
    let mut waits = Vec::new();
    let mut ended_at = None;
    while waits.len() < ends {
        let wake = world.advance();
        if let Some(work) = world.work.pop() {
            world.come_out(work, true);
        } else if world.instances[0] == Instance::Alive {
            if let Some(at) = ended_at {
                waits.push(world.second - at);
            }
            world.exit(0, code);
            ended_at = Some(world.second);
        } else {
            let Some(wake) = wake else { break };
            let left = wake.since(world.clock.now());
            world.wait(left);
        }
    }
    (waits, world)
}

#[test]
fn a_container_held_back_shows_crash_loop_and_stays_running() {
    let (_, mut world) = waits("Always", 1, 1);
    world.advance();
    let Life::CrashLoop { delay, .. } = &world.pod.containers[0].life else {
        panic!("{:?}", world.pod.containers[0].life)
    };
    assert_eq!(*delay, Duration::from_secs(10));
    assert_eq!(phase(&world.spec, &world.pod), Phase::Running);
    assert_eq!(world.pod.containers[0].attempts, 2);
}

#[test]
fn the_deadline_ends_a_pod_that_runs() {
    let mut world = World::new(plan_of(&["app"], "Always", Some(30)));
    while world.instances[0] != Instance::Alive {
        world.advance();
        if let Some(work) = world.work.pop() {
            world.come_out(work, true);
        }
    }
    let wake = world.advance().expect("the deadline is a timer");
    assert_eq!(wake.since(world.clock.now()), Duration::from_secs(30));
    world.wait(Duration::from_secs(30));
    world.advance();
    assert!(matches!(world.instances[0], Instance::Asked { .. }));
    world.exit(0, 143);
    world.run_out();
    assert_eq!(phase(&world.spec, &world.pod), Phase::Failed);
}

/// Keeps `Arc` in use where the generated world shares ends with the facts.
#[test]
fn an_end_is_kept_as_the_last_state_of_the_next_run() {
    let (_, world) = waits("Always", 7, 2);
    let last: &Arc<Termination> = world.pod.containers[0].last.as_ref().expect("a last state");
    assert_eq!(last.code, 7);
}

mod edits;
mod policy;
mod rules;
