//! The rules of `RestartAllContainers`, one test each.

use super::*;

/// Asks for all to start again.
const ASKS: i32 = 42;

/// A world of these roles in which each container's end with [`ASKS`] starts all over, settled.
fn world(roles: &[&str], policy: &str) -> World {
    let mut spec = plan_of(roles, policy, None);
    for container in &mut spec.containers {
        container.restarts.rules = vec![RestartRule {
            action: RestartAction::RestartAllContainers,
            codes: ExitCodes::In(vec![ASKS]),
        }];
    }
    let mut world = World::new(spec);
    settle(&mut world);
    world
}

fn settle(world: &mut World) {
    loop {
        world.advance();
        if let Some(work) = world.work.pop() {
            world.come_out(work, true);
            continue;
        }
        let mut instances = world.instances.iter();
        if let Some(index) = instances.position(|i| *i == Instance::Killed) {
            world.exit(index, 137);
            continue;
        }
        return;
    }
}

/// Lets the init container end well, until the apps run.
fn initialise(world: &mut World) {
    world.exit(0, 0);
    settle(world);
}

fn after(world: &mut World, seconds: u64) {
    world.wait(Duration::from_secs(seconds));
    settle(world);
}

fn attempts(world: &World) -> Vec<u32> {
    let containers = world.pod.containers.iter();
    containers.map(|facts| facts.attempts).collect()
}

#[test]
fn all_containers_start_again_the_init_container_first_whatever_the_policy() {
    for policy in ["Always", "OnFailure", "Never"] {
        let mut world = world(&["init", "sidecar", "app", "app"], policy);
        initialise(&mut world);
        world.exit(2, 0);
        settle(&mut world);
        world.exit(3, ASKS);
        settle(&mut world);
        assert!(world.pod.starting_over.is_some(), "{policy}");
        assert_eq!(phase(&world.spec, &world.pod), Phase::Running, "{policy}");
        after(&mut world, 1);
        assert!(world.pod.starting_over.is_none());
        let alive: Vec<_> = world
            .instances
            .iter()
            .map(|i| *i != Instance::None)
            .collect();
        assert_eq!(alive, [true, false, false, false], "{policy}");
        assert_eq!(phase(&world.spec, &world.pod), Phase::Pending);
        assert!(world.pod.was_initialised);
        initialise(&mut world);
        assert_eq!(world.instances[1..], [Instance::Alive; 3], "{policy}");
        assert_eq!(phase(&world.spec, &world.pod), Phase::Running);
    }
}

#[test]
fn those_that_live_are_killed_without_grace_and_without_hooks_in_reverse() {
    let care = || vec!["preStop"];
    let mut spec = plan_with(
        &[("sidecar", care()), ("app", care()), ("app", vec![])],
        "Never",
        None,
    );
    spec.containers[2].restarts.rules = vec![RestartRule {
        action: RestartAction::RestartAllContainers,
        codes: ExitCodes::NotIn(vec![0]),
    }];
    let mut world = World::new(spec);
    settle(&mut world);
    world.exit(2, 1);
    let now = world.clock.now();
    let first = plan(&world.spec, world.intent, &world.pod, now);
    let stopped: Vec<_> = first
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Stop(index, ask) => Some((*index, ask.pre_stop, ask.grace)),
            _ => None,
        })
        .collect();
    let skip = |index| (index, PreStop::Skip, Duration::ZERO);
    assert_eq!(stopped, [skip(1), skip(0)]);
    world.advance();
    assert_eq!(world.instances[..2], [Instance::Killed; 2]);
    world.exit(0, 137);
    let end = world.pod.containers[0].latest_end().expect("it ended");
    assert_eq!((end.code, end.reason), (137, REASON_STARTS_OVER));
    let source = world.pod.containers[2].latest_end().expect("it ended");
    assert_eq!((source.code, source.reason), (1, "Error"));
}

#[test]
fn it_is_shown_for_a_second_and_backs_off_like_a_crash() {
    let mut world = world(&["app"], "Never");
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.exit(0, ASKS);
        let ended = world.second;
        while world.instances[0] == Instance::None {
            settle(&mut world);
            if world.instances[0] == Instance::None {
                world.wait(Duration::from_secs(1));
            }
        }
        waits.push(world.second - ended);
    }
    assert_eq!(waits, [1, 10, 20, 40]);
    assert_eq!(attempts(&world), [5]);
}

#[test]
fn another_end_meanwhile_and_the_end_of_the_pod_ask_for_nothing() {
    let mut world = world(&["app", "app"], "Always");
    world.exit(0, ASKS);
    world.advance();
    world.exit(1, ASKS);
    settle(&mut world);
    after(&mut world, 1);
    assert_eq!(attempts(&world), [2, 2]);
    world.end(EndCause::Deleted, 30);
    world.advance();
    world.exit(0, ASKS);
    assert!(world.pod.starting_over.is_none());
    world.exit(1, 0);
    settle(&mut world);
    assert_eq!(phase(&world.spec, &world.pod), Phase::Failed);
}

#[test]
fn a_sidecar_of_a_pod_that_has_done_its_work_asks_for_nothing() {
    let mut world = world(&["sidecar", "app"], "Never");
    world.exit(1, 0);
    world.advance();
    world.exit(0, ASKS);
    settle(&mut world);
    assert_eq!(phase(&world.spec, &world.pod), Phase::Succeeded);
}

#[test]
fn an_init_container_that_fails_then_fails_the_pod_by_its_policy() {
    let mut world = world(&["init", "app"], "Never");
    initialise(&mut world);
    world.exit(1, ASKS);
    settle(&mut world);
    after(&mut world, 1);
    world.exit(0, 1);
    settle(&mut world);
    assert_eq!(phase(&world.spec, &world.pod), Phase::Failed);
}

#[test]
fn what_was_on_its_way_is_abandoned_and_who_looks_around_is_left_alone() {
    let mut world = world(&["app", "app"], "Always");
    world.happen(&Happening::LookAround, None);
    settle(&mut world);
    world.exit(1, 1);
    world.advance();
    assert_eq!(world.work, [Work::Fetch(1)]);
    world.exit(0, ASKS);
    world.advance();
    assert_eq!(world.work, [Work::Cancelled(1)]);
    settle(&mut world);
    after(&mut world, 1);
    assert_eq!(world.instances, [Instance::Alive; 3]);
    assert_eq!(world.pod.containers[2].attempts, 1);
}
