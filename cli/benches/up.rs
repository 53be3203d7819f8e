//! Measures `coracle up` from outside: exec to `/readyz`, memory, durable creates over HTTPS.
//!
//! Prints one figure a line. The machine's own speed at making a file durable stands beside the
//! creates, because nothing durable is faster than that in one stream.

use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

use coracle_tests::{Cluster, Coracle, cpu_time, resident_bytes};
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

const STARTS: usize = 11;
const PODS: usize = 10_000;
const CREATES: usize = 20_000;
const CLIENTS: usize = 8;
const REQUESTS_EACH: usize = 32;
const SYNCS: u32 = 200;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime starts").block_on(measure());
}

async fn measure() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    println!("bytes of the binary: {}", binary_bytes());
    let mut starts = Vec::new();
    for start in 0..=STARTS {
        let begun = Instant::now();
        let cluster = Cluster::start(&coracle);
        client(&cluster)
            .await
            .request_text(readyz())
            .await
            .expect("ready");
        // The first start makes keys and folders; it is told apart.
        match start {
            0 => println!("first exec to /readyz: {:?}", begun.elapsed()),
            _ => starts.push(begun.elapsed()),
        }
        end(cluster);
    }
    starts.sort();
    println!(
        "exec to /readyz: median {:?}, worst {:?}",
        starts[STARTS / 2],
        starts[STARTS - 1]
    );

    let cluster = Cluster::start(&coracle);
    let client = client(&cluster).await;
    let id = cluster.run.id();
    let empty = resident_bytes(id);
    println!("resident, empty: {} KiB", empty / 1024);
    durable_creates(&cluster, id).await;
    let before = resident_bytes(id);
    let pods: Api<Pod> = Api::default_namespaced(client);
    let made = stream::iter(0..PODS).map(|number| create_pod(&pods, number));
    made.buffer_unordered(REQUESTS_EACH)
        .for_each(|()| async {})
        .await;
    let after = resident_bytes(id);
    println!(
        "resident, {PODS} waiting pods more: {} KiB, {} bytes a pod",
        after / 1024,
        after.saturating_sub(before) / PODS as u64
    );
    let begun = Instant::now();
    let list = pods.list(&ListParams::default()).await.expect("a list");
    println!(
        "list of {} pods over HTTPS, parsed by kube: {:?}",
        list.items.len(),
        begun.elapsed()
    );
    end(cluster);
}

/// Several clients create ConfigMaps as fast as they are taken.
async fn durable_creates(cluster: &Cluster, id: u32) {
    let syncs = syncs_per_second(cluster);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Api::<ConfigMap>::default_namespaced(client(cluster).await));
    }
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
    let cpu = cpu_time(id).saturating_sub(cpu);
    let rate = CREATES as f64 / begun.elapsed().as_secs_f64();
    println!(
        "durable creates over HTTPS: {rate:.0}/s, {:?} CPU each",
        cpu / CREATES as u32
    );
    println!("beside it, files made durable one after the other: {syncs:.0}/s");
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

async fn client(cluster: &Cluster) -> Client {
    let config = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig is complete");
    Client::try_from(config).expect("a client")
}

fn readyz() -> http::Request<Vec<u8>> {
    http::Request::get("/readyz")
        .body(Vec::new())
        .expect("a request")
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

fn binary_bytes() -> u64 {
    std::fs::metadata(env!("CARGO_BIN_EXE_coracle")).map_or(0, |file| file.len())
}

fn end(cluster: Cluster) {
    cluster.run.interrupt();
    assert_eq!(cluster.run.end().code, Some(0));
}
