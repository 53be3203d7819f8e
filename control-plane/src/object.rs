//! How objects rest: encoded once per revision, with a small index beside the bytes.
//!
//! The encoding always begins with kind, version and `metadata.resourceVersion`, so that the
//! revision is written when the store gives it, and can be replaced without parsing.

mod sparse;
mod text;

use std::sync::OnceLock;

use bytes::Bytes;
use coracle_store::{Record, Revision, Store};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    admission::Charge,
    kinds::{self, KindInfo, Scope, SelectableField},
};

pub(crate) use sparse::Sparse;

/// How the metadata of every stored object begins.
const METADATA_FIELD: &str = r#""metadata":"#;
const REVISION_FIELD: &str = r#"{"resourceVersion":""#;

/// Room for most objects, so that they do not move while they are written.
const TAIL_BYTES: usize = 4096;

pub(crate) type ObjectStore = Store<ObjectIndex>;
pub(crate) type ObjectRecord = Record<ObjectIndex>;

/// What selectors and preconditions look at, so that nothing is parsed for them.
#[derive(Debug)]
pub(crate) struct ObjectIndex {
    pub(crate) uid: Box<str>,
    labels: Box<[(Box<str>, Box<str>)]>,
    /// The values of the kind's selectable fields, in the order of its table.
    pub(crate) fields: Box<[Box<str>]>,
    /// What the object takes of quotas and ranges; found out when it is first asked for.
    pub(crate) charge: OnceLock<Box<Charge>>,
}

/// An object encoded up to its revision.
#[derive(Debug)]
pub(crate) struct Encoded {
    head: String,
    tail: Vec<u8>,
    index: ObjectIndex,
}

/// Reads the object behind a record; only writers and the scheduler's patches need it parsed.
pub(crate) fn parse(record: &ObjectRecord) -> Value {
    parse_encoded(&record.value)
}

/// Reads a stored object, or one laid out like it.
pub(crate) fn parse_encoded(encoded: &[u8]) -> Value {
    serde_json::from_slice(encoded).expect("stored objects were encoded by this module")
}

/// Returns the text of a stored object.
fn stored_text(encoded: &[u8]) -> &str {
    std::str::from_utf8(encoded).expect("stored objects were encoded by this module")
}

/// Says whether a text occurs in a stored object, at any place of it.
pub(crate) fn mentions(record: &ObjectRecord, text: &str) -> bool {
    stored_text(&record.value).contains(text)
}

/// Reads a record as an object of a kind, which may be another view of what is stored. The fields of its
/// owners stay text, as [`encode`] takes them too.
pub(crate) fn load(info: &KindInfo, record: &ObjectRecord) -> Value {
    let stored = text::packed(stored_text(&record.value));
    match info.twin {
        Some(twin) => twin.show(&stored, info),
        None => stored,
    }
}

/// Shows stored bytes as those of a kind, which may be another view of what is stored. What is
/// no stored object stays as it is.
pub(crate) fn shown(info: &KindInfo, encoded: &Bytes) -> Bytes {
    match info.twin {
        Some(twin) if encoded.starts_with(head(twin.stored()).as_bytes()) => {
            let object = twin.show(&parse_encoded(encoded), info);
            let revision = object.pointer("/metadata/resourceVersion");
            let revision = revision.and_then(Value::as_str).unwrap_or_default();
            let parts = [
                head(info).as_bytes(),
                revision.as_bytes(),
                &tail(&object, None),
            ]
            .concat();
            Bytes::from(parts)
        }
        _ => encoded.clone(),
    }
}

/// Encodes an object of a kind in the form in which it is stored.
pub(crate) fn encode(info: &KindInfo, object: &Value) -> Encoded {
    let stored = info.twin.map(|twin| twin.store(object));
    let (info, object) = (info.stored(), stored.as_ref().unwrap_or(object));
    encode_sparse(info, object, None)
}

/// Encodes an object of a kind that is stored as it is. A text of the specification takes the place of
/// what the object has of it.
fn encode_sparse(info: &KindInfo, object: &Value, spec: Option<&str>) -> Encoded {
    Encoded {
        head: head(info),
        tail: tail(object, spec),
        index: ObjectIndex::new(info, object),
    }
}

/// Writes an object that [`load`] has read as clients are shown it.
pub(crate) fn document(object: &Value) -> Bytes {
    let empty = Map::new();
    Bytes::from(text::document(object.as_object().unwrap_or(&empty)))
}

/// Reads the fields of owners that [`load`] has left as text.
pub(crate) fn unpack(object: &mut Value) {
    text::unpack(object);
}

/// Writes what follows the revision.
fn tail(object: &Value, spec: Option<&str>) -> Vec<u8> {
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let metadata = object
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let mut tail = Vec::with_capacity(TAIL_BYTES);
    tail.push(b'"');
    let is_due = |(name, _): &(&String, &Value)| *name != "resourceVersion";
    text::append(&mut tail, metadata.iter().filter(is_due));
    tail.push(b'}');
    for (name, value) in fields {
        match (name.as_str(), spec) {
            ("kind" | "apiVersion" | "metadata", _) => (),
            ("spec", Some(spec)) => {
                text::append_name(&mut tail, name);
                tail.extend_from_slice(spec.as_bytes());
            }
            _ => text::append(&mut tail, std::iter::once((name, value))),
        }
    }
    tail.push(b'}');
    tail
}

/// Returns what is kept decoded beside a value that comes from a file.
pub(crate) fn index(key: &str, value: &Bytes) -> Result<ObjectIndex, UnknownObject> {
    let unknown = || UnknownObject {
        key: key.to_owned(),
    };
    let object: Value = serde_json::from_slice(value).map_err(|_| unknown())?;
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let info = kinds::served(text("apiVersion"), text("kind")).ok_or_else(unknown)?;
    Ok(ObjectIndex::new(info, &object))
}

/// A stored value that this program does not know how to read: a newer one wrote it.
#[derive(Debug, Error)]
#[error("the object under `{key}` is of no kind that this version serves")]
pub(crate) struct UnknownObject {
    key: String,
}

/// Says whether the values of a key are sealed before they reach a file.
pub(crate) fn is_sealed(key: &str) -> bool {
    key.starts_with("/secrets/")
}

impl Encoded {
    /// Returns about how many bytes the object takes.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Completes the encoding with the revision of its write.
    pub(crate) fn render(self, revision: Revision) -> (Bytes, ObjectIndex) {
        let revision = revision.to_string();
        let parts = [self.head.as_bytes(), revision.as_bytes(), &self.tail];
        (Bytes::from(parts.concat()), self.index)
    }
}

/// Returns the object's encoding with another revision in it.
pub(crate) fn at_revision(info: &KindInfo, encoded: &Bytes, revision: Revision) -> Bytes {
    let head = head(info.stored());
    let rest = encoded.get(head.len()..).unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let tail = rest.get(digits..).unwrap_or_default();
    Bytes::from([head.as_bytes(), revision.to_string().as_bytes(), tail].concat())
}

/// Returns a stored object without its kind and version, as it stands in a list.
pub(crate) fn untyped(info: &KindInfo, encoded: &Bytes) -> Bytes {
    let typed = head(info).len() - REVISION_FIELD.len() - METADATA_FIELD.len();
    let rest = encoded.get(typed..).unwrap_or_default();
    Bytes::from([b"{", rest].concat())
}

/// Returns the metadata of a stored object, as it is encoded, without parsing anything.
pub(crate) fn metadata<'a>(info: &KindInfo, encoded: &'a [u8]) -> &'a [u8] {
    let begin = head(info).len() - REVISION_FIELD.len();
    let rest = encoded.get(begin..).unwrap_or_default();
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for (index, byte) in rest.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' if !in_text => depth += 1,
            b'}' if !in_text && depth == 1 => return &rest[..=index],
            b'}' if !in_text => depth -= 1,
            _ => (),
        }
    }
    unreachable!("stored objects were encoded by this module")
}

fn head(info: &KindInfo) -> String {
    let (kind, version) = (info.kind, info.api_version());
    format!(r#"{{"kind":"{kind}","apiVersion":"{version}",{METADATA_FIELD}{REVISION_FIELD}"#)
}

impl ObjectIndex {
    fn new(info: &KindInfo, object: &Value) -> ObjectIndex {
        let labels = object
            .pointer("/metadata/labels")
            .and_then(Value::as_object);
        let label = |(name, value): (&String, &Value)| {
            (
                Box::from(name.as_str()),
                Box::from(value.as_str().unwrap_or_default()),
            )
        };
        let at = |pointer: &str| match object.pointer(pointer)? {
            Value::String(text) => Some(text.as_str()).filter(|text| !text.is_empty()),
            Value::Bool(flag) => Some(if *flag { "true" } else { "false" }),
            _ => None,
        };
        let field = |known: &SelectableField| {
            let found = at(known.pointer).or_else(|| at(known.instead?));
            Box::from(found.unwrap_or(known.absent))
        };
        ObjectIndex {
            uid: at("/metadata/uid").unwrap_or_default().into(),
            labels: labels.into_iter().flatten().map(label).collect(),
            fields: info.fields.iter().map(field).collect(),
            charge: OnceLock::new(),
        }
    }

    /// Returns the value of a selectable field.
    pub(crate) fn field(&self, info: &KindInfo, name: &str) -> &str {
        let position = info.fields.iter().position(|known| known.name == name);
        let value = position.and_then(|position| self.fields.get(position));
        value.map_or("", |value| value)
    }

    /// Returns the value of a label.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(label, _)| **label == *name)
            .map(|(_, value)| &**value)
    }
}

/// Returns where the objects of a kind are kept, all of them or one namespace's.
pub(crate) fn prefix(info: &KindInfo, namespace: Option<&str>) -> String {
    let info = info.stored();
    match (info.scope, namespace) {
        (Scope::Namespaced, Some(namespace)) => format!("/{}/{namespace}/", info.qualified()),
        (Scope::Namespaced, None) | (Scope::Cluster, _) => format!("/{}/", info.qualified()),
    }
}

/// Returns where one object is kept.
pub(crate) fn key(info: &KindInfo, namespace: Option<&str>, name: &str) -> String {
    prefix(info, namespace) + name
}

/// Returns the namespace (empty for cluster-wide kinds) and the name in a key.
pub(crate) fn namespace_and_name(key: &str) -> (&str, &str) {
    let mut segments = key.rsplitn(3, '/');
    let name = segments.next().unwrap_or_default();
    match (segments.next(), segments.next()) {
        // `/collection/name` leaves an empty segment in front of the collection.
        (Some(_), Some("")) | (_, None) => ("", name),
        (Some(namespace), Some(_)) => (namespace, name),
        (None, Some(_)) => unreachable!("segments are taken in order"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::served;

    #[test]
    fn an_object_keeps_its_fields_and_takes_its_revision() {
        let info = served("v1", "Pod").expect("pods are served");
        let object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a\"}b\\", "resourceVersion": "3", "labels": {"k": "v"}},
            "spec": {"nodeName": "n"}});
        let (bytes, index) = encode(info, &object).render(Revision::from(17));
        let mut expected = object.clone();
        expected["metadata"]["resourceVersion"] = json!("17");
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), expected);
        assert_eq!(index.label("k"), Some("v"));
        assert_eq!(&*index.fields[0], "n");
        let metadata = serde_json::from_slice::<Value>(metadata(info, &bytes)).unwrap();
        assert_eq!(metadata, expected["metadata"]);
        let later = at_revision(info, &bytes, Revision::from(1000));
        expected["metadata"]["resourceVersion"] = json!("1000");
        assert_eq!(serde_json::from_slice::<Value>(&later).unwrap(), expected);
    }

    #[test]
    fn keys_tell_namespace_and_name() {
        assert_eq!(namespace_and_name("/pods/default/web"), ("default", "web"));
        assert_eq!(namespace_and_name("/nodes/a.b"), ("", "a.b"));
    }
}
