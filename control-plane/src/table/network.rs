//! Rows of services and their endpoints.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{NONE, Shown, first_few, labels, list, number, or, text};

/// What stands where a slice lists nothing.
const UNSET: &str = "<unset>";

pub(super) fn service(service: Shown<'_>) -> Value {
    let port = |port: &Value| {
        let protocol = text(port, "/protocol");
        match (number(port, "/port"), number(port, "/nodePort")) {
            (port, 0) => format!("{port}/{protocol}"),
            (port, node_port) => format!("{port}:{node_port}/{protocol}"),
        }
    };
    let ports: Vec<_> = service.list("/spec/ports").iter().map(port).collect();
    json!([
        service.name(),
        service.text("/spec/type"),
        or(service.text("/spec/clusterIPs/0"), NONE),
        external_ip(service),
        or(&ports.join(","), NONE),
        service.age(),
        labels(service.entries("/spec/selector")),
    ])
}

fn external_ip(service: Shown<'_>) -> String {
    let external = service.list("/spec/externalIPs").iter();
    let external = external.filter_map(Value::as_str);
    match service.text("/spec/type") {
        "ClusterIP" | "NodePort" => or(&external.collect::<Vec<_>>().join(","), NONE).to_owned(),
        "LoadBalancer" => {
            let ingress = service.list("/status/loadBalancer/ingress").iter();
            let balancers = ingress.map(|point| or(text(point, "/ip"), text(point, "/hostname")));
            let balancers: BTreeSet<_> = balancers.filter(|point| !point.is_empty()).collect();
            let all: Vec<_> = balancers.into_iter().chain(external).collect();
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => service.text("/spec/externalName").to_owned(),
        _ => super::UNKNOWN.to_owned(),
    }
}

pub(super) fn policy(policy: Shown<'_>) -> Value {
    json!([policy.name(), or(&selector(policy), NONE), policy.age()])
}

/// Writes the selector of a policy, its requirements in the order of their keys.
fn selector(policy: Shown<'_>) -> String {
    let equal = policy.entries("/spec/podSelector/matchLabels");
    let equal = equal.map(|(key, value)| (key, format!("{key}={value}")));
    let expressions = policy.list("/spec/podSelector/matchExpressions").iter();
    let expressions = expressions.map(|expression| {
        let key = text(expression, "/key");
        let values = list(expression, "/values").iter().filter_map(Value::as_str);
        let values = values.collect::<BTreeSet<_>>();
        let values = values.into_iter().collect::<Vec<_>>().join(",");
        let written = match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        (key, written)
    });
    let mut all = equal.chain(expressions).collect::<Vec<_>>();
    all.sort_by_key(|(key, _)| *key);
    let all = all.into_iter().map(|(_, written)| written);
    all.collect::<Vec<_>>().join(",")
}

pub(super) fn endpoints(endpoints: Shown<'_>) -> Value {
    let subsets = endpoints.list("/subsets");
    let nothing = if subsets.is_empty() { NONE } else { "" };
    let points = first_few(subsets.iter().flat_map(subset_points), nothing);
    json!([endpoints.name(), points, endpoints.age()])
}

/// Returns every address of a subset with every port; headless services may have no port.
fn subset_points(subset: &Value) -> Vec<String> {
    let addresses = list(subset, "/addresses").iter();
    let addresses = addresses.map(|address| text(address, "/ip"));
    let ports = list(subset, "/ports");
    if ports.is_empty() {
        return addresses.map(str::to_owned).collect();
    }
    let ports = ports.iter().map(|port| number(port, "/port"));
    ports
        .flat_map(|port| {
            addresses
                .clone()
                .map(move |address| join_host_port(address, port))
        })
        .collect()
}

fn join_host_port(address: &str, port: i64) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

pub(super) fn endpoint_slice(slice: Shown<'_>) -> Value {
    let port = |port: &Value| match port.get("port").and_then(Value::as_i64) {
        Some(number) => number.to_string(),
        None => match port.get("name").and_then(Value::as_str) {
            Some(name) => name.to_owned(),
            None => "*".to_owned(),
        },
    };
    let endpoints = slice.list("/endpoints").iter();
    let addresses = endpoints.flat_map(|endpoint| list(endpoint, "/addresses"));
    let addresses = addresses.filter_map(Value::as_str).map(str::to_owned);
    json!([
        slice.name(),
        slice.text("/addressType"),
        first_few(slice.list("/ports").iter().map(port), UNSET),
        first_few(addresses, UNSET),
        slice.age(),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::check;

    fn check_service(spec: Value, status: Value, expected: &str) {
        check(
            "v1",
            "Service",
            json!({"spec": spec, "status": status}),
            expected,
        );
    }

    #[test]
    fn services_show_addresses_and_ports() {
        let ports = json!([{"port": 80, "protocol": "TCP"},
            {"port": 53, "nodePort": 30053, "protocol": "UDP"}]);
        let spec = json!({"type": "ClusterIP", "clusterIPs": ["10.1.0.1"], "ports": ports,
            "selector": {"b": "2", "a": "1"}});
        let expected = "x|ClusterIP|10.1.0.1|<none>|80/TCP,53:30053/UDP|60m|a=1,b=2";
        check_service(spec, json!({}), expected);
        let spec = json!({"type": "ExternalName", "externalName": "example.org"});
        check_service(
            spec,
            json!({}),
            "x|ExternalName|<none>|example.org|<none>|60m|<none>",
        );
        let spec = json!({"type": "NodePort", "externalIPs": ["1.1.1.1", "2.2.2.2"]});
        let expected = "x|NodePort|<none>|1.1.1.1,2.2.2.2|<none>|60m|<none>";
        check_service(spec, json!({}), expected);
    }

    #[test]
    fn load_balancers_are_pending_until_they_have_an_address() {
        let spec = json!({"type": "LoadBalancer"});
        let expected = "x|LoadBalancer|<none>|<pending>|<none>|60m|<none>";
        check_service(spec.clone(), json!({}), expected);
        let status = json!({"loadBalancer": {"ingress": [{"hostname": "b"}, {"ip": "9.9.9.9"}]}});
        let expected = "x|LoadBalancer|<none>|9.9.9.9,b|<none>|60m|<none>";
        check_service(spec, status, expected);
    }

    #[test]
    fn endpoints_show_the_first_three() {
        let address = |ip: &str| json!({"ip": ip});
        let addresses = [address("10.0.0.1"), address("10.0.0.2"), address("fd00::1")];
        for (subsets, expected) in [
            (json!([]), "<none>"),
            (json!([{"notReadyAddresses": addresses}]), ""),
            (
                json!([{"addresses": addresses}]),
                "10.0.0.1,10.0.0.2,fd00::1",
            ),
            (
                json!([{"addresses": addresses, "ports": [{"port": 80}]}]),
                "10.0.0.1:80,10.0.0.2:80,[fd00::1]:80",
            ),
            (
                json!([{"addresses": addresses, "ports": [{"port": 80}, {"port": 81}]}]),
                "10.0.0.1:80,10.0.0.2:80,[fd00::1]:80 + 3 more...",
            ),
        ] {
            let expected = format!("x|{expected}|60m");
            check("v1", "Endpoints", json!({"subsets": subsets}), &expected);
        }
    }

    #[test]
    fn policies_show_whom_they_select() {
        for (selector, expected) in [
            (json!({}), "<none>"),
            (json!({"matchLabels": {"b": "2", "a": "1"}}), "a=1,b=2"),
            (
                json!({"matchLabels": {"m": "1"}, "matchExpressions": [
                    {"key": "z", "operator": "Exists"}, {"key": "y", "operator": "DoesNotExist"},
                    {"key": "a", "operator": "In", "values": ["2", "1"]},
                    {"key": "n", "operator": "NotIn", "values": ["3"]}]}),
                "a in (1,2),m=1,n notin (3),!y,z",
            ),
        ] {
            let spec = json!({"spec": {"podSelector": selector}});
            let expected = format!("x|{expected}|60m");
            check("networking.k8s.io/v1", "NetworkPolicy", spec, &expected);
        }
    }

    #[test]
    fn slices_show_ports_and_addresses() {
        let slice = json!({
            "addressType": "IPv4",
            "ports": [{"port": 80}, {"name": "any"}, {}, {"port": 1}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
        });
        let expected = "x|IPv4|80,any,* + 1 more...|10.0.0.1,10.0.0.2|60m";
        check("discovery.k8s.io/v1", "EndpointSlice", slice, expected);
        let empty = json!({"addressType": "IPv6"});
        check(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            empty,
            "x|IPv6|<unset>|<unset>|60m",
        );
    }
}
