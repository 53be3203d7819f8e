//! The rows of the core group.

use super::{
    Dependents, Generation, Grace, KindInfo, Missing, Scope, SelectableField, Subresource,
    Unguarded, Verb, field, row,
};
use crate::{defaults, validate};
use Verb::{Create, Delete, Get, List, Patch, Update, Watch};

/// Namespaces are deleted one by one, as with the stock server.
const NAMESPACE_VERBS: &[Verb] = &[Create, Delete, Get, List, Patch, Update, Watch];

/// The kinds of the core group.
pub(super) static KINDS: &[KindInfo] = &[
    KindInfo {
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        validate: validate::config::config_map,
        ..row("", "ConfigMap", "core.v1.ConfigMap")
    },
    KindInfo {
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        deprecated: Some(
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        ),
        defaults: defaults::endpoints,
        validate: validate::endpoints::endpoints,
        missing: Missing::Created,
        ..row("", "Endpoints", "core.v1.Endpoints")
    },
    KindInfo {
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        fields: EVENT_FIELDS,
        blank: defaults::event,
        defaults: defaults::event,
        validate: validate::event::core,
        dependents: Dependents::None,
        missing: Missing::Created,
        ..row("", "Event", "core.v1.Event")
    },
    KindInfo {
        plural: "limitranges",
        singular: "limitrange",
        short_names: &["limits"],
        defaults: defaults::limit_range,
        validate: validate::limits::limit_range,
        missing: Missing::Created,
        ..row("", "LimitRange", "core.v1.LimitRange")
    },
    KindInfo {
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        verbs: NAMESPACE_VERBS,
        subresources: &[Subresource::Finalize, Subresource::Status],
        fields: &[field("status.phase", "/status/phase")],
        name_rule: validate::NameRule::Label,
        defaults: defaults::namespace,
        on_create: defaults::new_namespace,
        on_update: defaults::keep_namespace,
        validate: validate::small::namespace,
        validate_status: validate::small::namespace_status,
        grace: Grace::Namespace,
        ..row("", "Namespace", "core.v1.Namespace")
    },
    KindInfo {
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        scope: Scope::Cluster,
        subresources: &[Subresource::Proxy, Subresource::Status],
        fields: &[SelectableField {
            absent: "false",
            ..field("spec.unschedulable", "/spec/unschedulable")
        }],
        defaults: defaults::node,
        validate: validate::node::node,
        validate_status: validate::node::node_status,
        ..row("", "Node", "core.v1.Node")
    },
    KindInfo {
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: &["pvc"],
        subresources: &[Subresource::Status],
        defaults: defaults::claim,
        on_create: defaults::new_claim,
        validate: validate::storage::claim,
        ..row("", "PersistentVolumeClaim", "core.v1.PersistentVolumeClaim")
    },
    KindInfo {
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short_names: &["pv"],
        scope: Scope::Cluster,
        subresources: &[Subresource::Status],
        defaults: defaults::volume,
        on_create: defaults::new_volume,
        validate: validate::storage::volume,
        ..row("", "PersistentVolume", "core.v1.PersistentVolume")
    },
    KindInfo {
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            Subresource::Attach,
            Subresource::Binding,
            Subresource::EphemeralContainers,
            Subresource::Eviction,
            Subresource::Exec,
            Subresource::Log,
            Subresource::PortForward,
            Subresource::Proxy,
            Subresource::Resize,
            Subresource::Status,
        ],
        fields: POD_FIELDS,
        generation: Generation::Kept,
        defaults: defaults::pod,
        on_create: defaults::new_pod,
        validate: validate::pod::pod,
        warnings: validate::pod::warnings,
        grace: Grace::Pod,
        on_update: defaults::keep_pod,
        validate_status: validate::pod::status,
        ..row("", "Pod", "core.v1.Pod")
    },
    KindInfo {
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: &["quota"],
        subresources: &[Subresource::Status],
        defaults: defaults::empty_spec,
        on_create: defaults::no_status,
        validate: validate::limits::quota,
        validate_status: validate::limits::quota_status,
        ..row("", "ResourceQuota", "core.v1.ResourceQuota")
    },
    KindInfo {
        plural: "secrets",
        singular: "secret",
        fields: &[field("type", "/type")],
        defaults: defaults::secret,
        validate: validate::config::secret,
        ..row("", "Secret", "core.v1.Secret")
    },
    KindInfo {
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        unguarded: Unguarded::Refused,
        subresources: &[Subresource::Token],
        ..row("", "ServiceAccount", "core.v1.ServiceAccount")
    },
    KindInfo {
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[Subresource::Proxy, Subresource::Status],
        fields: &[
            field("spec.clusterIP", "/spec/clusterIP"),
            field("spec.type", "/spec/type"),
        ],
        name_rule: validate::NameRule::Label1035,
        defaults: defaults::service,
        on_update: defaults::keep_service,
        validate: validate::service::service,
        validate_status: validate::service::service_status,
        missing: Missing::Created,
        ..row("", "Service", "core.v1.Service")
    },
];

static POD_FIELDS: &[SelectableField] = &[
    field("spec.nodeName", "/spec/nodeName"),
    field("spec.restartPolicy", "/spec/restartPolicy"),
    field("spec.schedulerName", "/spec/schedulerName"),
    field("spec.serviceAccountName", "/spec/serviceAccountName"),
    SelectableField {
        absent: "false",
        ..field("spec.hostNetwork", "/spec/hostNetwork")
    },
    field("status.phase", "/status/phase"),
    field("status.podIP", "/status/podIP"),
    field("status.podIPs", "/status/podIPs"),
    field("status.nominatedNodeName", "/status/nominatedNodeName"),
];

static EVENT_FIELDS: &[SelectableField] = &[
    field("involvedObject.kind", "/involvedObject/kind"),
    field("involvedObject.namespace", "/involvedObject/namespace"),
    field("involvedObject.name", "/involvedObject/name"),
    field("involvedObject.uid", "/involvedObject/uid"),
    field("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    field(
        "involvedObject.resourceVersion",
        "/involvedObject/resourceVersion",
    ),
    field("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    field("reason", "/reason"),
    field("reportingComponent", "/reportingComponent"),
    field("type", "/type"),
    SelectableField {
        // Events of `events.k8s.io` have no source of their own.
        instead: Some("/reportingComponent"),
        ..field("source", "/source/component")
    },
];
