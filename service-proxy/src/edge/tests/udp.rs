use std::task::Poll;

use tokio::net::UdpSocket;

use super::*;

/// Batches need options of the socket that Windows has and wine refuses (error 10045), so there a UDP
/// front is not published.
fn beyond_wine() -> bool {
    coracle_tests::beyond_wine("wine has no batches of datagrams, so no UDP of Services")
}

fn cluster_ip_udp() -> FrontAddress {
    FrontAddress {
        protocol: Protocol::Udp,
        ..cluster_ip()
    }
}

/// An endpoint elsewhere: answers each datagram with a name before it.
async fn elsewhere_udp(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (bytes, from) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = [name.as_bytes(), &buffer[..bytes]].concat();
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    at
}

/// A client that hears only what comes from the Service's address.
async fn client(of: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(of).await.unwrap();
    socket
}

async fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    client.send(question).await.unwrap();
    hear(client).await
}

async fn hear(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let heard = tokio::time::timeout(PATIENCE, client.recv(&mut buffer)).await;
    buffer.truncate(heard.expect("in time").unwrap());
    buffer
}

#[tokio::test]
async fn answers_of_an_endpoint_elsewhere_come_from_the_service() {
    if beyond_wine() {
        return;
    }
    let web = service("dns");
    route(&web, &[elsewhere_udp("a").await]);
    let edge = start(None);
    edge.apply(fronts(&[(
        cluster_ip_udp(),
        front(&web, FrontKind::ClusterIp),
    )]));
    let outside = published(&edge, cluster_ip_udp()).await;
    let one = client(outside).await;
    let other = client(outside).await;
    assert_eq!(ask(&one, b"1").await, b"a1");
    assert_eq!(ask(&other, b"2").await, b"a2");
    assert_eq!(ask(&one, b"").await, b"a");
    // Longer than a packet of most networks, shorter than one of loopback.
    let long = vec![b'x'; 9_000];
    assert_eq!(ask(&one, &long).await.len(), 9_001);
    assert_eq!(edge.udp_flows_now(), 2);
    let endpoint = &web.routes().cluster[0];
    assert_eq!(read(&endpoint.counters().connections), 2);
    assert_eq!(read(&endpoint.counters().received_bytes), 9_002);
    assert_eq!(read(&endpoint.counters().sent_bytes), 9_006);
}

#[tokio::test]
async fn a_pod_of_this_node_is_reached_without_a_socket_for_the_flow() {
    if beyond_wine() {
        return;
    }
    let fabric = fabric();
    let pod = pod(&fabric, "a");
    let at = SocketAddr::from((pod.ip(), 53));
    let socket = pod.bind_udp(at).unwrap();
    let web = service("dns");
    route(&web, &[at]);
    let edge = start(Some(fabric));
    edge.apply(fronts(&[(
        cluster_ip_udp(),
        front(&web, FrontKind::ClusterIp),
    )]));
    let outside = published(&edge, cluster_ip_udp()).await;
    let client = client(outside).await;
    client.send(b"question").await.unwrap();
    let mut buffer = [0; 64];
    let (bytes, from) = std::future::poll_fn(|cx| match socket.poll_recv_ready(cx) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(ready) => Poll::Ready(ready.and_then(|()| socket.try_recv_from(&mut buffer))),
    })
    .await
    .unwrap();
    assert_eq!(&buffer[..bytes], b"question");
    assert_eq!(from.port(), client.local_addr().unwrap().port());
    socket.try_send_to(b"answer", from).unwrap();
    assert_eq!(hear(&client).await, b"answer");
    assert_eq!(edge.udp_flows_now(), 1);
}

#[tokio::test]
async fn a_flow_ends_with_its_endpoint_and_the_next_datagram_begins_another() {
    if beyond_wine() {
        return;
    }
    let web = service("dns");
    let (a, b) = (elsewhere_udp("a").await, elsewhere_udp("b").await);
    route(&web, &[a]);
    let edge = start(None);
    let table = fronts(&[(cluster_ip_udp(), front(&web, FrontKind::ClusterIp))]);
    edge.apply(Arc::clone(&table));
    let outside = published(&edge, cluster_ip_udp()).await;
    let client = client(outside).await;
    assert_eq!(ask(&client, b"1").await, b"a1");
    // Without being told: the datagram itself finds out.
    route(&web, &[b]);
    assert_eq!(ask(&client, b"2").await, b"b2");
    // Told: the flow is gone though nothing is sent.
    route(&web, &[a]);
    edge.apply(table);
    until("the flow is flushed", || edge.udp_flows_now() == 0).await;
    assert_eq!(ask(&client, b"3").await, b"a3");
}

#[tokio::test]
async fn a_flow_whose_endpoint_hears_nothing_any_more_goes_to_another() {
    if beyond_wine() {
        return;
    }
    let web = service("dns");
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    route(&web, &[dead.local_addr().unwrap()]);
    let edge = start(None);
    edge.apply(fronts(&[(
        cluster_ip_udp(),
        front(&web, FrontKind::ClusterIp),
    )]));
    let outside = published(&edge, cluster_ip_udp()).await;
    let client = client(outside).await;
    client.send(b"x").await.unwrap();
    dead.recv(&mut [0; 8]).await.unwrap();
    drop(dead);
    // The kernel tells it with what is sent after the refusal has arrived.
    until("another flow has begun", || {
        client.try_send(b"x").unwrap();
        read(&edge.counters().udp_flows) > 1
    })
    .await;
}

#[tokio::test]
async fn one_flow_too_many_is_lost_and_counted() {
    if beyond_wine() {
        return;
    }
    let web = service("dns");
    route(&web, &[elsewhere_udp("a").await]);
    let config = EdgeConfig {
        udp_flows_max: 1,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config, None).unwrap();
    edge.apply(fronts(&[(
        cluster_ip_udp(),
        front(&web, FrontKind::ClusterIp),
    )]));
    let outside = published(&edge, cluster_ip_udp()).await;
    let (first, second) = (client(outside).await, client(outside).await);
    assert_eq!(ask(&first, b"1").await, b"a1");
    second.send(b"2").await.unwrap();
    until("counted", || read(&edge.counters().udp_lost) == 1).await;
    assert_eq!(ask(&first, b"3").await, b"a3");
}

#[tokio::test]
async fn tcp_and_udp_share_a_port_of_a_service() {
    if beyond_wine() {
        return;
    }
    let (web, dns) = (service("web"), service("dns"));
    route(&web, &[elsewhere("a").await]);
    route(&dns, &[elsewhere_udp("b").await]);
    let edge = start(None);
    edge.apply(fronts(&[
        (cluster_ip(), front(&web, FrontKind::ClusterIp)),
        (cluster_ip_udp(), front(&dns, FrontKind::ClusterIp)),
    ]));
    let udp = published(&edge, cluster_ip_udp()).await;
    let tcp = published(&edge, cluster_ip()).await;
    assert_eq!(udp.ip(), tcp.ip());
    assert_eq!(connect(tcp).await.expect("served").1, "a");
    assert_eq!(ask(&client(udp).await, b"1").await, b"b1");
}

/// An endpoint elsewhere that hears everything and answers only what begins with `?`.
async fn taciturn() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        loop {
            let (bytes, from) = socket.recv_from(&mut buffer).await.unwrap();
            if buffer[..bytes].starts_with(b"?") {
                socket.send_to(b"!", from).await.unwrap();
            }
        }
    });
    at
}

#[tokio::test]
async fn a_flow_ends_after_thirty_silent_seconds_and_a_hundred_and_twenty_once_it_was_answered() {
    if beyond_wine() {
        return;
    }
    let dns = service("dns");
    route(&dns, &[taciturn().await]);
    let edge = start(None);
    let table = fronts(&[(cluster_ip_udp(), front(&dns, FrontKind::ClusterIp))]);
    edge.apply(Arc::clone(&table));
    let outside = published(&edge, cluster_ip_udp()).await;
    // Flows are looked through now and then, and whenever the table is applied.
    let flows = |count: usize| {
        edge.apply(Arc::clone(&table));
        let edge = &edge;
        async move { until("as many flows", || edge.udp_flows_now() == count).await }
    };
    let (answered, old, young) = (
        client(outside).await,
        client(outside).await,
        client(outside).await,
    );
    assert_eq!(ask(&answered, b"?").await, b"!");
    old.send(b".").await.unwrap();
    flows(2).await;
    clock::later(Duration::from_secs(20));
    young.send(b".").await.unwrap();
    flows(3).await;
    // At thirty seconds the old one ends, by the same look that leaves the younger one and the one
    // that was answered.
    clock::later(Duration::from_secs(10));
    flows(2).await;
    clock::later(Duration::from_secs(20));
    flows(1).await;
    // Seventy seconds later it is the same flow still; what it says now counts from now.
    clock::later(Duration::from_secs(60));
    assert_eq!(ask(&answered, b"?").await, b"!");
    assert_eq!(read(&edge.counters().udp_flows), 3);
    // A second before its time it is left by the look that ends another one.
    old.send(b".").await.unwrap();
    flows(2).await;
    clock::later(Duration::from_secs(119));
    flows(1).await;
    assert_eq!(ask(&answered, b"?").await, b"!");
    assert_eq!(read(&edge.counters().udp_flows), 4);
    clock::later(Duration::from_secs(120));
    flows(0).await;
}
