//! Claims, their volumes and the pods that wait for them.

use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

use crate::{
    harness::{Harness, check, until},
    pods::{create_node, create_pod, pods, roomy, verdict},
};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";

fn a_claim(name: &str, spec: Value) -> Value {
    let mut claim = json!({"metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    claim["spec"]
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    claim
}

fn mounting(claim: &str) -> Value {
    json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]})
}

fn claims(api: &Harness) -> Api<PersistentVolumeClaim> {
    Api::namespaced(api.plane.client("default"), "default")
}

fn volumes(api: &Harness) -> Api<PersistentVolume> {
    Api::all(api.plane.client("default"))
}

fn claim_phase(claim: Option<&PersistentVolumeClaim>) -> &str {
    let status = claim.and_then(|claim| claim.status.as_ref());
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("gone")
}

fn volume_phase(volume: Option<&PersistentVolume>) -> &str {
    let status = volume.and_then(|volume| volume.status.as_ref());
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("gone")
}

#[tokio::test]
async fn a_claim_gets_a_folder_and_its_end_takes_it_away() {
    let folder = tempfile::tempdir().unwrap();
    let api = Harness::with_folders(folder.path()).await;
    create_node(&api, "n", roomy()).await;
    let labels = json!({"metadata": {"labels": {"kubernetes.io/hostname": "n"}}});
    let merge = "application/merge-patch+json";
    let (code, _) = api.send("PATCH", "/api/v1/nodes/n", merge, &labels).await;
    assert_eq!(code, 200);
    create_pod(&api, "p", mounting("c")).await;
    let told = "0/1 nodes are available: persistentvolumeclaim \"c\" not found. preemption: 0/1 nodes \
                are available: 1 Preemption is not helpful for scheduling.";
    verdict(&api, "p", Err(told)).await;

    let made = check(
        &api,
        "POST",
        CLAIMS,
        a_claim("c", json!({})),
        201,
        json!({
            "metadata": {"finalizers": ["kubernetes.io/pvc-protection"]},
            "spec": {"storageClassName": "local-path", "volumeMode": "Filesystem"},
            "status": {"phase": "Pending"},
        }),
    );
    let made = made.await;
    until(&claims(&api), "c", |claim| claim_phase(claim) == "Bound").await;
    verdict(&api, "p", Ok("n")).await;
    let name = format!("pvc-{}", made["metadata"]["uid"].as_str().unwrap());
    let volume = volumes(&api).get(&name).await.unwrap();
    let spec = volume.spec.unwrap();
    let path = spec.host_path.unwrap().path;
    assert_eq!(path, folder.path().join(&name).to_string_lossy());
    std::fs::create_dir(&path).unwrap();

    // As long as the pod is there, so is the claim.
    claims(&api)
        .delete("c", &DeleteParams::default())
        .await
        .unwrap();
    let held = claims(&api).get("c").await.unwrap();
    assert!(held.metadata.deletion_timestamp.is_some());
    let at_once = DeleteParams::default().grace_period(0);
    pods(&api).delete("p", &at_once).await.unwrap();
    until(&claims(&api), "c", |claim| claim.is_none()).await;
    until(&volumes(&api), &name, |volume| volume.is_none()).await;
    assert!(!std::path::Path::new(&path).exists());
}

#[tokio::test]
async fn a_claim_grows_where_its_class_lets_it() {
    let folder = tempfile::tempdir().unwrap();
    let api = Harness::with_folders(folder.path()).await;
    let made = a_claim("c", json!({}));
    let made = check(&api, "POST", CLAIMS, made, 201, json!({})).await;
    until(&claims(&api), "c", |claim| claim_phase(claim) == "Bound").await;
    let merge = "application/merge-patch+json";
    let claim = &format!("{CLAIMS}/c");
    let asks = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let (code, refused) = api.send("PATCH", claim, merge, &asks("2Gi")).await;
    let message = "persistentvolumeclaims \"c\" is forbidden: only dynamically provisioned pvc can be \
                   resized and the storageclass that provisions the pvc must support resize";
    assert_eq!((code, refused["message"].as_str()), (403, Some(message)));
    let class = format!("{CLASSES}/local-path");
    let allows = json!({"allowVolumeExpansion": true});
    let (code, _) = api.send("PATCH", &class, merge, &allows).await;
    assert_eq!(code, 200);
    let (code, grown) = api.send("PATCH", claim, merge, &asks("2Gi")).await;
    assert_eq!(code, 200, "{grown}");
    let size = |capacity: Option<&std::collections::BTreeMap<String, Quantity>>| {
        capacity.and_then(|capacity| Some(capacity.get("storage")?.0.clone()))
    };
    until(&claims(&api), "c", |claim| {
        let status = claim.and_then(|claim| claim.status.as_ref());
        size(status.and_then(|status| status.capacity.as_ref())).as_deref() == Some("2Gi")
    })
    .await;
    let name = format!("pvc-{}", made["metadata"]["uid"].as_str().unwrap());
    let volume = volumes(&api).get(&name).await.unwrap().spec.unwrap();
    assert_eq!(size(volume.capacity.as_ref()).as_deref(), Some("2Gi"));
    let (code, refused) = api.send("PATCH", claim, merge, &asks("1Gi")).await;
    assert_eq!(code, 422, "{refused}");
}

#[tokio::test]
async fn a_range_bounds_what_claims_ask_for() {
    let api = Harness::start().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "PersistentVolumeClaim", "min": {"storage": "100Mi"}, "max": {"storage": "1Gi"}}]}});
    let ranges = "/api/v1/namespaces/default/limitranges";
    check(&api, "POST", ranges, range, 201, json!({})).await;
    for (size, code, message) in [
        ("1Gi", 201, None),
        (
            "5Gi",
            403,
            Some("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 5Gi"),
        ),
        (
            "1Mi",
            403,
            Some("minimum storage usage per PersistentVolumeClaim is 100Mi, but request is 1Mi"),
        ),
    ] {
        let claim = a_claim("c", json!({"resources": {"requests": {"storage": size}}}));
        let expected = message.map_or(json!({}), |message| {
            let message = format!("persistentvolumeclaims \"c\" is forbidden: {message}");
            json!({"reason": "Forbidden", "message": message})
        });
        check(&api, "POST", CLAIMS, claim, code, expected).await;
    }
}

#[tokio::test]
async fn a_claim_is_bound_to_a_volume_that_is_there_and_leaves_it_released() {
    let api = Harness::start().await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "5Gi"},
        "hostPath": {"path": "/srv/v"}}});
    check(
        &api,
        "POST",
        VOLUMES,
        volume,
        201,
        json!({"status": {"phase": "Pending"}}),
    )
    .await;
    until(&volumes(&api), "v", |volume| {
        volume_phase(volume) == "Available"
    })
    .await;
    let claim = a_claim("c", json!({"storageClassName": ""}));
    check(&api, "POST", CLAIMS, claim, 201, json!({})).await;
    until(&claims(&api), "c", |claim| claim_phase(claim) == "Bound").await;
    let claim = claims(&api).get("c").await.unwrap();
    let capacity = claim.status.unwrap().capacity.unwrap();
    assert_eq!(capacity["storage"].0, "5Gi");
    assert_eq!(claim.spec.unwrap().volume_name.as_deref(), Some("v"));

    claims(&api)
        .delete("c", &DeleteParams::default())
        .await
        .unwrap();
    until(&volumes(&api), "v", |volume| {
        volume_phase(volume) == "Released"
    })
    .await;
    // Another claim of the name does not get what the first has left.
    let claim = a_claim("c", json!({"storageClassName": ""}));
    check(&api, "POST", CLAIMS, claim, 201, json!({})).await;
    volumes(&api)
        .delete("v", &DeleteParams::default())
        .await
        .unwrap();
    until(&volumes(&api), "v", |volume| volume.is_none()).await;
    let claim = claims(&api).get("c").await.unwrap();
    assert_eq!(claim_phase(Some(&claim)), "Pending");
}

#[tokio::test]
async fn a_claim_may_wait_for_the_node_of_its_pod() {
    let api = Harness::start().await;
    for name in ["a", "b"] {
        create_node(&api, name, roomy()).await;
    }
    let class = json!({"metadata": {"name": "slow"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"});
    check(
        &api,
        "POST",
        CLASSES,
        class,
        201,
        json!({"reclaimPolicy": "Delete"}),
    )
    .await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "5Gi"}, "storageClassName": "slow",
        "local": {"path": "/srv/v"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
    check(&api, "POST", VOLUMES, volume, 201, json!({})).await;
    let claim = a_claim("c", json!({"storageClassName": "slow"}));
    check(&api, "POST", CLAIMS, claim, 201, json!({})).await;
    until(&volumes(&api), "v", |volume| {
        volume_phase(volume) == "Available"
    })
    .await;
    let claim = claims(&api).get("c").await.unwrap();
    assert_eq!(claim_phase(Some(&claim)), "Pending", "nobody uses it");
    create_pod(&api, "p", mounting("c")).await;
    verdict(&api, "p", Ok("b")).await;
    let claim = claims(&api).get("c").await.unwrap();
    assert!(
        claim
            .annotations()
            .contains_key("volume.kubernetes.io/selected-node")
    );
}
