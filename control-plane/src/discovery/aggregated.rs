//! Discovery in one document: all groups, versions and resources at once.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    GroupVersion,
    page::{AggregatedVersion, Caching, Page},
    plain::parts,
    versions,
};
use crate::{
    kinds::{KindInfo, Scope, Subresource, Verb},
    openapi,
};

/// Returns the groups that are asked for.
pub(super) fn page(version: AggregatedVersion, wanted: impl Fn(&GroupVersion) -> bool) -> Page {
    let mut items: Vec<Value> = Vec::new();
    for found in versions().iter().filter(|found| wanted(found)) {
        let version = json!({
            "version": found.version,
            "freshness": "Current",
            "resources": found.kinds.iter().map(|info| resource(info)).collect::<Vec<_>>(),
        });
        let same = |item: &&mut Value| item["metadata"]["name"] == found.group;
        let known = items.iter_mut().find(same);
        match known.and_then(|item| item["versions"].as_array_mut()) {
            Some(versions) => versions.push(version),
            None => items.push(json!({"metadata": metadata(found), "versions": [version]})),
        }
    }
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{}", version.as_str()),
        "metadata": {},
        "items": items,
    });
    let bytes = Bytes::from(document.to_string());
    let hash = openapi::hash(&bytes);
    Page::tagged(bytes, hash, version.media(), Caching::Checked)
}

impl AggregatedVersion {
    fn as_str(self) -> &'static str {
        match self {
            AggregatedVersion::V2 => "v2",
            AggregatedVersion::V2Beta1 => "v2beta1",
        }
    }

    fn media(self) -> &'static str {
        match self {
            AggregatedVersion::V2 => {
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            }
            AggregatedVersion::V2Beta1 => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
        }
    }
}

/// The core group has no name.
fn metadata(found: &GroupVersion) -> Value {
    match found.group {
        "" => json!({}),
        group => json!({"name": group}),
    }
}

fn resource(info: &KindInfo) -> Value {
    let scope = match info.scope {
        Scope::Cluster => "Cluster",
        Scope::Namespaced => "Namespaced",
    };
    let mut resource = json!({
        "resource": info.plural,
        "responseKind": {"group": "", "version": "", "kind": info.kind},
        "scope": scope,
        "singularResource": info.singular,
        "verbs": verbs(info.verbs),
    });
    let parts: Vec<_> = parts(info)
        .into_iter()
        .map(|found| part(info, found))
        .collect();
    if !parts.is_empty() {
        resource["subresources"] = Value::Array(parts);
    }
    if !info.short_names.is_empty() {
        resource["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        resource["categories"] = json!(info.categories);
    }
    resource
}

/// Group and version are told where they are not those of the resource.
fn part(info: &KindInfo, part: Subresource) -> Value {
    let (group, version, kind) = match part.body_kind() {
        Some((group, version, kind)) if group != info.group => (group, version, kind),
        Some((_, _, kind)) => ("", "", kind),
        None => ("", "", part.options_kind(info.kind).unwrap_or(info.kind)),
    };
    json!({
        "subresource": part.as_str(),
        "responseKind": {"group": group, "version": version, "kind": kind},
        "verbs": verbs(part.verbs()),
    })
}

fn verbs(verbs: &[Verb]) -> Vec<&'static str> {
    verbs.iter().map(|verb| verb.as_str()).collect()
}
