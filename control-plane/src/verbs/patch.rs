//! Patches: JSON patch, JSON merge patch, strategic merge patch, and server-side apply.

mod apply;
mod json;
mod strategic;

use serde_json::{Map, Value};

use super::{
    Machine,
    draft::Draft,
    rewrite::{Change, Manner, Owners, Race, Reads, WriteOptions},
};
use crate::{
    decode, go_text,
    kinds::{Missing, Subresource},
    object,
    request::{Call, FieldValidation, Objects},
    schema::schema,
    service::{Answer, Content},
    status::ApiError,
};
use strategic::StrategicError;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// How much of a patch or of its outcome a refusal quotes.
const QUOTED_BYTES_MAX: usize = 4096;

/// A parsed patch.
#[derive(Debug)]
struct Patch {
    sort: Sort,
    /// Fields that it says twice; the last one counts.
    duplicates: Vec<String>,
}

#[derive(Debug)]
enum Sort {
    Json(Vec<Value>),
    Merge(Value),
    Strategic(Map<String, Value>),
}

impl Machine {
    pub(super) async fn patch(&self, call: &Call, content: &Content) -> Result<Answer, ApiError> {
        match content.media.as_str() {
            JSON_PATCH | MERGE_PATCH | STRATEGIC_PATCH => (),
            APPLY => return self.apply(call, content).await,
            _ => {
                return Err(ApiError::unsupported_media(&[
                    JSON_PATCH,
                    MERGE_PATCH,
                    STRATEGIC_PATCH,
                    APPLY,
                ]));
            }
        }
        let writer = self.writer(call, WriteOptions::Patch)?;
        let validation = call.options.field_validation;
        let patch = Patch::parse(content, validation)?;
        let mut warnings = Vec::new();
        let change = |old: Option<&Value>| {
            let draft = patch.apply(&call.objects, validation, old.unwrap_or(&Value::Null))?;
            warnings = draft.warnings;
            Ok(Change {
                object: draft.object,
                owners: Owners::Sent,
            })
        };
        let manner = Manner {
            // A revision in the patch has been compared by then, so repeating is safe in any case.
            race: Race::Repeated,
            missing: Missing::Refused,
            reads: patch.reads(&call.objects),
        };
        let mut answer = self.rewrite(call, &writer, manner, change).await?;
        answer.warnings.splice(0..0, warnings);
        Ok(answer)
    }
}

/// Returns what a patch of this media type makes of an object, for random input.
pub(crate) fn outcome(objects: &Objects, old: &Value, content: &Content) -> Option<Value> {
    let validation = FieldValidation::Warn;
    let patch = Patch::parse(content, validation).ok()?;
    let draft = patch.apply(objects, validation, old).ok()?;
    Some(draft.object)
}

impl Patch {
    fn parse(content: &Content, validation: FieldValidation) -> Result<Patch, ApiError> {
        let decoded = decode::json(&content.bytes)
            .map_err(|_| ApiError::bad_request("invalid JSON patch"))?;
        let go = |value: &Value, wanted: &str| {
            let found = match value {
                Value::Null | Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            format!("json: cannot unmarshal {found} into Go value of type {wanted}")
        };
        let refuse = |why: &str| ApiError::bad_request(format!("error decoding patch: {why}"));
        let map = "map[string]interface {}";
        let ignored = validation == FieldValidation::Ignore;
        let (sort, place) = match (content.media.as_str(), decoded.value) {
            (JSON_PATCH, Value::Array(operations)) => {
                json::check_count(&operations)?;
                (Sort::Json(operations), "json patch ")
            }
            (JSON_PATCH, other) if ignored => {
                return Err(ApiError::bad_request(go(&other, "jsonpatch.Patch")));
            }
            (JSON_PATCH, other) => return Err(refuse(&go(&other, "[]handlers.jsonPatchOp"))),
            (MERGE_PATCH, object @ Value::Object(_)) => (Sort::Merge(object), ""),
            (MERGE_PATCH, _) if ignored => return Err(ApiError::bad_request("Invalid JSON Patch")),
            (MERGE_PATCH, other) => return Err(refuse(&go(&other, map))),
            (_, Value::Object(patch)) => (Sort::Strategic(patch), ""),
            (_, other) => return Err(ApiError::bad_request(go(&other, map))),
        };
        let duplicates = decoded.duplicates.iter();
        Ok(Patch {
            sort,
            duplicates: duplicates
                .map(|path| format!("{place}duplicate field \"{path}\""))
                .collect(),
        })
    }

    /// Returns what of an object the patch is about.
    fn reads(&self, objects: &Objects) -> Reads {
        match &self.sort {
            Sort::Json(_) => Reads::Whole,
            Sort::Merge(Value::Object(patch)) | Sort::Strategic(patch)
                if patch.keys().all(|name| concerns_status(name)) =>
            {
                Reads::of_part(objects)
            }
            Sort::Merge(_) | Sort::Strategic(_) => Reads::Whole,
        }
    }

    /// Returns what the patch makes of an object, as an object of its kind again.
    fn apply(
        &self,
        objects: &Objects,
        validation: FieldValidation,
        old: &Value,
    ) -> Result<Draft, ApiError> {
        let info = objects.info;
        let (patched, quoted) = match &self.sort {
            Sort::Json(operations) => {
                let patched = json::patch(unpacked(old), operations)?;
                (patched.clone(), Quoted::Outcome(patched))
            }
            Sort::Merge(patch) => {
                let mut new = unpacked(old);
                json_patch::merge(&mut new, patch);
                (new.clone(), Quoted::Outcome(new))
            }
            Sort::Strategic(patch) => {
                let id = schema().type_id(info.schema);
                let target = patchable(objects, old, patch);
                let patched = strategic::merge(id, target, patch);
                let patched = patched.map_err(|error| refusal(&error))?;
                (patched, Quoted::Patch(patch))
            }
        };
        let duplicates = self.duplicates.clone();
        Draft::check_type(info, info.kind, &patched)?;
        let draft = Draft::decode(info, info.schema, validation, patched, duplicates);
        let mut draft = draft.map_err(|undecodable| {
            let mut quoted = quoted.text();
            quoted.truncate(quoted.floor_char_boundary(QUOTED_BYTES_MAX));
            ApiError::unreadable_patch(&quoted, &undecodable.to_string())
        })?;
        draft.fits(objects)?;
        draft.dedupe_owners(" after mutating admission happens");
        Ok(draft)
    }
}

/// What is quoted of a patch whose outcome is no object of the kind.
enum Quoted<'p> {
    Outcome(Value),
    Patch(&'p Map<String, Value>),
}

impl Quoted<'_> {
    fn text(&self) -> String {
        match self {
            Quoted::Outcome(outcome) => outcome.to_string(),
            Quoted::Patch(patch) => go_text::plain(&Value::Object((*patch).clone())),
        }
    }
}

/// Returns what a patch is applied to: of an object whose status is patched, only what that can change.
/// The rest is taken over from the object in any case, so it need not be copied and read again.
fn patchable(objects: &Objects, old: &Value, patch: &Map<String, Value>) -> Value {
    let is_small = objects.subresource == Some(Subresource::Status)
        && patch.keys().all(|name| concerns_status(name));
    match old.as_object() {
        Some(fields) if is_small => {
            let fields = fields.iter().filter(|(name, _)| concerns_status(name));
            Value::Object(
                fields
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            )
        }
        _ => old.clone(),
    }
}

/// Says whether a field is one that a change of the status looks at.
fn concerns_status(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata" | "status")
}

/// Returns an object with the fields of its owners as they are shown, which such patches may name.
fn unpacked(object: &Value) -> Value {
    let mut object = object.clone();
    object::unpack(&mut object);
    object
}

/// Answers to a strategic merge patch that makes no sense, as the stock server classes them.
fn refusal(error: &StrategicError) -> ApiError {
    match error {
        StrategicError::PrimitiveList
        | StrategicError::RetainKeys
        | StrategicError::SetElementOrder => ApiError::bad_request(error.to_string()),
        StrategicError::ListOfLists => ApiError::patch_refused(),
        StrategicError::NoMergeKey { .. }
        | StrategicError::UnknownDirective { .. }
        | StrategicError::MergedList
        | StrategicError::MixedList(_)
        | StrategicError::WrongType { .. }
        | StrategicError::Order { .. }
        | StrategicError::NoKeyDeclared(_) => ApiError::unclassified(error.to_string()),
    }
}
