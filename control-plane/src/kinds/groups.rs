//! The rows of the named groups.

use super::{Generation, KindInfo, Missing, Scope, Subresource, Unguarded, field, row};
use crate::{defaults, validate};

const RBAC: &str = "rbac.authorization.k8s.io";

/// The kinds of all groups but the core one; groups and kinds in alphabetical order.
pub(super) static KINDS: &[KindInfo] = &[
    KindInfo {
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short_names: &["csr"],
        scope: Scope::Cluster,
        subresources: &[Subresource::Status],
        fields: &[field("spec.signerName", "/spec/signerName")],
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
];
