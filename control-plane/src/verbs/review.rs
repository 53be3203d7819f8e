//! Questions in the shape of objects: may he, who am I, whose token is this. The answer is their
//! status; nothing is stored.

mod token;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Machine, draft::Draft, rewrite::WriteOptions};
use crate::{
    authorize::{Attributes, Decision, ResourceAttributes, Rule},
    caller::Caller,
    identity::ISSUER,
    invalid::Causes,
    object,
    request::{Call, Objects},
    service::{Answer, Content},
    status::ApiError,
};

impl Machine {
    /// Answers a question.
    pub(super) fn review(&self, call: &Call, content: &Content) -> Result<Answer, ApiError> {
        let Draft {
            mut object,
            warnings,
        } = Draft::read(&call.objects, &call.options, content)?;
        let (caller, spec) = (&call.caller, &object["spec"]);
        let status = match call.objects.info.kind {
            "SelfSubjectReview" => {
                object["metadata"]["creationTimestamp"] = Value::from(self.now().to_string());
                json!({"userInfo": caller.info()})
            }
            "TokenReview" => self.review_token(spec)?,
            "SelfSubjectRulesReview" => self.review_rules(caller, spec)?,
            "SelfSubjectAccessReview" => {
                check_access(&call.objects, spec, Subject::Caller)?;
                self.review_access(caller, spec)
            }
            "SubjectAccessReview" | "LocalSubjectAccessReview" => {
                check_access(&call.objects, spec, Subject::Named)?;
                self.review_access(&named_caller(spec), spec)
            }
            kind => unreachable!("`{kind}` is no question"),
        };
        let kind = call.objects.info.kind;
        if matches!(
            kind,
            "TokenReview" | "SubjectAccessReview" | "SelfSubjectAccessReview"
        ) {
            let writer = self.writer(call, WriteOptions::Create)?;
            writer.record(None, &mut object);
            object::unpack(&mut object);
        }
        if kind == "SelfSubjectRulesReview" {
            // Kubernetes does not repeat what was asked.
            object["spec"] = json!({});
        }
        object["status"] = status;
        let mut answer = Answer::json(StatusCode::CREATED, &object);
        answer.warnings = warnings;
        Ok(answer)
    }

    fn review_access(&self, caller: &Caller, spec: &Value) -> Value {
        let mut status = Map::new();
        let (allowed, reason) = match self.authorizer.decide(caller, &attributes(spec)) {
            Decision::Allowed(reason) => (true, reason),
            Decision::Refused(reason) => (false, reason),
        };
        status.insert("allowed".to_owned(), Value::from(allowed));
        if !reason.is_empty() {
            status.insert("reason".to_owned(), Value::from(reason));
        }
        Value::Object(status)
    }

    fn review_rules(&self, caller: &Caller, spec: &Value) -> Result<Value, ApiError> {
        let namespace = spec["namespace"].as_str().unwrap_or_default();
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        let held = self.authorizer.rules(caller, namespace);
        let (paths, resources): (Vec<_>, Vec<_>) =
            held.rules.iter().partition(|rule| rule.groups.is_empty());
        let json = |rules: Vec<&Rule>| rules.into_iter().map(Rule::to_json).collect::<Vec<_>>();
        let mut status = json!({
            "resourceRules": json(resources),
            "nonResourceRules": json(paths),
            "incomplete": false,
        });
        if !held.missing.is_empty() {
            status["evaluationError"] = Value::from(held.missing.join(", "));
        }
        Ok(status)
    }

    fn review_token(&self, spec: &Value) -> Result<Value, ApiError> {
        let token = spec["token"].as_str().unwrap_or_default();
        if token.is_empty() {
            return Err(ApiError::bad_request(
                "token is required for TokenReview in authentication",
            ));
        }
        let wanted = words(&spec["audiences"]);
        let wanted = match wanted.is_empty() {
            true => vec![ISSUER.to_owned()],
            false => wanted,
        };
        Ok(match self.token_caller(token, &wanted) {
            Ok((caller, audiences)) => json!({
                "authenticated": true,
                "user": caller.info(),
                "audiences": audiences,
            }),
            Err(why) => json!({"user": {}, "error": why}),
        })
    }
}

/// Whose access is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Caller,
    Named,
}

fn check_access(objects: &Objects, spec: &Value, subject: Subject) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_null(), path.is_null()) {
        (false, false) => causes.invalid(
            "spec.nonResourceAttributes",
            path,
            "cannot be specified in combination with resourceAttributes",
        ),
        (true, true) => causes.invalid(
            "spec.resourceAttributes",
            path,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (true, false) | (false, true) => (),
    }
    let nobody =
        spec["user"].as_str().unwrap_or_default().is_empty() && words(&spec["groups"]).is_empty();
    if subject == Subject::Named && nobody {
        let detail = "at least one of user or group must be specified";
        causes.invalid("spec.user", &json!(""), detail);
    }
    if let Some(namespace) = objects.namespace.as_deref() {
        if !path.is_null() {
            let detail = "disallowed on this kind of request";
            causes.invalid("spec.nonResourceAttributes", path, detail);
        } else if resource["namespace"] != namespace {
            let detail = "must match metadata.namespace";
            causes.invalid(
                "spec.resourceAttributes.namespace",
                &resource["namespace"],
                detail,
            );
        }
    }
    match causes.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid(objects.info, "", causes)),
    }
}

/// Reads what access is asked for.
fn attributes(spec: &Value) -> Attributes {
    let wanted = &spec["resourceAttributes"];
    if wanted.is_null() {
        let text = |field: &str| {
            let value = &spec["nonResourceAttributes"][field];
            value.as_str().unwrap_or_default().to_owned()
        };
        return Attributes::Path {
            verb: text("verb"),
            path: text("path"),
        };
    }
    let text = |field: &str| wanted[field].as_str().unwrap_or_default().to_owned();
    let terms = wanted["fieldSelector"]["requirements"].as_array();
    let fields = terms.into_iter().flatten().filter_map(|term| {
        let (key, mut values) = (term["key"].as_str()?, words(&term["values"]));
        let equal = term["operator"] == "In" && values.len() == 1;
        equal
            .then(|| Some((key.to_owned(), values.pop()?)))
            .flatten()
    });
    Attributes::Resource(ResourceAttributes {
        verb: text("verb"),
        group: text("group"),
        version: text("version"),
        namespace: text("namespace"),
        resource: text("resource"),
        subresource: text("subresource"),
        name: text("name"),
        fields: fields.collect(),
    })
}

/// Reads whose access is asked for.
fn named_caller(spec: &Value) -> Caller {
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let extra = spec["extra"].as_object().into_iter().flatten();
    Caller {
        name: text("user"),
        uid: text("uid"),
        groups: words(&spec["groups"]),
        extra: extra
            .map(|(key, values)| (key.clone(), words(values)))
            .collect(),
    }
}

fn words(list: &Value) -> Vec<String> {
    let words = list.as_array().into_iter().flatten();
    words.filter_map(Value::as_str).map(str::to_owned).collect()
}
