//! The document as gnostic's protobuf messages.
//!
//! The numbers are those of `openapiv2/OpenAPIv2.proto` in `google/gnostic-models`. A message is
//! described by the JSON that it stands for; what the tables do not name is not written, and a test
//! reads a whole document back to see that nothing is lost.

use serde_json::{Map, Value, json};

use crate::{
    protobuf::wire::{delimited, number},
    view::yaml,
};

/// How a JSON value is written.
enum Form {
    Text,
    Truth,
    /// Each element of an array for itself.
    Each(&'static Form),
    /// A message with these fields, and one for each extension under a number of its own.
    Message(&'static [Field], Option<u32>),
    /// A message of `{name, value}`, one for each entry of an object.
    Entries(u32, &'static Form),
    /// A message that has nothing but the value.
    Around(u32, &'static Form),
    /// One of several messages, told apart by what they say.
    OneOf(fn(&Value) -> &'static Form),
    /// Any value, as YAML.
    Any,
}

/// The name in JSON, the number, and what the value is.
struct Field(&'static str, u32, &'static Form);

static TEXT: Form = Form::Text;
static TRUTH: Form = Form::Truth;
static TEXTS: Form = Form::Each(&TEXT);
static ANY: Form = Form::Any;

const DOCUMENT: &[Field] = &[
    Field("swagger", 1, &TEXT),
    Field("info", 2, &INFO),
    Field("paths", 8, &Form::Entries(2, &PATH_ITEM)),
    Field("definitions", 9, &SCHEMAS),
    Field("parameters", 10, &Form::Entries(1, &PARAMETER)),
    Field(
        "security",
        12,
        &Form::Each(&Form::Entries(1, &Form::Around(1, &TEXTS))),
    ),
    Field(
        "securityDefinitions",
        13,
        &Form::Entries(1, &Form::Around(2, &API_KEY)),
    ),
];

static INFO: Form = Form::Message(
    &[Field("title", 1, &TEXT), Field("version", 2, &TEXT)],
    None,
);

static API_KEY: Form = Form::Message(
    &[
        Field("type", 1, &TEXT),
        Field("name", 2, &TEXT),
        Field("in", 3, &TEXT),
        Field("description", 4, &TEXT),
    ],
    None,
);

static PATH_ITEM: Form = Form::Message(
    &[
        Field("get", 2, &OPERATION),
        Field("put", 3, &OPERATION),
        Field("post", 4, &OPERATION),
        Field("delete", 5, &OPERATION),
        Field("options", 6, &OPERATION),
        Field("head", 7, &OPERATION),
        Field("patch", 8, &OPERATION),
        Field("parameters", 9, &PARAMETERS),
    ],
    None,
);

static OPERATION: Form = Form::Message(
    &[
        Field("tags", 1, &TEXTS),
        Field("description", 3, &TEXT),
        Field("operationId", 5, &TEXT),
        Field("produces", 6, &TEXTS),
        Field("consumes", 7, &TEXTS),
        Field("parameters", 8, &PARAMETERS),
        Field(
            "responses",
            9,
            &Form::Entries(1, &Form::Around(1, &RESPONSE)),
        ),
        Field("schemes", 10, &TEXTS),
    ],
    Some(13),
);

static RESPONSE: Form = Form::Message(
    &[
        Field("description", 1, &TEXT),
        Field("schema", 2, &Form::Around(1, &SCHEMA)),
    ],
    None,
);

static PARAMETERS: Form = Form::Each(&Form::OneOf(|parameter| {
    static HERE: Form = Form::Around(1, &PARAMETER);
    static ELSEWHERE: Form = Form::Around(2, &REFERENCE);
    match parameter.get("$ref") {
        Some(_) => &ELSEWHERE,
        None => &HERE,
    }
}));

static REFERENCE: Form = Form::Message(&[Field("$ref", 1, &TEXT)], None);

static PARAMETER: Form = Form::OneOf(|parameter| {
    static IN_BODY: Form = Form::Around(1, &BODY);
    static IN_PATH: Form = Form::Around(2, &Form::Around(4, &PATH));
    static IN_QUERY: Form = Form::Around(2, &Form::Around(3, &QUERY));
    match parameter["in"].as_str() {
        Some("body") => &IN_BODY,
        Some("path") => &IN_PATH,
        _ => &IN_QUERY,
    }
});

static BODY: Form = Form::Message(
    &[
        Field("name", 2, &TEXT),
        Field("in", 3, &TEXT),
        Field("required", 4, &TRUTH),
        Field("schema", 5, &SCHEMA),
    ],
    None,
);

static PATH: Form = Form::Message(
    &[
        Field("required", 1, &TRUTH),
        Field("in", 2, &TEXT),
        Field("description", 3, &TEXT),
        Field("name", 4, &TEXT),
        Field("type", 5, &TEXT),
        Field("uniqueItems", 19, &TRUTH),
    ],
    None,
);

static QUERY: Form = Form::Message(
    &[
        Field("in", 2, &TEXT),
        Field("description", 3, &TEXT),
        Field("name", 4, &TEXT),
        Field("type", 6, &TEXT),
        Field("uniqueItems", 20, &TRUTH),
    ],
    None,
);

static SCHEMAS: Form = Form::Entries(1, &SCHEMA);

static SCHEMA: Form = Form::Message(
    &[
        Field("$ref", 1, &TEXT),
        Field("format", 2, &TEXT),
        Field("description", 4, &TEXT),
        Field("required", 19, &TEXTS),
        Field("additionalProperties", 21, &Form::Around(1, &SCHEMA)),
        Field("type", 22, &Form::Around(1, &TEXT)),
        Field("items", 23, &Form::Around(1, &SCHEMA)),
        Field("properties", 25, &SCHEMAS),
    ],
    Some(31),
);

/// Writes a field of the document.
pub(super) fn field(name: &str, value: &Value, out: &mut Vec<u8>) {
    if let Some(Field(_, number, form)) = find(name) {
        form.write(*number, value, out);
    }
}

/// Writes an entry, an object of its own, into a section of the document.
pub(super) fn entry(section: &str, entry: &Value, out: &mut Vec<u8>) {
    if let Some(Field(_, _, form)) = find(section) {
        form.write_inside(entry, out);
    }
}

/// Writes a section that has these entries.
pub(super) fn section(name: &str, entries: &[u8], out: &mut Vec<u8>) {
    if let Some(Field(_, number, _)) = find(name) {
        delimited(out, *number, entries);
    }
}

fn find(name: &str) -> Option<&'static Field> {
    DOCUMENT.iter().find(|field| field.0 == name)
}

impl Form {
    /// Writes a value as the field with a number.
    fn write(&self, field: u32, value: &Value, out: &mut Vec<u8>) {
        match (self, value) {
            (Form::Text, value) => {
                delimited(out, field, value.as_str().unwrap_or_default().as_bytes())
            }
            (Form::Truth, value) => number(out, field, u64::from(value == true)),
            (Form::Each(form), value) => {
                let items = value.as_array().into_iter().flatten();
                items.for_each(|item| form.write(field, item, out));
            }
            _ => {
                let mut inner = Vec::new();
                self.write_inside(value, &mut inner);
                delimited(out, field, &inner);
            }
        }
    }

    /// Writes what stands inside a message.
    fn write_inside(&self, value: &Value, out: &mut Vec<u8>) {
        let entries = || value.as_object().into_iter().flat_map(Map::iter);
        match self {
            Form::Message(fields, extensions) => {
                for Field(name, number, form) in *fields {
                    if let Some(value) = value.get(*name) {
                        form.write(*number, value, out);
                    }
                }
                for (name, value) in entries().filter(|(name, _)| name.starts_with("x-")) {
                    if let Some(number) = extensions {
                        let extension = json!({name: value});
                        Form::Entries(*number, &ANY).write_inside(&extension, out);
                    }
                }
            }
            Form::Entries(number, form) => {
                for (name, value) in entries() {
                    let mut entry = Vec::new();
                    delimited(&mut entry, 1, name.as_bytes());
                    form.write(2, value, &mut entry);
                    delimited(out, *number, &entry);
                }
            }
            Form::Around(number, form) => form.write(*number, value, out),
            Form::OneOf(choose) => choose(value).write_inside(value, out),
            Form::Any => delimited(out, 2, &yaml::document(value)),
            Form::Text | Form::Truth | Form::Each(_) => unreachable!("these are no messages"),
        }
    }
}
