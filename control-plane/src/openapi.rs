//! The OpenAPI documents of the served kinds, written from the tables.
//!
//! A document of v3 is a megabyte of text that a client asks for once and keeps: it is written anew
//! for each request, piece by piece, and only its hash is remembered. The one of v2 is the same told
//! in another way, see [`v2`].

mod parameters;
mod paths;
mod types;
pub(crate) mod v2;

use std::{
    collections::BTreeSet,
    io::{self, Write},
    sync::OnceLock,
};

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::discovery::{GroupVersion, versions};

/// The list of all documents.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) bytes: Bytes,
    pub(crate) hash: String,
}

/// Returns where each version's document is found.
pub(crate) fn index() -> Index {
    let mut paths = json!({});
    for (found, hash) in hashes() {
        let path = found.path();
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths[path] = json!({"serverRelativeURL": url});
    }
    let bytes = Bytes::from(json!({"paths": paths}).to_string());
    let hash = hash(&bytes);
    Index { bytes, hash }
}

/// Finds the version behind a path such as `api/v1`, and the hash of its document.
pub(crate) fn find(path: &str) -> Option<(&'static GroupVersion, &'static str)> {
    let found = hashes().iter().find(|(found, _)| found.path() == path)?;
    Some((&found.0, &found.1))
}

/// Returns a version's document.
pub(crate) fn document(found: &GroupVersion) -> Bytes {
    let mut bytes = Vec::new();
    write(found, &mut bytes).expect("memory takes every write");
    Bytes::from(bytes)
}

fn hashes() -> &'static [(GroupVersion, String)] {
    static HASHES: OnceLock<Vec<(GroupVersion, String)>> = OnceLock::new();
    HASHES.get_or_init(|| {
        let hashed = |found: GroupVersion| {
            let mut hasher = Hasher(Sha256::new());
            write(&found, &mut hasher).expect("a hash takes every write");
            let hash = hex(&hasher.0.finalize());
            (found, hash)
        };
        versions().into_iter().map(hashed).collect()
    })
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the hash under which clients keep a content.
pub(crate) fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn write(found: &GroupVersion, out: &mut impl Write) -> io::Result<()> {
    let mut open = BTreeSet::new();
    out.write_all(br#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"unversioned"},"#)?;
    out.write_all(br#""paths":{"#)?;
    entries(
        out,
        paths::of(found)
            .into_iter()
            .inspect(|(_, item)| references(item, &mut open)),
    )?;
    out.write_all(br#"},"components":{"schemas":{"#)?;
    entries(out, schemas(open, std::slice::from_ref(found)))?;
    let token = token();
    write!(out, r#"}},"securitySchemes":{{"BearerToken":{token}}}}}}}"#)
}

/// Describes how a caller names itself.
fn token() -> Value {
    json!({
        "type": "apiKey",
        "description": "Bearer Token authentication",
        "name": "authorization",
        "in": "header",
    })
}

/// Describes these types and all that they name, as the document of these versions does.
fn schemas(
    mut open: BTreeSet<String>,
    within: &[GroupVersion],
) -> impl Iterator<Item = (String, Value)> {
    let mut written = BTreeSet::new();
    std::iter::from_fn(move || {
        let name = open.pop_first()?;
        written.insert(name.clone());
        let schema = types::describe(&name, within);
        let mut named = BTreeSet::new();
        references(&schema, &mut named);
        open.extend(named.into_iter().filter(|name| !written.contains(name)));
        Some((name, schema))
    })
}

fn entries(out: &mut impl Write, entries: impl Iterator<Item = (String, Value)>) -> io::Result<()> {
    for (index, (name, value)) in entries.enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(out, "{comma}{}:", Value::from(name))?;
        serde_json::to_writer(&mut *out, &value)?;
    }
    Ok(())
}

/// Collects the schemas that a value names.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                found.extend(name.strip_prefix(types::PLACE).map(str::to_owned));
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}
