//! The rows of the named groups.

use super::{
    Dependents, Generation, Keeping, KindInfo, Missing, Scope, SelectableField, Subresource,
    Unguarded, Verb, field, row, twin,
};
use crate::{certificates, defaults, validate};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";

/// A kind whose objects are questions.
const fn question(group: &'static str, kind: &'static str, schema: &'static str) -> KindInfo {
    KindInfo {
        scope: Scope::Cluster,
        verbs: &[Verb::Create],
        keeping: Keeping::Answered,
        ..row(group, kind, schema)
    }
}

/// The kinds of all groups but the core one; groups and kinds in alphabetical order.
pub(super) static KINDS: &[KindInfo] = &[
    KindInfo {
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        ..question(
            AUTHENTICATION,
            "SelfSubjectReview",
            "authentication.v1.SelfSubjectReview",
        )
    },
    KindInfo {
        plural: "tokenreviews",
        singular: "tokenreview",
        ..question(
            AUTHENTICATION,
            "TokenReview",
            "authentication.v1.TokenReview",
        )
    },
    KindInfo {
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        scope: Scope::Namespaced,
        ..question(
            AUTHORIZATION,
            "LocalSubjectAccessReview",
            "authorization.v1.LocalSubjectAccessReview",
        )
    },
    KindInfo {
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        ..question(
            AUTHORIZATION,
            "SelfSubjectAccessReview",
            "authorization.v1.SelfSubjectAccessReview",
        )
    },
    KindInfo {
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        ..question(
            AUTHORIZATION,
            "SelfSubjectRulesReview",
            "authorization.v1.SelfSubjectRulesReview",
        )
    },
    KindInfo {
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        ..question(
            AUTHORIZATION,
            "SubjectAccessReview",
            "authorization.v1.SubjectAccessReview",
        )
    },
    KindInfo {
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short_names: &["csr"],
        scope: Scope::Cluster,
        subresources: &[Subresource::Approval, Subresource::Status],
        fields: &[field("spec.signerName", "/spec/signerName")],
        on_update: certificates::keep,
        validate: certificates::validate,
        validate_status: certificates::validate_status,
        ..row(
            "certificates.k8s.io",
            "CertificateSigningRequest",
            "certificates.v1.CertificateSigningRequest",
        )
    },
    KindInfo {
        plural: "leases",
        singular: "lease",
        defaults: defaults::empty_spec,
        validate: validate::small::lease,
        unguarded: Unguarded::Refused,
        missing: Missing::Created,
        ..row("coordination.k8s.io", "Lease", "coordination.v1.Lease")
    },
    KindInfo {
        plural: "endpointslices",
        singular: "endpointslice",
        generation: Generation::OfAll,
        defaults: defaults::endpoint_slice,
        validate: validate::endpoints::slice,
        ..row(
            "discovery.k8s.io",
            "EndpointSlice",
            "discovery.v1.EndpointSlice",
        )
    },
    KindInfo {
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        fields: EVENT_FIELDS,
        twin: Some(&twin::EVENTS),
        blank: defaults::new_event,
        defaults: defaults::new_event,
        validate: validate::event::events,
        dependents: Dependents::None,
        ..row("events.k8s.io", "Event", "events.v1.Event")
    },
    KindInfo {
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        generation: Generation::Kept,
        defaults: defaults::network_policy,
        validate: validate::network::policy,
        warnings: validate::network::warnings,
        ..row(
            "networking.k8s.io",
            "NetworkPolicy",
            "networking.v1.NetworkPolicy",
        )
    },
    KindInfo {
        plural: "runtimeclasses",
        singular: "runtimeclass",
        scope: Scope::Cluster,
        validate: validate::small::runtime_class,
        unguarded: Unguarded::Refused,
        ..row("node.k8s.io", "RuntimeClass", "node.v1.RuntimeClass")
    },
    KindInfo {
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        scope: Scope::Cluster,
        name_rule: validate::NameRule::PathSegment,
        defaults: defaults::binding,
        validate: validate::rbac::cluster_role_binding,
        missing: Missing::Created,
        ..row(RBAC, "ClusterRoleBinding", "rbac.v1.ClusterRoleBinding")
    },
    KindInfo {
        plural: "clusterroles",
        singular: "clusterrole",
        scope: Scope::Cluster,
        name_rule: validate::NameRule::PathSegment,
        defaults: defaults::role,
        validate: validate::rbac::cluster_role,
        missing: Missing::Created,
        ..row(RBAC, "ClusterRole", "rbac.v1.ClusterRole")
    },
    KindInfo {
        plural: "rolebindings",
        singular: "rolebinding",
        name_rule: validate::NameRule::PathSegment,
        defaults: defaults::binding,
        validate: validate::rbac::role_binding,
        missing: Missing::Created,
        ..row(RBAC, "RoleBinding", "rbac.v1.RoleBinding")
    },
    KindInfo {
        plural: "roles",
        singular: "role",
        name_rule: validate::NameRule::PathSegment,
        defaults: defaults::role,
        validate: validate::rbac::role,
        missing: Missing::Created,
        ..row(RBAC, "Role", "rbac.v1.Role")
    },
    KindInfo {
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        scope: Scope::Cluster,
        generation: Generation::Fixed,
        defaults: defaults::priority_class,
        validate: validate::small::priority_class,
        ..row(
            "scheduling.k8s.io",
            "PriorityClass",
            "scheduling.v1.PriorityClass",
        )
    },
    KindInfo {
        plural: "storageclasses",
        singular: "storageclass",
        short_names: &["sc"],
        scope: Scope::Cluster,
        defaults: defaults::storage_class,
        validate: validate::storage::class,
        ..row("storage.k8s.io", "StorageClass", "storage.v1.StorageClass")
    },
];

/// The positions are those of the core group's events, as which these are stored.
static EVENT_FIELDS: &[SelectableField] = &[
    field("regarding.kind", "/involvedObject/kind"),
    field("regarding.namespace", "/involvedObject/namespace"),
    field("regarding.name", "/involvedObject/name"),
    field("regarding.uid", "/involvedObject/uid"),
    field("regarding.apiVersion", "/involvedObject/apiVersion"),
    field(
        "regarding.resourceVersion",
        "/involvedObject/resourceVersion",
    ),
    field("regarding.fieldPath", "/involvedObject/fieldPath"),
    field("reason", "/reason"),
    field("reportingController", "/reportingComponent"),
    field("type", "/type"),
];
