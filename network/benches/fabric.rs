//! Measures the fabric from host end to host end, and the same over loopback TCP in the same run.
//!
//! Prints nanoseconds for a connection (connect, accept, close) and for a round trip of 64 bytes,
//! best and median of several rounds: directly from pod to pod, through a Service that is the only
//! one and through one of ten thousand. Each side is a task of its own on one thread, then on two.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use coracle_network::{
    Endpoint, Fabric, FabricConfig, Front, FrontAddress, FrontKind, Fronts, Listener, PodIdentity,
    PodNetwork, Protocol, PublishPlan, Routes, ServicePort, ServicePortName,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const ROUNDS: usize = 9;
const CONNECTIONS: u32 = 20_000;
const CONNECTIONS_TCP: u32 = 2_000;
const ROUND_TRIPS: u32 = 200_000;
const ROUND_TRIPS_TCP: u32 = 10_000;
const BULK_BYTES: usize = 512 * 1024 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;
const PODS: u32 = 10_000;
const SERVICES: u32 = 10_000;

/// The Service that is connected to.
const VIP: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 1), 80));

fn main() {
    memory_of_pods();
    for threads in [1, 2] {
        let runtime = match threads {
            1 => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build(),
            _ => tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build(),
        };
        runtime
            .expect("a runtime starts")
            .block_on(compare(threads));
    }
}

async fn compare(threads: usize) {
    let (fabric, a, b) = two_pods();
    let direct = SocketAddr::from((b.ip(), 80));
    let mut connect = Compared::default();
    let mut tcp = Vec::new();
    for _ in 0..ROUNDS {
        serve(&fabric, &b, 1);
        connect.direct.push(connect_in_fabric(&a, &b, direct).await);
        connect.one.push(connect_in_fabric(&a, &b, VIP).await);
        serve(&fabric, &b, SERVICES);
        connect.many.push(connect_in_fabric(&a, &b, VIP).await);
        tcp.push(connect_over_tcp().await);
    }
    connect.report(threads, "connect, accept, close", &tcp);

    let listener = listen(&b, 81);
    let to = SocketAddr::from((b.ip(), 81));
    let client = a.connect(None, to).await.expect("listening");
    let server = listener.accept().await.expect("waiting");
    let bulk = bulk(client, server).await;
    let mut trip = Compared::default();
    let http = listen(&b, 80);
    trip.direct = trips(&a, &http, direct).await;
    trip.many = trips(&a, &http, VIP).await;
    serve(&fabric, &b, 1);
    trip.one = trips(&a, &http, VIP).await;

    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("free");
    let to = listener.local_addr().expect("bound");
    let client = tokio::net::TcpStream::connect(to).await.expect("listening");
    client.set_nodelay(true).expect("a socket");
    let (server, _) = listener.accept().await.expect("waiting");
    server.set_nodelay(true).expect("a socket");
    tokio::spawn(echo(server));
    let tcp = tokio::spawn(round_trips(client, ROUND_TRIPS_TCP))
        .await
        .expect("runs to its end");
    trip.report(threads, "round trip of 64 bytes", &tcp);
    let client = tokio::net::TcpStream::connect(to).await.expect("listening");
    let (server, _) = listener.accept().await.expect("waiting");
    let tcp = self::bulk(client, server).await;
    println!("{threads} thread(s), bulk: fabric {bulk:.1} GB/s, loopback TCP {tcp:.1} GB/s");
    drop(fabric);
}

/// Returns how many gigabytes a second go through a connection in chunks of 64 KiB.
async fn bulk(
    mut from: impl AsyncWrite + Unpin + Send + 'static,
    mut to: impl AsyncRead + Unpin + Send + 'static,
) -> f64 {
    let start = Instant::now();
    let writer = tokio::spawn(async move {
        let chunk = vec![7; CHUNK_BYTES];
        for _ in 0..BULK_BYTES / CHUNK_BYTES {
            from.write_all(&chunk).await.expect("open");
        }
    });
    let reader = tokio::spawn(async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        while to.read(&mut chunk).await.expect("open") > 0 {}
    });
    writer.await.expect("runs to its end");
    reader.await.expect("runs to its end");
    BULK_BYTES as f64 / start.elapsed().as_nanos() as f64
}

fn two_pods() -> (Fabric, PodNetwork, PodNetwork) {
    let config = FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    };
    let fabric = Fabric::new(config).expect("valid");
    let (a, b) = (pod(&fabric, 1), pod(&fabric, 2));
    (fabric, a, b)
}

fn pod(fabric: &Fabric, number: u32) -> PodNetwork {
    let name = format!("pod-{number}");
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: name.clone(),
        uid: name.clone(),
        hostname: name,
        subdomain: None,
    };
    fabric.attach(identity).expect("an address is free")
}

fn listen(pod: &PodNetwork, port: u16) -> Listener {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let port = pod.reserve_tcp(any).expect("free");
    pod.listen(port, 128).expect("reserved")
}

/// Puts Services into the table, all with the endpoint `pod`; the first is at [`VIP`].
fn serve(fabric: &Fabric, pod: &PodNetwork, count: u32) {
    let range = ipnet::IpNet::new(VIP.ip(), 12).expect("a prefix of IPv4");
    let mut fronts = Fronts::new(vec![range.trunc()], []);
    let IpAddr::V4(first) = VIP.ip() else {
        unreachable!("it is of IPv4");
    };
    for number in 0..count {
        let name = ServicePortName {
            namespace: "default".to_owned(),
            service: format!("service-{number}"),
            port: String::new(),
            protocol: Protocol::Tcp,
        };
        let service = Arc::new(ServicePort::new(name, None));
        let endpoints: Arc<[_]> = [Endpoint::new(SocketAddr::from((pod.ip(), 80)))].into();
        service.set_routes(Routes {
            cluster: Arc::clone(&endpoints),
            local: endpoints,
            ..Routes::default()
        });
        let address = FrontAddress {
            ip: Some(Ipv4Addr::from(u32::from(first) + number).into()),
            port: VIP.port(),
            protocol: Protocol::Tcp,
        };
        let front = Front {
            service,
            kind: FrontKind::ClusterIp,
            source_ranges: None,
        };
        fronts.insert(address, front);
    }
    fabric.services().set_fronts(fronts);
}

/// Rounds of round trips over one connection to `to`, where `listener` answers.
async fn trips(from: &PodNetwork, listener: &Listener, to: SocketAddr) -> Vec<f64> {
    let client = from.connect(None, to).await.expect("listening");
    let server = listener.accept().await.expect("waiting");
    tokio::spawn(echo(server));
    tokio::spawn(round_trips(client, ROUND_TRIPS))
        .await
        .expect("runs to its end")
}

async fn connect_in_fabric(a: &PodNetwork, b: &PodNetwork, to: SocketAddr) -> f64 {
    let listener = listen(b, 80);
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        let client = a.connect(None, to).await.expect("listening");
        let server = listener.accept().await.expect("waiting");
        drop((client, server));
    }
    start.elapsed().as_nanos() as f64 / f64::from(CONNECTIONS)
}

async fn connect_over_tcp() -> f64 {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("free");
    let to = listener.local_addr().expect("bound");
    let start = Instant::now();
    for _ in 0..CONNECTIONS_TCP {
        let client = tokio::net::TcpStream::connect(to).await.expect("listening");
        let server = listener.accept().await.expect("waiting");
        drop((client, server));
    }
    start.elapsed().as_nanos() as f64 / f64::from(CONNECTIONS_TCP)
}

async fn round_trips(mut stream: impl AsyncRead + AsyncWrite + Unpin, count: u32) -> Vec<f64> {
    let mut buf = [7; 64];
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..count {
            stream.write_all(&buf).await.expect("open");
            stream.read_exact(&mut buf).await.expect("an echo");
        }
        all.push(start.elapsed().as_nanos() as f64 / f64::from(count));
    }
    all
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buf = [0; 64];
    while stream.read_exact(&mut buf).await.is_ok() {
        if stream.write_all(&buf).await.is_err() {
            return;
        }
    }
}

/// The same from pod to pod, by address and through a Service.
#[derive(Default)]
struct Compared {
    direct: Vec<f64>,
    /// The Service is the only one.
    one: Vec<f64>,
    /// It is one of [`SERVICES`].
    many: Vec<f64>,
}

impl Compared {
    fn report(&self, threads: usize, what: &str, tcp: &[f64]) {
        let tcp = Spread::of(tcp);
        println!(
            "{threads} thread(s), {what}: loopback TCP {:.0} ns (best {:.0})",
            tcp.median, tcp.best,
        );
        let ways = [
            ("pod to pod".to_owned(), &self.direct),
            ("through the only Service".to_owned(), &self.one),
            (format!("through one of {SERVICES} Services"), &self.many),
        ];
        for (way, rounds) in ways {
            let ours = Spread::of(rounds);
            println!(
                "    {way}: {:.0} ns (best {:.0}), ratio {:.0}",
                ours.median,
                ours.best,
                tcp.median / ours.median,
            );
        }
    }
}

struct Spread {
    best: f64,
    median: f64,
}

impl Spread {
    fn of(rounds: &[f64]) -> Spread {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        Spread {
            best: sorted[0],
            median: sorted[sorted.len() / 2],
        }
    }
}

fn memory_of_pods() {
    let (fabric, _a, _b) = two_pods();
    let before = resident_bytes();
    let pods = (10..PODS + 10)
        .map(|number| pod(&fabric, number))
        .collect::<Vec<_>>();
    let attached = resident_bytes();
    let listeners = pods.iter().map(|pod| listen(pod, 80)).collect::<Vec<_>>();
    let listening = resident_bytes();
    if let (Some(before), Some(attached), Some(listening)) = (before, attached, listening) {
        let each = |from: u64, to: u64| to.saturating_sub(from) / u64::from(PODS);
        println!(
            "{PODS} pods: {} bytes each attached, {} more each with a listener",
            each(before, attached),
            each(attached, listening),
        );
    }
    drop(listeners);
}

/// Returns the memory the process occupies, where the system tells.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}
