//! Whose memory buffers are, and what is counted of what passes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coracle_network::{PodTraffic, Purse};
use tokio::io::AsyncWriteExt;

use crate::fixture::*;

/// Memory of which there is so much.
struct Memory {
    left: AtomicUsize,
}

impl Purse for Memory {
    fn take(&self, bytes: usize) -> bool {
        let fits = |left: usize| left.checked_sub(bytes);
        let taken = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits);
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::SeqCst);
    }
}

const KIB: usize = 1024;

/// Writes without waiting until nothing more is taken.
fn fill(stream: &coracle_network::Stream) -> usize {
    let piece = [1; 4 * KIB];
    let mut sum = 0;
    while let Ok(taken) = stream.try_write(&piece) {
        sum += taken;
    }
    sum
}

#[tokio::test]
async fn a_writer_has_no_more_buffer_than_its_pod_has_memory() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let memory = Arc::new(Memory {
        left: AtomicUsize::new(32 * KIB),
    });
    a.pay_from(memory.clone());
    let listener = listen(&b, "0.0.0.0:80");
    let (first, mut server) = pair(&a, &listener, at(b.ip(), 80)).await;
    let (second, other) = pair(&a, &listener, at(b.ip(), 80)).await;
    assert!(fill(&first) >= 16 * KIB);
    // What every connection is promised is held all the same.
    assert!(fill(&second) >= 4 * KIB);
    assert!(memory.left.load(Ordering::SeqCst) < 16 * KIB);
    assert_eq!(fill(&server), 64 * KIB, "the other pod pays for its own");
    server.shutdown().await.expect("it is open");
    drop((first, second, server, other, listener));
    a.detach();
    drop(a);
    assert_eq!(memory.left.load(Ordering::SeqCst), 32 * KIB);
}

#[tokio::test]
async fn what_pods_say_to_each_other_is_counted_at_both() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let meters = [a.traffic(), b.traffic()];
    let read = || meters.clone().map(|meter| meter.read().expect("attached"));
    let listener = listen(&b, "0.0.0.0:80");
    let (mut client, mut server) = pair(&a, &listener, at(b.ip(), 80)).await;
    say(&mut client, &mut server, "four").await;
    say(&mut server, &mut client, "seventy").await;
    drop((client, server));
    let traffic = |received, sent| PodTraffic { received, sent };
    assert_eq!(read(), [traffic(7, 4), traffic(4, 7)]);
    // A pod that speaks to itself uses no network.
    let own = listen(&a, "127.0.0.1:80");
    let (mut client, mut server) = pair(&a, &own, address("127.0.0.1:80")).await;
    say(&mut client, &mut server, "nothing").await;
    drop((client, server));
    let to: SocketAddr = at(b.ip(), 53);
    let (from, socket) = (
        a.bind_udp(address("0.0.0.0:53")),
        b.bind_udp(address("0.0.0.0:53")),
    );
    let (from, socket) = (from.expect("a socket"), socket.expect("a socket"));
    from.try_send_to(b"ask", to).expect("it is sent");
    receive(&socket).await;
    assert_eq!(read(), [traffic(7, 7), traffic(7, 7)]);
    drop((from, socket, own, listener));
    a.detach();
    drop(a);
    assert_eq!(meters[0].read(), None, "it is gone");
}
