//! What endpoints depend on in a pod and in a node.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Deserialize;

use super::seen::{Facts, Labels, Pool, WireMeta};

/// Where a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A pod that has an address and has not ended. Others are nobody's endpoint, so nothing of them is
/// kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub(super) uid: Arc<str>,
    pub(super) labels: Arc<Labels>,
    /// Empty if it has none.
    pub(super) node: Arc<str>,
    pub(super) addresses: Vec<IpAddr>,
    /// Its name among the pods of a headless Service, if it has one.
    pub(super) host: Option<Host>,
    pub(super) ports: Arc<[NamedPort]>,
    pub(super) ready: bool,
    pub(super) terminating: bool,
    /// When it became ready, or ceased to be.
    pub(super) turned: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: Arc<str>,
    pub(super) subdomain: Arc<str>,
}

/// A port of a container that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct NamedPort {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) number: i32,
}

/// Where a node is, if it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub(super) zone: Option<Arc<str>>,
}

/// Keeps once what many pods have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    labels: Pool<Labels>,
    texts: Pool<str>,
    ports: Pool<[NamedPort]>,
}

impl Shared {
    pub(super) fn pod(&mut self, pod: &mut PodFacts) {
        pod.labels = self.labels.share(Arc::clone(&pod.labels));
        pod.node = self.texts.share(Arc::clone(&pod.node));
        pod.ports = self.ports.share(Arc::clone(&pod.ports));
        if let Some(host) = &mut pod.host {
            host.subdomain = self.texts.share(Arc::clone(&host.subdomain));
        }
    }

    pub(super) fn text(&mut self, text: &Arc<str>) -> Arc<str> {
        self.texts.share(Arc::clone(text))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodWire {
    metadata: WireMeta,
    spec: Option<SpecWire>,
    status: Option<StatusWire>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecWire {
    node_name: Option<String>,
    hostname: Option<String>,
    subdomain: Option<String>,
    containers: Option<Vec<ContainerWire>>,
    init_containers: Option<Vec<ContainerWire>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerWire {
    restart_policy: Option<String>,
    ports: Option<Vec<PortWire>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PortWire {
    name: Option<String>,
    protocol: Option<String>,
    container_port: i32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StatusWire {
    phase: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<AddressWire>>,
    conditions: Option<Vec<ConditionWire>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AddressWire {
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConditionWire {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    last_transition_time: Option<Timestamp>,
}

impl Facts for Option<PodFacts> {
    type Kind = Pod;
    type Wire = PodWire;

    fn of(wire: PodWire) -> (WireMeta, Self) {
        let mut meta = wire.metadata;
        let spec = wire.spec.unwrap_or_default();
        let status = wire.status.unwrap_or_default();
        let addresses = status.pod_ips.unwrap_or_default().into_iter();
        let addresses: Vec<IpAddr> = addresses.filter_map(|one| one.ip.parse().ok()).collect();
        if addresses.is_empty() || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return (meta, None);
        }
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.iter().find(|one| one.kind == "Ready");
        let labels = meta.labels.take().unwrap_or_default();
        let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
        let host = spec.hostname.as_deref().filter(|name| !name.is_empty());
        let facts = PodFacts {
            uid: text(&meta.uid),
            labels: Arc::new(labels),
            node: text(&spec.node_name),
            addresses,
            host: host.map(|name| Host {
                name: name.into(),
                subdomain: text(&spec.subdomain),
            }),
            ports: named_ports(&spec),
            ready: ready.is_some_and(|ready| ready.status == "True"),
            terminating: meta.is_deleting(),
            turned: ready.and_then(|ready| ready.last_transition_time),
        };
        (meta, Some(facts))
    }
}

/// The named ports of what runs as long as the pod does.
fn named_ports(spec: &SpecWire) -> Arc<[NamedPort]> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().flatten().chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named = ports.filter_map(|port| {
        Some(NamedPort {
            name: port.name.clone().filter(|name| !name.is_empty())?,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            number: port.container_port,
        })
    });
    named.collect()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeWire {
    metadata: WireMeta,
}

impl Facts for NodeFacts {
    type Kind = Node;
    type Wire = NodeWire;

    fn of(wire: NodeWire) -> (WireMeta, Self) {
        let labels = wire.metadata.labels.as_ref();
        let zone = labels.and_then(|labels| labels.get(ZONE));
        let zone = zone.filter(|zone| !zone.is_empty());
        let zone = zone.map(|zone| Arc::from(zone.as_str()));
        (wire.metadata, NodeFacts { zone })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::services::seen::Seen;

    fn read(pod: Value) -> Option<PodFacts> {
        let seen: Seen<Option<PodFacts>> = serde_json::from_value(pod).expect("a pod");
        seen.facts
    }

    #[test]
    fn a_pod_without_an_address_or_that_has_ended_is_nobodys_endpoint() {
        let check = |status: Value, expected: bool| {
            let pod = json!({"metadata": {"name": "a"}, "spec": {}, "status": status});
            assert_eq!(read(pod).is_some(), expected);
        };
        check(json!({"phase": "Running"}), false);
        check(json!({"phase": "Running", "podIPs": []}), false);
        check(
            json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}),
            true,
        );
        check(
            json!({"phase": "Pending", "podIPs": [{"ip": "10.0.0.1"}]}),
            true,
        );
        check(
            json!({"phase": "Failed", "podIPs": [{"ip": "10.0.0.1"}]}),
            false,
        );
        check(
            json!({"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.1"}]}),
            false,
        );
    }

    #[test]
    fn named_ports_are_those_of_containers_and_sidecars() {
        let port = |name: &str, number: i32| json!({"name": name, "containerPort": number});
        let pod = read(json!({"metadata": {"name": "a", "labels": null}, "spec": {
            "initContainers": [{"ports": [port("first", 1)]},
                {"restartPolicy": "Always", "ports": [port("side", 2)]}],
            "containers": [{"ports": [port("web", 3), {"containerPort": 4}]},
                {"ports": [{"name": "dns", "containerPort": 5, "protocol": "UDP"}]}]},
            "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}));
        let pod = pod.expect("it has an address");
        let found: Vec<_> = pod
            .ports
            .iter()
            .map(|port| (port.name.as_str(), port.protocol.as_str(), port.number))
            .collect();
        let expected = [("web", "TCP", 3), ("dns", "UDP", 5), ("side", "TCP", 2)];
        assert_eq!(found, expected);
        assert_eq!(pod.addresses.len(), 2);
    }

    #[test]
    fn what_pods_have_in_common_is_kept_once() {
        let mut shared = Shared::default();
        let mut pods: Vec<PodFacts> = (0..3)
            .filter_map(|_| {
                read(
                    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"nodeName": "n"},
                    "status": {"podIPs": [{"ip": "10.0.0.1"}]}}),
                )
            })
            .collect();
        pods.iter_mut().for_each(|pod| shared.pod(pod));
        assert!(Arc::ptr_eq(&pods[0].labels, &pods[2].labels));
        assert!(Arc::ptr_eq(&pods[0].node, &pods[1].node));
    }
}
