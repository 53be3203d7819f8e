//! EndpointSlices, as far as routing and names depend on them.

use std::net::IpAddr;

use coracle_network::{Protocol, ZonePort};
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::service::has_label;
use super::{
    Family, PROXY_NAME_LABEL, ProtocolName, ServiceKey, port_number, protocol, usable_ip, zone_port,
};

/// The label that names a slice's Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The label of slices that only names depend on.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A slice's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SliceKey {
    /// The namespace.
    pub(crate) namespace: String,
    /// The name.
    pub(crate) name: String,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    /// Whose endpoints these are.
    pub(crate) service: ServiceKey,
    /// The family of their addresses.
    pub(crate) family: Family,
    /// Whether the proxy routes to them; names depend on all slices.
    pub(crate) is_proxied: bool,
    /// The ports of every endpoint.
    pub(crate) ports: Vec<SlicePort>,
    /// Those of them that have names.
    pub(crate) named_ports: Vec<ZonePort>,
    /// The endpoints.
    pub(crate) endpoints: Vec<EndpointFacts>,
}

/// A port that all endpoints of a slice have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlicePort {
    /// The name of the Service's port.
    pub(crate) name: String,
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The number at the endpoint.
    pub(crate) port: u16,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointFacts {
    /// Its address.
    pub(crate) ip: IpAddr,
    /// What it can do now.
    pub(crate) condition: Condition,
    /// The node it is on.
    pub(crate) node: Option<String>,
    /// Its name below the Service's.
    pub(crate) hostname: Option<String>,
    /// The nodes that shall use it.
    pub(crate) for_nodes: Vec<String>,
    /// The zones that shall use it.
    pub(crate) for_zones: Vec<String>,
}

/// What an endpoint can do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    /// It takes connections.
    pub(crate) is_ready: bool,
    /// It would, were it not for its end.
    pub(crate) is_serving: bool,
    /// It is about to end.
    pub(crate) is_terminating: bool,
}

impl SliceKey {
    /// Returns the key of an object that has a namespace and a name.
    pub(crate) fn of(metadata: &ObjectMeta) -> Option<SliceKey> {
        Some(SliceKey {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
        })
    }
}

impl SliceFacts {
    /// Takes the facts from a slice; nothing from one of names, or one that is no Service's.
    pub(crate) fn of(slice: &discovery::EndpointSlice) -> Option<SliceFacts> {
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        let labels = slice.metadata.labels.as_ref();
        let service = labels?.get(SERVICE_LABEL).filter(|name| !name.is_empty())?;
        let is_left = has_label(labels, PROXY_NAME_LABEL) || has_label(labels, HEADLESS_LABEL);
        let ports = slice.ports.iter().flatten().filter_map(SlicePort::of);
        let endpoints = slice.endpoints.iter().flatten();
        let endpoints = endpoints.filter_map(|one| EndpointFacts::of(one, family));
        Some(SliceFacts {
            service: ServiceKey {
                namespace: slice.metadata.namespace.clone()?,
                name: service.clone(),
            },
            family,
            is_proxied: !is_left,
            ports: ports.collect(),
            named_ports: named_ports(slice),
            endpoints: endpoints.collect(),
        })
    }
}

fn named_ports(slice: &discovery::EndpointSlice) -> Vec<ZonePort> {
    let ports = slice.ports.iter().flatten();
    let ports =
        ports.filter_map(|one| zone_port(one.name.as_deref(), one.protocol.as_deref(), one.port?));
    ports.collect()
}

impl SlicePort {
    fn of(port: &discovery::EndpointPort) -> Option<SlicePort> {
        let ProtocolName::Known(protocol) = protocol(port.protocol.as_deref()) else {
            return None;
        };
        Some(SlicePort {
            name: port.name.clone().unwrap_or_default(),
            protocol,
            port: port.port.and_then(port_number)?,
        })
    }
}

impl EndpointFacts {
    /// Only the first address of an endpoint has a meaning.
    fn of(endpoint: &discovery::Endpoint, family: Family) -> Option<EndpointFacts> {
        let ip = endpoint.addresses.first().and_then(|text| usable_ip(text));
        let Some(ip) = ip.filter(|ip| Family::of(*ip) == family) else {
            tracing::debug!(addresses = ?endpoint.addresses, "an endpoint has no address to use");
            return None;
        };
        let hints = endpoint.hints.as_ref();
        let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
        let zones = hints.and_then(|hints| hints.for_zones.as_ref());
        Some(EndpointFacts {
            ip,
            condition: Condition::of(endpoint.conditions.as_ref()),
            node: endpoint.node_name.clone(),
            hostname: endpoint.hostname.clone().filter(|name| !name.is_empty()),
            for_nodes: nodes
                .into_iter()
                .flatten()
                .map(|node| node.name.clone())
                .collect(),
            for_zones: zones
                .into_iter()
                .flatten()
                .map(|zone| zone.name.clone())
                .collect(),
        })
    }
}

impl Condition {
    fn of(conditions: Option<&discovery::EndpointConditions>) -> Condition {
        let read =
            |pick: fn(&discovery::EndpointConditions) -> Option<bool>| conditions.and_then(pick);
        Condition {
            is_ready: read(|all| all.ready).unwrap_or(true),
            is_serving: read(|all| all.serving).unwrap_or(true),
            is_terminating: read(|all| all.terminating).unwrap_or(false),
        }
    }

    /// Tells whether it is one of those that serve on until they end.
    pub(crate) fn is_last_resort(self) -> bool {
        self.is_serving && self.is_terminating
    }
}
