//! What a pod begins with.

use serde_json::{Value, json};

use super::{default, each, object_at, replace_empty, round, times};
use crate::{quantity::Quantity, validate::elements};

const CONTAINER_STATUSES: &[&str] = &[
    "containerStatuses",
    "ephemeralContainerStatuses",
    "initContainerStatuses",
];

const GRACE_SECONDS: i64 = 30;

/// A projected token is good for an hour.
const TOKEN_SECONDS: i64 = 3600;

/// Fills in a pod's defaults; does nothing to a pod that has them.
pub(crate) fn pod(object: &mut Value) {
    let spec = object_at(object, "spec");
    for (field, value) in [
        ("restartPolicy", "Always"),
        ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
    ] {
        replace_empty(spec, field, json!(value));
    }
    default(spec, "terminationGracePeriodSeconds", json!(GRACE_SECONDS));
    if spec["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds < 0)
    {
        spec["terminationGracePeriodSeconds"] = json!(1);
    }
    default(spec, "enableServiceLinks", json!(true));
    default(spec, "securityContext", json!({}));
    same_account(spec);
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, list, |container| {
            self::container(container);
            let ephemeral = list == "ephemeralContainers";
            ports(container, host_network && !ephemeral);
            if !ephemeral {
                requests(container);
            }
        });
    }
    each(spec, "volumes", volume);
    whole_pod(spec);
    pod_status(object);
}

/// Fills in the defaults of a pod's status alone.
pub(crate) fn pod_status(object: &mut Value) {
    if let Some(status) = object.get_mut("status") {
        each(status, "conditions", |condition| {
            times(condition, &["lastProbeTime", "lastTransitionTime"]);
        });
        for list in CONTAINER_STATUSES {
            each(status, list, container_status);
        }
    }
}

fn container_status(status: &mut Value) {
    for state in ["state", "lastState"] {
        let Some(state) = status.get_mut(state) else {
            continue;
        };
        if let Some(running) = state.get_mut("running") {
            times(running, &["startedAt"]);
        }
        if let Some(terminated) = state.get_mut("terminated") {
            times(terminated, &["finishedAt", "startedAt"]);
        }
    }
}

/// Gives a new pod the status it begins with.
pub(crate) fn new_pod(object: &mut Value) {
    object["status"] = json!({"phase": "Pending", "qosClass": qos_class(&object["spec"])});
    let gated = elements(&object["spec"]["schedulingGates"])
        .next()
        .is_some();
    if gated {
        object["status"]["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": object["metadata"]["creationTimestamp"],
        }]);
    }
}

/// Keeps in a change what a client leaves out without meaning it.
pub(crate) fn keep_pod(old: &Value, new: &mut Value) {
    let class = &old["status"]["qosClass"];
    if new.get("status").is_some() && !class.is_null() {
        replace_empty(&mut new["status"], "qosClass", class.clone());
    }
}

/// The account has two names: the second is what it was called first.
fn same_account(spec: &mut Value) {
    let name = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let (account, deprecated) = (name("serviceAccountName"), name("serviceAccount"));
    let chosen = if account.is_empty() {
        deprecated
    } else {
        account
    };
    if !chosen.is_empty() {
        spec["serviceAccountName"] = json!(chosen);
        spec["serviceAccount"] = json!(chosen);
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    for (field, value) in [
        ("imagePullPolicy", policy),
        ("terminationMessagePath", "/dev/termination-log"),
        ("terminationMessagePolicy", "File"),
    ] {
        replace_empty(container, field, json!(value));
    }
    default(container, "resources", json!({}));
    for list in ["limits", "requests"] {
        round(&mut container["resources"], list);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.get(name).is_some() {
            probe(&mut container[name]);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.pointer_mut(&format!("/lifecycle/{hook}")) {
            http_get(handler);
        }
    }
    each(container, "env", |variable| {
        if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
            replace_empty(reference, "apiVersion", json!("v1"));
        }
        if let Some(reference) = variable.pointer_mut("/valueFrom/resourceFieldRef") {
            replace_empty(reference, "divisor", json!("0"));
        }
    });
}

/// What may be used and is not requested is requested.
fn requests(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else {
        return;
    };
    let requests = object_at(&mut container["resources"], "requests");
    for (name, limit) in limits {
        default(requests, &name, limit);
    }
}

/// With the node's network, the ports of the pod are those of the node.
fn ports(container: &mut Value, host_network: bool) {
    each(container, "ports", |port| {
        replace_empty(port, "protocol", json!("TCP"));
        if host_network && port["hostPort"].as_i64().unwrap_or(0) == 0 {
            port["hostPort"] = port["containerPort"].clone();
        }
    });
}

fn probe(probe: &mut Value) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe[field].as_i64().unwrap_or(0) == 0 {
            probe[field] = json!(value);
        }
    }
    http_get(probe);
    if probe.get("grpc").is_some() {
        default(&mut probe["grpc"], "service", json!(""));
    }
}

fn http_get(handler: &mut Value) {
    if handler.get("httpGet").is_some() {
        replace_empty(&mut handler["httpGet"], "path", json!("/"));
        replace_empty(&mut handler["httpGet"], "scheme", json!("HTTP"));
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
    if let Some(image) = volume.get_mut("image") {
        let policy = pull_policy(image["reference"].as_str().unwrap_or_default());
        replace_empty(image, "pullPolicy", json!(policy));
    }
    let references = |items: &mut Value| {
        each(items, "items", |item| {
            if let Some(reference) = item.get_mut("fieldRef") {
                replace_empty(reference, "apiVersion", json!("v1"));
            }
            if let Some(reference) = item.get_mut("resourceFieldRef") {
                replace_empty(reference, "divisor", json!("0"));
            }
        });
    };
    if let Some(files) = volume.get_mut("downwardAPI") {
        references(files);
    }
    if let Some(projected) = volume.get_mut("projected") {
        each(projected, "sources", |source| {
            if let Some(files) = source.get_mut("downwardAPI") {
                references(files);
            }
            if let Some(token) = source.get_mut("serviceAccountToken") {
                default(token, "expirationSeconds", json!(TOKEN_SECONDS));
            }
        });
    }
    if let Some(claim) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        default(claim, "volumeMode", json!("Filesystem"));
    }
    if volume
        .as_object()
        .is_some_and(|fields| fields.keys().all(|name| name == "name"))
    {
        default(volume, "emptyDir", json!({}));
    }
}

/// What a pod may use as a whole is requested, as far as its containers request nothing else.
fn whole_pod(spec: &mut Value) {
    let Some(limits) = spec
        .pointer("/resources/limits")
        .and_then(Value::as_object)
        .cloned()
    else {
        return;
    };
    let asked = |name: &str| {
        elements(&spec["containers"])
            .filter_map(|container| container["resources"]["requests"][name].as_str())
            .filter_map(Quantity::parse)
            .reduce(Quantity::plus)
    };
    let amounts: Vec<_> = limits
        .into_iter()
        .map(|(name, limit)| {
            let asked = asked(&name).map(|amount| json!(amount.to_string()));
            (name, asked.unwrap_or(limit))
        })
        .collect();
    let requests = object_at(&mut spec["resources"], "requests");
    for (name, amount) in amounts {
        default(requests, &name, amount);
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
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let containers = ["containers", "initContainers"];
    let containers = containers.iter().flat_map(|list| elements(&spec[*list]));
    // What the pod asks for as a whole goes before what its containers ask for.
    let whole = spec.get("resources").map(|_| spec);
    let askers: Vec<&Value> = whole.map_or_else(|| containers.collect(), |spec| vec![spec]);
    let (mut any, mut all) = (false, true);
    for container in askers {
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
}
