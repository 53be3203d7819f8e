//! Reads a request's JSON and notes fields that are written twice, which a plain parser hides.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A parsed body.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// The paths of fields that occur twice; the last one counts.
    pub(crate) duplicates: Vec<String>,
}

/// Parses JSON, with serde's own limit on its depth.
pub(crate) fn json(bytes: &[u8]) -> Result<Decoded, serde_json::Error> {
    let mut notes = Notes {
        path: String::new(),
        duplicates: Vec::new(),
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(&mut notes).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Decoded {
        value,
        duplicates: notes.duplicates,
    })
}

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
    fn what_follows_the_value_is_refused() {
        assert!(super::json(b"{} x").is_err());
        assert!(super::json("[".repeat(100_000).as_bytes()).is_err());
        assert_eq!(super::json(b"{}").unwrap().value, json!({}));
    }
}
