//! The rules of F.1 and F.3, each a test named after it: objects in, decisions of the table out.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use coracle_network::{Client, Decision, Protocol, ServiceTable};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;

const POD: Client = Client::Pod(IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 9)));
const OUTSIDE: Client = Client::Outside(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)));

/// A compiler and the table it fills, as the proxy holds them.
struct Bench {
    compiler: Compiler,
    table: ServiceTable,
}

impl Bench {
    fn new() -> Bench {
        let ground = Ground {
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
            node_ips: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        };
        Bench {
            compiler: Compiler::new(ground, Some("here".to_owned())),
            table: ServiceTable::default(),
        }
    }

    fn with(service: Value, slices: impl IntoIterator<Item = Value>) -> Bench {
        let mut bench = Bench::new();
        bench.service(service);
        for slice in slices {
            bench.slice(slice);
        }
        bench
    }

    fn service(&mut self, service: Value) -> Change {
        let service = serde_json::from_value::<Service>(service).expect("a Service");
        let facts = ServiceFacts::of(&service).expect("facts of a Service");
        let change = self.compiler.set_service(Arc::new(facts));
        self.commit(change)
    }

    fn slice(&mut self, slice: Value) -> Change {
        let slice = serde_json::from_value::<EndpointSlice>(slice).expect("a slice");
        let key = SliceKey::of(&slice.metadata).expect("a name");
        let change = match SliceFacts::of(&slice) {
            Some(facts) => self.compiler.set_slice(key, facts),
            None => self.compiler.remove_slice(&key),
        };
        self.commit(change)
    }

    fn commit(&mut self, change: Change) -> Change {
        if change == Change::Fronts {
            self.table.set_fronts(self.compiler.fronts());
        }
        change
    }

    /// Says what becomes of many connections: the endpoints they got, or one word.
    fn ask(&self, protocol: Protocol, to: &str, client: Client) -> String {
        let to = to.parse().expect("an address");
        let mut seen = BTreeSet::new();
        for _ in 0..64 {
            seen.insert(
                match self.table.decide(protocol, to, client, Instant::now()) {
                    Decision::NotService => "not a service".to_owned(),
                    Decision::Endpoint(_, endpoint) => endpoint.address().to_string(),
                    Decision::Refuse => "refuse".to_owned(),
                    Decision::Drop => "drop".to_owned(),
                },
            );
        }
        seen.into_iter().collect::<Vec<_>>().join(" ")
    }

    fn tcp(&self, to: &str) -> String {
        self.ask(Protocol::Tcp, to, POD)
    }

    fn outside_to(&self, to: &str) -> String {
        self.ask(Protocol::Tcp, to, OUTSIDE)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A Service `default/web` with one port 80; `spec` says what is different.
fn web(spec: Value) -> Value {
    let mut service = json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "ports": [{"port": 80}],
        },
    });
    merge(&mut service["spec"], spec);
    service
}

/// A slice of `default/web` with one unnamed port 8080.
fn slice(name: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {
            "namespace": "default", "name": name,
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else { return };
    for (key, value) in from {
        into[key] = value;
    }
}

fn at(address: &str) -> Value {
    json!({"addresses": [address]})
}

fn on(node: &str, address: &str) -> Value {
    json!({"addresses": [address], "nodeName": node})
}

#[test]
fn a_service_is_served_at_its_cluster_ip() {
    let bench = Bench::with(web(json!({})), [slice("web-1", json!([at("10.244.0.2")]))]);
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.2:8080");
    assert_eq!(bench.tcp("10.96.0.7:81"), "refuse");
    assert_eq!(bench.ask(Protocol::Udp, "10.96.0.7:80", POD), "refuse");
    assert_eq!(bench.tcp("10.96.0.8:80"), "refuse");
    assert_eq!(bench.tcp("203.0.113.1:80"), "not a service");
}

#[test]
fn services_that_are_ignored_have_no_fronts() {
    let rows = [
        json!({"type": "ExternalName", "externalName": "example.com"}),
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"clusterIP": "", "clusterIPs": []}),
    ];
    for spec in rows {
        let bench = Bench::with(
            web(spec.clone()),
            [slice("web-1", json!([at("10.244.0.2")]))],
        );
        assert_eq!(bench.compiler.fronts().iter().count(), 0, "for {spec}");
    }
    let mut left = web(json!({}));
    left["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    let bench = Bench::with(left, []);
    assert_eq!(bench.compiler.fronts().iter().count(), 0);
}

#[test]
fn slices_that_are_ignored_have_no_endpoints() {
    let good = slice("web-1", json!([at("10.244.0.2")]));
    let rows: [(&str, Value); 5] = [
        ("/addressType", json!("FQDN")),
        ("/addressType", json!("IPv6")),
        (
            "/metadata/labels",
            json!({"kubernetes.io/service-name": "other"}),
        ),
        (
            "/metadata/labels",
            json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""}),
        ),
        (
            "/metadata/labels",
            json!({"kubernetes.io/service-name": "web",
                   "service.kubernetes.io/service-proxy-name": "other"}),
        ),
    ];
    for (place, value) in rows {
        let mut ignored = good.clone();
        *ignored.pointer_mut(place).expect("a place") = value;
        let bench = Bench::with(web(json!({})), [ignored.clone()]);
        assert_eq!(bench.tcp("10.96.0.7:80"), "refuse", "for {ignored}");
    }
}

#[test]
fn conditions_that_are_not_set_mean_ready_and_not_ending() {
    let rows = [
        (json!({}), "10.244.0.2:8080"),
        (json!({"ready": true}), "10.244.0.2:8080"),
        (json!({"ready": false}), "refuse"),
        (
            json!({"ready": false, "terminating": true}),
            "10.244.0.2:8080",
        ),
        (
            json!({"ready": false, "serving": false, "terminating": true}),
            "refuse",
        ),
        (json!({"ready": false, "serving": true}), "refuse"),
    ];
    for (conditions, expected) in rows {
        let endpoint = json!({"addresses": ["10.244.0.2"], "conditions": conditions});
        let bench = Bench::with(web(json!({})), [slice("web-1", json!([endpoint]))]);
        assert_eq!(bench.tcp("10.96.0.7:80"), expected, "for {conditions}");
    }
}

#[test]
fn an_address_in_two_slices_is_one_endpoint_and_the_ready_entry_counts() {
    let ending = json!({"addresses": ["10.244.0.2"],
        "conditions": {"ready": false, "serving": true, "terminating": true}});
    let fresh = at("10.244.0.2");
    for (first, second) in [(&ending, &fresh), (&fresh, &ending)] {
        let slices = [
            slice("web-1", json!([first])),
            slice("web-2", json!([second])),
        ];
        let bench = Bench::with(web(json!({})), slices);
        let fronts = bench.compiler.fronts();
        let (_, front) = fronts.iter().next().expect("a front");
        assert_eq!(front.service.routes().cluster.len(), 1);
    }
}

#[test]
fn only_the_first_address_of_an_endpoint_counts_and_it_must_be_usable() {
    let several = json!({"addresses": ["10.244.0.2", "10.244.0.3"]});
    let bench = Bench::with(web(json!({})), [slice("web-1", json!([several]))]);
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.2:8080");
    // A slice must not open the node's own loopback, nor what a cloud serves to it.
    for address in [
        "127.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "224.0.0.1",
        "web",
        "::ffff:127.0.0.1",
    ] {
        let bench = Bench::with(web(json!({})), [slice("web-1", json!([at(address)]))]);
        assert_eq!(bench.tcp("10.96.0.7:80"), "refuse", "for {address}");
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol_not_by_number() {
    let service = web(json!({"ports": [
        {"name": "http", "port": 80, "targetPort": 9},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "none", "port": 81},
    ]}));
    let mut ports = slice("web-1", json!([at("10.244.0.2")]));
    ports["ports"] = json!([
        {"name": "http", "port": 8080},
        {"name": "dns", "port": 5353, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 5354},
        {"name": "other", "port": 81},
        {"name": "none"},
    ]);
    let bench = Bench::with(service, [ports]);
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.2:8080");
    assert_eq!(
        bench.ask(Protocol::Udp, "10.96.0.7:53", POD),
        "10.244.0.2:5353"
    );
    assert_eq!(bench.tcp("10.96.0.7:53"), "10.244.0.2:5354");
    assert_eq!(bench.tcp("10.96.0.7:81"), "refuse");
}

#[test]
fn endpoints_of_one_name_and_several_numbers_are_all_used() {
    let mut other = slice("web-2", json!([at("10.244.0.3")]));
    other["ports"] = json!([{"port": 9090}]);
    let bench = Bench::with(
        web(json!({})),
        [slice("web-1", json!([at("10.244.0.2")])), other],
    );
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.2:8080 10.244.0.3:9090");
}

#[test]
fn the_internal_policy_local_keeps_to_this_node() {
    let service = web(json!({"internalTrafficPolicy": "Local"}));
    let both = json!([on("here", "10.244.0.2"), on("there", "10.244.1.2")]);
    let bench = Bench::with(service.clone(), [slice("web-1", both)]);
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.2:8080");
    let bench = Bench::with(
        service.clone(),
        [slice("web-1", json!([on("there", "10.244.1.2")]))],
    );
    assert_eq!(bench.tcp("10.96.0.7:80"), "drop");
    let bench = Bench::with(service, []);
    assert_eq!(bench.tcp("10.96.0.7:80"), "refuse");
}

#[test]
fn the_external_policy_local_holds_for_those_outside_only() {
    let service = web(json!({
        "type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 30080}],
        "externalIPs": ["203.0.113.5"],
    }));
    let there = slice("web-1", json!([on("there", "10.244.1.2")]));
    let bench = Bench::with(service, [there]);
    for to in ["192.0.2.1:30080", "203.0.113.5:80"] {
        assert_eq!(bench.outside_to(to), "drop", "for {to}");
        assert_eq!(bench.tcp(to), "10.244.1.2:8080", "for {to}");
        assert_eq!(
            bench.ask(Protocol::Tcp, to, Client::Node),
            "10.244.1.2:8080",
            "for {to}"
        );
    }
    // Of the cluster IP it says nothing.
    assert_eq!(bench.outside_to("10.96.0.7:80"), "10.244.1.2:8080");
}

#[test]
fn node_ports_are_served_on_the_nodes_addresses_only() {
    let service = web(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}));
    let bench = Bench::with(service, [slice("web-1", json!([at("10.244.0.2")]))]);
    assert_eq!(bench.outside_to("192.0.2.1:30080"), "10.244.0.2:8080");
    assert_eq!(bench.outside_to("192.0.2.1:80"), "not a service");
    assert_eq!(bench.outside_to("192.0.2.9:30080"), "not a service");
    assert_eq!(bench.outside_to("10.96.0.7:30080"), "refuse");
}

#[test]
fn load_balancer_addresses_of_mode_proxy_and_names_are_not_served() {
    let mut service = web(json!({
        "type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}],
    }));
    service["status"] = json!({"loadBalancer": {"ingress": [
        {"ip": "203.0.113.1"},
        {"ip": "203.0.113.2", "ipMode": "VIP"},
        {"ip": "203.0.113.3", "ipMode": "Proxy"},
        {"hostname": "lb.example.com"},
    ]}});
    let bench = Bench::with(service, [slice("web-1", json!([at("10.244.0.2")]))]);
    assert_eq!(bench.outside_to("203.0.113.1:80"), "10.244.0.2:8080");
    assert_eq!(bench.outside_to("203.0.113.2:80"), "10.244.0.2:8080");
    assert_eq!(bench.outside_to("203.0.113.3:80"), "not a service");
}

#[test]
fn source_ranges_hold_for_load_balancer_addresses_only() {
    let service = |ranges: Value| {
        let mut service = web(json!({
            "type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}],
            "externalIPs": ["203.0.113.5"], "loadBalancerSourceRanges": ranges,
        }));
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
        service
    };
    let rows = [
        (json!([]), "10.244.0.2:8080"),
        (json!(["0.0.0.0/0"]), "10.244.0.2:8080"),
        (
            json!(["192.0.2.0/24", " 198.51.100.0/24 "]),
            "10.244.0.2:8080",
        ),
        (json!(["192.0.2.0/24"]), "drop"),
        // What means nothing admits nobody.
        (json!(["everyone"]), "drop"),
    ];
    for (ranges, expected) in rows {
        let endpoints = slice("web-1", json!([at("10.244.0.2")]));
        let bench = Bench::with(service(ranges.clone()), [endpoints]);
        assert_eq!(bench.outside_to("203.0.113.1:80"), expected, "for {ranges}");
        for open in ["192.0.2.1:30080", "203.0.113.5:80", "10.96.0.7:80"] {
            assert_eq!(
                bench.outside_to(open),
                "10.244.0.2:8080",
                "for {ranges} at {open}"
            );
        }
        let node = bench.ask(Protocol::Tcp, "203.0.113.1:80", Client::Node);
        assert_eq!(node, "10.244.0.2:8080", "for {ranges}");
    }
}

#[test]
fn affinity_keeps_a_client_at_its_endpoint_and_its_time_is_the_services() {
    let seconds = |affinity: &Value| {
        let service = serde_json::from_value::<Service>(web(affinity.clone())).expect("a Service");
        ServiceFacts::of(&service)
            .expect("facts")
            .affinity
            .map(|time| time.as_secs())
    };
    assert_eq!(seconds(&json!({})), None);
    let client_ip = json!({"sessionAffinity": "ClientIP"});
    assert_eq!(seconds(&client_ip), Some(10_800));
    let timed = json!({"sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    assert_eq!(seconds(&timed), Some(60));
    let many = json!([
        at("10.244.0.2"),
        at("10.244.0.3"),
        at("10.244.0.4"),
        at("10.244.0.5")
    ]);
    let mut bench = Bench::with(web(client_ip), [slice("web-1", many)]);
    let first = bench.tcp("10.96.0.7:80");
    assert!(!first.contains(' '), "one endpoint, not {first}");
    // It survives a change of another endpoint.
    bench.slice(slice("web-2", json!([at("10.244.0.6")])));
    assert_eq!(bench.tcp("10.96.0.7:80"), first);
}

#[test]
fn sctp_is_refused_and_the_other_ports_are_served() {
    let service = web(json!({"ports": [
        {"name": "sctp", "port": 36412, "protocol": "SCTP"}, {"name": "", "port": 80},
    ]}));
    let parsed = serde_json::from_value::<Service>(service.clone()).expect("a Service");
    let facts = ServiceFacts::of(&parsed).expect("facts");
    let told = facts
        .refusals
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    assert_eq!(
        told,
        ["port 36412 is not served on this node: SCTP is not supported"]
    );
    let bench = Bench::with(service, [slice("web-1", json!([at("10.244.0.2")]))]);
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.2:8080");
}

#[test]
fn addresses_that_no_service_may_have_are_refused() {
    let service = web(json!({"externalIPs": ["127.0.0.1", "203.0.113.5", "nowhere"]}));
    let parsed = serde_json::from_value::<Service>(service).expect("a Service");
    let facts = ServiceFacts::of(&parsed).expect("facts");
    assert_eq!(facts.external_ips, [ip("203.0.113.5")]);
    assert_eq!(facts.refusals.len(), 2);
}

#[test]
fn the_families_of_a_service_do_not_mix() {
    let service = web(json!({
        "clusterIPs": ["10.96.0.7", "fd00::7"], "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}],
    }));
    let mut six = slice("web-6", json!([at("fd00:1::2")]));
    six["addressType"] = json!("IPv6");
    let bench = Bench::with(service, [slice("web-4", json!([at("10.244.0.2")])), six]);
    let rows = [
        ("10.96.0.7:80", "10.244.0.2:8080"),
        ("[fd00::7]:80", "[fd00:1::2]:8080"),
        ("192.0.2.1:30080", "10.244.0.2:8080"),
        ("[2001:db8::1]:30080", "[fd00:1::2]:8080"),
    ];
    for (to, expected) in rows {
        assert_eq!(bench.tcp(to), expected, "for {to}");
    }
}

#[test]
fn the_health_check_counts_ready_endpoints_of_this_node() {
    let service = web(json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999,
    }));
    let ending = json!({"addresses": ["10.244.0.4"], "nodeName": "here",
        "conditions": {"ready": false, "serving": true, "terminating": true}});
    let endpoints = json!([
        on("here", "10.244.0.2"),
        on("here", "10.244.0.3"),
        on("there", "10.244.1.2"),
        ending,
    ]);
    let bench = Bench::with(service, [slice("web-1", endpoints)]);
    let key = ServiceKey {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
    };
    let expected = LocalHealth {
        port: 30_999,
        local: 2,
    };
    assert_eq!(bench.compiler.local_health(&key), Some(expected));
    let cluster = web(json!({"type": "LoadBalancer", "healthCheckNodePort": 30999}));
    assert_eq!(Bench::with(cluster, []).compiler.local_health(&key), None);
}

#[test]
fn the_zone_of_the_node_decides_about_hints() {
    let hinted = |address: &str, zone: &str| json!({"addresses": [address], "hints": {"forZones": [{"name": zone}]}});
    let endpoints = json!([hinted("10.244.0.2", "a"), hinted("10.244.0.3", "b")]);
    let mut bench = Bench::with(web(json!({})), [slice("web-1", endpoints)]);
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.2:8080 10.244.0.3:8080");
    assert_eq!(
        bench.compiler.set_zone(Some("b".to_owned())),
        Change::Routes
    );
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.3:8080");
    assert_eq!(
        bench.compiler.set_zone(Some("b".to_owned())),
        Change::Nothing
    );
}

/// With ten thousand Services a pod's readiness must not touch the other ones.
#[test]
fn a_slice_changes_the_routes_of_its_service_and_nothing_else() {
    let mut bench = Bench::with(web(json!({})), []);
    let first = slice("web-1", json!([at("10.244.0.2")]));
    assert_eq!(bench.slice(first.clone()), Change::Reachability);
    assert_eq!(bench.slice(first), Change::Nothing);
    let more = slice("web-1", json!([at("10.244.0.2"), at("10.244.0.3")]));
    assert_eq!(bench.slice(more), Change::Routes);
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.2:8080 10.244.0.3:8080");
    assert_eq!(bench.slice(slice("web-1", json!([]))), Change::Reachability);
    assert_eq!(bench.tcp("10.96.0.7:80"), "refuse");
}

#[test]
fn a_service_and_its_slices_may_come_in_any_order() {
    let mut bench = Bench::new();
    let endpoints = slice("web-1", json!([at("10.244.0.2")]));
    assert_eq!(bench.slice(endpoints), Change::Nothing);
    assert_eq!(bench.service(web(json!({}))), Change::Fronts);
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.2:8080");
    let key = ServiceKey {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
    };
    let change = bench.compiler.remove_service(&key);
    bench.commit(change);
    assert_eq!(bench.tcp("10.96.0.7:80"), "refuse");
    assert_eq!(bench.compiler.fronts().iter().count(), 0);
    assert_eq!(bench.service(web(json!({}))), Change::Fronts);
    assert_eq!(bench.tcp("10.96.0.7:80"), "10.244.0.2:8080");
}

#[test]
fn a_service_that_is_as_before_changes_nothing() {
    let mut bench = Bench::with(web(json!({})), []);
    let mut touched = web(json!({}));
    touched["metadata"]["resourceVersion"] = json!("7");
    assert_eq!(bench.service(touched), Change::Nothing);
}

/// A pod that is not ready for a moment must not lose its figures, nor a Service its clients.
#[test]
fn ports_and_endpoints_survive_changes() {
    let mut bench = Bench::with(web(json!({})), [slice("web-1", json!([at("10.244.0.2")]))]);
    let port = |bench: &Bench| {
        let fronts = bench.compiler.fronts();
        let (_, front) = fronts.iter().next().expect("a front");
        Arc::clone(&front.service)
    };
    let before = port(&bench);
    let routes = before.routes();
    let endpoint = routes.cluster.first().expect("an endpoint");
    endpoint.counters().connections.store(7, Ordering::Relaxed);
    let away = json!({"addresses": ["10.244.0.2"], "conditions": {"ready": false}});
    bench.slice(slice("web-1", json!([away])));
    assert_eq!(bench.tcp("10.96.0.7:80"), "refuse");
    bench.slice(slice("web-1", json!([at("10.244.0.2"), at("10.244.0.3")])));
    bench.service(web(json!({"externalIPs": ["203.0.113.5"]})));
    let after = port(&bench);
    assert!(Arc::ptr_eq(&before, &after), "the port is the same");
    let kept = after.routes();
    let kept = kept.cluster.first().expect("an endpoint");
    assert_eq!(kept.counters().connections.load(Ordering::Relaxed), 7);
}

#[test]
fn a_slice_that_moves_to_another_service_leaves_the_first_one() {
    let mut bench = Bench::with(web(json!({})), [slice("web-1", json!([at("10.244.0.2")]))]);
    let mut other = web(json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8"]}));
    other["metadata"]["name"] = json!("other");
    bench.service(other);
    let mut moved = slice("web-1", json!([at("10.244.0.2")]));
    moved["metadata"]["labels"] = json!({"kubernetes.io/service-name": "other"});
    bench.slice(moved);
    assert_eq!(bench.tcp("10.96.0.7:80"), "refuse");
    assert_eq!(bench.tcp("10.96.0.8:80"), "10.244.0.2:8080");
}

/// A watch that begins anew lists what is there; what it does not name was deleted meanwhile.
#[test]
fn what_a_new_list_does_not_name_is_gone() {
    let bench = Bench::with(web(json!({})), [slice("web-1", json!([at("10.244.0.2")]))]);
    assert_eq!(bench.compiler.services_beside(&HashSet::new()).len(), 1);
    assert_eq!(bench.compiler.slices_beside(&HashSet::new()).len(), 1);
    let named = bench
        .compiler
        .slices_beside(&HashSet::new())
        .into_iter()
        .collect();
    assert!(bench.compiler.slices_beside(&named).is_empty());
}
