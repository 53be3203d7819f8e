//! Kubernetes' protobuf: objects as messages, written and read by the numbers in the table of types.
//!
//! On the wire an object is the prefix [`MAGIC`] and a message `Unknown` that says what it holds:
//! `{typeMeta {apiVersion, kind}, raw, contentEncoding, contentType}`.

mod read;
pub(crate) mod wire;
mod write;

use bytes::Bytes;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    kinds::KindInfo,
    object,
    schema::{TypeId, schema},
};
use wire::{Reader, Wire, delimited, key, varint};

/// The media type of bodies and answers.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The media type of a watch.
pub(crate) const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// A body that is no object of the wanted type, as Kubernetes' decoder words it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Malformed {
    /// The body is not protobuf.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    NoPrefix,
    /// The body ends inside a field.
    #[error("unexpected EOF")]
    Ended,
    /// A number has too many digits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A field's number is not one.
    #[error("proto: illegal tag {0}")]
    IllegalTag(u64),
    /// A way of writing that does not exist, or not any more.
    #[error("proto: illegal wireType {0}")]
    IllegalWire(u8),
    /// A field is not written as its type is.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WrongWire { wire: u8, field: String },
    /// A text is not UTF-8.
    #[error("proto: field {0} contains invalid UTF-8")]
    NoText(String),
    /// A field that holds JSON does not.
    #[error("field {field} holds no JSON: {why}")]
    NoJson { field: String, why: String },
    /// A time lies outside of what JSON can tell.
    #[error("field {0}: timestamp out of range")]
    NoTime(String),
    /// The object is compressed.
    #[error("unsupported content encoding `{0}`")]
    Encoded(String),
    /// The object is larger than its bytes.
    #[error("the object has more than {limit} messages in it")]
    TooMany { limit: usize },
    /// A message that holds itself does so too often.
    #[error("the object is nested too deeply")]
    TooDeep,
}

/// Reads a body with an object of a type into the JSON that says the same.
pub(crate) fn decode(id: TypeId, body: &[u8]) -> Result<Value, Malformed> {
    let unknown = body.strip_prefix(MAGIC).ok_or(Malformed::NoPrefix)?;
    let (mut kind, mut version, mut raw) = (String::new(), String::new(), [].as_slice());
    let mut reader = Reader::new(unknown);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Delimited(bytes)) => {
                let mut reader = Reader::new(bytes);
                while let Some((number, wire)) = reader.next()? {
                    match number {
                        1 => version = wire.text("apiVersion")?,
                        2 => kind = wire.text("kind")?,
                        _ => (),
                    }
                }
            }
            (2, wire) => raw = wire.bytes("raw")?,
            (3, wire) => match wire.text("contentEncoding")? {
                encoding if encoding.is_empty() => (),
                encoding => return Err(Malformed::Encoded(encoding)),
            },
            _ => (),
        }
    }
    let mut object = read::object(id, raw)?;
    for (name, word) in [("kind", kind), ("apiVersion", version)] {
        if !word.is_empty() {
            object.insert(name.to_owned(), Value::from(word));
        }
    }
    Ok(Value::Object(object))
}

/// Writes an object that says itself what it is; nothing if its type is not in the table.
pub(crate) fn encode(object: &Value) -> Option<Bytes> {
    let word = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (word("apiVersion"), word("kind"));
    let id = schema().of_kind(version, kind)?;
    let mut raw = Vec::new();
    write::object(id, object, &mut raw);
    Some(Bytes::from(envelope(version, kind, &raw)))
}

/// Writes a list of stored objects; `metadata` is the list's own.
pub(crate) fn list<'a>(
    info: &KindInfo,
    metadata: &Value,
    items: impl Iterator<Item = &'a Bytes>,
) -> Bytes {
    const METADATA: u32 = 1;
    const ITEMS: u32 = 2;
    let (id, meta) = (
        schema().type_id(info.schema),
        schema().type_id("meta.v1.ListMeta"),
    );
    let (mut raw, mut part) = (Vec::new(), Vec::new());
    write::object(meta, metadata, &mut part);
    delimited(&mut raw, METADATA, &part);
    for item in items {
        part.clear();
        write::object(id, &object::parse_encoded(item), &mut part);
        delimited(&mut raw, ITEMS, &part);
    }
    let kind = format!("{}List", info.kind);
    Bytes::from(envelope(&info.api_version(), &kind, &raw))
}

/// Returns what comes before an object in a watch: the length of the event, and its type.
pub(crate) fn event_head(kind: &str, object: &[u8]) -> Bytes {
    const KIND: u32 = 1;
    const OBJECT: u32 = 2;
    const RAW: u32 = 1;
    let mut inner = Vec::new();
    key(&mut inner, RAW, wire::DELIMITED);
    varint(&mut inner, object.len() as u64);
    let mut event = Vec::new();
    delimited(&mut event, KIND, kind.as_bytes());
    key(&mut event, OBJECT, wire::DELIMITED);
    varint(&mut event, (inner.len() + object.len()) as u64);
    event.extend(inner);
    let length = u32::try_from(event.len() + object.len());
    let length = length.expect("an object is far smaller than four gigabytes");
    Bytes::from([&length.to_be_bytes(), event.as_slice()].concat())
}

fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::new();
    delimited(&mut type_meta, 1, version.as_bytes());
    delimited(&mut type_meta, 2, kind.as_bytes());
    // The prefix, four keys with their lengths, and the two texts.
    let mut body = Vec::with_capacity(raw.len() + type_meta.len() + 32);
    body.extend(MAGIC);
    delimited(&mut body, 1, &type_meta);
    delimited(&mut body, 2, raw);
    delimited(&mut body, 3, b"");
    delimited(&mut body, 4, b"");
    body
}

/// An object as JSON has it.
type Object = Map<String, Value>;

#[cfg(test)]
mod tests;
