//! Decides what the Endpoints of a Service say: the older form of its slices, which people and tests
//! still read. Pure.
//!
//! Of an Endpoints object only a digest of what it says is kept: it holds the same pods as the slices,
//! and is written as a whole or not at all.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Endpoints;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    pod::PodFacts,
    seen::{Extras, Facts, Labels, TRIGGER_TIME, Version, WireMeta},
    service::{ClusterAddress, ServiceFacts},
    slice::HEADLESS,
    slices::{Observed, hostname},
};

/// So many addresses are named, as by the stock controller.
const ADDRESSES_MAX: usize = 1000;

/// Tells that there are more addresses than are named.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const TRUNCATED: &str = "truncated";

/// Who looks after Endpoints, and how the stock controller, and this one, call themselves there.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// What is kept of an Endpoints object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EndpointsFacts {
    pub(super) uid: Arc<str>,
    pub(super) version: Version,
    pub(super) extras: Extras,
    /// Whether it is one of ours; else a person wrote it.
    pub(super) is_managed: bool,
    digest: u64,
}

/// What the Endpoints of a Service shall say.
#[derive(Debug, Hash, PartialEq, Eq)]
pub(super) struct Wanted {
    labels: Labels,
    truncated: bool,
    subsets: Vec<Subset>,
}

/// Addresses with the ports that all of them have.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Subset {
    ports: Vec<Port>,
    addresses: Vec<Address>,
    not_ready_addresses: Vec<Address>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    port: i32,
    protocol: String,
    name: String,
    app_protocol: Option<String>,
}

/// Ordered as the stock controller orders addresses: by their text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Address {
    ip: String,
    target_ref: Target,
    node_name: String,
    hostname: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(default)]
struct Target {
    uid: String,
    kind: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EndpointsWire {
    metadata: WireMeta,
    subsets: Option<Vec<Subset>>,
}

impl EndpointsFacts {
    /// Says whether the object says what is wanted, so that nothing has to be written.
    pub(super) fn says(&self, wanted: &Wanted) -> bool {
        self.digest == wanted.digest()
    }
}

impl Wanted {
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// Returns the object to send, in place of `known` if there is one.
    pub(super) fn json(
        &self,
        (namespace, name): (&str, &str),
        known: Option<&EndpointsFacts>,
        trigger: Option<Timestamp>,
    ) -> Value {
        let extras = known.map(|known| known.extras.clone()).unwrap_or_default();
        let mut metadata = serde_json::to_value(extras).expect("names and texts can be written");
        metadata["namespace"] = Value::from(namespace);
        metadata["name"] = Value::from(name);
        metadata["labels"] = json!(self.labels);
        if let Some(known) = known {
            metadata["resourceVersion"] = Value::from(known.version.0.as_str());
        }
        if let Some(time) = trigger {
            metadata["annotations"][TRIGGER_TIME] = Value::from(time.to_string());
        }
        if self.truncated {
            metadata["annotations"][OVER_CAPACITY] = Value::from(TRUNCATED);
        }
        let subsets = self.subsets.iter().map(Subset::json);
        json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": metadata,
            "subsets": subsets.collect::<Vec<_>>(),
        })
    }
}

impl Subset {
    fn json(&self) -> Value {
        let mut subset = json!({});
        for (field, addresses) in [
            ("addresses", &self.addresses),
            ("notReadyAddresses", &self.not_ready_addresses),
        ] {
            if !addresses.is_empty() {
                subset[field] = addresses.iter().map(Address::json).collect();
            }
        }
        if !self.ports.is_empty() {
            subset["ports"] = self.ports.iter().map(Port::json).collect();
        }
        subset
    }

    fn sort(&mut self) {
        self.ports.sort();
        self.addresses.sort();
        self.not_ready_addresses.sort();
    }
}

impl Address {
    fn json(&self) -> Value {
        let target = &self.target_ref;
        let mut address = json!({"ip": self.ip, "targetRef": {"kind": target.kind,
            "namespace": target.namespace, "name": target.name, "uid": target.uid}});
        for (field, text) in [("nodeName", &self.node_name), ("hostname", &self.hostname)] {
            if !text.is_empty() {
                address[field] = Value::from(text.as_str());
            }
        }
        address
    }
}

impl Port {
    fn json(&self) -> Value {
        let mut port = json!({"port": self.port, "protocol": self.protocol});
        if !self.name.is_empty() {
            port["name"] = Value::from(self.name.as_str());
        }
        if let Some(protocol) = &self.app_protocol {
            port["appProtocol"] = Value::from(protocol.as_str());
        }
        port
    }
}

/// Returns what the Endpoints of a Service in a namespace shall say.
pub(super) fn wanted(namespace: &str, observed: &Observed<'_>) -> Wanted {
    let service = observed.service;
    let mut labels = service.labels.clone();
    labels.remove(HEADLESS);
    if service.is_headless() {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut subsets = subsets(namespace, observed);
    let truncated = truncate(&mut subsets, ADDRESSES_MAX);
    Wanted {
        labels,
        truncated,
        subsets,
    }
}

fn subsets(namespace: &str, observed: &Observed<'_>) -> Vec<Subset> {
    let service = observed.service;
    // For each port, the pods that have it, by their places among the addresses.
    let mut by_port: BTreeMap<Option<Port>, Vec<usize>> = BTreeMap::new();
    let mut addresses: Vec<(Address, bool)> = Vec::new();
    for &(name, pod) in &observed.pods {
        if pod.terminating && !service.publishes_unready {
            continue;
        }
        let Some(address) = address(namespace, observed, name, pod) else {
            continue;
        };
        for port in ports(service, pod) {
            by_port.entry(port).or_default().push(addresses.len());
        }
        addresses.push((address, service.publishes_unready || pod.ready));
    }
    let mut by_pods: BTreeMap<Vec<usize>, Vec<Port>> = BTreeMap::new();
    for (port, pods) in by_port {
        by_pods.entry(pods).or_default().extend(port);
    }
    let subsets = by_pods.into_iter().map(|(pods, ports)| {
        let all = pods.into_iter().map(|place| &addresses[place]);
        let those = |wanted: bool| {
            let some = all.clone().filter(move |(_, ready)| *ready == wanted);
            some.map(|(address, _)| address.clone()).collect()
        };
        let mut subset = Subset {
            ports,
            addresses: those(true),
            not_ready_addresses: those(false),
        };
        subset.sort();
        subset
    });
    let mut subsets: Vec<_> = subsets.collect();
    subsets.sort();
    subsets
}

/// Returns the ports of a Service in a pod: none at all stands for a headless Service without ports.
fn ports(service: &ServiceFacts, pod: &PodFacts) -> Vec<Option<Port>> {
    if service.ports.is_empty() {
        return match service.address {
            ClusterAddress::Headless => vec![None],
            ClusterAddress::Given | ClusterAddress::Missing => Vec::new(),
        };
    }
    let ports = service.ports.iter().filter_map(|port| {
        Some(Port {
            port: port.in_pod(pod)?,
            protocol: port.protocol.clone(),
            name: port.name.clone(),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.map(Some).collect()
}

/// Endpoints are of one family, the Service's first.
fn address(
    namespace: &str,
    observed: &Observed<'_>,
    name: &Arc<str>,
    pod: &PodFacts,
) -> Option<Address> {
    let family = *observed.service.families.first()?;
    let ip = pod.addresses.iter().find(|address| family.has(**address))?;
    let hostname = hostname(observed.name, pod);
    Some(Address {
        ip: ip.to_string(),
        target_ref: Target {
            uid: pod.uid.to_string(),
            kind: "Pod".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_string(),
        },
        node_name: pod.node.to_string(),
        hostname: hostname.map(|name| name.to_string()).unwrap_or_default(),
    })
}

/// Leaves out what is more than can be named: of what is not ready first, then of what is ready, and of
/// every subset the same share. Says whether anything was left out.
fn truncate(subsets: &mut Vec<Subset>, max: usize) -> bool {
    let ready: usize = subsets.iter().map(|one| one.addresses.len()).sum();
    let others: usize = subsets
        .iter()
        .map(|one| one.not_ready_addresses.len())
        .sum();
    if ready + others <= max {
        return false;
    }
    let cuts_ready = ready > max;
    let (room, total) = match cuts_ready {
        true => (max, ready),
        false => (max - ready, others),
    };
    let mut left = room;
    for subset in subsets.iter_mut() {
        let list = match cuts_ready {
            true => {
                subset.not_ready_addresses.clear();
                &mut subset.addresses
            }
            false => &mut subset.not_ready_addresses,
        };
        let share = (list.len() * room).div_ceil(total).min(left);
        list.truncate(share);
        left -= list.len();
    }
    subsets.retain(|one| !(one.addresses.is_empty() && one.not_ready_addresses.is_empty()));
    true
}

impl Facts for EndpointsFacts {
    type Kind = Endpoints;
    type Wire = EndpointsWire;

    fn of(wire: EndpointsWire) -> (WireMeta, Self) {
        let mut meta = wire.metadata;
        let mut extras = meta.extras();
        let over = extras.annotations.remove(OVER_CAPACITY);
        let mut said = Wanted {
            labels: meta.labels.take().unwrap_or_default(),
            truncated: over.is_some_and(|over| over == TRUNCATED),
            subsets: wire.subsets.unwrap_or_default(),
        };
        said.subsets.iter_mut().for_each(Subset::sort);
        said.subsets.sort();
        let manager = said.labels.get(MANAGED_BY);
        let facts = EndpointsFacts {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            version: meta.version(),
            extras,
            is_managed: manager.is_some_and(|manager| manager == MANAGER),
            digest: said.digest(),
        };
        (meta, facts)
    }
}

#[cfg(test)]
mod tests;
