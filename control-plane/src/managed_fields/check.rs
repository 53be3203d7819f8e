//! Whether a configuration that is applied is of its type, worded as Kubernetes does.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{path::PathElement, typing::Typing};
use crate::{
    go_text,
    schema::{Field, ListType, Shape, TypeId, schema},
};

/// Errors beyond this number tell nobody more.
const ERRORS_MAX: usize = 100;

/// Checks a configuration; the error lists everything that is wrong with it.
pub(super) fn check(id: TypeId, config: &Value) -> Result<(), String> {
    let mut check = Check::default();
    check.object(id, config);
    match check.errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

#[derive(Default)]
struct Check {
    path: String,
    errors: Vec<String>,
}

impl Check {
    fn error(&mut self, message: &str) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(match self.path.as_str() {
                "" => message.to_owned(),
                path => format!("{path}: {message}"),
            });
        }
    }

    fn below(&mut self, element: &str, check: impl FnOnce(&mut Check)) {
        let length = self.path.len();
        self.path.push_str(element);
        check(self);
        self.path.truncate(length);
    }

    fn field(&mut self, field: &'static Field, value: &Value) {
        match (&field.shape, field.list_type()) {
            (Shape::List(_), ListType::Set | ListType::Map(_)) => self.elements(field, value),
            (shape, _) => self.value(shape, value),
        }
    }

    fn value(&mut self, shape: &'static Shape, value: &Value) {
        let scalar = !value.is_array() && !value.is_object();
        let expected = match shape {
            _ if value.is_null() => return,
            Shape::RawExtension | Shape::FieldsV1 => return,
            Shape::Object(id) => return self.object(*id, value),
            Shape::Map(item) => return self.map(item, value),
            Shape::List(item) => return self.list(item, value),
            Shape::String | Shape::Time | Shape::MicroTime | Shape::Bytes if value.is_string() => {
                return;
            }
            Shape::Boolean if value.is_boolean() => return,
            Shape::Int32 | Shape::Int64 if value.is_number() => return,
            Shape::Quantity | Shape::IntOrString if scalar => return,
            Shape::String | Shape::Time | Shape::MicroTime | Shape::Bytes => format!(
                "expected string, got &value.valueUnstructured{{Value:{}}}",
                go_text::syntax(value)
            ),
            Shape::Boolean => format!("expected boolean, got &{{{}}}", go_text::plain(value)),
            Shape::Int32 | Shape::Int64 => format!(
                "expected numeric (int or float), got {}",
                go_text::type_name(value)
            ),
            Shape::Quantity | Shape::IntOrString => {
                format!("expected any scalar, got &{{{}}}", go_text::plain(value))
            }
        };
        self.error(&expected);
    }

    fn object(&mut self, id: TypeId, value: &Value) {
        let Some(map) = self.map_or_error(value) else {
            return;
        };
        let fields = schema().get(id);
        for (name, value) in map {
            let element = format!(".{name}");
            match fields.field(name) {
                Some(field) => self.below(&element, |check| check.field(field, value)),
                None => {
                    return self.below(&element, |check| {
                        check.error("field not declared in schema");
                    });
                }
            }
        }
    }

    fn map(&mut self, item: &'static Shape, value: &Value) {
        for (name, value) in self.map_or_error(value).into_iter().flatten() {
            self.below(&format!(".{name}"), |check| check.value(item, value));
        }
    }

    fn map_or_error<'v>(&mut self, value: &'v Value) -> Option<&'v serde_json::Map<String, Value>> {
        if !value.is_object() && !value.is_null() {
            self.error(&format!("expected map, got &{{{}}}", go_text::plain(value)));
        }
        value.as_object()
    }

    fn list(&mut self, item: &'static Shape, value: &Value) {
        let Some(list) = value.as_array() else {
            return self.error(&format!(
                "expected list, got &{{{}}}",
                go_text::plain(value)
            ));
        };
        for (index, value) in list.iter().enumerate() {
            self.below(&format!("[{index}]"), |check| check.value(item, value));
        }
    }

    /// Checks a list whose elements are told apart by their keys or values.
    fn elements(&mut self, field: &'static Field, value: &Value) {
        if value.is_null() {
            return;
        }
        let (Some(list), Shape::List(item)) = (value.as_array(), &field.shape) else {
            return self.error(&format!(
                "expected list, got &{{{}}}",
                go_text::plain(value)
            ));
        };
        let typing = Typing::field(field);
        let mut seen = BTreeSet::new();
        for (index, value) in list.iter().enumerate() {
            let element = typing.element(value);
            if let Some(wrong) = cannot_be_told(field.list_type(), value, &element) {
                return self.error(&format!("element {index}: {wrong}"));
            }
            let shown = element.to_string();
            if !seen.insert(element) {
                self.error(&format!("duplicate entries for key {shown}"));
            }
            self.below(&shown, |check| check.value(item, value));
        }
    }
}

/// Says why an element cannot be told from others of its list.
fn cannot_be_told(list: &ListType, value: &Value, element: &PathElement) -> Option<String> {
    let why = match (list, value) {
        (ListType::Map(_), Value::Null) => "associative list with keys may not have a null element",
        (ListType::Map(keys), Value::Object(_)) => {
            let PathElement::Key(found) = element else {
                return None;
            };
            let keys: Vec<_> = keys.iter().map(|key| format!("{key:?}")).collect();
            return found.is_empty().then(|| {
                format!(
                    "associative list with keys has an element that omits all key fields [{}] \
                     (and doesn't have default values for any key fields)",
                    keys.join(" ")
                )
            });
        }
        (ListType::Map(_), _) => "associative list with keys may not have non-map elements",
        (_, Value::Object(_)) => "associative list without keys has an element that's a map type",
        (_, Value::Array(_)) => "not supported: associative list with lists as elements",
        (_, Value::Null) => "associative list without keys has an element that's an explicit null",
        _ => return None,
    };
    Some(why.to_owned())
}
