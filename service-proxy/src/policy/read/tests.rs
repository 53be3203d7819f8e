use serde_json::{Value, json};

use super::*;

fn read(spec: Value) -> Result<Read, PolicyError> {
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop"}, "spec": spec,
    });
    Policy::read(&serde_json::from_value(policy).expect("a policy"))
}

fn good(spec: Value) -> Policy {
    let (policy, refused) = read(spec).expect("it is read");
    assert!(refused.is_empty(), "{refused:?}");
    policy
}

fn selector(labels: Value) -> Selector {
    let labels = serde_json::from_value(json!({"matchLabels": labels}));
    Selector::read(&labels.expect("a selector")).expect("it is read")
}

#[test]
fn the_directions_are_those_that_are_named_else_ingress_and_egress_if_it_has_rules() {
    for (spec, ingress, egress) in [
        (json!({}), true, false),
        (json!({"ingress": [{}]}), true, false),
        (json!({"egress": [{}]}), true, true),
        (json!({"egress": []}), true, false),
        (json!({"policyTypes": []}), true, false),
        (json!({"policyTypes": ["Egress"]}), false, true),
        (
            json!({"policyTypes": ["Egress"], "ingress": [{}]}),
            false,
            true,
        ),
        (
            json!({"policyTypes": ["Ingress"], "egress": [{}]}),
            true,
            false,
        ),
        (json!({"policyTypes": ["Ingress", "Egress"]}), true, true),
    ] {
        let policy = good(spec.clone());
        assert_eq!(policy.ingress.is_some(), ingress, "{spec}");
        assert_eq!(policy.egress.is_some(), egress, "{spec}");
    }
}

#[test]
fn without_peers_or_ports_a_rule_means_all_of_them() {
    for rule in [json!({}), json!({"from": [], "ports": []})] {
        let policy = good(json!({"ingress": [rule]}));
        let all = PolicyRule {
            peers: None,
            ports: None,
        };
        assert_eq!(policy.ingress, Some(vec![all]));
    }
}

#[test]
fn peers_are_pods_here_pods_of_other_namespaces_or_addresses() {
    let from = json!([
        {"podSelector": {"matchLabels": {"app": "web"}}},
        {"namespaceSelector": {"matchLabels": {"team": "a"}}},
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
    ]);
    let policy = good(json!({"ingress": [{"from": from}]}));
    let web = selector(json!({"app": "web"}));
    let pods = |namespaces, pods| Peer::Pods(PodPeer { namespaces, pods });
    let range = |text: &str| text.parse().expect("a range");
    let expected = vec![
        pods(Namespaces::One("shop".to_owned()), web.clone()),
        pods(
            Namespaces::Selected(selector(json!({"team": "a"}))),
            Selector::default(),
        ),
        pods(Namespaces::Selected(Selector::default()), web),
        Peer::Block(AddressBlock {
            cidr: range("10.0.0.0/8"),
            except: vec![range("10.1.0.0/16")],
        }),
    ];
    let ingress = policy.ingress.expect("it says");
    assert_eq!(ingress[0].peers, Some(expected));
}

#[test]
fn ports_are_numbers_ranges_names_or_a_whole_protocol() {
    let ports = json!([
        {"port": 80},
        {"protocol": "UDP", "port": 53},
        {"protocol": "TCP", "port": 8000, "endPort": 8010},
        {"port": "http"},
        {"protocol": "UDP"},
        {"protocol": "SCTP", "port": 7},
    ]);
    let policy = good(json!({"egress": [{"ports": ports}]}));
    let expected = vec![
        PolicyPort::Range(Protocol::Tcp, 80, 80),
        PolicyPort::Range(Protocol::Udp, 53, 53),
        PolicyPort::Range(Protocol::Tcp, 8000, 8010),
        PolicyPort::Named(Protocol::Tcp, "http".to_owned()),
        PolicyPort::Range(Protocol::Udp, 0, 65_535),
    ];
    let egress = policy.egress.expect("it says");
    assert_eq!(egress[0].ports, Some(expected));
}

#[test]
fn a_rule_for_protocols_that_no_pod_speaks_admits_nothing() {
    let policy = good(json!({"ingress": [{"ports": [{"protocol": "SCTP", "port": 7}]}]}));
    let ingress = policy.ingress.expect("it says");
    assert_eq!(ingress[0].ports, Some(Vec::new()));
}

#[test]
fn a_rule_that_cannot_be_read_admits_nothing_and_is_told() {
    for rule in [
        json!({"from": [{}]}),
        json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}),
        json!({"from": [{"ipBlock": {"cidr": "nowhere"}}]}),
        json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}]}),
        json!({"ports": [{"port": 70_000}]}),
        json!({"ports": [{"port": 1, "endPort": -1}]}),
        json!({"ports": [{"protocol": "ICMP"}]}),
        json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]}),
    ] {
        let (policy, refused) = read(json!({"ingress": [rule, {}]})).expect("it is read");
        assert_eq!(policy.ingress.map(|rules| rules.len()), Some(1), "{rule}");
        assert_eq!(refused.len(), 1, "{rule}");
    }
}

fn pod(spec: Value, status: Value) -> PodFacts {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "spec": spec, "status": status,
        "metadata": {"name": "p", "namespace": "shop", "uid": "u", "labels": {"app": "web"}},
    });
    PodFacts::read(serde_json::from_value(pod).expect("a pod"))
}

#[test]
fn a_pod_has_addresses_of_its_own_while_it_runs() {
    let ips = json!({"phase": "Running", "podIP": "10.244.0.2",
        "podIPs": [{"ip": "10.244.0.2"}, {"ip": "fd00::2"}]});
    let found = pod(json!({"nodeName": "n", "containers": []}), ips.clone());
    let expected: Vec<IpAddr> = ["10.244.0.2", "fd00::2"]
        .map(|ip| ip.parse().expect("an address"))
        .into();
    assert_eq!(found.ips, expected);
    assert_eq!(found.node.as_deref(), Some("n"));
    let none: [IpAddr; 0] = [];
    assert_eq!(pod(json!({"hostNetwork": true}), ips.clone()).ips, none);
    for phase in ["Succeeded", "Failed"] {
        let mut over = ips.clone();
        over["phase"] = json!(phase);
        assert_eq!(pod(json!({}), over).ips, none);
    }
    assert_eq!(pod(json!({}), json!({})).ips, none);
}

#[test]
fn a_pods_named_ports_are_those_of_all_its_containers() {
    let spec = json!({
        "containers": [{"ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]}],
        "initContainers": [{"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "signal", "containerPort": 7, "protocol": "SCTP"}]}],
    });
    assert_eq!(
        pod(spec, json!({})).ports,
        [
            ("http".to_owned(), Protocol::Tcp, 80),
            ("dns".to_owned(), Protocol::Udp, 53)
        ]
    );
}
