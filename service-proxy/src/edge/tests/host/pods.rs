//! Pods at their own addresses, as programs of this machine reach them.

use std::io::Read;
use std::process::Stdio;

use coracle_network::FabricConfig;

use super::*;

/// A fabric of this node, in a cluster whose pods are in 10.244.0.0/16.
pub(super) fn node_fabric() -> Fabric {
    Fabric::new(FabricConfig {
        pod_cidr: "10.244.1.0/24".parse().unwrap(),
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    })
    .unwrap()
}

pub(super) fn node_config() -> EdgeConfig {
    EdgeConfig {
        pod_ranges: vec!["10.244.0.0/16".parse().unwrap()],
        ..config("10.96.0.0/16")
    }
}

/// Echoes what comes to a UDP port of a pod.
pub(super) fn echo_udp(pod: &PodNetwork, port: u16) -> tokio::task::JoinHandle<()> {
    let at = SocketAddr::from((pod.ip(), port));
    let socket = pod.bind_udp(at).unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2_048];
        loop {
            std::future::poll_fn(|cx| socket.poll_recv_ready(cx))
                .await
                .unwrap();
            while let Ok((bytes, from)) = socket.try_recv_from(&mut buffer) {
                socket.try_send_to(&buffer[..bytes], from).unwrap();
            }
        }
    })
}

/// Sends a datagram and waits for what comes back: from there alone, for the socket is connected.
pub(super) async fn ask(to: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let client = UdpSocket::bind(SocketAddr::from(([0; 4], 0))).await?;
    client.connect(to).await?;
    client.send(question).await?;
    let mut buffer = [0; 2_048];
    let heard = tokio::time::timeout(PATIENCE, client.recv(&mut buffer)).await;
    Ok(buffer[..heard.expect("in time")?].to_vec())
}

pub(super) async fn refusal(to: SocketAddr) -> std::io::ErrorKind {
    let refused = TcpStream::connect(to).await;
    refused.map(drop).expect_err("refused").kind()
}

#[tokio::test]
async fn a_pod_answers_at_its_own_address_on_what_it_listens_on() {
    if is_inside_here("a_pod_answers_at_its_own_address_on_what_it_listens_on") {
        a_pod_answers_at_its_own_address().await;
    }
}

#[tokio::test]
async fn a_pod_answers_at_its_own_address_by_rules() {
    let test = "pods::a_pod_answers_at_its_own_address_by_rules";
    if is_inside_by_rules(test) {
        a_pod_answers_at_its_own_address().await;
    }
}

#[tokio::test]
async fn a_pod_answers_at_its_own_address_by_sockets() {
    let test = "pods::a_pod_answers_at_its_own_address_by_sockets";
    if is_inside_by_sockets(test) {
        a_pod_answers_at_its_own_address().await;
    }
}

fn is_inside_here(test: &str) -> bool {
    is_inside(&format!("pods::{test}"))
}

async fn a_pod_answers_at_its_own_address() {
    let fabric = node_fabric();
    let a = pod(&fabric, "a");
    // One that listens before the edge is there, one that begins after.
    let (listener, before) = listen(&a, 8);
    let edge = start(node_config(), Some(fabric.clone())).unwrap();
    let client = TcpStream::connect(before).await.unwrap();
    let accepted = listener.accept().await.unwrap();
    assert!(accepted.is_kernel(), "the accepted stream is the pod's");
    assert_eq!(accepted.local_addr(), before);
    assert_eq!(accepted.peer_addr(), client.local_addr().unwrap());
    assert_eq!(accepted.peer_addr().ip().to_string(), NODE);
    let b = pod(&fabric, "b");
    let (listener, after) = listen(&b, 8);
    serve(listener, "b");
    let (mut client, name) = connect(after).await.expect("served");
    assert_eq!(name, "b");
    echo(&mut client, b"to and fro").await;
    // A program of this machine on all addresses is no pod's.
    let _daemon = TcpListener::bind("0.0.0.0:8022").await.unwrap();
    let unserved = [
        SocketAddr::from((b.ip(), 81)),
        SocketAddr::from(([10, 244, 1, 200], 80)),
    ];
    for unserved in unserved {
        let kind = refusal(unserved).await;
        assert_eq!(kind, std::io::ErrorKind::ConnectionRefused, "{unserved}");
    }
    if mechanism() != Mechanism::Sockets {
        let kind = refusal(SocketAddr::from((b.ip(), 8_022))).await;
        assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
    }
    b.detach();
    until("a detached pod is refused", || {
        let refused = std::net::TcpStream::connect(after);
        refused.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
    .await;
    edge.stop(Duration::ZERO).await;
    assert_eq!(tagged_routes(), "");
}

#[tokio::test]
async fn datagrams_reach_a_pod_at_its_own_address() {
    if is_inside_here("datagrams_reach_a_pod_at_its_own_address") {
        datagrams_reach_a_pod().await;
    }
}

#[tokio::test]
async fn datagrams_reach_a_pod_by_rules() {
    let test = "pods::datagrams_reach_a_pod_by_rules";
    if is_inside_by_rules(test) {
        datagrams_reach_a_pod().await;
    }
}

#[tokio::test]
async fn datagrams_reach_a_pod_by_sockets() {
    let test = "pods::datagrams_reach_a_pod_by_sockets";
    if is_inside_by_sockets(test) {
        datagrams_reach_a_pod().await;
    }
}

async fn datagrams_reach_a_pod() {
    let fabric = node_fabric();
    let edge = start(node_config(), Some(fabric.clone())).unwrap();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    // The same port of two pods is one socket, and which pod is meant is told by the address.
    let serving = [&a, &b].map(|pod| echo_udp(pod, 5_353));
    for pod in [&a, &b] {
        let to = SocketAddr::from((pod.ip(), 5_353));
        assert_eq!(ask(to, b"question").await.unwrap(), b"question");
    }
    let nobody = ask(SocketAddr::from((a.ip(), 5_354)), b"question").await;
    let refused = nobody.unwrap_err().kind();
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
    // A socket that comes after another of the same port is reached like the first.
    serving.iter().for_each(|serving| serving.abort());
    for serving in serving {
        assert!(serving.await.unwrap_err().is_cancelled());
    }
    let _again = echo_udp(&b, 5_353);
    let to = SocketAddr::from((b.ip(), 5_353));
    assert_eq!(ask(to, b"again").await.unwrap(), b"again");
    edge.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_pod_answers_at_its_second_address_too() {
    if is_inside_here("a_pod_answers_at_its_second_address_too") {
        a_pod_answers_at_its_second_address().await;
    }
}

#[tokio::test]
async fn a_pod_answers_at_its_second_address_by_rules() {
    if is_inside_by_rules("pods::a_pod_answers_at_its_second_address_by_rules") {
        a_pod_answers_at_its_second_address().await;
    }
}

#[tokio::test]
async fn a_pod_answers_at_its_second_address_by_sockets() {
    if is_inside_by_sockets("pods::a_pod_answers_at_its_second_address_by_sockets") {
        a_pod_answers_at_its_second_address().await;
    }
}

async fn a_pod_answers_at_its_second_address() {
    add_ipv6();
    let node: IpAddr = "2001:db8::1".parse().unwrap();
    let fabric = Fabric::new(FabricConfig {
        pod_cidr: "10.244.1.0/24".parse().unwrap(),
        pod_cidr6: Some("fd00:244:1::/64".parse().unwrap()),
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    });
    let fabric = fabric.unwrap();
    let mut config = node_config();
    config.node_addresses.push(node);
    config.pod_ranges.push("fd00:244::/32".parse().unwrap());
    let edge = start(config, Some(fabric.clone())).unwrap();
    let a = pod(&fabric, "a");
    let second = IpAddr::from(a.ip6().unwrap());
    let port = a.reserve_tcp(SocketAddr::from((second, 80))).unwrap();
    let listener = a.listen(port, 8).unwrap();
    let at = SocketAddr::new(second, 80);
    let client = TcpStream::connect(at).await.unwrap();
    let accepted = listener.accept().await.unwrap();
    assert!(accepted.is_kernel(), "the accepted stream is the pod's");
    assert_eq!(accepted.local_addr(), at);
    assert_eq!(accepted.peer_addr(), client.local_addr().unwrap());
    assert_eq!(accepted.peer_addr().ip(), node);
    for unserved in [
        SocketAddr::new(second, 81),
        SocketAddr::new(a.ip().into(), 80),
        "[fd00:244:1::99]:80".parse().unwrap(),
    ] {
        let kind = refusal(unserved).await;
        assert_eq!(kind, std::io::ErrorKind::ConnectionRefused, "{unserved}");
    }
    let socket = a.bind_udp(SocketAddr::new(second, 5_353)).unwrap();
    let client = UdpSocket::bind("[2001:db8::1]:0").await.unwrap();
    client.connect((second, 5_353)).await.unwrap();
    client.send(b"question").await.unwrap();
    let mut buffer = [0; 64];
    std::future::poll_fn(|cx| socket.poll_recv_ready(cx))
        .await
        .unwrap();
    let (bytes, from) = socket.try_recv_from(&mut buffer).unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    socket.try_send_to(&buffer[..bytes], from).unwrap();
    let heard = tokio::time::timeout(PATIENCE, client.recv(&mut buffer)).await;
    let heard = heard.expect("in time").unwrap();
    assert_eq!(&buffer[..heard], b"question");
    // What it sends within the cluster comes from there.
    let elsewhere = std::net::TcpListener::bind("[2001:db8::1]:0").unwrap();
    edge.set_pod_ranges(vec!["2001:db8::/64".parse().unwrap()]);
    let to = elsewhere.local_addr().unwrap();
    let _stream = a.connect(None, to).await.unwrap();
    let (_, peer) = elsewhere.accept().unwrap();
    assert_eq!(peer.ip(), second);
    edge.stop(Duration::ZERO).await;
    assert_eq!(ip("-6 route show table local proto 201"), "");
}

#[tokio::test]
async fn a_pod_that_accepts_nothing_holds_up_no_other() {
    if !is_inside_here("a_pod_that_accepts_nothing_holds_up_no_other") {
        return;
    }
    let fabric = node_fabric();
    let edge = start(node_config(), Some(fabric.clone())).unwrap();
    let (idle, busy) = (pod(&fabric, "idle"), pod(&fabric, "busy"));
    let (_idle, stuck) = listen(&idle, 4);
    let (listener, at) = listen(&busy, 4);
    serve(listener, "b");
    let mut waiting = Vec::new();
    for _ in 0..100 {
        // One that is reset as soon as it is made may be told so when it is.
        waiting.extend(TcpStream::connect(stuck).await);
        let (_, name) = connect(at).await.expect("the other pod is served");
        assert_eq!(name, "b");
    }
    until("what does not fit into the pod's queue is reset", || {
        read(&edge.counters().refused) == 96
    })
    .await;
    assert!(waiting.len() >= 4);
    edge.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn ten_thousand_pods_cost_a_handful_of_descriptors() {
    if is_inside_here("ten_thousand_pods_cost_a_handful_of_descriptors") {
        ten_thousand_pods().await;
    }
}

#[tokio::test]
async fn ten_thousand_pods_cost_a_handful_of_descriptors_by_rules() {
    let test = "pods::ten_thousand_pods_cost_a_handful_of_descriptors_by_rules";
    if is_inside_by_rules(test) {
        ten_thousand_pods().await;
    }
}

async fn ten_thousand_pods() {
    let fabric = fabric();
    // The runtime's own descriptors are there before.
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let edge = start(config("10.96.0.0/16"), Some(fabric.clone())).unwrap();
    let mut pods = Vec::new();
    for number in 0..10_000 {
        let pod = pod(&fabric, &number.to_string());
        let (listener, at) = listen(&pod, 1);
        pods.push((pod, listener, at));
    }
    let cost = descriptors() - before;
    assert!(cost <= 10, "{cost} descriptors");
    for (_, listener, at) in pods.iter().step_by(999) {
        let _client = TcpStream::connect(at).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().local_addr(), *at);
    }
    edge.stop(Duration::ZERO).await;
    assert_eq!(descriptors(), before, "nothing is left");
}

/// Set in a process that is to be killed.
const HELD: &str = "CORACLE_TEST_HOLD";

#[tokio::test]
async fn a_node_that_is_killed() {
    if std::env::var_os(HELD).is_none() {
        return;
    }
    let fabric = node_fabric();
    let edge = start(node_config(), Some(fabric.clone())).unwrap();
    let a = pod(&fabric, "a");
    let (listener, _) = listen(&a, 8);
    println!("\nheld");
    let _serving = serve(listener, "k");
    let () = std::future::pending().await;
    drop(edge);
}

#[tokio::test]
async fn a_start_recovers_from_one_that_was_killed() {
    if is_inside_here("a_start_recovers_from_one_that_was_killed") {
        a_start_recovers().await;
    }
}

#[tokio::test]
async fn a_start_recovers_from_one_with_rules_that_was_killed() {
    if is_inside_by_rules("pods::a_start_recovers_from_one_with_rules_that_was_killed") {
        a_start_recovers().await;
    }
}

async fn a_start_recovers() {
    let mut held = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "edge::tests::host::pods::a_node_that_is_killed"])
        .arg("--nocapture")
        .env(HELD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = held.stdout.take().unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\nheld") {
        let mut byte = [0; 1];
        told.read_exact(&mut byte).unwrap();
        heard.extend(byte);
    }
    let first_pod = SocketAddr::from(([10, 244, 1, 2], 80));
    let (_, name) = connect(first_pod).await.expect("served");
    assert_eq!(name, "k");
    held.kill().unwrap();
    held.wait().unwrap();
    // Its routes are left, and nothing that would answer.
    assert_eq!(tagged_routes().lines().count(), 2);
    let kind = refusal(first_pod).await;
    assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
    let fabric = node_fabric();
    let edge = start(node_config(), Some(fabric.clone())).unwrap();
    let a = pod(&fabric, "a");
    let (listener, at) = listen(&a, 8);
    assert_eq!(at, first_pod);
    serve(listener, "n");
    let (_, name) = connect(at).await.expect("served");
    assert_eq!(name, "n");
    edge.stop(Duration::ZERO).await;
    assert_eq!(tagged_routes(), "");
}
