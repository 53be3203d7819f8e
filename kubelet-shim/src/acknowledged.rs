//! Writes of which only the acknowledgement counts.
//!
//! `kube`'s own calls read the whole object out of every answer. An agent that writes statuses and events
//! all day has no use for them, and reading a Pod costs more than sending it.

use bytes::Bytes;
use http::{Method, Request, header};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, Resource};

const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// Patches a pod's status, strategically.
///
/// # Errors
///
/// Fails as [`Api::patch_status`] does.
pub(crate) async fn patch_status(
    pods: &Api<Pod>,
    name: &str,
    patch: Bytes,
) -> Result<(), kube::Error> {
    let url = format!("{}/{name}/status", pods.resource_url());
    send(pods, Method::PATCH, &url, STRATEGIC_PATCH, patch).await
}

/// Creates an event.
///
/// # Errors
///
/// Fails as [`Api::create`] does.
pub(crate) async fn create(events: &Api<Event>, event: &Event) -> Result<(), kube::Error> {
    let body = serde_json::to_vec(event).map_err(kube::Error::SerdeError)?;
    let url = events.resource_url();
    send(events, Method::POST, url, JSON, body.into()).await
}

/// Merges a patch into an event.
///
/// # Errors
///
/// Fails as [`Api::patch`] does.
pub(crate) async fn merge(
    events: &Api<Event>,
    name: &str,
    patch: &serde_json::Value,
) -> Result<(), kube::Error> {
    let url = format!("{}/{name}", events.resource_url());
    let patch = patch.to_string().into();
    send(events, Method::PATCH, &url, MERGE_PATCH, patch).await
}

/// Sends a body and passes the answer over, unless it is a refusal.
async fn send<K: Resource + Clone>(
    api: &Api<K>,
    method: Method,
    url: &str,
    media: &str,
    body: Bytes,
) -> Result<(), kube::Error> {
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header(header::CONTENT_TYPE, media)
        .body(Vec::from(body))
        .map_err(kube::Error::HttpError)?;
    let client = api.clone().into_client();
    client.request_text(request).await.map(drop)
}
