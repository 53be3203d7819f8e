use super::*;

fn asking() -> PodIdentity {
    PodIdentity {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: "uid".to_owned(),
        hostname: "web-0".to_owned(),
        subdomain: Some("web".to_owned()),
    }
}

fn ask_with(name: &str, config: &ResolverConfig) -> Result<Meaning, NetError> {
    Meaning::of(name, &asking(), config, "cluster.local")
}

fn ask(name: &str) -> Result<Meaning, NetError> {
    ask_with(name, &ResolverConfig::cluster("shop", "cluster.local"))
}

fn check(name: &str, expected: Meaning) {
    assert_eq!(ask(name).expect("a valid name"), expected, "{name}");
}

fn literal(addresses: &[&str]) -> Meaning {
    Meaning::Literal(
        addresses
            .iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect(),
    )
}

fn names(names: &[&str]) -> Meaning {
    Meaning::Names(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn literals_need_no_resolver_and_lose_their_mapping() {
    check("10.1.2.3", literal(&["10.1.2.3"]));
    check("::1", literal(&["::1"]));
    check("::ffff:127.0.0.1", literal(&["127.0.0.1"]));
}

#[test]
fn localhost_in_every_spelling_is_the_pods_own() {
    for name in [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "a.b.LocalHost.",
    ] {
        check(name, literal(&["127.0.0.1", "::1"]));
    }
    check("ip6-loopback", literal(&["::1"]));
}

#[test]
fn a_pod_knows_the_names_of_its_hosts_file() {
    for name in [
        "web-0",
        "WEB-0.",
        "web-0.web.shop.svc.cluster.local",
        "Web-0.web.shop.svc.cluster.local.",
    ] {
        check(name, Meaning::Own);
    }
}

#[test]
fn names_with_few_dots_are_completed_first() {
    check(
        "API",
        names(&[
            "api.shop.svc.cluster.local",
            "api.svc.cluster.local",
            "api.cluster.local",
            "api",
        ]),
    );
    check(
        "a.b.c.d.e",
        names(&[
            "a.b.c.d.e.shop.svc.cluster.local",
            "a.b.c.d.e.svc.cluster.local",
            "a.b.c.d.e.cluster.local",
            "a.b.c.d.e",
        ]),
    );
}

#[test]
fn names_with_many_dots_are_taken_as_they_are_first() {
    check(
        "a.b.c.d.e.f",
        names(&[
            "a.b.c.d.e.f",
            "a.b.c.d.e.f.shop.svc.cluster.local",
            "a.b.c.d.e.f.svc.cluster.local",
            "a.b.c.d.e.f.cluster.local",
        ]),
    );
}

#[test]
fn a_name_with_a_final_dot_is_complete() {
    check("api.shop.", names(&["api.shop"]));
}

#[test]
fn the_resolver_file_says_how_names_are_completed() {
    let config = ResolverConfig {
        source: NameSource::Host,
        searches: vec![
            "lan".to_owned(),
            ".".to_owned(),
            "bad name".to_owned(),
            "Example.com.".to_owned(),
            "x".repeat(64),
        ],
        ndots: 1,
    };
    let check = |name: &str, expected: &[&str]| {
        assert_eq!(
            ask_with(name, &config).expect("a valid name"),
            names(expected)
        );
    };
    check("api", &["api.lan", "api.example.com", "api"]);
    check("api.x", &["api.x", "api.x.lan", "api.x.example.com"]);
    let none = ResolverConfig {
        searches: Vec::new(),
        ..config
    };
    assert_eq!(
        ask_with("api", &none).expect("a valid name"),
        names(&["api"])
    );
}

#[test]
fn a_completed_name_that_is_too_long_is_not_tried() {
    let long = [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(50),
    ]
    .join(".");
    check(&long, names(&[long.as_str()]));
}

#[test]
fn what_can_be_no_host_name_is_refused() {
    let long_label = "a".repeat(64);
    let long_name = [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(63),
    ]
    .join(".");
    let bad = [
        "",
        ".",
        "a..b",
        "a b",
        "a\0b",
        "ä.example",
        "[::1]",
        "fe80::1%eth0",
        "a/b",
        ".a",
    ];
    for name in bad
        .into_iter()
        .chain([long_label.as_str(), long_name.as_str()])
    {
        assert!(
            matches!(ask(name), Err(NetError::InvalidArgument)),
            "{name:?}"
        );
    }
}
