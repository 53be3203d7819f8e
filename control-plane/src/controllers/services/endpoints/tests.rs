use std::collections::HashMap;

use super::*;
use crate::controllers::services::{seen::Seen, service::ServiceFacts};

/// The subsets and the metadata of what is wanted for a Service and its pods.
struct Case {
    service: Value,
    pods: Vec<Value>,
}

fn pod(name: &str, address: &str, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({"metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}")},
        "spec": {"nodeName": "node", "containers": [{}]},
        "status": {"podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": ready}]}})
}

impl Case {
    fn new(pods: Vec<Value>) -> Case {
        let service = json!({"metadata": {"name": "s", "uid": "u", "labels": {"of": "s"}},
            "spec": {"clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "selector": {"a": "b"},
                "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}});
        Case { service, pods }
    }

    fn wanted(&self) -> Wanted {
        let service: Seen<ServiceFacts> =
            serde_json::from_value(self.service.clone()).expect("a service");
        let pods: Vec<(Arc<str>, PodFacts)> = self
            .pods
            .iter()
            .filter_map(|pod| {
                let seen: Seen<Option<PodFacts>> =
                    serde_json::from_value(pod.clone()).expect("a pod");
                Some((seen.key().1, seen.facts?))
            })
            .collect();
        wanted(
            "n",
            &Observed {
                name: "s",
                service: &service.facts,
                pods: pods.iter().map(|(name, pod)| (name, pod)).collect(),
                nodes: &HashMap::new(),
                slices: Vec::new(),
            },
        )
    }

    fn json(&self) -> Value {
        self.wanted().json(("n", "s"), None, None)
    }

    /// Ready addresses, others, ports of each subset.
    fn check(&self, expected: &[(&[&str], &[&str], &[i64])]) {
        let object = self.json();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let shown: Vec<_> = list(&object["subsets"])
            .iter()
            .map(|subset| {
                let ips = |field: &str| -> Vec<String> {
                    let all = list(&subset[field]);
                    all.iter()
                        .map(|one| one["ip"].as_str().expect("an address").to_owned())
                        .collect()
                };
                let ports = list(&subset["ports"]);
                let ports: Vec<_> = ports
                    .iter()
                    .filter_map(|one| one["port"].as_i64())
                    .collect();
                (ips("addresses"), ips("notReadyAddresses"), ports)
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(ready, others, ports)| {
                let owned = |ips: &[&str]| ips.iter().map(|&ip| ip.to_owned()).collect();
                (owned(ready), owned(others), ports.to_vec())
            })
            .collect();
        assert_eq!(shown, expected);
    }
}

#[test]
fn pods_are_grouped_by_readiness() {
    let case = Case::new(vec![
        pod("a", "10.0.0.1", true),
        pod("b", "10.0.0.2", false),
        pod("c", "10.0.0.10", true),
    ]);
    // In the order of their texts.
    case.check(&[(&["10.0.0.1", "10.0.0.10"], &["10.0.0.2"], &[8080])]);
    let object = case.json();
    let expected = json!({"ip": "10.0.0.1", "nodeName": "node",
        "targetRef": {"kind": "Pod", "namespace": "n", "name": "a", "uid": "uid-a"}});
    assert_eq!(object["subsets"][0]["addresses"][0], expected);
    let labels = json!({"of": "s", MANAGED_BY: MANAGER});
    assert_eq!(object["metadata"]["labels"], labels);
    assert_eq!(object["metadata"]["annotations"], Value::Null);
}

#[test]
fn without_pods_there_is_no_subset() {
    Case::new(Vec::new()).check(&[]);
}

#[test]
fn a_pod_that_is_going_is_left_out_unless_the_unready_are_published() {
    let mut leaving = pod("a", "10.0.0.1", true);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut case = Case::new(vec![leaving, pod("b", "10.0.0.2", false)]);
    case.check(&[(&[], &["10.0.0.2"], &[8080])]);
    case.service["spec"]["publishNotReadyAddresses"] = json!(true);
    case.check(&[(&["10.0.0.1", "10.0.0.2"], &[], &[8080])]);
}

#[test]
fn subsets_are_addresses_with_the_same_ports() {
    let with = |name: &str, address: &str, ports: Value| {
        let mut pod = pod(name, address, true);
        pod["spec"]["containers"] = json!([{"ports": ports}]);
        pod
    };
    let http = |number: u16| json!([{"name": "http", "containerPort": number}]);
    let mut case = Case::new(vec![
        with("a", "10.0.0.1", http(8080)),
        with("b", "10.0.0.2", http(9090)),
        with("c", "10.0.0.3", json!([])),
    ]);
    case.service["spec"]["ports"] = json!([
        {"name": "x", "port": 80, "targetPort": "http", "protocol": "TCP"},
        {"name": "y", "port": 81, "targetPort": 81, "protocol": "TCP"},
        {"name": "z", "port": 82, "targetPort": 82, "protocol": "TCP"}]);
    case.check(&[
        (&["10.0.0.1", "10.0.0.2", "10.0.0.3"], &[], &[81, 82]),
        (&["10.0.0.1"], &[], &[8080]),
        (&["10.0.0.2"], &[], &[9090]),
    ]);
}

#[test]
fn a_headless_service_may_have_no_ports() {
    let mut case = Case::new(vec![pod("a", "10.0.0.1", true)]);
    case.service["spec"]["ports"] = Value::Null;
    case.check(&[]);
    case.service["spec"]["clusterIP"] = json!("None");
    case.check(&[(&["10.0.0.1"], &[], &[])]);
    let labels = case.json()["metadata"]["labels"].clone();
    assert_eq!(labels[HEADLESS], "");
}

#[test]
fn a_thousand_addresses_are_named_and_the_ready_first() {
    let mut pods: Vec<_> = (0..1200_u32)
        .map(|number| {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
            pod(
                &format!("p-{number}"),
                &address.to_string(),
                number % 2 == 0,
            )
        })
        .collect();
    let count = |case: &Case| {
        let object = case.json();
        let len = |field: &str| object["subsets"][0][field].as_array().map_or(0, Vec::len);
        let over = object["metadata"]["annotations"][OVER_CAPACITY].clone();
        (len("addresses"), len("notReadyAddresses"), over)
    };
    let case = Case::new(pods.clone());
    assert_eq!(count(&case), (600, 400, json!(TRUNCATED)));
    for pod in &mut pods {
        pod["status"]["conditions"][0]["status"] = json!("True");
    }
    let case = Case::new(pods.clone());
    assert_eq!(count(&case), (1000, 0, json!(TRUNCATED)));
    pods.truncate(1000);
    assert_eq!(count(&Case::new(pods)), (1000, 0, Value::Null));
}

#[test]
fn what_was_written_says_what_is_wanted_and_nothing_else_does() {
    let mut case = Case::new(vec![
        pod("a", "10.0.0.1", true),
        pod("b", "10.0.0.2", false),
    ]);
    let facts = |object: &Value| {
        let seen: Seen<EndpointsFacts> = serde_json::from_value(object.clone()).expect("endpoints");
        seen.facts
    };
    let object = case.json();
    let known = facts(&object);
    assert!(known.says(&case.wanted()) && known.is_managed);
    let mut other = object.clone();
    other["metadata"]["annotations"][TRIGGER_TIME] = json!("2026-01-01T00:00:00Z");
    assert!(facts(&other).says(&case.wanted()));
    for path in ["/metadata/labels/of", "/subsets/0/addresses/0/ip"] {
        let mut other = object.clone();
        *other.pointer_mut(path).expect("it is there") = json!("10.0.0.9");
        assert!(!facts(&other).says(&case.wanted()), "{path}");
    }
    case.pods.pop();
    assert!(!known.says(&case.wanted()));
}
