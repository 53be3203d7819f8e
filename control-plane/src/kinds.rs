//! The table of kinds: everything in which one kind differs from another.
//!
//! The rest of this crate is one generic machine that is driven by this table. Fields, their
//! types, defaults and merge keys come from the [schema](crate::schema) named here.

mod core;
mod groups;
mod twin;

use serde_json::Value;

use twin::Twin;

use crate::{invalid::Causes, validate};

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
    /// Present if objects are stored as those of another kind.
    pub(crate) twin: Option<&'static Twin>,
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
    /// Keeps in a change what the client does not mean to change: takes the old object first.
    pub(crate) on_update: fn(&Value, &mut Value),
    /// The checks of an object; the old one is present on update.
    pub(crate) validate: fn(&Value, Option<&Value>, &mut Causes),
    /// The checks of a change of the status: takes the new object first.
    pub(crate) validate_status: fn(&Value, &Value, &mut Causes),
    /// What an update without a revision does.
    pub(crate) unguarded: Unguarded,
    /// What an update of an object that is not there does.
    pub(crate) missing: Missing,
    /// Whether objects are kept.
    pub(crate) keeping: Keeping,
    /// How long deletion waits for someone to end what the object stands for.
    pub(crate) grace: Grace,
    /// Whether objects of this kind can own others.
    pub(crate) dependents: Dependents,
    /// What Go writes out of an object with nothing in it, which nobody owns.
    pub(crate) blank: fn(&mut serde_json::Value),
    /// What everyone is told who asks for objects of this kind.
    pub(crate) deprecated: Option<&'static str>,
    /// What who creates an object is told about it, though it is accepted.
    pub(crate) warnings: fn(&serde_json::Value) -> Vec<String>,
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
    /// `…/approval`: a certificate signing request's conditions.
    Approval,
    /// `…/attach`: the streams of a container's own program.
    Attach,
    /// `…/binding`: assigns a pod to a node.
    Binding,
    /// `…/ephemeralcontainers`: reads the object, writes only its ephemeral containers.
    EphemeralContainers,
    /// `…/eviction`: deletes a pod if its disruption budgets allow it.
    Eviction,
    /// `…/exec`: runs one more program in a container.
    Exec,
    /// `…/finalize`: a namespace's `spec.finalizers`.
    Finalize,
    /// `…/log`: what a container has written.
    Log,
    /// `…/portforward`: connections to ports of a pod.
    PortForward,
    /// `…/proxy`: HTTP to what the object stands for.
    Proxy,
    /// `…/resize`: reads the object, writes only what its containers request and may use.
    Resize,
    /// `…/status`: reads the object, writes only its status.
    Status,
    /// `…/token`: a token for a service account.
    Token,
}

/// Whether `metadata.generation` is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// It counts changes of `spec`.
    Kept,
    /// It counts changes of everything but the metadata.
    OfAll,
    /// It is 1.
    Fixed,
    Absent,
}

/// What an update does that does not say which revision it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unguarded {
    /// It takes the place of whatever is there.
    Accepted,
    /// It is refused.
    Refused,
}

/// What a write to a named object does if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It creates the object.
    Created,
    /// It is refused.
    Refused,
}

/// Whether objects of a kind are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    Stored,
    /// Creating one asks a question: the object comes back with the answer and is forgotten.
    Answered,
}

/// How deletion proceeds when nothing else holds the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grace {
    /// The object is removed at once.
    None,
    /// The node agent ends the pod first and then deletes it with grace 0.
    Pod,
    /// A controller deletes everything in the namespace first and then empties
    /// `spec.finalizers`.
    Namespace,
}

/// What a deletion does about the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dependents {
    /// The garbage collector deletes them afterwards, unless something else is wanted.
    Collected,
    /// Nobody looks for any: wishes about them do not count.
    None,
}

/// A field that field selectors may name.
#[derive(Debug)]
pub(crate) struct SelectableField {
    /// The name in selectors.
    pub(crate) name: &'static str,
    /// Where the value is found.
    pub(crate) pointer: &'static str,
    /// Where it is found when that place is absent or empty.
    pub(crate) instead: Option<&'static str>,
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

const fn field(name: &'static str, pointer: &'static str) -> SelectableField {
    SelectableField {
        name,
        pointer,
        instead: None,
        absent: "",
    }
}

/// What most kinds have in common; each row of the table says in what it differs.
const fn row(group: &'static str, kind: &'static str, schema: &'static str) -> KindInfo {
    KindInfo {
        group,
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
        twin: None,
        schema,
        name_rule: validate::NameRule::Subdomain,
        generation: Generation::Absent,
        defaults: |_| (),
        on_create: |_| (),
        on_update: |_, _| (),
        validate: |_, _, _| (),
        validate_status: |_, _, _| (),
        unguarded: Unguarded::Accepted,
        missing: Missing::Refused,
        keeping: Keeping::Stored,
        grace: Grace::None,
        dependents: Dependents::Collected,
        deprecated: None,
        blank: |_| (),
        warnings: |_| Vec::new(),
    }
}

/// Every kind that is served, in the order of discovery.
pub(crate) fn all() -> impl Iterator<Item = &'static KindInfo> {
    core::KINDS.iter().chain(groups::KINDS)
}

/// Returns what is known about a kind, or nothing if objects of it are refused.
///
/// `api_version` is `v1`, `coordination.k8s.io/v1` and so on, as written in manifests.
pub fn served(api_version: &str, kind: &str) -> Option<&'static KindInfo> {
    all().find(|info| info.kind == kind && info.api_version() == api_version)
}

/// Finds the kind behind the resource of a path.
pub(crate) fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static KindInfo> {
    all().find(|info| info.plural == plural && info.group == group && info.version == version)
}

impl KindInfo {
    /// Returns `group/version`, or only the version for the core group.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Returns `group/version, Kind=kind`, as Go prints a kind in messages.
    pub(crate) fn go_name(&self) -> String {
        format!("{}/{}, Kind={}", self.group, self.version, self.kind)
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
            Subresource::Approval => "approval",
            Subresource::Attach => "attach",
            Subresource::Binding => "binding",
            Subresource::EphemeralContainers => "ephemeralcontainers",
            Subresource::Eviction => "eviction",
            Subresource::Exec => "exec",
            Subresource::Finalize => "finalize",
            Subresource::Log => "log",
            Subresource::PortForward => "portforward",
            Subresource::Proxy => "proxy",
            Subresource::Resize => "resize",
            Subresource::Status => "status",
            Subresource::Token => "token",
        }
    }

    /// Returns what can be done with it.
    pub fn verbs(self) -> &'static [Verb] {
        match self {
            Subresource::Approval
            | Subresource::EphemeralContainers
            | Subresource::Resize
            | Subresource::Status => &[Get, Patch, Update],
            Subresource::Binding | Subresource::Eviction | Subresource::Token => &[Create],
            Subresource::Attach | Subresource::Exec | Subresource::PortForward => &[Create, Get],
            Subresource::Finalize => &[Update],
            Subresource::Log => &[Get],
            Subresource::Proxy => &[Create, Delete, Get, Patch, Update],
        }
    }

    /// Returns group, version and kind of what is sent to it, if that is not the object itself.
    pub(crate) fn body_kind(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Subresource::Binding => Some(("", "v1", "Binding")),
            Subresource::Eviction => Some(("policy", "v1", "Eviction")),
            Subresource::Token => Some(("authentication.k8s.io", "v1", "TokenRequest")),
            Subresource::Approval
            | Subresource::Attach
            | Subresource::EphemeralContainers
            | Subresource::Exec
            | Subresource::Finalize
            | Subresource::Log
            | Subresource::PortForward
            | Subresource::Proxy
            | Subresource::Resize
            | Subresource::Status => None,
        }
    }

    /// Says whether a connection is asked for.
    pub(crate) fn is_connection(self) -> bool {
        self.options_kind("").is_some()
    }

    /// Returns the kind of what is asked for in the query, if a connection is asked for: to the node of an
    /// object, or to an object of the kind `of`.
    pub(crate) fn options_kind(self, of: &str) -> Option<&'static str> {
        match self {
            Subresource::Attach => Some("PodAttachOptions"),
            Subresource::Exec => Some("PodExecOptions"),
            Subresource::PortForward => Some("PodPortForwardOptions"),
            Subresource::Proxy => match of {
                "Node" => Some("NodeProxyOptions"),
                "Pod" => Some("PodProxyOptions"),
                _ => Some("ServiceProxyOptions"),
            },
            Subresource::Approval
            | Subresource::Binding
            | Subresource::EphemeralContainers
            | Subresource::Eviction
            | Subresource::Finalize
            | Subresource::Log
            | Subresource::Resize
            | Subresource::Status
            | Subresource::Token => None,
        }
    }
}
