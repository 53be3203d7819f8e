//! The schemas of types, with what Kubernetes adds to OpenAPI.

use std::{collections::HashMap, sync::OnceLock};

use serde_json::{Value, json};

use crate::{
    discovery::GroupVersion,
    schema::{DESCRIPTIONS, Field, ListType, MapType, Shape, Type, schema},
};

/// Where documents keep their schemas.
pub(super) const PLACE: &str = "#/components/schemas/";

/// Refers to a type by its name in the table.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{PLACE}{}", full(name))})
}

/// Describes a type by its full name, as the document of these versions does.
pub(super) fn describe(full_name: &str, within: &[GroupVersion]) -> Value {
    let name = short(full_name);
    let about = About::of(name);
    let mut described = match schema().find(name) {
        Some(id) => object(schema().get(id), &about),
        None => scalar(name),
    };
    if name == "meta.v1.DeleteOptions" {
        let kinds = described["x-kubernetes-group-version-kind"].as_array_mut();
        kinds
            .into_iter()
            .for_each(|kinds| kinds.extend(deletions(within)));
    }
    if let Some(text) = about.text() {
        described["description"] = Value::from(text);
    }
    described
}

/// Returns the other names of the options of a deletion: they are sent in the name of every version.
fn deletions(within: &[GroupVersion]) -> impl Iterator<Item = Value> {
    let mut others: Vec<_> = within
        .iter()
        .filter(|found| !found.group.is_empty())
        .collect();
    others.sort_by_key(|found| (found.group, found.version));
    others.into_iter().map(
        |found| json!({"group": found.group, "version": found.version, "kind": "DeleteOptions"}),
    )
}

fn object(found: &Type, about: &About) -> Value {
    let mut described = json!({"type": "object"});
    let mut required = Vec::new();
    let mut properties = json!({});
    for each in found.fields() {
        properties[each.name] = field(each, about.field(each.name));
        if each.required {
            required.push(each.name);
        }
    }
    if !found.fields().is_empty() {
        described["properties"] = properties;
    }
    if !required.is_empty() {
        described["required"] = json!(required);
    }
    if let Some(kind) = found.kind {
        let kind = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        described["x-kubernetes-group-version-kind"] = json!([kind]);
    }
    if found.map == MapType::Atomic {
        described["x-kubernetes-map-type"] = json!("atomic");
    }
    if let Some(unions) = found.unions {
        described["x-kubernetes-unions"] = json_of(unions);
    }
    described
}

fn field(field: &Field, about: Option<String>) -> Value {
    let mut described = shape(&field.shape);
    // Nothing may stand beside a reference, which is why it is wrapped if something does.
    if described.get("$ref").is_some() && (about.is_some() || field.default.is_some()) {
        described = json!({"allOf": [described]});
    }
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            described[name] = value;
        }
    };
    set("description", about.map(Value::from));
    set("default", field.default.map(json_of));
    set("x-kubernetes-patch-strategy", field.patch.map(Value::from));
    set(
        "x-kubernetes-patch-merge-key",
        field.patch_key.map(Value::from),
    );
    let (kind, keys) = match &field.list {
        None => (None, None),
        Some(ListType::Atomic) => (Some("atomic"), None),
        Some(ListType::Set) => (Some("set"), None),
        Some(ListType::Map(keys)) => (Some("map"), Some(json!(keys))),
    };
    set("x-kubernetes-list-type", kind.map(Value::from));
    set("x-kubernetes-list-map-keys", keys);
    let map = field.map.map(|map| match map {
        MapType::Atomic => json!("atomic"),
        MapType::Granular => json!("granular"),
    });
    set("x-kubernetes-map-type", map);
    described
}

fn shape(shape: &Shape) -> Value {
    match shape {
        Shape::String => json!({"type": "string"}),
        Shape::Boolean => json!({"type": "boolean"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Time => reference("meta.v1.Time"),
        Shape::MicroTime => reference("meta.v1.MicroTime"),
        Shape::FieldsV1 => reference("meta.v1.FieldsV1"),
        Shape::Quantity => reference("io.k8s.apimachinery.pkg.api.resource.Quantity"),
        Shape::IntOrString => reference("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
        Shape::RawExtension => reference("io.k8s.apimachinery.pkg.runtime.RawExtension"),
        Shape::Object(id) => reference(schema().get(*id).qualified),
        Shape::List(item) => json!({"type": "array", "items": self::shape(item)}),
        Shape::Map(item) => json!({"type": "object", "additionalProperties": self::shape(item)}),
    }
}

/// Describes the types whose JSON is not an object with known fields.
fn scalar(name: &str) -> Value {
    match name.rsplit('.').next().unwrap_or(name) {
        "Time" | "MicroTime" => json!({"type": "string", "format": "date-time"}),
        "Quantity" => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        "IntOrString" => json!({
            "format": "int-or-string",
            "oneOf": [{"type": "integer"}, {"type": "string"}],
        }),
        "FieldsV1" | "Patch" | "RawExtension" => json!({"type": "object"}),
        other => unreachable!("every type that documents name is distilled: {other}"),
    }
}

/// What the table of descriptions says about a type.
struct About(&'static str);

impl About {
    fn of(name: &str) -> About {
        static BLOCKS: OnceLock<HashMap<&'static str, &'static str>> = OnceLock::new();
        let blocks = BLOCKS.get_or_init(|| {
            let blocks = DESCRIPTIONS.split("\n\n[").skip(1);
            blocks.filter_map(|block| block.split_once(']')).collect()
        });
        About(blocks.get(name).copied().unwrap_or_default())
    }

    fn text(&self) -> Option<String> {
        let line = self.0.lines().next().unwrap_or_default().trim_start();
        (!line.is_empty()).then(|| unescape(line))
    }

    fn field(&self, name: &str) -> Option<String> {
        let mut lines = self.0.lines().skip(1);
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(unescape(line))
    }
}

/// Undoes what keeps a description on one line.
pub(super) fn unescape(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.push(match letters.next() {
                Some('n') => '\n',
                Some(other) => other,
                None => '\\',
            }),
            letter => text.push(letter),
        }
    }
    text
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("the table holds JSON")
}

fn full(name: &str) -> String {
    match name {
        name if name.starts_with("io.k8s.") => name.to_owned(),
        name if name.starts_with("meta.") => format!("io.k8s.apimachinery.pkg.apis.{name}"),
        name => format!("io.k8s.api.{name}"),
    }
}

fn short(name: &str) -> &str {
    let name = name.strip_prefix("io.k8s.api.").unwrap_or(name);
    name.strip_prefix("io.k8s.apimachinery.pkg.apis.")
        .unwrap_or(name)
}
