use super::*;
use crate::PodIdentity;

fn zone() -> Zone {
    let zone = Zone::new("cluster.local".to_owned());
    zone.set_ranges(vec![
        "10.244.0.0/16".parse().expect("a range"),
        "10.96.0.0/16".parse().expect("a range"),
        "fd00:96::/112".parse().expect("a range"),
    ]);
    zone.set_servers(vec![ip("10.244.0.1")]);
    zone
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn port(name: &str, protocol: ZoneProtocol, port: u16) -> ZonePort {
    ZonePort {
        name: name.to_owned(),
        protocol,
        port,
    }
}

fn cluster(ips: &[&str]) -> ServiceRecords {
    ServiceRecords::Cluster {
        ips: ips.iter().map(|text| ip(text)).collect(),
        ports: vec![
            port("http", ZoneProtocol::Tcp, 80),
            port("dns", ZoneProtocol::Udp, 53),
            port("signal", ZoneProtocol::Sctp, 7),
        ],
    }
}

fn endpoint(address: &str, hostname: Option<&str>) -> HeadlessEndpoint {
    HeadlessEndpoint {
        ip: ip(address),
        hostname: hostname.map(str::to_owned),
        ports: vec![port("sql", ZoneProtocol::Tcp, 5432)],
    }
}

fn headless(endpoints: &[(&str, Option<&str>)]) -> ServiceRecords {
    let endpoints = endpoints.iter().map(|(ip, host)| endpoint(ip, *host));
    ServiceRecords::Headless {
        endpoints: endpoints.collect(),
    }
}

fn external(target: &str) -> ServiceRecords {
    ServiceRecords::External {
        target: target.to_owned(),
    }
}

/// An answer as one line: the records in order of the alphabet.
fn told(zone: &Zone, kind: RecordKind, name: &str) -> String {
    match zone.answer(&Question::new(name, kind)) {
        Answer::Records(records) => {
            let mut records = records.iter().map(record_told).collect::<Vec<_>>();
            records.sort();
            records.join(", ")
        }
        Answer::Alias(target) => format!("alias {target}"),
        Answer::NoData => "no data".to_owned(),
        Answer::NoSuchName => "no such name".to_owned(),
        Answer::NotOurs => "not ours".to_owned(),
    }
}

fn record_told(record: &Record) -> String {
    match record {
        Record::Address(ip) => ip.to_string(),
        Record::Port {
            weight,
            port,
            target,
        } => format!("{weight} {port} {target}"),
        Record::Pointer(name) | Record::Server(name) => name.clone(),
        Record::Text(text) => format!("{text:?}"),
        Record::Authority(authority) => format!("{} {}", authority.server, authority.mailbox),
    }
}

#[track_caller]
fn check(zone: &Zone, rows: &[(RecordKind, &str, &str)]) {
    for (kind, name, expected) in rows {
        assert_eq!(told(zone, *kind, name), *expected, "{kind:?} {name}");
    }
}

use RecordKind::{A, Aaaa, Cname, Ns, Other, Ptr, Soa, Srv, Txt};

#[test]
fn the_zone_tells_its_version_and_its_authority() {
    check(
        &zone(),
        &[
            (Txt, "dns-version.cluster.local", "\"1.1.0\""),
            (A, "dns-version.cluster.local", "no data"),
            (
                Soa,
                "cluster.local",
                "ns.dns.cluster.local hostmaster.cluster.local",
            ),
            (Ns, "cluster.local.", "ns.dns.cluster.local"),
            (A, "ns.dns.cluster.local", "10.244.0.1"),
            (Aaaa, "ns.dns.cluster.local", "no data"),
            (A, "cluster.local", "no data"),
            (A, "svc.cluster.local", "no data"),
            (A, "pod.cluster.local", "no data"),
            (A, "dns.cluster.local", "no data"),
        ],
    );
}

#[test]
fn a_service_with_a_cluster_ip_has_addresses_and_its_named_ports() {
    let zone = zone();
    zone.set("shop", "web", cluster(&["10.96.0.7", "fd00:96::7"]));
    let full = "web.shop.svc.cluster.local";
    let sub = |prefix: &str| format!("{prefix}.{full}");
    check(
        &zone,
        &[
            (A, full, "10.96.0.7"),
            (Aaaa, full, "fd00:96::7"),
            (Srv, full, "no data"),
            (Cname, full, "no data"),
            (Other, full, "no data"),
            (Srv, &sub("_http._tcp"), "100 80 web.shop.svc.cluster.local"),
            (Srv, &sub("_dns._udp"), "100 53 web.shop.svc.cluster.local"),
            (
                Srv,
                &sub("_signal._sctp"),
                "100 7 web.shop.svc.cluster.local",
            ),
            (Srv, &sub("_http._udp"), "no such name"),
            (A, &sub("_http._tcp"), "no data"),
            (A, &sub("_tcp"), "no data"),
            (A, &sub("x"), "no such name"),
            (A, &sub("x.y"), "no such name"),
            (Ptr, "7.0.96.10.in-addr.arpa", full),
            (A, "7.0.96.10.in-addr.arpa", "no data"),
        ],
    );
}

#[test]
fn a_headless_service_stands_for_its_endpoints() {
    let zone = zone();
    let endpoints = [
        ("10.244.0.2", Some("db-0")),
        ("10.244.0.3", Some("db-1")),
        ("10.244.0.4", None),
        ("fd00::4", None),
    ];
    zone.set("data", "db", headless(&endpoints));
    let full = "db.data.svc.cluster.local";
    let sub = |prefix: &str| format!("{prefix}.{full}");
    let ports = [
        "25 5432 10-244-0-4.db.data.svc.cluster.local",
        "25 5432 db-0.db.data.svc.cluster.local",
        "25 5432 db-1.db.data.svc.cluster.local",
        "25 5432 fd00--4.db.data.svc.cluster.local",
    ];
    check(
        &zone,
        &[
            (A, full, "10.244.0.2, 10.244.0.3, 10.244.0.4"),
            (Aaaa, full, "fd00::4"),
            (A, &sub("db-1"), "10.244.0.3"),
            (Aaaa, &sub("db-1"), "no data"),
            (A, &sub("10-244-0-4"), "10.244.0.4"),
            (Aaaa, &sub("fd00--4"), "fd00::4"),
            (A, &sub("db-2"), "no such name"),
            (Srv, &sub("_sql._tcp"), &ports.join(", ")),
            (Ptr, "2.0.244.10.in-addr.arpa", &sub("db-0")),
            (Ptr, "4.0.244.10.in-addr.arpa", "no such name"),
        ],
    );
}

#[test]
fn a_headless_service_without_endpoints_has_no_name() {
    let zone = zone();
    zone.set("data", "db", headless(&[]));
    check(
        &zone,
        &[
            (A, "db.data.svc.cluster.local", "no such name"),
            (Srv, "_sql._tcp.db.data.svc.cluster.local", "no such name"),
            (A, "data.svc.cluster.local", "no data"),
        ],
    );
}

#[test]
fn an_external_name_is_an_alias_whatever_is_asked() {
    let zone = zone();
    zone.set("shop", "mail", external("Mail.Example.com."));
    zone.set("shop", "old", external("192.0.2.7"));
    let name = "mail.shop.svc.cluster.local";
    check(
        &zone,
        &[
            (A, name, "alias mail.example.com"),
            (Aaaa, name, "alias mail.example.com"),
            (Cname, name, "alias mail.example.com"),
            (A, "_a._tcp.mail.shop.svc.cluster.local", "no such name"),
            (A, "old.shop.svc.cluster.local", "192.0.2.7"),
            (Aaaa, "old.shop.svc.cluster.local", "no data"),
        ],
    );
}

#[test]
fn a_service_that_stops_being_an_external_name_has_an_address() {
    let zone = zone();
    zone.set("shop", "web", external("example.com"));
    zone.set("shop", "web", cluster(&["10.96.0.9"]));
    check(&zone, &[(A, "web.shop.svc.cluster.local", "10.96.0.9")]);
}

#[test]
fn aliases_are_followed_into_the_zone_and_to_a_bound() {
    let zone = zone();
    let follow = |name: &str| zone.follow(&Question::new(name, A));
    zone.set("a", "one", external("two.a.svc.cluster.local"));
    zone.set("a", "two", external("web.a.svc.cluster.local"));
    zone.set("a", "web", cluster(&["10.96.0.9"]));
    zone.set("a", "out", external("example.com"));
    zone.set("a", "round", external("round.a.svc.cluster.local"));
    let inside = follow("one.a.svc.cluster.local");
    assert_eq!(inside.aliases.len(), 2);
    assert!(matches!(inside.answer, Some(Answer::Records(_))));
    let outside = follow("out.a.svc.cluster.local");
    assert_eq!(outside.aliases, ["example.com"]);
    assert_eq!(outside.answer, Some(Answer::NotOurs));
    let round = follow("round.a.svc.cluster.local");
    assert_eq!((round.aliases.len(), round.answer), (ALIASES_MAX, None));
    let alias = zone.follow(&Question::new("one.a.svc.cluster.local", Cname));
    assert_eq!(alias.aliases, [""; 0]);
}

#[test]
fn names_are_compared_without_regard_to_case() {
    let zone = zone();
    zone.set("shop", "web", cluster(&["10.96.0.7"]));
    check(
        &zone,
        &[
            (A, "WEB.Shop.SVC.Cluster.LOCAL.", "10.96.0.7"),
            (
                Srv,
                "_HTTP._TCP.web.shop.svc.cluster.local",
                "100 80 web.shop.svc.cluster.local",
            ),
            (Ptr, "7.0.96.10.IN-ADDR.arpa", "web.shop.svc.cluster.local"),
        ],
    );
}

#[test]
fn what_is_unknown_inside_does_not_exist_and_what_is_outside_is_not_ours() {
    let zone = zone();
    zone.set("shop", "web", cluster(&["10.96.0.7"]));
    check(
        &zone,
        &[
            (A, "x.cluster.local", "no such name"),
            (A, "x.shop.svc.cluster.local", "no such name"),
            (A, "web.other.svc.cluster.local", "no such name"),
            (A, "other.svc.cluster.local", "no such name"),
            (A, "shop.svc.cluster.local", "no data"),
            (A, "..svc.cluster.local", "no such name"),
            (A, ".svc.cluster.local", "no such name"),
            (A, "example.com", "not ours"),
            (A, "xcluster.local", "not ours"),
            (A, "", "not ours"),
            (Ptr, "8.0.96.10.in-addr.arpa", "no such name"),
            (Ptr, "8.8.8.8.in-addr.arpa", "not ours"),
            (Ptr, "8.8.in-addr.arpa", "not ours"),
        ],
    );
}

fn pod(namespace: &str, hostname: &str, subdomain: Option<&str>) -> PodIdentity {
    PodIdentity {
        namespace: namespace.to_owned(),
        name: hostname.to_owned(),
        uid: hostname.to_owned(),
        hostname: hostname.to_owned(),
        subdomain: subdomain.map(str::to_owned),
    }
}

#[test]
fn a_pod_has_a_record_by_its_address_while_it_is_attached() {
    let zone = zone();
    let (address, identity) = (Ipv4Addr::new(10, 244, 0, 9), pod("shop", "p", None));
    zone.enter_pod(address, None, &identity);
    let name = "10-244-0-9.shop.pod.cluster.local";
    check(
        &zone,
        &[
            (A, name, "10.244.0.9"),
            (Aaaa, name, "no data"),
            (A, "10-244-0-9.other.pod.cluster.local", "no such name"),
            (A, "10-244-0-8.shop.pod.cluster.local", "no such name"),
            (A, "300-1-1-1.shop.pod.cluster.local", "no such name"),
            (A, "shop.pod.cluster.local", "no data"),
        ],
    );
    zone.forget_pod(address, None, &identity);
    zone.forget_pod(address, None, &identity);
    check(
        &zone,
        &[
            (A, name, "no such name"),
            (A, "shop.pod.cluster.local", "no such name"),
        ],
    );
}

#[test]
fn a_pod_has_its_host_name_below_its_subdomain_unless_a_headless_service_says_otherwise() {
    let zone = zone();
    let (address, identity) = (
        Ipv4Addr::new(10, 244, 0, 9),
        pod("shop", "web-0", Some("web")),
    );
    zone.enter_pod(address, None, &identity);
    let name = "web-0.web.shop.svc.cluster.local";
    check(&zone, &[(A, name, "10.244.0.9")]);
    zone.set("shop", "web", cluster(&["10.96.0.7"]));
    check(&zone, &[(A, name, "10.244.0.9")]);
    zone.set("shop", "web", headless(&[("10.244.0.8", Some("web-1"))]));
    check(&zone, &[(A, name, "no such name")]);
}

#[test]
fn a_service_that_is_removed_leaves_nothing_behind() {
    let zone = zone();
    let before = zone.authority("cluster.local").serial;
    zone.set("data", "db", headless(&[("10.244.0.2", Some("db-0"))]));
    zone.set("data", "other", headless(&[("10.244.0.2", Some("x"))]));
    let reverse = "2.0.244.10.in-addr.arpa";
    check(
        &zone,
        &[(
            Ptr,
            reverse,
            "db-0.db.data.svc.cluster.local, x.other.data.svc.cluster.local",
        )],
    );
    zone.set("data", "db", headless(&[("10.244.0.3", Some("db-0"))]));
    check(&zone, &[(Ptr, reverse, "x.other.data.svc.cluster.local")]);
    zone.remove("data", "other");
    zone.remove("data", "db");
    zone.remove("data", "db");
    check(
        &zone,
        &[
            (Ptr, reverse, "no such name"),
            (Ptr, "3.0.244.10.in-addr.arpa", "no such name"),
            (A, "db.data.svc.cluster.local", "no such name"),
            (A, "data.svc.cluster.local", "no such name"),
        ],
    );
    assert!(zone.authority("cluster.local").serial > before);
}

#[test]
fn the_authority_of_a_reverse_name_is_that_of_its_zone() {
    let zone = zone();
    for (name, expected) in [
        ("x.Cluster.local.", "cluster.local"),
        ("8.0.96.10.in-addr.arpa.", "in-addr.arpa"),
        ("f.ip6.arpa", "ip6.arpa"),
    ] {
        assert_eq!(zone.authority(name).zone, expected, "{name}");
    }
}
