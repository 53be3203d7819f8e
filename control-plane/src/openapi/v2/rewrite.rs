//! From v3 to v2: bodies become parameters, media types stand beside the operation, a schema may
//! have neither alternatives nor defaults.

use serde_json::{Map, Value, json};

use super::{super::types::PLACE, named::Named};

/// Where the document keeps its schemas.
const DEFINITIONS: &str = "#/definitions/";

/// Rewrites what can be done with a path.
pub(super) fn path(item: Value, named: &mut Named) -> Value {
    entries(item, |key, value| match key {
        "parameters" => Value::Array(parameters(value, None, named)),
        _ => operation(value, named),
    })
}

fn operation(mut operation: Value, named: &mut Named) -> Value {
    let body = operation["requestBody"].take();
    let own = operation["parameters"].take();
    let responses = operation["responses"].take();
    let produced = responses.as_object().into_iter().flat_map(Map::values);
    let produces: Vec<_> = produced
        .map(media)
        .find(|media| !media.is_empty())
        .unwrap_or_default();
    let consumes = match media(&body) {
        // The lists of resources are no verbs of anything, which is why they are told apart.
        _ if operation.get("x-kubernetes-action").is_none() => produces.clone(),
        media if media.is_empty() => vec!["*/*".to_owned()],
        media => media,
    };
    let parameters = parameters(own, body_parameter(&body), named);
    let mut rewritten = entries(operation, |_, value| value);
    if !parameters.is_empty() {
        rewritten["parameters"] = Value::Array(parameters);
    }
    rewritten["consumes"] = json!(consumes);
    rewritten["produces"] = json!(produces);
    rewritten["schemes"] = json!(["https"]);
    rewritten["responses"] = entries(responses, |_, answer| response(&answer));
    rewritten
}

/// Rewrites an answer; all its media types have the same schema.
fn response(answer: &Value) -> Value {
    let mut rewritten = json!({"description": answer["description"]});
    if let Some(found) = content(answer) {
        rewritten["schema"] = found;
    }
    rewritten
}

fn body_parameter(body: &Value) -> Option<Value> {
    let mut parameter = json!({"name": "body", "in": "body", "schema": content(body)?});
    if body["required"] == true {
        parameter["required"] = json!(true);
    }
    Some(parameter)
}

/// Rewrites parameters, sorted by name.
fn parameters(own: Value, body: Option<Value>, named: &mut Named) -> Vec<Value> {
    let Value::Array(own) = own else {
        return body.into_iter().map(|body| named.put(body)).collect();
    };
    let own = own.into_iter().map(|mut parameter| {
        let schema = parameter["schema"].take();
        let mut rewritten = entries(parameter, |_, value| value);
        for (key, value) in schema.as_object().into_iter().flatten() {
            rewritten[key] = value.clone();
        }
        rewritten
    });
    let mut all: Vec<_> = body.into_iter().chain(own).collect();
    all.sort_by_key(|parameter| parameter["name"].to_string());
    all.into_iter()
        .map(|parameter| named.put(parameter))
        .collect()
}

/// Returns the media types of a body or an answer.
fn media(part: &Value) -> Vec<String> {
    let content = part["content"].as_object().into_iter().flatten();
    content.map(|(media, _)| media.clone()).collect()
}

fn content(part: &Value) -> Option<Value> {
    let (_, first) = part["content"].as_object()?.iter().next()?;
    Some(schema(first["schema"].clone()))
}

/// Rewrites a schema and those inside it.
pub(super) fn schema(described: Value) -> Value {
    let either = described.get("oneOf").is_some();
    let mut rewritten = entries(described, |key, value| match key {
        "default" | "oneOf" => Value::Null,
        "$ref" => {
            let place = value.as_str().unwrap_or_default();
            Value::from(place.replacen(PLACE, DEFINITIONS, 1))
        }
        "items" | "additionalProperties" => schema(value),
        "properties" => entries(value, |_, property| schema(property)),
        // What v3 has to wrap: here a description may stand beside a reference.
        "allOf" => schema(value[0].clone()),
        _ => value,
    });
    if let Some(reference) = rewritten
        .as_object_mut()
        .and_then(|map| map.remove("allOf"))
    {
        rewritten["$ref"] = reference["$ref"].clone();
    }
    // Of several types it is the one that all their values can be written as.
    if either {
        rewritten["type"] = json!("string");
    }
    rewritten
}

/// Changes the entries of an object, and drops those that become null.
fn entries(object: Value, mut change: impl FnMut(&str, Value) -> Value) -> Value {
    let Value::Object(map) = object else {
        return object;
    };
    let entries = map
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| {
            let value = change(&key, value);
            (key, value)
        });
    Value::Object(entries.filter(|(_, value)| !value.is_null()).collect())
}
