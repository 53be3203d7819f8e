//! The class of claims that name none.

use serde_json::{Value, json};

use super::{Request, known};
use crate::{object, status::ApiError, table::IS_DEFAULT_CLASS};

/// How claims named their class before there was a field for it.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Gives a new claim the default class; one that names the empty class wants none.
pub(super) fn default_class(request: &Request<'_>, claim: &mut Value) -> Result<(), ApiError> {
    let names_one = !claim["spec"]["storageClassName"].is_null()
        || !claim["metadata"]["annotations"][OLD_CLASS].is_null();
    if !request.is_for("PersistentVolumeClaim") || !request.creates() || names_one {
        return Ok(());
    }
    let records = request.records(known("storage.k8s.io/v1", "StorageClass"));
    let classes = records.iter().map(|record| object::parse(record));
    let defaults =
        classes.filter(|class| class["metadata"]["annotations"][IS_DEFAULT_CLASS] == "true");
    // Of several, the newest; of those of one second, the first by name.
    let text = |class: &Value, field: &str| class["metadata"][field].as_str().map(str::to_owned);
    let newest = defaults.min_by_key(|class| {
        let created = std::cmp::Reverse(text(class, "creationTimestamp"));
        (created, text(class, "name"))
    });
    if let Some(name) = newest.as_ref().and_then(|class| text(class, "name")) {
        claim["spec"]["storageClassName"] = json!(name);
    }
    Ok(())
}
