//! Requests in, answers out, over a pod's network.

use crate::guests;
use crate::world::{Container, PORT, World};
use coracle_network::{PodNetwork, Stream};
use coracle_runtime::{ExitCause, Instance, Instances, StartError};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: pod\r\n\r\n";
const LAST_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n";

/// A started handler with its address.
struct Served {
    world: World,
    pod: PodNetwork,
    instance: Instance,
}

impl Served {
    async fn new(wasm: &[u8], change: impl FnOnce(&mut coracle_runtime::SandboxSpec)) -> Self {
        let world = World::new();
        let container = world.container(wasm).await.with(change);
        let pod = container.spec.network.clone();
        let instance = container.start();
        Self {
            world,
            pod,
            instance,
        }
    }

    async fn connect(&self) -> Stream {
        let address = SocketAddr::from((self.pod.ip(), PORT));
        self.world
            .fabric
            .dial(address)
            .await
            .expect("the handler listens")
    }

    /// Sends one request on a connection of its own and returns everything that came back.
    async fn get(&self) -> String {
        let mut stream = self.connect().await;
        stream
            .write_all(LAST_REQUEST)
            .await
            .expect("the handler reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("the handler answers in full");
        answer
    }
}

async fn plain(wasm: &[u8]) -> Served {
    Served::new(wasm, |_| {}).await
}

/// Reads one answer and returns its body.
async fn read_answer(stream: &mut Stream) -> String {
    let mut answer = Vec::new();
    loop {
        let n = stream
            .read_buf(&mut answer)
            .await
            .expect("the handler answers");
        let text = String::from_utf8_lossy(&answer);
        assert_ne!(n, 0, "{text}");
        if let Some(body) = guests::body_of(&text) {
            return body;
        }
    }
}

#[tokio::test]
async fn a_handler_answers_over_its_pods_network() {
    let served = plain(&guests::answers()).await;
    let answer = served.get().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(guests::body_of(&answer).as_deref(), Some("1"), "{answer}");
}

#[tokio::test]
async fn two_pods_serve_the_same_port() {
    let (one, two) = (
        plain(&guests::answers()).await,
        plain(&guests::answers()).await,
    );
    assert!(one.get().await.contains("200 OK"));
    assert!(two.get().await.contains("200 OK"));
}

#[tokio::test]
async fn a_connection_serves_many_requests_each_with_a_fresh_instance() {
    let served = plain(&guests::answers()).await;
    let mut stream = served.connect().await;
    for _ in 0..3 {
        stream.write_all(REQUEST).await.expect("the handler reads");
        assert_eq!(read_answer(&mut stream).await, "1");
    }
}

#[tokio::test]
async fn a_handler_that_opted_in_reuses_its_instance() {
    let reuse = |spec: &mut coracle_runtime::SandboxSpec| spec.handler.instances = Instances::Reuse;
    let served = Served::new(&guests::answers(), reuse).await;
    let mut stream = served.connect().await;
    for count in 1..=3 {
        stream.write_all(REQUEST).await.expect("the handler reads");
        assert_eq!(read_answer(&mut stream).await, count.to_string());
    }
}

#[tokio::test]
async fn reuse_ends_with_the_first_failure_of_a_reused_instance() {
    // The second request of an instance traps.
    let fails = "(if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 50)) (then unreachable))";
    let reuse = |spec: &mut coracle_runtime::SandboxSpec| spec.handler.instances = Instances::Reuse;
    let served = Served::new(&guests::handler(fails, ""), reuse).await;
    assert!(served.get().await.contains("200 OK"));
    assert!(served.get().await.contains("500 Internal"));
    for _ in 0..3 {
        assert!(served.get().await.contains("200 OK"));
    }
}

#[tokio::test]
async fn an_idle_handler_holds_no_instance() {
    let served = plain(&guests::answers()).await;
    assert!(served.get().await.contains("200 OK"));
    while served.instance.usage().memory != 0 {
        tokio::task::yield_now().await;
    }
    assert!(served.instance.usage().memory_peak > 0);
}

#[tokio::test]
async fn a_trap_is_an_answer_of_500_and_a_line_on_standard_error() {
    let world = World::new();
    let container = world.container(&guests::handler("unreachable", "")).await;
    let (pod, stderr) = (container.spec.network.clone(), container.stderr.clone());
    let served = Served {
        pod,
        instance: container.start(),
        world,
    };
    assert!(served.get().await.starts_with("HTTP/1.1 500 "));
    assert!(
        stderr.text().starts_with("wasm trap: wasm `unreachable`"),
        "{}",
        stderr.text()
    );
    assert_eq!(served.instance.exit(), None);
    assert!(served.get().await.starts_with("HTTP/1.1 500 "));
}

// Without this a client takes half an answer for a whole one.
#[tokio::test]
async fn an_answer_whose_guest_fails_half_way_is_cut_off() {
    let served = plain(&guests::handler("", "unreachable")).await;
    let mut stream = served.connect().await;
    stream
        .write_all(LAST_REQUEST)
        .await
        .expect("the handler reads");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(guests::body_of(&answer), None, "{answer}");
}

#[tokio::test]
async fn a_guest_that_never_answers_is_ended_at_its_deadline() {
    let served = Served::new(&guests::handler("(loop $again (br $again))", ""), |spec| {
        spec.handler.request_deadline = Duration::from_millis(50);
    })
    .await;
    assert!(served.get().await.starts_with("HTTP/1.1 504 "));
    while served.instance.usage().memory != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_guest_whose_client_left_is_ended() {
    let served = plain(&guests::handler("(loop $again (br $again))", "")).await;
    let mut stream = served.connect().await;
    stream.write_all(REQUEST).await.expect("the handler reads");
    while served.instance.usage().memory == 0 {
        tokio::task::yield_now().await;
    }
    drop(stream);
    while served.instance.usage().memory != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_and_are_then_told_to_come_back() {
    let served = Served::new(&guests::handler("(loop $again (br $again))", ""), |spec| {
        spec.handler.instances_max = 1;
        spec.handler.queue_deadline = Duration::from_millis(50);
    })
    .await;
    let mut first = served.connect().await;
    first.write_all(REQUEST).await.expect("the handler reads");
    while served.instance.usage().memory == 0 {
        tokio::task::yield_now().await;
    }
    let answer = served.get().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("retry-after: 1"), "{answer}");
}

#[tokio::test]
async fn a_request_without_a_host_is_a_bad_request() {
    let served = plain(&guests::answers()).await;
    let mut stream = served.connect().await;
    stream
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .await
        .expect("the handler reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.contains(" 400 "), "{answer}");
}

// RFC 9112, section 3.2: two readers of one request could see two hosts.
#[tokio::test]
async fn a_request_with_two_hosts_is_a_bad_request() {
    let served = plain(&guests::answers()).await;
    for hosts in ["host: pod\r\nhost: other\r\n", "host: pod\r\nHost: pod\r\n"] {
        let mut stream = served.connect().await;
        let request = format!("GET / HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("the handler reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.contains(" 400 "), "{answer}");
    }
}

#[tokio::test]
async fn a_stopped_handler_finishes_and_exits_143() {
    let served = plain(&guests::answers()).await;
    let mut idle = served.connect().await;
    idle.write_all(REQUEST).await.expect("the handler reads");
    read_answer(&mut idle).await;
    served.instance.stop();
    let exit = served.instance.exited().await;
    assert_eq!((exit.code, exit.cause), (143, ExitCause::Stopped));
    let mut rest = Vec::new();
    assert_eq!(idle.read_to_end(&mut rest).await.expect("a clean end"), 0);
}

#[tokio::test]
async fn a_draining_handler_still_accepts_and_says_that_it_closes() {
    let served = Served::new(&guests::answers(), |spec| {
        spec.handler.drain_delay = Duration::from_secs(3_600);
    })
    .await;
    served.instance.stop();
    let mut stream = served.connect().await;
    stream.write_all(REQUEST).await.expect("the handler reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("an answer and its end");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(served.instance.exit(), None);
    served.instance.kill();
    assert_eq!(served.instance.exited().await.code, 137);
}

#[tokio::test]
async fn a_killed_handler_ends_with_its_guests() {
    let served = plain(&guests::handler("(loop $again (br $again))", "")).await;
    let mut stream = served.connect().await;
    stream.write_all(REQUEST).await.expect("the handler reads");
    while served.instance.usage().memory == 0 {
        tokio::task::yield_now().await;
    }
    served.instance.kill();
    let exit = served.instance.exited().await;
    assert_eq!((exit.code, exit.cause), (137, ExitCause::Killed));
    assert_eq!(served.instance.usage().memory, 0);
}

#[tokio::test]
async fn a_handler_whose_network_is_gone_has_stopped() {
    let served = plain(&guests::answers()).await;
    served.pod.detach();
    assert_eq!(served.instance.exited().await.code, 143);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let world = World::new();
    let first = world.container(&guests::answers()).await;
    let pod = first.spec.network.clone();
    let first = first.start();
    let second: Container = world.container(&guests::answers()).await;
    match second.with(|spec| spec.network = pod).try_start() {
        Err(StartError::Listen { port: PORT, .. }) => {}
        other => panic!("{:?}", other.map(|_| "it started")),
    }
    first.kill();
    first.exited().await;
}

// Everything that a handler is told about its request, and what it may make of its answer.
#[tokio::test]
async fn a_handler_is_told_what_it_was_asked() {
    let served = plain(&guests::tells_what_it_was_asked()).await;
    let mut stream = served.connect().await;
    let request = b"PUT /a/b?c=d HTTP/1.1\r\nhost: pod:81\r\nx-test: yes\r\ncontent-length: 4\r\n\
        connection: close\r\n\r\nbody";
    stream.write_all(request).await.expect("the handler reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("the handler answers in full");
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
    let asked = "3;/a/b?c=d;pod:81;0;yes;0;1;body;";
    let fields = "3;2;1;0;";
    let body = format!("{asked}{fields}1;");
    assert_eq!(guests::body_of(&answer), Some(body), "{answer}");
}
