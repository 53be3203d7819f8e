//! Prints how many pods a second the scheduler gives a node, in memory, on one node.

use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_control_plane::{ControlPlane, ControlPlaneConfig};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

const PODS: usize = 10_000;

fn pod(name: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("pod-{name}"), "labels": {"app": "bench", "tier": "web"}},
        "spec": {
            "containers": [{
                "name": "app",
                "image": "registry.example/app:1.0",
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            }],
        },
    })
}

async fn send(plane: &ControlPlane, method: &str, path: &str, body: Value) -> Value {
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Full::new(Bytes::from(body.to_string())));
    let response = plane.service().oneshot(request.expect("a request")).await;
    let body = response.expect("never fails").into_body().collect().await;
    serde_json::from_slice(&body.expect("a body").to_bytes()).expect("JSON")
}

async fn waiting(plane: &ControlPlane) -> usize {
    let path = "/api/v1/pods?fieldSelector=spec.nodeName%3D&limit=1";
    let list = send(plane, "GET", path, Value::Null).await;
    let items = list["items"].as_array().map_or(0, Vec::len);
    items + usize::from(list["metadata"]["continue"].is_string())
}

#[tokio::main]
async fn main() {
    let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
    let begun = Instant::now();
    for name in 0..PODS {
        send(&plane, "POST", "/api/v1/namespaces/default/pods", pod(name)).await;
    }
    println!("{PODS} pods created and refused in {:?}", begun.elapsed());
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "status": {"allocatable": {"cpu": "1000", "memory": "1Ti", "pods": PODS.to_string()},
            "conditions": [{"type": "Ready", "status": "True"}]}});
    let begun = Instant::now();
    send(&plane, "POST", "/api/v1/nodes", node).await;
    while waiting(&plane).await > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{:.0} pods/s given a node", PODS as f64 / seconds);
    plane.stop().await;
}
