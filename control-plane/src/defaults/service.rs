//! What a service begins with, and what it keeps.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{default, each, object_at, remove, replace_empty};
use crate::validate::{
    elements,
    service::{is_external, needs_health_check},
};

/// How long a client stays with its endpoint: three hours.
const AFFINITY_SECONDS: i64 = 10_800;

/// Fills in a service's defaults; does nothing to one that has them.
pub(crate) fn service(object: &mut Value) {
    let spec = object_at(object, "spec");
    replace_empty(spec, "sessionAffinity", json!("None"));
    replace_empty(spec, "type", json!("ClusterIP"));
    affinity(spec);
    each(spec, "ports", |port| {
        replace_empty(port, "protocol", json!("TCP"));
        if matches!(port.get("targetPort"), None | Some(Value::Null))
            || port["targetPort"] == 0
            || port["targetPort"] == ""
        {
            port["targetPort"] = port["port"].clone();
        }
    });
    if is_external(spec) {
        replace_empty(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if spec["type"] != "ExternalName" {
        default(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if spec["type"] == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", json!(true));
        if let Some(points) = object.pointer_mut("/status/loadBalancer") {
            each(points, "ingress", |point| {
                if point["ip"].as_str().is_some_and(|ip| !ip.is_empty()) {
                    default(point, "ipMode", json!("VIP"));
                }
            });
        }
    }
    same_addresses(object_at(object, "spec"));
    default(object, "status", json!({"loadBalancer": {}}));
}

fn affinity(spec: &mut Value) {
    if spec["sessionAffinity"] == "None" {
        remove(spec, "sessionAffinityConfig");
    }
    if spec["sessionAffinity"] == "ClientIP"
        && spec
            .pointer("/sessionAffinityConfig/clientIP/timeoutSeconds")
            .is_none()
    {
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
    }
}

/// Drops addresses that are none. The list is made from the one address only when addresses are given
/// out: it is nobody's then.
fn same_addresses(spec: &mut Value) {
    let one = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    let first = spec["clusterIPs"][0]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if one.is_empty() && first.is_empty() {
        remove(spec, "clusterIP");
        remove(spec, "clusterIPs");
    }
}

/// Keeps in a change what is allocated and left out, and drops what the new type has no use for.
pub(crate) fn keep_service(old: &Value, new: &mut Value) {
    forget_balancer(old, new);
    let (old, new) = (&old["spec"], object_at(new, "spec"));
    replace_empty(new, "type", json!("ClusterIP"));
    follow_one_address(old, new);
    let (was, is) = (kind(old), kind(new));
    if was != "ExternalName" && is != "ExternalName" {
        keep_addresses(old, new);
    }
    if is_given_node_ports(old) && is_given_node_ports(new) {
        keep_node_ports(old, new);
    }
    if needs_health_check(old) && needs_health_check(new) {
        keep(old, new, "healthCheckNodePort");
    }
    if was == "LoadBalancer" && is == "LoadBalancer" {
        keep(old, new, "allocateLoadBalancerNodePorts");
        keep(old, new, "loadBalancerClass");
    }
    drop_unused(old, new, [&was, &is]);
}

/// Who is no load balancer any more has none, also before anyone has taken it down.
fn forget_balancer(old: &Value, new: &mut Value) {
    let (was, is) = (
        &old["status"]["loadBalancer"],
        &new["status"]["loadBalancer"],
    );
    let told = is.as_object().is_some_and(|status| !status.is_empty());
    if new["spec"]["type"] != "LoadBalancer" && told && was == is {
        new["status"]["loadBalancer"] = json!({});
    }
}

fn kind(spec: &Value) -> String {
    spec["type"].as_str().unwrap_or_default().to_owned()
}

/// An update that gives a new `clusterIP` and the old list means the new one.
fn follow_one_address(old: &Value, new: &mut Value) {
    if new["clusterIPs"] == old["clusterIPs"] && new["clusterIP"] != old["clusterIP"] {
        match new["clusterIP"].as_str().unwrap_or_default() {
            "" => remove(new, "clusterIPs"),
            _ => new["clusterIPs"] = json!([new["clusterIP"]]),
        }
    }
}

fn keep_addresses(old: &Value, new: &mut Value) {
    let empty = |value: &Value| value.is_null() || value == "" || *value == json!([]);
    if empty(&new["clusterIP"]) && empty(&new["clusterIPs"]) {
        for field in ["clusterIP", "clusterIPs"] {
            if !empty(&old[field]) {
                new[field] = old[field].clone();
            }
        }
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if empty(&new[field]) && !empty(&old[field]) {
            new[field] = old[field].clone();
        }
    }
}

/// Says whether a service is given node ports that it does not ask for.
fn is_given_node_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn node_port(port: &Value) -> Option<i64> {
    port["nodePort"].as_i64().filter(|number| *number != 0)
}

fn node_ports(spec: &Value) -> BTreeSet<i64> {
    elements(&spec["ports"]).filter_map(node_port).collect()
}

/// A port that a client names without its node port keeps the one that the port of its name had.
fn keep_node_ports(old: &Value, new: &mut Value) {
    let used = &node_ports(old) & &node_ports(new);
    let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    each(new, "ports", |port| {
        if node_port(port).is_some() {
            return;
        }
        let mut known = elements(&old["ports"]);
        let known = known.find(|known| name(known) == name(port));
        if let Some(number) = known
            .and_then(node_port)
            .filter(|number| !used.contains(number))
        {
            port["nodePort"] = json!(number);
        }
    });
}

fn keep(old: &Value, new: &mut Value, field: &str) {
    let nothing = |value: &Value| value.is_null() || *value == 0;
    if nothing(&new[field]) && !nothing(&old[field]) {
        new[field] = old[field].clone();
    }
}

/// A change of the type alone takes what belongs to the old type with it.
fn drop_unused(old: &Value, new: &mut Value, [was, is]: [&str; 2]) {
    let has_node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if has_node_ports(was) && !has_node_ports(is) && node_ports(new).is_subset(&node_ports(old)) {
        each(new, "ports", |port| remove(port, "nodePort"));
    }
    let external_name = is == "ExternalName";
    for field in [
        "clusterIP",
        "clusterIPs",
        "ipFamilies",
        "ipFamilyPolicy",
        "internalTrafficPolicy",
    ] {
        drop_same(old, new, field, external_name && was != "ExternalName");
    }
    let unbalanced = was == "LoadBalancer" && is != "LoadBalancer";
    drop_same(old, new, "allocateLoadBalancerNodePorts", unbalanced);
    drop_same(old, new, "loadBalancerClass", unbalanced);
    let inside = is_external(old) && !is_external(new);
    drop_same(old, new, "externalTrafficPolicy", inside);
    let unchecked = needs_health_check(old) && !needs_health_check(new);
    drop_same(old, new, "healthCheckNodePort", unchecked);
}

/// Drops a field that has no use any more, unless the client has changed it.
fn drop_same(old: &Value, new: &mut Value, field: &str, unused: bool) {
    if unused && new[field] == old[field] {
        remove(new, field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_kept(old: Value, new: Value, expected: Value) {
        let mut kept = json!({"spec": new.clone()});
        keep_service(&json!({"spec": old}), &mut kept);
        assert_eq!(kept["spec"], expected, "{new}");
    }

    #[test]
    fn a_service_without_an_address_keeps_its_own() {
        let old = json!({"type": "ClusterIP", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": [{"port": 1}]});
        check_kept(old.clone(), json!({"ports": [{"port": 1}]}), old.clone());
        check_kept(
            old.clone(),
            json!({"type": "ExternalName", "externalName": "a", "clusterIP": "10.0.0.9",
                "clusterIPs": ["10.0.0.9"], "ports": [{"port": 1}]}),
            json!({"type": "ExternalName", "externalName": "a", "ports": [{"port": 1}]}),
        );
        check_kept(
            old,
            json!({"clusterIP": "10.0.0.8", "clusterIPs": ["10.0.0.9"], "ports": []}),
            json!({"type": "ClusterIP", "clusterIP": "10.0.0.8", "clusterIPs": ["10.0.0.8"],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": []}),
        );
        // One that had none may ask for one when it gets a use for it; the name outside stays.
        check_kept(
            json!({"type": "ExternalName", "externalName": "a"}),
            json!({"type": "ClusterIP", "externalName": "a", "clusterIP": "10.0.0.8"}),
            json!({"type": "ClusterIP", "externalName": "a", "clusterIP": "10.0.0.8",
                "clusterIPs": ["10.0.0.8"]}),
        );
    }

    #[test]
    fn node_ports_stay_as_long_as_there_is_a_use_for_them() {
        let old = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}]});
        // Ports are known by their names.
        check_kept(
            old.clone(),
            json!({"type": "NodePort", "ports": [{"port": 3}, {"port": 1, "name": "a"}]}),
            json!({"type": "NodePort",
                "ports": [{"port": 3, "nodePort": 30001}, {"port": 1, "name": "a"}]}),
        );
        let taken = json!({"type": "NodePort",
            "ports": [{"port": 1}, {"port": 2, "name": "a", "nodePort": 30001}]});
        check_kept(old.clone(), taken.clone(), taken);
        check_kept(
            old.clone(),
            json!({"type": "ClusterIP", "ports": [{"port": 1, "nodePort": 30001}, {"port": 2}]}),
            json!({"type": "ClusterIP", "ports": [{"port": 1}, {"port": 2}]}),
        );
        let asked = json!({"type": "ClusterIP", "ports": [{"port": 1, "nodePort": 30002}]});
        check_kept(old, asked.clone(), asked);
        // Who wants none gives back those that he does not name.
        let none = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{"port": 1}]});
        let mut had = none.clone();
        had["ports"][0]["nodePort"] = json!(30001);
        check_kept(had, none.clone(), none);
    }

    #[test]
    fn the_status_of_a_balancer_goes_with_the_type() {
        let old = json!({"spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}});
        for (kind, kept) in [
            ("LoadBalancer", true),
            ("ClusterIP", false),
            ("NodePort", false),
        ] {
            let mut new = old.clone();
            new["spec"]["type"] = json!(kind);
            keep_service(&old, &mut new);
            assert_eq!(new["status"] == old["status"], kept, "{kind}");
        }
    }

    #[test]
    fn defaults_follow_the_type() {
        let check = |spec: Value, expected: Value| {
            let mut object = json!({"spec": spec});
            service(&mut object);
            assert_eq!(object["spec"], expected);
            let once = object.clone();
            service(&mut object);
            assert_eq!(object, once);
        };
        check(
            json!({"ports": [{"port": 80}]}),
            json!({"type": "ClusterIP", "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]}),
        );
        check(
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": []}),
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
                "allocateLoadBalancerNodePorts": true, "ports": []}),
        );
        check(
            json!({"type": "ExternalName", "externalName": "a.b"}),
            json!({"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}),
        );
    }
}
