use super::*;

fn territory(link_local: LinkLocal) -> Territory {
    Territory {
        pod_cidr: "10.244.0.0/16".parse().expect("a range"),
        pod_cidr6: Some("fd00:244::/112".parse().expect("a range")),
        node: Ipv4Addr::new(10, 244, 0, 1),
        rules: EgressRules { link_local },
    }
}

fn judged(to: &str, link_local: LinkLocal) -> Result<Destination, NetError> {
    territory(link_local).judge(to.parse().expect("an address"))
}

fn check(to: &str, expected: Destination) {
    assert_eq!(
        judged(to, LinkLocal::Closed).expect("reachable"),
        expected,
        "{to}"
    );
}

fn check_refused(to: &str) {
    for rules in [LinkLocal::Closed, LinkLocal::Open] {
        assert!(
            matches!(judged(to, rules), Err(NetError::AccessDenied)),
            "{to} {rules:?}"
        );
    }
}

#[test]
fn a_pod_has_a_loopback_of_its_own() {
    check("127.0.0.1", Destination::OwnLoopback4);
    check("::1", Destination::OwnLoopback6);
    check("::ffff:127.0.0.1", Destination::OwnLoopback4);
}

#[test]
fn the_pod_cidr_stays_inside() {
    let pod = |family| Destination::Pod(Ipv4Addr::new(10, 244, 3, 9), family);
    check("10.244.3.9", pod(Family::V4));
    check("::ffff:10.244.3.9", pod(Family::V4));
    check("10.244.0.1", Destination::Node(Family::V4));
    check("fd00:244::309", pod(Family::V6));
    check("fd00:244::1", Destination::Node(Family::V6));
}

#[test]
fn everything_else_public_or_private_goes_out() {
    for to in [
        "1.1.1.1",
        "192.168.7.7",
        "10.0.0.1",
        "172.17.0.1",
        "2606:4700::1111",
        "fd12::1",
    ] {
        check(to, Destination::Outside(to.parse().expect("an address")));
    }
    check(
        "::ffff:1.1.1.1",
        Destination::Outside("1.1.1.1".parse().expect("an address")),
    );
    check(
        "64:ff9b::101:101",
        Destination::Outside("64:ff9b::101:101".parse().expect("one")),
    );
}

#[test]
fn the_hosts_loopback_and_our_published_ports_are_closed_in_every_spelling() {
    for to in [
        "127.0.0.2",
        "127.0.1.1",
        "127.255.255.255",
        "127.64.0.2",
        "0.0.0.0",
        "0.1.2.3",
        "::",
    ] {
        check_refused(to);
    }
    for to in [
        "::ffff:127.0.0.2",
        "::ffff:0.0.0.0",
        "::127.0.0.1",
        "::127.64.0.2",
        "::ffff:0:0",
    ] {
        check_refused(to);
    }
    // Translators and tunnels would take the address out again.
    for to in [
        "64:ff9b::7f00:1",
        "64:ff9b::7f40:2",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "2002::",
    ] {
        check_refused(to);
    }
}

#[test]
fn multicast_broadcast_and_reserved_ranges_are_closed() {
    for to in [
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "ff02::1",
        "ff05::2",
    ] {
        check_refused(to);
    }
}

#[test]
fn link_local_addresses_are_open_only_by_rule() {
    for to in [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "febf::1",
        "fd00:ec2::254",
    ] {
        assert!(
            matches!(judged(to, LinkLocal::Closed), Err(NetError::AccessDenied)),
            "{to}"
        );
        assert!(
            matches!(judged(to, LinkLocal::Open), Ok(Destination::Outside(_))),
            "{to}"
        );
    }
    let translated = "64:ff9b::a9fe:a9fe";
    assert!(matches!(
        judged(translated, LinkLocal::Closed),
        Err(NetError::AccessDenied)
    ));
}

#[test]
fn no_spelling_of_ipv6_leads_to_a_pod_but_the_mapped_one() {
    for to in ["::10.244.3.9", "64:ff9b::af4:309", "2002:af4:309::1"] {
        check_refused(to);
    }
}

#[test]
fn a_place_has_two_addresses_and_a_larger_range_more_than_places() {
    let territory = Territory {
        pod_cidr6: Some("fd00:244::/64".parse().expect("a range")),
        ..territory(LinkLocal::Closed)
    };
    let place = Ipv4Addr::new(10, 244, 255, 254);
    let twin = territory.twin(place).expect("a second address");
    assert_eq!(twin.to_string(), "fd00:244::fffe");
    assert_eq!(territory.place(twin.into()), Some(place));
    assert!(!territory.may_be_service(twin.into()));
    let beyond = "fd00:244::1:0".parse().expect("an address");
    assert_eq!(territory.place(beyond), None);
    let refused = territory.judge(beyond);
    assert!(matches!(refused, Err(NetError::Unreachable)), "{refused:?}");
    let far = "fd00:244:0:0:ffff::1".parse().expect("an address");
    assert_eq!(territory.place(far), None);
    let alone = Territory {
        pod_cidr6: None,
        ..territory
    };
    assert_eq!(alone.twin(place), None);
    assert!(alone.may_be_service(twin.into()));
}
