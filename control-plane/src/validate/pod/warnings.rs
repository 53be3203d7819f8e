//! What is accepted in a new pod and yet not what its author will have wanted.

use serde_json::Value;

use super::super::{elements, entries};
use crate::quantity::Quantity;

/// Labels of nodes that have other names by now.
const OLD_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "v1.17",
        "topology.kubernetes.io/region",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "v1.17",
        "topology.kubernetes.io/zone",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "v1.17",
        "node.kubernetes.io/instance-type",
    ),
];

/// Volumes that are on their way out or gone: source, as it is called, since when.
const OLD_VOLUMES: &[(&str, &str, &str)] = &[
    (
        "cephfs",
        "cephfs",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
    (
        "gitRepo",
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    (
        "glusterfs",
        "glusterfs",
        "deprecated in v1.25, non-functional in v1.26+",
    ),
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "quobyte",
        "quobyte",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "rbd",
        "rbd",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
    (
        "scaleIO",
        "scaleIO",
        "deprecated in v1.16, non-functional in v1.22+",
    ),
    (
        "storageos",
        "storageOS",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
];

/// Says what the author of a new pod should know, in the words and the order of Kubernetes.
pub(crate) fn warnings(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut found = Vec::new();
    labels(spec, &mut found);
    volumes(spec, &mut found);
    doubles(spec, &mut found);
    for list in ["initContainers", "containers"] {
        for (index, container) in elements(&spec[list]).enumerate() {
            self::container(&format!("spec.{list}[{index}]"), container, &mut found);
        }
    }
    found
}

fn labels(spec: &Value, found: &mut Vec<String>) {
    for (label, since, now) in OLD_LABELS {
        if spec["nodeSelector"].get(label).is_some() {
            found.push(format!(
                "spec.nodeSelector[{label}]: deprecated since {since}; use \"{now}\" instead"
            ));
        }
    }
    for (index, spread) in elements(&spec["topologySpreadConstraints"]).enumerate() {
        let at = format!("spec.topologySpreadConstraints[{index}]");
        let old = OLD_LABELS
            .iter()
            .find(|(label, ..)| spread["topologyKey"] == *label);
        if let Some((label, since, now)) = old {
            found.push(format!(
                "{at}.topologyKey: {label} is deprecated since {since}; use \"{now}\" instead"
            ));
        }
        if spread["labelSelector"].is_null() {
            let what = "a null labelSelector results in matching no pod";
            found.push(format!("{at}.labelSelector: {what}"));
        }
    }
}

fn volumes(spec: &Value, found: &mut Vec<String>) {
    for (index, volume) in elements(&spec["volumes"]).enumerate() {
        for (source, name, why) in OLD_VOLUMES {
            if volume.get(source).is_some() {
                found.push(format!("spec.volumes[{index}].{name}: {why}"));
            }
        }
    }
}

/// What is there twice in lists of the pod, or says nothing.
fn doubles(spec: &Value, found: &mut Vec<String>) {
    let mut seen = Vec::new();
    for (index, alias) in elements(&spec["hostAliases"]).enumerate() {
        if seen.contains(&&alias["ip"]) {
            let ip = &alias["ip"];
            found.push(format!("spec.hostAliases[{index}].ip: duplicate ip {ip}"));
        }
        seen.push(&alias["ip"]);
    }
    seen.clear();
    for (index, secret) in elements(&spec["imagePullSecrets"]).enumerate() {
        let at = format!("spec.imagePullSecrets[{index}].name");
        match &secret["name"] {
            Value::Null => found.push(format!("{at}: invalid empty name \"\"")),
            name if name == "" => found.push(format!("{at}: invalid empty name {name}")),
            name if seen.contains(&name) => found.push(format!("{at}: duplicate name {name}")),
            _ => (),
        }
        seen.push(&secret["name"]);
    }
}

fn container(at: &str, container: &Value, found: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        for list in ["limits", "requests"] {
            let amounts = entries(&container["resources"][list]);
            for (_, amount) in amounts.filter(|(found, _)| *found == name) {
                let parsed = amount.as_str().and_then(Quantity::parse);
                if parsed.is_some_and(|amount| !amount.is_whole()) {
                    found.push(format!(
                        "{at}.resources.{list}[{name}]: fractional byte value {amount} is \
                         invalid, must be an integer"
                    ));
                }
            }
        }
    }
    let mut seen = Vec::new();
    for (index, variable) in elements(&container["env"]).enumerate() {
        let name = &variable["name"];
        if seen.contains(&name) {
            found.push(format!(
                "{at}.env[{index}]: hides previous definition of {name}, which may be dropped \
                 when using apply"
            ));
        }
        seen.push(name);
    }
    ports(at, container, found);
}

fn ports(at: &str, container: &Value, found: &mut Vec<String>) {
    let number = |port: &Value, field: &str| port[field].as_i64().unwrap_or(0);
    let ports: Vec<_> = elements(&container["ports"]).collect();
    for (index, port) in ports.iter().enumerate() {
        for (other, known) in ports.iter().enumerate().take(index) {
            let same = |field: &str| port[field] == known[field];
            if !same("protocol") || !same("containerPort") {
                continue;
            }
            let (one, two) = (number(port, "hostPort"), number(known, "hostPort"));
            let how = match (one, two) {
                _ if one == two && same("hostIP") => "duplicate",
                (0, _) | (_, 0) => "overlapping",
                _ => continue,
            };
            let known = format!("{at}.ports[{other}]");
            found.push(format!(
                "{at}.ports[{index}]: {how} port definition with {known}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_creates_a_pod_is_told_what_is_odd_about_it() {
        let pod = json!({"spec": {
            "hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}],
            "imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "storageos": {}}],
            "containers": [{"name": "c",
                "env": [{"name": "A"}, {"name": "A"}],
                "ports": [{"containerPort": 1}, {"containerPort": 1},
                    {"containerPort": 1, "hostPort": 2}],
                "resources": {"limits": {"memory": "1500m", "cpu": "1500m"}}}],
        }});
        assert_eq!(
            warnings(&pod),
            [
                "spec.volumes[1].storageOS: deprecated in v1.22, non-functional in v1.25+",
                "spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\"",
                "spec.imagePullSecrets[1].name: duplicate name \"a\"",
                "spec.imagePullSecrets[2].name: invalid empty name \"\"",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is \
                 invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be \
                 dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with \
                 spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: overlapping port definition with \
                 spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: overlapping port definition with \
                 spec.containers[0].ports[1]",
            ]
        );
    }
}
