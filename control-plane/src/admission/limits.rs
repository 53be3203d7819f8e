//! Ranges of limits: what containers get if they say nothing, and what they may say.

use serde_json::{Value, json};

use super::{
    Request, known,
    resources::{self, Amounts, List},
};
use crate::{
    object,
    quantity::Quantity,
    status::ApiError,
    validate::{elements, entries},
};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The type of ranges for claims.
const CLAIM: &str = "PersistentVolumeClaim";

/// The amounts of a container, a pod or a claim.
struct Needs {
    requests: Amounts,
    limits: Amounts,
}

/// Gives containers the defaults of the namespace's ranges.
pub(super) fn defaults(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if !request.is_for("Pod") || !request.creates() {
        return Ok(());
    }
    for range in ranges(request) {
        apply(&range, pod);
    }
    Ok(())
}

/// Refuses a pod or a claim that is outside of the namespace's ranges.
pub(super) fn check(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    let is_new = request.is_for("Pod") && request.creates();
    let faults = match request.is_for("PersistentVolumeClaim") {
        true if asks(request.old, object) => claim_faults,
        false if is_new || request.resizes() => faults,
        true | false => return Ok(()),
    };
    for range in ranges(request) {
        let faults = faults(&range, &object["spec"]);
        let why = match faults.as_slice() {
            [] => continue,
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        return Err(request.forbidden(object, &why));
    }
    Ok(())
}

/// Says whether a claim asks for something that it did not ask for before; one that was let in stays
/// what it is when the range is narrowed.
fn asks(old: Option<&Value>, claim: &Value) -> bool {
    let requests = |claim: &Value| resources::amounts(&claim["spec"]["resources"]["requests"]);
    old.is_none_or(|old| requests(old) != requests(claim))
}

fn ranges(request: &Request<'_>) -> Vec<Value> {
    let records = request.records(known("v1", "LimitRange"));
    records.iter().map(|record| object::parse(record)).collect()
}

fn apply(range: &Value, pod: &mut Value) {
    let mut said = Vec::new();
    for (list, what) in [
        ("containers", "container"),
        ("initContainers", "init container"),
    ] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (from, to) in [("defaultRequest", "requests"), ("default", "limits")] {
                let set = fill(range, container, from, to);
                if !set.is_empty() {
                    let word = to.trim_end_matches('s');
                    said.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !said.is_empty() {
        let text = format!("LimitRanger plugin set: {}", said.join("; "));
        if !pod["metadata"]["annotations"].is_object() {
            pod["metadata"]["annotations"] = json!({});
        }
        pod["metadata"]["annotations"][ANNOTATION] = json!(text);
    }
}

/// Fills one of a container's lists and returns the names that were missing, in order.
fn fill(range: &Value, container: &mut Value, from: &str, to: &str) -> Vec<String> {
    let mut set = Vec::new();
    let limits = elements(&range["spec"]["limits"]);
    for limit in limits.filter(|limit| limit["type"] == "Container") {
        for (name, amount) in entries(&limit[from]) {
            if container["resources"][to].get(name).is_none() {
                container["resources"][to][name] = amount.clone();
                set.push(name.clone());
            }
        }
    }
    set.sort();
    set
}

fn faults(range: &Value, spec: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for limit in elements(&range["spec"]["limits"]) {
        match limit["type"].as_str() {
            Some("Container") => {
                let lists = ["containers", "initContainers"];
                for container in lists.iter().flat_map(|list| elements(&spec[*list])) {
                    let needs = Needs {
                        requests: resources::amounts(&container["resources"]["requests"]),
                        limits: resources::amounts(&container["resources"]["limits"]),
                    };
                    needs.compare(limit, "Container", &mut faults);
                }
            }
            Some("Pod") => {
                let needs = Needs {
                    requests: resources::of_containers(spec, List::Requests),
                    limits: resources::of_containers(spec, List::Limits),
                };
                needs.compare(limit, "Pod", &mut faults);
            }
            _ => (),
        }
    }
    faults
}

/// Of a claim only the requests count.
fn claim_faults(range: &Value, spec: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let needs = Needs {
        requests: resources::amounts(&spec["resources"]["requests"]),
        limits: Amounts::new(),
    };
    let limits = elements(&range["spec"]["limits"]);
    for limit in limits.filter(|limit| limit["type"] == CLAIM) {
        for (name, least) in resources::amounts(&limit["min"]) {
            let why = needs.below(&name, least);
            faults
                .extend(why.map(|why| format!("minimum {name} usage per {CLAIM} is {least}{why}")));
        }
        for (name, most) in resources::amounts(&limit["max"]) {
            let why = match needs.requests.get(&name) {
                None => ".  No request is specified".to_owned(),
                Some(request) if request.exceeds(most) => format!(", but request is {request}"),
                Some(_) => continue,
            };
            faults.push(format!("maximum {name} usage per {CLAIM} is {most}{why}"));
        }
    }
    faults
}

impl Needs {
    fn compare(&self, limit: &Value, kind: &str, faults: &mut Vec<String>) {
        let bounds = |list: &str| resources::amounts(&limit[list]);
        for (name, least) in bounds("min") {
            faults.extend(
                self.below(&name, least)
                    .map(|why| format!("minimum {name} usage per {kind} is {least}{why}")),
            );
        }
        for (name, most) in bounds("max") {
            faults.extend(
                self.above(&name, most)
                    .map(|why| format!("maximum {name} usage per {kind} is {most}{why}")),
            );
        }
        for (name, ratio) in bounds("maxLimitRequestRatio") {
            faults.extend(self.apart(&name, ratio).map(|why| {
                format!("{name} max limit to request ratio per {kind} is {ratio}, but {why}")
            }));
        }
    }

    fn below(&self, name: &str, least: Quantity) -> Option<String> {
        let Some(request) = self.requests.get(name) else {
            return Some(".  No request is specified".to_owned());
        };
        if least.exceeds(*request) {
            return Some(format!(", but request is {request}"));
        }
        let limit = self
            .limits
            .get(name)
            .filter(|limit| least.exceeds(**limit))?;
        Some(format!(", but limit is {limit}"))
    }

    fn above(&self, name: &str, most: Quantity) -> Option<String> {
        let Some(limit) = self.limits.get(name) else {
            return Some(".  No limit is specified".to_owned());
        };
        if limit.exceeds(most) {
            return Some(format!(", but limit is {limit}"));
        }
        let request = self
            .requests
            .get(name)
            .filter(|request| request.exceeds(most))?;
        Some(format!(", but request is {request}"))
    }

    fn apart(&self, name: &str, ratio: Quantity) -> Option<String> {
        let milli = |amounts: &Amounts| amounts.get(name).map_or(0, |amount| amount.milli());
        let (request, limit) = (milli(&self.requests), milli(&self.limits));
        if request == 0 {
            return Some("no request is specified or request is 0".to_owned());
        }
        if limit == 0 {
            return Some("no limit is specified or limit is 0".to_owned());
        }
        let found = limit as f64 / request as f64;
        let most = ratio.milli() as f64 / 1000.0;
        (found > most).then(|| format!("provided ratio is {found:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    fn check(limit: Value, resources: Value, expected: &[&str]) {
        let spec = json!({"containers": [{"name": "c", "resources": resources}]});
        assert_eq!(
            faults(&range(limit.clone()), &spec),
            expected,
            "{limit} {spec}"
        );
    }

    #[test]
    // tidy: table, because each line is a range and what is said about a container outside of it
    fn what_is_outside_of_a_range_is_told() {
        let max = json!({"type": "Container", "max": {"cpu": "1"}});
        check(
            max.clone(),
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
            &[],
        );
        check(
            max.clone(),
            json!({"limits": {"cpu": "2"}}),
            &["maximum cpu usage per Container is 1, but limit is 2"],
        );
        check(
            max.clone(),
            json!({}),
            &["maximum cpu usage per Container is 1.  No limit is specified"],
        );
        check(
            max,
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            &["maximum cpu usage per Container is 1, but request is 2"],
        );
        let min = json!({"type": "Container", "min": {"memory": "100Mi"}});
        check(
            min.clone(),
            json!({"requests": {"memory": "50Mi"}}),
            &["minimum memory usage per Container is 100Mi, but request is 50Mi"],
        );
        check(
            min.clone(),
            json!({"requests": {"memory": "100Mi"}, "limits": {"memory": "10Mi"}}),
            &["minimum memory usage per Container is 100Mi, but limit is 10Mi"],
        );
        check(
            min,
            json!({}),
            &["minimum memory usage per Container is 100Mi.  No request is specified"],
        );
        let ratio = json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}});
        check(
            ratio.clone(),
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
            &[],
        );
        check(
            ratio.clone(),
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
            &["cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"],
        );
        check(
            ratio.clone(),
            json!({"limits": {"cpu": "3"}}),
            &[
                "cpu max limit to request ratio per Container is 2, but no request is specified or \
               request is 0",
            ],
        );
        check(
            ratio,
            json!({"requests": {"cpu": "3"}}),
            &[
                "cpu max limit to request ratio per Container is 2, but no limit is specified or \
               limit is 0",
            ],
        );
    }

    #[test]
    fn a_claim_is_measured_by_what_it_asks_for() {
        let range = range(json!({"type": "PersistentVolumeClaim",
            "min": {"storage": "100Mi"}, "max": {"storage": "1Gi"}}));
        let check = |resources: Value, expected: &[&str]| {
            let spec = json!({"resources": resources});
            assert_eq!(claim_faults(&range, &spec), expected, "{resources}");
        };
        let sized = |size: &str| json!({"requests": {"storage": size}});
        check(sized("100Mi"), &[]);
        check(sized("1Gi"), &[]);
        check(
            sized("5Gi"),
            &["maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 5Gi"],
        );
        check(
            sized("1Mi"),
            &["minimum storage usage per PersistentVolumeClaim is 100Mi, but request is 1Mi"],
        );
        check(
            json!({}),
            &[
                "minimum storage usage per PersistentVolumeClaim is 100Mi.  No request is specified",
                "maximum storage usage per PersistentVolumeClaim is 1Gi.  No request is specified",
            ],
        );
    }

    /// Else the controller could not even bind a claim from before the range.
    #[test]
    fn a_claim_is_measured_when_it_asks_anew() {
        let claim = |size: &str, volume: &str| json!({"spec": {"volumeName": volume, "resources": {"requests": {"storage": size}}}});
        assert!(asks(None, &claim("5Gi", "")));
        assert!(asks(Some(&claim("1Gi", "v")), &claim("5Gi", "v")));
        assert!(!asks(Some(&claim("5Gi", "")), &claim("5Gi", "v")));
    }

    #[test]
    fn a_pod_is_the_sum_of_its_containers() {
        let one = json!({"resources": {"limits": {"cpu": "1"}}});
        let limit = json!({"type": "Pod", "max": {"cpu": "1500m"}});
        assert_eq!(
            faults(&range(limit), &json!({"containers": [one, one]})),
            ["maximum cpu usage per Pod is 1500m, but limit is 2"]
        );
    }

    #[test]
    fn defaults_are_filled_in_and_told() {
        let range = range(
            json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"},
            "defaultRequest": {"cpu": "500m"}}),
        );
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "a", "resources": {"limits": {"memory": "2Gi"}}}, {"name": "b"}]}});
        apply(&range, &mut pod);
        let resources = |index: usize| &pod["spec"]["containers"][index]["resources"];
        assert_eq!(
            *resources(0),
            json!({"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "500m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu limit for container a; cpu \
             request for container b; cpu, memory limit for container b"
        );
        let once = pod.clone();
        apply(&range, &mut pod);
        assert_eq!(pod, once);
    }
}
