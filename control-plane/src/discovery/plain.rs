//! Discovery a document at a time: versions, groups, the resources of one version.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{GroupVersion, versions};
use crate::{
    kinds::{Keeping, KindInfo, Scope, Subresource},
    status::ApiError,
};

/// Returns the versions of the core group.
pub(super) fn core_versions(address: &str) -> Value {
    let address = json!({"clientCIDR": "0.0.0.0/0", "serverAddress": address});
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [address],
    })
}

/// Returns every group but the core one.
pub(super) fn groups() -> Value {
    let versions = versions();
    let named = versions.iter().filter(|found| !found.group.is_empty());
    let mut names: Vec<_> = named.map(|found| found.group).collect();
    names.dedup();
    json!({
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": names.iter().map(|name| one(name, &versions)).collect::<Vec<_>>(),
    })
}

/// Returns one group.
pub(super) fn group(name: &str) -> Result<Value, ApiError> {
    let versions = versions();
    if name.is_empty() || !versions.iter().any(|found| found.group == name) {
        return Err(ApiError::no_such_path());
    }
    let mut group = one(name, &versions);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Ok(group)
}

/// Lists the versions of a group, the preferred one first.
fn one(name: &str, versions: &[GroupVersion]) -> Value {
    let of_group = versions.iter().filter(|found| found.group == name);
    let versions: Vec<_> = of_group
        .map(|found| json!({"groupVersion": found.name(), "version": found.version}))
        .collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

/// Returns the resources of one version.
pub(super) fn resources(group: &str, version: &str) -> Result<Value, ApiError> {
    let found = versions();
    let found = found
        .iter()
        .find(|found| (found.group, found.version) == (group, version));
    let found = found.ok_or_else(|| match group {
        "" => ApiError::no_such_path(),
        group => ApiError::not_served(&format!("`{group}/{version}`")),
    })?;
    let resources: Vec<_> = found.kinds.iter().flat_map(|info| entries(info)).collect();
    let mut list = json!({
        "kind": "APIResourceList",
        "groupVersion": found.name(),
        "resources": resources,
    });
    // The list of the core group is that of a time before lists had versions.
    if !group.is_empty() {
        list["apiVersion"] = json!("v1");
    }
    Ok(list)
}

/// A resource and its parts, as discovery lists them.
fn entries(info: &'static KindInfo) -> Vec<Value> {
    let namespaced = info.scope == Scope::Namespaced;
    let mut resource = json!({
        "name": info.plural,
        "singularName": info.singular,
        "namespaced": namespaced,
        "kind": info.kind,
        "verbs": info.verbs.iter().map(|verb| verb.as_str()).collect::<Vec<_>>(),
    });
    if info.keeping == Keeping::Stored {
        resource["storageVersionHash"] = Value::from(storage_version_hash(info));
    }
    if !info.short_names.is_empty() {
        resource["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        resource["categories"] = json!(info.categories);
    }
    let part = |part: Subresource| {
        let mut entry = json!({
            "name": format!("{}/{}", info.plural, part.as_str()),
            "singularName": "",
            "namespaced": namespaced,
            "kind": info.kind,
            "verbs": part.verbs().iter().map(|verb| verb.as_str()).collect::<Vec<_>>(),
        });
        if let Some((group, version, kind)) = part.body_kind() {
            entry["kind"] = Value::from(kind);
            if group != info.group {
                entry["group"] = Value::from(group);
                entry["version"] = Value::from(version);
            }
        }
        if let Some(kind) = part.options_kind(info.kind) {
            entry["kind"] = Value::from(kind);
        }
        entry
    };
    let parts = parts(info).into_iter().map(part);
    std::iter::once(resource).chain(parts).collect()
}

/// Returns a short name of what objects are stored as, by which clients see that it has changed.
fn storage_version_hash(info: &KindInfo) -> String {
    let stored = info.stored();
    let text = format!("{}/{}/{}", stored.group, stored.version, stored.kind);
    STANDARD.encode(&Sha256::digest(text)[..8])
}

/// Returns the parts of a kind in the order of discovery.
pub(super) fn parts(info: &KindInfo) -> Vec<Subresource> {
    let mut parts = info.subresources.to_vec();
    parts.sort_by_key(|part| part.as_str());
    parts
}
