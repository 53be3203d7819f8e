//! What the creator of an object owns, remembered by the object's shape.
//!
//! It depends on which fields an object has and by what the elements of its lists are told apart, not on
//! what else it says. So the pods of one template, and the events of one sort, are alike: the fields of the
//! first of them are found by comparing it with nothing, those of the others by a hash.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash as _, Hasher, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::Value;

use super::typing::Typing;

/// So many are remembered, a kilobyte or two each: more sorts of objects are hardly created in turn. When
/// there are more, all are forgotten.
const SHAPES_MAX: usize = 512;

/// The fields of creators, as text.
///
/// Two shapes with one hash would be mistaken for each other. The hash has 64 bits and a random key, so of
/// some hundred shapes no two have the same, and nobody can make two that have.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    keys: RandomState,
    known: Mutex<HashMap<u64, Arc<str>>>,
}

impl Shapes {
    /// Returns what is known of an object of a kind, or what `find` says of it.
    pub(super) fn fields(
        &self,
        (kind, typing): (&str, Typing),
        object: &Value,
        find: impl FnOnce() -> String,
    ) -> Arc<str> {
        let mut state = self.keys.build_hasher();
        kind.hash(&mut state);
        feed(&mut state, typing, object);
        let shape = state.finish();
        if let Some(fields) = self.known.lock().get(&shape) {
            return Arc::clone(fields);
        }
        let fields: Arc<str> = find().into();
        let mut known = self.known.lock();
        if known.len() >= SHAPES_MAX {
            known.clear();
        }
        known.insert(shape, Arc::clone(&fields));
        fields
    }
}

/// Takes all that counts of a place and of what is below it.
fn feed(state: &mut impl Hasher, typing: Typing, value: &Value) {
    state.write_u8(class(value));
    match (typing, value) {
        (Typing::Struct(_) | Typing::Map(_), Value::Object(members)) => {
            state.write_usize(members.len());
            for (name, value) in members {
                name.hash(state);
                feed(state, typing.at(name), value);
            }
        }
        (Typing::Set, Value::Array(list)) => {
            state.write_usize(list.len());
            list.iter().for_each(|value| identify(state, Some(value)));
        }
        (Typing::Keyed(_, keys), Value::Array(list)) => {
            state.write_usize(list.len());
            for element in list {
                keys.iter()
                    .for_each(|key| identify(state, element.get(key)));
                feed(state, typing.items(), element);
            }
        }
        (
            Typing::Leaf | Typing::Struct(_) | Typing::Map(_) | Typing::Set | Typing::Keyed(..),
            _,
        ) => {}
    }
}

/// Tells apart what a new object is compared with: a kind begins with nothing but empty values.
fn class(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(false) => 1,
        Value::Number(number) if number.as_f64() == Some(0.0) => 2,
        Value::String(text) if text.is_empty() => 3,
        Value::Array(list) if list.is_empty() => 4,
        Value::Object(members) if members.is_empty() => 5,
        Value::Bool(_) | Value::Number(_) | Value::String(_) => 6,
        Value::Array(_) => 7,
        Value::Object(_) => 8,
    }
}

/// Takes a value that tells an element of a list from the others.
fn identify(state: &mut impl Hasher, value: Option<&Value>) {
    match value {
        None => state.write_u8(0),
        Some(Value::Null) => state.write_u8(1),
        Some(Value::Bool(flag)) => state.write_u8(2 + u8::from(*flag)),
        Some(Value::Number(number)) => {
            state.write_u8(4);
            number.to_string().hash(state);
        }
        Some(Value::String(text)) => {
            state.write_u8(5);
            text.hash(state);
        }
        Some(Value::Array(_) | Value::Object(_)) => state.write_u8(6),
    }
}
