//! `proxy` of pods, services and nodes, with pods in memory that say what they were asked.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use coracle_control_plane::{KubeletDialer, KubeletStream, PodDialer};
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::{
    auth::Served,
    harness::{Harness, check},
    pods::{create_node, create_pod},
    rbac::{grant, user},
};

const POD: &str = "/api/v1/namespaces/default/pods";
const SERVICE: &str = "/api/v1/namespaces/default/services";
const IP: &str = "10.244.0.5";

type Answer = Response<Full<Bytes>>;

/// Serves one pod's address, where port 8081 breaks off; everything else refuses.
struct Pods;

/// Serves whoever dials, under a name of its own.
struct FakeKubelet;

impl PodDialer for Pods {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<KubeletStream>> {
        let stream = match (to.ip().to_string().as_str(), to.port()) {
            (IP, 8080) => Ok(served("pod")),
            (IP, 8081) => Ok(breaking()),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        };
        std::future::ready(stream).boxed()
    }
}

impl KubeletDialer for FakeKubelet {
    fn dial(&self) -> BoxFuture<'static, io::Result<KubeletStream>> {
        std::future::ready(Ok(served("kubelet"))).boxed()
    }
}

/// Answers with half of what it says that it will, and is gone.
fn breaking() -> KubeletStream {
    let (near, far) = tokio::io::duplex(64);
    tokio::spawn(async move {
        let mut far = BufReader::new(far);
        let mut line = String::new();
        while far.read_line(&mut line).await.unwrap() > 2 {
            line.clear();
        }
        let half = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        far.write_all(half).await.unwrap();
    });
    Box::pin(near)
}

fn served(who: &'static str) -> KubeletStream {
    let (near, far) = tokio::io::duplex(64);
    tokio::spawn(async move {
        let service = service_fn(move |request| answer(who, request));
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(far), service)
            .with_upgrades()
            .await;
    });
    Box::pin(near)
}

async fn answer(who: &str, mut request: Request<Incoming>) -> Result<Answer, Infallible> {
    if request.uri().path() == "/switch" {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut said = [0; 5];
            io.read_exact(&mut said).await.unwrap();
            io.write_all(&said).await.unwrap();
        });
        let answer = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", request.headers()["upgrade"].clone())
            .header("sec-websocket-accept", "accepted");
        return Ok(answer.body(Full::default()).unwrap());
    }
    let (head, body) = request.into_parts();
    let sent = body.collect().await.unwrap().to_bytes();
    let field = |name: &str| {
        let value = head.headers.get(name).map(|value| value.to_str().unwrap());
        format!("{name}={}", value.unwrap_or("-"))
    };
    let text = format!(
        "{who} {} {} {} {} {} {} {}",
        head.method,
        head.uri,
        String::from_utf8_lossy(&sent),
        field("x-own"),
        field("authorization"),
        field("connection"),
        field("x-forwarded-uri"),
    );
    let answer = Response::builder()
        .status(418)
        .header("location", "/elsewhere/")
        .header("x-answered", "yes")
        .header("content-length", text.len());
    Ok(answer.body(Full::from(text)).unwrap())
}

async fn prepare(api: &Harness) {
    create_node(api, "n", json!({"cpu": "1", "memory": "1Gi", "pods": "10"})).await;
    let kubelets = api.plane.kubelets();
    kubelets.register("n", Arc::new(FakeKubelet));
    kubelets.reach_pods(Arc::new(Pods));
    let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 8080}]});
    let spec = json!({"nodeName": "n", "containers": [container]});
    create_pod(api, "p", spec).await;
    let status = json!({"status": {"phase": "Running", "podIP": IP, "podIPs": [{"ip": IP}]}});
    let path = format!("{POD}/p/status");
    let (code, answer) = api
        .send("PATCH", &path, "application/merge-patch+json", &status)
        .await;
    assert_eq!(code, 200, "{answer}");
}

/// Sends a request over TLS, as the administrator.
async fn ask(
    served: &Served,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> Response<kube::client::Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let body = kube::client::Body::from(body.as_bytes().to_vec());
    let client = served.with_certificate(&served.admin);
    client.send(request.body(body).unwrap()).await.unwrap()
}

async fn text(answer: Response<kube::client::Body>) -> (u16, HeaderMap, String) {
    let (head, body) = answer.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    (head.status.as_u16(), head.headers, text)
}

#[tokio::test]
async fn a_request_passes_as_it_is() {
    let served = Served::start().await;
    prepare(&served.api).await;
    for (method, path, sent, expected) in [
        (
            "GET",
            "pods/p:8080/proxy/a%2Fb//?c=d%20e",
            "",
            "pod GET /a%2Fb//?c=d%20e ",
        ),
        ("POST", "pods/p/proxy/form", "a=b", "pod POST /form a=b"),
        ("POST", "pods/p/proxy", "a=b", "pod POST / a=b"),
        ("PUT", "pods/http:p:8080/proxy/x", "y", "pod PUT /x y"),
        ("PATCH", "pods/p/proxy/x", "z", "pod PATCH /x z"),
        (
            "DELETE",
            "pods/p/proxy/x?watch=1",
            "",
            "pod DELETE /x?watch=1 ",
        ),
        ("OPTIONS", "pods/p/proxy/x", "", "pod OPTIONS /x "),
        (
            "GET",
            "pods/p/proxy/proxy/proxy",
            "",
            "pod GET /proxy/proxy ",
        ),
    ] {
        let path = format!("/api/v1/namespaces/default/{path}");
        let answer = ask(&served, method, &path, &[("x-own", "mine")], sent).await;
        let (code, headers, said) = text(answer).await;
        assert_eq!(code, 418, "{said}");
        assert!(said.starts_with(expected), "{said}");
        assert!(
            said.contains(" x-own=mine authorization=- connection=- "),
            "{said}"
        );
        let prefix = path.split("/proxy").next().unwrap();
        assert!(
            said.contains(&format!("x-forwarded-uri={prefix}/proxy/")),
            "{said}"
        );
        assert_eq!(headers["x-answered"], "yes");
        assert_eq!(headers["location"], format!("{prefix}/proxy/elsewhere/"));
    }
    let nodes = "/api/v1/nodes/n/proxy/metrics?a";
    let (_, _, said) = text(ask(&served, "GET", nodes, &[], "").await).await;
    assert!(said.starts_with("kubelet GET /metrics?a "), "{said}");
    served.stop().await;
}

#[tokio::test]
async fn a_head_has_no_body_and_a_path_without_a_slash_leads_to_one() {
    let served = Served::start().await;
    prepare(&served.api).await;
    let path = format!("{POD}/p/proxy");
    let (code, headers, said) =
        text(ask(&served, "HEAD", &format!("{path}/x"), &[], "").await).await;
    assert_eq!((code, said.as_str()), (418, ""));
    assert_ne!(headers["content-length"], "0");
    let (code, headers, _) = text(ask(&served, "GET", &format!("{path}?a=b"), &[], "").await).await;
    assert_eq!(code, 301);
    assert_eq!(headers["location"], format!("{path}/?a=b"));
    served.stop().await;
}

#[tokio::test]
async fn other_protocols_pass_too() {
    let served = Served::start().await;
    prepare(&served.api).await;
    let path = format!("{POD}/p/proxy/switch");
    let fields = [("connection", "Upgrade"), ("upgrade", "websocket")];
    let answer = ask(&served, "GET", &path, &fields, "").await;
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["sec-websocket-accept"], "accepted");
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    io.write_all(b"hello").await.unwrap();
    let mut back = String::new();
    io.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hello");
    served.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let served = Served::start().await;
    prepare(&served.api).await;
    let path = format!("{POD}/p:8081/proxy/");
    let client = served.with_certificate(&served.admin);
    let request = Request::get(&path).body(kube::client::Body::empty());
    // The head may be lost with the rest.
    if let Ok(answer) = client.send(request.unwrap()).await {
        assert_eq!(answer.status(), 200);
        assert!(answer.into_body().collect().await.is_err());
    }
    served.stop().await;
}

#[tokio::test]
async fn who_cannot_be_reached_is_told() {
    let api = Harness::start().await;
    prepare(&api).await;
    let node = json!({"metadata": {"name": "without-kubelet"}});
    check(&api, "POST", "/api/v1/nodes", node, 201, json!({})).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    check(&api, "POST", SERVICE, service, 201, json!({})).await;
    let waiting = json!({"containers": [{"name": "c", "image": "i"}], "nodeName": "n"});
    create_pod(&api, "waiting", waiting).await;
    for (path, code, message) in [
        (
            format!("{POD}/p:81/proxy/"),
            503,
            "error trying to reach service: dial tcp 10.244.0.5:81: connect: connection refused",
        ),
        (
            format!("{POD}/ftp:p:21/proxy/"),
            400,
            "invalid pod request \"ftp:p:21\"",
        ),
        (
            format!("{POD}/p:http/proxy/"),
            400,
            "invalid pod request \"p:http\"",
        ),
        (format!("{POD}/waiting/proxy/"), 400, "address not allowed"),
        (
            format!("{POD}/nobody/proxy/"),
            404,
            "pods \"nobody\" not found",
        ),
        (
            format!("{SERVICE}/nobody/proxy/"),
            404,
            "services \"nobody\" not found",
        ),
        (
            format!("{SERVICE}/s:80/proxy/"),
            503,
            "no endpoints available for service \"s\"",
        ),
        (
            "/api/v1/nodes/n:22/proxy/".to_owned(),
            404,
            "the server could not find the requested resource: `nodes/proxy` to ports other than the kubelet's, \
             0, is not served here",
        ),
        (
            "/api/v1/nodes/without-kubelet/proxy/".to_owned(),
            500,
            "Internal error occurred: no kubelet of node `without-kubelet` is connected",
        ),
    ] {
        check(
            &api,
            "GET",
            &path,
            Value::Null,
            code,
            json!({"message": message}),
        )
        .await;
    }
}

#[tokio::test]
async fn passing_on_is_a_right_of_its_own() {
    let api = Harness::start().await;
    prepare(&api).await;
    let rule = |resource: &str, verb: &str| json!([{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]);
    grant(&api, "reader", rule("pods", "*")).await;
    grant(&api, "getter", rule("pods/proxy", "get")).await;
    let path = format!("{POD}/p/proxy/");
    for (name, method, code) in [
        ("reader", "GET", 403),
        ("getter", "GET", 418),
        ("getter", "POST", 403),
        ("getter", "DELETE", 403),
    ] {
        let (found, answer) = api
            .send_as(&user(name, &[]), method, &path, Value::Null)
            .await;
        assert_eq!(found, code, "{name} {method}: {answer}");
    }
}

/// By a connection to a kubelet programs are started, whatever the method.
#[tokio::test]
async fn connections_through_a_node_need_the_right_to_create() {
    let served = Served::start().await;
    prepare(&served.api).await;
    let role = json!({"metadata": {"name": "getter"},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["nodes/proxy"]}]});
    let binding = json!({"metadata": {"name": "getter"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "getter"},
        "subjects": [{"kind": "User", "name": "getter", "apiGroup": "rbac.authorization.k8s.io"}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    for (kind, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        check(
            &served.api,
            "POST",
            &format!("{rbac}/{kind}"),
            object,
            201,
            json!({}),
        )
        .await;
    }
    let path = "/api/v1/nodes/n/proxy/switch";
    let getter = [("impersonate-user", "getter")];
    let plain = ask(&served, "GET", "/api/v1/nodes/n/proxy/x", &getter, "").await;
    assert_eq!(plain.status(), 418);
    let upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        getter[0],
    ];
    let (code, _, said) = text(ask(&served, "GET", path, &upgrade, "").await).await;
    assert_eq!(code, 403, "{said}");
    assert!(
        said.contains("cannot create resource \\\"nodes/proxy\\\""),
        "{said}"
    );
    let answer = ask(&served, "GET", path, &upgrade[..2], "").await;
    assert_eq!(answer.status(), 101);
    drop(answer);
    served.stop().await;
}
