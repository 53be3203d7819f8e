//! Which manifest of an index is for us.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Descriptor;
use crate::refusal::Refusal;

/// What an image is made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
}

impl Platform {
    /// Returns whether it names Wasm in one of the ways that are met: `wasi/wasm`, `wasip1/wasm`,
    /// `wasip2/wasm`.
    pub(crate) fn is_wasm(&self) -> bool {
        matches!(self.architecture.as_str(), "wasm" | "wasm32")
            && matches!(self.os.as_str(), "wasi" | "wasip1" | "wasip2")
    }

    /// Returns the platform for a sentence: the system's name and the precise form.
    fn described(&self) -> String {
        let system = match self.os.as_str() {
            "linux" => "Linux",
            "windows" => "Windows",
            "darwin" => "macOS",
            other => other,
        };
        format!("{system} (`{self}`)")
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// Returns whether annotations mark an image as Wasm, as crun and containerd's shims read them.
pub(crate) fn is_annotated(annotations: &BTreeMap<String, String>) -> bool {
    annotations
        .get("run.oci.handler")
        .is_some_and(|handler| handler == "wasm")
        || annotations
            .get("module.wasm.image/variant")
            .is_some_and(|variant| variant.starts_with("compat"))
}

/// Returns the manifest of an index that is for us.
///
/// A Wasm platform comes first, then an annotated image, then an entry that states no platform at
/// all if it is the only one: an artifact.
pub(crate) fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, Refusal> {
    let is_wasm = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(Platform::is_wasm);
    let annotated = |entry: &&Descriptor| is_annotated(&entry.annotations);
    if let Some(entry) = manifests
        .iter()
        .find(is_wasm)
        .or_else(|| manifests.iter().find(annotated))
    {
        return Ok(entry);
    }
    if let [only] = manifests
        && only.platform.is_none()
    {
        return Ok(only);
    }
    Err(refuse(
        manifests.iter().filter_map(|entry| entry.platform.as_ref()),
    ))
}

/// Returns the refusal of an image that is made for other systems.
pub(crate) fn refuse<'a>(platforms: impl Iterator<Item = &'a Platform>) -> Refusal {
    let mut names: Vec<String> = Vec::new();
    // Build records (`unknown/unknown`) stand beside images and are none.
    for platform in platforms.filter(|platform| platform.os != "unknown") {
        let name = platform.described();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Refusal::Manifest {
            reason: "its index names no image to choose".to_owned(),
        };
    }
    let more = names.len().saturating_sub(3);
    names.truncate(3);
    let mut platform = names.join(", ");
    if more > 0 {
        platform.push_str(&format!(" and {more} more"));
    }
    Refusal::Platform { platform }
}
