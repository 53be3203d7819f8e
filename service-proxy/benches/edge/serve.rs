//! The programs that are measured: a backend, our edge before a pod in the same process, our edge
//! before a backend elsewhere.
//!
//! Each prints its address when it is ready, and ends when its input does.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use coracle_network::{
    Endpoint, Fabric, FabricConfig, Front, FrontAddress, FrontKind, Fronts, PodIdentity, Protocol,
    PublishPlan, Routes, ServicePort, ServicePortName,
};
use coracle_service_proxy::edge::{Edge, EdgeConfig};
use coracle_tests::setting;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";
const LAST_ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nhello\n";

/// What `/bulk` answers with.
const BULK_BYTES: usize = 64 * 1024 * 1024;
static CHUNK: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// The requests of the load are shorter.
const REQUEST_BYTES_MAX: usize = 512;

/// Serves at the given port of every address.
pub(crate) fn backend(mut arguments: impl Iterator<Item = String>) {
    let port = arguments.next().and_then(|port| port.parse().ok());
    run(async move {
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.unwrap_or(0)));
        let listener = tokio::net::TcpListener::bind(at).await.expect("free");
        ready(listener.local_addr().expect("bound"));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            drop(stream.set_nodelay(true));
            tokio::spawn(respond(stream));
        }
    });
}

/// Serves as a pod of a fabric behind a Service, the first of as many as given.
pub(crate) fn pod(mut arguments: impl Iterator<Item = String>) {
    let services = arguments.next().and_then(|count| count.parse().ok());
    run(async move {
        let fabric = Fabric::new(FabricConfig {
            publish: PublishPlan::Nowhere,
            ..FabricConfig::default()
        });
        let fabric = fabric.expect("valid");
        let identity = PodIdentity {
            namespace: "default".to_owned(),
            name: "pod".to_owned(),
            uid: "pod".to_owned(),
            hostname: "pod".to_owned(),
            subdomain: None,
        };
        let pod = fabric.attach(identity).expect("an address is free");
        let at = SocketAddr::from((pod.ip(), 80));
        let listener = pod.listen(pod.reserve_tcp(at).expect("free"), 4_096);
        let listener = listener.expect("reserved");
        let edge = Edge::start(EdgeConfig::default(), Some(fabric)).expect("needs no privilege");
        serve(&edge, at, services.unwrap_or(1)).await;
        while let Ok(stream) = listener.accept().await {
            tokio::spawn(respond(stream));
        }
    });
}

/// Relays to the given port of `127.0.0.1`.
pub(crate) fn relay(mut arguments: impl Iterator<Item = String>) {
    let port: u16 = arguments
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port");
    run(async move {
        let config = EdgeConfig {
            connections_max: 100_000,
            connections_per_client_max: 100_000,
            ..EdgeConfig::default()
        };
        let edge = Edge::start(config, None).expect("needs no privilege");
        serve(&edge, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), 1).await;
        std::future::pending::<()>().await;
    });
}

/// Serves `services` Services with one endpoint, and tells where the first is.
async fn serve(edge: &Edge, endpoint: SocketAddr, services: u32) {
    let mut fronts = Fronts::new(Vec::new(), []);
    let address = |number: u32| FrontAddress {
        ip: Some(IpAddr::V4(Ipv4Addr::from(0x0a60_0001 + number))),
        port: 8_080,
        protocol: Protocol::Tcp,
    };
    for number in 0..services {
        let service = Arc::new(ServicePort::new(
            ServicePortName {
                namespace: "default".to_owned(),
                service: format!("service-{number}"),
                port: String::new(),
                protocol: Protocol::Tcp,
            },
            None,
        ));
        let endpoints: Arc<[_]> = Arc::new([Endpoint::new(endpoint)]);
        service.set_routes(Routes {
            cluster: Arc::clone(&endpoints),
            local: endpoints,
            ..Routes::default()
        });
        let front = Front {
            service,
            kind: FrontKind::ClusterIp,
            source_ranges: None,
        };
        fronts.insert(address(number), front);
    }
    edge.apply(Arc::new(fronts));
    let mut published = edge.published();
    let first = address(0);
    let all = published
        .wait_for(|all| all.address(&first).is_some())
        .await;
    ready(
        all.expect("the edge runs")
            .address(&first)
            .expect("waited for"),
    );
}

/// Answers requests until the client ends or asks for the last.
async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut request = [0; REQUEST_BYTES_MAX];
    while let Ok(bytes @ 1..) = stream.read(&mut request).await {
        // The client sends a whole request at once, and the next after its answer.
        let request = &request[..bytes];
        if request.starts_with(b"GET /bulk") {
            if bulk(&mut stream).await.is_err() {
                return;
            }
            continue;
        }
        let is_last = request.windows(7).any(|word| word == b": close");
        let answer = if is_last { LAST_ANSWER } else { ANSWER };
        if stream.write_all(answer).await.is_err() || is_last {
            return;
        }
    }
}

fn bulk_head() -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {BULK_BYTES}\r\n\r\n")
}

/// Returns the length of the answer to `/bulk`, head included.
pub(crate) fn bulk_answer_bytes() -> usize {
    bulk_head().len() + BULK_BYTES
}

async fn bulk(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(bulk_head().as_bytes()).await?;
    for _ in 0..BULK_BYTES / CHUNK.len() {
        stream.write_all(&CHUNK).await?;
    }
    Ok(())
}

fn run(program: impl Future<Output = ()>) {
    // The contender ends with the bench, however that ends.
    std::thread::spawn(|| {
        drop(std::io::stdin().read(&mut [0]));
        std::process::exit(0);
    });
    let runtime = match setting("THREADS", 1) {
        1 => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build(),
        threads => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build(),
    };
    runtime.expect("a runtime starts").block_on(program);
}

fn ready(at: SocketAddr) {
    println!("{at}");
    std::io::stdout().flush().expect("the bench listens");
}
