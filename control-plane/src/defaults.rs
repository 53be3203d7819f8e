//! What the server fills in where a client says nothing, beyond the defaults of the schema.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::quantity::Quantity;

/// Fills in a pod's defaults; does nothing to a pod that has them.
pub(crate) fn pod(object: &mut Value) {
    let spec = object_at(object, "spec");
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "enableServiceLinks", json!(true));
    default(spec, "securityContext", json!({}));
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            self::container(container, host_network);
        }
        prune_null(spec, list);
    }
    for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
        self::volume(volume);
    }
    prune_null(spec, "volumes");
}

/// Gives a new pod the status it begins with.
pub(crate) fn new_pod(object: &mut Value) {
    object["status"] = json!({"phase": "Pending", "qosClass": qos_class(&object["spec"])});
    let gates = object["spec"]["schedulingGates"].as_array();
    if gates.is_some_and(|gates| !gates.is_empty()) {
        object["status"]["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
}

/// Fills in a spec: the stock server never sends objects without one, and clients rely on it.
pub(crate) fn empty_spec(object: &mut Value) {
    object_at(object, "spec");
}

/// Gives a new namespace the status it begins with and the label with its own name.
pub(crate) fn new_namespace(object: &mut Value) {
    object["spec"]["finalizers"] = json!(["kubernetes"]);
    object["status"] = json!({"phase": "Active"});
    if let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) {
        object["metadata"]["labels"]["kubernetes.io/metadata.name"] = Value::from(name);
    }
}

/// Moves a secret's plain strings into its data and gives it a type.
pub(crate) fn secret(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    if let Some(Value::Object(plain)) = fields.remove("stringData") {
        let data = fields.entry("data").or_insert_with(|| json!({}));
        for (key, value) in plain {
            data[key] = Value::from(STANDARD.encode(value.as_str().unwrap_or_default()));
        }
    }
    let kind = fields.entry("type").or_insert(Value::Null);
    if kind.as_str().unwrap_or_default().is_empty() {
        *kind = json!("Opaque");
    }
}

fn container(container: &mut Value, host_network: bool) {
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    default(container, "imagePullPolicy", json!(policy));
    default(
        container,
        "terminationMessagePath",
        json!("/dev/termination-log"),
    );
    default(container, "terminationMessagePolicy", json!("File"));
    default(container, "resources", json!({}));
    if let Some(limits) = container["resources"]["limits"].as_object().cloned() {
        for (name, limit) in limits {
            default(
                object_at(&mut container["resources"], "requests"),
                &name,
                limit,
            );
        }
    }
    for port in container["ports"].as_array_mut().into_iter().flatten() {
        if host_network {
            let same = port["containerPort"].clone();
            default(port, "hostPort", same);
        }
    }
    prune_null(container, "ports");
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            probe(&mut container[name]);
        } else {
            prune_null(container, name);
        }
    }
}

fn probe(probe: &mut Value) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        default(probe, field, json!(value));
    }
    if probe.get("httpGet").is_some() {
        default(&mut probe["httpGet"], "path", json!("/"));
        default(&mut probe["httpGet"], "scheme", json!("HTTP"));
    }
}

fn volume(volume: &mut Value) {
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if volume.get(source).is_some() {
            default(&mut volume[source], "defaultMode", json!(420));
        }
    }
    if volume.get("hostPath").is_some() {
        default(&mut volume["hostPath"], "type", json!(""));
    }
    if volume
        .as_object()
        .is_some_and(|fields| fields.keys().all(|name| name == "name"))
    {
        default(volume, "emptyDir", json!({}));
    }
}

/// Returns `Always` for a moving tag, `IfNotPresent` for a fixed one or a digest.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match (digest, last.split_once(':')) {
        (Some(_), _) => "IfNotPresent",
        (None, None | Some((_, "latest"))) => "Always",
        (None, Some(_)) => "IfNotPresent",
    }
}

/// Returns a pod's quality of service from what its containers request and may use.
fn qos_class(spec: &Value) -> &'static str {
    let containers = ["containers", "initContainers"];
    let containers = containers
        .iter()
        .flat_map(|list| crate::validate::elements(&spec[*list]));
    let (mut any, mut all) = (false, true);
    for container in containers {
        let amount = |list: &str, name: &str| {
            let text = container["resources"][list][name].as_str();
            text.and_then(Quantity::parse)
                .filter(|amount| amount.milli() > 0)
        };
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", name), amount("limits", name));
            any |= request.is_some() || limit.is_some();
            let same = |(request, limit): (Quantity, Quantity)| {
                !request.exceeds(limit) && !limit.exceeds(request)
            };
            all &= request.zip(limit).is_some_and(same);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn default(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        let slot = fields.entry(name).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value;
        }
    }
}

fn object_at<'a>(object: &'a mut Value, name: &str) -> &'a mut Value {
    default(object, name, Value::Object(Map::new()));
    &mut object[name]
}

/// Takes back the null that looking a field up for writing leaves behind.
fn prune_null(object: &mut Value, name: &str) {
    if let Some(fields) = object.as_object_mut()
        && fields.get(name).is_some_and(Value::is_null)
    {
        fields.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("host:5000/a", "Always"),
            ("host:5000/a:1", "IfNotPresent"),
            ("a@sha256:0", "IfNotPresent"),
            ("a:latest@sha256:0", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn filling_in_twice_changes_nothing() {
        let mut once = json!({"spec": {"hostNetwork": true, "volumes": [{"name": "v"}],
            "containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 1}],
                "readinessProbe": {"httpGet": {"port": 1}},
                "resources": {"limits": {"cpu": "1"}}}]}});
        pod(&mut once);
        let mut twice = once.clone();
        pod(&mut twice);
        assert_eq!(once, twice);
        let text = once.to_string();
        assert!(!text.contains("null"), "{text}");
        assert_eq!(
            once["spec"]["containers"][0]["resources"]["requests"]["cpu"],
            "1"
        );
        assert_eq!(once["spec"]["containers"][0]["ports"][0]["hostPort"], 1);
        assert_eq!(once["spec"]["volumes"][0]["emptyDir"], json!({}));
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let check = |resources: Value, class: &str| {
            let spec = json!({"containers": [{"resources": resources}]});
            assert_eq!(qos_class(&spec), class, "{spec}");
        };
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        let all = json!({"cpu": "1", "memory": "1Gi"});
        check(json!({"requests": all, "limits": all}), "Guaranteed");
        check(
            json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": all}),
            "Burstable",
        );
    }

    #[test]
    fn plain_strings_become_secret_data() {
        let mut object = json!({"stringData": {"a": "b"}, "data": {"a": "eA==", "c": "eA=="}});
        secret(&mut object);
        assert_eq!(
            object,
            json!({"type": "Opaque", "data": {"a": "Yg==", "c": "eA=="}})
        );
    }
}
