//! The parameters of operations, as far as they are honoured.

use serde_json::{Value, json};

use super::types::unescape;
use crate::kinds::{Subresource, Verb};

const TABLE: &str = include_str!("parameters-1.36.txt");

const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];

const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "propagationPolicy"];

const DELETE_COLLECTION: &[&str] = &[
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "labelSelector",
    "limit",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];

const PATCH: &[&str] = &["dryRun", "fieldManager@patch", "fieldValidation", "force"];

const LOG: &[&str] = &[
    "container@log",
    "follow",
    "insecureSkipTLSVerifyBackend",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "stream",
    "tailLines",
    "timestamps",
];

const EXEC: &[&str] = &[
    "command@exec",
    "container@exec",
    "stderr@exec",
    "stdin@exec",
    "stdout@exec",
    "tty@exec",
];

const ATTACH: &[&str] = &[
    "container@attach",
    "stderr@attach",
    "stdin@attach",
    "stdout@attach",
    "tty@attach",
];

/// Returns the query parameters of an operation.
pub(super) fn of(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::Create | Verb::Update => WRITE,
        Verb::Delete => DELETE,
        Verb::DeleteCollection => DELETE_COLLECTION,
        Verb::Get => &[],
        Verb::List | Verb::Watch => LIST,
        Verb::Patch => PATCH,
    }
}

/// Returns the query parameters that choose a part of a container's log.
pub(super) fn of_log() -> &'static [&'static str] {
    LOG
}

/// Returns the query parameters of a connection to a node; nothing for other parts.
pub(super) fn of_connection(part: Subresource) -> Option<&'static [&'static str]> {
    match part {
        Subresource::Attach => Some(ATTACH),
        Subresource::Exec => Some(EXEC),
        Subresource::PortForward => Some(&["ports"]),
        Subresource::Approval
        | Subresource::Binding
        | Subresource::EphemeralContainers
        | Subresource::Eviction
        | Subresource::Finalize
        | Subresource::Log
        | Subresource::Proxy
        | Subresource::Resize
        | Subresource::Status
        | Subresource::Token => None,
    }
}

/// Describes a parameter by its key in the table.
pub(super) fn query(key: &str) -> Value {
    let mut lines = TABLE.lines();
    let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    let line = line.expect("every parameter named here is distilled");
    let (kind, about) = line.split_once(' ').unwrap_or((line, ""));
    let name = key.split('@').next().unwrap_or(key);
    json!({
        "name": name,
        "in": "query",
        "description": unescape(about),
        "schema": {"type": kind, "uniqueItems": true},
    })
}

/// Describes the object's name in a path.
pub(super) fn name(kind: &str) -> Value {
    path("name", &format!("name of the {kind}"))
}

/// Describes what stands behind `proxy` in a path.
pub(super) fn rest() -> Value {
    path("path", "path to the resource")
}

/// Describes the namespace in a path.
pub(super) fn namespace() -> Value {
    path(
        "namespace",
        "object name and auth scope, such as for teams and projects",
    )
}

fn path(name: &str, about: &str) -> Value {
    json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": about,
        "schema": {"type": "string", "uniqueItems": true},
    })
}
