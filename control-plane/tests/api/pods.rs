//! The life of a pod in the API: placed, deleted, seen by stock client machinery.

use std::{pin::pin, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{
        WatchStreamExt, reflector,
        wait::await_condition,
        watcher::{self, watcher},
    },
};
use serde_json::{Value, json};

use crate::harness::{Harness, check};

/// Only a broken scheduler takes this long.
pub(crate) const VERDICT_TIMEOUT: Duration = Duration::from_secs(30);

const PODS: &str = "/api/v1/namespaces/default/pods";

pub(crate) fn pod(name: &str, spec: Value) -> Pod {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
    }
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn node(name: &str, allocatable: Value) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"name": name}},
        "status": {
            "allocatable": allocatable,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }))
    .unwrap()
}

pub(crate) fn pods(api: &Harness) -> Api<Pod> {
    Api::namespaced(api.plane.client("default"), "default")
}

pub(crate) async fn create_pod(api: &Harness, name: &str, spec: Value) -> Pod {
    pods(api)
        .create(&PostParams::default(), &pod(name, spec))
        .await
        .unwrap()
}

pub(crate) async fn create_node(api: &Harness, name: &str, allocatable: Value) {
    let nodes: Api<Node> = Api::all(api.plane.client("default"));
    nodes
        .create(&PostParams::default(), &node(name, allocatable))
        .await
        .unwrap();
}

/// Waits until the scheduler's verdict is the expected one: the node, or why there is none.
///
/// An earlier verdict may have been given before the scheduler saw the newest node.
pub(crate) async fn verdict(api: &Harness, name: &str, expected: Result<&str, &str>) {
    let expected = expected.map(str::to_owned).map_err(str::to_owned);
    let decided = |pod: Option<&Pod>| pod.and_then(outcome).as_ref() == Some(&expected);
    let waiting = await_condition(pods(api), name, decided);
    if tokio::time::timeout(VERDICT_TIMEOUT, waiting)
        .await
        .is_err()
    {
        let pod = pods(api).get(name).await.unwrap();
        panic!("{name}: {:?} instead of {expected:?}", outcome(&pod));
    }
}

pub(crate) fn outcome(pod: &Pod) -> Option<Result<String, String>> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled")?;
    match condition.status.as_str() {
        "True" => Some(Ok(pod.spec.as_ref()?.node_name.clone()?)),
        _ => Some(Err(condition.message.clone()?)),
    }
}

pub(crate) fn roomy() -> Value {
    json!({"cpu": "2", "memory": "1Gi", "pods": "10"})
}

#[tokio::test]
async fn a_pod_is_placed_on_a_node_with_room() {
    let api = Harness::start().await;
    create_node(
        &api,
        "small",
        json!({"cpu": "1", "memory": "1Gi", "pods": "10"}),
    )
    .await;
    create_node(
        &api,
        "large",
        json!({"cpu": "4", "memory": "1Gi", "pods": "10"}),
    )
    .await;
    let requests = json!({"containers": [{"name": "c", "image": "i",
        "resources": {"requests": {"cpu": "3"}}}]});
    create_pod(&api, "a", requests).await;
    verdict(&api, "a", Ok("large")).await;
    create_pod(&api, "b", json!({"nodeSelector": {"name": "small"}})).await;
    verdict(&api, "b", Ok("small")).await;
    let events: Api<Event> = Api::namespaced(api.plane.client("default"), "default");
    let about_b = "involvedObject.name=b,reason=Scheduled";
    let seen = |event: Option<&Event>| event.is_some();
    let listed = || async {
        let list = events
            .list(&ListParams::default().fields(about_b))
            .await
            .unwrap();
        list.items.into_iter().next()
    };
    let mut event = listed().await;
    let mut changes = pin!(watcher(events.clone(), watcher::Config::default()).applied_objects());
    while !seen(event.as_ref()) {
        changes.next().await.unwrap().unwrap();
        event = listed().await;
    }
    assert_eq!(
        event.unwrap().message.unwrap(),
        "Successfully assigned default/b to small"
    );
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_is_told_why_and_placed_when_room_appears() {
    let api = Harness::start().await;
    create_node(&api, "n", json!({"cpu": "1", "memory": "1Gi", "pods": "1"})).await;
    for (name, spec, reason, hope) in [
        (
            "cpu",
            json!({"containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": "1500m"}}}]}),
            "1 Insufficient cpu",
            // The node itself is too small.
            "1 Preemption is not helpful for scheduling",
        ),
        (
            "selector",
            json!({"nodeSelector": {"name": "other"}}),
            "1 node(s) didn't match Pod's node affinity/selector",
            "1 Preemption is not helpful for scheduling",
        ),
    ] {
        create_pod(&api, name, spec).await;
        let told = format!(
            "0/1 nodes are available: {reason}. preemption: 0/1 nodes are available: {hope}."
        );
        verdict(&api, name, Err(&told)).await;
    }
    create_pod(&api, "first", json!({})).await;
    verdict(&api, "first", Ok("n")).await;
    create_pod(&api, "second", json!({})).await;
    verdict(
        &api,
        "second",
        Err(
            "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 \
             No preemption victims found for incoming pod.",
        ),
    )
    .await;
    let force = DeleteParams::default().grace_period(0);
    pods(&api).delete("first", &force).await.unwrap();
    let placed = |pod: Option<&Pod>| pod.is_some_and(|pod| matches!(outcome(pod), Some(Ok(_))));
    await_condition(pods(&api), "second", placed).await.unwrap();
}

#[tokio::test]
async fn host_ports_keep_pods_apart() {
    let api = Harness::start().await;
    create_node(&api, "n", roomy()).await;
    let spec = json!({"containers": [{"name": "c", "image": "i",
        "ports": [{"containerPort": 80, "hostPort": 8080}]}]});
    create_pod(&api, "a", spec.clone()).await;
    verdict(&api, "a", Ok("n")).await;
    create_pod(&api, "b", spec).await;
    let taken = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod \
        ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    verdict(&api, "b", Err(taken)).await;
}

#[tokio::test]
async fn a_pod_that_names_its_node_or_another_scheduler_is_left_alone() {
    let api = Harness::start().await;
    create_node(&api, "n", roomy()).await;
    create_pod(&api, "named", json!({"nodeName": "elsewhere"})).await;
    create_pod(&api, "foreign", json!({"schedulerName": "mine"})).await;
    // The scheduler takes pods in order, so its verdict on this one comes after the others.
    create_pod(&api, "ours", json!({})).await;
    verdict(&api, "ours", Ok("n")).await;
    let node_of = |pod: Pod| pod.spec.and_then(|spec| spec.node_name);
    assert_eq!(
        node_of(pods(&api).get("named").await.unwrap()).as_deref(),
        Some("elsewhere")
    );
    assert_eq!(node_of(pods(&api).get("foreign").await.unwrap()), None);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let api = Harness::start().await;
    create_pod(&api, "a", json!({"schedulerName": "mine"})).await;
    let path = format!("{PODS}/a/binding");
    let binding = |node: &str| json!({"metadata": {"name": "a"}, "target": {"name": node}});
    check(&api, "POST", &path, json!({"target": {}}), 422, json!({})).await;
    check(
        &api,
        "POST",
        &path,
        binding("n"),
        201,
        json!({"status": "Success"}),
    )
    .await;
    let refusal = json!({"message": "Operation cannot be fulfilled on pods/binding \"a\": pod a is already \
        assigned to node \"n\""});
    check(&api, "POST", &path, binding("m"), 409, refusal).await;
    check(
        &api,
        "GET",
        &format!("{PODS}/a"),
        Value::Null,
        200,
        json!({"spec": {"nodeName": "n"},
        "status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}),
    )
    .await;
}

#[tokio::test]
async fn a_running_pod_is_marked_and_removed_by_its_agent() {
    let api = Harness::start().await;
    let created = create_pod(&api, "a", json!({"nodeName": "n"})).await;
    let marked = pods(&api)
        .delete("a", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(marked.metadata.generation, Some(2));
    let status = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods(&api)
        .patch_status("a", &PatchParams::default(), &status)
        .await
        .unwrap();
    let stranger =
        DeleteParams::default()
            .grace_period(0)
            .preconditions(kube::api::Preconditions {
                uid: Some("x".to_owned()),
                resource_version: None,
            });
    let refused = pods(&api).delete("a", &stranger).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 409));
    let own = DeleteParams::default()
        .grace_period(0)
        .preconditions(kube::api::Preconditions {
            uid: created.uid(),
            resource_version: None,
        });
    pods(&api).delete("a", &own).await.unwrap();
    assert!(pods(&api).get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_taken_away() {
    let api = Harness::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(api.plane.client("default"), "default");
    let path = "/api/v1/namespaces/default/configmaps";
    let body = json!({"metadata": {"name": "a", "finalizers": ["x.y/z"]}});
    check(&api, "POST", path, body, 201, json!({})).await;
    let pending = maps
        .delete("a", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert!(pending.metadata.deletion_timestamp.is_some());
    let add = Patch::Merge(json!({"metadata": {"finalizers": ["x.y/z", "v.w/u"]}}));
    assert!(
        maps.patch("a", &PatchParams::default(), &add)
            .await
            .is_err()
    );
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("a", &PatchParams::default(), &free)
        .await
        .unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let api = Harness::start().await;
    for name in ["a", "b", "c"] {
        create_pod(&api, name, json!({"schedulerName": "mine"})).await;
    }
    let fields = ListParams::default().fields("metadata.name!=b");
    pods(&api)
        .delete_collection(&DeleteParams::default(), &fields)
        .await
        .unwrap();
    let left = pods(&api).list(&ListParams::default()).await.unwrap();
    assert_eq!(
        left.items
            .iter()
            .map(ResourceExt::name_any)
            .collect::<Vec<_>>(),
        ["b"]
    );
}

/// Stock machinery must follow every change, also when its watch is cut again and again.
#[tokio::test]
async fn a_reflector_ends_with_the_same_objects_as_the_server() {
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let api = Harness::with_history(8).await;
        let (reader, writer) = reflector::store();
        let stream = watcher(pods(&api), config)
            .default_backoff()
            .reflect(writer);
        let follow = tokio::spawn(stream.for_each(|_| async {}));
        reader.wait_until_ready().await.unwrap();
        let spec = || json!({"schedulerName": "mine"});
        for round in 0..40 {
            create_pod(&api, &format!("p{round}"), spec()).await;
            if round % 3 == 0 {
                pods(&api)
                    .delete(&format!("p{round}"), &DeleteParams::default())
                    .await
                    .unwrap();
            }
        }
        create_pod(&api, "last", spec()).await;
        let done = |pod: Option<&Pod>| pod.is_some();
        await_condition(pods(&api), "last", done).await.unwrap();
        let listed = pods(&api).list(&ListParams::default()).await.unwrap();
        let wanted: Vec<_> = listed.items.iter().map(ResourceExt::name_any).collect();
        loop {
            let mut found: Vec<_> = reader.state().iter().map(|pod| pod.name_any()).collect();
            found.sort();
            if found == wanted {
                break;
            }
            tokio::task::yield_now().await;
        }
        follow.abort();
    }
}

/// What `kubectl debug` does: one more container by the part of its own, and nothing else of the pod.
#[tokio::test]
async fn ephemeral_containers_are_added_by_their_own_part_and_nothing_else_is() {
    let api = Harness::start().await;
    create_pod(&api, "p", json!({})).await;
    let debugger = |spec: Value| {
        let mut spec = spec;
        spec["ephemeralContainers"] = json!([{"name": "d", "image": "i", "command": ["sh"],
            "stdin": true, "tty": true, "targetContainerName": "c"}]);
        Patch::Strategic(json!({"spec": spec}))
    };
    let (pods, params) = (pods(&api), PatchParams::default());
    let by_the_pod = pods.patch("p", &params, &debugger(json!({}))).await;
    assert!(by_the_pod.is_err(), "only by the part");
    let patch = debugger(json!({"activeDeadlineSeconds": 5}));
    let added = pods
        .patch_ephemeral_containers("p", &params, &patch)
        .await
        .unwrap();
    let spec = added.spec.unwrap();
    assert_eq!(spec.active_deadline_seconds, None, "nothing else");
    assert_eq!(added.metadata.generation, Some(2));
    let found = spec.ephemeral_containers.unwrap();
    assert_eq!(found[0].image_pull_policy.as_deref(), Some("Always"));
    let removal = Patch::Merge(json!({"spec": {"ephemeralContainers": null}}));
    let refused = pods
        .patch_ephemeral_containers("p", &params, &removal)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("may not be removed"), "{refused}");
    let mut read = pods.get_ephemeral_containers("p").await.unwrap();
    let list = read.spec.as_mut().unwrap().ephemeral_containers.as_mut();
    let list = list.unwrap();
    let mut second = list[0].clone();
    second.name = "e".to_owned();
    list.insert(0, second);
    let replaced = pods
        .replace_ephemeral_containers("p", &PostParams::default(), &read)
        .await
        .unwrap();
    assert_eq!(
        replaced.spec.unwrap().ephemeral_containers.unwrap().len(),
        2
    );
    let owners = serde_json::to_value(replaced.metadata.managed_fields).unwrap();
    assert!(
        owners.to_string().contains("\"ephemeralcontainers\""),
        "{owners}"
    );
}
