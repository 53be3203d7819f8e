//! Compares what a running server serves with the documents, for the kinds that it serves.

use std::{path::Path, process::Command};

use anyhow::Context;
use serde_json::Value;

use super::{document, json};
use crate::workspace::output;

/// Media types that a stock server offers and we do not.
const NOT_WRITTEN: &[&str] = &[
    "application/apply-patch+cbor",
    "application/cbor",
    "application/cbor-seq",
];

/// Query parameters that a stock server honours and we do not.
const NOT_HONOURED: &[&str] = &[
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "shardSelector",
];

/// Prints each difference between the server's documents and those in the folder.
///
/// # Errors
///
/// Fails when the server does not answer, a document cannot be read, or there are differences.
pub(super) fn run(server: &str, folder: &Path) -> anyhow::Result<()> {
    let index = get(server, "/openapi/v3")?;
    let mut found = Vec::new();
    let paths = index["paths"]
        .as_object()
        .context("the server lists its documents")?;
    for (version, place) in paths {
        let place = place["serverRelativeURL"].as_str().unwrap_or_default();
        let expected = json(&folder.join("openapi-v3").join(document(version)))?;
        let parts = ["/paths", "/components/schemas"];
        documents(version, get(server, place)?, expected, &parts, &mut found)?;
    }
    let mut expected = json(&folder.join("swagger.json"))?;
    keep_deletions(&mut expected, |version| paths.contains_key(version));
    let parts = ["/paths", "/definitions", "/parameters"];
    let served = get(server, "/openapi/v2")?;
    documents("v2", served, expected, &parts, &mut found)?;
    found.iter().for_each(|difference| println!("{difference}"));
    anyhow::ensure!(found.is_empty(), "{} differences", found.len());
    Ok(())
}

/// Compares the entries that are served.
fn documents(
    version: &str,
    mut served: Value,
    mut expected: Value,
    parts: &[&str],
    found: &mut Vec<String>,
) -> anyhow::Result<()> {
    strip(&mut served);
    strip(&mut expected);
    let before = found.len();
    for part in parts {
        let entries = served.pointer(part).and_then(Value::as_object);
        let entries = entries.with_context(|| format!("`{version}` has no `{part}`"))?;
        for (name, served) in entries {
            let expected = expected.pointer(part).and_then(|entries| entries.get(name));
            let at = format!("{version}: {name}");
            match expected {
                Some(expected) => compare(&at, served, expected, found),
                None => found.push(format!("{at}: not in the documents")),
            }
        }
        println!("{version}: compared {} entries of {part}", entries.len());
    }
    println!("{version}: {} differences", found.len() - before);
    Ok(())
}

/// Of the names of a deletion's options, takes out those in versions that are not served.
fn keep_deletions(document: &mut Value, is_served: impl Fn(&str) -> bool) {
    const OPTIONS: &str = "/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    let place = format!("{OPTIONS}/x-kubernetes-group-version-kind");
    let kinds = document.pointer_mut(&place).and_then(Value::as_array_mut);
    kinds.into_iter().for_each(|kinds| {
        kinds.retain(|kind| {
            let version = kind["version"].as_str().unwrap_or_default();
            match kind["group"].as_str().unwrap_or_default() {
                "" => is_served(&format!("api/{version}")),
                group => is_served(&format!("apis/{group}/{version}")),
            }
        });
    });
}

fn get(server: &str, path: &str) -> anyhow::Result<Value> {
    let text = output(Command::new("kubectl").args(["-s", server, "get", "--raw", path]))?;
    serde_json::from_str(&text).with_context(|| format!("`{path}` is no JSON"))
}

/// Takes out what is not offered, and sorts what has no order.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, _| !NOT_WRITTEN.contains(&name.as_str()));
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => {
            list.retain(|item| {
                let name = item["name"].as_str().or(shared(item));
                let name = name.or(item.as_str()).unwrap_or_default();
                !NOT_HONOURED.contains(&name) && !NOT_WRITTEN.contains(&name)
            });
            list.iter_mut().for_each(strip);
            if list.iter().all(Value::is_string) {
                list.sort_by_key(ToString::to_string);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

/// Returns the name of a parameter that stands elsewhere.
fn shared(item: &Value) -> Option<&str> {
    let name = item["$ref"].as_str()?.strip_prefix("#/parameters/")?;
    name.split('-').next()
}

fn compare(at: &str, served: &Value, expected: &Value, found: &mut Vec<String>) {
    match (served, expected) {
        (Value::Object(served), Value::Object(expected)) => {
            for (name, expected) in expected {
                let at = format!("{at}/{name}");
                match served.get(name) {
                    Some(served) => compare(&at, served, expected, found),
                    None => found.push(format!("{at}: missing")),
                }
            }
            let surplus = served.keys().filter(|name| !expected.contains_key(*name));
            found.extend(surplus.map(|name| format!("{at}/{name}: too much")));
        }
        (Value::Array(served), Value::Array(expected)) if served.len() == expected.len() => {
            for (index, (served, expected)) in served.iter().zip(expected).enumerate() {
                compare(&format!("{at}/{index}"), served, expected, found);
            }
        }
        _ if served == expected => (),
        _ => found.push(format!("{at}: {served} instead of {expected}")),
    }
}
