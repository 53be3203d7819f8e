//! Patches: JSON patch, JSON merge patch and strategic merge patch.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use super::{Machine, draft::Draft, rewrite::Race, strategic};
use crate::{
    decode,
    kinds::KindInfo,
    request::{Call, Objects},
    schema::schema,
    service::{Answer, Content},
    status::ApiError,
};

/// More operations in one JSON patch are refused, as by the stock server.
const OPERATIONS_MAX: usize = 10_000;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// A parsed patch.
#[derive(Debug)]
enum Patch {
    Json(Vec<PatchOperation>),
    Merge(Value),
    Strategic(Value),
}

impl Machine {
    pub(super) async fn patch(&self, call: &Call, content: &Content) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let patch = Patch::parse(content)?;
        let mut warnings = Vec::new();
        let change = |old: &Value| {
            let patched = patch.apply(objects.info, old)?;
            let (info, validation) = (objects.info, options.field_validation);
            let draft = Draft::normalised(info, info.schema, validation, patched, Vec::new())?;
            check_name(objects, &draft.object)?;
            warnings = draft.warnings;
            Ok(draft.object)
        };
        // A revision in the patch has been compared by then, so repeating is safe in any case.
        let mut answer = self.rewrite(call, Race::Repeated, change).await?;
        answer.warnings = warnings;
        Ok(answer)
    }
}

/// A patch may not turn an object into another one.
fn check_name(objects: &Objects, object: &Value) -> Result<(), ApiError> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let namespace = objects.namespace.as_deref().unwrap_or_default();
    if text("name") == objects.name.as_deref().unwrap_or_default() && text("namespace") == namespace
    {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "metadata.name and metadata.namespace cannot be changed by a patch",
    ))
}

impl Patch {
    fn parse(content: &Content) -> Result<Patch, ApiError> {
        let value = || {
            let decoded = decode::json(&content.bytes);
            let decoded = decoded
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
            match decoded.value {
                object @ Value::Object(_) => Ok(object),
                _ => Err(ApiError::bad_request("error decoding patch: not an object")),
            }
        };
        match content.media.as_str() {
            JSON_PATCH => {
                let operations: Vec<PatchOperation> = serde_json::from_slice(&content.bytes)
                    .map_err(|error| {
                        ApiError::bad_request(format!("error decoding patch: {error}"))
                    })?;
                if operations.len() > OPERATIONS_MAX {
                    return Err(ApiError::too_large(OPERATIONS_MAX));
                }
                Ok(Patch::Json(operations))
            }
            MERGE_PATCH => value().map(Patch::Merge),
            STRATEGIC_PATCH => value().map(Patch::Strategic),
            _ => Err(ApiError::unsupported_media(&[
                JSON_PATCH,
                MERGE_PATCH,
                STRATEGIC_PATCH,
            ])),
        }
    }

    fn apply(&self, info: &KindInfo, old: &Value) -> Result<Value, ApiError> {
        let mut new = old.clone();
        match self {
            Patch::Json(operations) => {
                json_patch::patch(&mut new, operations).map_err(|error| json_failure(&error))?;
            }
            Patch::Merge(patch) => json_patch::merge(&mut new, patch),
            Patch::Strategic(patch) => {
                strategic::merge(schema().type_id(info.schema), &mut new, patch)
                    .map_err(|error| ApiError::bad_request(error.to_string()))?;
            }
        }
        Ok(new)
    }
}

fn json_failure(error: &json_patch::PatchError) -> ApiError {
    match error.kind {
        PatchErrorKind::TestFailed => ApiError::unprocessable(format!(
            "the server rejected our request due to an error in our request: testing value {} \
             failed",
            error.path
        )),
        _ => ApiError::unprocessable(format!(
            "the server rejected our request due to an error in our request: {error}"
        )),
    }
}
