//! Distils the table of types from Kubernetes' OpenAPI v3 documents.
//!
//! `distil_schema FOLDER > control-plane/src/schema/kubernetes-1.36.txt`, where FOLDER holds the
//! documents of one Kubernetes version, named as its own repository names them.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use serde_json::Value;

/// Each document, and the types from which everything reachable is taken.
const ROOTS: &[(&str, &[&str])] = &[
    (
        "api__v1_openapi.json",
        &[
            "io.k8s.api.core.v1.Binding",
            "io.k8s.api.core.v1.ConfigMap",
            "io.k8s.api.core.v1.Endpoints",
            "io.k8s.api.core.v1.Event",
            "io.k8s.api.core.v1.LimitRange",
            "io.k8s.api.core.v1.Namespace",
            "io.k8s.api.core.v1.Node",
            "io.k8s.api.core.v1.Pod",
            "io.k8s.api.core.v1.ResourceQuota",
            "io.k8s.api.core.v1.Secret",
            "io.k8s.api.core.v1.Service",
            "io.k8s.api.core.v1.ServiceAccount",
            "io.k8s.api.authentication.v1.TokenRequest",
            "io.k8s.api.policy.v1.Eviction",
            "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
        ],
    ),
    (
        "apis__coordination.k8s.io__v1_openapi.json",
        &["io.k8s.api.coordination.v1.Lease"],
    ),
    (
        "apis__authentication.k8s.io__v1_openapi.json",
        &[
            "io.k8s.api.authentication.v1.SelfSubjectReview",
            "io.k8s.api.authentication.v1.TokenReview",
        ],
    ),
    (
        "apis__authorization.k8s.io__v1_openapi.json",
        &[
            "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
            "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
            "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
            "io.k8s.api.authorization.v1.SubjectAccessReview",
        ],
    ),
    (
        "apis__certificates.k8s.io__v1_openapi.json",
        &["io.k8s.api.certificates.v1.CertificateSigningRequest"],
    ),
    (
        "apis__discovery.k8s.io__v1_openapi.json",
        &["io.k8s.api.discovery.v1.EndpointSlice"],
    ),
    (
        "apis__events.k8s.io__v1_openapi.json",
        &["io.k8s.api.events.v1.Event"],
    ),
    (
        "apis__node.k8s.io__v1_openapi.json",
        &["io.k8s.api.node.v1.RuntimeClass"],
    ),
    (
        "apis__rbac.authorization.k8s.io__v1_openapi.json",
        &[
            "io.k8s.api.rbac.v1.ClusterRole",
            "io.k8s.api.rbac.v1.ClusterRoleBinding",
            "io.k8s.api.rbac.v1.Role",
            "io.k8s.api.rbac.v1.RoleBinding",
        ],
    ),
    (
        "apis__scheduling.k8s.io__v1_openapi.json",
        &["io.k8s.api.scheduling.v1.PriorityClass"],
    ),
];

const NOTICE: &str = "\
# Distilled from the OpenAPI v3 documents of Kubernetes 1.36 by examples/distil_schema.rs.
# Copyright The Kubernetes Authors, licensed under the Apache License, Version 2.0.
# `[NAME]` opens a type; then one line per field: name, type, marks.
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("usage: distil_schema FOLDER")?;
    let mut types = BTreeMap::new();
    for (file, roots) in ROOTS {
        let document: Value = serde_json::from_slice(&fs::read(Path::new(&folder).join(file))?)?;
        let schemas = document
            .pointer("/components/schemas")
            .ok_or("no schemas")?;
        let mut open: Vec<String> = roots.iter().map(|&root| root.to_owned()).collect();
        while let Some(name) = open.pop() {
            if types.contains_key(&short(&name)) || scalar(&name).is_some() {
                continue;
            }
            let (text, next) = describe(&schemas[name.as_str()]);
            types.insert(short(&name), text);
            open.extend(next);
        }
    }
    print!("{NOTICE}");
    types
        .iter()
        .for_each(|(name, fields)| print!("\n[{name}]\n{fields}"));
    Ok(())
}

/// Returns the lines of a type's fields, and the types they name.
fn describe(schema: &Value) -> (String, Vec<String>) {
    let (mut text, mut next) = (String::new(), Vec::new());
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let _ = write!(text, "{name} {}", type_of(field, &mut next));
        if required.iter().any(|required| required == name) {
            text.push_str(" required");
        }
        text.push_str(&marks(field));
        text.push('\n');
    }
    (text, next)
}

fn marks(field: &Value) -> String {
    let mut marks = String::new();
    match &field["default"] {
        Value::String(default) if !default.is_empty() => {
            let _ = write!(marks, " default={default}");
        }
        _ => (),
    }
    if let Some(keys) = field["x-kubernetes-list-map-keys"].as_array() {
        let keys: Vec<_> = keys.iter().filter_map(Value::as_str).collect();
        let _ = write!(marks, " keys={}", keys.join(","));
    }
    if field["x-kubernetes-list-type"] == "set" {
        marks.push_str(" set");
    }
    for strategy in field["x-kubernetes-patch-strategy"]
        .as_str()
        .unwrap_or("")
        .split(',')
    {
        match (strategy, field["x-kubernetes-patch-merge-key"].as_str()) {
            ("merge", Some(key)) => drop(write!(marks, " merge={key}")),
            ("", _) => (),
            (other, _) => drop(write!(marks, " {other}")),
        }
    }
    marks
}

fn type_of(field: &Value, next: &mut Vec<String>) -> String {
    let reference = field["$ref"]
        .as_str()
        .or_else(|| field["allOf"][0]["$ref"].as_str());
    if let Some(reference) = reference {
        let name = reference.rsplit('/').next().unwrap_or_default();
        next.push(name.to_owned());
        return scalar(name).map_or_else(|| short(name), str::to_owned);
    }
    match (
        field["type"].as_str().unwrap_or(""),
        field["format"].as_str(),
    ) {
        ("array", _) => format!("[]{}", type_of(&field["items"], next)),
        ("object", _) if field["additionalProperties"].is_object() => {
            format!("{{}}{}", type_of(&field["additionalProperties"], next))
        }
        ("string", Some("byte")) => "bytes".to_owned(),
        ("integer", Some(width)) => width.to_owned(),
        (plain, _) => plain.to_owned(),
    }
}

/// Types whose JSON is not an object with known fields.
fn scalar(name: &str) -> Option<&'static str> {
    Some(match short(name).as_str() {
        "meta.v1.Time" => "time",
        "meta.v1.MicroTime" => "microTime",
        "meta.v1.FieldsV1" => "object",
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => "quantity",
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => "intOrString",
        "io.k8s.apimachinery.pkg.runtime.RawExtension" => "object",
        _ => return None,
    })
}

fn short(name: &str) -> String {
    let name = name.strip_prefix("io.k8s.api.").unwrap_or(name);
    name.strip_prefix("io.k8s.apimachinery.pkg.apis.")
        .unwrap_or(name)
        .to_owned()
}
