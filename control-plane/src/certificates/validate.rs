//! The form of a request for a certificate, and which changes of it are allowed.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

use super::{CertificateRequest, LIFETIME_SECONDS_MIN, conditions};
use crate::invalid::Causes;

/// What a key may be used for, in Kubernetes' words.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const SIGNER_BYTES_MAX: usize = 571;
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Keeps what a change may not touch: the request itself, and decisions outside of `approval`.
pub(crate) fn keep(old: &Value, new: &mut Value) {
    new["spec"] = old["spec"].clone();
    let decided = |found: &&Value| is_decision(found);
    let others = conditions(new).iter().filter(|found| !is_decision(found));
    let kept: Vec<_> = conditions(old)
        .iter()
        .filter(decided)
        .chain(others)
        .cloned()
        .collect();
    if !kept.is_empty() || !new["status"]["conditions"].is_null() {
        new["status"]["conditions"] = Value::Array(kept);
    }
}

fn is_decision(condition: &Value) -> bool {
    condition["type"] == "Approved" || condition["type"] == "Denied"
}

/// Checks a request.
pub(crate) fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    if old.is_some() {
        // The specification is kept, and was checked when it came in.
        return;
    }
    let spec = &object["spec"];
    if let Err(why) = CertificateRequest::of(object) {
        causes.invalid("spec.request", &spec["request"], &why);
    }
    check_usages(spec, causes);
    check_signer_name(spec, causes);
    let seconds = &spec["expirationSeconds"];
    if seconds
        .as_i64()
        .is_some_and(|seconds| seconds < LIFETIME_SECONDS_MIN)
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        causes.invalid("spec.expirationSeconds", seconds, detail);
    }
}

fn check_usages(spec: &Value, causes: &mut Causes) {
    let usages = spec["usages"].as_array().map_or(&[][..], Vec::as_slice);
    if usages.is_empty() {
        causes.required("spec.usages", "");
    }
    for (index, usage) in usages.iter().enumerate() {
        let path = format!("spec.usages[{index}]");
        if !USAGES.iter().any(|known| usage == known) {
            causes.not_supported(path, usage, USAGES);
        } else if usages.iter().take(index).any(|other| other == usage) {
            causes.duplicate(path, usage);
        }
    }
}

fn check_signer_name(spec: &Value, causes: &mut Causes) {
    let name = spec["signerName"].as_str().unwrap_or_default();
    let path = "spec.signerName";
    let value = json!(name);
    match name.split_once('/') {
        _ if name.is_empty() => causes.required(path, ""),
        _ if name.len() > SIGNER_BYTES_MAX => causes.too_long(path, SIGNER_BYTES_MAX),
        _ if name == LEGACY => {
            let detail = "the legacy signerName is not allowed via this API version";
            causes.invalid(path, &value, detail);
        }
        Some((domain, rest)) if domain.contains('.') && is_subdomain(domain) => {
            if !rest.split('.').all(is_label) {
                let detail = "must be a fully qualified domain and path of the form \
                              'example.com/signer-name'";
                causes.invalid(path, &value, detail);
            }
        }
        Some(_) | None => {
            let detail = "must be a fully qualified domain and path of the form \
                          'example.com/signer-name'";
            causes.invalid(path, &value, detail);
        }
    }
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| inner(*byte))
        && bytes.last().is_some_and(|byte| inner(*byte))
}

/// Checks a change of the status or of the approval.
pub(crate) fn validate_status(object: &Value, old: &Value, causes: &mut Causes) {
    let mut seen: Vec<&Value> = Vec::new();
    for (index, condition) in conditions(object).iter().enumerate() {
        let path = |field: &str| format!("status.conditions[{index}].{field}");
        let (kind, status) = (&condition["type"], &condition["status"]);
        if kind.as_str().is_none_or(str::is_empty) {
            causes.required(path("type"), "");
        }
        let always = is_decision(condition) || *kind == "Failed";
        match status.as_str().unwrap_or_default() {
            "" => causes.required(path("status"), ""),
            "True" => (),
            "False" | "Unknown" if !always => (),
            "False" | "Unknown" => causes.not_supported(path("status"), status, &["True"]),
            _ => causes.not_supported(path("status"), status, &["False", "True", "Unknown"]),
        }
        if seen.contains(&kind) {
            causes.duplicate(path("type"), kind);
        }
        let opposite = match kind.as_str() {
            Some("Approved") => json!("Denied"),
            Some("Denied") => json!("Approved"),
            _ => Value::Null,
        };
        if seen.contains(&&opposite) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            causes.invalid(path("type"), kind, detail);
        }
        seen.push(kind);
    }
    for condition in conditions(old) {
        let kind = condition["type"].as_str().unwrap_or_default();
        let lasting = is_decision(condition) || kind == "Failed";
        if lasting && !super::has_condition(object, kind) {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            causes.forbidden("status.conditions", &detail);
        }
    }
    check_certificate(object, old, causes);
}

fn check_certificate(object: &Value, old: &Value, causes: &mut Causes) {
    let path = "status.certificate";
    let (fresh, known) = (
        &object["status"]["certificate"],
        &old["status"]["certificate"],
    );
    if fresh == known || fresh.is_null() && known.is_null() {
        return;
    }
    if known.as_str().is_some_and(|known| !known.is_empty()) {
        causes.forbidden(path, "updates may not modify certificate content");
        return;
    }
    let text = fresh.as_str().unwrap_or_default();
    let pem = STANDARD.decode(text).unwrap_or_default();
    let mut certificates = CertificateDer::pem_slice_iter(&pem);
    let whole = certificates.next().is_some_and(|first| {
        first.is_ok_and(|der| x509_parser::parse_x509_certificate(&der).is_ok())
    });
    let good = text.is_empty() || whole && certificates.all(|other| other.is_ok());
    if !good {
        let detail = "must contain one or more PEM blocks of type CERTIFICATE";
        causes.invalid(path, &json!("<certificate data>"), detail);
    }
}
