//! The checks of services; what is allocated for them is checked where it is allocated.

use std::{collections::HashSet, net::IpAddr};

use serde_json::{Value, json};

use super::{Field, NameRule, cidr, elements, walk};
use crate::invalid::Causes;

/// A day: the longest that a client stays with its endpoint.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

const POLICIES: &[&str] = &["Cluster", "Local"];

const NOT_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";

/// Checks a service; on update, that what is allocated for it stays.
pub(crate) fn service(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let spec = &root.child("spec");
        if let Some(old) = old {
            change(spec, &old["spec"]);
        }
        kind(spec);
        ports(spec);
        spec.child("selector").labels();
        affinity(spec);
        addresses(spec);
        for address in spec.child("externalIPs").items() {
            if let Some(found) = address.address() {
                address.public_address(found);
            }
        }
        spec.child("type").one_of(TYPES);
        port_numbers(spec);
        load_balancer(spec);
        traffic(spec);
    });
}

/// Checks a change of a service's status.
pub(crate) fn service_status(object: &Value, _old: &Value, causes: &mut Causes) {
    walk(object, causes, |root| {
        let ingress = root.child("status.loadBalancer.ingress");
        if root.child("spec.type").text() != "LoadBalancer" && !ingress.is_empty() {
            return ingress.forbidden("may only be used when `spec.type` is 'LoadBalancer'");
        }
        for point in ingress.items() {
            let (ip, mode, host) = (
                point.child("ip"),
                point.child("ipMode"),
                point.child("hostname"),
            );
            if !ip.is_empty() {
                ip.address();
            }
            match (ip.is_empty(), mode.is_set()) {
                (false, false) => mode.required("must be specified when `ip` is set"),
                (true, true) => mode.forbidden("may not be specified when `ip` is not set"),
                _ => mode.one_of_if_set(&["Proxy", "VIP"]),
            }
            host.name_if_any(NameRule::Subdomain);
            if host.text().parse::<IpAddr>().is_ok() {
                host.invalid("must be a DNS name, not an IP address");
            }
        }
    });
}

/// Says whether a service has no address of its own.
pub(crate) fn is_headless(spec: &Value) -> bool {
    spec["clusterIP"] == "None"
}

/// Says whether clients outside of the cluster reach a service.
pub(crate) fn is_external(spec: &Value) -> bool {
    let kind = spec["type"].as_str().unwrap_or_default();
    matches!(kind, "LoadBalancer" | "NodePort")
        || (kind == "ClusterIP" && elements(&spec["externalIPs"]).next().is_some())
}

/// Says whether load balancers ask a port of each node for the service's health.
pub(crate) fn needs_health_check(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

fn kind(spec: &Field<'_, '_>) {
    let (kind, headless) = (spec.child("type").text(), is_headless(spec.value));
    if spec.child("ports").is_empty() && !headless && kind != "ExternalName" {
        spec.child("ports").required("");
    }
    if matches!(kind, "LoadBalancer" | "NodePort") && headless {
        let detail = format!("may not be set to 'None' for {kind} services");
        spec.child("clusterIPs").index(0).invalid(&detail);
    }
    if kind != "ExternalName" {
        return;
    }
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !spec.child(field).is_empty() {
            spec.child(field)
                .forbidden("may not be set for ExternalName services");
        }
    }
    let name = spec.child("externalName");
    // A dot at the end says that the name is complete.
    let text = Value::from(name.text().strip_suffix('.').unwrap_or(name.text()));
    name.with(&text).name_required(NameRule::Subdomain);
}

fn ports(spec: &Field<'_, '_>) {
    let ports = spec.child("ports");
    let several = ports.items().count() > 1;
    let mut names = HashSet::new();
    for port in ports.items() {
        let name = port.child("name");
        if several && name.is_empty() {
            name.required("");
        } else if !name.is_empty() {
            name.name(NameRule::Label);
            if !names.insert(name.text()) {
                name.duplicate();
            }
        }
        port.child("port").port();
        port.child("protocol").one_of(&["SCTP", "TCP", "UDP"]);
        port.child("targetPort").port_or_name();
        if port.child("appProtocol").is_set() {
            port.child("appProtocol").qualified();
        }
    }
}

fn port_numbers(spec: &Field<'_, '_>) {
    let inside = spec.child("type").text() == "ClusterIP";
    let (mut node_ports, mut ports) = (HashSet::new(), HashSet::new());
    let list = spec.child("ports");
    for port in list.items() {
        let node_port = port.child("nodePort");
        let number = node_port.number().unwrap_or(0);
        if inside && number != 0 {
            node_port.forbidden("may not be used when `type` is 'ClusterIP'");
        }
        let protocol = port.child("protocol").text();
        if number != 0 && !node_ports.insert((protocol, number)) {
            node_port.duplicate();
        }
        let number = port.child("port").number();
        if !ports.insert((protocol, number)) {
            port.duplicate_as(&json!({"protocol": protocol, "port": number}));
        }
    }
}

fn affinity(spec: &Field<'_, '_>) {
    let (affinity, config) = (
        spec.child("sessionAffinity"),
        spec.child("sessionAffinityConfig"),
    );
    affinity.one_of(&["ClientIP", "None"]);
    match affinity.text() {
        "ClientIP" => {
            let seconds = config.child("clientIP.timeoutSeconds");
            match seconds.number() {
                None => seconds.required("when session affinity type is ClientIP"),
                Some(found) if !(1..=AFFINITY_SECONDS_MAX).contains(&found) => {
                    seconds.invalid("must be greater than 0 and less than 86400");
                }
                Some(_) => (),
            }
        }
        "None" if config.is_set() => {
            config.forbidden("must not be set when session affinity is None");
        }
        _ => (),
    }
}

/// Checks `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` against each other.
pub(crate) fn addresses(spec: &Field<'_, '_>) {
    if spec.child("type").text() == "ExternalName" {
        return;
    }
    let (one, all) = (spec.child("clusterIP"), spec.child("clusterIPs"));
    match (one.text(), all.index(0).text()) {
        ("", "") => (),
        ("", _) => all.invalid("must be empty when `clusterIP` is not specified"),
        (_, "") => all.required(""),
        (one, first) if one != first => all.invalid("first value must match `clusterIP`"),
        _ => (),
    }
    let families = spec.child("ipFamilies");
    let mut seen = HashSet::new();
    for family in families.items() {
        family.one_of(&["IPv4", "IPv6"]);
        if !seen.insert(family.text()) {
            family.duplicate();
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    spec.child("ipFamilyPolicy").one_of_if_set(&policies);
    let count = all.items().count();
    if is_headless(spec.value) {
        if count > 1 {
            all.invalid("'None' must be the first and only value");
        }
        return;
    }
    if count > 2 {
        all.invalid("may only hold up to 2 values");
    }
    let found: Vec<_> = all.items().map(|address| address.address()).collect();
    if let [Some(first), Some(second), ..] = found[..]
        && first.is_ipv4() == second.is_ipv4()
    {
        all.invalid("may specify no more than one IP for each IP family");
    }
    for (index, (family, address)) in families.items().zip(found).enumerate() {
        let expected = family.text();
        if address.is_some_and(|address| address.is_ipv4() != (expected == "IPv4")) {
            all.index(index).invalid(&format!(
                "expected an {expected} value as indicated by `ipFamilies[{index}]`"
            ));
        }
    }
}

fn load_balancer(spec: &Field<'_, '_>) {
    let balanced = spec.child("type").text() == "LoadBalancer";
    let ranges = spec.child("loadBalancerSourceRanges");
    let said = spec.child("LoadBalancerSourceRanges").with(ranges.value);
    if !balanced && !ranges.is_empty() {
        said.forbidden(NOT_BALANCED);
    }
    for range in said.items() {
        cidr(&range);
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !balanced && spec.child(field).is_set() {
            spec.child(field).forbidden(NOT_BALANCED);
        }
    }
    if balanced && spec.child("loadBalancerClass").is_set() {
        spec.child("loadBalancerClass").qualified();
    }
}

fn traffic(spec: &Field<'_, '_>) {
    let external = spec.child("externalTrafficPolicy");
    if is_external(spec.value) {
        external.one_of(POLICIES);
    } else if !external.is_empty() {
        external.invalid("may only be set for externally-accessible services");
    }
    let health = spec.child("healthCheckNodePort");
    let number = health.number().unwrap_or(0);
    if !needs_health_check(spec.value) {
        if number != 0 {
            health.invalid(
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is \
                 'Local'",
            );
        }
    } else if number == 0 {
        health.required("");
    } else {
        health.port();
    }
    let internal = spec.child("internalTrafficPolicy");
    if matches!(
        spec.child("type").text(),
        "ClusterIP" | "LoadBalancer" | "NodePort"
    ) {
        internal.one_of(POLICIES);
    } else {
        internal.one_of_if_set(POLICIES);
    }
    let known = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    spec.child("trafficDistribution").one_of_if_set(&known);
}

fn change(spec: &Field<'_, '_>, old: &Value) {
    let kinds = [
        spec.child("type").text(),
        old["type"].as_str().unwrap_or_default(),
    ];
    if !kinds.contains(&"ExternalName") {
        let both_headless = is_headless(spec.value) && is_headless(old);
        if !both_headless {
            kept(
                spec,
                old,
                "clusterIPs",
                "primary clusterIP can not be unset",
            );
        }
        if !is_headless(spec.value) && !is_headless(old) {
            kept(spec, old, "ipFamilies", "primary ipFamily can not be unset");
        }
    }
    let class = spec.child("loadBalancerClass");
    if kinds == ["LoadBalancer"; 2] && *class.value != old["loadBalancerClass"] {
        class.invalid("may not change once set");
    }
    let health = spec.child("healthCheckNodePort");
    if needs_health_check(spec.value)
        && needs_health_check(old)
        && *health.value != old["healthCheckNodePort"]
    {
        health.forbidden("field is immutable");
    }
}

/// What has been allocated stays; a second one can be added or given back.
fn kept(spec: &Field<'_, '_>, old: &Value, field: &str, unset: &str) {
    let new = spec.child(field);
    let said_at = |index: usize, detail: &str| new.index(index).invalid_as(new.value, detail);
    if new.is_empty() && elements(&old[field]).next().is_some() {
        said_at(0, unset);
    }
    for (index, (new, old)) in elements(new.value).zip(elements(&old[field])).enumerate() {
        if new != old {
            said_at(index, "may not change once set");
        }
    }
    let (before, after) = (elements(&old[field]).count(), new.items().count());
    let policy = spec.child("ipFamilyPolicy");
    if before > 1 && after == 1 && policy.text() != "SingleStack" {
        let what = if field == "clusterIPs" {
            "clusterIP"
        } else {
            "ipFamily"
        };
        policy.invalid(&format!(
            "must be set to 'SingleStack' when releasing the secondary {what}"
        ));
    }
}

#[cfg(test)]
mod tests;
