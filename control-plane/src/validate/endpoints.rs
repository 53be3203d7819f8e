//! The checks of Endpoints and EndpointSlices.

use std::{collections::HashSet, net::IpAddr};

use serde_json::Value;

use super::{Field, NameRule, walk};
use crate::invalid::Causes;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Checks an Endpoints object.
pub(crate) fn endpoints(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        for subset in root.child("subsets").items() {
            let lists = [subset.child("addresses"), subset.child("notReadyAddresses")];
            if lists.iter().all(Field::is_empty) {
                subset.required("must specify `addresses` or `notReadyAddresses`");
            }
            for address in lists.iter().flat_map(Field::items) {
                let ip = address.child("ip");
                let found = ip.address();
                address.child("hostname").name_if_any(NameRule::Label);
                if address.child("nodeName").is_set() {
                    address.child("nodeName").name(NameRule::Subdomain);
                }
                match found {
                    Some(found) => ip.public_address(found),
                    // Two checks of the stock server find the same fault.
                    None => ip.invalid_as(&Value::from(ip.text()), "must be a valid IP address"),
                }
            }
            let ports = subset.child("ports");
            let several = ports.items().count() > 1;
            for port in ports.items() {
                let name = port.child("name");
                if several {
                    name.present();
                }
                name.name_if_any(NameRule::Label);
                port.child("port").port();
                port.child("protocol").one_of(PROTOCOLS);
                if port.child("appProtocol").is_set() {
                    port.child("appProtocol").qualified();
                }
            }
        }
    });
}

/// Checks an EndpointSlice; its kind of addresses stays.
pub(crate) fn slice(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let kind = root.child("addressType");
        if let Some(old) = old
            && old["addressType"] != *kind.value
        {
            return kind.unchanged(&old["addressType"]);
        }
        kind.one_of(&["FQDN", "IPv4", "IPv6"]);
        let list = root.child("endpoints");
        if list.items().count() > ENDPOINTS_MAX {
            return list.too_many(ENDPOINTS_MAX);
        }
        for endpoint in list.items() {
            slice_endpoint(&endpoint, kind.text());
        }
        slice_ports(&root.child("ports"));
    });
}

fn slice_endpoint(endpoint: &Field<'_, '_>, kind: &str) {
    let addresses = endpoint.child("addresses");
    match addresses.items().count() {
        0 => addresses.required("must contain at least 1 address"),
        count if count > ADDRESSES_MAX => addresses.too_many(ADDRESSES_MAX),
        _ => (),
    }
    for address in addresses.items() {
        match kind {
            "FQDN" => fqdn(&address),
            "IPv4" | "IPv6" => {
                let found = address.address();
                let fits = |address: IpAddr| address.is_ipv4() == (kind == "IPv4");
                match found {
                    Some(found) if !fits(found) => {
                        address.invalid(&format!("must be an {kind} address"));
                    }
                    Some(found) => address.public_address(found),
                    None => (),
                }
            }
            _ => (),
        }
    }
    if endpoint.child("nodeName").is_set() {
        endpoint.child("nodeName").name(NameRule::Subdomain);
    }
    let topology = endpoint.child("deprecatedTopology");
    topology.labels();
    if topology.key("kubernetes.io/hostname").is_set() {
        let detail = "may not be set in topology, use `nodeName`";
        topology.key("kubernetes.io/hostname").invalid(detail);
    }
    if endpoint.child("hostname").is_set() {
        endpoint.child("hostname").name(NameRule::Label);
    }
    for (list, key) in [("forZones", "zone"), ("forNodes", "node")] {
        hints(&endpoint.child("hints").child(list), key);
    }
}

fn hints(hints: &Field<'_, '_>, key: &str) {
    if hints.items().count() > HINTS_MAX {
        return hints.too_many(HINTS_MAX);
    }
    let mut seen = HashSet::new();
    for hint in hints.items() {
        let name = hint.child("name");
        if !seen.insert(name.text()) {
            hint.duplicate_as(name.value);
        }
        match key {
            "zone" => name.label_value(),
            _ => name.name(NameRule::Subdomain),
        }
    }
}

fn fqdn(address: &Field<'_, '_>) {
    let text = address.text().strip_suffix('.').unwrap_or(address.text());
    address
        .with(&Value::from(text))
        .name_required(NameRule::Subdomain);
    if !text.is_empty() && !text.contains('.') {
        address.invalid("should be a domain with at least two segments separated by dots");
    }
}

fn slice_ports(ports: &Field<'_, '_>) {
    if ports.items().count() > PORTS_MAX {
        return ports.too_many(PORTS_MAX);
    }
    let mut names = HashSet::new();
    for port in ports.items() {
        let name = port.child("name");
        name.name_if_any(NameRule::Label);
        if !names.insert(name.text()) {
            name.duplicate_as(&Value::from(name.text()));
        }
        port.child("protocol").one_of(PROTOCOLS);
        if port.child("appProtocol").is_set() {
            port.child("appProtocol").qualified();
        }
    }
}
