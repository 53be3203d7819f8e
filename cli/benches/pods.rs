//! Measures pods on `coracle up` from outside: how fast they start, what they cost while they wait, how
//! fast they are back after a crash. Client and watcher run on the same machine, inside the figures.
//!
//! Prints one figure a line. "Running" is what a watch shows; the clock starts when the create is
//! acknowledged, as in the goals.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use coracle_tests::{Cluster, Coracle, cpu_time, descriptors, repository, resident_bytes};
use futures::stream::{self, StreamExt};
use futures::{TryStreamExt, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

/// Pods started one after the other.
const ALONE: usize = 200;
/// Pods of a burst.
const BURST: usize = 1_000;
/// Clients of a burst.
const CLIENTS: usize = 8;
/// How long the pods are left alone to see what that costs.
const IDLE: Duration = Duration::from_secs(20);

/// What the watch has shown and nobody has looked at yet.
const NEWS_MAX: usize = 100_000;

/// What a pod runs.
#[derive(Clone, Copy)]
enum Workload {
    Handler,
    Command,
}

/// A cluster and its pods as a watch shows them.
struct World {
    cluster: Cluster,
    clients: Vec<Api<Pod>>,
    /// Names of pods and their restarts, when they were seen to run.
    running: mpsc::Receiver<(String, i32, Instant)>,
    watching: tokio::task::JoinHandle<()>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime starts").block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for workload in [Workload::Handler, Workload::Command] {
            measure(workload).await;
        }
    });
}

async fn measure(workload: Workload) {
    let what = workload.name();
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let sample = workload.sample();
    let file = repository().join(format!("samples/{sample}/{sample}.wasm"));
    let file = file.to_str().expect("the path is text");
    let built = coracle.finish(&["image", "build", file, "-t", "bench.test/guest:1"]);
    assert_eq!(built.code, Some(0), "{built:?}");
    let mut world = World::start(&coracle).await;
    let id = world.cluster.run.id();

    // The first one compiles.
    world.start_pod("warm", workload).await;
    let mut alone = Vec::new();
    for number in 0..ALONE {
        alone.push(world.start_pod(&format!("alone-{number}"), workload).await);
    }
    tell(what, "alone", &mut alone);
    world.remove_all().await;

    let before = resident_bytes(id);
    let (begun, cpu) = (Instant::now(), cpu_time(id));
    let mut burst = world.burst(workload).await;
    let (took, cpu) = (begun.elapsed(), cpu_time(id).saturating_sub(cpu));
    tell(what, "in a burst", &mut burst);
    println!(
        "{what}: {BURST} pods in {took:?}: {:.0}/s, {:?} CPU each",
        BURST as f64 / took.as_secs_f64(),
        cpu / BURST as u32
    );
    let cpu = cpu_time(id);
    tokio::time::sleep(IDLE).await;
    let cpu = cpu_time(id).saturating_sub(cpu);
    println!(
        "{what}: {BURST} waiting pods, each probed every 10 s: {:.2} % of a core, {} KB each, {} \
         descriptors in all",
        100.0 * cpu.as_secs_f64() / IDLE.as_secs_f64(),
        resident_bytes(id).saturating_sub(before) / 1000 / BURST as u64,
        descriptors(id)
    );

    world.cluster.run.kill();
    world.watching.abort();
    drop(world);
    let begun = Instant::now();
    let mut world = World::start(&coracle).await;
    let mut back = 0;
    while back < BURST {
        let (_, restarts, _) = world.running.recv().await.expect("the watch goes on");
        back += usize::from(restarts == 1);
    }
    println!(
        "{what}: {BURST} pods are back {:?} after the start that follows a kill",
        begun.elapsed()
    );
    world.cluster.run.kill();
    world.watching.abort();
}

fn tell(what: &str, how: &str, times: &mut [Duration]) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{what}: acknowledged to Running, {how}: p50 {:?}, p99 {:?}, worst {:?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Workload::Handler => "handler",
            Workload::Command => "command",
        }
    }

    fn sample(self) -> &'static str {
        match self {
            Workload::Handler => "hello-http",
            Workload::Command => "tcp-echo",
        }
    }

    fn pod(self, name: &str) -> Pod {
        let probe = match self {
            Workload::Handler => json!({"httpGet": {"port": 80}, "periodSeconds": 10}),
            Workload::Command => json!({"tcpSocket": {"port": 7}, "periodSeconds": 10}),
        };
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": "bench"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "c", "image": "bench.test/guest:1", "imagePullPolicy": "Never",
                "readinessProbe": probe,
            }]},
        });
        serde_json::from_value(pod).expect("a Pod")
    }
}

impl World {
    async fn start(coracle: &Coracle) -> World {
        let cluster = Cluster::start(coracle);
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Api::default_namespaced(client(&cluster).await));
        }
        let pods: Api<Pod> = Api::default_namespaced(client(&cluster).await);
        let (seen, running) = mpsc::channel(NEWS_MAX);
        let watching = tokio::spawn(async move {
            let events = watcher(pods, watcher::Config::default().labels("app=bench"));
            let pods = events.default_backoff().applied_objects();
            pin_mut!(pods);
            while let Ok(Some(pod)) = pods.try_next().await {
                let at = Instant::now();
                let status = pod.status.as_ref();
                let statuses = status.and_then(|it| it.container_statuses.as_ref());
                let container = statuses.and_then(|it| it.first());
                let runs = container.filter(|it| {
                    it.state
                        .as_ref()
                        .is_some_and(|state| state.running.is_some())
                });
                if let Some(container) = runs {
                    let news = (pod.name_any(), container.restart_count, at);
                    if seen.send(news).await.is_err() {
                        return;
                    }
                }
            }
        });
        World {
            cluster,
            clients,
            running,
            watching,
        }
    }

    /// Starts one pod and returns how long that took.
    async fn start_pod(&mut self, name: &str, workload: Workload) -> Duration {
        create(&self.clients[0], &workload.pod(name)).await;
        let begun = Instant::now();
        loop {
            let (running, _, at) = self.running.recv().await.expect("the watch goes on");
            if running == name {
                return at.saturating_duration_since(begun);
            }
        }
    }

    /// Starts many pods as fast as they are taken, and returns how long each took.
    async fn burst(&mut self, workload: Workload) -> Vec<Duration> {
        let clients = self.clients.clone();
        let creates = tokio::spawn(async move {
            let creates = stream::iter(0..BURST).map(|number| {
                let pods = clients[number % CLIENTS].clone();
                async move {
                    let name = format!("burst-{number}");
                    create(&pods, &workload.pod(&name)).await;
                    (name, Instant::now())
                }
            });
            let acknowledged = creates.buffer_unordered(CLIENTS);
            acknowledged.collect::<HashMap<_, _>>().await
        });
        let mut running = HashMap::new();
        while running.len() < BURST {
            let (name, _, at) = self.running.recv().await.expect("the watch goes on");
            if name.starts_with("burst-") {
                running.entry(name).or_insert(at);
            }
        }
        let acknowledged = creates.await.expect("the clients do not panic");
        let took = running
            .into_iter()
            .map(|(name, at)| at.saturating_duration_since(acknowledged[&name]));
        took.collect()
    }

    async fn remove_all(&self) {
        let pods = &self.clients[0];
        let all = ListParams::default();
        let deleted = pods.delete_collection(&DeleteParams::default(), &all).await;
        deleted.expect("the pods may be deleted");
        while !pods.list(&all).await.expect("a list").items.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

async fn create(pods: &Api<Pod>, pod: &Pod) {
    let created = pods.create(&PostParams::default(), pod).await;
    created.expect("the pod is created");
}

async fn client(cluster: &Cluster) -> Client {
    let config = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig is complete");
    Client::try_from(config).expect("a client")
}
