//! Everything that can be refused before anything starts: kinds, fields, image files.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail};
use coracle_kubelet_shim::{HostPathPolicy, check_pod};
use coracle_registry::ImageStore;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::image::CodeJudge;
use crate::manifest::Object;
use crate::system::NODE_NAME;

/// The scheduler that a pod asks for when it names none.
const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// What is to be applied, in this order, and what the user should know of it.
#[derive(Debug)]
pub(super) struct Plan {
    /// Namespaces first, pods last.
    pub(super) objects: Vec<Object>,
    /// How many pods will run.
    pub(super) pods: usize,
    /// Lines to print before the start.
    pub(super) notices: Vec<String>,
}

/// Checks every object and packs the image files that pods name.
///
/// # Errors
///
/// Names every object with what is not served, all of them at once.
pub(super) fn check(objects: Vec<Object>, images: &ImageStore) -> anyhow::Result<Plan> {
    refuse_unserved(&objects)?;
    let mut notices = Vec::new();
    let mut refusals = Vec::new();
    let mut checked = Vec::with_capacity(objects.len());
    for mut object in objects {
        if object.kind == "Pod" {
            pack_images(&mut object, images).with_context(|| object.to_string())?;
        }
        coracle_control_plane::check_manifest(&object.value).with_context(|| object.to_string())?;
        if object.kind == "Pod" {
            match refusals_of(&object, &mut notices)? {
                refused if refused.is_empty() => {}
                refused => refusals.push(format!("{object}: {}", refused.join("; "))),
            }
        }
        if object.kind == "PersistentVolume" {
            notices.extend(path_notice(&object));
        }
        checked.push(object);
    }
    if !refusals.is_empty() {
        bail!(
            "nothing was started, because fields are not supported: {}",
            refusals.join("; ")
        );
    }
    let pods = checked.iter().filter(|object| object.kind == "Pod").count();
    if pods == 0 {
        bail!("the manifests hold no Pod, so there is nothing to run");
    }
    checked.sort_by_key(|object| match object.kind.as_str() {
        "Namespace" => 0,
        // A claim that names no class gets the default that is there.
        "StorageClass" => 1,
        "Pod" => 3,
        _ => 2,
    });
    Ok(Plan {
        objects: checked,
        pods,
        notices,
    })
}

/// Says which folder of this machine a volume is.
fn path_notice(object: &Object) -> Option<String> {
    let spec = object.value.get("spec")?;
    let source = spec.get("hostPath").or_else(|| spec.get("local"))?;
    let path = source.get("path")?.as_str()?;
    Some(format!(
        "volume `{}` is `{path}` of this machine",
        object.name
    ))
}

fn refuse_unserved(objects: &[Object]) -> anyhow::Result<()> {
    let unserved: BTreeSet<String> = objects
        .iter()
        .filter(|object| !is_runnable(object))
        .map(|object| format!("{object} (`{}`)", object.api_version))
        .collect();
    if unserved.is_empty() {
        return Ok(());
    }
    let unserved: Vec<String> = unserved.into_iter().collect();
    bail!(
        "nothing was started, because `coracle run` does not serve this kind yet: {}; it runs Pods with \
         their ConfigMaps, Secrets, Services, NetworkPolicies, PersistentVolumeClaims and Namespaces",
        unserved.join("; ")
    )
}

/// Nodes, Leases and Events are served by the API, yet they are the agent's to write, not a manifest's.
fn is_runnable(object: &Object) -> bool {
    coracle_control_plane::served(&object.api_version, &object.kind).is_some()
        && matches!(
            object.kind.as_str(),
            "Pod"
                | "ConfigMap"
                | "Secret"
                | "Namespace"
                | "Service"
                | "EndpointSlice"
                | "NetworkPolicy"
                | "PersistentVolume"
                | "PersistentVolumeClaim"
                | "StorageClass"
        )
}

/// Returns what the agent would refuse of a pod, and notes what the user should know.
fn refusals_of(object: &Object, notices: &mut Vec<String>) -> anyhow::Result<Vec<String>> {
    let pod: Pod = serde_json::from_value(object.value.clone())
        .with_context(|| format!("failed to read {object}"))?;
    for volume in pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
    {
        if let Some(host) = &volume.host_path {
            notices.push(format!(
                "pod `{}` mounts `{}` of this machine (volume `{}`)",
                object.name, host.path, volume.name
            ));
        }
    }
    if let Some(refusal) = never_placed(&pod) {
        return Ok(vec![refusal]);
    }
    Ok(match check_pod(&pod, HostPathPolicy::Allow) {
        Ok(_) => Vec::new(),
        Err(refusals) => refusals.iter().map(ToString::to_string).collect(),
    })
}

/// Returns why no node of a run would ever take a pod: it would wait without a word.
fn never_placed(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    match (spec.scheduler_name.as_deref(), spec.node_name.as_deref()) {
        (Some(name), _) if !matches!(name, "" | DEFAULT_SCHEDULER) => Some(format!(
            "`spec.schedulerName` is `{name}`, and a run has only `{DEFAULT_SCHEDULER}`"
        )),
        (_, Some(name)) if !matches!(name, "" | NODE_NAME) => Some(format!(
            "`spec.nodeName` is `{name}`, and a run has only the node `{NODE_NAME}`"
        )),
        _ => None,
    }
}

/// Packs each image that is a path into the local store and puts its reference in the path's place.
fn pack_images(object: &mut Object, images: &ImageStore) -> anyhow::Result<()> {
    let folder = object.origin.folder().to_owned();
    for list in ["initContainers", "containers"] {
        let containers = object.value.pointer_mut(&format!("/spec/{list}"));
        let Some(Value::Array(containers)) = containers else {
            continue;
        };
        for container in containers {
            pack_image(container, &folder, images)?;
        }
    }
    Ok(())
}

fn pack_image(container: &mut Value, folder: &Path, images: &ImageStore) -> anyhow::Result<()> {
    let Some(fields) = container.as_object_mut() else {
        return Ok(());
    };
    let Some(Value::String(image)) = fields.get("image") else {
        return Ok(());
    };
    if !is_path(image) {
        return Ok(());
    }
    let path = folder.join(image);
    let name = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or("image");
    let reference = images
        .pack(&path, name, &CodeJudge)
        .with_context(|| format!("failed to pack the image file `{image}`"))?;
    fields.insert("image".to_owned(), reference.to_string().into());
    // The store holds it already, and no registry could answer for the name.
    fields.insert("imagePullPolicy".to_owned(), "Never".into());
    Ok(())
}

/// Tells a path from an image reference, as the API does: what begins with a dot or a separator, and a
/// `.wasm` whose first part is no registry's host.
fn is_path(image: &str) -> bool {
    let bytes = image.as_bytes();
    let drive = bytes.len() > 2 && bytes[0].is_ascii_alphabetic() && &bytes[1..3] == b":\\";
    let of_a_registry = image
        .split_once('/')
        .is_some_and(|(host, _)| host == "localhost" || host.contains(['.', ':']));
    let relative = ["./", "../", ".\\", "..\\", "/"]
        .iter()
        .any(|start| image.starts_with(start));
    relative || drive || (image.ends_with(".wasm") && !image.contains('@') && !of_a_registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_from_a_reference() {
        for (image, expected) in [
            ("./hello.wasm", true),
            ("../hello.wasm", true),
            ("/srv/hello.wasm", true),
            (".\\hello.wasm", true),
            ("C:\\hello.wasm", true),
            ("hello.wasm", true),
            ("dir/hello.wasm", true),
            ("localhost/hello.wasm", false),
            ("localhost:5000/hello.wasm", false),
            ("hello", false),
            ("localhost:5000/hello", false),
            ("registry.example/a/b:c@sha256:00", false),
        ] {
            assert_eq!(is_path(image), expected, "for {image}");
        }
    }
}
