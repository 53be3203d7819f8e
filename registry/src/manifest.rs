//! Manifests, indexes and configurations: read with suspicion, understood as one of few kinds.

mod config;
mod platform;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use config::{ConfigFile, RootFs, Runtime, WasmConfig};
pub(crate) use platform::{Platform, choose};

use crate::digest::Digest;
use crate::refusal::Refusal;
use crate::rootfs::inflate::{Compression, UNPACKED_BYTES_MAX};
use crate::store::Expected;

/// Registries accept no larger manifests.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Configurations are of the same order.
pub(crate) const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// A module beyond this cannot be compiled within the memory of a compiler process.
pub(crate) const MODULE_BYTES_MAX: u64 = 512 << 20;
/// Docker's own limit.
const LAYERS_MAX: usize = 127;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub(crate) const WASM_LAYER: &str = "application/wasm";
pub(crate) const TAR_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const SPIN_CONFIG: &str = "application/vnd.fermyon.spin.application.v1+config";

/// Layers that are a bare module or component, in every form that is met in registries.
const MODULE_LAYERS: [&str; 4] = [
    WASM_LAYER,
    // Krustlet, wasm-to-oci, Spin.
    "application/vnd.wasm.content.layer.v1+wasm",
    // runwasi.
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    // wasmCloud.
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

/// A manifest or an index, as it travels. Fields that nothing here relies on are not read; among
/// them `urls`, which would send requests to hosts of the image's choice.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layers: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifests: Option<Vec<Descriptor>>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A piece of content and where it belongs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A document that was understood.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A list of manifests to choose from.
    Index(Vec<Descriptor>),
    /// One image or artifact.
    Manifest(Manifest),
}

/// The manifest of one image or artifact.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What a manifest turns out to be.
#[derive(Debug)]
pub(crate) enum Form {
    /// One layer that is a module or component.
    Module(Descriptor),
    /// Tar layers; whether they hold Wasm is known from the configuration.
    Layers(Vec<(Descriptor, Compression)>),
}

impl Descriptor {
    /// Returns what its bytes must be.
    pub(crate) fn expected(&self) -> Expected {
        Expected {
            digest: self.digest,
            size: self.size,
        }
    }
}

/// Reads a manifest or an index.
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Parsed, Refusal> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| Refusal::Manifest {
        reason: error.to_string(),
    })?;
    let invalid = |reason: &str| {
        Err(Refusal::Manifest {
            reason: reason.to_owned(),
        })
    };
    if document.schema_version != 2 {
        return invalid("its `schemaVersion` is not 2");
    }
    // One document that is both would be read differently by others.
    if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
        return invalid("it is an index and a manifest at once");
    }
    if let Some(manifests) = document.manifests {
        return Ok(Parsed::Index(manifests));
    }
    let Some(config) = document.config else {
        return invalid("it has no `config`");
    };
    let layers = document.layers.unwrap_or_default();
    if layers.is_empty() {
        return invalid("it has no layers");
    }
    if layers.len() > LAYERS_MAX {
        return invalid("it has more than 127 layers");
    }
    let media_type = document
        .media_type
        .or_else(|| content_type.map(str::to_owned))
        .filter(|media_type| [OCI_MANIFEST, DOCKER_MANIFEST].contains(&media_type.as_str()))
        .unwrap_or_else(|| OCI_MANIFEST.to_owned());
    let annotations = document.annotations;
    Ok(Parsed::Manifest(Manifest {
        media_type,
        config,
        layers,
        annotations,
    }))
}

impl Manifest {
    /// Tells what the manifest describes, by its types alone, and bounds what would be fetched.
    pub(crate) fn form(&self) -> Result<Form, Refusal> {
        if self.config.size > CONFIG_BYTES_MAX {
            return Err(Refusal::Config {
                reason: format!("it has {} bytes", self.config.size),
            });
        }
        let modules = self
            .layers
            .iter()
            .filter(|layer| is_module(&layer.media_type));
        let mut modules = modules.collect::<Vec<_>>();
        if self.config.media_type == SPIN_CONFIG && self.layers.len() != modules.len() {
            let what = "it is a Spin application with files of its own, which are not served";
            return Err(Refusal::Unsupported {
                what: what.to_owned(),
            });
        }
        match (modules.pop(), modules.len()) {
            (Some(module), 0) if module.size > MODULE_BYTES_MAX => Err(Refusal::LargeModule {
                size: module.size,
                max: MODULE_BYTES_MAX,
            }),
            (Some(module), 0) => Ok(Form::Module(module.clone())),
            (Some(_), more) => Err(Refusal::Unsupported {
                what: format!(
                    "it holds {} modules; an artifact with one is served",
                    more + 1
                ),
            }),
            (None, _) => self.tar_layers(),
        }
    }

    fn tar_layers(&self) -> Result<Form, Refusal> {
        let config = self.config.media_type.as_str();
        if config != OCI_CONFIG && config != DOCKER_CONFIG {
            let first = &self.layers[0].media_type;
            let media_type = if config == "application/vnd.oci.empty.v1+json" {
                first
            } else {
                config
            };
            return Err(Refusal::Kind {
                media_type: media_type.to_owned(),
            });
        }
        let mut travelling = 0u64;
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let Some(compression) = compression(&layer.media_type) else {
                return Err(Refusal::Kind {
                    media_type: layer.media_type.clone(),
                });
            };
            travelling = travelling.saturating_add(layer.size);
            if travelling > UNPACKED_BYTES_MAX {
                return Err(Refusal::layer(
                    layer.digest,
                    crate::refusal::LayerFault::Bomb,
                ));
            }
            layers.push((layer.clone(), compression));
        }
        Ok(Form::Layers(layers))
    }
}

fn is_module(media_type: &str) -> bool {
    MODULE_LAYERS.contains(&media_type)
}

/// Returns how a tar layer of this type is compressed; foreign layers count as ordinary ones.
fn compression(media_type: &str) -> Option<Compression> {
    match media_type {
        TAR_LAYER | "application/vnd.oci.image.layer.nondistributable.v1.tar" => {
            Some(Compression::None)
        }
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Some(Compression::Gzip),
        "application/vnd.docker.image.rootfs.diff.tar" => Some(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

/// Some builders write `null` where the specification says a map.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
