//! Owners and what they own: who goes when, and who stays.

use k8s_openapi::{
    api::core::v1::{ConfigMap, Event, Namespace},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::harness::{Harness, check, until};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Creates a config map with these owners, given as references; returns a reference to it.
async fn create(api: &Harness, name: &str, owners: &[Value]) -> Value {
    create_in(api, MAPS, name, owners).await
}

async fn create_in(api: &Harness, path: &str, name: &str, owners: &[Value]) -> Value {
    let body = json!({"metadata": {"name": name, "ownerReferences": owners}});
    let made = check(api, "POST", path, body, 201, json!({})).await;
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": made["metadata"]["uid"]})
}

/// Returns the reference with the wish that the owner waits.
fn blocking(owner: &Value) -> Value {
    let mut owner = owner.clone();
    owner["blockOwnerDeletion"] = json!(true);
    owner
}

fn absent(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": "no-such-uid"})
}

fn maps(api: &Harness) -> Api<ConfigMap> {
    Api::namespaced(api.plane.client("default"), "default")
}

async fn delete(api: &Harness, name: &str, policy: &str) {
    let path = format!("{MAPS}/{name}");
    let body = json!({"propagationPolicy": policy});
    check(api, "DELETE", &path, body, 200, json!({})).await;
}

async fn gone(api: &Harness, name: &str) {
    until(&maps(api), name, |map| map.is_none()).await;
}

fn owners(map: &ConfigMap) -> &[OwnerReference] {
    map.metadata.owner_references.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn what_nobody_owns_any_more_goes() {
    let api = Harness::start().await;
    let owner = create(&api, "owner", &[]).await;
    let child = create(&api, "child", &[owner]).await;
    create(&api, "grandchild", &[child]).await;
    delete(&api, "owner", "Background").await;
    gone(&api, "grandchild").await;
    gone(&api, "child").await;
}

#[tokio::test]
async fn an_owner_that_never_was_keeps_nothing() {
    let api = Harness::start().await;
    create(&api, "a", &[absent("b")]).await;
    gone(&api, "a").await;
    // A name alone is no owner: another object has it.
    create(&api, "c", &[]).await;
    create(&api, "d", &[absent("c")]).await;
    gone(&api, "d").await;
    check(
        &api,
        "GET",
        &format!("{MAPS}/c"),
        Value::Null,
        200,
        json!({}),
    )
    .await;
}

#[tokio::test]
async fn one_owner_that_is_there_is_enough() {
    let api = Harness::start().await;
    let solid = create(&api, "solid", &[]).await;
    create(&api, "a", &[absent("x"), solid]).await;
    until(&maps(&api), "a", |map| {
        map.is_some_and(|map| matches!(owners(map), [owner] if owner.name == "solid"))
    })
    .await;
}

#[tokio::test]
async fn in_the_foreground_dependents_go_first() {
    let api = Harness::start().await;
    let owner = create(&api, "owner", &[]).await;
    let solid = create(&api, "solid", &[]).await;
    let held = create(&api, "held", &[blocking(&owner)]).await;
    create(&api, "leaf", &[blocking(&held)]).await;
    create(&api, "shared", &[blocking(&owner), solid]).await;
    create(&api, "loose", std::slice::from_ref(&owner)).await;
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["x.y/z"]}}));
    maps(&api)
        .patch("leaf", &PatchParams::default(), &hold)
        .await
        .unwrap();
    delete(&api, "owner", "Foreground").await;
    gone(&api, "loose").await;
    // The leaf holds its owner, which holds its own.
    let waits = |map: Option<&ConfigMap>| {
        map.is_some_and(|map| {
            map.metadata.deletion_timestamp.is_some() && map.finalizers() == ["foregroundDeletion"]
        })
    };
    until(&maps(&api), "held", waits).await;
    until(&maps(&api), "owner", waits).await;
    // What someone else owns too stays, without the one that goes.
    until(&maps(&api), "shared", |map| {
        map.is_some_and(|map| matches!(owners(map), [owner] if owner.name == "solid"))
    })
    .await;
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    until(&maps(&api), "leaf", |map| {
        map.is_some_and(|map| map.metadata.deletion_timestamp.is_some())
    })
    .await;
    maps(&api)
        .patch("leaf", &PatchParams::default(), &free)
        .await
        .unwrap();
    gone(&api, "leaf").await;
    gone(&api, "held").await;
    gone(&api, "owner").await;
}

#[tokio::test]
async fn orphans_stay_without_their_owner() {
    let api = Harness::start().await;
    let owner = create(&api, "owner", &[]).await;
    let other = create(&api, "other", &[]).await;
    create(&api, "a", &[owner.clone(), other]).await;
    create(&api, "b", &[owner]).await;
    delete(&api, "owner", "Orphan").await;
    gone(&api, "owner").await;
    let a = maps(&api).get("a").await.unwrap();
    assert!(matches!(owners(&a), [owner] if owner.name == "other"));
    assert_eq!(owners(&maps(&api).get("b").await.unwrap()), []);
}

#[tokio::test]
async fn a_circle_does_not_hold_itself() {
    let api = Harness::start().await;
    let a = create(&api, "a", &[]).await;
    let b = create(&api, "b", &[blocking(&a)]).await;
    let close = Patch::Merge(json!({"metadata": {"ownerReferences": [blocking(&b)]}}));
    maps(&api)
        .patch("a", &PatchParams::default(), &close)
        .await
        .unwrap();
    delete(&api, "a", "Foreground").await;
    gone(&api, "a").await;
    gone(&api, "b").await;
}

#[tokio::test]
async fn owners_in_other_namespaces_do_not_count() {
    let api = Harness::start().await;
    let elsewhere = "/api/v1/namespaces/kube-public/configmaps";
    let owner = create_in(&api, elsewhere, "owner", &[]).await;
    // The collector tells about owners it knows of, so it has to know this one: it has, as soon
    // as it has collected something that came later.
    create(&api, "first", &[absent("x")]).await;
    gone(&api, "first").await;
    let child = create(&api, "child", std::slice::from_ref(&owner)).await;
    gone(&api, "child").await;
    let uid = |object: &Value| object["uid"].as_str().unwrap().to_owned();
    let fields = format!("involvedObject.uid={}", uid(&child));
    let events: Api<Event> = Api::namespaced(api.plane.client("default"), "default");
    let list = events
        .list(&kube::api::ListParams::default().fields(&fields))
        .await
        .unwrap();
    let [event] = list.items.as_slice() else {
        panic!("{list:?}");
    };
    assert_eq!(event.reason.as_deref(), Some("OwnerRefInvalidNamespace"));
    let message = format!(
        "ownerRef [v1/ConfigMap, namespace: default, name: owner, uid: {}] does not exist in \
         namespace \"default\"",
        uid(&owner)
    );
    assert_eq!(event.message.as_deref(), Some(message.as_str()));
    // An object outside all namespaces cannot have an owner inside one; it is left alone.
    let namespaces: Api<Namespace> = Api::all(api.plane.client("default"));
    let body = json!({"metadata": {"name": "n", "ownerReferences": [owner]}});
    check(&api, "POST", "/api/v1/namespaces", body, 201, json!({})).await;
    create(&api, "second", &[absent("y")]).await;
    gone(&api, "second").await;
    assert!(
        namespaces
            .get("n")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_none()
    );
}

#[tokio::test]
async fn owners_of_unknown_kinds_keep_what_they_may_own() {
    let api = Harness::start().await;
    let foreign = json!({"apiVersion": "example.org/v1", "kind": "Thing", "name": "t", "uid": "u"});
    create(&api, "a", &[foreign]).await;
    create(&api, "later", &[absent("x")]).await;
    gone(&api, "later").await;
    let kept = maps(&api).get("a").await.unwrap();
    assert!(kept.metadata.deletion_timestamp.is_none());
}

#[tokio::test]
async fn a_pod_is_given_its_time_by_the_collector_too() {
    let api = Harness::start().await;
    let owner = create(&api, "owner", &[]).await;
    let pods = "/api/v1/namespaces/default/pods";
    let body = json!({"metadata": {"name": "p", "ownerReferences": [owner]},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "r.io/a:1"}]}});
    check(&api, "POST", pods, body, 201, json!({})).await;
    maps(&api)
        .delete("owner", &DeleteParams::default())
        .await
        .unwrap();
    let pods: Api<k8s_openapi::api::core::v1::Pod> =
        Api::namespaced(api.plane.client("default"), "default");
    until(&pods, "p", |pod| {
        pod.is_some_and(|pod| pod.metadata.deletion_grace_period_seconds == Some(30))
    })
    .await;
}
