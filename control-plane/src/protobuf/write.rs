//! Writes JSON objects as messages.
//!
//! Objects come from the store or from this crate, so they are of their type; a value that is not
//! would be left out.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::Value;

use super::wire::{delimited, number};
use crate::schema::{Field, Shape, TypeId, schema};

/// A field and its value.
type Present<'a> = (&'a Field, &'a Value);

/// Writes an object of a type.
pub(super) fn object(id: TypeId, object: &Value, out: &mut Vec<u8>) {
    let fields = schema().get(id).fields().iter();
    let present = fields.filter_map(|field| Some((field, object.get(field.name)?)));
    let mut present: Vec<Present<'_>> = present
        .filter(|(field, value)| !field.numbers.is_empty() && !value.is_null())
        .collect();
    present.sort_by_key(|(field, _)| &field.numbers);
    message(&present, 0, out);
}

/// Writes fields, sorted by number; `depth` messages around them have been opened.
fn message(present: &[Present<'_>], depth: usize, out: &mut Vec<u8>) {
    let at = |(field, _): &Present<'_>| field.numbers.get(depth).copied();
    for same in present.chunk_by(|one, other| at(one) == at(other)) {
        match (same, same.first().and_then(at)) {
            ([(found, value)], Some(number)) if found.numbers.len() == depth + 1 => {
                field(number, &found.shape, value, out);
            }
            (inside, Some(number)) => {
                let mut inner = Vec::new();
                message(inside, depth + 1, &mut inner);
                delimited(out, number, &inner);
            }
            (_, None) => unreachable!("fields without a number are left out"),
        }
    }
}

fn field(number: u32, shape: &Shape, value: &Value, out: &mut Vec<u8>) {
    match (shape, value) {
        (Shape::List(item), Value::Array(list)) => {
            list.iter()
                .for_each(|value| element(number, item, value, out));
        }
        (Shape::Map(item), Value::Object(map)) => {
            for (key, value) in map {
                let mut entry = Vec::new();
                delimited(&mut entry, 1, key.as_bytes());
                element(2, item, value, &mut entry);
                delimited(out, number, &entry);
            }
        }
        _ => element(number, shape, value, out),
    }
}

fn element(field: u32, shape: &Shape, value: &Value, out: &mut Vec<u8>) {
    match (shape, value) {
        (Shape::String, Value::String(text)) => delimited(out, field, text.as_bytes()),
        (Shape::Boolean, Value::Bool(value)) => number(out, field, u64::from(*value)),
        (Shape::Int32 | Shape::Int64, Value::Number(value)) => {
            number(out, field, value.as_i64().unwrap_or_default() as u64);
        }
        (Shape::Bytes, Value::String(text)) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            delimited(out, field, &bytes.unwrap_or_default());
        }
        (Shape::Time | Shape::MicroTime, Value::String(text)) => {
            let time = text.parse::<Timestamp>().unwrap_or_default();
            delimited(out, field, &timestamp(time));
        }
        (Shape::Quantity, Value::String(text)) => {
            let mut inner = Vec::new();
            delimited(&mut inner, 1, text.as_bytes());
            delimited(out, field, &inner);
        }
        (Shape::IntOrString, value) => delimited(out, field, &int_or_string(value)),
        (Shape::FieldsV1 | Shape::RawExtension, value) => {
            let mut inner = Vec::new();
            delimited(&mut inner, 1, value.to_string().as_bytes());
            delimited(out, field, &inner);
        }
        (Shape::Object(id), Value::Object(_)) => {
            let mut inner = Vec::new();
            object(*id, value, &mut inner);
            delimited(out, field, &inner);
        }
        // Lists have no place in maps and lists, so they lie in a message of their own.
        (Shape::List(_) | Shape::Map(_), value) => {
            let mut inner = Vec::new();
            self::field(1, shape, value, &mut inner);
            delimited(out, field, &inner);
        }
        _ => (),
    }
}

/// Writes `{seconds, nanos}`, rounded down to whole seconds before the fraction.
fn timestamp(time: Timestamp) -> Vec<u8> {
    let nanos = time.as_nanosecond();
    let (seconds, nanos) = (
        nanos.div_euclid(1_000_000_000),
        nanos.rem_euclid(1_000_000_000),
    );
    let mut inner = Vec::new();
    number(&mut inner, 1, seconds as i64 as u64);
    number(&mut inner, 2, nanos as u64);
    inner
}

/// Writes `{type, intVal, strVal}`.
fn int_or_string(value: &Value) -> Vec<u8> {
    let text = value.as_str();
    let mut inner = Vec::new();
    number(&mut inner, 1, u64::from(text.is_some()));
    number(&mut inner, 2, value.as_i64().unwrap_or_default() as u64);
    delimited(&mut inner, 3, text.unwrap_or_default().as_bytes());
    inner
}
