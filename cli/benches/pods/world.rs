//! A cluster, its clients, and its pods as a watch shows them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use coracle_tests::{Cluster, Coracle, cpu_time, repository};
use futures::stream::{self, StreamExt};
use futures::{TryStreamExt, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use tokio::sync::mpsc;

use crate::client::client;

/// Clients of a burst.
pub(crate) const CLIENTS: usize = 8;

/// What the watch has shown and nobody has looked at yet.
const NEWS_MAX: usize = 100_000;

/// The longest that pods take to be Ready; what is not by then is told as a lower number.
const READY_TIMEOUT: Duration = Duration::from_secs(600);

/// What a pod runs.
#[derive(Clone, Copy)]
pub(crate) enum Workload {
    Handler,
    Command,
}

/// A cluster and its pods as a watch shows them.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    clients: Vec<Api<Pod>>,
    running: mpsc::Receiver<News>,
    watching: tokio::task::JoinHandle<()>,
}

/// What a watch has shown of a pod that runs.
struct News {
    name: String,
    restarts: i32,
    is_ready: bool,
    at: Instant,
}

/// What came of pods that were created as fast as they were taken.
pub(crate) struct Burst {
    /// From the acknowledgement to Running, in milliseconds.
    pub(crate) each: Vec<f64>,
    /// From the first create until all were Running.
    pub(crate) running: Duration,
    /// Processor time of the cluster's process until then.
    pub(crate) processor: Duration,
    /// Until all were Ready, or nobody waited any longer.
    pub(crate) ready: Duration,
    /// How many were.
    pub(crate) ready_count: usize,
}

/// What came of pods that one manifest names, without any client.
pub(crate) struct Manifest {
    /// From the start of the program until all were told to run.
    pub(crate) running: Duration,
    /// Processor time of the program until then, its own start and the reading of the manifest included.
    pub(crate) processor: Duration,
}

impl Manifest {
    /// Has `coracle run` start pods of an image that is there and compiled.
    pub(crate) fn run(coracle: &Coracle, workload: Workload, count: usize) -> Manifest {
        let name = |number: usize| format!("one-{number}");
        let pods = (0..count).map(|number| json!(workload.pod(&name(number))).to_string());
        let text = pods.collect::<Vec<_>>().join("\n---\n");
        let begun = Instant::now();
        let mut run = coracle.start(&["run", "-"], &text);
        for number in 0..count {
            let wanted = format!("{}/c: running", name(number));
            run.wait_for_progress("every pod to run", |line| (line == wanted).then_some(()));
        }
        let (running, processor) = (begun.elapsed(), cpu_time(run.id()));
        run.kill();
        Manifest { running, processor }
    }
}

impl Workload {
    pub(crate) const ALL: [Workload; 2] = [Workload::Handler, Workload::Command];

    pub(crate) fn name(self) -> &'static str {
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
    /// Starts a cluster that has the workload's image and has run it once, which compiles it.
    pub(crate) async fn with(coracle: &Coracle, workload: Workload) -> Self {
        let sample = workload.sample();
        let file = repository().join(format!("samples/{sample}/{sample}.wasm"));
        let file = file.to_str().expect("the path is text");
        let built = coracle.finish(&["image", "build", file, "-t", "bench.test/guest:1"]);
        assert_eq!(built.code, Some(0), "{built:?}");
        let mut world = World::start(coracle).await;
        world.start_pod("warm", workload).await;
        world.remove_all().await;
        world
    }

    /// Starts a cluster on what the last one has left.
    pub(crate) async fn start(coracle: &Coracle) -> Self {
        let cluster = Cluster::start(coracle);
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Api::default_namespaced(client(&cluster).await));
        }
        let (seen, running) = mpsc::channel(NEWS_MAX);
        let pods = Api::default_namespaced(client(&cluster).await);
        Self {
            cluster,
            clients,
            running,
            watching: tokio::spawn(watch(pods, seen)),
        }
    }

    /// Starts one pod and returns how long that took.
    pub(crate) async fn start_pod(&mut self, name: &str, workload: Workload) -> Duration {
        create(&self.clients[0], &workload.pod(name)).await;
        let begun = Instant::now();
        loop {
            let news = self.next().await;
            if news.name == name {
                return news.at.saturating_duration_since(begun);
            }
        }
    }

    /// Starts pods as fast as they are taken, and waits until all of them are Ready.
    pub(crate) async fn burst(&mut self, workload: Workload, count: usize) -> Burst {
        let clients = self.clients.clone();
        let id = self.cluster.run.id();
        let (begun, cpu) = (Instant::now(), cpu_time(id));
        let creates = tokio::spawn(async move {
            let creates = stream::iter(0..count).map(|number| {
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
        let (mut running, mut ready) = (HashMap::new(), HashSet::new());
        let mut all_running = None;
        while running.len() < count || ready.len() < count {
            let left = READY_TIMEOUT.saturating_sub(begun.elapsed());
            let Ok(news) = tokio::time::timeout(left, self.next()).await else {
                break;
            };
            if !news.name.starts_with("burst-") {
                continue;
            }
            if news.is_ready {
                ready.insert(news.name.clone());
            }
            running.entry(news.name).or_insert(news.at);
            if running.len() == count && all_running.is_none() {
                all_running = Some((begun.elapsed(), cpu_time(id).saturating_sub(cpu)));
            }
        }
        let all_ready = begun.elapsed();
        let (all_running, processor) = all_running.expect("all pods run");
        let acknowledged = creates.await.expect("the clients do not panic");
        let took = running.into_iter().map(|(name, at)| {
            let took = at.saturating_duration_since(acknowledged[&name]);
            took.as_secs_f64() * 1e3
        });
        Burst {
            each: took.collect(),
            running: all_running,
            processor,
            ready: all_ready,
            ready_count: ready.len(),
        }
    }

    /// Waits until so many pods have been restarted once, as after a crash.
    pub(crate) async fn all_restarted(&mut self, count: usize) {
        let mut back = HashSet::new();
        while back.len() < count {
            let news = self.next().await;
            if news.restarts == 1 {
                back.insert(news.name);
            }
        }
    }

    pub(crate) async fn remove_all(&self) {
        let pods = &self.clients[0];
        let all = ListParams::default();
        let deleted = pods.delete_collection(&DeleteParams::default(), &all).await;
        deleted.expect("the pods may be deleted");
        while !pods.list(&all).await.expect("a list").items.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Kills the process, as the kernel would.
    pub(crate) fn kill(mut self) {
        self.cluster.run.kill();
        self.watching.abort();
    }

    async fn next(&mut self) -> News {
        self.running.recv().await.expect("the watch goes on")
    }
}

/// Tells of every pod that runs, each time it changes.
async fn watch(pods: Api<Pod>, seen: mpsc::Sender<News>) {
    let events = watcher(pods, watcher::Config::default().labels("app=bench"));
    let pods = events.default_backoff().applied_objects();
    pin_mut!(pods);
    while let Ok(Some(pod)) = pods.try_next().await {
        let at = Instant::now();
        let status = pod.status.as_ref();
        let statuses = status.and_then(|it| it.container_statuses.as_ref());
        let container = statuses.and_then(|it| it.first());
        let Some(container) = container else { continue };
        let state = container.state.as_ref();
        if state.is_none_or(|state| state.running.is_none()) {
            continue;
        }
        let news = News {
            name: pod.name_any(),
            restarts: container.restart_count,
            is_ready: container.ready,
            at,
        };
        if seen.send(news).await.is_err() {
            return;
        }
    }
}

async fn create(pods: &Api<Pod>, pod: &Pod) {
    let created = pods.create(&PostParams::default(), pod).await;
    created.expect("the pod is created");
}
