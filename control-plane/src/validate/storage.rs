//! The checks of claims, volumes and classes of storage.

use serde_json::Value;

use super::{Field, walk};
use crate::{invalid::Causes, quantity::Quantity};

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

const ALONE: &str = "ReadWriteOncePod";

const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// Every source that a volume may have.
const SOURCES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

const IMMUTABLE_CLAIM: &str = "spec is immutable after creation except resources.requests and \
                               volumeAttributesClassName for bound claims";

/// Checks a claim; all but its size, and once its volume, stays.
pub(crate) fn claim(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let spec = &root.child("spec");
        access_modes(spec, "at least 1 access mode is required");
        let requests = spec.child("resources.requests.storage");
        let resources = spec.child("resources");
        let said_at = resources.key("storage").with(requests.value);
        match requests.is_set() {
            false => said_at.required(""),
            true => positive(&said_at),
        }
        let class = spec.child("storageClassName");
        class.name_if_any(super::NameRule::Subdomain);
        spec.child("volumeMode").one_of_if_set(VOLUME_MODES);
        if let Some(old) = old {
            claim_change(root, old);
        }
    });
}

fn claim_change(root: &Field<'_, '_>, old: &Value) {
    let spec = root.child("spec");
    let (mut before, mut after) = (old["spec"].clone(), spec.value.clone());
    let is_named = before["volumeName"]
        .as_str()
        .is_some_and(|name| !name.is_empty());
    let is_bound = root.child("status.phase").text() == "Bound";
    // An absent class may be filled in later, when there is a default.
    let was_classless = before.get("storageClassName").is_none_or(Value::is_null);
    for (part, is_free) in [
        ("volumeName", !is_named),
        ("storageClassName", was_classless),
        ("volumeAttributesClassName", is_bound),
    ] {
        if is_free {
            take(&mut before, part);
            take(&mut after, part);
        }
    }
    let size = |spec: &Value| {
        let text = spec["resources"]["requests"]["storage"].as_str();
        text.and_then(Quantity::parse)
    };
    let sizes = size(&before).zip(size(&after));
    if is_bound {
        take(&mut before["resources"]["requests"], "storage");
        take(&mut after["resources"]["requests"], "storage");
    }
    if before != after {
        spec.forbidden(IMMUTABLE_CLAIM);
    }
    if sizes.is_some_and(|(before, after)| before.exceeds(after)) {
        let requests = spec.child("resources.requests");
        let at = requests.child("storage");
        at.forbidden("field can not be less than status.capacity");
    }
}

/// Checks a volume; its source stays.
pub(crate) fn volume(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let spec = &root.child("spec");
        access_modes(spec, "");
        let capacity = spec.child("capacity");
        if capacity.is_empty() {
            capacity.required("");
        }
        for (name, amount) in capacity.entries() {
            if name == "storage" {
                positive(&amount);
            }
        }
        if !capacity.is_empty() && !capacity.key("storage").is_set() {
            capacity.not_supported(&["storage"]);
        }
        let policy = spec.child("persistentVolumeReclaimPolicy");
        policy.one_of_if_set(&["Delete", "Recycle", "Retain"]);
        spec.child("volumeMode").one_of_if_set(VOLUME_MODES);
        let class = spec.child("storageClassName");
        class.name_if_any(super::NameRule::Subdomain);
        source(spec);
        if let Some(old) = old {
            let changed = |source: &&&str| spec.child(source).value != &old["spec"][**source];
            if SOURCES.iter().any(|source| changed(&source)) {
                let at = spec.child("persistentvolumesource");
                at.forbidden("spec.persistentvolumesource is immutable after creation");
            }
            let mode = root.child("volumeMode");
            let mode = mode.with(spec.child("volumeMode").value);
            mode.unchanged(&old["spec"]["volumeMode"]);
        }
    });
}

fn source(spec: &Field<'_, '_>) {
    let mut named = SOURCES.iter().filter(|source| spec.child(source).is_set());
    let Some(first) = named.next() else {
        return spec.required("must specify a volume type");
    };
    for other in named {
        let at = spec.child(other);
        at.forbidden("may not specify more than 1 volume type");
    }
    let source = spec.child(first);
    if matches!(*first, "hostPath" | "local") {
        let path = source.child("path");
        path.present();
        path.no_backsteps();
    }
    if *first == "local" && !spec.child("nodeAffinity.required").is_set() {
        let at = spec.child("nodeAffinity");
        at.required("Local volume requires node affinity");
    }
}

/// Checks a class; only what it allows and says about itself can change.
pub(crate) fn class(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let provisioner = root.child("provisioner");
        match provisioner.is_empty() {
            true => provisioner.required(""),
            false => provisioner.qualified_text(&provisioner.text().to_lowercase()),
        }
        let policy = root.child("reclaimPolicy");
        policy.one_of_if_set(&["Delete", "Retain"]);
        let mode = root.child("volumeBindingMode");
        mode.one_of_if_set(&["Immediate", "WaitForFirstConsumer"]);
        if let Some(old) = old {
            let kept = [
                "parameters",
                "provisioner",
                "reclaimPolicy",
                "volumeBindingMode",
            ];
            for name in kept {
                root.child(name).unchanged(&old[name]);
            }
        }
    });
}

fn access_modes(spec: &Field<'_, '_>, missing: &str) {
    let modes = spec.child("accessModes");
    if modes.is_empty() {
        modes.required(missing);
    }
    let (mut alone, mut others) = (false, false);
    for mode in modes.items() {
        modes.with(mode.value).one_of(ACCESS_MODES);
        match mode.text() == ALONE {
            true => alone = true,
            false => others |= ACCESS_MODES.contains(&mode.text()),
        }
    }
    if alone && others {
        modes.forbidden("may not use ReadWriteOncePod with other access modes");
    }
}

fn positive(amount: &Field<'_, '_>) {
    let zero = Quantity::whole(0);
    if amount.quantity().is_none_or(|amount| !amount.exceeds(zero)) {
        amount.invalid("must be greater than zero");
    }
}

fn take(object: &mut Value, name: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Check = fn(&Value, Option<&Value>, &mut Causes);

    fn check(check: Check, object: &Value, old: Option<&Value>, expected: &[&str]) {
        let mut causes = Causes::default();
        check(object, old, &mut causes);
        let found = causes.into_vec();
        let found: Vec<_> = found.iter().map(|cause| cause.sentence()).collect();
        assert_eq!(found, expected, "{object}");
    }

    fn a_claim(change: Value) -> Value {
        let mut claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1Gi"}}}});
        merge(&mut claim, change);
        claim
    }

    fn a_volume(change: Value) -> Value {
        let mut volume = json!({"spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/srv"}}});
        merge(&mut volume, change);
        volume
    }

    fn merge(object: &mut Value, change: Value) {
        json_patch::merge(object, &change);
    }

    #[test]
    fn a_claim_says_how_much_and_how() {
        check(claim, &a_claim(json!({})), None, &[]);
        let empty = json!({"spec": {"accessModes": null, "resources": null}});
        check(
            claim,
            &a_claim(empty),
            None,
            &[
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ],
        );
        let modes = json!({"spec": {"accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]}});
        check(
            claim,
            &a_claim(modes),
            None,
            &["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"],
        );
    }

    #[test]
    fn of_a_claim_the_volume_is_named_once_and_a_bound_one_grows() {
        let named = |name: &str| a_claim(json!({"spec": {"volumeName": name}}));
        check(claim, &named("a"), Some(&a_claim(json!({}))), &[]);
        let immutable = format!("spec: Forbidden: {IMMUTABLE_CLAIM}");
        check(claim, &named("b"), Some(&named("a")), &[&immutable]);
        let sized = |size: &str, phase: &str| {
            a_claim(
                json!({"spec": {"resources": {"requests": {"storage": size}}},
                "status": {"phase": phase}}),
            )
        };
        check(
            claim,
            &sized("2Gi", "Bound"),
            Some(&sized("1Gi", "Bound")),
            &[],
        );
        let pending = (sized("2Gi", "Pending"), sized("1Gi", "Pending"));
        check(claim, &pending.0, Some(&pending.1), &[&immutable]);
        check(
            claim,
            &sized("1Gi", "Bound"),
            Some(&sized("2Gi", "Bound")),
            &[
                "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity",
            ],
        );
    }

    #[test]
    fn a_volume_has_one_source_which_stays() {
        check(volume, &a_volume(json!({})), None, &[]);
        let none = json!({"spec": {"hostPath": null}});
        let missing = ["spec: Required value: must specify a volume type"];
        check(volume, &a_volume(none), None, &missing);
        let local = json!({"spec": {"hostPath": null, "local": {"path": "/a"}}});
        let affinity = ["spec.nodeAffinity: Required value: Local volume requires node affinity"];
        check(volume, &a_volume(local), None, &affinity);
        check(
            volume,
            &a_volume(json!({"spec": {"hostPath": {"path": "/b"}}})),
            Some(&a_volume(json!({}))),
            &[
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after \
               creation",
            ],
        );
    }

    #[test]
    fn a_class_stays_what_it_is() {
        let of = |provisioner: &str| json!({"provisioner": provisioner, "reclaimPolicy": "Delete"});
        check(class, &of("coracle.dev/local-path"), None, &[]);
        check(class, &of(""), None, &["provisioner: Required value"]);
        let changed = ["provisioner: Invalid value: \"b\": field is immutable"];
        check(class, &of("b"), Some(&of("a")), &changed);
    }
}
