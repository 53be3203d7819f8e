//! Names a guest asks for.

use std::net::IpAddr;

use coracle_network::{Fabric, NetError, PodIdentity, PodNetwork};

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
