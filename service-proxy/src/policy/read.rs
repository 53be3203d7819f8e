//! Reads NetworkPolicies, pods and namespaces: what is wire and what it means. The conversion is the
//! only place that refuses.

use std::net::IpAddr;

use coracle_network::{AddressBlock, Protocol};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ContainerPort, Namespace};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::Object;
use serde::Deserialize;

use super::selector::{Labels, Selector, UnknownOperator};

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    /// Where its subjects are.
    pub(crate) namespace: String,
    /// Which pods of the namespace it holds for.
    pub(crate) subjects: Selector,
    /// What may come in; nothing if it does not say.
    pub(crate) ingress: Option<Vec<PolicyRule>>,
    /// What may go out; nothing if it does not say.
    pub(crate) egress: Option<Vec<PolicyRule>>,
}

/// One rule of a policy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PolicyRule {
    /// The other side; nothing for anyone.
    pub(crate) peers: Option<Vec<Peer>>,
    /// The ports; nothing for all.
    pub(crate) ports: Option<Vec<PolicyPort>>,
}

/// The other side of a rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Peer {
    /// A block of addresses.
    Block(AddressBlock),
    /// Pods.
    Pods(PodPeer),
}

/// Pods of selected namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PodPeer {
    /// The namespaces.
    pub(crate) namespaces: Namespaces,
    /// The pods in them.
    pub(crate) pods: Selector,
}

/// Namespaces of pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Namespaces {
    /// This one.
    One(String),
    /// All that are selected.
    Selected(Selector),
}

/// A port of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PolicyPort {
    /// These numbers, both ends included.
    Range(Protocol, u16, u16),
    /// The ports of this name.
    Named(Protocol, String),
}

/// Why a policy cannot be honoured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("the policy has no specification")]
    Empty,
    #[error("a selector cannot be read")]
    Selector(#[from] UnknownOperator),
    #[error("`{0}` is no range of addresses")]
    Range(String),
    #[error("`{0}` is no port")]
    Port(i32),
    #[error("unknown protocol `{0}`")]
    Protocol(String),
    #[error("a peer says neither pods nor namespaces nor addresses, or too much of them")]
    Peer,
}

/// A policy and what of it cannot be honoured: a rule that cannot be read admits nothing.
pub(crate) type Read = (Policy, Vec<PolicyError>);

impl Policy {
    /// Reads a policy as the API serves it.
    pub(crate) fn read(policy: &NetworkPolicy) -> Result<Read, PolicyError> {
        let spec = policy.spec.as_ref().ok_or(PolicyError::Empty)?;
        let namespace = policy.metadata.namespace.clone().unwrap_or_default();
        let subjects = spec.pod_selector.as_ref().map(Selector::read).transpose()?;
        let mut refused = Vec::new();
        let mut keep = |rule: Result<PolicyRule, _>| rule.map_err(|error| refused.push(error)).ok();
        let says = |direction: &str, otherwise: bool| match spec.policy_types.as_deref() {
            None | Some([]) => otherwise,
            Some(types) => types.iter().any(|of| of == direction),
        };
        let ingress = spec.ingress.as_deref().unwrap_or_default();
        let egress = spec.egress.as_deref().unwrap_or_default();
        let ingress = says("Ingress", true).then(|| {
            let rules = ingress.iter();
            let rules = rules
                .map(|rule| read_rule(&namespace, rule.from.as_deref(), rule.ports.as_deref()));
            rules.filter_map(&mut keep).collect()
        });
        let egress = says("Egress", !egress.is_empty()).then(|| {
            let rules = egress.iter();
            let rules =
                rules.map(|rule| read_rule(&namespace, rule.to.as_deref(), rule.ports.as_deref()));
            rules.filter_map(&mut keep).collect()
        });
        let policy = Policy {
            subjects: subjects.unwrap_or_default(),
            ingress,
            egress,
            namespace,
        };
        Ok((policy, refused))
    }
}

fn read_rule(
    namespace: &str,
    peers: Option<&[NetworkPolicyPeer]>,
    ports: Option<&[NetworkPolicyPort]>,
) -> Result<PolicyRule, PolicyError> {
    let peers = peers.filter(|peers| !peers.is_empty()).map(|peers| {
        let peers = peers.iter().map(|peer| read_peer(namespace, peer));
        peers.collect::<Result<Vec<_>, _>>()
    });
    let ports = ports.filter(|ports| !ports.is_empty()).map(|ports| {
        let ports = ports.iter().filter_map(|port| read_port(port).transpose());
        ports.collect::<Result<Vec<_>, _>>()
    });
    Ok(PolicyRule {
        peers: peers.transpose()?,
        ports: ports.transpose()?,
    })
}

fn read_peer(namespace: &str, peer: &NetworkPolicyPeer) -> Result<Peer, PolicyError> {
    let selector = |selector: &Option<_>| selector.as_ref().map(Selector::read).transpose();
    let pods = selector(&peer.pod_selector)?;
    let namespaces = selector(&peer.namespace_selector)?;
    match (&peer.ip_block, namespaces, pods) {
        (Some(block), None, None) => Ok(Peer::Block(read_block(block)?)),
        (None, Some(namespaces), pods) => Ok(Peer::Pods(PodPeer {
            namespaces: Namespaces::Selected(namespaces),
            pods: pods.unwrap_or_default(),
        })),
        (None, None, Some(pods)) => Ok(Peer::Pods(PodPeer {
            namespaces: Namespaces::One(namespace.to_owned()),
            pods,
        })),
        (None, None, None) | (Some(_), ..) => Err(PolicyError::Peer),
    }
}

fn read_block(block: &IPBlock) -> Result<AddressBlock, PolicyError> {
    let range = |text: &String| {
        let range = text.parse::<IpNet>();
        range.map_err(|_| PolicyError::Range(text.clone()))
    };
    let except = block.except.iter().flatten().map(range);
    Ok(AddressBlock {
        cidr: range(&block.cidr)?,
        except: except.collect::<Result<_, _>>()?,
    })
}

/// Reads a port; nothing for a protocol that no pod here speaks, so that the rule admits nothing by it.
fn read_port(port: &NetworkPolicyPort) -> Result<Option<PolicyPort>, PolicyError> {
    let Some(protocol) = protocol(port.protocol.as_deref())? else {
        return Ok(None);
    };
    let number = |number: i32| u16::try_from(number).map_err(|_| PolicyError::Port(number));
    Ok(Some(match &port.port {
        None => PolicyPort::Range(protocol, 0, u16::MAX),
        Some(IntOrString::Int(first)) => {
            let last = port.end_port.unwrap_or(*first);
            PolicyPort::Range(protocol, number(*first)?, number(last)?)
        }
        Some(IntOrString::String(name)) => PolicyPort::Named(protocol, name.clone()),
    }))
}

fn protocol(name: Option<&str>) -> Result<Option<Protocol>, PolicyError> {
    match name {
        None | Some("TCP") => Ok(Some(Protocol::Tcp)),
        Some("UDP") => Ok(Some(Protocol::Udp)),
        Some("SCTP") => Ok(None),
        Some(other) => Err(PolicyError::Protocol(other.to_owned())),
    }
}

/// A pod, as much of it as policies depend on.
pub(crate) type WirePod = Object<WirePodSpec, WirePodStatus>;

/// What of `spec` is read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WirePodSpec {
    node_name: Option<String>,
    host_network: bool,
    containers: Vec<WireContainer>,
    init_containers: Vec<WireContainer>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct WireContainer {
    ports: Vec<ContainerPort>,
}

/// What of `status` is read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WirePodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<WirePodIp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct WirePodIp {
    ip: String,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) labels: Labels,
    /// The node it is bound to.
    pub(crate) node: Option<String>,
    /// Its addresses, while it has any of its own.
    pub(crate) ips: Vec<IpAddr>,
    /// Its ports that have names.
    pub(crate) ports: Vec<(String, Protocol, u16)>,
}

impl PodFacts {
    /// Reads a pod.
    pub(crate) fn read(pod: WirePod) -> PodFacts {
        let WirePod {
            metadata,
            spec,
            status,
            ..
        } = pod;
        let status = status.unwrap_or_default();
        let is_over = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        // A pod on the node's network is the node to all others.
        let has_address = !is_over && !spec.host_network;
        let texts = status.pod_ips.iter().map(|ip| &ip.ip);
        let texts = texts.chain(&status.pod_ip).filter(|_| has_address);
        let mut ips = texts
            .filter_map(|text| text.parse().ok())
            .collect::<Vec<IpAddr>>();
        ips.sort();
        ips.dedup();
        let containers = spec.containers.iter().chain(&spec.init_containers);
        let ports = containers.flat_map(|container| &container.ports);
        let ports = ports.filter_map(|port| {
            let protocol = protocol(port.protocol.as_deref()).ok()??;
            let number = u16::try_from(port.container_port).ok()?;
            Some((port.name.clone()?, protocol, number))
        });
        PodFacts {
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            node: spec.node_name,
            ports: ports.collect(),
            ips,
        }
    }
}

/// Reads the labels of a namespace. Its name is one of them, whatever is written there.
pub(crate) fn namespace_labels(namespace: Namespace) -> Labels {
    const NAME: &str = "kubernetes.io/metadata.name";
    let mut labels = namespace.metadata.labels.unwrap_or_default();
    labels.insert(NAME.to_owned(), namespace.metadata.name.unwrap_or_default());
    labels
}

#[cfg(test)]
mod tests;
