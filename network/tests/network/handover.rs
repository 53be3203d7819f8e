//! Kernel connections that were accepted outside and are handed to what listens in the fabric.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use coracle_network::{Endpoint, Fabric, GiveBack, HandOverRefusal, HandedStream, NetError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::*;

/// A client, and its connection as somebody outside accepted it.
async fn accepted(endpoint: Option<&Arc<Endpoint>>, back: &GiveBack) -> (TcpStream, HandedStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free");
    let to = listener.local_addr().expect("bound");
    let client = TcpStream::connect(to).await.expect("it listens");
    let (tcp, peer) = listener.accept().await.expect("a connection waits");
    let handed = HandedStream {
        tcp: tcp.into_std().expect("registered"),
        peer,
        endpoint: endpoint.cloned(),
        give_back: Arc::clone(back),
    };
    (client, handed)
}

/// Nobody is to be given anything back.
fn never() -> GiveBack {
    Arc::new(|handed| panic!("{handed:?} was accepted"))
}

fn refusal(fabric: &Fabric, to: SocketAddr, handed: HandedStream) -> HandOverRefusal {
    let error = fabric.hand_over(to, handed).expect_err("nothing takes it");
    assert_eq!(error.to, to);
    error.reason
}

#[tokio::test]
async fn an_accepted_stream_is_the_pods_own_and_shows_its_address() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let listener = listen(&a, "0.0.0.0:8080");
    let endpoint = Endpoint::new(at(a.ip(), 8080));
    let (mut client, handed) = accepted(Some(&endpoint), &never()).await;
    let mut accepting = Box::pin(listener.accept());
    assert!(poll_once(|cx| accepting.as_mut().poll(cx)).is_pending());
    fabric
        .hand_over(at(a.ip(), 8080), handed)
        .expect("it listens");
    let mut server = soon(accepting).await.expect("it was handed over");
    assert!(server.is_kernel());
    assert_eq!(server.local_addr(), at(a.ip(), 8080));
    // Programs of the host appear as the node.
    assert_eq!(server.peer_addr().ip(), IpAddr::from(fabric.node_ip()));
    client.write_all(b"question").await.expect("open");
    let mut buf = [0; 8];
    server.read_exact(&mut buf).await.expect("it arrives");
    server.write_all(b"ok").await.expect("open");
    client.read_exact(&mut buf[..2]).await.expect("it arrives");
    drop(server);
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(count(&endpoint.counters().received_bytes), 8);
    assert_eq!(count(&endpoint.counters().sent_bytes), 2);
    assert_eq!(client.read(&mut buf).await.expect("an end"), 0);
}

#[tokio::test]
async fn the_node_takes_streams_too() {
    let fabric = fabric();
    let listener = listen(&fabric.host(), "0.0.0.0:6443");
    let (_client, handed) = accepted(None, &never()).await;
    let to = at(fabric.node_ip(), 6443);
    fabric.hand_over(to, handed).expect("it listens");
    assert_eq!(accept(&listener).await.local_addr(), to);
}

#[tokio::test]
async fn a_stream_that_nothing_takes_comes_back_with_the_reason() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let held = a.reserve_tcp(address("0.0.0.0:8080")).expect("free");
    let listener = a.listen(held, 1).expect("reserved");
    let back = never();
    for to in ["10.244.99.99:80", "192.0.2.1:80", "[2001:db8::1]:80"] {
        let (_client, handed) = accepted(None, &back).await;
        let reason = refusal(&fabric, address(to), handed);
        assert_eq!(reason, HandOverRefusal::NoPod, "{to}");
    }
    let (_client, handed) = accepted(None, &back).await;
    let reason = refusal(&fabric, at(a.ip(), 81), handed);
    assert_eq!(reason, HandOverRefusal::NotListening);
    let to = at(a.ip(), 8080);
    let (_first, handed) = accepted(None, &back).await;
    fabric.hand_over(to, handed).expect("a place");
    let (mut second, handed) = accepted(None, &back).await;
    let error = fabric.hand_over(to, handed).expect_err("it is full");
    assert_eq!(error.reason, HandOverRefusal::Full);
    drop(accept(&listener).await);
    fabric.hand_over(to, error.handed).expect("a place again");
    second.write_all(b"x").await.expect("open");
    let mut server = accept(&listener).await;
    server.read_exact(&mut [0; 1]).await.expect("it is whole");
}

/// A stream goes on to another endpoint when its listener ends, by itself or with its pod.
#[tokio::test]
async fn a_stream_not_accepted_by_a_dying_listener_is_given_back() {
    let fabric = fabric();
    let (a, b, c) = (pod(&fabric, "a"), pod(&fabric, "b"), pod(&fabric, "c"));
    let (sender, returned) = mpsc::channel();
    let back: GiveBack = Arc::new(move |handed| sender.send(handed).expect("the test waits"));
    let dropped = listen(&a, "0.0.0.0:8080");
    let (mut client, handed) = accepted(None, &back).await;
    let hand_over = |pod: &coracle_network::PodNetwork, handed| {
        let taken = fabric.hand_over(at(pod.ip(), 8080), handed);
        taken.expect("it listens");
    };
    assert!(poll_once(|cx| dropped.poll_ready(cx)).is_pending());
    hand_over(&a, handed);
    assert!(poll_once(|cx| dropped.poll_ready(cx)).is_ready());
    drop(dropped);
    let detached = listen(&b, "0.0.0.0:8080");
    hand_over(&b, returned.try_recv().expect("given back"));
    b.detach();
    assert!(matches!(
        detached.accept().await.map_err(NetError::from),
        Err(NetError::Detached)
    ));
    let last = listen(&c, "0.0.0.0:8080");
    hand_over(&c, returned.try_recv().expect("given back"));
    client.write_all(b"still here").await.expect("open");
    let mut server = accept(&last).await;
    let mut heard = [0; 10];
    server.read_exact(&mut heard).await.expect("it is whole");
    assert_eq!(&heard, b"still here");
    drop((server, last));
    assert!(returned.try_recv().is_err(), "what was accepted stays");
}

/// However listeners come and go meanwhile, each stream is accepted once or comes back once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_is_lost_between_listeners_that_come_and_go() {
    const STREAMS: usize = 300;
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let to = at(a.ip(), 8080);
    let (sender, returned) = mpsc::channel();
    let back: GiveBack = Arc::new(move |handed| {
        let _ = sender.send(handed);
    });
    let accepting = tokio::spawn(async move {
        let mut accepted = 0;
        while accepted < STREAMS {
            let listener = listen(&a, "0.0.0.0:8080");
            for _ in 0..3 {
                let mut stream = accept(&listener).await;
                stream.write_all(b"x").await.expect("open");
                accepted += 1;
                if accepted == STREAMS {
                    break;
                }
            }
        }
    });
    let mut clients = Vec::new();
    for _ in 0..STREAMS {
        let (client, handed) = accepted(None, &back).await;
        clients.push(client);
        let mut waiting = Some(handed);
        while let Some(handed) = waiting.take().or_else(|| returned.try_recv().ok()) {
            waiting = fabric.hand_over(to, handed).err().map(|error| error.handed);
            tokio::task::yield_now().await;
        }
    }
    // What came back after the last round goes on until all were accepted.
    while !accepting.is_finished() {
        let mut waiting = returned.try_recv().ok();
        while let Some(handed) = waiting.take() {
            waiting = fabric.hand_over(to, handed).err().map(|error| error.handed);
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
    }
    accepting.await.expect("every stream arrived");
    for mut client in clients {
        let mut heard = Vec::new();
        soon(client.read_to_end(&mut heard)).await.expect("an end");
        assert_eq!(heard, b"x");
    }
    assert!(returned.try_recv().is_err());
}
