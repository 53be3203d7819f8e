//! What names stand for, by the kind of a Service.

use coracle_network::ZoneProtocol;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;

fn records(spec: Value, slices: &[Value]) -> Option<ServiceRecords> {
    let service = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec});
    let service = serde_json::from_value::<Service>(service).expect("a Service");
    let service = ServiceFacts::of(&service).expect("facts");
    let slices = slices.iter().map(|slice| {
        let slice = serde_json::from_value::<EndpointSlice>(slice.clone()).expect("a slice");
        SliceFacts::of(&slice).expect("facts")
    });
    let slices = slices.collect::<Vec<_>>();
    of(&service, slices.iter())
}

fn slice(endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "web-1", "labels": {
            "kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "",
        }},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"port": 9}],
        "endpoints": endpoints,
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn named(name: &str, protocol: ZoneProtocol, port: u16) -> ZonePort {
    ZonePort {
        name: name.to_owned(),
        protocol,
        port,
    }
}

#[test]
fn a_service_with_addresses_has_them_and_its_named_ports() {
    let spec = json!({"clusterIP": "10.96.0.7", "ports": [
        {"name": "http", "port": 80}, {"port": 81},
        {"name": "signals", "port": 36412, "protocol": "SCTP"},
    ]});
    let expected = ServiceRecords::Cluster {
        ips: vec![ip("10.96.0.7")],
        ports: vec![
            named("http", ZoneProtocol::Tcp, 80),
            named("signals", ZoneProtocol::Sctp, 36_412),
        ],
    };
    assert_eq!(records(spec, &[]), Some(expected));
}

#[test]
fn a_headless_service_stands_for_its_ready_endpoints() {
    let slices = [slice(json!([
        {"addresses": ["10.244.0.2"], "hostname": "zero"},
        {"addresses": ["10.244.0.3"], "conditions": {"ready": false}},
    ]))];
    let endpoint = |address, hostname: Option<&str>| HeadlessEndpoint {
        ip: ip(address),
        hostname: hostname.map(str::to_owned),
        ports: vec![named("http", ZoneProtocol::Tcp, 8080)],
    };
    let ready = ServiceRecords::Headless {
        endpoints: vec![endpoint("10.244.0.2", Some("zero"))],
    };
    assert_eq!(records(json!({"clusterIP": "None"}), &slices), Some(ready));
    let all = ServiceRecords::Headless {
        endpoints: vec![
            endpoint("10.244.0.2", Some("zero")),
            endpoint("10.244.0.3", None),
        ],
    };
    let spec = json!({"clusterIP": "None", "publishNotReadyAddresses": true});
    assert_eq!(records(spec, &slices), Some(all));
}

#[test]
fn an_external_name_is_an_alias_and_a_service_without_address_has_no_records() {
    let spec = json!({"type": "ExternalName", "externalName": "example.com"});
    let expected = ServiceRecords::External {
        target: "example.com".to_owned(),
    };
    assert_eq!(records(spec, &[]), Some(expected));
    assert_eq!(records(json!({"type": "ClusterIP"}), &[]), None);
}
