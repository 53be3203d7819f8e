//! One step of a path into an object, in the notation of `FieldsV1` and in that of messages.

use std::{borrow::Cow, cmp::Ordering, fmt};

use serde_json::{Map, Number, Value};

/// How much is quoted of what cannot be read.
const QUOTED_LETTERS_MAX: usize = 100;

/// One step of a path. Steps of one object or list are ordered by their variant first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathElement {
    /// A field of an object or an entry of a map.
    Field(Cow<'static, str>),
    /// The element of a list whose fields have these values. Invariant: sorted by name.
    Key(Vec<(Cow<'static, str>, Scalar)>),
    /// The element of a set.
    Value(Scalar),
    /// The element at a place.
    Index(usize),
}

/// A value that can identify an element of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scalar {
    Number(Numeral),
    Text(Box<str>),
    Bool(bool),
    /// Stands for everything that cannot identify an element.
    Null,
}

/// A number with a total order. Invariant: whole numbers that fit are `Whole`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numeral {
    Whole(i64),
    Real(f64),
}

/// A step that is not written as `FieldsV1` writes steps.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid path element `{0}`")]
pub(crate) struct InvalidElement(String);

impl InvalidElement {
    /// Quotes the beginning of what cannot be read.
    pub(crate) fn of(text: &str) -> InvalidElement {
        InvalidElement(text.chars().take(QUOTED_LETTERS_MAX).collect())
    }
}

impl PathElement {
    /// Reads a step; a kind of step that a later version may know is nothing.
    pub(crate) fn parse(text: &str) -> Result<Option<PathElement>, InvalidElement> {
        let invalid = || InvalidElement::of(text);
        let mut letters = text.chars();
        let (kind, colon) = (letters.next(), letters.next());
        if colon != Some(':') {
            return Err(invalid());
        }
        let rest = letters.as_str();
        match kind {
            Some('f') => Ok(Some(PathElement::Field(Cow::Owned(rest.to_owned())))),
            Some('v') => {
                let value: Value = serde_json::from_str(rest).map_err(|_| invalid())?;
                let value = Scalar::read(&value).ok_or_else(invalid)?;
                Ok(Some(PathElement::Value(value)))
            }
            Some('i') => Ok(Some(PathElement::Index(
                rest.parse().map_err(|_| invalid())?,
            ))),
            Some('k') => {
                let fields: Map<String, Value> =
                    serde_json::from_str(rest).map_err(|_| invalid())?;
                let field = |(name, value): (String, Value)| {
                    Some((Cow::Owned(name), Scalar::read(&value)?))
                };
                let key: Option<Vec<_>> = fields.into_iter().map(field).collect();
                let mut key = key.ok_or_else(invalid)?;
                key.sort();
                Ok(Some(PathElement::Key(key)))
            }
            _ => Ok(None),
        }
    }

    /// Writes the step as `FieldsV1` does.
    pub(crate) fn encode(&self) -> String {
        match self {
            PathElement::Field(name) => format!("f:{name}"),
            PathElement::Value(value) => format!("v:{value}"),
            PathElement::Index(index) => format!("i:{index}"),
            PathElement::Key(key) => {
                let mut text = String::from("k:{");
                for (place, (name, value)) in key.iter().enumerate() {
                    if place > 0 {
                        text.push(',');
                    }
                    text.push_str(&quoted(name));
                    text.push(':');
                    text.push_str(&value.to_string());
                }
                text.push('}');
                text
            }
        }
    }
}

/// Writes the step as messages do: `.name`, `[name="c"]`, `[="c"]`, `[3]`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Value(value) => write!(f, "[={value}]"),
            PathElement::Index(index) => write!(f, "[{index}]"),
            PathElement::Key(key) => {
                f.write_str("[")?;
                for (place, (name, value)) in key.iter().enumerate() {
                    let comma = if place > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
        }
    }
}

impl Scalar {
    /// Takes a value over, unless it is a list or an object.
    pub(crate) fn read(value: &Value) -> Option<Scalar> {
        match value {
            Value::Null => Some(Scalar::Null),
            Value::Bool(flag) => Some(Scalar::Bool(*flag)),
            Value::Number(number) => Some(Scalar::Number(Numeral::read(number))),
            Value::String(text) => Some(Scalar::Text(Box::from(text.as_str()))),
            Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// Writes the value as JSON does.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Null => f.write_str("null"),
            Scalar::Bool(flag) => write!(f, "{flag}"),
            Scalar::Number(Numeral::Whole(number)) => write!(f, "{number}"),
            Scalar::Number(Numeral::Real(number)) => write!(f, "{}", Value::from(*number)),
            Scalar::Text(text) => f.write_str(&quoted(text)),
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string always encodes")
}

impl Numeral {
    fn read(number: &Number) -> Numeral {
        if let Some(whole) = number.as_i64() {
            return Numeral::Whole(whole);
        }
        let real = number.as_f64().unwrap_or_default();
        // Below 2^53 every whole number has its own floating-point value.
        if real.trunc() == real && real.abs() < 9.0e15 {
            return Numeral::Whole(real as i64);
        }
        Numeral::Real(real)
    }

    fn rank(self) -> (f64, bool, i64) {
        match self {
            Numeral::Whole(whole) => (whole as f64, false, whole),
            Numeral::Real(real) => (real, true, 0),
        }
    }
}

impl Ord for Numeral {
    fn cmp(&self, other: &Numeral) -> Ordering {
        let ((a, kind, whole), (b, other_kind, other_whole)) = (self.rank(), other.rank());
        a.total_cmp(&b)
            .then(kind.cmp(&other_kind))
            .then(whole.cmp(&other_whole))
    }
}

impl PartialOrd for Numeral {
    fn partial_cmp(&self, other: &Numeral) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Numeral {
    fn eq(&self, other: &Numeral) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Numeral {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step must read and write itself unchanged, and look like this in messages.
    fn check(text: &str, shown: &str) {
        let element = PathElement::parse(text).expect("well-formed");
        let element = element.expect("a known kind of step");
        assert_eq!(element.encode(), text);
        assert_eq!(element.to_string(), shown);
    }

    #[test]
    fn steps_are_written_as_kubernetes_writes_them() {
        check("f:image", ".image");
        check("f:a.b/c", ".a.b/c");
        check(r#"k:{"name":"c"}"#, r#"[name="c"]"#);
        check(
            r#"k:{"containerPort":80,"protocol":"TCP"}"#,
            r#"[containerPort=80,protocol="TCP"]"#,
        );
        check(r#"v:"kubernetes""#, r#"[="kubernetes"]"#);
        check("v:1.5", "[=1.5]");
        check("v:true", "[=true]");
        check("i:3", "[3]");
    }

    #[test]
    fn unknown_kinds_are_skipped_and_nonsense_is_refused() {
        assert_eq!(PathElement::parse("z:1"), Ok(None));
        for text in [
            "",
            "f",
            "fx",
            "v:",
            "v:{}",
            "k:[]",
            "k:{\"a\":[]}",
            "i:x",
            "i:-1",
            "v:1 2",
        ] {
            assert!(PathElement::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_same_number_is_one_element() {
        let read = |text| PathElement::parse(text).expect("well-formed");
        assert_eq!(read("v:1"), read("v:1.0"));
        assert_ne!(read("v:9007199254740993"), read("v:9007199254740992"));
    }
}
