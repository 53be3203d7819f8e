//! What containers and pods request and may use.

use std::collections::HashSet;

use serde_json::Value;

use super::{super::field::NEGATIVE_MESSAGE, Field, NameRule};
use crate::quantity::Quantity;

/// Where resources are named, which decides about the names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::validate) enum Scope {
    Container,
    Pod,
    Any,
}

/// Checks a container's requests, limits and claims.
pub(super) fn of_container(resources: &Field<'_, '_>, claims: &HashSet<&str>) {
    amounts(resources, Scope::Container);
    let mut names = HashSet::new();
    for claim in resources.child("claims").items() {
        let name = claim.child("name").text();
        let request = claim.child("request");
        if name.is_empty() {
            claim.required("");
            continue;
        }
        request.name_if_any(NameRule::Label);
        if !names.insert((name, request.text())) {
            claim.duplicate_as(&Value::from(name));
        }
        if !claims.contains(name) {
            claim.with(&Value::from(name)).not_found();
        }
    }
}

/// Checks what a pod asks for as a whole.
pub(super) fn of_pod(spec: &Field<'_, '_>) {
    let resources = &spec.child("resources");
    if !resources.is_set() {
        return;
    }
    if resources.child("claims").is_set() {
        let detail = "claims cannot be set for Resources at pod-level";
        resources.child("claims").forbidden(detail);
    }
    amounts(resources, Scope::Pod);
    for (name, limit) in resources.child("limits").entries() {
        for (index, container) in spec.child("containers").items().enumerate() {
            let own = container.child("resources.limits").key(name).quantity();
            let exceeds = |(own, limit): (Quantity, Quantity)| own.exceeds(limit);
            if own.zip(limit.quantity()).is_some_and(exceeds) {
                let at = resources.child("containers");
                let at = at.index(index);
                let at = at.key(name);
                at.child("limits").invalid_as(
                    container.child("resources.limits").key(name).value,
                    &format!(
                        "must be less than or equal to pod limits of {}",
                        limit.text()
                    ),
                );
            }
        }
    }
}

/// Checks what a sandbox costs beside its containers.
pub(super) fn overhead(overhead: &Field<'_, '_>) {
    // The stock server reads it as limits, and says so.
    let limits = overhead.child("limits");
    for (name, amount) in overhead.entries() {
        let at = limits.key(name).with(amount.value);
        resource_name(&at, name, Scope::Container);
        amount_value(&at, name);
    }
}

fn amounts(resources: &Field<'_, '_>, scope: Scope) {
    let (limits, requests) = (resources.child("limits"), resources.child("requests"));
    for list in [&limits, &requests] {
        for (name, amount) in list.entries() {
            resource_name(&amount, name, scope);
            amount_value(&amount, name);
            huge_pages(&amount, name);
        }
    }
    for (name, amount) in requests.entries() {
        let limit = limits.key(name);
        match (amount.quantity(), limit.quantity()) {
            (Some(request), Some(most))
                if !may_overcommit(name) && (request.exceeds(most) || most.exceeds(request)) =>
            {
                let detail = format!("must be equal to {name} limit of {}", limit.text());
                requests.invalid_as(amount.value, &detail);
            }
            (Some(request), Some(most)) if request.exceeds(most) => {
                let limit = limit.text();
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                requests.invalid_as(amount.value, &detail);
            }
            (_, None) if !may_overcommit(name) => {
                limits.required("Limit must be set for non overcommitable resources");
            }
            _ => (),
        }
    }
    let any = |wanted: fn(&str) -> bool| {
        [&limits, &requests]
            .iter()
            .any(|list| list.entries().any(|(name, _)| wanted(name)))
    };
    if any(is_huge_pages) && !any(|name| matches!(name, "cpu" | "memory")) {
        resources.forbidden("HugePages require cpu or memory");
    }
}

/// Checks an amount of a resource, said at the amount.
pub(in crate::validate) fn amount_value(amount: &Field<'_, '_>, name: &str) {
    let Some(quantity) = amount.quantity() else {
        return;
    };
    if quantity.is_negative() {
        amount.invalid(NEGATIVE_MESSAGE);
    }
    if is_counted(name) && !quantity.is_whole() {
        amount.invalid("must be an integer");
    }
}

fn huge_pages(amount: &Field<'_, '_>, name: &str) {
    let size = name.strip_prefix("hugepages-").and_then(Quantity::parse);
    if let (Some(size), Some(found)) = (size, amount.quantity())
        && !found.is_multiple_of(size)
    {
        let detail = format!(
            "{} is not positive integer multiple of {name}",
            amount.text()
        );
        amount.invalid(&detail);
    }
}

/// Checks the name of a resource, said at `at`.
pub(in crate::validate) fn resource_name(at: &Field<'_, '_>, name: &str, scope: Scope) {
    let shown = &Value::from(name);
    let faults = super::super::qualified_faults(name);
    for fault in &faults {
        at.invalid_as(shown, fault);
    }
    if !faults.is_empty() {
        return;
    }
    if !name.contains('/') {
        if !is_standard(name) {
            at.invalid_as(shown, "must be a standard resource type or fully qualified");
        }
        if scope == Scope::Container && !is_native(name) {
            at.invalid_as(shown, "must be a standard resource for containers");
        }
    } else if scope == Scope::Container && !is_extended(name) && !name.contains("kubernetes.io/") {
        at.invalid_as(shown, "doesn't follow extended resource name standard");
    }
    if scope == Scope::Pod && !matches!(name, "cpu" | "memory") && !is_huge_pages(name) {
        at.with(shown)
            .not_supported(&["cpu", "hugepages-", "memory"]);
    }
}

/// Says whether a name without a domain is a resource.
pub(in crate::validate) fn is_standard(name: &str) -> bool {
    is_native(name) || is_quota_only(name)
}

/// Resources of nodes that containers take a part of.
fn is_native(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_pages(name)
}

fn is_quota_only(name: &str) -> bool {
    matches!(
        name,
        "storage"
            | "requests.cpu"
            | "requests.memory"
            | "requests.ephemeral-storage"
            | "limits.cpu"
            | "limits.memory"
            | "limits.ephemeral-storage"
            | "requests.storage"
            | "pods"
            | "resourcequotas"
            | "services"
            | "replicationcontrollers"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || name.starts_with("requests.hugepages-")
}

/// Says whether a resource comes in whole numbers only.
fn is_counted(name: &str) -> bool {
    matches!(
        name,
        "pods"
            | "services"
            | "replicationcontrollers"
            | "resourcequotas"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || is_extended(name)
}

/// Resources that someone else than Kubernetes counts on nodes.
pub(in crate::validate) fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Says whether more may be promised than there is.
pub(in crate::validate) fn may_overcommit(name: &str) -> bool {
    !is_huge_pages(name) && !is_extended(name)
}
