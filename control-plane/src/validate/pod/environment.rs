//! Environment variables and references to a pod's own fields and resources.

use serde_json::Value;

use super::{Field, NameRule, volumes::config_key};

const NAME_MESSAGE: &str = "a valid environment variable name must consist only of printable ASCII \
     characters other than '='";

/// What variables may show of their pod.
pub(super) const VARIABLE_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What files may show of their pod.
pub(super) const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Fields that have a name in references, whether or not a reference may use them.
const NAMED_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "spec.restartPolicy",
    "spec.schedulerName",
    "status.phase",
];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const BYTE_DIVISORS: &[&str] = &[
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

/// Whether a reference to resources has to name its container.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Named,
    Implied,
}

/// Checks a container's variables.
pub(super) fn check(container: &Field<'_, '_>) {
    for variable in container.child("env").items() {
        let name = variable.child("name");
        match name.text() {
            "" => name.required(""),
            text if !is_name(text) => name.invalid(NAME_MESSAGE),
            _ => (),
        }
        let source = variable.child("valueFrom");
        if source.is_set() {
            value_from(&variable, &source);
        }
    }
    let all = &container.child("envFrom");
    for part in all.items() {
        from(all, &part);
    }
}

fn is_name(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
}

fn value_from(variable: &Field<'_, '_>, source: &Field<'_, '_>) {
    let mut sources = 0;
    for (kind, reference) in source.entries() {
        sources += 1;
        let reference = source.child(kind).with(reference.value);
        match kind {
            "fieldRef" => field_reference(&reference, VARIABLE_FIELDS),
            "resourceFieldRef" => resource_reference(&reference, Owner::Implied),
            "fileKeyRef" => file_key(&reference),
            _ => {
                reference.child("name").name(NameRule::Subdomain);
                config_key(&reference.child("key"));
            }
        }
    }
    let nothing = Value::from("");
    if sources == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                      `secretKeyRef` or `fileKeyRef`";
        source.invalid_as(&nothing, detail);
    } else if !variable.child("value").is_empty() {
        source.invalid_as(&nothing, "may not be specified when `value` is not empty");
    } else if sources > 1 {
        source.invalid_as(
            &nothing,
            "may not have more than one field specified at a time",
        );
    }
}

fn file_key(reference: &Field<'_, '_>) {
    reference.child("key").present();
    reference.child("volumeName").name_required(NameRule::Label);
    let path = reference.child("path");
    path.present();
    path.file_path();
}

fn from(all: &Field<'_, '_>, part: &Field<'_, '_>) {
    let prefix = part.child("prefix");
    if !is_name(prefix.text()) {
        prefix.invalid(NAME_MESSAGE);
    }
    let sources = ["configMapRef", "secretRef"];
    let sources = sources.iter().filter(|kind| part.child(kind).is_set());
    for kind in sources.clone() {
        part.child(kind)
            .child("name")
            .name_required(NameRule::Subdomain);
    }
    let nothing = Value::from("");
    match sources.count() {
        0 => all.invalid_as(
            &nothing,
            "must specify one of: `configMapRef` or `secretRef`",
        ),
        1 => (),
        _ => all.invalid_as(
            &nothing,
            "may not have more than one field specified at a time",
        ),
    }
}

/// Checks a reference to a field of the pod.
pub(super) fn field_reference(reference: &Field<'_, '_>, known: &[&str]) {
    let (version, path) = (reference.child("apiVersion"), reference.child("fieldPath"));
    if version.is_empty() {
        return version.required("");
    }
    if path.is_empty() {
        return path.required("");
    }
    let cannot = |why: &str| path.invalid(&format!("error converting fieldPath: {why}"));
    let text = path.text();
    if version.text() != "v1" {
        return cannot(&format!("unsupported pod version: {}", version.text()));
    }
    match subscript(text) {
        Some(("metadata.annotations", key)) => reference.qualified_text(&key.to_lowercase()),
        Some(("metadata.labels", key)) => reference.qualified_text(key),
        Some(_) => cannot(&format!("field label does not support subscript: {text}")),
        None if known.contains(&text) || text == "spec.host" => (),
        None if VARIABLE_FIELDS.contains(&text) || NAMED_FIELDS.contains(&text) => {
            path.not_supported(known);
        }
        None => cannot(&format!("field label not supported: {text}")),
    }
}

/// Splits `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (path, key) = path.strip_suffix("']")?.split_once("['")?;
    (!path.is_empty()).then_some((path, key))
}

/// Checks a reference to what a container requests or may use.
pub(super) fn resource_reference(reference: &Field<'_, '_>, owner: Owner) {
    let (container, resource) = (
        reference.child("containerName"),
        reference.child("resource"),
    );
    let name = resource.text();
    let pages = ["limits.hugepages-", "requests.hugepages-"];
    let pages = pages.iter().any(|start| name.starts_with(start));
    if owner == Owner::Named && container.is_empty() {
        container.required("");
    } else if name.is_empty() {
        resource.required("");
    } else if !RESOURCES.contains(&name) && !pages {
        resource.not_supported(RESOURCES);
    }
    let divisor = reference.child("divisor");
    let (known, what) = match name.split_once('.').map_or("", |(_, what)| what) {
        "cpu" => (&["1", "1m"][..], "cpu"),
        "memory" => (BYTE_DIVISORS, "memory"),
        "ephemeral-storage" => (BYTE_DIVISORS, "local ephemeral storage"),
        _ if pages => (BYTE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !matches!(divisor.text(), "" | "0") && !known.contains(&divisor.text()) {
        let known = if what == "cpu" {
            "1m and 1".to_owned()
        } else {
            known.join(", ")
        };
        let detail =
            format!("only divisor's values {known} are supported with the {what} resource");
        divisor.invalid_as(resource.value, &detail);
    }
}
