//! An EndpointSlice as it is kept, and as it is written.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::discovery::v1::EndpointSlice, apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    seen::{Extras, Facts, Labels, TRIGGER_TIME, Version, WireMeta},
    service::Family,
};

/// The Service that a slice belongs to.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Who looks after a slice.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The Service has no address of its own, so a proxy has nothing to do with the slice.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
/// How the stock controller, and this one, call themselves there.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The same for what is made from Endpoints that people wrote.
pub(super) const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";

/// The longest name that can be a prefix of generated ones: a name has at most 253 letters.
const PREFIX_BYTES_MAX: usize = 253;

/// A slice, known or to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slice {
    /// None as long as the server has not given it one.
    pub(super) name: Option<Arc<str>>,
    pub(super) version: Version,
    pub(super) labels: Labels,
    pub(super) extras: Extras,
    /// None if it is of a sort that is not made here.
    pub(super) family: Option<Family>,
    /// In order, so that equal sets are equal lists.
    pub(super) ports: Vec<SlicePort>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) deleting: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SlicePort {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) port: Option<i32>,
    pub(super) app_protocol: Option<String>,
}

/// A pod as an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) addresses: Vec<IpAddr>,
    /// None if it is no pod of the slice's namespace.
    pub(super) pod: Option<PodName>,
    pub(super) node: Option<Arc<str>>,
    pub(super) zone: Option<Arc<str>>,
    pub(super) hostname: Option<Arc<str>>,
    pub(super) conditions: Conditions,
    pub(super) hints: Option<Box<Hints>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) name: Arc<str>,
    pub(super) uid: Arc<str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

/// For whom an endpoint is best.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hints {
    pub(super) zones: Vec<Arc<str>>,
    pub(super) nodes: Vec<Arc<str>>,
}

/// What tells endpoints apart; everything else of an endpoint may change in place.
pub(super) type EndpointId<'a> = (&'a [IpAddr], Option<&'a str>, Option<&'a str>);

impl Endpoint {
    pub(super) fn id(&self) -> EndpointId<'_> {
        let pod = self.pod.as_ref().map(|pod| &*pod.name);
        (&self.addresses, pod, self.hostname.as_deref())
    }

    fn json(&self, namespace: &str) -> Value {
        let Conditions {
            ready,
            serving,
            terminating,
        } = self.conditions;
        let mut endpoint = json!({
            "addresses": self.addresses,
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        });
        if let Some(pod) = &self.pod {
            endpoint["targetRef"] = json!({"kind": "Pod", "namespace": namespace,
                "name": &*pod.name, "uid": &*pod.uid});
        }
        for (field, text) in [
            ("nodeName", &self.node),
            ("zone", &self.zone),
            ("hostname", &self.hostname),
        ] {
            if let Some(text) = text {
                endpoint[field] = Value::from(&**text);
            }
        }
        if let Some(hints) = &self.hints {
            for (field, names) in [("forZones", &hints.zones), ("forNodes", &hints.nodes)] {
                if !names.is_empty() {
                    let names = names.iter().map(|name| json!({"name": &**name}));
                    endpoint["hints"][field] = names.collect();
                }
            }
        }
        endpoint
    }
}

impl SlicePort {
    fn json(&self) -> Value {
        let mut port = json!({"name": self.name, "protocol": self.protocol, "port": self.port});
        if let Some(protocol) = &self.app_protocol {
            port["appProtocol"] = Value::from(protocol.as_str());
        }
        port
    }
}

impl Slice {
    /// Says whether a Service made the slice, and not another one of the same name.
    pub(super) fn is_owned_by(&self, uid: &str) -> bool {
        let owners = &self.extras.owner_references;
        owners.iter().any(|owner: &OwnerReference| {
            owner.uid == uid && owner.kind == "Service" && owner.api_version == "v1"
        })
    }

    /// Returns the object to send.
    pub(super) fn json(&self, namespace: &str, service: &str, trigger: Option<Timestamp>) -> Value {
        let mut metadata =
            serde_json::to_value(&self.extras).expect("names and texts can be written");
        metadata["namespace"] = Value::from(namespace);
        metadata["generateName"] = Value::from(prefix(service));
        metadata["labels"] = json!(self.labels);
        if let Some(name) = &self.name {
            metadata["name"] = Value::from(&**name);
            metadata["resourceVersion"] = Value::from(self.version.0.as_str());
        }
        if let Some(time) = trigger {
            metadata["annotations"][TRIGGER_TIME] = Value::from(time.to_string());
        }
        let endpoints = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.json(namespace));
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": self.family.map(Family::text),
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": self.ports.iter().map(SlicePort::json).collect::<Vec<_>>(),
        })
    }
}

/// Returns what the names of a Service's slices begin with.
pub(super) fn prefix(service: &str) -> String {
    match service.len() < PREFIX_BYTES_MAX {
        true => format!("{service}-"),
        false => service.to_owned(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SliceWire {
    metadata: WireMeta,
    address_type: Option<String>,
    endpoints: Option<Vec<EndpointWire>>,
    ports: Option<Vec<SlicePort>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointWire {
    addresses: Vec<String>,
    conditions: Option<Conditions>,
    target_ref: Option<TargetWire>,
    node_name: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    hostname: Option<Arc<str>>,
    hints: Option<HintsWire>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TargetWire {
    kind: String,
    namespace: String,
    name: Arc<str>,
    uid: Arc<str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HintsWire {
    for_zones: Option<Vec<NameWire>>,
    for_nodes: Option<Vec<NameWire>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NameWire {
    name: Arc<str>,
}

impl Facts for Slice {
    type Kind = EndpointSlice;
    type Wire = SliceWire;

    fn of(wire: SliceWire) -> (WireMeta, Self) {
        let mut meta = wire.metadata;
        let namespace = meta.namespace.clone().unwrap_or_default();
        let mut ports = wire.ports.unwrap_or_default();
        ports.sort();
        let endpoints = wire.endpoints.unwrap_or_default().into_iter();
        let slice = Slice {
            name: meta.name.as_deref().map(Arc::from),
            version: meta.version(),
            labels: meta.labels.take().unwrap_or_default(),
            extras: meta.extras(),
            family: wire.address_type.as_deref().and_then(Family::of),
            ports,
            endpoints: endpoints
                .map(|endpoint| endpoint.read(&namespace))
                .collect(),
            deleting: meta.is_deleting(),
        };
        (meta, slice)
    }
}

impl EndpointWire {
    fn read(self, namespace: &str) -> Endpoint {
        let names = |names: Option<Vec<NameWire>>| {
            let names = names.unwrap_or_default().into_iter();
            names.map(|one| one.name).collect::<Vec<_>>()
        };
        let target = self.target_ref;
        let pod = target.filter(|target| target.kind == "Pod" && target.namespace == namespace);
        let addresses = self.addresses.iter();
        Endpoint {
            addresses: addresses
                .filter_map(|address| address.parse().ok())
                .collect(),
            pod: pod.map(|target| PodName {
                name: target.name,
                uid: target.uid,
            }),
            node: self.node_name,
            zone: self.zone,
            hostname: self.hostname,
            conditions: self.conditions.unwrap_or_default(),
            hints: self.hints.map(|hints| {
                Box::new(Hints {
                    zones: names(hints.for_zones),
                    nodes: names(hints.for_nodes),
                })
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::services::seen::Seen;

    #[test]
    fn what_is_written_reads_as_it_was() {
        let text = |text: &str| Some(Arc::from(text));
        let endpoint = Endpoint {
            addresses: vec!["10.0.0.1".parse().expect("an address")],
            pod: Some(PodName {
                name: "a".into(),
                uid: "u".into(),
            }),
            node: text("node"),
            zone: text("zone"),
            hostname: text("host"),
            conditions: Conditions {
                ready: Some(false),
                serving: Some(true),
                terminating: Some(true),
            },
            hints: Some(Box::new(Hints {
                zones: vec!["zone".into()],
                nodes: vec!["node".into()],
            })),
        };
        let port = SlicePort {
            name: Some(String::new()),
            protocol: Some("TCP".to_owned()),
            port: Some(80),
            app_protocol: Some("http".to_owned()),
        };
        let slice = Slice {
            name: text("s-1"),
            version: Version("7".to_owned()),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            extras: Extras {
                annotations: [("c".to_owned(), "d".to_owned())].into(),
                ..Extras::default()
            },
            family: Some(Family::V4),
            ports: vec![port],
            endpoints: vec![endpoint],
            deleting: false,
        };
        let object = slice.json("n", "s", Some(Timestamp::UNIX_EPOCH));
        let annotations = &object["metadata"]["annotations"];
        assert_eq!(annotations[TRIGGER_TIME], "1970-01-01T00:00:00Z");
        let read: Seen<Slice> = serde_json::from_value(object).expect("a slice");
        assert_eq!(read.facts, slice);
    }

    #[test]
    fn a_slice_may_list_nothing() {
        let object = json!({"metadata": {"name": "s"}, "addressType": "IPv6", "endpoints": null,
            "ports": null});
        let read: Seen<Slice> = serde_json::from_value(object).expect("a slice");
        assert_eq!(read.facts.family, Some(Family::V6));
        assert!(read.facts.endpoints.is_empty() && read.facts.ports.is_empty());
    }
}
