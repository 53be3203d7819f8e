//! What a stock server tells about itself, as lines: its resources, and its query parameters.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::Context;
use serde_json::Value;

use super::json;

const RESOURCES: &str = "\
# `[GROUP/VERSION]` opens a version; groups and versions in the server's order. Then one line per
# resource: name, kind, scope, singular, verbs, marks.
";

const PARAMETERS: &str = "\
# One line per query parameter of the API's operations: name, type, description. What is only the
# parameter's description in one kind of operation stands under `NAME@ACTION`.
";

/// Returns the resources of the discovery documents.
pub(super) fn resources(folder: &Path) -> anyhow::Result<String> {
    let folder = folder.join("discovery");
    let mut text = super::table::title() + RESOURCES;
    let mut versions = vec!["v1".to_owned()];
    let groups = json(&folder.join("apis.json"))?;
    for group in list(&groups["groups"]) {
        let all = list(&group["versions"]).iter();
        versions
            .extend(all.filter_map(|version| Some(version["groupVersion"].as_str()?.to_owned())));
    }
    for version in versions {
        let file = match version.split_once('/') {
            Some((group, version)) => format!("apis__{group}__{version}.json"),
            None => format!("api__{version}.json"),
        };
        let _ = writeln!(text, "\n[{version}]");
        for resource in list(&json(&folder.join(file))?["resources"]) {
            let _ = writeln!(text, "{}", line(resource));
        }
    }
    Ok(text)
}

fn line(resource: &Value) -> String {
    let word = |name: &str| match resource[name].as_str() {
        None | Some("") => "-",
        Some(word) => word,
    };
    let words = |name: &str| {
        let words: Vec<_> = list(&resource[name])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        words.join(",")
    };
    let scope = if resource["namespaced"] == true {
        "Namespaced"
    } else {
        "Cluster"
    };
    let (name, kind, singular) = (word("name"), word("kind"), word("singularName"));
    let mut line = format!("{name} {kind} {scope} {singular} {}", words("verbs"));
    for mark in ["shortNames", "categories"] {
        if resource[mark].is_array() {
            let _ = write!(line, " {mark}={}", words(mark));
        }
    }
    if resource["group"].is_string() {
        let _ = write!(line, " of={}/{}", word("group"), word("version"));
    }
    line
}

/// Returns the query parameters of one document's operations.
pub(super) fn parameters(document: &Value) -> anyhow::Result<String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let paths = document["paths"].as_object().context("there are paths")?;
    for (path, item) in paths.iter().filter(|(path, _)| !foreign(path)) {
        let operations = item.as_object().into_iter().flatten();
        for (action, operation) in operations {
            let shared = list(&item["parameters"]).iter();
            for parameter in list(&operation["parameters"]).iter().chain(shared) {
                let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let name = word(&parameter["name"]);
                let kind = word(&parameter["schema"]["type"]);
                let about = word(&parameter["description"]).replace('\n', "\\n");
                let text = format!("{kind} {about}");
                let key = match action.as_str() {
                    "patch" if name == "fieldManager" => "fieldManager@patch".to_owned(),
                    _ if path.ends_with("/log") && name == "container" => {
                        "container@log".to_owned()
                    }
                    _ if path.ends_with("/exec") => format!("{name}@exec"),
                    _ if path.ends_with("/attach") => format!("{name}@attach"),
                    _ => name,
                };
                if parameter["in"] == "query" && action != "parameters" {
                    found.insert(key, text);
                }
            }
        }
    }
    let mut text = super::table::title() + PARAMETERS + "\n";
    for (name, about) in found {
        let _ = writeln!(text, "{name} {about}");
    }
    Ok(text)
}

/// Whether an operation carries another server's request.
fn foreign(path: &str) -> bool {
    path.contains("/proxy")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
