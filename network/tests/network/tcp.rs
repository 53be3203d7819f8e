//! Connections between pods.

use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;

use coracle_network::NetError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::*;

#[tokio::test]
async fn two_pods_listen_on_the_same_port_and_reach_each_other_by_address() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let (at_a, at_b) = (listen(&a, "0.0.0.0:80"), listen(&b, "0.0.0.0:80"));
    assert_ne!(a.ip(), b.ip());
    let (mut client, mut server) = pair(&a, &at_b, at(b.ip(), 80)).await;
    say(&mut client, &mut server, "to b").await;
    say(&mut server, &mut client, "and back").await;
    let (mut client, mut server) = pair(&b, &at_a, at(a.ip(), 80)).await;
    say(&mut client, &mut server, "to a").await;
}

#[tokio::test]
async fn both_sides_see_the_same_two_addresses() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:80");
    let (client, server) = pair(&a, &listener, at(b.ip(), 80)).await;
    assert_eq!(
        (client.local_addr(), client.peer_addr()),
        (server.peer_addr(), server.local_addr())
    );
    assert_eq!(client.local_addr().ip(), a.ip());
    assert_eq!(client.peer_addr(), at(b.ip(), 80));
    assert!(!client.is_kernel());
}

#[tokio::test]
async fn loopback_reaches_the_own_pod_and_no_other() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let everywhere = listen(&a, "0.0.0.0:80");
    let private = listen(&a, "127.0.0.1:81");
    let (client, _server) = pair(&a, &everywhere, address("127.0.0.1:80")).await;
    assert_eq!(client.local_addr().ip().to_string(), "127.0.0.1");
    pair(&a, &private, address("127.0.0.1:81")).await;
    let refused = [
        address("127.0.0.1:80"),
        address("127.0.0.1:81"),
        at(a.ip(), 81),
    ];
    for to in refused {
        let result = b.connect(None, to).await;
        assert!(
            matches!(result, Err(NetError::ConnectionRefused)),
            "{to} {result:?}"
        );
    }
    let own = a.connect(None, at(a.ip(), 81)).await;
    assert!(matches!(own, Err(NetError::ConnectionRefused)));
}

#[tokio::test]
async fn a_listener_on_the_unspecified_address_of_ipv6_takes_both_families() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&a, "[::]:80");
    let (_client, server) = pair(&b, &listener, at(a.ip(), 80)).await;
    assert_eq!(server.local_addr(), at(a.ip().to_ipv6_mapped(), 80));
    assert_eq!(server.peer_addr().ip(), b.ip().to_ipv6_mapped());
    for to in ["[::1]:80", "127.0.0.1:80", "[::ffff:127.0.0.1]:80"] {
        let (client, _server) = pair(&a, &listener, address(to)).await;
        assert_eq!(client.peer_addr(), address(to));
        assert_eq!(client.local_addr().is_ipv6(), address(to).is_ipv6());
    }
}

#[tokio::test]
async fn a_held_port_is_in_use_until_it_is_dropped() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let held = a.reserve_tcp(address("0.0.0.0:80")).expect("free");
    for clash in ["0.0.0.0:80", "127.0.0.1:80", "[::]:80"] {
        let result = a.reserve_tcp(address(clash));
        assert!(matches!(result, Err(NetError::AddressInUse)), "{clash}");
    }
    let listener = a.listen(held, 1).expect("reserved");
    assert!(matches!(
        a.reserve_tcp(address("[::]:80")),
        Err(NetError::AddressInUse)
    ));
    drop(listener);
    a.reserve_tcp(address("[::]:80")).expect("free again");
    let foreign = a.reserve_tcp(address("10.9.9.9:80"));
    assert!(matches!(foreign, Err(NetError::AddressNotAvailable)));
}

#[tokio::test]
async fn port_zero_takes_a_free_port_and_a_connection_holds_its_own() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:80");
    let first = a.reserve_tcp(address("0.0.0.0:0")).expect("free");
    let chosen = first.local_addr().port();
    assert!(chosen >= 32_768);
    let client = a
        .connect(Some(first), at(b.ip(), 80))
        .await
        .expect("a listener is there");
    assert_eq!(client.local_addr(), at(a.ip(), chosen));
    let taken = a.reserve_tcp(at(a.ip(), chosen));
    assert!(matches!(taken, Err(NetError::AddressInUse)));
    drop((client, listener));
    a.reserve_tcp(at(a.ip(), chosen)).expect("free again");
}

#[tokio::test]
async fn where_nothing_listens_a_connection_is_refused_at_once() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let _bound = b.reserve_tcp(address("0.0.0.0:81")).expect("free");
    for port in [80, 81] {
        let result = a.connect(None, at(b.ip(), port)).await;
        assert!(matches!(result, Err(NetError::ConnectionRefused)));
    }
    let node = a.connect(None, at(fabric.node_ip(), 80)).await;
    assert!(matches!(node, Err(NetError::ConnectionRefused)));
    let nobody = a.connect(None, address("10.244.200.200:80")).await;
    assert!(matches!(nobody, Err(NetError::Unreachable)));
    let zero = a.connect(None, at(b.ip(), 0)).await;
    assert!(matches!(zero, Err(NetError::InvalidArgument)));
}

#[tokio::test]
async fn a_full_backlog_makes_the_next_connection_wait_for_a_place() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let port = b.reserve_tcp(address("0.0.0.0:80")).expect("free");
    let listener = b.listen(port, 2).expect("reserved");
    let to = at(b.ip(), 80);
    let _first = a.connect(None, to).await.expect("a place");
    let _second = a.connect(None, to).await.expect("a place");
    let mut third = Box::pin(a.connect(None, to));
    assert!(poll_once(|cx| third.as_mut().poll(cx)).is_pending());
    let _accepted = listener.accept().await.expect("a connection waits");
    assert!(third.await.is_ok());
}

#[tokio::test]
async fn a_dropped_listener_resets_who_was_not_accepted_and_refuses_who_waits() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let port = b.reserve_tcp(address("0.0.0.0:80")).expect("free");
    let listener = b.listen(port, 1).expect("reserved");
    let to = at(b.ip(), 80);
    let queued = a.connect(None, to).await.expect("a place");
    let mut waiting = Box::pin(a.connect(None, to));
    assert!(poll_once(|cx| waiting.as_mut().poll(cx)).is_pending());
    drop(listener);
    assert!(matches!(waiting.await, Err(NetError::ConnectionRefused)));
    let read = queued.try_read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:80");
    let (mut client, mut server) = pair(&a, &listener, at(b.ip(), 80)).await;
    client.write_all(b"question").await.expect("open");
    client.shutdown_write().expect("open");
    let mut question = String::new();
    server.read_to_string(&mut question).await.expect("ends");
    assert_eq!(question, "question");
    assert_eq!(
        client.try_write(b"x").map_err(|error| error.kind()),
        Err(ErrorKind::BrokenPipe)
    );
    server
        .write_all(b"answer")
        .await
        .expect("the other direction is open");
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("ends");
    assert_eq!(answer, "answer");
}

#[tokio::test]
async fn after_reading_is_shut_down_the_other_side_still_writes() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:80");
    let (client, mut server) = pair(&a, &listener, at(b.ip(), 80)).await;
    client.shutdown_read().expect("open");
    server
        .write_all(&[0; 1_000_000])
        .await
        .expect("discarded, not refused");
    assert_eq!(client.try_read(&mut [0; 8]).expect("the end"), 0);
}

#[tokio::test]
async fn closing_with_unread_bytes_resets_and_without_ends() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:80");
    let (client, server) = pair(&a, &listener, at(b.ip(), 80)).await;
    client.try_write(b"never read").expect("room");
    drop(server);
    let read = client.try_read(&mut [0; 8]).map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset));
    let (client, server) = pair(&a, &listener, at(b.ip(), 80)).await;
    drop(server);
    assert_eq!(client.try_read(&mut [0; 8]).expect("the end"), 0);
    assert_eq!(
        client.try_write(b"x").map_err(|error| error.kind()),
        Err(ErrorKind::BrokenPipe)
    );
}

#[tokio::test]
async fn a_large_transfer_arrives_whole_over_two_threads() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:80");
    let (client, mut server) = pair(&a, &listener, at(b.ip(), 80)).await;
    let sent = (0..4_000_000u32)
        .map(|n| (n % 251) as u8)
        .collect::<Vec<_>>();
    let expected = sent.clone();
    let writer = std::thread::spawn(move || {
        futures::executor::block_on(async move {
            let mut client = client;
            client.write_all(&sent).await.expect("open");
        });
    });
    let mut received = Vec::new();
    server.read_to_end(&mut received).await.expect("ends");
    writer.join().expect("the writer ends");
    assert!(received == expected);
    drop(server);
    assert_eq!((a.buffered_bytes(), b.buffered_bytes()), (0, 0));
}

#[test]
fn everything_may_move_between_threads() {
    fn check<T: Send + Sync>() {}
    fn check_value<T: Send>(_: T) {}
    check::<coracle_network::Fabric>();
    check::<coracle_network::PodNetwork>();
    check::<coracle_network::Stream>();
    check::<coracle_network::Listener>();
    check::<coracle_network::UdpSocket>();
    check::<coracle_network::Published>();
    let fabric = fabric();
    let a = pod(&fabric, "a");
    check_value(a.connect(None, address("127.0.0.1:80")));
    check_value(a.resolve("localhost"));
    check_value(fabric.dial(address("127.0.0.1:80")));
}

#[tokio::test]
async fn the_halves_of_a_stream_work_from_one_arc() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:80");
    let (client, server) = pair(&a, &listener, at(b.ip(), 80)).await;
    let (reading, writing) = (Arc::new(client), server);
    let other = Arc::clone(&reading);
    assert!(poll_once(|cx| reading.poll_read_ready(cx)).is_pending());
    assert!(poll_once(|cx| other.poll_write_ready(cx)).is_ready());
    let sent = other.try_write_vectored(&[IoSlice::new(b"a"), IoSlice::new(b"b")]);
    assert_eq!(sent.expect("room"), 2);
    writing.try_write(b"hello").expect("room");
    assert!(poll_once(|cx| reading.poll_read_ready(cx)).is_ready());
}

#[tokio::test]
async fn the_host_side_dials_into_a_pod_from_the_nodes_address() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let listener = listen(&a, "0.0.0.0:80");
    let mut probe = fabric
        .dial(at(a.ip(), 80))
        .await
        .expect("a listener is there");
    let mut server = listener.accept().await.expect("a connection waits");
    assert_eq!(server.peer_addr().ip(), fabric.node_ip());
    say(&mut probe, &mut server, "are you well?").await;
    let refused = fabric.dial(at(a.ip(), 81)).await.map_err(NetError::from);
    assert!(matches!(refused, Err(NetError::ConnectionRefused)));
}

#[tokio::test]
async fn a_guest_reaches_neither_the_hosts_loopback_nor_the_metadata_service() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let daemon = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = daemon.local_addr().expect("bound").port();
    let own = a.connect(None, at([127, 0, 0, 1], port)).await;
    assert!(matches!(own, Err(NetError::ConnectionRefused)));
    for ip in [
        "127.0.0.2",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.2",
        "::127.0.0.1",
        "169.254.169.254",
    ] {
        let to = at(ip.parse::<std::net::IpAddr>().expect("an address"), port);
        let result = a.connect(None, to).await;
        assert!(
            matches!(result, Err(NetError::AccessDenied)),
            "{ip} {result:?}"
        );
    }
    for name in ["localhost", "2130706433", "0x7f.1", "127.1"] {
        for ip in a.resolve(name).await.unwrap_or_default() {
            let result = a.connect(None, at(ip, port)).await;
            assert!(
                matches!(result, Err(NetError::ConnectionRefused)),
                "{name} {ip} {result:?}"
            );
        }
    }
}
