//! The two forms beside each other: protobuf is read by messages written down here, after gnostic's
//! own description, and told again as JSON.

use prost::Message as _;
use serde_json::{Map, Value, json};

use super::{Coding, Form, document};

/// Declares messages with the fields that the document has of them.
macro_rules! messages {
    ($($name:ident { $($fields:tt)* })*) => {
        $(
            #[derive(Clone, PartialEq, prost::Message)]
            struct $name { $($fields)* }
        )*
    };
}

messages! {
    Document {
        #[prost(string, tag = "1")] swagger: String,
        #[prost(message, optional, tag = "2")] info: Option<Info>,
        #[prost(message, optional, tag = "8")] paths: Option<Paths>,
        #[prost(message, optional, tag = "9")] definitions: Option<Schemas>,
        #[prost(message, optional, tag = "10")] parameters: Option<Parameters>,
        #[prost(message, repeated, tag = "12")] security: Vec<Requirement>,
        #[prost(message, optional, tag = "13")] security_definitions: Option<Securities>,
    }
    Info {
        #[prost(string, tag = "1")] title: String,
        #[prost(string, tag = "2")] version: String,
    }
    Requirement {
        #[prost(message, repeated, tag = "1")] named: Vec<NamedTexts>,
    }
    NamedTexts {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] value: Option<Texts>,
    }
    Texts {
        #[prost(string, repeated, tag = "1")] value: Vec<String>,
    }
    Securities {
        #[prost(message, repeated, tag = "1")] named: Vec<NamedSecurity>,
    }
    NamedSecurity {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] value: Option<Security>,
    }
    Security {
        #[prost(message, optional, tag = "2")] api_key: Option<ApiKey>,
    }
    ApiKey {
        #[prost(string, tag = "1")] kind: String,
        #[prost(string, tag = "2")] name: String,
        #[prost(string, tag = "3")] place: String,
        #[prost(string, tag = "4")] description: String,
    }
    Paths {
        #[prost(message, repeated, tag = "2")] named: Vec<NamedItem>,
    }
    NamedItem {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] value: Option<Item>,
    }
    Item {
        #[prost(message, optional, tag = "2")] get: Option<Operation>,
        #[prost(message, optional, tag = "3")] put: Option<Operation>,
        #[prost(message, optional, tag = "4")] post: Option<Operation>,
        #[prost(message, optional, tag = "5")] delete: Option<Operation>,
        #[prost(message, optional, tag = "6")] options: Option<Operation>,
        #[prost(message, optional, tag = "7")] head: Option<Operation>,
        #[prost(message, optional, tag = "8")] patch: Option<Operation>,
        #[prost(message, repeated, tag = "9")] parameters: Vec<ParametersItem>,
    }
    Operation {
        #[prost(string, repeated, tag = "1")] tags: Vec<String>,
        #[prost(string, tag = "3")] description: String,
        #[prost(string, tag = "5")] operation_id: String,
        #[prost(string, repeated, tag = "6")] produces: Vec<String>,
        #[prost(string, repeated, tag = "7")] consumes: Vec<String>,
        #[prost(message, repeated, tag = "8")] parameters: Vec<ParametersItem>,
        #[prost(message, optional, tag = "9")] responses: Option<Responses>,
        #[prost(string, repeated, tag = "10")] schemes: Vec<String>,
        #[prost(message, repeated, tag = "13")] extensions: Vec<NamedAny>,
    }
    Responses {
        #[prost(message, repeated, tag = "1")] named: Vec<NamedResponse>,
    }
    NamedResponse {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] value: Option<ResponseValue>,
    }
    ResponseValue {
        #[prost(message, optional, tag = "1")] response: Option<Response>,
    }
    Response {
        #[prost(string, tag = "1")] description: String,
        #[prost(message, optional, tag = "2")] schema: Option<SchemaItem>,
    }
    SchemaItem {
        #[prost(message, optional, tag = "1")] schema: Option<Schema>,
    }
    Parameters {
        #[prost(message, repeated, tag = "1")] named: Vec<NamedParameter>,
    }
    NamedParameter {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] value: Option<Parameter>,
    }
    ParametersItem {
        #[prost(message, optional, tag = "1")] parameter: Option<Parameter>,
        #[prost(message, optional, tag = "2")] reference: Option<Reference>,
    }
    Reference {
        #[prost(string, tag = "1")] place: String,
    }
    Parameter {
        #[prost(message, optional, tag = "1")] body: Option<BodyParameter>,
        #[prost(message, optional, tag = "2")] other: Option<OtherParameter>,
    }
    BodyParameter {
        #[prost(string, tag = "2")] name: String,
        #[prost(string, tag = "3")] place: String,
        #[prost(bool, tag = "4")] required: bool,
        #[prost(message, optional, tag = "5")] schema: Option<Schema>,
    }
    OtherParameter {
        #[prost(message, optional, tag = "3")] query: Option<QueryParameter>,
        #[prost(message, optional, tag = "4")] path: Option<PathParameter>,
    }
    QueryParameter {
        #[prost(string, tag = "2")] place: String,
        #[prost(string, tag = "3")] description: String,
        #[prost(string, tag = "4")] name: String,
        #[prost(string, tag = "6")] kind: String,
        #[prost(bool, tag = "20")] unique_items: bool,
    }
    PathParameter {
        #[prost(bool, tag = "1")] required: bool,
        #[prost(string, tag = "2")] place: String,
        #[prost(string, tag = "3")] description: String,
        #[prost(string, tag = "4")] name: String,
        #[prost(string, tag = "5")] kind: String,
        #[prost(bool, tag = "19")] unique_items: bool,
    }
    Schemas {
        #[prost(message, repeated, tag = "1")] named: Vec<NamedSchema>,
    }
    NamedSchema {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] value: Option<Schema>,
    }
    Schema {
        #[prost(string, tag = "1")] place: String,
        #[prost(string, tag = "2")] format: String,
        #[prost(string, tag = "4")] description: String,
        #[prost(string, repeated, tag = "19")] required: Vec<String>,
        #[prost(message, optional, boxed, tag = "21")] additional: Option<Box<Additional>>,
        #[prost(message, optional, tag = "22")] kind: Option<Texts>,
        #[prost(message, optional, tag = "23")] items: Option<Items>,
        #[prost(message, optional, tag = "25")] properties: Option<Schemas>,
        #[prost(message, repeated, tag = "31")] extensions: Vec<NamedAny>,
    }
    Additional {
        #[prost(message, optional, boxed, tag = "1")] schema: Option<Box<Schema>>,
    }
    Items {
        #[prost(message, repeated, tag = "1")] schema: Vec<Schema>,
    }
    NamedAny {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] value: Option<Any>,
    }
    Any {
        #[prost(string, tag = "2")] yaml: String,
    }
}

/// Tells a message as the JSON that it stands for.
trait Told {
    fn told(&self) -> Value;
}

/// Tells fields; what is empty is not told.
fn object(fields: Vec<(&str, Value)>) -> Value {
    let empty = |value: &Value| {
        value.is_null() || *value == json!("") || *value == json!([]) || *value == json!(false)
    };
    let fields = fields.into_iter().filter(|(_, value)| !empty(value));
    Value::Object(
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

fn maybe(message: Option<&impl Told>) -> Value {
    message.map_or(Value::Null, Told::told)
}

fn all(messages: &[impl Told]) -> Value {
    messages.iter().map(Told::told).collect()
}

fn named<'a>(entries: impl Iterator<Item = (&'a String, Value)>) -> Value {
    let entries: Vec<_> = entries.collect();
    let count = entries.len();
    let map: Map<_, _> = entries
        .into_iter()
        .map(|(name, value)| (name.clone(), value))
        .collect();
    assert_eq!(map.len(), count, "every name stands once");
    Value::Object(map)
}

fn extended(mut told: Value, extensions: &[NamedAny]) -> Value {
    for extension in extensions {
        let yaml = &extension
            .value
            .as_ref()
            .expect("an extension has a value")
            .yaml;
        told[&extension.name] = serde_saphyr::from_str(yaml).expect("YAML");
    }
    told
}

impl Told for Document {
    fn told(&self) -> Value {
        let parameters = &self.parameters.as_ref().expect("parameters").named;
        let securities = &self
            .security_definitions
            .as_ref()
            .expect("securities")
            .named;
        let paths = &self.paths.as_ref().expect("paths").named;
        let texts = |one: &NamedTexts| json!(one.value.as_ref().expect("a value").value);
        object(vec![
            ("swagger", json!(self.swagger)),
            ("info", maybe(self.info.as_ref())),
            (
                "paths",
                named(
                    paths
                        .iter()
                        .map(|one| (&one.name, maybe(one.value.as_ref()))),
                ),
            ),
            ("definitions", maybe(self.definitions.as_ref())),
            (
                "parameters",
                named(
                    parameters
                        .iter()
                        .map(|one| (&one.name, maybe(one.value.as_ref()))),
                ),
            ),
            (
                "security",
                self.security
                    .iter()
                    .map(|one| named(one.named.iter().map(|one| (&one.name, texts(one)))))
                    .collect(),
            ),
            (
                "securityDefinitions",
                named(
                    securities
                        .iter()
                        .map(|one| (&one.name, maybe(one.value.as_ref()))),
                ),
            ),
        ])
    }
}

impl Told for Info {
    fn told(&self) -> Value {
        json!({"title": self.title, "version": self.version})
    }
}

impl Told for Security {
    fn told(&self) -> Value {
        let key = self.api_key.as_ref().expect("a key");
        json!({
            "type": key.kind,
            "name": key.name,
            "in": key.place,
            "description": key.description,
        })
    }
}

impl Told for Item {
    fn told(&self) -> Value {
        object(vec![
            ("get", maybe(self.get.as_ref())),
            ("put", maybe(self.put.as_ref())),
            ("post", maybe(self.post.as_ref())),
            ("delete", maybe(self.delete.as_ref())),
            ("options", maybe(self.options.as_ref())),
            ("head", maybe(self.head.as_ref())),
            ("patch", maybe(self.patch.as_ref())),
            ("parameters", all(&self.parameters)),
        ])
    }
}

impl Told for Operation {
    fn told(&self) -> Value {
        let responses = &self.responses.as_ref().expect("responses").named;
        let told = object(vec![
            ("tags", json!(self.tags)),
            ("description", json!(self.description)),
            ("operationId", json!(self.operation_id)),
            ("produces", json!(self.produces)),
            ("consumes", json!(self.consumes)),
            ("parameters", all(&self.parameters)),
            (
                "responses",
                named(
                    responses
                        .iter()
                        .map(|one| (&one.name, maybe(one.value.as_ref()))),
                ),
            ),
            ("schemes", json!(self.schemes)),
        ]);
        extended(told, &self.extensions)
    }
}

impl Told for ResponseValue {
    fn told(&self) -> Value {
        let response = self.response.as_ref().expect("an answer");
        let schema = response.schema.as_ref();
        object(vec![
            ("description", json!(response.description)),
            (
                "schema",
                maybe(schema.and_then(|item| item.schema.as_ref())),
            ),
        ])
    }
}

impl Told for ParametersItem {
    fn told(&self) -> Value {
        match &self.reference {
            Some(reference) => json!({"$ref": reference.place}),
            None => maybe(self.parameter.as_ref()),
        }
    }
}

impl Told for Parameter {
    fn told(&self) -> Value {
        let other = self.other.as_ref();
        let query = other.and_then(|other| other.query.as_ref());
        let path = other.and_then(|other| other.path.as_ref());
        match (&self.body, query, path) {
            (Some(body), None, None) => object(vec![
                ("name", json!(body.name)),
                ("in", json!(body.place)),
                ("required", json!(body.required)),
                ("schema", maybe(body.schema.as_ref())),
            ]),
            (None, Some(query), None) => object(vec![
                ("name", json!(query.name)),
                ("in", json!(query.place)),
                ("description", json!(query.description)),
                ("type", json!(query.kind)),
                ("uniqueItems", json!(query.unique_items)),
            ]),
            (None, None, Some(path)) => object(vec![
                ("name", json!(path.name)),
                ("in", json!(path.place)),
                ("required", json!(path.required)),
                ("description", json!(path.description)),
                ("type", json!(path.kind)),
                ("uniqueItems", json!(path.unique_items)),
            ]),
            _ => panic!("a parameter is one thing: {self:?}"),
        }
    }
}

impl Told for Schemas {
    fn told(&self) -> Value {
        named(
            self.named
                .iter()
                .map(|one| (&one.name, maybe(one.value.as_ref()))),
        )
    }
}

impl Told for Schema {
    fn told(&self) -> Value {
        let one = |items: &Items| match items.schema.as_slice() {
            [schema] => schema.told(),
            more => panic!("a list has one type: {more:?}"),
        };
        let kind = |texts: &Texts| json!(texts.value.concat());
        let additional = self.additional.as_ref();
        let told = object(vec![
            ("$ref", json!(self.place)),
            ("format", json!(self.format)),
            ("description", json!(self.description)),
            ("required", json!(self.required)),
            (
                "additionalProperties",
                maybe(additional.and_then(|one| one.schema.as_deref())),
            ),
            ("type", self.kind.as_ref().map_or(Value::Null, kind)),
            ("items", self.items.as_ref().map_or(Value::Null, one)),
            ("properties", maybe(self.properties.as_ref())),
        ]);
        extended(told, &self.extensions)
    }
}

fn json_form() -> Value {
    let bytes = document(Form::Json, Coding::Plain).bytes;
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Finds where two values differ first, since a whole document is no message to read.
fn difference(at: &str, one: &Value, other: &Value) -> Option<String> {
    match (one, other) {
        (Value::Object(map), Value::Object(others)) => {
            let names: std::collections::BTreeSet<_> = map.keys().chain(others.keys()).collect();
            names.into_iter().find_map(|name| {
                let value = |map: &Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                difference(&format!("{at}/{name}"), &value(map), &value(others))
            })
        }
        _ if one == other => None,
        _ => Some(format!("{at}: {one} and {other}")),
    }
}

#[test]
fn both_forms_say_the_same() {
    let bytes = document(Form::Protobuf, Coding::Plain).bytes;
    let read = Document::decode(bytes).expect("a message");
    assert_eq!(difference("", &json_form(), &read.told()), None);
}

/// A reference that leads nowhere makes clients reject the whole document.
#[test]
fn every_reference_leads_somewhere() {
    fn check(document: &Value, value: &Value) {
        if let Some(place) = value.get("$ref").and_then(Value::as_str) {
            let pointer = place.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{place}");
        }
        match value {
            Value::Object(map) => map.values().for_each(|value| check(document, value)),
            Value::Array(list) => list.iter().for_each(|value| check(document, value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
        }
    }
    let document = json_form();
    check(&document, &document);
}

#[test]
fn schemas_are_written_as_v2_has_them() {
    let document = json_form();
    let definition = |name: &str| document["definitions"][name].clone();
    let scalar = definition("io.k8s.apimachinery.pkg.util.intstr.IntOrString");
    assert_eq!(
        (&scalar["type"], &scalar["format"]),
        (&json!("string"), &json!("int-or-string"))
    );
    assert_eq!(
        definition("io.k8s.apimachinery.pkg.api.resource.Quantity")["type"],
        "string"
    );
    let pod = definition("io.k8s.api.core.v1.Pod");
    let kind = json!([{"group": "", "version": "v1", "kind": "Pod"}]);
    assert_eq!(pod["x-kubernetes-group-version-kind"], kind);
    // A reference with its description, which v3 wraps and gives an empty default.
    let spec = &pod["properties"]["spec"];
    assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    assert!(spec["description"].is_string());
    assert_eq!(spec.as_object().map(Map::len), Some(2));
    let ports = &definition("io.k8s.api.core.v1.Container")["properties"]["ports"];
    assert_eq!(
        ports["x-kubernetes-list-map-keys"],
        json!(["containerPort", "protocol"])
    );
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
}
