//! What `coracle run` promises about endings, refusals and neighbours, through the real binary.

use std::fs;
use std::path::Path;

use coracle_tests::{Coracle, Ended, get, module, repository};

fn coracle() -> Coracle {
    Coracle::new(env!("CARGO_BIN_EXE_coracle"))
}

/// A pod of one container that runs `main.wasm` beside the manifest and is not started again.
const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: ./main.wasm
";

/// Runs a pod of a module in text format to its end; `more` is appended to the container.
fn run_module(text: &str, more: &str) -> Ended {
    let coracle = coracle();
    let folder = tempfile::tempdir().expect("a temporary folder");
    module(&folder.path().join("main.wasm"), text);
    let manifest = folder.path().join("pod.yaml");
    fs::write(&manifest, format!("{POD}{more}")).expect("a manifest");
    coracle.finish(&["run".as_ref(), manifest.as_os_str()])
}

/// A preview 1 program whose `_start` has the given body.
fn program(body: &str) -> String {
    format!(
        r#"(module
             (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
             (import "wasi_snapshot_preview1" "fd_write"
               (func $write (param i32 i32 i32 i32) (result i32)))
             (memory (export "memory") 1)
             (data (i32.const 100) "hello\n")
             (func (export "_start") {body}))"#
    )
}

/// The program ends with a code of its own, and scripts must see that very code.
#[test]
fn the_code_of_a_container_becomes_the_code_of_the_command() {
    for (body, expected) in [
        ("", 0),
        ("(call $exit (i32.const 3))", 3),
        ("unreachable", 134),
    ] {
        let ended = run_module(&program(body), "");
        assert_eq!(ended.code, Some(expected), "{body}: {}", ended.stderr);
    }
}

/// A sidecar is ended by a signal once the app is through, and that is nobody's failure. The name is the API's
/// to make, and the account one of the manifest's.
#[test]
fn the_code_of_an_app_counts_before_that_of_its_sidecar() {
    let coracle = coracle();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    module(&path("app.wasm"), &program("(call $exit (i32.const 200))"));
    module(
        &path("sidecar.wasm"),
        &program("(loop $forever (br $forever))"),
    );
    let manifest = "\
apiVersion: v1
kind: Pod
metadata: {generateName: job-, namespace: work}
spec:
  restartPolicy: Never
  serviceAccountName: worker
  initContainers: [{name: side, image: sidecar.wasm, restartPolicy: Always}]
  containers: [{name: app, image: app.wasm}]
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: worker, namespace: work}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: work}}
";
    fs::write(path("pod.yaml"), manifest).expect("a manifest");
    let ended = coracle.finish(&["run".as_ref(), path("pod.yaml").as_os_str()]);
    assert_eq!(ended.code, Some(200), "{}", ended.stderr);
    let app = |line: &str| line.starts_with("work/job-") && line.contains("/app: ended with 200");
    assert!(ended.stderr.lines().any(app), "{}", ended.stderr);
}

/// A script that keeps the output must not take an empty file for success.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_no_success() {
    let coracle = coracle();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let body = "
        (i32.store (i32.const 0) (i32.const 100))
        (i32.store (i32.const 4) (i32.const 6))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))";
    module(&folder.path().join("main.wasm"), &program(body));
    let manifest = folder.path().join("pod.yaml");
    fs::write(&manifest, POD).expect("a manifest");
    let manifest = manifest.to_str().expect("the folder's name is text");
    for args in [
        &["run", manifest][..],
        &["image", "ls"],
        &["--version"],
        &["completion", "bash"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full");
        let ended = std::process::Command::new(env!("CARGO_BIN_EXE_coracle"))
            .args(args)
            .env("CORACLE_DATA_DIR", coracle.data())
            .stdout(full.expect("Linux has it"))
            .output()
            .expect("the binary starts");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(125), "{args:?}: {stderr}");
        let told = stderr.matches("failed to write to standard output").count();
        assert_eq!(told, 1, "{args:?}: {stderr}");
    }
}

#[test]
fn what_a_container_writes_is_printed_with_its_name() {
    let body = "
        (i32.store (i32.const 0) (i32.const 100))
        (i32.store (i32.const 4) (i32.const 6))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))";
    let ended = run_module(&program(body), "");
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), "p/c | hello"),
        "{}",
        ended.stderr
    );
}

/// A limit that is accepted is enforced: the guest takes memory until it is refused, then gives up.
#[test]
fn a_container_over_its_memory_limit_is_out_of_memory() {
    let body = "
        (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
        unreachable";
    let ended = run_module(&program(body), "    resources: {limits: {memory: 8Mi}}\n");
    assert_eq!(ended.code, Some(137), "{}", ended.stderr);
    assert!(ended.stderr.contains("OOMKilled"), "{}", ended.stderr);
}

/// Each refusal ends with 125 and says by name what is wrong.
#[test]
fn what_cannot_run_is_refused_by_name_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    module(&path("main.wasm"), &program(""));
    fs::write(path("elf"), b"\x7fELF\x02\x01\x01 not for us").expect("a file");
    module(
        &path("foreign.wasm"),
        r#"(module (import "env" "launch_missiles" (func)) (func (export "_start")))"#,
    );
    let cases: [(&str, String, &str); 10] = [
        (
            "kind",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n".into(),
            "Deployment",
        ),
        (
            "field",
            POD.replace("spec:\n", "spec:\n  hostPID: true\n"),
            "hostPID",
        ),
        (
            "node",
            POD.replace("spec:\n", "spec:\n  nodeName: other\n"),
            "nodeName",
        ),
        (
            "scheduler",
            POD.replace("spec:\n", "spec:\n  schedulerName: other\n"),
            "schedulerName",
        ),
        (
            "typo",
            POD.replace("restartPolicy", "restartPolizy"),
            "restartPolizy",
        ),
        ("name", POD.replace("name: p", "name: P_p"), "P_p"),
        (
            "missing",
            POD.replace("main.wasm", "absent.wasm"),
            "absent.wasm",
        ),
        ("elf", POD.replace("main.wasm", "elf"), "ELF"),
        (
            "import",
            POD.replace("main.wasm", "foreign.wasm"),
            "launch_missiles",
        ),
        (
            "reference",
            POD.replace("./main.wasm", "Bad::ref"),
            "Bad::ref",
        ),
    ];
    for (name, manifest, expected) in cases {
        let file = path(&format!("{name}.yaml"));
        fs::write(&file, manifest).expect("a manifest");
        check_refusal(&file, expected);
    }
    check_refusal(&path("nowhere.yaml"), "nowhere.yaml");
}

fn check_refusal(manifest: &Path, expected: &str) {
    let ended = coracle().finish(&["run".as_ref(), manifest.as_os_str()]);
    assert_eq!(ended.code, Some(125), "{}: {ended:?}", manifest.display());
    assert!(
        ended.stderr.contains(expected),
        "no `{expected}` in {}",
        ended.stderr
    );
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [
        &["run"][..],
        &["fly"],
        &["run", "--stop-timeout", "soon", "x.yaml"],
    ] {
        assert_eq!(coracle().finish(args).code, Some(2), "{args:?}");
    }
}

/// A port without `hostPort` is published at an address of the pod's own, so nothing collides.
#[test]
fn two_runs_of_pods_on_the_same_port_live_side_by_side() {
    let image = repository().join("samples/hello-http/hello-http.wasm");
    let manifest: String = ["a", "b"]
        .iter()
        .map(|name| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - name: web\n    \
                 image: {}\n    ports: [{{name: http, containerPort: 8080}}]\n",
                image.display()
            )
        })
        .collect();
    let coracle = coracle();
    let mut runs = [
        coracle.start(&["run", "-"], &manifest),
        coracle.start(&["run", "-"], &manifest),
    ];
    let mut addresses = Vec::new();
    for run in &mut runs {
        for pod in ["a/web", "b/web"] {
            addresses.push(run.wait_for("the pod's address", |line| {
                let (url, name) = line.split_once("  ")?;
                (url.starts_with("http://") && name == pod).then(|| url.to_owned())
            }));
        }
    }
    for url in &addresses {
        assert_eq!(get(url, "/").expect("the pod answers").status, 200, "{url}");
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 4, "{addresses:?}");

    let listed = coracle.finish(&["image", "ls"]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert!(listed.stdout.contains("hello-http"), "{}", listed.stdout);
}

/// Neither a tight loop nor a wait may keep a run from ending.
#[test]
fn a_signal_ends_a_container_that_never_yields() {
    let coracle = coracle();
    let folder = tempfile::tempdir().expect("a temporary folder");
    module(
        &folder.path().join("main.wasm"),
        &program("(loop $forever (br $forever))"),
    );
    let manifest = folder.path().join("pod.yaml");
    fs::write(&manifest, POD).expect("a manifest");
    let mut run = coracle.start(&["run".as_ref(), manifest.as_os_str()], "");
    run.wait_for_progress("the container to run", |line| {
        line.contains("p/c: running").then_some(())
    });
    run.interrupt();
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
