//! What a pod requests and may use as a whole.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    quantity::Quantity,
    validate::{elements, entries},
};

/// Amounts by the names of resources.
pub(super) type Amounts = BTreeMap<String, Quantity>;

/// Which of the two lists of a container is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Requests,
    Limits,
}

impl List {
    fn name(self) -> &'static str {
        match self {
            List::Requests => "requests",
            List::Limits => "limits",
        }
    }
}

/// Reads a map of amounts; what is none is left out, as it cannot be stored.
pub(super) fn amounts(map: &Value) -> Amounts {
    let read = |(name, amount): (&String, &Value)| {
        Some((name.clone(), Quantity::parse(amount.as_str()?)?))
    };
    entries(map).filter_map(read).collect()
}

/// Returns what the pod's containers need when they run: those that run at the same time add up,
/// init containers come one after the other.
pub(super) fn of_containers(spec: &Value, list: List) -> Amounts {
    let own = |container: &Value| amounts(&container["resources"][list.name()]);
    let mut total = Amounts::new();
    for container in elements(&spec["containers"]) {
        add(&mut total, own(container));
    }
    let (mut beside, mut first) = (Amounts::new(), Amounts::new());
    for container in elements(&spec["initContainers"]) {
        let mut now = beside.clone();
        add(&mut now, own(container));
        if container["restartPolicy"] == "Always" {
            add(&mut beside, own(container));
        }
        most(&mut first, now);
    }
    add(&mut total, beside);
    most(&mut total, first);
    for (name, amount) in amounts(&spec["resources"][list.name()]) {
        total.insert(name, amount);
    }
    total
}

/// Returns what a pod needs: its containers and its sandbox.
pub(super) fn of_pod(spec: &Value, list: List) -> Amounts {
    let mut total = of_containers(spec, list);
    for (name, amount) in amounts(&spec["overhead"]) {
        match total.get_mut(&name) {
            Some(found) => *found = found.plus(amount),
            // A pod without a limit has none with its sandbox either.
            None if list == List::Limits => (),
            None => drop(total.insert(name, amount)),
        }
    }
    total
}

/// Adds amounts to others.
pub(super) fn add(total: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        let sum = total.get(&name).map_or(amount, |found| found.plus(amount));
        total.insert(name, sum);
    }
}

fn most(total: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        let found = total.get(&name).copied();
        if found.is_none_or(|found| amount.exceeds(found)) {
            total.insert(name, amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_needs_what_runs_at_the_same_time() {
        let check = |spec: Value, cpu: &str| {
            let found = of_pod(&spec, List::Requests);
            let found = found.get("cpu").map(Quantity::to_string);
            assert_eq!(found.as_deref(), Some(cpu), "{spec}");
        };
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar =
            |cpu: &str| json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        let pair = [container("1"), container("500m")];
        check(json!({"containers": pair}), "1500m");
        check(
            json!({"containers": pair, "initContainers": [container("2")]}),
            "2",
        );
        check(
            json!({"containers": pair, "initContainers": [sidecar("1")]}),
            "2500m",
        );
        check(
            json!({"containers": pair, "initContainers": [sidecar("1"), container("2")]}),
            "3",
        );
        check(
            json!({"containers": pair, "overhead": {"cpu": "100m"}}),
            "1600m",
        );
        check(
            json!({"containers": pair, "resources": {"requests": {"cpu": "5"}}}),
            "5",
        );
    }

    #[test]
    fn without_a_limit_there_is_none() {
        let spec = json!({"containers": [{}], "overhead": {"cpu": "1"}});
        assert!(of_pod(&spec, List::Limits).is_empty());
    }
}
