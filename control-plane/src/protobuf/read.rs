//! Reads messages into JSON objects.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Value, map::Entry};

use super::{
    Malformed, Object,
    wire::{Reader, Wire},
};
use crate::{
    decode,
    schema::{Field, Shape, TypeId, schema},
};

/// How many messages a body may hold. An empty one takes two bytes on the wire and several hundred
/// in memory; the largest real objects have some thousand.
pub(super) const MESSAGES_MAX: usize = 50_000;

/// How deep messages may lie in each other. The types of the table are finite, but for those that
/// hold themselves.
const DEPTH_MAX: usize = 64;

/// Reads an object of a type.
pub(super) fn object(id: TypeId, bytes: &[u8]) -> Result<Object, Malformed> {
    let mut reading = Reading {
        messages: 0,
        depth: 0,
    };
    let mut object = Object::new();
    reading.message(schema().get(id).fields(), &[], bytes, &mut object)?;
    Ok(object)
}

struct Reading {
    messages: usize,
    depth: usize,
}

impl Reading {
    /// Reads a message into an object; `outer` are the numbers of the messages around it that JSON
    /// does not have.
    fn message(
        &mut self,
        fields: &[Field],
        outer: &[u32],
        bytes: &[u8],
        object: &mut Object,
    ) -> Result<(), Malformed> {
        self.messages += 1;
        if self.messages > MESSAGES_MAX {
            return Err(Malformed::TooMany {
                limit: MESSAGES_MAX,
            });
        }
        if self.depth > DEPTH_MAX {
            return Err(Malformed::TooDeep);
        }
        self.depth += 1;
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next()? {
            let here = |field: &&Field| {
                let rest = field.numbers.strip_prefix(outer);
                rest.and_then(<[u32]>::first) == Some(&number)
            };
            match fields.iter().find(here) {
                Some(field) if field.numbers.len() == outer.len() + 1 => {
                    self.field(field, wire, object)?;
                }
                Some(field) => {
                    let outer = [outer, &[number]].concat();
                    self.message(fields, &outer, wire.bytes(field.name)?, object)?;
                }
                // Of a newer version, or of none: the stock decoder skips it, too.
                None => (),
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        wire: Wire<'_>,
        object: &mut Object,
    ) -> Result<(), Malformed> {
        let entry = object.entry(field.name);
        match &field.shape {
            Shape::List(item) => {
                let list = entry.or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else {
                    unreachable!("a field always has the same shape");
                };
                self.elements(field.name, item, wire, list)
            }
            Shape::Map(item) => {
                let map = entry.or_insert_with(|| Value::Object(Object::new()));
                let Value::Object(map) = map else {
                    unreachable!("a field always has the same shape");
                };
                let (key, value) = self.entry(field.name, item, wire)?;
                map.insert(key, value);
                Ok(())
            }
            Shape::Object(id) => {
                // A message that comes twice is one message.
                let value = entry.or_insert_with(|| Value::Object(Object::new()));
                let Value::Object(value) = value else {
                    unreachable!("a field always has the same shape");
                };
                self.message(
                    schema().get(*id).fields(),
                    &[],
                    wire.bytes(field.name)?,
                    value,
                )
            }
            shape => {
                let value = self.value(field.name, shape, wire)?;
                match (value, entry) {
                    (Some(value), Entry::Occupied(mut entry)) if !field.means_nothing(&value) => {
                        entry.insert(value);
                    }
                    (Some(value), Entry::Vacant(entry)) if !field.means_nothing(&value) => {
                        entry.insert(value);
                    }
                    (_, Entry::Occupied(entry)) => drop(entry.remove()),
                    (_, Entry::Vacant(_)) => (),
                }
                Ok(())
            }
        }
    }

    /// Reads one element of a list, or several if they are packed.
    fn elements(
        &mut self,
        name: &str,
        item: &Shape,
        wire: Wire<'_>,
        list: &mut Vec<Value>,
    ) -> Result<(), Malformed> {
        let packs = matches!(item, Shape::Boolean | Shape::Int32 | Shape::Int64);
        match wire {
            Wire::Delimited(bytes) if packs => {
                let mut reader = Reader::new(bytes);
                while !reader.is_empty() {
                    let wire = Wire::Varint(reader.varint()?);
                    list.extend(self.value(name, item, wire)?);
                }
            }
            wire => list.push(self.value(name, item, wire)?.unwrap_or_default()),
        }
        Ok(())
    }

    /// Reads an entry of a map: a message of key and value, both of which may be left out.
    fn entry(
        &mut self,
        name: &str,
        item: &Shape,
        wire: Wire<'_>,
    ) -> Result<(String, Value), Malformed> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(wire.bytes(name)?);
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => key = wire.text(name)?,
                2 => value = self.value(name, item, wire)?,
                _ => (),
            }
        }
        let value = match value {
            Some(value) => value,
            None => {
                let empty = match item {
                    Shape::Boolean | Shape::Int32 | Shape::Int64 => Wire::Varint(0),
                    _ => Wire::Delimited(&[]),
                };
                self.value(name, item, empty)?.unwrap_or_default()
            }
        };
        Ok((key, value))
    }

    /// Reads a value; nothing is a time or a JSON that is not there.
    fn value(
        &mut self,
        name: &str,
        shape: &Shape,
        wire: Wire<'_>,
    ) -> Result<Option<Value>, Malformed> {
        Ok(Some(match shape {
            Shape::String => Value::from(wire.text(name)?),
            Shape::Boolean => Value::from(wire.number(name)? != 0),
            // As the stock decoder does: what has no room is cut off.
            Shape::Int32 => Value::from(wire.number(name)? as i32),
            Shape::Int64 => Value::from(wire.number(name)? as i64),
            Shape::Bytes => {
                let bytes = wire.bytes(name)?;
                Value::from(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Shape::Time | Shape::MicroTime => return time(name, shape, wire.bytes(name)?),
            Shape::Quantity => quantity(name, wire.bytes(name)?)?,
            Shape::IntOrString => int_or_string(name, wire.bytes(name)?)?,
            Shape::FieldsV1 | Shape::RawExtension => return json(name, wire.bytes(name)?),
            Shape::Object(id) => {
                let mut object = Object::new();
                let fields = schema().get(*id).fields();
                self.message(fields, &[], wire.bytes(name)?, &mut object)?;
                Value::Object(object)
            }
            // Lists have no place in maps and lists, so they lie in a message of their own.
            Shape::List(item) => {
                let mut list = Vec::new();
                let mut reader = Reader::new(wire.bytes(name)?);
                while let Some((number, wire)) = reader.next()? {
                    if number == 1 {
                        self.elements(name, item, wire, &mut list)?;
                    }
                }
                Value::Array(list)
            }
            Shape::Map(item) => {
                let mut map = Object::new();
                let mut reader = Reader::new(wire.bytes(name)?);
                while let Some((number, wire)) = reader.next()? {
                    if number == 1 {
                        let (key, value) = self.entry(name, item, wire)?;
                        map.insert(key, value);
                    }
                }
                Value::Object(map)
            }
        }))
    }
}

/// Reads `{seconds, nanos}`; an empty message is the zero of Go, which is no time.
fn time(name: &str, shape: &Shape, bytes: &[u8]) -> Result<Option<Value>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => seconds = wire.number(name)? as i64,
            2 => nanos = wire.number(name)? as i32,
            _ => (),
        }
    }
    let time = Timestamp::new(seconds, nanos).map_err(|_| Malformed::NoTime(name.to_owned()))?;
    Ok(Some(Value::from(shape.time(time))))
}

/// Reads `{string}`.
fn quantity(name: &str, bytes: &[u8]) -> Result<Value, Malformed> {
    let mut text = String::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            text = wire.text(name)?;
        }
    }
    Ok(Value::from(if text.is_empty() { "0" } else { &text }))
}

/// Reads `{type, intVal, strVal}`.
fn int_or_string(name: &str, bytes: &[u8]) -> Result<Value, Malformed> {
    let (mut is_text, mut number_value, mut text) = (false, 0, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => is_text = wire.number(name)? != 0,
            2 => number_value = wire.number(name)? as i32,
            3 => text = wire.text(name)?,
            _ => (),
        }
    }
    Ok(if is_text {
        Value::from(text)
    } else {
        Value::from(number_value)
    })
}

/// Reads `{raw}`, which holds JSON.
fn json(name: &str, bytes: &[u8]) -> Result<Option<Value>, Malformed> {
    let mut raw: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            raw = wire.bytes(name)?;
        }
    }
    if raw.is_empty() {
        return Ok(None);
    }
    let refuse = |error: serde_json::Error| Malformed::NoJson {
        field: name.to_owned(),
        why: error.to_string(),
    };
    Ok(Some(decode::json(raw).map_err(refuse)?.value))
}
