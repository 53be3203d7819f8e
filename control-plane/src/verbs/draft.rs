//! Reads a request's body into an object of a kind, as strictly as the client asked for.

use serde_json::{Map, Value};

use crate::{
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

impl Draft {
    /// Reads the body of a request that carries a whole object.
    pub(super) fn read(
        objects: &Objects,
        options: &Options,
        content: &Content,
    ) -> Result<Draft, ApiError> {
        let mut draft = Draft::of_type(objects.info, objects.info.schema, options, content)?;
        draft.fit_path(objects)?;
        Ok(draft)
    }

    /// Reads a body of another type than the kind's own, such as a pod's binding.
    pub(super) fn of_type(
        info: &KindInfo,
        schema: &str,
        options: &Options,
        content: &Content,
    ) -> Result<Draft, ApiError> {
        let decoded = decoded(schema, content)?;
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
        } = decoded(schema, content)?;
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
        mut object: Value,
        duplicates: Vec<String>,
    ) -> Result<Draft, ApiError> {
        let kind = schema_name.rsplit('.').next().unwrap_or(schema_name);
        check_type(info, kind, &object)?;
        let refuse = |why: String| {
            let version = info.api_version();
            ApiError::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
            ))
        };
        let found = normalise(schema().type_id(schema_name), &mut object)
            .map_err(|mismatch| refuse(mismatch.to_string()))?;
        let unknown = found
            .unknown
            .iter()
            .map(|path| format!("unknown field \"{path}\""));
        let twice = duplicates
            .iter()
            .map(|path| format!("duplicate field \"{path}\""));
        let surplus: Vec<_> = unknown.chain(twice).collect();
        let warnings = match validation {
            FieldValidation::Strict if !surplus.is_empty() => {
                return Err(refuse(format!(
                    "strict decoding error: {}",
                    surplus.join(", ")
                )));
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

    /// Checks that body and path mean the same object, and completes the body from the path.
    fn fit_path(&mut self, objects: &Objects) -> Result<(), ApiError> {
        let metadata = &mut self.object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = objects.namespace.as_deref().unwrap_or_default();
        let found = text(&metadata["namespace"]);
        if !found.is_empty() && found != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the \
                 request",
            ));
        }
        match namespace {
            "" => drop(
                metadata
                    .as_object_mut()
                    .map(|metadata| metadata.remove("namespace")),
            ),
            namespace => metadata["namespace"] = Value::from(namespace),
        }
        let Some(name) = objects.name.as_deref() else {
            return Ok(());
        };
        match text(&metadata["name"]) {
            found if found == name => Ok(()),
            found if found.is_empty() => {
                metadata["name"] = Value::from(name);
                Ok(())
            }
            found => Err(ApiError::bad_request(format!(
                "the name of the object ({found}) does not match the name on the URL ({name})"
            ))),
        }
    }
}

fn decoded(schema: &str, content: &Content) -> Result<Decoded, ApiError> {
    decode::body(content, schema.rsplit('.').next().unwrap_or(schema))
}

fn check_type(info: &KindInfo, kind: &str, object: &Value) -> Result<(), ApiError> {
    let word = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    if !object.is_object() {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): not an object"
        )));
    }
    let version = info.api_version();
    match (word("kind"), word("apiVersion")) {
        (found, _) if !found.is_empty() && found != kind => Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): its kind is {found}"
        ))),
        (_, found) if !found.is_empty() && found != version => Err(ApiError::bad_request(format!(
            "the API version in the data ({found}) does not match the expected API version \
                 ({version})"
        ))),
        _ => Ok(()),
    }
}

/// Checks one manifest as a strict create would, without a server.
pub(crate) fn check(info: &KindInfo, manifest: &Value) -> Result<(), ApiError> {
    let strict = FieldValidation::Strict;
    let draft = Draft::normalised(info, info.schema, strict, manifest.clone(), Vec::new())?;
    let mut object = draft.object;
    (info.defaults)(&mut object);
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
