//! Services and the node, as far as routing depends on them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{Protocol, TrafficPolicy, ZonePort};
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use thiserror::Error;

use super::{
    PROXY_NAME_LABEL, ProtocolName, ServiceKey, port_number, protocol, usable_ip, zone_port,
};

/// How long a client stays at its endpoint where the Service does not say it: the API's default.
const AFFINITY_TIMEOUT: Duration = Duration::from_secs(10_800);

/// The label that names a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The taint of a node that is about to be removed: it takes no new connections from outside.
const REMOVAL_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    /// Which one.
    pub(crate) key: ServiceKey,
    /// Its identity over renames, for events.
    pub(crate) uid: Option<String>,
    /// What its name stands for.
    pub(crate) addressing: Addressing,
    /// Whether another proxy than the node's own was named to serve it.
    pub(crate) left_to_another: bool,
    /// Its cluster IPs, at most one of each family; the first is of its main family.
    pub(crate) cluster_ips: Vec<IpAddr>,
    /// Its ports that can be served.
    pub(crate) ports: Vec<PortFacts>,
    /// Its ports that have names.
    pub(crate) named_ports: Vec<ZonePort>,
    /// `externalIPs`.
    pub(crate) external_ips: Vec<IpAddr>,
    /// Addresses of its load balancer that lead here unchanged.
    pub(crate) load_balancer_ips: Vec<IpAddr>,
    /// Who may come by these; nothing for everyone.
    pub(crate) source_ranges: Option<Arc<[IpNet]>>,
    /// The policy of cluster IPs.
    pub(crate) internal: TrafficPolicy,
    /// The policy of all other addresses.
    pub(crate) external: TrafficPolicy,
    /// For how long a client stays at its endpoint; nothing without affinity.
    pub(crate) affinity: Option<Duration>,
    /// Where load balancers ask whether this node has endpoints.
    pub(crate) health_port: Option<u16>,
    /// Whether endpoints count before they are ready, for names.
    pub(crate) publish_not_ready: bool,
    /// What cannot be served.
    pub(crate) refusals: Vec<Refusal>,
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Addressing {
    /// Cluster IPs.
    Virtual,
    /// Its endpoints themselves.
    Headless,
    /// Another name.
    ExternalName(String),
    /// Nothing yet: no address was allocated.
    Pending,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortFacts {
    /// Its name, empty for the only port of a Service.
    pub(crate) name: String,
    /// Its protocol.
    pub(crate) protocol: Protocol,
    /// Its number on the Service's addresses.
    pub(crate) port: u16,
    /// Its number on the node's addresses.
    pub(crate) node_port: Option<u16>,
    /// What is spoken on it, where the Service says so.
    pub(crate) app_protocol: Option<String>,
}

/// Why a part of a Service is not served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    /// A protocol that user space does not carry.
    #[error("port {port} is not served on this node: SCTP is not supported")]
    Sctp {
        /// The port.
        port: i32,
    },
    /// A port that means nothing.
    #[error("port {port} is not served: its number or protocol is not valid")]
    Port {
        /// The port.
        port: i32,
    },
    /// An address that means nothing or that no Service may have.
    #[error("address `{address}` is not served: a Service cannot have it")]
    Address {
        /// The address as written.
        address: String,
    },
    /// A range that means nothing.
    #[error("source range `{range}` is not a range of addresses, so nobody may come from it")]
    SourceRange {
        /// The range as written.
        range: String,
    },
}

/// The node, as far as routing depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    /// Its zone.
    pub(crate) zone: Option<String>,
    /// Whether it is to be removed, so that load balancers shall send nothing new.
    pub(crate) is_leaving: bool,
}

impl NodeFacts {
    /// Takes the facts from a Node.
    pub(crate) fn of(node: &core::Node) -> NodeFacts {
        let labels = node.metadata.labels.as_ref();
        let zone = labels.and_then(|labels| labels.get(ZONE_LABEL)).cloned();
        let taints = node
            .spec
            .iter()
            .flat_map(|spec| spec.taints.iter().flatten());
        let is_tainted = taints.into_iter().any(|taint| taint.key == REMOVAL_TAINT);
        NodeFacts {
            zone: zone.filter(|zone| !zone.is_empty()),
            is_leaving: is_tainted || node.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl ServiceFacts {
    /// Takes the facts from a Service; nothing from one without a name or a specification.
    pub(crate) fn of(service: &core::Service) -> Option<ServiceFacts> {
        let metadata = &service.metadata;
        let spec = service.spec.as_ref()?;
        let mut refusals = Vec::new();
        let mut addresses = Addresses {
            refusals: &mut refusals,
        };
        let addressing = addressing(spec);
        let cluster_ips = match addressing {
            Addressing::Virtual => addresses.cluster_ips(spec),
            Addressing::Headless | Addressing::ExternalName(_) | Addressing::Pending => Vec::new(),
        };
        let external_ips = addresses.read(spec.external_ips.iter().flatten());
        let load_balancer_ips = addresses.read(load_balancer_ips(service));
        let external = policy(spec.external_traffic_policy.as_deref());
        let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
        let health_port = spec.health_check_node_port.and_then(port_number);
        let health_port = health_port.filter(|_| is_balanced && external == TrafficPolicy::Local);
        Some(ServiceFacts {
            key: ServiceKey {
                namespace: metadata.namespace.clone()?,
                name: metadata.name.clone()?,
            },
            uid: metadata.uid.clone(),
            addressing,
            left_to_another: has_label(metadata.labels.as_ref(), PROXY_NAME_LABEL),
            cluster_ips,
            source_ranges: source_ranges(spec, &mut refusals),
            ports: ports(spec, &mut refusals),
            named_ports: named_ports(spec),
            external_ips,
            load_balancer_ips,
            internal: policy(spec.internal_traffic_policy.as_deref()),
            external,
            affinity: affinity(spec),
            health_port,
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
            refusals,
        })
    }

    /// Tells whether the proxy serves it at addresses of its own.
    pub(crate) fn is_proxied(&self) -> bool {
        self.addressing == Addressing::Virtual && !self.left_to_another
    }
}

pub(super) fn has_label(labels: Option<&BTreeMap<String, String>>, label: &str) -> bool {
    labels.is_some_and(|labels| labels.contains_key(label))
}

fn addressing(spec: &core::ServiceSpec) -> Addressing {
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.clone().unwrap_or_default();
        return Addressing::ExternalName(name);
    }
    match spec.cluster_ip.as_deref() {
        Some("None") => Addressing::Headless,
        None | Some("") => Addressing::Pending,
        Some(_) => Addressing::Virtual,
    }
}

/// Reads addresses and keeps what was wrong with the others.
struct Addresses<'a> {
    refusals: &'a mut Vec<Refusal>,
}

impl Addresses<'_> {
    fn cluster_ips(&mut self, spec: &core::ServiceSpec) -> Vec<IpAddr> {
        let several = spec.cluster_ips.as_deref().unwrap_or_default();
        let one = spec.cluster_ip.as_slice();
        self.read(if several.is_empty() { one } else { several })
    }

    fn read<'t>(&mut self, texts: impl IntoIterator<Item = &'t String>) -> Vec<IpAddr> {
        let mut read = Vec::new();
        for text in texts {
            match usable_ip(text) {
                Some(ip) if read.contains(&ip) => {}
                Some(ip) => read.push(ip),
                None => self.refusals.push(Refusal::Address {
                    address: text.clone(),
                }),
            }
        }
        read
    }
}

/// Returns the load balancer's addresses by which connections arrive as they were sent. Through one of
/// mode `Proxy` they come to a node port, and a name is nothing to listen on.
fn load_balancer_ips(service: &core::Service) -> impl Iterator<Item = &String> {
    let spec = service.spec.as_ref();
    let is_balanced = spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    let status = service.status.iter().filter(move |_| is_balanced);
    let ingress = status
        .filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .flatten();
    ingress
        .filter(|one| one.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|one| one.ip.as_ref())
}

fn source_ranges(spec: &core::ServiceSpec, refusals: &mut Vec<Refusal>) -> Option<Arc<[IpNet]>> {
    let written = spec.load_balancer_source_ranges.as_deref()?;
    let mut ranges = Vec::new();
    for text in written.iter().map(|text| text.trim()) {
        match text.parse::<IpNet>() {
            Ok(range) => ranges.push(range),
            Err(_) => refusals.push(Refusal::SourceRange {
                range: text.to_owned(),
            }),
        }
    }
    let is_open = written.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0);
    (!is_open).then(|| ranges.into())
}

fn ports(spec: &core::ServiceSpec, refusals: &mut Vec<Refusal>) -> Vec<PortFacts> {
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        match (protocol(port.protocol.as_deref()), port_number(port.port)) {
            (ProtocolName::Sctp, _) => refusals.push(Refusal::Sctp { port: port.port }),
            (ProtocolName::Known(protocol), Some(number)) => ports.push(PortFacts {
                name: port.name.clone().unwrap_or_default(),
                protocol,
                port: number,
                node_port: port.node_port.and_then(port_number),
                app_protocol: port.app_protocol.clone(),
            }),
            (ProtocolName::Known(_) | ProtocolName::Unknown, _) => {
                refusals.push(Refusal::Port { port: port.port });
            }
        }
    }
    ports
}

fn named_ports(spec: &core::ServiceSpec) -> Vec<ZonePort> {
    let ports = spec.ports.iter().flatten();
    let ports =
        ports.filter_map(|one| zone_port(one.name.as_deref(), one.protocol.as_deref(), one.port));
    ports.collect()
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    match text {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

fn affinity(spec: &core::ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Some(seconds.map_or(AFFINITY_TIMEOUT, Duration::from_secs))
}
