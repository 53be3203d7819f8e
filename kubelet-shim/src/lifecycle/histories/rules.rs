//! The rules of probes, hooks and endings, one test each.

use super::*;

const SHUTDOWN_AT_ONCE: u64 = 0;

/// A world whose work has come out well until nothing moves; hooks are left under way.
fn settled(containers: &[(&str, Vec<&str>)], policy: &str) -> World {
    let mut world = World::new(plan_with(containers, policy, None));
    settle_all(&mut world);
    world
}

fn settle_all(world: &mut World) {
    loop {
        world.advance();
        let is_hook = |work: &Work| matches!(work, Work::PostStart(_) | Work::PreStop(_));
        let Some(at) = world.work.iter().position(|work| !is_hook(work)) else {
            return;
        };
        let work = world.work.remove(at);
        world.come_out(work, true);
    }
}

fn verdict(world: &mut World, index: usize, kind: ProbeKind, verdict: Verdict) {
    let facts = &world.pod.containers[index];
    let container = &world.spec.containers[index];
    assert!(
        is_probed(kind, container, facts, false),
        "{kind:?} is not at work"
    );
    world.probe(index, kind, verdict, false);
    world.advance();
}

fn hook_returns(world: &mut World, work: Work, well: bool) {
    let at = world.work.iter().position(|w| *w == work);
    world.work.remove(at.expect("the hook is under way"));
    world.come_out(work, well);
    world.advance();
}

fn is_shown_running(world: &World, index: usize) -> bool {
    world.pod.containers[index].life.health().is_some()
}

fn is_ready(world: &World, index: usize) -> bool {
    let health = world.pod.containers[index].life.health();
    health.is_some_and(Health::is_ready)
}

fn seconds(world: &mut World, by: u64) {
    world.wait(Duration::from_secs(by));
    world.advance();
}

fn is_asked(world: &World, index: usize) -> bool {
    matches!(world.instances[index], Instance::Asked { .. })
}

#[test]
fn a_container_that_fails_its_liveness_probe_is_ended_and_restarted() {
    let mut world = settled(&[("app", vec!["livenessProbe"])], "Always");
    assert!(is_ready(&world, 0));
    verdict(&mut world, 0, ProbeKind::Liveness, Verdict::Failure);
    assert!(is_asked(&world, 0));
    assert!(matches!(
        &world.pod.containers[0].life,
        Life::Stopping {
            reason: StopReason::Unhealthy(ProbeKind::Liveness),
            ..
        }
    ));
    world.exit(0, 143);
    settle_all(&mut world);
    assert_eq!(world.pod.containers[0].attempts, 2);
    assert!(
        is_ready(&world, 0),
        "the new instance is alive until it is found not to be"
    );
}

#[test]
fn under_never_a_container_that_fails_its_liveness_probe_ends_its_pod() {
    let mut world = settled(&[("app", vec!["livenessProbe"])], "Never");
    verdict(&mut world, 0, ProbeKind::Liveness, Verdict::Failure);
    world.exit(0, 143);
    settle_all(&mut world);
    assert_eq!(phase(&world.spec, &world.pod), Phase::Failed);
}

#[test]
fn a_container_that_ignores_its_liveness_probe_is_killed_after_its_grace() {
    let mut world = settled(&[("app", vec!["livenessProbe"])], "Always");
    verdict(&mut world, 0, ProbeKind::Liveness, Verdict::Failure);
    seconds(&mut world, 29);
    assert!(is_asked(&world, 0));
    seconds(&mut world, 1);
    assert_eq!(world.instances[0], Instance::Killed);
}

#[test]
fn the_probes_own_grace_goes_before_the_pods() {
    let pod = serde_json::json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c", "image": "i", "livenessProbe":
            {"httpGet": {"port": 80}, "terminationGracePeriodSeconds": 5}}]},
    });
    let pod = serde_json::from_value(pod).unwrap();
    let mut world = World::new(check_pod(&pod, HostPathPolicy::Refuse).unwrap());
    settle_all(&mut world);
    verdict(&mut world, 0, ProbeKind::Liveness, Verdict::Failure);
    seconds(&mut world, 5);
    assert_eq!(world.instances[0], Instance::Killed);
}

#[test]
fn until_it_has_started_only_the_startup_probe_is_at_work() {
    let mut world = settled(&[("app", CARE[..3].to_vec())], "Always");
    let at_work = |world: &World| {
        let facts = &world.pod.containers[0];
        ProbeKind::ALL.map(|kind| is_probed(kind, &world.spec.containers[0], facts, false))
    };
    assert_eq!(at_work(&world), [true, false, false]);
    assert!(is_shown_running(&world, 0) && !is_ready(&world, 0));
    verdict(&mut world, 0, ProbeKind::Startup, Verdict::Success);
    assert_eq!(at_work(&world), [false, true, true]);
    assert!(!is_ready(&world, 0));
    verdict(&mut world, 0, ProbeKind::Readiness, Verdict::Success);
    assert!(is_ready(&world, 0));
    verdict(&mut world, 0, ProbeKind::Readiness, Verdict::Failure);
    assert!(!is_ready(&world, 0));
    assert_eq!(
        world.instances[0],
        Instance::Alive,
        "not ready is no reason to end"
    );
}

#[test]
fn a_container_that_never_starts_is_ended() {
    let mut world = settled(&[("app", vec!["startupProbe"])], "Always");
    verdict(&mut world, 0, ProbeKind::Startup, Verdict::Failure);
    assert!(is_asked(&world, 0));
}

#[test]
fn what_is_behind_a_sidecar_waits_until_it_has_started_and_not_until_it_is_ready() {
    let care = vec!["startupProbe", "readinessProbe"];
    let mut world = settled(&[("sidecar", care), ("app", vec![])], "Always");
    assert_eq!(world.instances[1], Instance::None);
    assert_eq!(phase(&world.spec, &world.pod), Phase::Pending);
    verdict(&mut world, 0, ProbeKind::Startup, Verdict::Success);
    settle_all(&mut world);
    assert_eq!(world.instances[1], Instance::Alive);
    assert!(!is_ready(&world, 0));
    assert_eq!(phase(&world.spec, &world.pod), Phase::Running);
}

#[test]
fn a_container_is_not_shown_to_run_before_post_start_has_returned() {
    let mut world = settled(&[("app", vec!["postStart"]), ("app", vec![])], "Always");
    assert_eq!(world.instances[0], Instance::Alive);
    assert!(!is_shown_running(&world, 0));
    assert_eq!(
        world.instances[1],
        Instance::None,
        "a slow hook delays those behind"
    );
    hook_returns(&mut world, Work::PostStart(0), true);
    settle_all(&mut world);
    assert!(is_shown_running(&world, 0) && is_shown_running(&world, 1));
}

#[test]
fn a_failed_post_start_ends_the_container_and_the_restart_policy_applies() {
    for (policy, attempts) in [("Always", 2), ("Never", 1)] {
        let mut world = settled(&[("app", vec!["postStart"])], policy);
        hook_returns(&mut world, Work::PostStart(0), false);
        assert!(is_asked(&world, 0));
        assert!(!is_shown_running(&world, 0));
        world.exit(0, 143);
        settle_all(&mut world);
        assert_eq!(world.pod.containers[0].attempts, attempts, "{policy}");
    }
}

#[test]
fn pre_stop_comes_before_the_request_and_inside_the_grace() {
    let mut world = settled(&[("app", vec!["preStop"])], "Always");
    world.end(EndCause::Deleted, 30);
    world.advance();
    assert_eq!(world.instances[0], Instance::Leaving);
    seconds(&mut world, 12);
    hook_returns(&mut world, Work::PreStop(0), true);
    assert!(is_asked(&world, 0));
    seconds(&mut world, 17);
    assert!(is_asked(&world, 0));
    seconds(&mut world, 1);
    assert_eq!(world.instances[0], Instance::Killed);
}

#[test]
fn a_pre_stop_that_overruns_is_abandoned_and_the_container_keeps_two_seconds() {
    for (grace, cause) in [(30, EndCause::Deleted), (1, EndCause::Vanished)] {
        let mut world = settled(&[("app", vec!["preStop"])], "Always");
        world.end(cause, grace);
        world.advance();
        seconds(&mut world, grace);
        assert!(is_asked(&world, 0), "{cause:?}");
        assert!(world.work.is_empty(), "the hook is abandoned");
        seconds(&mut world, 1);
        assert!(is_asked(&world, 0));
        seconds(&mut world, 1);
        assert_eq!(world.instances[0], Instance::Killed);
    }
}

#[test]
fn pre_stop_is_skipped_without_grace_and_by_a_container_that_ended_itself() {
    let mut world = settled(&[("app", vec!["preStop"])], "Never");
    world.end(EndCause::Shutdown, SHUTDOWN_AT_ONCE);
    world.advance();
    assert!(world.work.is_empty());
    assert_eq!(world.instances[0], Instance::Killed);

    let mut world = settled(&[("app", vec!["preStop"])], "Never");
    world.exit(0, 0);
    world.advance();
    assert!(!world.work.contains(&Work::PreStop(0)));
}

#[test]
fn hooks_of_sidecars_run_at_once_and_sidecars_are_asked_last_in_reverse() {
    let sidecar = || ("sidecar", vec!["preStop"]);
    let mut world = settled(&[sidecar(), sidecar(), ("app", vec!["preStop"])], "Always");
    world.end(EndCause::Deleted, 30);
    world.advance();
    assert_eq!(world.work, [0, 1, 2].map(Work::PreStop));
    for index in [0, 1, 2] {
        hook_returns(&mut world, Work::PreStop(index), true);
    }
    assert_eq!(world.instances[..2], [Instance::Leaving; 2]);
    assert!(is_asked(&world, 2));
    world.exit(2, 143);
    world.advance();
    assert!(is_asked(&world, 1));
    assert_eq!(world.instances[0], Instance::Leaving);
    world.exit(1, 143);
    world.advance();
    assert!(is_asked(&world, 0));
}

#[test]
fn when_the_grace_is_used_up_sidecars_wait_no_longer() {
    let mut world = settled(&[("sidecar", vec![]), ("app", vec![])], "Always");
    world.end(EndCause::Deleted, 30);
    world.advance();
    assert_eq!(world.instances[0], Instance::Leaving);
    seconds(&mut world, 30);
    assert!(is_asked(&world, 0));
    assert_eq!(world.instances[1], Instance::Killed);
    seconds(&mut world, 2);
    assert_eq!(world.instances[0], Instance::Killed);
}

#[test]
fn of_a_pod_that_ends_only_readiness_is_asked_for() {
    let mut world = settled(
        &[("app", vec!["readinessProbe", "livenessProbe"])],
        "Always",
    );
    world.end(EndCause::Deleted, 30);
    world.advance();
    let facts = &world.pod.containers[0];
    let container = &world.spec.containers[0];
    let at_work = ProbeKind::ALL.map(|kind| is_probed(kind, container, facts, true));
    assert_eq!(at_work, [false, true, false]);
    world.probe(0, ProbeKind::Readiness, Verdict::Success, false);
    assert!(is_ready(&world, 0), "its status still follows");
}

#[test]
fn a_verdict_about_an_instance_that_is_gone_says_nothing_about_the_next() {
    let mut world = settled(&[("app", vec!["livenessProbe"])], "Always");
    world.exit(0, 1);
    settle_all(&mut world);
    world.probe(0, ProbeKind::Liveness, Verdict::Failure, true);
    world.advance();
    assert_eq!(world.instances[0], Instance::Alive);
}
