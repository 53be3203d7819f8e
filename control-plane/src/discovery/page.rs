//! A document as it is sent: in the form that the client takes, and only if it is new to it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde_json::Value;

use crate::{
    openapi::v2,
    service::ApiBody,
    status::ApiError,
    view::{Clause, accepted},
};

/// What is sent.
#[derive(Debug)]
pub(super) struct Page {
    code: StatusCode,
    bytes: Bytes,
    media: &'static str,
    caching: Caching,
    hash: Option<String>,
    coding: v2::Coding,
}

/// What a client may do with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caching {
    /// Nothing.
    Never,
    /// Ask whether it is still the same.
    Checked,
    /// Keep it: another content has another address.
    Forever,
}

/// Whether a path has a form that tells everything at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregation {
    Offered,
    Absent,
}

/// How the client takes the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Aggregated(AggregatedVersion),
}

/// The version of `apidiscovery.k8s.io`; they look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AggregatedVersion {
    V2,
    V2Beta1,
}

/// Chooses the form that the client likes best.
pub(super) fn form(head: &Parts, aggregation: Aggregation) -> Result<Form, ApiError> {
    let clauses = accepted(&head.headers);
    if clauses.is_empty() {
        return Ok(Form::Plain);
    }
    let form = clauses
        .iter()
        .find_map(|clause| form_of(clause, aggregation));
    form.ok_or_else(|| {
        ApiError::not_acceptable("only the following media types are accepted: application/json")
    })
}

/// Chooses the form of the OpenAPI document of all versions; parameters say nothing here.
pub(super) fn openapi_form(headers: &HeaderMap) -> Result<v2::Form, ApiError> {
    let clauses = accepted(headers);
    if clauses.is_empty() {
        return Ok(v2::Form::Json);
    }
    let known = |clause: &Clause<'_>| v2::NAMES.iter().find(|(name, _)| clause.covers(name));
    let form = clauses.iter().find_map(known).map(|(_, form)| *form);
    form.ok_or_else(|| {
        let names: Vec<_> = v2::NAMES
            .iter()
            .map(|(name, _)| format!("application/{name}"))
            .collect();
        let names = names.join(", ");
        ApiError::not_acceptable(format!(
            "only the following media types are accepted: {names}"
        ))
    })
}

fn form_of(clause: &Clause<'_>, aggregation: Aggregation) -> Option<Form> {
    if !clause.covers("json") {
        return None;
    }
    let wanted = (clause.kind, clause.group, clause.version);
    match (wanted, aggregation) {
        ((None, ..), _) => Some(Form::Plain),
        (
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some(version)),
            Aggregation::Offered,
        ) => match version {
            "v2" => Some(Form::Aggregated(AggregatedVersion::V2)),
            "v2beta1" => Some(Form::Aggregated(AggregatedVersion::V2Beta1)),
            _ => None,
        },
        _ => None,
    }
}

impl Page {
    /// A document that is put together for each request.
    pub(super) fn json(value: &Value) -> Page {
        Page {
            code: StatusCode::OK,
            bytes: Bytes::from(value.to_string()),
            media: "application/json",
            caching: Caching::Never,
            hash: None,
            coding: v2::Coding::Plain,
        }
    }

    /// The keys by which tokens are checked.
    pub(super) fn key_set(value: &Value) -> Page {
        Page {
            media: "application/jwk-set+json",
            ..Page::json(value)
        }
    }

    /// A sentence for a person or a probe.
    pub(super) fn text(code: StatusCode, text: String) -> Page {
        Page {
            code,
            bytes: Bytes::from(text),
            media: "text/plain; charset=utf-8",
            caching: Caching::Never,
            hash: None,
            coding: v2::Coding::Plain,
        }
    }

    /// A document that clients keep under this hash.
    pub(super) fn tagged(
        bytes: Bytes,
        hash: String,
        media: &'static str,
        caching: Caching,
    ) -> Page {
        Page {
            code: StatusCode::OK,
            bytes,
            media,
            caching,
            hash: Some(hash),
            coding: v2::Coding::Plain,
        }
    }

    /// The OpenAPI document of all versions in one of its forms.
    pub(super) fn coded(document: v2::Document, form: v2::Form, coding: v2::Coding) -> Page {
        let hash = document.hash.to_owned();
        let media = form.media_type();
        Page {
            coding,
            ..Page::tagged(document.bytes, hash, media, Caching::Never)
        }
    }

    pub(super) fn respond(self, head: &Parts) -> Response<ApiBody> {
        let known = self
            .hash
            .as_ref()
            .is_some_and(|hash| knows(&head.headers, hash));
        let bytes = if known { Bytes::new() } else { self.bytes };
        let mut response = Response::new(ApiBody::whole(bytes));
        *response.status_mut() = if known {
            StatusCode::NOT_MODIFIED
        } else {
            self.code
        };
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: &str| {
            let value = HeaderValue::from_str(value);
            headers.insert(
                name,
                value.expect("hashes, dates and media types are visible ASCII"),
            );
        };
        set(header::CONTENT_TYPE, self.media);
        if let Some(hash) = &self.hash {
            set(header::ETAG, &format!("\"{hash}\""));
            set(header::VARY, "Accept");
        }
        if self.coding == v2::Coding::Gzip {
            set(header::VARY, "Accept, Accept-Encoding");
            if !known {
                set(header::CONTENT_ENCODING, "gzip");
            }
        }
        match self.caching {
            Caching::Never => set(header::CACHE_CONTROL, "no-cache, private"),
            Caching::Checked => set(header::CACHE_CONTROL, "public"),
            Caching::Forever => {
                set(header::CACHE_CONTROL, "public, immutable");
                set(header::EXPIRES, &in_a_year());
            }
        }
        response
    }
}

/// Whether the client says that it has this content.
fn knows(headers: &HeaderMap, hash: &str) -> bool {
    let tags = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = tags
        .filter_map(|tags| tags.to_str().ok())
        .flat_map(|tags| tags.split(','));
    tags.any(|tag| {
        let tag = tag.trim();
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag.trim_matches('"') == hash
    })
}

fn in_a_year() -> String {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let then = now.checked_add(1.year()).unwrap_or(now);
    then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, aggregation: Aggregation, expected: Option<Form>) {
        let request = http::Request::builder().header("accept", accept);
        let (head, ()) = request.body(()).expect("a request").into_parts();
        assert_eq!(form(&head, aggregation).ok(), expected, "{accept}");
    }

    #[test]
    fn the_form_is_the_best_that_both_know() {
        let aggregated = |version: &str| {
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
        };
        let (v2, beta) = (AggregatedVersion::V2, AggregatedVersion::V2Beta1);
        let all = format!(
            "{},{},application/json",
            aggregated("v2"),
            aggregated("v2beta1")
        );
        check(&all, Aggregation::Offered, Some(Form::Aggregated(v2)));
        check(&all, Aggregation::Absent, Some(Form::Plain));
        let nopeer = format!("{};profile=nopeer", aggregated("v2"));
        check(&nopeer, Aggregation::Offered, Some(Form::Aggregated(v2)));
        check(&nopeer, Aggregation::Absent, None);
        let newer = format!("{}, {}", aggregated("v3"), aggregated("v2beta1"));
        check(&newer, Aggregation::Offered, Some(Form::Aggregated(beta)));
        let liked = format!("{};q=0.5,application/json;q=0.9", aggregated("v2"));
        check(&liked, Aggregation::Offered, Some(Form::Plain));
        check("*/*", Aggregation::Offered, Some(Form::Plain));
        check("", Aggregation::Offered, Some(Form::Plain));
        let openapi = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
        check(openapi, Aggregation::Absent, None);
    }
}
