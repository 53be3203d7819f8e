//! Watches that never end, and plain requests: what all controllers see and do.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use http::{Method, Request, header};
use kube::{
    Api, Client, Resource,
    runtime::watcher::{self, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) const JSON: &str = "application/json";
pub(super) const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";

/// The pause after a watch failed, so that a broken API is not asked in a tight loop.
const WATCH_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Watches objects of a kind; failures are logged and the watch goes on.
pub(super) fn changes<K>(
    api: Api<K>,
    config: watcher::Config,
) -> BoxStream<'static, watcher::Event<K>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(api, config.any_semantic());
    events
        .filter_map(|event| async {
            match event {
                Ok(event) => Some(event),
                Err(error) => {
                    tracing::warn!(%error, "watch failed, it goes on");
                    tokio::time::sleep(WATCH_RETRY_DELAY).await;
                    None
                }
            }
        })
        .boxed()
}

/// Says whether a request failed with this code.
pub(super) fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
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
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, media)
        .body(body.to_string().into_bytes());
    let request = request.map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(drop)
}
