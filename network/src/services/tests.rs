//! The rules of kube-proxy for one connection, each a test named after it.

use super::*;

const VIP: &str = "10.96.0.7:80";

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

fn endpoints(addresses: &[&str]) -> Arc<[Arc<Endpoint>]> {
    addresses.iter().map(|one| Endpoint::new(at(one))).collect()
}

fn port(affinity: Option<Duration>, routes: Routes) -> Arc<ServicePort> {
    let name = ServicePortName {
        namespace: "default".to_owned(),
        service: "web".to_owned(),
        port: String::new(),
        protocol: Protocol::Tcp,
    };
    let port = ServicePort::new(name, affinity);
    port.set_routes(routes);
    Arc::new(port)
}

fn table(kind: FrontKind, service: Arc<ServicePort>, ranges: Option<&[&str]>) -> ServiceTable {
    let table = ServiceTable::default();
    let mut fronts = Fronts::new(
        vec!["10.96.0.0/16".parse().expect("a range")],
        [ip("192.0.2.1"), ip("10.244.0.1")],
    );
    let to = at(VIP);
    let address = FrontAddress {
        ip: (kind != FrontKind::NodePort).then_some(to.ip()),
        port: to.port(),
        protocol: Protocol::Tcp,
    };
    let source_ranges = ranges.map(|ranges| {
        let parsed = ranges.iter().map(|range| range.parse().expect("a range"));
        parsed.collect()
    });
    let front = Front {
        service,
        kind,
        source_ranges,
    };
    fronts.insert(address, front);
    table.set_fronts(fronts);
    table
}

fn ask(table: &ServiceTable, to: &str, client: Client) -> String {
    match table.decide(Protocol::Tcp, at(to), client, Instant::now()) {
        Decision::NotService => "not a service".to_owned(),
        Decision::Endpoint(_, endpoint) => endpoint.address().to_string(),
        Decision::Refuse => "refuse".to_owned(),
        Decision::Drop => "drop".to_owned(),
    }
}

fn pod() -> Client {
    Client::Pod(ip("10.244.0.9"))
}

fn outside() -> Client {
    Client::Outside(ip("198.51.100.7"))
}

#[test]
fn every_endpoint_of_the_set_is_reached() {
    let all = ["10.244.0.2:8080", "10.244.0.3:8080", "10.244.1.2:8080"];
    let routes = Routes {
        cluster: endpoints(&all),
        ..Routes::default()
    };
    let table = table(FrontKind::ClusterIp, port(None, routes), None);
    let reached: HashSet<String> = (0..200).map(|_| ask(&table, VIP, pod())).collect();
    assert_eq!(reached, all.iter().map(|one| (*one).to_owned()).collect());
}

/// A rule, the kind of front, the internal and the external policy, endpoints of the cluster and of
/// this node, who connects, and where that leads.
type PolicyRow<'a> = (
    &'a str,
    FrontKind,
    [TrafficPolicy; 2],
    [&'a [&'a str]; 2],
    Client,
    &'a str,
);

#[rustfmt::skip]
fn policy_rows() -> Vec<PolicyRow<'static>> {
    use FrontKind::{ClusterIp, LoadBalancer, NodePort};
    use TrafficPolicy::{Cluster, Local};
    const HERE: &[&str] = &["10.244.0.2:80"];
    const FAR: &[&str] = &["10.244.1.2:80"];
    const NONE: &[&str] = &[];
    vec![
        ("cluster IP, Cluster, none: refused", ClusterIp, [Cluster, Cluster], [NONE, NONE], pod(), "refuse"),
        ("cluster IP, Local, none at all: refused", ClusterIp, [Local, Cluster], [NONE, NONE], pod(), "refuse"),
        ("cluster IP, Local, none here: dropped", ClusterIp, [Local, Cluster], [FAR, NONE], pod(), "drop"),
        ("cluster IP, Local, one here", ClusterIp, [Local, Cluster], [FAR, HERE], pod(), HERE[0]),
        ("cluster IP ignores the external policy", ClusterIp, [Cluster, Local], [FAR, NONE], outside(), FAR[0]),
        ("node port, Local, from outside", NodePort, [Cluster, Local], [FAR, HERE], outside(), HERE[0]),
        ("node port, Local, none here: dropped", NodePort, [Cluster, Local], [FAR, NONE], outside(), "drop"),
        ("node port, Local, from the node: all", NodePort, [Cluster, Local], [FAR, NONE], Client::Node, FAR[0]),
        ("balancer, Local, from a pod: all", LoadBalancer, [Cluster, Local], [FAR, NONE], pod(), FAR[0]),
        ("balancer, Local, none at all: refused", LoadBalancer, [Cluster, Local], [NONE, NONE], outside(), "refuse"),
    ]
}

#[test]
fn policies_choose_the_set_and_what_happens_without_endpoints() {
    for (rule, kind, [internal, external], [cluster, local], client, expected) in policy_rows() {
        let routes = Routes {
            cluster: endpoints(cluster),
            local: endpoints(local),
            internal,
            external,
        };
        let table = table(kind, port(None, routes), None);
        let to = if kind == FrontKind::NodePort {
            "192.0.2.1:80"
        } else {
            VIP
        };
        assert_eq!(ask(&table, to, client), expected, "{rule}");
    }
}

#[test]
fn source_ranges_drop_others_but_never_the_node() {
    let routes = Routes {
        cluster: endpoints(&["10.244.0.2:80"]),
        ..Routes::default()
    };
    let ranges: &[&str] = &["203.0.113.0/24", "10.244.0.9/32"];
    let table = table(FrontKind::LoadBalancer, port(None, routes), Some(ranges));
    assert_eq!(ask(&table, VIP, outside()), "drop");
    let allowed = Client::Outside(ip("::ffff:203.0.113.5"));
    assert_eq!(ask(&table, VIP, allowed), "10.244.0.2:80");
    assert_eq!(ask(&table, VIP, pod()), "10.244.0.2:80");
    assert_eq!(ask(&table, VIP, Client::Node), "10.244.0.2:80");
}

#[test]
fn an_address_of_a_service_answers_on_declared_ports_only() {
    let routes = Routes {
        cluster: endpoints(&["10.244.0.2:80"]),
        ..Routes::default()
    };
    let service = port(None, routes);
    let virtual_ip = table(FrontKind::ClusterIp, Arc::clone(&service), None);
    assert_eq!(ask(&virtual_ip, "10.96.0.7:81", pod()), "refuse");
    assert_eq!(ask(&virtual_ip, "10.96.9.9:80", pod()), "refuse");
    assert_eq!(ask(&virtual_ip, "192.0.2.1:80", pod()), "not a service");
    let udp = virtual_ip.decide(Protocol::Udp, at(VIP), pod(), Instant::now());
    assert!(matches!(udp, Decision::Refuse));
    let node_port = table(FrontKind::NodePort, service, None);
    assert_eq!(ask(&node_port, "192.0.2.1:80", outside()), "10.244.0.2:80");
    assert_eq!(ask(&node_port, "10.244.0.1:80", pod()), "10.244.0.2:80");
    assert_eq!(ask(&node_port, "192.0.2.1:81", outside()), "not a service");
    assert_eq!(ask(&node_port, "192.0.2.2:80", outside()), "not a service");
}

#[test]
fn a_family_may_have_its_own_front_on_all_addresses_of_the_node() {
    let to = |endpoint| {
        let routes = Routes {
            cluster: endpoints(&[endpoint]),
            ..Routes::default()
        };
        Front {
            service: port(None, routes),
            kind: FrontKind::NodePort,
            source_ranges: None,
        }
    };
    let on = |ip| FrontAddress {
        ip,
        port: 30_080,
        protocol: Protocol::Tcp,
    };
    let mut fronts = Fronts::new(Vec::new(), [ip("192.0.2.1"), ip("2001:db8::1")]);
    fronts.insert(on(None), to("10.244.0.2:80"));
    assert!(fronts.is_meant(on(None), ip("::1")));
    fronts.insert(on(Some(ip("::"))), to("[fd00:1::2]:80"));
    assert!(fronts.is_meant(on(None), ip("127.0.0.1")));
    assert!(!fronts.is_meant(on(None), ip("::1")));
    assert!(fronts.is_meant(on(Some(ip("::"))), ip("::1")));
    assert!(!fronts.is_owned(ip("::")));
    let table = ServiceTable::default();
    table.set_fronts(fronts);
    assert_eq!(ask(&table, "192.0.2.1:30080", outside()), "10.244.0.2:80");
    let six = ask(&table, "[2001:db8::1]:30080", outside());
    assert_eq!(six, "[fd00:1::2]:80");
    assert_eq!(
        ask(&table, "[2001:db8::2]:30080", outside()),
        "not a service"
    );
}

#[test]
fn affinity_holds_by_client_over_all_fronts_while_the_endpoint_is_eligible() {
    let all = ["10.244.0.2:80", "10.244.0.3:80", "10.244.0.4:80"];
    let routes = |addresses: &[&str]| Routes {
        cluster: endpoints(addresses),
        ..Routes::default()
    };
    let service = port(Some(Duration::from_secs(60)), routes(&all));
    let by_ip = table(FrontKind::ClusterIp, Arc::clone(&service), None);
    let by_port = table(FrontKind::NodePort, Arc::clone(&service), None);
    let first = ask(&by_ip, VIP, pod());
    for _ in 0..50 {
        assert_eq!(ask(&by_ip, VIP, pod()), first);
        assert_eq!(ask(&by_port, "192.0.2.1:80", pod()), first);
    }
    let rest: Vec<&str> = all.into_iter().filter(|one| *one != first).collect();
    service.set_routes(routes(&rest));
    let second = ask(&by_ip, VIP, pod());
    assert!(rest.contains(&second.as_str()));
    service.set_routes(routes(&all));
    assert_eq!(ask(&by_ip, VIP, pod()), second);
}

#[test]
fn affinity_holds_for_who_connects_on_the_node_too() {
    let routes = Routes {
        cluster: endpoints(&["10.244.0.2:80", "10.244.0.3:80", "10.244.0.4:80"]),
        ..Routes::default()
    };
    let service = port(Some(Duration::from_secs(60)), routes);
    let table = table(FrontKind::NodePort, service, None);
    let first = ask(&table, "192.0.2.1:80", Client::Node);
    for _ in 0..50 {
        assert_eq!(ask(&table, "192.0.2.1:80", Client::Node), first);
    }
}

#[test]
fn an_endpoint_that_did_not_take_a_connection_is_not_asked_again() {
    let all = ["10.244.0.2:80", "10.244.0.3:80"];
    let service = port(
        Some(Duration::from_secs(60)),
        Routes {
            cluster: endpoints(&all),
            ..Routes::default()
        },
    );
    let front = Front {
        service,
        kind: FrontKind::ClusterIp,
        source_ranges: None,
    };
    let now = Instant::now();
    let Decision::Endpoint(_, first) = front.decide(pod(), now, &[]) else {
        panic!("there are endpoints");
    };
    let Decision::Endpoint(_, second) = front.decide(pod(), now, &[first.address()]) else {
        panic!("there is another endpoint");
    };
    assert_ne!(first.address(), second.address());
    let tried = [first.address(), second.address()];
    assert!(matches!(front.decide(pod(), now, &tried), Decision::Refuse));
}
