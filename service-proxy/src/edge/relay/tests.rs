use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream as StdTcpStream};

use futures::poll;
use tokio::net::TcpStream;

use super::*;
use crate::edge::limits::Connections;

/// A relay and the far ends of its two connections.
struct Joined {
    relay: Relay,
    client: StdTcpStream,
    server: StdTcpStream,
    endpoint: Arc<Endpoint>,
    relays: Arc<Relays>,
}

fn join() -> Joined {
    let (client, near_client) = connection();
    let (server, near_server) = connection();
    let endpoint = Endpoint::new(server.local_addr().unwrap());
    let relays = relays();
    let relay = Relay::new(
        near_client,
        near_server,
        Arc::clone(&endpoint),
        Arc::clone(&relays),
        Connections::new(1, 1).enter([127, 0, 0, 1].into()).unwrap(),
    );
    Joined {
        relay,
        client,
        server,
        endpoint,
        relays,
    }
}

fn relays() -> Arc<Relays> {
    Arc::new(Relays {
        pipes: Pipes::new(4),
        counters: Arc::default(),
    })
}

/// Returns a far end, blocking, and the near one.
fn connection() -> (StdTcpStream, Side) {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = TcpListener::bind(any).unwrap();
    let far = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
    far.set_nodelay(true).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    (far, Side::new(TcpStream::from_std(near).unwrap()))
}

/// Runs blocking work beside the runtime.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn bytes_and_the_end_of_each_stream_are_passed_on() {
    let Joined {
        relay,
        mut client,
        mut server,
        endpoint,
        relays,
    } = join();
    let relay = tokio::spawn(relay);
    beside(move || {
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).unwrap();
        assert_eq!(question, "question");
        // The other direction goes on after the first has ended.
        server.write_all(b"long answer").unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "long answer");
    })
    .await;
    relay.await.unwrap();
    assert_eq!(relays.counters.reset.load(Ordering::Relaxed), 0);
    let counters = endpoint.counters();
    assert_eq!(counters.received_bytes.load(Ordering::Relaxed), 8);
    assert_eq!(counters.sent_bytes.load(Ordering::Relaxed), 11);
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    if coracle_tests::beyond_wine("wine sends what it closes an end, not a reset") {
        return;
    }
    for from_client in [true, false] {
        let Joined {
            relay,
            client,
            server,
            relays,
            ..
        } = join();
        let relay = tokio::spawn(relay);
        let (breaks, mut meets) = match from_client {
            true => (client, server),
            false => (server, client),
        };
        beside(move || {
            (&breaks).write_all(b"x").unwrap();
            assert_eq!(meets.read(&mut [0; 8]).unwrap(), 1);
            socket2::SockRef::from(&breaks)
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
            drop(breaks);
            let met = meets.read(&mut [0; 8]).map_err(|error| error.kind());
            assert_eq!(met, Err(io::ErrorKind::ConnectionReset));
        })
        .await;
        relay.await.unwrap();
        assert_eq!(relays.counters.reset.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn a_dropped_relay_resets_both_sides() {
    if coracle_tests::beyond_wine("wine sends what it closes an end, not a reset") {
        return;
    }
    let Joined {
        relay,
        mut client,
        mut server,
        ..
    } = join();
    drop(relay);
    beside(move || {
        for side in [&mut client, &mut server] {
            let met = side.read(&mut [0; 8]).map_err(|error| error.kind());
            assert_eq!(met, Err(io::ErrorKind::ConnectionReset));
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_costs_no_more_than_the_bound_and_loses_nothing() {
    let Joined {
        mut relay,
        client,
        mut server,
        ..
    } = join();
    client.set_nonblocking(true).unwrap();
    // Until neither the kernel nor the relay takes more: the reader reads nothing meanwhile.
    let bytes = pattern(16 * 1024);
    let mut sent = Vec::new();
    let mut stalls = 0;
    while stalls < 100 {
        assert!(poll!(&mut relay).is_pending());
        match (&client).write(&bytes[sent.len() % 251..]) {
            Ok(written) => {
                sent.extend_from_slice(&bytes[sent.len() % 251..][..written]);
                stalls = 0;
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                stalls += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    match &relay.up {
        Direction::Held(held) => assert!(held.bytes.capacity() <= SCRATCH_BYTES),
        Direction::Bulk(_) => {}
        Direction::Open(_) | Direction::Ended => panic!("the reader has not read"),
    }
    let relay = tokio::spawn(relay);
    beside(move || {
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        assert!(received == sent, "{} of {}", received.len(), sent.len());
        drop((client, server));
    })
    .await;
    relay.await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn bulk_goes_through_a_pipe_that_is_given_back_when_it_ends() {
    let Joined {
        mut relay,
        client,
        mut server,
        relays,
        endpoint,
    } = join();
    const BYTES: usize = 32 * 1024 * 1024;
    let sends = std::thread::spawn(move || {
        (&client).write_all(&pattern(BYTES)).unwrap();
        client
    });
    let reads = std::thread::spawn(move || {
        let mut received = vec![0; BYTES];
        server.read_exact(&mut received).unwrap();
        assert!(received == pattern(BYTES));
        server
    });
    let counted = || endpoint.counters().received_bytes.load(Ordering::Relaxed);
    // Bytes are counted when read, and written before the next wait for more.
    std::future::poll_fn(|cx| match relay.poll_both(cx) {
        Poll::Pending if counted() < BYTES as u64 => Poll::Pending,
        Poll::Pending => Poll::Ready(()),
        Poll::Ready(_) => panic!("nobody has ended"),
    })
    .await;
    let ends = tokio::task::spawn_blocking(|| (sends.join().unwrap(), reads.join().unwrap()));
    // What the last turn left in a pipe goes out as the reader reads.
    let (client, server) = tokio::select! {
        ends = ends => ends.unwrap(),
        _ = &mut relay => panic!("nobody has ended"),
    };
    assert!(relays.pipes.made() > 0, "no pipe was made");
    // The reader is on this machine, so little waits on the way to it; small pieces pass as before.
    let waiting = socket2::SockRef::from(relay.server.socket()).send_buffer_size();
    assert_eq!(waiting.unwrap(), 2 * 96 * 1024);
    let waiting = socket2::SockRef::from(relay.client.socket()).send_buffer_size();
    assert_ne!(waiting.unwrap(), 2 * 96 * 1024);
    assert!(matches!(relay.up, Direction::Open(_)), "the pipe is kept");
    // Small pieces are copied again.
    (&client).write_all(b"x").unwrap();
    let reads = tokio::task::spawn_blocking(move || {
        let mut byte = [0];
        (&server).read_exact(&mut byte).unwrap();
        byte
    });
    tokio::select! {
        byte = reads => assert_eq!(byte.unwrap(), *b"x"),
        _ = &mut relay => panic!("nobody has ended"),
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_pool_makes_no_more_pipes_than_it_may_and_counts_those_given_up() {
    let pipes = Pipes::new(2);
    let first = pipes.take().expect("free");
    let second = pipes.take().expect("free");
    assert!(pipes.take().is_none());
    drop(first);
    let third = pipes.take().expect("given back");
    assert_eq!(pipes.made(), 2);
    drop((second, third));
    assert!(pipes.take().is_some());
}

/// With it a task is two pairs of cache lines, 256 bytes; one word more and it is 384. What an idle
/// connection costs in all, the benchmark `edge` measures.
/// Windows' sockets carry a word more each, and there it is the larger size.
#[cfg(unix)]
#[test]
fn a_relay_fits_into_the_smallest_task() {
    assert!(size_of::<Relay>() <= 128, "{}", size_of::<Relay>());
}
