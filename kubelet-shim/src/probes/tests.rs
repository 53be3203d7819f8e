//! The schedule on invented time, and the prober against listeners in the pod network.

use std::net::SocketAddr;

use ::http::uri::PathAndQuery;
use coracle_network::{FabricConfig, Listener, PodIdentity, PodNetwork, PublishPlan, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use serde_json::json;

use super::attempt::Ended;
use super::registry::Registry;
use super::tally::Tally;
use super::*;
use crate::hooks::{self, HookDone, HookTarget};
use crate::spec::{
    Check, Hook, HostPathPolicy, HttpGet, ProbeHost, Scheme, TargetPort, TcpTarget, check_pod,
};
use crate::time::Clock;

const PORT: u16 = 80;

/// A pod in a network with a prober at work.
struct World {
    prober: Prober,
    task: tokio::task::JoinHandle<()>,
    pod: PodNetwork,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
}

impl World {
    fn new() -> World {
        World::with(FabricConfig::default())
    }

    fn with(config: FabricConfig) -> World {
        let fabric = Fabric::new(FabricConfig {
            publish: PublishPlan::Nowhere,
            ..config
        });
        let fabric = fabric.expect("the default layout is valid");
        let identity = PodIdentity {
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            hostname: "p".to_owned(),
            subdomain: None,
        };
        let pod = fabric.attach(identity).expect("an address is free");
        let (prober, task) = Prober::new(fabric);
        World {
            prober,
            task: tokio::spawn(task),
            pod,
            news: mpsc::channel(NEWS_MAX),
        }
    }

    fn listen(&self) -> Listener {
        let any = SocketAddr::from(([0, 0, 0, 0], PORT));
        let port = self.pod.reserve_tcp(any).expect("the port is free");
        self.pod.listen(port, 16).expect("a reserved port listens")
    }

    fn watch(&self, kind: ProbeKind, probe: Probe) -> Watch {
        self.prober.watch(Watched {
            container: 3,
            attempt: 7,
            kind,
            probe: Arc::new(probe),
            pod_ip: self.pod.ip().into(),
            whose: whose("u"),
            first: Instant::now(),
            names: Names(Some(self.pod.clone())),
            programs: Programs::default(),
            news: self.news.0.clone(),
        })
    }

    async fn next(&mut self) -> What {
        let news = self.news.1.recv().await.expect("the sender is here");
        assert_eq!((news.container, news.attempt), (3, 7));
        news.what
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn probe(check: Check) -> Probe {
    Probe {
        check,
        initial_delay: Duration::ZERO,
        // Short, since these tests wait for attempts.
        period: Duration::from_millis(1),
        timeout: Duration::from_secs(20),
        success_threshold: 1,
        failure_threshold: 3,
        grace: None,
    }
}

fn tcp() -> Probe {
    probe(Check::Tcp(TcpTarget {
        host: None,
        port: TargetPort::Number(PORT),
    }))
}

fn get(path: &'static str) -> HttpGet {
    HttpGet {
        scheme: Scheme::Http,
        host: None,
        port: TargetPort::Number(PORT),
        path: PathAndQuery::from_static(path),
        headers: Vec::new(),
    }
}

/// Answers every connection with what `answer` makes of the request's head, and keeps the heads.
fn serve(
    listener: Listener,
    answer: impl Fn(&str) -> String + Send + 'static,
) -> mpsc::Receiver<String> {
    let (sender, heads) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok(mut stream) = listener.accept().await {
            let head = head(&mut stream).await;
            let _ = stream.write_all(answer(&head).as_bytes()).await;
            let _ = sender.send(head).await;
        }
    });
    heads
}

async fn head(stream: &mut Stream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.is_ok_and(|n| n > 0) {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

fn says(status: u16, more: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What the first attempt of a liveness probe with failure threshold 1 says.
/// The news of one attempt, after which there is none for as long as a test lasts: whoever serves is
/// asked once.
async fn first_news(world: &mut World, get: HttpGet) -> What {
    let once = Probe {
        period: Duration::from_secs(3600),
        ..probe(Check::Http(get))
    };
    // What is still told of an attempt before is nothing to this one.
    world.news = mpsc::channel(NEWS_MAX);
    let _watch = world.watch(ProbeKind::Readiness, once);
    world.next().await
}

const GOOD: What = What::Verdict(Verdict::Success);

#[test]
fn verdicts_need_as_many_in_a_row_and_a_flip_begins_anew() {
    use Verdict::{Failure, Success};
    let mut probe = tcp();
    probe.success_threshold = 2;
    let check = |kind, attempts: &[Verdict], expected: Option<Verdict>, on_hold: bool| {
        let mut tally = Tally::new(kind);
        attempts.iter().for_each(|one| tally.note(&probe, *one));
        assert_eq!(tally.verdict(), expected, "{kind:?} {attempts:?}");
        assert_eq!(tally.is_on_hold(), on_hold, "{kind:?} {attempts:?}");
    };
    let (bad, good) = (Failure, Success);
    check(ProbeKind::Readiness, &[], Some(bad), false);
    check(ProbeKind::Liveness, &[], Some(good), false);
    check(ProbeKind::Startup, &[], None, false);
    check(ProbeKind::Readiness, &[good], Some(bad), false);
    check(ProbeKind::Readiness, &[good, good], Some(good), false);
    check(ProbeKind::Readiness, &[good, bad, good], Some(bad), false);
    check(ProbeKind::Liveness, &[bad, bad], Some(good), false);
    check(
        ProbeKind::Liveness,
        &[bad, bad, good, bad, bad],
        Some(good),
        false,
    );
    check(ProbeKind::Liveness, &[bad, bad, bad], Some(bad), true);
    check(ProbeKind::Startup, &[bad, bad], None, false);
    check(ProbeKind::Startup, &[bad, bad, bad], Some(bad), true);
    check(ProbeKind::Startup, &[good, good], Some(good), true);
    check(
        ProbeKind::Readiness,
        &[good, good, bad, bad, bad],
        Some(bad),
        false,
    );
}

fn whose(uid: &str) -> Whose {
    Whose {
        namespace: "n".into(),
        pod: "p".into(),
        uid: uid.into(),
        container: "c".into(),
    }
}

#[test]
fn a_pod_has_a_bounded_number_of_attempts_under_way_and_others_go_on() {
    let (news, _receiver) = mpsc::channel(NEWS_MAX);
    let start = Instant::now();
    let mut registry = Registry::default();
    let mut insert = |uid: &str| {
        registry.insert(Watched {
            container: 0,
            attempt: 1,
            kind: ProbeKind::Readiness,
            probe: Arc::new(tcp()),
            pod_ip: [10, 0, 0, 1].into(),
            whose: whose(uid),
            first: start,
            names: Names::default(),
            programs: Programs::default(),
            news: news.clone(),
        })
    };
    let crowd: Vec<u64> = (0..ATTEMPTS_PER_POD_MAX + 2)
        .map(|_| insert("many"))
        .collect();
    let other = insert("one");
    let mut begun = Vec::new();
    while let Due::Now(job, _) = registry.take_due(start) {
        begun.push(job.id);
    }
    assert_eq!(begun.len(), ATTEMPTS_PER_POD_MAX + 1);
    assert!(begun.contains(&other));
    // Whoever comes out, or is no longer wanted, makes room for one that waited.
    let late = start + Duration::from_millis(1);
    registry.settle(crowd[0], Ended::Good, late);
    let Due::Now(job, _) = registry.take_due(late) else {
        panic!("one was held")
    };
    assert_eq!(job.id, crowd[ATTEMPTS_PER_POD_MAX]);
    assert!(!is_due(&registry.take_due(late)));
    drop(registry.remove(crowd[1]));
    assert!(is_due(&registry.take_due(late)));
    assert!(!is_due(&registry.take_due(late)));
}

/// A registry with one probe of period 10 s that is due at once.
fn registry(kind: ProbeKind) -> (Registry, u64, Instant, mpsc::Receiver<News>) {
    let (news, receiver) = mpsc::channel(NEWS_MAX);
    let mut probe = tcp();
    probe.period = Duration::from_secs(10);
    let start = Instant::now();
    let mut registry = Registry::default();
    let id = registry.insert(Watched {
        container: 0,
        attempt: 1,
        kind,
        probe: Arc::new(probe),
        pod_ip: [10, 0, 0, 1].into(),
        whose: whose("u"),
        first: start,
        names: Names::default(),
        programs: Programs::default(),
        news,
    });
    (registry, id, start, receiver)
}

fn is_due(due: &Due) -> bool {
    matches!(due, Due::Now(..))
}

#[test]
fn attempts_are_a_period_apart_and_never_two_at_once() {
    let (mut registry, id, start, _news) = registry(ProbeKind::Readiness);
    let at = |seconds| start + Duration::from_secs(seconds);
    assert!(is_due(&registry.take_due(start)));
    assert!(
        matches!(registry.take_due(at(60)), Due::Never),
        "one is under way"
    );
    registry.settle(id, Ended::Good, at(1));
    assert!(matches!(registry.take_due(at(9)), Due::At(due) if due == at(10)));
    assert!(is_due(&registry.take_due(at(10))));
    // It took longer than a period: of the ticks that were missed one is made up for.
    registry.settle(id, Ended::Good, at(45));
    assert!(is_due(&registry.take_due(at(45))));
    registry.settle(id, Ended::Good, at(46));
    assert!(matches!(registry.take_due(at(46)), Due::At(due) if due == at(55)));
}

#[test]
fn a_verdict_that_ends_an_instance_puts_its_probe_on_hold() {
    for (kind, last) in [
        (ProbeKind::Liveness, Ended::Failed("x".to_owned())),
        (ProbeKind::Startup, Ended::Failed("x".to_owned())),
        (ProbeKind::Startup, Ended::Good),
    ] {
        let (mut registry, id, mut now, mut news) = registry(kind);
        let mut attempts = 0;
        while is_due(&registry.take_due(now)) {
            registry.settle(id, last.clone(), now);
            now += Duration::from_secs(10);
            attempts += 1;
        }
        let expected = if last == Ended::Good { 1 } else { 3 };
        assert_eq!(attempts, expected, "{kind:?}");
        assert!(matches!(registry.take_due(now), Due::Never));
        let told: Vec<News> = std::iter::from_fn(|| news.try_recv().ok()).collect();
        assert!(matches!(
            told.last(),
            Some(News {
                what: What::Verdict(_),
                ..
            })
        ));
    }
}

#[test]
fn what_is_not_watched_any_more_is_never_due_and_its_attempt_is_abandoned() {
    let (mut idle, id, start, _news) = registry(ProbeKind::Readiness);
    idle.remove(id);
    assert!(matches!(idle.take_due(start), Due::Never));
    let (mut busy, id, start, _news) = registry(ProbeKind::Readiness);
    let Due::Now(_, registration) = busy.take_due(start) else {
        panic!("it is due")
    };
    busy.remove(id);
    assert!(registration.handle().is_aborted());
    busy.settle(id, Ended::Good, start);
    assert!(matches!(busy.take_due(start), Due::Never));
}

#[test]
fn an_attempt_that_changes_nothing_is_no_news() {
    let (mut registry, id, mut now, mut news) = registry(ProbeKind::Liveness);
    for _ in 0..5 {
        assert!(is_due(&registry.take_due(now)));
        registry.settle(id, Ended::Good, now);
        now += Duration::from_secs(10);
    }
    assert!(news.try_recv().is_err());
}

#[tokio::test]
async fn the_first_attempt_counts_from_the_start_in_whole_seconds() {
    let world = World::new();
    let key = PodKey {
        namespace: "n".into(),
        name: "p".into(),
        uid: "u".into(),
    };
    let (clock, hand) = Clock::manual("2026-01-01T00:00:00.900Z".parse().expect("a time"));
    let since = clock.now().wall();
    hand.advance(Duration::from_millis(300));
    let now = clock.now();
    let mut probe = tcp();
    probe.initial_delay = Duration::from_secs(5);
    probe.period = Duration::from_secs(10);
    let due = |kind| {
        let due = world.prober.first_due((&key, 0, kind), &probe, since, now);
        due - now.instant()
    };
    // 0.9 s counts as 0 s, and it is 1.2 s now.
    assert_eq!(due(ProbeKind::Readiness), Duration::from_millis(3800));
    assert_eq!(due(ProbeKind::Startup), Duration::from_millis(3800));
    let liveness = due(ProbeKind::Liveness);
    assert!(liveness >= Duration::from_millis(3800) && liveness < Duration::from_millis(13_800));
}

#[tokio::test]
async fn a_port_that_listens_is_ready_and_one_that_stops_is_so_no_more_after_the_threshold() {
    let mut world = World::new();
    let listener = world.listen();
    let _watch = world.watch(ProbeKind::Readiness, tcp());
    assert_eq!(world.next().await, GOOD);
    drop(listener);
    let text = format!(
        "dial tcp {}:80: connect: connection refused",
        world.pod.ip()
    );
    for _ in 0..3 {
        assert_eq!(world.next().await, What::Failed(text.clone()));
    }
    assert_eq!(world.next().await, What::Verdict(Verdict::Failure));
}

#[tokio::test]
async fn statuses_from_200_to_399_are_good() {
    for (status, expected) in [
        (200, GOOD),
        (204, GOOD),
        (
            400,
            What::Failed("HTTP probe failed with statuscode: 400".to_owned()),
        ),
        (
            503,
            What::Failed("HTTP probe failed with statuscode: 503".to_owned()),
        ),
    ] {
        let mut world = World::new();
        let _heads = serve(world.listen(), move |_| says(status, "", ""));
        assert_eq!(first_news(&mut world, get("/")).await, expected, "{status}");
    }
}

#[tokio::test]
async fn the_request_says_who_asks_and_carries_the_pods_headers() {
    let mut world = World::new();
    let mut heads = serve(world.listen(), |_| says(200, "", ""));
    assert_eq!(first_news(&mut world, get("/healthz?full")).await, GOOD);
    let ip = world.pod.ip();
    let head = heads.recv().await.expect("a request");
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "GET /healthz?full HTTP/1.1");
    lines.sort_unstable();
    let host = format!("Host: {ip}:80");
    let expected = [
        "Accept: */*",
        "Connection: close",
        &host,
        "User-Agent: kube-probe/1.36",
    ];
    assert_eq!(lines, expected);
    let mut own = get("/");
    own.headers = [
        ("Accept", ""),
        ("user-agent", "me"),
        ("Host", "example.com"),
        ("X", "1"),
        ("X", "2"),
    ]
    .map(|(name, value)| {
        (
            name.parse().expect("a name"),
            value.parse().expect("a value"),
        )
    })
    .to_vec();
    assert_eq!(first_news(&mut world, own).await, GOOD);
    let head = heads.recv().await.expect("a request");
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").skip(1).collect();
    lines.sort_unstable();
    let expected = [
        "Connection: close",
        "Host: example.com",
        "User-Agent: me",
        "X: 1",
        "X: 2",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn redirects_are_followed_to_the_same_host_only() {
    let mut world = World::new();
    let ip = world.pod.ip();
    let mut heads = serve(world.listen(), move |head| {
        let to = match head.split(' ').nth(1) {
            Some("/relative") => "/good".to_owned(),
            Some("/beside/it") => "sibling".to_owned(),
            Some("/absolute") => format!("http://{ip}:80/good"),
            Some("/elsewhere") => "http://example.com/".to_owned(),
            Some("/round") => "/round".to_owned(),
            Some("/bad") => return says(500, "", ""),
            Some("/to-bad") => "/bad".to_owned(),
            Some(_) | None => return says(200, "", ""),
        };
        says(302, &format!("Location: {to}\r\n"), "moved")
    });
    let warned = "Probe terminated redirects, Response body: moved".to_owned();
    let failed = "HTTP probe failed with statuscode: 500".to_owned();
    let round = format!("Get \"http://{ip}:80/round\": stopped after 10 redirects");
    for (path, expected, asked) in [
        ("/relative", GOOD, vec!["/relative", "/good"]),
        ("/beside/it", GOOD, vec!["/beside/it", "/beside/sibling"]),
        ("/absolute", GOOD, vec!["/absolute", "/good"]),
        ("/elsewhere", What::Warned(warned), vec!["/elsewhere"]),
        ("/to-bad", What::Failed(failed), vec!["/to-bad", "/bad"]),
        ("/round", What::Failed(round), vec!["/round"; 11]),
    ] {
        assert_eq!(first_news(&mut world, get(path)).await, expected, "{path}");
        for path in asked {
            let head = heads.recv().await.expect("a request");
            assert_eq!(head.split(' ').nth(1), Some(path));
        }
    }
}

#[tokio::test]
async fn silence_and_nonsense_are_failures_in_gos_words() {
    let mut world = World::new();
    let ip = world.pod.ip();
    let listener = world.listen();
    let accept = tokio::spawn(async move {
        let silent = listener.accept().await.expect("a connection");
        head(&mut listener.accept().await.expect("a second one")).await;
        let mut nonsense = listener.accept().await.expect("a third one");
        let _ = nonsense.write_all(b"SSH-2.0-x\r\n\r\n").await;
        drop(silent);
    });
    let impatient = Probe {
        timeout: Duration::from_millis(50),
        // The others are asked by somebody with patience.
        period: Duration::from_secs(3600),
        ..probe(Check::Http(get("/")))
    };
    let watch = world.watch(ProbeKind::Liveness, impatient);
    let told = |text: &str| What::Failed(format!("Get \"http://{ip}:80/\": {text}"));
    let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(world.next().await, told(late));
    drop(watch);
    let _watch = world.watch(ProbeKind::Liveness, probe(Check::Http(get("/"))));
    assert_eq!(world.next().await, told("EOF"));
    assert_eq!(world.next().await, told("invalid HTTP version parsed"));
    accept.await.expect("it ends");
}

#[tokio::test]
async fn a_host_may_be_a_name_that_the_pod_knows_and_one_that_nobody_knows_is_an_error() {
    let mut world = World::new();
    let mut heads = serve(world.listen(), |_| "HTTP/1.1 200 OK\r\n\r\n".to_owned());
    let named = |name: &str| HttpGet {
        host: Some(ProbeHost::Name(name.into())),
        ..get("/")
    };
    // The pod's own name.
    let news = first_news(&mut world, named("p")).await;
    assert_eq!(news, What::Verdict(Verdict::Success));
    let head = heads.recv().await.expect("it was asked");
    assert!(head.contains("\r\nHost: p:80\r\n"), "{head}");
    let unknown = "none.n.svc.cluster.local";
    let news = first_news(&mut world, named(unknown)).await;
    let text = format!("dial tcp: lookup {unknown}: no such host");
    assert_eq!(news, What::Errored(text));
}

#[tokio::test]
async fn a_host_may_be_the_pods_address_of_ipv6() {
    let mut world = World::with(FabricConfig {
        pod_cidr6: Some("fd00:10:244::/64".parse().expect("a range")),
        ..FabricConfig::default()
    });
    let second = world.pod.ip6().expect("pods have two addresses");
    let any = "[::]:80".parse().expect("an address");
    let port = world.pod.reserve_tcp(any).expect("the port is free");
    let listener = world.pod.listen(port, 16).expect("it listens");
    let mut heads = serve(listener, |_| "HTTP/1.1 200 OK\r\n\r\n".to_owned());
    let at = HttpGet {
        host: Some(ProbeHost::Address(second.into())),
        ..get("/")
    };
    let news = first_news(&mut world, at).await;
    assert_eq!(news, What::Verdict(Verdict::Success));
    let head = heads.recv().await.expect("it was asked");
    let host = format!("\r\nHost: [{second}]:80\r\n");
    assert!(head.contains(&host), "{head}");
    // One that is no pod's is not reached, and told as a kubelet would.
    let nobody = HttpGet {
        host: Some(ProbeHost::Address(
            "fd00:10:244::99".parse().expect("an address"),
        )),
        ..get("/")
    };
    let news = first_news(&mut world, nobody).await;
    let text = "Get \"http://[fd00:10:244::99]:80/\": dial tcp [fd00:10:244::99]:80: connect: no route to host";
    assert_eq!(news, What::Failed(text.to_owned()));
}

#[tokio::test]
async fn a_port_without_a_number_is_an_error_and_counts_for_nothing() {
    let mut world = World::new();
    let mut action = get("/");
    action.port = TargetPort::Unknown("web".into());
    let mut probe = probe(Check::Http(action));
    probe.failure_threshold = 1;
    let _watch = world.watch(ProbeKind::Liveness, probe);
    for _ in 0..5 {
        let expected = What::Errored("couldn't find port: web".to_owned());
        assert_eq!(world.next().await, expected);
    }
}

#[tokio::test]
async fn a_verdict_that_finds_no_room_is_told_after_the_next_attempt() {
    let mut world = World::new();
    world.news = mpsc::channel(1);
    let mut probe = tcp();
    probe.failure_threshold = 1;
    let _watch = world.watch(ProbeKind::Liveness, probe);
    assert!(matches!(world.next().await, What::Failed(_)));
    assert_eq!(world.next().await, What::Verdict(Verdict::Failure));
}

/// Answers one call of gRPC with a message and trailers.
fn serve_grpc(listener: Listener, message: &'static [u8], trailers: &'static [(&str, &str)]) {
    tokio::spawn(async move {
        let stream = listener.accept().await.expect("a connection");
        let mut server = h2::server::handshake(stream).await.expect("HTTP/2");
        while let Some(Ok((request, mut respond))) = server.accept().await {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["user-agent"], "kube-probe/1.36");
            let head = ::http::Response::new(());
            let mut body = respond.send_response(head, false).expect("a head");
            body.send_data(message.into(), false).expect("a message");
            let mut map = ::http::HeaderMap::new();
            for (name, value) in trailers {
                map.insert(*name, value.parse().expect("a value"));
            }
            body.send_trailers(map).expect("trailers");
        }
    });
}

#[tokio::test]
async fn only_a_service_that_serves_is_well() {
    let failed = |text: &str| What::Failed(text.to_owned());
    let ok: &[(&str, &str)] = &[("grpc-status", "0")];
    for (message, trailers, expected) in [
        (&[0, 0, 0, 0, 2, 8, 1][..], ok, GOOD),
        (
            &[0, 0, 0, 0, 2, 8, 2],
            ok,
            failed("service unhealthy (responded with \"NOT_SERVING\")"),
        ),
        (
            &[0, 0, 0, 0, 0],
            ok,
            failed("service unhealthy (responded with \"UNKNOWN\")"),
        ),
        (
            &[],
            &[("grpc-status", "12"), ("grpc-message", "unknown service")],
            failed(
                "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health): unknown service",
            ),
        ),
        (
            &[],
            &[("grpc-status", "5"), ("grpc-message", "who?")],
            failed("error: health rpc probe failed: rpc error: code = NotFound desc = who?"),
        ),
    ] {
        let mut world = World::new();
        serve_grpc(world.listen(), message, trailers);
        let check = Check::Grpc {
            port: PORT,
            service: "s".into(),
        };
        let _watch = world.watch(ProbeKind::Readiness, probe(check));
        assert_eq!(world.next().await, expected);
    }
    let mut world = World::new();
    let check = Check::Grpc {
        port: PORT,
        service: "".into(),
    };
    let _watch = world.watch(ProbeKind::Readiness, probe(check));
    let to = format!("{}:80", world.pod.ip());
    let expected = format!(
        "error: failed to connect service at \"{to}\": dial tcp {to}: connect: connection refused"
    );
    assert_eq!(world.next().await, What::Failed(expected));
}

/// A server of TLS whose certificate nobody vouches for.
fn serve_tls(listener: Listener, status: u16) {
    let made = rcgen::generate_simple_self_signed(["nobody".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a key that fits");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok(stream) = listener.accept().await {
            let mut stream = acceptor.accept(stream).await.expect("a handshake");
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(says(status, "", "").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
}

#[tokio::test]
async fn over_tls_nobody_is_asked_for_a_certificate_that_is_trusted() {
    let mut secure = get("/");
    secure.scheme = Scheme::Https;
    let mut world = World::new();
    serve_tls(world.listen(), 200);
    assert_eq!(first_news(&mut world, secure.clone()).await, GOOD);
    let mut world = World::new();
    let listener = world.listen();
    tokio::spawn(async move {
        while let Ok(mut stream) = listener.accept().await {
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(says(400, "", "").as_bytes()).await;
            let _ = stream.read(&mut hello).await;
        }
    });
    let What::Failed(text) = first_news(&mut world, secure).await else {
        panic!("plain HTTP is no TLS")
    };
    let told = "http: server gave HTTP response to HTTPS client";
    assert!(text.ends_with(told), "{text}");
}

#[tokio::test]
async fn an_endless_body_is_cut_off() {
    let mut world = World::new();
    let _heads = serve(world.listen(), |_| {
        let body = "x".repeat(1 << 16);
        format!(
            "HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{body}",
            1_u64 << 40
        )
    });
    assert_eq!(first_news(&mut world, get("/")).await, GOOD);
}

/// Runs a hook of container `c` in the world's pod.
async fn hook(world: &World, hook: Hook) -> Result<HookDone, String> {
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = serde_json::from_value(pod).expect("a pod");
    let spec = check_pod(&pod, HostPathPolicy::Refuse).expect("a plan");
    let target = HookTarget {
        reach: world.prober.reach().clone(),
        pod: spec.key.clone(),
        pod_ip: world.pod.ip().into(),
        names: Names(Some(world.pod.clone())),
        exec: None,
    };
    let done = hooks::run(&hook, &spec.containers[0], &target).await;
    done.map_err(|error| error.to_string())
}

#[tokio::test]
async fn every_answer_to_a_hook_is_a_success_and_none_a_failure() {
    let world = World::new();
    let ip = world.pod.ip();
    let refused = format!(
        "HTTP lifecycle hook (/bye) for Container \"c\" in Pod \"p_n(u)\" failed - error: Get \
         \"http://{ip}:80/bye\": dial tcp {ip}:80: connect: connection refused"
    );
    assert_eq!(hook(&world, Hook::Http(get("/bye"))).await, Err(refused));
    let mut heads = serve(world.listen(), |_| says(500, "", ""));
    let done = hook(&world, Hook::Http(get("/bye"))).await;
    assert_eq!(done, Ok(HookDone::AsAsked));
    let head = heads.recv().await.expect("a request");
    assert!(
        head.contains("User-Agent: kube-lifecycle/1.36\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_hook_over_tls_that_meets_plain_http_is_asked_again_without() {
    let world = World::new();
    let listener = world.listen();
    tokio::spawn(async move {
        while let Ok(mut stream) = listener.accept().await {
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(says(400, "", "").as_bytes()).await;
            let _ = stream.read(&mut hello).await;
        }
    });
    let mut secure = get("/");
    secure.scheme = Scheme::Https;
    let done = hook(&world, Hook::Http(secure)).await;
    assert_eq!(done, Ok(HookDone::WithoutTls));
}

#[tokio::test]
async fn a_hook_that_only_connects_is_served_by_nobody() {
    let world = World::new();
    let _listener = world.listen();
    let error = hook(&world, Hook::Tcp).await.expect_err("it is invalid");
    assert!(error.starts_with("Cannot run handler"), "{error}");
}
