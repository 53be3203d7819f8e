//! Every sample through the real binary: what its README promises is what happens.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use coracle_tests::{Coracle, Ended, Run, files_with, get, repository};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

fn coracle() -> Coracle {
    Coracle::new(env!("CARGO_BIN_EXE_coracle"))
}

fn sample(path: &str) -> String {
    repository()
        .join("samples")
        .join(path)
        .display()
        .to_string()
}

/// Runs a sample that ends by itself and compares its code and, in order, its lines.
fn check_batch(path: &str, code: i32, expected: &[&str]) {
    let Ended {
        code: ended,
        stdout,
        stderr,
    } = coracle().finish(&["run", &sample(path)]);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        (ended, lines.as_slice()),
        (Some(code), expected),
        "{stderr}"
    );
}

/// Ends a run as Ctrl-C does and expects success.
fn check_end(run: Run) {
    run.interrupt();
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

/// The first thing a newcomer types.
#[test]
fn hello_http_answers_and_ends_with_success_on_a_signal() {
    let coracle = coracle();
    let mut run = coracle.start(&["run", &sample("hello-http")], "");
    let url = run.wait_for_address("http");
    assert_eq!(url, "http://127.0.0.1:8080");
    let answer = get(&url, "/").expect("the pod answers");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "Hello from a Coracle pod!\n")
    );
    check_end(run);
}

#[test]
fn tcp_echo_sends_back_what_it_receives() {
    let coracle = coracle();
    let mut run = coracle.start(&["run", &sample("tcp-echo")], "");
    let url = run.wait_for_address("tcp");
    assert_eq!(url, "tcp://127.0.0.1:7007");
    run.wait_for("the guest to listen", |line| {
        line.contains("listening").then_some(())
    });
    let mut stream = TcpStream::connect("127.0.0.1:7007").expect("the guest accepts");
    stream.write_all(b"ahoy\n").expect("the guest reads");
    stream
        .shutdown(Shutdown::Write)
        .expect("the stream is open");
    let mut echo = String::new();
    stream.read_to_string(&mut echo).expect("the guest writes");
    assert_eq!(echo, "ahoy\n");
    check_end(run);
}

/// A pod is ready when its probes say so, and what they find broken is started again.
#[test]
fn probes_make_a_pod_ready_restart_it_and_let_it_say_goodbye() {
    let coracle = coracle();
    let mut run = coracle.start(&["run", &sample("probes")], "");
    let address = run.wait_for_address("tcp");
    assert_eq!(address, "tcp://127.0.0.1:8088");
    let says = |words: &str| {
        let expected = format!("probes/server | {words}");
        move |line: &str| (line == expected).then_some(())
    };
    run.wait_for("readiness", says("ready"));
    let answer = get("http://127.0.0.1:8088", "/break").expect("the pod answers");
    assert_eq!((answer.status, answer.body.as_str()), (200, "broken\n"));
    run.wait_for_progress("a restart", |line| {
        line.contains("running (restart 1)").then_some(())
    });
    check_end(run);
}

/// Two containers meet on their pod's own localhost and in a shared folder.
#[test]
fn the_containers_of_sidecar_share_localhost_and_a_folder() {
    let coracle = coracle();
    let mut run = coracle.start(&["run", &sample("sidecar")], "");
    for page in 1..=3 {
        let expected = format!("127.0.0.1:8080 says: page {page} from the writer, request {page}");
        run.wait_for(&expected, |line| {
            (line == format!("sidecar/writer | {expected}")).then_some(())
        });
    }
    check_end(run);
}

/// The front end finds its back end by name, and goes on while that is started again.
#[test]
fn two_tier_survives_the_restart_of_its_back_end() {
    let coracle = coracle();
    let mut run = coracle.start(&["run", &sample("two-tier")], "");
    let url = "http://127.0.0.1:30080";
    run.wait_for("the front end's address", |line| {
        (line == format!("{url}  service/front:http")).then_some(())
    });
    let page = |wanted: &str| {
        let start = std::time::Instant::now();
        loop {
            let answer = get(url, "/").expect("the front end answers");
            if answer.body.contains(wanted) {
                return;
            }
            assert!(
                start.elapsed() < std::time::Duration::from_secs(60),
                "{wanted:?} is not shown: {answer:?}"
            );
        }
    };
    page("This is visit 2.");
    let told = get(url, "/restart").expect("the front end answers");
    assert_eq!(told.status, 200, "{told:?}");
    run.wait_for_progress("a restart", |line| {
        line.contains("running (restart 1)").then_some(())
    });
    page("This is visit 1.");
    check_end(run);
}

/// Two pods meet through a Service, again and again.
#[test]
fn round_trips_says_how_long_each_took() {
    let coracle = coracle();
    let mut run = coracle.start(&["run", &sample("round-trips")], "");
    for part in [
        "a connection with one byte to and fro: ",
        "a round trip of 64 bytes: ",
    ] {
        let prefix = format!("client/client | {part}");
        run.wait_for(part, |line| line.starts_with(&prefix).then_some(()));
    }
    check_end(run);
}

/// A change of the selector moves traffic from one version to the other.
#[tokio::test]
async fn canary_moves_traffic_with_a_change_of_the_selector() {
    let coracle = coracle();
    let kubeconfig = coracle.data().join("kubeconfig-of-the-scenario");
    let file = kubeconfig.to_str().expect("the folder's name is text");
    let args = [
        "run",
        &sample("canary"),
        "--api",
        "127.0.0.1:0",
        "--write-kubeconfig",
        file,
    ];
    let mut run = coracle.start(&args, "");
    let url = "http://127.0.0.1:30081";
    run.wait_for("the address", |line| {
        (line == format!("{url}  service/canary:http")).then_some(())
    });
    assert_eq!(get(url, "/").expect("it answers").body, "version one\n");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(read, &options).await;
    let client = kube::Client::try_from(config.expect("a configuration"));
    let services = Api::<Service>::default_namespaced(client.expect("a client"));
    let selector = json!({"spec": {"selector": {"version": "two"}}});
    services
        .patch("canary", &PatchParams::default(), &Patch::Merge(&selector))
        .await
        .expect("it is taken");
    let start = std::time::Instant::now();
    // While endpoints change, connections are served by the one or the other, and never by nobody.
    loop {
        let answer = get(url, "/").expect("it answers");
        match answer.body.as_str() {
            "version two\n" => break,
            other => assert_eq!(other, "version one\n"),
        }
        assert!(
            start.elapsed() < std::time::Duration::from_secs(60),
            "it does not move"
        );
    }
    check_end(run);
}

#[test]
fn batch_runs_to_its_end_and_its_variant_fails_with_its_own_code() {
    check_batch(
        "batch",
        0,
        &[
            "batch/primes | step 1 of 3: 168 primes below 1000",
            "batch/primes | step 2 of 3: 303 primes below 2000",
            "batch/primes | step 3 of 3: 430 primes below 3000",
        ],
    );
    check_batch(
        "batch/fails",
        3,
        &[
            "batch-fails/primes | step 1 of 1: 168 primes below 1000",
            "batch-fails/primes | giving up with exit code 3",
        ],
    );
}

// A signal cannot be sent elsewhere without a console.
#[test]
fn graceful_is_told_of_its_end_and_finishes() {
    let coracle = coracle();
    let mut run = coracle.start(&["run", &sample("graceful")], "");
    let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
    run.wait_for("both at work", |line| {
        let (container, _) = line.split_once(" | working until")?;
        let mut seen = seen.borrow_mut();
        seen.insert(container.to_owned());
        (seen.len() == 2).then_some(())
    });
    run.interrupt();
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for name in ["rust", "c"] {
        let line = format!("graceful/{name} | asked to end: finishing what I have begun");
        assert!(ended.stdout.contains(&line), "{}", ended.stdout);
    }
}

#[test]
fn hello_c_sees_its_environment_and_arguments_and_keeps_its_code() {
    check_batch(
        "hello-c",
        4,
        &[
            "hello-c/hello | Ahoy from C",
            "hello-c/hello | argument 1: one",
            "hello-c/hello | argument 2: two words",
            "hello-c/hello | argument 3: --exit=4",
        ],
    );
}

#[test]
fn hello_zig_reads_a_file_of_its_config_map() {
    check_batch(
        "hello-zig",
        0,
        &["hello-zig/hello | Ahoy, says hello-zig in Zig"],
    );
}

/// What the README does with kubectl: a change of the objects reaches the running guest.
#[tokio::test(flavor = "multi_thread")]
async fn config_and_secrets_follows_its_objects() {
    let coracle = coracle();
    let kubeconfig = coracle.data().join("kubeconfig-of-the-scenario");
    let file = kubeconfig.to_str().expect("the folder's name is text");
    let sample = sample("config-and-secrets");
    let args = [
        "run",
        "--api",
        "127.0.0.1:0",
        "--write-kubeconfig",
        file,
        &sample,
    ];
    let mut run = coracle.start(&args, "");
    let mut wait = |line: &str| {
        let line = format!("config-and-secrets/app | {line}");
        run.wait_for(&line, |said| (said == line).then_some(()));
    };
    for line in [
        "COLOR is blue, and stays so until a restart",
        "the password has 11 letters, and the same in its file",
        "a token of 3 parts is for namespace default",
        "greeting: Hello",
        "labels: stage=\"test\"",
    ] {
        wait(line);
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    let client = kube::Client::try_from(config.expect("it is complete")).expect("a client");
    let change = PatchParams::default();
    let patch = Patch::Merge(json!({"data": {"greeting": "Ahoy"}}));
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.patch("settings", &change, &patch)
        .await
        .expect("changed");
    wait("greeting: Ahoy");
    let patch = Patch::Merge(json!({"metadata": {"labels": {"stage": "live"}}}));
    let pods: Api<Pod> = Api::default_namespaced(client);
    pods.patch("config-and-secrets", &change, &patch)
        .await
        .expect("changed");
    wait("labels: stage=\"live\"");
    assert_eq!(
        files_with(coracle.data(), "open-sesame"),
        Vec::<String>::new()
    );
    check_end(run);
}

/// The pod to look around in says where it is, again and again.
#[test]
fn toolbox_looks_around_until_it_is_ended() {
    let coracle = coracle();
    let mut run = coracle.start(&["run", &sample("toolbox")], "");
    run.wait_for("the shell's greeting", |line| {
        line.starts_with("toolbox/shell | toolbox on toolbox, ")
            .then_some(())
    });
    run.wait_for("a round of the loop", |line| {
        line.contains("entries in /, address 10.244.").then_some(())
    });
    check_end(run);
}

/// Runs a script in a pod of the toolbox and compares its code and lines.
fn check_script(script: &str, code: i32, expected: &[&str]) {
    let manifest = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "shell"},
        "spec": {"restartPolicy": "Never", "containers": [{
            "name": "sh",
            "image": sample("toolbox/toolbox.wasm"),
            "command": ["sh", "-c", script],
        }]},
    });
    let ended = coracle().finish_with(&["run", "-"], &manifest.to_string());
    let lines: Vec<&str> = ended
        .stdout
        .lines()
        .map(|line| line.strip_prefix("shell/sh | ").unwrap_or(line))
        .collect();
    assert_eq!(
        (ended.code, lines.as_slice()),
        (Some(code), expected),
        "{script}\n{}",
        ended.stderr
    );
}

/// Files, pipelines and jobs as WASI has them, and an exit code that is no 0 or 1.
#[test]
fn the_toolbox_runs_scripts_in_a_pod() {
    check_script(
        "mkdir -p /work/in /work/out; cd /work; echo one >in/a; ln -s a in/b; touch -d @0 in/a\n\
         tar cf - in | tar xf - -C out; cat out/in/b; readlink out/in/b; stat -c %Y out/in/a\n\
         yes | head -n 1000000 | wc -l; (sleep 0.2; echo slow) & echo fast; wait\n\
         trap 'echo bye' EXIT; exit 42",
        42,
        &["one", "a", "0", "1000000", "fast", "slow", "bye"],
    );
}

/// Two programs of one instance meet on the pod's own network, over TCP, HTTP and UDP.
#[test]
fn the_toolbox_connects_and_listens() {
    check_script(
        "nc -z -w 1 127.0.0.1 9; echo closed $?\n\
         getent ahostsv4 localhost; wget -q -O /dev/null -T 5 http://127.0.0.1:9/ 2>&1; echo $?\n\
         curl -g -q -s -k --connect-timeout 5 http://127.0.0.1:9/; echo $?",
        0,
        &[
            "closed 1",
            "127.0.0.1       localhost",
            "wget: can't connect to 127.0.0.1:9: Connection refused",
            "1",
            "7",
        ],
    );
    check_script(
        "printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nahoy\\n' >/reply\n\
         nc -l 8080 </reply >/request & until wget -q -O - -T 5 http://127.0.0.1:8080/x 2>/dev/null\n\
         do sleep 0.1; done; wait; head -n 1 /request | tr -d '\\r'",
        0,
        &["ahoy", "GET /x HTTP/1.1"],
    );
    // Datagrams to and fro, the first ones perhaps before anybody listens.
    check_script(
        "echo ahoy >/reply; nc -u -l 9000 </reply >/got &\n\
         until echo hi | nc -u -w 1 127.0.0.1 9000 2>/dev/null | grep ahoy; do sleep 0.1; done\n\
         head -n 1 /got; kill $!; nc -z -u 127.0.0.1 9001; echo closed $?",
        0,
        &["ahoy", "hi", "closed 1"],
    );
}

/// A script that never ends to nest is an error of the script, not of the instance.
#[test]
fn the_toolbox_survives_endless_nesting() {
    check_script(
        "f() { if true; then case a in a) while true; do f; done;; esac; fi; }\n\
         (f) 2>/dev/null; echo $?; g() { x=$(g); }; (g) 2>/dev/null; echo $?\n\
         echo 'sh ./s' >/s; sh /s 2>/dev/null; echo $?\n\
         x='eval \"$x\"'; (eval \"$x\") 2>/dev/null; echo $?\n\
         d=/d; i=0; while [ $i -lt 60 ]; do d=$d/a; i=$((i+1)); done; mkdir -p $d\n\
         find /d | wc -l; du -s /d >/dev/null; cp -r /d /e; tar cf /t /d; rm -r /d /e; ls -d /d /e 2>/dev/null | wc -l",
        0,
        &["2", "2", "2", "2", "61", "0"],
    );
}
