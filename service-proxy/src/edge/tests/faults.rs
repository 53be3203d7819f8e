use super::*;

#[tokio::test]
async fn an_endpoint_that_refuses_is_followed_by_another_one() {
    let fabric = fabric();
    let pod = pod(&fabric, "a");
    // Neither listens: one here, one elsewhere.
    let here = SocketAddr::from((pod.ip(), 80));
    let web = service("web");
    route(&web, &[here, nobody().await, elsewhere("a").await]);
    let edge = start(Some(fabric));
    edge.apply(fronts(&[(cluster_ip(), front(&web, FrontKind::ClusterIp))]));
    let outside = published(&edge, cluster_ip()).await;
    for _ in 0..20 {
        assert_eq!(connect(outside).await.expect("served").1, "a");
    }
    assert_eq!(read(&edge.counters().refused), 0);
}

#[tokio::test]
async fn when_no_endpoint_takes_it_a_connection_is_reset_at_once() {
    let web = service("web");
    route(&web, &[nobody().await, nobody().await]);
    let edge = start(None);
    edge.apply(fronts(&[(cluster_ip(), front(&web, FrontKind::ClusterIp))]));
    let outside = published(&edge, cluster_ip()).await;
    assert!(connect(outside).await.is_none());
    assert_eq!(read(&edge.counters().refused), 1);
    assert_eq!(edge.relayed_now(), 0);
}

#[tokio::test]
async fn what_a_dying_listener_did_not_accept_goes_to_another_endpoint() {
    let fabric = fabric();
    let (dying, staying) = (pod(&fabric, "dying"), pod(&fabric, "staying"));
    let (listener, dying_at) = listen(&dying, 8);
    let web = service("web");
    route(&web, &[dying_at]);
    let edge = start(Some(fabric));
    edge.apply(fronts(&[(cluster_ip(), front(&web, FrontKind::ClusterIp))]));
    let outside = published(&edge, cluster_ip()).await;
    let waiting = tokio::spawn(connect(outside));
    until("handed over", || read(&edge.counters().handed_over) == 1).await;
    let (other, staying_at) = listen(&staying, 8);
    serve(other, "s");
    route(&web, &[staying_at]);
    drop(listener);
    assert_eq!(waiting.await.unwrap().expect("served").1, "s");
    assert_eq!(read(&edge.counters().given_back), 1);
}

#[tokio::test]
async fn a_full_backlog_is_passed_by() {
    let fabric = fabric();
    let (full, free) = (pod(&fabric, "full"), pod(&fabric, "free"));
    let (_nobody_accepts, full_at) = listen(&full, 1);
    let (listener, free_at) = listen(&free, 8);
    serve(listener, "f");
    let web = service("web");
    route(&web, &[full_at]);
    let edge = start(Some(fabric));
    edge.apply(fronts(&[(cluster_ip(), front(&web, FrontKind::ClusterIp))]));
    let outside = published(&edge, cluster_ip()).await;
    let _waits = TcpStream::connect(outside).await.unwrap();
    until("handed over", || read(&edge.counters().handed_over) == 1).await;
    route(&web, &[full_at, free_at]);
    for _ in 0..10 {
        assert_eq!(connect(outside).await.expect("served").1, "f");
    }
}

#[tokio::test]
async fn a_node_port_that_is_taken_is_told_and_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let node_port = tcp(None, at.port());
    let web = service("web");
    route(&web, &[elsewhere("a").await]);
    let edge = start(None);
    let table = fronts(&[(node_port, front(&web, FrontKind::NodePort))]);
    edge.apply(Arc::clone(&table));
    let mut seen = edge.published();
    let told = seen.wait_for(|all| !all.places(&node_port).is_empty());
    let places = tokio::time::timeout(PATIENCE, told).await.expect("in time");
    let expected = ListenFailure {
        at,
        reason: "the port is taken".to_owned(),
    };
    let failed = [PublishedAt::Failed(expected)];
    assert_eq!(places.unwrap().places(&node_port), failed);
    assert!(read(&edge.counters().listen_failures) > 0);
    drop(taken);
    edge.apply(table);
    assert_eq!(published(&edge, node_port).await, at);
    connect(at).await.expect("served");
}

#[cfg(any(target_os = "linux", windows))]
#[tokio::test]
async fn a_cluster_ip_whose_port_is_taken_everywhere_gets_a_free_one() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let address = tcp(Some(CLUSTER_IP), taken.local_addr().unwrap().port());
    let web = service("web");
    route(&web, &[elsewhere("a").await]);
    let edge = start(None);
    edge.apply(fronts(&[(address, front(&web, FrontKind::ClusterIp))]));
    let outside = published(&edge, address).await;
    assert_ne!(outside.port(), address.port);
    connect(outside).await.expect("served");
}

#[tokio::test]
async fn one_connection_too_many_is_reset_and_the_next_after_an_end_is_served() {
    let web = service("web");
    route(&web, &[elsewhere("a").await]);
    let config = EdgeConfig {
        connections_max: 2,
        connections_per_client_max: 2,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config, None).unwrap();
    edge.apply(fronts(&[(cluster_ip(), front(&web, FrontKind::ClusterIp))]));
    let outside = published(&edge, cluster_ip()).await;
    let first = connect(outside).await.expect("served");
    let _second = connect(outside).await.expect("served");
    assert!(connect(outside).await.is_none());
    assert_eq!(read(&edge.counters().over_limit), 1);
    drop(first);
    until("one has ended", || edge.relayed_now() == 1).await;
    connect(outside).await.expect("served");
}

/// A client that connects and says nothing keeps its place and costs others nothing; all places come
/// back.
#[tokio::test]
async fn a_thousand_idle_connections_keep_their_places_and_do_not_hold_up_others() {
    // Four descriptors for each: both ends of both connections are here.
    #[cfg(target_os = "linux")]
    raise_descriptors();
    let web = service("web");
    route(&web, &[elsewhere("a").await]);
    let edge = start(None);
    edge.apply(fronts(&[(cluster_ip(), front(&web, FrontKind::ClusterIp))]));
    let outside = published(&edge, cluster_ip()).await;
    let reason = "it looks at every socket again for each that is told, so a hundred have to do";
    let count = if coracle_tests::beyond_wine(reason) {
        100
    } else {
        1_000
    };
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(connect(outside).await.expect("served").0);
    }
    let (mut busy, _) = connect(outside).await.expect("served");
    echo(&mut busy, b"hello").await;
    assert_eq!(edge.relayed_now(), count + 1);
    drop(idle);
    until("only one is left", || edge.relayed_now() == 1).await;
    echo(&mut busy, b"still here").await;
    assert_eq!(read(&edge.counters().reset), 0);
}

#[cfg(target_os = "linux")]
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// The test of used-up descriptors starts itself twice: once alone in a process, whose other tests would
/// be without descriptors, and from there as the endpoint, which would be without them, too.
#[cfg(target_os = "linux")]
const ROLE: &str = "CORACLE_TEST_ROLE";

#[cfg(target_os = "linux")]
fn itself(role: &str) -> std::process::Command {
    let test = "edge::tests::faults::used_up_descriptors_are_counted_and_recovered_from";
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, role);
    command
}

/// The endpoint, which ends with its input, and what it says.
#[cfg(target_os = "linux")]
struct Neighbour {
    child: std::process::Child,
    at: SocketAddr,
    _told: std::io::BufReader<std::process::ChildStdout>,
}

#[cfg(target_os = "linux")]
fn neighbour() -> Neighbour {
    use std::io::{BufRead, Read};
    use std::process::Stdio;

    let mut child = itself("endpoint")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = told.by_ref().lines().map_while(Result::ok);
    let at = lines.find_map(|line| line.strip_prefix("at ")?.parse().ok());
    Neighbour {
        child,
        at: at.expect("it says where it is"),
        _told: told,
    }
}

/// The process' descriptors end while clients wait, and nothing is served until some are free again.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn used_up_descriptors_are_counted_and_recovered_from() {
    match std::env::var(ROLE).as_deref() {
        Ok("endpoint") => {
            println!("\nat {}", elsewhere("a").await);
            let input = || std::io::Read::read(&mut std::io::stdin(), &mut [0]);
            drop(tokio::task::spawn_blocking(input).await);
        }
        Ok(_) => use_up_descriptors().await,
        Err(_) => assert!(itself("alone").status().unwrap().success()),
    }
}

#[cfg(target_os = "linux")]
async fn use_up_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    const CLIENTS: usize = 20;
    let mut neighbour = neighbour();
    let web = service("web");
    route(&web, &[neighbour.at]);
    let edge = start(None);
    edge.apply(fronts(&[(cluster_ip(), front(&web, FrontKind::ClusterIp))]));
    let outside = published(&edge, cluster_ip()).await;
    connect(outside).await.expect("served");
    let new_client = || tokio::net::TcpSocket::new_v4().unwrap();
    let clients = (0..CLIENTS).map(|_| new_client()).collect::<Vec<_>>();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let limit = getrlimit(Resource::Nofile);
    let tight = Rlimit {
        current: Some(open + 4),
        ..limit
    };
    setrlimit(Resource::Nofile, tight).unwrap();
    let mut waiting = Vec::new();
    for client in clients {
        match client.connect(outside).await {
            Ok(stream) => waiting.push(stream),
            // What could not be relayed may be reset before its client has looked.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    until("told", || read(&edge.counters().exhausted) > 0).await;
    drop(waiting);
    // The limit stays: what served the others is free again.
    let mut stream = loop {
        if let Some((stream, _)) = connect(outside).await {
            break stream;
        }
    };
    echo(&mut stream, b"again").await;
    setrlimit(Resource::Nofile, limit).unwrap();
    drop(neighbour.child.stdin.take());
    neighbour.child.wait().unwrap();
}
