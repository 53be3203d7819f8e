//! What a pod's status may say.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    super::{Field, NameRule, elements, walk},
    metadata,
};
use crate::invalid::Causes;

/// Checks a change of a pod's status.
pub(crate) fn status(object: &Value, old: &Value, causes: &mut Causes) {
    walk(object, causes, |root| {
        metadata(root);
        let status = &root.child("status");
        for condition in status.child("conditions").items() {
            let kind = condition.child("type");
            // The stock server names the place this way.
            let at = root.child("metadata.conditions");
            for fault in super::super::qualified_faults(kind.text()) {
                at.child("Type").invalid_as(kind.value, &fault);
            }
        }
        let nominated = status.child("nominatedNodeName");
        if *nominated.value != old["status"]["nominatedNodeName"] {
            nominated.name_if_any(NameRule::Subdomain);
        }
        status
            .child("qosClass")
            .unchanged(&old["status"]["qosClass"]);
        let policy = old["spec"]["restartPolicy"].as_str().unwrap_or_default();
        for (list, policy) in [
            ("containerStatuses", policy),
            ("initContainerStatuses", policy),
            ("ephemeralContainerStatuses", "Never"),
        ] {
            transitions(&status.child(list), old, list, policy);
        }
        addresses(status);
    });
}

/// A container that has ended for good does not come back, unless a rule may start all of them again.
fn transitions(new: &Field<'_, '_>, old: &Value, list: &str, policy: &str) {
    let takes_part = list != "ephemeralContainerStatuses";
    if policy == "Always" || (takes_part && all_could_restart(&old["spec"])) {
        return;
    }
    for (index, known) in elements(&old["status"][list]).enumerate() {
        let Some(code) = known
            .pointer("/state/terminated/exitCode")
            .and_then(Value::as_i64)
        else {
            continue;
        };
        let restarts = restarts_always(&old["spec"], &known["name"]);
        if restarts || (code != 0 && policy == "OnFailure") {
            continue;
        }
        let found = new
            .items()
            .find(|status| *status.child("name").value == known["name"]);
        if found.is_some_and(|status| !status.child("state.terminated").is_set()) {
            let at = new.index(index);
            at.child("state")
                .forbidden("may not be transitioned to non-terminated state");
        }
    }
}

/// Says whether some rule starts all containers of the pod again, whatever their own policies.
fn all_could_restart(spec: &Value) -> bool {
    let lists = ["initContainers", "containers"];
    let containers = lists.iter().flat_map(|list| elements(&spec[*list]));
    let mut rules = containers.flat_map(|container| elements(&container["restartPolicyRules"]));
    rules.any(|rule| rule["action"] == "RestartAllContainers")
}

/// Says whether a container has its own rule to be started again.
fn restarts_always(spec: &Value, name: &Value) -> bool {
    let lists = ["initContainers", "containers"];
    lists
        .iter()
        .flat_map(|list| elements(&spec[*list]))
        .any(|container| {
            let own = container["restartPolicy"].as_str();
            container["name"] == *name && own.is_some_and(|policy| policy != "Never")
        })
}

fn addresses(status: &Field<'_, '_>) {
    let hosts = status.child("hostIPs");
    if let Some(first) = hosts.items().next()
        && first.child("ip").value != status.child("hostIP").value
    {
        first.child("ip").invalid("must be equal to `hostIP`");
    }
    for list in [&status.child("podIPs"), &hosts] {
        let mut seen = HashSet::new();
        let mut families = HashSet::new();
        for entry in list.items() {
            let ip = entry.child("ip");
            match entry.with(ip.value).address() {
                Some(address) => drop(families.insert(address.is_ipv4())),
                None => continue,
            }
            if !seen.insert(ip.text()) {
                entry.duplicate();
            }
        }
        let count = list.items().count();
        if count > 1 && families.len() != count {
            list.invalid("may specify no more than one IP for each IP family");
        }
    }
}
