//! Strategic merge patches: like JSON merge patches, but lists merge by the keys of the schema.
//!
//! Directives in the patch say what a merge alone cannot: `$patch` replaces or deletes,
//! `$retainKeys` names the fields that stay, `$deleteFromPrimitiveList/LIST` takes values out of a
//! list, and `$setElementOrder/LIST` says in which order its elements end up.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    go_text,
    managed_fields::Scalar,
    schema::{Field, ListMerge, Shape, TypeId, schema},
};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

/// A patch that makes no sense, in Kubernetes' words.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum StrategicError {
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// An element of a keyed list does not say which one it is.
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: String, key: &'static str },
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective { directive: String, map: String },
    #[error("merging lists cannot yet be specified in the patch")]
    MergedList,
    #[error("list element types are not identical: {0}")]
    MixedList(String),
    #[error("expected a {expected}, but received a {found}")]
    WrongType {
        expected: &'static str,
        found: &'static str,
    },
    /// The patch's list contradicts the order that the patch asks for.
    #[error("The order in patch list:\n{list}\n doesn't match $setElementOrder list:\n{order}\n")]
    Order { list: String, order: String },
    #[error("cannot merge lists without merge key for {0}")]
    NoKeyDeclared(String),
}

/// Applies `patch` to an object of a type.
pub(super) fn merge(
    id: TypeId,
    target: Value,
    patch: &Map<String, Value>,
) -> Result<Value, StrategicError> {
    let target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    object(Some(id), target, patch).map(Value::Object)
}

/// Merges into an object; without a type its lists are replaced.
fn object(
    id: Option<TypeId>,
    mut target: Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, StrategicError> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                let mut whole = patch.clone();
                whole.remove(PATCH);
                Ok(whole)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(directive, patch)),
        };
    }
    retain_keys(&mut target, patch)?;
    let ordered = ordered_lists(id, &mut target, patch)?;
    for (key, value) in patch {
        if key == RETAIN_KEYS || key.starts_with(ELEMENT_ORDER) || ordered.contains(key.as_str()) {
            continue;
        }
        if key.starts_with(DELETE_FROM) {
            let name = list_name(key, DELETE_FROM).ok_or(StrategicError::PrimitiveList)?;
            delete_from(&mut target, name, value)?;
            continue;
        }
        if let Some(value) = merged(field(id, key), target.remove(key), value)? {
            target.insert(key.clone(), value);
        }
    }
    Ok(target)
}

/// Returns what a field becomes; nothing if it goes.
fn merged(
    field: Option<&'static Field>,
    old: Option<Value>,
    patch: &Value,
) -> Result<Option<Value>, StrategicError> {
    match (old, patch) {
        (_, Value::Null) => Ok(None),
        (Some(Value::Object(_)), Value::Object(_)) if replaces(field) => Ok(Some(patch.clone())),
        (Some(Value::Object(old)), Value::Object(patch)) => {
            let below = field.and_then(|field| type_of(&field.shape));
            object(below, old, patch).map(|merged| Some(Value::Object(merged)))
        }
        (Some(Value::Array(old)), Value::Array(patch)) => {
            list(field, old, patch).map(|merged| Some(Value::Array(merged)))
        }
        (_, patch) => Ok(cleaned(patch)),
    }
}

/// Leaves only the fields that the patch lists, if it does.
fn retain_keys(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), StrategicError> {
    let Some(kept) = patch.get(RETAIN_KEYS) else {
        return Ok(());
    };
    let kept = kept.as_array().ok_or(StrategicError::RetainKeys)?;
    let kept: BTreeSet<&str> = kept.iter().filter_map(Value::as_str).collect();
    for (name, value) in patch {
        let directive =
            name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(ELEMENT_ORDER);
        if !directive && !value.is_null() && !kept.contains(name.as_str()) {
            return Err(StrategicError::RetainKeys);
        }
    }
    target.retain(|name, _| kept.contains(name.as_str()));
    Ok(())
}

/// Merges the lists for which the patch gives an order, and returns their names.
fn ordered_lists<'p>(
    id: Option<TypeId>,
    target: &mut Map<String, Value>,
    patch: &'p Map<String, Value>,
) -> Result<BTreeSet<&'p str>, StrategicError> {
    let mut done = BTreeSet::new();
    for (directive, order) in patch
        .iter()
        .filter(|(key, _)| key.starts_with(ELEMENT_ORDER))
    {
        let name = list_name(directive, ELEMENT_ORDER).ok_or(StrategicError::SetElementOrder)?;
        let order = as_list(order)?;
        let field = field(id, name);
        let wanted = patch.get(name).map(as_list).transpose()?;
        check_order(field, wanted.unwrap_or_default(), order)?;
        let old = match target.remove(name) {
            Some(Value::Array(old)) => Some(old),
            Some(other) => return Err(wrong_type(&other)),
            None => None,
        };
        let before: Vec<_> = old
            .iter()
            .flatten()
            .map(|value| identity(field, value))
            .collect();
        let merged = match (old, wanted) {
            (None, None) => continue,
            (Some(old), None) => old,
            (Some(old), Some(wanted)) => list(field, old, wanted)?,
            (None, Some(wanted)) => wanted.iter().filter_map(cleaned).collect(),
        };
        let merged = arranged(field, merged, order, &before)?;
        target.insert(name.to_owned(), Value::Array(merged));
        done.insert(name);
    }
    Ok(done)
}

/// Checks that the elements of the patch come in the order that it asks for.
fn check_order(
    field: Option<&'static Field>,
    list: &[Value],
    order: &[Value],
) -> Result<(), StrategicError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for element in list.iter().filter(|element| element.get(PATCH).is_none()) {
        let wanted = keyed(field, element)?;
        let found = rest.any(|place| identity(field, place) == wanted);
        if !found {
            return Err(StrategicError::Order {
                list: go_text::plain(&Value::Array(list.to_vec())),
                order: go_text::plain(&Value::Array(order.to_vec())),
            });
        }
    }
    Ok(())
}

/// Takes values out of a list of scalars.
fn delete_from(
    target: &mut Map<String, Value>,
    name: &str,
    doomed: &Value,
) -> Result<(), StrategicError> {
    if doomed.is_null() {
        target.remove(name);
    }
    let (Some(Value::Array(list)), Value::Array(doomed)) = (target.get_mut(name), doomed) else {
        return Ok(());
    };
    if element_kind(list, doomed)? == Some(Kind::Map) {
        return Err(StrategicError::PrimitiveList);
    }
    let doomed: BTreeSet<_> = doomed.iter().map(|value| identity(None, value)).collect();
    list.retain(|value| !doomed.contains(&identity(None, value)));
    Ok(())
}

/// Merges a list, or replaces it where the schema says so.
fn list(
    field: Option<&'static Field>,
    old: Vec<Value>,
    patch: &[Value],
) -> Result<Vec<Value>, StrategicError> {
    let merge = field.map_or(ListMerge::Replace, |field| field.merge);
    if merge == ListMerge::Replace {
        return Ok(patch.to_vec());
    }
    match element_kind(&old, patch)? {
        None => Ok(old),
        Some(Kind::Scalar) => {
            let before: Vec<_> = old.iter().map(|value| identity(None, value)).collect();
            let mut seen = BTreeSet::new();
            let both = old.into_iter().chain(patch.iter().cloned());
            let both = both.filter(|value| seen.insert(identity(None, value)));
            arranged(None, both.collect(), patch, &before)
        }
        Some(Kind::Map) => elements(field, old, patch),
    }
}

/// Merges a list of objects by their key.
fn elements(
    field: Option<&'static Field>,
    mut old: Vec<Value>,
    patch: &[Value],
) -> Result<Vec<Value>, StrategicError> {
    let (Some(key), Some(field)) = (key_of(field), field) else {
        let name = field.map_or(String::new(), |field| field.name.to_owned());
        return Err(StrategicError::NoKeyDeclared(name));
    };
    let (mut wanted, mut doomed, mut replace) = (Vec::new(), BTreeSet::new(), false);
    for element in patch {
        let fields = element.as_object();
        match (element.get(PATCH), fields) {
            (None, _) => wanted.push(element.clone()),
            (Some(Value::String(word)), _) if word == "delete" => {
                doomed.insert(keyed(Some(field), element)?);
            }
            (Some(Value::String(word)), _) if word == "replace" => replace = true,
            (Some(Value::String(word)), _) if word == "merge" => {
                return Err(StrategicError::MergedList);
            }
            (Some(directive), Some(fields)) => return Err(unknown_directive(directive, fields)),
            (Some(_), None) => (),
        }
    }
    if replace {
        (old, wanted) = (wanted, Vec::new());
    }
    if !doomed.is_empty() && !replace {
        old.retain(|element| !doomed.contains(&identity(Some(field), element)));
    }
    let before: Vec<_> = old
        .iter()
        .map(|value| identity(Some(field), value))
        .collect();
    let mut places = BTreeMap::new();
    for (place, identity) in before.iter().enumerate() {
        // An element without its key is nobody's counterpart.
        if old
            .get(place)
            .is_some_and(|element| element.get(key).is_some())
        {
            places.entry(identity.clone()).or_insert(place);
        }
    }
    let below = match &field.shape {
        Shape::List(item) => type_of(item),
        _ => None,
    };
    for element in &wanted {
        let wanted = keyed(Some(field), element)?;
        let place = *places.entry(wanted).or_insert(old.len());
        match (old.get_mut(place), element) {
            (Some(slot @ Value::Object(_)), Value::Object(patch)) => {
                let Value::Object(before) = slot.take() else {
                    continue;
                };
                *slot = Value::Object(object(below, before, patch)?);
            }
            _ => old.push(element.clone()),
        }
    }
    arranged(Some(field), old, &wanted, &before)
}

/// Orders a merged list: the elements of `order` as there, the others where they were before
/// among their neighbours.
fn arranged(
    field: Option<&'static Field>,
    merged: Vec<Value>,
    order: &[Value],
    before: &[Scalar],
) -> Result<Vec<Value>, StrategicError> {
    let index = |identities: &mut dyn Iterator<Item = Scalar>| {
        let mut places = BTreeMap::new();
        for (place, identity) in identities.enumerate() {
            places.entry(identity).or_insert(place);
        }
        places
    };
    let wanted = index(&mut order.iter().map(|value| identity(field, value)));
    let before = index(&mut before.iter().cloned());
    let (mut listed, mut others) = (Vec::new(), Vec::new());
    for value in merged {
        let identity = keyed(field, &value)?;
        match wanted.get(&identity) {
            Some(&place) => listed.push((place, before.get(&identity).copied(), value)),
            None => others.push((before.get(&identity).copied(), value)),
        }
    }
    listed.sort_by_key(|(place, ..)| *place);
    others.sort_by_key(|(place, _)| *place);
    let mut out = Vec::with_capacity(listed.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, place, value) in listed {
        let earlier = |other: &(Option<usize>, Value)| match (other.0, place) {
            (Some(other), Some(place)) => other < place,
            _ => false,
        };
        while let Some((_, other)) = others.next_if(earlier) {
            out.push(other);
        }
        out.push(value);
    }
    out.extend(others.map(|(_, value)| value));
    Ok(out)
}

/// What the elements of a list are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    Map,
}

/// Returns what all elements of two lists are; nothing if there are none.
fn element_kind(a: &[Value], b: &[Value]) -> Result<Option<Kind>, StrategicError> {
    let mut types = a.iter().chain(b).map(go_text::type_name);
    let Some(first) = types.next() else {
        return Ok(None);
    };
    if first == "[]interface {}" {
        return Err(StrategicError::ListOfLists);
    }
    if types.any(|other| other != first) {
        let lists = Value::from(vec![Value::from(a.to_vec()), Value::from(b.to_vec())]);
        return Err(StrategicError::MixedList(go_text::plain(&lists)));
    }
    Ok(Some(match first {
        "map[string]interface {}" => Kind::Map,
        _ => Kind::Scalar,
    }))
}

/// Returns what a patch value becomes where nothing is yet: no nulls, no deleted parts.
fn cleaned(patch: &Value) -> Option<Value> {
    match patch {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            let kept = kept.filter_map(|(name, value)| Some((name.clone(), cleaned(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(list.iter().filter_map(cleaned).collect())),
        plain => Some(plain.clone()),
    }
}

/// Returns what tells an element from the others of its list.
fn identity(field: Option<&'static Field>, value: &Value) -> Scalar {
    let value = match (key_of(field), value) {
        (Some(key), Value::Object(map)) => map.get(key).unwrap_or(&Value::Null),
        (_, value) => value,
    };
    Scalar::read(value).unwrap_or(Scalar::Null)
}

/// Returns the same, and an error for an object that does not have it.
fn keyed(field: Option<&'static Field>, value: &Value) -> Result<Scalar, StrategicError> {
    match key_of(field) {
        Some(key) if value.is_object() && value.get(key).is_none() => {
            Err(StrategicError::NoMergeKey {
                map: go_text::plain(value),
                key,
            })
        }
        _ => Ok(identity(field, value)),
    }
}

fn key_of(field: Option<&'static Field>) -> Option<&'static str> {
    match field?.merge {
        ListMerge::By(key) => Some(key),
        ListMerge::Set | ListMerge::Replace => None,
    }
}

fn field(id: Option<TypeId>, name: &str) -> Option<&'static Field> {
    schema().get(id?).field(name)
}

fn type_of(shape: &Shape) -> Option<TypeId> {
    match shape {
        Shape::Object(id) => Some(*id),
        _ => None,
    }
}

/// Says whether a patch takes the place of an object as a whole.
fn replaces(field: Option<&Field>) -> bool {
    let strategies = field.and_then(|field| field.patch).unwrap_or_default();
    strategies.split(',').any(|strategy| strategy == "replace")
}

/// Returns the name of the list that a directive is about.
fn list_name<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    key.strip_prefix(prefix)?.strip_prefix('/')
}

fn as_list(value: &Value) -> Result<&[Value], StrategicError> {
    let list = value.as_array().ok_or_else(|| wrong_type(value))?;
    Ok(list)
}

fn wrong_type(found: &Value) -> StrategicError {
    StrategicError::WrongType {
        expected: "[]interface {}",
        found: go_text::type_name(found),
    }
}

fn unknown_directive(directive: &Value, map: &Map<String, Value>) -> StrategicError {
    StrategicError::UnknownDirective {
        directive: go_text::plain(directive),
        map: go_text::plain(&Value::Object(map.clone())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(target: Value, patch: Value, expected: Result<Value, StrategicError>) {
        let pod = schema().type_id("core.v1.Pod");
        let patch = patch.as_object().expect("a patch is an object");
        assert_eq!(merge(pod, target, patch), expected);
    }

    #[test]
    fn lists_merge_by_their_key() {
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "y"}, {"name": "c"}]}}),
            Ok(json!({"spec": {"containers":
                [{"name": "a", "image": "y"}, {"name": "c"}, {"name": "b"}]}})),
        );
        check(
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            Ok(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})),
        );
    }

    #[test]
    fn atomic_lists_and_sets_keep_their_rules() {
        check(
            json!({"metadata": {"finalizers": ["a"]}, "spec": {"tolerations": [{"key": "x"}]}}),
            json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"tolerations": [{"key": "y"}]}}),
            Ok(json!({"metadata": {"finalizers": ["a", "b"]},
                "spec": {"tolerations": [{"key": "y"}]}})),
        );
        check(
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
            Ok(json!({"metadata": {"finalizers": ["b"]}})),
        );
    }

    #[test]
    fn directives_delete_replace_retain_and_order() {
        let pod = || json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        check(
            pod(),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
            Ok(json!({"spec": {"containers": [{"name": "b"}]}})),
        );
        check(
            pod(),
            json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}}),
            Ok(json!({"spec": {"containers": [{"name": "c"}]}})),
        );
        check(
            pod(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            Ok(json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}})),
        );
        check(
            json!({"spec": {"nodeName": "n", "hostname": "h"}}),
            json!({"spec": {"$retainKeys": ["hostname"], "hostname": "i"}}),
            Ok(json!({"spec": {"hostname": "i"}})),
        );
        check(
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            Ok(json!({"metadata": {"labels": {"b": "2", "c": "3"}}})),
        );
    }

    #[test]
    fn an_element_without_its_key_is_refused() {
        check(
            json!({"spec": {"containers": []}}),
            json!({"spec": {"containers": [{"image": "x"}]}}),
            Err(StrategicError::NoMergeKey {
                map: "map[image:x]".to_owned(),
                key: "name",
            }),
        );
        check(
            json!({}),
            json!({"$patch": "explode"}),
            Err(StrategicError::UnknownDirective {
                directive: "explode".to_owned(),
                map: "map[$patch:explode]".to_owned(),
            }),
        );
    }
}
