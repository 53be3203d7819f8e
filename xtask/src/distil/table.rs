//! Writes the types of the documents as lines: one per type, one per field.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{VERSION, go::GoField, go::Sources};

const NOTICE: &str = "\
# Copyright The Kubernetes Authors, licensed under the Apache License, Version 2.0.
";

const FIELDS: &str = "\
# `[NAME]` opens a type, with its marks; then one line per field: name, type, protobuf number (behind
# those of the messages around it that JSON does not have), marks. `*`: empty is not absent. `!`: empty is
# written.
";

const DESCRIPTIONS: &str = "\
# `[NAME]` opens a type, with its description; then one line per field that has one.
";

/// The types taken so far, by their short names.
pub(super) struct Table {
    sources: Sources,
    types: BTreeMap<String, Text>,
}

/// The lines of a type in both files.
struct Text {
    fields: String,
    descriptions: String,
}

impl Table {
    pub(super) fn new(sources: Sources) -> Table {
        Table {
            sources,
            types: BTreeMap::new(),
        }
    }

    /// Takes a type, its list, and everything they name.
    pub(super) fn add(&mut self, schemas: &Value, root: &str) -> anyhow::Result<()> {
        let list = full(&format!("{root}List"));
        let mut open = vec![full(root)];
        open.extend(schemas.get(&list).map(|_| list));
        while let Some(name) = open.pop() {
            if !self.types.contains_key(short(&name)) {
                let schema = schemas.get(&name);
                let schema = schema.with_context(|| format!("no document has `{name}`"))?;
                let text = self.describe(&name, schema, &mut open);
                let text = text.with_context(|| format!("failed to distil `{name}`"))?;
                self.types.insert(short(&name).to_owned(), text);
            }
        }
        Ok(())
    }

    /// Returns the file of types and fields.
    pub(super) fn fields(&self) -> String {
        let types = self.types.values().map(|text| text.fields.as_str());
        file(FIELDS, types)
    }

    /// Returns the file of descriptions.
    pub(super) fn descriptions(&self) -> String {
        let types = self.types.values().map(|text| text.descriptions.as_str());
        file(DESCRIPTIONS, types)
    }

    fn describe(
        &mut self,
        name: &str,
        schema: &Value,
        open: &mut Vec<String>,
    ) -> anyhow::Result<Text> {
        let description = |schema: &Value| {
            let text = schema["description"].as_str();
            text.map(|text| text.replace('\\', "\\\\").replace('\n', "\\n"))
        };
        let short = short(name);
        let about = description(schema).unwrap_or_default();
        let mut text = Text {
            fields: String::new(),
            descriptions: format!("\n[{short}] {about}\n"),
        };
        if scalar(name).is_some() {
            return Ok(text);
        }
        let _ = writeln!(text.fields, "\n[{short}]{}", type_marks(schema));
        let Some(properties) = schema["properties"].as_object() else {
            return Ok(text);
        };
        let numbered = self.sources.fields(name)?;
        for (field, schema_of_field) in properties {
            let shape = type_of(schema_of_field, open);
            let go = numbered.get(field);
            let of_every_kind = matches!(field.as_str(), "kind" | "apiVersion");
            ensure!(go.is_some() || of_every_kind, "the sources lack `{field}`");
            let marks = [
                go.map(numbers).unwrap_or_default(),
                required(schema, field),
                field_marks(schema_of_field),
            ];
            let _ = writeln!(text.fields, "{field} {shape}{}", marks.concat());
            if let Some(about) = description(schema_of_field) {
                let _ = writeln!(text.descriptions, "{field} {about}");
            }
        }
        Ok(text)
    }
}

fn file<'a>(format: &str, types: impl Iterator<Item = &'a str>) -> String {
    let types: String = types.collect();
    [&title(), format, &types].concat()
}

/// Returns what every distilled file begins with.
pub(super) fn title() -> String {
    format!(
        "# Kubernetes {VERSION}, distilled by `cargo xtask distil`; not to be edited.\n{NOTICE}"
    )
}

fn numbers(field: &GoField) -> String {
    let path: Vec<_> = field.path.iter().map(u32::to_string).collect();
    let presence = match (field.pointer, field.omitted) {
        (true, _) => " *",
        (false, true) => "",
        (false, false) => " !",
    };
    format!(" #{}{presence}", path.join("."))
}

fn required(schema: &Value, field: &str) -> String {
    let required = schema["required"].as_array().into_iter().flatten();
    let required = required.filter(|&required| required == field).count() > 0;
    if required { " required" } else { "" }.to_owned()
}

fn type_marks(schema: &Value) -> String {
    let mut marks = String::new();
    if schema["x-kubernetes-map-type"] == "atomic" {
        marks.push_str(" atomic");
    }
    if let Some([kind]) = schema["x-kubernetes-group-version-kind"]
        .as_array()
        .map(Vec::as_slice)
    {
        let word = |name: &str| kind[name].as_str().unwrap_or_default();
        let (group, version, kind) = (word("group"), word("version"), word("kind"));
        let _ = write!(marks, " kind={group}/{version}/{kind}");
    }
    if let Some(unions) = schema.get("x-kubernetes-unions") {
        let _ = write!(marks, " unions={unions}");
    }
    marks
}

fn field_marks(field: &Value) -> String {
    let mut marks = String::new();
    if let Some(default) = field.get("default") {
        let _ = write!(marks, " default={default}");
    }
    if let Some(kind) = field["x-kubernetes-list-type"].as_str() {
        let keys = field["x-kubernetes-list-map-keys"].as_array();
        let keys = keys.into_iter().flatten().filter_map(Value::as_str);
        match keys.collect::<Vec<_>>().join(",").as_str() {
            "" => drop(write!(marks, " list={kind}")),
            keys => drop(write!(marks, " list={kind}:{keys}")),
        }
    }
    if let Some(kind) = field["x-kubernetes-map-type"].as_str() {
        let _ = write!(marks, " map={kind}");
    }
    if let Some(strategy) = field["x-kubernetes-patch-strategy"].as_str() {
        let _ = write!(marks, " patch={strategy}");
    }
    if let Some(key) = field["x-kubernetes-patch-merge-key"].as_str() {
        let _ = write!(marks, " key={key}");
    }
    marks
}

fn type_of(field: &Value, open: &mut Vec<String>) -> String {
    let reference = field["$ref"]
        .as_str()
        .or_else(|| field["allOf"][0]["$ref"].as_str());
    if let Some(reference) = reference {
        let name = reference.rsplit('/').next().unwrap_or_default();
        open.push(name.to_owned());
        return scalar(name).unwrap_or_else(|| short(name)).to_owned();
    }
    match (
        field["type"].as_str().unwrap_or_default(),
        field["format"].as_str(),
    ) {
        ("array", _) => format!("[]{}", type_of(&field["items"], open)),
        ("object", _) if field["additionalProperties"].is_object() => {
            format!("{{}}{}", type_of(&field["additionalProperties"], open))
        }
        ("string", Some("byte")) => "bytes".to_owned(),
        ("integer", Some(width)) => width.to_owned(),
        (plain, _) => plain.to_owned(),
    }
}

/// Types whose JSON is not an object with known fields.
fn scalar(name: &str) -> Option<&'static str> {
    Some(match short(name) {
        "meta.v1.Time" => "time",
        "meta.v1.MicroTime" => "microTime",
        "meta.v1.FieldsV1" => "fieldsV1",
        "meta.v1.Patch" => "patch",
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => "quantity",
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => "intOrString",
        "io.k8s.apimachinery.pkg.runtime.RawExtension" => "rawExtension",
        _ => return None,
    })
}

fn short(name: &str) -> &str {
    let name = name.strip_prefix("io.k8s.api.").unwrap_or(name);
    name.strip_prefix("io.k8s.apimachinery.pkg.apis.")
        .unwrap_or(name)
}

fn full(name: &str) -> String {
    let group = if name.starts_with("meta.") {
        "io.k8s.apimachinery.pkg.apis"
    } else {
        "io.k8s.api"
    };
    format!("{group}.{name}")
}
