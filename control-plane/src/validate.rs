//! The checks of objects, worded as Kubernetes words them.

pub(crate) mod config;
pub(crate) mod pod;
mod pod_change;
pub(crate) mod small;

use serde_json::Value;

use crate::{invalid::Causes, kinds::KindInfo};

/// All annotations of an object together.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

const SUBDOMAIN_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
     alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character \
     (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
     characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
     '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

const QUALIFIED_MESSAGE: &str = "name part must consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
     '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of \
     alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
     character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

const PATH_SEGMENT_MESSAGE: &str = "may not be '.' or '..' and may not contain '/' or '%'";

/// How the names of a kind's objects are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// Labels with dots between them.
    Subdomain,
    /// One label.
    Label,
    /// Anything that can be one segment of a path.
    PathSegment,
}

/// Checks what all kinds have in common.
pub(crate) fn metadata(info: &KindInfo, object: &Value, causes: &mut Causes) {
    let metadata = &object["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    match (text("name"), text("generateName")) {
        ("", "") => causes.required("metadata.name", "name or generateName is required"),
        // A generated name does not exist yet when a manifest is checked without a server.
        ("", _) => (),
        (name, _) => check_name(info.name_rule, "metadata.name", name, causes),
    }
    if !text("namespace").is_empty() {
        check_name(
            NameRule::Label,
            "metadata.namespace",
            text("namespace"),
            causes,
        );
    }
    labels("metadata.labels", &metadata["labels"], causes);
    let mut bytes = 0;
    for (key, value) in entries(&metadata["annotations"]) {
        if !is_label_key(&key.to_lowercase()) {
            causes.invalid(
                "metadata.annotations",
                &Value::from(key.as_str()),
                QUALIFIED_MESSAGE,
            );
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        causes.too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX);
    }
    for (index, finalizer) in elements(&metadata["finalizers"]).enumerate() {
        if !finalizer.as_str().is_some_and(is_label_key) {
            causes.invalid(
                format!("metadata.finalizers[{index}]"),
                finalizer,
                QUALIFIED_MESSAGE,
            );
        }
    }
    owners(&metadata["ownerReferences"], causes);
}

fn owners(references: &Value, causes: &mut Causes) {
    for (index, owner) in elements(references).enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                let field = format!("metadata.ownerReferences[{index}].{field}");
                causes.required(field, "must not be empty");
            }
        }
    }
}

/// Checks what a change may not do to any object.
pub(crate) fn metadata_change(old: &Value, new: &Value, causes: &mut Causes) {
    if !old["metadata"]["deletionTimestamp"].is_string() {
        return;
    }
    let known: Vec<_> = elements(&old["metadata"]["finalizers"]).collect();
    if elements(&new["metadata"]["finalizers"]).any(|finalizer| !known.contains(&finalizer)) {
        causes.forbidden(
            "metadata.finalizers",
            "no new finalizers can be added if the object is being deleted",
        );
    }
}

/// Checks a map of labels.
pub(crate) fn labels(field: &str, labels: &Value, causes: &mut Causes) {
    for (key, value) in entries(labels) {
        if !is_label_key(key) {
            causes.invalid(field, &Value::from(key.as_str()), QUALIFIED_MESSAGE);
        }
        if !value.as_str().is_some_and(is_label_value) {
            causes.invalid(field, value, LABEL_VALUE_MESSAGE);
        }
    }
}

/// Checks a name and says what is wrong with it.
pub(crate) fn check_name(rule: NameRule, field: &str, name: &str, causes: &mut Causes) {
    let (valid, bytes_max, message) = match rule {
        NameRule::Subdomain => (is_subdomain(name), SUBDOMAIN_BYTES_MAX, SUBDOMAIN_MESSAGE),
        NameRule::Label => (is_dns_label(name), LABEL_BYTES_MAX, LABEL_MESSAGE),
        NameRule::PathSegment => (is_path_segment(name), usize::MAX, PATH_SEGMENT_MESSAGE),
    };
    let value = Value::from(name);
    if name.len() > bytes_max {
        causes.invalid(
            field,
            &value,
            &format!("must be no more than {bytes_max} bytes"),
        );
    } else if !valid {
        causes.invalid(field, &value, message);
    }
}

/// Says whether text is an RFC 1123 label in lower case.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= LABEL_BYTES_MAX && framed(text, letter, |byte| byte == b'-')
}

/// Says whether text is an RFC 1123 subdomain in lower case.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part = |part: &str| framed(part, letter, |byte| byte == b'-');
    text.len() <= SUBDOMAIN_BYTES_MAX && text.split('.').all(part)
}

/// Says whether text can stand in a path as one segment, as the names of roles do.
pub(crate) fn is_path_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains(['/', '%'])
}

/// Says whether text is a qualified name: an optional domain, a slash, a name.
pub(crate) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        None => is_label_name(text),
        Some((domain, name)) => is_subdomain(domain) && is_label_name(name),
    }
}

/// Says whether text can be the value of a label.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_name(text)
}

fn is_label_name(text: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'-' | b'_' | b'.');
    text.len() <= LABEL_BYTES_MAX && framed(text, |byte| byte.is_ascii_alphanumeric(), inner)
}

/// Says whether text begins and ends with a letter and has only letters and marks between.
fn framed(text: &str, letter: impl Fn(u8) -> bool, mark: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(|&byte| letter(byte)))
        && bytes.iter().all(|&byte| letter(byte) || mark(byte))
}

/// Returns the entries of a map that may be absent.
pub(crate) fn entries(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    map.as_object().into_iter().flatten()
}

/// Returns the elements of a list that may be absent.
pub(crate) fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rfc_1123() {
        for (text, label, subdomain) in [
            ("a", true, true),
            ("a-b", true, true),
            ("1", true, true),
            ("a.b", false, true),
            ("", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("A", false, false),
            ("a..b", false, false),
            ("a_b", false, false),
            ("ä", false, false),
        ] {
            assert_eq!(
                (is_dns_label(text), is_subdomain(text)),
                (label, subdomain),
                "{text}"
            );
        }
        assert!(!is_dns_label(&"a".repeat(64)) && is_dns_label(&"a".repeat(63)));
        assert!(!is_subdomain(&"a".repeat(254)) && is_subdomain(&"a".repeat(253)));
    }

    #[test]
    fn labels_are_qualified_names() {
        for (key, valid) in [
            ("app", true),
            ("a.b/C_d.e", true),
            ("a/b/c", false),
            ("/a", false),
            ("a/", false),
        ] {
            assert_eq!(is_label_key(key), valid, "{key}");
        }
        assert!(is_label_value("") && is_label_value("a_b.C") && !is_label_value("a b"));
    }
}
