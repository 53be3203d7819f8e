//! Measures what probing many pods costs: processor time of the prober's thread, per attempt and in all.
//!
//! The prober runs on a thread of its own, the pods' listeners on another; both are in one process and one
//! pod network. Attempts are spread over the period, as those of pods are that did not start together.
//! Needs `/proc/thread-self/schedstat`, so Linux.

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
use http::uri::PathAndQuery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

const PORT: u16 = 80;

/// From one attempt to the next, as Kubernetes has it where a pod says nothing.
const PERIOD: Duration = Duration::from_secs(10);

/// Periods that are measured, after one that is not.
const PERIODS: u32 = 2;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn main() {
    println!("pods   probe      attempts/s  us/attempt  share of a core");
    for pods in [1_000, 10_000] {
        measure(pods, "tcpSocket", Check::Tcp(target()));
        measure(pods, "httpGet", http());
    }
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

fn measure(count: u32, name: &str, check: Check) {
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
    thread::spawn(move || {
        let rest = PERIOD * PERIODS;
        runtime().block_on(async move {
            tokio::select! {
                () = work => {}
                () = async {
                    for wait in [PERIOD, rest] {
                        tokio::time::sleep(wait).await;
                        cpu.send(thread_cpu()).expect("somebody reads");
                    }
                } => {}
            }
        });
    });
    let (news, mut told) = mpsc::channel(NEWS_MAX.max(usize::try_from(count).expect("it fits")));
    let watches = watch_all(&prober, &pods, &check, &news);
    let before = readings.recv().expect("a reading");
    let attempts_before = answered.load(Ordering::Relaxed);
    let after = readings.recv().expect("a reading");
    let attempts = answered.load(Ordering::Relaxed) - attempts_before;
    check_all_well(&mut told, count);
    drop(watches);
    let spent = after - before;
    let seconds = (PERIOD * PERIODS).as_secs_f64();
    println!(
        "{count:<6} {name:<10} {:>10.0}  {:>10.1}  {:>14.2}%",
        attempts as f64 / seconds,
        spent.as_secs_f64() * 1e6 / attempts as f64,
        spent.as_secs_f64() / seconds * 100.0,
    );
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
