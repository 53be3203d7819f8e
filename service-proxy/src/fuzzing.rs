//! Entries for random input, one for each reader of what others send.
//!
//! Each takes any bytes, and panics only where this crate breaks one of its own promises. Tests run
//! each of them, and `examples/fuzz-services.rs` runs one for as long as it is told to.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use coracle_network::{
    Fabric, FabricConfig, HeadlessEndpoint, PublishPlan, ServiceRecords, Zone, ZonePort,
    ZoneProtocol,
};
use hickory_proto::op::Message;

use crate::dns::request::{Outcome, decide};
use crate::dns::resolv_conf;
use crate::dns::wire::{self, Transport};

/// What reads one input.
pub type Entry = fn(&[u8]);

/// Every entry by its name.
pub const TARGETS: &[(&str, Entry)] = &[
    ("dns-request", dns_request),
    ("dns-answer", dns_answer),
    ("resolv-conf", resolv_conf),
];

/// A request to the DNS server: whatever is answered can be read, fits and repeats the number.
pub fn dns_request(input: &[u8]) {
    let zone = zone();
    for transport in [Transport::Udp, Transport::Tcp] {
        let answer = match decide(&zone, input) {
            Outcome::Drop => continue,
            Outcome::Refuse(bytes) => bytes,
            Outcome::Answer(answer, asked) => wire::fit(*answer, asked.as_ref(), transport),
            Outcome::Forward(forward) => {
                let (answer, asked) = forward.failed();
                wire::fit(answer, asked.as_ref(), transport)
            }
        };
        let limit = match transport {
            Transport::Udp => wire::UDP_BYTES_MAX,
            Transport::Tcp => wire::TCP_BYTES_MAX,
        };
        assert!(answer.len() <= limit, "the answer fits");
        assert_eq!(answer.get(..2), input.get(..2), "the number is repeated");
        Message::from_vec(&answer).expect("an answer can be read");
    }
}

/// An answer of a name server upstream: what can be read is passed on within the limits.
pub fn dns_answer(input: &[u8]) {
    let Ok(said) = Message::from_vec(input) else {
        return;
    };
    let mut request = Message::query();
    let name = wire::name("example.com").expect("a name");
    let kind = hickory_proto::rr::RecordType::A;
    request.add_query(hickory_proto::op::Query::query(name, kind));
    let request = request.to_vec().expect("a request is written");
    let Outcome::Forward(forward) = decide(&zone(), &request) else {
        panic!("a name outside of the zone is forwarded");
    };
    let (answer, asked) = forward.answered(said);
    let answer = wire::fit(answer, asked.as_ref(), Transport::Udp);
    assert!(answer.len() <= wire::UDP_BYTES_MAX, "the answer fits");
}

/// The file that names the machine's servers.
pub fn resolv_conf(input: &[u8]) {
    let servers = resolv_conf::servers(&String::from_utf8_lossy(input));
    assert!(servers.len() <= resolv_conf::SERVERS_MAX, "as many at most");
}

/// A zone with each kind of Service, made once for each thread.
fn zone() -> Arc<Zone> {
    thread_local! {
        static ZONE: OnceCell<Arc<Zone>> = const { OnceCell::new() };
    }
    ZONE.with(|zone| Arc::clone(zone.get_or_init(make_zone)))
}

fn make_zone() -> Arc<Zone> {
    let config = FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    };
    let fabric = Fabric::new(config).expect("the default layout is valid");
    let zone = Arc::clone(fabric.zone());
    let ports = vec![ZonePort {
        name: "http".to_owned(),
        protocol: ZoneProtocol::Tcp,
        port: 80,
    }];
    let ips = vec![IpAddr::from([10, 96, 0, 7])];
    let endpoints = (0..200).map(|last| HeadlessEndpoint {
        ip: IpAddr::V4(Ipv4Addr::new(10, 244, 1, last)),
        hostname: last.is_multiple_of(2).then(|| format!("db-{last}")),
        ports: ports.clone(),
    });
    let endpoints = endpoints.collect();
    let target = "example.com".to_owned();
    zone.set("data", "db", ServiceRecords::Headless { endpoints });
    zone.set("shop", "web", ServiceRecords::Cluster { ips, ports });
    zone.set("shop", "out", ServiceRecords::External { target });
    zone
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            for (_, target) in TARGETS {
                target(&bytes);
            }
        }
    }
}
