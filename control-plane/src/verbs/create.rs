//! Creating objects.

use coracle_store::{Expect, WriteError};
use http::StatusCode;
use rand::RngExt as _;
use serde_json::Value;

use super::{
    Machine,
    draft::Draft,
    rewrite::{Change, OBJECT_BYTES_MAX, Owners, WriteOptions, check_owners},
    write_failure,
};
use crate::{
    certificates,
    invalid::Causes,
    kinds::{Generation, KindInfo},
    managed_fields::Writer,
    object,
    request::{Call, Persistence},
    service::{Answer, Content},
    status::ApiError,
    unique::unique,
    validate,
};

/// A generated name is this much of the base and five characters behind it: 63 together.
const GENERATED_BASE_BYTES_MAX: usize = 58;
const GENERATED_LETTERS: usize = 5;
const GENERATED_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A generated name that is taken is drawn again this often, as the stock server does.
const GENERATED_ATTEMPTS_MAX: usize = 8;

/// What the server alone sets; clients may send it back, it does not count.
const SERVER_FIELDS: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "resourceVersion",
    "selfLink",
    "uid",
];

impl Machine {
    pub(super) async fn create(&self, call: &Call, content: &Content) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let writer = self.writer(call, WriteOptions::Create)?;
        let Draft { object, warnings } = Draft::read(objects, options, content)?;
        let fresh = Change {
            object,
            owners: Owners::Sent,
        };
        let mut answer = self.create_object(call, &writer, fresh).await?;
        answer.warnings.splice(0..0, warnings);
        Ok(answer)
    }

    /// Creates an object that has been read.
    pub(super) async fn create_object(
        &self,
        call: &Call,
        writer: &Writer<'_>,
        fresh: Change,
    ) -> Result<Answer, ApiError> {
        let info = call.objects.info;
        let Change { mut object, owners } = fresh;
        self.check_namespace(&call.objects, &object)?;
        self.stamp(info, &mut object)?;
        (info.defaults)(&mut object);
        if owners == Owners::Sent {
            writer.record(None, &mut object);
        }
        certificates::complete(call, None, &mut object, self.now());
        self.admit(call, None, &object)?;
        self.admission.ready(&self.store, call, &object).await;
        self.admission
            .mutate(&self.store, call, None, &mut object)?;
        // What the server begins an object with belongs to nobody, and tells of the whole spec.
        (info.on_create)(&mut object);
        let warnings = (info.warnings)(&object);
        let mut answer = self.insert(call, object).await?;
        answer.warnings = warnings;
        Ok(answer)
    }

    /// Sets what the server sets on every new object.
    fn stamp(&self, info: &KindInfo, object: &mut Value) -> Result<(), ApiError> {
        let metadata = object["metadata"]
            .as_object_mut()
            .expect("drafts have metadata");
        if metadata
            .get("resourceVersion")
            .is_some_and(|version| version != "")
        {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::bad_request(message));
        }
        SERVER_FIELDS
            .iter()
            .for_each(|name| drop(metadata.remove(*name)));
        metadata.insert("uid".to_owned(), Value::from(unique().to_string()));
        metadata.insert(
            "creationTimestamp".to_owned(),
            Value::from(self.now().to_string()),
        );
        if info.generation != Generation::Absent {
            metadata.insert("generation".to_owned(), Value::from(1));
        }
        Ok(())
    }

    /// Names, checks and writes a new object.
    async fn insert(&self, call: &Call, mut object: Value) -> Result<Answer, ApiError> {
        let base = generated_base(&object);
        generate_name(&mut object, base.as_deref());
        let mut claims = self
            .admission
            .allocate(&self.store, call, None, &mut object)?;
        check(call.objects.info, &object)?;
        self.admission
            .check(&self.store, call, None, &object, &mut claims)?;
        if call.options.persistence == Persistence::DryRun {
            return self.pretend(call, &object);
        }
        claims.begin();
        let answer = self.put_new(call, object, base).await;
        claims.end();
        answer
    }

    /// Answers as if an object had been written.
    fn pretend(&self, call: &Call, object: &Value) -> Result<Answer, ApiError> {
        let info = call.objects.info;
        let name = name(object);
        let key = object::key(info, call.objects.namespace.as_deref(), name);
        match self.store.get(&key) {
            Some(_) => Err(ApiError::already_exists(info, name)),
            None => Ok(Answer::encoded(
                StatusCode::CREATED,
                object::document(object),
            )),
        }
    }

    /// Writes a new object; a generated name that is taken is drawn again.
    async fn put_new(
        &self,
        call: &Call,
        mut object: Value,
        base: Option<String>,
    ) -> Result<Answer, ApiError> {
        let info = call.objects.info;
        for attempt in 1.. {
            let key = object::key(info, call.objects.namespace.as_deref(), name(&object));
            let encoded = object::encode(info, &object);
            if encoded.len() > OBJECT_BYTES_MAX {
                return Err(ApiError::too_large(OBJECT_BYTES_MAX));
            }
            let render = |revision| encoded.render(revision);
            match self.store.put(&key, Expect::Absent, render).await {
                Ok(record) => {
                    return Ok(Answer::encoded(StatusCode::CREATED, record.value.clone()));
                }
                Err(WriteError::Exists) if base.is_some() && attempt < GENERATED_ATTEMPTS_MAX => {
                    generate_name(&mut object, base.as_deref());
                }
                Err(error) => return Err(write_failure(info, name(&object), error)),
            }
        }
        unreachable!("the last attempt returns")
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn generate_name(object: &mut Value, base: Option<&str>) {
    if let Some(base) = base {
        object["metadata"]["name"] = Value::from(base.to_owned() + &suffix());
    }
}

/// Checks a new object by itself.
fn check(info: &KindInfo, object: &Value) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    validate::metadata(info, object, &mut causes);
    check_owners(object, &mut causes);
    (info.validate)(object, None, &mut causes);
    match causes.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid(info, name(object), causes)),
    }
}

/// Returns what a generated name begins with, if the object asks for one.
fn generated_base(object: &Value) -> Option<String> {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    if !text("name").is_empty() || text("generateName").is_empty() {
        return None;
    }
    let mut base = text("generateName").to_owned();
    base.truncate(base.floor_char_boundary(GENERATED_BASE_BYTES_MAX));
    Some(base)
}

/// Returns the random end of a generated name.
pub(crate) fn suffix() -> String {
    let mut random = rand::rng();
    let letter = |_| GENERATED_ALPHABET[random.random_range(0..GENERATED_ALPHABET.len())];
    (0..GENERATED_LETTERS).map(letter).map(char::from).collect()
}
