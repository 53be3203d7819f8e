//! Coracle beside the programs of others: Debian's `docker-registry` and `skopeo`.
//!
//! They are not on every machine, so `CORACLE_TEST_PEERS=1` switches these scenarios on; then a missing
//! program is a failure.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use coracle_tests::{Coracle, get, repository, wasm_layout};
use tempfile::TempDir;

/// A `docker-registry` on a free loopback port, ended when it is dropped.
struct Registry {
    process: Child,
    address: String,
    _data: TempDir,
}

impl Registry {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let config = data.path().join("config.yml");
        let storage = data.path().join("storage");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
                 http: {{addr: '127.0.0.1:0'}}\n",
                storage.display()
            ),
        )
        .expect("a configuration");
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("`docker-registry` is installed");
        let mut log = BufReader::new(process.stderr.take().expect("stderr is piped")).lines();
        let address = log
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, rest) = line.split_once("listening on ")?;
                Some(rest.split(['"', ' ', ',']).next()?.to_owned())
            })
            .expect("the registry says where it listens");
        // The log must be read, or the registry would wait for a reader.
        std::thread::spawn(move || log.for_each(drop));
        Self {
            process,
            address,
            _data: data,
        }
    }

    fn stop(mut self) {
        self.process.kill().expect("the registry runs");
        self.process.wait().expect("the registry ends");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether the scenarios with other programs are asked for.
fn asked_for() -> bool {
    std::env::var_os("CORACLE_TEST_PEERS").is_some_and(|value| value == "1")
}

fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo")
        .args(args)
        .output()
        .expect("`skopeo` is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn manifest(image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: hello}}\nspec:\n  containers:\n  - name: web\n    \
         image: {image}\n    imagePullPolicy: IfNotPresent\n    ports: [{{name: http, containerPort: 80}}]\n"
    )
}

fn component() -> Vec<u8> {
    fs::read(repository().join("samples/hello-http/hello-http.wasm")).expect("the sample is there")
}

fn check_answer(coracle: &Coracle, image: &str) {
    let mut run = coracle.start(&["run", "-"], &manifest(image));
    let url = run.wait_for_address("http");
    assert_eq!(get(&url, "/").expect("the pod answers").status, 200);
}

/// The main job on real input; and a pulled image needs its registry no more.
#[test]
fn an_image_that_skopeo_copied_into_a_registry_runs_also_with_the_registry_stopped() {
    if !asked_for() {
        return;
    }
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let layout = tempfile::tempdir().expect("a temporary folder");
    wasm_layout(layout.path(), &component());
    let registry = Registry::start();
    let image = format!("{}/samples/hello:v1", registry.address);
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        &format!("oci:{}:latest", layout.path().display()),
        &format!("docker://{image}"),
    ]);

    check_answer(&coracle, &image);
    registry.stop();
    check_answer(&coracle, &image);
}

/// What we push, others read; what others hold, we refuse where it is not ours to run.
#[test]
fn skopeo_reads_what_is_pushed_and_an_absent_image_is_refused() {
    if !asked_for() {
        return;
    }
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let registry = Registry::start();
    let image = format!("{}/samples/built:v1", registry.address);
    let file = repository().join("samples/hello-http/hello-http.wasm");
    for args in [
        vec!["image", "build", "-t", &image, &file.display().to_string()],
        vec!["image", "push", &image],
    ] {
        let ended = coracle.finish(&args);
        assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
    }
    let raw = skopeo(&[
        "inspect",
        "--tls-verify=false",
        "--raw",
        &format!("docker://{image}"),
    ]);
    assert!(raw.contains("application/wasm"), "{raw}");

    let absent = format!("{}/samples/absent:v1", registry.address);
    let ended = coracle.finish_with(&["run", "-"], &manifest(&absent));
    assert_eq!(ended.code, Some(125), "{}", ended.stderr);
    assert!(ended.stderr.contains("samples/absent"), "{}", ended.stderr);
    check_linux_image(&coracle, &registry, layout_of_linux_image().path());
}

fn check_linux_image(coracle: &Coracle, registry: &Registry, layout: &Path) {
    let image = format!("{}/linux:v1", registry.address);
    let source = format!("oci:{}:latest", layout.display());
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        &source,
        &format!("docker://{image}"),
    ]);
    let ended = coracle.finish(&["image", "pull", &image]);
    assert_eq!(ended.code, Some(125), "{}", ended.stderr);
    assert!(ended.stderr.contains("is a Linux"), "{}", ended.stderr);
}

/// An ordinary image for linux/amd64 with one empty layer, by `umoci`'s rules but by hand.
fn layout_of_linux_image() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    coracle_tests::linux_layout(folder.path());
    folder
}
