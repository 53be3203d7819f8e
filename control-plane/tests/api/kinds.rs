//! Kinds from outside: what they begin with, what is said about them, and the two faces of events.

use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::harness::{Harness, check};

const CORE_EVENTS: &str = "/api/v1/namespaces/default/events";
const NEW_EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::test]
// tidy: table, because each line is an object and what it begins with
async fn objects_begin_with_their_defaults() {
    let api = Harness::start().await;
    let in_default = |plural: &str| format!("/api/v1/namespaces/default/{plural}");
    for (path, object, expected) in [
        (
            in_default("limitranges"),
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}),
            json!({"spec": {"limits": [
                {"default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}]}}),
        ),
        (
            in_default("endpoints"),
            json!({"subsets": [{"addresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 1}]}]}),
            json!({"subsets": [{"ports": [{"port": 1, "protocol": "TCP"}]}]}),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".to_owned(),
            json!({"addressType": "IPv4", "endpoints": [], "ports": [{"port": 1}]}),
            json!({"metadata": {"generation": 1}, "ports": [{"name": "", "protocol": "TCP"}]}),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies".to_owned(),
            json!({"spec": {"egress": [{"ports": [{"port": 53}]}]}}),
            json!({"metadata": {"generation": 1}, "spec": {"podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "egress": [{"ports": [{"protocol": "TCP", "port": 53}]}]}}),
        ),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses".to_owned(),
            json!({"value": 1}),
            json!({"metadata": {"generation": 1}, "preemptionPolicy": "PreemptLowerPriority"}),
        ),
        (
            format!("{RBAC}/namespaces/default/rolebindings"),
            json!({"roleRef": {"kind": "ClusterRole", "name": "view"},
                "subjects": [{"kind": "User", "name": "u"}]}),
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io"}]}),
        ),
        (
            "/api/v1/namespaces".to_owned(),
            json!({"spec": {"finalizers": ["a.b/c"]}}),
            json!({"spec": {"finalizers": ["a.b/c", "kubernetes"]}, "status": {"phase": "Active"},
                "metadata": {"labels": {"kubernetes.io/metadata.name": "x"}}}),
        ),
        (
            in_default("resourcequotas"),
            json!({"spec": {"hard": {"pods": "1000"}}, "status": {"used": {"pods": "5"}}}),
            json!({"spec": {"hard": {"pods": "1k"}}, "status": {"used": null}}),
        ),
    ] {
        let mut object = object;
        object["metadata"] = json!({"name": "x"});
        check(&api, "POST", &path, object, 201, expected).await;
    }
}

#[tokio::test]
// tidy: table, because each line is an object and what is said about it
async fn objects_that_are_wrong_are_refused_with_causes() {
    let api = Harness::start().await;
    let cause = |reason: &str, field: &str, message: &str| {
        json!({"reason": "Invalid", "code": 422, "details": {"causes": [
            {"reason": reason, "field": field, "message": message}]}})
    };
    for (path, object, expected) in [
        (
            "/apis/coordination.k8s.io/v1/namespaces/default/leases".to_owned(),
            json!({"spec": {"leaseDurationSeconds": 0}}),
            cause(
                "FieldValueInvalid",
                "spec.leaseDurationSeconds",
                "Invalid value: 0: must be greater than 0",
            ),
        ),
        (
            format!("{RBAC}/clusterroles"),
            json!({"rules": [{"verbs": [], "nonResourceURLs": ["/a"]}]}),
            cause(
                "FieldValueRequired",
                "rules[0].verbs",
                "Required value: verbs must contain at least one value",
            ),
        ),
        (
            format!("{RBAC}/clusterrolebindings"),
            json!({"roleRef": {"kind": "Role", "name": "r"}}),
            cause(
                "FieldValueNotSupported",
                "roleRef.kind",
                "Unsupported value: \"Role\": supported values: \"ClusterRole\"",
            ),
        ),
        (
            "/api/v1/namespaces/default/endpoints".to_owned(),
            json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}]}]}),
            cause(
                "FieldValueInvalid",
                "subsets[0].addresses[0].ip",
                "Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
                 ::1/128)",
            ),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".to_owned(),
            json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}),
            cause(
                "FieldValueRequired",
                "endpoints[0].addresses",
                "Required value: must contain at least 1 address",
            ),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies".to_owned(),
            json!({"spec": {"ingress": [{"from": [{}]}]}}),
            cause(
                "FieldValueRequired",
                "spec.ingress[0].from[0]",
                "Required value: must specify a peer",
            ),
        ),
        (
            "/api/v1/nodes".to_owned(),
            json!({"spec": {"taints": [{"key": "a", "effect": "Explode"}]}}),
            cause(
                "FieldValueNotSupported",
                "metadata.taints[0].effect",
                "Unsupported value: \"Explode\": supported values: \"NoSchedule\", \
                 \"PreferNoSchedule\", \"NoExecute\"",
            ),
        ),
        (
            "/api/v1/namespaces/default/secrets".to_owned(),
            json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
            cause("FieldValueRequired", "data[tls.key]", "Required value"),
        ),
    ] {
        let mut object = object;
        object["metadata"] = json!({"name": "x"});
        check(&api, "POST", &path, object, 422, expected).await;
    }
}

#[tokio::test]
async fn names_follow_the_rule_of_their_kind() {
    let api = Harness::start().await;
    let role = json!({"metadata": {"name": "system:a:b"}, "rules": []});
    check(
        &api,
        "POST",
        &format!("{RBAC}/clusterroles"),
        role,
        201,
        json!({}),
    )
    .await;
    let service = json!({"metadata": {"name": "1a"}, "spec": {"ports": [{"port": 1}]}});
    let services = "/api/v1/namespaces/default/services";
    let expected = json!({"details": {"causes": [{"field": "metadata.name"}]}});
    check(&api, "POST", services, service, 422, expected).await;
}

#[tokio::test]
async fn a_slice_counts_its_changes() {
    let api = Harness::start().await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = |addresses: Value| {
        json!({"metadata": {"name": "s"}, "addressType": "IPv4",
            "endpoints": [{"addresses": addresses}]})
    };
    check(
        &api,
        "POST",
        slices,
        slice(json!(["1.2.3.4"])),
        201,
        json!({}),
    )
    .await;
    let path = format!("{slices}/s");
    let second = json!({"metadata": {"generation": 2}});
    check(&api, "PUT", &path, slice(json!(["1.2.3.5"])), 200, second).await;
}

#[tokio::test]
async fn an_event_has_two_faces() {
    let api = Harness::start().await;
    let old = json!({"metadata": {"name": "old"}, "message": "m", "count": 2, "type": "Normal",
        "source": {"component": "c"}, "involvedObject": {"kind": "Pod", "name": "p",
            "namespace": "default"}});
    check(
        &api,
        "POST",
        CORE_EVENTS,
        old,
        201,
        json!({"apiVersion": "v1", "message": "m"}),
    )
    .await;
    let shown = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "m",
        "deprecatedCount": 2, "deprecatedSource": {"component": "c"},
        "regarding": {"name": "p"}, "message": null, "involvedObject": null});
    let seen = check(
        &api,
        "GET",
        &format!("{NEW_EVENTS}/old"),
        Value::Null,
        200,
        shown,
    )
    .await;
    let same = json!({"metadata": {"uid": seen["metadata"]["uid"],
        "resourceVersion": seen["metadata"]["resourceVersion"]}});
    check(
        &api,
        "GET",
        &format!("{CORE_EVENTS}/old"),
        Value::Null,
        200,
        same,
    )
    .await;
    let new = json!({"metadata": {"name": "new"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "note": "n", "type": "Warning", "reason": "r", "action": "a", "reportingController": "c",
        "reportingInstance": "i",
        "regarding": {"kind": "Pod", "name": "q", "namespace": "default"}});
    let answer = json!({"apiVersion": "events.k8s.io/v1", "note": "n"});
    check(&api, "POST", NEW_EVENTS, new, 201, answer).await;
    let stored = json!({"apiVersion": "v1", "message": "n", "reportingComponent": "c",
        "involvedObject": {"name": "q"}});
    check(
        &api,
        "GET",
        &format!("{CORE_EVENTS}/new"),
        Value::Null,
        200,
        stored,
    )
    .await;
    let merge = "application/merge-patch+json";
    let series = json!({"series": {"count": 2,
        "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    let path = format!("{NEW_EVENTS}/new");
    let (code, patched) = api.send("PATCH", &path, merge, &series).await;
    assert_eq!(
        (code, &patched["series"]["count"]),
        (200, &json!(2)),
        "{patched}"
    );
    let (code, refused) = api.send("PATCH", &path, merge, &json!({"note": "o"})).await;
    assert_eq!(code, 422, "{refused}");
}

#[tokio::test]
async fn both_faces_of_events_are_listed_and_selected() {
    let api = Harness::start().await;
    for name in ["p", "q"] {
        let event = json!({"metadata": {"name": format!("about-{name}")}, "message": name,
            "involvedObject": {"kind": "Pod", "name": name, "namespace": "default"}});
        check(&api, "POST", CORE_EVENTS, event, 201, json!({})).await;
    }
    let by = json!({"metadata": {"name": "by"}, "reportingComponent": "c", "message": "by",
        "involvedObject": {"kind": "Pod", "name": "r", "namespace": "default"}});
    check(&api, "POST", CORE_EVENTS, by, 201, json!({})).await;
    // An event without a source comes from whoever reports it.
    let source = format!("{CORE_EVENTS}?fieldSelector=source%3Dc");
    let expected = json!({"items": [{"message": "by"}]});
    check(&api, "GET", &source, Value::Null, 200, expected).await;
    let about = |field: &str| format!("?fieldSelector={field}.name%3Dq");
    let core = format!("{CORE_EVENTS}{}", about("involvedObject"));
    let expected = json!({"kind": "EventList", "apiVersion": "v1", "items": [{"message": "q"}]});
    check(&api, "GET", &core, Value::Null, 200, expected).await;
    let new = format!("{NEW_EVENTS}{}", about("regarding"));
    let expected = json!({"kind": "EventList", "apiVersion": "events.k8s.io/v1",
        "items": [{"note": "q", "apiVersion": null}]});
    check(&api, "GET", &new, Value::Null, 200, expected).await;
    let response = api
        .get(&format!("{NEW_EVENTS}?watch=1&resourceVersion=0"), &[])
        .await;
    let (mut body, mut line) = (response.into_body(), Vec::new());
    while !line.ends_with(b"\n") {
        let frame = body.frame().await.unwrap().unwrap();
        line.extend_from_slice(&frame.into_data().unwrap());
    }
    let first = line.split(|byte| *byte == b'\n').next().unwrap();
    let first: Value = serde_json::from_slice(first).unwrap();
    let object = &first["object"];
    assert_eq!(first["type"], "ADDED");
    assert_eq!(
        (&object["apiVersion"], &object["note"]),
        (&json!("events.k8s.io/v1"), &json!("p"))
    );
    let missing = format!("{NEW_EVENTS}/none");
    let expected = json!({"message": "events.events.k8s.io \"none\" not found"});
    check(&api, "GET", &missing, Value::Null, 404, expected).await;
    let first = format!("{NEW_EVENTS}/about-p");
    check(
        &api,
        "DELETE",
        &first,
        Value::Null,
        200,
        json!({"status": "Success"}),
    )
    .await;
    check(
        &api,
        "GET",
        &format!("{CORE_EVENTS}/about-p"),
        Value::Null,
        404,
        json!({}),
    )
    .await;
}
