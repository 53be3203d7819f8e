//! Entries for random input, one for each reader of what clients send.
//!
//! Each takes any bytes, and panics only where this crate breaks one of its own promises. The
//! tests below run each of them, and `examples/fuzz.rs` runs one for as long as it is told to.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    decode,
    kinds::{KindInfo, served},
    managed_fields::{Contested, Writer},
    protobuf,
    quantity::Quantity,
    request::{Objects, Target},
    schema::{normalise, schema},
    selector::Selector,
    service::Content,
    verbs,
};

/// Where one part of an input ends and the next begins.
const SEPARATOR: u8 = b'\n';

/// What bodies in protobuf begin with: a mark, version and kind, the number of the object.
const ENVELOPE: &[u8] = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12";

/// What reads one input.
pub type Entry = fn(&[u8]);

/// Every entry by its name.
pub const TARGETS: &[(&str, Entry)] = &[
    ("apply", apply),
    ("patch", patch),
    ("protobuf", protobuf),
    ("quantity", quantity),
    ("selector", selector),
];

/// A label selector, a line break, a field selector.
pub fn selector(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (labels, fields) = text.split_once('\n').unwrap_or((&text, ""));
    let _ = Selector::parse(pod(), Some(labels), Some(fields));
}

/// A quantity: what can be read is written in a form that reads as the same amount.
pub fn quantity(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(quantity) = Quantity::parse(&text) {
        let canonical = quantity.to_string();
        let again = Quantity::parse(&canonical).expect("the canonical form is a quantity");
        assert_eq!(again.to_string(), canonical, "{text}");
    }
}

/// A pod in protobuf, as it comes and inside what Kubernetes sends around it.
pub fn protobuf(input: &[u8]) {
    let id = schema().type_id(pod().schema);
    // Seven bits to a byte, the lowest first, all but the last one marked.
    let (mut rest, mut length) = (input.len(), Vec::new());
    while rest >= 128 {
        length.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    length.push(rest as u8);
    for body in [input.to_vec(), [ENVELOPE, &length, input].concat()] {
        if let Ok(mut object) = protobuf::decode(id, &body) {
            let _ = normalise(id, &mut object);
        }
    }
}

/// A pod and a patch for it, in two lines; the first letter of the patch says of what sort it is.
pub fn patch(input: &[u8]) {
    let mut lines = input.splitn(2, |&byte| byte == SEPARATOR);
    let (object, patch) = (lines.next().unwrap_or_default(), lines.next());
    let Some((sort, patch)) = patch.and_then(<[u8]>::split_first) else {
        return;
    };
    let media = match sort {
        b'j' => "application/json-patch+json",
        b'm' => "application/merge-patch+json",
        _ => "application/strategic-merge-patch+json",
    };
    let content = Content {
        media: media.to_owned(),
        bytes: Bytes::copy_from_slice(patch),
    };
    let Some(outcome) = verbs::outcome(&target(), &object_of(object), &content) else {
        return;
    };
    let mut again = outcome.clone();
    normalise(schema().type_id(pod().schema), &mut again).expect("an outcome is of its type");
    assert_eq!(again, outcome, "an outcome is in its stored form");
}

/// A pod and two configurations for it, in three lines; they are applied in turn.
pub fn apply(input: &[u8]) {
    let mut lines = input.splitn(3, |&byte| byte == SEPARATOR);
    let mut line = || lines.next().unwrap_or_default();
    let mut live = object_of(line());
    writer("author").record(None, &mut live);
    let configs = [("a", read(line())), ("b", read(line()))];
    for (manager, config) in &configs {
        let _ = writer(manager).apply(Some(&live), config, Contested::Refused);
        let applied = writer(manager).apply(Some(&live), config, Contested::Taken);
        let Some(applied) = applied.ok().and_then(stored) else {
            continue;
        };
        let again = writer(manager).apply(Some(&applied), config, Contested::Refused);
        let again = again.expect("one's own fields are no conflict");
        // What is no value of its field, such as a null, is no field of the object either.
        assert_eq!(stored(again), Some(applied.clone()), "applied twice");
        live = applied;
    }
    let mut changed = object_of(input);
    writer("c").record(Some(&live), &mut changed);
}

fn pod() -> &'static KindInfo {
    served("v1", "Pod").expect("pods are served")
}

fn target() -> Objects {
    match Target::parse("/api/v1/namespaces/default/pods/p") {
        Ok(Target::Objects(objects)) => objects,
        other => unreachable!("the path is that of a pod: {other:?}"),
    }
}

fn writer(manager: &str) -> Writer<'_> {
    Writer {
        manager: manager.into(),
        info: pod(),
        subresource: None,
        now: Timestamp::UNIX_EPOCH,
        shapes: None,
    }
}

fn read(text: &[u8]) -> Value {
    let decoded = match text.first() {
        Some(b'{') => decode::json(text).ok(),
        _ => decode::yaml(text).ok(),
    };
    decoded.map_or(Value::Null, |decoded| decoded.value)
}

/// Reads a pod; one that cannot be read is a small one.
fn object_of(text: &[u8]) -> Value {
    let object = read(text);
    let object = Some(object).filter(Value::is_object).and_then(stored);
    object.unwrap_or_else(|| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}})
    })
}

/// Brings an object into its stored form, if it has one.
fn stored(mut object: Value) -> Option<Value> {
    normalise(schema().type_id(pod().schema), &mut object).ok()?;
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]["name"] = json!("p");
    object["metadata"]["namespace"] = json!("default");
    Some(object)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As many as a test may take, and more than enough to find what is easy to find.
    const CASES: u32 = 2000;

    /// Text in which the fields of pods are likely.
    fn document() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just(json!(null)),
            Just(json!("a")),
            Just(json!("b")),
            Just(json!(80)),
            Just(json!(true)),
            Just(json!({})),
            Just(json!([])),
            Just(json!("$patch")),
            Just(json!("replace")),
            Just(json!("delete")),
        ];
        let key = prop::sample::select(vec![
            "metadata",
            "labels",
            "annotations",
            "finalizers",
            "ownerReferences",
            "uid",
            "spec",
            "containers",
            "name",
            "image",
            "args",
            "ports",
            "containerPort",
            "protocol",
            "env",
            "volumes",
            "emptyDir",
            "tolerations",
            "nodeSelector",
            "status",
            "conditions",
            "type",
            "podIPs",
            "ip",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
            "managedFields",
            "manager",
            "operation",
            "apiVersion",
            "fieldsType",
            "fieldsV1",
            "f:spec",
            "k:{\"name\":\"a\"}",
            "v:1",
            "op",
            "path",
            "from",
            "value",
        ]);
        let tree = leaf.prop_recursive(6, 48, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..5).prop_map(|map| json!(map)),
            ]
        });
        tree.prop_map(|tree| tree.to_string())
    }

    /// A list of operations on a pod.
    fn operations() -> impl Strategy<Value = String> {
        let path = prop::sample::select(vec![
            "",
            "/spec",
            "/spec/containers",
            "/spec/containers/0",
            "/spec/containers/-",
            "/spec/containers/0/image",
            "/metadata/labels",
            "/metadata/labels/a~1b",
            "/status",
        ]);
        let verb = prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test"]);
        let value = document().prop_map(|text| serde_json::from_str::<Value>(&text).ok());
        let operation = (verb, path.clone(), path, value).prop_map(
            |(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}),
        );
        prop::collection::vec(operation, 0..6).prop_map(|list| Value::from(list).to_string())
    }

    fn whole_pod(part: &str) -> String {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p"}},"spec":{{"containers":[{{"name":"a","env":[]}},{part}]}}}}"#
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(CASES))]

        #[test]
        fn no_selector_breaks_its_reader(text in "[a-z0-9=!,()/. \\n-]{0,40}|.{0,20}") {
            selector(text.as_bytes());
        }

        #[test]
        fn no_quantity_breaks_its_reader(text in "[-+]?[0-9.]{0,20}([eE][-+]?[0-9]{0,4})?[a-zA-Z]{0,2}") {
            quantity(text.as_bytes());
        }

        #[test]
        fn no_patch_breaks_an_object(object in document(), change in document()) {
            for sort in ["m", "s", "j"] {
                patch(format!("{object}\n{sort}{change}").as_bytes());
                patch(format!("{}\n{sort}{change}", whole_pod(&object)).as_bytes());
            }
        }

        #[test]
        fn no_operations_break_an_object(object in document(), operations in operations()) {
            patch(format!("{object}\nj{operations}").as_bytes());
            patch(format!("x\nj{operations}").as_bytes());
        }

        #[test]
        fn no_configuration_breaks_an_object(a in document(), b in document(), c in document()) {
            apply(format!("{a}\n{b}\n{c}").as_bytes());
            apply(format!("{}\n{b}\n{c}", whole_pod(&a)).as_bytes());
            apply(format!("{a}\n{}\n{}", whole_pod(&b), whole_pod(&c)).as_bytes());
        }

        #[test]
        fn no_bytes_break_any_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (_, target) in TARGETS {
                target(&bytes);
            }
        }
    }
}
