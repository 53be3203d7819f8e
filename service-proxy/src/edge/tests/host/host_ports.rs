//! Ports of the host that stand for pods' ports.

use std::io::ErrorKind;

use coracle_network::{HostAddress, PublishError, PublishPort, Published};

use super::pods::{ask, echo_udp, node_config, node_fabric, refusal};
use super::*;

fn publish(
    pod: &PodNetwork,
    protocol: Protocol,
    ip: Option<&str>,
    ports: (u16, u16),
) -> Result<Published, PublishError> {
    pod.publish(PublishPort {
        protocol,
        port: ports.1,
        host: HostAddress::HostPort {
            ip: ip.map(|ip| ip.parse().unwrap()),
            port: ports.0,
        },
    })
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[tokio::test]
async fn a_port_of_the_host_is_an_entry_of_the_table_and_no_socket() {
    if is_inside("host_ports::a_port_of_the_host_is_an_entry_of_the_table_and_no_socket") {
        a_port_of_the_host_is_an_entry_of_the_table_and_no_socket_in_here().await;
    }
}

#[tokio::test]
async fn a_port_of_the_host_is_an_entry_of_the_table_and_no_socket_by_rules() {
    if is_inside_by_rules(
        "host_ports::a_port_of_the_host_is_an_entry_of_the_table_and_no_socket_by_rules",
    ) {
        a_port_of_the_host_is_an_entry_of_the_table_and_no_socket_in_here().await;
    }
}

async fn a_port_of_the_host_is_an_entry_of_the_table_and_no_socket_in_here() {
    let fabric = node_fabric();
    let edge = start(node_config(), Some(fabric.clone())).unwrap();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let published = publish(&a, Protocol::Tcp, None, (8_080, 80)).unwrap();
    assert_eq!(published.address, at("127.0.0.1:8080"));
    // Refused until the pod listens.
    let everywhere = [at("127.0.0.1:8080"), at("192.0.2.1:8080")];
    for place in everywhere {
        assert_eq!(refusal(place).await, ErrorKind::ConnectionRefused);
    }
    let (listener, own) = listen(&a, 8);
    for place in everywhere {
        let client = TcpStream::connect(place).await.unwrap();
        let accepted = listener.accept().await.unwrap();
        assert!(accepted.is_kernel(), "the accepted stream is the pod's");
        assert_eq!(accepted.local_addr(), own);
        assert_eq!(
            accepted.peer_addr().port(),
            client.local_addr().unwrap().port()
        );
    }
    // Nobody of the kernel's own listens or is bound there.
    let free = std::net::TcpListener::bind(everywhere[1]);
    drop(free.expect("no socket has the port"));
    // One that is published while the pod listens is reached at once, at its address alone.
    let one = publish(&a, Protocol::Tcp, Some(NODE), (8_081, 80)).unwrap();
    drop(TcpStream::connect(one.address).await.unwrap());
    listener.accept().await.unwrap();
    assert_eq!(
        refusal(at("127.0.0.1:8081")).await,
        ErrorKind::ConnectionRefused
    );
    drop(listener);
    assert_eq!(refusal(everywhere[0]).await, ErrorKind::ConnectionRefused);
    drop(published);
    let (listener, _) = listen(&b, 8);
    serve(listener, "b");
    let _published = publish(&b, Protocol::Tcp, None, (8_080, 80)).unwrap();
    let (_client, name) = connect(everywhere[1]).await.expect("served");
    assert_eq!(name, "b");
    edge.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn datagrams_reach_a_pod_at_a_port_of_the_host() {
    if is_inside("host_ports::datagrams_reach_a_pod_at_a_port_of_the_host") {
        datagrams_reach_a_pod_at_a_port_of_the_host_in_here().await;
    }
}

#[tokio::test]
async fn datagrams_reach_a_pod_at_a_port_of_the_host_by_rules() {
    if is_inside_by_rules("host_ports::datagrams_reach_a_pod_at_a_port_of_the_host_by_rules") {
        datagrams_reach_a_pod_at_a_port_of_the_host_in_here().await;
    }
}

async fn datagrams_reach_a_pod_at_a_port_of_the_host_in_here() {
    let fabric = node_fabric();
    let _edge = start(node_config(), Some(fabric.clone())).unwrap();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let _published = publish(&a, Protocol::Udp, None, (5_300, 53)).unwrap();
    // The same port of another pod, at its own address: one socket serves both.
    let (_a, _b) = (echo_udp(&a, 53), echo_udp(&b, 5_300));
    for place in ["127.0.0.1:5300", "192.0.2.1:5300"] {
        assert_eq!(ask(at(place), b"echo").await.unwrap(), b"echo");
    }
    let own = SocketAddr::from((b.ip(), 5_300));
    assert_eq!(ask(own, b"own").await.unwrap(), b"own");
}

#[tokio::test]
async fn a_port_of_the_host_that_somebody_has_is_refused() {
    if is_inside("host_ports::a_port_of_the_host_that_somebody_has_is_refused") {
        a_port_of_the_host_that_somebody_has_is_refused_in_here().await;
    }
}

#[tokio::test]
async fn a_port_of_the_host_that_somebody_has_is_refused_by_rules() {
    if is_inside_by_rules("host_ports::a_port_of_the_host_that_somebody_has_is_refused_by_rules") {
        a_port_of_the_host_that_somebody_has_is_refused_in_here().await;
    }
}

async fn a_port_of_the_host_that_somebody_has_is_refused_in_here() {
    let fabric = node_fabric();
    let edge = start(node_config(), Some(fabric.clone())).unwrap();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let (listener, own) = listen(&a, 8);
    serve(listener, "a");
    let web = service("web");
    route(&web, &[own]);
    let node_port = tcp(None, 30_080);
    edge.apply(fronts(&[(node_port, front(&web, FrontKind::NodePort))]));
    published(&edge, node_port).await;
    let _daemon = std::net::TcpListener::bind("0.0.0.0:8022").unwrap();
    let _elsewhere = std::net::UdpSocket::bind("192.0.2.1:8053").unwrap();
    let _all = publish(&a, Protocol::Tcp, None, (8_080, 80)).unwrap();
    let _one = publish(&a, Protocol::Tcp, Some(NODE), (8_081, 80)).unwrap();
    let tcp = |ip, port| publish(&b, Protocol::Tcp, ip, (port, 80)).map(drop);
    let in_use = [
        tcp(None, 8_022),
        tcp(Some("127.0.0.1"), 8_022),
        publish(&b, Protocol::Udp, None, (8_053, 53)).map(drop),
        tcp(None, 8_080),
        tcp(Some("127.0.0.1"), 8_080),
        tcp(None, 8_081),
        tcp(Some(NODE), 8_081),
        tcp(Some(NODE), 30_080),
    ];
    for (number, refused) in in_use.into_iter().enumerate() {
        let is_in_use = matches!(refused, Err(PublishError::PortInUse { .. }));
        assert!(is_in_use, "{number}: {refused:?}");
    }
    for none_of_ours in ["198.51.100.1", "10.244.1.9"] {
        let refused = tcp(Some(none_of_ours), 8_090);
        let is_named = matches!(refused, Err(PublishError::AddressNotLocal { .. }));
        assert!(is_named, "{none_of_ours}: {refused:?}");
    }
    // Other addresses, and the other protocol, are free.
    tcp(Some("127.0.0.1"), 8_081).unwrap();
    publish(&b, Protocol::Udp, None, (8_080, 80)).unwrap();
    // A Service meets the same refusal.
    let taken = self::tcp(None, 8_081);
    edge.apply(fronts(&[(taken, front(&web, FrontKind::NodePort))]));
    let mut published = edge.published();
    let places = published.wait_for(|all| all.places(&taken).len() == 2);
    let places = tokio::time::timeout(PATIENCE, places)
        .await
        .expect("in time");
    let failed: Vec<_> = places
        .unwrap()
        .places(&taken)
        .iter()
        .filter_map(|place| match place {
            PublishedAt::Address(_) => None,
            PublishedAt::Failed(failure) => Some(failure.to_string()),
        })
        .collect();
    assert_eq!(
        failed,
        ["failed to listen on 192.0.2.1:8081: the port is taken"]
    );
}

#[tokio::test]
async fn a_port_of_the_host_may_be_of_ipv6() {
    if is_inside("host_ports::a_port_of_the_host_may_be_of_ipv6") {
        a_port_of_the_host_may_be_of_ipv6_in_here().await;
    }
}

#[tokio::test]
async fn a_port_of_the_host_may_be_of_ipv6_by_rules() {
    if is_inside_by_rules("host_ports::a_port_of_the_host_may_be_of_ipv6_by_rules") {
        a_port_of_the_host_may_be_of_ipv6_in_here().await;
    }
}

async fn a_port_of_the_host_may_be_of_ipv6_in_here() {
    // Where nothing else is of IPv6, a socket has the port.
    let fabric = node_fabric();
    let edge = start(node_config(), Some(fabric.clone())).unwrap();
    let a = pod(&fabric, "a");
    serve(listen(&a, 8).0, "a");
    let _one = publish(&a, Protocol::Tcp, Some("::1"), (8_080, 80)).unwrap();
    assert_eq!(connect(at("[::1]:8080")).await.expect("served").1, "a");
    edge.stop(Duration::ZERO).await;
    // Where the node is of both families, the table has it, of one on all addresses in both.
    add_ipv6();
    let mut config = node_config();
    config.node_addresses.push("2001:db8::1".parse().unwrap());
    let fabric = node_fabric();
    let edge = start(config, Some(fabric.clone())).unwrap();
    let b = pod(&fabric, "b");
    serve(listen(&b, 8).0, "b");
    let _daemon = std::net::TcpListener::bind("[::1]:8022").unwrap();
    for ip in [None, Some("::"), Some("::1")] {
        let refused = publish(&b, Protocol::Tcp, ip, (8_022, 80)).map(drop);
        let is_in_use = matches!(refused, Err(PublishError::PortInUse { .. }));
        assert!(is_in_use, "{ip:?}: {refused:?}");
    }
    let rows = [
        (
            None,
            8_081,
            ["192.0.2.1", "[2001:db8::1]", "[::1]"].as_slice(),
        ),
        (Some("::"), 8_082, &["[2001:db8::1]", "[::1]"]),
        (Some("::1"), 8_083, &["[::1]"]),
        (Some("2001:db8::1"), 8_084, &["[2001:db8::1]"]),
    ];
    let all = ["192.0.2.1", "[2001:db8::1]", "[::1]"];
    for (ip, port, served) in rows {
        let _one = publish(&b, Protocol::Tcp, ip, (port, 80)).unwrap();
        for address in all {
            let to = at(&format!("{address}:{port}"));
            let answer = connect(to).await.map(|(_, name)| name);
            let expected = served.contains(&address).then(|| "b".to_owned());
            assert_eq!(answer, expected, "{ip:?} at {to}");
        }
    }
    edge.stop(Duration::ZERO).await;
}
