//! Stored objects as text, of which no more is parsed than someone looks at.
//!
//! This program has encoded them, so where a part ends is found by counting brackets. The fields in
//! `metadata.managedFields` stay text while a verb handles an object: most writes change those of one
//! manager, and those of the others are a third of a pod's text and half of its parts.

use serde_json::{Map, Value};

/// What objects keep their owners in, inside `metadata`, and what an owner keeps its fields in.
const OWNERS: &str = "managedFields";
const FIELDS: &str = "fieldsV1";

const ENCODED: &str = "stored objects were encoded by this module";

/// The members of an object in the order of its text: a name and the text of its value.
///
/// Names come as they are written, so the object is one whose names need no escapes: one with a type of
/// the schema, and no map.
pub(super) struct Members<'t> {
    text: &'t str,
    at: usize,
}

/// The elements of a list, as text.
struct Elements<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Members<'t> {
    pub(super) fn of(text: &'t str) -> Members<'t> {
        Members { text, at: 0 }
    }
}

impl<'t> Iterator for Members<'t> {
    type Item = (&'t str, &'t str);

    fn next(&mut self) -> Option<(&'t str, &'t str)> {
        // Behind the bracket or the comma.
        let quote = self.at + 1;
        if self.text.as_bytes().get(quote) != Some(&b'"') {
            return None;
        }
        let colon = end_of_text(self.text.as_bytes(), quote);
        let end = end_of_value(self.text.as_bytes(), colon + 1);
        self.at = end;
        let name = self.text.get(quote + 1..colon - 1)?;
        Some((name, self.text.get(colon + 1..end)?))
    }
}

impl<'t> Iterator for Elements<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let begin = self.at + 1;
        if matches!(self.text.as_bytes().get(begin), None | Some(b']')) {
            return None;
        }
        self.at = end_of_value(self.text.as_bytes(), begin);
        self.text.get(begin..self.at)
    }
}

/// Returns where a value ends that begins at a place.
fn end_of_value(text: &[u8], begin: usize) -> usize {
    let (mut at, mut depth) = (begin, 0_usize);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at = end_of_text(text, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b'}' | b']' | b',' if depth == 0 => return at,
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

/// Returns where a string ends that begins at a place, behind its quote.
fn end_of_text(text: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

pub(super) fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect(ENCODED)
}

/// Reads a stored object, but for the fields of its owners, which stay text.
pub(super) fn packed(text: &str) -> Value {
    let member = |(name, value): (&str, &str)| {
        let value = match name {
            "metadata" => metadata(value),
            _ => parse(value),
        };
        (name.to_owned(), value)
    };
    Value::Object(Members::of(text).map(member).collect())
}

/// Reads the metadata of a stored object, but for the fields of its owners.
pub(super) fn metadata(text: &str) -> Value {
    let member = |(name, value): (&str, &str)| {
        let value = match name {
            OWNERS => Value::Array(Elements { text: value, at: 0 }.map(owner).collect()),
            _ => parse(value),
        };
        (name.to_owned(), value)
    };
    Value::Object(Members::of(text).map(member).collect())
}

fn owner(text: &str) -> Value {
    let member = |(name, value): (&str, &str)| {
        let value = match name {
            FIELDS => Value::from(value),
            _ => parse(value),
        };
        (name.to_owned(), value)
    };
    Value::Object(Members::of(text).map(member).collect())
}

/// Reads the fields of owners that are text.
pub(super) fn unpack(object: &mut Value) {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let owners = metadata.and_then(|metadata| metadata.get_mut(OWNERS));
    let owners = owners.and_then(Value::as_array_mut);
    for owner in owners.into_iter().flatten() {
        if let Some(fields) = owner.get_mut(FIELDS)
            && let Value::String(text) = fields
        {
            *fields = parse(text);
        }
    }
}

/// Writes members, each behind a comma. The fields of owners that are text become what they say.
pub(super) fn append<'m>(
    encoded: &mut Vec<u8>,
    members: impl Iterator<Item = (&'m String, &'m Value)>,
) {
    for (name, value) in members {
        append_name(encoded, name);
        match value {
            Value::Array(owners) if name == OWNERS => append_owners(encoded, owners),
            value => write(encoded, value),
        }
    }
}

/// Writes the name of a member behind a comma.
pub(super) fn append_name(encoded: &mut Vec<u8>, name: &str) {
    encoded.push(b',');
    serde_json::to_writer(&mut *encoded, name).expect("a string always encodes");
    encoded.push(b':');
}

fn write(encoded: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(encoded, value).expect("a JSON value always encodes");
}

fn append_owners(encoded: &mut Vec<u8>, owners: &[Value]) {
    let begin = encoded.len();
    for owner in owners {
        encoded.push(b',');
        let Value::Object(members) = owner else {
            write(encoded, owner);
            continue;
        };
        append_object(encoded, members, |encoded, name, value| match value {
            Value::String(fields) if name == FIELDS => encoded.extend_from_slice(fields.as_bytes()),
            value => write(encoded, value),
        });
    }
    close(encoded, begin, b'[', b']');
}

/// Writes an object, its values as `each` does.
fn append_object(
    encoded: &mut Vec<u8>,
    members: &Map<String, Value>,
    each: impl Fn(&mut Vec<u8>, &str, &Value),
) {
    let begin = encoded.len();
    for (name, value) in members {
        append_name(encoded, name);
        each(encoded, name, value);
    }
    close(encoded, begin, b'{', b'}');
}

/// Puts brackets around what was written from a place on, each part behind a comma.
pub(super) fn close(encoded: &mut Vec<u8>, begin: usize, open: u8, close: u8) {
    match encoded.get_mut(begin) {
        Some(comma) => *comma = open,
        None => encoded.push(open),
    }
    encoded.push(close);
}

/// Writes an object as clients are shown it.
pub(super) fn document(object: &Map<String, Value>) -> Vec<u8> {
    let mut text = Vec::new();
    append_object(&mut text, object, |text, name, value| match value {
        Value::Object(metadata) if name == "metadata" => {
            let begin = text.len();
            append(text, metadata.iter());
            close(text, begin, b'{', b'}');
        }
        value => write(text, value),
    });
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "annotations": {"a\"}]": "\\\"{[", "empty": ""},
            "labels": {},
            "managedFields": [
                {"fieldsV1": {"f:spec": {"k:{\"name\":\"a]}\"}": {".": {}}}}, "manager": "m"},
                {"manager": "n"}],
            "name": "n"},
            "spec": {"containers": [{"name": "c", "args": ["}", "\\"]}, {}], "on": true, "n": -1.5},
            "status": null})
    }

    #[test]
    fn members_are_found_in_any_text() {
        let object = object();
        let text = object.to_string();
        let found = Members::of(&text).map(|(name, value)| (name.to_owned(), parse(value)));
        assert_eq!(Value::Object(found.collect()), object);
        for text in ["{}", "", "[]", "{\"a", "{\"a\":[\"", "\\"] {
            assert!(Members::of(text).count() <= 1, "{text}");
        }
    }

    #[test]
    fn owners_stay_text_and_come_back() {
        let object = object();
        let mut packed = packed(&object.to_string());
        let fields = &packed["metadata"]["managedFields"][0]["fieldsV1"];
        assert_eq!(*fields, r#"{"f:spec":{"k:{\"name\":\"a]}\"}":{".":{}}}}"#);
        let text = document(packed.as_object().expect("an object"));
        assert_eq!(String::from_utf8_lossy(&text), object.to_string());
        unpack(&mut packed);
        assert_eq!(packed, object);
    }
}
