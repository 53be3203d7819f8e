//! `pods/exec`, `pods/attach` and `pods/portforward`, with a kubelet in memory that says what it was
//! asked and then sends everything back.

use std::{convert::Infallible, io, sync::Arc};

use bytes::Bytes;
use coracle_control_plane::{KubeletDialer, KubeletStream};
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::{
    auth::Served,
    harness::Harness,
    pods::{create_node, create_pod},
    rbac::{grant, user},
};

const POD: &str = "/api/v1/namespaces/default/pods/p";

struct FakeKubelet;

impl KubeletDialer for FakeKubelet {
    fn dial(&self) -> BoxFuture<'static, io::Result<KubeletStream>> {
        let (near, far) = tokio::io::duplex(64);
        tokio::spawn(async move {
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(far), service_fn(answer))
                .with_upgrades()
                .await;
        });
        let near: KubeletStream = Box::pin(near);
        std::future::ready(Ok(near)).boxed()
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path().ends_with("/absent") {
        let body = Full::new(Bytes::from("container not found (\"absent\")"));
        return Ok(Response::builder().status(404).body(body).unwrap());
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (method, uri) = (request.method(), request.uri());
    // What proves who asks must not come this far.
    let is_safe = !request.headers().contains_key("authorization");
    let greeting = format!("{method} {uri} {is_safe}\n");
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        io.write_all(greeting.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(io);
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    });
    let protocols = request.headers()["x-stream-protocol-version"].clone();
    let answer = Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", protocols)
        .header("x-private", "of the kubelet");
    Ok(answer.body(Full::default()).unwrap())
}

async fn prepare(api: &Harness) {
    // A pod on a node that is not there goes after a while.
    create_node(api, "n", json!({"cpu": "1", "memory": "1Gi", "pods": "10"})).await;
    api.plane.kubelets().register("n", Arc::new(FakeKubelet));
    let container = |name: &str| json!({"name": name, "image": "i"});
    let containers = [container("main"), container("absent")];
    let spec = json!({"nodeName": "n", "containers": containers});
    create_pod(api, "p", spec).await;
}

#[tokio::test]
async fn a_clients_connection_is_joined_with_that_of_the_node() {
    let served = Served::start().await;
    prepare(&served.api).await;
    let client = served.with_certificate(&served.admin);
    for (method, path, expected) in [
        (
            "POST",
            "exec?container=main&command=ls&command=-l&stdin=true&stdout=1&stderr=false&tty=0",
            "POST /exec/default/p/main?input=1&output=1&command=ls&command=-l true",
        ),
        (
            "GET",
            "attach?container=main&stdout&stderr=1&command=ls",
            "GET /attach/default/p/main?output=1&error=1 true",
        ),
        (
            "POST",
            "portforward?ports=80&ports=81",
            "POST /portForward/default/p?port=80%2C81 true",
        ),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(format!("{POD}/{path}"))
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1")
            .header("x-stream-protocol-version", "v4.channel.k8s.io")
            .body(kube::client::Body::empty())
            .unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status(), 101, "{path}");
        let headers = answer.headers();
        assert_eq!(headers["x-stream-protocol-version"], "v4.channel.k8s.io");
        assert!(!headers.contains_key("x-private"));
        let io = hyper::upgrade::on(answer).await.unwrap();
        let (reader, mut writer) = tokio::io::split(TokioIo::new(io));
        let mut reader = BufReader::new(reader);
        let mut greeting = String::new();
        reader.read_line(&mut greeting).await.unwrap();
        assert_eq!(greeting.trim_end(), expected);
        // More than every buffer on the way holds.
        let sent = vec![7; 1 << 20];
        let mut back = vec![0; sent.len()];
        let sending = async {
            writer.write_all(&sent).await.unwrap();
        };
        let (read, ()) = tokio::join!(reader.read_exact(&mut back), sending);
        read.unwrap();
        assert!(back == sent);
        writer.shutdown().await.unwrap();
        assert_eq!(reader.read(&mut back).await.unwrap(), 0);
    }
    served.stop().await;
}

#[tokio::test]
async fn an_open_connection_does_not_hold_up_the_servers_end() {
    let served = Served::start().await;
    prepare(&served.api).await;
    let client = served.with_certificate(&served.admin);
    let request = Request::post(format!("{POD}/exec?container=main"))
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .body(kube::client::Body::empty())
        .unwrap();
    let answer = client.send(request).await.unwrap();
    let io = hyper::upgrade::on(answer).await.unwrap();
    served.stop().await;
    let mut rest = Vec::new();
    // It ends, in order or not.
    let _ = TokioIo::new(io).read_to_end(&mut rest).await;
}

const UPGRADE: &[(&str, &str)] = &[
    ("connection", "Upgrade"),
    ("upgrade", "SPDY/3.1"),
    ("x-stream-protocol-version", "v4.channel.k8s.io"),
];

async fn check(api: &Harness, path: &str, headers: &[(&str, &str)], code: u16, text: &str) {
    let answer = api
        .get(&format!("/api/v1/namespaces/default/pods/{path}"), headers)
        .await;
    assert_eq!(answer.status(), code, "{path}");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.contains(text), "{path}: {body}");
}

#[tokio::test]
async fn what_cannot_be_connected_is_refused_as_by_a_stock_server() {
    let api = Harness::start().await;
    prepare(&api).await;
    create_pod(
        &api,
        "q",
        json!({"containers": [{"name": "c", "image": "i"}]}),
    )
    .await;
    for (path, code, text) in [
        (
            "p/exec?command=ls",
            400,
            "a container name must be specified for pod p",
        ),
        (
            "p/exec?container=x",
            400,
            "container x is not valid for pod p",
        ),
        (
            "p/attach?container=x",
            400,
            "container x is not valid for pod p",
        ),
        ("q/exec", 400, "pod q does not have a host assigned"),
        ("q/portforward", 400, "pod q does not have a host assigned"),
        ("r/exec", 404, "pods \\\"r\\\" not found"),
        // As the node words it: the client shows it.
        (
            "p/exec?container=absent",
            404,
            "container not found (\"absent\")",
        ),
    ] {
        check(&api, path, UPGRADE, code, text).await;
    }
    check(&api, "p/portforward", &[], 400, "Upgrade request required").await;
}

#[tokio::test]
async fn a_connection_needs_the_right_to_create_however_it_is_asked_for() {
    let api = Harness::start().await;
    prepare(&api).await;
    let resources = ["pods/exec", "pods/attach", "pods/portforward"];
    let rule =
        |verbs: &[&str]| json!([{"verbs": verbs, "apiGroups": [""], "resources": resources}]);
    grant(&api, "reader", rule(&["get"])).await;
    grant(&api, "writer", rule(&["get", "create"])).await;
    let (reader, writer) = (user("reader", &[]), user("writer", &[]));
    for part in ["exec", "attach", "portforward"] {
        let path = format!("{POD}/{part}?container=main");
        let (code, answer) = api.send_as(&reader, "GET", &path, Value::Null).await;
        let text = format!(
            "pods \"p\" is forbidden: User \"reader\" cannot create resource \"pods/{part}\" in API \
             group \"\" in the namespace \"default\""
        );
        assert_eq!((code, &answer["message"]), (403, &json!(text)));
        let (code, _) = api.send_as(&reader, "POST", &path, Value::Null).await;
        assert_eq!(code, 403);
        // It comes as far as a request without an upgrade comes.
        let (code, answer) = api.send_as(&writer, "GET", &path, Value::Null).await;
        let message = answer["message"].as_str().unwrap();
        assert_eq!((code, message), (400, "Upgrade request required"));
    }
}
