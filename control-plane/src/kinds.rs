//! The table of kinds: everything in which one kind differs from another.
//!
//! The rest of this crate is one generic machine that is driven by this table.

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

/// Every kind that is served, in the order of discovery.
pub(crate) static KINDS: &[KindInfo] = &[
    KindInfo {
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        ..core("ConfigMap")
    },
    KindInfo {
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        ..core("Event")
    },
    KindInfo {
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        verbs: NAMESPACE_VERBS,
        subresources: &[Subresource::Status],
        ..core("Namespace")
    },
    KindInfo {
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        scope: Scope::Cluster,
        subresources: &[Subresource::Status],
        ..core("Node")
    },
    KindInfo {
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[Subresource::Binding, Subresource::Status],
        ..core("Pod")
    },
    KindInfo {
        plural: "secrets",
        singular: "secret",
        ..core("Secret")
    },
    KindInfo {
        group: "coordination.k8s.io",
        plural: "leases",
        singular: "lease",
        ..core("Lease")
    },
];

/// What most kinds have in common; each row above says in what it differs.
const fn core(kind: &'static str) -> KindInfo {
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

impl KindInfo {
    /// Returns `group/version`, or only the version for the core group.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
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
