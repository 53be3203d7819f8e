//! Brings an object into its stored form: known fields only, types checked, defaults filled in.

use serde_json::{Map, Number, Value, map::Entry};

use super::{Field, Presence, Shape, TypeId, schema};
use crate::quantity;

/// How many defaults are filled in. One takes some hundred bytes of memory, and an element that
/// gets one two bytes of a body; the largest real objects have some thousand.
const FILLED_MAX: usize = 50_000;

/// What was found in an object that does not stop it from being decoded.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The paths of fields that do not exist.
    pub(crate) unknown: Vec<String>,
}

/// A value that is not of its field's type, as Kubernetes' decoder words it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TypeMismatch(String);

/// Checks `value` against a type: drops nulls and unknown fields, writes quantities in their
/// canonical form, leaves out empty values where they mean nothing and fills in the defaults of the
/// documents.
pub(crate) fn normalise(id: TypeId, value: &mut Value) -> Result<Findings, TypeMismatch> {
    let mut walk = Walk {
        path: String::new(),
        findings: Findings::default(),
        filled: 0,
    };
    walk.value(&Shape::Object(id), value, Place::default())?;
    Ok(walk.findings)
}

struct Walk {
    path: String,
    findings: Findings,
    /// How many defaults have been filled in.
    filled: usize,
}

/// The innermost object around a value, for messages.
#[derive(Clone, Copy, Default)]
struct Place {
    owner: &'static str,
}

impl Walk {
    fn value(&mut self, shape: &Shape, value: &mut Value, at: Place) -> Result<(), TypeMismatch> {
        match (shape, &mut *value) {
            (Shape::Object(id), Value::Object(map)) => return self.object(*id, map),
            (Shape::Map(item), Value::Object(map)) => return self.map(item, map, at),
            (Shape::List(item), Value::Array(list)) => return self.list(item, list, at),
            (Shape::FieldsV1 | Shape::RawExtension, _) => return Ok(()),
            (Shape::String, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) => return Ok(()),
            (Shape::IntOrString, Value::String(_)) => return Ok(()),
            (Shape::Int32 | Shape::IntOrString, Value::Number(number)) if fits_int32(number) => {
                return Ok(());
            }
            (Shape::Int64, Value::Number(number)) if number.is_i64() => return Ok(()),
            (Shape::Time | Shape::MicroTime, Value::String(text)) => return time(shape, text),
            (Shape::Bytes, Value::String(text)) => return bytes(text),
            (Shape::Quantity, Value::String(_) | Value::Number(_)) => return canonical(value),
            _ => (),
        }
        Err(self.mismatch(shape, value, at))
    }

    fn object(&mut self, id: TypeId, map: &mut Map<String, Value>) -> Result<(), TypeMismatch> {
        let fields = schema().get(id);
        let depth = self.path.len();
        let mut surplus = Vec::new();
        for (name, value) in map.iter_mut() {
            self.enter(name);
            match fields.field(name) {
                _ if value.is_null() => surplus.push(name.clone()),
                Some(field) => {
                    self.value(&field.shape, value, Place { owner: fields.name })?;
                    if field.means_nothing(value) {
                        surplus.push(name.clone());
                    }
                }
                None => {
                    self.findings.unknown.push(self.path.clone());
                    surplus.push(name.clone());
                }
            }
            self.path.truncate(depth);
        }
        surplus.iter().for_each(|name| drop(map.remove(name)));
        for field in fields.fields() {
            if let (Some(default), Entry::Vacant(absent)) = (&field.filled, map.entry(field.name)) {
                self.filled += 1;
                if self.filled > FILLED_MAX {
                    return Err(TypeMismatch("the object has too many elements".to_owned()));
                }
                let filled = absent.insert(default.clone());
                self.value(&field.shape, filled, Place { owner: fields.name })?;
            }
        }
        Ok(())
    }

    fn map(
        &mut self,
        item: &Shape,
        map: &mut Map<String, Value>,
        at: Place,
    ) -> Result<(), TypeMismatch> {
        let depth = self.path.len();
        for (name, value) in map.iter_mut() {
            // Go's decoder knows the places of fields, and the keys of a map are none.
            if matches!(item, Shape::Object(_)) {
                self.enter(name);
            }
            if value.is_null() {
                *value = empty(item);
            }
            self.value(item, value, at)?;
            self.path.truncate(depth);
        }
        Ok(())
    }

    fn list(&mut self, item: &Shape, list: &mut [Value], at: Place) -> Result<(), TypeMismatch> {
        let depth = self.path.len();
        for (index, value) in list.iter_mut().enumerate() {
            self.path.push_str(&format!("[{index}]"));
            if value.is_null() {
                *value = empty(item);
            }
            self.value(item, value, at)?;
            self.path.truncate(depth);
        }
        Ok(())
    }

    fn enter(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }

    fn mismatch(&self, shape: &Shape, value: &Value, at: Place) -> TypeMismatch {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if matches!(shape, Shape::Int32 | Shape::Int64) => {
                format!("number {number}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let (wanted, path) = (shape.go_name(), without_indices(&self.path));
        let owner = at.owner;
        TypeMismatch(format!(
            "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}"
        ))
    }
}

impl Field {
    /// Whether the stock server would leave this value out.
    pub(crate) fn means_nothing(&self, value: &Value) -> bool {
        let empty = match value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => {
                !matches!(self.shape, Shape::IntOrString) && number.as_i64() == Some(0)
            }
            Value::String(text) => !matches!(self.shape, Shape::IntOrString) && text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => matches!(self.shape, Shape::Map(_)) && map.is_empty(),
        };
        empty && self.presence == Presence::Omitted
    }
}

impl Shape {
    /// Writes a time as the stock server does.
    pub(crate) fn time(&self, time: jiff::Timestamp) -> String {
        match self {
            Shape::MicroTime => format!("{time:.6}"),
            _ => format!("{time:.0}"),
        }
    }
}

fn fits_int32(number: &Number) -> bool {
    let number = number.as_i64();
    number.is_some_and(|number| i32::try_from(number).is_ok())
}

/// What a null element counts as: the empty value of its type.
fn empty(shape: &Shape) -> Value {
    match shape {
        Shape::Boolean => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::IntOrString => Value::from(0),
        Shape::Object(_) | Shape::Map(_) => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Quantity => Value::from("0"),
        Shape::FieldsV1 | Shape::RawExtension => Value::Null,
        Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime => Value::from(""),
    }
}

fn without_indices(path: &str) -> String {
    let mut inside = false;
    let outside = |letter: &char| match letter {
        '[' => {
            inside = true;
            false
        }
        ']' => {
            inside = false;
            false
        }
        _ => !inside,
    };
    path.chars().filter(outside).collect()
}

fn time(shape: &Shape, text: &mut String) -> Result<(), TypeMismatch> {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => {
            *text = shape.time(time);
            Ok(())
        }
        Err(_) => Err(TypeMismatch(format!(
            "parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\" \
             as \"2006\""
        ))),
    }
}

fn bytes(text: &str) -> Result<(), TypeMismatch> {
    use base64::Engine as _;
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let offset = match error {
                base64::DecodeError::InvalidByte(offset, _) => offset,
                base64::DecodeError::InvalidLastSymbol(offset, _) => offset,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                    text.len()
                }
            };
            Err(TypeMismatch(format!(
                "illegal base64 data at input byte {offset}"
            )))
        }
    }
}

fn canonical(value: &mut Value) -> Result<(), TypeMismatch> {
    let text = match &*value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match quantity::Quantity::parse(&text) {
        Some(quantity) => {
            *value = Value::from(quantity.to_string());
            Ok(())
        }
        None => Err(TypeMismatch(quantity::FORMAT_MESSAGE.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(type_name: &str, mut input: Value, expected: Result<(Value, &[&str]), &str>) {
        let found = normalise(schema().type_id(type_name), &mut input);
        match (found, expected) {
            (Ok(found), Ok((output, unknown))) => {
                assert_eq!(input, output);
                assert_eq!(found.unknown, unknown);
            }
            (found, expected) => {
                assert_eq!(
                    found.expect_err("a mismatch").0,
                    expected.expect_err("no mismatch")
                );
            }
        }
    }

    #[test]
    fn unknown_fields_are_named_with_their_path_and_dropped() {
        check(
            "core.v1.PodSpec",
            json!({"containers": [{"name": "a", "imagee": "x"}], "nodeName": null}),
            Ok((
                json!({"containers": [{"name": "a", "resources": {}}]}),
                &["containers[0].imagee"],
            )),
        );
    }

    #[test]
    fn defaults_of_the_documents_are_filled_in() {
        check(
            "core.v1.Container",
            json!({"name": "a", "ports": [{"containerPort": 80}]}),
            Ok((
                json!({
                    "name": "a",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {},
                }),
                &[],
            )),
        );
        check(
            "core.v1.Service",
            json!({}),
            Ok((
                json!({"metadata": {}, "spec": {}, "status": {"loadBalancer": {}}}),
                &[],
            )),
        );
        check(
            "core.v1.FileKeySelector",
            json!({"path": "x"}),
            Ok((json!({"path": "x", "optional": false}), &[])),
        );
    }

    #[test]
    fn empty_values_are_left_out_where_they_mean_nothing() {
        check(
            "core.v1.PodSpec",
            json!({
                "automountServiceAccountToken": false,
                "hostNetwork": false,
                "nodeName": "",
                "nodeSelector": {},
                "priority": 0,
                "volumes": [{"name": "", "emptyDir": {}}],
                "tolerations": [],
            }),
            Ok((
                json!({
                    "automountServiceAccountToken": false,
                    "priority": 0,
                    "volumes": [{"name": "", "emptyDir": {}}],
                }),
                &[],
            )),
        );
    }

    #[test]
    fn times_are_stored_in_canonical_form() {
        let times = json!({"firstTimestamp": "2026-01-01T02:00:00.5+02:00", "eventTime": "2026-01-01T00:00:00Z"});
        let mut event = times;
        normalise(schema().type_id("core.v1.Event"), &mut event).expect("the times are times");
        assert_eq!(event["firstTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(event["eventTime"], "2026-01-01T00:00:00.000000Z");
    }

    #[test]
    fn a_wrong_type_is_worded_as_the_stock_decoder_does() {
        check(
            "core.v1.PodSpec",
            json!({"containers": "x"}),
            Err(
                "json: cannot unmarshal string into Go struct field PodSpec.containers of type \
                 []v1.Container",
            ),
        );
        check(
            "core.v1.PodSpec",
            json!({"containers": [{"name": 5}]}),
            Err(
                "json: cannot unmarshal number into Go struct field Container.containers.name of \
                 type string",
            ),
        );
        check(
            "core.v1.ContainerPort",
            json!({"containerPort": 3_000_000_000_u64}),
            Err(
                "json: cannot unmarshal number 3000000000 into Go struct field \
                 ContainerPort.containerPort of type int32",
            ),
        );
    }

    #[test]
    fn more_elements_than_any_real_object_has_are_refused() {
        let containers = vec![json!({}); FILLED_MAX + 1];
        check(
            "core.v1.PodSpec",
            json!({"containers": containers}),
            Err("the object has too many elements"),
        );
    }

    #[test]
    fn quantities_are_stored_in_canonical_form() {
        check(
            "core.v1.ResourceRequirements",
            json!({"limits": {"cpu": 0.5, "memory": "1024Mi"}}),
            Ok((json!({"limits": {"cpu": "500m", "memory": "1Gi"}}), &[])),
        );
        check(
            "core.v1.ResourceRequirements",
            json!({"limits": {"cpu": "much"}}),
            Err(quantity::FORMAT_MESSAGE),
        );
    }
}
