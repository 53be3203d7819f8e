//! Answers in YAML, made from JSON.

use bytes::Bytes;
use serde_json::Value;

/// Writes a whole document.
pub(crate) fn document(value: &Value) -> Bytes {
    Bytes::from(write(value))
}

/// Writes what comes before the elements of a list: an object and the name of one more field.
pub(super) fn list_head(object: &str, field: &str) -> String {
    let object: Value = serde_json::from_str(object).expect("the head of a list is JSON");
    format!("{}{field}:", write(&object))
}

/// Writes an element of a list, from the line end before it up to the one behind it.
pub(super) fn element(json: &[u8]) -> Bytes {
    let value: Value = serde_json::from_slice(json).expect("elements of a list are JSON");
    let text = write(&Value::Array(vec![value]));
    Bytes::from(format!("\n{}", text.trim_end_matches('\n')))
}

/// Strings that YAML 1.1 takes for something else are quoted, since clients read YAML that way.
fn write(value: &Value) -> String {
    // Folded and literal blocks would make trailing line ends matter to `element`.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(value, options)
        .expect("every JSON value can be written as YAML")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::decode;

    /// Any JSON that an object can hold, a few levels deep.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            prop::sample::select(vec!["yes", "0644", "1e3", "~", "- a", "a: b", "2020-01-01"])
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z/.-]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in any_json()) {
            let object = json!({"field": value});
            let text = document(&object);
            let read = decode::yaml(&text).expect("YAML");
            prop_assert_eq!(&read.value, &object, "{}", String::from_utf8_lossy(&text));
        }
    }

    #[test]
    fn a_list_is_put_together_from_its_elements() {
        let mut text = list_head(r#"{"kind":"PodList","metadata":{}}"#, "items").into_bytes();
        text.extend_from_slice(&element(br#"{"a":"1","b":["x\n"]}"#));
        text.extend_from_slice(&element(b"{}"));
        text.push(b'\n');
        let read = decode::yaml(&text).expect("YAML").value;
        let expected = json!({"kind": "PodList", "metadata": {},
            "items": [{"a": "1", "b": ["x\n"]}, {}]});
        assert_eq!(read, expected, "{}", String::from_utf8_lossy(&text));
    }
}
