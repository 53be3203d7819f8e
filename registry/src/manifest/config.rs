//! An image's configuration: what it is for, how it starts, which tars its layers are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::platform::{self, Platform};
use super::{Manifest, null_is_empty};
use crate::digest::Digest;
use crate::image::ImageConfig;
use crate::refusal::Refusal;

/// The configuration of an OCI or Docker image, as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) config: Runtime,
    pub(crate) rootfs: RootFs,
}

/// How the image's program wants to be started.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Runtime {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) user: String,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub(crate) exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub(crate) env: Vec<String>,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub(crate) entrypoint: Vec<String>,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub(crate) cmd: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) working_dir: String,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub(crate) labels: BTreeMap<String, String>,
}

/// The tars that the layers turn into.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) diff_ids: Vec<Digest>,
}

/// The configuration of a CNCF Wasm artifact.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WasmConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    pub(crate) architecture: String,
    pub(crate) os: String,
    pub(crate) layer_digests: Vec<Digest>,
}

impl ConfigFile {
    /// Reads the configuration and checks that it belongs to the manifest and is for us.
    pub(crate) fn parse(bytes: &[u8], manifest: &Manifest) -> Result<Self, Refusal> {
        let config: Self = serde_json::from_slice(bytes).map_err(|error| Refusal::Config {
            reason: error.to_string(),
        })?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            let reason = format!(
                "it names {} layers and the manifest {}",
                config.rootfs.diff_ids.len(),
                manifest.layers.len(),
            );
            return Err(Refusal::Config { reason });
        }
        let platform = Platform {
            architecture: config.architecture.clone(),
            os: config.os.clone(),
        };
        let settings = config.settings();
        // Many Wasm images were built by tools that only know `linux`: their program tells.
        let is_wasm = platform.is_wasm()
            || platform::is_annotated(&manifest.annotations)
            || settings
                .program()
                .is_some_and(|program| program.ends_with(".wasm"));
        if !is_wasm {
            return Err(platform::refuse([&platform].into_iter()));
        }
        if settings.program().is_none() {
            return Err(Refusal::NoProgram);
        }
        Ok(config)
    }

    /// Returns how the program wants to be started.
    pub(crate) fn settings(&self) -> ImageConfig {
        let runtime = &self.config;
        ImageConfig {
            entrypoint: runtime.entrypoint.clone(),
            cmd: runtime.cmd.clone(),
            env: runtime.env.iter().map(|pair| split_pair(pair)).collect(),
            working_dir: runtime.working_dir.clone(),
            user: runtime.user.clone(),
            exposed_ports: runtime.exposed_ports.keys().cloned().collect(),
            labels: runtime.labels.clone().into_iter().collect(),
        }
    }
}

impl WasmConfig {
    /// Returns when the artifact says it was made; its configuration may be of any form.
    pub(crate) fn created(bytes: &[u8]) -> Option<String> {
        serde_json::from_slice::<Self>(bytes).ok()?.created
    }
}

/// A variable without `=` is set to nothing.
fn split_pair(pair: &str) -> (String, String) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name.to_owned(), value.to_owned())
}
