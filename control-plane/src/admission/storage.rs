//! The class of claims that name none, and what classes let claims become.

use serde_json::{Value, json};

use super::{Request, known};
use crate::{object, quantity::Quantity, status::ApiError, table::IS_DEFAULT_CLASS};

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

/// Returns the class that a claim names, in the field or as it was done before; empty if in neither.
pub(super) fn class_of(claim: &Value) -> &str {
    let old = claim["metadata"]["annotations"][OLD_CLASS].as_str();
    let class = old.or_else(|| claim["spec"]["storageClassName"].as_str());
    class.unwrap_or_default()
}

/// Refuses that a claim grows whose class does not say that its claims may.
pub(super) fn resize(request: &Request<'_>, claim: &Value) -> Result<(), ApiError> {
    let Some(old) = request
        .old
        .filter(|old| request.is_for("PersistentVolumeClaim") && grows(old, claim))
    else {
        return Ok(());
    };
    let class = Some(class_of(claim)).filter(|class| !class.is_empty() && *class == class_of(old));
    let class = class
        .and_then(|class| request.object(known("storage.k8s.io/v1", "StorageClass"), class))
        .unwrap_or_default();
    if class["allowVolumeExpansion"] == true {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that \
               provisions the pvc must support resize";
    Err(request.forbidden(claim, why))
}

fn grows(old: &Value, claim: &Value) -> bool {
    let size = |claim: &Value| {
        let text = claim["spec"]["resources"]["requests"]["storage"].as_str();
        text.and_then(Quantity::parse)
    };
    let sizes = size(claim).zip(size(old));
    sizes.is_some_and(|(after, before)| after.exceeds(before))
}
