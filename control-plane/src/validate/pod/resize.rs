//! What may change by `pods/resize`: cpu and memory of containers that run as long as the pod does.

use serde_json::{Value, json};

use super::super::{Field, elements, entries, walk};
use super::{change, metadata, spec};
use crate::{defaults, invalid::Causes};

/// What a node has to be able to do before its pods' own `resources` change. No node of ours declares it.
const WHOLE_POD: &str = "InPlacePodLevelResourcesVerticalScaling";

/// What is changed without another container; everything else stays as it is.
const RESIZED: &[&str] = &["cpu", "memory"];

/// Checks a pod whose containers request or may use something else than before. The caller has carried
/// everything over that is no container's `resources` or `resizePolicy`.
pub(crate) fn resize(object: &Value, old: &Value, causes: &mut Causes) {
    if !old["metadata"]["annotations"][change::MIRROR].is_null() {
        return causes.forbidden("", "static pods cannot be resized");
    }
    if old["spec"]["os"]["name"] == "windows" {
        return causes.forbidden("", "windows pods cannot be resized");
    }
    walk(object, causes, |root| {
        metadata(root);
        spec(root);
        let spec = &root.child("spec");
        same_class(spec, old);
        if !is_supported(&old["status"]) {
            spec.forbidden("Pod running on node without support for resize");
        }
        whole_pod(spec, old);
        for list in ["initContainers", "containers"] {
            let containers = spec.child(list);
            for (container, known) in containers.items().zip(elements(&old["spec"][list])) {
                let resources = container.child("resources");
                for what in ["requests", "limits"] {
                    kept(&resources.child(what), &known["resources"][what], what);
                }
            }
        }
        for (container, known) in pairs(spec, old, "containers") {
            if as_before(container, known) != *known {
                spec.forbidden("only cpu and memory resources are mutable");
            }
        }
        for (container, known) in pairs(spec, old, "initContainers") {
            if known["restartPolicy"] != "Always" {
                if container != known {
                    spec.forbidden("resources for non-sidecar init containers are immutable");
                }
            } else if as_before(container, known) != *known {
                spec.forbidden("only cpu and memory resources for sidecar containers are mutable");
            }
        }
    });
}

/// Takes over into the old pod what a resize may bring, by the containers' names.
pub(crate) fn carry_resources(old: &Value, new: &mut Value) {
    let wanted = std::mem::take(&mut new["spec"]);
    let owners = new["metadata"]["managedFields"].take();
    new.clone_from(old);
    match owners {
        Value::Null => drop(
            new["metadata"]
                .as_object_mut()
                .map(|m| m.remove("managedFields")),
        ),
        owners => new["metadata"]["managedFields"] = owners,
    }
    match (wanted.get("resources"), new["spec"].as_object_mut()) {
        (Some(whole), Some(spec)) => drop(spec.insert("resources".to_owned(), whole.clone())),
        (None, Some(spec)) => drop(spec.remove("resources")),
        (_, None) => (),
    }
    for list in ["initContainers", "containers"] {
        let containers = new["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let named = |one: &&Value| one["name"] == container["name"];
            let Some(wanted) = elements(&wanted[list]).find(named) else {
                continue;
            };
            for field in ["resources", "resizePolicy"] {
                match (wanted.get(field), container.as_object_mut()) {
                    (Some(value), Some(fields)) => {
                        fields.insert(field.to_owned(), value.clone());
                    }
                    (None, Some(fields)) => drop(fields.remove(field)),
                    (_, None) => (),
                }
            }
        }
    }
}

/// What a pod asks for as a whole may change before it has a node. After that its node has to follow, and one
/// that cannot is named, as admission does in Kubernetes 1.36.
fn whole_pod(spec: &Field<'_, '_>, old: &Value) {
    let (wanted, known) = (spec.value.get("resources"), old["spec"].get("resources"));
    if wanted == known {
        return;
    }
    let resources = spec.child("resources");
    match old["spec"]["nodeName"].as_str() {
        Some(node) if !node.is_empty() => resources.forbidden(&format!(
            "pod update requires features {WHOLE_POD} which are not available on node {node:?}"
        )),
        Some(_) | None => {
            for what in ["requests", "limits"] {
                kept(
                    &resources.child(what),
                    &old["spec"]["resources"][what],
                    what,
                );
            }
        }
    }
}

fn pairs<'p>(
    spec: &Field<'_, 'p>,
    old: &'p Value,
    list: &'static str,
) -> impl Iterator<Item = (&'p Value, &'p Value)> {
    elements(&spec.value[list]).zip(elements(&old["spec"][list]))
}

/// The class decides who ends first, so it is the pod's for life.
fn same_class(spec: &Field<'_, '_>, old: &Value) {
    let class = old["status"]["qosClass"].as_str();
    let class = class.filter(|class| !class.is_empty());
    let class = class.unwrap_or_else(|| defaults::qos_class(&old["spec"]));
    if defaults::qos_class(spec.value) != class {
        let detail = "Pod QOS Class may not change as a result of resizing";
        spec.invalid_as(&Value::from(class), detail);
    }
}

/// A node that resizes says what its running containers have.
fn is_supported(status: &Value) -> bool {
    let mut running = elements(&status["containerStatuses"])
        .filter(|container| container["state"].get("running").is_some());
    running
        .next()
        .is_none_or(|container| container.get("resources").is_some())
}

/// Amounts may change, but not go.
fn kept(list: &Field<'_, '_>, known: &Value, what: &str) {
    let is_gone = |(name, _): (&String, &Value)| list.value.get(name).is_none();
    if entries(known).any(is_gone) {
        list.forbidden(&format!("resource {what} cannot be removed"));
    }
}

/// Returns a container with cpu and memory as they were.
fn as_before(container: &Value, known: &Value) -> Value {
    let mut fixed = container.clone();
    for list in ["limits", "requests"] {
        for name in RESIZED {
            match &known["resources"][list][*name] {
                Value::Null => {
                    let amounts = fixed["resources"].get_mut(list);
                    let amounts = amounts.and_then(Value::as_object_mut);
                    amounts.map(|amounts| amounts.remove(*name));
                }
                amount => fixed["resources"][list][*name] = amount.clone(),
            }
        }
        // No list and an empty one say the same.
        if fixed["resources"][list] == json!({}) && known["resources"].get(list).is_none() {
            fixed["resources"]
                .as_object_mut()
                .map(|fields| fields.remove(list));
        }
    }
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {
                "serviceAccountName": "default",
                "initContainers": [
                    {"name": "i", "image": "i"},
                    {"name": "s", "image": "i", "restartPolicy": "Always",
                        "resources": {"requests": {"cpu": "1"}}},
                ],
                "containers": containers,
            },
        });
        defaults::pod(&mut pod);
        pod["status"] = json!({"qosClass": defaults::qos_class(&pod["spec"])});
        pod
    }

    fn known() -> Value {
        pod(json!([{"name": "c", "image": "i", "resources": {
            "requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
            "limits": {"cpu": "2", "memory": "2Gi"}}}]))
    }

    /// Changes the known pod by a JSON patch, as a client does, and compares what is said of it.
    fn check(patch: Value, expected: &[&str]) {
        let old = known();
        let mut new = old.clone();
        let operations: json_patch::Patch = serde_json::from_value(patch.clone()).expect("a patch");
        json_patch::patch(&mut new, &operations).expect("it fits");
        carry_resources(&old, &mut new);
        defaults::pod(&mut new);
        let mut causes = Causes::default();
        resize(&new, &old, &mut causes);
        assert_eq!(sentences(causes), expected, "{patch}");
    }

    fn sentences(causes: Causes) -> Vec<String> {
        let causes = causes.into_vec();
        causes.iter().map(|cause| cause.sentence()).collect()
    }

    fn set(path: &str, value: Value) -> Value {
        json!([{"op": "add", "path": format!("/spec/{path}"), "value": value}])
    }

    fn gone(path: &str) -> Value {
        json!([{"op": "remove", "path": format!("/spec/{path}")}])
    }

    #[test]
    fn cpu_and_memory_of_containers_and_sidecars_may_change() {
        check(set("containers/0/resources/requests/cpu", json!("2")), &[]);
        check(
            set("containers/0/resources/limits/memory", json!("1536Mi")),
            &[],
        );
        check(
            set("initContainers/1/resources/requests/cpu", json!("500m")),
            &[],
        );
        check(
            set("initContainers/1/resources/requests/memory", json!("1Gi")),
            &[],
        );
        check(
            set("initContainers/1/resources/limits", json!({"cpu": "2"})),
            &[],
        );
    }

    #[test]
    fn other_changes_do_not_count() {
        check(set("containers/0/image", json!("other")), &[]);
        check(set("activeDeadlineSeconds", json!(1)), &[]);
        check(set("containers/-", json!({"name": "d", "image": "i"})), &[]);
    }

    #[test]
    fn other_resources_and_the_policy_are_fixed() {
        let fixed = "spec: Forbidden: only cpu and memory resources are mutable";
        check(
            set(
                "containers/0/resources/requests/ephemeral-storage",
                json!("2Gi"),
            ),
            &[fixed],
        );
        let policy = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
        check(set("containers/0/resizePolicy", policy), &[fixed]);
        check(
            set(
                "initContainers/1/resources/requests/ephemeral-storage",
                json!("2Gi"),
            ),
            &["spec: Forbidden: only cpu and memory resources for sidecar containers are mutable"],
        );
        check(
            set(
                "initContainers/0/resources",
                json!({"requests": {"cpu": "1"}}),
            ),
            &["spec: Forbidden: resources for non-sidecar init containers are immutable"],
        );
    }

    #[test]
    fn what_is_set_is_not_removed() {
        check(
            gone("containers/0/resources/limits/cpu"),
            &["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"],
        );
        check(
            gone("initContainers/1/resources/requests"),
            &[
                "spec.initContainers[1].resources.requests: Forbidden: resource requests cannot be \
                 removed",
            ],
        );
    }

    #[test]
    fn what_a_pod_asks_for_as_a_whole_changes_while_it_has_no_node() {
        let said = |node: &str, patch: Value| {
            let mut old = known();
            old["spec"]["resources"] = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
            old["spec"]["nodeName"] = json!(node);
            let mut new = old.clone();
            let operations: json_patch::Patch = serde_json::from_value(patch).expect("a patch");
            json_patch::patch(&mut new, &operations).expect("it fits");
            carry_resources(&old, &mut new);
            let mut causes = Causes::default();
            resize(&new, &old, &mut causes);
            (
                new["spec"]["resources"]["requests"]["cpu"].clone(),
                sentences(causes),
            )
        };
        let more = || set("resources/requests/cpu", json!("2"));
        assert_eq!(said("", more()), (json!("2"), vec![]));
        assert_eq!(
            said("n", more()).1,
            ["spec.resources: Forbidden: pod update requires features \
                 InPlacePodLevelResourcesVerticalScaling which are not available on node \"n\""]
        );
        let removed = "spec.resources.requests: Forbidden: resource requests cannot be removed";
        assert_eq!(said("", gone("resources/requests/cpu")).1, [removed]);
        // Its containers change all the same.
        let cpu = set("containers/0/resources/requests/memory", json!("1536Mi"));
        assert_eq!(said("n", cpu).1, [""; 0]);
    }

    #[test]
    fn the_class_is_the_pods_for_life() {
        let mut old = pod(json!([{"name": "c", "image": "i"}]));
        old["spec"]
            .as_object_mut()
            .expect("a spec")
            .remove("initContainers");
        old["status"]["qosClass"] = json!("BestEffort");
        let mut new = old.clone();
        new["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
        carry_resources(&old, &mut new);
        let mut causes = Causes::default();
        resize(&new, &old, &mut causes);
        assert_eq!(
            sentences(causes),
            [
                "spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of \
                 resizing"
            ]
        );
    }

    #[test]
    fn a_node_that_does_not_tell_what_its_containers_have_cannot_resize() {
        let check = |status: Value, expected: bool| {
            assert_eq!(
                is_supported(&json!({"containerStatuses": [status]})),
                expected,
                "{status}"
            );
        };
        let running = json!({"running": {}});
        check(json!({"state": {"waiting": {}}}), true);
        check(json!({"state": running, "resources": {}}), true);
        check(json!({"state": running}), false);
        assert!(is_supported(&Value::Null));
    }

    #[test]
    fn pods_that_are_not_the_apis_are_not_resized() {
        let said = |change: Value| {
            let mut old = known();
            json_patch::merge(&mut old, &change);
            let mut causes = Causes::default();
            resize(&known(), &old, &mut causes);
            sentences(causes)
        };
        let mirror = json!({"metadata": {"annotations": {change::MIRROR: "x"}}});
        assert_eq!(said(mirror), [": Forbidden: static pods cannot be resized"]);
        let windows = json!({"spec": {"os": {"name": "windows"}}});
        assert_eq!(
            said(windows),
            [": Forbidden: windows pods cannot be resized"]
        );
    }
}
