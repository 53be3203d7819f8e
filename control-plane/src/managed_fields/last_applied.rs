//! Objects that kubectl applied before the server could: the annotation it left in them.

use serde_json::Value;

use super::{
    diff::{diff, fields},
    set::FieldSet,
};
use crate::{
    kinds::KindInfo,
    schema::{normalise, schema},
    validate,
};

/// Only this manager's annotation counts.
pub(super) const MANAGER: &str = "kubectl";

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Returns the fields that kubectl applied and that still have the values it gave them.
pub(super) fn owned(info: &KindInfo, object: &Value) -> Option<FieldSet> {
    let id = schema().type_id(info.schema);
    let text = annotation(object)?;
    let mut applied: Value = serde_json::from_str(text).ok()?;
    if applied.get("apiVersion").and_then(Value::as_str) != Some(&info.api_version()) {
        return None;
    }
    normalise(id, &mut applied).ok()?;
    let diff = diff(id, &applied, object);
    let mut owned = fields(id, &applied);
    for changed in [&diff.modified, &diff.added, &diff.removed] {
        owned.subtract(changed);
    }
    Some(owned)
}

/// Writes what was applied into the annotation, if there is one and there is room.
pub(super) fn refresh(object: &mut Value, config: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = annotations(&mut config) {
        annotations.remove(ANNOTATION);
    }
    let Some(annotations) = annotations(object) else {
        return;
    };
    annotations.insert(ANNOTATION.to_owned(), Value::from(format!("{config}\n")));
    let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if annotations.iter().map(size).sum::<usize>() > validate::ANNOTATIONS_BYTES_MAX {
        annotations.remove(ANNOTATION);
    }
}

fn annotation(object: &Value) -> Option<&str> {
    let annotations = object.get("metadata")?.get("annotations")?;
    let text = annotations.get(ANNOTATION)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

fn annotations(object: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    object
        .get_mut("metadata")?
        .get_mut("annotations")?
        .as_object_mut()
}
