//! Namespaces: what they begin with, and how they end.

use serde_json::{Value, json};

use crate::harness::{Harness, check};

#[tokio::test]
async fn the_first_namespaces_stay() {
    let api = Harness::start().await;
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        let path = &format!("/api/v1/namespaces/{name}");
        check(
            &api,
            "GET",
            path,
            Value::Null,
            200,
            json!({"status": {"phase": "Active"}}),
        )
        .await;
        let refused = json!({"reason": "Forbidden", "message": format!(
            "namespaces \"{name}\" is forbidden: this namespace may not be deleted")});
        check(&api, "DELETE", path, Value::Null, 403, refused).await;
    }
}

#[tokio::test]
async fn only_finalize_says_who_still_has_to_empty_a_namespace() {
    let api = Harness::start().await;
    let path = "/api/v1/namespaces";
    let body = json!({"metadata": {"name": "a", "finalizers": ["x.y/z"]},
        "spec": {"finalizers": ["kubernetes"]}});
    check(&api, "POST", path, body, 201, json!({})).await;
    let path = &format!("{path}/a");
    let mut object = check(&api, "GET", path, Value::Null, 200, json!({})).await;
    object["spec"] = json!({"finalizers": []});
    let kept = json!({"spec": {"finalizers": ["kubernetes"]}});
    check(&api, "PUT", path, object.clone(), 200, kept).await;
    let finalize = &format!("{path}/finalize");
    object["spec"]["finalizers"] = json!(["mine"]);
    let refused = json!({"details": {"causes": [{"field": "spec.finalizers[0]", "message":
        "Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully \
         qualified"}]}});
    check(&api, "PUT", finalize, object.clone(), 422, refused).await;
    object["spec"]["finalizers"] = json!(["kubernetes", "x.y/z"]);
    check(
        &api,
        "PUT",
        finalize,
        object,
        200,
        json!({"status": {"phase": "Active"}}),
    )
    .await;
}
