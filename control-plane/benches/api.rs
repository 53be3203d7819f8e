//! Measures the API in one process, without TLS: creates, lists, watches, memory.
//!
//! Prints one figure a line. The requests go through the same service that connections end in.

use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_control_plane::{ApiBody, ApiService, ControlPlane, ControlPlaneConfig};
use futures::stream::{self, StreamExt};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};
use tower::ServiceExt;

const PODS: usize = 10_000;
const WATCHERS: usize = 1_000;
const EVENTS: usize = 200;
const IDLE_WATCHES: usize = 10_000;
const PATH: &str = "/api/v1/namespaces/default/pods";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime starts").block_on(measure());
}

async fn measure() {
    let empty = resident_bytes();
    let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
    println!(
        "resident after the start: {} KiB more",
        (resident_bytes() - empty) / 1024
    );
    // Before anything is freed whose room it could take.
    idle_watches(&plane.service()).await;
    creates(&plane.service(), 1, "p").await;
    let before = resident_bytes();
    creates(&plane.service(), 64, "q").await;
    let each = resident_bytes().saturating_sub(before) / PODS as u64;
    println!(
        "resident: {each} bytes a pod of {} bytes",
        pod("q0").to_string().len()
    );
    lists(&plane.service()).await;
    through_kube(&plane).await;
    fan_out(&plane.service()).await;
    plane.stop().await;
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench", "tier": "web"}},
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

async fn ask(
    service: &ApiService,
    request: http::request::Builder,
    body: Bytes,
) -> Response<ApiBody> {
    let request: Request<Full<Bytes>> = request.body(Full::new(body)).expect("a request");
    service
        .clone()
        .oneshot(request)
        .await
        .expect("the service always answers")
}

async fn creates(service: &ApiService, clients: usize, prefix: &str) {
    let bodies: Vec<_> = (0..PODS)
        .map(|number| Bytes::from(pod(&format!("{prefix}{number}")).to_string()))
        .collect();
    let (begun, cpu) = (Instant::now(), cpu_time());
    let requests = stream::iter(bodies).map(|body| async {
        let response = ask(service, Request::post(PATH), body).await;
        assert_eq!(response.status(), 201);
    });
    requests
        .buffer_unordered(clients)
        .for_each(|()| async {})
        .await;
    let cpu = cpu_time().saturating_sub(cpu) / PODS as u32;
    println!(
        "creates in memory, {clients} at once: {:.0}/s, {cpu:?} CPU each",
        rate(PODS, begun)
    );
}

async fn lists(service: &ApiService) {
    for (what, accept) in [("objects", "application/json"), ("a table", TABLE)] {
        let begun = Instant::now();
        let path = format!("{PATH}?limit={PODS}");
        let response = ask(
            service,
            Request::get(path).header(header::ACCEPT, accept),
            Bytes::new(),
        )
        .await;
        assert_eq!(response.status(), 200, "{what}");
        let mut bytes = 0;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let data = frame.ok().and_then(|frame| frame.into_data().ok());
            bytes += data.map_or(0, |data| data.len());
        }
        println!(
            "list of {PODS} pods as {what}: {:?}, {bytes} bytes",
            begun.elapsed()
        );
    }
}

async fn through_kube(plane: &ControlPlane) {
    let pods: Api<Pod> = Api::namespaced(plane.client("default"), "kube-system");
    let begun = Instant::now();
    for number in 0..PODS {
        let object = serde_json::from_value(pod(&format!("k{number}"))).expect("a Pod");
        pods.create(&PostParams::default(), &object)
            .await
            .expect("created");
    }
    println!("creates through kube's client: {:.0}/s", rate(PODS, begun));
    let begun = Instant::now();
    let list = pods.list(&ListParams::default()).await.expect("a list");
    println!(
        "list of {} pods, parsed by kube: {:?}",
        list.items.len(),
        begun.elapsed()
    );
}

/// What watches cost that wait for a namespace in which nothing happens.
async fn idle_watches(service: &ApiService) {
    let before = resident_bytes();
    let path = "/api/v1/namespaces/kube-public/configmaps?watch=true&resourceVersion=0";
    let mut watches = Vec::new();
    for _ in 0..IDLE_WATCHES {
        let mut body = ask(service, Request::get(path), Bytes::new())
            .await
            .into_body();
        // Polled once, it waits as in a connection's task.
        let waiting = futures::poll!(Box::pin(body.frame()));
        assert!(waiting.is_pending() || waiting.is_ready());
        watches.push(body);
    }
    let each = resident_bytes().saturating_sub(before) / IDLE_WATCHES as u64;
    println!("{IDLE_WATCHES} idle watches: {each} bytes each");
}

/// How fast changes reach many watchers.
async fn fan_out(service: &ApiService) {
    let path =
        "/api/v1/namespaces/default/configmaps?watch=true&fieldSelector=metadata.name%3Dnews";
    let mut readers = Vec::new();
    for _ in 0..WATCHERS {
        let mut body = ask(service, Request::get(path), Bytes::new())
            .await
            .into_body();
        readers.push(tokio::spawn(async move {
            let mut lines = 0;
            while lines < EVENTS {
                let Some(Ok(frame)) = body.frame().await else {
                    break;
                };
                let data = frame.into_data().unwrap_or_default();
                lines += data.iter().filter(|&&byte| byte == b'\n').count();
            }
            lines
        }));
    }
    let (begun, cpu) = (Instant::now(), cpu_time());
    let maps = "/api/v1/namespaces/default/configmaps";
    let first = json!({"metadata": {"name": "news"}, "data": {"number": "0"}});
    let created = ask(service, Request::post(maps), Bytes::from(first.to_string())).await;
    assert_eq!(created.status(), 201);
    for number in 1..EVENTS {
        let patch = json!({"data": {"number": number.to_string()}}).to_string();
        let request = Request::patch(format!("{maps}/news"))
            .header(header::CONTENT_TYPE, "application/merge-patch+json");
        assert_eq!(
            ask(service, request, Bytes::from(patch)).await.status(),
            200
        );
    }
    let mut seen = 0;
    for reader in readers {
        seen += reader.await.expect("a reader runs to its end");
    }
    assert_eq!(seen, WATCHERS * EVENTS);
    let cpu = cpu_time().saturating_sub(cpu) / seen as u32;
    println!(
        "{EVENTS} changes to {WATCHERS} watchers: {:.0} events/s, {cpu:?} CPU each",
        rate(seen, begun)
    );
}

fn rate(count: usize, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Returns this process's resident memory; 0 where the system does not tell it in `/proc`.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Returns this process's CPU time; 0 where the system does not tell it in `/proc`.
fn cpu_time() -> Duration {
    // In ticks of a hundredth of a second, which Linux promises to programs whatever it uses itself.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .skip(11);
    let ticks: u64 = fields
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}
