//! How an answer shall look: what the `Accept` header asks for, and objects shown that way.
//!
//! Verbs answer with whole objects in JSON, which is how objects are stored. A view turns them
//! into what the client takes: whole, as a table or only their metadata, in JSON, YAML or
//! protobuf.

mod accept;
pub(crate) mod yaml;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) use accept::{Clause, Endpoint, accepted, negotiate};

use crate::{kinds::KindInfo, object, protobuf, table};

/// The form of an answer that carries objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) shape: Shape,
    pub(crate) encoding: Encoding,
    /// Ages in tables are told by this clock.
    pub(crate) clock: fn() -> Timestamp,
}

/// How much of an object is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// All of it.
    Whole,
    /// A row of cells, with as much of the object as is asked for.
    Table(MetaVersion, Include),
    /// Kind, version and metadata.
    Metadata(MetaVersion),
}

/// The version of `meta.k8s.io` that a table or metadata is written in; they look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaVersion {
    V1,
    V1Beta1,
}

/// What stands beside the cells of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    #[default]
    Metadata,
    Object,
}

/// What an answer is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    /// Only of whole objects.
    Protobuf,
}

/// Whether a watch has still to send the definitions of its table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    Due,
    Sent,
}

impl View {
    /// Returns the view in which whole objects go out as they are stored.
    pub(crate) fn plain(clock: fn() -> Timestamp) -> View {
        View {
            shape: Shape::Whole,
            encoding: Encoding::Json,
            clock,
        }
    }

    /// Returns what the head of the answer says about its body.
    pub(crate) fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => protobuf::MEDIA_TYPE,
        }
    }

    /// Returns what the head of the answer says about a watch.
    pub(crate) fn stream_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json | Encoding::Yaml => self.content_type(),
            Encoding::Protobuf => protobuf::STREAM_MEDIA_TYPE,
        }
    }

    /// Shows JSON that is the whole answer; what is not of this kind, such as a `Status`, keeps
    /// its shape.
    pub(crate) fn document(self, info: &KindInfo, json: Bytes) -> Bytes {
        let json = object::shown(info, &json);
        if self.shape == Shape::Whole && self.encoding == Encoding::Json {
            return json;
        }
        let value: Value = serde_json::from_slice(&json).expect("answers are JSON");
        let shown = match self.shape {
            _ if value["kind"] != info.kind => value,
            Shape::Whole => value,
            Shape::Metadata(version) => partial(version, &value["metadata"]),
            Shape::Table(..) => self.table(info, &value, Columns::Due),
        };
        match self.encoding {
            Encoding::Json => Bytes::from(shown.to_string()),
            Encoding::Yaml => yaml::document(&shown),
            Encoding::Protobuf => encoded(&shown),
        }
    }

    /// Shows a stored object, or one laid out like it, as an event of a watch carries it.
    pub(crate) fn event(self, info: &KindInfo, stored: &Bytes, columns: Columns) -> Bytes {
        let stored = &object::shown(info, stored);
        match self.shape {
            Shape::Whole if self.encoding == Encoding::Protobuf => {
                encoded(&object::parse_encoded(stored))
            }
            Shape::Whole => stored.clone(),
            Shape::Metadata(version) => metadata_only(version, info, stored),
            Shape::Table(..) => {
                let table = self.table(info, &object::parse_encoded(stored), columns);
                Bytes::from(table.to_string())
            }
        }
    }

    /// Returns what comes before the objects of a list.
    pub(crate) fn list_head(self, info: &KindInfo, metadata: &Value) -> Bytes {
        let (kind, version) = match self.shape {
            Shape::Whole => (format!("{}List", info.kind), info.api_version()),
            Shape::Metadata(version) => (
                "PartialObjectMetadataList".to_owned(),
                version.as_str().to_owned(),
            ),
            Shape::Table(version, _) => ("Table".to_owned(), version.as_str().to_owned()),
        };
        let columns = match self.shape {
            Shape::Table(..) => format!(r#","columnDefinitions":{}"#, table::columns(info)),
            Shape::Whole | Shape::Metadata(_) => String::new(),
        };
        let items = match self.shape {
            Shape::Whole | Shape::Metadata(_) => "items",
            Shape::Table(..) => "rows",
        };
        let head =
            format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata}{columns}"#);
        Bytes::from(match self.encoding {
            Encoding::Json => format!(r#"{head},"{items}":["#),
            Encoding::Yaml => yaml::list_head(&format!("{head}}}"), items),
            Encoding::Protobuf => unreachable!("a list in protobuf is written as a whole"),
        })
    }

    /// Shows a stored object as an element of a list.
    pub(crate) fn item(self, info: &KindInfo, stored: &Bytes) -> Bytes {
        let stored = &object::shown(info, stored);
        let item = match self.shape {
            // The list says what they are.
            Shape::Whole => object::untyped(info, stored),
            Shape::Metadata(version) => metadata_only(version, info, stored),
            Shape::Table(version, include) => {
                let parsed = object::parse_encoded(stored);
                Bytes::from(self.row(info, &parsed, (version, include)).to_string())
            }
        };
        match self.encoding {
            Encoding::Json => item,
            Encoding::Yaml => yaml::element(&item),
            Encoding::Protobuf => unreachable!("a list in protobuf is written as a whole"),
        }
    }

    /// Returns what stands between two objects of a list.
    pub(crate) fn separator(self) -> &'static [u8] {
        match self.encoding {
            Encoding::Json => b",",
            Encoding::Yaml => b"",
            Encoding::Protobuf => unreachable!("a list in protobuf is written as a whole"),
        }
    }

    /// Returns what comes behind the objects of a list of this length.
    pub(crate) fn list_tail(self, length: usize) -> &'static [u8] {
        match (self.encoding, length) {
            (Encoding::Json, _) => b"]}",
            (Encoding::Yaml, 0) => b" []\n",
            (Encoding::Yaml, _) => b"\n",
            (Encoding::Protobuf, _) => unreachable!("a list in protobuf is written as a whole"),
        }
    }
}

impl View {
    /// Shows one object as a table of one row.
    fn table(self, info: &KindInfo, value: &Value, columns: Columns) -> Value {
        let Shape::Table(version, include) = self.shape else {
            unreachable!("only a view that is a table draws one");
        };
        let definitions = match columns {
            Columns::Due => serde_json::from_str(table::columns(info))
                .expect("definitions of columns are encoded by the table module"),
            Columns::Sent => Value::Null,
        };
        json!({
            "kind": "Table",
            "apiVersion": version.as_str(),
            "metadata": {"resourceVersion": value["metadata"]["resourceVersion"]},
            "columnDefinitions": definitions,
            "rows": [self.row(info, value, (version, include))],
        })
    }

    fn row(self, info: &KindInfo, value: &Value, form: (MetaVersion, Include)) -> Value {
        // Cells are read off the stored form, whatever names a view gives its fields.
        let stored = info.twin.map(|twin| twin.store(value));
        let (kind, cells_of) = (info.stored(), stored.as_ref().unwrap_or(value));
        let mut row = json!({"cells": table::cells(kind, cells_of, (self.clock)())});
        if let Some(conditions) = table::conditions(kind, cells_of) {
            row["conditions"] = conditions;
        }
        row["object"] = match form {
            (_, Include::Nothing) => Value::Null,
            (version, Include::Metadata) => partial(version, &value["metadata"]),
            (_, Include::Object) => value.clone(),
        };
        row
    }
}

impl MetaVersion {
    fn as_str(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

fn encoded(value: &Value) -> Bytes {
    protobuf::encode(value).expect("every kind that is answered with is in the table of types")
}

fn partial(version: MetaVersion, metadata: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": version.as_str(),
        "metadata": metadata,
    })
}

/// Shows the metadata of a stored object without parsing it.
fn metadata_only(version: MetaVersion, info: &KindInfo, stored: &Bytes) -> Bytes {
    let version = version.as_str();
    let head = format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{version}","metadata":"#);
    Bytes::from([head.as_bytes(), object::metadata(info, stored), b"}"].concat())
}
