//! Patches and updates.

use serde_json::{Value, json};

use crate::harness::{Harness, check};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {
        "schedulerName": "none",
        "containers": [{"name": "a", "image": "registry.example/a:1"}]}})
}

#[tokio::test]
async fn three_kinds_of_patches_apply_and_others_are_refused() {
    let api = Harness::start().await;
    let body = json!({"metadata": {"name": "m"}, "data": {"a": "1"}});
    check(&api, "POST", CONFIG_MAPS, body, 201, json!({})).await;
    let path = format!("{CONFIG_MAPS}/m");
    for (media, patch, code, data) in [
        (
            "application/json-patch+json",
            json!([{"op": "add", "path": "/data/b", "value": "2"}]),
            200,
            json!({"a": "1", "b": "2"}),
        ),
        (
            "application/json-patch+json",
            json!([{"op": "test", "path": "/data/b", "value": "3"}]),
            422,
            Value::Null,
        ),
        (
            "application/json-patch+json",
            json!({"op": "add"}),
            400,
            Value::Null,
        ),
        (
            "application/merge-patch+json",
            json!({"data": {"a": null}}),
            200,
            json!({"b": "2"}),
        ),
        (
            "application/strategic-merge-patch+json",
            json!({"data": {"c": "3"}}),
            200,
            json!({"b": "2", "c": "3"}),
        ),
        (
            "application/merge-patch+json",
            json!({"metadata": {"name": "x"}}),
            400,
            Value::Null,
        ),
        (
            "application/merge-patch+json",
            json!({"metadata": {"resourceVersion": "1"}}),
            409,
            Value::Null,
        ),
        ("application/apply-patch+cbor", json!({}), 415, Value::Null),
        ("application/json", json!({}), 415, Value::Null),
    ] {
        let (found, answer) = api.send("PATCH", &path, media, &patch).await;
        assert_eq!(
            (found, &answer["data"]),
            (code, &data),
            "{media} {patch}: {answer}"
        );
    }
}

/// Sends a change; the answer must have this code, and this message if it is a refusal.
async fn refuse(api: &Harness, path: &str, media: &str, body: Value, code: u16, message: &str) {
    let method = if media == JSON { "PUT" } else { "PATCH" };
    let (found, answer) = api.send(method, path, media, &body).await;
    let expected = (code, Some(message));
    assert_eq!(
        (found, answer["message"].as_str()),
        expected,
        "{media} {body}"
    );
}

#[tokio::test]
// tidy: table, because each line is a request and the failure it meets
async fn patches_that_make_no_sense_are_refused_in_kubernetes_words() {
    let api = Harness::start().await;
    check(&api, "POST", PODS, pod("p"), 201, json!({})).await;
    let path = format!("{PODS}/p");
    let generic = "the server rejected our request due to an error in our request";
    for (media, patch, code, message) in [
        (
            JSON_PATCH,
            json!([{"op": "test", "path": "/kind", "value": 1}]),
            422,
            generic,
        ),
        (
            JSON_PATCH,
            json!([{"op": "remove", "path": "/nowhere"}]),
            422,
            generic,
        ),
        (
            JSON_PATCH,
            json!([{"op": "jump", "path": "/kind"}]),
            422,
            generic,
        ),
        (
            JSON_PATCH,
            json!({}),
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type \
             []handlers.jsonPatchOp",
        ),
        (
            MERGE,
            json!([]),
            400,
            "error decoding patch: json: cannot unmarshal array into Go value of type \
             map[string]interface {}",
        ),
        (
            STRATEGIC,
            json!({"spec": {"$patch": "explode"}}),
            500,
            "unknown patch type: explode in map: map[$patch:explode]",
        ),
        (
            STRATEGIC,
            json!({"spec": {"$retainKeys": ["a"], "b": 1}}),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            STRATEGIC,
            json!({"spec": {"containers": [{"image": "x"}]}}),
            500,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            MERGE,
            json!({"metadata": {"uid": "other"}}),
            422,
            "Pod \"p\" is invalid: metadata.uid: Invalid value: \"other\": field is immutable",
        ),
        (
            MERGE,
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            422,
            "Pod \"p\" is invalid: metadata.deletionTimestamp: Invalid value: \
             \"2026-01-01T00:00:00Z\": field is immutable",
        ),
        (
            MERGE,
            json!({"metadata": {"name": null}}),
            400,
            "the name of the object (p based on URL) was undeterminable: name must be provided",
        ),
        (
            STRATEGIC,
            json!({"metadata": {"labels": {"a": 1}}}),
            422,
            " \"\" is invalid: patch: Invalid value: \"map[metadata:map[labels:map[a:1]]]\": json: \
             cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type \
             string",
        ),
    ] {
        refuse(&api, &path, media, patch, code, message).await;
    }
    let missing = format!("{PODS}/q");
    refuse(
        &api,
        &missing,
        MERGE,
        json!({}),
        404,
        "pods \"q\" not found",
    )
    .await;
    let forced = format!("{path}?force=true");
    let message = "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be \
                   specified for non-apply patch";
    refuse(&api, &forced, MERGE, json!({}), 422, message).await;
    let (code, answer) = api
        .send("PATCH", &path, "application/yaml", &json!({}))
        .await;
    let accepted = "the body of the request was in an unknown format - accepted media types \
                    include: application/json-patch+json, application/merge-patch+json, \
                    application/strategic-merge-patch+json, application/apply-patch+yaml";
    assert_eq!((code, &answer["message"]), (415, &json!(accepted)));
}

#[tokio::test]
async fn unknown_fields_of_a_patch_are_refused_or_dropped_as_asked() {
    let api = Harness::start().await;
    check(&api, "POST", PODS, pod("p"), 201, json!({})).await;
    let patch = json!({"metadata": {"colour": "red"}});
    let strict = format!("{PODS}/p?fieldValidation=Strict");
    let (code, answer) = api.send("PATCH", &strict, MERGE, &patch).await;
    let message = answer["message"].as_str().unwrap();
    assert_eq!(code, 422, "{answer}");
    assert!(
        message.ends_with("strict decoding error: unknown field \"metadata.colour\""),
        "{message}"
    );
    assert_eq!(answer["details"]["causes"][0]["field"], "patch");
    let path = format!("{PODS}/p");
    let response = api.response("PATCH", &path, MERGE, patch.to_string()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["warning"],
        "299 - \"unknown field \\\"metadata.colour\\\"\""
    );
}

#[tokio::test]
async fn json_patches_cannot_blow_an_object_up() {
    let api = Harness::start().await;
    let body = json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(100_000)}});
    check(&api, "POST", CONFIG_MAPS, body, 201, json!({})).await;
    let path = format!("{CONFIG_MAPS}/m");
    let doubled: Vec<_> = (0..40)
        .map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/x{n}")}))
        .collect();
    let mut deep = String::new();
    let nested: Vec<_> = (0..200)
        .map(|_| {
            deep.push_str("/a");
            json!({"op": "add", "path": deep, "value": {}})
        })
        .collect();
    for (operations, code) in [
        (json!(doubled), 422),
        (json!(nested), 422),
        (
            json!(vec![
                json!({"op": "test", "path": "/kind", "value": "ConfigMap"});
                10_001
            ]),
            413,
        ),
    ] {
        let (found, answer) = api.send("PATCH", &path, JSON_PATCH, &operations).await;
        assert_eq!(found, code, "{answer}");
    }
    check(&api, "GET", &path, Value::Null, 200, json!({})).await;
}

#[tokio::test]
async fn an_update_keeps_what_belongs_to_the_server() {
    let api = Harness::start().await;
    let created = check(&api, "POST", PODS, pod("p"), 201, json!({})).await;
    let path = format!("{PODS}/p");
    let mut changed = created.clone();
    changed["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    changed["metadata"]["generation"] = json!(9);
    changed["metadata"]["selfLink"] = json!("/x");
    changed["metadata"]["labels"]["b"] = json!("c");
    changed["status"]["phase"] = json!("Failed");
    let updated = check(&api, "PUT", &path, changed.clone(), 200, json!({})).await;
    assert_eq!(
        updated["metadata"]["labels"],
        json!({"app": "web", "b": "c"})
    );
    for field in ["creationTimestamp", "generation", "uid", "selfLink"] {
        assert_eq!(
            updated["metadata"][field], created["metadata"][field],
            "{field}"
        );
    }
    assert_eq!(updated["status"], created["status"]);
    // The same once more changes nothing, so it gets no revision of its own.
    let mut again = updated.clone();
    again["status"]["phase"] = json!("Failed");
    let unchanged = check(&api, "PUT", &path, again, 200, json!({})).await;
    assert_eq!(unchanged, updated);
    refuse(
        &api,
        &path,
        JSON,
        changed,
        409,
        "Operation cannot be fulfilled on pods \"p\": the object has been modified; please apply \
         your changes to the latest version and try again",
    )
    .await;
    let mut other = updated.clone();
    other["metadata"]["uid"] = json!("other");
    let uid = updated["metadata"]["uid"].as_str().unwrap();
    let message = format!(
        "Operation cannot be fulfilled on pods \"p\": Precondition failed: UID in precondition: \
         other, UID in object meta: {uid}"
    );
    refuse(&api, &path, JSON, other, 409, &message).await;
    let nameless = json!({"metadata": {}});
    let message = "the name of the object (p based on URL) was undeterminable: name must be \
                   provided";
    refuse(&api, &path, JSON, nameless, 400, message).await;
}

#[tokio::test]
async fn an_owner_that_is_there_twice_is_dropped_with_a_warning() {
    let api = Harness::start().await;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "u"});
    let mut body = pod("p");
    body["metadata"]["ownerReferences"] = json!([owner, owner]);
    let response = api.response("POST", PODS, JSON, body.to_string()).await;
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().unwrap();
    assert!(
        warning.starts_with("299 - \".metadata.ownerReferences contains duplicate entries; API"),
        "{warning}"
    );
    let expected = json!({"metadata": {"ownerReferences": [{"uid": "u"}]}});
    check(
        &api,
        "GET",
        &format!("{PODS}/p"),
        Value::Null,
        200,
        expected,
    )
    .await;
}

#[tokio::test]
async fn the_status_of_a_pod_takes_labels_but_no_spec_and_no_owners() {
    let api = Harness::start().await;
    let created = check(&api, "POST", PODS, pod("p"), 201, json!({})).await;
    let path = format!("{PODS}/p/status");
    let patch = json!({
        "metadata": {"labels": {"b": "c"}, "ownerReferences":
            [{"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "u"}]},
        "spec": {"activeDeadlineSeconds": 5},
        "status": {"phase": "Running"},
    });
    let (code, answer) = api.send("PATCH", &path, STRATEGIC, &patch).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(
        answer["metadata"]["labels"],
        json!({"app": "web", "b": "c"})
    );
    assert_eq!(answer["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(
        answer["metadata"]["generation"],
        created["metadata"]["generation"]
    );
    assert_eq!(answer["spec"], created["spec"]);
    assert_eq!(answer["status"]["phase"], "Running");
}

#[tokio::test]
async fn some_kinds_are_created_by_updates_and_some_want_a_revision() {
    let api = Harness::start().await;
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}});
    let path = format!("{LEASES}/l");
    let created = check(&api, "PUT", &path, lease.clone(), 201, json!({})).await;
    assert!(created["metadata"]["uid"].is_string());
    let message = "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid \
                   value: 0: must be specified for an update";
    refuse(&api, &path, JSON, lease, 422, message).await;
    let mut renewed = created;
    renewed["spec"]["holderIdentity"] = json!("b");
    check(
        &api,
        "PUT",
        &path,
        renewed,
        200,
        json!({"spec": {"holderIdentity": "b"}}),
    )
    .await;
    let body = json!({"metadata": {"name": "n"}, "data": {"a": "1"}});
    let path = format!("{CONFIG_MAPS}/n");
    refuse(&api, &path, JSON, body, 404, "configmaps \"n\" not found").await;
}
