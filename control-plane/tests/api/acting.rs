//! Requests in the name of somebody.

use std::sync::Arc;

use bytes::Bytes;
use coracle_control_plane::{ApiBody, Caller, ControlPlane, ControlPlaneConfig, Identity};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::ServiceExt;

use crate::harness::Harness;

impl Harness {
    /// Starts one with keys that the test knows.
    pub(crate) async fn with_identity(identity: Arc<Identity>) -> Harness {
        let config = ControlPlaneConfig {
            identity,
            ..ControlPlaneConfig::default()
        };
        Harness {
            plane: ControlPlane::start(config).await,
        }
    }

    /// Sends JSON as a caller and returns the answer as it comes.
    pub(crate) async fn response_as(
        &self,
        caller: &Caller,
        method: &str,
        path: &str,
        body: Value,
    ) -> Response<ApiBody> {
        let request = request_as(caller, method, path, "application/json", &body);
        self.plane.service().oneshot(request).await.unwrap()
    }

    /// Sends JSON as a caller; null is no body.
    pub(crate) async fn send_as(
        &self,
        caller: &Caller,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        self.send_media(caller, method, path, "application/json", body)
            .await
    }

    /// Sends a body of a type as a caller.
    pub(crate) async fn send_media(
        &self,
        caller: &Caller,
        method: &str,
        path: &str,
        media: &str,
        body: Value,
    ) -> (u16, Value) {
        let request = request_as(caller, method, path, media, &body);
        read(self.plane.service().oneshot(request).await.unwrap()).await
    }

    /// Sends nothing but headers as a caller.
    pub(crate) async fn send_acting(
        &self,
        caller: &Caller,
        method: &str,
        path: &str,
        headers: &[(String, String)],
    ) -> (u16, Value) {
        let mut request = request_as(caller, method, path, "", &Value::Null);
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        read(self.plane.service().oneshot(request).await.unwrap()).await
    }

    /// Waits until an object is as it should be.
    pub(crate) async fn until(&self, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let waited = async {
            loop {
                let (_, answer) = self.send("GET", path, "", &Value::Null).await;
                if fits(&answer) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(30);
        let waited = tokio::time::timeout(patience, waited).await;
        waited.unwrap_or_else(|_| panic!("{path} does not become what it should be"))
    }
}

fn request_as(
    caller: &Caller,
    method: &str,
    path: &str,
    media: &str,
    body: &Value,
) -> Request<Full<Bytes>> {
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .extension(caller.clone())
        .body(Full::new(Bytes::from(text)))
        .unwrap()
}

async fn read(response: Response<ApiBody>) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}
