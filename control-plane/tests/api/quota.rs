//! Quotas, against one client and against many.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use serde_json::{Value, json};

use crate::harness::{Harness, check, until};

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

async fn limit(api: &Harness, hard: Value) {
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    check(api, "POST", QUOTAS, quota, 201, json!({"status": {}})).await;
}

fn forbidden(message: &str) -> Value {
    json!({"reason": "Forbidden", "message": message})
}

#[tokio::test]
async fn what_exceeds_a_quota_is_refused_until_there_is_room() {
    let api = Harness::start().await;
    limit(&api, json!({"pods": "1"})).await;
    check(&api, "POST", PODS, pod("a", json!({})), 201, json!({})).await;
    let message = "pods \"b\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, \
                   limited: pods=1";
    check(
        &api,
        "POST",
        PODS,
        pod("b", json!({})),
        403,
        forbidden(message),
    )
    .await;
    let gone = format!("{PODS}/a");
    check(&api, "DELETE", &gone, Value::Null, 200, json!({})).await;
    check(&api, "POST", PODS, pod("b", json!({})), 201, json!({})).await;
}

#[tokio::test]
async fn what_a_quota_counts_has_to_be_said() {
    let api = Harness::start().await;
    limit(&api, json!({"limits.cpu": "2", "requests.memory": "1Gi"})).await;
    let message = "pods \"a\" is forbidden: failed quota: q: must specify limits.cpu for: c; \
                   requests.memory for: c";
    check(
        &api,
        "POST",
        PODS,
        pod("a", json!({})),
        403,
        forbidden(message),
    )
    .await;
    let needs = json!({"limits": {"cpu": "1500m"}, "requests": {"memory": "512Mi"}});
    check(&api, "POST", PODS, pod("a", needs.clone()), 201, json!({})).await;
    let message = "pods \"b\" is forbidden: exceeded quota: q, requested: limits.cpu=1500m, used: \
                   limits.cpu=1500m, limited: limits.cpu=2";
    check(&api, "POST", PODS, pod("b", needs), 403, forbidden(message)).await;
}

#[tokio::test]
async fn objects_of_other_kinds_are_counted() {
    let api = Harness::start().await;
    limit(
        &api,
        json!({"configmaps": "2", "count/leases.coordination.k8s.io": "0",
        "services.nodeports": "0"}),
    )
    .await;
    // The namespace has one with the authority from the start.
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str| json!({"metadata": {"name": name}});
    check(&api, "POST", maps, map("a"), 201, json!({})).await;
    let message = "configmaps \"b\" is forbidden: exceeded quota: q, requested: configmaps=1, used: \
                   configmaps=2, limited: configmaps=2";
    check(&api, "POST", maps, map("b"), 403, forbidden(message)).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let message = "leases.coordination.k8s.io \"l\" is forbidden: exceeded quota: q, requested: \
                   count/leases.coordination.k8s.io=1, used: count/leases.coordination.k8s.io=0, \
                   limited: count/leases.coordination.k8s.io=0";
    check(&api, "POST", leases, map("l"), 403, forbidden(message)).await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}});
    check(&api, "POST", services, service.clone(), 201, json!({})).await;
    let mut outside = service;
    outside["spec"]["type"] = json!("NodePort");
    let message = "services \"s\" is forbidden: exceeded quota: q, requested: \
                   services.nodeports=1, used: services.nodeports=0, limited: services.nodeports=0";
    check(
        &api,
        "PUT",
        &format!("{services}/s"),
        outside,
        403,
        forbidden(message),
    )
    .await;
}

#[tokio::test]
async fn claims_are_counted_with_their_size() {
    let api = Harness::start().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str, size: &str, class: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": class, "resources": {"requests": {"storage": size}}}})
    };
    let of_class = "slow.storageclass.storage.k8s.io/requests.storage";
    limit(
        &api,
        json!({"persistentvolumeclaims": "3", "requests.storage": "4Gi", of_class: "1Gi"}),
    )
    .await;
    let first = claim("a", "3Gi", "fast");
    check(&api, "POST", claims, first, 201, json!({})).await;
    let message = "persistentvolumeclaims \"b\" is forbidden: exceeded quota: q, requested: \
                   requests.storage=2Gi, used: requests.storage=3Gi, limited: requests.storage=4Gi";
    let second = claim("b", "2Gi", "fast");
    check(&api, "POST", claims, second, 403, forbidden(message)).await;
    let second = claim("b", "1Gi", "slow");
    check(&api, "POST", claims, second, 201, json!({})).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(api.plane.client("default"), "default");
    let used = [
        ("persistentvolumeclaims", "2"),
        ("requests.storage", "4Gi"),
        (of_class, "1Gi"),
    ];
    until(&quotas, "q", |quota| {
        let status = quota.and_then(|quota| quota.status.as_ref());
        let found = status.and_then(|status| status.used.as_ref());
        let found = found.into_iter().flatten();
        found
            .map(|(name, amount)| (name.as_str(), amount.0.as_str()))
            .eq(used)
    })
    .await;
}

/// However many come at once, as many get in as the quota says, no more and no fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_holds_against_many_at_once() {
    let api = Arc::new(Harness::start().await);
    limit(&api, json!({"pods": "7"})).await;
    let many = (0..64).map(|index| {
        let api = Arc::clone(&api);
        tokio::spawn(async move {
            let pod = pod(&format!("p{index}"), json!({}));
            api.send("POST", PODS, "application/json", &pod).await.0
        })
    });
    let mut accepted = 0;
    for code in many.collect::<Vec<_>>() {
        match code.await.unwrap() {
            201 => accepted += 1,
            code => assert_eq!(code, 403),
        }
    }
    assert_eq!(accepted, 7);
}

#[tokio::test]
async fn a_dry_run_takes_nothing() {
    let api = Harness::start().await;
    limit(&api, json!({"pods": "1"})).await;
    let dry = format!("{PODS}?dryRun=All");
    check(&api, "POST", &dry, pod("a", json!({})), 201, json!({})).await;
    check(&api, "POST", PODS, pod("b", json!({})), 201, json!({})).await;
}
