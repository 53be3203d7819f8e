//! Prints how many pods a second the API creates in memory, and how fast it lists them.

use std::time::Instant;

use bytes::Bytes;
use coracle_control_plane::{ControlPlane, ControlPlaneConfig};
use http::Request;
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use tower::ServiceExt;

const PODS: usize = 10_000;

fn pod(name: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("pod-{name}"), "labels": {"app": "bench", "tier": "web"}},
        "spec": {
            // Nobody places these, so only the API is measured.
            "schedulerName": "none",
            "containers": [{
                "name": "app",
                "image": "registry.example/app:1.0",
                "ports": [{"name": "http", "containerPort": 80}],
                "env": [{"name": "A", "value": "b"}, {"name": "C", "value": "d"}],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            }],
        },
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
    let bodies: Vec<_> = (0..PODS)
        .map(|name| Bytes::from(pod(name).to_string()))
        .collect();
    let begun = Instant::now();
    for body in bodies {
        let request = Request::post("/api/v1/namespaces/default/pods").body(Full::new(body))?;
        let response = plane.service().oneshot(request).await?;
        assert_eq!(response.status(), 201);
    }
    report("creates/s through the service", PODS, begun);

    let begun = Instant::now();
    let request = Request::get("/api/v1/pods").body(Full::new(Bytes::new()))?;
    let list = plane
        .service()
        .oneshot(request)
        .await?
        .into_body()
        .collect()
        .await?
        .to_bytes();
    println!("{} MB listed in {:?}", list.len() >> 20, begun.elapsed());

    let begun = Instant::now();
    let pods: Api<Pod> = Api::default_namespaced(plane.client("kube-system"));
    for name in 0..PODS {
        let object = serde_json::from_value(pod(name))?;
        pods.create(&PostParams::default(), &object).await?;
    }
    report("creates/s through kube's client", PODS, begun);

    let begun = Instant::now();
    let list = pods.list(&ListParams::default()).await?;
    println!(
        "{} pods listed and parsed by kube in {:?}",
        list.items.len(),
        begun.elapsed()
    );
    plane.stop().await;
    Ok(())
}

fn report(what: &str, count: usize, begun: Instant) {
    println!("{:.0} {what}", count as f64 / begun.elapsed().as_secs_f64());
}
