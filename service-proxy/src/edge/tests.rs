//! The whole edge in one process: kernel clients outside, pods in a fabric and endpoints elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coracle_network::{
    Endpoint, Fabric, FabricConfig, Front, FrontAddress, FrontKind, Fronts, Listener, PodIdentity,
    PodNetwork, Protocol, PublishPlan, Routes, ServicePort, ServicePortName, Stream,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

mod faults;
mod soak;
mod tcp;
mod udp;

#[cfg(target_os = "linux")]
mod host;

/// No condition of these tests takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster IP of the tests.
const CLUSTER_IP: &str = "10.96.0.10";

fn tcp(ip: Option<&str>, port: u16) -> FrontAddress {
    FrontAddress {
        ip: ip.map(|ip| ip.parse().unwrap()),
        port,
        protocol: Protocol::Tcp,
    }
}

fn cluster_ip() -> FrontAddress {
    tcp(Some(CLUSTER_IP), 8_080)
}

fn service(name: &str) -> Arc<ServicePort> {
    let name = ServicePortName {
        namespace: "default".to_owned(),
        service: name.to_owned(),
        port: String::new(),
        protocol: Protocol::Tcp,
    };
    Arc::new(ServicePort::new(name, None))
}

fn front(service: &Arc<ServicePort>, kind: FrontKind) -> Front {
    Front {
        service: Arc::clone(service),
        kind,
        source_ranges: None,
    }
}

/// Makes these the endpoints of a Service, under either policy.
fn route(service: &ServicePort, endpoints: &[SocketAddr]) {
    let endpoints = endpoints.iter().copied().map(Endpoint::new);
    let endpoints: Arc<[_]> = endpoints.collect();
    service.set_routes(Routes {
        cluster: Arc::clone(&endpoints),
        local: endpoints,
        ..Routes::default()
    });
}

fn fronts(all: &[(FrontAddress, Front)]) -> Arc<Fronts> {
    let mut fronts = Fronts::new(Vec::new(), []);
    for (address, front) in all {
        fronts.insert(*address, front.clone());
    }
    Arc::new(fronts)
}

fn fabric() -> Fabric {
    Fabric::new(FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    })
    .unwrap()
}

fn pod(fabric: &Fabric, name: &str) -> PodNetwork {
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
        hostname: name.to_owned(),
        subdomain: None,
    };
    fabric.attach(identity).unwrap()
}

fn listen(pod: &PodNetwork, backlog: usize) -> (Listener, SocketAddr) {
    let at = SocketAddr::from((pod.ip(), 80));
    let port = pod.reserve_tcp(at).unwrap();
    (pod.listen(port, backlog).unwrap(), at)
}

fn start(fabric: Option<Fabric>) -> Edge {
    Edge::start(EdgeConfig::default(), fabric).unwrap()
}

/// Waits until a front is reached somewhere, and returns where.
async fn published(edge: &Edge, front: FrontAddress) -> SocketAddr {
    let mut published = edge.published();
    let served = published.wait_for(|all| all.address(&front).is_some());
    let all = tokio::time::timeout(PATIENCE, served).await;
    all.expect("in time").unwrap().address(&front).unwrap()
}

/// Waits until a front is reached nowhere.
async fn unpublished(edge: &Edge, front: FrontAddress) {
    let mut published = edge.published();
    let gone = published.wait_for(|all| all.places(&front).is_empty());
    let all = tokio::time::timeout(PATIENCE, gone).await;
    drop(all.expect("in time").unwrap());
}

/// Waits until a condition holds that nothing announces.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("in time: {what}"));
}

/// An endpoint elsewhere: answers each connection with a name and echoes what comes after.
async fn elsewhere(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(greet_and_echo(stream, name));
        }
    });
    at
}

async fn greet_and_echo(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    name: &str,
) {
    let mut buffer = [0; 1_024];
    if stream.write_all(name.as_bytes()).await.is_err() {
        return;
    }
    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

/// Connects, and returns the connection and the name of who answers; a refusal or a reset is
/// nothing.
async fn connect(to: SocketAddr) -> Option<(TcpStream, String)> {
    let mut stream = TcpStream::connect(to).await.ok()?;
    let mut name = [0; 1];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut name)).await;
    match read.expect("in time") {
        Ok(_) => Some((stream, String::from_utf8(name.to_vec()).unwrap())),
        Err(_) => None,
    }
}

async fn echo(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut echoed = vec![0; bytes.len()];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut echoed)).await;
    read.expect("in time").unwrap();
    assert_eq!(echoed, bytes);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A port that nothing listens on.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Serves a pod in the background: each connection is greeted with `name` and echoed.
fn serve(listener: Listener, name: &'static str) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(stream) = listener.accept().await {
            let stream: Stream = stream;
            tokio::spawn(greet_and_echo(stream, name));
        }
    })
}
