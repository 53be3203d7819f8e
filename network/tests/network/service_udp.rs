//! Datagrams of pods to Services, and those that come in through a Service from outside.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};

use coracle_network::{
    Endpoint, Fabric, FrontAddress, FrontKind, Fronts, NetError, PodNetwork, Protocol, Routes,
    TrafficPolicy, UdpFlow, UdpSocket,
};

use crate::fixture::*;

fn bind(pod: &PodNetwork, local: &str) -> UdpSocket {
    pod.bind_udp(address(local)).expect("the port is free")
}

fn send(socket: &UdpSocket, text: &str, to: SocketAddr) {
    let sent = socket.try_send_to(text.as_bytes(), to);
    assert_eq!(sent.expect("it is on its way"), text.len());
}

/// Answers one datagram with its own text, and tells who asked.
async fn echo(server: &UdpSocket) -> SocketAddr {
    let (data, from) = receive(server).await;
    server.try_send_to(&data, from).expect("it is on its way");
    from
}

fn kind(result: std::io::Result<usize>) -> ErrorKind {
    result.expect_err("nobody takes it").kind()
}

/// Nothing waits for a socket.
fn is_silent(socket: &UdpSocket) -> bool {
    let received = socket.try_recv_from(&mut [0; 16]);
    received.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[tokio::test]
async fn answers_come_from_the_address_of_the_service() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let (server, client) = (bind(&b, "0.0.0.0:5353"), bind(&a, "0.0.0.0:0"));
    serve(&fabric, Protocol::Udp, [at(b.ip(), 5353)]);
    send(&client, "question", address(VIP));
    let asked = echo(&server).await;
    assert_eq!(asked, at(a.ip(), client.local_addr().port()));
    assert_eq!(receive(&client).await, (b"question".to_vec(), address(VIP)));
    // Directly it is the endpoint that answers.
    send(&client, "direct", at(b.ip(), 5353));
    echo(&server).await;
    assert_eq!(receive(&client).await.1, at(b.ip(), 5353));
}

#[tokio::test]
async fn a_connected_socket_talks_to_a_service_as_to_any_peer() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let (server, client) = (bind(&b, "0.0.0.0:5353"), bind(&a, "[::]:0"));
    let service = serve(&fabric, Protocol::Udp, [at(b.ip(), 5353)]);
    let vip = address("[::ffff:10.96.0.10]:80");
    client.connect(Some(vip)).expect("a Service is there");
    assert_eq!(
        client.local_addr().ip(),
        IpAddr::from(a.ip().to_ipv6_mapped())
    );
    client.try_send(b"question").expect("it is on its way");
    echo(&server).await;
    assert_eq!(receive(&client).await, (b"question".to_vec(), vip));
    // What is from others never reaches it.
    send(&bind(&b, "0.0.0.0:0"), "noise", client_address(&a, &client));
    assert!(is_silent(&client));
    service.set_routes(Routes::default());
    assert_eq!(
        kind(client.try_send(b"again")),
        ErrorKind::ConnectionRefused
    );
}

fn client_address(pod: &PodNetwork, client: &UdpSocket) -> SocketAddr {
    at(pod.ip(), client.local_addr().port())
}

#[tokio::test]
async fn without_endpoints_a_datagram_is_lost_and_refused_to_a_connected_socket() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let service = serve(&fabric, Protocol::Udp, []);
    let (client, connected) = (bind(&a, "0.0.0.0:0"), bind(&a, "0.0.0.0:0"));
    for to in [VIP, "10.96.0.10:81", "10.96.9.9:53"] {
        send(&client, "lost", address(to));
        connected.connect(Some(address(to))).expect("a Service's");
        assert_eq!(kind(connected.try_send(b"x")), ErrorKind::ConnectionRefused);
    }
    // What a policy drops is never told.
    service.set_routes(Routes {
        internal: TrafficPolicy::Local,
        local: Arc::default(),
        ..routes([at(a.ip(), 5353)])
    });
    connected.connect(Some(address(VIP))).expect("a Service's");
    connected.try_send(b"dropped").expect("nobody says so");
    // The first endpoint serves at once: there is no memory of having had none.
    let server = bind(&a, "0.0.0.0:5353");
    service.set_routes(routes([at(a.ip(), 5353)]));
    connected.try_send(b"hello").expect("it is on its way");
    assert_eq!(receive(&server).await.0, b"hello");
}

#[tokio::test]
async fn a_flow_stays_at_its_endpoint_until_that_leaves_the_routes() {
    let fabric = fabric();
    let (a, b, c) = (pod(&fabric, "a"), pod(&fabric, "b"), pod(&fabric, "c"));
    let servers = [bind(&b, "0.0.0.0:5353"), bind(&c, "0.0.0.0:5353")];
    let both = [at(b.ip(), 5353), at(c.ip(), 5353)];
    let service = serve(&fabric, Protocol::Udp, both);
    let client = bind(&a, "0.0.0.0:0");
    for _ in 0..32 {
        send(&client, "stay", address(VIP));
    }
    let first = usize::from(is_silent(&servers[0]));
    assert!(is_silent(&servers[1 - first]));
    service.set_routes(routes([both[1 - first]]));
    send(&client, "move", address(VIP));
    assert_eq!(receive(&servers[1 - first]).await.0, b"move");
    // Flows of many sockets are spread over both.
    service.set_routes(routes(both));
    let clients = (0..64).map(|_| bind(&a, "0.0.0.0:0")).collect::<Vec<_>>();
    clients
        .iter()
        .for_each(|one| send(one, "spread", address(VIP)));
    assert!(servers.iter().all(|server| !is_silent(server)));
}

#[tokio::test]
async fn an_endpoint_that_nobody_bound_is_passed_over() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let server = bind(&b, "0.0.0.0:5353");
    let bad = [
        at(b.ip(), 1),
        address("10.244.77.77:53"),
        address("127.0.0.1:53"),
    ];
    let service = serve(
        &fabric,
        Protocol::Udp,
        bad.into_iter().chain([at(b.ip(), 5353)]),
    );
    for _ in 0..32 {
        let client = bind(&a, "0.0.0.0:0");
        send(&client, "question", address(VIP));
        echo(&server).await;
        assert_eq!(receive(&client).await.1, address(VIP));
    }
    let routes = service.routes();
    for endpoint in routes.cluster.iter() {
        let counters = endpoint.counters();
        let is_bad = bad.contains(&endpoint.address());
        assert_eq!(loaded(&counters.connections), if is_bad { 0 } else { 32 });
        assert_eq!(loaded(&counters.errors) > 0, is_bad);
    }
    let good = routes.cluster.last().expect("four").counters();
    assert_eq!(loaded(&good.received_bytes), 32 * 8);
    assert_eq!(loaded(&good.sent_bytes), 32 * 8);
    drop(server);
    send(&bind(&a, "0.0.0.0:0"), "lost", address(VIP));
}

/// One socket asks two Services with the same endpoints, as a resolver asks two name servers.
#[tokio::test]
async fn answers_of_two_services_are_told_apart() {
    let fabric = fabric();
    let (a, b, c) = (pod(&fabric, "a"), pod(&fabric, "b"), pod(&fabric, "c"));
    let servers = [bind(&b, "0.0.0.0:5353"), bind(&c, "0.0.0.0:5353")];
    let vips = [address("10.96.0.1:53"), address("10.96.0.2:53")];
    let mut fronts = Fronts::new(service_range(), []);
    for vip in vips {
        let service = port("dns", Protocol::Udp);
        service.set_routes(routes([at(b.ip(), 5353), at(c.ip(), 5353)]));
        let front = front(&service, FrontKind::ClusterIp);
        fronts.insert(front_at(vip, Protocol::Udp), front);
    }
    fabric.services().set_fronts(fronts);
    for _ in 0..32 {
        let client = bind(&a, "0.0.0.0:0");
        vips.iter()
            .for_each(|vip| send(&client, &vip.to_string(), *vip));
        echo(&servers[0]).await;
        echo(&servers[1]).await;
        let mut from = HashSet::new();
        for _ in vips {
            let (data, vip) = receive(&client).await;
            assert_eq!(data, vip.to_string().as_bytes());
            from.insert(vip);
        }
        assert_eq!(from.len(), 2);
    }
}

#[tokio::test]
async fn a_pod_reaches_itself_and_the_node_by_datagrams_to_services() {
    let fabric = fabric();
    let (a, host) = (pod(&fabric, "a"), fabric.host());
    let service = serve(&fabric, Protocol::Udp, [at(a.ip(), 5353)]);
    let (own, client) = (bind(&a, "0.0.0.0:5353"), bind(&a, "0.0.0.0:0"));
    send(&client, "to myself", address(VIP));
    echo(&own).await;
    assert_eq!(receive(&client).await.1, address(VIP));

    let dns = bind(&host, "0.0.0.0:53");
    service.set_routes(routes([at(fabric.node_ip(), 53)]));
    send(&client, "a name", address(VIP));
    assert_eq!(echo(&dns).await.ip(), IpAddr::from(a.ip()));
    assert_eq!(receive(&client).await, (b"a name".to_vec(), address(VIP)));
    send(&client, "a name", at(fabric.node_ip(), 53));
    echo(&dns).await;
    assert_eq!(receive(&client).await.1, at(fabric.node_ip(), 53));
    let connected = bind(&a, "0.0.0.0:0");
    connected
        .connect(Some(at(fabric.node_ip(), 54)))
        .expect("the node's");
    assert_eq!(kind(connected.try_send(b"x")), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_remote_endpoint_answers_from_the_address_of_the_service() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let Some(host) = host_address() else {
        // Endpoints beyond the fabric need an address that guests may reach.
        return;
    };
    let server = tokio::net::UdpSocket::bind((host, 0)).await.expect("free");
    let endpoint = server.local_addr().expect("bound");
    serve(&fabric, Protocol::Udp, [endpoint]);
    let client = bind(&a, "0.0.0.0:0");
    client.connect(Some(address(VIP))).expect("a Service's");
    client.try_send(b"question").expect("it is on its way");
    let mut buf = [0; 16];
    let (length, from) = server.recv_from(&mut buf).await.expect("it arrives");
    server.send_to(&buf[..length], from).await.expect("open");
    assert_eq!(receive(&client).await, (b"question".to_vec(), address(VIP)));
    let known = fabric.announce(Protocol::Udp, endpoint);
    // As a port that leads into the fabric it is no way out and in again.
    assert_eq!(kind(client.try_send(b"x")), ErrorKind::ConnectionRefused);
    drop(known);
}

#[tokio::test]
async fn a_node_port_is_reached_on_the_nodes_addresses() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let (server, client) = (bind(&b, "0.0.0.0:5353"), bind(&a, "0.0.0.0:0"));
    let service = port("dns", Protocol::Udp);
    service.set_routes(routes([at(b.ip(), 5353)]));
    let nodes = [IpAddr::from(fabric.node_ip()), address("192.0.2.7:0").ip()];
    let mut fronts = Fronts::new(service_range(), nodes);
    let everywhere = FrontAddress {
        ip: None,
        port: 30_053,
        protocol: Protocol::Udp,
    };
    fronts.insert(everywhere, front(&service, FrontKind::NodePort));
    fabric.services().set_fronts(fronts);
    for node in nodes {
        send(&client, "question", at(node, 30_053));
        echo(&server).await;
        assert_eq!(receive(&client).await.1, at(node, 30_053));
    }
}

/// A client outside, with what it is answered.
fn outside(peer: &str) -> (Arc<UdpFlow>, mpsc::Receiver<Vec<u8>>) {
    let (sender, answers) = mpsc::channel();
    let answer = move |data: &[u8]| {
        let _ = sender.send(data.to_vec());
    };
    (UdpFlow::new(address(peer), answer), answers)
}

fn deliver(fabric: &Fabric, to: SocketAddr, flow: &Arc<UdpFlow>) -> Result<(), NetError> {
    fabric.send_datagram(to, b"question", flow)
}

#[tokio::test]
async fn a_datagram_from_outside_is_answered_the_way_it_came() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let to = at(a.ip(), 5353);
    let server = bind(&a, "0.0.0.0:5353");
    let (remote, heard_remotely) = outside("203.0.113.9:4000");
    let (local, heard_locally) = outside("127.0.0.1:4000");
    deliver(&fabric, to, &remote).expect("bound");
    assert_eq!(echo(&server).await, address("203.0.113.9:4000"));
    deliver(&fabric, to, &local).expect("bound");
    // Programs of the host appear as the node.
    assert_eq!(echo(&server).await, at(fabric.node_ip(), 4000));
    for heard in [heard_remotely, heard_locally] {
        assert_eq!(heard.try_recv().expect("an answer"), b"question");
        assert!(heard.try_recv().is_err());
    }
}

#[tokio::test]
async fn one_client_at_two_addresses_of_a_service_is_two_flows() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let server = bind(&a, "0.0.0.0:5353");
    let flows = [outside("203.0.113.9:4000"), outside("203.0.113.9:4000")];
    for (flow, _) in &flows {
        deliver(&fabric, at(a.ip(), 5353), flow).expect("bound");
    }
    assert_ne!(echo(&server).await, echo(&server).await);
    for (_, heard) in &flows {
        assert_eq!(heard.try_recv().expect("an answer"), b"question");
        assert!(heard.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_datagram_from_outside_that_nobody_takes_is_told() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let (flow, _heard) = outside("203.0.113.9:4000");
    let refused = deliver(&fabric, at(a.ip(), 5353), &flow);
    assert!(matches!(refused, Err(NetError::ConnectionRefused)));
    let gone = deliver(&fabric, address("10.244.77.77:53"), &flow);
    assert!(matches!(gone, Err(NetError::Unreachable)));
    let _server = bind(&a, "0.0.0.0:5353");
    let (forged, _heard) = outside("10.244.0.9:4000");
    let denied = deliver(&fabric, at(a.ip(), 5353), &forged);
    assert!(matches!(denied, Err(NetError::AccessDenied)));
}

#[tokio::test]
async fn endpoints_keep_their_counts_over_a_change_of_the_routes() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let server = bind(&b, "0.0.0.0:5353");
    let endpoint = Endpoint::new(at(b.ip(), 5353));
    let service = serve(&fabric, Protocol::Udp, []);
    let client = bind(&a, "0.0.0.0:0");
    for _ in 0..4 {
        service.set_routes(Routes {
            cluster: [Arc::clone(&endpoint)].into_iter().collect(),
            ..Routes::default()
        });
        send(&client, "question", address(VIP));
        echo(&server).await;
        receive(&client).await;
    }
    drop(client);
    // One flow all along.
    assert_eq!(loaded(&endpoint.counters().connections), 1);
    assert_eq!(loaded(&endpoint.counters().received_bytes), 32);
}
