use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use coracle_network::{
    Fabric, FabricConfig, HeadlessEndpoint, PublishPlan, ServiceRecords, ZonePort, ZoneProtocol,
};
use hickory_proto::op::MessageType;
use hickory_proto::rr::RData;
use proptest::prelude::*;

use super::*;
use crate::dns::wire::{Transport, fit};

fn fabric() -> Fabric {
    let config = FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    };
    Fabric::new(config).expect("the default layout is valid")
}

fn zone() -> Arc<Zone> {
    let fabric = fabric();
    let zone = Arc::clone(fabric.zone());
    let http = ZonePort {
        name: "http".to_owned(),
        protocol: ZoneProtocol::Tcp,
        port: 80,
    };
    let ips = vec![ip("10.96.0.7"), ip("fd00::7")];
    let ports = vec![http.clone()];
    zone.set("shop", "web", ServiceRecords::Cluster { ips, ports });
    let endpoints = (0..1000_u32).map(|number| HeadlessEndpoint {
        ip: IpAddr::from((0x0af5_0000 + number).to_be_bytes()),
        hostname: None,
        ports: vec![http.clone()],
    });
    let endpoints = endpoints.collect();
    zone.set("data", "db", ServiceRecords::Headless { endpoints });
    for (name, target) in [
        ("out", "example.com"),
        ("in", "web.shop.svc.cluster.local"),
        ("round", "round.shop.svc.cluster.local"),
        ("bad", "a..b"),
    ] {
        let target = target.to_owned();
        zone.set("shop", name, ServiceRecords::External { target });
    }
    zone
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).expect("a name");
    request.add_query(Query::query(name, kind));
    request
}

fn bytes(request: &Message) -> Vec<u8> {
    request.to_vec().expect("a request is written")
}

/// An answer as it arrives over a transport.
fn answer_over(zone: &Zone, request: &Message, transport: Transport) -> Message {
    let bytes = match decide(zone, &bytes(request)) {
        Outcome::Answer(answer, asked) => fit(*answer, asked.as_ref(), transport),
        Outcome::Refuse(bytes) => bytes,
        other => panic!("not answered: {other:?}"),
    };
    Message::from_vec(&bytes).expect("our answers are read")
}

/// An answer as one line.
fn told(zone: &Zone, name: &str, kind: RecordType) -> String {
    let request = question(name, kind);
    if let Outcome::Forward(forward) = decide(zone, &bytes(&request)) {
        return format!("forward {}", forward.question.name);
    }
    let answer = answer_over(zone, &request, Transport::Tcp);
    assert_eq!(answer.metadata.id, request.metadata.id);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
    assert_eq!(answer.queries, request.queries);
    let mut parts = vec![answer.metadata.response_code.to_string()];
    for record in answer.answers.iter().chain(&answer.authorities) {
        assert_eq!(record.ttl, 5);
        parts.push(format!("{} {}", record.record_type(), record.data));
    }
    parts[1..].sort();
    parts.join("; ")
}

#[test]
fn what_the_zone_knows_is_answered() {
    let zone = zone();
    for (name, kind, expected) in [
        (
            "web.shop.svc.cluster.local.",
            RecordType::A,
            "No Error; A 10.96.0.7",
        ),
        (
            "WEB.Shop.svc.cluster.local.",
            RecordType::AAAA,
            "No Error; AAAA fd00::7",
        ),
        (
            "_http._tcp.web.shop.svc.cluster.local.",
            RecordType::SRV,
            "No Error; SRV 0 100 80 web.shop.svc.cluster.local.",
        ),
        (
            "7.0.96.10.in-addr.arpa.",
            RecordType::PTR,
            "No Error; PTR web.shop.svc.cluster.local.",
        ),
        (
            "dns-version.cluster.local.",
            RecordType::TXT,
            "No Error; TXT \"1.1.0\"",
        ),
        (
            "cluster.local.",
            RecordType::NS,
            "No Error; NS ns.dns.cluster.local.",
        ),
        (
            "ns.dns.cluster.local.",
            RecordType::A,
            "No Error; A 10.244.0.1",
        ),
    ] {
        let found = told(&zone, name, kind).replace('"', "");
        assert_eq!(found, expected.replace('"', ""), "{name} {kind}");
    }
}

#[test]
fn aliases_are_followed_here_and_elsewhere_but_not_in_circles() {
    let zone = zone();
    for (name, kind, expected) in [
        (
            "in.shop.svc.cluster.local.",
            RecordType::A,
            "No Error; A 10.96.0.7; CNAME web.shop.svc.cluster.local.",
        ),
        (
            "in.shop.svc.cluster.local.",
            RecordType::CNAME,
            "No Error; CNAME web.shop.svc.cluster.local.",
        ),
        (
            "out.shop.svc.cluster.local.",
            RecordType::A,
            "forward example.com.",
        ),
        ("example.com.", RecordType::MX, "forward example.com."),
        (
            "round.shop.svc.cluster.local.",
            RecordType::A,
            "Server Failure",
        ),
        (
            "bad.shop.svc.cluster.local.",
            RecordType::A,
            "Server Failure",
        ),
    ] {
        assert_eq!(told(&zone, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn what_is_not_there_comes_with_the_authority_of_the_zone() {
    let zone = zone();
    for (name, kind, expected) in [
        (
            "x.shop.svc.cluster.local.",
            RecordType::A,
            "Non-Existent Domain",
        ),
        ("web.shop.svc.cluster.local.", RecordType::MX, "No Error"),
        ("web.shop.svc.cluster.local.", RecordType::ANY, "No Error"),
    ] {
        let found = told(&zone, name, kind);
        let soa = "SOA ns.dns.cluster.local. hostmaster.cluster.local.";
        let expected = format!("{expected}; {soa}");
        assert!(found.starts_with(&expected), "{name} {kind}: {found}");
        assert!(
            found.ends_with(" 5"),
            "the time to live of nothing: {found}"
        );
    }
}

#[test]
fn the_zones_own_answers_say_so_and_keep_the_case_of_the_question() {
    let zone = zone();
    let request = question("WeB.shop.svc.Cluster.local.", RecordType::A);
    let answer = answer_over(&zone, &request, Transport::Udp);
    assert!(answer.metadata.authoritative);
    let owner = answer.answers[0].name.to_ascii();
    assert_eq!(owner, "WeB.shop.svc.Cluster.local.");
}

#[test]
fn the_addresses_of_ports_come_with_them() {
    let request = question("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV);
    let answer = answer_over(&zone(), &request, Transport::Udp);
    let mut added = answer
        .additionals
        .iter()
        .map(|record| record.data.to_string());
    assert_eq!(added.next().as_deref(), Some("10.96.0.7"));
    assert_eq!(added.next().as_deref(), Some("fd00::7"));
}

#[test]
fn what_is_no_question_is_dropped_or_refused() {
    let zone = zone();
    let good = question("web.shop.svc.cluster.local.", RecordType::A);
    let code = |request: &Message| {
        answer_over(&zone, request, Transport::Udp)
            .metadata
            .response_code
    };
    for length in 0..wire::HEADER_BYTES {
        assert!(matches!(
            decide(&zone, &bytes(&good)[..length]),
            Outcome::Drop
        ));
    }
    let mut response = good.clone();
    response.metadata.message_type = MessageType::Response;
    assert!(matches!(decide(&zone, &bytes(&response)), Outcome::Drop));
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut chaos = good.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let transfer = question("cluster.local.", RecordType::AXFR);
    assert_eq!(code(&transfer), ResponseCode::Refused);
    let mut newer = good.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    // Two codes of this number: it depends on the record that follows.
    assert_eq!(u16::from(code(&newer)), u16::from(ResponseCode::BADVERS));
    let cut = &bytes(&good)[..20];
    let Outcome::Refuse(refused) = decide(&zone, cut) else {
        panic!("a cut question is refused");
    };
    let refused = Message::from_vec(&refused).expect("our answers are read");
    assert_eq!(refused.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(refused.metadata.id, good.metadata.id);
}

#[test]
fn an_answer_that_does_not_fit_is_cut_and_says_so() {
    let zone = zone();
    let plain = question("db.data.svc.cluster.local.", RecordType::A);
    let mut extended = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    extended.set_edns(edns);
    let addresses = |request: &Message, transport, limit: usize| {
        let Outcome::Answer(answer, asked) = decide(&zone, &bytes(request)) else {
            panic!("answered");
        };
        let bytes = fit(*answer, asked.as_ref(), transport);
        assert!(bytes.len() <= limit, "{}", bytes.len());
        let answer = Message::from_vec(&bytes).expect("our answers are read");
        assert_eq!(answer.edns.is_some(), request.edns.is_some());
        (answer.answers.len(), answer.metadata.truncation)
    };
    // 44 bytes of header and question, 16 for each address, 11 for the extension.
    assert_eq!(addresses(&plain, Transport::Udp, 512), (29, true));
    assert_eq!(addresses(&extended, Transport::Udp, 1232), (73, true));
    assert_eq!(addresses(&plain, Transport::Tcp, 65_535), (1000, false));
    // So many would be longer than a stream's length can say.
    let endpoints = (0..9000_u32).map(|number| HeadlessEndpoint {
        ip: IpAddr::from((0x0af5_0000 + number).to_be_bytes()),
        hostname: None,
        ports: Vec::new(),
    });
    let endpoints = endpoints.collect();
    zone.set("data", "db", ServiceRecords::Headless { endpoints });
    let (count, is_cut) = addresses(&plain, Transport::Tcp, 65_535);
    assert!(is_cut && count > 1000, "{count}");
}

#[test]
fn an_answer_from_elsewhere_is_given_behind_our_alias() {
    let zone = zone();
    let request = question("out.shop.svc.cluster.local.", RecordType::A);
    let Outcome::Forward(forward) = decide(&zone, &bytes(&request)) else {
        panic!("forwarded");
    };
    let mut said = Message::response(7, OpCode::Query);
    let example = wire::name("example.com").expect("a name");
    said.add_answer(wire::record(&example, &Record::Address(ip("192.0.2.1"))).expect("a record"));
    let (answer, _) = forward.answered(said);
    assert_eq!(answer.metadata.id, request.metadata.id);
    assert!(!answer.metadata.authoritative);
    assert!(matches!(answer.answers[0].data, RData::CNAME(_)));
    assert_eq!(answer.answers[1].data.to_string(), "192.0.2.1");
}

proptest! {
    #[test]
    fn a_question_that_was_damaged_is_answered_or_dropped(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = bytes(&question("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV));
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        crate::fuzzing::dns_request(&bytes);
    }

    #[test]
    fn any_name_of_the_zone_is_answered(name in "[a-z0-9_.-]{0,40}") {
        static ZONE: LazyLock<Arc<Zone>> = LazyLock::new(zone);
        let full = format!("{name}.svc.cluster.local");
        for kind in [RecordKind::A, RecordKind::Srv, RecordKind::Ptr] {
            prop_assert_ne!(ZONE.answer(&Question::new(&full, kind)), Answer::NotOurs);
        }
    }
}
