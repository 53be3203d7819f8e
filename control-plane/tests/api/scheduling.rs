//! How the scheduler deals with gates, affinity, priorities and crowds.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};

use crate::{
    harness::Harness,
    pods::{VERDICT_TIMEOUT, create_node, create_pod, outcome, pods, roomy, verdict},
};

fn cpu(amount: &str, more: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "i",
        "resources": {"requests": {"cpu": amount}}}]});
    let more = more.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(more);
    spec
}

/// Waits until a pod is as wanted; only a broken scheduler takes the whole time.
async fn until(api: &Harness, name: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
    let condition = |pod: Option<&Pod>| pod.is_some_and(&wanted);
    let waiting = await_condition(pods(api), name, condition);
    let found = tokio::time::timeout(VERDICT_TIMEOUT, waiting).await;
    match found {
        Ok(pod) => pod.unwrap().unwrap(),
        Err(_) => panic!("{:?}", pods(api).get(name).await),
    }
}

/// Returns the events of a kind about a pod as soon as there are some.
async fn events(api: &Harness, name: &str, reason: &str) -> Vec<Event> {
    let events: Api<Event> = Api::namespaced(api.plane.client("default"), "default");
    let fields = format!("involvedObject.name={name},reason={reason}");
    let begun = Instant::now();
    loop {
        let found = events.list(&ListParams::default().fields(&fields)).await;
        let found = found.unwrap().items;
        assert!(
            begun.elapsed() < VERDICT_TIMEOUT,
            "no event {reason} of {name}"
        );
        if !found.is_empty() {
            return found;
        }
        tokio::task::yield_now().await;
    }
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|one| one.type_ == kind)?;
    let text = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
    Some((&found.status, text(&found.reason), text(&found.message)))
}

#[tokio::test]
async fn a_gated_pod_waits_for_its_last_gate() {
    let api = Harness::start().await;
    create_node(&api, "n", roomy()).await;
    let gates = json!({"schedulingGates": [{"name": "x.y/one"}, {"name": "x.y/two"}]});
    let gated = create_pod(&api, "gated", gates).await;
    let told = (
        "False",
        "SchedulingGated",
        "Scheduling is blocked due to non-empty scheduling gates",
    );
    assert_eq!(condition(&gated, "PodScheduled"), Some(told));
    let gates = |gates: Value| Patch::Merge(json!({"spec": {"schedulingGates": gates}}));
    let params = PatchParams::default();
    let patch = |gates: Patch<Value>| {
        let (api, params) = (pods(&api), params.clone());
        async move { api.patch("gated", &params, &gates).await }
    };
    patch(gates(json!([{"name": "x.y/two"}]))).await.unwrap();
    let refused = patch(gates(json!([{"name": "x.y/one"}, {"name": "x.y/two"}]))).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("only deletion is allowed"), "{refused}");
    // A pod made later is placed first, so the gate has really held.
    create_pod(&api, "free", json!({})).await;
    verdict(&api, "free", Ok("n")).await;
    let held = pods(&api).get("gated").await.unwrap();
    assert_eq!(held.spec.unwrap().node_name, None);
    patch(gates(json!([]))).await.unwrap();
    verdict(&api, "gated", Ok("n")).await;
}

#[tokio::test]
async fn affinity_decides_over_the_node() {
    let api = Harness::start().await;
    for name in ["a", "b"] {
        create_node(&api, name, roomy()).await;
    }
    let on = |name: &str| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions":
                [{"key": "name", "operator": "In", "values": [name]}]}]}}}})
    };
    create_pod(&api, "first", on("b")).await;
    verdict(&api, "first", Ok("b")).await;
    create_pod(&api, "nowhere", on("c")).await;
    let told = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    verdict(&api, "nowhere", Err(told)).await;
    let near = |kind: &str| {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "name", "labelSelector": {"matchLabels": {"app": "db"}}}]}}})
    };
    // Nobody is there yet; the pod it wants to be near comes later.
    create_pod(&api, "near", near("podAffinity")).await;
    let told = "0/2 nodes are available: 2 node(s) didn't match pod affinity rules. preemption: \
         0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    verdict(&api, "near", Err(told)).await;
    let mut db = crate::pods::pod("db", on("b"));
    db.labels_mut().insert("app".to_owned(), "db".to_owned());
    pods(&api).create(&Default::default(), &db).await.unwrap();
    verdict(&api, "near", Ok("b")).await;
    create_pod(&api, "apart", near("podAntiAffinity")).await;
    verdict(&api, "apart", Ok("a")).await;
}

async fn create_class(api: &Harness, class: Value) {
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
    crate::harness::check(api, "POST", path, class, 201, json!({})).await;
}

#[tokio::test]
async fn a_more_important_pod_pushes_others_away() {
    let api = Harness::start().await;
    create_node(
        &api,
        "n",
        json!({"cpu": "2", "memory": "1Gi", "pods": "10"}),
    )
    .await;
    for (name, value) in [("low", 1), ("middle", 5), ("six", 6), ("seven", 7)] {
        create_class(&api, json!({"metadata": {"name": name}, "value": value})).await;
    }
    let modest = json!({"metadata": {"name": "modest"}, "value": 9, "preemptionPolicy": "Never"});
    create_class(&api, modest).await;
    for name in ["low", "middle"] {
        create_pod(&api, name, cpu("1", json!({"priorityClassName": name}))).await;
        verdict(&api, name, Ok("n")).await;
    }
    let modest = json!({"priorityClassName": "modest"});
    create_pod(&api, "modest", cpu("1", modest)).await;
    let told = "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to \
         preemptionPolicy=Never.";
    verdict(&api, "modest", Err(told)).await;
    pods(&api)
        .delete("modest", &DeleteParams::default())
        .await
        .unwrap();
    let high = create_pod(
        &api,
        "high",
        cpu("1", json!({"priorityClassName": "seven"})),
    )
    .await;
    let victim = until(&api, "low", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    let why = (
        "True",
        "PreemptionByScheduler",
        "default-scheduler: preempting to accommodate a higher priority pod",
    );
    assert_eq!(condition(&victim, "DisruptionTarget"), Some(why));
    assert_eq!(victim.metadata.deletion_grace_period_seconds, Some(30));
    let nominated = until(&api, "high", |pod| {
        let status = pod.status.as_ref();
        status.and_then(|status| status.nominated_node_name.as_deref()) == Some("n")
    });
    nominated.await;
    let told = "0/1 nodes are available: 1 Insufficient cpu.";
    verdict(&api, "high", Err(told)).await;
    let told = events(&api, "low", "Preempted").await;
    let message = format!("Preempted by pod {} on node n", high.uid().unwrap());
    assert_eq!(told[0].message.as_deref(), Some(&*message));
    let told = events(&api, "high", "FailedScheduling").await;
    assert_eq!(told[0].count, Some(1));
    // A rival comes before the room is free and does not get it.
    create_pod(&api, "rival", cpu("1", json!({"priorityClassName": "six"}))).await;
    // It cannot have the promised place, but there is someone less important still.
    until(&api, "middle", |pod| {
        pod.metadata.deletion_timestamp.is_some()
    })
    .await;
    let force = DeleteParams::default().grace_period(0);
    pods(&api).delete("low", &force).await.unwrap();
    verdict(&api, "high", Ok("n")).await;
    let rival = pods(&api).get("rival").await.unwrap();
    assert!(!matches!(outcome(&rival), Some(Ok(_))), "{rival:?}");
    pods(&api).delete("middle", &force).await.unwrap();
    verdict(&api, "rival", Ok("n")).await;
}

/// Three hundred pods that fit one by one as others leave, and no message told twice.
#[tokio::test]
async fn a_crowd_is_served_as_room_appears() {
    let api = Harness::start().await;
    create_node(
        &api,
        "n",
        json!({"cpu": "64", "memory": "64Gi", "pods": "100"}),
    )
    .await;
    for number in 0..300 {
        create_pod(&api, &format!("p{number}"), json!({})).await;
    }
    let force = DeleteParams::default().grace_period(0);
    let mut placed = 0;
    let begun = Instant::now();
    while placed < 300 {
        let list = pods(&api).list(&ListParams::default()).await.unwrap();
        for pod in list.items {
            if matches!(outcome(&pod), Some(Ok(_))) {
                pods(&api).delete(&pod.name_any(), &force).await.unwrap();
                placed += 1;
            }
        }
        assert!(begun.elapsed() < VERDICT_TIMEOUT, "{placed} placed");
        tokio::task::yield_now().await;
    }
    let events: Api<Event> = Api::namespaced(api.plane.client("default"), "default");
    let fields = ListParams::default().fields("reason=FailedScheduling");
    let told = events.list(&fields).await.unwrap().items;
    assert!(!told.is_empty());
    assert!(told.iter().all(|event| event.count == Some(1)), "{told:?}");
}
