//! What a person sees of pods on this node.

use std::time::{Duration, Instant};

use coracle_kubelet_shim::{ANNOTATION_PUBLISHED, ANNOTATION_REFUSED};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::guests;
use crate::world::{World, annotation, container, exit_code, phase, waiting_reason};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_handler_pod_becomes_ready_answers_and_goes", || {
        run(handler())
    }),
    ("exit_codes_decide_the_phase", || run(exit_codes())),
    ("a_failing_container_is_restarted_and_held_back", || {
        run(restarts())
    }),
    (
        "variables_and_volumes_reach_the_guest_and_secrets_no_disk",
        || run(configuration()),
    ),
    ("init_containers_run_in_order_before_the_others", || {
        run(init_containers())
    }),
    (
        "what_is_not_honoured_fails_by_name",
        || run(refused_field()),
    ),
    (
        "a_pod_may_select_the_node_by_a_label_that_came_later",
        || run(later_label()),
    ),
    ("an_image_that_is_not_here_is_refused_by_name", || {
        run(refused_image())
    }),
    ("a_missing_config_map_is_waited_for", || {
        run(missing_object())
    }),
    ("a_runtime_class_is_known_by_its_handler", || {
        run(runtime_classes())
    }),
    ("a_spinning_guest_ends_when_its_pod_is_deleted", || {
        run(deletion())
    }),
    ("a_pod_past_its_deadline_fails", || run(deadline())),
    ("a_pod_waits_for_network_policies_but_not_for_ever", || {
        run(policies())
    }),
    ("a_stopping_agent_ends_its_pods_and_says_so", || {
        run(shutdown())
    }),
];

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(test);
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

pub(crate) fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_running(pod: &Pod) -> bool {
    phase(pod) == "Running"
}

pub(crate) fn one(image: &str) -> serde_json::Value {
    json!([{"name": "main", "image": image}])
}

async fn handler() {
    let world = World::new().await;
    let image = world.sample("hello-http");
    let ports = json!([{"name": "http", "containerPort": 80}]);
    world
        .pod(
            "web",
            json!({"containers": [{"name": "c", "image": image, "ports": ports}]}),
        )
        .await;
    let pod = world
        .until("web", |pod| {
            is_ready(pod) && annotation(pod, ANNOTATION_PUBLISHED).is_some()
        })
        .await;
    assert_eq!(phase(&pod), "Running");
    let status = pod.status.clone().unwrap_or_default();
    assert!(status.pod_ip.is_some_and(|ip| ip.starts_with("10.244.")));
    assert!(status.start_time.is_some());
    let published = annotation(&pod, ANNOTATION_PUBLISHED).expect("an address");
    let published: serde_json::Value = serde_json::from_str(published).expect("JSON");
    assert_eq!(
        (&published[0]["container"], &published[0]["port"]),
        (&json!("c"), &json!(80))
    );
    let url = published[0]["url"].as_str().expect("a URL");
    let address = url.strip_prefix("http://").expect("an http URL");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let reasons = world.events("web", "Started").await;
    assert!(
        ["Pulled", "Created", "Started"]
            .iter()
            .all(|r| reasons.contains(&(*r).to_owned()))
    );
    world
        .api::<Pod>()
        .delete("web", &DeleteParams::default())
        .await
        .expect("deleted");
    world.until_gone("web").await;
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the port is closed"
    );
    world.stop().await;
}

async fn exit_codes() {
    let world = World::new().await;
    for (name, wasm, expected, code, reason) in [
        (
            "good",
            guests::says_and_exits("fine", 0),
            "Succeeded",
            0,
            "Completed",
        ),
        (
            "bad",
            guests::says_and_exits("oh no", 3),
            "Failed",
            3,
            "Error",
        ),
        ("trap", guests::traps(), "Failed", 134, "Error"),
    ] {
        let image = world.image(name, &wasm);
        world
            .pod(
                name,
                json!({"restartPolicy": "Never", "containers": one(&image)}),
            )
            .await;
        let pod = world.until(name, is_over).await;
        assert_eq!(phase(&pod), expected, "{name}");
        assert_eq!(exit_code(&pod), Some(code), "{name}");
        let state = container(&pod)
            .and_then(|c| c.state.clone())
            .and_then(|s| s.terminated);
        let state = state.expect("an end");
        assert_eq!(state.reason.as_deref(), Some(reason));
        assert_eq!(state.message.is_some(), name == "trap", "{state:?}");
        if name != "trap" {
            let uid = pod.metadata.uid.unwrap_or_default();
            let log = world
                .folder
                .path()
                .join(format!("node/pods/default_{name}_{uid}/main/0.log"));
            let text = std::fs::read_to_string(log).expect("a log");
            assert!(text.contains(" stdout F "), "{text}");
        }
    }
    world.stop().await;
}

async fn restarts() {
    let mut world = World::new().await;
    let image = world.image("bad", &guests::says_and_exits("again", 1));
    world
        .pod(
            "p",
            json!({"restartPolicy": "OnFailure", "containers": one(&image)}),
        )
        .await;
    let pod = world
        .until("p", |pod| waiting_reason(pod) == Some("CrashLoopBackOff"))
        .await;
    assert_eq!(phase(&pod), "Running");
    let status = container(&pod).expect("a status");
    assert_eq!(
        status.restart_count, 1,
        "the first restart is immediate, the second held back"
    );
    let last = status
        .last_state
        .as_ref()
        .and_then(|s| s.terminated.as_ref());
    assert_eq!(last.map(|end| end.exit_code), Some(1));
    assert_eq!(world.line().await, "again");
    assert_eq!(world.line().await, "again");
    assert!(
        world
            .events("p", "BackOff")
            .await
            .contains(&"Started".to_owned())
    );
    world.stop().await;
}

async fn configuration() {
    let mut world = World::new().await;
    let secret = "tr0ub4dor-and-3";
    world
        .create::<ConfigMap>(
            json!({"metadata": {"name": "m"}, "data": {"greeting": "from a file", "A": "map"}}),
        )
        .await;
    world
        .create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"password": secret}}))
        .await;
    let image = world.image("env", &guests::shows_environment_and("config/greeting"));
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [{
            "name": "main", "image": image,
            "env": [
                {"name": "B", "value": "<$(POD)>"},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "C", "value": "<$(POD)>"},
                {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
            ],
            "envFrom": [{"prefix": "M_", "configMapRef": {"name": "m"}}],
            "volumeMounts": [
                {"name": "config", "mountPath": "/config"}, {"name": "secret", "mountPath": "/secret"},
                {"name": "scratch", "mountPath": "/scratch"},
            ],
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": "m", "items": [{"key": "greeting", "path": "greeting"}]}},
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "scratch", "emptyDir": {}},
        ],
    });
    world.pod("p", spec).await;
    let line = world.line().await;
    let pod = world.until("p", is_over).await;
    assert_eq!(phase(&pod), "Succeeded", "{pod:#?}");
    for expected in [
        "M_A=map",
        "B=<$(POD)>",
        "C=<p>",
        "HOSTNAME=p",
        "PASSWORD=tr0ub4dor-and-3",
    ] {
        assert!(line.contains(expected), "{expected} in {line}");
    }
    assert!(line.ends_with("from a file"), "{line}");
    // The guest printed it, so its log has it; nothing else may.
    let uid = pod.metadata.uid.unwrap_or_default();
    let logs = format!("node/pods/default_p_{uid}");
    std::fs::remove_dir_all(world.folder.path().join(logs)).expect("its logs");
    assert!(
        !holds(world.folder.path(), secret.as_bytes()),
        "a secret reached the disk"
    );
    world.stop().await;
}

/// Whether any file below a folder holds these bytes.
fn holds(folder: &std::path::Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).expect("a folder").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        let content = std::fs::read(&path).unwrap_or_default();
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

async fn init_containers() {
    let mut world = World::new().await;
    let image = |name: &str| world.image(name, &guests::says_and_exits(name, 0));
    let (first, second, third) = (image("first"), image("second"), image("third"));
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "a", "image": first}, {"name": "b", "image": second}],
        "containers": [{"name": "c", "image": third}],
    });
    world.pod("p", spec).await;
    assert_eq!(world.line().await, "first");
    assert_eq!(world.line().await, "second");
    assert_eq!(world.line().await, "third");
    let pod = world.until("p", is_over).await;
    assert_eq!(phase(&pod), "Succeeded");
    world.stop().await;
}

async fn refused_field() {
    let world = World::new().await;
    let security = json!({"privileged": true});
    let containers = json!([{"name": "c", "image": "r.example/i:1", "securityContext": security}]);
    world.pod("p", json!({"containers": containers})).await;
    let pod = world.until("p", is_over).await;
    let status = pod.status.expect("a status");
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("PodFeatureUnsupported"));
    assert_eq!(status.container_statuses, None, "no container waits");
    let message = status.message.unwrap_or_default();
    assert!(
        message.contains("`spec.containers[0].securityContext.privileged`"),
        "{message}"
    );
    world.events("p", "PodFeatureUnsupported").await;
    world.stop().await;
}

async fn later_label() {
    let world = World::new().await;
    let nodes = Api::<Node>::all(world.control_plane.client("default"));
    let label = json!({"metadata": {"labels": {"disk": "fast"}}});
    let labelled = nodes
        .patch("node-1", &PatchParams::default(), &Patch::Merge(label))
        .await;
    labelled.expect("a label");
    let image = world.image("good", &guests::says_and_exits("fine", 0));
    let pod = |value: &str| {
        json!({"restartPolicy": "Never", "containers": one(&image), "nodeName": "node-1",
            "nodeSelector": {"disk": value}})
    };
    world.pod("p", pod("fast")).await;
    let found = world.until("p", is_over).await;
    assert_eq!(phase(&found), "Succeeded", "{:#?}", found.status);
    let ip = found.status.and_then(|status| status.pod_ip);
    assert!(ip.is_some(), "it keeps its address");
    world.pod("q", pod("slow")).await;
    let status = world.until("q", is_over).await.status.expect("a status");
    assert_eq!(status.reason.as_deref(), Some("NodeAffinity"));
    world.stop().await;
}

async fn refused_image() {
    let world = World::new().await;
    let absent = json!([{"name": "c", "image": "r.example/absent:1", "imagePullPolicy": "Never"}]);
    world.pod("absent", json!({"containers": absent})).await;
    world
        .pod("bad", json!({"containers": one("r.example/BAD:1:2")}))
        .await;
    for (name, reason) in [("absent", "ErrImageNeverPull"), ("bad", "InvalidImageName")] {
        let pod = world
            .until(name, |pod| annotation(pod, ANNOTATION_REFUSED).is_some())
            .await;
        assert_eq!(waiting_reason(&pod), Some(reason));
        assert_eq!(phase(&pod), "Pending");
    }
    world.events("absent", "ErrImageNeverPull").await;
    world.stop().await;
}

async fn missing_object() {
    let world = World::new().await;
    let image = world.image("good", &guests::says_and_exits("fine", 0));
    let spec = json!({
        "restartPolicy": "Never", "containers": one(&image),
        "volumes": [{"name": "v", "configMap": {"name": "late"}}],
    });
    world.pod("p", spec).await;
    world.events("p", "FailedMount").await;
    let pod = world.until("p", |pod| phase(pod) == "Pending").await;
    assert!(annotation(&pod, ANNOTATION_REFUSED).is_none());
    world
        .create::<ConfigMap>(json!({"metadata": {"name": "late"}, "data": {}}))
        .await;
    assert_eq!(phase(&world.until("p", is_over).await), "Succeeded");
    world.stop().await;
}

async fn runtime_classes() {
    let world = World::new().await;
    let image = world.image("good", &guests::says_and_exits("fine", 0));
    let classes = Api::<RuntimeClass>::all(world.control_plane.client("default"));
    let class = |name: &str, handler: &str| RuntimeClass {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        handler: handler.to_owned(),
        ..RuntimeClass::default()
    };
    let create = async |class| {
        let created = classes.create(&PostParams::default(), &class).await;
        created.expect("it is created");
    };
    let spec = |class: &str| json!({"restartPolicy": "Never", "containers": one(&image), "runtimeClassName": class});
    create(class("wasmtime-spin-v2", "spin")).await;
    world.pod("p", spec("wasmtime-spin-v2")).await;
    assert_eq!(phase(&world.until("p", is_over).await), "Succeeded");

    create(class("other", "kata")).await;
    world.pod("q", spec("other")).await;
    let reason = "FailedCreatePodSandBox";
    let message = "Failed to create pod sandbox: no runtime for \"kata\" is configured: this node has coracle, \
                   spin, wasi, wasm, wasmedge, wasmer, wasmtime";
    world.message("q", reason, message).await;
    let pod = world.until("q", |pod| phase(pod) == "Pending").await;
    assert!(annotation(&pod, ANNOTATION_REFUSED).is_none());
    let deleted = classes.delete("other", &DeleteParams::default()).await;
    deleted.expect("it is there");
    create(class("other", "wasm")).await;
    assert_eq!(phase(&world.until("q", is_over).await), "Succeeded");
    world.stop().await;
}

async fn deletion() {
    let world = World::new().await;
    let image = world.image("spin", &guests::spins());
    world
        .pod(
            "p",
            json!({"containers": one(&image), "terminationGracePeriodSeconds": 1}),
        )
        .await;
    world.until("p", is_running).await;
    let asked = Instant::now();
    world
        .api::<Pod>()
        .delete("p", &DeleteParams::default())
        .await
        .expect("deleted");
    world.until_gone("p").await;
    // Its second, and not the half minute that pods have without one of their own.
    assert!(asked.elapsed() < Duration::from_secs(25));
    world.events("p", "Killing").await;
    assert!(!world.folder.path().join("node/volumes").exists());
    // Force: the object goes first, the pod after it.
    world.pod("q", json!({"containers": one(&image)})).await;
    world.until("q", is_running).await;
    let force = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    world
        .api::<Pod>()
        .delete("q", &force)
        .await
        .expect("deleted");
    world.events("q", "Killing").await;
    world.stop().await;
}

async fn deadline() {
    let world = World::new().await;
    let image = world.image("spin", &guests::spins());
    let spec = json!({
        "containers": one(&image), "activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0,
    });
    world.pod("p", spec).await;
    let pod = world.until("p", is_over).await;
    assert_eq!(
        pod.status.and_then(|s| s.reason).as_deref(),
        Some("DeadlineExceeded")
    );
    world.stop().await;
}

async fn policies() {
    let world = World::new().await;
    let image = world.image("good", &guests::says_and_exits("fine", 0));
    let spec = json!({"restartPolicy": "Never", "containers": one(&image)});
    world.fabric.policies().fall_behind();
    let asked = Instant::now();
    world.pod("p", spec.clone()).await;
    world.until("p", is_over).await;
    assert!(asked.elapsed() >= Duration::from_secs(1), "it did not wait");
    world.fabric.policies().settle(None);
    world.pod("q", spec).await;
    assert_eq!(phase(&world.until("q", is_over).await), "Succeeded");
    world.stop().await;
}

async fn shutdown() {
    let world = World::new().await;
    let image = world.image("spin", &guests::spins());
    world.pod("p", json!({"containers": one(&image)})).await;
    world.until("p", is_running).await;
    let World {
        agent,
        control_plane,
        folder: _folder,
        ..
    } = world;
    let asked = Instant::now();
    agent.stop(Duration::from_secs(1)).await;
    // Not the half minute that the pod has.
    assert!(asked.elapsed() < Duration::from_secs(25));
    let api = kube::Api::<Pod>::namespaced(control_plane.client("default"), "default");
    let pod = api.get("p").await.expect("the pod");
    assert_eq!(phase(&pod), "Failed");
    assert_eq!(
        pod.status.and_then(|s| s.reason).as_deref(),
        Some("Terminated")
    );
    control_plane.stop().await;
}
