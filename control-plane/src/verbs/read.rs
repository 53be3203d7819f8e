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

fn list_revision(options: &Options, from: Option<&Continue>) -> Option<Revision> {
    let revision = match (from, options.version_match) {
        (Some(from), _) => Some(from.revision).filter(|&revision| revision > 0),
        (None, Some(VersionMatch::Exact)) => options.resource_version,
        (None, Some(VersionMatch::NotOlderThan) | None) => None,
    };
    revision.map(Revision::from)
}

fn list_failure(error: RangeError, at: Option<Revision>, from: Option<&Continue>) -> ApiError {
    let wanted = at.unwrap_or_default().get();
    match (error, from) {
        (RangeError::Future { newest }, _) => ApiError::version_too_large(wanted, newest.get()),
        (RangeError::Compacted { oldest }, None) => ApiError::expired(wanted, oldest.get()),
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
    match options.version_match {
        Some(_) if options.continue_token.is_some() => {
            causes.forbidden(
                field,
                "resourceVersionMatch is forbidden when continue is provided",
            );
        }
        Some(_) if options.resource_version.is_none() => causes.forbidden(
            field,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        Some(VersionMatch::Exact) if options.resource_version == Some(0) => causes.forbidden(
            field,
            "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
        ),
        Some(_) | None => (),
    }
    if options.send_initial_events.is_some() {
        causes.forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        );
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid_list_options(causes))
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
        read().ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

impl std::fmt::Display for Continue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(format!("{}:{}", self.revision, self.after)))
    }
}
