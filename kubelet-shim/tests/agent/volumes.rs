//! What volumes do for running guests.

use coracle_kubelet_shim::ANNOTATION_REFUSED;
use k8s_openapi::api::core::v1::{LinuxContainerUser, PersistentVolumeClaim, Pod, Secret};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::guests;
use crate::pods::{is_over, is_running, run};
use crate::world::{World, annotation, container, phase, waiting_reason};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("an_init_container_leaves_variables_in_a_file", || {
        run(variables_in_a_file())
    }),
    ("a_volume_that_outgrows_its_limit_evicts_its_pod", || {
        run(eviction())
    }),
    ("what_is_in_a_claim_outlives_its_pods", || run(claim())),
    ("a_claim_that_is_not_there_makes_a_pod_wait", || {
        run(missing_claim())
    }),
    ("a_container_runs_as_its_security_context_says", || {
        run(another_user())
    }),
    ("a_container_is_told_what_is_mounted", || run(told_mounts())),
    ("an_image_can_be_a_volume", || run(image_volume())),
    ("a_pod_has_its_token_and_its_services_variables", || {
        run(token())
    }),
];

/// What the toolbox tells: whom it runs as, whose the volumes are, and that modes hold.
async fn another_user() {
    let mut world = World::new().await;
    let image = world.sample("toolbox");
    let script = "touch /disk/f /memory/f; chmod 640 /memory/f; echo $(id -u) $(id -G) \
        $(stat -c %u:%g /disk /disk/f) $(stat -c %a:%u:%g /memory /memory/f) \
        $(stat -Lc %a:%u:%g /map/key) $(cat /map/key) $(touch /etc/f 2>&1); \
        echo last words > /dev/termination-log";
    let spec = json!({
        "restartPolicy": "Never",
        "securityContext": {"runAsUser": 1000, "runAsGroup": 2000, "runAsNonRoot": true,
            "fsGroup": 3000, "supplementalGroups": [4000]},
        "containers": [{"name": "main", "image": image, "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "disk", "mountPath": "/disk"},
                {"name": "memory", "mountPath": "/memory"}, {"name": "map", "mountPath": "/map"}]}],
        "volumes": [{"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "map", "downwardAPI": {"defaultMode": 0o400, "items": [
                {"path": "key", "fieldRef": {"fieldPath": "metadata.name"}}]}}],
    });
    world.pod("p", spec).await;
    assert_eq!(
        world.line().await,
        "1000 2000 3000 4000 0:3000 1000:3000 2777:0:3000 640:1000:3000 440:0:3000 p touch: /etc/f: \
         Permission denied"
    );
    let pod = world.until("p", is_over).await;
    let ended = container(&pod).and_then(|main| main.state.as_ref()?.terminated.clone());
    let message = ended.and_then(|ended| ended.message);
    assert_eq!(message.as_deref(), Some("last words\n"));
    let user = container(&pod).and_then(|main| main.user.as_ref()?.linux.clone());
    let expected = LinuxContainerUser {
        uid: 1000,
        gid: 2000,
        supplemental_groups: Some(vec![2000, 3000, 4000]),
    };
    assert_eq!(user, Some(expected));
    world.stop().await;
}

async fn told_mounts() {
    let mut world = World::new().await;
    let image = world.sample("toolbox");
    let script = "echo $(df -P /memory | awk 'NR == 2 { print $1, $2, $6 }') \
        $(df /disk | awk 'NR == 2 { print $1, ($2 > 0), $6 }') \
        $(df /map/key | awk 'NR == 2 { print $1, $2, $6 }') $(mount | grep ' /map ')";
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [{"name": "main", "image": image, "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "disk", "mountPath": "/disk"},
                {"name": "memory", "mountPath": "/memory"}, {"name": "map", "mountPath": "/map"}]}],
        "volumes": [{"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
            {"name": "map", "downwardAPI": {"items": [
                {"path": "key", "fieldRef": {"fieldPath": "metadata.name"}}]}}],
    });
    world.pod("p", spec).await;
    // Elsewhere nobody says how large the disk is.
    let told = i32::from(cfg!(unix));
    assert_eq!(
        world.line().await,
        format!("tmpfs 8192 /memory host {told} /disk tmpfs - /map tmpfs on /map type tmpfs (ro)")
    );
    world.stop().await;
}

async fn variables_in_a_file() {
    let mut world = World::new().await;
    let writer = world.image(
        "writer",
        &guests::writes("scratch/env", "K='left behind'", "no"),
    );
    let reader = world.image("reader", &guests::shows_environment_and("none"));
    let mounts = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    let file = json!({"volumeName": "scratch", "path": "env", "key": "K"});
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "first", "image": writer, "volumeMounts": mounts}],
        "containers": [{"name": "main", "image": reader,
            "env": [{"name": "FOUND", "valueFrom": {"fileKeyRef": file}}]}],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    });
    world.pod("p", spec).await;
    let line = world.line().await;
    assert!(line.contains("FOUND=left behind"), "{line}");
    world.until("p", is_over).await;
    world.stop().await;
}

async fn eviction() {
    let world = World::new().await;
    let content = "x".repeat(2048);
    let image = world.image("fills", &guests::writes("scratch/file", &content, "again"));
    let spec = json!({
        "containers": [{"name": "main", "image": image,
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Ki"}}],
    });
    world.pod("p", spec).await;
    let pod = world.until("p", is_over).await;
    assert_eq!(phase(&pod), "Failed");
    let status = pod.status.unwrap_or_default();
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    let message = "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Ki\". ";
    assert_eq!(status.message.as_deref(), Some(message));
    let reasons = world.events("p", "Evicted").await;
    assert!(reasons.contains(&"Evicted".to_owned()));
    world.stop().await;
}

async fn claim() {
    let mut world = World::new().await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}}}});
    world.create::<PersistentVolumeClaim>(claim).await;
    let writer = world.image("writer", &guests::writes("data/sub/left", "behind", "no"));
    let reader = world.image("reader", &guests::shows_environment_and("data/left"));
    let spec = |image: &str, mount: serde_json::Value| {
        json!({
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": image, "volumeMounts": [mount]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}],
        })
    };
    let inner = json!({"name": "data", "mountPath": "/data/sub", "subPath": "inner"});
    world.pod("p", spec(&writer, inner)).await;
    let pod = world.until("p", is_over).await;
    assert_eq!(phase(&pod), "Succeeded", "{pod:?}");
    let read_only =
        json!({"name": "data", "mountPath": "/data", "subPath": "inner", "readOnly": true});
    world.pod("q", spec(&reader, read_only)).await;
    let line = world.line().await;
    assert!(line.ends_with("behind"), "{line:?}");
    world.until("q", is_over).await;
    world.stop().await;
}

async fn missing_claim() {
    let world = World::new().await;
    let image = world.image("spins", &guests::spins());
    // Its place is given, so that no scheduler keeps it away from the node.
    let spec = json!({
        "nodeName": "node-1",
        "containers": [{"name": "main", "image": image}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "none"}}],
    });
    world.pod("p", spec).await;
    world.events("p", "FailedMount").await;
    let pod = world.until("p", |pod| waiting_reason(pod).is_some()).await;
    assert_eq!(phase(&pod), "Pending");
    let claim = json!({"metadata": {"name": "none"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}}}});
    world.create::<PersistentVolumeClaim>(claim).await;
    world.until("p", is_running).await;
    world.stop().await;
}

async fn image_volume() {
    let mut world = World::new().await;
    // The first line of this module's binary form says its text before anything else of it.
    let content = world.image("content", &guests::says_and_exits("of the image", 0));
    let name = content
        .split(['/', ':', '@'])
        .find(|part| *part == "content");
    assert_eq!(name, Some("content"), "{content}");
    let image = world.image(
        "reader",
        &guests::shows_environment_and("image/content.wasm"),
    );
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [{"name": "main", "image": image,
            "volumeMounts": [{"name": "image", "mountPath": "/image"}]}],
        "volumes": [{"name": "image", "image": {"reference": content, "pullPolicy": "Never"}}],
    });
    world.pod("p", spec).await;
    let line = world.line().await;
    assert!(line.contains("\0asm"), "{line:?}");
    world.until("p", is_over).await;
    let spec = json!({
        "containers": [{"name": "main", "image": image}],
        "volumes": [{"name": "image",
            "image": {"reference": "localhost/none:1", "pullPolicy": "Never"}}],
    });
    world.pod("q", spec).await;
    let pod = world
        .until("q", |pod| waiting_reason(pod) == Some("ErrImageNeverPull"))
        .await;
    assert_eq!(phase(&pod), "Pending");
    assert!(annotation(&pod, ANNOTATION_REFUSED).is_none() && container(&pod).is_some());
    world.events("q", "Failed").await;
    world.stop().await;
}

async fn token() {
    let mut world = World::new().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"p": "first"}});
    world.create::<Secret>(secret).await;
    let path = "var/run/secrets/kubernetes.io/serviceaccount/token";
    let image = world.image("shows", &guests::shows_environment_and(path));
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": image}]});
    world.pod("p", spec).await;
    let line = world.line().await;
    assert!(line.contains("KUBERNETES_SERVICE_HOST=10."), "{line}");
    let token = line.rsplit('\0').next().unwrap_or_default();
    assert_eq!(token.split('.').count(), 3, "{line}");
    // Labels of a running pod may change, and its object with them, without any harm to it.
    let spins = world.image("spins", &guests::spins());
    let spec = json!({"containers": [{"name": "main", "image": spins}], "automountServiceAccountToken": false});
    world.pod("q", spec).await;
    let pod = world.until("q", is_running).await;
    let volumes = pod.spec.and_then(|spec| spec.volumes).unwrap_or_default();
    assert!(volumes.is_empty(), "{volumes:?}");
    let patch = Patch::Merge(json!({"metadata": {"labels": {"new": "label"}}}));
    let pods = world.api::<Pod>();
    pods.patch("q", &PatchParams::default(), &patch)
        .await
        .expect("changed");
    let pod = world.until("q", is_running).await;
    assert_eq!(container(&pod).map(|status| status.restart_count), Some(0));
    world.stop().await;
}
