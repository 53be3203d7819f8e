//! JSON patches, with bounds on what a few operations can make of an object.

use json_patch::{AddOperation, PatchOperation, ReplaceOperation};
use serde_json::Value;

use crate::status::ApiError;

/// More operations in one patch are refused, as by the stock server.
const OPERATIONS_MAX: usize = 10_000;

/// How much all copies of one patch may add to an object: the stock server's limit.
const COPIED_BYTES_MAX: usize = 3 << 20;

/// As deep as the parser lets an object be that comes as a whole.
const DEPTH_MAX: usize = 128;

/// How many elements all operations together may push aside in lists: about a second of work.
const MOVED_ELEMENTS_MAX: usize = 100_000_000;

/// Refuses a patch with too many operations.
pub(super) fn check_count(operations: &[Value]) -> Result<(), ApiError> {
    let count = operations.len();
    if count > OPERATIONS_MAX {
        return Err(ApiError::entity_too_large(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}"
        )));
    }
    Ok(())
}

/// Applies the operations one after another.
pub(super) fn patch(mut object: Value, operations: &[Value]) -> Result<Value, ApiError> {
    let (mut copied, mut moved) = (0_usize, 0_usize);
    for operation in operations {
        // Kubernetes finds out about malformed operations when it comes to them.
        let operation: PatchOperation =
            serde_json::from_value(complete(operation)).map_err(|_| ApiError::patch_refused())?;
        let operation = lenient(&object, operation);
        let growth = Growth::of(&object, &operation);
        copied = copied.saturating_add(growth.copied);
        moved = moved.saturating_add(growth.moved);
        if copied > COPIED_BYTES_MAX || moved > MOVED_ELEMENTS_MAX || growth.depth > DEPTH_MAX {
            return Err(ApiError::patch_refused());
        }
        json_patch::patch_unsafe(&mut object, std::slice::from_ref(&operation))
            .map_err(|_| ApiError::patch_refused())?;
    }
    Ok(object)
}

/// Returns an operation with its value, which is null where it has none: the stock server's library
/// takes it for that.
fn complete(operation: &Value) -> Value {
    let mut operation = operation.clone();
    if let Some(fields) = operation.as_object_mut()
        && matches!(
            fields.get("op").and_then(Value::as_str),
            Some("add" | "replace" | "test")
        )
    {
        fields.entry("value").or_insert(Value::Null);
    }
    operation
}

/// Lets a field be replaced that is not there, as the stock server's library does.
fn lenient(object: &Value, operation: PatchOperation) -> PatchOperation {
    match operation {
        PatchOperation::Replace(ReplaceOperation { path, value })
            if object.pointer(path.as_str()).is_none()
                && path.parent().is_some_and(|parent| {
                    object
                        .pointer(parent.as_str())
                        .is_some_and(Value::is_object)
                }) =>
        {
            PatchOperation::Add(AddOperation { path, value })
        }
        operation => operation,
    }
}

/// What an operation does to the size of an object, before it is done.
#[derive(Debug, Default)]
struct Growth {
    copied: usize,
    moved: usize,
    depth: usize,
}

impl Growth {
    fn of(object: &Value, operation: &PatchOperation) -> Growth {
        let steps = |path: &json_patch::jsonptr::PointerBuf| path.tokens().count();
        let aside = |path: &json_patch::jsonptr::PointerBuf| {
            let parent = path
                .as_str()
                .rsplit_once('/')
                .map_or("", |(parent, _)| parent);
            let list = object.pointer(parent).and_then(Value::as_array);
            list.map_or(0, Vec::len)
        };
        let at = |path: &json_patch::jsonptr::PointerBuf| object.pointer(path.as_str());
        match operation {
            PatchOperation::Add(add) => Growth {
                moved: aside(&add.path),
                depth: steps(&add.path) + depth(&add.value),
                ..Growth::default()
            },
            PatchOperation::Replace(replace) => Growth {
                depth: steps(&replace.path) + depth(&replace.value),
                ..Growth::default()
            },
            PatchOperation::Remove(remove) => Growth {
                moved: aside(&remove.path),
                ..Growth::default()
            },
            PatchOperation::Move(op) => Growth {
                moved: aside(&op.path).saturating_add(aside(&op.from)),
                depth: steps(&op.path) + at(&op.from).map_or(0, depth),
                ..Growth::default()
            },
            PatchOperation::Copy(copy) => Growth {
                copied: at(&copy.from).map_or(0, size),
                moved: aside(&copy.path),
                depth: steps(&copy.path) + at(&copy.from).map_or(0, depth),
            },
            PatchOperation::Test(_) => Growth::default(),
        }
    }
}

/// Returns how deep a value is nested; recursion is bounded by the depth of what was parsed.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Returns about as many bytes as the value takes when it is written.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(list) => 2 + list.iter().map(|value| 1 + size(value)).sum::<usize>(),
        Value::Object(map) => {
            let entry = |(name, value): (&String, &Value)| name.len() + 4 + size(value);
            2 + map.iter().map(entry).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_that_is_missing_is_null() {
        let apply = |operations: Value| {
            let operations = operations.as_array().expect("a list").clone();
            patch(json!({"a": 1, "b": null}), &operations)
        };
        for (operation, expected) in [
            (
                json!({"op": "add", "path": "/c"}),
                json!({"a": 1, "b": null, "c": null}),
            ),
            (
                json!({"op": "replace", "path": "/a"}),
                json!({"a": null, "b": null}),
            ),
            (
                json!({"op": "test", "path": "/b"}),
                json!({"a": 1, "b": null}),
            ),
        ] {
            let patched = apply(json!([operation])).expect("applied");
            assert_eq!(patched, expected, "{operation}");
        }
        for operation in [
            json!({"op": "test", "path": "/a"}),
            json!({"op": "add"}),
            json!({"path": "/a"}),
            json!("add"),
        ] {
            assert!(apply(json!([operation])).is_err(), "{operation}");
        }
    }
}
