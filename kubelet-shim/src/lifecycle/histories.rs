//! Generated histories: whatever happens in whatever order, the planner's promises hold.
//!
//! A small world stands for the executor: it takes steps in hand, lets what is under way come out in any
//! order and any way, lets instances end, time pass, and the owner change their mind. After every change
//! the invariants are checked: [`mod@generate`] makes histories, [`mod@world`] plays them, [`mod@promises`] holds what
//! must be true, [`mod@run`] does so a hundred thousand times.

mod edits;
mod generate;
mod policy;
mod promises;
mod resizes;
mod rules;
mod run;
mod start_over;
mod world;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::spec::{
    ExitCodes, HostPathPolicy, OnResize, ProbeKind, RestartAction, RestartRule, Restarts, Role,
    check_pod,
};
use crate::status::{Phase, phase};
use crate::time::{Clock, Hand};
use generate::{CARE, plan_of, plan_with};

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
    /// The container whose end starts all over.
    source: Option<usize>,
}

impl Expected {
    /// The delay after the one that a container which ended then has waited.
    fn doubled(&self, ended: u64) -> u64 {
        match self.delay {
            Some((delay, updated)) if ended - updated.min(ended) <= 600 => (delay * 2).min(300),
            _ => 10,
        }
    }
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
    /// A container is granted other resources.
    Resize { pick: usize, cpu: u64, memory: u64 },
    /// Somebody comes to look around.
    LookAround,
    /// The pod's deadline is brought nearer.
    Shorten(u64),
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
