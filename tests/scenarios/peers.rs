//! Coracle beside the programs of others: Debian's `docker-registry` and `skopeo`.
//!
//! They are not on every machine, so `CORACLE_TEST_PEERS=1` switches these scenarios on; then a missing
//! program is a failure.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use coracle_tests::{Cluster, Coracle, Kubectl, get, repository, wasm_layout};
use serde_json::json;
use tempfile::TempDir;

/// A `docker-registry` on a free loopback port, ended when it is dropped.
struct Registry {
    process: Child,
    address: String,
    _data: TempDir,
}

/// Who may use a private registry, and the line of `htpasswd` that says so.
const USER: &str = "sailor";
const PASSWORD: &str = "open-sesame";
const HTPASSWD: &str = "sailor:$2b$04$3iZXFAIqTdMd3rpWuHsSjOZcyTLKmop9/3B56iYYkxiDPso/aVgx6\n";

impl Registry {
    fn start() -> Self {
        Self::with("")
    }

    /// One that asks everybody for name and password.
    fn private() -> Self {
        Self::with("auth: {htpasswd: {realm: private, path: 'DATA/htpasswd'}}\n")
    }

    fn with(more: &str) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let config = data.path().join("config.yml");
        let storage = data.path().join("storage");
        fs::write(data.path().join("htpasswd"), HTPASSWD).expect("a file");
        let more = more.replace("DATA", &data.path().display().to_string());
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
                 http: {{addr: '127.0.0.1:0'}}\n{more}",
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

/// A Secret with credentials for a registry, as `kubectl create secret docker-registry` makes it.
fn pull_secret(name: &str, registry: &str, password: &str) -> String {
    let config = json!({"auths": {registry: {"username": USER, "password": password}}});
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config.to_string()},
    })
    .to_string()
}

fn pulling(name: &str, image: &str, secret: Option<&str>) -> String {
    let secrets: Vec<_> = secret
        .into_iter()
        .map(|name| json!({"name": name}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"imagePullSecrets": secrets, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "web", "image": image, "imagePullPolicy": "Always"}]},
    })
    .to_string()
}

/// A pod pulls from a private registry by its secret; with a wrong one, or none, it says why it does not.
#[test]
fn a_private_registry_is_opened_by_the_right_secret_alone() {
    if !asked_for() {
        return;
    }
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let layout = tempfile::tempdir().expect("a temporary folder");
    wasm_layout(layout.path(), &component());
    let registry = Registry::private();
    let image = format!("{}/samples/hello:v1", registry.address);
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        &format!("--dest-creds={USER}:{PASSWORD}"),
        &format!("oci:{}:latest", layout.path().display()),
        &format!("docker://{image}"),
    ]);
    let cluster = Cluster::start(&coracle);
    let program = Kubectl::programs().into_iter().next();
    let kubectl = Kubectl::new(
        &program.expect("`kubectl` is installed"),
        cluster.kubeconfig(),
    );
    for object in [
        pull_secret("right", &registry.address, PASSWORD),
        pull_secret("wrong", &registry.address, "guessed"),
        pull_secret("elsewhere", "registry.example", PASSWORD),
        pulling("opens", &image, Some("right")),
        pulling("guesses", &image, Some("wrong")),
        pulling("strays", &image, Some("elsewhere")),
        pulling("forgets", &image, Some("missing")),
        pulling("asks", &image, None),
    ] {
        kubectl.ok_with("apply -f -", &object);
    }
    kubectl.ok("wait pod/opens --for=condition=Ready --timeout=120s");
    for pod in ["guesses", "strays", "forgets", "asks"] {
        check_refused(&kubectl, pod, &image);
    }
    let events = "get events -o jsonpath={.items[*].reason} --field-selector involvedObject.name=";
    let told = kubectl.ok(&format!("{events}forgets"));
    assert!(told.contains("FailedToRetrieveImagePullSecret"), "{told}");
    // Once the secret is right, the pod comes up by itself.
    kubectl.ok_with(
        "apply -f -",
        &pull_secret("wrong", &registry.address, PASSWORD),
    );
    kubectl.ok("wait pod/guesses --for=condition=Ready --timeout=120s");
    cluster.run.interrupt();
    assert_eq!(cluster.run.end().code, Some(0));
}

/// A pull that was refused shows its reason, then the back-off with the reason in it, and tells both as events.
fn check_refused(kubectl: &Kubectl, pod: &str, image: &str) {
    let waiting = "{.status.containerStatuses[0].state.waiting";
    kubectl.ok(&format!(
        "wait pod/{pod} --for=jsonpath={waiting}.reason}}=ImagePullBackOff --timeout=60s"
    ));
    let message = kubectl.ok(&format!("get pod {pod} -o jsonpath={waiting}.message}}"));
    let begins = format!("Back-off pulling image \"{image}\": ErrImagePull: ");
    assert!(message.starts_with(&begins), "{pod}: {message}");
    let events = format!("get events --field-selector involvedObject.name={pod}");
    let told = kubectl.ok(&format!("{events} -o jsonpath={{.items[*].message}}"));
    for text in [
        format!("Failed to pull image \"{image}\": "),
        "Error: ErrImagePull".to_owned(),
        "Error: ImagePullBackOff".to_owned(),
    ] {
        assert!(told.contains(&text), "{pod}: {text:?} in {told}");
    }
    let phase = kubectl.ok(&format!("get pod {pod} -o jsonpath={{.status.phase}}"));
    assert_eq!(phase, "Pending", "{pod}");
}

/// An ordinary image for linux/amd64 with one empty layer, by `umoci`'s rules but by hand.
fn layout_of_linux_image() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    coracle_tests::linux_layout(folder.path());
    folder
}
