//! Datagrams between pods, from and to the host.

use std::io::ErrorKind;

use coracle_network::{NetError, Protocol};

use crate::fixture::*;

#[tokio::test]
async fn pods_exchange_datagrams_by_address() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let server = b.bind_udp(address("0.0.0.0:53")).expect("free");
    let client = a.bind_udp(address("0.0.0.0:0")).expect("free");
    let mut waiting = Box::pin(receive(&server));
    assert!(poll_once(|cx| waiting.as_mut().poll(cx)).is_pending());
    client
        .try_send_to(b"question", at(b.ip(), 53))
        .expect("a pod is there");
    let (data, from) = waiting.await;
    assert_eq!(
        (data.as_slice(), from.ip()),
        (b"question".as_slice(), a.ip().into())
    );
    server.try_send_to(b"answer", from).expect("a pod is there");
    assert_eq!(receive(&client).await, (b"answer".to_vec(), at(b.ip(), 53)));
}

#[tokio::test]
async fn loopback_datagrams_stay_in_the_pod() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let server = a.bind_udp(address("127.0.0.1:53")).expect("free");
    let own = a.bind_udp(address("0.0.0.0:0")).expect("free");
    let other = b.bind_udp(address("0.0.0.0:0")).expect("free");
    other
        .try_send_to(b"from b", address("127.0.0.1:53"))
        .expect("lost without a word");
    own.try_send_to(b"from a", address("127.0.0.1:53"))
        .expect("delivered");
    let (data, from) = receive(&server).await;
    assert_eq!(data, b"from a");
    assert_eq!(from, at([127, 0, 0, 1], own.local_addr().port()));
    let private = server
        .try_send_to(b"x", at(b.ip(), 53))
        .map_err(NetError::from);
    assert!(matches!(private, Err(NetError::InvalidArgument)));
}

#[tokio::test]
async fn a_connected_socket_knows_its_peer_only() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let socket = a.bind_udp(address("0.0.0.0:7000")).expect("free");
    let peer = b.bind_udp(address("0.0.0.0:7001")).expect("free");
    let stranger = b.bind_udp(address("0.0.0.0:7002")).expect("free");
    socket.connect(Some(at(b.ip(), 7001))).expect("allowed");
    assert_eq!(socket.local_addr(), at(a.ip(), 7000));
    stranger
        .try_send_to(b"stranger", at(a.ip(), 7000))
        .expect("sent");
    peer.try_send_to(b"peer", at(a.ip(), 7000)).expect("sent");
    assert_eq!(receive(&socket).await.0, b"peer");
    socket.try_send(b"to the peer").expect("sent");
    assert_eq!(receive(&peer).await.0, b"to the peer");
    let elsewhere = socket
        .try_send_to(b"x", at(b.ip(), 7002))
        .map_err(NetError::from);
    assert!(matches!(elsewhere, Err(NetError::InvalidArgument)));
    drop(peer);
    let gone = socket.try_send(b"x").map_err(NetError::from);
    assert!(matches!(gone, Err(NetError::ConnectionRefused)));
    socket.connect(None).expect("always");
    assert_eq!(
        (socket.local_addr(), socket.peer_addr()),
        (address("0.0.0.0:7000"), None)
    );
}

#[tokio::test]
async fn a_flooded_inbox_loses_datagrams_and_stays_bounded() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let server = b.bind_udp(address("0.0.0.0:53")).expect("free");
    let client = a.bind_udp(address("0.0.0.0:0")).expect("free");
    for _ in 0..10_000 {
        client
            .try_send_to(&[0; 1000], at(b.ip(), 53))
            .expect("sent or lost");
        client
            .try_send_to(&[], at(b.ip(), 53))
            .expect("sent or lost");
    }
    assert!(b.buffered_bytes() <= 256 * 1024);
    let mut received = 0;
    while server.try_recv_from(&mut [0; 2000]).is_ok() {
        received += 1;
    }
    assert!(received > 100);
    assert_eq!(b.buffered_bytes(), 0);
    let large = client
        .try_send_to(&[0; 65_508], at(b.ip(), 53))
        .map_err(NetError::from);
    assert!(matches!(large, Err(NetError::DatagramTooLarge)));
}

#[tokio::test]
async fn tcp_and_udp_ports_are_apart_and_udp_ports_clash() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let _tcp = a.reserve_tcp(address("0.0.0.0:53")).expect("free");
    let held = a.bind_udp(address("0.0.0.0:53")).expect("free");
    assert!(matches!(
        a.bind_udp(address("[::]:53")),
        Err(NetError::AddressInUse)
    ));
    drop(held);
    a.bind_udp(address("[::]:53")).expect("free again");
}

#[tokio::test]
async fn a_published_port_hands_datagrams_over_and_answers_from_its_address() {
    let fabric = publishing_fabric();
    let a = pod(&fabric, "a");
    let published = a.publish(on_loopback(Protocol::Udp, 5353)).expect("free");
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("free");
    client
        .send_to(b"before anyone listens", published.address)
        .await
        .expect("sent");
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let server = a.bind_udp(address("0.0.0.0:5353")).expect("free");
    client
        .send_to(b"question", published.address)
        .await
        .expect("sent");
    let (data, from) = receive(&server).await;
    assert_eq!(data, b"question");
    assert_eq!(from.ip(), fabric.node_ip());
    server
        .try_send_to(b"answer", from)
        .expect("a flow is known");
    let mut buf = [0; 64];
    let (length, answered_from) = client.recv_from(&mut buf).await.expect("an answer");
    if coracle_tests::beyond_wine("wine binds UDP to all addresses, so the answer's is another") {
        return;
    }
    assert_eq!(
        (&buf[..length], answered_from),
        (b"answer".as_slice(), published.address)
    );
    assert_eq!(
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        tasks
    );
}

#[tokio::test]
async fn a_publication_may_come_after_its_socket_and_outlives_it() {
    let fabric = publishing_fabric();
    let a = pod(&fabric, "a");
    let first = a.bind_udp(address("0.0.0.0:5354")).expect("free");
    let published = a.publish(on_loopback(Protocol::Udp, 5354)).expect("free");
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("free");
    client
        .send_to(b"one", published.address)
        .await
        .expect("sent");
    assert_eq!(receive(&first).await.0, b"one");
    drop(first);
    let second = a.bind_udp(address("[::]:5354")).expect("free");
    client
        .send_to(b"two", published.address)
        .await
        .expect("sent");
    let (data, from) = receive(&second).await;
    assert_eq!(
        (data.as_slice(), from.ip()),
        (b"two".as_slice(), fabric.node_ip().to_ipv6_mapped().into())
    );
}

#[tokio::test]
async fn a_guest_sends_no_datagram_to_the_hosts_loopback() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let daemon = std::net::UdpSocket::bind("127.0.0.1:0").expect("free");
    daemon.set_nonblocking(true).expect("a socket");
    let port = daemon.local_addr().expect("bound").port();
    let socket = a.bind_udp(address("0.0.0.0:0")).expect("free");
    for ip in [
        "127.0.0.2",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.2",
        "169.254.169.254",
        "255.255.255.255",
    ] {
        let to = at(ip.parse::<std::net::IpAddr>().expect("an address"), port);
        let result = socket.try_send_to(b"x", to).map_err(NetError::from);
        assert!(
            matches!(result, Err(NetError::AccessDenied)),
            "{ip} {result:?}"
        );
        assert!(socket.connect(Some(to)).is_err());
    }
    socket
        .try_send_to(b"x", at([127, 0, 0, 1], port))
        .expect("lost in the pod");
    let nothing = daemon.recv_from(&mut [0; 8]).map_err(|error| error.kind());
    assert_eq!(nothing.map(|_| ()), Err(ErrorKind::WouldBlock));
}
