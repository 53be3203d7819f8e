//! The plan for a machine that is ours, with the real binary, each scenario in a network namespace of its own:
//! it runs itself again under `unshare`. Where namespaces are not allowed, that is said and nothing is tested.
#![cfg(target_os = "linux")]

use std::io::ErrorKind;
use std::net::TcpStream;
use std::process::Command;

use coracle_tests::{
    By, Cluster, Coracle, Inside, allows_namespaces, enter_namespace, get, get_ready, inside,
    repository,
};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};

/// The machine has an interface, an address on it and a way to others.
const PREPARE: &str = "ip link set lo up && ip link add eth0 type veth peer name eth1 \
    && ip address add 198.51.100.1/24 dev eth0 && ip link set eth1 up && ip link set eth0 up \
    && ip route add default via 198.51.100.254";

const NODE: &str = "198.51.100.1";
const NODE_6: &str = "2001:db8::1";
const NODE_PORT: u16 = 30_080;
const HOST_PORT: u16 = 8_080;
const PAGE: &str = "Hello from a Coracle pod!\n";

/// How long a pod may take to be ready, compiling its program included.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Runs the scenario of this name again in a namespace of its own. True in that second run.
fn is_inside(scenario: &str, by: By) -> bool {
    if inside().is_none() && !allows_namespaces() {
        eprintln!("skipped: {scenario}: this machine allows no network namespace");
        return false;
    }
    enter_namespace(scenario, PREPARE, by).is_some()
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "type": "NodePort", "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 8000, "targetPort": "http", "nodePort": NODE_PORT}],
        },
    })
}

fn pod(image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"containers": [{
            "name": "web", "image": image,
            "ports": [{"name": "http", "containerPort": 80, "hostPort": HOST_PORT}],
            "readinessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 1},
        }]},
    })
}

async fn client(kubeconfig: &std::path::Path) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await;
    Client::try_from(config.expect("the kubeconfig is complete")).expect("a client")
}

/// Reaches the pod at its own address, by its Service, and at ports of the node, and nothing else there.
async fn reach(client: Client) {
    let (pods, services) = (
        Api::<Pod>::default_namespaced(client.clone()),
        Api::<Service>::default_namespaced(client),
    );
    let is_ready = |pod: Option<&Pod>| {
        let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_deref());
        let mut all = conditions.into_iter().flatten();
        all.any(|one| one.type_ == "Ready" && one.status == "True")
    };
    let ready = tokio::time::timeout(PATIENCE, await_condition(pods, "web", is_ready)).await;
    let pod = ready.expect("in time").expect("watched").expect("a pod");
    let pod = pod.status.and_then(|status| status.pod_ip);
    let pod = pod.expect("a ready pod has an address");
    let web = services.get("web").await.expect("a Service");
    let cluster_ip = web.spec.and_then(|spec| spec.cluster_ip);
    let cluster_ip = cluster_ip.expect("it has an address");
    let everywhere = [
        format!("{pod}:80"),
        format!("{cluster_ip}:8000"),
        format!("{NODE}:{NODE_PORT}"),
        format!("127.0.0.1:{NODE_PORT}"),
        format!("127.0.0.1:{HOST_PORT}"),
    ];
    for at in everywhere {
        // The pod is ready a moment before its Service is served.
        let asked = || get(&format!("http://{at}"), "/").ok();
        let began = std::time::Instant::now();
        let mut answer = asked();
        while answer.is_none() && began.elapsed() < PATIENCE {
            tokio::task::yield_now().await;
            answer = asked();
        }
        let answer = answer.unwrap_or_else(|| panic!("nobody answers at {at}"));
        assert_eq!((answer.status, answer.body.as_str()), (200, PAGE), "{at}");
    }
    for nothing in [format!("{pod}:81"), format!("{cluster_ip}:8001")] {
        let refused = TcpStream::connect(&nothing).expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{nothing}");
    }
}

/// Returns the routes that are ours.
fn routes() -> String {
    let arguments = "route show table local proto 201".split(' ');
    let output = Command::new("ip").args(arguments).output();
    let output = output.expect("`ip` of iproute2 is there");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn pods_of_a_run_are_reached_at_their_true_addresses() {
    let scenario = "pods_of_a_run_are_reached_at_their_true_addresses";
    if is_inside(scenario, By::Same) {
        reach_pods_of_a_run().await;
    }
}

#[tokio::test]
async fn pods_of_a_run_are_reached_where_no_program_can_be_loaded() {
    let scenario = "pods_of_a_run_are_reached_where_no_program_can_be_loaded";
    if is_inside(scenario, By::RootOfNamespace) {
        reach_pods_of_a_run().await;
    }
}

async fn reach_pods_of_a_run() {
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let image = repository().join("samples/hello-http/hello-http.wasm");
    let kubeconfig = coracle.data().join("kubeconfig-of-the-scenario");
    let file = kubeconfig.to_str().expect("the folder's name is text");
    let options = [
        "--plan",
        "host",
        "--api",
        "127.0.0.1:0",
        "--write-kubeconfig",
        file,
    ];
    let manifest = format!("{}\n---\n{}", service(), pod(&image.display().to_string()));
    let args = [&["-v", "run"][..], &options, &["-"]].concat();
    let mut run = coracle.start(&args, &manifest);
    run.wait_for_progress("the pod", |line| {
        line.contains("web/web: running").then_some(())
    });
    reach(client(&kubeconfig).await).await;
    assert!(routes().contains("10.244.0.0/16"), "{}", routes());
    run.interrupt();
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(routes(), "");
    let how = match inside() {
        Some(Inside::Root) => "by a program in the kernel",
        Some(Inside::User) | None => "by rules of nftables",
    };
    assert!(ended.stderr.contains(how), "{}", ended.stderr);
}

#[tokio::test]
async fn pods_of_a_cluster_are_reached_at_their_true_addresses() {
    let scenario = "pods_of_a_cluster_are_reached_at_their_true_addresses";
    if !is_inside(scenario, By::Same) {
        return;
    }
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let file = repository().join("samples/hello-http/hello-http.wasm");
    let file = file.to_str().expect("the folder's name is text");
    let built = coracle.finish(&["image", "build", file, "--tag", "hello:1"]);
    assert_eq!(built.code, Some(0), "{built:?}");
    let cluster = Cluster::start_with(&coracle, &["--plan", "host"]);
    let client = client(cluster.kubeconfig()).await;
    let (how, never) = (PostParams::default(), "Never");
    let web: Service = serde_json::from_value(service()).expect("a Service");
    let services = Api::default_namespaced(client.clone());
    services.create(&how, &web).await.expect("created");
    let mut web = pod("hello:1");
    web["spec"]["containers"][0]["imagePullPolicy"] = never.into();
    let web: Pod = serde_json::from_value(web).expect("a Pod");
    let pods = Api::default_namespaced(client.clone());
    pods.create(&how, &web).await.expect("created");
    reach(client).await;
    cluster.run.interrupt();
    let ended = cluster.run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(routes(), "");
}

#[tokio::test]
async fn pods_and_services_have_addresses_of_both_families() {
    let scenario = "pods_and_services_have_addresses_of_both_families";
    // The kernel makes an address of IPv6 its own a moment after it has it.
    let prepare = format!(
        "{PREPARE} && ip address add {NODE_6}/64 dev eth0 nodad \
         && until ip -6 route get {NODE_6} 2>/dev/null | grep -q ^local; do :; done"
    );
    if inside().is_none() && !allows_namespaces() {
        eprintln!("skipped: {scenario}: this machine allows no network namespace");
        return;
    }
    if enter_namespace(scenario, &prepare, By::Same).is_none() {
        return;
    }
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let file = repository().join("samples/hello-http/hello-http.wasm");
    let file = file.to_str().expect("the folder's name is text");
    let built = coracle.finish(&["image", "build", file, "--tag", "hello:1"]);
    assert_eq!(built.code, Some(0), "{built:?}");
    let cluster = Cluster::start_with(&coracle, &["--plan", "host", "--dual-stack"]);
    let client = client(cluster.kubeconfig()).await;
    let how = PostParams::default();
    let mut web = service();
    web["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    let web: Service = serde_json::from_value(web).expect("a Service");
    let services = Api::<Service>::default_namespaced(client.clone());
    let web = services.create(&how, &web).await.expect("created");
    let given = web.spec.and_then(|spec| spec.cluster_ips);
    let given = given.expect("it has addresses");
    assert_eq!(given.len(), 2, "{given:?}");
    let mut pod = pod("hello:1");
    pod["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    let pod: Pod = serde_json::from_value(pod).expect("a Pod");
    let pods = Api::<Pod>::default_namespaced(client.clone());
    pods.create(&how, &pod).await.expect("created");
    reach(client.clone()).await;
    let pod = pods.get("web").await.expect("a pod");
    let status = pod.status.expect("a ready pod has a status");
    let ips = status.pod_ips.expect("a ready pod has addresses");
    assert_eq!(ips.len(), 2, "{ips:?}");
    let hosts = status.host_ips.expect("a pod knows its node");
    assert_eq!(hosts[1].ip, NODE_6, "{hosts:?}");
    let nodes = Api::<Node>::all(client.clone());
    let node = nodes.get("coracle").await.expect("a Node");
    let known = node.status.and_then(|status| status.addresses);
    let known = known.expect("a Node has addresses");
    let inner = known.iter().filter(|one| one.type_ == "InternalIP");
    let inner = inner.map(|one| one.address.as_str()).collect::<Vec<_>>();
    assert_eq!(inner, [hosts[0].ip.as_str(), NODE_6]);
    let everywhere = [
        format!("[{}]:80", ips[1].ip),
        format!("[{}]:8000", given[1]),
        format!("[{NODE_6}]:{NODE_PORT}"),
    ];
    for at in everywhere {
        let answer = get_ready(&format!("http://{at}"), "/");
        assert_eq!((answer.status, answer.body.as_str()), (200, PAGE), "{at}");
    }
    let nothing = format!("[{}]:81", ips[1].ip);
    let refused = TcpStream::connect(&nothing).expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{nothing}");
    cluster.run.interrupt();
    let ended = cluster.run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
