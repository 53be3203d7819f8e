//! What is wrong with an object's fields, collected and worded as Kubernetes does.

use serde_json::{Value, json};

/// Causes beyond this number tell nobody more and would let a body grow its answer.
const CAUSES_MAX: usize = 100;

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    reason: &'static str,
    message: String,
    field: String,
}

/// All fields of one object that are wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Causes {
    list: Vec<Cause>,
}

impl Cause {
    /// The cause by which clients recognise a revision from the future.
    pub(crate) fn too_large_resource_version() -> Cause {
        Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }
    }

    /// The cause by which clients recognise a namespace that takes nothing in any more.
    pub(crate) fn namespace_terminating(namespace: &str) -> Cause {
        Cause {
            reason: "NamespaceTerminating",
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        }
    }

    /// A field that another manager owns.
    pub(crate) fn manager_conflict(owner: &str, field: String) -> Cause {
        Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {owner}"),
            field,
        }
    }

    /// What a node's kubelet said.
    pub(crate) fn unexpected_response(said: &str) -> Cause {
        Cause {
            reason: "UnexpectedServerResponse",
            message: said.to_owned(),
            field: String::new(),
        }
    }

    /// Writes the cause as part of a sentence.
    pub(crate) fn sentence(&self) -> String {
        format!("{}: {}", self.field, self.message)
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut cause = json!({"reason": self.reason, "message": self.message});
        if !self.field.is_empty() {
            cause["field"] = Value::from(self.field.as_str());
        }
        cause
    }
}

impl Causes {
    fn add(&mut self, reason: &'static str, field: impl Into<String>, message: String) {
        if self.list.len() < CAUSES_MAX {
            self.list.push(Cause {
                reason,
                message,
                field: field.into(),
            });
        }
    }

    pub(crate) fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.add(
            "FieldValueRequired",
            field,
            with_detail("Required value".to_owned(), detail),
        );
    }

    pub(crate) fn invalid(&mut self, field: impl Into<String>, value: &Value, detail: &str) {
        let message = with_detail(format!("Invalid value: {value}"), detail);
        self.add("FieldValueInvalid", field, message);
    }

    pub(crate) fn not_supported(
        &mut self,
        field: impl Into<String>,
        value: &Value,
        known: &[&str],
    ) {
        let known: Vec<_> = known.iter().map(|known| format!("\"{known}\"")).collect();
        let message = format!(
            "Unsupported value: {value}: supported values: {}",
            known.join(", ")
        );
        self.add("FieldValueNotSupported", field, message);
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.add(
            "FieldValueDuplicate",
            field,
            format!("Duplicate value: {value}"),
        );
    }

    pub(crate) fn duplicate_because(
        &mut self,
        field: impl Into<String>,
        value: &Value,
        detail: &str,
    ) {
        let message = with_detail(format!("Duplicate value: {value}"), detail);
        self.add("FieldValueDuplicate", field, message);
    }

    pub(crate) fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.add(
            "FieldValueForbidden",
            field,
            with_detail("Forbidden".to_owned(), detail),
        );
    }

    pub(crate) fn too_long(&mut self, field: impl Into<String>, bytes_max: usize) {
        let message = format!("Too long: may not be more than {bytes_max} bytes");
        self.add("FieldValueTooLong", field, message);
    }

    pub(crate) fn too_many(&mut self, field: impl Into<String>, found: usize, items_max: usize) {
        let message = format!("Too many: {found}: must have at most {items_max} items");
        self.add("FieldValueTooMany", field, message);
    }

    pub(crate) fn not_found(&mut self, field: impl Into<String>, value: &Value) {
        self.add("FieldValueNotFound", field, format!("Not found: {value}"));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<Cause> {
        self.list
    }
}

fn with_detail(message: String, detail: &str) -> String {
    if detail.is_empty() {
        message
    } else {
        format!("{message}: {detail}")
    }
}
