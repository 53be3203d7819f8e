//! Objects whose specification stays text, for requests that leave it alone.
//!
//! A start is a create, a binding and a status, and two of the three change hardly more than the status.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{Encoded, ObjectRecord, encode, encode_sparse, load, text, text::Members};
use crate::kinds::KindInfo;

const SPEC: &str = "spec";

/// An object as a request reads it.
#[derive(Debug)]
pub(crate) struct Sparse<'r> {
    /// In a specification that stays text, only what is no list and no object.
    pub(crate) object: Value,
    /// The text of the specification; nothing if the object has none, or all of it is read.
    spec: Option<Cow<'r, str>>,
}

impl<'r> Sparse<'r> {
    /// Reads the whole of a stored object, as [`load`] does.
    pub(crate) fn whole(info: &KindInfo, record: &'r ObjectRecord) -> Sparse<'r> {
        Sparse {
            object: load(info, record),
            spec: None,
        }
    }

    /// Reads a stored object of a kind that is stored as it is.
    pub(crate) fn of(record: &'r ObjectRecord) -> Sparse<'r> {
        let mut spec = None;
        let member = |(name, value): (&str, &'r str)| {
            let value = match name {
                "metadata" => text::metadata(value),
                SPEC => {
                    spec = Some(Cow::Borrowed(value));
                    scalars(value)
                }
                _ => text::parse(value),
            };
            (name.to_owned(), value)
        };
        let object = Members::of(super::stored_text(&record.value)).map(member);
        let object = Value::Object(object.collect());
        Sparse { object, spec }
    }

    /// Says whether the specification is text.
    pub(crate) fn is_sparse(&self) -> bool {
        self.spec.is_some()
    }

    /// Encodes the object.
    pub(crate) fn encode(&self, info: &KindInfo) -> Encoded {
        self.encode_changed(info, &self.object)
    }

    /// Encodes what became of the object, with the specification as it is.
    pub(crate) fn encode_changed(&self, info: &KindInfo, object: &Value) -> Encoded {
        match self.spec.as_deref() {
            Some(spec) => encode_sparse(info, object, Some(spec)),
            None => encode(info, object),
        }
    }

    /// Says whether a list of the specification has elements.
    pub(crate) fn has_any(&self, list: &str) -> bool {
        let mut members = Members::of(self.spec.as_deref().unwrap_or_default());
        let found = members.find(|(name, _)| *name == list);
        found.is_some_and(|(_, text)| !matches!(text, "[]" | "null"))
    }

    /// Gives a field of the specification a text.
    pub(crate) fn set(&mut self, field: &str, value: &str) {
        let before = self.spec.take().unwrap_or_default();
        let mut spec = Vec::with_capacity(before.len() + field.len() + value.len() + 6);
        let mut write = |name: &str, text: &str| {
            text::append_name(&mut spec, name);
            spec.extend_from_slice(text.as_bytes());
        };
        let encoded = Value::from(value).to_string();
        let mut due = Some(encoded.as_str());
        for (name, text) in Members::of(&before) {
            // Members are sorted, as they are when the whole object is written.
            if name >= field
                && let Some(encoded) = due.take()
            {
                write(field, encoded);
            }
            if name != field {
                write(name, text);
            }
        }
        if let Some(encoded) = due {
            write(field, encoded);
        }
        text::close(&mut spec, 0, b'{', b'}');
        let spec = String::from_utf8(spec).expect("it is put together from texts");
        self.spec = Some(Cow::Owned(spec));
        self.object[SPEC][field] = Value::from(value);
    }
}

/// Reads the members of an object that are no lists and no objects.
fn scalars(object: &str) -> Value {
    let flat = Members::of(object).filter(|(_, value)| !value.starts_with(['{', '[']));
    let flat = flat.map(|(name, value)| (name.to_owned(), text::parse(value)));
    Value::Object(flat.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use coracle_store::Revision;
    use serde_json::json;

    use super::*;
    use crate::{kinds::served, object::parse};

    fn record(object: &Value) -> ObjectRecord {
        let info = served("v1", "Pod").expect("pods are served");
        let (value, index) = encode(info, object).render(Revision::from(7));
        ObjectRecord {
            key: "/pods/n/p".into(),
            revision: Revision::from(7),
            value,
            index,
        }
    }

    /// Changes the field of an object both ways.
    fn check(spec: Option<Value>, field: &str, value: &str) {
        let info = served("v1", "Pod").expect("pods are served");
        let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "managedFields": [{"fieldsV1": {"f:spec": {"f:b": {}}}, "manager": "m"}],
            "name": "p", "resourceVersion": "7"}, "status": {"phase": "Pending"}});
        if let Some(spec) = spec {
            object["spec"] = spec;
        }
        let record = record(&object);
        assert_eq!(parse(&record), object);
        let mut sparse = Sparse::of(&record);
        sparse.set(field, value);
        sparse.object["status"]["phase"] = json!("Running");
        let (changed, index) = sparse.encode(info).render(Revision::from(8));
        object["spec"][field] = json!(value);
        object["status"]["phase"] = json!("Running");
        let (expected, expected_index) = encode(info, &object).render(Revision::from(8));
        assert_eq!(
            String::from_utf8_lossy(&changed),
            String::from_utf8_lossy(&expected)
        );
        assert_eq!(index.fields, expected_index.fields);
    }

    #[test]
    fn a_field_is_set_without_parsing_the_others() {
        let spec = json!({"a": [{"nodeName": "x"}], "b": 1, "nodeName": "", "z": {"y": "\"}"}});
        for field in ["a0", "nodeName", "zz", "0"] {
            check(Some(spec.clone()), field, "n\"1");
        }
        check(Some(json!({})), "nodeName", "n");
        check(None, "nodeName", "n");
    }

    #[test]
    fn lists_are_asked_for_without_parsing_them() {
        let record = record(&json!({"spec": {"a": [], "b": [1], "c": null}}));
        let sparse = Sparse::of(&record);
        let found = ["a", "b", "c", "d"].map(|list| sparse.has_any(list));
        assert_eq!(found, [false, true, false, false]);
    }
}
