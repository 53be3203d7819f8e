//! Changing objects: updates and patches take one road, compare-and-swap included.

use coracle_store::{Expect, WriteError};
use http::StatusCode;
use serde_json::{Map, Value};

use super::{Machine, delete::check_finalizers, draft::Draft, write_failure};
use crate::{
    invalid::Causes,
    kinds::{Generation, Grace, KindInfo, Subresource},
    object::{self, ObjectRecord},
    request::{Call, Objects, Persistence},
    service::{Answer, Content},
    status::ApiError,
    validate,
};

/// A change that loses its race is computed again this often, as the stock server does.
const ATTEMPTS_MAX: usize = 5;

/// What only the server sets in metadata; a client's values do not count.
const SERVER_FIELDS: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "uid",
];

/// What is done when another write comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Race {
    /// The client is told.
    Lost,
    /// The change is computed again from the newer object.
    Repeated,
}

impl Machine {
    pub(super) async fn update(&self, call: &Call, content: &Content) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let Draft { object, warnings } = Draft::read(objects, options, content)?;
        let unconditional = object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or("")
            .is_empty();
        let race = if unconditional {
            Race::Repeated
        } else {
            Race::Lost
        };
        let mut answer = self.rewrite(call, race, |_| Ok(object.clone())).await?;
        answer.warnings = warnings;
        Ok(answer)
    }

    /// Replaces an object with what `change` makes of it.
    pub(super) async fn rewrite(
        &self,
        call: &Call,
        race: Race,
        mut change: impl FnMut(&Value) -> Result<Value, ApiError>,
    ) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let (info, name) = (objects.info, objects.name());
        for attempt in 1.. {
            let record = self.store.get(&objects.key());
            let record = record.ok_or_else(|| ApiError::not_found(info, name))?;
            let old = object::parse(&record);
            let mut new = change(&old)?;
            check_identity(info, name, &old, &new)?;
            carry(objects, &old, &mut new);
            if matches!(objects.subresource, None | Some(Subresource::Status)) {
                (info.on_update)(&old, &mut new);
            }
            (info.defaults)(&mut new);
            self.admit(call, Some(&old), &new)?;
            check_change(objects, &old, &mut new)?;
            if new == old {
                return Ok(Answer::encoded(StatusCode::OK, record.value.clone()));
            }
            if options.persistence == Persistence::DryRun {
                return Ok(Answer::json(StatusCode::OK, &new));
            }
            match self.write(objects, &record, &new).await {
                Ok(record) => return Ok(Answer::encoded(StatusCode::OK, record.value.clone())),
                Err(WriteError::Changed { .. })
                    if race == Race::Repeated && attempt < ATTEMPTS_MAX => {}
                Err(error) => return Err(write_failure(info, name, error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Writes a changed object, or removes it if only a finalizer had kept it.
    pub(super) async fn write(
        &self,
        objects: &Objects,
        old: &ObjectRecord,
        new: &Value,
    ) -> Result<std::sync::Arc<ObjectRecord>, WriteError> {
        let encoded = object::encode(objects.info, new);
        let (key, expect) = (objects.key(), Expect::At(old.revision));
        if is_finished(objects.info, new) {
            self.store
                .delete(&key, expect, |revision| encoded.render(revision))
                .await
        } else {
            self.store
                .put(&key, expect, |revision| encoded.render(revision))
                .await
        }
    }
}

/// Says whether a deleted object waits for nothing any more.
pub(super) fn is_finished(info: &KindInfo, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let has_items = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    let full = info.grace == Grace::Namespace && has_items(&object["spec"]["finalizers"]);
    let grace = metadata["deletionGracePeriodSeconds"].as_i64();
    metadata["deletionTimestamp"].is_string()
        && !has_items(&metadata["finalizers"])
        && !full
        && grace.unwrap_or(0) == 0
}

/// Refuses a change that was meant for another object or another revision of this one.
fn check_identity(info: &KindInfo, name: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
    let text = |object: &Value, field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let (wanted, found) = (text(new, "uid"), text(old, "uid"));
    if !wanted.is_empty() && wanted != found {
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        );
        return Err(ApiError::conflict(info, name, &why));
    }
    let wanted = text(new, "resourceVersion");
    if !wanted.is_empty() && wanted != text(old, "resourceVersion") {
        return Err(ApiError::modified(info, name));
    }
    Ok(())
}

/// Takes over from the old object what this request may not change.
fn carry(objects: &Objects, old: &Value, new: &mut Value) {
    let empty = Map::new();
    let old_fields = old.as_object().unwrap_or(&empty);
    let has_status = objects.info.subresources.contains(&Subresource::Status);
    let new_fields = new.as_object_mut().expect("drafts are objects");
    if objects.subresource == Some(Subresource::Status) {
        let outside = |name: &str| name == "status" || name == "metadata";
        new_fields.retain(|name, _| outside(name));
        let kept = old_fields.iter().filter(|(name, _)| !outside(name));
        new_fields.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
        let owners = &old["metadata"]["ownerReferences"];
        put_or_remove(&mut new_fields["metadata"], "ownerReferences", owners);
    } else if has_status {
        put_or_remove(
            new,
            "status",
            old_fields.get("status").unwrap_or(&Value::Null),
        );
    }
    let metadata = &mut new["metadata"];
    for field in SERVER_FIELDS
        .iter()
        .chain(&["resourceVersion", "name", "namespace"])
    {
        put_or_remove(metadata, field, &old["metadata"][*field]);
    }
    put_or_remove(metadata, "managedFields", &Value::Null);
}

fn put_or_remove(object: &mut Value, name: &str, value: &Value) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    match value {
        Value::Null => drop(fields.remove(name)),
        value => drop(fields.insert(name.to_owned(), value.clone())),
    }
}

/// Validates a change and counts its generation.
fn check_change(objects: &Objects, old: &Value, new: &mut Value) -> Result<(), ApiError> {
    let info = objects.info;
    let mut causes = Causes::default();
    validate::metadata(info, new, &mut causes);
    validate::metadata_change(old, new, &mut causes);
    match objects.subresource {
        None => (info.validate)(new, Some(old), &mut causes),
        Some(Subresource::Status) => (info.validate_status)(new, old, &mut causes),
        Some(Subresource::Finalize) => check_finalizers(new, &mut causes),
        Some(_) => (),
    }
    if !causes.is_empty() {
        return Err(ApiError::invalid(info, objects.name(), causes));
    }
    if counts(info.generation, old, new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = Value::from(generation);
    }
    Ok(())
}

/// Says whether a change is one that the generation counts.
fn counts(generation: Generation, old: &Value, new: &Value) -> bool {
    match generation {
        Generation::Kept => new["spec"] != old["spec"],
        Generation::OfAll => {
            let rest = |object: &Value| {
                let mut rest = object.clone();
                rest["metadata"] = Value::Null;
                rest
            };
            rest(new) != rest(old)
        }
        Generation::Fixed | Generation::Absent => false,
    }
}
