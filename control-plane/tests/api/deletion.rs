//! Deletions: options, finalizers, collections, evictions.

use serde_json::{Value, json};

use crate::harness::{Harness, check};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn create(api: &Harness, path: &str, body: Value) -> Value {
    check(api, "POST", path, body, 201, json!({})).await
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"name": name}}})
}

fn held(name: &str, finalizer: &str) -> Value {
    json!({"metadata": {"name": name, "finalizers": [finalizer]}})
}

/// A pod that somebody has placed, so that its deletion waits for a node agent.
fn placed(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "r.io/a:1"}]},
    })
}

#[tokio::test]
async fn what_a_deletion_answers() {
    let api = Harness::start().await;
    let created = create(&api, MAPS, map("a")).await;
    let path = &format!("{MAPS}/a");
    let expected = json!({"kind": "Status", "status": "Success", "details":
        {"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}});
    check(&api, "DELETE", path, Value::Null, 200, expected).await;
    let gone = json!({"reason": "NotFound", "message": "configmaps \"a\" not found"});
    check(&api, "DELETE", path, Value::Null, 404, gone).await;

    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    create(&api, accounts, map("a")).await;
    let last = json!({"kind": "ServiceAccount", "metadata": {"name": "a"}});
    check(
        &api,
        "DELETE",
        &format!("{accounts}/a"),
        Value::Null,
        200,
        last,
    )
    .await;
}

#[tokio::test]
async fn preconditions_protect_another_object_of_the_same_name() {
    let api = Harness::start().await;
    let created = create(&api, MAPS, map("a")).await;
    let path = &format!("{MAPS}/a");
    let (uid, version) = (
        created["metadata"]["uid"].as_str().unwrap(),
        created["metadata"]["resourceVersion"].as_str().unwrap(),
    );
    let stranger = json!({"preconditions": {"uid": "x"}});
    let refused = json!({"reason": "Conflict", "message": format!(
        "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (x) does \
         not match the UID in record ({uid}). The object might have been deleted and then \
         recreated")});
    check(&api, "DELETE", path, stranger, 409, refused).await;
    let older = json!({"preconditions": {"uid": uid, "resourceVersion": "1"}});
    let refused = json!({"reason": "Conflict", "message": format!(
        "Operation cannot be fulfilled on ConfigMap \"a\": the ResourceVersion in the \
         precondition (1) does not match the ResourceVersion in record ({version}). The object \
         might have been modified")});
    check(&api, "DELETE", path, older, 409, refused).await;
    let own = json!({"kind": "DeleteOptions", "apiVersion": "apps/v1",
        "preconditions": {"uid": uid, "resourceVersion": version}});
    check(&api, "DELETE", path, own, 200, json!({})).await;
}

#[tokio::test]
async fn a_dry_run_deletes_nothing_and_shows_what_it_would_do() {
    let api = Harness::start().await;
    create(&api, MAPS, map("a")).await;
    create(&api, MAPS, held("b", "x.y/z")).await;
    let dry = json!({"dryRun": ["All"]});
    let a = &format!("{MAPS}/a");
    check(
        &api,
        "DELETE",
        a,
        dry.clone(),
        200,
        json!({"status": "Success"}),
    )
    .await;
    let b = &format!("{MAPS}/b");
    let marked = json!({"metadata": {"deletionGracePeriodSeconds": 0}});
    check(&api, "DELETE", b, dry.clone(), 200, marked).await;
    let all = json!({"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]});
    let selected = &format!("{MAPS}?fieldSelector=metadata.name%21%3Dkube-root-ca.crt");
    check(&api, "DELETE", selected, dry, 200, all.clone()).await;
    let unmarked = json!({"metadata": {"deletionTimestamp": null}});
    check(&api, "GET", a, Value::Null, 200, unmarked.clone()).await;
    check(&api, "GET", b, Value::Null, 200, unmarked).await;
}

#[tokio::test]
async fn a_finalizer_keeps_an_object_and_its_last_one_lets_it_go() {
    let api = Harness::start().await;
    create(&api, MAPS, held("a", "x.y/z")).await;
    let path = &format!("{MAPS}/a");
    // What clients from before propagation policies send is answered with 202.
    let orphan = json!({"orphanDependents": false});
    let marked = json!({"metadata": {"deletionGracePeriodSeconds": 0, "finalizers": ["x.y/z"]}});
    check(&api, "DELETE", path, orphan, 202, marked.clone()).await;
    check(&api, "DELETE", path, Value::Null, 200, marked).await;
    let mut freed = check(&api, "GET", path, Value::Null, 200, json!({})).await;
    freed["metadata"]["finalizers"] = json!([]);
    check(&api, "PUT", path, freed, 200, json!({})).await;
    check(&api, "GET", path, Value::Null, 404, json!({})).await;
}

#[tokio::test]
async fn wrong_options_are_refused_by_name() {
    let api = Harness::start().await;
    create(&api, MAPS, map("a")).await;
    let path = &format!("{MAPS}/a?propagationPolicy=Sideways");
    let refused = json!({"reason": "Invalid", "details": {"group": "meta.k8s.io",
        "kind": "DeleteOptions", "causes": [{"field": "propagationPolicy"}]}});
    check(&api, "DELETE", path, Value::Null, 422, refused.clone()).await;
    let both = json!({"orphanDependents": true, "propagationPolicy": "Orphan"});
    check(&api, "DELETE", &format!("{MAPS}/a"), both, 422, refused).await;
}

#[tokio::test]
async fn a_collection_is_deleted_page_by_page() {
    let api = Harness::start().await;
    for name in ["a", "b", "c"] {
        let body = json!({"metadata": {"name": name, "labels": {"app": "x"}}});
        create(&api, MAPS, body).await;
    }
    create(&api, MAPS, map("d")).await;
    let first = &format!("{MAPS}?labelSelector=app%3Dx&limit=2");
    let expected = json!({"kind": "ConfigMapList",
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]});
    let page = check(&api, "DELETE", first, Value::Null, 200, expected).await;
    let next = page["metadata"]["continue"].as_str().unwrap();
    let rest = &format!("{first}&continue={next}");
    let expected = json!({"items": [{"metadata": {"name": "c"}}]});
    check(&api, "DELETE", rest, Value::Null, 200, expected).await;
    let left = &format!("{MAPS}?labelSelector=name%3Dd");
    let expected = json!({"items": [{"metadata": {"name": "d"}}]});
    check(&api, "GET", left, Value::Null, 200, expected).await;
    check(
        &api,
        "GET",
        &format!("{MAPS}?labelSelector=app%3Dx"),
        Value::Null,
        200,
        json!({"items": []}),
    )
    .await;
}

#[tokio::test]
async fn an_eviction_says_why_the_pod_ends() {
    let api = Harness::start().await;
    let created = create(&api, PODS, placed("a")).await;
    let path = &format!("{PODS}/a/eviction");
    let eviction = |options: Value| {
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"},
            "deleteOptions": options})
    };
    let stranger = eviction(json!({"preconditions": {"uid": "x"}}));
    check(
        &api,
        "POST",
        path,
        stranger,
        409,
        json!({"reason": "Conflict"}),
    )
    .await;
    let success = json!({"kind": "Status", "status": "Success"});
    let dry = eviction(json!({"dryRun": ["All"]}));
    check(&api, "POST", path, dry, 201, success.clone()).await;
    let pod = &format!("{PODS}/a");
    let untouched =
        json!({"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}});
    check(&api, "GET", pod, Value::Null, 200, untouched).await;
    let version = &created["metadata"]["resourceVersion"];
    let options = json!({"gracePeriodSeconds": 7, "preconditions": {"resourceVersion": version}});
    check(&api, "POST", path, eviction(options), 201, success).await;
    let ending = json!({"metadata": {"deletionGracePeriodSeconds": 7}, "status": {"conditions":
        [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting"}]}});
    check(&api, "GET", pod, Value::Null, 200, ending).await;
    let other = json!({"metadata": {"name": "b"}});
    let refused = json!({"message": "name in URL does not match name in Eviction object"});
    check(&api, "POST", path, other, 400, refused).await;
}
