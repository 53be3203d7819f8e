//! What may change about a pod that exists.

use serde_json::{Map, Value, json};

use super::super::{Field, elements};

const MESSAGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
     to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
     was previously negative)";

pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Differences beyond this number are not listed.
const DIFFERENCES_MAX: usize = 20;

/// Checks that the new pod differs from the old one only where it may.
pub(super) fn check(root: &Field<'_, '_>, old_pod: &Value) {
    mirror(root, old_pod);
    let (new, old) = (&root.child("spec"), &old_pod["spec"]);
    for list in ["containers", "initContainers"] {
        if elements(new.child(list).value).count() != elements(&old[list]).count() {
            return new
                .child(list)
                .forbidden("pod updates may not add or remove containers");
        }
    }
    if deadline(
        &new.child("activeDeadlineSeconds"),
        &old["activeDeadlineSeconds"],
    )
    .is_err()
    {
        return;
    }
    tolerations(&new.child("tolerations"), &old["tolerations"]);
    gates(&new.child("schedulingGates"), &old["schedulingGates"]);
    if new.value == old {
        return;
    }
    let mut fixed = as_before(new.value, old);
    if elements(&old["schedulingGates"]).next().is_some() {
        placement(new, old, &mut fixed);
    }
    if fixed != *old {
        new.forbidden(&format!("{MESSAGE}\n{}", differences(old, &fixed)));
    }
}

fn mirror(root: &Field<'_, '_>, old: &Value) {
    let annotation = root.child("metadata.annotations");
    let (new, old) = (
        annotation.key(MIRROR),
        &old["metadata"]["annotations"][MIRROR],
    );
    match (old.is_null(), new.is_set()) {
        (true, true) => new.forbidden("may not add mirror pod annotation"),
        (false, _) if new.value != old => {
            new.forbidden("may not remove or update mirror pod annotation");
        }
        _ => (),
    }
}

/// A deadline can be set or lowered; an error ends the check, as in the stock server.
fn deadline(new: &Field<'_, '_>, old: &Value) -> Result<(), ()> {
    match (old.as_i64(), new.number()) {
        (Some(_), None) => {
            new.invalid("must not update from a positive integer to nil value");
            Ok(())
        }
        (_, Some(seconds)) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            new.invalid("must be between 0 and 2147483647, inclusive");
            Err(())
        }
        (Some(old), Some(seconds)) if seconds > old => {
            new.invalid("must be less than or equal to previous value");
            Err(())
        }
        _ => Ok(()),
    }
}

/// Tolerations are added, or change how long they last.
fn tolerations(new: &Field<'_, '_>, old: &Value) {
    let timeless = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration
            .as_object_mut()
            .map(|fields| fields.remove("tolerationSeconds"));
        toleration
    };
    let kept: Vec<_> = elements(new.value).map(timeless).collect();
    if elements(old)
        .map(timeless)
        .any(|known| !kept.contains(&known))
    {
        new.forbidden("existing toleration can not be modified except its tolerationSeconds");
    }
}

fn gates(new: &Field<'_, '_>, old: &Value) {
    for gate in new.items() {
        if !elements(old).any(|known| known["name"] == *gate.child("name").value) {
            let name = gate.child("name");
            let text = name.text();
            name.forbidden(&format!(
                "only deletion is allowed, but found new scheduling gate '{text}'"
            ));
        }
    }
}

/// Returns the new spec with everything that may change as it was.
fn as_before(new: &Value, old: &Value) -> Value {
    let mut fixed = new.clone();
    for list in ["containers", "initContainers"] {
        let Some(containers) = fixed.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        for (container, known) in containers.iter_mut().zip(elements(&old[list])) {
            container["image"] = known["image"].clone();
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        restore(&mut fixed, old, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if old[grace].as_i64().is_some_and(|seconds| seconds < 0) && fixed[grace] == 1 {
        restore(&mut fixed, old, grace);
    }
    fixed
}

fn restore(fixed: &mut Value, old: &Value, field: &str) {
    let Some(fields) = fixed.as_object_mut() else {
        return;
    };
    match old.get(field) {
        Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
        None => drop(fields.remove(field)),
    }
}

/// As long as a gate holds a pod back, where it may run can be narrowed.
fn placement(new: &Field<'_, '_>, old: &Value, fixed: &mut Value) {
    let selector = new.child("nodeSelector");
    let kept = |(key, value): (&String, &Value)| selector.key(key).value == value;
    if !super::super::entries(&old["nodeSelector"]).all(kept) {
        selector
            .invalid("only additions to spec.nodeSelector are allowed (no mutations or deletions)");
    }
    restore(fixed, old, "nodeSelector");
    node_affinity(new, old);
    let known = old.pointer("/affinity/nodeAffinity").cloned();
    if let (Some(known), None) = (&known, fixed.get("affinity")) {
        fixed["affinity"] = json!({"nodeAffinity": known});
    } else if let Some(affinity) = fixed.get_mut("affinity").and_then(Value::as_object_mut) {
        match known {
            Some(known) => drop(affinity.insert("nodeAffinity".to_owned(), known)),
            None => drop(affinity.remove("nodeAffinity")),
        }
        if affinity.is_empty() && old.get("affinity").is_none() {
            fixed
                .as_object_mut()
                .map(|fields| fields.remove("affinity"));
        }
    }
}

fn node_affinity(new: &Field<'_, '_>, old: &Value) {
    const TERMS: &str = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
                         nodeSelectorTerms";
    let pointer = format!("/{}", TERMS.replace('.', "/"));
    let known: Vec<_> = old
        .pointer(&pointer)
        .into_iter()
        .flat_map(elements)
        .collect();
    let terms = new.child(TERMS);
    if known.is_empty() {
        return;
    }
    if terms.items().count() != known.len() {
        return terms
            .invalid("no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    for (term, known) in terms.items().zip(known) {
        if !narrows(term.value, known) {
            term.invalid("only additions are allowed (no mutations or deletions)");
        }
    }
}

/// Says whether a term has all requirements of the former one first.
fn narrows(term: &Value, known: &Value) -> bool {
    let lists = ["matchExpressions", "matchFields"];
    let empty = |term: &Value| {
        lists
            .iter()
            .all(|list| elements(&term[*list]).next().is_none())
    };
    let begins = |list: &&'static str| {
        let known: Vec<_> = elements(&known[*list]).collect();
        let found: Vec<_> = elements(&term[*list]).take(known.len()).collect();
        known == found
    };
    lists.iter().all(begins) && (!empty(known) || empty(term))
}

/// Lists where two values differ, for a message.
pub(super) fn differences(old: &Value, new: &Value) -> String {
    let mut lines = Vec::new();
    differ("", old, new, &mut lines);
    lines.join("\n")
}

/// Lists where two specs differ, one line each.
fn differ(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    if old == new || lines.len() >= DIFFERENCES_MAX {
        return;
    }
    let nothing = Map::new();
    let fields = |value: &Value| value.as_object().unwrap_or(&nothing).clone();
    match (old, new) {
        (Value::Object(_), Value::Object(_)) => {
            let (old, new) = (fields(old), fields(new));
            let added = new.keys().filter(|name| !old.contains_key(*name));
            for name in old.keys().chain(added) {
                let side = |side: &Map<String, Value>| side.get(name).cloned().unwrap_or_default();
                differ(&format!("{path}.{name}"), &side(&old), &side(&new), lines);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differ(&format!("{path}[{index}]"), old, new, lines);
            }
        }
        _ => {
            let path = path.trim_start_matches('.');
            lines.push(format!("- {path}: {old}\n+ {path}: {new}"));
        }
    }
}
