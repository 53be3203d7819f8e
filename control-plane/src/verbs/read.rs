//! Getting and listing objects: stored bytes go out as they are.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coracle_store::{Range, RangeError, Revision};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Machine, not_in_future};
use crate::{
    invalid::Causes,
    object::{self, ObjectRecord},
    request::{Call, Options, VersionMatch},
    service::Answer,
    status::ApiError,
};

/// Where the next page of a list begins. Revision 0 goes on with whatever is there by then.
#[derive(Debug, PartialEq, Eq)]
struct Continue {
    revision: u64,
    after: String,
}

/// A list, or a page of one.
#[derive(Debug)]
pub(super) struct ListPage {
    metadata: Value,
    pub(super) records: Vec<Arc<ObjectRecord>>,
}

impl Machine {
    pub(super) fn get(&self, call: &Call) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        not_in_future(options.resource_version, self.store.revision())?;
        match self.store.get(&objects.key()) {
            Some(record) => Ok(Answer::encoded(StatusCode::OK, record.value.clone())),
            None => Err(ApiError::not_found(objects.info, objects.name())),
        }
    }

    pub(super) fn list(&self, call: &Call) -> Result<Answer, ApiError> {
        Ok(self.page(call)?.answer(call))
    }

    /// Returns the objects that a list shows.
    pub(super) fn page(&self, call: &Call) -> Result<ListPage, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        check_list_options(options)?;
        let selector = objects.selector(options)?;
        let from = options
            .continue_token
            .as_deref()
            .map(Continue::parse)
            .transpose()?;
        if from.is_none() {
            not_in_future(options.resource_version, self.store.revision())?;
        }
        let prefix = object::prefix(objects.info, objects.namespace.as_deref());
        if from
            .as_ref()
            .is_some_and(|from| !from.after.starts_with(&prefix))
        {
            // A token for another list.
            return Err(invalid_continue());
        }
        let range = Range {
            prefix: &prefix,
            after: from.as_ref().map(|from| from.after.as_str()),
            limit: options.limit,
            at: list_revision(options, from.as_ref()),
        };
        let page = self
            .store
            .range(&range, |record| selector.matches(record))
            .map_err(|error| list_failure(error, range.at, from.as_ref()))?;
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if let (true, Some(last)) = (page.remaining > 0, page.records.last()) {
            let next = Continue {
                revision: page.revision.get(),
                after: last.key.to_string(),
            };
            metadata["continue"] = Value::from(next.to_string());
            if selector.is_everything() {
                metadata["remainingItemCount"] = Value::from(page.remaining);
            }
        }
        let records = page.records;
        Ok(ListPage { metadata, records })
    }
}

impl ListPage {
    pub(super) fn answer(self, call: &Call) -> Answer {
        Answer::list(call, &self.metadata, self.records)
    }
}

/// Returns the revision that a list must show; without one it shows the newest.
fn list_revision(options: &Options, from: Option<&Continue>) -> Option<Revision> {
    let revision = match (from, options.version_match) {
        (Some(from), _) => Some(from.revision),
        (None, Some(VersionMatch::Exact)) => options.resource_version,
        // Before there was a way to say so, pages of a revision were exact.
        (None, None) if options.limit.is_some() => options.resource_version,
        (None, Some(VersionMatch::NotOlderThan) | None) => None,
    };
    revision
        .filter(|&revision| revision > 0)
        .map(Revision::from)
}

fn invalid_continue() -> ApiError {
    ApiError::bad_request("invalid continue token: continue key is not valid")
}

fn list_failure(error: RangeError, at: Option<Revision>, from: Option<&Continue>) -> ApiError {
    let wanted = at.unwrap_or_default().get();
    match (error, from) {
        (RangeError::Future { newest }, _) => ApiError::version_too_large(wanted, newest.get()),
        (RangeError::Compacted { .. }, None) => ApiError::list_expired(),
        (RangeError::Compacted { .. }, Some(from)) => {
            let fresh = Continue {
                revision: 0,
                after: from.after.clone(),
            };
            ApiError::continue_expired(fresh.to_string())
        }
    }
}

fn check_list_options(options: &Options) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    let field = "resourceVersionMatch";
    if let Some(wanted) = options.version_match {
        if options.resource_version.is_none() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            causes.forbidden(field, why);
        }
        if options.continue_token.is_some() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            causes.forbidden(field, why);
        }
        if (wanted, options.resource_version) == (VersionMatch::Exact, Some(0)) {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            causes.forbidden(field, why);
        }
    }
    if options.send_initial_events.is_some() {
        causes.forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        );
    }
    if !causes.is_empty() {
        return Err(ApiError::invalid_list_options(causes));
    }
    match (&options.continue_token, options.resource_version) {
        (Some(_), Some(revision)) if revision > 0 => Err(ApiError::bad_request(
            "specifying resource version is not allowed when using continue",
        )),
        _ => Ok(()),
    }
}

impl Continue {
    fn parse(token: &str) -> Result<Continue, ApiError> {
        let read = || {
            let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            let (revision, after) = text.split_once(':')?;
            Some(Continue {
                revision: revision.parse().ok()?,
                after: after.to_owned(),
            })
        };
        read().ok_or_else(invalid_continue)
    }
}

impl std::fmt::Display for Continue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(format!("{}:{}", self.revision, self.after)))
    }
}
