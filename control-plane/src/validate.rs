//! The checks of objects, worded as Kubernetes words them.

mod field;

pub(crate) mod config;
pub(crate) mod endpoints;
pub(crate) mod event;
pub(crate) mod limits;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod rbac;
pub(crate) mod service;
pub(crate) mod small;
pub(crate) mod storage;

use std::borrow::Cow;

use serde_json::Value;

use config::config_key_faults;
pub(crate) use field::{Field, cidr, walk};

use crate::{invalid::Causes, kinds::KindInfo};

/// All annotations of an object together.
pub(crate) const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

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

const LABEL_1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric \
     characters or '-', start with an alphabetic character, and end with an alphanumeric character \
     (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

const QUALIFIED_HINT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must \
     start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
     regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS \
     subdomain prefix and '/' (e.g. 'example.com/MyName')";

/// How the names of a kind's objects are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// Labels with dots between them.
    Subdomain,
    /// One label.
    Label,
    /// One label that does not begin with a digit.
    Label1035,
    /// Anything that can be one segment of a path.
    PathSegment,
}

/// Finalizers without a domain are Kubernetes' own.
const PLAIN_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

/// Checks what all kinds have in common.
pub(crate) fn metadata(info: &KindInfo, object: &Value, causes: &mut Causes) {
    walk(object, causes, |root| {
        let metadata = &root.child("metadata");
        let (name, base) = (metadata.child("name"), metadata.child("generateName"));
        if !base.is_empty() {
            generated(info.name_rule, &base);
        }
        match (name.is_empty(), base.is_empty()) {
            (true, true) => name.required("name or generateName is required"),
            // A generated name does not exist yet when a manifest is checked without a server.
            (true, false) => (),
            (false, _) => name.name(info.name_rule),
        }
        metadata.child("namespace").name_if_any(NameRule::Label);
        metadata.child("labels").labels();
        annotations(&metadata.child("annotations"));
        owners(&metadata.child("ownerReferences"));
        let finalizers = metadata.child("finalizers");
        for found in finalizers.items() {
            finalizer(&finalizers.with(found.value));
            plain_finalizer(&found);
        }
    });
}

/// A name is completed by letters, so a dash may stand at its end.
fn generated(rule: NameRule, base: &Field<'_, '_>) {
    let text = base.text();
    let masked = match text.strip_suffix('-') {
        Some(start) if !start.is_empty() => format!("{start}a"),
        _ => text.to_owned(),
    };
    for fault in name_faults(rule, &masked) {
        base.invalid(&fault);
    }
}

fn annotations(annotations: &Field<'_, '_>) {
    let mut bytes = 0;
    for (key, value) in annotations.entries() {
        // Kubernetes tolerates upper case in the domain here.
        for fault in qualified_faults(&key.to_lowercase()) {
            annotations.invalid_as(&Value::from(key), &fault);
        }
        bytes += key.len() + value.text().len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        annotations.too_long(ANNOTATIONS_BYTES_MAX);
    }
}

/// Checks the name of a finalizer.
pub(crate) fn finalizer(finalizer: &Field<'_, '_>) {
    finalizer.qualified();
}

fn plain_finalizer(finalizer: &Field<'_, '_>) {
    let text = finalizer.text();
    if !text.contains('/') && !PLAIN_FINALIZERS.contains(&text) {
        finalizer.invalid("name is neither a standard finalizer name nor is it fully qualified");
    }
}

fn owners(references: &Field<'_, '_>) {
    let mut controllers = Vec::new();
    for owner in references.items() {
        for (field, detail) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if owner.child(field).is_empty() {
                // The stock server does not say which one it is.
                let at = references.child(field);
                at.invalid_as(&Value::from(""), detail);
            }
        }
        let (version, kind) = (owner.child("apiVersion").text(), owner.child("kind").text());
        if (version, kind) == ("v1", "Event") {
            references.invalid_as(
                owner.value,
                "/v1, Kind=Event is disallowed from being an owner",
            );
        }
        if owner.child("controller").is_true() {
            controllers.push(format!("{kind}/{}", owner.child("name").text()));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        references.invalid(&format!(
            "Only one reference can have Controller set to true. Found \"true\" in references \
             for {first} and {second}"
        ));
    }
}

/// Checks what a change may not do to any object.
pub(crate) fn metadata_change(old: &Value, new: &Value, causes: &mut Causes) {
    if !old["metadata"]["deletionTimestamp"].is_string() {
        return;
    }
    let known: Vec<_> = elements(&old["metadata"]["finalizers"]).collect();
    let mut added: Vec<_> = elements(&new["metadata"]["finalizers"])
        .filter(|finalizer| !known.contains(finalizer))
        .map(Value::to_string)
        .collect();
    added.sort();
    if !added.is_empty() {
        let added = added.join(", ");
        causes.forbidden(
            "metadata.finalizers",
            &format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{added}}}"
            ),
        );
    }
}

/// Says everything that is wrong with a name.
pub(crate) fn name_faults(rule: NameRule, name: &str) -> Vec<Cow<'static, str>> {
    let (valid, bytes_max, message) = match rule {
        NameRule::Subdomain => (dotted(name), SUBDOMAIN_BYTES_MAX, SUBDOMAIN_MESSAGE),
        NameRule::Label if dotted(name) && name.contains('.') => {
            (false, LABEL_BYTES_MAX, "must not contain dots")
        }
        NameRule::Label => (lower_case(name), LABEL_BYTES_MAX, LABEL_MESSAGE),
        NameRule::Label1035 => {
            let valid = lower_case(name) && name.starts_with(|first: char| !first.is_ascii_digit());
            (valid, LABEL_BYTES_MAX, LABEL_1035_MESSAGE)
        }
        NameRule::PathSegment => return path_segment_faults(name),
    };
    let long = name.len() > bytes_max;
    let long = long.then(|| format!("must be no more than {bytes_max} bytes").into());
    long.into_iter()
        .chain((!valid).then(|| message.into()))
        .collect()
}

fn path_segment_faults(name: &str) -> Vec<Cow<'static, str>> {
    match name {
        "." | ".." => vec![format!("may not be '{name}'").into()],
        _ => ['/', '%']
            .iter()
            .filter(|letter| name.contains(**letter))
            .map(|letter| format!("may not contain '{letter}'").into())
            .collect(),
    }
}

/// Says everything that is wrong with a qualified name.
pub(crate) fn qualified_faults(text: &str) -> Vec<Cow<'static, str>> {
    let (prefix, name) = match text.split_once('/') {
        None => (None, text),
        Some((_, name)) if name.contains('/') => {
            return vec![format!("a valid label key {QUALIFIED_HINT}").into()];
        }
        Some((prefix, name)) => (Some(prefix), name),
    };
    let mut faults: Vec<Cow<'static, str>> = match prefix {
        None => Vec::new(),
        Some("") => vec!["prefix part must be non-empty".into()],
        Some(prefix) => {
            let faults = name_faults(NameRule::Subdomain, prefix).into_iter();
            faults
                .map(|fault| format!("prefix part {fault}").into())
                .collect()
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".into());
    } else if name.len() > LABEL_BYTES_MAX {
        faults.push(format!("name part must be no more than {LABEL_BYTES_MAX} bytes").into());
    }
    if !is_label_name_of_any_length(name) {
        faults.push(QUALIFIED_MESSAGE.into());
    }
    faults
}

/// Says everything that is wrong with the value of a label.
pub(crate) fn label_value_faults(text: &str) -> Vec<Cow<'static, str>> {
    let long = text.len() > LABEL_BYTES_MAX;
    let long = long.then(|| format!("must be no more than {LABEL_BYTES_MAX} bytes").into());
    let valid = text.is_empty() || is_label_name_of_any_length(text);
    long.into_iter()
        .chain((!valid).then(|| LABEL_VALUE_MESSAGE.into()))
        .collect()
}

/// Says whether text is an RFC 1123 subdomain in lower case.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_BYTES_MAX && dotted(text)
}

fn dotted(text: &str) -> bool {
    text.split('.').all(lower_case)
}

fn lower_case(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    framed(text, letter, |byte| byte == b'-')
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
    text.len() <= LABEL_BYTES_MAX && is_label_name_of_any_length(text)
}

fn is_label_name_of_any_length(text: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'-' | b'_' | b'.');
    framed(text, |byte| byte.is_ascii_alphanumeric(), inner)
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
    fn names_follow_rfc_1123_and_1035() {
        for (text, faults) in [
            ("a", [0, 0, 0, 0]),
            ("a-b", [0, 0, 0, 0]),
            ("1", [0, 0, 1, 0]),
            ("a.b", [1, 0, 1, 0]),
            ("", [1, 1, 1, 0]),
            ("-a", [1, 1, 1, 0]),
            ("a-", [1, 1, 1, 0]),
            ("A", [1, 1, 1, 0]),
            ("a..b", [1, 1, 1, 0]),
            ("a_b", [1, 1, 1, 0]),
            ("ä", [1, 1, 1, 0]),
            ("a/b", [1, 1, 1, 1]),
            ("..", [1, 1, 1, 1]),
            ("a:b", [1, 1, 1, 0]),
            (&"a".repeat(64), [1, 0, 1, 0]),
            (&"a".repeat(254), [1, 1, 1, 0]),
        ] {
            let rules = [
                NameRule::Label,
                NameRule::Subdomain,
                NameRule::Label1035,
                NameRule::PathSegment,
            ];
            let found = rules.map(|rule| name_faults(rule, text).len());
            assert_eq!(found, faults, "{text}");
        }
    }

    #[test]
    fn faults_of_names_are_worded_as_by_kubernetes() {
        let dots = name_faults(NameRule::Label, "a.b");
        assert_eq!(dots, ["must not contain dots"]);
        let long = name_faults(NameRule::Label, &"a".repeat(64));
        assert_eq!(long, ["must be no more than 63 bytes"]);
        let segment = name_faults(NameRule::PathSegment, "a%b");
        assert_eq!(segment, ["may not contain '%'"]);
        let prefix = qualified_faults("/a");
        assert_eq!(prefix, ["prefix part must be non-empty"]);
        let nothing = qualified_faults("a/");
        assert_eq!(nothing, ["name part must be non-empty", QUALIFIED_MESSAGE]);
    }

    #[test]
    fn what_all_kinds_have_is_checked() {
        let check = |metadata: Value, expected: &[&str]| {
            let info = crate::kinds::served("v1", "ConfigMap").expect("served");
            let mut causes = Causes::default();
            super::metadata(
                info,
                &serde_json::json!({"metadata": metadata}),
                &mut causes,
            );
            let found: Vec<_> = causes
                .into_vec()
                .iter()
                .map(|cause| cause.sentence())
                .collect();
            assert_eq!(found, expected, "{metadata}");
        };
        use serde_json::json;
        check(
            json!({"generateName": "a-", "finalizers": ["orphan", "a.b/c"]}),
            &[],
        );
        check(
            json!({}),
            &["metadata.name: Required value: name or generateName is required"],
        );
        check(
            json!({"name": "a", "finalizers": ["mine"]}),
            &[
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard \
               finalizer name nor is it fully qualified",
            ],
        );
        let owner = |name: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u",
                "controller": true})
        };
        check(json!({"name": "a", "ownerReferences": [owner("o")]}), &[]);
        check(
            json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod",
                "name": "o"}]}),
            &["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
        );
        let mut causes = Causes::default();
        let deleted = json!({"metadata": {"deletionTimestamp": "x"}});
        let held = json!({"metadata": {"finalizers": ["a.b/c"]}});
        metadata_change(&deleted, &held, &mut causes);
        assert_eq!(
            causes.into_vec()[0].sentence(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being \
             deleted, found new finalizers []string{\"a.b/c\"}"
        );
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
