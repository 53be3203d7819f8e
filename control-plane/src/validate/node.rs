//! The checks of nodes, their taints, and the tolerations that pods have for them.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    Field, cidr, elements, label_value_faults,
    pod::resources::{self, amount_value},
    walk,
};
use crate::invalid::Causes;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Checks a node; on update, that what identifies it has not changed.
pub(crate) fn node(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let spec = &root.child("spec");
        // The stock server names the place this way.
        let taints_at = root.child("metadata.taints");
        taints(&taints_at.with(spec.child("taints").value));
        pod_ranges(spec);
        for list in ["capacity", "allocatable"] {
            for (name, amount) in root.child("status").child(list).entries() {
                resources::resource_name(&amount, name, resources::Scope::Any);
                amount_value(&amount, name);
            }
        }
        if let Some(old) = old {
            change(root, old);
        }
    });
}

/// Checks a change of a node's status.
pub(crate) fn node_status(object: &Value, old: &Value, causes: &mut Causes) {
    node(object, Some(old), causes);
}

fn change(root: &Field<'_, '_>, old: &Value) {
    for (field, known) in [
        ("podCIDRs", &old["spec"]["podCIDRs"]),
        ("providerID", &old["spec"]["providerID"]),
    ] {
        let empty =
            known.is_null() || *known == "" || elements(known).next().is_none() && known.is_array();
        let new = root.child("spec");
        let new = new.child(field);
        if !empty && new.value != known {
            let said = field.trim_end_matches('s');
            let detail = format!("node updates may not change {said} except from \"\" to valid");
            new.forbidden(&detail);
        }
    }
    let mut seen = Vec::new();
    for address in root.child("status.addresses").items() {
        if seen.contains(&address.value) {
            address.duplicate();
        }
        seen.push(address.value);
    }
}

fn pod_ranges(spec: &Field<'_, '_>) {
    let ranges = spec.child("podCIDRs");
    for range in ranges.items() {
        cidr(&range);
    }
    let first = ranges.index(0);
    if ranges.is_set() && first.value != spec.child("podCIDR").value {
        ranges.index(0).invalid("must match `podCIDR`");
    }
}

fn taints(list: &Field<'_, '_>) {
    let mut seen = HashSet::new();
    for taint in list.items() {
        let (key, effect) = (taint.child("key"), taint.child("effect"));
        key.qualified();
        label_value(&taint.child("value"), &taint.child("value"));
        effect.one_of(EFFECTS);
        if !seen.insert((key.text(), effect.text())) {
            taint.duplicate_because("taints must be unique by key and effect pair");
        }
    }
}

/// Checks what a pod tolerates.
pub(super) fn tolerations(list: &Field<'_, '_>) {
    for toleration in list.items() {
        let (key, value) = (toleration.child("key"), toleration.child("value"));
        let (operator, effect) = (toleration.child("operator"), toleration.child("effect"));
        if !key.is_empty() {
            key.qualified();
        } else if operator.text() != "Exists" {
            operator.invalid_as(
                &Value::from(operator.text()),
                "operator must be Exists when `key` is empty, which means \"match all values and \
                 all keys\"",
            );
        }
        if toleration.child("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            effect.invalid_as(
                &Value::from(effect.text()),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator.text() {
            "" | "Equal" => label_value(&value, &operator),
            "Exists" if !value.is_empty() => {
                operator.invalid_as(
                    value.value,
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" => (),
            _ => operator.not_supported(&["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            effect.one_of(EFFECTS);
        }
    }
}

/// Says what is wrong with a label's value in one sentence.
fn label_value(value: &Field<'_, '_>, said_at: &Field<'_, '_>) {
    let faults = label_value_faults(value.text());
    if !faults.is_empty() {
        said_at.invalid_as(value.value, &faults.join(";"));
    }
}
