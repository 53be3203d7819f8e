//! What watches send, in which order, and how they end.

use coracle_control_plane::ApiBody;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::harness::{Harness, check};

/// Nobody but the tests writes objects of this kind.
const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

/// An open watch.
struct Watch {
    body: ApiBody,
    text: Vec<u8>,
}

impl Watch {
    async fn open(api: &Harness, query: &str) -> Watch {
        Watch::open_as(api, &format!("{PATH}?watch=true&{query}"), "").await
    }

    /// Opens a watch under any path, in the form that `accept` asks for.
    async fn open_as(api: &Harness, path: &str, accept: &str) -> Watch {
        let response = api.get(path, &[("accept", accept)]).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "application/json");
        Watch {
            body: response.into_body(),
            text: Vec::new(),
        }
    }

    /// Returns the next event, or nothing at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.text.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// Reads as many events as are expected and compares kind and name.
    async fn expect(&mut self, expected: &[(&str, &str)]) {
        for expected in expected {
            let event = self.next().await.expect("another event");
            let name = event["object"]["metadata"]["name"]
                .as_str()
                .unwrap_or_default();
            assert_eq!(
                (event["type"].as_str().unwrap(), name),
                *expected,
                "{event}"
            );
        }
    }
}

async fn create(api: &Harness, name: &str, app: &str) -> u64 {
    let body = json!({"metadata": {"name": name, "labels": {"app": app}}});
    revision(&check(api, "POST", PATH, body, 201, json!({})).await)
}

async fn relabel(api: &Harness, name: &str, app: &str) -> u64 {
    let patch = json!({"metadata": {"labels": {"app": app}}});
    let path = format!("{PATH}/{name}");
    revision(
        &api.send("PATCH", &path, "application/merge-patch+json", &patch)
            .await
            .1,
    )
}

async fn delete(api: &Harness, name: &str) {
    let path = format!("{PATH}/{name}");
    check(
        api,
        "DELETE",
        &path,
        Value::Null,
        200,
        json!({"status": "Success"}),
    )
    .await;
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_watch_without_revision_begins_with_what_is_there() {
    let api = Harness::start().await;
    create(&api, "a", "x").await;
    let mut watch = Watch::open(&api, "").await;
    watch.expect(&[("ADDED", "a")]).await;
    create(&api, "b", "x").await;
    relabel(&api, "a", "y").await;
    delete(&api, "a").await;
    watch
        .expect(&[("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "a")])
        .await;
}

#[tokio::test]
async fn a_watch_from_a_revision_sends_only_what_came_after() {
    let api = Harness::start().await;
    let first = create(&api, "a", "x").await;
    create(&api, "b", "x").await;
    let mut watch = Watch::open(&api, &format!("resourceVersion={first}")).await;
    watch.expect(&[("ADDED", "b")]).await;
}

#[tokio::test]
async fn a_deletion_carries_the_last_state_at_its_own_revision() {
    let api = Harness::start().await;
    let created = create(&api, "a", "x").await;
    let mut watch = Watch::open(&api, &format!("resourceVersion={created}")).await;
    delete(&api, "a").await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["metadata"]["labels"]["app"], "x");
    assert!(revision(&event["object"]) > created);
}

#[tokio::test]
async fn a_selector_turns_changes_into_arrivals_and_departures() {
    let api = Harness::start().await;
    create(&api, "a", "x").await;
    let mut watch = Watch::open(&api, "labelSelector=app%3Dx").await;
    create(&api, "b", "y").await;
    let left = relabel(&api, "a", "y").await;
    relabel(&api, "b", "x").await;
    watch.expect(&[("ADDED", "a")]).await;
    let departure = watch.next().await.unwrap();
    assert_eq!(departure["type"], "DELETED");
    // It is the last selected state, told at the revision at which it left.
    assert_eq!(departure["object"]["metadata"]["labels"]["app"], "x");
    assert_eq!(revision(&departure["object"]), left);
    watch.expect(&[("ADDED", "b")]).await;
}

#[tokio::test]
async fn a_streaming_list_ends_with_a_marked_bookmark() {
    let api = Harness::start().await;
    create(&api, "a", "x").await;
    let newest = create(&api, "b", "x").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Watch::open(&api, query).await;
    watch.expect(&[("ADDED", "a"), ("ADDED", "b")]).await;
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    let metadata = &bookmark["object"]["metadata"];
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(revision(&bookmark["object"]), newest);
    create(&api, "c", "x").await;
    watch.expect(&[("ADDED", "c")]).await;
}

#[tokio::test]
async fn a_streaming_list_without_bookmarks_has_no_marked_end() {
    let api = Harness::start().await;
    create(&api, "a", "x").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let mut watch = Watch::open(&api, query).await;
    watch.expect(&[("ADDED", "a")]).await;
    create(&api, "b", "x").await;
    watch.expect(&[("ADDED", "b")]).await;
}

#[tokio::test]
async fn a_watched_table_has_its_columns_in_the_first_event() {
    let api = Harness::start().await;
    create(&api, "a", "x").await;
    let path = format!("{PATH}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = Watch::open_as(&api, &path, table).await;
    let revision = relabel(&api, "a", "y").await;
    let first = watch.next().await.unwrap();
    assert_eq!(
        (&first["type"], &first["object"]["kind"]),
        (&json!("ADDED"), &json!("Table"))
    );
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    let second = watch.next().await.unwrap();
    assert_eq!(second["type"], "MODIFIED");
    let object = &second["object"];
    assert_eq!(object["columnDefinitions"], Value::Null);
    assert_eq!(object["metadata"]["resourceVersion"], revision.to_string());
    assert_eq!(object["rows"][0]["cells"][0], "a");
    assert_eq!(
        object["rows"][0]["object"]["metadata"]["labels"]["app"],
        "y"
    );
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    let metadata = &bookmark["object"]["rows"][0]["object"]["metadata"];
    assert_eq!(metadata["resourceVersion"], revision.to_string());
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn watched_metadata_comes_without_the_rest() {
    let api = Harness::start().await;
    create(&api, "a", "x").await;
    let path = format!("{PATH}?watch=true");
    let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let mut watch = Watch::open_as(&api, &path, metadata).await;
    delete(&api, "a").await;
    for kind in ["ADDED", "DELETED"] {
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], kind);
        let object = &event["object"];
        assert_eq!(object["kind"], "PartialObjectMetadata");
        assert_eq!(object["apiVersion"], "meta.k8s.io/v1");
        assert_eq!(object["metadata"]["labels"]["app"], "x");
    }
}

#[tokio::test]
async fn one_object_is_watched_by_its_name_and_under_old_paths() {
    let api = Harness::start().await;
    create(&api, "a", "x").await;
    create(&api, "b", "x").await;
    let old = "/apis/coordination.k8s.io/v1/watch/namespaces/default/leases";
    for (path, expected) in [
        (
            format!("{PATH}?watch=1&fieldSelector=metadata.name%3Db"),
            &["b"][..],
        ),
        (format!("{old}/b"), &["b"]),
        (old.to_owned(), &["a", "b"]),
    ] {
        let mut watch = Watch::open_as(&api, &path, "*/*").await;
        let expected: Vec<_> = expected.iter().map(|name| ("ADDED", *name)).collect();
        watch.expect(&expected).await;
    }
}

#[tokio::test]
async fn a_watch_is_a_stream_of_json_or_protobuf() {
    let api = Harness::start().await;
    let path = format!("{PATH}?watch=true");
    let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")];
    assert_eq!(api.get(&path, &upgrade).await.status(), 400);
    let refused = api.get(&path, &[("accept", "application/yaml")]).await;
    assert_eq!(refused.status(), 406);
}

#[tokio::test]
async fn contradicting_options_are_refused() {
    let api = Harness::start().await;
    for query in [
        "watch=true&sendInitialEvents=true",
        "watch=true&resourceVersionMatch=NotOlderThan",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=1",
        "resourceVersionMatch=Exact",
    ] {
        let path = format!("{PATH}?{query}");
        check(
            &api,
            "GET",
            &path,
            Value::Null,
            422,
            json!({"reason": "Invalid"}),
        )
        .await;
    }
}

#[tokio::test]
async fn a_revision_that_is_no_longer_kept_is_gone() {
    let api = Harness::with_history(4).await;
    let first = create(&api, "a", "x").await;
    for turn in 0..8 {
        relabel(&api, "a", &format!("x{turn}")).await;
    }
    let mut watch = Watch::open(&api, &format!("resourceVersion={first}")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(event["object"]["reason"], "Expired");
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_watch_that_falls_behind_is_cut_and_can_begin_again() {
    let api = Harness::with_history(4).await;
    create(&api, "a", "x").await;
    let mut slow = Watch::open(&api, "").await;
    slow.expect(&[("ADDED", "a")]).await;
    for turn in 0..8 {
        relabel(&api, "a", &format!("x{turn}")).await;
    }
    let event = slow.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(slow.next().await, None);
    Watch::open(&api, "").await.expect(&[("ADDED", "a")]).await;
}

#[tokio::test]
async fn a_watch_ends_after_its_time_with_a_bookmark() {
    let api = Harness::start().await;
    create(&api, "a", "x").await;
    let mut watch = Watch::open(&api, "timeoutSeconds=1&allowWatchBookmarks=true").await;
    watch.expect(&[("ADDED", "a"), ("BOOKMARK", "")]).await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn stopping_ends_watches_and_refuses_requests() {
    let api = Harness::start().await;
    let mut watch = Watch::open(&api, "").await;
    let service = api.plane.service();
    api.plane.stop().await;
    assert_eq!(watch.next().await, None);
    let request = http::Request::get(PATH)
        .body(http_body_util::Empty::new())
        .unwrap();
    let response = tower::ServiceExt::oneshot(service, request).await.unwrap();
    assert_eq!(response.status(), 503);
}
