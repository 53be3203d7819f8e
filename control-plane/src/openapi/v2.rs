//! The OpenAPI v2 document: what v3 says of all versions at once, in the older form.
//!
//! kubectl checks objects of kind `List` with it, and everything when it is old; it asks for
//! protobuf, others for JSON. Both forms are made piece by piece when the first client asks for one
//! of them, and kept compressed: a tenth of their size, and what nearly every client takes.

mod gnostic;
mod named;
mod rewrite;

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write},
    sync::OnceLock,
};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{hex, paths, references, schemas, token};
use crate::discovery::{GroupVersion, VERSION, versions};
use named::Named;

/// How the document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    /// The message `openapi.v2.Document` of gnostic.
    Protobuf,
}

/// Whether the document is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Plain,
    Gzip,
}

/// The names by which clients ask for the forms; the last one has a letter that no media type may
/// have, and is what all but the newest clients say.
pub(crate) const NAMES: &[(&str, Form)] = &[
    ("json", Form::Json),
    (
        "com.github.proto-openapi.spec.v2.v1.0+protobuf",
        Form::Protobuf,
    ),
    (
        "com.github.proto-openapi.spec.v2@v1.0+protobuf",
        Form::Protobuf,
    ),
];

/// The document as it is sent.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    /// The same for both forms: clients are told that the answer varies with what they accept.
    pub(crate) hash: &'static str,
}

/// Both forms, compressed.
#[derive(Debug)]
struct Packed {
    json: Bytes,
    protobuf: Bytes,
    hash: String,
}

impl Form {
    /// Returns the media type of the form.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Protobuf => "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        }
    }
}

/// Returns the document. The first call writes it, and takes a tenth of a second for that.
pub(crate) fn document(form: Form, coding: Coding) -> Document {
    static PACKED: OnceLock<Packed> = OnceLock::new();
    let packed = PACKED.get_or_init(|| write(versions()).expect("memory takes every write"));
    let bytes = match form {
        Form::Json => &packed.json,
        Form::Protobuf => &packed.protobuf,
    };
    let bytes = match coding {
        Coding::Gzip => bytes.clone(),
        Coding::Plain => unpacked(bytes),
    };
    Document {
        bytes,
        hash: &packed.hash,
    }
}

fn unpacked(bytes: &[u8]) -> Bytes {
    let mut plain = Vec::new();
    let read = GzDecoder::new(bytes).read_to_end(&mut plain);
    read.expect("what was compressed here comes out again");
    Bytes::from(plain)
}

/// A document being written in both forms at once.
struct Writer {
    json: GzEncoder<Vec<u8>>,
    hasher: Sha256,
    protobuf: GzEncoder<Vec<u8>>,
}

fn write(versions: Vec<GroupVersion>) -> io::Result<Packed> {
    let mut writer = Writer::new();
    writer.field("swagger", &json!("2.0"))?;
    writer.field("info", &json!({"title": "Kubernetes", "version": VERSION}))?;
    let (mut open, mut named) = (BTreeSet::new(), Named::default());
    // A version's paths at a time: all of them together would be megabytes.
    let items = versions.iter().flat_map(paths::of).map(|(path, item)| {
        references(&item, &mut open);
        (path, rewrite::path(item, &mut named))
    });
    writer.section("paths", items)?;
    let definitions = schemas(open, &versions);
    let definitions = definitions.map(|(name, schema)| (name, rewrite::schema(schema)));
    writer.section("definitions", definitions)?;
    writer.section("parameters", named.into_definitions())?;
    writer.field("securityDefinitions", &json!({"BearerToken": token()}))?;
    writer.field("security", &json!([{"BearerToken": []}]))?;
    writer.finish()
}

impl Writer {
    fn new() -> Writer {
        let encoder = || GzEncoder::new(Vec::new(), Compression::default());
        Writer {
            json: encoder(),
            hasher: Sha256::new(),
            protobuf: encoder(),
        }
    }

    fn text(&mut self, text: &[u8]) -> io::Result<()> {
        self.hasher.update(text);
        self.json.write_all(text)
    }

    /// Opens a field; `swagger` is the first one.
    fn name(&mut self, name: &str) -> io::Result<()> {
        let before = if name == "swagger" { '{' } else { ',' };
        self.text(format!("{before}\"{name}\":").as_bytes())
    }

    fn field(&mut self, name: &str, value: &Value) -> io::Result<()> {
        self.name(name)?;
        self.text(value.to_string().as_bytes())?;
        let mut message = Vec::new();
        gnostic::field(name, value, &mut message);
        self.protobuf.write_all(&message)
    }

    /// Writes a field that is too large to be held as a value.
    fn section(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = (String, Value)>,
    ) -> io::Result<()> {
        self.name(name)?;
        let mut message = Vec::new();
        let mut before = '{';
        for (key, value) in entries {
            let entry = json!({key: value});
            let text = entry.to_string();
            // Between the entry's own braces.
            let text = text.get(1..text.len() - 1).unwrap_or_default();
            self.text(format!("{before}{text}").as_bytes())?;
            before = ',';
            gnostic::entry(name, &entry, &mut message);
        }
        self.text(b"}")?;
        let mut whole = Vec::new();
        gnostic::section(name, &message, &mut whole);
        self.protobuf.write_all(&whole)
    }

    fn finish(mut self) -> io::Result<Packed> {
        self.text(b"}")?;
        Ok(Packed {
            json: Bytes::from(self.json.finish()?),
            protobuf: Bytes::from(self.protobuf.finish()?),
            hash: hex(&self.hasher.finalize()),
        })
    }
}

#[cfg(test)]
mod tests;
