//! Requests and answers in protobuf, written and read with another library's messages.

use coracle_control_plane::ApiBody;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use k8s_pb::{
    api::core::v1 as core,
    apimachinery::pkg::{
        apis::meta::v1 as meta,
        runtime::{TypeMeta, Unknown},
    },
};
use prost::Message;
use tower::ServiceExt;

use crate::harness::Harness;

const MAGIC: &[u8] = b"k8s\0";
const MEDIA: &str = "application/vnd.kubernetes.protobuf";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Sends a message, or nothing, as client-go does.
async fn send(
    api: &Harness,
    method: &str,
    path: &str,
    body: Option<(&str, Vec<u8>)>,
) -> Response<ApiBody> {
    let body = body.map_or(Vec::new(), |(kind, raw)| {
        let unknown = Unknown {
            type_meta: Some(TypeMeta {
                api_version: Some("v1".to_owned()),
                kind: Some(kind.to_owned()),
            }),
            raw: Some(raw),
            ..Unknown::default()
        };
        [MAGIC, &unknown.encode_to_vec()].concat()
    });
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", MEDIA)
        .header("accept", format!("{MEDIA},application/json"))
        .body(Full::from(body))
        .unwrap();
    api.plane.service().oneshot(request).await.unwrap()
}

/// Reads the object in an answer that has this code and says that it is of this kind.
async fn receive<M: Message + Default>(response: Response<ApiBody>, code: u16, kind: &str) -> M {
    assert_eq!(response.status(), code);
    assert_eq!(response.headers()["content-type"], MEDIA);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    open(&bytes, kind)
}

fn open<M: Message + Default>(bytes: &[u8], kind: &str) -> M {
    let unknown = Unknown::decode(bytes.strip_prefix(MAGIC).unwrap()).unwrap();
    assert_eq!(unknown.type_meta.unwrap().kind.unwrap(), kind);
    M::decode(unknown.raw.unwrap().as_slice()).unwrap()
}

fn config_map(name: &str) -> Option<(&'static str, Vec<u8>)> {
    let object = core::ConfigMap {
        metadata: Some(meta::ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(String::new()),
            creation_timestamp: Some(meta::Time::default()),
            ..meta::ObjectMeta::default()
        }),
        data: [("k".to_owned(), "v".to_owned())].into(),
        binary_data: [("b".to_owned(), vec![0, 255])].into(),
        immutable: None,
    };
    Some(("ConfigMap", object.encode_to_vec()))
}

#[tokio::test]
async fn an_object_is_created_read_and_listed() {
    let api = Harness::start().await;
    let created: core::ConfigMap = receive(
        send(&api, "POST", CONFIG_MAPS, config_map("a")).await,
        201,
        "ConfigMap",
    )
    .await;
    assert_eq!(created.data["k"], "v");
    let path = format!("{CONFIG_MAPS}/a");
    let found: core::ConfigMap =
        receive(send(&api, "GET", &path, None).await, 200, "ConfigMap").await;
    assert_eq!(found, created);
    let (_, json) = api.send("GET", &path, "", &serde_json::Value::Null).await;
    assert_eq!(json["binaryData"]["b"], "AP8=");
    // Every namespace has another one from the start.
    let selected = format!("{CONFIG_MAPS}?fieldSelector=metadata.name=a");
    let list: core::ConfigMapList = receive(
        send(&api, "GET", &selected, None).await,
        200,
        "ConfigMapList",
    )
    .await;
    assert_eq!(list.items, [found]);
    assert!(list.metadata.unwrap().resource_version.is_some());
}

#[tokio::test]
async fn a_refusal_and_a_deletion_are_answered_with_a_status() {
    let api = Harness::start().await;
    send(&api, "POST", CONFIG_MAPS, config_map("a")).await;
    let again = send(&api, "POST", CONFIG_MAPS, config_map("a")).await;
    let status: meta::Status = receive(again, 409, "Status").await;
    assert_eq!(status.reason.as_deref(), Some("AlreadyExists"));
    assert_eq!(status.details.unwrap().name.as_deref(), Some("a"));
    let options = meta::DeleteOptions {
        preconditions: Some(meta::Preconditions {
            uid: Some("other".to_owned()),
            resource_version: None,
        }),
        ..meta::DeleteOptions::default()
    };
    let path = format!("{CONFIG_MAPS}/a");
    let options = Some(("DeleteOptions", options.encode_to_vec()));
    let kept: meta::Status =
        receive(send(&api, "DELETE", &path, options).await, 409, "Status").await;
    assert_eq!(kept.reason.as_deref(), Some("Conflict"));
    let gone: meta::Status = receive(send(&api, "DELETE", &path, None).await, 200, "Status").await;
    assert_eq!(gone.status.as_deref(), Some("Success"));
}

#[tokio::test]
async fn a_watch_sends_events_behind_their_length() {
    let api = Harness::start().await;
    let path = format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name=a");
    let watch = send(&api, "GET", &path, None).await;
    assert_eq!(
        watch.headers()["content-type"],
        format!("{MEDIA};stream=watch")
    );
    let mut body = watch.into_body();
    send(&api, "POST", CONFIG_MAPS, config_map("a")).await;
    let mut bytes = Vec::new();
    let event = loop {
        let frame = body.frame().await.unwrap().unwrap();
        bytes.extend(frame.into_data().unwrap());
        if let Some((length, rest)) = bytes.split_first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            if let Some(event) = rest.get(..length) {
                assert_eq!(rest.len(), length);
                break meta::WatchEvent::decode(event).unwrap();
            }
        }
    };
    assert_eq!(event.r#type.as_deref(), Some("ADDED"));
    let object: core::ConfigMap = open(&event.object.unwrap().raw.unwrap(), "ConfigMap");
    assert_eq!(object.metadata.unwrap().name.as_deref(), Some("a"));
}

#[tokio::test]
async fn a_body_that_is_no_protobuf_and_a_patch_that_is_are_refused() {
    let api = Harness::start().await;
    for (body, expected) in [
        (
            "{}",
            "the object provided is unrecognized (must be of type ConfigMap): provided data does \
             not appear to be a protobuf message, expected prefix [107 56 115 0] ({})",
        ),
        (
            "k8s\0\u{12}\u{1}\u{a}",
            "the object provided is unrecognized (must be of type ConfigMap): unexpected EOF \
             (6b38730012010a)",
        ),
    ] {
        let (code, status) = api
            .send_text("POST", CONFIG_MAPS, MEDIA, body.to_owned())
            .await;
        assert_eq!(
            (code, &status["message"]),
            (400, &serde_json::json!(expected))
        );
    }
    let path = format!("{CONFIG_MAPS}/a");
    let (code, _) = api
        .send_text("PATCH", &path, MEDIA, "k8s\0".to_owned())
        .await;
    assert_eq!(code, 415);
}
