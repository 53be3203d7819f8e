//! The kubelet API of a node at work: logs as they are written, and what is said when there are none.

use std::time::Duration;

use bytes::Bytes;
use coracle_kubelet_shim::KubeletBody;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;
use tower::ServiceExt;

use crate::guests;
use crate::pods::{is_over, is_running, one, run};
use crate::world::{World, container, waiting_reason};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_log_is_followed_until_its_container_ends", || {
        run(followed())
    }),
    ("logs_of_ended_containers_are_kept", || run(kept())),
    (
        "a_last_line_without_a_line_feed_is_told_without_one",
        || run(broken_off()),
    ),
    ("a_missing_log_is_explained", || run(missing())),
];

/// Only a broken promise takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

async fn get(world: &World, path: &str) -> Response<KubeletBody> {
    let request = Request::get(path).body(Empty::<Bytes>::new());
    let request = request.expect("a request");
    let answer = world.agent.kubelet().oneshot(request).await;
    answer.expect("every request is answered")
}

pub(crate) async fn check(world: &World, path: &str, code: u16, expected: &str) {
    let text = text(world, path, code).await;
    assert_eq!(text, expected, "{path}");
}

/// Returns the answer of a path.
pub(crate) async fn text(world: &World, path: &str, code: u16) -> String {
    let answer = get(world, path).await;
    assert_eq!(answer.status().as_u16(), code, "{path}");
    let body = answer.into_body().collect().await.expect("a body");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

async fn followed() {
    let world = World::new().await;
    let image = world.image("spins", &guests::says_and_spins("hello"));
    world.pod("p", json!({"containers": one(&image)})).await;
    world.until("p", is_running).await;
    let path = "/containerLogs/default/p/main?follow=true";
    let mut body = get(&world, path).await.into_body();
    let next = tokio::time::timeout(PATIENCE, body.frame()).await;
    let frame = next.expect("a line in time").expect("a line");
    assert_eq!(
        frame.expect("it is read").into_data().ok().as_deref(),
        Some(&b"hello\n"[..])
    );
    let mut end = Box::pin(body.frame());
    let nothing = futures::poll!(end.as_mut());
    assert!(nothing.is_pending(), "the container still lives");
    let now = DeleteParams::default().grace_period(1);
    world.api::<Pod>().delete("p", &now).await.expect("deleted");
    let end = tokio::time::timeout(PATIENCE, end).await;
    assert!(end.expect("an end in time").is_none());
    world.until_gone("p").await;
    world.stop().await;
}

async fn kept() {
    let world = World::new().await;
    let image = world.image("ends", &guests::says_and_exits("bye", 3));
    let spec = json!({"restartPolicy": "Never", "containers": one(&image)});
    world.pod("once", spec).await;
    world.until("once", is_over).await;
    check(&world, "/containerLogs/default/once/main", 200, "bye\n").await;
    let path = "/containerLogs/default/once/main?follow=true&tailLines=1&limitBytes=2";
    check(&world, path, 200, "by").await;
    world.pod("again", json!({"containers": one(&image)})).await;
    let restarted = |pod: &Pod| container(pod).is_some_and(|one| one.restart_count > 0);
    world.until("again", restarted).await;
    let path = "/containerLogs/default/again/main?previous=true";
    check(&world, path, 200, "bye\n").await;
    world.stop().await;
}

async fn broken_off() {
    let mut world = World::new().await;
    let image = world.image("ends", &guests::breaks_off_and_exits("DONE", 3));
    let mut containers = one(&image);
    containers[0]["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let spec = json!({"restartPolicy": "Never", "containers": containers});
    world.pod("p", spec).await;
    let pod = world.until("p", is_over).await;
    let state = container(&pod).and_then(|one| one.state.clone());
    let message = state.and_then(|state| state.terminated?.message);
    assert_eq!(message.as_deref(), Some("DONE"));
    let path = "/containerLogs/default/p/main";
    for query in ["", "?tailLines=1", "?follow=true"] {
        check(&world, &format!("{path}{query}"), 200, "DONE").await;
    }
    let stamped = text(&world, &format!("{path}?timestamps=true"), 200).await;
    assert!(stamped.ends_with("Z DONE"), "{stamped}");
    assert_eq!(world.line().await, "DONE");
    world.stop().await;
}

async fn missing() {
    let world = World::new().await;
    check(&world, "/healthz", 200, "ok").await;
    check(&world, "/nowhere", 404, "404 page not found").await;
    let debug = "/debug/pprof";
    check(
        &world,
        debug,
        501,
        "`/debug` is not served by this node yet",
    )
    .await;
    let path = "/containerLogs/default/p/main";
    check(&world, path, 404, "pod \"p\" does not exist").await;
    let image = json!([{"name": "main", "image": "localhost/none:1", "imagePullPolicy": "Never"}]);
    world.pod("p", json!({"containers": image})).await;
    let refused = |pod: &Pod| waiting_reason(pod) == Some("ErrImageNeverPull");
    world.until("p", refused).await;
    let text = "container \"main\" in pod \"p\" is waiting to start: ErrImageNeverPull";
    check(&world, path, 400, text).await;
    let text = "previous terminated container \"main\" in pod \"p\" not found";
    check(
        &world,
        "/containerLogs/default/p/main?previous=true",
        400,
        text,
    )
    .await;
    let text = "container \"other\" not found in pod \"p\"";
    check(&world, "/containerLogs/default/p/other", 404, text).await;
    let pods = get(&world, "/pods").await.into_body().collect().await;
    let pods = pods.expect("a body").to_bytes();
    let pods: serde_json::Value = serde_json::from_slice(&pods).expect("JSON");
    assert_eq!(pods["items"][0]["metadata"]["name"], "p");
    world.stop().await;
}
