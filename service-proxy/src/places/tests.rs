//! What people are told about addresses.

use super::*;

fn port(name: &str, port: u16, app_protocol: Option<&str>) -> (ServicePortName, PortFacts) {
    let facts = PortFacts {
        name: name.to_owned(),
        protocol: Protocol::Tcp,
        port,
        node_port: None,
        app_protocol: app_protocol.map(str::to_owned),
    };
    let name = ServicePortName {
        namespace: "default".to_owned(),
        service: "web".to_owned(),
        port: name.to_owned(),
        protocol: Protocol::Tcp,
    };
    (name, facts)
}

#[test]
fn a_port_that_looks_like_http_has_a_url_of_http() {
    let rows = [
        (port("", 80, None), "http"),
        (port("", 8080, None), "http"),
        (port("http", 9000, None), "http"),
        (port("http-admin", 9000, None), "http"),
        (port("https", 9000, None), "https"),
        (port("", 443, None), "https"),
        (port("redis", 80, Some("redis")), "tcp"),
        (port("api", 9000, Some("http")), "http"),
        (port("", 6379, None), "tcp"),
        (port("httpd", 6379, None), "tcp"),
    ];
    for ((name, facts), expected) in rows {
        assert_eq!(scheme(&name, Some(&facts)), expected, "for {facts:?}");
    }
}

#[test]
fn only_what_the_api_does_not_show_is_told() {
    let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let place = |front: Option<&str>, at: Result<SocketAddr, String>| ServicePlace {
        name: port("", 80, None).0,
        kind: FrontKind::ClusterIp,
        front: FrontAddress {
            ip: front.map(|ip| ip.parse().expect("an address")),
            port: 80,
            protocol: Protocol::Tcp,
        },
        scheme: "http",
        at,
    };
    let rows = [
        (place(Some("10.96.0.7"), Ok(at("10.96.0.7:80"))), None),
        (place(None, Ok(at("127.0.0.1:80"))), None),
        (
            place(Some("10.96.0.7"), Ok(at("127.64.0.9:80"))),
            Some("`10.96.0.7:80` is reached at http://127.64.0.9:80 on this machine"),
        ),
        (
            place(None, Ok(at("127.0.0.1:40000"))),
            Some("node port 80 is reached at http://127.0.0.1:40000 on this machine"),
        ),
        (
            place(None, Err("in use".to_owned())),
            Some("node port 80 is not reached: in use"),
        ),
    ];
    for (place, expected) in rows {
        let told = place.told().map(|told| match told {
            Told::Elsewhere(text) | Told::Failed(text) => text,
        });
        assert_eq!(told.as_deref(), expected, "for {place:?}");
    }
}
