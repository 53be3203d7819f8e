//! Requests against a control plane in this process.

use bytes::Bytes;
use coracle_control_plane::{ApiBody, ControlPlane, ControlPlaneConfig, LocalVolumes};
use coracle_store::Limits;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use kube::{Api, runtime::wait::await_condition};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{fmt::Debug, time::Duration};
use tower::ServiceExt;

/// How long a controller may take on a busy machine before a test says that nothing happens.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running control plane.
pub(crate) struct Harness {
    pub(crate) plane: ControlPlane,
}

impl Harness {
    /// Starts one with the limits that everyone gets.
    pub(crate) async fn start() -> Harness {
        Harness {
            plane: ControlPlane::start(ControlPlaneConfig::default()).await,
        }
    }

    /// Starts one that gives claims folders in `folder`, on the node `n`.
    pub(crate) async fn with_folders(folder: &std::path::Path) -> Harness {
        let config = ControlPlaneConfig {
            local_volumes: Some(LocalVolumes {
                folder: folder.to_owned(),
                node: "n".to_owned(),
            }),
            ..ControlPlaneConfig::default()
        };
        Harness {
            plane: ControlPlane::start(config).await,
        }
    }

    /// Starts one that keeps only so many events for watches.
    pub(crate) async fn with_history(history_events: usize) -> Harness {
        let history = Limits {
            history_events,
            ..Limits::default()
        };
        Harness::with(ControlPlaneConfig {
            history,
            ..ControlPlaneConfig::default()
        })
        .await
    }

    /// Starts one with a configuration.
    pub(crate) async fn with(config: ControlPlaneConfig) -> Harness {
        Harness {
            plane: ControlPlane::start(config).await,
        }
    }

    /// Sends a request and returns the answer as it comes.
    pub(crate) async fn response(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: String,
    ) -> Response<ApiBody> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        self.plane.service().oneshot(request).await.unwrap()
    }

    /// Gets a path with more header fields and returns the answer as it comes.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response<ApiBody> {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        self.plane.service().oneshot(request).await.unwrap()
    }

    /// Sends text and returns the code and the JSON of the answer.
    pub(crate) async fn send_text(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: String,
    ) -> (u16, Value) {
        let response = self.response(method, path, media, body).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap())
    }

    /// Sends JSON; null is no body.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: &Value,
    ) -> (u16, Value) {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send_text(method, path, media, text).await
    }
}

/// Returns the whole body of an answer.
pub(crate) async fn bytes(response: Response<ApiBody>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// Returns the JSON of an answer.
pub(crate) async fn json(response: Response<ApiBody>) -> Value {
    serde_json::from_slice(&bytes(response).await).unwrap()
}

/// Sends a request; the answer must have this code and contain what is expected.
pub(crate) async fn check(
    api: &Harness,
    method: &str,
    path: &str,
    body: Value,
    code: u16,
    expected: Value,
) -> Value {
    let (found, answer) = api.send(method, path, "application/json", &body).await;
    assert_eq!(found, code, "{method} {path}: {answer}");
    contains(&answer, &expected, &format!("{method} {path}"));
    answer
}

/// Watches an object until it is as it shall be; `None` is its absence.
pub(crate) async fn until<K>(api: &Api<K>, name: &str, is_right: impl Fn(Option<&K>) -> bool)
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let done = await_condition(api.clone(), name, is_right);
    let waited = tokio::time::timeout(PATIENCE, done).await;
    waited.expect("what is awaited happens").unwrap();
}

/// Compares the parts of `found` that `expected` names.
pub(crate) fn contains(found: &Value, expected: &Value, at: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (name, expected) in expected {
                let value = found.get(name).unwrap_or(&Value::Null);
                contains(value, expected, &format!("{at}.{name}"));
            }
        }
        (Value::Array(found), Value::Array(expected)) if found.len() == expected.len() => {
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                contains(found, expected, &format!("{at}[{index}]"));
            }
        }
        (found, expected) => assert_eq!(found, expected, "{at}"),
    }
}
