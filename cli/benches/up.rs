//! Measures `coracle up` from outside: exec to `/readyz`, memory, durable creates over HTTPS.
//!
//! The machine's own speed at making a file durable stands beside the creates, because nothing durable is
//! faster than that in one stream.
//!
//! `CORACLE_BENCH_ROUNDS` (3) clusters, `CORACLE_BENCH_BINARY` for another program than the one that was
//! built with the benchmark: the one that is handed out, say.

#[path = "from_outside/client.rs"]
mod client;

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use client::client;
use coracle_tests::{
    Cluster, Coracle, Figure, Figures, cpu_time, measured_binary, own_bytes, resident_bytes,
    setting,
};
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

const STARTS: usize = 11;
const PODS: usize = 10_000;
const CREATES: usize = 20_000;
const CLIENTS: usize = 8;
const REQUESTS_EACH: usize = 32;
const SYNCS: u32 = 200;
/// How long a cluster is left alone before its memory is looked at and its idle time measured.
const QUIET: Duration = Duration::from_secs(5);
const FILES: &str = "the folder: small files made durable one after the other";

/// A value a round.
#[derive(Default)]
struct Found {
    /// Milliseconds.
    first: Vec<f64>,
    again: Vec<f64>,
    /// Megabytes.
    resident: Vec<f64>,
    own: Vec<f64>,
    /// Percent of a core.
    idle: Vec<f64>,
    /// Microseconds of the server.
    processor: Vec<f64>,
    creates: Vec<f64>,
    syncs: Vec<f64>,
    /// Bytes.
    pod: Vec<f64>,
    /// Milliseconds.
    list: Vec<f64>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime starts").block_on(measure());
}

async fn measure() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let binary = measured_binary(env!("CARGO_BIN_EXE_coracle"));
    let mut figures = Figures::begin("up");
    let mut found = Found::default();
    for _ in 0..setting("ROUNDS", 3) {
        found.round(&binary).await;
    }
    let bytes = std::fs::metadata(&binary).map_or(f64::NAN, |file| file.len() as f64);
    figures.add(Figure::lower("the binary", "ours", "MB", [bytes / 1e6]).goal(60.0));
    found.tell(&mut figures);
    figures.finish();
}

impl Found {
    async fn round(&mut self, binary: &str) {
        let coracle = Coracle::new(binary);
        // The first start makes keys and folders; it is told apart.
        self.first.push(start(&coracle).await);
        for _ in 0..STARTS {
            self.again.push(start(&coracle).await);
        }
        let cluster = Cluster::start(&coracle);
        let id = cluster.run.id();
        tokio::time::sleep(QUIET).await;
        self.resident.push(resident_bytes(id) as f64 / 1e6);
        self.own.push(own_bytes(id) as f64 / 1e6);
        let cpu = cpu_time(id);
        tokio::time::sleep(QUIET).await;
        let idle = cpu_time(id).saturating_sub(cpu).as_secs_f64();
        self.idle.push(100.0 * idle / QUIET.as_secs_f64());
        self.syncs.push(syncs_per_second(&cluster));
        self.durable_creates(&cluster).await;
        let pods: Api<Pod> = Api::default_namespaced(client(&cluster).await);
        let before = resident_bytes(id);
        let made = stream::iter(0..PODS).map(|number| create_pod(&pods, number));
        made.buffer_unordered(REQUESTS_EACH)
            .for_each(|()| async {})
            .await;
        let weight = resident_bytes(id).saturating_sub(before) as f64;
        self.pod.push(weight / PODS as f64);
        let begun = Instant::now();
        let list = pods.list(&ListParams::default()).await.expect("a list");
        assert_eq!(list.items.len(), PODS);
        self.list.push(begun.elapsed().as_secs_f64() * 1e3);
        end(cluster);
    }

    /// Several clients create ConfigMaps as fast as they are taken.
    async fn durable_creates(&mut self, cluster: &Cluster) {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Api::<ConfigMap>::default_namespaced(client(cluster).await));
        }
        let id = cluster.run.id();
        let (begun, cpu) = (Instant::now(), cpu_time(id));
        let creates = stream::iter(0..CREATES).map(|number| {
            let maps = clients[number % CLIENTS].clone();
            async move {
                let map = json!({"metadata": {"name": format!("m{number}")}, "data": {"a": "b"}});
                let map = serde_json::from_value(map).expect("a ConfigMap");
                maps.create(&PostParams::default(), &map)
                    .await
                    .expect("created");
            }
        });
        creates
            .buffer_unordered(CLIENTS * REQUESTS_EACH)
            .for_each(|()| async {})
            .await;
        let (took, count) = (begun.elapsed().as_secs_f64(), CREATES as f64);
        let spent = cpu_time(id).saturating_sub(cpu).as_secs_f64();
        self.processor.push(spent * 1e6 / count);
        self.creates.push(count / took);
    }

    fn tell(self, figures: &mut Figures) {
        let start = "exec to /readyz";
        figures.add(Figure::lower(start, "the first of all", "ms", self.first));
        figures.add(Figure::lower(start, "state kept", "ms", self.again).goal(150.0));
        let memory = "memory of an empty cluster";
        figures.add(Figure::lower(memory, "resident", "MB", self.resident).goal(40.0));
        figures.add(Figure::lower(memory, "of it no file's", "MB", self.own));
        let idle = "an empty cluster's processor time";
        figures.add(Figure::lower(idle, "ours", "% of a core", self.idle));
        let create = "durable creates over HTTPS, 8 clients with 32 requests each";
        let spent = "processor time of the server for a durable create";
        figures.add(Figure::lower(spent, "ours", "µs", self.processor));
        figures.add(Figure::higher(create, FILES, "1/s", self.syncs).peer());
        let creates = Figure::higher(create, "ours", "1/s", self.creates);
        figures.add(creates.against(FILES).goal(10_000.0));
        let pod = "memory of each of 10,000 waiting pods in the API";
        figures.add(Figure::lower(pod, "ours", "B", self.pod).goal(60_000.0));
        let list = "a list of 10,000 pods over HTTPS, parsed by kube";
        figures.add(Figure::lower(list, "ours", "ms", self.list));
    }
}

/// Starts a cluster, waits until it says that it is ready, and ends it; returns milliseconds.
async fn start(coracle: &Coracle) -> f64 {
    let begun = Instant::now();
    let cluster = Cluster::start(coracle);
    let readyz = http::Request::get("/readyz").body(Vec::new());
    let answer = client(&cluster)
        .await
        .request_text(readyz.expect("a request"))
        .await;
    answer.expect("ready");
    let took = begun.elapsed().as_secs_f64() * 1e3;
    end(cluster);
    took
}

async fn create_pod(pods: &Api<Pod>, number: usize) {
    // Nobody places these, so only the API and its memory are measured.
    let pod = json!({
        "metadata": {"name": format!("p{number}"), "labels": {"app": "bench"}},
        "spec": {"schedulerName": "none", "containers": [{"name": "c", "image": "bench:1"}]},
    });
    let pod = serde_json::from_value(pod).expect("a Pod");
    pods.create(&PostParams::default(), &pod)
        .await
        .expect("created");
}

/// Returns how often a second this folder makes a small file durable.
fn syncs_per_second(cluster: &Cluster) -> f64 {
    let path = cluster.kubeconfig().with_extension("sync");
    let mut file = File::create(&path).expect("a file");
    let begun = Instant::now();
    for _ in 0..SYNCS {
        file.write_all(&[0; 512])
            .and_then(|()| file.sync_data())
            .expect("durable");
    }
    f64::from(SYNCS) / begun.elapsed().as_secs_f64()
}

fn end(cluster: Cluster) {
    cluster.run.interrupt();
    assert_eq!(cluster.run.end().code, Some(0));
}
