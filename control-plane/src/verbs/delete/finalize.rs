//! `namespaces/finalize`: the list of those who still have to empty a namespace.

use serde_json::Value;

use crate::{invalid::Causes, validate};

/// The one finalizer of a namespace that has no domain.
const STANDARD: &str = "kubernetes";

/// Checks the names in `spec.finalizers`.
pub(in super::super) fn check_finalizers(namespace: &Value, causes: &mut Causes) {
    let list = namespace["spec"]["finalizers"].as_array();
    for (index, finalizer) in list.into_iter().flatten().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        let field = format!("spec.finalizers[{index}]");
        if !validate::is_label_key(name) {
            let why = "name part must consist of alphanumeric characters, '-', '_' or '.', and \
                       must start and end with an alphanumeric character (e.g. 'MyName',  or \
                       'my.name',  or '123-abc', regex used for validation is \
                       '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
            causes.invalid(field, finalizer, why);
        } else if !name.contains('/') && name != STANDARD {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.invalid(field, finalizer, why);
        }
    }
}
