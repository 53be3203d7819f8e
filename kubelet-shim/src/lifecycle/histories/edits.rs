//! The rules of a live pod's changes, one test each.

use super::*;

/// A world whose work has come out well until nothing moves.
fn settled(roles: &[&str], policy: &str) -> World {
    let mut world = World::new(plan_of(roles, policy, None));
    settle(&mut world);
    world
}

fn settle(world: &mut World) {
    loop {
        world.advance();
        let Some(work) = world.work.pop() else { return };
        world.come_out(work, true);
    }
}

fn edit(world: &mut World, index: usize) {
    world.happen(&Happening::Edit(index), None);
    world.advance();
}

fn is_asked(world: &World, index: usize) -> bool {
    matches!(world.instances[index], Instance::Asked { .. })
}

fn attempts(world: &World) -> Vec<u32> {
    let containers = world.pod.containers.iter();
    containers.map(|facts| facts.attempts).collect()
}

#[test]
fn another_image_restarts_its_container_alone_whatever_the_policy() {
    for policy in ["Always", "OnFailure", "Never"] {
        let mut world = settled(&["app", "app"], policy);
        edit(&mut world, 1);
        assert!(is_asked(&world, 1), "{policy}");
        assert_eq!(world.instances[0], Instance::Alive);
        assert_eq!(phase(&world.spec, &world.pod), Phase::Running);
        world.exit(1, 0);
        settle(&mut world);
        assert_eq!(attempts(&world), [1, 2]);
        assert_eq!(world.instances[1], Instance::Alive);
        assert_eq!(world.second, 0, "at once");
    }
}

#[test]
fn a_container_that_ends_by_itself_after_that_follows_its_policy_again() {
    let mut world = settled(&["app"], "Never");
    edit(&mut world, 0);
    world.exit(0, 143);
    settle(&mut world);
    world.exit(0, 0);
    settle(&mut world);
    assert_eq!(phase(&world.spec, &world.pod), Phase::Succeeded);
}

#[test]
fn the_new_image_may_be_late_and_its_container_is_not_lost() {
    let mut world = settled(&["app"], "Never");
    edit(&mut world, 0);
    world.exit(0, 143);
    world.advance();
    assert_eq!(world.work, [Work::Fetch(0)]);
    let work = world.work.remove(0);
    world.come_out(work, false);
    world.advance();
    assert_eq!(phase(&world.spec, &world.pod), Phase::Running);
    world.wait(Duration::from_secs(1));
    world.advance();
    world.wait(Duration::from_secs(10));
    settle(&mut world);
    assert_eq!(world.instances[0], Instance::Alive);
}

#[test]
fn another_image_ends_the_wait_for_the_old_one_and_begins_both_back_offs_afresh() {
    let (_, mut world) = waits("Always", 1, 3);
    world.advance();
    assert!(matches!(
        world.pod.containers[0].life,
        Life::CrashLoop { .. }
    ));
    edit(&mut world, 0);
    assert_eq!(world.work, [Work::Fetch(0)], "held back no longer");
    let work = world.work.remove(0);
    world.come_out(work, false);
    edit(&mut world, 0);
    assert_eq!(world.work, [Work::Fetch(0)], "pulled at once");
    settle(&mut world);
    world.exit(0, 1);
    world.advance();
    let Life::CrashLoop { delay, .. } = world.pod.containers[0].life else {
        panic!("{:?}", world.pod.containers[0].life)
    };
    assert_eq!(delay, Duration::from_secs(10));
}

#[test]
fn what_was_fetched_for_nothing_is_fetched_again_by_the_new_name() {
    let mut world = World::new(plan_of(&["app"], "Always", None));
    world.advance();
    let work = world.work.remove(0);
    world.come_out(work, true);
    world.advance();
    assert_eq!(world.work, [Work::Fetch(0)]);
    edit(&mut world, 0);
    assert_eq!(world.work, [Work::Fetch(0)], "a pull is left to its end");
    let work = world.work.remove(0);
    world.come_out(work, true);
    world.advance();
    assert_eq!(world.work, [Work::Fetch(0)]);
    settle(&mut world);
    assert_eq!(attempts(&world), [1]);
}

#[test]
fn a_sidecar_gets_its_new_image_and_an_init_container_that_ended_does_not_run_again() {
    let mut world = World::new(plan_of(&["init", "sidecar", "app"], "Always", None));
    settle(&mut world);
    edit(&mut world, 0);
    assert_eq!(world.instances[0], Instance::Alive, "left to its end");
    world.exit(0, 0);
    settle(&mut world);
    assert_eq!(attempts(&world), [1, 1, 1]);
    edit(&mut world, 0);
    edit(&mut world, 1);
    assert!(is_asked(&world, 1));
    world.exit(1, 0);
    settle(&mut world);
    assert_eq!(attempts(&world), [1, 2, 1]);
}

#[test]
fn a_container_that_has_ended_for_good_is_not_woken_by_another_image() {
    let mut world = settled(&["app", "app"], "Never");
    world.exit(0, 0);
    edit(&mut world, 0);
    settle(&mut world);
    assert_eq!(attempts(&world), [1, 1]);
    world.exit(1, 0);
    settle(&mut world);
    assert_eq!(phase(&world.spec, &world.pod), Phase::Succeeded);
}

#[test]
fn a_deadline_brought_nearer_counts_from_the_start() {
    let mut world = settled(&["app"], "Always");
    world.wait(Duration::from_secs(50));
    assert_eq!(world.advance(), None);
    world.happen(&Happening::Shorten(60), None);
    let wake = world.advance().expect("the deadline is a timer");
    assert_eq!(wake.since(world.clock.now()), Duration::from_secs(10));
    world.happen(&Happening::Shorten(20), None);
    world.advance();
    assert!(is_asked(&world, 0), "it has passed already");
}

fn look_around(world: &mut World) -> usize {
    world.happen(&Happening::LookAround, None);
    settle(world);
    world.instances.len() - 1
}

#[test]
fn an_ephemeral_container_starts_beside_an_init_container_and_never_again() {
    let mut world = settled(&["init", "app"], "Always");
    let late = look_around(&mut world);
    assert_eq!(
        world.instances,
        [Instance::Alive, Instance::None, Instance::Alive]
    );
    world.exit(late, 1);
    settle(&mut world);
    assert_eq!(world.pod.containers[late].attempts, 1);
    assert_eq!(world.instances[late], Instance::None);
    assert_eq!(phase(&world.spec, &world.pod), Phase::Pending);
}

#[test]
fn an_ephemeral_container_counts_neither_for_the_phase_nor_holds_its_pod_up() {
    let mut world = settled(&["app"], "Never");
    let late = look_around(&mut world);
    world.exit(0, 0);
    world.advance();
    assert!(is_asked(&world, late));
    assert_eq!(phase(&world.spec, &world.pod), Phase::Running, "it lives");
    world.exit(late, 143);
    settle(&mut world);
    assert_eq!(phase(&world.spec, &world.pod), Phase::Succeeded);
}
