//! What endpoints depend on in a Service.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Service, apimachinery::pkg::apis::meta::v1::OwnerReference,
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::Deserialize;

use super::{
    pod::PodFacts,
    seen::{Facts, Labels, WireMeta},
};

/// Annotations by which a Service asks for hints by the nodes' numbers of CPUs. Those are not given,
/// and whoever asks for them gets none by `trafficDistribution` either, as with the stock controller.
const TOPOLOGY_MODES: [&str; 2] = [
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
];

/// A Service as far as its endpoints are concerned.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServiceFacts {
    pub(super) uid: Arc<str>,
    pub(super) labels: Labels,
    pub(super) selector: Labels,
    pub(super) keeper: Keeper,
    pub(super) address: ClusterAddress,
    /// Of these families are its endpoints, the primary one first. Never empty.
    pub(super) families: Vec<Family>,
    pub(super) ports: Vec<ServicePort>,
    pub(super) publishes_unready: bool,
    pub(super) distribution: Distribution,
    pub(super) deleting: bool,
    pub(super) created: Option<Timestamp>,
}

/// Who looks after a Service's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// We do: the pods that it selects.
    Selector,
    /// Whoever made the Service: it selects nothing.
    Maker,
    /// Nobody: it stands for a name outside.
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClusterAddress {
    Given,
    /// `clusterIP: None`.
    Headless,
    /// Not given yet.
    Missing,
}

/// A family of addresses, named as slices name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

/// Which endpoints are best for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distribution {
    Anywhere,
    SameZone,
    SameNode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServicePort {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) target: IntOrString,
    pub(super) app_protocol: Option<String>,
}

impl Family {
    pub(super) fn text(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    pub(super) fn of(text: &str) -> Option<Family> {
        [Family::V4, Family::V6]
            .into_iter()
            .find(|family| family.text() == text)
    }

    pub(super) fn has(self, address: std::net::IpAddr) -> bool {
        address.is_ipv4() == (self == Family::V4)
    }
}

impl ServiceFacts {
    /// Says whether the Service has no address of its own.
    pub(super) fn is_headless(&self) -> bool {
        self.address != ClusterAddress::Given
    }

    pub(super) fn selects(&self, labels: &Labels) -> bool {
        self.keeper == Keeper::Selector
            && self
                .selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Returns the reference by which what is made for the Service goes with it.
    pub(super) fn owner(&self, name: &str) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            name: name.to_owned(),
            uid: self.uid.to_string(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

impl ServicePort {
    /// Returns the number of the port in a pod, unless the pod has no port of that name.
    pub(super) fn in_pod(&self, pod: &PodFacts) -> Option<i32> {
        match &self.target {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let mut ports = pod.ports.iter();
                let port =
                    ports.find(|port| port.name == *name && port.protocol == self.protocol)?;
                Some(port.number)
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceWire {
    metadata: WireMeta,
    spec: Option<SpecWire>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecWire {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    selector: Option<Labels>,
    ip_families: Option<Vec<String>>,
    ports: Option<Vec<PortWire>>,
    publish_not_ready_addresses: Option<bool>,
    traffic_distribution: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortWire {
    name: Option<String>,
    protocol: Option<String>,
    port: i32,
    target_port: Option<IntOrString>,
    app_protocol: Option<String>,
}

impl Facts for ServiceFacts {
    type Kind = Service;
    type Wire = ServiceWire;

    fn of(wire: ServiceWire) -> (WireMeta, Self) {
        let mut meta = wire.metadata;
        let spec = wire.spec.unwrap_or_default();
        let selector = spec.selector.clone().unwrap_or_default();
        let facts = ServiceFacts {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            labels: meta.labels.take().unwrap_or_default(),
            keeper: match spec.kind.as_deref() {
                Some("ExternalName") => Keeper::Nobody,
                _ if selector.is_empty() => Keeper::Maker,
                _ => Keeper::Selector,
            },
            selector,
            address: match spec.cluster_ip.as_deref() {
                None | Some("") => ClusterAddress::Missing,
                Some("None") => ClusterAddress::Headless,
                Some(_) => ClusterAddress::Given,
            },
            families: families(&spec),
            distribution: distribution(&spec, meta.annotations.as_ref()),
            ports: spec
                .ports
                .into_iter()
                .flatten()
                .map(ServicePort::from)
                .collect(),
            publishes_unready: spec.publish_not_ready_addresses.unwrap_or_default(),
            deleting: meta.is_deleting(),
            created: meta.creation_timestamp,
        };
        (meta, facts)
    }
}

/// A Service that does not say its families has that of its address, or both.
fn families(spec: &SpecWire) -> Vec<Family> {
    let said = spec.ip_families.iter().flatten();
    let said: Vec<Family> = said.filter_map(|family| Family::of(family)).collect();
    if !said.is_empty() {
        return said;
    }
    match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => vec![Family::V4, Family::V6],
        Some(address) if address.contains(':') => vec![Family::V6],
        Some(_) => vec![Family::V4],
    }
}

fn distribution(spec: &SpecWire, annotations: Option<&Labels>) -> Distribution {
    let modes = TOPOLOGY_MODES.iter();
    let mode = annotations.and_then(|all| modes.clone().find_map(|name| all.get(*name)));
    if mode.is_some_and(|mode| matches!(mode.as_str(), "Auto" | "auto")) {
        return Distribution::Anywhere;
    }
    match spec.traffic_distribution.as_deref() {
        Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
        Some("PreferSameNode") => Distribution::SameNode,
        _ => Distribution::Anywhere,
    }
}

impl From<PortWire> for ServicePort {
    fn from(port: PortWire) -> ServicePort {
        ServicePort {
            name: port.name.unwrap_or_default(),
            protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
            target: port.target_port.unwrap_or(IntOrString::Int(port.port)),
            app_protocol: port.app_protocol,
        }
    }
}
