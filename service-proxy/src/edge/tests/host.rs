//! The plan for a machine that is ours, each test in a network namespace of its own. Who is not root, and
//! whoever asks for it, runs it in a namespace of users too, where the kernel takes no program: then the same
//! tests show what rules do, and sockets.

use std::process::Command;

mod host_ports;
mod nodes;
mod pods;

use coracle_tests::{By, Inside, enter_namespace, inside};
use tokio::net::UdpSocket;

use super::*;

const NODE: &str = "192.0.2.1";

/// Loopback is up, and the node has an address.
const PREPARE: &str = "ip link set lo up && ip address add 192.0.2.1/32 dev lo";

/// Set in the second run of a test that goes without any table in the kernel.
const SOCKETS: &str = "CORACLE_TEST_SOCKETS";

/// Runs the test of this name again in a namespace of its own. True in that second run.
fn is_inside(test: &str) -> bool {
    enter(test, PREPARE, By::Same)
}

/// The same where no program can be loaded.
fn is_inside_by_rules(test: &str) -> bool {
    enter(test, PREPARE, By::RootOfNamespace)
}

/// The same without rules either.
fn is_inside_by_sockets(test: &str) -> bool {
    let prepare = format!("{PREPARE} && export {SOCKETS}=1");
    enter(test, &prepare, By::RootOfNamespace)
}

fn enter(test: &str, prepare: &str, by: By) -> bool {
    enter_namespace(&format!("edge::tests::host::{test}"), prepare, by).is_some()
}

/// How the true addresses are to be served in this run.
fn mechanism() -> Mechanism {
    match inside().expect("in a second run") {
        _ if std::env::var_os(SOCKETS).is_some() => Mechanism::Sockets,
        Inside::Root => Mechanism::SocketLookup,
        Inside::User => Mechanism::SocketRules,
    }
}

/// Starts an edge that serves by that mechanism.
fn start(config: EdgeConfig, fabric: Option<Fabric>) -> Result<Edge, EdgeError> {
    let expected = mechanism();
    let edge = match expected {
        Mechanism::Sockets => Edge::start_by(config, fabric, &[])?,
        Mechanism::SocketLookup | Mechanism::SocketRules => Edge::start(config, fabric)?,
    };
    assert_eq!(edge.mechanism(), Some(expected));
    Ok(edge)
}

fn config(range: &str) -> EdgeConfig {
    EdgeConfig {
        plan: EdgePlan::Host,
        ranges: vec![range.parse().unwrap()],
        node_addresses: vec![NODE.parse().unwrap()],
        ..EdgeConfig::default()
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Gives the node an address of IPv6, and waits until the kernel has made it its own.
fn add_ipv6() {
    ip("address add 2001:db8::1/128 dev lo nodad");
    while !ip("-6 route get 2001:db8::1").contains("local") {}
}

fn tagged_routes() -> String {
    ip("route show table local proto 201")
}

#[tokio::test]
async fn services_are_reached_at_their_true_addresses() {
    if is_inside("services_are_reached_at_their_true_addresses") {
        services_are_reached_at_their_true_addresses_in_here().await;
    }
}

#[tokio::test]
async fn services_are_reached_at_their_true_addresses_by_rules() {
    let test = "services_are_reached_at_their_true_addresses_by_rules";
    if is_inside_by_rules(test) {
        services_are_reached_at_their_true_addresses_in_here().await;
    }
}

#[tokio::test]
async fn services_are_reached_at_their_true_addresses_by_sockets() {
    let test = "services_are_reached_at_their_true_addresses_by_sockets";
    if is_inside_by_sockets(test) {
        services_are_reached_at_their_true_addresses_in_here().await;
    }
}

async fn services_are_reached_at_their_true_addresses_in_here() {
    let fabric = fabric();
    let pod = pod(&fabric, "a");
    let (listener, at) = listen(&pod, 8);
    let web = service("web");
    route(&web, &[at]);
    let edge = start(config("10.96.0.0/16"), Some(fabric)).unwrap();
    let node_port = tcp(None, 30_080);
    let privileged = tcp(Some("10.96.0.1"), 443);
    edge.apply(fronts(&[
        (privileged, front(&web, FrontKind::ClusterIp)),
        (node_port, front(&web, FrontKind::NodePort)),
    ]));
    let outside = published(&edge, privileged).await;
    assert_eq!(outside, "10.96.0.1:443".parse().unwrap());
    let client = TcpStream::connect(outside).await.unwrap();
    // The source is the node: without it a client could connect to itself.
    assert_eq!(client.local_addr().unwrap().ip().to_string(), NODE);
    assert_eq!(
        listener
            .accept()
            .await
            .unwrap()
            .peer_addr()
            .ip()
            .to_string(),
        NODE
    );
    published(&edge, node_port).await;
    for address in ["192.0.2.1:30080", "127.0.0.1:30080"] {
        let _client = TcpStream::connect(address).await.unwrap();
        listener.accept().await.unwrap();
    }
    let refused = TcpStream::connect("10.96.0.1:444").await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let refused = TcpStream::connect("10.96.77.7:443").await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(
        tagged_routes(),
        "local 10.96.0.0/16 dev lo scope host src 192.0.2.1 \n\
         local 10.244.0.0/16 dev lo scope host src 192.0.2.1 \n"
    );
    edge.stop(Duration::ZERO).await;
    assert_eq!(tagged_routes(), "");
}

#[tokio::test]
async fn answers_over_udp_come_from_the_true_address() {
    if is_inside("answers_over_udp_come_from_the_true_address") {
        answers_over_udp_come_from_the_true_address_in_here().await;
    }
}

#[tokio::test]
async fn answers_over_udp_come_from_the_true_address_by_rules() {
    let test = "answers_over_udp_come_from_the_true_address_by_rules";
    if is_inside_by_rules(test) {
        answers_over_udp_come_from_the_true_address_in_here().await;
    }
}

#[tokio::test]
async fn answers_over_udp_come_from_the_true_address_by_sockets() {
    let test = "answers_over_udp_come_from_the_true_address_by_sockets";
    if is_inside_by_sockets(test) {
        answers_over_udp_come_from_the_true_address_in_here().await;
    }
}

async fn answers_over_udp_come_from_the_true_address_in_here() {
    let endpoint = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = service("dns");
    route(&dns, &[endpoint.local_addr().unwrap()]);
    let edge = start(config("10.96.0.0/16"), None).unwrap();
    let address = FrontAddress {
        protocol: Protocol::Udp,
        ..tcp(Some("10.96.0.10"), 53)
    };
    edge.apply(fronts(&[(address, front(&dns, FrontKind::ClusterIp))]));
    let outside = published(&edge, address).await;
    let client = UdpSocket::bind("192.0.2.1:0").await.unwrap();
    client.send_to(b"question", outside).await.unwrap();
    let mut buffer = [0; 64];
    let (_, flow) = endpoint.recv_from(&mut buffer).await.unwrap();
    endpoint.send_to(b"answer", flow).await.unwrap();
    let (_, from) = client.recv_from(&mut buffer).await.unwrap();
    assert_eq!(from, outside);
}

#[tokio::test]
async fn an_address_of_ipv6_is_made_local_too() {
    if is_inside("an_address_of_ipv6_is_made_local_too") {
        an_address_of_ipv6_is_made_local_too_in_here().await;
    }
}

#[tokio::test]
async fn an_address_of_ipv6_is_made_local_too_by_rules() {
    let test = "an_address_of_ipv6_is_made_local_too_by_rules";
    if is_inside_by_rules(test) {
        an_address_of_ipv6_is_made_local_too_in_here().await;
    }
}

#[tokio::test]
async fn an_address_of_ipv6_is_made_local_too_by_sockets() {
    let test = "an_address_of_ipv6_is_made_local_too_by_sockets";
    if is_inside_by_sockets(test) {
        an_address_of_ipv6_is_made_local_too_in_here().await;
    }
}

async fn an_address_of_ipv6_is_made_local_too_in_here() {
    add_ipv6();
    let web = service("web");
    route(&web, &[elsewhere("a").await]);
    let mut config = config("fd00:10:96::/108");
    config.node_addresses.push("2001:db8::1".parse().unwrap());
    let edge = start(config, None).unwrap();
    let address = tcp(Some("fd00:10:96::1"), 80);
    edge.apply(fronts(&[(address, front(&web, FrontKind::ClusterIp))]));
    let outside = published(&edge, address).await;
    let (client, _) = connect(outside).await.expect("served");
    assert_eq!(client.local_addr().unwrap().ip().to_string(), "2001:db8::1");
}

#[tokio::test]
async fn node_ports_are_served_at_addresses_that_come_later() {
    if !is_inside("node_ports_are_served_at_addresses_that_come_later") {
        return;
    }
    let web = service("web");
    route(&web, &[elsewhere("a").await]);
    let config = EdgeConfig {
        node_port_addresses: Some(Vec::new()),
        node_port_ranges: vec!["198.51.100.0/24".parse().unwrap()],
        ..config("10.96.0.0/16")
    };
    ip("address add 198.51.100.1/32 dev lo");
    let edge = start(config, None).unwrap();
    let node_port = tcp(None, 30_080);
    edge.apply(fronts(&[(node_port, front(&web, FrontKind::NodePort))]));
    let is_at = async |expected: &str| {
        let mut published = edge.published();
        let expected = expected.parse().unwrap();
        let moved =
            published.wait_for(|all| all.places(&node_port) == [PublishedAt::Address(expected)]);
        drop(
            tokio::time::timeout(PATIENCE, moved)
                .await
                .expect("in time"),
        );
        assert!(connect(expected).await.is_some(), "{expected}");
    };
    is_at("198.51.100.1:30080").await;
    ip("address add 198.51.100.2/32 dev lo");
    ip("address del 198.51.100.1/32 dev lo");
    is_at("198.51.100.2:30080").await;
}

#[tokio::test]
async fn a_stale_route_is_removed_and_a_foreign_one_refused() {
    if !is_inside("a_stale_route_is_removed_and_a_foreign_one_refused") {
        return;
    }
    // What a killed process left: one of the range we take, one of another.
    ip("route add local 10.96.0.0/16 dev lo proto 201 table local");
    ip("route add local 10.99.0.0/16 dev lo proto 201 table local");
    ip("route add blackhole 10.97.5.0/24");
    let refused = start(config("10.97.0.0/16"), None).err().expect("refused");
    let EdgeError::Routes(refused) = refused;
    assert_eq!(
        refused.to_string(),
        "the range 10.97.0.0/16 overlaps the route 10.97.5.0/24"
    );
    let edge = start(config("10.96.0.0/16"), None).unwrap();
    assert_eq!(
        tagged_routes(),
        "local 10.96.0.0/16 dev lo scope host src 192.0.2.1 \n"
    );
    let claimed = start(config("10.96.0.0/16"), None).err().expect("refused");
    let EdgeError::Routes(claimed) = claimed;
    assert!(matches!(claimed, RouteError::Claimed { .. }), "{claimed}");
    drop(edge);
    assert_eq!(tagged_routes(), "");
}

#[tokio::test]
async fn the_addresses_of_all_interfaces_are_known() {
    if !is_inside("the_addresses_of_all_interfaces_are_known") {
        return;
    }
    add_ipv6();
    let mut known = machine_addresses().unwrap();
    known.sort_unstable();
    let expected = ["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"];
    assert_eq!(known, expected.map(|ip| ip.parse::<IpAddr>().unwrap()));
}
