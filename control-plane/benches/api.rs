//! Measures the API in one process, without TLS: creates, lists, watches, memory.
//!
//! The requests go through the same service that connections end in. Memory is looked at once, before
//! anything is freed whose room it could take; the rest takes turns within each round, which is an API of
//! its own.
//!
//! `CORACLE_BENCH_ROUNDS` (3).

use std::time::Instant;

use bytes::Bytes;
use coracle_control_plane::{ApiBody, ApiService, ControlPlane, ControlPlaneConfig};
use coracle_tests::{Figure, Figures, cpu_time, resident_bytes, setting};
use futures::stream::{self, StreamExt};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower::ServiceExt;

const PODS: usize = 10_000;
const WATCHERS: usize = 1_000;
const EVENTS: usize = 200;
const IDLE_WATCHES: usize = 10_000;
const PATH: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime starts").block_on(measure());
}

/// What was found of one kind of work, a value a round.
#[derive(Default)]
struct Found {
    /// Microseconds of processors for each.
    processor: Vec<f64>,
    /// Each second.
    rate: Vec<f64>,
    /// Milliseconds for all.
    took: Vec<f64>,
}

impl Found {
    /// Measures work that tells how much of it was done.
    async fn take(&mut self, work: impl Future<Output = usize>) {
        let id = std::process::id();
        let (begun, cpu) = (Instant::now(), cpu_time(id));
        let count = work.await as f64;
        let took = begun.elapsed().as_secs_f64();
        let spent = cpu_time(id).saturating_sub(cpu).as_secs_f64();
        self.processor.push(spent * 1e6 / count);
        self.rate.push(count / took);
        self.took.push(took * 1e3);
    }
}

async fn measure() {
    let mut figures = Figures::begin("api");
    memory(&mut figures).await;
    let [mut one, mut many, mut kube, mut fan] = [(); 4].map(|()| Found::default());
    let [mut objects, mut table, mut parsed] = [(); 3].map(|()| Found::default());
    for _ in 0..setting("ROUNDS", 3) {
        let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
        let service = plane.service();
        one.take(creates(&service, 1, bodies("p"))).await;
        many.take(creates(&service, 64, bodies("q"))).await;
        kube.take(creates_of_kube(&plane)).await;
        objects.take(list(&service, "application/json")).await;
        table.take(list(&service, TABLE)).await;
        parsed.take(list_of_kube(&plane)).await;
        let readers = watchers(&service, "news").await;
        fan.take(changes(&service, "news", readers)).await;
        plane.stop().await;
    }
    let creates = [
        ("1 at once", &one),
        ("64 at once", &many),
        ("kube's client, 1 at once", &kube),
    ];
    for (who, found) in creates {
        let spent = found.processor.iter().copied();
        figures.add(Figure::lower(
            "processor time of a create in memory",
            who,
            "µs",
            spent,
        ));
    }
    for (who, found) in creates {
        let rate = found.rate.iter().copied();
        figures.add(Figure::higher("creates in memory", who, "1/s", rate));
    }
    let lists = [
        ("as objects", objects),
        ("as a table", table),
        ("as objects, parsed by kube", parsed),
    ];
    for (who, found) in lists {
        figures.add(Figure::lower(
            "a list of 10,000 pods",
            who,
            "ms",
            found.took,
        ));
    }
    let name = "events to 1,000 watchers";
    figures.add(Figure::lower(
        name,
        "processor time of each",
        "µs",
        fan.processor,
    ));
    figures.add(Figure::higher(name, "events", "1/s", fan.rate));
    figures.finish();
}

async fn memory(figures: &mut Figures) {
    let empty = resident();
    let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
    let all = resident() - empty;
    let watch = idle_watches(&plane.service()).await;
    let bodies = bodies("p");
    let before = resident();
    let count = creates(&plane.service(), 64, bodies).await;
    let each = (resident() - before).max(0.0) / count as f64;
    plane.stop().await;
    let name = "resident memory";
    let pod = Figure::lower(name, "a waiting pod", "B", [each]);
    figures.add(pod.goal(60_000.0));
    figures.add(Figure::lower(name, "an idle watch", "B", [watch]));
    let name = "resident memory after the start";
    figures.add(Figure::lower(name, "ours", "KB", [all / 1e3]));
}

/// This process's resident memory in bytes.
fn resident() -> f64 {
    resident_bytes(std::process::id()) as f64
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

/// What is sent to create pods whose names begin so.
fn bodies(prefix: &str) -> Vec<Bytes> {
    let pods = (0..PODS).map(|number| pod(&format!("{prefix}{number}")).to_string());
    pods.map(Bytes::from).collect()
}

async fn creates(service: &ApiService, clients: usize, bodies: Vec<Bytes>) -> usize {
    let requests = stream::iter(bodies).map(|body| async {
        let response = ask(service, Request::post(PATH), body).await;
        assert_eq!(response.status(), 201);
    });
    requests
        .buffer_unordered(clients)
        .for_each(|()| async {})
        .await;
    PODS
}

async fn list(service: &ApiService, accept: &str) -> usize {
    let path = format!("{PATH}?limit={PODS}");
    let request = Request::get(path).header(header::ACCEPT, accept);
    let response = ask(service, request, Bytes::new()).await;
    assert_eq!(response.status(), 200, "{accept}");
    let mut bytes = 0;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let data = frame.ok().and_then(|frame| frame.into_data().ok());
        bytes += data.map_or(0, |data| data.len());
    }
    assert!(bytes > PODS * 100, "the list is whole");
    PODS
}

async fn creates_of_kube(plane: &ControlPlane) -> usize {
    let pods: Api<Pod> = Api::namespaced(plane.client("default"), "kube-system");
    for number in 0..PODS {
        let object = serde_json::from_value(pod(&format!("k{number}"))).expect("a Pod");
        pods.create(&PostParams::default(), &object)
            .await
            .expect("created");
    }
    PODS
}

async fn list_of_kube(plane: &ControlPlane) -> usize {
    let pods: Api<Pod> = Api::namespaced(plane.client("default"), "kube-system");
    let limit = ListParams::default().limit(PODS as u32);
    let list = pods.list(&limit).await.expect("a list");
    assert_eq!(list.items.len(), PODS);
    PODS
}

/// What each watch costs that waits for a namespace in which nothing happens, in bytes.
async fn idle_watches(service: &ApiService) -> f64 {
    let before = resident();
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
    (resident() - before).max(0.0) / IDLE_WATCHES as f64
}

/// Readers that follow one object and tell how many of its events they have read.
async fn watchers(service: &ApiService, name: &str) -> Vec<JoinHandle<usize>> {
    let path = format!("{MAPS}?watch=true&fieldSelector=metadata.name%3D{name}");
    let mut readers = Vec::new();
    for _ in 0..WATCHERS {
        let mut body = ask(service, Request::get(&path), Bytes::new())
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
    readers
}

/// Changes the object before them, and returns how many events they were told.
async fn changes(service: &ApiService, name: &str, readers: Vec<JoinHandle<usize>>) -> usize {
    let first = json!({"metadata": {"name": name}, "data": {"number": "0"}});
    let created = ask(service, Request::post(MAPS), Bytes::from(first.to_string())).await;
    assert_eq!(created.status(), 201);
    for number in 1..EVENTS {
        let patch = json!({"data": {"number": number.to_string()}}).to_string();
        let request = Request::patch(format!("{MAPS}/{name}"))
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
    seen
}
