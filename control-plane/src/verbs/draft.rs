//! Reads a request's body into an object of a kind, as strictly as the client asked for.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{
    admission,
    decode::{self, Decoded},
    invalid::Causes,
    kinds::{self, KindInfo},
    request::{FieldValidation, Objects, Options},
    schema::{normalise, schema},
    service::Content,
    status::ApiError,
    validate,
};

/// An object as a client wants it, in the form in which objects are stored.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) object: Value,
    pub(super) warnings: Vec<String>,
}

/// An object that is none of its type, as Kubernetes' decoder words it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Undecodable(String);

impl Draft {
    /// Reads the body of a request that carries a whole object.
    pub(super) fn read(
        objects: &Objects,
        options: &Options,
        content: &Content,
    ) -> Result<Draft, ApiError> {
        let mut draft = Draft::of_type(objects.info, objects.info.schema, options, content)?;
        draft.place(objects)?;
        draft.dedupe_owners("");
        Ok(draft)
    }

    /// Reads a body of another type than the kind's own, such as a pod's binding.
    pub(super) fn of_type(
        info: &KindInfo,
        schema: &str,
        options: &Options,
        content: &Content,
    ) -> Result<Draft, ApiError> {
        let decoded = decode::body(content, schema)?;
        let duplicates = decoded.duplicates;
        Draft::normalised(
            info,
            schema,
            options.field_validation,
            decoded.value,
            duplicates,
        )
    }

    /// Reads a body of a type that several versions share; the version stays as it was written.
    pub(super) fn of_any_version(
        schema: &str,
        options: &Options,
        content: &Content,
    ) -> Result<Draft, ApiError> {
        let pods = kinds::served("v1", "Pod").expect("pods are in the table");
        let Decoded {
            mut value,
            duplicates,
        } = decode::body(content, schema)?;
        let fields = value.as_object_mut();
        let version = fields.and_then(|fields| fields.remove("apiVersion"));
        let mut draft =
            Draft::normalised(pods, schema, options.field_validation, value, duplicates)?;
        draft.object["apiVersion"] = version.unwrap_or_default();
        Ok(draft)
    }

    /// Brings an object into its stored form; `duplicates` were found when it was parsed.
    pub(super) fn normalised(
        info: &KindInfo,
        schema_name: &str,
        validation: FieldValidation,
        object: Value,
        duplicates: Vec<String>,
    ) -> Result<Draft, ApiError> {
        let kind = schema_name.rsplit('.').next().unwrap_or(schema_name);
        Draft::check_type(info, kind, &object)?;
        let duplicates = duplicates.iter();
        let duplicates = duplicates.map(|path| format!("duplicate field \"{path}\""));
        let draft = Draft::decode(info, schema_name, validation, object, duplicates.collect());
        draft.map_err(|undecodable| {
            let version = info.api_version();
            ApiError::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: {undecodable}"
            ))
        })
    }

    /// Brings an object of the right kind into its stored form; `surplus` are complaints that
    /// its text has already given rise to.
    pub(super) fn decode(
        info: &KindInfo,
        schema_name: &str,
        validation: FieldValidation,
        mut object: Value,
        mut surplus: Vec<String>,
    ) -> Result<Draft, Undecodable> {
        let kind = schema_name.rsplit('.').next().unwrap_or(schema_name);
        mark_reset(&mut object);
        let found = normalise(schema().type_id(schema_name), &mut object)
            .map_err(|mismatch| Undecodable(mismatch.to_string()))?;
        let unknown = found
            .unknown
            .iter()
            .map(|path| format!("unknown field \"{path}\""));
        surplus.splice(0..0, unknown);
        let warnings = match validation {
            FieldValidation::Strict if !surplus.is_empty() => {
                let list = surplus.join(", ");
                return Err(Undecodable(format!("strict decoding error: {list}")));
            }
            FieldValidation::Strict | FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn => surplus,
        };
        object["kind"] = Value::from(kind);
        object["apiVersion"] = Value::from(info.api_version());
        if !object["metadata"].is_object() {
            object["metadata"] = Value::Object(Map::new());
        }
        Ok(Draft { object, warnings })
    }

    /// Drops owners that are there twice, and warns of them; `when` says when they were found.
    pub(super) fn dedupe_owners(&mut self, when: &str) {
        let Some(owners) = self.object["metadata"]
            .get_mut("ownerReferences")
            .and_then(Value::as_array_mut)
        else {
            return;
        };
        let (mut seen, mut twice) = (BTreeSet::new(), Vec::new());
        owners.retain(|owner| {
            let fresh = seen.insert(owner.to_string());
            if !fresh {
                twice.push(owner["uid"].as_str().unwrap_or_default().to_owned());
            }
            fresh
        });
        if !twice.is_empty() {
            self.warnings.push(format!(
                ".metadata.ownerReferences contains duplicate entries{when}; API server dedups \
                 owner references in 1.20+, and may reject such requests as early as 1.24; please \
                 fix your requests; duplicate UID(s) observed: [{}]",
                twice.join(" ")
            ));
        }
    }

    /// Checks that body and path mean the same object, and completes the namespace from the path.
    pub(super) fn place(&mut self, objects: &Objects) -> Result<(), ApiError> {
        self.fits(objects)?;
        let metadata = &mut self.object["metadata"];
        match objects.namespace.as_deref().unwrap_or_default() {
            "" => drop(
                metadata
                    .as_object_mut()
                    .map(|metadata| metadata.remove("namespace")),
            ),
            namespace => metadata["namespace"] = Value::from(namespace),
        }
        Ok(())
    }

    /// Checks that the object is the one that the path names.
    pub(super) fn fits(&self, objects: &Objects) -> Result<(), ApiError> {
        let metadata = &self.object["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default();
        let found = text("namespace");
        if !found.is_empty() && found != objects.namespace.as_deref().unwrap_or_default() {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the \
                 request",
            ));
        }
        match (objects.name.as_deref(), text("name")) {
            (None, _) => Ok(()),
            (Some(name), found) if found == name => Ok(()),
            (Some(name), "") => Err(ApiError::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be \
                 provided"
            ))),
            (Some(name), found) => Err(ApiError::bad_request(format!(
                "the name of the object ({found}) does not match the name on the URL ({name})"
            ))),
        }
    }

    /// Refuses an object that says of itself that it is of another kind or version.
    pub(super) fn check_type(info: &KindInfo, kind: &str, object: &Value) -> Result<(), ApiError> {
        let word = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        if !object.is_object() {
            return Err(ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): not an object"
            )));
        }
        let version = info.api_version();
        match (word("kind"), word("apiVersion")) {
            (found, _) if !found.is_empty() && found != kind => {
                Err(ApiError::bad_request(format!(
                    "the object provided is unrecognized (must be of type {kind}): its kind is \
                     {found}"
                )))
            }
            (_, found) if !found.is_empty() && found != version => {
                Err(ApiError::bad_request(format!(
                    "the API version in the data ({found}) does not match the expected API \
                     version ({version})"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Keeps apart an empty list of owners, by which a client asks to forget them, from none.
fn mark_reset(object: &mut Value) {
    let entries = object
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("managedFields"));
    if let Some(Value::Array(entries)) = entries
        && entries.is_empty()
    {
        entries.push(Value::Object(Map::new()));
    }
}

/// Checks one manifest as a strict create would, without a server.
pub(crate) fn check(info: &KindInfo, manifest: &Value) -> Result<(), ApiError> {
    let strict = FieldValidation::Strict;
    let draft = Draft::normalised(info, info.schema, strict, manifest.clone(), Vec::new())?;
    let mut object = draft.object;
    (info.defaults)(&mut object);
    admission::assume(info, &mut object);
    (info.on_create)(&mut object);
    let mut causes = Causes::default();
    validate::metadata(info, &object, &mut causes);
    (info.validate)(&object, None, &mut causes);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(info, name, causes))
    }
}
