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

fn ask(name: &str) -> Result<Question, NetError> {
    Question::of(name, &asking(), "cluster.local")
}

fn check(name: &str, expected: Question) {
    assert_eq!(ask(name).expect("a valid name"), expected, "{name}");
}

fn literal(addresses: &[&str]) -> Question {
    Question::Literal(
        addresses
            .iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect(),
    )
}

fn host(hostname: &str, subdomain: &str, namespace: &str) -> Record {
    Record::Host(HostRecord {
        hostname: hostname.to_owned(),
        subdomain: subdomain.to_owned(),
        namespace: namespace.to_owned(),
    })
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
fn a_pod_knows_its_own_host_name() {
    check("web-0", Question::Own);
    check("WEB-0.", Question::Own);
}

#[test]
fn names_under_the_cluster_domain_never_leave() {
    let record = host("web-1", "web", "shop");
    check(
        "web-1.web.shop.svc.cluster.local",
        Question::Cluster(vec![record], Otherwise::NotFound),
    );
    let address = |ip| Record::Address {
        ip,
        namespace: "shop".to_owned(),
    };
    check(
        "10-244-0-9.shop.pod.CLUSTER.local.",
        Question::Cluster(
            vec![address(Ipv4Addr::new(10, 244, 0, 9))],
            Otherwise::NotFound,
        ),
    );
    for name in [
        "cluster.local",
        "x.cluster.local",
        "300-1-1-1.shop.pod.cluster.local",
    ] {
        check(name, Question::Cluster(Vec::new(), Otherwise::NotFound));
    }
}

#[test]
fn short_names_are_searched_as_resolv_conf_says() {
    let outside = |name: &str| Otherwise::Host(name.to_owned());
    check(
        "web-1.web",
        Question::Cluster(vec![host("web-1", "web", "shop")], outside("web-1.web")),
    );
    check(
        "db-0.db.data",
        Question::Cluster(vec![host("db-0", "db", "data")], outside("db-0.db.data")),
    );
    let full = "db-0.db.data.svc";
    check(
        full,
        Question::Cluster(vec![host("db-0", "db", "data")], outside(full)),
    );
    check(
        "web-1.web.",
        Question::Cluster(Vec::new(), outside("web-1.web")),
    );
    check(
        "Example.com",
        Question::Cluster(vec![host("example", "com", "shop")], outside("example.com")),
    );
    check(
        "notcluster.local",
        Question::Cluster(
            vec![host("notcluster", "local", "shop")],
            outside("notcluster.local"),
        ),
    );
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
