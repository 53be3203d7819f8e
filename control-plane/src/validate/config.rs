//! The checks of ConfigMaps and Secrets.

use serde_json::Value;

use super::{entries, is_subdomain};
use crate::invalid::Causes;

/// All data of one object together.
const DATA_BYTES_MAX: usize = 1 << 20;

const KEY_BYTES_MAX: usize = 253;

const KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or \
     '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
     '[-._a-zA-Z0-9]+')";

/// The keys that secrets of the well-known types must have.
const SECRET_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

/// Checks a ConfigMap.
pub(crate) fn config_map(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let mut bytes = 0;
    for (key, value) in entries(&object["data"]) {
        check_key("data", key, causes);
        if object["binaryData"].get(key).is_some() {
            let detail = "duplicate of key present in binaryData";
            causes.invalid(format!("data[{key}]"), &Value::from(key.as_str()), detail);
        }
        bytes += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(&object["binaryData"]) {
        check_key("binaryData", key, causes);
        bytes += decoded_len(value);
    }
    if bytes > DATA_BYTES_MAX {
        causes.too_long("", DATA_BYTES_MAX);
    }
    check_immutable(object, old, &["data", "binaryData"], causes);
}

/// Checks a Secret.
pub(crate) fn secret(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let mut bytes = 0;
    for (key, value) in entries(&object["data"]) {
        check_key("data", key, causes);
        bytes += decoded_len(value);
    }
    if bytes > DATA_BYTES_MAX {
        causes.too_long("data", DATA_BYTES_MAX);
    }
    if old.is_some_and(|old| old["type"] != object["type"]) {
        causes.invalid("type", &object["type"], "field is immutable");
    }
    let known = SECRET_KEYS.iter().find(|(name, _)| object["type"] == *name);
    for key in known.into_iter().flat_map(|(_, keys)| keys.iter()) {
        if object["data"].get(*key).is_none() {
            causes.required(format!("data[{key}]"), "");
        }
    }
    check_immutable(object, old, &["data"], causes);
}

fn check_immutable(object: &Value, old: Option<&Value>, fields: &[&str], causes: &mut Causes) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else {
        return;
    };
    let detail = "field is immutable when `immutable` is set";
    if object["immutable"] != true {
        causes.forbidden("immutable", detail);
    }
    for field in fields
        .iter()
        .filter(|field| object[**field] != old[**field])
    {
        causes.forbidden(*field, detail);
    }
}

fn check_key(field: &str, key: &str, causes: &mut Causes) {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let value = Value::from(key);
    let field = format!("{field}[{key}]");
    if key.len() > KEY_BYTES_MAX {
        let detail = format!("must be no more than {KEY_BYTES_MAX} bytes");
        causes.invalid(field, &value, &detail);
    } else if key.is_empty() || !key.bytes().all(letter) {
        causes.invalid(field, &value, KEY_MESSAGE);
    } else if matches!(key, "." | "..") || key.starts_with("..") {
        // Such names would leave the folder in which keys appear as files.
        causes.invalid(field, &value, "must not be '.', '..' or start with '..'");
    }
}

fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.trim_end_matches('=').len() * 3 / 4
}

/// Says whether a reference to another object can exist at all.
pub(super) fn is_object_name(name: &str) -> bool {
    is_subdomain(name)
}
