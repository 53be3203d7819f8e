//! The checks of ConfigMaps and Secrets.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Field, walk};
use crate::invalid::Causes;

/// All data of one object together.
const DATA_BYTES_MAX: usize = 1 << 20;

const KEY_BYTES_MAX: usize = 253;

const KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or \
     '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
     '[-._a-zA-Z0-9]+')";

const ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

/// Checks a ConfigMap.
pub(crate) fn config_map(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        immutable(root, old, &["data", "binaryData"]);
        let mut bytes = 0;
        for (key, value) in root.child("data").entries() {
            data_key(&value, key);
            if root.child("binaryData").key(key).is_set() {
                let detail = "duplicate of key present in binaryData";
                value.invalid_as(&Value::from(key), detail);
            }
            bytes += value.text().len();
        }
        for (key, value) in root.child("binaryData").entries() {
            data_key(&value, key);
            bytes += decoded_len(&value);
        }
        if bytes > DATA_BYTES_MAX {
            root.too_long(DATA_BYTES_MAX);
        }
    });
}

/// Checks a Secret.
pub(crate) fn secret(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        if let Some(old) = old {
            root.child("type").unchanged(&old["type"]);
        }
        immutable(root, old, &["data"]);
        let data = &root.child("data");
        let mut bytes = 0;
        for (key, value) in data.entries() {
            data_key(&value, key);
            bytes += decoded_len(&value);
        }
        if bytes > DATA_BYTES_MAX {
            data.too_long(DATA_BYTES_MAX);
        }
        of_type(root, data);
    });
}

/// Secrets of the well-known types have the keys that their users look for.
fn of_type(root: &Field<'_, '_>, data: &Field<'_, '_>) {
    match root.child("type").text() {
        "kubernetes.io/service-account-token" => {
            root.child("metadata.annotations")
                .key(ACCOUNT_ANNOTATION)
                .present();
        }
        "kubernetes.io/dockercfg" => json_key(&data.key(".dockercfg")),
        "kubernetes.io/dockerconfigjson" => json_key(&data.key(".dockerconfigjson")),
        "kubernetes.io/basic-auth" => {
            let keys = ["username", "password"];
            if keys.iter().all(|key| !data.key(key).is_set()) {
                keys.iter().for_each(|key| data.key(key).required(""));
            }
        }
        "kubernetes.io/ssh-auth" => data.key("ssh-privatekey").present(),
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !data.key(key).is_set() {
                    data.key(key).required("");
                }
            }
        }
        _ => (),
    }
}

fn json_key(value: &Field<'_, '_>) {
    if !value.is_set() {
        return value.required("");
    }
    let bytes = STANDARD.decode(value.text()).unwrap_or_default();
    if let Err(why) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        value.invalid_as(&Value::from("<secret contents redacted>"), &why.to_string());
    }
}

fn immutable(root: &Field<'_, '_>, old: Option<&Value>, fields: &[&str]) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else {
        return;
    };
    let detail = "field is immutable when `immutable` is set";
    if !root.child("immutable").is_true() {
        root.child("immutable").forbidden(detail);
    }
    for field in fields
        .iter()
        .filter(|field| *root.child(field).value != old[**field])
    {
        root.child(field).forbidden(detail);
    }
}

fn data_key(value: &Field<'_, '_>, key: &str) {
    for fault in config_key_faults(key) {
        value.invalid_as(&Value::from(key), &fault);
    }
}

/// Says everything that is wrong with a key of a ConfigMap or Secret.
pub(crate) fn config_key_faults(key: &str) -> Vec<Cow<'static, str>> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let mut faults = Vec::new();
    if key.len() > KEY_BYTES_MAX {
        faults.push(format!("must be no more than {KEY_BYTES_MAX} bytes").into());
    }
    if key.is_empty() || !key.bytes().all(letter) {
        faults.push(KEY_MESSAGE.into());
    }
    // Such names would leave the folder in which keys appear as files.
    match key {
        "." | ".." => faults.push(format!("must not be '{key}'").into()),
        _ if key.starts_with("..") => faults.push("must not start with '..'".into()),
        _ => (),
    }
    faults
}

fn decoded_len(value: &Field<'_, '_>) -> usize {
    value.text().trim_end_matches('=').len() * 3 / 4
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(object: Value, old: Option<Value>, expected: &[&str]) {
        let mut causes = Causes::default();
        secret(&object, old.as_ref(), &mut causes);
        let found: Vec<_> = causes
            .into_vec()
            .iter()
            .map(|cause| cause.sentence())
            .collect();
        assert_eq!(found, expected, "{object}");
    }

    #[test]
    fn secrets_of_known_types_have_their_keys() {
        let of = |kind: &str, data: Value| json!({"type": format!("kubernetes.io/{kind}"), "data": data});
        check(of("tls", json!({"tls.crt": "", "tls.key": ""})), None, &[]);
        check(
            of("tls", json!({"tls.crt": ""})),
            None,
            &["data[tls.key]: Required value"],
        );
        check(of("basic-auth", json!({"username": ""})), None, &[]);
        check(
            of("basic-auth", json!({})),
            None,
            &[
                "data[username]: Required value",
                "data[password]: Required value",
            ],
        );
        check(
            of("ssh-auth", json!({"ssh-privatekey": ""})),
            None,
            &["data[ssh-privatekey]: Required value"],
        );
        check(
            of("dockerconfigjson", json!({".dockerconfigjson": "e30="})),
            None,
            &[],
        );
        check(
            of("dockerconfigjson", json!({})),
            None,
            &["data[.dockerconfigjson]: Required value"],
        );
        check(
            of("service-account-token", json!({})),
            None,
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        );
    }

    #[test]
    fn immutable_secrets_stay() {
        let sealed = json!({"type": "Opaque", "immutable": true, "data": {"a": "YQ=="}});
        check(
            json!({"type": "Opaque", "data": {"a": "Yg=="}}),
            Some(sealed.clone()),
            &[
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
        );
        check(
            json!({"type": "x", "immutable": true, "data": {"a": "YQ=="}}),
            Some(sealed),
            &["type: Invalid value: \"x\": field is immutable"],
        );
    }

    #[test]
    fn keys_are_names_of_files() {
        for (key, faults) in [
            ("a.b", 0),
            ("..", 1),
            (".", 1),
            ("..a", 1),
            ("", 1),
            ("a/b", 1),
        ] {
            assert_eq!(config_key_faults(key).len(), faults, "{key}");
        }
        assert_eq!(config_key_faults(&"a".repeat(254)).len(), 1);
    }
}
