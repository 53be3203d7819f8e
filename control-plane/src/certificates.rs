//! Certificates on request: what a `CertificateSigningRequest` may ask for, who decides, who signs.
//!
//! ```text
//! created (asker written down) ──► approved by someone who may, or by `approve` for nodes
//!                              ──► signed by `controller`, or marked Failed with the reason
//! ```

mod admit;
mod approve;
mod controller;
mod request;
mod signer;
mod validate;

pub(crate) use admit::{admit, complete};
pub(crate) use controller::run;
pub(crate) use request::CertificateRequest;
pub(crate) use validate::{keep, validate, validate_status};

/// The group of these objects.
const GROUP: &str = "certificates.k8s.io";
const KIND: &str = "CertificateSigningRequest";

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";

/// How long a certificate may be asked to be good for, at least.
const LIFETIME_SECONDS_MIN: i64 = 600;

/// Reads the conditions of a request's status.
fn conditions(object: &serde_json::Value) -> &[serde_json::Value] {
    let conditions = &object["status"]["conditions"];
    conditions.as_array().map_or(&[], Vec::as_slice)
}

/// Says whether a request has a condition.
fn has_condition(object: &serde_json::Value, kind: &str) -> bool {
    conditions(object).iter().any(|found| found["type"] == kind)
}
