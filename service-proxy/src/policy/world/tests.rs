use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::*;

fn policy(spec: Value) -> Policy {
    let policy = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    let policy: NetworkPolicy = serde_json::from_value(policy).expect("a policy");
    Policy::read(&policy).expect("it is read").0
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pod(namespace: &str, address: &str, of: &[(&str, &str)]) -> PodFacts {
    PodFacts {
        namespace: namespace.to_owned(),
        uid: address.to_owned(),
        labels: labels(of),
        node: None,
        ips: vec![ip(address)],
        ports: vec![("http".to_owned(), Protocol::Tcp, 8080)],
    }
}

const WEB: &str = "10.244.0.2";
const DB: &str = "10.244.0.3";
const OTHER_WEB: &str = "10.244.0.4";

fn pods() -> [PodFacts; 3] {
    [
        pod("shop", WEB, &[("app", "web")]),
        pod("shop", DB, &[("app", "db")]),
        pod("other", OTHER_WEB, &[("app", "web")]),
    ]
}

fn world(policies: &[Value]) -> World {
    let policies = policies
        .iter()
        .map(|spec| policy(spec.clone()))
        .collect::<Vec<_>>();
    let namespaces = HashMap::from([
        ("shop".to_owned(), labels(&[("team", "a")])),
        ("other".to_owned(), labels(&[("team", "b")])),
    ]);
    let world = World::new(&policies, namespaces);
    pods().iter().for_each(|pod| world.enter(pod));
    world
}

/// The addresses of our pods that a rule for the peers of `spec` means.
fn meant(from: Value) -> Vec<&'static str> {
    let world = world(&[json!({"ingress": [{"from": from}]})]);
    let [web, ..] = pods();
    let rules = world.rules_of(&web).expect("it is selected");
    let rule = &rules.ingress.expect("it says")[0];
    let Peers::Any { sets, .. } = &rule.peers else {
        panic!("it names peers");
    };
    let all = [WEB, DB, OTHER_WEB];
    all.into_iter()
        .filter(|text| sets.iter().any(|set| set.contains(ip(text))))
        .collect()
}

#[test]
fn peers_are_the_pods_that_both_selectors_mean() {
    for (from, expected) in [
        (json!([{"podSelector": {}}]), vec![WEB, DB]),
        (
            json!([{"podSelector": {"matchLabels": {"app": "web"}}}]),
            vec![WEB],
        ),
        (json!([{"namespaceSelector": {}}]), vec![WEB, DB, OTHER_WEB]),
        (
            json!([{"namespaceSelector": {"matchLabels": {"team": "b"}}}]),
            vec![OTHER_WEB],
        ),
        (
            json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}]),
            vec![WEB, OTHER_WEB],
        ),
        (
            json!([{"namespaceSelector": {"matchLabels": {"team": "a"}},
                "podSelector": {"matchLabels": {"app": "web"}}}]),
            vec![WEB],
        ),
        // Two entries add up where two selectors of one entry do not.
        (
            json!([{"namespaceSelector": {"matchLabels": {"team": "b"}}},
                {"podSelector": {"matchLabels": {"app": "db"}}}]),
            vec![DB, OTHER_WEB],
        ),
        (
            json!([{"podSelector": {"matchLabels": {"app": "x"}}}]),
            vec![],
        ),
    ] {
        assert_eq!(meant(from.clone()), expected, "{from}");
    }
}

#[test]
fn a_policy_holds_for_the_pods_of_its_namespace_that_it_selects() {
    let of_web = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    let [web, db, other] = pods();
    let world = world(&[of_web]);
    assert!(world.rules_of(&web).is_some());
    assert!(world.rules_of(&db).is_none());
    assert!(world.rules_of(&other).is_none());
}

#[test]
fn policies_of_a_pod_add_up_in_each_direction() {
    let world = world(&[
        json!({"policyTypes": ["Ingress"]}),
        json!({"ingress": [{}], "podSelector": {"matchLabels": {"app": "web"}}}),
        json!({"policyTypes": ["Egress"], "podSelector": {"matchLabels": {"app": "db"}}}),
    ]);
    let [web, db, _] = pods();
    let rules = world.rules_of(&web).expect("selected");
    assert_eq!(rules.ingress.map(|rules| rules.len()), Some(1));
    assert!(rules.egress.is_none());
    let rules = world.rules_of(&db).expect("selected");
    assert_eq!(rules.ingress.map(|rules| rules.len()), Some(0));
    assert_eq!(rules.egress.map(|rules| rules.len()), Some(0));
}

#[test]
fn a_named_port_means_the_number_that_each_pod_gives_it() {
    let world = world(&[json!({"egress": [{"ports": [{"port": "http"}]}]})]);
    let [web, db, _] = pods();
    let rules = world.rules_of(&web).expect("selected");
    let egress = rules.egress.expect("it says");
    let Some([PortMatch::Named(named)]) = egress[0].ports.as_deref() else {
        panic!("a named port");
    };
    let at = |port| SocketAddr::new(ip(DB), port);
    assert!(named.contains(Protocol::Tcp, at(8080)));
    assert!(!named.contains(Protocol::Tcp, at(80)));
    assert!(!named.contains(Protocol::Udp, at(8080)));
    world.leave(&db);
    assert!(!named.contains(Protocol::Tcp, at(8080)));
}

#[test]
fn equal_selectors_share_one_set() {
    let from = |labels: Value| json!({"from": [{"podSelector": labels}]});
    let one = json!({"matchLabels": {"a": "1", "b": "2"}});
    let same = json!({"matchExpressions": [
        {"key": "b", "operator": "In", "values": ["2"]},
        {"key": "a", "operator": "In", "values": ["1"]},
    ]});
    let world = world(&[json!({"ingress": [from(one), from(same)]})]);
    assert_eq!(world.peers.len(), 1);
}
