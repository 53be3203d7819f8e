//! What claims, volumes and classes of storage begin with.

use serde_json::{Value, json};

use super::{default, object_at, replace_empty};
use crate::validate::elements;

/// Keeps a claim as long as a pod uses it; the controller of volumes takes it away.
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";

/// Keeps a volume as long as a claim is bound to it.
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// Fills in what a claim leaves open.
pub(crate) fn claim(object: &mut Value) {
    replace_empty(object_at(object, "spec"), "volumeMode", json!("Filesystem"));
    replace_empty(object_at(object, "status"), "phase", json!("Pending"));
}

/// Gives a new claim the status it begins with, and protects it.
pub(crate) fn new_claim(object: &mut Value) {
    object["status"] = json!({"phase": "Pending"});
    protect(object, CLAIM_PROTECTION);
}

/// Fills in what a volume leaves open.
pub(crate) fn volume(object: &mut Value) {
    let spec = object_at(object, "spec");
    replace_empty(spec, "persistentVolumeReclaimPolicy", json!("Retain"));
    replace_empty(spec, "volumeMode", json!("Filesystem"));
    if spec.get("hostPath").is_some_and(Value::is_object) {
        default(&mut spec["hostPath"], "type", json!(""));
    }
    replace_empty(object_at(object, "status"), "phase", json!("Pending"));
}

/// Gives a new volume the status it begins with, and protects it.
pub(crate) fn new_volume(object: &mut Value) {
    object["status"] = json!({"phase": "Pending"});
    protect(object, VOLUME_PROTECTION);
}

/// Fills in what becomes of a class's volumes.
pub(crate) fn storage_class(object: &mut Value) {
    replace_empty(object, "reclaimPolicy", json!("Delete"));
    replace_empty(object, "volumeBindingMode", json!("Immediate"));
}

fn protect(object: &mut Value, finalizer: &str) {
    let known = &object["metadata"]["finalizers"];
    let mut all: Vec<Value> = elements(known).cloned().collect();
    if !all.iter().any(|one| one == finalizer) {
        all.push(json!(finalizer));
        object_at(object, "metadata")["finalizers"] = Value::Array(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_claim_waits_and_is_protected_once() {
        let mut object = json!({"metadata": {"finalizers": [CLAIM_PROTECTION]},
            "status": {"phase": "Bound"}});
        claim(&mut object);
        new_claim(&mut object);
        assert_eq!(
            object,
            json!({"metadata": {"finalizers": [CLAIM_PROTECTION]},
                "spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}})
        );
    }

    #[test]
    fn volumes_are_kept_unless_they_say_otherwise() {
        let mut object = json!({"metadata": {}, "spec": {"hostPath": {"path": "/srv"}}});
        volume(&mut object);
        let spec = json!({"hostPath": {"path": "/srv", "type": ""}, "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Retain"});
        assert_eq!(object["spec"], spec);
        let mut class = json!({"provisioner": "x"});
        storage_class(&mut class);
        assert_eq!(class["reclaimPolicy"], "Delete");
    }
}
