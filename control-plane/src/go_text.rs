//! JSON values as Go prints them, for messages that Kubernetes puts together that way.

use serde_json::Value;

/// Longer texts are cut, so that a message cannot outgrow what it is about many times over.
const BYTES_MAX: usize = 4096;

/// Writes a value as `%v` does.
pub(crate) fn plain(value: &Value) -> String {
    let mut text = String::new();
    write_plain(value, &mut text);
    text
}

/// Writes a value as `%#v` does.
pub(crate) fn syntax(value: &Value) -> String {
    let mut text = String::new();
    write_syntax(value, &mut text);
    text
}

/// Returns the type that Go's decoder gives a value.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn write_plain(value: &Value, text: &mut String) {
    match value {
        _ if text.len() > BYTES_MAX => (),
        Value::Null => text.push_str("<nil>"),
        Value::String(string) => text.push_str(cut(string)),
        Value::Bool(_) | Value::Number(_) => text.push_str(&value.to_string()),
        Value::Array(list) => {
            text.push('[');
            for (place, value) in list.iter().enumerate() {
                text.push_str(if place > 0 { " " } else { "" });
                write_plain(value, text);
                if text.len() > BYTES_MAX {
                    break;
                }
            }
            text.push(']');
        }
        Value::Object(map) => {
            text.push_str("map[");
            for (place, (name, value)) in map.iter().enumerate() {
                text.push_str(if place > 0 { " " } else { "" });
                text.push_str(cut(name));
                text.push(':');
                write_plain(value, text);
                if text.len() > BYTES_MAX {
                    break;
                }
            }
            text.push(']');
        }
    }
}

fn write_syntax(value: &Value, text: &mut String) {
    match value {
        _ if text.len() > BYTES_MAX => (),
        Value::Null => text.push_str("interface {}(nil)"),
        Value::String(string) => text.push_str(&format!("{:?}", cut(string))),
        Value::Bool(_) | Value::Number(_) => text.push_str(&value.to_string()),
        Value::Array(list) => {
            text.push_str("[]interface {}{");
            for (place, value) in list.iter().enumerate() {
                text.push_str(if place > 0 { ", " } else { "" });
                write_syntax(value, text);
                if text.len() > BYTES_MAX {
                    break;
                }
            }
            text.push('}');
        }
        Value::Object(map) => {
            text.push_str("map[string]interface {}{");
            for (place, (name, value)) in map.iter().enumerate() {
                text.push_str(if place > 0 { ", " } else { "" });
                text.push_str(&format!("{:?}:", cut(name)));
                write_syntax(value, text);
                if text.len() > BYTES_MAX {
                    break;
                }
            }
            text.push('}');
        }
    }
}

fn cut(text: &str) -> &str {
    let end = text.floor_char_boundary(BYTES_MAX);
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_look_as_in_go() {
        let value = json!({"a": [1, "x", null], "b": {"c": true}});
        assert_eq!(plain(&value), "map[a:[1 x <nil>] b:map[c:true]]");
        assert_eq!(
            syntax(&value),
            "map[string]interface {}{\"a\":[]interface {}{1, \"x\", interface {}(nil)}, \
             \"b\":map[string]interface {}{\"c\":true}}"
        );
        assert_eq!(type_name(&json!(1.5)), "float64");
    }

    #[test]
    fn long_texts_are_cut() {
        let value = json!(vec!["x".repeat(100_000); 100]);
        assert!(plain(&value).len() < 10_000 && syntax(&value).len() < 10_000);
    }
}
