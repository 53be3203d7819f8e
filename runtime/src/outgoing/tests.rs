//! One pod asks another, in the clear and over TLS.

use super::trust::Base;
use super::*;
use crate::account::{NodeBudget, PodAccount};
use crate::fs::{
    Access, FileSource, FileSystem, FileSystemSpec, LiveTree, Meta, Mount, MountSource, Tree,
    TreeBuilder, Upper, User,
};
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
fn trusting_test() -> Base {
    Base::new(test_authority())
}

fn trusting_public() -> Base {
    Base::new(trust::public_authorities())
}

/// What a program trusts whose container has `files` and who begins with `base`.
fn trust(base: fn() -> Base, files: Vec<Mount>, env: &[(&str, &str)]) -> Arc<Trust> {
    let files = FileSystem::new(FileSystemSpec {
        root: Arc::new(Tree::empty()),
        upper: Upper::ReadOnly,
        mounts: files,
        user: User::default(),
    });
    let env = env
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()));
    let files = files.expect("a file system");
    Arc::new(Trust::new(base, files, env.collect(), account(u64::MAX)))
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
    base: fn() -> Base,
) -> Result<String, Error> {
    ask_trusting(uri, server, options, trust(base, Vec::new(), &[])).await
}

/// The same, who trusts `trust`.
async fn ask_trusting(
    uri: &str,
    server: &Server,
    options: RequestOptions,
    trust: Arc<Trust>,
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
    let uri = uri
        .replace("POD", &address)
        .replace("NAME", &name_of(&answering));
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(uri)
        .header("host", "pod")
        .body(body)
        .expect("request");
    let mut outgoing = OutgoingHttp::new(asking, account(u64::MAX), trust);
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
    let nobody = trust(trusting_public, Vec::new(), &[]);
    let scheme = OutgoingHttp::new(asking, account(u64::MAX), nobody).default_scheme();
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
    let check = async |uri: &str, server: Server, base: fn() -> Base, expected: &str| {
        let options = RequestOptions {
            // Passes only with the server that says nothing.
            connect_timeout: matches!(server, Server::Other("")).then_some(SOON),
            ..RequestOptions::default()
        };
        let error = ask(uri, &server, options, base).await;
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

/// The name that the certificate of the tests is for.
fn name_of(pod: &PodNetwork) -> String {
    pod.ip().to_string().replace('.', "-") + ".default.pod.cluster.local"
}

/// A folder with one file that its owner may change.
fn folder(path: &str, file: &str, bytes: &'static [u8]) -> (Mount, LiveTree) {
    let live = LiveTree::new(tree(file, bytes));
    let mount = Mount {
        path: path.to_owned(),
        source: MountSource::Live(live.clone()),
        sub_path: None,
        access: Access::ReadOnly,
        group: None,
    };
    (mount, live)
}

fn tree(file: &str, bytes: &'static [u8]) -> Tree {
    let meta = Meta::new(0o444, std::time::UNIX_EPOCH);
    let mut builder = TreeBuilder::new();
    let made = builder.file(file, meta, FileSource::Bytes(Bytes::from_static(bytes)));
    made.expect("a file");
    builder.build()
}

const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The authority that is mounted beside the token vouches for the API, and for nobody else; it may be
/// renewed in place.
#[tokio::test]
async fn the_mounted_authority_vouches_for_the_api_alone() {
    let (_fabric, _, answering) = pods();
    let api = name_of(&answering);
    let check = async |trust: &Arc<Trust>, expected: Result<&str, &str>| {
        let server = https(BOTH, Clients::Anybody, &["http/1.1"]);
        let options = RequestOptions::default();
        let answer = ask_trusting("https://NAME/path?query", &server, options, trust.clone());
        let answer = answer.await.map_err(|error| error.to_string());
        assert_eq!(answer.as_deref().map_err(String::as_str), expected);
    };
    let refused = Err("TLS certificate error");
    let mounts = |bytes| {
        let (mount, live) = folder(ACCOUNT, "ca.crt", bytes);
        (vec![mount], live)
    };
    let of_api: &[_] = &[("KUBERNETES_SERVICE_HOST", api.as_str())];
    let trusting = trust(trusting_public, mounts(AUTHORITY).0, of_api);
    check(&trusting, Ok("hello")).await;
    let elsewhere = &[("KUBERNETES_SERVICE_HOST", "10.96.0.1")];
    check(
        &trust(trusting_public, mounts(AUTHORITY).0, elsewhere),
        refused,
    )
    .await;
    check(&trust(trusting_public, Vec::new(), of_api), refused).await;
    let (mounts, live) = mounts(b"none yet");
    let trusting = trust(trusting_public, mounts, of_api);
    check(&trusting, refused).await;
    live.swap(tree("ca.crt", AUTHORITY));
    check(&trusting, Ok("hello")).await;
    live.swap(tree("other", AUTHORITY));
    check(&trusting, refused).await;
}

/// What `SSL_CERT_FILE` names in a container vouches for everybody, there alone.
#[tokio::test]
async fn a_container_names_authorities_of_its_own() {
    let check = async |name: &str, expected: Result<&str, &str>| {
        let (mount, _live) = folder("/etc/ssl", "own.pem", AUTHORITY);
        let trusting = trust(trusting_public, vec![mount], &[("SSL_CERT_FILE", name)]);
        let server = https(BOTH, Clients::Anybody, &["http/1.1"]);
        let options = RequestOptions::default();
        let answer = ask_trusting("https://NAME/path?query", &server, options, trusting).await;
        let answer = answer.map_err(|error| error.to_string());
        assert_eq!(
            answer.as_deref().map_err(String::as_str),
            expected,
            "{name}"
        );
    };
    let refused = Err("TLS certificate error");
    check("/etc/ssl/own.pem", Ok("hello")).await;
    check("/etc/ssl/../ssl/own.pem", Ok("hello")).await;
    for none in ["/etc/ssl/none.pem", "/etc/ssl", "own.pem", ""] {
        check(none, refused).await;
    }
}

/// The authorities of a container are held for it.
#[tokio::test]
async fn authorities_of_a_container_are_charged_to_it() {
    let (mount, _live) = folder("/etc/ssl", "own.pem", AUTHORITY);
    let files = FileSystem::new(FileSystemSpec {
        root: Arc::new(Tree::empty()),
        upper: Upper::ReadOnly,
        mounts: vec![mount],
        user: User::default(),
    });
    let files = files.expect("a file system");
    let env: Arc<[_]> = [("SSL_CERT_FILE".to_owned(), "/etc/ssl/own.pem".to_owned())].into();
    let make = |memory| {
        let account = account(memory);
        let trust = Trust::new(trusting_public, files.clone(), env.clone(), account.clone());
        (account, Arc::new(trust))
    };
    let (roomy, trust) = make(u64::MAX);
    for _ in 0..2 {
        assert!(trust.connector("example.com").await.is_ok());
        let (least, most) = (AUTHORITY.len() as u64, 1 << 20);
        assert!(
            (least..most).contains(&roomy.memory()),
            "{}",
            roomy.memory()
        );
    }
    drop(trust);
    assert_eq!(roomy.memory(), 0);
    let (_full, trust) = make(1);
    assert!(trust.connector("example.com").await.is_err());
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
    let nobody = trust(trusting_public, Vec::new(), &[]);
    let outgoing = OutgoingHttp::new(asking, account.clone(), nobody);
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
