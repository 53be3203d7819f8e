//! Merges a configuration into an object, and removes fields from one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    diff::{is_blank, list, object},
    path::PathElement,
    set::FieldSet,
    typing::Typing,
};
use crate::schema::TypeId;

/// Returns `object` with everything that `config` says; nothing is removed.
///
/// Elements of lists keep the order of the object, unless the configuration has another one.
pub(crate) fn merge(id: TypeId, object: &Value, config: &Value) -> Value {
    join(Typing::root(id), Some(object), Some(config)).unwrap_or(Value::Null)
}

/// Returns `object` without the fields and elements of a set.
///
/// An object or a list that loses all it has becomes null.
pub(crate) fn remove(id: TypeId, object: &Value, doomed: &FieldSet) -> Value {
    without(Typing::root(id), object, doomed)
}

fn join(typing: Typing, old: Option<&Value>, new: Option<&Value>) -> Option<Value> {
    if is_blank(old) && is_blank(new) {
        return new.or(old).cloned();
    }
    match typing {
        Typing::Leaf => new.or(old).cloned(),
        Typing::Struct(_) | Typing::Map(_) => {
            let (old, new) = (object(old), object(new));
            let mut out = Map::new();
            for (name, before) in old.into_iter().flatten() {
                let after = new.and_then(|new| new.get(name));
                let value = join(typing.member(name).0, Some(before), after);
                out.extend(value.map(|value| (name.clone(), value)));
            }
            for (name, after) in new.into_iter().flatten() {
                if !old.is_some_and(|old| old.contains_key(name)) {
                    let value = join(typing.member(name).0, None, Some(after));
                    out.extend(value.map(|value| (name.clone(), value)));
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        Typing::Set | Typing::Keyed(..) => {
            let out = interleave(typing, list(old), list(new));
            (!out.is_empty()).then_some(Value::Array(out))
        }
    }
}

/// One element of the two lists that are merged.
struct Slot<'a> {
    element: PathElement,
    value: &'a Value,
    /// Whether the other list has it too.
    shared: bool,
}

/// Merges two lists: those only in the old one stay where they are among their neighbours, and
/// those of the new one come in the order of the new one.
fn interleave(typing: Typing, old: &[Value], new: &[Value]) -> Vec<Value> {
    let mut by_element: BTreeMap<PathElement, (Vec<&Value>, Option<&Value>)> = BTreeMap::new();
    for value in old {
        by_element
            .entry(typing.element(value))
            .or_default()
            .0
            .push(value);
    }
    for value in new {
        by_element.entry(typing.element(value)).or_default().1 = Some(value);
    }
    let slot = |value, is_old: bool| {
        let element = typing.element(value);
        let shared = by_element
            .get(&element)
            .is_some_and(|(olds, new)| match is_old {
                true => new.is_some(),
                false => !olds.is_empty(),
            });
        Slot {
            element,
            value,
            shared,
        }
    };
    let olds: Vec<_> = old.iter().map(|value| slot(value, true)).collect();
    let news: Vec<_> = new.iter().map(|value| slot(value, false)).collect();
    let merged = |slot: &Slot<'_>| {
        let before = match by_element.get(&slot.element) {
            Some((olds, _)) if olds.len() == 1 => olds.first().copied(),
            // Elements that could not be told apart are not merged with, they are replaced.
            _ => None,
        };
        join(typing.items(), before, Some(slot.value))
    };
    let mut out = Vec::with_capacity(olds.len().max(news.len()));
    let (mut rest, mut ahead) = (olds.as_slice(), news.as_slice());
    while let [new, after_new @ ..] = ahead {
        let next_shared = ahead.iter().find(|new| new.shared);
        // Before the next shared element come those that stood before it and are only old.
        while let [old, after_old @ ..] = rest {
            if old.element == new.element {
                rest = after_old;
                break;
            }
            if old.shared {
                if next_shared.is_none_or(|next| next.element == old.element) {
                    break;
                }
            } else {
                out.extend(join(typing.items(), Some(old.value), None));
            }
            rest = after_old;
        }
        out.extend(merged(new));
        ahead = after_new;
    }
    let only_old = rest.iter().filter(|old| !old.shared);
    out.extend(only_old.filter_map(|old| join(typing.items(), Some(old.value), None)));
    out
}

fn without(typing: Typing, value: &Value, doomed: &FieldSet) -> Value {
    match (typing, value) {
        (Typing::Struct(_) | Typing::Map(_), Value::Object(map)) if !map.is_empty() => {
            let kept = |(name, value): (&String, &Value)| {
                let (below, element) = typing.member(name);
                if doomed.has(&element) {
                    return None;
                }
                Some((name.clone(), spared(below, &element, value, doomed)))
            };
            let out: Map<_, _> = map.iter().filter_map(kept).collect();
            if out.is_empty() {
                Value::Null
            } else {
                Value::Object(out)
            }
        }
        (Typing::Set | Typing::Keyed(..), Value::Array(list)) if !list.is_empty() => {
            let kept = |value: &Value| {
                let element = typing.element(value);
                (!doomed.has(&element)).then(|| spared(typing.items(), &element, value, doomed))
            };
            let out: Vec<_> = list.iter().filter_map(kept).collect();
            if out.is_empty() {
                Value::Null
            } else {
                Value::Array(out)
            }
        }
        (_, value) => value.clone(),
    }
}

fn spared(typing: Typing, element: &PathElement, value: &Value, doomed: &FieldSet) -> Value {
    match doomed.below(element) {
        Some(doomed) => without(typing, value, doomed),
        None => value.clone(),
    }
}
