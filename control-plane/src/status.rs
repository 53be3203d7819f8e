//! Failures, worded exactly as Kubernetes words them: kind `Status`, reason, code and details.

use std::borrow::Cow;

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{
    invalid::{Cause, Causes},
    kinds::KindInfo,
};

/// A refused request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: StatusCode,
    reason: &'static str,
    pub(crate) message: String,
    /// Boxed, so that the many functions that can fail return little when they do not.
    details: Box<Details>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Details {
    name: Option<String>,
    group: Option<Cow<'static, str>>,
    kind: Option<Cow<'static, str>>,
    causes: Vec<Cause>,
    retry_after_seconds: Option<u32>,
    /// Where a list whose revision is gone can go on with what is there now.
    continue_token: Option<String>,
}

/// Failures that the stock server details even where there is nothing to tell.
const EMPTY_DETAILS: &[StatusCode] = &[
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::CONFLICT,
    StatusCode::UNPROCESSABLE_ENTITY,
];

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> ApiError {
        let (message, details) = (message.into(), Box::default());
        ApiError {
            code,
            reason,
            message,
            details,
        }
    }

    fn about(mut self, info: &KindInfo, name: &str) -> ApiError {
        self.details.name = Some(name.to_owned());
        self.details.group = Some(info.group.into());
        self.details.kind = Some(info.plural.into());
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn not_found(info: &KindInfo, name: &str) -> ApiError {
        let message = format!("{} \"{name}\" not found", info.qualified());
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", message).about(info, name)
    }

    /// The path leads nowhere.
    pub(crate) fn no_such_path() -> ApiError {
        let message = "the server could not find the requested resource";
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// The path leads to something that a stock server has and this one has not.
    ///
    /// The text begins as that of any other path, since clients look for it.
    pub(crate) fn not_served(what: &str) -> ApiError {
        let message =
            format!("the server could not find the requested resource: {what} is not served here");
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(crate) fn method_not_allowed() -> ApiError {
        let message = "the server does not allow this method on the requested resource";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(crate) fn already_exists(info: &KindInfo, name: &str) -> ApiError {
        let message = format!("{} \"{name}\" already exists", info.qualified());
        ApiError::new(StatusCode::CONFLICT, "AlreadyExists", message).about(info, name)
    }

    pub(crate) fn conflict(info: &KindInfo, name: &str, why: &str) -> ApiError {
        let what = info.qualified();
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        ApiError::new(StatusCode::CONFLICT, "Conflict", message).about(info, name)
    }

    /// As a conflict about a part of an object.
    pub(crate) fn conflict_of(what: &'static str, name: &str, why: &str) -> ApiError {
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        let mut error = ApiError::new(StatusCode::CONFLICT, "Conflict", message);
        error.details.name = Some(name.to_owned());
        error.details.kind = Some(what.into());
        error
    }

    /// The caller may do it in general, but not to this object.
    pub(crate) fn forbidden_object(info: &KindInfo, name: &str, why: &str) -> ApiError {
        let message = format!("{} \"{name}\" is forbidden: {why}", info.qualified());
        ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message).about(info, name)
    }

    /// Nothing more is placed in a namespace that is being deleted.
    pub(crate) fn namespace_terminating(info: &KindInfo, name: &str, namespace: &str) -> ApiError {
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let mut error = ApiError::forbidden_object(info, name, &why);
        error.details.causes = vec![Cause::namespace_terminating(namespace)];
        error
    }

    /// A deletion was meant for another object or another revision of this one.
    pub(crate) fn precondition_failed(info: &KindInfo, name: &str, why: &str) -> ApiError {
        let what = match info.group {
            "" => info.kind.to_owned(),
            group => format!("{}.{group}", info.kind),
        };
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        let mut error = ApiError::new(StatusCode::CONFLICT, "Conflict", message).about(info, name);
        error.details.kind = Some(info.kind.into());
        error
    }

    /// Another write came between the client's read and its write.
    pub(crate) fn modified(info: &KindInfo, name: &str) -> ApiError {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        ApiError::conflict(info, name, why)
    }

    pub(crate) fn invalid(info: &KindInfo, name: &str, causes: Causes) -> ApiError {
        let causes = causes.into_vec();
        let list = sentences(&causes);
        // Events are checked in their stored form, and named after it.
        let group = info.stored().group;
        let qualified = match group {
            "" => info.kind.to_owned(),
            group => format!("{}.{group}", info.kind),
        };
        let message = format!("{qualified} \"{name}\" is invalid: {list}");
        let code = StatusCode::UNPROCESSABLE_ENTITY;
        let mut error = ApiError::new(code, "Invalid", message).about(info, name);
        error.details.group = Some(group.into());
        error.details.kind = Some(info.kind.into());
        error.details.causes = causes;
        error
    }

    /// What is asked is not a stored object and has no name.
    pub(crate) fn invalid_named(group: &str, kind: &'static str, causes: Causes) -> ApiError {
        let causes = causes.into_vec();
        let message = format!("{kind}.{group} \"\" is invalid: {}", sentences(&causes));
        let mut error = ApiError::unprocessable(message);
        error.details.group = Some(group.to_owned().into());
        error.details.kind = Some(kind.into());
        error.details.causes = causes;
        error
    }

    /// A patch that does not apply to the object it meets.
    pub(crate) fn unprocessable(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// A patch whose outcome cannot be read as an object of the kind.
    pub(crate) fn unreadable_patch(patch: &str, why: &str) -> ApiError {
        let mut causes = Causes::default();
        causes.invalid("patch", &Value::from(patch), why);
        let causes = causes.into_vec();
        let message = format!(" \"\" is invalid: {}", sentences(&causes));
        let mut error = ApiError::unprocessable(message);
        error.details.causes = causes;
        error
    }

    /// A patch that the object it meets does not take; Kubernetes does not tell why.
    pub(crate) fn patch_refused() -> ApiError {
        let message = "the server rejected our request due to an error in our request";
        ApiError::unprocessable(message)
    }

    /// An apply that sets fields of other managers.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Cause>) -> ApiError {
        let mut error = ApiError::new(StatusCode::CONFLICT, "Conflict", message);
        error.details.causes = causes;
        error
    }

    /// What Kubernetes lets fall through to its clients without a reason.
    pub(crate) fn unclassified(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    pub(crate) fn unsupported_media(accepted: &[&str]) -> ApiError {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    pub(crate) fn not_acceptable(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(crate) fn too_large(limit: usize) -> ApiError {
        ApiError::entity_too_large(format!("limit is {limit}"))
    }

    /// More of something than is taken; `why` says what the limit is.
    pub(crate) fn entity_too_large(why: String) -> ApiError {
        let message = format!("Request entity too large: {why}");
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            message,
        )
    }

    /// An update of a kind whose updates have to say which revision they were made for.
    pub(crate) fn revision_required(info: &KindInfo, name: &str) -> ApiError {
        let mut causes = Causes::default();
        let why = "must be specified for an update";
        causes.invalid("metadata.resourceVersion", &Value::from(0), why);
        let mut error = ApiError::invalid(info, name, causes);
        let (kind, list) = (info.qualified(), sentences(&error.details.causes));
        error.message = format!("{kind} \"{name}\" is invalid: {list}");
        error.details.kind = Some(info.plural.into());
        error
    }

    /// Says whether an object could not be created because there is one.
    pub(crate) fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// The history no longer reaches back to `wanted`.
    pub(crate) fn expired(wanted: u64, oldest: u64) -> ApiError {
        let message = format!("too old resource version: {wanted} ({oldest})");
        ApiError::new(StatusCode::GONE, "Expired", message)
    }

    /// The revision that a list shall show is no longer kept.
    pub(crate) fn list_expired() -> ApiError {
        let message = "The resourceVersion for the provided list is too old.";
        ApiError::new(StatusCode::GONE, "Expired", message)
    }

    /// The rest of a list can no longer be read at the revision of its first page.
    pub(crate) fn continue_expired(fresh: String) -> ApiError {
        let message = "The provided continue parameter is too old to display a consistent list \
                       result. You can start a new list without the continue parameter, or use \
                       the continue token in this response to retrieve the remainder of the \
                       results. Continuing with the provided token results in an inconsistent \
                       list - objects that were created, modified, or deleted between the time \
                       the first chunk was returned and now may show up in the list.";
        let mut error = ApiError::new(StatusCode::GONE, "Expired", message);
        error.details.continue_token = Some(fresh);
        error
    }

    /// Query parameters of a list or watch that contradict each other.
    pub(crate) fn invalid_list_options(causes: Causes) -> ApiError {
        ApiError::invalid_options("ListOptions", causes)
    }

    /// Options of a verb that are unknown or contradict each other.
    pub(crate) fn invalid_options(kind: &'static str, causes: Causes) -> ApiError {
        let mut error = ApiError::unprocessable("");
        error.details.group = Some("meta.k8s.io".into());
        error.details.kind = Some(kind.into());
        error.details.causes = causes.into_vec();
        let list = sentences(&error.details.causes);
        error.message = format!("{kind}.meta.k8s.io \"\" is invalid: {list}");
        error
    }

    /// Parameters of a log that are out of range.
    pub(crate) fn invalid_log_options(pod: &str, causes: Causes) -> ApiError {
        let mut error = ApiError::unprocessable("");
        error.details.name = Some(pod.to_owned());
        error.details.kind = Some("PodLogOptions".into());
        error.details.causes = causes.into_vec();
        let list = sentences(&error.details.causes);
        error.message = format!("PodLogOptions \"{pod}\" is invalid: {list}");
        error
    }

    /// The node knows nothing of what the API knows, and has said so.
    pub(crate) fn not_found_by_node(info: &KindInfo, name: &str, said: &str) -> ApiError {
        let what = info.qualified();
        let message = format!("the server could not find the requested resource ( {what} {name})");
        let mut error = ApiError::new(StatusCode::NOT_FOUND, "NotFound", message).about(info, name);
        error.details.causes = vec![Cause::unexpected_response(said)];
        error
    }

    /// The revision lies in the future.
    pub(crate) fn version_too_large(wanted: u64, newest: u64) -> ApiError {
        let message = format!("Timeout: Too large resource version: {wanted}, current: {newest}");
        let mut error = ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
        error.details.causes = vec![Cause::too_large_resource_version()];
        error.details.retry_after_seconds = Some(1);
        error
    }

    /// The client must say who it is, or its proof is worth nothing.
    pub(crate) fn unauthorized() -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// The user may not do this; `resource` is empty for paths that are no resource's.
    pub(crate) fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> ApiError {
        let qualified = match group {
            "" => resource.to_owned(),
            group => format!("{resource}.{group}"),
        };
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{qualified} is forbidden: {why}"),
            (_, name) => format!("{qualified} \"{name}\" is forbidden: {why}"),
        };
        let mut error = ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message);
        error.details.name = Some(name.to_owned());
        error.details.group = Some(group.to_owned().into());
        error.details.kind = Some(resource.to_owned().into());
        error
    }

    pub(crate) fn timeout(message: &str) -> ApiError {
        let message = format!("Timeout: {message}");
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            message,
        )
    }

    /// Says whether the object was missing.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code == StatusCode::NOT_FOUND
    }

    /// Returns the object that is sent to the client.
    pub(crate) fn to_status(&self) -> Value {
        let mut details = json!({});
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                details[name] = value;
            }
        };
        let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Value::from);
        set("name", self.details.name.as_deref().and_then(text));
        set("group", self.details.group.as_deref().and_then(text));
        set("kind", self.details.kind.as_deref().and_then(text));
        set(
            "retryAfterSeconds",
            self.details.retry_after_seconds.map(Value::from),
        );
        let causes: Vec<_> = self.details.causes.iter().map(Cause::to_json).collect();
        set(
            "causes",
            (!causes.is_empty()).then_some(Value::Array(causes)),
        );
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code.as_u16(),
        });
        if !self.reason.is_empty() {
            status["reason"] = Value::from(self.reason);
        }
        if let Some(token) = &self.details.continue_token {
            status["metadata"]["continue"] = Value::from(token.as_str());
        }
        let empty = details.as_object().is_some_and(Map::is_empty);
        if !empty || EMPTY_DETAILS.contains(&self.code) {
            status["details"] = details;
        }
        status
    }
}

/// The answer to a request that leaves nothing to show.
pub(crate) fn success(info: &KindInfo, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": info.plural, "uid": uid});
    if !info.group.is_empty() {
        details["group"] = Value::from(info.group);
    }
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}

fn sentences(causes: &[Cause]) -> String {
    match causes {
        [one] => one.sentence(),
        many => format!(
            "[{}]",
            many.iter()
                .map(Cause::sentence)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}
