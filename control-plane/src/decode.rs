//! Reads a request's body and notes fields that are written twice, which a plain parser hides.
//!
//! JSON, YAML and protobuf take the same road: all become one JSON value.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{protobuf, schema::schema, service::Content, status::ApiError};

/// What bodies with whole objects are read from, as clients are told.
const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// As deep as serde's own limit for JSON.
const YAML_DEPTH_MAX: usize = 128;

/// How many nodes a document may have: as many as its aliases may repeat.
const YAML_NODES_MAX: usize = 250_000;

/// How much of a body that cannot be read is quoted.
const QUOTED_BYTES_MAX: usize = 30;

/// A parsed body.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// The paths of fields that occur twice; the last one counts.
    pub(crate) duplicates: Vec<String>,
}

/// Reads a body that carries an object of a type of the schema, by its media type.
pub(crate) fn body(content: &Content, type_name: &str) -> Result<Decoded, ApiError> {
    let kind = type_name.rsplit('.').next().unwrap_or(type_name);
    let decoded = match content.media.as_str() {
        "" | "application/json" => json(&content.bytes).map_err(|error| {
            format!(
                "couldn't get version/kind; json parse error: {}",
                words(&error)
            )
        }),
        "application/yaml" => yaml(&content.bytes)
            .map_err(|error| format!("error converting YAML to JSON: yaml: {error}")),
        protobuf::MEDIA_TYPE => protobuf::decode(schema().type_id(type_name), &content.bytes)
            .map(|value| Decoded {
                value,
                duplicates: Vec::new(),
            })
            .map_err(|error| error.to_string()),
        _ => return Err(ApiError::unsupported_media(MEDIA_TYPES)),
    };
    decoded.map_err(|error| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {error} ({})",
            quote(&content.bytes)
        ))
    })
}

/// Words the failure that clients see most as Kubernetes does; the others stay as they are.
fn words(error: &serde_json::Error) -> String {
    if error.is_eof() {
        "unexpected end of JSON input".to_owned()
    } else {
        error.to_string()
    }
}

/// Quotes the beginning of a body, in digits unless it looks like JSON.
fn quote(bytes: &[u8]) -> String {
    let shown = bytes.get(..QUOTED_BYTES_MAX).unwrap_or(bytes);
    let more = if shown.len() < bytes.len() {
        " ..."
    } else {
        ""
    };
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => {
            let digits: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            digits + more
        }
    }
}

/// Parses one document of YAML, the way Kubernetes' own parser reads it.
pub(crate) fn yaml(bytes: &[u8]) -> Result<Decoded, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "invalid UTF-8".to_owned())?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: YAML_DEPTH_MAX,
            max_nodes: YAML_NODES_MAX,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: YAML_NODES_MAX,
        },
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        // `defaultMode: 0644` means octal to Kubernetes, which follows YAML 1.1 here.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let mut notes = Notes::default();
    let read = |deserializer: serde_saphyr::Deserializer<'_, '_>| {
        Seed(&mut notes).deserialize(deserializer)
    };
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, read)
        .map_err(|error| error.to_string())?;
    Ok(Decoded {
        value,
        duplicates: notes.duplicates,
    })
}

/// Parses JSON, with serde's own limit on its depth.
pub(crate) fn json(bytes: &[u8]) -> Result<Decoded, serde_json::Error> {
    let mut notes = Notes::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(&mut notes).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Decoded {
        value,
        duplicates: notes.duplicates,
    })
}

#[derive(Default)]
struct Notes {
    path: String,
    duplicates: Vec<String>,
}

struct Seed<'a>(&'a mut Notes);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let Seed(notes) = self;
        let depth = notes.path.len();
        let mut list = Vec::new();
        notes.path.push_str("[0]");
        while let Some(element) = elements.next_element_seed(Seed(notes))? {
            list.push(element);
            notes.path.truncate(depth);
            notes.path.push_str(&format!("[{}]", list.len()));
        }
        notes.path.truncate(depth);
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let Seed(notes) = self;
        let depth = notes.path.len();
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if depth > 0 {
                notes.path.push('.');
            }
            notes.path.push_str(&key);
            let value = entries.next_value_seed(Seed(notes))?;
            if map.insert(key, value).is_some() {
                notes.duplicates.push(notes.path.clone());
            }
            notes.path.truncate(depth);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    fn check(text: &str, duplicates: &[&str]) {
        let decoded = super::json(text.as_bytes()).expect("the text is JSON");
        assert_eq!(
            decoded.value,
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
        assert_eq!(decoded.duplicates, duplicates);
    }

    #[test]
    fn a_field_written_twice_is_noted_with_its_path() {
        check(
            r#"{"a": 1, "b": [{"c": null, "c": 2.5}], "a": true}"#,
            &["b[0].c", "a"],
        );
        check(r#"{"a": [1, -2, "x"], "b": {"a": 1}}"#, &[]);
    }

    #[test]
    fn yaml_becomes_the_same_value() {
        let text = "\u{feff}a: 1\nb:\n- &x {c: ~, c: 2.5}\n- *x\na: yes\nm: 0644\n1: \"0644\"\n";
        let decoded = super::yaml(text.as_bytes()).expect("the text is YAML");
        let expected = json!({"a": true, "b": [{"c": 2.5}, {"c": 2.5}], "m": 420, "1": "0644"});
        assert_eq!(decoded.value, expected);
        assert_eq!(decoded.duplicates, ["b[0].c", "b[1].c", "a"]);
    }

    #[test]
    fn yaml_that_is_too_much_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        let deep = "[".repeat(100_000);
        let wide = "- a\n".repeat(300_000);
        for text in [
            &bomb,
            &deep,
            &wide,
            "a: 1\n---\nb: 2\n",
            "a: b: c",
            "a: .nan",
        ] {
            assert!(super::yaml(text.as_bytes()).is_err());
        }
        assert!(super::yaml(b"a: \xff").is_err());
    }

    #[test]
    fn what_cannot_be_read_is_quoted() {
        use crate::service::Content;
        let message = |media: &str, bytes: &[u8]| {
            let (media, bytes) = (media.to_owned(), bytes::Bytes::copy_from_slice(bytes));
            let read = super::body(&Content { media, bytes }, "Pod");
            read.expect_err("the body cannot be read").message
        };
        let prefix = "the object provided is unrecognized (must be of type Pod): ";
        let json = "couldn't get version/kind; json parse error: unexpected end of JSON input";
        assert_eq!(message("", b""), format!("{prefix}{json} (<empty>)"));
        let long = br#"{"metadata": {"name": "a long beginning"}"#;
        let quoted = r#"{"metadata": {"name": "a long  ..."#;
        assert_eq!(
            message("application/json", long),
            format!("{prefix}{json} ({quoted})")
        );
        let found = message("application/yaml", b"a: b: c");
        assert!(found.starts_with(&format!("{prefix}error converting YAML to JSON: yaml: ")));
        assert!(found.ends_with(" (613a20623a2063)"), "{found}");
        let expected = "the body of the request was in an unknown format - accepted media types \
                        include: application/json, application/yaml, \
                        application/vnd.kubernetes.protobuf";
        assert_eq!(message("text/plain", b"{}"), expected);
    }

    #[test]
    fn what_follows_the_value_is_refused() {
        assert!(super::json(b"{} x").is_err());
        assert!(super::json("[".repeat(100_000).as_bytes()).is_err());
        assert_eq!(super::json(b"{}").unwrap().value, json!({}));
    }
}
