//! Services with the real binary: by name from a pod, by node port from outside, as pods become ready.
//!
//! As in `kubectl.rs`, `CORACLE_TEST_PEERS=1` switches on the scenario that needs kubectl.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use coracle_tests::{Cluster, Coracle, Kubectl, get, get_ready, repository};
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, LogParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use serde_json::json;

/// How long a change of a Service may take to be seen on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two versions that say their names, one of which waits for a condition, and a shell to ask from.
const OBJECTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: canary:1
    imagePullPolicy: Never
    env: [{name: VERSION, value: one}]
    ports: [{name: http, containerPort: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  readinessGates: [{conditionType: example.com/open}]
  containers:
  - name: web
    image: canary:1
    imagePullPolicy: Never
    env: [{name: VERSION, value: two}]
    ports: [{name: http, containerPort: 80}]
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
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 8000, targetPort: http, nodePort: NODEPORT}]
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: each.default.svc.cluster.local}
";

/// The headless Service, and the name that stands for it.
const EACH: &str = "http://each/";
const ALIAS: &str = "http://alias/";

/// Returns a node port that is free now, another one each time; other processes on this machine may have
/// any of them.
fn free_node_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let start = 30_100 + u16::try_from(std::process::id() % 2_000).unwrap_or_default();
    // A stride, since one that was not free is given to who asks next otherwise.
    let start = start + 64 * GIVEN.fetch_add(1, Ordering::Relaxed);
    (start..32_768).find(free).expect("a free node port")
}

fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE, "it did not come true: {what}");
    }
}

/// Asks for a URL in the shell's pod: what was answered, or nothing.
fn ask(kubectl: &Kubectl, url: &str) -> Option<String> {
    let words = ["exec", "shell", "--", "wget", "-q", "-O", "-", url];
    let told = kubectl.tell(&words, "");
    (told.code == 0).then_some(told.stdout)
}

fn build_images(coracle: &Coracle) {
    for (name, file) in [
        ("canary:1", "samples/canary/canary.wasm"),
        ("toolbox:1", "samples/toolbox/toolbox.wasm"),
    ] {
        let file = repository().join(file);
        let file = file.to_str().expect("the folder's name is text");
        let built = coracle.finish(&["image", "build", file, "--tag", name]);
        assert_eq!(built.code, Some(0), "{built:?}");
    }
}

#[test]
fn pods_and_people_reach_services() {
    if std::env::var_os("CORACLE_TEST_PEERS").is_none_or(|value| value != "1") {
        return;
    }
    let programs = Kubectl::programs();
    let program = programs.first().expect("`kubectl` is installed");
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    build_images(&coracle);
    let cluster = Cluster::start(&coracle);
    let kubectl = Kubectl::new(program, cluster.kubeconfig());
    let port = free_node_port();
    kubectl.ok_with(
        "apply -f -",
        &OBJECTS.replace("NODEPORT", &port.to_string()),
    );
    // The toolbox is compiled first.
    kubectl.ok("wait pod/one pod/shell --for=condition=Ready --timeout=240s");
    kubectl.ok("wait pod/two --for=condition=ContainersReady --timeout=240s");

    let outside = format!("http://127.0.0.1:{port}");
    services_are_found(&kubectl, &outside);
    readiness_moves_traffic(&kubectl, &outside);
    what_the_api_does_not_show_is_told(&kubectl);
    cluster.run.interrupt();
    assert_eq!(cluster.run.end().code, Some(0));
}

fn services_are_found(kubectl: &Kubectl, outside: &str) {
    // From a pod by name, in every form that the search list allows.
    for name in ["web", "web.default", "web.default.svc.cluster.local"] {
        let url = format!("http://{name}:8000/");
        until(&url, || {
            ask(kubectl, &url).as_deref() == Some("version one\n")
        });
    }
    // The pod that is not ready is not asked, whatever road is taken.
    for url in [EACH, ALIAS] {
        until(url, || {
            ask(kubectl, url).as_deref() == Some("version one\n")
        });
    }
    assert_eq!(get_ready(outside, "/").body, "version one\n");
}

fn readiness_moves_traffic(kubectl: &Kubectl, outside: &str) {
    set_condition(kubectl, "two", "True");
    kubectl.ok("delete pod one");
    for url in ["http://web:8000/", EACH, ALIAS] {
        until(url, || {
            ask(kubectl, url).as_deref() == Some("version two\n")
        });
    }
    until("the node port follows", || {
        get(outside, "/").is_ok_and(|answer| answer.body == "version two\n")
    });
    set_condition(kubectl, "two", "False");
    until("nobody is ready", || {
        ask(kubectl, "http://web:8000/").is_none()
    });
    until("nobody listens", || get(outside, "/").is_err());
}

fn what_the_api_does_not_show_is_told(kubectl: &Kubectl) {
    // What is shown is said to be elsewhere on this machine.
    set_condition(kubectl, "two", "True");
    until("an event says where", || {
        let told = kubectl.ok("describe service web");
        told.contains("Published") && told.contains("is reached at")
    });
    // The API is a Service like any other, and the authority that is mounted in every pod vouches for it.
    let words = [
        "exec",
        "shell",
        "--",
        "wget",
        "-q",
        "-O",
        "-",
        "https://kubernetes.default.svc/",
    ];
    let told = kubectl.tell(&words, "");
    assert!(told.stderr.contains("HTTP/1.1 403"), "{told:?}");
}

fn set_condition(kubectl: &Kubectl, pod: &str, status: &str) {
    let condition = format!(
        r#"{{"status":{{"conditions":[{{"type":"example.com/open","status":"{status}"}}]}}}}"#
    );
    let words = [
        "patch",
        "pod",
        pod,
        "--subresource=status",
        "-p",
        &condition,
    ];
    let told = kubectl.tell(&words, "");
    assert_eq!(told.code, 0, "{told:?}");
}

/// Returns an address of this machine that is not loopback, which no endpoint may have.
fn machine_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback()).then_some(ip)
}

/// Answers every connection with a page, for as long as the process lives.
fn serve_page(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let page = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nahoy\n";
            let _ = stream.write_all(page.as_bytes());
        }
    });
}

/// Makes a Service without a selector, with one endpoint.
async fn make_page(cluster: &Cluster, node_port: u16, endpoint: SocketAddr) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    let client = kube::Client::try_from(config.expect("it is complete")).expect("a client");
    let service = json!({
        "metadata": {"name": "page"},
        "spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": node_port}]},
    });
    let service = serde_json::from_value::<Service>(service).expect("a Service");
    let slice = json!({
        "metadata": {"name": "page-1", "labels": {"kubernetes.io/service-name": "page"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": endpoint.port()}],
        "endpoints": [{"addresses": [endpoint.ip().to_string()]}],
    });
    let slice = serde_json::from_value::<EndpointSlice>(slice).expect("a slice");
    let create = PostParams::default();
    let services = Api::<Service>::default_namespaced(client.clone());
    services
        .create(&create, &service)
        .await
        .expect("it is taken");
    let slices = Api::<EndpointSlice>::default_namespaced(client);
    slices.create(&create, &slice).await.expect("it is taken");
}

/// `coracle proxy` beside a cluster whose endpoints are no pods of ours.
#[tokio::test]
async fn a_proxy_beside_a_cluster_balances_its_services() {
    let Some(ip) = machine_address() else {
        eprintln!("this machine has no address beside loopback");
        return;
    };
    let page = TcpListener::bind((ip, 0)).expect("a port");
    let page_port = page.local_addr().expect("an address").port();
    serve_page(page);
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let cluster = Cluster::start(&coracle);
    let node_port = free_node_port();
    make_page(&cluster, node_port, (ip, page_port).into()).await;
    let kubeconfig = cluster.kubeconfig().to_str().expect("the path is text");
    let only = format!("{ip}/32");
    let args = [
        "proxy",
        "--kubeconfig",
        kubeconfig,
        "--nodeport-addresses",
        &only,
        "--healthz-bind-address",
        "127.0.0.1:0",
        "--metrics-bind-address",
        "127.0.0.1:0",
    ];
    let mut proxy = coracle.start(&args, "");
    let served = |what: &'static str| {
        move |line: &str| {
            let rest = line.strip_prefix(what)?;
            Some(rest.trim_start_matches(" served on ").to_owned())
        }
    };
    let health = proxy.wait_for("where health is", served("health is"));
    let metrics = proxy.wait_for("where metrics are", served("metrics are"));
    let outside = format!("http://{ip}:{node_port}");
    proxy.wait_for("the node port", |line| {
        (line == format!("{outside}  service/page:http")).then_some(())
    });
    assert_eq!(get_ready(&outside, "/").body, "ahoy\n");
    assert_eq!(get(&health, "/healthz").expect("it answers").status, 200);
    let shown = get(&metrics, "/metrics").expect("it answers").body;
    assert!(
        shown.contains("coracle_edge_relayed_connections_total 1"),
        "{shown}"
    );
    proxy.interrupt();
    assert_eq!(proxy.end().code, Some(0));
}

/// Lists pods as every client in a cluster does, once by each name of the API.
const ASKS: &str = r#"
folder=/var/run/secrets/kubernetes.io/serviceaccount
for host in kubernetes.default.svc kubernetes.default.svc.cluster.local $KUBERNETES_SERVICE_HOST; do
  url=https://$host/api/v1/namespaces/default/pods
  curl -s -o /answer -w '%{http_code}\n' -H "Authorization: Bearer $(cat $folder/token 2>/dev/null)" $url || echo failed
done
grep -q '"stranger"' /answer && echo listed || echo nothing"#;

/// A pod that asks and ends; `spec` says what is different.
fn asking(name: &str, spec: serde_json::Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [{
            "name": "sh",
            "image": "toolbox:1",
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", ASKS],
        }]},
    });
    let spec = spec.as_object().expect("fields").clone();
    pod["spec"].as_object_mut().expect("fields").extend(spec);
    serde_json::from_value(pod).expect("a Pod")
}

/// Returns what a pod has written once it has ended.
async fn said(pods: &Api<Pod>, name: &str) -> Vec<String> {
    let is_over = |pod: Option<&Pod>| {
        let phase = pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    // The toolbox is compiled first.
    let ended = tokio::time::timeout(4 * PATIENCE, await_condition(pods.clone(), name, is_over));
    ended.await.expect("in time").expect("watched");
    let text = pods.logs(name, &LogParams::default()).await;
    text.expect("logs").lines().map(str::to_owned).collect()
}

/// A guest trusts the authority that is mounted beside its token when it asks the API, and is somebody there.
#[tokio::test]
async fn a_guest_asks_the_api_with_its_mounted_token() {
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    build_images(&coracle);
    let cluster = Cluster::start(&coracle);
    let client = client(&cluster).await;
    let (accounts, roles) = (
        Api::default_namespaced(client.clone()),
        Api::default_namespaced(client.clone()),
    );
    let (bindings, pods) = (
        Api::default_namespaced(client.clone()),
        Api::default_namespaced(client),
    );
    let how = PostParams::default();
    let account = json!({"metadata": {"name": "reader"}});
    let account: ServiceAccount = serde_json::from_value(account).expect("a ServiceAccount");
    accounts.create(&how, &account).await.expect("created");
    let role: Role = serde_json::from_value(json!({
        "metadata": {"name": "reads-pods"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
    }))
    .expect("a Role");
    roles.create(&how, &role).await.expect("created");
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "reader-reads-pods"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads-pods"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
    }))
    .expect("a RoleBinding");
    bindings.create(&how, &binding).await.expect("created");
    for (name, spec) in [
        // Before who looks for it.
        ("stranger", json!({})),
        ("reader", json!({"serviceAccountName": "reader"})),
        ("nobody", json!({"automountServiceAccountToken": false})),
    ] {
        pods.create(&how, &asking(name, spec))
            .await
            .expect("created");
    }
    assert_eq!(said(&pods, "reader").await, ["200", "200", "200", "listed"]);
    assert_eq!(
        said(&pods, "stranger").await,
        ["403", "403", "403", "nothing"]
    );
    // Without the mounted authority nobody vouches for the API.
    let said = said(&pods, "nobody").await;
    let failed = said.iter().filter(|line| *line == "failed").count();
    assert_eq!(failed, 3, "{said:?}");
    cluster.run.interrupt();
    assert_eq!(cluster.run.end().code, Some(0));
}

async fn client(cluster: &Cluster) -> kube::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await;
    kube::Client::try_from(config.expect("the kubeconfig is complete")).expect("a client")
}

#[test]
fn a_run_with_both_families_prints_and_serves_both() {
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    build_images(&coracle);
    let port = free_node_port();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let manifest = folder.path().join("web.yaml");
    let objects = format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {{app: web}}
  ports: [{{port: 8000, targetPort: 80, nodePort: {port}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: one, labels: {{app: web}}}}
spec:
  containers:
  - {{name: web, image: 'canary:1', imagePullPolicy: Never, env: [{{name: VERSION, value: one}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: asks}}
spec:
  restartPolicy: Never
  dnsPolicy: None
  dnsConfig: {{nameservers: ['fd00:43::a'], searches: [default.svc.cluster.local]}}
  containers:
  - name: shell
    image: toolbox:1
    imagePullPolicy: Never
    command: [sh, -c, 'until wget -q -O - http://web:8000/; do sleep 1; done; dig web +search +short aaaa']
"
    );
    std::fs::write(&manifest, objects).expect("a manifest");
    let manifest = manifest.to_str().expect("the folder's name is text");
    let ranges = "10.43.0.0/16,fd00:43::/112";
    let mut run = coracle.start(&["run", "--service-cidr", ranges, manifest], "");
    // A cluster IP of each family, and the node port at an address of each.
    let printed = (0..4).map(|_| run.next_address("http"));
    let printed = printed.collect::<std::collections::BTreeSet<_>>();
    assert_eq!(printed.len(), 4, "{printed:?}");
    for ip in ["127.0.0.1", "[::1]"] {
        let url = format!("http://{ip}:{port}");
        assert!(printed.contains(&url), "{url}: {printed:?}");
    }
    for url in &printed {
        let answer = get_ready(url, "/");
        assert_eq!(answer.body, "version one\n", "{url}");
    }
    // A pod whose only name server is of IPv6 finds the Service, and both of its addresses.
    for expected in ["version one", "fd00:43::"] {
        run.wait_for(expected, |line| {
            let told = line.strip_prefix("asks/shell | ")?;
            told.starts_with(expected).then_some(())
        });
    }
    run.interrupt();
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
