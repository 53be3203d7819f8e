//! Golden rows: who reaches whom under which policies, as `networking.k8s.io/v1` says. Each row is a
//! set of policies of the namespace `shop` and the connections between four pods that they leave.

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use coracle_network::{
    Fabric, FabricConfig, Listener, PodIdentity, PodNetwork, Protocol, PublishPlan,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::super::read::namespace_labels;
use super::*;

/// A pod: its name, its namespace and its labels.
type Described = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

/// Every pod. The first three are in `shop`, whose team is `a`; the
/// last is in `other`, whose team is `b`.
const PODS: [Described; 4] = [
    ("web", "shop", &[("app", "web"), ("tier", "front")]),
    ("db", "shop", &[("app", "db")]),
    ("job", "shop", &[("app", "job"), ("tier", "back")]),
    ("far", "other", &[("app", "web")]),
];

/// The ports that every pod listens on; 80 is named `http`, by `far` it is not.
const PORTS: [u16; 3] = [80, 443, 8_080];

struct Site {
    state: State,
    facts: Vec<(Key, PodFacts)>,
    pods: Vec<PodNetwork>,
    _listeners: Vec<Listener>,
}

impl Site {
    fn new() -> Site {
        let config = FabricConfig {
            publish: PublishPlan::Nowhere,
            ..FabricConfig::default()
        };
        let fabric = Fabric::new(config).expect("the default layout is valid");
        let table = Arc::clone(fabric.policies());
        table.hold();
        let state = State::new(table, None, watch::channel(false).0);
        let mut site = Site {
            state,
            facts: Vec::new(),
            pods: Vec::new(),
            _listeners: Vec::new(),
        };
        for (name, namespace, labels) in PODS {
            site.add(&fabric, name, namespace, labels);
        }
        site
    }

    fn add(&mut self, fabric: &Fabric, name: &str, namespace: &str, labels: &[(&str, &str)]) {
        let pod = fabric.attach(PodIdentity {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            hostname: name.to_owned(),
            subdomain: None,
        });
        let pod = pod.expect("an address is free");
        for port in PORTS {
            let reserved = pod.reserve_tcp(SocketAddr::new(pod.ip().into(), port));
            let listener = pod.listen(reserved.expect("free"), 1_024);
            self._listeners.push(listener.expect("it listens"));
        }
        let labels = labels.iter();
        let labels = labels.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let named = ("http".to_owned(), Protocol::Tcp, 80);
        let facts = PodFacts {
            namespace: namespace.to_owned(),
            uid: name.to_owned(),
            labels: labels.collect(),
            node: None,
            ips: vec![pod.ip().into()],
            ports: Vec::from_iter((name != "far").then_some(named)),
        };
        let key = (namespace.to_owned(), name.to_owned());
        self.facts.push((key, facts));
        self.pods.push(pod);
    }

    /// Puts policies in force, in whose text `$web` and so on are the pods' addresses.
    fn apply(&mut self, specs: &[Value]) {
        for (number, spec) in specs.iter().enumerate() {
            let mut text = spec.to_string();
            for ((name, ..), pod) in PODS.iter().zip(&self.pods) {
                text = text.replace(&format!("${name}"), &pod.ip().to_string());
            }
            let spec: Value = serde_json::from_str(&text).expect("it was JSON");
            let policy = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
            let policy: NetworkPolicy = serde_json::from_value(policy).expect("a policy");
            let (policy, refused) = Policy::read(&policy).expect("it is read");
            assert!(refused.is_empty(), "{refused:?}");
            let key = ("shop".to_owned(), number.to_string());
            self.state.policy(Change::Listed(key, policy));
        }
        self.state.policy(Change::Complete);
        // Without policies they are not asked for.
        if self.state.needs_pods() {
            for (name, team) in [("shop", "a"), ("other", "b")] {
                let namespace = json!({"metadata": {"name": name, "labels": {"team": team}}});
                let namespace = serde_json::from_value(namespace).expect("a namespace");
                let listed = Change::Listed(name.to_owned(), namespace_labels(namespace));
                self.state.namespace(listed);
            }
            self.state.namespace(Change::Complete);
            for (key, facts) in &self.facts {
                self.state.pod(Change::Listed(key.clone(), facts.clone()));
            }
            self.state.pod(Change::Complete);
        }
        assert!(self.state.is_stale());
        self.state.compile();
    }

    /// Returns every connection between two pods that is made, as `web>db:80`.
    fn made(&self) -> Vec<String> {
        let mut made = Vec::new();
        for (from, (name, ..)) in self.pods.iter().zip(PODS) {
            for (to, (other, ..)) in self.pods.iter().zip(PODS) {
                for port in PORTS.into_iter().filter(|_| name != other) {
                    if is_made(from, SocketAddr::new(to.ip().into(), port)) {
                        made.push(format!("{name}>{other}:{port}"));
                    }
                }
            }
        }
        made.sort();
        made
    }
}

/// What is admitted is made at once; what is dropped waits for minutes.
fn is_made(from: &PodNetwork, to: SocketAddr) -> bool {
    let mut connecting = Box::pin(from.connect(None, to));
    let mut context = Context::from_waker(Waker::noop());
    match connecting.as_mut().poll(&mut context) {
        Poll::Ready(made) => made.map(drop).is_ok(),
        Poll::Pending => false,
    }
}

/// Checks that policies take away from what an open network has all but what `left` says of those
/// connections that `about` names; others are untouched. Both are lists of `from>to:port`, where `*`
/// stands for all pods or ports.
fn check(specs: &[Value], about: &str, left: &str) {
    let mut open = Site::new();
    open.apply(&[]);
    let names = |list: &str, connection: &str| {
        list.split_whitespace()
            .any(|pattern| matches(pattern, connection))
    };
    let mut expected = open.made();
    assert_eq!(expected.len(), 4 * 3 * PORTS.len());
    expected.retain(|one| !names(about, one) || names(left, one));
    let mut site = Site::new();
    site.apply(specs);
    assert_eq!(site.made(), expected, "{}", json!(specs));
}

fn matches(pattern: &str, connection: &str) -> bool {
    let parts = |text: &'static str| move |one: char| text.contains(one);
    let pattern = pattern.split(parts(">:"));
    let mut pairs = pattern.zip(connection.split(parts(">:")));
    pairs.all(|(pattern, part)| pattern == "*" || pattern == part)
}

fn db(rules: Value) -> Value {
    let mut spec = json!({"podSelector": {"matchLabels": {"app": "db"}}});
    let fields = rules.as_object().expect("fields").clone();
    spec.as_object_mut().expect("fields").extend(fields);
    spec
}

fn from(peers: Value) -> Value {
    db(json!({"ingress": [{"from": peers}]}))
}

fn to(peers: Value) -> Value {
    db(json!({"policyTypes": ["Egress"], "egress": [{"to": peers}]}))
}

fn ports(ports: Value) -> Value {
    db(json!({"ingress": [{"ports": ports}]}))
}

#[tokio::test]
async fn before_the_first_policies_are_known_nothing_is_open() {
    let mut site = Site::new();
    assert_eq!(site.made(), [""; 0]);
    site.state.policy(Change::Complete);
    site.state.compile();
    assert_eq!(site.made().len(), 4 * 3 * PORTS.len());
}

#[tokio::test]
async fn subjects_and_directions() {
    check(&[], "", "");
    // An empty selector selects the whole namespace, and nothing of another one.
    check(&[json!({"podSelector": {}})], "*>web:* *>db:* *>job:*", "");
    check(&[json!({})], "*>web:* *>db:* *>job:*", "");
    // What is left out is as what is empty: ingress is closed, egress is open.
    for rules in [
        json!({}),
        json!({"ingress": []}),
        json!({"egress": []}),
        json!({"policyTypes": []}),
        json!({"policyTypes": ["Ingress"]}),
        json!({"policyTypes": ["Ingress"], "egress": [{"to": []}]}),
    ] {
        check(&[db(rules)], "*>db:*", "");
    }
    // Rules for egress close egress but for them, beside ingress.
    check(&[db(json!({"egress": [{}]}))], "*>db:*", "");
    for rules in [
        json!({"policyTypes": ["Egress"]}),
        json!({"policyTypes": ["Egress"], "ingress": [{}]}),
    ] {
        check(&[db(rules)], "db>*:*", "");
    }
    let both = json!({"policyTypes": ["Ingress", "Egress"]});
    check(&[db(both)], "db>*:* *>db:*", "");
    // An empty rule admits everyone; so do empty lists in it.
    for rule in [json!({}), json!({"from": []}), json!({"ports": []})] {
        check(&[db(json!({"ingress": [rule]}))], "", "");
    }
    // By expressions, too.
    let back = json!({"podSelector": {"matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["back", "front"]},
        {"key": "app", "operator": "NotIn", "values": ["web"]}]}});
    check(&[back], "*>job:*", "");
}

#[tokio::test]
async fn peers() {
    let app = |name: &str| json!({"matchLabels": {"app": name}});
    let team = |name: &str| json!({"matchLabels": {"team": name}});
    // A pod selector alone means pods of the policy's namespace.
    check(
        &[from(json!([{"podSelector": app("web")}]))],
        "*>db:*",
        "web>db:*",
    );
    check(
        &[from(json!([{"podSelector": {}}]))],
        "*>db:*",
        "web>db:* job>db:*",
    );
    // A namespace selector alone means all pods of these namespaces.
    check(
        &[from(json!([{"namespaceSelector": team("b")}]))],
        "*>db:*",
        "far>db:*",
    );
    check(&[from(json!([{"namespaceSelector": {}}]))], "", "");
    // A namespace is known by its name as well.
    let named = json!({"matchLabels": {"kubernetes.io/metadata.name": "other"}});
    check(
        &[from(json!([{"namespaceSelector": named}]))],
        "*>db:*",
        "far>db:*",
    );
    // Both in one peer mean both; in two peers either.
    let both = json!([{"namespaceSelector": team("a"), "podSelector": app("web")}]);
    check(&[from(both)], "*>db:*", "web>db:*");
    let both = json!([{"namespaceSelector": {}, "podSelector": app("web")}]);
    check(&[from(both)], "*>db:*", "web>db:* far>db:*");
    let either = json!([{"namespaceSelector": team("b")}, {"podSelector": app("job")}]);
    check(&[from(either)], "*>db:*", "far>db:* job>db:*");
    // Out as in.
    check(
        &[to(json!([{"podSelector": app("web")}]))],
        "db>*:*",
        "db>web:*",
    );
    let both = json!([{"namespaceSelector": {}, "podSelector": app("web")}]);
    check(&[to(both)], "db>*:*", "db>web:* db>far:*");
    check(
        &[to(json!([{"namespaceSelector": team("b")}]))],
        "db>*:*",
        "db>far:*",
    );
    // A selector that selects nobody admits nobody.
    check(&[from(json!([{"podSelector": app("none")}]))], "*>db:*", "");
}

#[tokio::test]
async fn blocks_of_addresses() {
    let block =
        |cidr: &str, except: &[&str]| json!([{"ipBlock": {"cidr": cidr, "except": except}}]);
    check(&[from(block("0.0.0.0/0", &[]))], "", "");
    check(&[from(block("$web/32", &[]))], "*>db:*", "web>db:*");
    check(
        &[from(block("10.244.0.0/16", &["$web/32"]))],
        "web>db:*",
        "",
    );
    let except = ["$web/32", "$far/32"];
    check(
        &[from(block("10.244.0.0/16", &except))],
        "web>db:* far>db:*",
        "",
    );
    check(&[from(block("192.0.2.0/24", &[]))], "*>db:*", "");
    check(&[from(block("::/0", &[]))], "*>db:*", "");
    check(&[to(block("$job/32", &[]))], "db>*:*", "db>job:*");
    check(&[to(block("10.0.0.0/8", &["$job/32"]))], "db>job:*", "");
    // What one peer leaves out another one may let in.
    let both = json!([
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["$web/32"]}},
        {"podSelector": {"matchLabels": {"app": "web"}}},
    ]);
    check(&[from(both)], "", "");
}

#[tokio::test]
async fn numbers_ranges_and_names_of_ports() {
    check(&[ports(json!([{"port": 80}]))], "*>db:*", "*>db:80");
    check(
        &[ports(json!([{"protocol": "TCP", "port": 443}]))],
        "*>db:*",
        "*>db:443",
    );
    check(
        &[ports(json!([{"port": 80}, {"port": 8080}]))],
        "*>db:443",
        "",
    );
    check(
        &[ports(json!([{"port": 80, "endPort": 443}]))],
        "*>db:8080",
        "",
    );
    check(
        &[ports(json!([{"port": 443, "endPort": 443}]))],
        "*>db:*",
        "*>db:443",
    );
    check(
        &[ports(json!([{"port": 81, "endPort": 442}]))],
        "*>db:*",
        "",
    );
    check(&[ports(json!([{"port": 1, "endPort": 65_535}]))], "", "");
    // A protocol alone means all of its ports, of another one none of ours.
    check(&[ports(json!([{"protocol": "TCP"}]))], "", "");
    check(&[ports(json!([{}]))], "", "");
    check(&[ports(json!([{"protocol": "UDP"}]))], "*>db:*", "");
    check(
        &[ports(json!([{"protocol": "SCTP", "port": 80}]))],
        "*>db:*",
        "",
    );
    // A name is looked up at the destination.
    check(&[ports(json!([{"port": "http"}]))], "*>db:*", "*>db:80");
    check(&[ports(json!([{"port": "none"}]))], "*>db:*", "");
    let named = json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]});
    check(&[db(named)], "db>*:*", "db>web:80 db>job:80");
    // Peers and ports of one rule have to fit both; rules and policies add up.
    let web = json!([{"podSelector": {"matchLabels": {"app": "web"}}}]);
    let both = db(json!({"ingress": [{"from": web, "ports": [{"port": 80}]}]}));
    check(std::slice::from_ref(&both), "*>db:*", "web>db:80");
    let two = db(json!({"ingress": [
        {"from": web, "ports": [{"port": 80}]}, {"ports": [{"port": 443}]}]}));
    check(&[two], "*>db:*", "web>db:80 *>db:443");
    check(
        &[both, ports(json!([{"port": 443}]))],
        "*>db:*",
        "web>db:80 *>db:443",
    );
}

#[tokio::test]
async fn a_connection_needs_both_its_ends() {
    let web = json!([{"podSelector": {"matchLabels": {"app": "web"}}}]);
    let closed = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]});
    check(&[from(web.clone()), closed], "*>db:* web>*:*", "");
    let open = json!({"podSelector": {"matchLabels": {"app": "web"}},
        "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 443}]}]});
    check(&[from(web), open], "*>db:* web>*:*", "web>*:443");
}
