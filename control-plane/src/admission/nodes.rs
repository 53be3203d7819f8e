//! Nodes in trouble: the taints that tell of it, and how long pods put up with them.

use serde_json::{Value, json};

use super::Request;
use crate::{status::ApiError, validate::elements};

/// How long a pod stays on a node that does not answer.
const TOLERATION_SECONDS: i64 = 300;

/// The taint of a node that is not ready.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The taint of a node that does not answer.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions of a node that new pods are kept away for: type, status, taint.
const CONDITIONS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    (
        "MemoryPressure",
        "True",
        "node.kubernetes.io/memory-pressure",
    ),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// Lets a node's taints follow its conditions, with each write of the node.
///
/// With the stock server a controller does this a moment later; here no pod comes in between.
pub(super) fn taints(request: &Request<'_>, node: &mut Value) -> Result<(), ApiError> {
    let info = request.info();
    let whole = request.call.objects.subresource.is_none() || request.is_for_status();
    if (info.group, info.kind) == ("", "Node") && whole {
        follow(node);
    }
    Ok(())
}

fn follow(node: &mut Value) {
    let is = |kind: &str, status: &str| {
        elements(&node["status"]["conditions"])
            .any(|condition| condition["type"] == kind && condition["status"] == status)
    };
    let known =
        elements(&node["status"]["conditions"]).any(|condition| condition["type"] == "Ready");
    let mut wanted: Vec<&str> = CONDITIONS
        .iter()
        .filter(|(kind, status, _)| is(kind, status))
        .map(|(_, _, taint)| *taint)
        .collect();
    if !known {
        // A node that has not said anything yet is not ready.
        wanted.insert(0, NOT_READY);
    }
    if node["spec"]["unschedulable"] == true {
        wanted.push(UNSCHEDULABLE);
    }
    let ours = |taint: &Value| {
        let key = taint["key"].as_str().unwrap_or_default();
        taint["effect"] == "NoSchedule"
            && (key == UNSCHEDULABLE || CONDITIONS.iter().any(|(_, _, known)| *known == key))
    };
    let key = |taint: &Value| taint["key"].as_str().unwrap_or_default().to_owned();
    let before: Vec<Value> = elements(&node["spec"]["taints"]).cloned().collect();
    let mut after = before.clone();
    after.retain(|taint| !ours(taint) || wanted.contains(&key(taint).as_str()));
    for taint in wanted {
        if !after.iter().any(|known| ours(known) && key(known) == taint) {
            after.push(json!({"key": taint, "effect": "NoSchedule"}));
        }
    }
    if after.is_empty() {
        node["spec"]
            .as_object_mut()
            .map(|spec| spec.remove("taints"));
    } else if after != before {
        node["spec"]["taints"] = Value::Array(after);
    }
}

/// Lets a pod stay for a while on a node that is not ready or not reachable.
pub(super) fn tolerations(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    // On updates too: who replaces the list of tolerations does not mean to lose these.
    if request.is_for("Pod") {
        tolerate(&mut pod["spec"]);
    }
    Ok(())
}

fn tolerate(spec: &mut Value) {
    let mut all: Vec<Value> = elements(&spec["tolerations"]).cloned().collect();
    for taint in [NOT_READY, UNREACHABLE] {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let covers = |toleration: &Value| {
            matches!(word(&toleration["effect"]).as_str(), "" | "NoExecute")
                && (word(&toleration["key"]).is_empty() || toleration["key"] == taint)
        };
        if !all.iter().any(covers) {
            all.push(json!({
                "key": taint,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
    if !all.is_empty() {
        spec["tolerations"] = Value::Array(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_follow_conditions() {
        let check = |spec: Value, conditions: Value, expected: Value| {
            let mut node = json!({"spec": spec, "status": {"conditions": conditions}});
            follow(&mut node);
            assert_eq!(node["spec"], expected, "{conditions}");
        };
        let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        check(json!({}), ready("True"), json!({}));
        check(json!({}), json!([]), json!({"taints": [taint(NOT_READY)]}));
        check(
            json!({}),
            ready("Unknown"),
            json!({"taints": [taint(UNREACHABLE)]}),
        );
        check(
            json!({"taints": [taint("mine"), taint(NOT_READY)]}),
            ready("True"),
            json!({"taints": [taint("mine")]}),
        );
        check(
            json!({"unschedulable": true}),
            ready("True"),
            json!({"unschedulable": true, "taints": [taint(UNSCHEDULABLE)]}),
        );
    }

    #[test]
    fn pods_put_up_with_trouble_for_five_minutes() {
        let check = |tolerations: Value, added: usize| {
            let before = elements(&tolerations).count();
            let mut spec = json!({"tolerations": tolerations});
            tolerate(&mut spec);
            assert_eq!(
                elements(&spec["tolerations"]).count(),
                before + added,
                "{spec}"
            );
        };
        check(json!([]), 2);
        check(json!([{"operator": "Exists"}]), 0);
        check(json!([{"operator": "Exists", "effect": "NoSchedule"}]), 2);
        check(
            json!([{"key": NOT_READY, "operator": "Exists", "effect": "NoExecute"}]),
            1,
        );
    }
}
