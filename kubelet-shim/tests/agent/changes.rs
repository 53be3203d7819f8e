//! Changes of pods that run.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::exec::{self, toolbox};
use crate::guests;
use crate::logs;
use crate::pods::{is_ready, is_running, one, run};
use crate::world::{World, container};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("another_image_restarts_its_container_under_never", || {
        run(image())
    }),
    ("who_looks_around_has_a_shell_and_disturbs_nobody", || {
        run(ephemeral())
    }),
];

async fn image() {
    let mut world = World::new().await;
    let old = world.image("old", &guests::says_and_spins("old"));
    let new = world.image("new", &guests::says_and_spins("new"));
    let spec = json!({"restartPolicy": "Never", "containers": one(&old),
        "terminationGracePeriodSeconds": 1});
    world.pod("p", spec).await;
    world.until("p", is_running).await;
    assert_eq!(world.line().await, "old");
    let patch = Patch::Strategic(json!({"spec": {"containers": one(&new)}}));
    let api = world.api::<Pod>();
    let patched = api.patch("p", &PatchParams::default(), &patch).await;
    patched.expect("an image may change");
    let text = "Container main definition changed, will be restarted";
    world.message("p", "Killing", text).await;
    assert_eq!(world.line().await, "new");
    let is_renewed = |pod: &Pod| {
        let renewed = |c: &ContainerStatus| c.restart_count == 1 && c.ready;
        container(pod).is_some_and(renewed) && is_running(pod)
    };
    let pod = world.until("p", is_renewed).await;
    assert_eq!(container(&pod).expect("a status").image, new);
    let status = pod.status.expect("a status");
    assert_eq!(status.observed_generation, Some(2));
    world.stop().await;
}

/// Adds ephemeral containers, as `kubectl debug` does.
async fn look_around(world: &World, containers: Value) {
    let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": containers}}));
    let api = world.api::<Pod>();
    let params = PatchParams::default();
    let patched = api.patch_ephemeral_containers("p", &params, &patch).await;
    patched.expect("one may look around");
}

fn debuggers(pod: &Pod) -> &[ContainerStatus] {
    let status = pod.status.as_ref();
    let list = status.and_then(|s| s.ephemeral_container_statuses.as_deref());
    list.unwrap_or_default()
}

async fn ephemeral() {
    let world = World::with_toolbox(Some(toolbox())).await;
    exec::spinning(&world).await;
    world.until("p", is_ready).await;
    let image = world.image("spins", &guests::says_and_spins("hello"));
    look_around(
        &world,
        json!([{"name": "d", "image": image, "command": ["sh", "-c", "x"],
            "targetContainerName": "main", "stdin": true}]),
    )
    .await;
    let is_over = |pod: &Pod| {
        let ended = |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.terminated.is_some());
        debuggers(pod).iter().any(ended)
    };
    let pod = world.until("p", is_over).await;
    assert!(is_ready(&pod), "it does not count");
    logs::check(&world, "/containerLogs/default/p/d", 200, "sh\0-c\0x\0").await;
    look_around(&world, json!([{"name": "e", "image": image}])).await;
    let runs = |pod: &Pod| {
        let runs = |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.running.is_some());
        debuggers(pod).len() == 2 && debuggers(pod).iter().any(runs)
    };
    let pod = world.until("p", runs).await;
    assert!(is_over(&pod), "nobody looks around twice");
    exec::check(&world, "/run/default/p/e?cmd=sh", 200, "sh\0").await;
    world.stop().await;
}
