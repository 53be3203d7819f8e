//! What priority and runtime classes mean for a pod.

use serde_json::{Value, json};

use super::{Request, known};
use crate::{
    object,
    status::ApiError,
    validate::{elements, entries},
};

const PREEMPTION: &str = "PreemptLowerPriority";

/// Turns the name of a pod's priority class into a number.
pub(super) fn priority(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if !request.is_for("Pod") {
        return Ok(());
    }
    if let Some(old) = request.old {
        for field in ["priority", "preemptionPolicy"] {
            if pod["spec"].get(field).is_none() && old["spec"].get(field).is_some() {
                pod["spec"][field] = old["spec"][field].clone();
            }
        }
        return Ok(());
    }
    let name = pod["spec"]["priorityClassName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let class = match name.as_str() {
        "" => default_class(request),
        name => {
            let Some(class) = request.object(known("scheduling.k8s.io/v1", "PriorityClass"), name)
            else {
                let why = format!("no PriorityClass with name {name} was found");
                return Err(request.forbidden(pod, &why));
            };
            Some(class)
        }
    };
    let class = class.unwrap_or_default();
    if let Some(name) = class["metadata"]["name"].as_str() {
        pod["spec"]["priorityClassName"] = json!(name);
    }
    let value = class["value"].as_i64().unwrap_or(0);
    let policy = class["preemptionPolicy"].as_str().unwrap_or(PREEMPTION);
    compare(request, pod, &json!(value), policy)?;
    pod["spec"]["priority"] = json!(value);
    pod["spec"]["preemptionPolicy"] = json!(policy);
    Ok(())
}

/// A pod may give the numbers itself only if they are those of its class.
fn compare(
    request: &Request<'_>,
    pod: &Value,
    value: &Value,
    policy: &str,
) -> Result<(), ApiError> {
    let (own, own_policy) = (&pod["spec"]["priority"], &pod["spec"]["preemptionPolicy"]);
    let computed = |what: String, by: &str| {
        let why = format!(
            "{what} must not be provided in pod spec; priority admission controller computed {by} \
             from the given PriorityClass name"
        );
        Err(request.forbidden(pod, &why))
    };
    if !own.is_null() && own != value {
        return computed(
            format!("the integer value of priority ({own})"),
            &value.to_string(),
        );
    }
    match own_policy.as_str() {
        Some(own) if own != policy => computed(
            format!("the string value of PreemptionPolicy ({own})"),
            policy,
        ),
        _ => Ok(()),
    }
}

/// Returns the class of pods that name none: of several, the one with the lowest value.
fn default_class(request: &Request<'_>) -> Option<Value> {
    let records = request.records(known("scheduling.k8s.io/v1", "PriorityClass"));
    // There are two in every cluster that are none, and each new pod asks.
    let may_be = records
        .iter()
        .filter(|record| object::mentions(record, r#""globalDefault":true"#));
    let classes = may_be.map(|record| object::parse(record));
    let defaults = classes.filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64().unwrap_or(0))
}

/// Refuses a second default among the priority classes.
pub(super) fn only_default(request: &Request<'_>, class: &Value) -> Result<(), ApiError> {
    let info = known("scheduling.k8s.io/v1", "PriorityClass");
    if !std::ptr::eq(request.info(), info) || class["globalDefault"] != true {
        return Ok(());
    }
    let own = &class["metadata"]["name"];
    match default_class(request) {
        Some(other) if other["metadata"]["name"] != *own => {
            let name = other["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!(
                "PriorityClass {name} is already marked as default. Only one default can exist"
            );
            Err(request.forbidden(class, &why))
        }
        _ => Ok(()),
    }
}

/// Gives a pod what its runtime class costs and where it can run.
pub(super) fn runtime(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if !request.is_for("Pod") || !request.creates() {
        return Ok(());
    }
    let refuse = |pod: &Value, why: &str| Err(request.forbidden(pod, why));
    let own = pod["spec"]["overhead"]
        .as_object()
        .filter(|own| !own.is_empty())
        .cloned();
    let Some(name) = pod["spec"]["runtimeClassName"].as_str().map(str::to_owned) else {
        return match own {
            None => Ok(()),
            Some(_) => refuse(
                pod,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined \
                 Overhead",
            ),
        };
    };
    let Some(class) = request.object(known("node.k8s.io/v1", "RuntimeClass"), &name) else {
        let why = format!("pod rejected: RuntimeClass \"{name}\" not found");
        return refuse(pod, &why);
    };
    let fixed = class["overhead"]["podFixed"].as_object();
    match (own, fixed) {
        (Some(own), fixed) if Some(&own) != fixed => {
            return refuse(
                pod,
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            );
        }
        (None, Some(fixed)) => pod["spec"]["overhead"] = json!(fixed),
        _ => (),
    }
    if let Err(why) = place(&class["scheduling"], &mut pod["spec"]) {
        return refuse(pod, &why);
    }
    Ok(())
}

fn place(scheduling: &Value, spec: &mut Value) -> Result<(), String> {
    for (key, value) in entries(&scheduling["nodeSelector"]) {
        match spec["nodeSelector"].get(key) {
            Some(own) if own != value => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let (value, own) = (text(value), text(own));
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                     pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
            Some(_) => (),
            None => spec["nodeSelector"][key] = value.clone(),
        }
    }
    let mut all: Vec<_> = elements(&spec["tolerations"]).cloned().collect();
    let added = elements(&scheduling["tolerations"]).filter(|new| !all.contains(new));
    let added: Vec<_> = added.cloned().collect();
    if !added.is_empty() {
        all.extend(added);
        spec["tolerations"] = Value::Array(all);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_class_narrows_where_a_pod_can_run() {
        let class = json!({"nodeSelector": {"a": "1"}, "tolerations": [{"key": "wasm"}]});
        let check = |spec: Value, expected: Result<Value, &str>| {
            let mut placed = spec;
            let found = place(&class, &mut placed).map(|()| placed);
            assert_eq!(found, expected.map_err(str::to_owned));
        };
        let placed = json!({"nodeSelector": {"a": "1"}, "tolerations": [{"key": "wasm"}]});
        check(json!({}), Ok(placed.clone()));
        check(placed.clone(), Ok(placed));
        check(
            json!({"nodeSelector": {"a": "2"}}),
            Err("conflict: runtimeClass.scheduling.nodeSelector[a] = 1; \
                 pod.spec.nodeSelector[a] = 2"),
        );
    }
}
