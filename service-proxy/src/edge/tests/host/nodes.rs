//! Two nodes, each in a namespace of its own and joined by a pair of interfaces.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Stdio};

use super::pods::{ask, echo_udp, node_config, node_fabric, refusal};
use super::*;

/// A pod of the other node, at which a program of its host listens here.
const REMOTE_POD: &str = "10.244.2.9:80";

/// Set for what runs on the other node: what it is to do.
const ELSEWHERE: &str = "CORACLE_TEST_ELSEWHERE";

/// The other node. It is gone with this.
struct OtherNode {
    process: Child,
    /// Closed at the end.
    _stdin: Option<ChildStdin>,
}

impl OtherNode {
    /// Makes a namespace, joins it to this one, and tells both nodes where the other's pods are.
    fn new() -> OtherNode {
        let mut process = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo there && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut told).unwrap();
        assert_eq!(told, "there\n");
        let stdin = process.stdin.take();
        let other = OtherNode {
            process,
            _stdin: stdin,
        };
        let id = other.process.id();
        for command in [
            format!("link add va type veth peer name vb netns {id}"),
            "address add 198.51.100.1/24 dev va".to_owned(),
            "link set va up".to_owned(),
        ] {
            run(Command::new("ip").args(command.split(' ')));
        }
        for command in [
            "link set lo up",
            "address add 198.51.100.2/24 dev vb",
            "link set vb up",
            "route add 10.244.1.0/24 via 198.51.100.1",
            "route add 10.96.0.0/16 via 198.51.100.1",
            "route add 192.0.2.1/32 via 198.51.100.1",
            "route add local 10.244.2.0/24 dev lo src 198.51.100.2",
        ] {
            run(other.command("ip").args(command.split(' ')));
        }
        run(Command::new("ip").args("route add 10.244.2.0/24 via 198.51.100.2".split(' ')));
        other
    }

    /// Returns a command that runs there.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.process.id().to_string(), "--net"])
            .arg(program);
        command
    }

    /// Runs a program of the other node's host, which [`what_runs_elsewhere`] is.
    fn host(&self, task: &str) -> Child {
        self.command(std::env::current_exe().unwrap())
            .args(["--exact", "edge::tests::host::nodes::what_runs_elsewhere"])
            .arg("--nocapture")
            .env(ELSEWHERE, task)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for OtherNode {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
}

/// Waits for a program to end, and returns the lines of it that say something.
async fn said(program: Child) -> Vec<String> {
    let output = tokio::task::spawn_blocking(|| program.wait_with_output());
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let lines = text.lines().filter_map(|line| line.strip_prefix("says "));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn what_runs_elsewhere() {
    let Ok(task) = std::env::var(ELSEWHERE) else {
        return;
    };
    let (what, rest) = task.split_once(' ').unwrap();
    let (to, unserved) = rest.split_once(' ').unwrap_or((rest, ""));
    let to = to.parse::<SocketAddr>().unwrap();
    // After the line in which the test's name is printed.
    println!();
    match what {
        "connect" => {
            let (mut stream, name) = connect(to).await.expect("served");
            echo(&mut stream, b"from afar").await;
            println!("says {name} {}", stream.local_addr().unwrap());
            println!("says {:?}", refusal(unserved.parse().unwrap()).await);
        }
        "ask" => {
            let heard = ask(to, b"from afar").await.unwrap();
            println!("says {}", String::from_utf8(heard).unwrap());
            let nobody = ask(unserved.parse().unwrap(), b"").await.unwrap_err();
            println!("says {:?}", nobody.kind());
        }
        "serve" => {
            let tcp = TcpListener::bind(to).await.unwrap();
            let udp = UdpSocket::bind(to).await.unwrap();
            println!("says ready");
            let (mut stream, peer) = tcp.accept().await.unwrap();
            stream
                .write_all(peer.ip().to_string().as_bytes())
                .await
                .unwrap();
            drop(stream);
            let mut buffer = [0; 64];
            let (_, peer) = udp.recv_from(&mut buffer).await.unwrap();
            let answer = peer.to_string();
            udp.send_to(answer.as_bytes(), peer).await.unwrap();
        }
        "proxy" => proxy(to).await,
        _ => unreachable!("no such task"),
    }
}

/// The load balancer of the other node, whose Service has a pod of this one as its endpoint.
async fn proxy(endpoint: SocketAddr) {
    let web = service("web");
    route(&web, &[endpoint]);
    let edge = Edge::start(EdgeConfig::default(), None).unwrap();
    edge.apply(fronts(&[(cluster_ip(), front(&web, FrontKind::ClusterIp))]));
    let (mut stream, name) = connect(published(&edge, cluster_ip()).await)
        .await
        .expect("served");
    echo(&mut stream, b"relayed").await;
    println!("says {name}");
}

#[tokio::test]
async fn another_node_reaches_pods_of_this_one() {
    if is_inside("nodes::another_node_reaches_pods_of_this_one") {
        another_node_reaches_pods().await;
    }
}

#[tokio::test]
async fn another_node_reaches_pods_by_rules() {
    let test = "nodes::another_node_reaches_pods_by_rules";
    if is_inside_by_rules(test) {
        another_node_reaches_pods().await;
    }
}

#[tokio::test]
async fn another_node_reaches_pods_by_sockets() {
    let test = "nodes::another_node_reaches_pods_by_sockets";
    if is_inside_by_sockets(test) {
        another_node_reaches_pods().await;
    }
}

async fn another_node_reaches_pods() {
    let other = OtherNode::new();
    let fabric = node_fabric();
    let edge = start(node_config(), Some(fabric.clone())).unwrap();
    let a = pod(&fabric, "a");
    let (listener, at) = listen(&a, 8);
    let serving = serve(listener, "a");
    let _answering = echo_udp(&a, 5_353);
    let unserved = SocketAddr::from((a.ip(), 81));
    let lines = said(other.host(&format!("connect {at} {unserved}"))).await;
    assert!(lines[0].starts_with("a 198.51.100.2:"), "{lines:?}");
    assert_eq!(lines[1], "ConnectionRefused");
    let dns = SocketAddr::from((a.ip(), 5_353));
    let lines = said(other.host(&format!("ask {dns} {unserved}"))).await;
    assert_eq!(lines, ["from afar", "ConnectionRefused"]);
    assert_eq!(said(other.host(&format!("proxy {at}"))).await, ["a"]);
    // Whom a pod sees is who connects.
    serving.abort();
    drop(serving.await);
    let (listener, at) = listen(&a, 8);
    let program = other.host(&format!("connect {at} {unserved}"));
    let stream = tokio::time::timeout(PATIENCE, listener.accept()).await;
    let stream = stream.expect("in time").unwrap();
    assert_eq!(stream.peer_addr().ip().to_string(), "198.51.100.2");
    assert_eq!(stream.local_addr(), at);
    greet_and_echo(stream, "a").await;
    said(program).await;
    edge.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn pods_come_from_their_own_addresses_within_the_cluster() {
    if is_inside("nodes::pods_come_from_their_own_addresses_within_the_cluster") {
        pods_come_from_their_own_addresses().await;
    }
}

#[tokio::test]
async fn pods_come_from_their_own_addresses_by_rules() {
    let test = "nodes::pods_come_from_their_own_addresses_by_rules";
    if is_inside_by_rules(test) {
        pods_come_from_their_own_addresses().await;
    }
}

#[tokio::test]
async fn pods_come_from_their_own_addresses_by_sockets() {
    let test = "nodes::pods_come_from_their_own_addresses_by_sockets";
    if is_inside_by_sockets(test) {
        pods_come_from_their_own_addresses().await;
    }
}

async fn pods_come_from_their_own_addresses() {
    let other = OtherNode::new();
    let fabric = node_fabric();
    // The other node's range is heard of after the start.
    let edge = start(config("10.96.0.0/16"), Some(fabric.clone())).unwrap();
    edge.set_pod_ranges(vec!["10.244.2.0/24".parse().unwrap()]);
    let a = pod(&fabric, "a");
    for (remote, is_within) in [(REMOTE_POD, true), ("198.51.100.2:80", false)] {
        let mut program = other.host(&format!("serve {remote}"));
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "says ready"));
        let remote = remote.parse().unwrap();
        let mut stream = a.connect(None, remote).await.unwrap();
        let mut seen = String::new();
        let read = stream.read_to_string(&mut seen);
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("in time")
            .unwrap();
        let node = "198.51.100.1".to_owned();
        assert_eq!(seen, if is_within { a.ip().to_string() } else { node });
        let socket = a.bind_udp(SocketAddr::from(([0; 4], 0))).unwrap();
        socket.try_send_to(b"question", remote).unwrap();
        let mut buffer = [0; 64];
        let receive = std::future::poll_fn(|cx| socket.poll_recv_ready(cx));
        tokio::time::timeout(PATIENCE, receive)
            .await
            .expect("in time")
            .unwrap();
        let (bytes, from) = socket.try_recv_from(&mut buffer).unwrap();
        assert_eq!(from, remote);
        let seen = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
        let own = SocketAddr::new(a.ip().into(), socket.local_addr().port());
        assert_eq!(seen == own.to_string(), is_within, "{seen}");
        program.wait().unwrap();
    }
    // The host's own loopback is not reached by the detour over its address among pods.
    let _daemon = TcpListener::bind("127.0.0.1:8022").await.unwrap();
    for closed in ["127.0.0.2:8022", "10.244.1.200:80"] {
        a.connect(None, closed.parse().unwrap())
            .await
            .expect_err("closed");
    }
    edge.stop(Duration::ZERO).await;
}
