//! Changes of resources: what lives follows them, in place or by a restart, and nothing else happens.

use super::*;
use crate::lifecycle::resizing::RESIZE_RETRY;
use crate::spec::{OnResize, ResizePolicy};

fn settle(world: &mut World) {
    loop {
        world.advance();
        let Some(work) = world.work.pop() else { return };
        world.come_out(work, true);
    }
}

fn settled(roles: &[&str], policy: &str, resize: ResizePolicy) -> World {
    let mut spec = plan_of(roles, policy, None);
    for container in &mut spec.containers {
        container.resize = resize;
    }
    let mut world = World::new(spec);
    settle(&mut world);
    world
}

const RESTARTS_FOR_MEMORY: ResizePolicy = ResizePolicy {
    cpu: OnResize::InPlace,
    memory: OnResize::Restart,
};

/// The node grants a container these: cpu in thousandths, memory in bytes.
fn grant(world: &mut World, index: usize, cpu: u64, memory: u64) {
    let resources = &mut world.spec.containers[index].resources;
    resources.cpu_limit_milli = Some(cpu);
    resources.memory_limit = Some(memory);
}

fn given(world: &World, index: usize) -> Option<(Option<u64>, Option<u64>)> {
    let given = world.pod.containers[index].given?;
    Some((given.cpu_limit_milli, given.memory_limit))
}

#[test]
fn a_living_container_follows_in_place() {
    let mut world = settled(&["sidecar", "app"], "Never", ResizePolicy::default());
    for index in [0, 1] {
        grant(&mut world, index, 100, 5);
        assert!(world.pod.is_resizing(&world.spec));
        world.advance();
        assert_eq!(given(&world, index), Some((Some(100), Some(5))));
        assert_eq!(world.instances[index], Instance::Alive);
        assert_eq!(world.pod.containers[index].attempts, 1);
    }
    assert!(!world.pod.is_resizing(&world.spec));
}

#[test]
fn a_policy_restarts_for_its_resource_alone_at_once_and_without_a_back_off() {
    let mut world = settled(&["app"], "OnFailure", RESTARTS_FOR_MEMORY);
    grant(&mut world, 0, 100, 5);
    world.advance();
    for attempt in 2..6_u32 {
        let memory = 3 + u64::from(attempt);
        assert!(matches!(world.instances[0], Instance::Asked { .. }));
        world.exit(0, 0);
        assert!(world.pod.is_resizing(&world.spec));
        assert_eq!(phase(&world.spec, &world.pod), Phase::Running);
        settle(&mut world);
        assert_eq!(world.pod.containers[0].attempts, attempt);
        assert_eq!(world.second, 0, "at once");
        assert!(!world.pod.is_resizing(&world.spec));
        grant(&mut world, 0, 200 + memory, memory);
        world.advance();
        assert_eq!(world.instances[0], Instance::Alive, "cpu in place");
        grant(&mut world, 0, 200 + memory, memory + 1);
        world.advance();
    }
}

#[test]
fn a_refused_change_is_tried_again_and_the_container_runs_on() {
    let mut world = settled(&["app"], "Always", ResizePolicy::default());
    let now = world.clock.now();
    grant(&mut world, 0, 100, 5);
    let refused = Outcome::Resized(0, Err("too much in use".into()));
    world.pod.settle(&world.spec, refused, now);
    let wake = world.advance().expect("it is tried again");
    assert_eq!(wake.since(now), RESIZE_RETRY);
    assert_eq!(
        world.pod.resize_failure(&world.spec).map(|text| &**text),
        Some("too much in use")
    );
    assert_eq!(given(&world, 0), Some((None, None)));
    world.wait(RESIZE_RETRY);
    world.advance();
    assert_eq!(given(&world, 0), Some((Some(100), Some(5))));
    assert_eq!(world.pod.resize_failure(&world.spec), None);
    // Another wish is tried at once.
    grant(&mut world, 0, 100, 1);
    let now = world.clock.now();
    let refused = Outcome::Resized(0, Err("too much in use".into()));
    world.pod.settle(&world.spec, refused, now);
    grant(&mut world, 0, 100, 6);
    world.advance();
    assert_eq!(given(&world, 0), Some((Some(100), Some(6))));
}

#[test]
fn what_does_not_live_gets_its_resources_at_its_start() {
    let mut world = World::new(plan_of(&["app"], "Always", None));
    grant(&mut world, 0, 100, 5);
    settle(&mut world);
    assert_eq!(given(&world, 0), Some((Some(100), Some(5))));
    world.exit(0, 1);
    assert_eq!(given(&world, 0), None);
    assert!(!world.pod.is_resizing(&world.spec));
}
