//! The few fields of pods, nodes and namespaces that placement looks at; nothing else is parsed.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Affinity, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Resource,
    api::ApiResource,
    core::{DynamicResourceScope, Object},
};
use serde::{Deserialize, Serialize};

use crate::metadata::unmanaged;

/// A pod; of each there are three versions during its start, so that less of its metadata is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodView {
    #[serde(deserialize_with = "unmanaged")]
    pub(super) metadata: ObjectMeta,
    pub(super) spec: PodSpecView,
    pub(super) status: Option<PodStatusView>,
}

pub(super) type NodeView = Object<NodeSpecView, NodeStatusView>;
/// Only the labels of a namespace matter.
pub(super) type NamespaceView = Object<Nothing, Nothing>;

pub(super) type Amounts = BTreeMap<String, String>;

/// A part of an object that is skipped.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Nothing {}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpecView {
    pub(super) node_name: Option<String>,
    pub(super) scheduler_name: Option<String>,
    pub(super) node_selector: BTreeMap<String, String>,
    pub(super) affinity: Option<Affinity>,
    pub(super) topology_spread_constraints: Vec<TopologySpreadConstraint>,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) scheduling_gates: Vec<Gate>,
    pub(super) priority: Option<i32>,
    pub(super) preemption_policy: Option<String>,
    pub(super) containers: Vec<ContainerView>,
    pub(super) init_containers: Vec<ContainerView>,
    pub(super) resources: ResourcesView,
    pub(super) overhead: Amounts,
    pub(super) volumes: Vec<VolumeView>,
}

/// Of a pod's volumes, only the claims matter.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct VolumeView {
    pub(super) persistent_volume_claim: Option<ClaimSource>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClaimSource {
    pub(super) claim_name: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatusView {
    pub(super) phase: Option<String>,
    pub(super) nominated_node_name: Option<String>,
    pub(super) start_time: Option<Timestamp>,
    pub(super) conditions: Vec<Condition>,
    pub(super) container_statuses: Vec<ContainerStatusView>,
    pub(super) init_container_statuses: Vec<ContainerStatusView>,
}

/// What a node has given a container, which a resize has not reached yet.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerStatusView {
    pub(super) name: String,
    pub(super) allocated_resources: Amounts,
    pub(super) resources: ResourcesView,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Gate {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerView {
    pub(super) name: String,
    pub(super) restart_policy: Option<String>,
    pub(super) resources: ResourcesView,
    pub(super) ports: Vec<PortView>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct ResourcesView {
    pub(super) requests: Amounts,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PortView {
    pub(super) host_port: Option<u16>,
    #[serde(rename = "hostIP")]
    pub(super) host_ip: Option<String>,
    pub(super) protocol: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Toleration {
    pub(super) key: Option<String>,
    pub(super) operator: Option<String>,
    pub(super) value: Option<String>,
    pub(super) effect: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct NodeSpecView {
    pub(super) unschedulable: bool,
    pub(super) taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Taint {
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) effect: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct NodeStatusView {
    pub(super) allocatable: Amounts,
    pub(super) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
}

impl Resource for PodView {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(kind: &ApiResource) -> Cow<'_, str> {
        kind.kind.as_str().into()
    }

    fn group(kind: &ApiResource) -> Cow<'_, str> {
        kind.group.as_str().into()
    }

    fn version(kind: &ApiResource) -> Cow<'_, str> {
        kind.version.as_str().into()
    }

    fn api_version(kind: &ApiResource) -> Cow<'_, str> {
        kind.api_version.as_str().into()
    }

    fn plural(kind: &ApiResource) -> Cow<'_, str> {
        kind.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
