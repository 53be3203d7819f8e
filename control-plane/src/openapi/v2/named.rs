//! The parameters that many operations share, each told once and named by its content.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde_json::{Value, json};

/// The shared parameters that have been met, by name.
#[derive(Debug, Default)]
pub(super) struct Named(BTreeMap<String, Value>);

impl Named {
    /// Returns a reference to the parameter if it is one of the shared ones, or the parameter.
    pub(super) fn put(&mut self, parameter: Value) -> Value {
        if !is_shared(&parameter) {
            return parameter;
        }
        let name = name(&parameter);
        let reference = json!({"$ref": format!("#/parameters/{name}")});
        self.0.insert(name, parameter);
        reference
    }

    /// Returns the parameters that references mean.
    pub(super) fn into_definitions(self) -> impl Iterator<Item = (String, Value)> {
        self.0.into_iter()
    }
}

/// Says whether a parameter is the same wherever it occurs.
fn is_shared(parameter: &Value) -> bool {
    let text = |pointer: &str| parameter.pointer(pointer).and_then(Value::as_str);
    match (text("/in"), text("/name")) {
        (Some("body"), _) => text("/schema/$ref")
            .is_some_and(|place| place.starts_with("#/definitions/io.k8s.apimachinery")),
        // Clients up to 1.27 look for these to find out what a server can do, and follow no
        // references.
        (Some("query"), Some("dryRun" | "fieldValidation")) => false,
        (_, name) => name != Some("name"),
    }
}

/// Names a parameter as Kubernetes does: with the beginning of a hash of its text.
fn name(parameter: &Value) -> String {
    let mut text = String::from("{");
    // The order is that of the fields in Go.
    for key in [
        "uniqueItems",
        "type",
        "description",
        "name",
        "in",
        "required",
        "schema",
    ] {
        if let Some(value) = parameter.get(key) {
            let comma = if text.len() > 1 { "," } else { "" };
            text.push_str(&format!("{comma}\"{key}\":{value}"));
        }
    }
    text.push('}');
    // Go's encoder writes for pages in HTML.
    let text = text
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    let hash = fnv(text.as_bytes()).to_be_bytes();
    let name = parameter["name"].as_str().unwrap_or_default();
    format!("{name}-{}", URL_SAFE.encode(&hash[..6]))
}

/// The hash of Fowler, Noll and Vo with 64 bits in its first form.
fn fnv(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(BASIS, |hash, byte| {
        hash.wrapping_mul(PRIME) ^ u64::from(*byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(parameter: &Value, expected: Option<&str>) {
        let mut shared = Named::default();
        let put = shared.put(parameter.clone());
        match expected {
            Some(name) => {
                assert_eq!(put, json!({"$ref": format!("#/parameters/{name}")}));
                let named: Vec<_> = shared.into_definitions().collect();
                assert_eq!(named, [(name.to_owned(), parameter.clone())]);
            }
            None => assert_eq!(put, *parameter),
        }
    }

    #[test]
    fn parameters_are_shared_and_named_as_by_a_stock_server() {
        let place = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
        let options = json!({"name": "body", "in": "body", "schema": {"$ref": place}});
        check(&options, Some("body-2Y1dVQaQ"));
        let namespace = json!({
            "uniqueItems": true,
            "type": "string",
            "description": "object name and auth scope, such as for teams and projects",
            "name": "namespace",
            "in": "path",
            "required": true,
        });
        check(&namespace, Some("namespace-vgWSWtn3"));
        let pod = json!({"$ref": "#/definitions/io.k8s.api.core.v1.Pod"});
        check(
            &json!({"name": "body", "in": "body", "required": true, "schema": pod}),
            None,
        );
        check(
            &json!({"name": "dryRun", "in": "query", "type": "string"}),
            None,
        );
        check(
            &json!({"name": "name", "in": "path", "type": "string"}),
            None,
        );
    }
}
