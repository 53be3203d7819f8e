//! Server-side apply, and who owns which fields.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::{Harness, check};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})
}

fn map_of(manager: &str) -> String {
    format!("{CONFIG_MAPS}/m?fieldManager={manager}")
}

/// Applies a configuration; the answer must have this code.
async fn apply(api: &Harness, path: &str, config: &Value, code: u16) -> Value {
    let (found, answer) = api.send("PATCH", path, APPLY, config).await;
    assert_eq!(found, code, "{path}: {answer}");
    answer
}

/// Returns what the entries of an object say, without their times.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array();
    let entries = entries.into_iter().flatten();
    let owner = |entry: &Value| {
        assert_eq!(entry["fieldsType"], "FieldsV1");
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let words = [
            text("manager"),
            text("operation"),
            text("apiVersion"),
            text("subresource"),
        ];
        (
            words.join(" ").trim_end().to_owned(),
            entry["fieldsV1"].clone(),
        )
    };
    entries.map(owner).collect()
}

/// Checks who owns what.
fn owned(object: &Value, expected: &[(&str, Value)]) {
    let expected = expected.iter();
    let expected = expected.map(|(owner, fields)| ((*owner).to_owned(), fields.clone()));
    assert_eq!(owners(object), expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_created_object_belongs_to_who_created_it() {
    let api = Harness::start().await;
    let body = json!({"metadata": {"name": "m", "labels": {"a": "b"}}, "data": {"c": "d"}});
    let request = Request::post(CONFIG_MAPS)
        .header("user-agent", "kubectl/v1.36.0 (linux/amd64) kubernetes/x")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let response = api.plane.service().oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let created: Value = serde_json::from_slice(&bytes).unwrap();
    let fields = json!({"f:data": {".": {}, "f:c": {}},
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}}});
    owned(&created, &[("kubectl Update v1", fields)]);
    let path = format!("{CONFIG_MAPS}?fieldManager={}", "x".repeat(129));
    let (code, answer) = api.send("POST", &path, "application/json", &body).await;
    let message = "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be \
                   more than 128 bytes";
    assert_eq!((code, &answer["message"]), (422, &json!(message)));
    let path = format!("{CONFIG_MAPS}?fieldManager=a%07");
    let (code, answer) = api.send("POST", &path, "application/json", &body).await;
    assert_eq!(code, 422, "{answer}");
}

#[tokio::test]
async fn a_pod_is_owned_as_kubernetes_records_it() {
    let api = Harness::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "schedulerName": "none",
        "nodeSelector": {"disk": "ssd"},
        "containers": [{"name": "c", "image": "registry.example/c:1",
            "ports": [{"containerPort": 80}], "args": ["x"]}]}});
    let path = format!("{PODS}?fieldManager=kubectl-create");
    let created = check(&api, "POST", &path, pod, 201, json!({})).await;
    let container = json!({".": {}, "f:args": {}, "f:image": {}, "f:imagePullPolicy": {},
        "f:name": {}, "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
            {".": {}, "f:containerPort": {}, "f:protocol": {}}},
        "f:resources": {}, "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}});
    let spec = json!({"f:containers": {"k:{\"name\":\"c\"}": container}, "f:dnsPolicy": {},
        "f:enableServiceLinks": {}, "f:nodeSelector": {}, "f:restartPolicy": {},
        "f:schedulerName": {}, "f:securityContext": {}, "f:terminationGracePeriodSeconds": {}});
    owned(
        &created,
        &[("kubectl-create Update v1", json!({"f:spec": spec}))],
    );

    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}],
        "podIPs": [{"ip": "10.0.0.1"}]}});
    let path = format!("{PODS}/p/status?fieldManager=coracle");
    let strategic = "application/strategic-merge-patch+json";
    let (_, patched) = api.send("PATCH", &path, strategic, &patch).await;
    let conditions = json!({".": {}, "k:{\"type\":\"Ready\"}":
        {".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}}});
    let ips = json!({".": {}, "k:{\"ip\":\"10.0.0.1\"}": {".": {}, "f:ip": {}}});
    let entries = owners(&patched);
    let status = entries
        .iter()
        .find(|(owner, _)| owner == "coracle Update v1 status");
    let fields = &status.expect("the status has its own owner").1;
    assert_eq!(
        *fields,
        json!({"f:status": {"f:conditions": conditions, "f:podIPs": ips}})
    );
}

#[tokio::test]
async fn an_apply_creates_changes_and_removes_what_is_its_own() {
    let api = Harness::start().await;
    let created = apply(
        &api,
        &map_of("x"),
        &config_map(json!({"a": "1", "b": "2"})),
        201,
    )
    .await;
    let fields = |fields: Value| json!({"f:data": fields});
    let both = fields(json!({"f:a": {}, "f:b": {}}));
    owned(&created, &[("x Apply v1", both)]);
    let same = apply(
        &api,
        &map_of("x"),
        &config_map(json!({"a": "1", "b": "2"})),
        200,
    )
    .await;
    assert_eq!(same, created, "nothing changes, and so does the revision");

    let (_, patched) = api
        .send("PATCH", &map_of("y"), MERGE, &json!({"data": {"c": "3"}}))
        .await;
    owned(
        &patched,
        &[
            ("x Apply v1", fields(json!({"f:a": {}, "f:b": {}}))),
            ("y Update v1", fields(json!({"f:c": {}}))),
        ],
    );
    let fewer = apply(&api, &map_of("x"), &config_map(json!({"a": "1"})), 200).await;
    assert_eq!(fewer["data"], json!({"a": "1", "c": "3"}));
    let shared = apply(
        &api,
        &map_of("z"),
        &config_map(json!({"a": "1", "c": "3"})),
        200,
    )
    .await;
    assert_eq!(shared["data"], json!({"a": "1", "c": "3"}));
    let left = apply(&api, &map_of("x"), &config_map(json!({})), 200).await;
    assert_eq!(
        left["data"],
        json!({"a": "1", "c": "3"}),
        "z still wants it"
    );
}

#[tokio::test]
async fn fields_of_others_are_conflicts_unless_forced() {
    let api = Harness::start().await;
    apply(
        &api,
        &map_of("x"),
        &config_map(json!({"a": "1", "b": "2"})),
        201,
    )
    .await;
    let patch = json!({"data": {"b": "3"}});
    let (code, _) = api
        .send("PATCH", &map_of("kubectl-edit"), MERGE, &patch)
        .await;
    assert_eq!(code, 200);
    let wanted = config_map(json!({"a": "9", "b": "9"}));
    let conflict = apply(&api, &map_of("y"), &wanted, 409).await;
    assert_eq!(
        conflict["message"],
        "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using v1:\n- .data.b\n\
         conflicts with \"x\":\n- .data.a"
    );
    assert_eq!(conflict["reason"], "Conflict");
    assert_eq!(
        conflict["details"]["causes"],
        json!([
            {"reason": "FieldManagerConflict", "field": ".data.b",
                "message": "conflict with \"kubectl-edit\" using v1"},
            {"reason": "FieldManagerConflict", "field": ".data.a",
                "message": "conflict with \"x\""},
        ])
    );
    let one = apply(&api, &map_of("y"), &config_map(json!({"a": "9"})), 409).await;
    assert_eq!(
        one["message"],
        "Apply failed with 1 conflict: conflict with \"x\": .data.a"
    );
    let forced = format!("{}&force=true", map_of("y"));
    let taken = apply(&api, &forced, &wanted, 200).await;
    owned(
        &taken,
        &[("y Apply v1", json!({"f:data": {"f:a": {}, "f:b": {}}}))],
    );
}

#[tokio::test]
async fn lists_are_applied_element_by_element() {
    let api = Harness::start().await;
    let pod = |containers: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"schedulerName": "none", "containers": containers}})
    };
    let path = |manager: &str| format!("{PODS}/p?fieldManager={manager}");
    let first = pod(json!([{"name": "c", "image": "registry.example/c:1"}]));
    apply(&api, &path("x"), &first, 201).await;
    let other = pod(json!([{"name": "c", "image": "registry.example/c:2"}]));
    let conflict = apply(&api, &path("y"), &other, 409).await;
    let cause = &conflict["details"]["causes"][0];
    assert_eq!(cause["field"], ".spec.containers[name=\"c\"].image");
    let twice = pod(json!([{"name": "c", "image": "a"}, {"name": "c", "image": "b"}]));
    let refused = apply(&api, &path("y"), &twice, 500).await;
    assert_eq!(
        refused["message"],
        "failed to create typed patch object (/p; /v1, Kind=Pod): .spec.containers: duplicate \
         entries for key [name=\"c\"]"
    );
    let finalizers = |list: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "f", "finalizers": list}})
    };
    let path = |manager: &str| format!("{CONFIG_MAPS}/f?fieldManager={manager}");
    apply(&api, &path("x"), &finalizers(json!(["a/x", "a/y"])), 201).await;
    let both = apply(&api, &path("y"), &finalizers(json!(["a/z"])), 200).await;
    assert_eq!(both["metadata"]["finalizers"], json!(["a/x", "a/y", "a/z"]));
    let fewer = apply(&api, &path("x"), &finalizers(json!(["a/y"])), 200).await;
    assert_eq!(fewer["metadata"]["finalizers"], json!(["a/y", "a/z"]));
}

#[tokio::test]
// tidy: table, because each line is a request and the failure it meets
async fn what_cannot_be_applied_is_refused_in_kubernetes_words() {
    let api = Harness::start().await;
    let with = |change: fn(&mut Value)| {
        let mut config = config_map(json!({"a": "1"}));
        change(&mut config);
        config
    };
    let path = map_of("x");
    for (path, config, code, message) in [
        (
            format!("{CONFIG_MAPS}/m"),
            with(|_| ()),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required \
             for apply patch",
        ),
        (
            path.clone(),
            with(|config| config["metadata"]["managedFields"] = json!([{"manager": "x"}])),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            path.clone(),
            with(|config| config["kind"] = json!("Secret")),
            400,
            "invalid object type: /v1, Kind=Secret",
        ),
        (
            path.clone(),
            with(|config| config["spec"] = json!({})),
            500,
            "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .spec: field not \
             declared in schema",
        ),
        (
            path.clone(),
            with(|config| config["data"]["a"] = json!(1)),
            500,
            "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .data.a: expected \
             string, got &value.valueUnstructured{Value:1}",
        ),
        (
            path.clone(),
            with(|config| config["metadata"]["name"] = json!("other")),
            400,
            "the name of the object (other) does not match the name on the URL (m)",
        ),
        (
            path.clone(),
            with(|config| config["metadata"]["uid"] = json!("u")),
            409,
            "Operation cannot be fulfilled on configmaps \"m\": uid mismatch: the provided object \
             specified uid u, and no existing object was found",
        ),
    ] {
        let answer = apply(&api, &path, &config, code).await;
        assert_eq!(answer["message"], message);
    }
    let created = apply(&api, &path, &config_map(json!({"a": "1"})), 201).await;
    let stale = with(|config| config["metadata"]["resourceVersion"] = json!("1"));
    let answer = apply(&api, &path, &stale, 409).await;
    assert_eq!(
        answer["message"],
        "Operation cannot be fulfilled on configmaps \"m\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    let mut current = config_map(json!({"a": "2"}));
    current["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
    apply(&api, &path, &current, 200).await;
}

#[tokio::test]
async fn configurations_are_yaml_within_bounds() {
    let api = Harness::start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: \"1\"\n";
    let path = map_of("x");
    let (code, _) = api.send_text("PATCH", &path, APPLY, yaml.to_owned()).await;
    assert_eq!(code, 201);
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let long = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(1 << 20),
        "*a, ".repeat(100_000)
    );
    let deep = "[".repeat(100_000);
    for body in [
        bomb,
        long,
        deep,
        "- a".to_owned(),
        "a: b\n---\na: c\n".to_owned(),
    ] {
        let (code, answer) = api.send_text("PATCH", &path, APPLY, body).await;
        assert_eq!(code, 400, "{answer}");
    }
    let twice = format!("{yaml}  a: \"2\"\n");
    let strict = format!("{path}&fieldValidation=Strict");
    let (code, answer) = api.send_text("PATCH", &strict, APPLY, twice.clone()).await;
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.starts_with("error strict decoding patch: "),
        "{message}"
    );
    assert_eq!(code, 400);
    let (code, answer) = api.send_text("PATCH", &path, APPLY, twice).await;
    assert_eq!((code, &answer["data"]["a"]), (200, &json!("2")));
}

#[tokio::test]
async fn a_dry_run_of_an_apply_leaves_nothing() {
    let api = Harness::start().await;
    let path = format!("{}&dryRun=All", map_of("x"));
    let dry = apply(&api, &path, &config_map(json!({"a": "1"})), 201).await;
    assert_eq!(owners(&dry).len(), 1);
    check(
        &api,
        "GET",
        &format!("{CONFIG_MAPS}/m"),
        Value::Null,
        404,
        json!({}),
    )
    .await;
}

#[tokio::test]
async fn a_status_is_applied_on_its_own() {
    let api = Harness::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"schedulerName": "none",
        "containers": [{"name": "c", "image": "registry.example/c:1"}]}});
    let path = format!("{PODS}?fieldManager=x");
    let created = check(&api, "POST", &path, pod, 201, json!({})).await;
    let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"activeDeadlineSeconds": 1}, "status": {"phase": "Running"}});
    let missing = format!("{PODS}/q/status?fieldManager=y");
    apply(&api, &missing, &status, 404).await;
    let path = format!("{PODS}/p/status?fieldManager=y");
    let applied = apply(&api, &path, &status, 200).await;
    assert_eq!(applied["spec"], created["spec"]);
    assert_eq!(applied["status"]["phase"], "Running");
    let entry = &owners(&applied)[0];
    let expected = json!({"f:status": {"f:phase": {}}});
    assert_eq!(*entry, ("y Apply v1 status".to_owned(), expected));
}

#[tokio::test]
async fn owners_can_be_forgotten_and_begin_with_an_apply() {
    let api = Harness::start().await;
    let path = format!("{CONFIG_MAPS}?fieldManager=x");
    let body = config_map(json!({"a": "1"}));
    let mut object = check(&api, "POST", &path, body, 201, json!({})).await;
    for reset in [json!([]), json!([{}])] {
        object["metadata"]["managedFields"] = reset;
        object = check(&api, "PUT", &map_of("x"), object, 200, json!({})).await;
        assert_eq!(object["metadata"]["managedFields"], Value::Null);
    }
    object["data"]["b"] = json!("2");
    object = check(&api, "PUT", &map_of("x"), object, 200, json!({})).await;
    assert_eq!(
        object["metadata"]["managedFields"],
        Value::Null,
        "nobody tracks it any more"
    );
    let applied = apply(&api, &map_of("y"), &config_map(json!({"c": "3"})), 200).await;
    let before = json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}});
    owned(
        &applied,
        &[
            ("y Apply v1", json!({"f:data": {"f:c": {}}})),
            ("before-first-apply Update v1", before),
        ],
    );
}

#[tokio::test]
async fn stale_and_broken_lists_of_owners_do_no_harm() {
    let api = Harness::start().await;
    let path = format!("{CONFIG_MAPS}?fieldManager=x");
    let body = config_map(json!({"a": "1"}));
    let created = check(&api, "POST", &path, body, 201, json!({})).await;
    let mut object = created.clone();
    for broken in [
        json!([{"manager": "z", "operation": "Update", "apiVersion": "v1"}]),
        json!([{"manager": "z", "operation": "Update", "apiVersion": "v1",
            "fieldsType": "FieldsV1", "fieldsV1": {"nonsense": {}}}]),
        json!([{"operation": "Perhaps"}]),
    ] {
        object["metadata"]["managedFields"] = broken;
        let answer = check(&api, "PUT", &map_of("y"), object.clone(), 200, json!({})).await;
        assert_eq!(
            answer, created,
            "the object's own list stays, and nothing changes"
        );
    }
}

#[tokio::test]
async fn owners_that_a_client_sends_are_checked() {
    let api = Harness::start().await;
    let mut body = config_map(json!({"a": "1"}));
    let name = "x".repeat(129);
    body["metadata"]["managedFields"] = json!([{"manager": name, "operation": "Update",
        "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:b": {}}}}]);
    let (code, answer) = api
        .send("POST", CONFIG_MAPS, "application/json", &body)
        .await;
    assert_eq!(code, 422, "{answer}");
    let cause = answer["details"]["causes"][0]["field"].as_str().unwrap();
    assert!(cause.starts_with("metadata.managedFields[") && cause.ends_with("].manager"));
}

#[tokio::test]
async fn only_so_many_managers_are_told_apart() {
    let api = Harness::start().await;
    let path = format!("{CONFIG_MAPS}?fieldManager=m0");
    check(
        &api,
        "POST",
        &path,
        config_map(json!({"k0": "0"})),
        201,
        json!({}),
    )
    .await;
    let mut object = Value::Null;
    for number in 1..14 {
        let name = format!("k{number}");
        let patch = json!({"data": {name: "x"}});
        (_, object) = api
            .send("PATCH", &map_of(&format!("m{number}")), MERGE, &patch)
            .await;
    }
    let owners = owners(&object);
    assert_eq!(owners.len(), 10);
    let ancient = owners
        .iter()
        .find(|(owner, _)| owner == "ancient-changes Update v1");
    let (_, fields) = ancient.expect("the oldest are one");
    assert!(fields["f:data"].as_object().unwrap().len() > 4, "{fields}");
}

#[tokio::test]
async fn what_kubectl_applied_on_its_side_is_taken_over() {
    let api = Harness::start().await;
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let mut object = config_map(json!({"a": "1", "b": "2"}));
    let last = config_map(json!({"a": "1", "b": "2"})).to_string();
    object["metadata"]["annotations"] = json!({annotation: last});
    let path = format!("{CONFIG_MAPS}?fieldManager=kubectl-client-side-apply");
    check(&api, "POST", &path, object, 201, json!({})).await;
    let wanted = config_map(json!({"a": "9"}));
    apply(&api, &map_of("other"), &wanted, 409).await;
    let applied = apply(&api, &map_of("kubectl"), &wanted, 200).await;
    assert_eq!(applied["data"], json!({"a": "9", "b": "2"}));
    let text = applied["metadata"]["annotations"][annotation]
        .as_str()
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), wanted);
}
