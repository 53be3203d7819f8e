//! Measures the fabric from host end to host end, and the same over loopback TCP in the same run.
//!
//! The figures are nanoseconds for a connection (connect, accept, close) and for a round trip of 64
//! bytes: directly from pod to pod, through a Service that is the only one and through one of ten
//! thousand; and gigabytes a second in chunks of 64 KiB. All of them take turns within each round. Each
//! side is a task of its own on one thread, then on two.
//!
//! `CORACLE_BENCH_ROUNDS` (9).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use coracle_network::{
    Endpoint, Fabric, FabricConfig, Front, FrontAddress, FrontKind, Fronts, Listener, PodIdentity,
    PodNetwork, Protocol, PublishPlan, Routes, ServicePort, ServicePortName, Stream,
};
use coracle_tests::{Figure, Figures, own_bytes, setting};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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

/// The contender of every comparison.
const LOOPBACK: &str = "loopback TCP";

/// Ways from one pod to another, as they are told.
const WAYS: [&str; 3] = [
    "pod to pod",
    "through the only Service",
    "through one of 10,000 Services",
];

/// Nanoseconds, a value a round: over loopback TCP, and by each way of the fabric.
#[derive(Default)]
struct Compared {
    loopback: Vec<f64>,
    ways: [Vec<f64>; WAYS.len()],
}

fn main() {
    let mut figures = Figures::begin("fabric");
    memory_of_pods(&mut figures);
    for (threads, text) in [(1, "one thread"), (2, "two threads")] {
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
            .block_on(compare(text, &mut figures));
    }
    figures.finish();
}

async fn compare(threads: &str, figures: &mut Figures) {
    let (fabric, a, b) = two_pods();
    let direct = SocketAddr::from((b.ip(), 80));
    let [mut connect, mut trip] = [(); 2].map(|()| Compared::default());
    let (mut bulk, mut bulk_tcp) = (Vec::new(), Vec::new());
    for _ in 0..setting("ROUNDS", 9) {
        for (way, (to, services)) in [(direct, 1), (VIP, 1), (VIP, SERVICES)]
            .into_iter()
            .enumerate()
        {
            serve(&fabric, &b, services);
            connect.ways[way].push(connect_in_fabric(&a, &b, to).await);
            trip.ways[way].push(trips_in_fabric(&a, &b, to).await);
        }
        connect.loopback.push(connect_over_tcp().await);
        trip.loopback.push(trips_over_tcp().await);
        bulk.push(bulk_in_fabric(&a, &b).await);
        bulk_tcp.push(bulk_over_tcp().await);
    }
    connect.tell(
        &format!("connect, accept, close, {threads}"),
        2_000.0,
        figures,
    );
    trip.tell(
        &format!("round trip of 64 bytes, {threads}"),
        1_000.0,
        figures,
    );
    let name = format!("bulk in chunks of 64 KiB, {threads}");
    figures.add(Figure::higher(&name, LOOPBACK, "GB/s", bulk_tcp).peer());
    figures.add(Figure::higher(&name, WAYS[0], "GB/s", bulk).against(LOOPBACK));
    drop(fabric);
}

async fn bulk_in_fabric(a: &PodNetwork, b: &PodNetwork) -> f64 {
    let (client, server) = joined(a, &listen(b, 81), SocketAddr::from((b.ip(), 81))).await;
    bulk(client, server).await
}

async fn bulk_over_tcp() -> f64 {
    let (client, server) = joined_by_tcp().await;
    bulk(client, server).await
}

/// A round of round trips over one connection to `to`, which port 80 of `b` answers.
async fn trips_in_fabric(a: &PodNetwork, b: &PodNetwork, to: SocketAddr) -> f64 {
    let (client, server) = joined(a, &listen(b, 80), to).await;
    trips(client, server, ROUND_TRIPS).await
}

async fn trips_over_tcp() -> f64 {
    let (client, server) = joined_by_tcp().await;
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a socket");
    }
    trips(client, server, ROUND_TRIPS_TCP).await
}

async fn joined(from: &PodNetwork, listener: &Listener, to: SocketAddr) -> (Stream, Stream) {
    let client = from.connect(None, to).await.expect("listening");
    (client, listener.accept().await.expect("waiting"))
}

async fn joined_by_tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("free");
    let to = listener.local_addr().expect("bound");
    let client = TcpStream::connect(to).await.expect("listening");
    (client, listener.accept().await.expect("waiting").0)
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
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("free");
    let to = listener.local_addr().expect("bound");
    let start = Instant::now();
    for _ in 0..CONNECTIONS_TCP {
        let client = TcpStream::connect(to).await.expect("listening");
        let server = listener.accept().await.expect("waiting");
        drop((client, server));
    }
    start.elapsed().as_nanos() as f64 / f64::from(CONNECTIONS_TCP)
}

/// Returns the nanoseconds of a round trip between two ends, each a task of its own.
async fn trips(
    mut client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    server: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    count: u32,
) -> f64 {
    tokio::spawn(echo(server));
    let trips = tokio::spawn(async move {
        let mut buf = [7; 64];
        let start = Instant::now();
        for _ in 0..count {
            client.write_all(&buf).await.expect("open");
            client.read_exact(&mut buf).await.expect("an echo");
        }
        start.elapsed().as_nanos() as f64 / f64::from(count)
    });
    trips.await.expect("runs to its end")
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buf = [0; 64];
    while stream.read_exact(&mut buf).await.is_ok() {
        if stream.write_all(&buf).await.is_err() {
            return;
        }
    }
}

impl Compared {
    fn tell(self, name: &str, goal: f64, figures: &mut Figures) {
        figures.add(Figure::lower(name, LOOPBACK, "ns", self.loopback).peer());
        for (way, rounds) in WAYS.into_iter().zip(self.ways) {
            let figure = Figure::lower(name, way, "ns", rounds);
            figures.add(figure.against(LOOPBACK).goal(goal));
        }
    }
}

/// What a pod's place in the network weighs; once, for memory that was freed is taken again.
fn memory_of_pods(figures: &mut Figures) {
    let (fabric, _a, _b) = two_pods();
    let own = || own_bytes(std::process::id()) as f64;
    let before = own();
    let pods = (10..PODS + 10)
        .map(|number| pod(&fabric, number))
        .collect::<Vec<_>>();
    let attached = own();
    let listeners = pods.iter().map(|pod| listen(pod, 80)).collect::<Vec<_>>();
    let listening = own();
    let name = "memory of each of 10,000 pods";
    let each = |from: f64, to: f64| [(to - from).max(0.0) / f64::from(PODS)];
    figures.add(Figure::lower(name, "attached", "B", each(before, attached)));
    figures.add(Figure::lower(
        name,
        "a listener more",
        "B",
        each(attached, listening),
    ));
    drop(listeners);
}
