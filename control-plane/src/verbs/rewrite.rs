//! Changing objects: updates, patches and applies take one road, compare-and-swap included.

use coracle_store::{Expect, WriteError};
use http::StatusCode;
use serde_json::{Map, Value};

use super::{Machine, delete::check_finalizers, draft::Draft, write_failure};
use crate::{
    admission::Claims,
    certificates, defaults,
    invalid::Causes,
    kinds::{Generation, Grace, KindInfo, Missing, Subresource, Unguarded, Verb},
    managed_fields::{self, MANAGER_BYTES_MAX, Writer},
    object::{self, Encoded, ObjectRecord, Sparse},
    request::{Call, Objects, Persistence},
    service::{Answer, Content},
    status::ApiError,
    validate,
};

/// A change that loses its race is computed again this often, as the stock server does.
const ATTEMPTS_MAX: usize = 5;

/// The largest object that is kept: what etcd takes, on which the stock server stands.
pub(super) const OBJECT_BYTES_MAX: usize = 3 << 19;

/// The longest name of a part that an entry of the owners may have.
const SUBRESOURCE_BYTES_MAX: usize = 256;

/// What only the server sets in metadata; a client's values do not count.
const SERVER_FIELDS: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
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

/// What a request makes of an object.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) object: Value,
    pub(super) owners: Owners,
}

/// What `metadata.managedFields` holds in an object that is about to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owners {
    /// What the client sent; the fields that change are still to be given to the writer.
    Sent,
    /// What the outcome of an apply is.
    Settled,
}

/// How a request changes an object that may not be there, or not for long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) race: Race,
    pub(super) missing: Missing,
    pub(super) reads: Reads,
}

/// What a request looks at of the object that it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// All of it.
    Whole,
    /// Metadata and status, and the plain fields of the specification.
    Status,
}

impl Reads {
    /// Returns what a request reads that says nothing of the rest, or whose word on it does not count.
    pub(super) fn of_part(objects: &Objects) -> Reads {
        match objects.subresource {
            Some(Subresource::Status) => Reads::Status,
            _ => Reads::Whole,
        }
    }
}

/// The options of a write, by the name that messages give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteOptions {
    Create,
    Update,
    Patch,
    /// A patch that has to say who applies it.
    Apply,
}

impl Machine {
    /// Checks the options of a write and says under which name fields are owned.
    pub(super) fn writer<'c>(
        &'c self,
        call: &'c Call,
        options: WriteOptions,
    ) -> Result<Writer<'c>, ApiError> {
        let named = call.options.field_manager.as_deref().unwrap_or_default();
        let mut causes = Causes::default();
        match options {
            WriteOptions::Apply if named.is_empty() => {
                causes.required("fieldManager", "is required for apply patch");
            }
            WriteOptions::Patch if call.options.force.is_some() => {
                causes.forbidden("force", "may not be specified for non-apply patch");
            }
            _ => (),
        }
        check_manager("fieldManager", named, &mut causes);
        if !causes.is_empty() {
            return Err(ApiError::invalid_options(options.kind(), causes));
        }
        let manager = match named {
            "" => managed_fields::manager_of_agent(&call.agent).into(),
            named => named.into(),
        };
        Ok(Writer {
            manager,
            info: call.objects.info,
            subresource: call.objects.subresource,
            now: self.now(),
            shapes: Some(&self.shapes),
        })
    }

    pub(super) async fn update(&self, call: &Call, content: &Content) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let writer = self.writer(call, WriteOptions::Update)?;
        let Draft { object, warnings } = Draft::read(objects, options, content)?;
        let guarded = has_text(&object, "resourceVersion");
        let manner = Manner {
            race: if guarded { Race::Lost } else { Race::Repeated },
            missing: match objects.subresource {
                None => objects.info.missing,
                Some(_) => Missing::Refused,
            },
            reads: Reads::of_part(objects),
        };
        let change = |_: Option<&Value>| {
            Ok(Change {
                object: object.clone(),
                owners: Owners::Sent,
            })
        };
        let mut answer = self.rewrite(call, &writer, manner, change).await?;
        answer.warnings.splice(0..0, warnings);
        Ok(answer)
    }

    /// Replaces an object with what `change` makes of it.
    pub(super) async fn rewrite(
        &self,
        call: &Call,
        writer: &Writer<'_>,
        manner: Manner,
        mut change: impl FnMut(Option<&Value>) -> Result<Change, ApiError>,
    ) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let (info, name) = (objects.info, objects.name());
        for attempt in 1.. {
            let Some(record) = self.store.get(&objects.key()) else {
                if manner.missing == Missing::Refused {
                    return Err(ApiError::not_found(info, name));
                }
                self.authorizer.confirm_creation(call)?;
                let fresh = fresh(info, name, change(None)?)?;
                match self.create_object(call, writer, fresh).await {
                    // Someone else created it meanwhile: then this is a change after all.
                    Err(error) if error.is_already_exists() && attempt < ATTEMPTS_MAX => continue,
                    created => return created,
                }
            };
            let old = match manner.reads {
                Reads::Status if leaves_spec(call, &record) => Sparse::of(&record),
                Reads::Status | Reads::Whole => Sparse::whole(info, &record),
            };
            let Change { mut object, owners } = change(Some(&old.object))?;
            let mut claims = self.settle(call, writer, &old, &mut object, owners)?;
            if object == old.object {
                return Ok(Answer::encoded(StatusCode::OK, record.value.clone()));
            }
            if options.persistence == Persistence::DryRun {
                return Ok(Answer::encoded(StatusCode::OK, object::document(&object)));
            }
            claims.begin();
            let encoded = old.encode_changed(info, &object);
            let written = self.write(objects, &record, &object, encoded).await;
            claims.end();
            match written? {
                Ok(record) => {
                    return Ok(Answer::encoded(StatusCode::OK, record.value.clone()));
                }
                Err(WriteError::Changed { .. })
                    if manner.race == Race::Repeated && attempt < ATTEMPTS_MAX => {}
                Err(error) => return Err(write_failure(info, name, error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Brings what a client wants into the form in which it is kept, and checks it.
    fn settle(
        &self,
        call: &Call,
        writer: &Writer<'_>,
        found: &Sparse<'_>,
        new: &mut Value,
        owners: Owners,
    ) -> Result<Claims<'_>, ApiError> {
        let objects = &call.objects;
        let old = &found.object;
        let mut causes = Causes::default();
        check_identity(call, old, new, &mut causes)?;
        carry(objects, old, new);
        match found.is_sparse() {
            true => defaults::pod_status(new),
            false => (objects.info.defaults)(new),
        }
        certificates::complete(call, Some(old), new, self.now());
        if owners == Owners::Sent {
            writer.record(Some(old), new);
        }
        // What the server keeps or drops by itself is nobody's change.
        if matches!(objects.subresource, None | Some(Subresource::Status)) {
            (objects.info.on_update)(old, new);
        }
        self.admit(call, Some(old), new)?;
        self.admission.mutate(&self.store, call, Some(old), new)?;
        let mut claims = self.admission.allocate(&self.store, call, Some(old), new)?;
        check_change(objects, old, new, causes)?;
        self.admission
            .check(&self.store, call, Some(old), new, &mut claims)?;
        if counts(objects.info.generation, old, new) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
            new["metadata"]["generation"] = Value::from(generation.saturating_add(1));
        }
        managed_fields::ignore_times(old, new);
        Ok(claims)
    }

    /// Writes a changed object, or removes it if only a finalizer had kept it.
    pub(super) async fn write(
        &self,
        objects: &Objects,
        old: &ObjectRecord,
        new: &Value,
        encoded: Encoded,
    ) -> Result<Result<std::sync::Arc<ObjectRecord>, WriteError>, ApiError> {
        if encoded.len() > OBJECT_BYTES_MAX {
            return Err(ApiError::too_large(OBJECT_BYTES_MAX));
        }
        let (key, expect) = (objects.key(), Expect::At(old.revision));
        let render = |revision| encoded.render(revision);
        Ok(if is_finished(objects.info, new) {
            self.store.delete(&key, expect, render).await
        } else {
            self.store.put(&key, expect, render).await
        })
    }
}

/// Says whether the specification of a pod can stay text while its status changes: nothing is asked of it
/// but whether containers that have ended may come back, unless all of them may.
fn leaves_spec(call: &Call, record: &ObjectRecord) -> bool {
    let info = call.objects.info;
    let is_pod = (info.group, info.kind) == ("", "Pod");
    let all_come_back = || record.index.field(info, "spec.restartPolicy") == "Always";
    let has_ended = || object::mentions(record, r#""terminated":"#);
    is_pod && call.options.persistence != Persistence::DryRun && (all_come_back() || !has_ended())
}

impl WriteOptions {
    fn kind(self) -> &'static str {
        match self {
            WriteOptions::Create => "CreateOptions",
            WriteOptions::Update => "UpdateOptions",
            WriteOptions::Patch | WriteOptions::Apply => "PatchOptions",
        }
    }
}

/// Checks the name under which someone owns fields.
fn check_manager(field: &str, name: &str, causes: &mut Causes) {
    if name.len() > MANAGER_BYTES_MAX {
        causes.too_long(field, MANAGER_BYTES_MAX);
    }
    for (place, letter) in name.char_indices() {
        if letter.is_control() || (letter.is_whitespace() && letter != ' ') {
            let code = u32::from(letter);
            let why = format!("invalid character U+{code:04X} (at position {place})");
            causes.invalid(field, &Value::from(name), &why);
        }
    }
}

/// Checks the owners that a client sent with an object, as far as they are kept.
pub(super) fn check_owners(object: &Value, causes: &mut Causes) {
    let entries = validate::elements(&object["metadata"]["managedFields"]);
    for (place, entry) in entries.enumerate() {
        let field = |name: &str| format!("metadata.managedFields[{place}].{name}");
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        check_manager(&field("manager"), text("manager"), causes);
        if text("subresource").len() > SUBRESOURCE_BYTES_MAX {
            causes.too_long(field("subresource"), SUBRESOURCE_BYTES_MAX);
        }
    }
}

/// Checks an object that a request creates although it names one.
fn fresh(info: &KindInfo, name: &str, change: Change) -> Result<Change, ApiError> {
    let mut change = change;
    if has_text(&change.object, "uid") {
        let uid = change.object["metadata"]["uid"]
            .as_str()
            .unwrap_or_default();
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was \
             found"
        );
        return Err(ApiError::conflict(info, name, &why));
    }
    // Kubernetes compares revisions with that of an object that is there, and only then.
    put_or_remove(
        &mut change.object["metadata"],
        "resourceVersion",
        &Value::Null,
    );
    Ok(change)
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

fn has_text(object: &Value, field: &str) -> bool {
    let text = object["metadata"][field].as_str();
    text.is_some_and(|text| !text.is_empty())
}

/// Refuses a change that was meant for another object or another revision of this one.
fn check_identity(
    call: &Call,
    old: &Value,
    new: &Value,
    causes: &mut Causes,
) -> Result<(), ApiError> {
    let (info, name) = (call.objects.info, call.objects.name());
    let (before, after) = (&old["metadata"], &new["metadata"]);
    let text = |metadata: &Value, field: &str| {
        let text = metadata[field].as_str().unwrap_or_default();
        text.to_owned()
    };
    let (wanted, found) = (text(after, "uid"), text(before, "uid"));
    if !wanted.is_empty() && wanted != found {
        if call.verb == Verb::Update {
            let why = format!(
                "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
            );
            return Err(ApiError::conflict(info, name, &why));
        }
        causes.invalid("metadata.uid", &after["uid"], "field is immutable");
    }
    let wanted = text(after, "resourceVersion");
    if wanted.is_empty() && info.unguarded == Unguarded::Refused {
        return Err(ApiError::revision_required(info, name));
    }
    if !wanted.is_empty() && wanted != text(before, "resourceVersion") {
        return Err(ApiError::modified(info, name));
    }
    // Only a deletion marks an object; a client may leave the mark out, but not change it.
    let unmarked = before["deletionTimestamp"].is_null();
    if unmarked && !after["deletionTimestamp"].is_null() {
        let field = "metadata.deletionTimestamp";
        causes.invalid(field, &after["deletionTimestamp"], "field is immutable");
    }
    let grace = &after["deletionGracePeriodSeconds"];
    if !grace.is_null() && *grace != before["deletionGracePeriodSeconds"] {
        let field = "metadata.deletionGracePeriodSeconds";
        causes.invalid(field, grace, "field is immutable");
    }
    Ok(())
}

/// Takes over from the old object what this request may not change.
fn carry(objects: &Objects, old: &Value, new: &mut Value) {
    let empty = Map::new();
    let old_fields = old.as_object().unwrap_or(&empty);
    let new_fields = new.as_object_mut().expect("drafts are objects");
    if let Some(Subresource::Status | Subresource::Approval) = objects.subresource {
        let outside = |name: &str| name == "status" || name == "metadata";
        new_fields.retain(|name, _| outside(name));
        let kept = old_fields.iter().filter(|(name, _)| !outside(name));
        new_fields.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
    }
    if objects.subresource == Some(Subresource::EphemeralContainers) {
        carry_all_but_ephemeral(old, new);
    }
    if objects.subresource == Some(Subresource::Resize) {
        validate::pod::carry_resources(old, new);
    }
    for path in managed_fields::kept(objects.info, objects.subresource) {
        restore(old, new, path);
    }
    for field in SERVER_FIELDS {
        put_or_remove(&mut new["metadata"], field, &old["metadata"][*field]);
    }
}

/// Takes over everything but the ephemeral containers, and who owns what.
fn carry_all_but_ephemeral(old: &Value, new: &mut Value) {
    let containers = new["spec"]["ephemeralContainers"].take();
    let owners = new["metadata"]["managedFields"].take();
    new.clone_from(old);
    put_or_remove(&mut new["spec"], "ephemeralContainers", &containers);
    put_or_remove(&mut new["metadata"], "managedFields", &owners);
}

/// Gives the field at a path the value it has in `old`.
fn restore(old: &Value, new: &mut Value, path: &[&str]) {
    match path {
        [] => (),
        [field] => put_or_remove(new, field, old.get(field).unwrap_or(&Value::Null)),
        [field, below @ ..] => {
            let old = old.get(field).unwrap_or(&Value::Null);
            let Some(fields) = new.as_object_mut() else {
                return;
            };
            match fields.get_mut(*field) {
                Some(new) => restore(old, new, below),
                None if old.is_null() => (),
                None => {
                    let mut fresh = Value::Object(Map::new());
                    restore(old, &mut fresh, below);
                    fields.insert((*field).to_owned(), fresh);
                }
            }
        }
    }
}

fn put_or_remove(object: &mut Value, name: &str, value: &Value) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    if fields.get(name) == Some(value) {
        return;
    }
    match value {
        Value::Null => drop(fields.remove(name)),
        value => drop(fields.insert(name.to_owned(), value.clone())),
    }
}

/// Validates a change, in addition to what is known to be wrong with it.
fn check_change(
    objects: &Objects,
    old: &Value,
    new: &Value,
    mut causes: Causes,
) -> Result<(), ApiError> {
    let info = objects.info;
    validate::metadata(info, new, &mut causes);
    validate::metadata_change(old, new, &mut causes);
    check_owners(new, &mut causes);
    match objects.subresource {
        None => (info.validate)(new, Some(old), &mut causes),
        Some(Subresource::Approval | Subresource::Status) => {
            (info.validate_status)(new, old, &mut causes);
        }
        Some(Subresource::EphemeralContainers) => {
            validate::pod::ephemeral_containers(new, old, &mut causes);
        }
        Some(Subresource::Resize) => validate::pod::resize(new, old, &mut causes),
        Some(Subresource::Finalize) => check_finalizers(new, &mut causes),
        Some(_) => (),
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(info, objects.name(), causes))
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
