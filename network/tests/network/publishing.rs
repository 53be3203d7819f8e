//! Ports of pods on the host.

use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use coracle_network::{
    HostAddress, NetError, PodNetwork, Protocol, PublishError, PublishPort, Published,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::*;

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// Publishes on a host port that is free now; another program may be quicker, then on the next.
fn publish_somewhere(pod: &PodNetwork, protocol: Protocol, port: u16, ip: [u8; 4]) -> Published {
    loop {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let free = socket.local_addr().expect("bound").port();
        drop(socket);
        match pod.publish(on_host_port(protocol, port, at(ip, free))) {
            Err(PublishError::PortInUse { .. }) => {}
            result => return result.expect("the port was free a moment ago"),
        }
    }
}

fn refused(to: SocketAddr) -> bool {
    matches!(TcpStream::connect(to), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn an_accepted_host_connection_is_the_guests_stream_without_any_task() {
    let fabric = publishing_fabric();
    let a = pod(&fabric, "a");
    let published = a.publish(on_loopback(Protocol::Tcp, 8080)).expect("free");
    let before = tasks();
    let listener = listen(&a, "0.0.0.0:8080");
    let client = std::thread::spawn(move || {
        let mut client = TcpStream::connect(published.address).expect("a listener is there");
        client.write_all(b"ping").expect("open");
        let mut answer = [0; 4];
        client.read_exact(&mut answer).expect("an answer");
        (answer, client.local_addr().expect("connected"), published)
    });
    let mut stream = listener.accept().await.expect("a connection comes");
    assert!(stream.is_kernel());
    assert_eq!(stream.local_addr(), at(a.ip(), 8080));
    let mut question = [0; 4];
    stream.read_exact(&mut question).await.expect("bytes");
    stream.write_all(b"pong").await.expect("open");
    assert_eq!(
        tasks(),
        before,
        "nothing is spawned for listening, accepting or copying"
    );
    let (answer, client, _published) = client.join().expect("the client ends");
    assert_eq!((&question, &answer), (b"ping", b"pong"));
    assert_eq!(stream.peer_addr(), at(fabric.node_ip(), client.port()));
}

/// A read that leaves room in its buffer is not followed by another one before the reactor tells of more.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_host_sends_after_a_read_that_left_room_is_read_and_so_is_the_end() {
    const ROUNDS: u32 = 1_000;
    let fabric = publishing_fabric();
    let a = pod(&fabric, "a");
    let published = a.publish(on_loopback(Protocol::Tcp, 8080)).expect("free");
    let listener = listen(&a, "0.0.0.0:8080");
    let client = std::thread::spawn(move || {
        let mut client = TcpStream::connect(published.address).expect("a listener is there");
        let mut answer = [0; 4];
        for _ in 0..ROUNDS {
            client.write_all(b"ping").expect("open");
            client.read_exact(&mut answer).expect("an answer");
        }
        // The last word and the end come together.
        client.write_all(b"over").expect("open");
        published
    });
    let mut stream = listener.accept().await.expect("a connection comes");
    let mut words = Vec::new();
    loop {
        let mut buffer = [0; 64];
        let read = match words.len() % 8 {
            // As tokio's streams are read, and as guests read.
            0 => soon(stream.read(&mut buffer)).await.expect("open"),
            _ => loop {
                soon(poll_fn(|cx| stream.poll_read_ready(cx)))
                    .await
                    .expect("open");
                match stream.try_read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    read => break read.expect("open"),
                }
            },
        };
        if read == 0 {
            break;
        }
        words.extend_from_slice(&buffer[..read]);
        if words.ends_with(b"ping") {
            stream.write_all(b"pong").await.expect("open");
        }
    }
    let _published = client.join().expect("the client ends");
    assert!(words.ends_with(b"over"));
    assert_eq!(words.len(), 4 * (ROUNDS as usize + 1));
}

#[tokio::test]
async fn a_host_connection_that_a_look_for_readiness_found_is_accepted_next() {
    let fabric = publishing_fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let published = a.publish(on_loopback(Protocol::Tcp, 8080)).expect("free");
    let listener = listen(&a, "0.0.0.0:8080");
    let mut looking = Box::pin(poll_fn(|cx| listener.poll_ready(cx)));
    assert!(poll_once(|cx| looking.as_mut().poll(cx)).is_pending());
    let first = TcpStream::connect(published.address).expect("a listener is there");
    soon(looking).await;
    // It does not count among those that wait for a place, and a pod's connection comes after it.
    let _second = b.connect(None, at(a.ip(), 8080)).await.expect("a place");
    let accepted = accept(&listener).await;
    assert!(accepted.is_kernel() && !accept(&listener).await.is_kernel());
    assert!(poll_once(|cx| listener.poll_ready(cx)).is_pending());
    drop(first);
    let mut last = TcpStream::connect(published.address).expect("a listener is there");
    soon(poll_fn(|cx| listener.poll_ready(cx))).await;
    drop(listener);
    let ended = last.read(&mut [0; 1]).map_err(|error| error.kind());
    if coracle_tests::beyond_wine("wine sends what it closes an end, not a reset") {
        return;
    }
    assert_eq!(
        ended,
        Err(ErrorKind::ConnectionReset),
        "as for all that wait"
    );
}

#[tokio::test]
async fn the_host_port_refuses_before_and_after_a_guest_listens() {
    let fabric = publishing_fabric();
    let a = pod(&fabric, "a");
    let published = a.publish(on_loopback(Protocol::Tcp, 8081)).expect("free");
    assert!(refused(published.address));
    for _ in 0..3 {
        let listener = listen(&a, "0.0.0.0:8081");
        let client = TcpStream::connect(published.address).expect("a listener is there");
        let accepted = listener.accept().await.expect("a connection waits");
        drop((client, accepted, listener));
        assert!(refused(published.address));
    }
    let _private = listen(&a, "127.0.0.1:8081");
    assert!(
        refused(published.address),
        "a listener on the pod's loopback is not published"
    );
}

#[tokio::test]
async fn a_port_published_while_a_guest_listens_is_served_by_it() {
    let fabric = publishing_fabric();
    let a = pod(&fabric, "a");
    let listener = listen(&a, "[::]:8082");
    let mut accepting = Box::pin(listener.accept());
    assert!(poll_once(|cx| accepting.as_mut().poll(cx)).is_pending());
    let published = a.publish(on_loopback(Protocol::Tcp, 8082)).expect("free");
    let _client = TcpStream::connect(published.address).expect("a listener is there");
    let stream = accepting.await.expect("a connection waits");
    assert_eq!(stream.local_addr(), at(a.ip().to_ipv6_mapped(), 8082));
}

#[tokio::test]
async fn pods_and_host_arrive_at_one_listener_and_neither_starves() {
    let fabric = publishing_fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let published = a.publish(on_loopback(Protocol::Tcp, 8083)).expect("free");
    let listener = listen(&a, "0.0.0.0:8083");
    let _host = (0..4).map(|_| TcpStream::connect(published.address).expect("listening"));
    let _host = _host.collect::<Vec<_>>();
    let mut kernel = 0;
    for _ in 0..8 {
        let _dialled = b.connect(None, at(a.ip(), 8083)).await.expect("listening");
        let _dialled = b.connect(None, at(a.ip(), 8083)).await.expect("listening");
        kernel += usize::from(listener.accept().await.expect("waiting").is_kernel());
        // Lets the reactor look at the kernel sockets.
        tokio::task::yield_now().await;
        kernel += usize::from(listener.accept().await.expect("waiting").is_kernel());
    }
    assert_eq!(kernel, 4);
}

#[tokio::test]
async fn two_pods_publish_one_port_side_by_side() {
    let fabric = publishing_fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let at_a = a.publish(on_loopback(Protocol::Tcp, 8084)).expect("free");
    let at_b = b.publish(on_loopback(Protocol::Tcp, 8084)).expect("free");
    assert_ne!(at_a.address, at_b.address);
    let listener = listen(&b, "0.0.0.0:8084");
    assert!(refused(at_a.address));
    let _client = TcpStream::connect(at_b.address).expect("listening");
    listener.accept().await.expect("a connection waits");
}

#[cfg(any(target_os = "linux", windows))]
#[tokio::test]
async fn two_fabrics_use_different_blocks_of_loopback() {
    let (first, second) = (publishing_fabric(), publishing_fabric());
    let (a, b) = (pod(&first, "a"), pod(&second, "a"));
    assert_eq!(a.ip(), b.ip());
    let at_a = a
        .publish(on_loopback(Protocol::Tcp, 8085))
        .expect("free")
        .address;
    let at_b = b
        .publish(on_loopback(Protocol::Tcp, 8085))
        .expect("free")
        .address;
    let block = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => u32::from(ip) >> 14,
        std::net::IpAddr::V6(_) => panic!("loopback addresses are of IPv4"),
    };
    assert_ne!(block(at_a), block(at_b));
    assert_eq!((at_a.port(), at_b.port()), (8085, 8085));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_port_that_something_holds_everywhere_moves_to_a_free_one_of_the_same_address() {
    let fabric = publishing_fabric();
    let a = pod(&fabric, "a");
    let everywhere = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let taken = everywhere.local_addr().expect("bound").port();
    let moved = a
        .publish(on_loopback(Protocol::Tcp, taken))
        .expect("another port");
    let plain = a.publish(on_loopback(Protocol::Tcp, 8086)).expect("free");
    assert_ne!(moved.address.port(), taken);
    assert_eq!(moved.address.ip(), plain.address.ip());
    let listener = listen(&a, &format!("0.0.0.0:{taken}"));
    let _client = TcpStream::connect(moved.address).expect("listening");
    let stream = listener.accept().await.expect("a connection waits");
    assert_eq!(stream.local_addr(), at(a.ip(), taken));
}

#[tokio::test]
async fn a_port_below_1024_is_published_whether_or_not_this_user_may_bind_it() {
    let fabric = publishing_fabric();
    let a = pod(&fabric, "a");
    let published = a
        .publish(on_loopback(Protocol::Tcp, 80))
        .expect("80 or a free high port");
    assert!(published.address.port() == 80 || published.address.port() >= 1024);
    let listener = listen(&a, "0.0.0.0:80");
    let _client = TcpStream::connect(published.address).expect("listening");
    let stream = listener.accept().await.expect("a connection waits");
    assert_eq!(stream.local_addr(), at(a.ip(), 80));
}

#[tokio::test]
async fn a_clash_of_host_ports_names_the_port_even_before_anyone_listens() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let first = publish_somewhere(&a, protocol, 80, [127, 0, 0, 1]);
        let host = first.address;
        let clash = b.publish(on_host_port(protocol, 80, host));
        assert!(matches!(&clash, Err(PublishError::PortInUse { address }) if *address == host));
        let text = clash.expect_err("in use").to_string();
        assert_eq!(text, format!("host port `{host}` is in use"));
        drop(first);
        b.publish(on_host_port(protocol, 80, host))
            .expect("free again");
    }
}

#[tokio::test]
async fn a_host_port_without_address_is_on_loopback_and_foreign_addresses_are_named() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let probed = publish_somewhere(&a, Protocol::Tcp, 80, [127, 0, 0, 1]);
    let (protocol, port) = (Protocol::Tcp, 80);
    let host = HostAddress::HostPort {
        ip: None,
        port: probed.address.port(),
    };
    let clash = a.publish(PublishPort {
        protocol,
        port,
        host,
    });
    assert!(matches!(clash, Err(PublishError::PortInUse { address }) if address == probed.address));
    let foreign = a.publish(on_host_port(Protocol::Tcp, 80, address("192.0.2.1:8080")));
    assert!(matches!(foreign, Err(PublishError::AddressNotLocal { .. })));
    let nowhere = a.publish(on_loopback(Protocol::Tcp, 80));
    assert!(matches!(nowhere, Err(PublishError::Nowhere)));
    let zero = a.publish(on_loopback(Protocol::Tcp, 0));
    assert!(matches!(zero, Err(PublishError::PortZero)));
}

#[tokio::test]
async fn a_host_port_is_free_again_although_connections_of_the_last_run_linger() {
    let mut last = None;
    for _ in 0..3 {
        let fabric = fabric();
        let a = pod(&fabric, "a");
        let published = match last {
            None => publish_somewhere(&a, Protocol::Tcp, 80, [127, 0, 0, 1]),
            Some(host) => a
                .publish(on_host_port(Protocol::Tcp, 80, host))
                .expect("free again"),
        };
        let host = *last.insert(published.address);
        let listener = listen(&a, "0.0.0.0:80");
        let mut client = TcpStream::connect(host).expect("listening");
        // The server closes first, so the connection lingers on its side, in TIME_WAIT.
        drop(listener.accept().await.expect("a connection waits"));
        assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
    }
}

#[tokio::test]
async fn unpublishing_closes_the_host_port_under_a_listener() {
    let fabric = publishing_fabric();
    let a = pod(&fabric, "a");
    let published = a.publish(on_loopback(Protocol::Tcp, 8087)).expect("free");
    let listener = listen(&a, "0.0.0.0:8087");
    let client = TcpStream::connect(published.address).expect("listening");
    let stream = listener.accept().await.expect("a connection waits");
    let was = published.address;
    drop(published);
    assert!(refused(was));
    stream
        .try_write(b"established connections stay")
        .expect("open");
    drop(client);
}

#[tokio::test]
async fn detaching_closes_host_ports_and_handed_over_connections() {
    let fabric = publishing_fabric();
    let a = pod(&fabric, "a");
    let published = a.publish(on_loopback(Protocol::Tcp, 8088)).expect("free");
    let listener = listen(&a, "0.0.0.0:8088");
    let mut client = TcpStream::connect(published.address).expect("listening");
    let mut stream = listener.accept().await.expect("a connection waits");
    a.detach();
    assert!(refused(published.address));
    let read = stream.read(&mut [0; 1]).await.map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset));
    drop(stream);
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert!(matches!(
        a.publish(on_loopback(Protocol::Tcp, 1)),
        Err(PublishError::Detached)
    ));
}

#[tokio::test]
async fn a_guest_cannot_go_out_and_in_again_through_a_published_port() {
    let fabric = publishing_fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let _listener = listen(&a, "0.0.0.0:8089");
    let on_loopback = a.publish(on_loopback(Protocol::Tcp, 8089)).expect("free");
    let everywhere = publish_somewhere(&a, Protocol::Tcp, 8089, [0, 0, 0, 0]);
    let port = everywhere.address.port();
    let mut targets = vec![on_loopback.address];
    // The host's own address, whatever it is here: the one it would use towards the outside.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").expect("free");
    if probe.connect("192.0.2.1:9").is_ok() {
        targets.push(at(probe.local_addr().expect("bound").ip(), port));
    }
    for to in targets {
        let result = b.connect(None, to).await;
        assert!(
            matches!(result, Err(NetError::AccessDenied)),
            "{to} {result:?}"
        );
    }
}

#[tokio::test]
async fn egress_reaches_other_addresses_of_the_host_by_a_kernel_socket() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").expect("free");
    if probe.connect("192.0.2.1:9").is_err() {
        // A machine without any address but loopback: what can be promised there is a clear answer.
        let result = a.connect(None, address("192.0.2.1:9")).await;
        assert!(matches!(result, Err(NetError::Unreachable)), "{result:?}");
        return;
    }
    let ip = probe.local_addr().expect("bound").ip();
    let daemon = TcpListener::bind(at(ip, 0)).expect("a free port");
    let to = daemon.local_addr().expect("bound");
    let before = tasks();
    let mut stream = a.connect(None, to).await.expect("allowed");
    assert!(stream.is_kernel());
    assert_eq!(
        (stream.local_addr().ip(), stream.peer_addr()),
        (a.ip().into(), to)
    );
    stream.write_all(b"out").await.expect("open");
    let (mut accepted, _) = daemon.accept().expect("connected");
    let mut heard = [0; 3];
    accepted.read_exact(&mut heard).expect("bytes");
    assert_eq!((&heard, tasks()), (b"out", before));

    let echo = tokio::net::UdpSocket::bind(at(ip, 0)).await.expect("free");
    let socket = a.bind_udp(address("0.0.0.0:0")).expect("free");
    let to = echo.local_addr().expect("bound");
    socket.try_send_to(b"out", to).expect("allowed");
    let mut buf = [0; 8];
    let (length, from) = echo.recv_from(&mut buf).await.expect("a datagram");
    echo.send_to(&buf[..length], from).await.expect("sent");
    std::future::poll_fn(|cx| socket.poll_recv_ready(cx))
        .await
        .expect("attached");
    assert_eq!(socket.try_recv_from(&mut buf).expect("a datagram"), (3, to));
}
