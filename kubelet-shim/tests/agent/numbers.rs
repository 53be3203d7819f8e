//! What a node at work tells of itself and its pods in numbers.

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::Api;
use serde_json::{Value, json};

use crate::guests;
use crate::logs::text;
use crate::pods::{is_running, run};
use crate::world::World;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_node_tells_what_runs_on_it_and_what_it_uses", || {
        run(numbers())
    }),
    (
        "a_container_may_start_all_containers_of_its_pod_again",
        || run(start_over()),
    ),
];

async fn numbers() {
    let world = World::new().await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}}}});
    world.create::<PersistentVolumeClaim>(claim).await;
    let image = world.image("fills", &guests::writes("data/file", "0123456789", "again"));
    let spec = json!({
        "containers": [{"name": "main", "image": image, "resources": {"limits": {"cpu": "500m"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}],
    });
    world.pod("p", spec).await;
    world.until("p", is_running).await;

    let page = text(&world, "/metrics", 200).await;
    for line in [
        "kubelet_running_pods 1",
        "kubelet_running_containers{container_state=\"running\"} 1",
        "kubelet_started_pods_total 1",
        "kubelet_pod_start_duration_seconds_count 1",
        "kubelet_node_name{node=\"node-1\"} 1",
    ] {
        assert!(page.lines().any(|it| it == line), "{line} in\n{page}");
    }
    let page = text(&world, "/metrics/cadvisor", 200).await;
    let labels = format!("image=\"{image}\",");
    for name in [
        "container_cpu_usage_seconds_total{container=\"main\",",
        "container_memory_working_set_bytes{container=\"main\",",
        "container_spec_cpu_quota{container=\"main\",",
    ] {
        let mut lines = page.lines();
        let found = lines.any(|line| line.starts_with(name) && line.contains(&labels));
        assert!(found, "{name} with {labels} in\n{page}");
    }
    text(&world, "/metrics/probes", 200).await;
    let config: Value = serde_json::from_str(&text(&world, "/configz", 200).await).expect("JSON");
    assert_eq!(config["kubeletconfig"]["kind"], "KubeletConfiguration");
    let pods = text(&world, "/runningpods/", 200).await;
    let pods: Value = serde_json::from_str(&pods).expect("JSON");
    assert_eq!(pods["items"][0]["metadata"]["name"], "p");
    assert_eq!(pods["items"][0]["spec"]["containers"][0]["image"], image);

    check_summary(&world).await;
    check_conditions(&world).await;
    world.stop().await;
}

async fn check_summary(world: &World) {
    let summary = text(world, "/stats/summary", 200).await;
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    let pod = &summary["pods"][0];
    let volume = &pod["volume"][0];
    assert_eq!(
        volume["pvcRef"],
        json!({"name": "c", "namespace": "default"})
    );
    assert_eq!(volume["name"], "data");
    for part in ["rootfs", "logs"] {
        assert!(pod["containers"][0][part]["usedBytes"].is_u64(), "{pod}");
    }
    // What is in a claim does not go with the pod.
    assert!(
        pod["ephemeral-storage"]["usedBytes"].as_u64() < Some(1 << 20),
        "{pod}"
    );
}

async fn check_conditions(world: &World) {
    let nodes: Api<Node> = Api::all(world.control_plane.client("default"));
    let node = nodes.get("node-1").await.expect("the node");
    let conditions = node.status.and_then(|status| status.conditions);
    let conditions = conditions.expect("there are some");
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
        let mut all = conditions.iter();
        let found = all.find(|c| c.type_ == kind).expect(kind);
        assert!(found.last_transition_time.is_some(), "{kind}");
    }
}

async fn start_over() {
    let world = World::new().await;
    let first = world.image("first", &guests::says_and_exits("first", 0));
    let asks = world.image("asks", &guests::says_and_exits("asks", 42));
    let spins = world.image("spins", &guests::spins());
    let rule = json!({"action": "RestartAllContainers",
        "exitCodes": {"operator": "In", "values": [42]}});
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "first", "image": first}],
        "containers": [
            {"name": "main", "image": spins},
            {"name": "asks", "image": asks, "restartPolicy": "Never", "restartPolicyRules": [rule]},
        ],
    });
    world.pod("p", spec).await;
    let pod = world.until("p", is_started_over).await;
    let status = pod.status.unwrap_or_default();
    let ip = status.pod_ip.clone();
    let inits = status.init_container_statuses.unwrap_or_default();
    assert!(inits[0].restart_count >= 1, "{inits:?}");
    let main = &status.container_statuses.unwrap_or_default()[0];
    let last = main.last_state.clone().and_then(|state| state.terminated);
    let last = last.expect("it was ended");
    assert_eq!(last.exit_code, 137);
    assert_eq!(last.reason.as_deref(), Some("RestartingAllContainers"));
    let pod = world.api::<Pod>().get("p").await.expect("the pod");
    assert_eq!(
        pod.status.unwrap_or_default().pod_ip,
        ip,
        "its address stays"
    );
    world.stop().await;
}

/// The container that never ends by itself runs for the second time.
fn is_started_over(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let mut statuses = statuses.into_iter().flatten();
    statuses.any(|status| {
        let state = status.state.as_ref();
        status.name == "main"
            && status.restart_count >= 1
            && state.is_some_and(|state| state.running.is_some())
    })
}
