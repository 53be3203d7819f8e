//! Measures what probing many pods costs: processor time of the prober's thread, per attempt and in all.
//!
//! The prober runs on a thread of its own, the pods' listeners on another; both are in one process and one
//! pod network. Attempts are spread over the period, as those of pods are that did not start together.
//! Needs `/proc/thread-self/schedstat`, so Linux. `CORACLE_BENCH_ROUNDS` (3) periods are measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use coracle_kubelet_shim::{
    Check, HttpGet, NEWS_MAX, Names, News, PodKey, Probe, ProbeKind, Prober, Programs, Scheme,
    TargetPort, TcpTarget, Verdict, Watch, Watched, What, Whose,
};
use coracle_network::{Fabric, FabricConfig, Listener, PodIdentity, PodNetwork, PublishPlan};
use coracle_tests::{Figure, Figures, setting};
use http::uri::PathAndQuery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

const PORT: u16 = 80;

/// From one attempt to the next, as Kubernetes has it where a pod says nothing.
const PERIOD: Duration = Duration::from_secs(10);

/// The goal for 10,000 pods, in percent of a core: `docs/performance.md` asks for less than a core.
const SHARE_MAX: f64 = 100.0;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What was found of one kind of probe at one number of pods, a value a period.
#[derive(Default)]
struct Found {
    /// Microseconds of the prober's thread for an attempt.
    attempt: Vec<f64>,
    /// Percent of a core.
    share: Vec<f64>,
}

fn main() {
    let mut figures = Figures::begin("probes");
    let mut all = Vec::new();
    for (pods, text) in [(1_000, "1,000"), (10_000, "10,000")] {
        for (name, check) in [("tcpSocket", Check::Tcp(target())), ("httpGet", http())] {
            all.push((pods, format!("{text} pods, {name}"), measure(pods, &check)));
        }
    }
    for (_, name, found) in &all {
        let spent = found.attempt.iter().copied();
        figures.add(Figure::lower(
            "processor time of an attempt",
            name,
            "µs",
            spent,
        ));
    }
    for (pods, name, found) in all {
        let figure = Figure::lower("the prober's thread", name, "% of a core", found.share);
        figures.add(match pods {
            10_000 => figure.goal(SHARE_MAX),
            _ => figure,
        });
    }
    figures.finish();
}

fn target() -> TcpTarget {
    TcpTarget {
        host: None,
        port: TargetPort::Number(PORT),
    }
}

fn http() -> Check {
    Check::Http(HttpGet {
        scheme: Scheme::Http,
        host: None,
        port: TargetPort::Number(PORT),
        path: PathAndQuery::from_static("/healthz"),
        headers: Vec::new(),
    })
}

fn measure(count: u32, check: &Check) -> Found {
    let config = FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    };
    let fabric = Fabric::new(config).expect("the default layout is valid");
    let answered = Arc::new(AtomicU64::new(0));
    let pods: Vec<PodNetwork> = (0..count).map(|index| pod(&fabric, index)).collect();
    let listeners: Vec<Listener> = pods.iter().map(listen).collect();
    let counter = answered.clone();
    thread::spawn(move || runtime().block_on(serve(listeners, counter)));

    let (prober, work) = Prober::new(fabric);
    let (cpu, readings) = std::sync::mpsc::channel();
    // The first period is not measured: connections and verdicts are new in it.
    let periods = setting("ROUNDS", 3);
    thread::spawn(move || {
        runtime().block_on(async move {
            tokio::select! {
                () = work => {}
                () = async {
                    let mut turns = tokio::time::interval(PERIOD);
                    turns.tick().await;
                    for _ in 0..=periods {
                        turns.tick().await;
                        cpu.send(thread_cpu()).expect("somebody reads");
                    }
                } => {}
            }
        });
    });
    let (news, mut told) = mpsc::channel(NEWS_MAX.max(usize::try_from(count).expect("it fits")));
    let watches = watch_all(&prober, &pods, check, &news);
    let mut found = Found::default();
    let mut before: Option<(Duration, u64)> = None;
    for _ in 0..=periods {
        let now = (
            readings.recv().expect("a reading"),
            answered.load(Ordering::Relaxed),
        );
        if let Some((cpu, attempts)) = before.replace(now) {
            let spent = (now.0 - cpu).as_secs_f64();
            found.attempt.push(spent * 1e6 / (now.1 - attempts) as f64);
            found.share.push(100.0 * spent / PERIOD.as_secs_f64());
        }
    }
    check_all_well(&mut told, count);
    drop(watches);
    found
}

/// Every pod has become ready, and no attempt has failed since.
fn check_all_well(told: &mut mpsc::Receiver<News>, count: u32) {
    let mut ready = 0;
    while let Ok(news) = told.try_recv() {
        assert_eq!(news.what, What::Verdict(Verdict::Success));
        ready += 1;
    }
    assert_eq!(ready, count, "all pods answer");
}

fn watch_all(
    prober: &Prober,
    pods: &[PodNetwork],
    check: &Check,
    news: &mpsc::Sender<News>,
) -> Vec<Watch> {
    let probe = Arc::new(Probe {
        check: check.clone(),
        initial_delay: Duration::ZERO,
        period: PERIOD,
        timeout: Duration::from_secs(1),
        success_threshold: 1,
        failure_threshold: 3,
        grace: None,
    });
    let step = PERIOD / u32::try_from(pods.len()).expect("it fits");
    let now = Instant::now();
    let places = (0_u32..).zip(pods);
    let watches = places.map(|(index, pod)| {
        prober.watch(Watched {
            container: 0,
            attempt: 1,
            kind: ProbeKind::Readiness,
            probe: probe.clone(),
            pod_ip: pod.ip().into(),
            whose: Whose::new(&key(index), &"c".into()),
            first: now + step * index,
            names: Names::default(),
            programs: Programs::default(),
            news: news.clone(),
        })
    });
    watches.collect()
}

fn key(index: u32) -> PodKey {
    PodKey {
        namespace: "default".into(),
        name: format!("pod-{index}").into(),
        uid: index.to_string().into(),
    }
}

fn pod(fabric: &Fabric, index: u32) -> PodNetwork {
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: format!("pod-{index}"),
        uid: index.to_string(),
        hostname: format!("pod-{index}"),
        subdomain: None,
    };
    fabric.attach(identity).expect("an address is free")
}

fn listen(pod: &PodNetwork) -> Listener {
    let any = SocketAddr::from(([0, 0, 0, 0], PORT));
    let port = pod.reserve_tcp(any).expect("the port is free");
    pod.listen(port, 16).expect("a reserved port listens")
}

async fn serve(listeners: Vec<Listener>, answered: Arc<AtomicU64>) {
    for listener in listeners {
        let answered = answered.clone();
        tokio::spawn(async move {
            while let Ok(mut stream) = listener.accept().await {
                let mut head = [0; 1024];
                // A probe of `tcpSocket` says nothing.
                if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(ANSWER).await;
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    std::future::pending().await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts")
}

/// Time that this thread has spent on a processor.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel that tells");
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}
