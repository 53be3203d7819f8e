//! Answers in the forms that clients ask for: tables, metadata, YAML, gzip.

use std::io::Read as _;

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::harness::{Harness, bytes, check, json};

/// Holds `kube-root-ca.crt` from the start, as every namespace does.
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// What kubectl sends for `get`.
const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                       application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

async fn create(api: &Harness, name: &str) {
    let body = json!({"metadata": {"name": name}, "data": {"k": "v"}});
    check(api, "POST", MAPS, body, 201, json!({})).await;
}

/// Gets a path in the form that `accept` asks for.
async fn get(api: &Harness, path: &str, accept: &str) -> Value {
    let response = api.get(path, &[("accept", accept)]).await;
    assert_eq!(response.status(), 200, "{path} {accept}");
    assert_eq!(response.headers()["content-type"], "application/json");
    json(response).await
}

/// Returns what the rows of a table begin with.
fn first_cells(table: &Value) -> Vec<&str> {
    let rows = table["rows"].as_array().expect("a table has rows");
    rows.iter()
        .map(|row| row["cells"][0].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn objects_and_lists_come_as_tables() {
    let api = Harness::start().await;
    create(&api, "a").await;
    create(&api, "b").await;
    for path in [MAPS.to_owned(), format!("{MAPS}/a")] {
        let table = get(&api, &path, KUBECTL).await;
        assert_eq!(table["kind"], "Table");
        assert_eq!(table["apiVersion"], "meta.k8s.io/v1");
        let columns = table["columnDefinitions"].as_array().unwrap();
        let names: Vec<_> = columns.iter().map(|column| &column["name"]).collect();
        assert_eq!(names, ["Name", "Data", "Age"], "{path}");
        let row = &table["rows"][0];
        assert_eq!(row["cells"][0], "a");
        assert_eq!(row["cells"][1], 1);
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(row["object"]["apiVersion"], "meta.k8s.io/v1");
        assert_eq!(row["object"]["metadata"]["name"], "a");
        assert_eq!(row["object"]["data"], Value::Null);
    }
    let table = get(&api, MAPS, TABLE).await;
    assert_eq!(first_cells(&table), ["a", "b", "kube-root-ca.crt"]);
    let plain = get(&api, MAPS, "application/json").await;
    assert_eq!(table["metadata"], plain["metadata"]);
}

// What is answered and not kept has no table.
#[tokio::test]
async fn a_question_is_not_answered_by_a_table() {
    let api = Harness::start().await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let question = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    for (accept, code) in [(TABLE, 406), (KUBECTL, 201)] {
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .header("accept", accept)
            .body(Full::new(Bytes::from(question.to_string())))
            .unwrap();
        let response = api.plane.service().oneshot(request).await.unwrap();
        assert_eq!(response.status(), code, "{accept}");
    }
}

#[tokio::test]
async fn a_table_shows_beside_its_cells_what_is_asked_for() {
    let api = Harness::start().await;
    create(&api, "a").await;
    for (include, kind) in [
        ("None", Value::Null),
        ("Metadata", json!("PartialObjectMetadata")),
        ("Object", json!("ConfigMap")),
    ] {
        for path in [MAPS.to_owned(), format!("{MAPS}/a")] {
            let path = format!("{path}?includeObject={include}");
            let table = get(&api, &path, TABLE).await;
            assert_eq!(table["rows"][0]["object"]["kind"], kind, "{path}");
        }
    }
    let path = format!("{MAPS}?includeObject=All");
    let message = "Unable to convert to Table as requested: includeObject: Invalid value: \
                   \"All\": must be 'Metadata', 'Object', 'None', or empty";
    check(
        &api,
        "GET",
        &path,
        Value::Null,
        400,
        json!({"message": message}),
    )
    .await;
}

#[tokio::test]
async fn pages_of_a_table_go_on_like_those_of_a_list() {
    let api = Harness::start().await;
    for name in ["a", "b", "c"] {
        create(&api, name).await;
    }
    let first = get(&api, &format!("{MAPS}?limit=2"), TABLE).await;
    assert_eq!(first_cells(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = get(&api, &format!("{MAPS}?limit=2&continue={token}"), TABLE).await;
    assert_eq!(first_cells(&rest), ["c", "kube-root-ca.crt"]);
}

#[tokio::test]
async fn metadata_comes_without_the_rest() {
    let api = Harness::start().await;
    create(&api, "a").await;
    let whole = get(&api, &format!("{MAPS}/a"), "*/*").await;
    let expected = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": whole["metadata"]});
    let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    assert_eq!(get(&api, &format!("{MAPS}/a"), one).await, expected);
    let many = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = get(&api, MAPS, many).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0], expected);
}

#[tokio::test]
async fn yaml_is_read_and_written() {
    let api = Harness::start().await;
    let body = "metadata:\n  name: a\ndata:\n  k: |\n    one\n    two\n  k2: \"yes\"\n";
    let (code, answer) = api
        .send_text(
            "POST",
            MAPS,
            "application/yaml; charset=utf-8",
            body.to_owned(),
        )
        .await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["data"], json!({"k": "one\ntwo\n", "k2": "yes"}));
    for path in [
        format!("{MAPS}/a"),
        MAPS.to_owned(),
        format!("{MAPS}?labelSelector=no"),
    ] {
        let plain = get(&api, &path, "application/json").await;
        let response = api.get(&path, &[("accept", "application/yaml")]).await;
        assert_eq!(response.headers()["content-type"], "application/yaml");
        let text = bytes(response).await;
        let read: Value = serde_saphyr::from_slice(&text).expect("YAML");
        assert_eq!(read, plain, "{path}");
    }
    let twice = "metadata: {name: b}\ndata: {k: v}\ndata: {k: v}\n".to_owned();
    let path = format!("{MAPS}?fieldValidation=Strict");
    let (code, answer) = api
        .send_text("POST", &path, "application/yaml", twice)
        .await;
    assert_eq!(code, 400);
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.ends_with("strict decoding error: duplicate field \"data\""),
        "{message}"
    );
}

#[tokio::test]
async fn writes_answer_in_the_form_asked_for_and_failures_stay_failures() {
    let api = Harness::start().await;
    create(&api, "a").await;
    let missing = api.get(&format!("{MAPS}/b"), &[("accept", TABLE)]).await;
    assert_eq!(missing.status(), 404);
    assert_eq!(json(missing).await["kind"], "Status");
    let refused = api.get(MAPS, &[("accept", "text/html")]).await;
    assert_eq!(refused.status(), 406);
    let status = json(refused).await;
    assert_eq!(status["reason"], "NotAcceptable");
    let message = "only the following media types are accepted: application/json, \
                    application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!(status["message"], message);
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_take_it() {
    let api = Harness::start().await;
    for name in ["a", "b", "c"] {
        let body = json!({"metadata": {"name": name}, "data": {"k": "v".repeat(100_000)}});
        check(&api, "POST", MAPS, body, 201, json!({})).await;
    }
    let gzip = [("accept-encoding", "gzip")];
    let small = api.get(&format!("{MAPS}/a"), &gzip).await;
    assert!(!small.headers().contains_key("content-encoding"));
    for accept in ["application/json", TABLE, "application/yaml"] {
        let plain = bytes(api.get(MAPS, &[("accept", accept)]).await).await;
        let headers = [("accept", accept), gzip[0]];
        let response = api.get(MAPS, &headers).await;
        assert_eq!(response.headers()["content-encoding"], "gzip");
        assert_eq!(response.headers()["vary"], "Accept-Encoding");
        let compressed = bytes(response).await;
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..])
            .read_to_end(&mut text)
            .unwrap();
        assert_eq!(text.len(), plain.len(), "{accept}");
    }
}

#[tokio::test]
async fn every_answer_has_a_name_in_the_log() {
    let api = Harness::start().await;
    let one = api.get("/version", &[]).await;
    let other = api.get("/nowhere", &[]).await;
    assert_ne!(one.headers()["audit-id"], other.headers()["audit-id"]);
    let given = api.get("/version", &[("audit-id", "mine")]).await;
    assert_eq!(given.headers()["audit-id"], "mine");
}

#[tokio::test]
async fn requests_and_open_watches_are_counted() {
    let api = Harness::start().await;
    create(&api, "a").await;
    check(
        &api,
        "GET",
        &format!("{MAPS}/b"),
        Value::Null,
        404,
        json!({}),
    )
    .await;
    let watch = api.get(&format!("{MAPS}?watch=true"), &[]).await;
    let about = |verb: &str| {
        format!(r#"verb="{verb}",group="",version="v1",resource="configmaps",subresource="""#)
    };
    let response = api.get("/metrics", &[]).await;
    let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(response.headers()["content-type"], media);
    let text = String::from_utf8(bytes(response).await.to_vec()).unwrap();
    for line in [
        format!(
            "apiserver_request_total{{{},code=\"201\"}} 1\n",
            about("POST")
        ),
        format!(
            "apiserver_request_total{{{},code=\"404\"}} 1\n",
            about("GET")
        ),
        format!(
            "apiserver_request_duration_seconds_count{{{}}} 1\n",
            about("GET")
        ),
        format!("apiserver_longrunning_requests{{{}}} 1\n", about("WATCH")),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    drop(watch);
    let text = bytes(api.get("/metrics", &[]).await).await;
    let line = format!("apiserver_longrunning_requests{{{}}} 0\n", about("WATCH"));
    assert!(String::from_utf8_lossy(&text).contains(&line));
}
