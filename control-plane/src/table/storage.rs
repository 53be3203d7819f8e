//! Rows of claims, volumes and classes of storage.

use serde_json::{Value, json};

use super::{Shown, or, text};

/// What stands where a field is not set at all.
const UNSET: &str = "<unset>";

/// Marks the class that claims have which name none.
pub(crate) const IS_DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// The access modes in the order in which they are shown, and what they are called.
const MODES: &[(&str, &str)] = &[
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

pub(super) fn claim(claim: Shown<'_>) -> Value {
    let is_named = !claim.text("/spec/volumeName").is_empty();
    let (capacity, modes) = match is_named {
        true => (
            or(claim.text("/status/capacity/storage"), "0"),
            modes(claim, "/status/accessModes"),
        ),
        false => ("", String::new()),
    };
    json!([
        claim.name(),
        phase(claim),
        claim.text("/spec/volumeName"),
        capacity,
        modes,
        claim.text("/spec/storageClassName"),
        or(claim.text("/spec/volumeAttributesClassName"), UNSET),
        claim.age(),
        or(claim.text("/spec/volumeMode"), UNSET),
    ])
}

pub(super) fn volume(volume: Shown<'_>) -> Value {
    let claim = volume.object.pointer("/spec/claimRef").map(|claim| {
        let (namespace, name) = (text(claim, "/namespace"), text(claim, "/name"));
        format!("{namespace}/{name}")
    });
    json!([
        volume.name(),
        or(volume.text("/spec/capacity/storage"), "0"),
        modes(volume, "/spec/accessModes"),
        volume.text("/spec/persistentVolumeReclaimPolicy"),
        phase(volume),
        claim.unwrap_or_default(),
        volume.text("/spec/storageClassName"),
        or(volume.text("/spec/volumeAttributesClassName"), UNSET),
        volume.text("/status/reason"),
        volume.age(),
        or(volume.text("/spec/volumeMode"), UNSET),
    ])
}

pub(super) fn class(class: Shown<'_>) -> Value {
    let mut annotations = class.entries("/metadata/annotations");
    let is_default = annotations.any(|(name, value)| name == IS_DEFAULT_CLASS && value == "true");
    let name = match is_default {
        true => format!("{} (default)", class.name()),
        false => class.name().to_owned(),
    };
    json!([
        name,
        class.text("/provisioner"),
        or(class.text("/reclaimPolicy"), "Delete"),
        or(class.text("/volumeBindingMode"), "Immediate"),
        class.flag("/allowVolumeExpansion"),
        class.age(),
    ])
}

fn phase<'a>(object: Shown<'a>) -> &'a str {
    match object.text("/metadata/deletionTimestamp") {
        "" => object.text("/status/phase"),
        _ => "Terminating",
    }
}

fn modes(object: Shown<'_>, pointer: &str) -> String {
    let list = object.list(pointer);
    let short = MODES
        .iter()
        .filter(|(mode, _)| list.iter().any(|one| one == mode));
    let short: Vec<&str> = short.map(|(_, short)| *short).collect();
    short.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;

    #[test]
    fn storage_is_shown_as_by_a_stock_server() {
        check(
            "v1",
            "PersistentVolumeClaim",
            json!({"spec": {"volumeName": "v", "storageClassName": "c", "volumeMode": "Filesystem"},
                "status": {"phase": "Bound", "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadOnlyMany", "ReadWriteOnce"]}}),
            "x|Bound|v|1Gi|RWO,ROX|c|<unset>|60m|Filesystem",
        );
        check(
            "v1",
            "PersistentVolume",
            json!({"spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem",
                "claimRef": {"namespace": "n", "name": "c"}}, "status": {"phase": "Released"}}),
            "x|2Gi|RWX|Retain|Released|n/c||<unset>||60m|Filesystem",
        );
        check(
            "storage.k8s.io/v1",
            "StorageClass",
            json!({"provisioner": "p", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
                "metadata": {"annotations": {super::IS_DEFAULT_CLASS: "true"}}}),
            "x (default)|p|Delete|Immediate|false|60m",
        );
    }
}
