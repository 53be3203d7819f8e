//! (claims, volumes, classes) → the next step for one of them. Pure.

use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec},
    api::storage::v1::StorageClass,
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::path::PathBuf;

use super::{
    book::{Book, ClaimKey, claim_key, names},
    local::{LocalVolumes, PROVISIONER},
};
use crate::quantity::Quantity;

const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// Says of a claim that its binding is complete.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// Says that we chose, and not who wrote the object.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Says who made a volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Says who is to make the volume of a claim.
const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

/// Says for which node the scheduler wants a claim bound.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Why a class makes no volumes: they are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// One step.
#[derive(Debug, PartialEq)]
pub(super) enum Act {
    /// Writes these parts, one after the other.
    Patch(Change),
    /// Makes a volume.
    Create(Value),
    /// Says something about a claim.
    Tell(Note),
    /// Lets a claim go, when no pod uses it.
    Unprotect {
        namespace: String,
        name: String,
        patch: Part,
    },
    /// Removes a volume, and its folder when it is ours.
    Reclaim {
        name: String,
        uid: String,
        folder: Option<PathBuf>,
    },
}

/// Writes that belong together.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    pub(super) parts: Vec<Part>,
}

/// One merge patch.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    pub(super) path: String,
    pub(super) body: Value,
}

/// Something said about a claim.
#[derive(Debug, PartialEq)]
pub(super) struct Note {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) severity: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Says whether a claim has its volume.
pub(super) fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim_phase(claim) == "Bound"
}

/// Returns the next step for a claim.
pub(super) fn claim(
    book: &Book,
    claim: &PersistentVolumeClaim,
    local: Option<&LocalVolumes>,
) -> Option<Act> {
    let key = claim_key(claim);
    if claim.metadata.deletion_timestamp.is_some() {
        let finalizers = without(claim.finalizers(), CLAIM_PROTECTION)?;
        let (namespace, name) = key.clone();
        let body = json!({"metadata": {"finalizers": finalizers,
            "resourceVersion": claim.resource_version()}});
        let patch = Part {
            path: claim_path(&key, ""),
            body,
        };
        return Some(Act::Unprotect {
            namespace,
            name,
            patch,
        });
    }
    let spec = claim.spec.clone().unwrap_or_default();
    let wanted = spec.volume_name.filter(|name| !name.is_empty());
    if let Some(name) = wanted {
        return match book.volumes.all.get(&name) {
            Some(volume) if is_for(volume, &key, claim) => bind(claim, volume),
            // Whoever waits for a certain volume waits until it is there, or free.
            Some(_) if !is_bound(claim) => {
                let message = format!("volume \"{name}\" already bound to a different claim.");
                Some(tell(claim, "Warning", "FailedBinding", message))
            }
            None if !is_bound(claim) => {
                let message = format!("volume \"{name}\" not found");
                Some(tell(claim, "Warning", "FailedBinding", message))
            }
            Some(_) | None => lose(claim),
        };
    }
    let mut volumes = book.volumes.all.values();
    if let Some(kept) = volumes.find(|volume| names(volume, &key) && is_for(volume, &key, claim)) {
        return bind(claim, kept);
    }
    let class = class_of(claim);
    let known = book.classes.all.get(class);
    if known.is_some_and(waits) && !claim.annotations().contains_key(SELECTED_NODE) {
        let message = "waiting for first consumer to be created before binding";
        return Some(tell(
            claim,
            "Normal",
            "WaitForFirstConsumer",
            message.to_owned(),
        ));
    }
    if let Some(volume) = best(book, claim) {
        return bind(claim, volume);
    }
    provide(claim, class, known, local)
}

/// Makes a volume for a claim, or says who would have to.
fn provide(
    claim: &PersistentVolumeClaim,
    class: &str,
    known: Option<&StorageClass>,
    local: Option<&LocalVolumes>,
) -> Option<Act> {
    let (Some(known), false) = (known, class.is_empty()) else {
        let message = match class {
            "" => "no persistent volumes available for this claim and no storage class is set"
                .to_owned(),
            class => format!("storageclass.storage.k8s.io \"{class}\" not found"),
        };
        let (severity, reason) = match class {
            "" => ("Normal", "FailedBinding"),
            _ => ("Warning", "ProvisioningFailed"),
        };
        return Some(tell(claim, severity, reason, message));
    };
    match (known.provisioner.as_str(), local) {
        (PROVISIONER, Some(local)) => match refusal(claim, known) {
            Some(message) => Some(tell(claim, "Warning", "ProvisioningFailed", message)),
            None => Some(Act::Create(local_volume(claim, known, local))),
        },
        (NO_PROVISIONER, _) => {
            let message =
                "no persistent volumes available for this claim and its storage class makes none";
            Some(tell(claim, "Normal", "FailedBinding", message.to_owned()))
        }
        (provisioner, _) => {
            if claim
                .annotations()
                .get(STORAGE_PROVISIONER)
                .map(String::as_str)
                != Some(provisioner)
            {
                let body = json!({"metadata": {"resourceVersion": claim.resource_version(),
                    "annotations": {STORAGE_PROVISIONER: provisioner}}});
                let path = claim_path(&claim_key(claim), "");
                let parts = vec![Part { path, body }];
                return Some(Act::Patch(Change { parts }));
            }
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or \
                 manually by the system administrator. If volume creation is delayed, please verify that \
                 the provisioner is running and correctly registered."
            );
            Some(tell(claim, "Normal", "ExternalProvisioning", message))
        }
    }
}

/// Returns why a folder cannot be what a claim asks for.
fn refusal(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("a folder is no block device: volumeMode `Block` is not supported".to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("a folder begins empty: dataSource is not supported".to_owned());
    }
    if spec.selector.is_some() {
        return Some("claim.Spec.Selector is not supported".to_owned());
    }
    let mut parameters = class.parameters.iter().flatten();
    let (name, _) = parameters.next()?;
    Some(format!(
        "the parameter `{name}` of class \"{}\" is not supported",
        class.name_any()
    ))
}

fn local_volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    local: &LocalVolumes,
) -> Value {
    let name = format!("pvc-{}", claim.uid().unwrap_or_default());
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests);
    let size = requests.and_then(|requests| requests.get("storage").cloned());
    json!({
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": spec.access_modes,
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.name_any(),
            "hostPath": {"path": local.path(&name), "type": "DirectoryOrCreate"},
            "claimRef": claim_ref(claim),
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [local.node]}]}]}},
        },
    })
}

/// Returns what is still to be written so that claim and volume belong together.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Act> {
    let spec = volume.spec.clone().unwrap_or_default();
    let (key, name) = (claim_key(claim), volume.name_any());
    let mut parts = Vec::new();
    let is_named =
        spec.claim_ref.as_ref().and_then(|one| one.uid.as_ref()) == claim.metadata.uid.as_ref();
    if !is_named {
        let mut body = json!({"metadata": {"resourceVersion": volume.resource_version()},
            "spec": {"claimRef": claim_ref(claim)}});
        if spec.claim_ref.is_none() {
            body["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
        }
        parts.push(Part {
            path: volume_path(&name, ""),
            body,
        });
    }
    if volume_phase(volume) != "Bound" {
        parts.push(Part {
            path: volume_path(&name, "/status"),
            body: json!({"status": {"phase": "Bound"}}),
        });
    }
    let own = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref());
    if own != Some(&name) || !claim.annotations().contains_key(BIND_COMPLETED) {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if own.is_none_or(str::is_empty) {
            annotations[BOUND_BY_CONTROLLER] = json!("yes");
        }
        parts.push(Part {
            path: claim_path(&key, ""),
            body: json!({"metadata": {"resourceVersion": claim.resource_version(),
                "annotations": annotations}, "spec": {"volumeName": name}}),
        });
    }
    if !is_bound(claim) {
        parts.push(Part {
            path: claim_path(&key, "/status"),
            body: json!({"status": {"phase": "Bound", "accessModes": spec.access_modes,
                "capacity": spec.capacity}}),
        });
    }
    parts.extend(grow(claim, volume));
    (!parts.is_empty()).then_some(Act::Patch(Change { parts }))
}

/// Returns what is to be written when a bound claim asks for more than its folder says it has. A folder
/// has no size, so to say so is all there is to do; volumes of others are theirs to enlarge. Whether a
/// claim may grow, admission has decided.
fn grow(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Vec<Part> {
    let maker = volume.annotations().get(PROVISIONED_BY);
    let is_ours = maker.is_some_and(|maker| maker == PROVISIONER);
    let asked = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let asked = storage(asked.and_then(|asked| asked.requests.as_ref()));
    let Some(asked) = asked.filter(|_| is_ours && is_bound(claim)) else {
        return Vec::new();
    };
    let capacity = json!({"storage": asked.to_string()});
    let mut parts = Vec::new();
    let has = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    if storage(has).is_none_or(|has| asked.exceeds(has)) {
        parts.push(Part {
            path: volume_path(&volume.name_any(), ""),
            body: json!({"metadata": {"resourceVersion": volume.resource_version()},
                "spec": {"capacity": &capacity}}),
        });
    }
    let has = claim
        .status
        .as_ref()
        .and_then(|status| status.capacity.as_ref());
    if storage(has).is_none_or(|has| asked.exceeds(has)) {
        parts.push(Part {
            path: claim_path(&claim_key(claim), "/status"),
            body: json!({"metadata": {"resourceVersion": claim.resource_version()},
                "status": {"capacity": &capacity}}),
        });
    }
    parts
}

/// A claim whose volume is gone has lost what was in it.
fn lose(claim: &PersistentVolumeClaim) -> Option<Act> {
    if claim_phase(claim) == "Lost" {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return Some(tell(claim, "Warning", "ClaimLost", message.to_owned()));
    }
    let body = json!({"status": {"phase": "Lost"}});
    let path = claim_path(&claim_key(claim), "/status");
    let parts = vec![Part { path, body }];
    Some(Act::Patch(Change { parts }))
}

/// Returns the next step for a volume.
pub(super) fn volume(
    book: &Book,
    volume: &PersistentVolume,
    local: Option<&LocalVolumes>,
) -> Option<Act> {
    let spec = volume.spec.clone().unwrap_or_default();
    let name = volume.name_any();
    let Some(kept_for) = &spec.claim_ref else {
        return unprotect(volume).or_else(|| show(volume, "Available", None));
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let key = (text(&kept_for.namespace), text(&kept_for.name));
    let claim = book.claims.all.get(&key);
    let uid = kept_for.uid.as_ref().filter(|uid| !uid.is_empty());
    let is_there = claim.is_some_and(|claim| uid.is_none() || claim.metadata.uid.as_ref() == uid);
    match (uid, is_there) {
        (None, false) => unprotect(volume).or_else(|| show(volume, "Available", None)),
        // The claim's own turn writes what is missing.
        (_, true) => None,
        (Some(_), false) => {
            if volume.metadata.deletion_timestamp.is_some() {
                return unprotect(volume);
            }
            if volume_phase(volume) != "Released" && volume_phase(volume) != "Failed" {
                return show(volume, "Released", None);
            }
            reclaim(volume, &spec, &name, local)
        }
    }
}

fn reclaim(
    volume: &PersistentVolume,
    spec: &PersistentVolumeSpec,
    name: &str,
    local: Option<&LocalVolumes>,
) -> Option<Act> {
    let policy = spec.persistent_volume_reclaim_policy.as_deref();
    let made_by = volume.annotations().get(PROVISIONED_BY).map(String::as_str);
    match (policy, made_by, local) {
        (Some("Delete"), Some(PROVISIONER), Some(local)) => {
            let path = spec.host_path.as_ref().map(|host| host.path.as_str());
            Some(Act::Reclaim {
                name: name.to_owned(),
                uid: volume.uid().unwrap_or_default(),
                folder: path.and_then(|path| local.own(path)),
            })
        }
        // Somebody else's to delete.
        (Some("Delete"), Some(_), _) | (Some("Retain") | None, ..) => None,
        (Some(other), ..) => {
            let message = format!(
                "error getting {} volume plugin for volume \"{name}\": no {} volume plugin matched",
                if other == "Recycle" {
                    "recycler"
                } else {
                    "deleter"
                },
                if other == "Recycle" {
                    "recyclable"
                } else {
                    "deletable"
                },
            );
            show(volume, "Failed", Some(&message))
        }
    }
}

/// Lets a volume go that is being deleted and belongs to nobody.
fn unprotect(volume: &PersistentVolume) -> Option<Act> {
    volume.metadata.deletion_timestamp.as_ref()?;
    let finalizers = without(volume.finalizers(), VOLUME_PROTECTION)?;
    let body = json!({"metadata": {"finalizers": finalizers,
        "resourceVersion": volume.resource_version()}});
    let path = volume_path(&volume.name_any(), "");
    let parts = vec![Part { path, body }];
    Some(Act::Patch(Change { parts }))
}

fn show(volume: &PersistentVolume, phase: &str, message: Option<&str>) -> Option<Act> {
    let status = volume.status.as_ref();
    let known = status.and_then(|status| status.message.as_deref());
    if volume_phase(volume) == phase && known == message {
        return None;
    }
    let body = json!({"status": {"phase": phase, "message": message}});
    let path = volume_path(&volume.name_any(), "/status");
    let parts = vec![Part { path, body }];
    Some(Act::Patch(Change { parts }))
}

/// Says whether a volume is free for this claim, or kept for it.
fn is_for(volume: &PersistentVolume, key: &ClaimKey, claim: &PersistentVolumeClaim) -> bool {
    let kept_for = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    match kept_for {
        None => true,
        Some(kept_for) => {
            let uid = kept_for.uid.as_ref().filter(|uid| !uid.is_empty());
            names(volume, key) && (uid.is_none() || uid == claim.metadata.uid.as_ref())
        }
    }
}

/// Returns the smallest free volume that does.
fn best<'a>(book: &'a Book, claim: &PersistentVolumeClaim) -> Option<&'a PersistentVolume> {
    let free = book.volumes.all.values().filter(|volume| {
        let spec = volume.spec.as_ref();
        spec.is_some_and(|spec| spec.claim_ref.is_none())
            && volume.metadata.deletion_timestamp.is_none()
            && volume_phase(volume) == "Available"
            && does(volume, claim)
    });
    let size = |volume: &&PersistentVolume| {
        let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
        storage(capacity).map_or(0, Quantity::milli)
    };
    free.min_by_key(size)
}

/// Says whether a volume is what a claim asks for.
fn does(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else {
        return false;
    };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let requests = wants
        .resources
        .as_ref()
        .and_then(|all| all.requests.as_ref());
    let sizes = storage(has.capacity.as_ref()).zip(storage(requests));
    let mut modes = wants.access_modes.iter().flatten();
    let offered = has.access_modes.as_deref().unwrap_or_default();
    has.storage_class_name.as_deref().unwrap_or_default() == class_of(claim)
        && mode(&has.volume_mode) == mode(&wants.volume_mode)
        && sizes.is_some_and(|(has, wants)| !wants.exceeds(has))
        && modes.all(|mode| offered.contains(mode))
        && wants
            .selector
            .as_ref()
            .is_none_or(|selector| selects(selector, volume))
}

fn selects(selector: &LabelSelector, volume: &PersistentVolume) -> bool {
    let labels = volume.labels();
    let mut exact = selector.match_labels.iter().flatten();
    let mut rules = selector.match_expressions.iter().flatten();
    exact.all(|(key, value)| labels.get(key) == Some(value))
        && rules.all(|rule| {
            let values = rule.values.as_deref().unwrap_or_default();
            let found = labels.get(&rule.key);
            match rule.operator.as_str() {
                "In" => found.is_some_and(|value| values.contains(value)),
                "NotIn" => found.is_none_or(|value| !values.contains(value)),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

fn storage(
    amounts: Option<
        &std::collections::BTreeMap<
            String,
            k8s_openapi::apimachinery::pkg::api::resource::Quantity,
        >,
    >,
) -> Option<Quantity> {
    Quantity::parse(&amounts?.get("storage")?.0)
}

fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let class = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.as_deref());
    class.unwrap_or_default()
}

fn waits(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase.unwrap_or_default()
}

fn volume_phase(volume: &PersistentVolume) -> &str {
    let phase = volume
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase.unwrap_or_default()
}

fn claim_ref(claim: &PersistentVolumeClaim) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
        "name": claim.name_any(), "uid": claim.uid(), "resourceVersion": claim.resource_version(),
    })
}

fn tell(
    claim: &PersistentVolumeClaim,
    severity: &'static str,
    reason: &'static str,
    message: String,
) -> Act {
    let (namespace, name) = claim_key(claim);
    Act::Tell(Note {
        namespace,
        name,
        uid: claim.uid().unwrap_or_default(),
        severity,
        reason,
        message,
    })
}

/// Returns the finalizers but this one, if it is among them.
fn without(finalizers: &[String], gone: &str) -> Option<Vec<String>> {
    let rest: Vec<String> = finalizers
        .iter()
        .filter(|one| *one != gone)
        .cloned()
        .collect();
    (rest.len() < finalizers.len()).then_some(rest)
}

fn claim_path((namespace, name): &ClaimKey, part: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}{part}")
}

fn volume_path(name: &str, part: &str) -> String {
    format!("/api/v1/persistentvolumes/{name}{part}")
}

#[cfg(test)]
mod tests;
