//! Server-side apply: a configuration is merged, and says which fields its manager owns.

use serde_json::Value;

use super::super::{
    Machine,
    draft::Draft,
    rewrite::{Change, Manner, Owners, Race, Reads, WriteOptions},
};
use crate::{
    decode,
    invalid::Cause,
    kinds::{KindInfo, Missing},
    managed_fields::{ApplyError, Contested},
    request::{Call, FieldValidation},
    service::{Answer, Content},
    status::ApiError,
};

/// Conflicts beyond this number are only counted.
const CONFLICTS_MAX: usize = 1000;

impl Machine {
    /// Creates the object or changes it, so that it has what the configuration says.
    pub(super) async fn apply(&self, call: &Call, content: &Content) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let info = objects.info;
        let writer = self.writer(call, WriteOptions::Apply)?;
        let (config, twice) = read(content)?;
        check_kind(info, &config)?;
        let contested = match options.force {
            Some(true) => Contested::Taken,
            Some(false) | None => Contested::Refused,
        };
        let change = |old: Option<&Value>| {
            let applied = writer.apply(old, &config, contested).map_err(refusal)?;
            if let (FieldValidation::Strict, Some(first)) =
                (options.field_validation, twice.first())
            {
                return Err(ApiError::bad_request(format!(
                    "error strict decoding patch: {first}"
                )));
            }
            let mut draft = Draft::normalised(
                info,
                info.schema,
                FieldValidation::Ignore,
                applied,
                Vec::new(),
            )?;
            draft.place(objects)?;
            Ok(Change {
                object: draft.object,
                owners: Owners::Settled,
            })
        };
        let manner = Manner {
            race: Race::Repeated,
            missing: match objects.subresource {
                None => Missing::Created,
                Some(_) => Missing::Refused,
            },
            // Conflicts and the fields that go are found in the whole object.
            reads: Reads::Whole,
        };
        let mut answer = self.rewrite(call, &writer, manner, change).await?;
        if options.field_validation == FieldValidation::Warn {
            answer.warnings.splice(0..0, twice);
        }
        Ok(answer)
    }
}

/// Reads a configuration, and what it says twice.
fn read(content: &Content) -> Result<(Value, Vec<String>), ApiError> {
    let bytes = &content.bytes;
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    let decoded = match first {
        // JSON is YAML, but is read faster by its own parser.
        Some(b'{') => decode::json(bytes).map_err(|error| error.to_string()),
        _ => decode::yaml(bytes),
    };
    let decoded =
        decoded.map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if !decoded.value.is_object() {
        return Err(ApiError::bad_request(
            "error decoding patch: error unmarshaling JSON: json: cannot unmarshal into Go value \
             of type map[string]interface {}",
        ));
    }
    let twice = decoded.duplicates.iter();
    let twice = twice.map(|path| format!("duplicate field \"{path}\""));
    Ok((decoded.value, twice.collect()))
}

/// Refuses a configuration of another kind.
fn check_kind(info: &KindInfo, config: &Value) -> Result<(), ApiError> {
    let text = |field: &str| {
        config
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version == info.api_version() && kind == info.kind {
        return Ok(());
    }
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    Err(ApiError::bad_request(format!(
        "invalid object type: {group}/{version}, Kind={kind}"
    )))
}

fn refusal(error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::ManagedFields => ApiError::bad_request(message),
        ApplyError::Type { .. } | ApplyError::Entries(_) => ApiError::unclassified(message),
        ApplyError::Conflicts(conflicts) => {
            let cause = |conflict: crate::managed_fields::Conflict| {
                Cause::manager_conflict(&conflict.owner, conflict.path)
            };
            let causes = conflicts.into_iter().take(CONFLICTS_MAX).map(cause);
            ApiError::apply_conflict(message, causes.collect())
        }
    }
}
