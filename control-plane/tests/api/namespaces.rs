//! Namespaces: what they begin with, and how they end.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, ServiceAccount};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::harness::{Harness, check, until};

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

const ALL: &str = "/api/v1/namespaces";

async fn create(api: &Harness, path: &str, body: Value) -> Value {
    check(api, "POST", path, body, 201, json!({})).await
}

#[tokio::test]
async fn every_namespace_has_an_account_and_the_certificates_of_the_api() {
    let api = Harness::start().await;
    create(&api, ALL, json!({"metadata": {"name": "a"}})).await;
    let client = api.plane.client("a");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "a");
    let maps: Api<ConfigMap> = Api::namespaced(client, "a");
    until(&accounts, "default", |account| account.is_some()).await;
    let is_right = |map: Option<&ConfigMap>| {
        let data = map.and_then(|map| map.data.as_ref());
        data.is_some_and(|data| {
            data.len() == 1
                && data
                    .get("ca.crt")
                    .is_some_and(|ca| ca.starts_with("-----BEGIN CERTIFICATE-----"))
        })
    };
    until(&maps, "kube-root-ca.crt", is_right).await;
    // What is changed or deleted is put right again.
    let first = accounts.get("default").await.unwrap();
    accounts
        .delete("default", &DeleteParams::default())
        .await
        .unwrap();
    until(&accounts, "default", |account| {
        account.is_some_and(|account| account.uid() != first.uid())
    })
    .await;
    let wrong = Patch::Merge(json!({"data": {"ca.crt": "other", "more": "x"}}));
    maps.patch("kube-root-ca.crt", &PatchParams::default(), &wrong)
        .await
        .unwrap();
    until(&maps, "kube-root-ca.crt", is_right).await;
}

#[tokio::test]
async fn a_namespace_is_emptied_before_it_goes() {
    let api = Harness::start().await;
    let created = create(&api, ALL, json!({"metadata": {"name": "a"}})).await;
    let inside = |plural: &str| format!("/api/v1/namespaces/a/{plural}");
    for name in ["m1", "m2"] {
        create(
            &api,
            &inside("configmaps"),
            json!({"metadata": {"name": name}}),
        )
        .await;
    }
    let role = "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles";
    create(&api, role, json!({"metadata": {"name": "r"}, "rules": []})).await;
    // The node agent, which is not here, ends this one.
    let pod = json!({"metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "r.io/a:1"}]}});
    create(&api, &inside("pods"), pod).await;

    let path = &format!("{ALL}/a");
    let marked =
        json!({"status": {"phase": "Terminating"}, "spec": {"finalizers": ["kubernetes"]}});
    check(&api, "DELETE", path, Value::Null, 200, marked).await;
    let namespaces: Api<Namespace> = Api::all(api.plane.client("a"));
    let waits_for_pods = |namespace: Option<&Namespace>| {
        let remaining = condition(namespace, "NamespaceContentRemaining");
        remaining.as_deref()
            == Some(
                "True SomeResourcesRemain Some resources are remaining: pods. has 1 resource instances",
            )
    };
    until(&namespaces, "a", waits_for_pods).await;
    // Nothing else goes before the pods, and nothing new comes in.
    check(
        &api,
        "GET",
        &inside("configmaps/m1"),
        Value::Null,
        200,
        json!({}),
    )
    .await;
    let refused = json!({"reason": "Forbidden", "message": "configmaps \"m3\" is forbidden: unable \
        to create new content in namespace a because it is being terminated", "details": {"causes":
        [{"reason": "NamespaceTerminating", "message": "namespace a is being terminated",
            "field": "metadata.namespace"}]}});
    let late = json!({"metadata": {"name": "m3"}});
    check(&api, "POST", &inside("configmaps"), late, 403, refused).await;

    let force = json!({"gracePeriodSeconds": 0});
    check(&api, "DELETE", &inside("pods/p"), force, 200, json!({})).await;
    until(&namespaces, "a", |namespace| namespace.is_none()).await;
    check(&api, "GET", path, Value::Null, 404, json!({})).await;
    let again = create(&api, ALL, json!({"metadata": {"name": "a"}})).await;
    assert_ne!(again["metadata"]["uid"], created["metadata"]["uid"]);
    for plural in ["configmaps", "pods"] {
        let named = format!(
            "{}?fieldSelector=metadata.name%21%3Dkube-root-ca.crt",
            inside(plural)
        );
        check(&api, "GET", &named, Value::Null, 200, json!({"items": []})).await;
    }
    check(&api, "GET", role, Value::Null, 200, json!({"items": []})).await;
}

#[tokio::test]
async fn a_namespace_tells_whose_finalizers_it_waits_for() {
    let api = Harness::start().await;
    create(&api, ALL, json!({"metadata": {"name": "a"}})).await;
    let maps = "/api/v1/namespaces/a/configmaps";
    let held = json!({"metadata": {"name": "m", "finalizers": ["x.y/z"]}});
    create(&api, maps, held).await;
    check(
        &api,
        "DELETE",
        &format!("{ALL}/a"),
        Value::Null,
        200,
        json!({}),
    )
    .await;
    let namespaces: Api<Namespace> = Api::all(api.plane.client("a"));
    until(&namespaces, "a", |namespace| {
        let remaining = condition(namespace, "NamespaceFinalizersRemaining");
        remaining.as_deref()
            == Some(
                "True SomeFinalizersRemain Some content in the namespace has finalizers \
                 remaining: x.y/z in 1 resource instances",
            )
    })
    .await;
    let maps: Api<ConfigMap> = Api::namespaced(api.plane.client("a"), "a");
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("m", &PatchParams::default(), &free)
        .await
        .unwrap();
    until(&namespaces, "a", |namespace| namespace.is_none()).await;
}

fn condition(namespace: Option<&Namespace>, kind: &str) -> Option<String> {
    let conditions = namespace?.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == kind)?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Some(format!(
        "{} {} {}",
        condition.status,
        text(&condition.reason),
        text(&condition.message)
    ))
}

#[tokio::test]
async fn a_quota_tells_what_its_namespace_uses() {
    let api = Harness::start().await;
    let inside = |plural: &str| format!("/api/v1/namespaces/default/{plural}");
    let quota = json!({"metadata": {"name": "q"},
        "spec": {"hard": {"pods": "5", "requests.cpu": "1", "count/leases.coordination.k8s.io": "3"}}});
    create(&api, &inside("resourcequotas"), quota).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(api.plane.client("default"), "default");
    let uses = |expected: Value| {
        move |quota: Option<&ResourceQuota>| {
            let status = quota.and_then(|quota| quota.status.as_ref());
            status.is_some_and(|status| {
                let used = serde_json::to_value(&status.used).unwrap();
                used == expected && status.hard.as_ref().is_some_and(|hard| hard.len() == 3)
            })
        }
    };
    let none = json!({"pods": "0", "requests.cpu": "0", "count/leases.coordination.k8s.io": "0"});
    until(&quotas, "q", uses(none.clone())).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "r.io/a:1", "resources": {"requests": {"cpu": "250m"}}}]}});
    create(&api, &inside("pods"), pod).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    create(&api, leases, json!({"metadata": {"name": "l"}})).await;
    let some =
        json!({"pods": "1", "requests.cpu": "250m", "count/leases.coordination.k8s.io": "1"});
    until(&quotas, "q", uses(some)).await;
    check(
        &api,
        "DELETE",
        &inside("pods/p"),
        Value::Null,
        200,
        json!({}),
    )
    .await;
    check(
        &api,
        "DELETE",
        &format!("{leases}/l"),
        Value::Null,
        200,
        json!({}),
    )
    .await;
    until(&quotas, "q", uses(none)).await;
}
