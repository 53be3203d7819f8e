//! One pod asks another, in the clear and over TLS.

use super::*;
use crate::account::{NodeBudget, PodAccount};
use crate::sockets::tests::pods;
use crate::spec::{ContainerId, Limits, PodLimits};
use coracle_network::{
    Endpoint, Fabric, Front, FrontAddress, FrontKind, Fronts, Protocol, Routes, ServicePort,
    ServicePortName, ServiceRecords,
};
use http_body_util::Empty;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

/// Nothing arrives at all in the tests that wait for it.
const SOON: Duration = Duration::from_millis(20);
const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const AUTHORITY: &[u8] = include_bytes!("../../tests/data/tls/authority.pem");
/// The certificate for `*.default.pod.cluster.local` and its key.
const SERVER: &[u8] = include_bytes!("../../tests/data/tls/server.pem");

type Versions = &'static [&'static SupportedProtocolVersion];
const OLD: Versions = &[&TLS12];
const NEW: Versions = &[&TLS13];
const BOTH: Versions = &[&TLS12, &TLS13];

/// What the asked pod does with each connection, which it then keeps open.
enum Server {
    /// Reads a request and answers byte for byte.
    Http(&'static str),
    /// The same over TLS.
    Https(TlsAcceptor),
    /// Answers byte for byte whatever it reads.
    Other(&'static str),
    /// Closes the connection, as an exception.
    Closing,
}

impl Server {
    /// Serves one connection and returns what keeps it open.
    async fn serve(&self, mut stream: Stream) -> Box<dyn Send> {
        match self {
            Server::Http(text) => {
                answer(&mut stream, text).await;
                Box::new(stream)
            }
            Server::Https(acceptor) => match acceptor.accept(stream).into_fallible().await {
                Ok(mut stream) => {
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                    answer(&mut stream, HELLO).await;
                    Box::new(stream)
                }
                Err(failed) => Box::new(failed),
            },
            Server::Other(text) => {
                let length = stream.read(&mut [0; 1024]).await.expect("bytes");
                assert!(length > 0, "closed");
                stream.write_all(text.as_bytes()).await.expect("answer");
                Box::new(stream)
            }
            Server::Closing => Box::new(()),
        }
    }
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) {
    let mut head = [0; 1024];
    let length = stream.read(&mut head).await.expect("request");
    assert!(head[..length].starts_with(b"GET /path?query HTTP/1.1\r\n"));
    stream.write_all(text.as_bytes()).await.expect("answer");
    stream.flush().await.expect("answer");
}

fn test_authority() -> RootCertStore {
    let certificate = CertificateDer::from_pem_slice(AUTHORITY).expect("certificate");
    let mut authorities = RootCertStore::empty();
    authorities.add(certificate).expect("authority");
    authorities
}

/// Who asks: somebody who trusts the authority of the tests, or only the public ones.
fn trusting_test() -> TlsConnector {
    tls::trusting(test_authority())
}

fn trusting_public() -> TlsConnector {
    tls::trusting(tls::public_authorities())
}

/// Whether a server asks for the client's certificate, which the client has none of.
enum Clients {
    Anybody,
    Certified,
}

/// Makes a server of TLS that offers the protocols `alpn` inside.
fn https(versions: Versions, clients: Clients, alpn: &[&str]) -> Server {
    let certificate = CertificateDer::from_pem_slice(SERVER).expect("certificate");
    let key = PrivateKeyDer::from_pem_slice(SERVER).expect("key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match clients {
        Clients::Anybody => WebPkiClientVerifier::no_client_auth(),
        Clients::Certified => {
            let authorities = Arc::new(test_authority());
            WebPkiClientVerifier::builder_with_provider(authorities, provider.clone())
                .build()
                .expect("verifier")
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .expect("certificate with its key");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Server::Https(TlsAcceptor::from(Arc::new(config)))
}

/// Puts the Service `web` before the second pod. Of its endpoints one is gone and one does not listen.
fn serve(fabric: &Fabric, asking: &PodNetwork, answering: &PodNetwork, port: u16) {
    let name = ServicePortName {
        namespace: "default".into(),
        service: "web".into(),
        port: String::new(),
        protocol: Protocol::Tcp,
    };
    let service = Arc::new(ServicePort::new(name, None));
    let endpoints = ["10.244.200.200".parse().expect("address")]
        .into_iter()
        .chain([asking.ip(), answering.ip()]);
    let endpoints = endpoints.map(|ip| Endpoint::new(SocketAddr::from((ip, port))));
    service.set_routes(Routes {
        cluster: endpoints.collect(),
        ..Routes::default()
    });
    let ip = IpAddr::from([10, 96, 0, 10]);
    let address = FrontAddress {
        ip: Some(ip),
        port,
        protocol: Protocol::Tcp,
    };
    let front = Front {
        service,
        kind: FrontKind::ClusterIp,
        source_ranges: None,
    };
    let mut fronts = Fronts::new(Vec::new(), []);
    fronts.insert(address, front);
    fabric.services().set_fronts(fronts);
    let records = ServiceRecords::Cluster {
        ips: vec![ip],
        ports: Vec::new(),
    };
    fabric.zone().set("default", "web", records);
}

/// Sends one request from the first pod to the second, `server`, at the usual port of the scheme.
/// In `uri`, `POD` is that pod's address and `NAME` its name; `web` is a Service before it.
async fn ask(
    uri: &str,
    server: &Server,
    options: RequestOptions,
    tls: fn() -> TlsConnector,
) -> Result<String, Error> {
    let (fabric, asking, answering) = pods();
    let port = if uri.starts_with("https:") { 443 } else { 80 };
    serve(&fabric, &asking, &answering, port);
    let port = answering
        .reserve_tcp(SocketAddr::from(([0, 0, 0, 0], port)))
        .expect("port");
    let listener = answering.listen(port, 8).expect("listener");
    let serving = async {
        let mut kept = Vec::new();
        loop {
            let stream = listener.accept().await.expect("connection");
            kept.push(server.serve(stream).await);
        }
    };
    let address = answering.ip().to_string();
    let name = address.replace('.', "-") + ".default.pod.cluster.local";
    let uri = uri.replace("POD", &address).replace("NAME", &name);
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(uri)
        .header("host", "pod")
        .body(body)
        .expect("request");
    let mut outgoing = OutgoingHttp::new(asking, account(u64::MAX));
    outgoing.tls = tls;
    let processed = Box::new(std::future::ready(Ok(())));
    let exchange = Box::into_pin(outgoing.send_request(request, Some(options), processed));
    let exchange = async {
        let (response, rest) = exchange.await?;
        let moving = async {
            // The connection is kept, so this ends only with the test.
            let _ = Box::into_pin(rest).await;
            std::future::pending::<()>().await;
        };
        let body = tokio::select! {
            body = response.into_body().collect() => body,
            () = moving => unreachable!("never ends"),
        };
        Ok(String::from_utf8_lossy(&body?.to_bytes()).into_owned())
    };
    tokio::select! {
        result = exchange => result,
        () = serving => unreachable!("serves for ever"),
    }
}

#[tokio::test]
async fn a_pod_is_asked_by_its_address() {
    let (server, options) = (Server::Http(HELLO), RequestOptions::default());
    let body = ask("http://POD/path?query", &server, options, trusting_test).await;
    assert_eq!(body.expect("answer"), "hello");
}

/// Each request has a connection of its own, so none is bound to an endpoint that died.
#[tokio::test]
async fn a_service_is_asked_by_its_name_past_endpoints_that_are_gone() {
    for host in [
        "web",
        "web.default",
        "web.default.svc.cluster.local",
        "10.96.0.10",
    ] {
        for _ in 0..4 {
            let (server, options) = (Server::Http(HELLO), RequestOptions::default());
            let uri = format!("http://{host}/path?query");
            let body = ask(&uri, &server, options, trusting_test).await;
            assert_eq!(body.expect("answer"), "hello", "{host}");
        }
    }
}

#[tokio::test]
async fn a_pod_is_asked_over_tls_of_either_version() {
    for versions in [OLD, NEW] {
        let server = https(versions, Clients::Anybody, &["h2", "http/1.1"]);
        let options = RequestOptions::default();
        let body = ask("https://NAME/path?query", &server, options, trusting_test).await;
        assert_eq!(body.expect("answer"), "hello", "{versions:?}");
    }
}

#[tokio::test]
async fn a_guest_that_names_no_scheme_asks_over_tls() {
    let (_fabric, asking, _) = pods();
    let scheme = OutgoingHttp::new(asking, account(u64::MAX)).default_scheme();
    assert_eq!(scheme, Some(Scheme::HTTPS));
}

#[tokio::test]
async fn what_fails_is_named() {
    let none = RequestOptions::default();
    let soon = RequestOptions {
        first_byte_timeout: Some(SOON),
        ..none
    };
    let piecemeal = RequestOptions {
        between_bytes_timeout: Some(SOON),
        ..none
    };
    let http = Server::Http;
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe";
    let nobody = "http://nobody.default.pod.cluster.local/";
    let cases = [
        ("ftp://POD/path?query", http(""), none, "protocol error"),
        (
            "http://POD:81/path?query",
            http(""),
            none,
            "connection refused",
        ),
        (nobody, http(""), none, "NXDOMAIN"),
        (
            "http://10.244.77.77/path?query",
            http(""),
            none,
            "unroutable",
        ),
        (
            "http://169.254.169.254/path?query",
            http(""),
            none,
            "prohibited",
        ),
        ("http://POD/path?query", http(""), soon, "read timeout"),
        (
            "http://POD/path?query",
            http(half),
            piecemeal,
            "read timeout",
        ),
        (
            "http://POD/path?query",
            http("HTP\r\n\r\n"),
            none,
            "hyper error",
        ),
    ];
    for (uri, server, options, expected) in cases {
        let error = ask(uri, &server, options, trusting_test).await;
        let error = error.expect_err(uri).to_string();
        assert!(error.contains(expected), "{uri}: {error}");
    }
}

#[tokio::test]
async fn what_fails_over_tls_is_named() {
    let check = async |uri: &str, server: Server, tls: fn() -> TlsConnector, expected: &str| {
        let options = RequestOptions {
            // Passes only with the server that says nothing.
            connect_timeout: matches!(server, Server::Other("")).then_some(SOON),
            ..RequestOptions::default()
        };
        let error = ask(uri, &server, options, tls).await;
        let error = error.expect_err(expected).to_string();
        assert_eq!(error, expected, "{uri}");
    };
    let good = || https(BOTH, Clients::Anybody, &[]);
    let (name, address) = ("https://NAME/path?query", "https://POD/path?query");
    let (uncertified, protocol) = ("TLS certificate error", "TLS protocol error");
    check(name, good(), trusting_public, uncertified).await;
    // The certificate is for the name alone.
    check(address, good(), trusting_test, uncertified).await;
    let clear = Server::Other("HTTP/1.1 400 Bad Request\r\n\r\n");
    check(name, clear, trusting_test, protocol).await;
    check(
        name,
        Server::Closing,
        trusting_test,
        "connection terminated",
    )
    .await;
    check(name, Server::Other(""), trusting_test, "connection timeout").await;
    let other = https(BOTH, Clients::Anybody, &["h2"]);
    let alert = "TLS alert received: alert id 120: NoApplicationProtocol";
    check(name, other, trusting_test, alert).await;
    // The old version says it within the handshake, the new one after it.
    for versions in [OLD, NEW] {
        let demanding = https(versions, Clients::Certified, &[]);
        let alert = "TLS alert received: alert id 116: CertificateRequired";
        check(name, demanding, trusting_test, alert).await;
    }
    check(
        "https://a..b/",
        good(),
        trusting_test,
        "invalid HTTP request URI",
    )
    .await;
}

/// An account with this much memory.
fn account(memory: u64) -> Arc<Account> {
    let id = ContainerId {
        namespace: "default".into(),
        pod: "pod".into(),
        container: "main".into(),
    };
    let limits = Limits {
        memory: Some(memory),
        ..Limits::default()
    };
    let budget = Arc::new(NodeBudget::new(u64::MAX));
    let pod = PodAccount::new(PodLimits::default(), budget);
    Arc::new(Account::new(&id, &limits, pod))
}

#[tokio::test]
async fn requests_under_way_are_charged_and_end_a_container_that_has_no_memory_for_them() {
    let (_fabric, asking, _) = pods();
    let account = account(2 * REQUEST_BYTES);
    let (ended, told) = (Arc::new(AtomicBool::new(false)), account.clone());
    let ending = ended.clone();
    told.end_by(move || ending.store(true, Ordering::SeqCst));
    let outgoing = OutgoingHttp::new(asking, account.clone());
    let places = [outgoing.place(), outgoing.place()];
    assert!(places.iter().all(Result::is_ok));
    assert_eq!(account.memory(), 2 * REQUEST_BYTES);
    assert!(!ended.load(Ordering::SeqCst));
    assert!(outgoing.place().is_err());
    assert!(
        ended.load(Ordering::SeqCst),
        "as one that grows beyond its limit"
    );
    drop(places);
    assert_eq!(account.memory(), 0);
}
