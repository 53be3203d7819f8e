//! Plain requests: what all controllers do.

use http::{Method, Request, header};
use kube::Client;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) const JSON: &str = "application/json";
pub(super) const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";

/// Says whether a request failed with this code.
pub(super) fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Says whether a create failed because its namespace is gone, or going.
pub(super) fn takes_nothing_in(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let is_terminating = status.details.as_ref().is_some_and(|details| {
        let mut causes = details.causes.iter();
        causes.any(|cause| cause.reason == "NamespaceTerminating")
    });
    status.code == 404 || (status.code == 403 && is_terminating)
}

/// Takes a failure with this code as no failure, since the outcome is the wanted one.
pub(super) fn unless(result: Result<(), kube::Error>, code: u16) -> Result<(), kube::Error> {
    match result {
        Err(error) if has_code(&error, code) => Ok(()),
        other => other,
    }
}

/// Sends a request whose answer does not matter, as long as it succeeds.
pub(super) async fn send(
    client: &Client,
    method: Method,
    path: &str,
    media: &str,
    body: &Value,
) -> Result<(), kube::Error> {
    let request = request(method, path, media, body)?;
    client.request_text(request).await.map(drop)
}

/// Sends JSON and returns what the answer says.
pub(super) async fn ask<T: DeserializeOwned>(
    client: &Client,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<T, kube::Error> {
    client.request(request(method, path, JSON, body)?).await
}

fn request(
    method: Method,
    path: &str,
    media: &str,
    body: &Value,
) -> Result<Request<Vec<u8>>, kube::Error> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, media)
        .body(body.to_string().into_bytes());
    request.map_err(kube::Error::HttpError)
}
