//! Attaching and detaching pods.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use coracle_network::{
    AttachError, Fabric, FabricConfig, FabricError, NetError, PodIdentity, PublishPlan,
};

use crate::fixture::*;

fn small(cidr: &str) -> Result<Fabric, FabricError> {
    Fabric::new(FabricConfig {
        pod_cidr: cidr.parse().expect("a range"),
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    })
}

#[tokio::test]
async fn detaching_ends_connections_listeners_and_waiting_calls() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let listener = listen(&b, "0.0.0.0:80");
    let (client, server) = pair(&a, &listener, at(b.ip(), 80)).await;
    let mut accepting = Box::pin(listener.accept());
    assert!(poll_once(|cx| accepting.as_mut().poll(cx)).is_pending());
    b.detach();
    assert!(matches!(
        accepting.await.map_err(NetError::from),
        Err(NetError::Detached)
    ));
    for end in [&client, &server] {
        let read = end.try_read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(read, Err(ErrorKind::ConnectionReset));
        assert!(end.try_write(b"x").is_err());
    }
    let again = a.connect(None, at(b.ip(), 80)).await;
    assert!(matches!(again, Err(NetError::Unreachable)));
    assert!(matches!(
        b.reserve_tcp(address("0.0.0.0:81")),
        Err(NetError::Detached)
    ));
    assert!(matches!(
        b.bind_udp(address("0.0.0.0:81")),
        Err(NetError::Detached)
    ));
    let out = b.connect(None, at(a.ip(), 80)).await;
    assert!(matches!(
        out,
        Err(NetError::ConnectionRefused | NetError::Detached)
    ));
    b.detach();
}

#[test]
fn a_detached_pods_address_is_free_and_its_leftovers_touch_no_successor() {
    let fabric = small("10.1.0.0/30").expect("valid");
    let first = pod(&fabric, "first");
    let ip = first.ip();
    let leftover = first.reserve_tcp(address("0.0.0.0:80")).expect("free");
    assert_eq!(ip.to_string(), "10.1.0.2");
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: "second".to_owned(),
        uid: "second".to_owned(),
        hostname: "second".to_owned(),
        subdomain: None,
    };
    let full = fabric.attach(identity.clone());
    assert!(matches!(full, Err(AttachError::NoAddress { .. })));
    first.detach();
    let second = fabric.attach(identity).expect("the address is free");
    assert_eq!(second.ip(), ip);
    let held = second.reserve_tcp(address("0.0.0.0:80")).expect("free");
    drop(leftover);
    assert!(matches!(
        second.reserve_tcp(address("0.0.0.0:80")),
        Err(NetError::AddressInUse)
    ));
    drop(held);
}

#[test]
fn dropping_the_last_handle_detaches() {
    let fabric = small("10.1.0.0/30").expect("valid");
    let handle = pod(&fabric, "a");
    let other = handle.clone();
    drop(handle);
    assert_eq!(other.ip().to_string(), "10.1.0.2");
    drop(other);
    pod(&fabric, "b");
}

#[test]
fn one_uid_is_attached_once() {
    let fabric = fabric();
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: "a".to_owned(),
        uid: "same".to_owned(),
        hostname: "a".to_owned(),
        subdomain: None,
    };
    let first = fabric.attach(identity.clone()).expect("free");
    let again = fabric.attach(identity.clone());
    assert!(matches!(again, Err(AttachError::AlreadyAttached { ip, .. }) if ip == first.ip()));
    first.detach();
    fabric.attach(identity).expect("free again");
}

#[test]
fn a_kept_address_waits_for_its_pod() {
    let fabric = small("10.1.0.0/29").expect("valid");
    let kept = Ipv4Addr::new(10, 1, 0, 2);
    assert!(fabric.keep("b", kept), "it is free");
    assert!(!fabric.keep("c", kept), "it is kept for another");
    assert!(!fabric.keep("b", Ipv4Addr::new(10, 1, 0, 3)), "one each");
    assert!(
        !fabric.keep("d", Ipv4Addr::new(10, 2, 0, 2)),
        "not of the range"
    );
    assert!(!fabric.keep("d", Ipv4Addr::new(10, 1, 0, 1)), "the node's");
    assert_ne!(pod(&fabric, "a").ip(), kept);
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: "b".to_owned(),
        uid: "b".to_owned(),
        hostname: "b".to_owned(),
        subdomain: None,
    };
    let attached = fabric.attach(identity).expect("an address is kept for it");
    assert_eq!(attached.ip(), kept);
}

#[test]
fn a_kept_address_that_is_given_up_is_free() {
    let fabric = small("10.1.0.0/30").expect("valid");
    let only = Ipv4Addr::new(10, 1, 0, 2);
    assert!(fabric.keep("gone", only));
    fabric.release("gone");
    fabric.release("gone");
    assert_eq!(pod(&fabric, "new").ip(), only);
}

#[test]
fn a_layout_that_hides_special_addresses_is_refused() {
    for cidr in [
        "127.0.0.0/16",
        "169.254.8.0/24",
        "224.0.0.0/10",
        "0.0.0.0/12",
    ] {
        assert!(
            matches!(small(cidr), Err(FabricError::CidrReserved { .. })),
            "{cidr}"
        );
    }
    for cidr in ["10.0.0.0/31", "10.0.0.0/8"] {
        assert!(
            matches!(small(cidr), Err(FabricError::CidrSize { .. })),
            "{cidr}"
        );
    }
    let config = FabricConfig {
        cluster_domain: "not a name".to_owned(),
        ..FabricConfig::default()
    };
    assert!(matches!(
        Fabric::new(config),
        Err(FabricError::ClusterDomain { .. })
    ));
}

#[tokio::test]
async fn ten_thousand_pods_listen_on_one_port_and_all_answer() {
    let fabric = fabric();
    let pods = (0..10_000)
        .map(|n| pod(&fabric, &format!("p{n}")))
        .collect::<Vec<_>>();
    let listeners = pods
        .iter()
        .map(|pod| listen(pod, "0.0.0.0:80"))
        .collect::<Vec<_>>();
    for (number, listener) in listeners.iter().enumerate() {
        let client = &pods[(number * 7919) % pods.len()];
        let (client, server) = pair(client, listener, at(pods[number].ip(), 80)).await;
        client.try_write(b"x").expect("room");
        assert_eq!(server.try_read(&mut [0; 8]).expect("a byte"), 1);
    }
}
