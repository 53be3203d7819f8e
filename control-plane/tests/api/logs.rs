//! `pods/log`, with a kubelet in memory that says what it was asked.

use std::{io, sync::Arc};

use bytes::Bytes;
use coracle_control_plane::{KubeletDialer, KubeletStream};
use futures::{FutureExt, future::BoxFuture, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    harness::{Harness, check},
    pods::create_pod,
};

const LOG: &str = "/api/v1/namespaces/default/pods/p/log";

/// Answers with what was asked, or refuses, or goes on for as long as the test wants.
struct FakeKubelet {
    lines: mpsc::Sender<mpsc::Sender<Bytes>>,
}

impl KubeletDialer for FakeKubelet {
    fn dial(&self) -> BoxFuture<'static, io::Result<KubeletStream>> {
        let (near, far) = tokio::io::duplex(64);
        let lines = self.lines.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, lines.clone()));
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(far), service)
                .await;
        });
        let near: KubeletStream = Box::pin(near);
        std::future::ready(Ok(near)).boxed()
    }
}

async fn answer(
    request: Request<Incoming>,
    lines: mpsc::Sender<mpsc::Sender<Bytes>>,
) -> Result<Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>, std::convert::Infallible> {
    let asked = request.uri().to_string();
    let (code, text) = match request.uri().path() {
        path if path.ends_with("/absent") => (404, "pod \"p\" does not exist".to_owned()),
        path if path.ends_with("/waits") => (400, "container is waiting to start".to_owned()),
        path if path.ends_with("/broken") => (500, "disk on fire".to_owned()),
        path if path.ends_with("/follow") => {
            let (line, taken) = mpsc::channel::<Bytes>(1);
            lines.send(line).await.unwrap();
            let frames = stream::unfold(taken, |mut taken| async {
                let line = taken.recv().await?;
                Some((Ok(Frame::data(line)), taken))
            });
            let body = StreamBody::new(frames);
            return Ok(Response::new(body.boxed_unsync()));
        }
        _ => (200, format!("{asked}\n{}", "x".repeat(100_000))),
    };
    let body = Full::new(Bytes::from(text)).boxed_unsync();
    Ok(Response::builder().status(code).body(body).unwrap())
}

async fn api() -> (Harness, mpsc::Receiver<mpsc::Sender<Bytes>>) {
    let api = Harness::start().await;
    let (lines, asked) = mpsc::channel(1);
    api.plane
        .kubelets()
        .register("n", Arc::new(FakeKubelet { lines }));
    let container = |name: &str| json!({"name": name, "image": "i"});
    let containers: Vec<_> = ["main", "absent", "waits", "broken", "follow"]
        .into_iter()
        .map(container)
        .collect();
    create_pod(
        &api,
        "p",
        json!({"nodeName": "n", "containers": containers}),
    )
    .await;
    (api, asked)
}

async fn get(api: &Harness, path: &str) -> (u16, String, String) {
    let response = api.response("GET", path, "", String::new()).await;
    let code = response.status().as_u16();
    let media = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, media, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_log_comes_from_the_kubelet_of_the_pods_node() {
    let (api, _) = api().await;
    let query = "container=main&tailLines=3&follow=true&pretty=1&insecureSkipTLSVerifyBackend=1";
    let (code, media, text) = get(&api, &format!("{LOG}?{query}")).await;
    assert_eq!((code, media.as_str()), (200, "text/plain"));
    let (asked, rest) = text.split_once('\n').unwrap();
    assert_eq!(
        asked,
        "/containerLogs/default/p/main?follow=true&tailLines=3"
    );
    assert_eq!(rest.len(), 100_000);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_as_by_a_stock_server() {
    let (api, _) = api().await;
    for (query, code, expected) in [
        (
            "",
            400,
            json!({"message": "a container name must be specified for pod p, choose one of: \
                [main absent waits broken follow]"}),
        ),
        (
            "container=x",
            400,
            json!({"message": "container x is not valid for pod p"}),
        ),
        (
            "container=main&limitBytes=0",
            422,
            json!({"reason": "Invalid", "details": {"kind": "PodLogOptions"}}),
        ),
        (
            "container=waits",
            400,
            json!({"reason": "BadRequest", "message": "container is waiting to start"}),
        ),
        (
            "container=absent",
            404,
            json!({"reason": "NotFound", "details": {"causes": [{"message":
                "pod \"p\" does not exist"}]}}),
        ),
        (
            "container=broken",
            500,
            json!({"message": "Internal error occurred: disk on fire"}),
        ),
    ] {
        let path = format!("{LOG}?{query}");
        check(&api, "GET", &path, Value::Null, code, expected).await;
    }
    let path = LOG.replace("/p/", "/none/");
    check(
        &api,
        "GET",
        &path,
        Value::Null,
        404,
        json!({"reason": "NotFound"}),
    )
    .await;
    check(&api, "POST", LOG, json!({}), 405, json!({})).await;
    create_pod(&api, "far", json!({"nodeName": "m"})).await;
    let path = LOG.replace("/p/", "/far/");
    let told = "Internal error occurred: no kubelet of node `m` is connected";
    check(
        &api,
        "GET",
        &path,
        Value::Null,
        500,
        json!({"message": told}),
    )
    .await;
    create_pod(&api, "unplaced", json!({"schedulerName": "mine"})).await;
    let (code, _, text) = get(&api, &LOG.replace("/p/", "/unplaced/")).await;
    assert_eq!((code, text.as_str()), (200, ""));
}

#[tokio::test]
async fn a_followed_log_is_passed_on_line_by_line() {
    let (api, mut asked) = api().await;
    let path = format!("{LOG}?container=follow&follow=true");
    let mut body = api
        .response("GET", &path, "", String::new())
        .await
        .into_body();
    let line = asked.recv().await.unwrap();
    for text in ["one\n", "two\n"] {
        line.send(Bytes::from(text)).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    // A client that goes away is noticed at the other end.
    drop(body);
    line.closed().await;
    let mut body = api
        .response("GET", &path, "", String::new())
        .await
        .into_body();
    let line = asked.recv().await.unwrap();
    drop(line);
    assert!(body.frame().await.is_none());
    let mut body = api
        .response("GET", &path, "", String::new())
        .await
        .into_body();
    let _line = asked.recv().await.unwrap();
    api.plane.stop().await;
    assert!(body.frame().await.is_none());
}
