//! How a deletion is wanted: `DeleteOptions`, from the query or the body.

use http::StatusCode;
use serde_json::Value;

use super::super::draft::Draft;
use crate::{
    invalid::Causes,
    kinds::KindInfo,
    object::ObjectRecord,
    request::{Options, Persistence, Propagation},
    service::Content,
    status::ApiError,
};

const DELETE_OPTIONS: &str = "meta.v1.DeleteOptions";

/// How a deletion is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    pub(super) grace_seconds: Option<i64>,
    pub(super) propagation: Option<Propagation>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) persistence: Persistence,
    /// The old way to ask for a propagation; only it is answered with 202.
    pub(super) orphan_dependents: Option<bool>,
}

impl Wish {
    /// Reads the options from query and body; what the body says comes first.
    pub(super) fn read(options: &Options, content: &Content) -> Result<Wish, ApiError> {
        let body = match content.bytes.is_empty() {
            true => Value::Null,
            // `DeleteOptions` of any group version mean the same.
            false => Draft::of_any_version(DELETE_OPTIONS, options, content)?.object,
        };
        Wish::merged(options, &body)
    }

    /// Puts options together; `body` is null if there is none.
    pub(super) fn merged(options: &Options, body: &Value) -> Result<Wish, ApiError> {
        let text = |pointer| body.pointer(pointer).and_then(Value::as_str);
        let mut causes = Causes::default();
        let orphan = body["orphanDependents"].as_bool();
        let orphan = orphan.or(options.orphan_dependents);
        let policy = text("/propagationPolicy").or(options.propagation.as_deref());
        let propagation = propagation(policy, orphan, &mut causes);
        let dry_runs = body["dryRun"].as_array().map_or(&[][..], Vec::as_slice);
        if dry_runs.iter().any(|word| word != "All") {
            causes.not_supported("dryRun", &body["dryRun"], &["All"]);
        }
        if !causes.is_empty() {
            return Err(ApiError::invalid_options("DeleteOptions", causes));
        }
        let persistence = match dry_runs {
            [] => options.persistence,
            _ => Persistence::DryRun,
        };
        let grace_seconds = body["gracePeriodSeconds"].as_i64();
        Ok(Wish {
            grace_seconds: grace_seconds.or(options.grace_seconds),
            propagation,
            uid: text("/preconditions/uid").map(str::to_owned),
            resource_version: text("/preconditions/resourceVersion").map(str::to_owned),
            persistence,
            orphan_dependents: orphan,
        })
    }

    /// Refuses an object that is not the one that is meant.
    pub(super) fn check(
        &self,
        info: &KindInfo,
        name: &str,
        record: &ObjectRecord,
    ) -> Result<(), ApiError> {
        let refuse = |what: &str, wanted: &str, found: &str, then: &str| {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record \
                 ({found}). The object might have been {then}"
            );
            Err(ApiError::precondition_failed(info, name, &why))
        };
        let found = record.revision.to_string();
        match (&self.uid, &self.resource_version) {
            (Some(uid), _) if **uid != *record.index.uid => {
                refuse("UID", uid, &record.index.uid, "deleted and then recreated")
            }
            (_, Some(version)) if *version != found => {
                refuse("ResourceVersion", version, &found, "modified")
            }
            _ => Ok(()),
        }
    }

    /// Returns the code of an answer that shows an object which is still there.
    pub(super) fn code_if_kept(&self) -> StatusCode {
        match self.orphan_dependents {
            Some(false) => StatusCode::ACCEPTED,
            // The stock server keeps to 200 here, for the sake of its oldest clients.
            Some(true) | None => StatusCode::OK,
        }
    }
}

fn propagation(
    policy: Option<&str>,
    orphan: Option<bool>,
    causes: &mut Causes,
) -> Option<Propagation> {
    let field = "propagationPolicy";
    let known = match policy {
        None | Some("") => None,
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some("Orphan") => Some(Propagation::Orphan),
        Some(other) => {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            causes.not_supported(field, &Value::from(other), &known);
            None
        }
    };
    match (policy, orphan) {
        (Some(policy), Some(_)) if !policy.is_empty() => {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            causes.invalid(field, &Value::from(policy), why);
            known
        }
        (_, Some(true)) => Some(Propagation::Orphan),
        (_, Some(false)) => Some(Propagation::Background),
        (_, None) => known,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(query: &str, body: Value, expected: Result<Option<Propagation>, &str>) {
        let options = Options::parse(query).expect("the query is well-formed");
        let found = Wish::merged(&options, &body);
        let found = found.map(|wish| wish.propagation);
        assert_eq!(
            found.map_err(|error| error.message),
            expected.map_err(str::to_owned),
            "{query} {body}"
        );
    }

    #[test]
    fn the_propagation_is_read_from_wherever_it_is_given() {
        check("", Value::Null, Ok(None));
        check(
            "propagationPolicy=Orphan",
            Value::Null,
            Ok(Some(Propagation::Orphan)),
        );
        check(
            "propagationPolicy=Orphan",
            json!({"propagationPolicy": "Foreground"}),
            Ok(Some(Propagation::Foreground)),
        );
        check(
            "orphanDependents=true",
            json!({}),
            Ok(Some(Propagation::Orphan)),
        );
        check(
            "",
            json!({"orphanDependents": false}),
            Ok(Some(Propagation::Background)),
        );
    }

    #[test]
    fn contradicting_and_unknown_wishes_are_refused() {
        let both = "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \
                    \"Orphan\": orphanDependents and deletionPropagation cannot be both set";
        let body = json!({"orphanDependents": true, "propagationPolicy": "Orphan"});
        check("", body, Err(both));
        let unknown = "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported \
                       value: \"Sideways\": supported values: \"Foreground\", \"Background\", \
                       \"Orphan\", \"nil\"";
        check("propagationPolicy=Sideways", Value::Null, Err(unknown));
        let dry_run = "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \
                       [\"Some\"]: supported values: \"All\"";
        check("", json!({"dryRun": ["Some"]}), Err(dry_run));
    }
}
