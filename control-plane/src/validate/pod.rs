//! The checks of pods, in the order in which the stock server makes them.

mod affinity;
mod change;
mod containers;
mod environment;
mod ephemeral;
mod probes;
mod resize;
pub(super) mod resources;
mod security;
mod status;
mod volumes;
mod warnings;

use serde_json::Value;

use super::{Field, NameRule, elements, node, walk};
use crate::invalid::Causes;

pub(crate) use ephemeral::ephemeral_containers;
pub(crate) use resize::{carry_resources, resize};
pub(crate) use status::status;
pub(crate) use warnings::warnings;

pub(super) use affinity::label_selector;

/// Limits of name resolution in libc, which Kubernetes adopts.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// Checks a pod; on update, that only what may change has changed.
pub(crate) fn pod(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        metadata(root);
        spec(root);
        match old {
            None => on_create(root),
            Some(old) => change::check(root, old),
        }
    });
}

fn metadata(root: &Field<'_, '_>) {
    let annotations = root.child("metadata.annotations");
    let mirror = annotations.key("kubernetes.io/config.mirror");
    if mirror.is_set() && root.child("spec.nodeName").is_empty() {
        mirror.invalid("must set spec.nodeName if mirror pod annotation is set");
    }
    let cost = annotations.key("controller.kubernetes.io/pod-deletion-cost");
    // A sign before the number or zeros in front of it are refused, as Go's parser is made to do.
    let plain = |text: &str| {
        text.parse::<i32>()
            .is_ok_and(|number| number.to_string() == text)
    };
    if cost.is_set() && !plain(cost.text()) {
        cost.invalid("must be a 32bit integer");
    }
}

fn on_create(root: &Field<'_, '_>) {
    let spec = root.child("spec");
    let ephemeral = spec.child("ephemeralContainers");
    if !ephemeral.is_empty() {
        ephemeral.forbidden("cannot be set on create");
    }
    let node = spec.child("nodeName");
    if !node.is_empty() && !spec.child("schedulingGates").is_empty() {
        node.forbidden("cannot be set until all schedulingGates have been cleared");
    }
}

fn spec(root: &Field<'_, '_>) {
    let spec = &root.child("spec");
    let volumes = volumes::check(&spec.child("volumes"), root.child("metadata.name").text());
    let claims = containers::claims(&spec.child("resourceClaims"));
    containers::check(spec, &volumes, &claims);
    resources::of_pod(spec);
    host_ports(spec);
    spec.child("restartPolicy")
        .one_of(&["Always", "OnFailure", "Never"]);
    spec.child("dnsPolicy").one_of(DNS_POLICIES);
    spec.child("nodeSelector").labels();
    security::of_pod(spec);
    affinity::check(&spec.child("affinity"));
    dns(spec);
    for gate in spec.child("readinessGates").items() {
        gate.child("conditionType").qualified();
    }
    scheduling_gates(&spec.child("schedulingGates"));
    affinity::topology_spread(&spec.child("topologySpreadConstraints"));
    security::host_users(spec);
    names(spec);
    numbers(spec);
    node::tolerations(&spec.child("tolerations"));
    for alias in spec.child("hostAliases").items() {
        alias.child("ip").address();
        for host in alias.child("hostnames").items() {
            host.name(NameRule::Subdomain);
        }
    }
    spec.child("preemptionPolicy")
        .one_of_if_set(&["PreemptLowerPriority", "Never"]);
    resources::overhead(&spec.child("overhead"));
    security::operating_system(spec);
    tokens(spec);
}

/// With the node's network, a port of the pod is that port of the node.
fn host_ports(spec: &Field<'_, '_>) {
    if !spec.child("hostNetwork").is_true() {
        return;
    }
    for container in spec.child("containers").items() {
        for port in container.child("ports").items() {
            let host = port.child("hostPort");
            if host.number() != port.child("containerPort").number() {
                host.invalid("must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn names(spec: &Field<'_, '_>) {
    for (field, rule) in [
        ("serviceAccountName", NameRule::Subdomain),
        ("nodeName", NameRule::Subdomain),
        ("hostname", NameRule::Label),
        ("subdomain", NameRule::Label),
        ("priorityClassName", NameRule::Subdomain),
    ] {
        spec.child(field).name_if_any(rule);
    }
    let class = spec.child("runtimeClassName");
    if class.is_set() {
        class.name(NameRule::Subdomain);
    }
    let full_name = spec.child("hostnameOverride");
    if full_name.is_set() {
        hostname_override(spec, &full_name);
    }
}

fn hostname_override(spec: &Field<'_, '_>, full_name: &Field<'_, '_>) {
    full_name.name(NameRule::Subdomain);
    if full_name.text().len() > 64 {
        full_name.invalid("must be no more than 64 bytes");
    }
    for (field, said) in [
        (
            "setHostnameAsFQDN",
            "hostnameOverride and setHostnameAsFQDN",
        ),
        ("hostNetwork", "hostnameOverride and hostNetwork"),
    ] {
        if spec.child(field).is_true() {
            full_name.forbidden(&format!("may not set both {said}"));
        }
    }
}

fn numbers(spec: &Field<'_, '_>) {
    let grace = spec.child("terminationGracePeriodSeconds");
    if !grace.is_set() {
        grace.required("");
    }
    let deadline = spec.child("activeDeadlineSeconds");
    let range = 1..=i64::from(i32::MAX);
    if deadline
        .number()
        .is_some_and(|seconds| !range.contains(&seconds))
    {
        deadline.invalid("must be between 1 and 2147483647, inclusive");
    }
}

fn dns(spec: &Field<'_, '_>) {
    let config = &spec.child("dnsConfig");
    let servers = config.child("nameservers");
    if spec.child("dnsPolicy").text() == "None" {
        if !config.is_set() {
            return config.required("must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            return servers
                .required("must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if elements(servers.value).count() > NAMESERVERS_MAX {
        servers.invalid(&format!(
            "must not have more than {NAMESERVERS_MAX} nameservers"
        ));
    }
    for server in servers.items() {
        server.address();
    }
    let searches = config.child("searches");
    let bytes = searches
        .items()
        .map(|search| search.text().len() + 1)
        .sum::<usize>();
    if elements(searches.value).count() > SEARCHES_MAX {
        searches.invalid(&format!(
            "must not have more than {SEARCHES_MAX} search paths"
        ));
    }
    if bytes > SEARCH_BYTES_MAX + 1 {
        searches.invalid(&format!(
            "must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the \
             search list"
        ));
    }
    for search in searches.items() {
        search_path(&search);
    }
    for option in config.child("options").items() {
        if option.child("name").is_empty() {
            option.required("must not be empty");
        }
    }
}

/// A search path may end with a dot, and its labels may have underscores.
fn search_path(search: &Field<'_, '_>) {
    let text = search.text();
    if text == "." {
        return;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let without_underscores = name
        .split('.')
        .map(|label| label.strip_prefix('_').unwrap_or(label).replace('_', "-"))
        .collect::<Vec<_>>()
        .join(".");
    if !super::is_subdomain(&without_underscores) {
        search.invalid_as(&Value::from(name), SEARCH_MESSAGE);
    }
}

const SEARCH_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
     alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric \
     character (e.g. 'example.com', regex used for validation is \
     '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";

fn scheduling_gates(gates: &Field<'_, '_>) {
    let mut seen = Vec::new();
    for gate in gates.items() {
        let name = gate.child("name").text();
        gate.qualified_text(name);
        if seen.contains(&name) {
            gate.duplicate_as(&Value::from(name));
        }
        seen.push(name);
    }
}

/// A token is a service account's, so there has to be one.
fn tokens(spec: &Field<'_, '_>) {
    if !spec.child("serviceAccountName").is_empty() {
        return;
    }
    for volume in spec.child("volumes").items() {
        for source in volume.child("projected.sources").items() {
            let token = source.child("serviceAccountToken");
            if token.is_set() {
                token.forbidden("must not be specified when serviceAccountName is not set");
            }
        }
    }
}

#[cfg(test)]
mod tests;
