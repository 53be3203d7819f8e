//! What the API tells about itself: versions, groups, resources, health.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    kinds::{self, KindInfo, Scope, Subresource},
    request::Discovery,
    service::Answer,
    status::ApiError,
};

/// The Kubernetes version whose API this is.
const MAJOR: &str = "1";
const MINOR: &str = "36";

/// Answers for one of the documents; `build` is the version of this program.
pub(crate) fn answer(document: &Discovery, build: &str) -> Result<Answer, ApiError> {
    let value = match document {
        Discovery::Health => {
            return Ok(Answer::encoded(StatusCode::OK, Bytes::from_static(b"ok")));
        }
        Discovery::Version => version(build),
        Discovery::CoreVersions => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        Discovery::Groups => json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": groups().map(|(name, version)| group(name, version)).collect::<Vec<_>>(),
        }),
        Discovery::Group(name) => groups()
            .find(|(known, _)| known == name)
            .map(|(name, version)| {
                let mut value = group(name, version);
                value["kind"] = json!("APIGroup");
                value["apiVersion"] = json!("v1");
                value
            })
            .ok_or_else(ApiError::no_such_path)?,
        Discovery::Resources { group, version } => resources(group, version)?,
    };
    Ok(Answer::json(StatusCode::OK, &value))
}

fn version(build: &str) -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+coracle-{build}"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// Every group but the core one, each with its version.
fn groups() -> impl Iterator<Item = (&'static str, &'static str)> {
    let named = kinds::all().filter(|info| !info.group.is_empty());
    let mut groups: Vec<_> = named.map(|info| (info.group, info.version)).collect();
    groups.dedup();
    groups.into_iter()
}

fn group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str, version: &str) -> Result<Value, ApiError> {
    let served = kinds::all().filter(|info| info.group == group && info.version == version);
    let resources: Vec<_> = served.flat_map(entries).collect();
    let Some(info) = kinds::all().find(|info| info.group == group && info.version == version)
    else {
        return Err(ApiError::no_such_path());
    };
    Ok(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": info.api_version(),
        "resources": resources,
    }))
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
    if !info.short_names.is_empty() {
        resource["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        resource["categories"] = json!(info.categories);
    }
    let part = |part: &Subresource| {
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
        entry
    };
    std::iter::once(resource)
        .chain(info.subresources.iter().map(part))
        .collect()
}
