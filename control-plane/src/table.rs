//! Objects as rows of a table, with a stock server's columns.
//!
//! The columns of each kind lie in `table/columns.json`; the descriptions there are those of
//! Kubernetes' OpenAPI documents. What stands in the cells is computed here, from one parsed
//! object and the time. Objects are read leniently: what is absent or of another type is empty.

mod cluster;
mod config;
mod duration;
mod event;
mod network;
mod pod;
mod storage;

use std::{collections::HashMap, sync::LazyLock};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::KindInfo;

pub(crate) use storage::IS_DEFAULT_CLASS;

/// What stands where there is no time to tell.
const UNKNOWN: &str = "<unknown>";

/// What stands where there is nothing to list.
const NONE: &str = "<none>";

/// An object that is shown at a point in time.
#[derive(Clone, Copy)]
struct Shown<'a> {
    object: &'a Value,
    now: Timestamp,
}

/// Returns the definitions of a kind's columns, encoded.
pub(crate) fn columns(info: &KindInfo) -> &'static str {
    static COLUMNS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
        let kinds: HashMap<String, Value> =
            serde_json::from_str(include_str!("table/columns.json"))
                .expect("the table of columns is JSON");
        kinds
            .into_iter()
            .map(|(kind, columns)| (kind, columns.to_string()))
            .collect()
    });
    let own = COLUMNS.get(info.schema).or_else(|| COLUMNS.get(""));
    own.expect("the table of columns has those of all other kinds")
}

/// Returns the cells of an object's row, wide columns included, in the order of the columns.
pub(crate) fn cells(info: &KindInfo, object: &Value, now: Timestamp) -> Value {
    let shown = Shown { object, now };
    match info.schema {
        "certificates.v1.CertificateSigningRequest" => cluster::signing_request(shown),
        "coordination.v1.Lease" => cluster::lease(shown),
        "core.v1.ConfigMap" => config::config_map(shown),
        "core.v1.Endpoints" => network::endpoints(shown),
        "core.v1.Event" => event::event(shown),
        "core.v1.Namespace" => cluster::namespace(shown),
        "core.v1.Node" => cluster::node(shown),
        "core.v1.PersistentVolume" => storage::volume(shown),
        "core.v1.PersistentVolumeClaim" => storage::claim(shown),
        "core.v1.Pod" => pod::pod(shown),
        "core.v1.ResourceQuota" => config::resource_quota(shown),
        "core.v1.Secret" => config::secret(shown),
        "core.v1.Service" => network::service(shown),
        "core.v1.ServiceAccount" => json!([shown.name(), shown.age()]),
        "discovery.v1.EndpointSlice" => network::endpoint_slice(shown),
        "networking.v1.NetworkPolicy" => network::policy(shown),
        "node.v1.RuntimeClass" => json!([shown.name(), shown.text("/handler"), shown.age()]),
        "rbac.v1.ClusterRoleBinding" | "rbac.v1.RoleBinding" => config::role_binding(shown),
        "scheduling.v1.PriorityClass" => cluster::priority_class(shown),
        "storage.v1.StorageClass" => storage::class(shown),
        _ => json!([shown.name(), shown.text("/metadata/creationTimestamp")]),
    }
}

/// Returns the conditions of an object's row: whether what it stands for has come to its end.
pub(crate) fn conditions(info: &KindInfo, object: &Value) -> Option<Value> {
    if info.schema != "core.v1.Pod" {
        return None;
    }
    let (reason, message) = match object.pointer("/status/phase").and_then(Value::as_str) {
        Some("Succeeded") => ("Succeeded", "The pod has completed successfully."),
        Some("Failed") => ("Failed", "The pod failed."),
        Some(_) | None => return None,
    };
    Some(json!([
        {"type": "Completed", "status": "True", "reason": reason, "message": message},
    ]))
}

impl<'a> Shown<'a> {
    fn name(self) -> &'a str {
        self.text("/metadata/name")
    }

    fn text(self, pointer: &str) -> &'a str {
        text(self.object, pointer)
    }

    fn number(self, pointer: &str) -> i64 {
        number(self.object, pointer)
    }

    fn flag(self, pointer: &str) -> bool {
        flag(self.object, pointer)
    }

    fn list(self, pointer: &str) -> &'a [Value] {
        list(self.object, pointer)
    }

    /// Returns the entries of an object of texts, sorted by name.
    fn entries(self, pointer: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let map = self.object.pointer(pointer).and_then(Value::as_object);
        let entry = |(name, value): (&'a String, &'a Value)| {
            (name.as_str(), value.as_str().unwrap_or_default())
        };
        map.into_iter().flatten().map(entry)
    }

    /// Returns how many entries an object has.
    fn count(self, pointer: &str) -> usize {
        let map = self.object.pointer(pointer).and_then(Value::as_object);
        map.map_or(0, serde_json::Map::len)
    }

    /// Returns how long ago the object was created.
    fn age(self) -> String {
        self.since("/metadata/creationTimestamp")
    }

    /// Returns how long ago a time in the object was.
    fn since(self, pointer: &str) -> String {
        let time = time(self.object, pointer);
        time.map_or_else(
            || UNKNOWN.to_owned(),
            |time| duration::since(time, self.now),
        )
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let text = value.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> i64 {
    let number = value.pointer(pointer).and_then(Value::as_i64);
    number.unwrap_or_default()
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer) == Some(&Value::Bool(true))
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

fn time(value: &Value, pointer: &str) -> Option<Timestamp> {
    text(value, pointer).parse().ok()
}

/// Returns `text`, or what stands for nothing.
fn or<'a>(text: &'a str, nothing: &'a str) -> &'a str {
    if text.is_empty() { nothing } else { text }
}

/// Writes the first few of a list and how many more there are.
fn first_few(mut items: impl Iterator<Item = String>, nothing: &str) -> String {
    const SHOWN_MAX: usize = 3;
    let shown: Vec<_> = items.by_ref().take(SHOWN_MAX).collect();
    match (shown.is_empty(), items.count()) {
        (true, _) => nothing.to_owned(),
        (false, 0) => shown.join(","),
        (false, more) => format!("{} + {more} more...", shown.join(",")),
    }
}

/// Writes labels as a selector would.
fn labels<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let terms: Vec<_> = labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    or(&terms.join(","), NONE).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    /// The time at which all tables in tests are drawn.
    const NOW: &str = "2026-01-10T12:00:00Z";

    /// Draws a row as `kubectl get -o wide` would: the cells with a bar between them.
    pub(super) fn check(api_version: &str, kind: &str, mut object: Value, expected: &str) {
        let info = kinds::served(api_version, kind).expect("the kind is served");
        object["metadata"]["name"] = json!("x");
        object["metadata"]["creationTimestamp"] = json!("2026-01-10T10:59:30Z");
        let cells = cells(info, &object, NOW.parse().expect("a time"));
        let cells = cells.as_array().expect("cells are a list");
        let columns: Value = serde_json::from_str(columns(info)).expect("columns are JSON");
        let columns = columns.as_array().expect("columns are a list");
        assert_eq!(cells.len(), columns.len(), "{kind}");
        for (cell, column) in cells.iter().zip(columns) {
            let fits = match column["type"].as_str() {
                Some("integer") => cell.is_i64(),
                Some("boolean") => cell.is_boolean(),
                // The stock server, too, puts counts and flags into some columns that it calls strings.
                _ => cell.is_string() || cell.is_i64() || cell.is_boolean(),
            };
            assert!(fits, "{kind}: {column} does not describe {cell}");
        }
        let word = |cell: &Value| match cell {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let row: Vec<_> = cells.iter().map(word).collect();
        assert_eq!(row.join("|"), expected, "{kind}");
    }

    #[test]
    fn every_kind_has_a_row_for_its_columns() {
        for info in kinds::all() {
            let columns: Value = serde_json::from_str(columns(info)).expect("columns are JSON");
            let cells = cells(info, &json!({}), NOW.parse().expect("a time"));
            let count = |list: &Value| list.as_array().map(Vec::len);
            assert_eq!(count(&cells), count(&columns), "{}", info.kind);
        }
    }

    #[test]
    fn kinds_without_columns_of_their_own_show_when_they_were_created() {
        for (version, kind) in [
            ("v1", "LimitRange"),
            ("rbac.authorization.k8s.io/v1", "Role"),
            ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ] {
            check(version, kind, json!({}), "x|2026-01-10T10:59:30Z");
        }
    }

    #[test]
    fn small_kinds_show_what_matters() {
        check(
            "v1",
            "ServiceAccount",
            json!({"secrets": [{"name": "s"}]}),
            "x|60m",
        );
        let class = json!({"handler": "wasm"});
        check("node.k8s.io/v1", "RuntimeClass", class, "x|wasm|60m");
    }
}
