//! Rows of configuration, quotas and role bindings.

use serde_json::{Value, json};

use super::{Shown, or, text};

pub(super) fn config_map(map: Shown<'_>) -> Value {
    let entries = map.count("/data") + map.count("/binaryData");
    json!([map.name(), entries, map.age()])
}

pub(super) fn secret(secret: Shown<'_>) -> Value {
    json!([
        secret.name(),
        secret.text("/type"),
        secret.count("/data"),
        secret.age()
    ])
}

pub(super) fn resource_quota(quota: Shown<'_>) -> Value {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in quota.entries("/status/hard") {
        let mut used = quota.entries("/status/used");
        let used = used.find(|(name, _)| *name == resource);
        let used = or(used.map_or("", |(_, used)| used), "0");
        let column = match resource.starts_with("limits.") {
            true => &mut limits,
            false => &mut requests,
        };
        column.push(format!("{resource}: {used}/{hard}"));
    }
    json!([
        quota.name(),
        requests.join(", "),
        limits.join(", "),
        quota.age()
    ])
}

pub(super) fn role_binding(binding: Shown<'_>) -> Value {
    let role = format!(
        "{}/{}",
        binding.text("/roleRef/kind"),
        binding.text("/roleRef/name")
    );
    let subjects = |kind: &str| {
        let subjects = binding.list("/subjects").iter();
        let of_kind = subjects.filter(|subject| text(subject, "/kind") == kind);
        let name = |subject: &Value| match kind {
            "ServiceAccount" => {
                format!("{}/{}", text(subject, "/namespace"), text(subject, "/name"))
            }
            _ => text(subject, "/name").to_owned(),
        };
        of_kind.map(name).collect::<Vec<_>>().join(", ")
    };
    json!([
        binding.name(),
        role,
        binding.age(),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;

    #[test]
    fn configuration_shows_how_much_there_is() {
        let map = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AA=="}});
        check("v1", "ConfigMap", map, "x|3|60m");
        check(
            "v1",
            "Secret",
            json!({"type": "Opaque", "data": {"a": "AA=="}}),
            "x|Opaque|1|60m",
        );
    }

    #[test]
    fn quotas_show_what_is_used_of_what_there_is() {
        let quota = json!({"status": {
            "hard": {"pods": "10", "limits.cpu": "2", "requests.cpu": "1", "limits.memory": "1Gi"},
            "used": {"pods": "3", "limits.cpu": "500m", "requests.cpu": "100m"},
        }});
        let expected = "x|pods: 3/10, requests.cpu: 100m/1|limits.cpu: 500m/2, limits.memory: \
                        0/1Gi|60m";
        check("v1", "ResourceQuota", quota, expected);
        check("v1", "ResourceQuota", json!({}), "x|||60m");
    }

    #[test]
    fn bindings_show_role_and_subjects() {
        let binding = json!({
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "Group", "name": "g"},
                {"kind": "User", "name": "v"},
                {"kind": "ServiceAccount", "namespace": "n", "name": "s"}],
        });
        for kind in ["RoleBinding", "ClusterRoleBinding"] {
            let expected = "x|ClusterRole/view|60m|u, v|g|n/s";
            check(
                "rbac.authorization.k8s.io/v1",
                kind,
                binding.clone(),
                expected,
            );
        }
    }
}
