//! Where a pod wants to run: node and pod affinity, spreading, and the selectors in them.

use std::collections::HashSet;

use serde_json::Value;

use super::{Field, NameRule};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Whether the values that labels are compared with have to be values of labels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    OfLabels,
    Any,
}

/// Checks node affinity, pod affinity and pod anti-affinity.
pub(super) fn check(affinity: &Field<'_, '_>) {
    let node = affinity.child("nodeAffinity");
    let required = node.child(REQUIRED);
    if required.is_set() {
        node_selector(&required);
    }
    for term in node.child(PREFERRED).items() {
        weight(&term);
        node_term(&term.child("preference"), Values::Any);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let peers = affinity.child(kind);
        peers
            .child(REQUIRED)
            .items()
            .for_each(|term| pod_term(&term));
        for term in peers.child(PREFERRED).items() {
            weight(&term);
            pod_term(&term.child("podAffinityTerm"));
        }
    }
}

fn weight(term: &Field<'_, '_>) {
    let weight = term.child("weight");
    if !(1..=100).contains(&weight.number().unwrap_or(0)) {
        weight.invalid_as(
            &weight.number().unwrap_or(0).into(),
            "must be in the range 1-100",
        );
    }
}

fn node_selector(selector: &Field<'_, '_>) {
    let terms = selector.child("nodeSelectorTerms");
    if terms.is_empty() {
        terms.required("must have at least one node selector term");
    }
    terms
        .items()
        .for_each(|term| node_term(&term, Values::OfLabels));
}

fn node_term(term: &Field<'_, '_>, values: Values) {
    for requirement in term.child("matchExpressions").items() {
        node_requirement(&requirement, values);
    }
    for requirement in term.child("matchFields").items() {
        node_field(&requirement);
    }
}

fn node_requirement(requirement: &Field<'_, '_>, rule: Values) {
    let (operator, values) = (requirement.child("operator"), requirement.child("values"));
    let count = values.items().count();
    match operator.text() {
        "In" | "NotIn" if count == 0 => {
            values.required("must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if count != 1 => {
            values.required("must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => (),
        _ => operator.invalid("not a valid selector operator"),
    }
    requirement.child("key").qualified();
    if rule == Values::OfLabels {
        values.items().for_each(|value| value.label_value());
    }
}

fn node_field(requirement: &Field<'_, '_>) {
    let (operator, values) = (requirement.child("operator"), requirement.child("values"));
    match operator.text() {
        "In" | "NotIn" if values.items().count() != 1 => values.required(
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        ),
        "In" | "NotIn" => (),
        _ => operator.invalid("not a valid selector operator"),
    }
    let key = requirement.child("key");
    if key.text() != "metadata.name" {
        return key.invalid("not a valid field selector key");
    }
    values
        .items()
        .for_each(|value| value.name(NameRule::Subdomain));
}

fn pod_term(term: &Field<'_, '_>) {
    let selector = term.child("labelSelector");
    label_selector(&selector);
    label_selector(&term.child("namespaceSelector"));
    for namespace in term.child("namespaces").items() {
        term.child("namespace")
            .with(namespace.value)
            .name(NameRule::Label);
    }
    let (same, other) = (
        term.child("matchLabelKeys"),
        term.child("mismatchLabelKeys"),
    );
    for keys in [&same, &other] {
        if !keys.is_empty() && !selector.is_set() {
            keys.forbidden("must not be specified when labelSelector is not set");
        } else {
            keys.items().for_each(|key| key.qualified());
        }
    }
    for key in same.items() {
        if other.items().any(|known| known.value == key.value) {
            key.invalid("exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
    let topology = term.child("topologyKey");
    if topology.is_empty() {
        topology.required("can not be empty");
    }
    topology.qualified();
}

/// Checks how pods shall be spread.
pub(super) fn topology_spread(list: &Field<'_, '_>) {
    let mut seen = HashSet::new();
    for constraint in list.items() {
        constraint.child("maxSkew").positive();
        let (key, action) = (
            constraint.child("topologyKey"),
            constraint.child("whenUnsatisfiable"),
        );
        if key.is_empty() {
            key.required("can not be empty");
        }
        if !matches!(action.text(), "DoNotSchedule" | "ScheduleAnyway") {
            action.not_supported(&["DoNotSchedule", "ScheduleAnyway"]);
        }
        if !seen.insert((key.text(), action.text())) {
            let shown = Value::from(format!("{{{}, {}}}", key.text(), action.text()));
            constraint
                .child("{topologyKey, whenUnsatisfiable}")
                .duplicate_as(&shown);
        }
        let domains = constraint.child("minDomains");
        domains.positive();
        if domains.is_set() && action.text() != "DoNotSchedule" {
            let action = action.text();
            domains.invalid(&format!(
                "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
            ));
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.child(policy).one_of_if_set(&["Honor", "Ignore"]);
        }
        spread_keys(&constraint);
        label_selector(&constraint.child("labelSelector"));
    }
}

fn spread_keys(constraint: &Field<'_, '_>) {
    let (keys, selector) = (
        constraint.child("matchLabelKeys"),
        constraint.child("labelSelector"),
    );
    if !keys.is_empty() && !selector.is_set() {
        keys.forbidden("must not be specified when labelSelector is not set");
    }
    for key in keys.items() {
        key.qualified();
        let expressions = selector.child("matchExpressions");
        let mut expressions = expressions.items();
        if selector.child("matchLabels").key(key.text()).is_set()
            || expressions.any(|expression| expression.child("key").text() == key.text())
        {
            key.invalid("exists in both matchLabelKeys and labelSelector");
        }
    }
}

/// Checks a selector of labels, as objects carry them.
pub(in crate::validate) fn label_selector(selector: &Field<'_, '_>) {
    selector.child("matchLabels").labels();
    for expression in selector.child("matchExpressions").items() {
        let (operator, values) = (expression.child("operator"), expression.child("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                values.required("must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => values
                .forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => (),
            _ => operator.invalid("not a valid selector operator"),
        }
        expression.child("key").qualified();
        values.items().for_each(|value| value.label_value());
    }
}
