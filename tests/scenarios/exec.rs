//! `kubectl exec`, `attach`, `cp` and `port-forward`, over WebSocket and over SPDY.
//!
//! As in `kubectl.rs`, `CORACLE_TEST_PEERS=1` switches these scenarios on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;

use coracle_tests::{Cluster, Coracle, Kubectl, StreamProtocol, get, repository};

/// More than every buffer on the way holds.
const LARGE: usize = 3 << 20;

/// A server with a folder of tools, and a shell that answers what it is told.
const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: hello:1
    imagePullPolicy: Never
    ports: [{name: http, containerPort: 80}]
    env: [{name: GREETING, value: ahoy}]
    volumeMounts: [{name: work, mountPath: /work}]
  volumes:
  - {name: work, emptyDir: {}}
---
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: toolbox:1
    imagePullPolicy: Never
    stdin: true
    command: [sh, -c, 'while read line; do echo \"heard $line\"; done']
";

/// Runs a scenario with every kubectl and both protocols, on one cluster with two running pods.
fn with_each_protocol(scenario: impl Fn(&Kubectl)) {
    if std::env::var_os("CORACLE_TEST_PEERS").is_none_or(|value| value != "1") {
        return;
    }
    let programs = Kubectl::programs();
    assert!(!programs.is_empty(), "`kubectl` is installed");
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    for (name, file) in [
        ("hello:1", "samples/hello-http/hello-http.wasm"),
        ("toolbox:1", "samples/toolbox/toolbox.wasm"),
    ] {
        let file = repository().join(file);
        let file = file.to_str().expect("the folder's name is text");
        let built = coracle.finish(&["image", "build", file, "--tag", name]);
        assert_eq!(built.code, Some(0), "{built:?}");
    }
    let cluster = Cluster::start(&coracle);
    let first = Kubectl::new(&programs[0], cluster.kubeconfig());
    first.ok_with("apply -f -", PODS);
    // The toolbox is compiled first.
    first.ok("wait pod/web pod/shell --for=condition=Ready --timeout=240s");
    for program in &programs {
        for protocol in [StreamProtocol::WebSocket, StreamProtocol::Spdy] {
            eprintln!("with {}, {protocol:?}", program.display());
            scenario(&Kubectl::new(program, cluster.kubeconfig()).speaking(protocol));
        }
    }
    cluster.run.interrupt();
    assert_eq!(cluster.run.end().code, Some(0));
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

/// Outputs stay apart, and the exit code passes through.
#[test]
fn a_program_is_executed_in_a_container() {
    with_each_protocol(|kubectl| {
        let script = "echo $GREETING; echo trouble >&2; exit 3";
        let told = kubectl.tell(&["exec", "web", "--", "sh", "-c", script], "");
        assert_eq!((told.code, told.stdout.as_str()), (3, "ahoy\n"), "{told:?}");
        contains(
            &told.stderr,
            &["trouble\n", "command terminated with exit code 3"],
        );
        let told = kubectl.tell(&["exec", "web", "--", "sh", "-c", "echo fine"], "");
        assert_eq!((told.code, told.stdout.as_str()), (0, "fine\n"), "{told:?}");
        for (line, expected) in [
            (
                "exec web -- no-such-program",
                "executable file not found in $PATH",
            ),
            (
                "exec web -c other -- ls",
                "container other is not valid for pod web",
            ),
            ("exec nobody -- ls", "pods \"nobody\" not found"),
            ("exec web --as someone -- ls", "User \"someone\" cannot"),
        ] {
            contains(&kubectl.fails(line), &[expected]);
        }
    });
}

/// Every kind of record that the cluster's DNS has is found from within a pod, over UDP and TCP.
#[test]
fn names_of_the_cluster_are_looked_up_in_a_pod() {
    with_each_protocol(|kubectl| {
        for (line, expected) in [
            (
                "nslookup kubernetes.default",
                "Name:\tkubernetes.default.svc.cluster.local\nAddress: 10.96.0.1\n",
            ),
            (
                "nslookup 10.96.0.1",
                "1.0.96.10.in-addr.arpa\tname = kubernetes.default.svc.cluster.local.\n",
            ),
            (
                "nslookup -type=srv _https._tcp.kubernetes.default 10.96.0.10",
                "service = 0 100 443 kubernetes.default.svc.cluster.local.\n",
            ),
            (
                "dig +tcp +noall +answer +search kubernetes.default",
                "kubernetes.default.svc.cluster.local.\t5\tIN\tA\t10.96.0.1\n",
            ),
            ("dig +short txt dns-version.cluster.local", "\"1.1.0\"\n"),
            (
                "dig -x 10.96.0.10 +short",
                "kube-dns.kube-system.svc.cluster.local.\n",
            ),
            ("dig nobody.default.svc.cluster.local", "status: NXDOMAIN"),
            ("dig aaaa kubernetes.default.svc.cluster.local", "ANSWER: 0"),
        ] {
            let words = ["exec", "web", "--"].into_iter().chain(line.split(' '));
            let told = kubectl.tell(&words.collect::<Vec<_>>(), "");
            assert_eq!(told.code, 0, "{line}: {told:?}");
            contains(&told.stdout, &[expected]);
        }
        let nobody = "exec web -- nslookup nobody.default.svc.cluster.local.";
        let told = kubectl.tell(&nobody.split(' ').collect::<Vec<_>>(), "");
        assert_eq!(told.code, 1, "{told:?}");
        contains(&told.stdout, &["NXDOMAIN"]);
    });
}

/// What is typed or piped reaches the program to its end, and comes back whole.
#[test]
fn input_reaches_a_program_to_its_end() {
    with_each_protocol(|kubectl| {
        let input = "0123456789abcde\n".repeat(LARGE / 16);
        let told = kubectl.tell(&["exec", "-i", "web", "--", "cat"], &input);
        assert_eq!((told.code, told.stderr.as_str()), (0, ""));
        assert!(
            told.stdout == input,
            "{} bytes came back",
            told.stdout.len()
        );
        // A program that reads no further ends all the same, and its code is told.
        let told = kubectl.tell(&["exec", "-i", "web", "--", "head", "-c", "5"], &input);
        assert_eq!((told.code, told.stdout.as_str()), (0, "01234"), "{told:?}");
        // Without `-i` there is nothing to read.
        let told = kubectl.tell(&["exec", "web", "--", "cat"], "unheard");
        assert_eq!((told.code, told.stdout.as_str()), (0, ""), "{told:?}");
    });
}

/// The program of the container itself can be spoken to.
#[test]
fn a_container_is_attached_to() {
    with_each_protocol(|kubectl| {
        let mut attached = kubectl
            .command(&["attach", "-i", "shell"])
            .spawn()
            .expect("kubectl starts");
        let mut stdin = attached.stdin.take().expect("stdin is piped");
        let mut lines = BufReader::new(attached.stdout.take().expect("stdout is piped")).lines();
        for word in ["ahoy", "there"] {
            writeln!(stdin, "{word}").expect("kubectl reads");
            let heard = lines.find_map(|line| line.ok().filter(|line| line.starts_with("heard")));
            assert_eq!(heard.as_deref(), Some(format!("heard {word}").as_str()));
        }
        end(attached);
    });
}

/// Files and folders are copied in and out.
#[test]
fn files_are_copied_both_ways() {
    with_each_protocol(|kubectl| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = folder.path().join("source");
        std::fs::create_dir_all(source.join("inner")).expect("a folder");
        let large = "a longer file\n".repeat(LARGE / 14);
        std::fs::write(source.join("large"), &large).expect("a file");
        std::fs::write(source.join("inner/small"), "small").expect("a file");
        let text = |name: &str| {
            let path = folder.path().join(name);
            path.to_str().expect("the folder's name is text").to_owned()
        };
        kubectl.ok(&format!("cp {} web:/work/copy", text("source")));
        let told = kubectl.ok("exec web -- cat /work/copy/inner/small");
        assert_eq!(told, "small");
        kubectl.ok(&format!("cp web:/work/copy {}", text("back")));
        let back = folder.path().join("back");
        let read = |name: &str| std::fs::read_to_string(back.join(name)).expect("a file");
        assert_eq!(read("inner/small"), "small");
        assert!(read("large") == large);
        kubectl.ok("exec web -- rm -r /work/copy");
    });
}

/// Starts a forward, and returns it with the local port.
fn forward(kubectl: &Kubectl, port: &str) -> (Child, u16) {
    let mut child = kubectl
        .command(&["port-forward", "web", port])
        .spawn()
        .expect("kubectl starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("kubectl says something");
    let local = line.strip_prefix("Forwarding from 127.0.0.1:");
    let local = local.and_then(|rest| rest.split(' ').next()?.parse().ok());
    let local = local.unwrap_or_else(|| panic!("{line:?}"));
    // Kubectl must be able to go on talking.
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    (child, local)
}

fn end(mut child: Child) -> String {
    // It may have ended by itself.
    let _ = child.kill();
    let mut stderr = String::new();
    let mut pipe = child.stderr.take().expect("stderr is piped");
    pipe.read_to_string(&mut stderr).expect("stderr is text");
    child.wait().expect("kubectl ends");
    stderr
}

/// A forwarded port answers, many connections at once, and each has its own fate.
#[test]
fn a_port_is_forwarded() {
    with_each_protocol(|kubectl| {
        let (child, port) = forward(kubectl, ":80");
        let url = format!("http://127.0.0.1:{port}");
        let ask = || {
            let answer = get(&url, "/").expect("the pod answers");
            assert_eq!(answer.status, 200, "{answer:?}");
        };
        for _ in 0..3 {
            ask();
        }
        std::thread::scope(|scope| {
            for _ in 0..24 {
                scope.spawn(ask);
            }
        });
        end(child);
    });
}

/// A port on which nobody listens is told about, and the cluster goes on.
#[test]
fn a_port_nobody_listens_on_is_told_about() {
    with_each_protocol(|kubectl| {
        let (child, port) = forward(kubectl, ":81");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("kubectl listens");
        // The connection ends, with or without a reset.
        let _ = stream.read(&mut [0; 1]);
        contains(
            &end(child),
            &["failed to connect to localhost:81 inside pod: connection refused"],
        );
        let (child, port) = forward(kubectl, ":80");
        let answer = get(&format!("http://127.0.0.1:{port}"), "/").expect("the pod answers");
        assert_eq!(answer.status, 200);
        end(child);
    });
}
