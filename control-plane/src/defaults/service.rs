//! What a service begins with, and what it keeps.

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
    let has_node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if has_node_ports(&was) && has_node_ports(&is) {
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
            _ => new["clusterIPs"][0] = new["clusterIP"].clone(),
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

/// A port that a client names without its node port keeps the one it has.
fn keep_node_ports(old: &Value, new: &mut Value) {
    let given = |port: &Value| port["nodePort"].as_i64().filter(|number| *number != 0);
    let taken: Vec<_> = elements(&new["ports"]).filter_map(given).collect();
    let same = |a: &Value, b: &Value| {
        let protocol = |port: &Value| port["protocol"].as_str().unwrap_or("TCP").to_owned();
        a["port"] == b["port"] && protocol(a) == protocol(b)
    };
    each(new, "ports", |port| {
        if given(port).is_some() {
            return;
        }
        let known = elements(&old["ports"]).find(|known| same(known, port));
        if let Some(number) = known
            .and_then(given)
            .filter(|number| !taken.contains(number))
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
    let needs_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if needs_ports(was) && !needs_ports(is) {
        let same = |a: &Value, b: &Value| a["nodePort"] == b["nodePort"];
        let before: Vec<_> = elements(&old["ports"]).collect();
        let unchanged =
            elements(&new["ports"]).all(|port| before.iter().any(|known| same(known, port)));
        if unchanged {
            each(new, "ports", |port| remove(port, "nodePort"));
        }
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
    drop_same(
        old,
        new,
        "externalName",
        was == "ExternalName" && !external_name,
    );
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
    }

    #[test]
    fn node_ports_stay_as_long_as_there_is_a_use_for_them() {
        let old = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}]});
        check_kept(
            old.clone(),
            json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}),
            json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}, {"port": 2}]}),
        );
        check_kept(
            old,
            json!({"type": "ClusterIP", "ports": [{"port": 1, "nodePort": 30001}]}),
            json!({"type": "ClusterIP", "ports": [{"port": 1}]}),
        );
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
