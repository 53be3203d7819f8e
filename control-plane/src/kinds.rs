//! The table of kinds: everything in which one kind differs from another.
//!
//! The rest of this crate is one generic machine that is driven by this table. Fields, their
//! types, defaults and merge keys come from the [schema](crate::schema) named here.

use serde_json::Value;

use crate::{defaults, invalid::Causes, validate};

/// What the server knows about one kind.
#[derive(Debug)]
pub struct KindInfo {
    /// The API group, empty for the core group.
    pub group: &'static str,
    /// The version inside the group.
    pub version: &'static str,
    /// The kind, as written in manifests.
    pub kind: &'static str,
    /// The resource, as written in paths.
    pub plural: &'static str,
    /// What a person may type for one of them.
    pub singular: &'static str,
    /// Abbreviations for the command line of clients.
    pub short_names: &'static [&'static str],
    /// Groups of kinds this one belongs to, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub scope: Scope,
    /// What can be done with objects of this kind; anything else is refused.
    pub verbs: &'static [Verb],
    /// The parts that are served under a path of their own.
    pub subresources: &'static [Subresource],
    /// Fields that field selectors may name, besides `metadata.name` and `metadata.namespace`.
    pub(crate) fields: &'static [SelectableField],
    /// The type of the whole object in the schema.
    pub(crate) schema: &'static str,
    /// How an object's name is checked.
    pub(crate) name_rule: validate::NameRule,
    /// Whether a change of `spec` counts up `metadata.generation`.
    pub(crate) generation: Generation,
    /// Fills in what a client left out, in new and in changed objects; idempotent.
    pub(crate) defaults: fn(&mut Value),
    /// Gives a new object what it begins with.
    pub(crate) on_create: fn(&mut Value),
    /// The checks of an object; the old one is present on update.
    pub(crate) validate: fn(&Value, Option<&Value>, &mut Causes),
    /// How long deletion waits for someone to end what the object stands for.
    pub(crate) grace: Grace,
}

/// Whether a kind's objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One per cluster and name.
    Cluster,
    /// One per namespace and name.
    Namespaced,
}

/// What a client can do with objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Kubernetes' verbs")]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

/// A part of an object served under a path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `…/status`: reads the object, writes only its status.
    Status,
    /// `…/binding`: assigns a pod to a node.
    Binding,
}

/// Whether `metadata.generation` is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    Kept,
    Absent,
}

/// How deletion proceeds when nothing else holds the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grace {
    /// The object is removed at once.
    None,
    /// The node agent ends the pod first and then deletes it with grace 0.
    Pod,
}

/// A field that field selectors may name.
#[derive(Debug)]
pub(crate) struct SelectableField {
    /// The name in selectors.
    pub(crate) name: &'static str,
    /// Where the value is found.
    pub(crate) pointer: &'static str,
    /// What an absent field counts as.
    pub(crate) absent: &'static str,
}

use Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};

const EVERY_VERB: &[Verb] = &[
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
];

/// Namespaces cannot be deleted yet: emptying one is a controller's work that is not served.
const NAMESPACE_VERBS: &[Verb] = &[Create, Get, List, Patch, Update, Watch];

const fn field(name: &'static str, pointer: &'static str) -> SelectableField {
    SelectableField {
        name,
        pointer,
        absent: "",
    }
}

/// Every kind that is served, in the order of discovery.
pub(crate) static KINDS: &[KindInfo] = &[
    KindInfo {
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        validate: validate::config::config_map,
        ..core("ConfigMap", "core.v1.ConfigMap")
    },
    KindInfo {
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        fields: EVENT_FIELDS,
        validate: validate::small::event,
        ..core("Event", "core.v1.Event")
    },
    KindInfo {
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        verbs: NAMESPACE_VERBS,
        subresources: &[Subresource::Status],
        fields: &[field("status.phase", "/status/phase")],
        name_rule: validate::NameRule::Label,
        on_create: defaults::new_namespace,
        ..core("Namespace", "core.v1.Namespace")
    },
    KindInfo {
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        scope: Scope::Cluster,
        subresources: &[Subresource::Status],
        fields: &[SelectableField {
            name: "spec.unschedulable",
            pointer: "/spec/unschedulable",
            absent: "false",
        }],
        defaults: defaults::empty_spec,
        validate: validate::small::node,
        ..core("Node", "core.v1.Node")
    },
    KindInfo {
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[Subresource::Binding, Subresource::Status],
        fields: POD_FIELDS,
        generation: Generation::Kept,
        defaults: defaults::pod,
        on_create: defaults::new_pod,
        validate: validate::pod::pod,
        grace: Grace::Pod,
        ..core("Pod", "core.v1.Pod")
    },
    KindInfo {
        plural: "secrets",
        singular: "secret",
        fields: &[field("type", "/type")],
        defaults: defaults::secret,
        validate: validate::config::secret,
        ..core("Secret", "core.v1.Secret")
    },
    KindInfo {
        group: "coordination.k8s.io",
        plural: "leases",
        singular: "lease",
        defaults: defaults::empty_spec,
        validate: validate::small::lease,
        ..core("Lease", "coordination.v1.Lease")
    },
];

static POD_FIELDS: &[SelectableField] = &[
    field("spec.nodeName", "/spec/nodeName"),
    field("spec.restartPolicy", "/spec/restartPolicy"),
    field("spec.schedulerName", "/spec/schedulerName"),
    field("spec.serviceAccountName", "/spec/serviceAccountName"),
    SelectableField {
        name: "spec.hostNetwork",
        pointer: "/spec/hostNetwork",
        absent: "false",
    },
    field("status.phase", "/status/phase"),
    field("status.podIP", "/status/podIP"),
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
    field("source", "/source/component"),
    field("type", "/type"),
];

/// What most kinds have in common; each row above says in what it differs.
const fn core(kind: &'static str, schema: &'static str) -> KindInfo {
    KindInfo {
        group: "",
        version: "v1",
        kind,
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
        scope: Scope::Namespaced,
        verbs: EVERY_VERB,
        subresources: &[],
        fields: &[],
        schema,
        name_rule: validate::NameRule::Subdomain,
        generation: Generation::Absent,
        defaults: |_| (),
        on_create: |_| (),
        validate: |_, _, _| (),
        grace: Grace::None,
    }
}

/// Returns what is known about a kind, or nothing if objects of it are refused.
///
/// `api_version` is `v1`, `coordination.k8s.io/v1` and so on, as written in manifests.
pub fn served(api_version: &str, kind: &str) -> Option<&'static KindInfo> {
    KINDS
        .iter()
        .find(|info| info.kind == kind && info.api_version() == api_version)
}

/// Finds the kind behind the resource of a path.
pub(crate) fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static KindInfo> {
    KINDS
        .iter()
        .find(|info| info.plural == plural && info.group == group && info.version == version)
}

impl KindInfo {
    /// Returns `group/version`, or only the version for the core group.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Returns `plural.group`, as Kubernetes names a resource in messages.
    pub(crate) fn qualified(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }
}

impl Verb {
    /// Returns the verb as discovery writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

impl Subresource {
    /// Returns the last segment of its path.
    pub fn as_str(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Binding => "binding",
        }
    }
}
