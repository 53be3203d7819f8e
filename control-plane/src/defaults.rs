//! What the server fills in where a client says nothing, beyond the defaults of the schema.
//!
//! A value that says nothing, an empty text or a zero, counts as absent where it does so in Go.

mod pod;
mod service;
mod storage;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::{quantity::Quantity, validate::elements};

pub(crate) use pod::{keep_pod, new_pod, pod, pod_status, qos_class};
pub(crate) use service::{keep_service, service};
pub(crate) use storage::{claim, new_claim, new_volume, storage_class, volume};

/// What a node tells about itself, even if it does not know it.
const NODE_INFO: &[&str] = &[
    "architecture",
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeProxyVersion",
    "kubeletVersion",
    "machineID",
    "operatingSystem",
    "osImage",
    "systemUUID",
];

/// Writes out what an event of the core group leaves open.
pub(crate) fn event(object: &mut Value) {
    times(object, &["eventTime", "firstTimestamp", "lastTimestamp"]);
    object_at(object, "source");
    object_at(object, "involvedObject");
    for field in ["reportingComponent", "reportingInstance"] {
        default(object, field, json!(""));
    }
}

/// Writes out what an event of `events.k8s.io` leaves open.
pub(crate) fn new_event(object: &mut Value) {
    times(
        object,
        &[
            "deprecatedFirstTimestamp",
            "deprecatedLastTimestamp",
            "eventTime",
        ],
    );
    object_at(object, "deprecatedSource");
    object_at(object, "regarding");
}

/// Fills in a spec: the stock server never sends objects without one, and clients rely on it.
pub(crate) fn empty_spec(object: &mut Value) {
    object_at(object, "spec");
}

/// Gives a namespace the label with its own name.
pub(crate) fn namespace(object: &mut Value) {
    object_at(object, "spec");
    if let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) {
        let labels = object_at(&mut object["metadata"], "labels");
        labels["kubernetes.io/metadata.name"] = Value::from(name);
    }
}

/// Gives a new namespace the status it begins with.
pub(crate) fn new_namespace(object: &mut Value) {
    let finalizers = &object["spec"]["finalizers"];
    if !elements(finalizers).any(|finalizer| finalizer == "kubernetes") {
        let mut all: Vec<_> = elements(finalizers).cloned().collect();
        all.push(json!("kubernetes"));
        object["spec"]["finalizers"] = Value::Array(all);
    }
    object["status"] = json!({"phase": "Active"});
}

/// Keeps what only `…/finalize` changes.
pub(crate) fn keep_namespace(old: &Value, new: &mut Value) {
    match old["spec"].get("finalizers") {
        Some(finalizers) => object_at(new, "spec")["finalizers"] = finalizers.clone(),
        None => remove(object_at(new, "spec"), "finalizers"),
    }
}

/// Says of a node that all it has can be given away, if it does not say how much.
pub(crate) fn node(object: &mut Value) {
    object_at(object, "spec");
    let status = object_at(object, "status");
    for list in ["capacity", "allocatable"] {
        round(status, list);
    }
    each(status, "conditions", |condition| {
        times(condition, &["lastHeartbeatTime", "lastTransitionTime"]);
    });
    let endpoint = object_at(object_at(status, "daemonEndpoints"), "kubeletEndpoint");
    default(endpoint, "Port", json!(0));
    let info = object_at(status, "nodeInfo");
    for field in NODE_INFO {
        default(info, field, json!(""));
    }
    if let Some(capacity) = object.pointer("/status/capacity").cloned() {
        default(&mut object["status"], "allocatable", capacity);
    }
}

/// Drops the status of a new object: only controllers know it.
pub(crate) fn no_status(object: &mut Value) {
    object["status"] = json!({});
}

/// Moves a secret's plain strings into its data and gives it a type.
pub(crate) fn secret(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    if let Some(Value::Object(plain)) = fields.remove("stringData") {
        let data = fields.entry("data").or_insert_with(|| json!({}));
        for (key, value) in plain {
            data[key] = Value::from(STANDARD.encode(value.as_str().unwrap_or_default()));
        }
    }
    replace_empty(object, "type", json!("Opaque"));
}

/// Fills in the protocol of an endpoint's ports.
pub(crate) fn endpoints(object: &mut Value) {
    each(object, "subsets", |subset| {
        each(subset, "ports", |port| {
            replace_empty(port, "protocol", json!("TCP"))
        });
    });
}

/// Fills in the name and the protocol of a slice's ports.
pub(crate) fn endpoint_slice(object: &mut Value) {
    default(object, "endpoints", json!([]));
    default(object, "ports", json!([]));
    each(object, "ports", |port| {
        default(port, "name", json!(""));
        default(port, "protocol", json!("TCP"));
    });
}

/// Fills in which directions a NetworkPolicy is about: in any case what comes in, and what goes out if
/// there are rules about that. Ports are those of TCP.
pub(crate) fn network_policy(object: &mut Value) {
    let spec = object_at(object, "spec");
    if elements(&spec["policyTypes"]).next().is_none() {
        let types = match elements(&spec["egress"]).next() {
            None => json!(["Ingress"]),
            Some(_) => json!(["Ingress", "Egress"]),
        };
        spec["policyTypes"] = types;
    }
    for rules in ["ingress", "egress"] {
        each(spec, rules, |rule| {
            each(rule, "ports", |port| {
                default(port, "protocol", json!("TCP"))
            });
        });
    }
}

/// Fills in the group of the role and of the subjects.
pub(crate) fn binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if object.get("roleRef").is_some() {
        replace_empty(&mut object["roleRef"], "apiGroup", json!(GROUP));
    }
    each(object, "subjects", |subject| {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            replace_empty(subject, "apiGroup", json!(GROUP));
        }
    });
}

/// Fills in that rules are there, if none are.
pub(crate) fn role(object: &mut Value) {
    default(object, "rules", Value::Array(Vec::new()));
}

/// Fills in whether pods of the class push others away.
pub(crate) fn priority_class(object: &mut Value) {
    default(object, "value", json!(0));
    replace_empty(object, "preemptionPolicy", json!("PreemptLowerPriority"));
}

/// Derives the defaults of a container's limits from each other.
pub(crate) fn limit_range(object: &mut Value) {
    each(object_at(object, "spec"), "limits", |limit| {
        if limit["type"] != "Container" {
            return;
        }
        for (from, to) in [
            ("max", "default"),
            ("default", "defaultRequest"),
            ("min", "defaultRequest"),
        ] {
            let amounts = limit.get(from).and_then(Value::as_object).cloned();
            for (name, amount) in amounts.into_iter().flatten() {
                default(object_at(limit, to), &name, amount);
            }
        }
    });
}

fn default(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        let slot = fields.entry(name).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value;
        }
    }
}

fn object_at<'a>(object: &'a mut Value, name: &str) -> &'a mut Value {
    default(object, name, Value::Object(Map::new()));
    &mut object[name]
}

fn remove(object: &mut Value, name: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(name);
    }
}

/// Writes a value where there is none, or an empty text.
fn replace_empty(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        let slot = fields.entry(name).or_insert(Value::Null);
        if slot.is_null() || slot == "" {
            *slot = value;
        }
    }
}

/// Rounds amounts of resources up to thousandths, in which everything is counted.
fn round(object: &mut Value, list: &str) {
    let amounts = object.get_mut(list).and_then(Value::as_object_mut);
    for (_, amount) in amounts.into_iter().flatten() {
        let exact = amount.as_str().and_then(Quantity::parse);
        if let Some(rounded) = exact.and_then(Quantity::rounded_to_milli) {
            *amount = json!(rounded.to_string());
        }
    }
}

/// Writes out times that are not known, as Go does with those that it does not leave out.
fn times(object: &mut Value, names: &[&str]) {
    names
        .iter()
        .for_each(|name| default(object, name, Value::Null));
}

/// Changes each element of a list that may be absent.
fn each(object: &mut Value, list: &str, change: impl FnMut(&mut Value)) {
    if let Some(list) = object.get_mut(list).and_then(Value::as_array_mut) {
        list.iter_mut().for_each(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_strings_become_secret_data() {
        let mut object = json!({"stringData": {"a": "b"}, "data": {"a": "eA==", "c": "eA=="}});
        secret(&mut object);
        assert_eq!(
            object,
            json!({"type": "Opaque", "data": {"a": "Yg==", "c": "eA=="}})
        );
    }

    #[test]
    fn the_limits_of_containers_follow_from_each_other() {
        let mut object = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}},
            {"type": "Pod", "max": {"cpu": "4"}},
        ]}});
        limit_range(&mut object);
        assert_eq!(
            object["spec"]["limits"],
            json!([
                {"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"},
                    "default": {"cpu": "2"}, "defaultRequest": {"cpu": "2", "memory": "1Mi"}},
                {"type": "Pod", "max": {"cpu": "4"}},
            ])
        );
    }
}
