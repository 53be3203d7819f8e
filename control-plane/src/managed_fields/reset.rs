//! Which parts of an object a request cannot change, so that it does not come to own them.

use std::sync::LazyLock;

use super::set::FieldSet;
use crate::kinds::{KindInfo, Subresource};

/// A path of plain fields.
pub(crate) type Path = &'static [&'static str];

/// What nobody owns, because the server sets it or because it identifies the object.
static NEVER_OWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

pub(super) fn never_owned() -> &'static FieldSet {
    &NEVER_OWNED
}

/// Returns the parts that keep their values when a request of this sort changes an object.
pub(crate) fn kept(info: &KindInfo, subresource: Option<Subresource>) -> &'static [Path] {
    const METADATA_OF_PODS: &[Path] = &[
        &["spec"],
        &["metadata", "deletionTimestamp"],
        &["metadata", "ownerReferences"],
    ];
    match (subresource, info.kind) {
        (Some(Subresource::Status), "Pod") => METADATA_OF_PODS,
        (Some(Subresource::Approval), _) => &[&["spec"], &["status", "certificate"]],
        (Some(Subresource::EphemeralContainers | Subresource::Resize), _) => &[&["status"]],
        (Some(Subresource::Finalize), _) => &[&["status"]],
        (Some(_), _) => &[&["spec"]],
        (None, "Namespace") => &[&["status"], &["spec", "finalizers"]],
        (None, "CertificateSigningRequest") => &[&["spec"], &["status"]],
        (None, _) if info.subresources.contains(&Subresource::Status) => &[&["status"]],
        (None, _) => &[],
    }
}
