//! Requests and their answers, as a client sees them.

use serde_json::{Value, json};

use crate::harness::{Harness, check};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn a_created_pod_carries_kubernetes_defaults() {
    let api = Harness::start().await;
    let created = check(
        &api,
        "POST",
        PODS,
        pod("web"),
        201,
        json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"name": "web", "namespace": "default", "generation": 1},
            "spec": {
                "restartPolicy": "Always",
                "dnsPolicy": "ClusterFirst",
                "terminationGracePeriodSeconds": 30,
                "schedulerName": "default-scheduler",
                "enableServiceLinks": true,
                "securityContext": {},
                "containers": [{
                    "name": "c",
                    "image": "i",
                    "imagePullPolicy": "Always",
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "resources": {},
                }],
            },
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        }),
    )
    .await;
    assert_eq!(created["metadata"]["uid"].as_str().map(str::len), Some(36));
    assert!(
        created["metadata"]["creationTimestamp"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let same = format!("{PODS}/web");
    check(&api, "GET", &same, Value::Null, 200, created).await;
}

#[tokio::test]
// tidy: table, because each line is a request and the failure it meets
async fn failures_are_statuses_in_kubernetes_words() {
    let api = Harness::start().await;
    check(&api, "POST", PODS, pod("web"), 201, json!({})).await;
    let failure = |code: u16, reason: &str, message: &str| {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": code, "reason": reason, "message": message})
    };
    for (method, path, body, expected) in [
        (
            "GET",
            format!("{PODS}/none"),
            Value::Null,
            failure(404, "NotFound", "pods \"none\" not found"),
        ),
        (
            "POST",
            PODS.to_owned(),
            pod("web"),
            failure(409, "AlreadyExists", "pods \"web\" already exists"),
        ),
        (
            "POST",
            "/api/v1/namespaces/none/pods".to_owned(),
            pod("web"),
            failure(404, "NotFound", "namespaces \"none\" not found"),
        ),
        (
            "GET",
            "/api/v1/frobs".to_owned(),
            Value::Null,
            failure(
                404,
                "NotFound",
                "the server could not find the requested resource",
            ),
        ),
        (
            "GET",
            "/api/v1/replicationcontrollers".to_owned(),
            Value::Null,
            failure(
                404,
                "NotFound",
                "the server could not find the requested resource: `replicationcontrollers` of `v1` is \
                not served here",
            ),
        ),
        (
            "POST",
            "/apis/apps/v1/namespaces/default/deployments".to_owned(),
            json!({}),
            failure(
                404,
                "NotFound",
                "the server could not find the requested resource: `deployments` of `apps/v1` is \
                not served here",
            ),
        ),
        (
            "GET",
            "/apis/metrics.k8s.io/v1beta1".to_owned(),
            Value::Null,
            failure(
                404,
                "NotFound",
                "the server could not find the requested resource: `metrics.k8s.io/v1beta1` is \
                not served here",
            ),
        ),
        (
            "DELETE",
            "/api/v1/namespaces".to_owned(),
            Value::Null,
            failure(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ),
        ),
        (
            "GET",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/l".to_owned(),
            Value::Null,
            failure(
                404,
                "NotFound",
                "leases.coordination.k8s.io \"l\" not found",
            ),
        ),
        (
            "GET",
            format!("{PODS}?fieldSelector=spec.image=x"),
            Value::Null,
            failure(400, "BadRequest", "field label not supported: spec.image"),
        ),
        (
            "GET",
            format!("{PODS}?resourceVersion=99999&resourceVersionMatch=Exact"),
            Value::Null,
            json!({"code": 504, "reason": "Timeout", "details": {"retryAfterSeconds": 1,
                "causes": [{"reason": "ResourceVersionTooLarge",
                    "message": "Too large resource version"}]}}),
        ),
        (
            "POST",
            format!("{PODS}?fieldValidation=Strict"),
            json!({"metadata": {"name": "a"}, "spec": {"containers": [], "foo": 1}}),
            failure(
                400,
                "BadRequest",
                "Pod in version \"v1\" cannot be handled as a Pod: strict \
                decoding error: unknown field \"spec.foo\"",
            ),
        ),
        (
            "POST",
            PODS.to_owned(),
            json!({"metadata": {"name": "a"}, "spec": {"containers": "x"}}),
            failure(
                400,
                "BadRequest",
                "Pod in version \"v1\" cannot be handled as a Pod: json: \
                cannot unmarshal string into Go struct field PodSpec.spec.containers of type \
                []v1.Container",
            ),
        ),
        (
            "POST",
            PODS.to_owned(),
            json!({"metadata": {"name": "a", "namespace": "b"}}),
            failure(
                400,
                "BadRequest",
                "the namespace of the provided object does not match the \
                namespace sent on the request",
            ),
        ),
        (
            "PUT",
            format!("{PODS}/web"),
            pod("other"),
            failure(
                400,
                "BadRequest",
                "the name of the object (other) does not match the name on the URL (web)",
            ),
        ),
    ] {
        let code = expected["code"].as_u64().unwrap() as u16;
        check(&api, method, &path, body, code, expected).await;
    }
}

#[tokio::test]
async fn invalid_pods_are_refused_with_every_cause() {
    let api = Harness::start().await;
    let with = |container: Value| {
        json!({"metadata": {"name": "a"}, "spec": {
        "volumes": [{"name": "v", "emptyDir": {}}], "containers": [container]}})
    };
    let cause = |reason: &str, field: &str, message: &str| json!({"reason": reason, "field": field, "message": message});
    for (body, message, causes) in [
        (
            json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}}),
            "Pod \"a\" is invalid: spec.containers[0].image: Required value",
            json!([cause(
                "FieldValueRequired",
                "spec.containers[0].image",
                "Required value"
            )]),
        ),
        (
            with(json!({"name": "c", "image": "i", "volumeMounts":
                [{"name": "w", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]})),
            "Pod \"a\" is invalid: [spec.containers[0].volumeMounts[0].name: Not found: \"w\", \
                spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique]",
            json!([{"reason": "FieldValueNotFound"}, {"reason": "FieldValueInvalid"}]),
        ),
        (
            with(json!({"name": "c", "image": "i", "imagePullPolicy": "Maybe"})),
            "Pod \"a\" is invalid: spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": \
                supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            json!([{"reason": "FieldValueNotSupported"}]),
        ),
        (
            with(json!({"name": "c", "image": "i", "resources":
                {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
            "Pod \"a\" is invalid: spec.containers[0].resources.requests: Invalid value: \"2\": must \
                be less than or equal to cpu limit of 1",
            json!([{"reason": "FieldValueInvalid"}]),
        ),
        (
            with(
                json!({"name": "c", "image": "i", "ports": [{"containerPort": 70000},
                {"containerPort": 1, "name": "p"}, {"containerPort": 2, "name": "p"}]}),
            ),
            "Pod \"a\" is invalid: [spec.containers[0].ports[0].containerPort: Invalid value: 70000: \
                must be between 1 and 65535, inclusive, spec.containers[0].ports[2].name: Duplicate \
                value: \"p\"]",
            json!([{"reason": "FieldValueInvalid"}, {"reason": "FieldValueDuplicate"}]),
        ),
        (
            json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
            "Pod \"\" is invalid: metadata.name: Required value: name or generateName is required",
            json!([{"reason": "FieldValueRequired"}]),
        ),
    ] {
        let expected = json!({"code": 422, "reason": "Invalid", "message": message,
            "details": {"kind": "Pod", "causes": causes}});
        check(&api, "POST", PODS, body, 422, expected).await;
    }
}

#[tokio::test]
async fn an_image_that_is_a_path_is_refused_and_told_who_packs_it() {
    let api = Harness::start().await;
    for image in [
        "./hello.wasm",
        "/a/b",
        "../x",
        "hello.wasm",
        "dir/hello.wasm",
        ".\\x",
    ] {
        let mut body = pod("a");
        body["spec"]["containers"][0]["image"] = json!(image);
        let refused = check(&api, "POST", PODS, body, 422, json!({"reason": "Invalid"})).await;
        assert!(
            refused["message"]
                .as_str()
                .unwrap()
                .contains("`coracle run` packs files")
        );
    }
    let mut body = pod("a");
    body["spec"]["containers"][0]["image"] = json!("coracle.local/hello.wasm@sha256:00");
    check(&api, "POST", PODS, body, 201, json!({})).await;
}

#[tokio::test]
async fn lists_select_page_and_keep_their_revision() {
    let api = Harness::start().await;
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut body = pod(name);
        body["metadata"]["labels"] = json!({"app": app});
        check(&api, "POST", PODS, body, 201, json!({})).await;
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = check(
        &api,
        "GET",
        PODS,
        Value::Null,
        200,
        json!({"kind": "PodList"}),
    )
    .await;
    assert_eq!(names(&all), ["a", "b", "c"]);
    for (query, expected) in [
        ("labelSelector=app%3Dx", &["a", "c"][..]),
        ("labelSelector=app+in+(y)", &["b"]),
        ("fieldSelector=metadata.name!=b", &["a", "c"]),
        ("fieldSelector=spec.nodeName=n", &[]),
    ] {
        let path = format!("{PODS}?{query}");
        assert_eq!(
            names(&check(&api, "GET", &path, Value::Null, 200, json!({})).await),
            expected
        );
    }
    let path = format!("{PODS}?limit=2");
    let first = check(&api, "GET", &path, Value::Null, 200, json!({})).await;
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["a".to_owned(), "b".to_owned()], &json!(1))
    );
    // What happens between the pages does not show in them.
    check(
        &api,
        "DELETE",
        &format!("{PODS}/c"),
        Value::Null,
        200,
        json!({"kind": "Pod"}),
    )
    .await;
    check(&api, "POST", PODS, pod("d"), 201, json!({})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let path = format!("{PODS}?limit=2&continue={token}");
    let second = check(&api, "GET", &path, Value::Null, 200, json!({})).await;
    assert_eq!(names(&second), ["c"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn updates_compare_revisions_and_count_generations() {
    let api = Harness::start().await;
    let first = check(&api, "POST", PODS, pod("web"), 201, json!({})).await;
    let path = format!("{PODS}/web");
    // Writing back what is there changes nothing, not even the revision.
    check(&api, "PUT", &path, first.clone(), 200, first.clone()).await;
    let mut second = first.clone();
    second["spec"]["containers"][0]["image"] = json!("j");
    second["status"] = json!({"phase": "Running"});
    let expected = json!({"metadata": {"generation": 2}, "status": {"phase": "Pending"}});
    check(&api, "PUT", &path, second.clone(), 200, expected).await;
    let expected = json!({"reason": "Conflict", "message": "Operation cannot be fulfilled on pods \
        \"web\": the object has been modified; please apply your changes to the latest version and \
        try again"});
    check(&api, "PUT", &path, second.clone(), 409, expected).await;
    let mut other = pod("web");
    other["metadata"]["uid"] = json!("x");
    check(
        &api,
        "PUT",
        &path,
        other,
        409,
        json!({"reason": "Conflict"}),
    )
    .await;
    let mut fixed = pod("web");
    fixed["spec"]["hostname"] = json!("h");
    let refused = check(&api, "PUT", &path, fixed, 422, json!({"reason": "Invalid"})).await;
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("pod updates may not change fields")
    );
}

#[tokio::test]
async fn the_status_is_written_only_through_its_own_path() {
    let api = Harness::start().await;
    check(&api, "POST", PODS, pod("web"), 201, json!({})).await;
    let path = format!("{PODS}/web/status");
    let patch = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"hostname": "h"},
        "status": {"phase": "Running", "podIP": "10.0.0.1"}});
    let merge = "application/merge-patch+json";
    let patched = api.send("PATCH", &path, merge, &patch).await;
    assert_eq!(patched.0, 200, "{}", patched.1);
    let patched = patched.1;
    assert_eq!(patched["status"]["phase"], "Running");
    assert_eq!(patched["status"]["qosClass"], "BestEffort");
    assert_eq!(patched["metadata"]["annotations"]["a"], "b");
    assert_eq!(patched["metadata"]["generation"], 1);
    assert_eq!(patched["spec"]["hostname"], Value::Null);
    check(&api, "GET", &path, Value::Null, 200, patched).await;
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_leave_nothing() {
    let api = Harness::start().await;
    let body = json!({"metadata": {"generateName": "job-"}});
    let created = check(&api, "POST", CONFIG_MAPS, body.clone(), 201, json!({})).await;
    let name = created["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("job-") && name.len() == 9, "{name}");
    let path = format!("{CONFIG_MAPS}?dryRun=All");
    let dry = json!({"metadata": {"name": "dry"}});
    check(
        &api,
        "POST",
        &path,
        dry,
        201,
        json!({"metadata": {"name": "dry"}}),
    )
    .await;
    check(
        &api,
        "GET",
        &format!("{CONFIG_MAPS}/dry"),
        Value::Null,
        404,
        json!({}),
    )
    .await;
}

#[tokio::test]
async fn config_maps_and_secrets_check_their_keys_and_size() {
    let api = Harness::start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let big = "x".repeat((1 << 20) + 1);
    for (path, body, code, expected) in [
        (
            secrets,
            json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}}),
            201,
            json!({"type": "Opaque", "data": {"a": "Yg=="}}),
        ),
        (
            secrets,
            json!({"metadata": {"name": "t"}, "data": {"a": "no base64!"}}),
            400,
            json!({}),
        ),
        (
            secrets,
            json!({"metadata": {"name": "t"}, "type": "kubernetes.io/tls"}),
            422,
            json!({}),
        ),
        (
            CONFIG_MAPS,
            json!({"metadata": {"name": "m"}, "data": {"a/b": ""}}),
            422,
            json!({}),
        ),
        (
            CONFIG_MAPS,
            json!({"metadata": {"name": "m"}, "data": {"..": ""}}),
            422,
            json!({}),
        ),
        (
            CONFIG_MAPS,
            json!({"metadata": {"name": "m"}, "data": {"a": big}}),
            422,
            json!({}),
        ),
        (
            CONFIG_MAPS,
            json!({"metadata": {"name": "M"}}),
            422,
            json!({}),
        ),
        (
            CONFIG_MAPS,
            json!({"metadata": {"name": "m"}, "immutable": true, "data": {"a": ""}}),
            201,
            json!({}),
        ),
    ] {
        check(&api, "POST", path, body, code, expected).await;
    }
    let changed = json!({"metadata": {"name": "m"}, "immutable": true, "data": {"a": "b"}});
    check(
        &api,
        "PUT",
        &format!("{CONFIG_MAPS}/m"),
        changed,
        422,
        json!({}),
    )
    .await;
}

#[tokio::test]
async fn malformed_bodies_are_refused_and_the_next_request_is_served() {
    let api = Harness::start().await;
    for (media, body, code) in [
        ("application/json", "{".to_owned(), 400),
        ("application/json", "[]".to_owned(), 400),
        ("application/json", String::new(), 400),
        ("application/json", "[".repeat(10_000), 400),
        ("application/json", json!({"kind": "Node"}).to_string(), 400),
        (
            "application/json",
            json!({"apiVersion": "v2"}).to_string(),
            400,
        ),
        ("application/yaml", "a: b: c".to_owned(), 400),
        ("text/plain", "a: b".to_owned(), 415),
        ("application/vnd.kubernetes.protobuf", "k8s".to_owned(), 400),
        (
            "application/json",
            format!("{{\"a\": \"{}\"}}", "x".repeat(4 << 20)),
            413,
        ),
    ] {
        let (found, answer) = api.send_text("POST", PODS, media, body).await;
        assert_eq!(
            (found, &answer["kind"]),
            (code, &json!("Status")),
            "{media}: {answer}"
        );
    }
    check(
        &api,
        "GET",
        PODS,
        Value::Null,
        200,
        json!({"kind": "PodList"}),
    )
    .await;
}

#[tokio::test]
async fn unknown_fields_are_dropped_with_a_warning() {
    let api = Harness::start().await;
    let body = json!({"metadata": {"name": "m"}, "dtaa": {}});
    let response = api
        .response("POST", CONFIG_MAPS, "application/json", body.to_string())
        .await;
    let warning = response.headers().get("warning").unwrap().to_str().unwrap();
    assert_eq!(warning, "299 - \"unknown field \\\"dtaa\\\"\"");
    let path = format!("{CONFIG_MAPS}/m");
    let stored = check(&api, "GET", &path, Value::Null, 200, json!({})).await;
    assert_eq!(stored.get("dtaa"), None);
}

#[tokio::test]
async fn discovery_lists_what_is_served() {
    let api = Harness::start().await;
    check(
        &api,
        "GET",
        "/version",
        Value::Null,
        200,
        json!({"major": "1", "minor": "36"}),
    )
    .await;
    check(
        &api,
        "GET",
        "/api",
        Value::Null,
        200,
        json!({"versions": ["v1"]}),
    )
    .await;
    check(
        &api,
        "GET",
        "/apis",
        Value::Null,
        200,
        json!({"kind": "APIGroupList", "apiVersion": "v1"}),
    )
    .await;
    let core = check(
        &api,
        "GET",
        "/api/v1",
        Value::Null,
        200,
        json!({"kind": "APIResourceList",
        "groupVersion": "v1"}),
    )
    .await;
    let resources = core["resources"].as_array().unwrap();
    let names: Vec<_> = resources
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    for name in [
        "pods",
        "pods/status",
        "pods/binding",
        "nodes",
        "namespaces",
        "configmaps",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[test]
fn manifests_are_checked_without_a_server() {
    use coracle_control_plane::check_manifest;
    let manifest = |kind: &str, spec: Value| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec});
    let refusal = |manifest: Value| check_manifest(&manifest).map_err(|refusal| refusal.message);
    assert_eq!(refusal(manifest("Pod", pod("a")["spec"].clone())), Ok(()));
    assert_eq!(
        refusal(manifest("Sloop", json!({}))),
        Err("no matches for kind \"Sloop\" in version \"v1\"".to_owned())
    );
    assert_eq!(
        refusal(manifest(
            "Pod",
            json!({"containers": [{"name": "c", "image": "i", "x": 1}]})
        )),
        Err(
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown \
             field \"spec.containers[0].x\""
                .to_owned()
        )
    );
}
