//! Pods with a second address, of IPv6.

use std::net::{IpAddr, Ipv6Addr};

use coracle_network::{
    Fabric, FabricConfig, FabricError, FrontKind, Fronts, NetError, PodNetwork, Protocol,
    PublishPlan,
};

use crate::fixture::*;

/// The address of the Service in these scenarios.
const VIP_6: &str = "[fd00:96::10]:80";

fn config(range: &str) -> FabricConfig {
    FabricConfig {
        pod_cidr6: Some(range.parse().expect("a range")),
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    }
}

fn fabric() -> Fabric {
    Fabric::new(config("fd00:244::/64")).expect("a valid layout")
}

fn second(pod: &PodNetwork) -> Ipv6Addr {
    pod.ip6().expect("pods have two addresses")
}

#[tokio::test]
async fn a_pod_is_reached_at_both_of_its_addresses() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    assert_eq!(second(&a).to_string(), "fd00:244::2");
    let listener = listen(&b, "[::]:80");
    for (to, from) in [
        (IpAddr::from(b.ip()), IpAddr::from(a.ip())),
        (second(&b).into(), second(&a).into()),
    ] {
        let (mut client, mut server) = pair(&a, &listener, at(to, 80)).await;
        assert_eq!(client.local_addr().ip(), from);
        assert_eq!(client.peer_addr(), at(to, 80));
        assert_eq!(server.peer_addr().ip().to_canonical(), from);
        assert_eq!(server.local_addr().ip().to_canonical(), to);
        say(&mut client, &mut server, "hello").await;
    }
    // Itself too.
    let (client, _server) = pair(&b, &listener, at(second(&b), 80)).await;
    assert_eq!(client.local_addr().ip(), second(&b));
    let _v4 = listen(&b, "0.0.0.0:81");
    let _v6 = listen(&b, &format!("[{}]:82", second(&b)));
    for (to, port) in [(IpAddr::from(second(&b)), 81), (b.ip().into(), 82)] {
        let refused = a.connect(None, at(to, port)).await.map(drop);
        assert!(matches!(refused, Err(NetError::ConnectionRefused)), "{to}");
    }
    let nobody = a.connect(None, address("[fd00:244::99]:80")).await;
    assert!(matches!(nobody.map(drop), Err(NetError::Unreachable)));
    b.detach();
    let gone = a.connect(None, address("[fd00:244::3]:80")).await;
    assert!(matches!(gone.map(drop), Err(NetError::Unreachable)));
}

#[tokio::test]
async fn a_probe_and_the_node_have_the_family_of_the_pods_address() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let listener = listen(&a, "[::]:80");
    let mut probe = fabric.dial(at(second(&a), 80)).await.expect("it listens");
    let mut server = accept(&listener).await;
    let node = address("[fd00:244::1]:0").ip();
    assert_eq!(server.peer_addr().ip(), node);
    assert!(fabric.node_ips().contains(&node));
    say(&mut probe, &mut server, "are you well?").await;
    let host = fabric.host();
    let listener = listen(&host, "[::]:6443");
    let (_client, server) = pair(&a, &listener, at(node, 6443)).await;
    assert_eq!(server.peer_addr().ip(), second(&a));
}

#[tokio::test]
async fn a_service_of_ipv6_leads_to_second_addresses() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "[::]:8080");
    let service = port("web", Protocol::Tcp);
    service.set_routes(routes([at(second(&b), 8080)]));
    let mut fronts = Fronts::new(vec!["fd00:96::/112".parse().expect("a range")], []);
    let place = front_at(address(VIP_6), Protocol::Tcp);
    fronts.insert(place, front(&service, FrontKind::ClusterIp));
    fabric.services().set_fronts(fronts);
    let (client, server) = pair(&a, &listener, address(VIP_6)).await;
    assert_eq!(client.peer_addr(), address(VIP_6));
    assert_eq!(client.local_addr().ip(), second(&a));
    assert_eq!(server.peer_addr().ip(), second(&a));
    assert_eq!(server.local_addr(), at(second(&b), 8080));
}

#[tokio::test]
async fn datagrams_come_from_the_address_of_their_family() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let server = b.bind_udp(address("[::]:53")).expect("free");
    let client = a.bind_udp(address("[::]:5353")).expect("free");
    for (to, from) in [
        (at(second(&b), 53), at(second(&a), 5353)),
        (at(b.ip(), 53), at(a.ip(), 5353)),
    ] {
        let sent = client.try_send_to(b"question", to);
        assert_eq!(sent.expect("it is on its way"), 8);
        let (question, seen) = receive(&server).await;
        assert_eq!(question, b"question");
        assert_eq!(seen.ip().to_canonical(), from.ip());
        server.try_send_to(b"answer", seen).expect("sent");
        let (answer, seen) = receive(&client).await;
        assert_eq!(answer, b"answer");
        assert_eq!(seen.ip().to_canonical(), to.ip());
    }
    // A socket of IPv4 has no address there.
    let narrow = a.bind_udp(address("0.0.0.0:5354")).expect("free");
    narrow
        .try_send_to(b"question", at(second(&b), 53))
        .expect_err("of another family");
}

#[tokio::test]
async fn names_lead_to_both_addresses() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let both = [IpAddr::from(a.ip()), second(&a).into()];
    assert_eq!(a.resolve("a").await.expect("its own name"), both);
    let dashed = second(&a).to_string().replace(':', "-");
    let name = format!("{dashed}.default.pod.cluster.local");
    assert_eq!(a.resolve(&name).await.expect("a pod's"), both[1..]);
}

#[test]
fn a_range_that_is_too_small_or_means_something_else_is_refused() {
    for range in [
        "fd00::/113",
        "fe80::/64",
        "::ffff:0:0/96",
        "64:ff9b::/96",
        "2002::/64",
        "fd00::/16",
    ] {
        let refused = Fabric::new(config(range)).map(drop);
        assert!(
            matches!(refused, Err(FabricError::Cidr6 { .. })),
            "{range}: {refused:?}"
        );
    }
    for range in ["fd00::/112", "2a01:4f8:1::/64"] {
        Fabric::new(config(range)).expect("a valid range");
    }
}
