//! Policies where connections and datagrams cross from pod to pod, and from outside to a pod.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{
    AddressSet, Fabric, HandedStream, Peers, PodIdentity, PodNetwork, PodRules, Protocol, Rule,
    UdpSocket,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::*;

/// Attaches a pod whose UID is its name.
fn named(fabric: &Fabric, name: &str) -> PodNetwork {
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
        hostname: name.to_owned(),
        subdomain: None,
    };
    fabric.attach(identity).expect("an address is free")
}

fn peers(ips: &[IpAddr]) -> Vec<Rule> {
    let set = Arc::new(AddressSet::default());
    ips.iter().for_each(|ip| set.insert(*ip));
    let peers = Peers::Any {
        sets: vec![set],
        blocks: Vec::new(),
    };
    vec![Rule { peers, ports: None }]
}

fn close_in(fabric: &Fabric, uid: &str, ips: &[IpAddr]) {
    let rules = PodRules {
        ingress: Some(peers(ips)),
        egress: None,
    };
    fabric.policies().set(uid, Some(rules));
}

fn close_out(fabric: &Fabric, uid: &str, ips: &[IpAddr]) {
    let rules = PodRules {
        ingress: None,
        egress: Some(peers(ips)),
    };
    fabric.policies().set(uid, Some(rules));
}

/// Tells whether a connection is made at once; one that is dropped hears nothing for minutes.
fn connects(from: &PodNetwork, to: SocketAddr) -> bool {
    let mut connecting = Box::pin(from.connect(None, to));
    match poll_once(|cx| connecting.as_mut().poll(cx)) {
        std::task::Poll::Ready(result) => {
            result.expect("it listens");
            true
        }
        std::task::Poll::Pending => false,
    }
}

#[tokio::test]
async fn a_connection_needs_both_sides_and_a_pod_not_selected_is_open() {
    let fabric = fabric();
    let (a, b, c) = (
        named(&fabric, "a"),
        named(&fabric, "b"),
        named(&fabric, "c"),
    );
    let _listener = listen(&b, "0.0.0.0:80");
    let to = at(b.ip(), 80);
    assert!(connects(&a, to) && connects(&c, to));
    close_in(&fabric, "b", &[a.ip().into()]);
    assert!(connects(&a, to) && !connects(&c, to));
    close_out(&fabric, "a", &[c.ip().into()]);
    assert!(!connects(&a, to));
    close_out(&fabric, "a", &[b.ip().into()]);
    assert!(connects(&a, to));
    fabric.policies().set("a", None);
    fabric.policies().set("b", None);
    assert!(connects(&a, to) && connects(&c, to));
}

#[tokio::test]
async fn a_forbidden_port_tells_not_even_that_nothing_listens() {
    let fabric = fabric();
    let (a, b) = (named(&fabric, "a"), named(&fabric, "b"));
    close_in(&fabric, "b", &[]);
    assert!(!connects(&a, at(b.ip(), 81)));
}

#[tokio::test]
async fn rules_are_in_force_before_the_pod_is_attached_and_after_it_comes_back() {
    let fabric = fabric();
    close_in(&fabric, "b", &[]);
    let a = named(&fabric, "a");
    for _ in 0..2 {
        let b = named(&fabric, "b");
        let _listener = listen(&b, "0.0.0.0:80");
        assert!(!connects(&a, at(b.ip(), 80)));
        b.detach();
    }
}

#[tokio::test]
async fn the_node_reaches_a_closed_pod_and_the_pod_itself_and_the_node() {
    let fabric = fabric();
    let b = named(&fabric, "b");
    let listener = listen(&b, "0.0.0.0:80");
    let rules = PodRules {
        ingress: Some(Vec::new()),
        egress: Some(Vec::new()),
    };
    fabric.policies().set("b", Some(rules));
    fabric.dial(at(b.ip(), 80)).await.expect("probes come in");
    listener.accept().await.expect("the probe");
    assert!(connects(&b, at(b.ip(), 80)));
    assert!(connects(&b, address("127.0.0.1:80")));
    let node = fabric.host();
    assert!(connects(&node, at(b.ip(), 80)));
    let _names = listen(&node, "0.0.0.0:53");
    assert!(connects(&b, at(fabric.node_ip(), 53)));
}

#[tokio::test]
async fn replies_are_never_judged() {
    let fabric = fabric();
    let (a, b) = (named(&fabric, "a"), named(&fabric, "b"));
    // What `a` may not begin, it may answer.
    close_out(&fabric, "a", &[]);
    close_in(&fabric, "b", &[]);
    let listener = listen(&a, "0.0.0.0:80");
    let (mut client, mut server) = pair(&b, &listener, at(a.ip(), 80)).await;
    say(&mut client, &mut server, "question").await;
    say(&mut server, &mut client, "answer").await;
}

fn receives(socket: &UdpSocket) -> Option<SocketAddr> {
    let mut buf = [0; 8];
    socket.try_recv_from(&mut buf).ok().map(|(_, from)| from)
}

#[tokio::test]
async fn datagrams_are_judged_and_their_answers_are_not() {
    let fabric = fabric();
    let (a, b) = (named(&fabric, "a"), named(&fabric, "b"));
    let of_a = a.bind_udp(address("0.0.0.0:1000")).expect("free");
    let of_b = b.bind_udp(address("0.0.0.0:53")).expect("free");
    let (at_a, at_b) = (at(a.ip(), 1000), at(b.ip(), 53));
    close_in(&fabric, "b", &[]);
    of_a.try_send_to(b"x", at_b).expect("lost unheard");
    assert_eq!(receives(&of_b), None);
    close_in(&fabric, "b", &[a.ip().into()]);
    close_in(&fabric, "a", &[]);
    of_b.try_send_to(b"x", at_a).expect("lost unheard");
    assert_eq!(receives(&of_a), None);
    of_a.try_send_to(b"x", at_b).expect("admitted");
    assert_eq!(receives(&of_b), Some(at_a));
    of_b.try_send_to(b"x", at_a).expect("a reply");
    assert_eq!(receives(&of_a), Some(at_b));
    // Another socket of the same pod answers nobody.
    let other = b.bind_udp(address("0.0.0.0:54")).expect("free");
    other.try_send_to(b"x", at_a).expect("lost unheard");
    assert_eq!(receives(&of_a), None);
}

#[tokio::test]
async fn a_pod_that_may_not_go_out_sends_nothing_out() {
    let fabric = fabric();
    let a = named(&fabric, "a");
    close_out(&fabric, "a", &[]);
    assert!(!connects(&a, address("192.0.2.1:80")));
    let socket = a.bind_udp(address("0.0.0.0:0")).expect("free");
    let sent = socket.try_send_to(b"x", address("192.0.2.1:53"));
    assert_eq!(sent.expect("lost unheard"), 1);
}

/// A client, and its connection as if somebody at `peer` had made it.
async fn accepted(peer: SocketAddr) -> (TcpStream, HandedStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free");
    let to = listener.local_addr().expect("bound");
    let client = TcpStream::connect(to).await.expect("it listens");
    let (tcp, _) = listener.accept().await.expect("a connection waits");
    let handed = HandedStream {
        tcp: tcp.into_std().expect("registered"),
        peer,
        endpoint: None,
        give_back: Arc::new(|handed| panic!("{handed:?} was accepted")),
    };
    (client, handed)
}

#[tokio::test]
async fn an_accepted_stream_that_is_forbidden_is_reset() {
    let fabric = fabric();
    let b = named(&fabric, "b");
    let listener = listen(&b, "0.0.0.0:80");
    let admitted = address("192.0.2.1:5000");
    close_in(&fabric, "b", &[admitted.ip()]);
    let (mut client, handed) = accepted(address("192.0.2.2:5000")).await;
    fabric.hand_over(at(b.ip(), 80), handed).expect("done with");
    let ended = tokio::time::timeout(Duration::from_secs(30), client.read_u8()).await;
    let ended = ended.expect("it ends at once").expect_err("it is reset");
    if !coracle_tests::beyond_wine("wine sends what it closes an end, not a reset") {
        assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    }
    let (mut client, handed) = accepted(admitted).await;
    fabric
        .hand_over(at(b.ip(), 80), handed)
        .expect("it listens");
    let mut server = listener.accept().await.expect("it was handed over");
    assert_eq!(server.peer_addr(), admitted);
    client.write_all(b"x").await.expect("open");
    assert_eq!(server.read_u8().await.expect("it arrives"), b'x');
}

#[tokio::test]
async fn a_published_port_admits_the_machine_and_whoever_policies_admit() {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").expect("free");
    // Only a machine with an address beside loopback has an outside.
    let outside = probe.connect("192.0.2.1:9").is_ok();
    let ip = probe.local_addr().expect("bound").ip();
    let fabric = fabric();
    let b = named(&fabric, "b");
    let listener = listen(&b, "0.0.0.0:80");
    let host = at(if outside { ip } else { [127, 0, 0, 1].into() }, 0);
    let free = std::net::TcpListener::bind(host).expect("free");
    let host = free.local_addr().expect("bound");
    drop(free);
    let _published = b.publish(on_host_port(Protocol::Tcp, 80, host));
    close_in(&fabric, "b", &[]);
    let mut client = TcpStream::connect(host).await.expect("it listens");
    if outside {
        let mut accepting = Box::pin(listener.accept());
        let ended = tokio::select! {
            ended = tokio::time::timeout(Duration::from_secs(30), client.read_u8()) => ended,
            accepted = &mut accepting => panic!("{accepted:?} was forbidden"),
        };
        ended.expect("it ends at once").expect_err("it is reset");
        drop(accepting);
        // The address is the node's now.
        fabric.policies().add_node_addresses([ip]);
        client = TcpStream::connect(host).await.expect("it listens");
    }
    let mut server = listener.accept().await.expect("the node may");
    client.write_all(b"x").await.expect("open");
    assert_eq!(server.read_u8().await.expect("it arrives"), b'x');
}
