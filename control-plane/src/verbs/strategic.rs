//! Strategic merge patches: like JSON merge patches, but lists merge by the keys of the schema.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::schema::{ListMerge, Shape, TypeId, schema};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ELEMENT_ORDER: &str = "$setElementOrder/";

/// A patch that makes no sense for the lists it names.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum StrategicError {
    /// An element of a keyed list does not say which one it is.
    #[error("map does not contain declared merge key: {0}")]
    MissingKey(&'static str),
    /// A `$patch` directive that does not exist.
    #[error("unknown patch type found in map: {0}")]
    UnknownDirective(String),
}

/// Applies `patch` to an object of a type.
pub(super) fn merge(id: TypeId, target: &mut Value, patch: &Value) -> Result<(), StrategicError> {
    match (target.as_object_mut(), patch.as_object()) {
        (Some(target), Some(patch)) => object(Some(id), target, patch),
        _ => {
            *target = patch.clone();
            Ok(())
        }
    }
}

fn object(
    id: Option<TypeId>,
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), StrategicError> {
    match directive(patch)? {
        Directive::Merge => (),
        Directive::Delete => {
            target.clear();
            return Ok(());
        }
        Directive::Replace => target.clear(),
    }
    if let Some(kept) = patch.get(RETAIN_KEYS).and_then(Value::as_array) {
        target.retain(|name, _| kept.iter().any(|kept| kept == name));
    }
    for (name, doomed) in parallel(patch, DELETE_FROM_PRIMITIVE_LIST) {
        if let Some(Value::Array(list)) = target.get_mut(name) {
            list.retain(|value| !doomed.contains(value));
        }
    }
    for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        let field = id.and_then(|id| schema().get(id).field(name));
        let merge = field.map_or(ListMerge::Replace, |field| field.merge);
        match value {
            Value::Null => drop(target.remove(name)),
            Value::Object(patch) => {
                let slot = target.entry(name.as_str()).or_insert(Value::Null);
                nested(field.map(|field| &field.shape), slot, patch)?;
            }
            Value::Array(patch) => {
                let slot = target.entry(name.as_str()).or_insert(Value::Null);
                list(field.map(|field| &field.shape), merge, slot, patch)?;
            }
            plain => drop(target.insert(name.clone(), plain.clone())),
        }
    }
    for (name, order) in parallel(patch, SET_ELEMENT_ORDER) {
        let merge = id
            .and_then(|id| schema().get(id).field(name))
            .map(|field| field.merge);
        if let (Some(merge), Some(Value::Array(list))) = (merge, target.get_mut(name)) {
            reorder(merge, list, order);
        }
    }
    Ok(())
}

/// Returns the directives of one sort: the field each is about, and its list.
fn parallel<'a>(
    patch: &'a Map<String, Value>,
    prefix: &'static str,
) -> impl Iterator<Item = (&'a str, &'a Vec<Value>)> {
    patch
        .iter()
        .filter_map(move |(name, list)| Some((name.strip_prefix(prefix)?, list.as_array()?)))
}

/// Merges into a field that holds an object; anything else there is replaced.
fn nested(
    shape: Option<&Shape>,
    slot: &mut Value,
    patch: &Map<String, Value>,
) -> Result<(), StrategicError> {
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    let id = match shape {
        Some(Shape::Object(id)) => Some(*id),
        _ => None,
    };
    match slot.as_object_mut() {
        Some(target) => object(id, target, patch),
        None => Ok(()),
    }
}

fn list(
    shape: Option<&Shape>,
    merge: ListMerge,
    slot: &mut Value,
    patch: &[Value],
) -> Result<(), StrategicError> {
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    let Some(target) = slot.as_array_mut() else {
        return Ok(());
    };
    match merge {
        ListMerge::Replace => {
            *target = patch.to_vec();
            Ok(())
        }
        ListMerge::Set => {
            let fresh: Vec<_> = patch
                .iter()
                .filter(|value| !target.contains(value))
                .collect();
            target.extend(fresh.into_iter().cloned());
            Ok(())
        }
        ListMerge::By(key) => keyed(shape, key, target, patch),
    }
}

fn keyed(
    shape: Option<&Shape>,
    key: &'static str,
    target: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), StrategicError> {
    let item = match shape {
        Some(Shape::List(item)) => Some(&**item),
        _ => None,
    };
    for element in patch {
        let Some(fields) = element.as_object() else {
            return Err(StrategicError::MissingKey(key));
        };
        let directive = directive(fields)?;
        let Some(name) = fields.get(key) else {
            // A lone `$patch: replace` empties the list before the other elements are added.
            if directive == Directive::Replace {
                target.clear();
                continue;
            }
            return Err(StrategicError::MissingKey(key));
        };
        let found = target
            .iter()
            .position(|element| element.get(key) == Some(name));
        match (directive, found) {
            (Directive::Delete, _) => target.retain(|element| element.get(key) != Some(name)),
            (_, Some(index)) => nested(item, &mut target[index], fields)?,
            (_, None) => {
                let mut fresh = Value::Null;
                nested(item, &mut fresh, fields)?;
                target.push(fresh);
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Directive, StrategicError> {
    match patch
        .get(PATCH)
        .map(|word| word.as_str().unwrap_or_default())
    {
        None | Some("merge") => Ok(Directive::Merge),
        Some("replace") => Ok(Directive::Replace),
        Some("delete") => Ok(Directive::Delete),
        Some(other) => Err(StrategicError::UnknownDirective(other.to_owned())),
    }
}

/// Sorts the listed elements as listed; others stay behind the one they followed.
fn reorder(merge: ListMerge, list: &mut [Value], order: &[Value]) {
    let place = |element: &Value| {
        let same = |wanted: &Value| match merge {
            ListMerge::By(key) => wanted.get(key) == element.get(key),
            ListMerge::Set | ListMerge::Replace => wanted == element,
        };
        order.iter().position(same)
    };
    let mut last = 0;
    let mut keys: Vec<usize> = Vec::with_capacity(list.len());
    for element in list.iter() {
        last = place(element).unwrap_or(last);
        keys.push(last);
    }
    let mut places: Vec<usize> = (0..list.len()).collect();
    places.sort_by_key(|&index| keys[index]);
    let sorted: Vec<Value> = places.into_iter().map(|index| list[index].take()).collect();
    list.iter_mut()
        .zip(sorted)
        .for_each(|(slot, value)| *slot = value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(mut target: Value, patch: Value, expected: Result<Value, StrategicError>) {
        let pod = schema().type_id("core.v1.Pod");
        let found = merge(pod, &mut target, &patch).map(|()| target);
        assert_eq!(found, expected);
    }

    #[test]
    fn lists_merge_by_their_key() {
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "y"}, {"name": "c"}]}}),
            Ok(json!({"spec": {"containers":
                [{"name": "a", "image": "y"}, {"name": "b"}, {"name": "c"}]}})),
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
            Err(StrategicError::MissingKey("name")),
        );
        check(
            json!({}),
            json!({"$patch": "explode"}),
            Err(StrategicError::UnknownDirective("explode".to_owned())),
        );
    }
}
