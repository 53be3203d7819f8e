//! What pods reach of each other, with the guests of the sample `sidecar`: a server on port 8080 and a
//! writer that asks a server for what it wrote.

use coracle_tests::{Coracle, repository};

fn coracle() -> Coracle {
    Coracle::new(env!("CARGO_BIN_EXE_coracle"))
}

fn image(name: &str) -> String {
    repository()
        .join(format!("samples/sidecar/{name}.wasm"))
        .display()
        .to_string()
}

/// A pod with the server, under a name that other pods can look up.
fn server(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  hostname: {name}\n  \
         subdomain: sub\n  containers:\n  - name: web\n    image: {}\n",
        image("web")
    )
}

/// A pod with only the writer, which asks `server`.
fn writer(name: &str, server: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
         containers:\n  - name: writer\n    image: {}\n    env:\n    - {{name: SERVER, value: \"{server}\"}}\n    \
         - {{name: ATTEMPTS, value: \"1\"}}\n    volumeMounts: [{{name: pages, mountPath: /data}}]\n  \
         volumes: [{{name: pages, emptyDir: {{}}}}]\n",
        image("writer")
    )
}

/// Two pods listen on the same port; each is reached at its own address, found by its own name.
#[test]
fn two_pods_on_one_port_are_reached_each_at_its_own_address() {
    let coracle = coracle();
    let mut servers = coracle.start(&["run", "-"], &{
        // The writers come later in the same run only by trying again: a server needs a moment.
        let writers = ["a", "b"].map(|pod| {
            let server = format!("{pod}.sub.default.svc.cluster.local:8080");
            writer(&format!("asks-{pod}"), &server)
                .replace("ATTEMPTS, value: \"1\"", "ATTEMPTS, value: \"100\"")
                .replace("restartPolicy: Never", "restartPolicy: OnFailure")
        });
        server("a") + &server("b") + &writers.concat()
    });
    for pod in ["a", "b"] {
        // The server has no page, since the writer's folder is not its own; that it says so is the proof.
        let expected = format!(
            "asks-{pod}/writer | {pod}.sub.default.svc.cluster.local:8080 says: no page yet:"
        );
        servers.wait_for(&expected, |line| line.starts_with(&expected).then_some(()));
    }
}

/// A container's localhost is its pod's: neither another pod's nor the machine's.
#[test]
fn another_pods_localhost_and_the_machines_are_out_of_reach() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port of the machine");
    let machine = listener.local_addr().expect("it is bound");
    let coracle = coracle();
    let alone = server("a") + &writer("asks", "127.0.0.1:8080");
    let mut run = coracle.start(&["run", "-"], &alone);
    run.wait_for("the server", |line| {
        line.contains("a/web | serving").then_some(())
    });
    run.wait_for_progress("the refusal", |line| {
        line.starts_with("asks: failed").then_some(())
    });

    for address in [
        machine.to_string(),
        format!("[::ffff:127.0.0.1]:{}", machine.port()),
    ] {
        let ended = coracle.finish_with(&["run", "-"], &writer("asks", &address));
        assert_eq!(ended.code, Some(1), "{address}: {}", ended.stderr);
    }
    listener.set_nonblocking(true).expect("the socket is ours");
    assert!(listener.accept().is_err(), "nobody may have come through");
}
