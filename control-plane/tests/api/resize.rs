//! What containers request and may use is changed by a part of its own.

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::{
    harness::{Harness, check},
    pods::{create_node, create_pod, pods, verdict},
};

fn resources(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}})
}

fn container(resources: Value) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": resources}]})
}

/// What `kubectl patch --subresource resize` does.
async fn resize(
    api: &Harness,
    resources: Value,
) -> Result<k8s_openapi::api::core::v1::Pod, String> {
    let patch = Patch::Strategic(json!({"spec": {
        "containers": [{"name": "c", "resources": resources}]}}));
    let params = PatchParams::default();
    let answer = pods(api)
        .patch_subresource("resize", "p", &params, &patch)
        .await;
    answer.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_resize_changes_what_containers_have_and_nothing_else() {
    let api = Harness::start().await;
    create_pod(&api, "p", container(resources("1", "1Gi"))).await;
    let patch = Patch::Merge(json!({"spec": container(resources("2", "1Gi"))}));
    let by_the_pod = pods(&api).patch("p", &PatchParams::default(), &patch).await;
    assert!(by_the_pod.is_err(), "only by the part");
    let resized = resize(&api, resources("2", "512Mi")).await.unwrap();
    assert_eq!(resized.metadata.generation, Some(2));
    let spec = resized.spec.as_ref().unwrap();
    let requests = spec.containers[0].resources.as_ref().unwrap();
    let requests = requests.requests.as_ref().unwrap();
    assert_eq!(
        (&*requests["cpu"].0, &*requests["memory"].0),
        ("2", "512Mi")
    );
    let owners = serde_json::to_value(&resized.metadata.managed_fields).unwrap();
    assert!(owners.to_string().contains("\"resize\""), "{owners}");
    let mut read = pods(&api).get_subresource("resize", "p").await.unwrap();
    let spec = read.spec.as_mut().unwrap();
    spec.active_deadline_seconds = Some(5);
    let limits = json!({"requests": {"cpu": "3", "memory": "1Gi"}, "limits": {"cpu": "4"}});
    spec.containers[0].resources = serde_json::from_value(limits).unwrap();
    let replaced = pods(&api)
        .replace_subresource("resize", "p", &PostParams::default(), &read)
        .await
        .unwrap();
    let spec = replaced.spec.unwrap();
    assert_eq!(spec.active_deadline_seconds, None, "nothing else");
    assert_eq!(spec.containers[0].resources, {
        let wanted = json!({"requests": {"cpu": "3", "memory": "1Gi"}, "limits": {"cpu": "4"}});
        serde_json::from_value(wanted).unwrap()
    });
    let guaranteed =
        json!({"requests": {"cpu": "4", "memory": "1Gi"}, "limits": {"memory": "1Gi"}});
    let refused = resize(&api, guaranteed).await.unwrap_err();
    assert!(
        refused.contains("Pod QOS Class may not change"),
        "{refused}"
    );
}

/// A namespace's rules hold for what a pod becomes, too.
#[tokio::test]
async fn ranges_and_quotas_hold_for_a_resize() {
    let api = Harness::start().await;
    create_pod(&api, "p", container(resources("1", "1Gi"))).await;
    let of = |kind: &str| format!("/api/v1/namespaces/default/{kind}");
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "min": {"memory": "512Mi"}}]}});
    check(&api, "POST", &of("limitranges"), range, 201, json!({})).await;
    let refused = resize(&api, resources("1", "1Mi")).await.unwrap_err();
    assert!(
        refused.contains("minimum memory usage per Container"),
        "{refused}"
    );
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "2"}}});
    check(&api, "POST", &of("resourcequotas"), quota, 201, json!({})).await;
    resize(&api, resources("2", "1Gi")).await.unwrap();
    let refused = resize(&api, resources("3", "1Gi")).await.unwrap_err();
    assert!(refused.contains("exceeded quota: q"), "{refused}");
}

/// What a node has given out counts until the node says otherwise.
#[tokio::test]
async fn a_pod_takes_what_it_wants_or_has_whichever_is_more() {
    let api = Harness::start().await;
    create_node(&api, "n", json!({"cpu": "4", "memory": "8Gi", "pods": "9"})).await;
    create_pod(&api, "p", container(resources("3", "1Gi"))).await;
    verdict(&api, "p", Ok("n")).await;
    let has = json!({"status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "",
        "ready": true, "restartCount": 0, "state": {"running": {}},
        "allocatedResources": {"cpu": "3", "memory": "1Gi"}, "resources": resources("3", "1Gi")}]}});
    let params = PatchParams::default();
    pods(&api)
        .patch_status("p", &params, &Patch::Strategic(has))
        .await
        .unwrap();
    resize(&api, resources("1", "1Gi")).await.unwrap();
    create_pod(&api, "q", container(resources("2", "1Gi"))).await;
    let full = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No \
                preemption victims found for incoming pod.";
    verdict(&api, "q", Err(full)).await;
    let has = json!({"status": {"containerStatuses": [{"name": "c",
        "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}}}]}});
    pods(&api)
        .patch_status("p", &params, &Patch::Strategic(has))
        .await
        .unwrap();
    verdict(&api, "q", Ok("n")).await;
}
