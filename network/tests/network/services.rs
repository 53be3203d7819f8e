//! Connections of pods to Services.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coracle_network::{
    Endpoint, Fabric, FrontAddress, FrontKind, Fronts, NetError, PodNetwork, Protocol, Routes,
    TrafficPolicy,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::fixture::*;

async fn refused(pod: &PodNetwork, to: SocketAddr) -> bool {
    let result = pod.connect(None, to).await;
    matches!(result, Err(NetError::ConnectionRefused))
}

#[tokio::test]
async fn pods_reach_what_listens_on_the_node_and_the_node_reaches_pods() {
    let fabric = fabric();
    let (a, host) = (pod(&fabric, "a"), fabric.host());
    assert_eq!(host.ip(), fabric.node_ip());
    let listener = listen(&host, "0.0.0.0:6443");
    let (mut client, mut server) = pair(&a, &listener, at(fabric.node_ip(), 6443)).await;
    assert_eq!(server.peer_addr().ip(), IpAddr::from(a.ip()));
    say(&mut client, &mut server, "list pods").await;
    let dialled = fabric.dial(at(fabric.node_ip(), 6443)).await;
    drop((dialled.expect("it listens"), listener.accept().await));

    let of_pod = listen(&a, "0.0.0.0:80");
    let (_client, server) = pair(&host, &of_pod, at(a.ip(), 80)).await;
    assert_eq!(server.peer_addr().ip(), IpAddr::from(fabric.node_ip()));
    assert!(refused(&a, at(fabric.node_ip(), 6444)).await);
}

#[tokio::test]
async fn the_node_goes_with_the_last_handle_and_its_address_to_nobody() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let node = fabric.node_ip();
    let listener = listen(&fabric.host(), "0.0.0.0:53");
    drop(fabric);
    let gone = a.connect(None, at(node, 53)).await;
    assert!(matches!(gone, Err(NetError::Unreachable)));
    assert!(listener.accept().await.is_err());
}

#[tokio::test]
async fn each_side_of_a_connection_to_a_service_sees_its_own_truth() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:8080");
    serve(&fabric, Protocol::Tcp, [at(b.ip(), 8080)]);
    let (mut client, mut server) = pair(&a, &listener, address(VIP)).await;
    assert_eq!(client.peer_addr(), address(VIP));
    assert_eq!(client.local_addr().ip(), IpAddr::from(a.ip()));
    assert_eq!(server.local_addr(), at(b.ip(), 8080));
    assert_eq!(server.peer_addr(), client.local_addr());
    assert!(!client.is_kernel() && !server.is_kernel());
    say(&mut client, &mut server, "hello").await;
    let mapped = address("[::ffff:10.96.0.10]:80");
    let (client, _server) = pair(&a, &listener, mapped).await;
    assert_eq!(client.peer_addr(), mapped);
}

#[tokio::test]
async fn a_pod_reaches_itself_through_its_service() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let listener = listen(&a, "0.0.0.0:8080");
    serve(&fabric, Protocol::Tcp, [at(a.ip(), 8080)]);
    let (mut client, mut server) = pair(&a, &listener, address(VIP)).await;
    say(&mut client, &mut server, "to myself").await;
    say(&mut server, &mut client, "and back").await;
}

#[tokio::test]
async fn an_address_of_a_service_is_refused_at_once_where_nothing_serves() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    serve(&fabric, Protocol::Tcp, []);
    for to in [VIP, "10.96.0.10:81", "10.96.7.7:80"] {
        assert!(refused(&a, address(to)).await, "{to}");
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_or_is_gone_is_passed_over() {
    let fabric = fabric();
    let (a, b, c) = (pod(&fabric, "a"), pod(&fabric, "b"), pod(&fabric, "c"));
    let listener = listen(&b, "0.0.0.0:8080");
    // One whose pod is gone, one that does not listen, one that must not be reached.
    let gone = pod(&fabric, "gone");
    let bad = [
        at(gone.ip(), 8080),
        at(c.ip(), 8080),
        address("127.0.0.1:1"),
    ];
    drop(gone);
    let service = serve(
        &fabric,
        Protocol::Tcp,
        bad.into_iter().chain([at(b.ip(), 8080)]),
    );
    for _ in 0..64 {
        pair(&a, &listener, address(VIP)).await;
    }
    let routes = service.routes();
    let count = |ip: SocketAddr| {
        let mut all = routes.cluster.iter();
        let one = all.find(|endpoint| endpoint.address() == ip);
        let counters = one.expect("an endpoint").counters();
        (loaded(&counters.connections), loaded(&counters.errors))
    };
    assert_eq!(count(at(b.ip(), 8080)), (64, 0));
    for one in bad {
        let (connections, errors) = count(one);
        assert!(connections == 0 && errors > 0, "{one}");
    }
    assert_eq!(loaded(&service.counters().balanced), 64);
    drop(listener);
    assert!(a.connect(None, address(VIP)).await.is_err());
}

#[tokio::test]
async fn no_more_than_sixteen_endpoints_are_tried() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let service = serve(
        &fabric,
        Protocol::Tcp,
        (1..=100).map(|port| at(b.ip(), port)),
    );
    assert!(refused(&a, address(VIP)).await);
    let routes = service.routes();
    let errors = routes.cluster.iter().map(|one| &one.counters().errors);
    assert_eq!(errors.map(loaded).sum::<u64>(), 16);
}

#[tokio::test]
async fn a_dropped_connection_hears_nothing_and_can_be_given_up() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let _listener = listen(&b, "0.0.0.0:8080");
    let service = serve(&fabric, Protocol::Tcp, []);
    service.set_routes(Routes {
        internal: TrafficPolicy::Local,
        local: Arc::default(),
        ..routes([at(b.ip(), 8080)])
    });
    let held = a.reserve_tcp(at(a.ip(), 40_000)).expect("free");
    let mut waiting = Box::pin(a.connect(Some(held), address(VIP)));
    assert!(poll_once(|cx| waiting.as_mut().poll(cx)).is_pending());
    drop(waiting);
    a.reserve_tcp(at(a.ip(), 40_000)).expect("free again");
    assert_eq!(loaded(&service.counters().dropped), 1);
}

#[tokio::test]
async fn a_remote_endpoint_is_reached_through_the_host_and_counted() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let Some(host) = host_address() else {
        // The rule needs an address beyond loopback, which guests never reach.
        return;
    };
    let listener = TcpListener::bind((host, 0)).await.expect("free");
    let endpoint = listener.local_addr().expect("bound");
    let service = serve(&fabric, Protocol::Tcp, [endpoint]);
    let mut client = a.connect(None, address(VIP)).await.expect("it listens");
    let (mut server, _) = listener.accept().await.expect("a connection waits");
    assert!(client.is_kernel());
    assert_eq!(client.peer_addr(), address(VIP));
    client.write_all(b"question").await.expect("open");
    let mut buf = [0; 8];
    server.read_exact(&mut buf).await.expect("it arrives");
    server.write_all(b"ok").await.expect("open");
    client.read_exact(&mut buf[..2]).await.expect("it arrives");
    drop(client);
    let routes = service.routes();
    let counters = routes.cluster[0].counters();
    assert_eq!(loaded(&counters.received_bytes), 8);
    assert_eq!(loaded(&counters.sent_bytes), 2);
    // As a port that leads into the fabric it is closed, by whatever Service it is named.
    let known = fabric.announce(Protocol::Tcp, endpoint);
    let denied = a.connect(None, address(VIP)).await;
    assert!(matches!(denied, Err(NetError::AccessDenied)), "{denied:?}");
    drop(known);
    a.connect(None, address(VIP)).await.expect("open again");
}

#[tokio::test]
async fn bytes_and_connections_of_an_endpoint_in_memory_are_counted() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:8080");
    let service = serve(&fabric, Protocol::Tcp, [at(b.ip(), 8080)]);
    let (mut client, mut server) = pair(&a, &listener, address(VIP)).await;
    say(&mut client, &mut server, "question").await;
    say(&mut server, &mut client, "ok").await;
    drop((client, server));
    let (client, _server) = pair(&a, &listener, at(b.ip(), 8080)).await;
    client.try_write(b"direct").expect("room");
    drop(client);
    let routes = service.routes();
    let counters = routes.cluster[0].counters();
    assert_eq!(loaded(&counters.connections), 1);
    assert_eq!(loaded(&counters.received_bytes), 8);
    assert_eq!(loaded(&counters.sent_bytes), 2);
    assert!(loaded(&counters.connect_nanoseconds) > 0);
}

#[tokio::test]
async fn node_ports_are_served_on_the_nodes_addresses_and_pods_keep_theirs() {
    let fabric = fabric();
    let (a, b, c) = (pod(&fabric, "a"), pod(&fabric, "b"), pod(&fabric, "c"));
    let listener = listen(&b, "0.0.0.0:8080");
    let service = port("web", Protocol::Tcp);
    service.set_routes(routes([at(b.ip(), 8080)]));
    let node = address("192.0.2.7:0").ip();
    let own: IpAddr = fabric.node_ip().into();
    let mut fronts = Fronts::new(service_range(), [node, own]);
    let everywhere = FrontAddress {
        ip: None,
        port: 30_080,
        protocol: Protocol::Tcp,
    };
    fronts.insert(everywhere, front(&service, FrontKind::NodePort));
    // Closed to guests but for Services; and a pod's address that a Service claims.
    let balancer = address("127.64.3.9:80");
    for to in [balancer, at(c.ip(), 80)] {
        let kind = FrontKind::LoadBalancer;
        fronts.insert(front_at(to, Protocol::Tcp), front(&service, kind));
    }
    fabric.services().set_fronts(fronts);
    for to in [at(node, 30_080), at(own, 30_080), balancer] {
        pair(&a, &listener, to).await;
    }
    let loopback = address("127.0.0.1:30080");
    assert!(refused(&a, loopback).await, "it is the pod's own");
    assert!(refused(&a, at(c.ip(), 80)).await, "it is the other pod's");
    let closed = a.connect(None, address("127.64.3.10:80")).await;
    assert!(matches!(closed, Err(NetError::AccessDenied)));
    assert!(refused(&a, address("127.64.3.9:81")).await);
}

#[tokio::test]
async fn a_bound_port_is_the_source_of_a_connection_to_a_service() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:8080");
    serve(&fabric, Protocol::Tcp, [at(b.ip(), 1), at(b.ip(), 8080)]);
    for _ in 0..8 {
        let held = a.reserve_tcp(address("0.0.0.0:40000")).expect("free");
        let client = a.connect(Some(held), address(VIP)).await.expect("listens");
        assert_eq!(client.local_addr(), at(a.ip(), 40_000));
        drop((client, listener.accept().await));
    }
    let loopback = a.reserve_tcp(address("127.0.0.1:0")).expect("free");
    let wrong = a.connect(Some(loopback), address(VIP)).await;
    assert!(matches!(wrong, Err(NetError::InvalidArgument)));
}

/// Pods come and go as in a rolling update: a new one listens and is routed to, then an old one is
/// taken from the routes and ends after the answer it is at, whatever waits in its backlog. Clients
/// meanwhile ask without pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_change_of_endpoints_loses_no_connection() {
    const GENERATIONS: usize = 200;
    let fabric = fabric();
    let service = serve(&fabric, Protocol::Tcp, []);
    let mut serving = std::collections::VecDeque::new();
    for _ in 0..3 {
        serving.push_back(replica(&fabric));
    }
    let address_of = |one: &(PodNetwork, _, _)| at(one.0.ip(), 8080);
    service.set_routes(routes(serving.iter().map(address_of)));
    let stop = Arc::new(AtomicBool::new(false));
    let clients = (0..4).map(|number| {
        let (client, stop) = (pod(&fabric, &format!("client-{number}")), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut asked = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let mut stream = client.connect(None, address(VIP)).await.expect("served");
                stream.write_all(b"question").await.expect("open");
                let mut answer = [0; 2];
                stream.read_exact(&mut answer).await.expect("an answer");
                asked += 1;
            }
            asked
        })
    });
    let clients = clients.collect::<Vec<_>>();
    for _ in 0..GENERATIONS {
        serving.push_back(replica(&fabric));
        let (old, end, answering) = serving.pop_front().expect("three serve");
        service.set_routes(routes(serving.iter().map(address_of)));
        end.send(()).expect("it serves");
        answering.await.expect("it ends by itself");
        old.detach();
    }
    stop.store(true, Ordering::Relaxed);
    let mut asked = 0;
    for client in clients {
        asked += soon(client).await.expect("no request is lost");
    }
    assert!(asked >= GENERATIONS as u64, "{asked}");
}

type Replica = (
    PodNetwork,
    tokio::sync::oneshot::Sender<()>,
    tokio::task::JoinHandle<()>,
);

/// A pod that answers each connection once, until it is told to end.
fn replica(fabric: &Fabric) -> Replica {
    let one = pod(fabric, "replica");
    let held = one.reserve_tcp(address("0.0.0.0:8080")).expect("free");
    let listener = one.listen(held, 128).expect("reserved");
    let (end, mut ending) = tokio::sync::oneshot::channel();
    let answering = tokio::spawn(async move {
        loop {
            let mut stream = tokio::select! {
                biased;
                _ = &mut ending => return,
                accepted = listener.accept() => accepted.expect("attached"),
            };
            answer(&mut stream).await;
        }
    });
    (one, end, answering)
}

async fn answer(stream: &mut coracle_network::Stream) {
    let mut question = [0; 8];
    stream.read_exact(&mut question).await.expect("a question");
    stream.write_all(b"ok").await.expect("open");
    let end = stream.read(&mut question).await;
    assert_eq!(end.expect("an end"), 0);
}

#[tokio::test]
async fn a_connection_that_a_dying_listener_did_not_accept_goes_to_another_endpoint() {
    let fabric = fabric();
    let (a, b, c) = (pod(&fabric, "a"), pod(&fabric, "b"), pod(&fabric, "c"));
    let dying = listen(&b, "0.0.0.0:8080");
    let service = serve(&fabric, Protocol::Tcp, [at(b.ip(), 8080)]);
    let mut client = a.connect(None, address(VIP)).await.expect("it listens");
    client.write_all(b"question").await.expect("room");
    let listener = listen(&c, "[::]:8080");
    // Who looks for connections has not taken one.
    assert!(poll_once(|cx| dying.poll_ready(cx)).is_ready());
    // The dead one is still in the routes, as when its readiness has not been heard of yet.
    let old = service.routes();
    let both = old.cluster.iter().cloned();
    let all: Arc<[_]> = both.chain([Endpoint::new(at(c.ip(), 8080))]).collect();
    service.set_routes(Routes {
        cluster: Arc::clone(&all),
        ..Routes::default()
    });
    drop(dying);
    b.detach();
    let mut server = accept(&listener).await;
    assert_eq!(server.local_addr(), at(c.ip().to_ipv6_mapped(), 8080));
    assert_eq!(
        server.peer_addr().ip(),
        IpAddr::from(a.ip().to_ipv6_mapped())
    );
    let mut question = [0; 8];
    server.read_exact(&mut question).await.expect("it waits");
    say(&mut server, &mut client, "answer").await;
    drop((client, server));
    let bytes = |one: &Arc<Endpoint>| loaded(&one.counters().received_bytes);
    assert_eq!((bytes(&all[0]), bytes(&all[1])), (0, 8));

    let waiting = a.connect(None, address(VIP)).await.expect("it listens");
    drop(listener);
    let read = waiting.try_read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn ten_thousand_services_each_lead_to_their_own_endpoint() {
    const SERVICES: u32 = 10_000;
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let mut fronts = Fronts::new(service_range(), []);
    let vip = |number: u32| at(std::net::Ipv4Addr::from(0x0a60_0000 + number), 80);
    for number in 0..SERVICES {
        let service = port(&format!("s{number}"), Protocol::Tcp);
        service.set_routes(routes([at(b.ip(), 10_000 + number as u16)]));
        let front = front(&service, FrontKind::ClusterIp);
        fronts.insert(front_at(vip(number), Protocol::Tcp), front);
    }
    fabric.services().set_fronts(fronts);
    let listeners = (0..SERVICES)
        .map(|number| listen(&b, &format!("0.0.0.0:{}", 10_000 + number)))
        .collect::<Vec<_>>();
    for (number, listener) in listeners.iter().enumerate() {
        let (_client, server) = pair(&a, listener, vip(number as u32)).await;
        assert_eq!(server.local_addr().port(), 10_000 + number as u16);
    }
}
