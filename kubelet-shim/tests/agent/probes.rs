//! Probes and hooks of containers that run.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::guests;
use crate::pods::{is_over, is_ready, is_running, run};
use crate::world::{World, container, exit_code, waiting_reason};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_handler_is_ready_once_it_answers_its_probe", || {
        run(readiness())
    }),
    ("a_guest_that_fails_its_liveness_probe_is_restarted", || {
        run(liveness())
    }),
    ("a_guest_that_never_starts_ends_under_never", || {
        run(startup())
    }),
    ("a_failed_post_start_ends_the_container", || {
        run(post_start())
    }),
    ("a_failed_pre_stop_is_told_and_keeps_nobody", || {
        run(pre_stop())
    }),
    (
        "programs_in_the_container_are_probes",
        || run(exec_probes()),
    ),
    ("programs_in_the_container_are_hooks", || run(exec_hooks())),
];

/// The messages of a pod's events with this reason, once there is one.
async fn messages(world: &World, pod: &str, reason: &str) -> Vec<String> {
    world.events(pod, reason).await;
    let events = world.api::<Event>().list(&ListParams::default()).await;
    let events = events.expect("events").items.into_iter();
    events
        .filter(|e| e.involved_object.name.as_deref() == Some(pod))
        .filter(|e| e.reason.as_deref() == Some(reason))
        .filter_map(|e| e.message)
        .collect()
}

async fn readiness() {
    let world = World::new().await;
    let image = world.sample("hello-http");
    let spec = json!({"containers": [{
        "name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}],
        "startupProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 30},
        "readinessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"port": 8080}},
    }]});
    world.pod("good", spec).await;
    let pod = world.until("good", is_ready).await;
    assert_eq!(container(&pod).and_then(|c| c.started), Some(true));
    let spec = json!({"containers": [{
        "name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"port": 8081}, "periodSeconds": 1},
    }]});
    world.pod("bad", spec).await;
    let pod = world.until("bad", is_running).await;
    let ip = pod.status.and_then(|s| s.pod_ip).expect("an address");
    let told = messages(&world, "bad", "Unhealthy").await;
    let expected = format!(
        "Readiness probe failed: Get \"http://{ip}:8081/\": dial tcp {ip}:8081: connect: connection refused"
    );
    assert_eq!(told, [expected]);
    let pod = world.until("bad", |pod| container(pod).is_some()).await;
    assert!(!is_ready(&pod));
    assert!(container(&pod).is_some_and(|c| !c.ready && c.started == Some(true)));
    world.stop().await;
}

async fn liveness() {
    let world = World::new().await;
    let image = world.image("spins", &guests::spins());
    let spec = json!({"containers": [{
        "name": "c", "image": image,
        "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 1},
    }]});
    world.pod("p", spec).await;
    let pod = world
        .until("p", |pod| {
            container(pod).is_some_and(|c| c.restart_count > 0)
        })
        .await;
    let last = container(&pod).and_then(|c| c.last_state.clone());
    let last = last.and_then(|state| state.terminated).expect("an end");
    assert_eq!(last.exit_code, 143);
    let told = messages(&world, "p", "Killing").await;
    assert_eq!(
        told,
        ["Container c failed liveness probe, will be restarted"]
    );
    world.stop().await;
}

async fn startup() {
    let world = World::new().await;
    let image = world.image("spins", &guests::spins());
    let spec = json!({"restartPolicy": "Never", "containers": [{
        "name": "c", "image": image,
        "startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 2},
    }]});
    world.pod("p", spec).await;
    let pod = world.until("p", is_over).await;
    assert_eq!(exit_code(&pod), Some(143));
    let told = messages(&world, "p", "Killing").await;
    assert_eq!(told, ["Container c failed startup probe"]);
    world.stop().await;
}

async fn post_start() {
    let world = World::new().await;
    let image = world.image("spins", &guests::spins());
    let hook = json!({"postStart": {"httpGet": {"port": 80, "path": "/hello"}}});
    let spec = json!({"containers": [{"name": "c", "image": image, "lifecycle": hook}]});
    world.pod("p", spec).await;
    world
        .until("p", |pod| waiting_reason(pod) == Some("CrashLoopBackOff"))
        .await;
    let told = messages(&world, "p", "FailedPostStartHook").await;
    assert_eq!(told, ["PostStartHook failed"]);
    let told = messages(&world, "p", "Killing").await;
    assert_eq!(told, ["FailedPostStartHook"]);
    world.stop().await;
}

/// A hook that can be run leaves no event; one that cannot does not keep the pod.
async fn pre_stop() {
    let world = World::new().await;
    let image = world.sample("hello-http");
    for (name, hook) in [
        ("good", json!({"httpGet": {"port": 80, "path": "/bye"}})),
        ("bad", json!({"tcpSocket": {"port": 80}})),
    ] {
        let hook = json!({"preStop": hook});
        let spec = json!({"containers": [{"name": "c", "image": image, "lifecycle": hook}]});
        world.pod(name, spec).await;
        world.until(name, is_running).await;
        let api = world.api::<Pod>();
        api.delete(name, &DeleteParams::default())
            .await
            .expect("deleted");
        world.until_gone(name).await;
    }
    let told = messages(&world, "bad", "FailedPreStopHook").await;
    assert_eq!(told, ["PreStopHook failed"]);
    let reasons = world.events("good", "Killing").await;
    assert!(
        !reasons.contains(&"FailedPreStopHook".to_owned()),
        "{reasons:?}"
    );
    world.stop().await;
}

/// Programs that end with a code, mounted at `/tools`.
async fn tools(world: &World) -> serde_json::Value {
    let programs = json!({
        "good": ByteString(guests::says_and_exits("fine", 0)),
        "bad": ByteString(guests::says_and_exits("oh no", 3)),
        "slow": ByteString(guests::spins()),
    });
    let map = json!({"metadata": {"name": "tools"}, "binaryData": programs});
    world.create::<ConfigMap>(map).await;
    json!([{"name": "tools", "configMap": {"name": "tools"}}])
}

async fn exec_probes() {
    let world = World::new().await;
    let volumes = tools(&world).await;
    let image = world.image("spins", &guests::spins());
    for (name, expected) in [
        ("bad", "Liveness probe failed: oh no\n"),
        (
            "slow",
            "Liveness probe failed: command timed out: \"/tools/slow\" timed out after 1s",
        ),
        (
            "none",
            "Liveness probe errored and resulted in unknown state: exec: \"/tools/none\": stat /tools/none: no such \
             file or directory",
        ),
    ] {
        let probe = |tool: &str| {
            json!({"exec": {"command": [format!("/tools/{tool}")]}, "periodSeconds": 1,
                "timeoutSeconds": 1, "failureThreshold": 100})
        };
        // Its program may have to be compiled first, so only the good one is given time.
        let mut good = probe("good");
        good["timeoutSeconds"] = 30.into();
        let container = json!({"name": "c", "image": image, "readinessProbe": good,
            "livenessProbe": probe(name), "volumeMounts": [{"name": "tools", "mountPath": "/tools"}]});
        world
            .pod(name, json!({"containers": [container], "volumes": volumes}))
            .await;
        world.until(name, is_ready).await;
        let told = world.message(name, "Unhealthy", expected).await;
        assert_eq!(told, expected);
    }
    world.stop().await;
}

async fn exec_hooks() {
    let world = World::new().await;
    let volumes = tools(&world).await;
    let image = world.image("spins", &guests::spins());
    let hook = |tool: &str| json!({"exec": {"command": [format!("/tools/{tool}")]}});
    let container = json!({"name": "c", "image": image,
        "lifecycle": {"postStart": hook("good"), "preStop": hook("bad")},
        "volumeMounts": [{"name": "tools", "mountPath": "/tools"}]});
    world
        .pod("p", json!({"containers": [container], "volumes": volumes}))
        .await;
    world.until("p", is_running).await;
    let api = world.api::<Pod>();
    api.delete("p", &DeleteParams::default())
        .await
        .expect("deleted");
    world.until_gone("p").await;
    let told = messages(&world, "p", "FailedPreStopHook").await;
    assert_eq!(told, ["PreStopHook failed"]);
    world.stop().await;
}
