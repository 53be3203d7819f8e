//! Names a guest asks for.

use std::net::IpAddr;
use std::sync::Arc;

use coracle_network::{
    Fabric, HeadlessEndpoint, LookUp, NameClient, NameSource, NetError, PodIdentity, PodNetwork,
    ResolverConfig, ServiceRecords, Upstream,
};

use crate::fixture::*;

fn stateful(fabric: &Fabric, namespace: &str, hostname: &str) -> PodNetwork {
    let identity = PodIdentity {
        namespace: namespace.to_owned(),
        name: hostname.to_owned(),
        uid: format!("{namespace}/{hostname}"),
        hostname: hostname.to_owned(),
        subdomain: Some("db".to_owned()),
    };
    fabric.attach(identity).expect("free")
}

async fn check(asking: &PodNetwork, name: &str, expected: &[IpAddr]) {
    assert_eq!(
        asking.resolve(name).await.expect("answered"),
        expected,
        "{name}"
    );
}

#[tokio::test]
async fn pods_are_found_by_host_name_and_subdomain_and_by_address() {
    let fabric = fabric();
    let (a, b) = (
        stateful(&fabric, "data", "db-0"),
        stateful(&fabric, "data", "db-1"),
    );
    let other = stateful(&fabric, "web", "db-0");
    let (ip, own) = (IpAddr::V4(b.ip()), IpAddr::V4(a.ip()));
    let dashed = b.ip().to_string().replace('.', "-");
    for name in [
        "db-1.db",
        "db-1.db.data",
        "DB-1.db.data.svc",
        "db-1.db.data.svc.cluster.local.",
    ] {
        check(&a, name, &[ip]).await;
    }
    check(&a, "db-0", &[own]).await;
    check(&a, "db-0.db", &[own]).await;
    check(&a, "db-0.db.web", &[IpAddr::V4(other.ip())]).await;
    check(&other, &format!("{dashed}.data.pod.cluster.local"), &[ip]).await;
    let wrong = other
        .resolve(&format!("{dashed}.web.pod.cluster.local"))
        .await;
    assert!(matches!(wrong, Err(NetError::NameNotFound)));
    b.detach();
    let gone = a.resolve("db-1.db.data.svc.cluster.local").await;
    assert!(matches!(gone, Err(NetError::NameNotFound)));
}

#[tokio::test]
async fn literals_and_localhost_ask_nobody() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let loopback = [
        "127.0.0.1".parse().expect("one"),
        "::1".parse().expect("one"),
    ];
    check(&a, "localhost", &loopback).await;
    check(&a, "192.0.2.7", &["192.0.2.7".parse().expect("one")]).await;
    check(&a, "a", &[IpAddr::V4(a.ip())]).await;
    assert_eq!(a.hostname(), "a");
    let refused = a.resolve("no name").await;
    assert!(matches!(refused, Err(NetError::InvalidArgument)));
}

#[tokio::test]
async fn what_the_hosts_resolver_does_not_know_is_not_found() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let unknown = a.resolve("no-such-host.invalid").await;
    let expected = |error: &NetError| {
        matches!(
            error,
            NetError::NameNotFound | NetError::ResolverUnavailable
        )
    };
    assert!(unknown.as_ref().is_err_and(expected), "{unknown:?}");
}

/// Answers by a list, and writes down who asked whom for what.
struct Listed {
    known: Vec<(&'static str, IpAddr)>,
    asked: std::sync::Mutex<Vec<String>>,
}

impl NameClient for Listed {
    fn look_up<'a>(
        &'a self,
        from: &'a PodNetwork,
        servers: &'a [IpAddr],
        name: &'a str,
    ) -> LookUp<'a> {
        let who = from.hostname();
        let servers = servers.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        let line = format!("{who} {} {name}", servers.join("+"));
        self.asked.lock().expect("no holder panics").push(line);
        let known = self.known.iter().filter(|(known, _)| *known == name);
        let found = known.map(|(_, ip)| *ip).collect::<Vec<_>>();
        Box::pin(async move {
            match found.is_empty() {
                true => Err(NetError::NameNotFound),
                false => Ok(found),
            }
        })
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn listed(fabric: &Fabric) -> Arc<Listed> {
    let client = Arc::new(Listed {
        known: vec![
            ("example.com", ip("192.0.2.1")),
            ("api.lan", ip("192.0.2.2")),
        ],
        asked: std::sync::Mutex::default(),
    });
    fabric.set_name_client(Arc::clone(&client) as Arc<dyn NameClient>);
    client
}

fn asked(client: &Listed) -> Vec<String> {
    std::mem::take(&mut *client.asked.lock().expect("no holder panics"))
}

fn cluster(address: &str) -> ServiceRecords {
    ServiceRecords::Cluster {
        ips: vec![ip(address)],
        ports: Vec::new(),
    }
}

#[tokio::test]
async fn services_are_found_by_every_form_of_their_name() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    fabric.zone().set("default", "web", cluster("10.96.0.7"));
    fabric.zone().set("data", "db", cluster("10.96.0.8"));
    for name in [
        "web",
        "WEB.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
    ] {
        check(&a, name, &[ip("10.96.0.7")]).await;
    }
    check(&a, "db.data", &[ip("10.96.0.8")]).await;
    let other_namespace = a.resolve("db.default.svc.cluster.local").await;
    assert!(matches!(other_namespace, Err(NetError::NameNotFound)));
}

#[tokio::test]
async fn a_headless_name_gives_all_endpoints_in_random_order() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let endpoints = (2..=9).map(|last| HeadlessEndpoint {
        ip: IpAddr::from([10, 244, 1, last]),
        hostname: None,
        ports: Vec::new(),
    });
    let mut all = endpoints
        .clone()
        .map(|endpoint| endpoint.ip)
        .collect::<Vec<_>>();
    let endpoints = endpoints.collect();
    fabric
        .zone()
        .set("default", "db", ServiceRecords::Headless { endpoints });
    let mut firsts = std::collections::HashSet::new();
    // The chance that one endpoint leads 200 times of 8 is nil.
    for _ in 0..200 {
        let mut found = a.resolve("db").await.expect("endpoints are there");
        firsts.insert(found[0]);
        found.sort();
        all.sort();
        assert_eq!(found, all);
    }
    assert!(firsts.len() > 1);
}

#[tokio::test]
async fn an_external_name_leads_back_into_the_zone_or_upstream() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let client = listed(&fabric);
    fabric.set_upstream(Upstream::Servers(vec![ip("10.96.0.10")]));
    let external = |target: &str| ServiceRecords::External {
        target: target.to_owned(),
    };
    let zone = fabric.zone();
    zone.set("default", "web", cluster("10.96.0.7"));
    zone.set(
        "default",
        "inside",
        external("web.default.svc.cluster.local"),
    );
    zone.set("default", "outside", external("example.com"));
    zone.set(
        "default",
        "round",
        external("round.default.svc.cluster.local"),
    );
    check(&a, "inside", &[ip("10.96.0.7")]).await;
    assert_eq!(asked(&client), [""; 0]);
    check(&a, "outside", &[ip("192.0.2.1")]).await;
    assert_eq!(asked(&client), ["localhost 10.96.0.10 example.com"]);
    let round = a.resolve("round.default.svc.cluster.local").await;
    assert!(matches!(round, Err(NetError::NameNotFound)), "{round:?}");
}

#[tokio::test]
async fn names_of_others_go_to_the_clusters_servers_and_those_of_the_zone_do_not() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let client = listed(&fabric);
    fabric.set_upstream(Upstream::Servers(vec![ip("10.96.0.10"), ip("10.96.0.11")]));
    check(&a, "example.com", &[ip("192.0.2.1")]).await;
    assert_eq!(
        asked(&client),
        ["localhost 10.96.0.10+10.96.0.11 example.com"]
    );
    let unknown = a.resolve("x.default.svc.cluster.local.").await;
    assert!(matches!(unknown, Err(NetError::NameNotFound)));
    assert_eq!(asked(&client), [""; 0]);
}

#[tokio::test]
async fn a_pod_with_name_servers_of_its_own_asks_those_itself_and_not_the_zone() {
    let fabric = fabric();
    let a = pod(&fabric, "a");
    let client = listed(&fabric);
    fabric.zone().set("default", "web", cluster("10.96.0.7"));
    a.set_resolver(ResolverConfig {
        source: NameSource::Servers(vec![ip("192.0.2.53")]),
        searches: vec!["lan".to_owned()],
        ndots: 1,
    });
    check(&a, "api", &[ip("192.0.2.2")]).await;
    assert_eq!(asked(&client), ["a 192.0.2.53 api.lan"]);
    let unknown = a.resolve("web.default.svc.cluster.local").await;
    assert!(matches!(unknown, Err(NetError::NameNotFound)));
}
