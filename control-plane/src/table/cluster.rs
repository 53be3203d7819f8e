//! Rows of what makes up a cluster: nodes, namespaces, leases, classes, signing requests.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{NONE, Shown, UNKNOWN, duration, or, text};

/// A label whose name ends with a role of the node.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

/// A label whose value is a role of the node.
const ROLE: &str = "kubernetes.io/role";

pub(super) fn node(node: Shown<'_>) -> Value {
    json!([
        node.name(),
        node_status(node),
        node_roles(node),
        node.age(),
        node.text("/status/nodeInfo/kubeletVersion"),
        node_address(node, "InternalIP"),
        node_address(node, "ExternalIP"),
        or(node.text("/status/nodeInfo/osImage"), UNKNOWN),
        or(node.text("/status/nodeInfo/kernelVersion"), UNKNOWN),
        or(
            node.text("/status/nodeInfo/containerRuntimeVersion"),
            UNKNOWN
        ),
    ])
}

fn node_status(node: Shown<'_>) -> String {
    let mut conditions = node.list("/status/conditions").iter();
    let ready = conditions.rfind(|condition| text(condition, "/type") == "Ready");
    let status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    match node.flag("/spec/unschedulable") {
        true => format!("{status},SchedulingDisabled"),
        false => status.to_owned(),
    }
}

fn node_roles(node: Shown<'_>) -> String {
    let role = |(name, value)| match name {
        ROLE => value,
        _ => str::strip_prefix(name, ROLE_PREFIX).unwrap_or_default(),
    };
    let roles: BTreeSet<&str> = node.entries("/metadata/labels").map(role).collect();
    let roles: Vec<_> = roles.into_iter().filter(|role| !role.is_empty()).collect();
    or(&roles.join(","), NONE).to_owned()
}

fn node_address<'a>(node: Shown<'a>, kind: &str) -> &'a str {
    let mut addresses = node.list("/status/addresses").iter();
    let found = addresses.find(|address| text(address, "/type") == kind);
    found.map_or(NONE, |address| text(address, "/address"))
}

pub(super) fn namespace(namespace: Shown<'_>) -> Value {
    json!([
        namespace.name(),
        namespace.text("/status/phase"),
        namespace.age()
    ])
}

pub(super) fn lease(lease: Shown<'_>) -> Value {
    json!([
        lease.name(),
        lease.text("/spec/holderIdentity"),
        lease.age()
    ])
}

pub(super) fn priority_class(class: Shown<'_>) -> Value {
    json!([
        class.name(),
        class.number("/value"),
        class.flag("/globalDefault"),
        class.age(),
        class.text("/preemptionPolicy"),
    ])
}

pub(super) fn signing_request(request: Shown<'_>) -> Value {
    let seconds = request.object.pointer("/spec/expirationSeconds");
    let lasts = seconds.and_then(Value::as_i64).map(duration::human);
    json!([
        request.name(),
        request.age(),
        or(request.text("/spec/signerName"), NONE),
        request.text("/spec/username"),
        lasts.as_deref().unwrap_or(NONE),
        signing_status(request),
    ])
}

/// Denial outweighs approval.
fn signing_status(request: Shown<'_>) -> String {
    let has = |kind: &str| {
        let mut conditions = request.list("/status/conditions").iter();
        conditions.any(|condition| text(condition, "/type") == kind)
    };
    let verdict = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = match request.text("/status/certificate") {
        "" => "",
        _ => ",Issued",
    };
    format!("{verdict}{failed}{issued}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;

    #[test]
    fn nodes_show_status_roles_and_addresses() {
        let node = json!({
            "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "a",
                "node-role.kubernetes.io/": "", "other": "b"}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "DiskPressure", "status": "False"},
                    {"type": "Ready", "status": "True"}],
                "addresses": [{"type": "Hostname", "address": "n"},
                    {"type": "InternalIP", "address": "10.0.0.7"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian",
                    "kernelVersion": "6.1", "containerRuntimeVersion": "coracle://0.1.0"},
            },
        });
        let expected = "x|Ready,SchedulingDisabled|a,worker|60m|v1.36.0|10.0.0.7|<none>|Debian|6.1|\
                        coracle://0.1.0";
        check("v1", "Node", node, expected);
        let expected = "x|Unknown|<none>|60m||<none>|<none>|<unknown>|<unknown>|<unknown>";
        check("v1", "Node", json!({}), expected);
        let silent = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        let expected = "x|NotReady|<none>|60m||<none>|<none>|<unknown>|<unknown>|<unknown>";
        check("v1", "Node", silent, expected);
    }

    #[test]
    fn small_cluster_kinds_show_what_matters() {
        check(
            "v1",
            "Namespace",
            json!({"status": {"phase": "Active"}}),
            "x|Active|60m",
        );
        let lease = json!({"spec": {"holderIdentity": "n"}});
        check("coordination.k8s.io/v1", "Lease", lease, "x|n|60m");
        let class = json!({"value": 7, "preemptionPolicy": "Never"});
        check(
            "scheduling.k8s.io/v1",
            "PriorityClass",
            class,
            "x|7|false|60m|Never",
        );
    }

    #[test]
    fn signing_requests_show_how_far_they_are() {
        let kind = "CertificateSigningRequest";
        for (types, certificate, expected) in [
            (vec![], "", "Pending"),
            (vec!["Approved"], "", "Approved"),
            (vec!["Approved"], "QQ==", "Approved,Issued"),
            (vec!["Approved", "Denied"], "", "Denied"),
            (vec!["Approved", "Failed"], "", "Approved,Failed"),
        ] {
            let conditions: Vec<_> = types.iter().map(|kind| json!({"type": kind})).collect();
            let request = json!({
                "spec": {"signerName": "s/a", "username": "u", "expirationSeconds": 86400},
                "status": {"conditions": conditions, "certificate": certificate},
            });
            let expected = format!("x|60m|s/a|u|24h|{expected}");
            check("certificates.k8s.io/v1", kind, request, &expected);
        }
        let expected = "x|60m|<none>||<none>|Pending";
        check("certificates.k8s.io/v1", kind, json!({}), expected);
    }
}
