//! What may change about a pod that exists.

use serde_json::{Value, json};

use super::elements;
use crate::invalid::Causes;

const MESSAGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
     to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
     was previously negative)";

/// Checks that the new spec differs from the old one only where it may.
pub(super) fn check(new: &Value, old: &Value, causes: &mut Causes) {
    let (new, old) = (&new["spec"], &old["spec"]);
    if new == old {
        return;
    }
    check_deadline(new, old, causes);
    check_gates(new, old, causes);
    let kept: Vec<_> = elements(&new["tolerations"]).collect();
    let only_additions = elements(&old["tolerations"]).all(|old| kept.contains(&old));
    if without_mutable(new) != without_mutable(old) || !only_additions {
        causes.forbidden("spec", MESSAGE);
    }
}

/// A deadline can be set or lowered.
fn check_deadline(new: &Value, old: &Value, causes: &mut Causes) {
    let field = "spec.activeDeadlineSeconds";
    let seconds = |spec: &Value| spec["activeDeadlineSeconds"].as_i64();
    match (seconds(old), seconds(new)) {
        (Some(_), None) => causes.invalid(
            field,
            &Value::Null,
            "must not update from a positive integer to nil value",
        ),
        (Some(old), Some(new)) if new > old => causes.invalid(
            field,
            &Value::from(new),
            &format!("must be less than or equal to previous value '{old}'"),
        ),
        _ => (),
    }
}

/// Gates can be taken away, and none comes back.
fn check_gates(new: &Value, old: &Value, causes: &mut Causes) {
    let name = |gate: &Value| gate["name"].as_str().unwrap_or_default().to_owned();
    let known: Vec<String> = elements(&old["schedulingGates"]).map(name).collect();
    let mut gates = elements(&new["schedulingGates"]).map(name);
    if let Some(added) = gates.find(|gate| !known.contains(gate)) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{added}'");
        causes.forbidden("spec.schedulingGates", &detail);
    }
}

/// Returns the spec with everything taken out that may change.
fn without_mutable(spec: &Value) -> Value {
    let mut fixed = spec.clone();
    for list in ["containers", "initContainers"] {
        for container in fixed[list].as_array_mut().into_iter().flatten() {
            container["image"] = json!("");
        }
    }
    // Indexing a missing list writes nulls, on both sides alike.
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        fixed[field] = Value::Null;
    }
    fixed
}
