//! Everything that can be refused before anything starts: kinds, fields, image files.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

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

/// How much of `generateName` the API takes into a name.
const GENERATED_BASE_BYTES_MAX: usize = 58;

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
    let mut packer = Packer::new(images);
    let mut notices = Vec::new();
    let mut refusals = Vec::new();
    let mut checked = Vec::with_capacity(objects.len());
    for mut object in objects {
        if object.kind == "Pod" {
            let packed = packer.pack_images(&mut object);
            packed.with_context(|| object.to_string())?;
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
    checked.sort_by_key(turn);
    Ok(Plan {
        objects: checked,
        pods,
        notices,
    })
}

/// Returns when an object is created: what it is measured by or asks for comes before it.
fn turn(object: &Object) -> u8 {
    match object.kind.as_str() {
        "Namespace" => 0,
        // A claim that names no class gets the default that is there.
        "StorageClass" => 1,
        "Pod" => 3,
        _ => 2,
    }
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
         their ConfigMaps, Secrets, Services, NetworkPolicies, PersistentVolumeClaims, ServiceAccounts, \
         Roles, PriorityClasses, quotas and Namespaces",
        unserved.join("; ")
    )
}

/// Nodes, Leases and Events are served by the API, yet they are the agent's to write, not a manifest's; who
/// asks for a certificate or for a review waits for the answer.
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
                | "Endpoints"
                | "NetworkPolicy"
                | "PersistentVolume"
                | "PersistentVolumeClaim"
                | "StorageClass"
                | "ServiceAccount"
                | "Role"
                | "RoleBinding"
                | "ClusterRole"
                | "ClusterRoleBinding"
                | "PriorityClass"
                | "RuntimeClass"
                | "LimitRange"
                | "ResourceQuota"
        )
}

/// Returns what the agent would refuse of a pod, and notes what the user should know.
fn refusals_of(object: &Object, notices: &mut Vec<String>) -> anyhow::Result<Vec<String>> {
    let mut pod: Pod = serde_json::from_value(object.value.clone())
        .with_context(|| format!("failed to read {object}"))?;
    assume_name(&mut pod);
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

/// Gives a pod whose name the API will make one of the same form.
fn assume_name(pod: &mut Pod) {
    let metadata = &mut pod.metadata;
    if metadata.name.as_deref().unwrap_or_default().is_empty()
        && let Some(beginning) = &metadata.generate_name
    {
        let end = beginning.floor_char_boundary(GENERATED_BASE_BYTES_MAX);
        metadata.name = Some(format!("{}xxxxx", &beginning[..end]));
    }
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

/// Packs the files that pods name as images, each once however many pods name it.
struct Packer<'a> {
    images: &'a ImageStore,
    packed: HashMap<PathBuf, String>,
}

impl<'a> Packer<'a> {
    fn new(images: &'a ImageStore) -> Self {
        Self {
            images,
            packed: HashMap::new(),
        }
    }

    /// Packs each image that is a path into the local store and puts its reference in the path's place.
    fn pack_images(&mut self, object: &mut Object) -> anyhow::Result<()> {
        let folder = object.origin.folder().to_owned();
        for list in ["initContainers", "containers"] {
            let containers = object.value.pointer_mut(&format!("/spec/{list}"));
            let Some(Value::Array(containers)) = containers else {
                continue;
            };
            for container in containers {
                self.pack_image(container, &folder)?;
            }
        }
        Ok(())
    }

    fn pack_image(&mut self, container: &mut Value, folder: &Path) -> anyhow::Result<()> {
        let Some(fields) = container.as_object_mut() else {
            return Ok(());
        };
        let Some(Value::String(image)) = fields.get("image") else {
            return Ok(());
        };
        if !is_path(image) {
            return Ok(());
        }
        let reference = self
            .pack(tidy(&folder.join(image)))
            .with_context(|| format!("failed to pack the image file `{image}`"))?;
        fields.insert("image".to_owned(), reference.into());
        // The store holds it already, and no registry could answer for the name.
        fields.insert("imagePullPolicy".to_owned(), "Never".into());
        Ok(())
    }

    fn pack(&mut self, path: PathBuf) -> anyhow::Result<String> {
        if let Some(reference) = self.packed.get(&path) {
            return Ok(reference.clone());
        }
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or("image");
        let reference = self.images.pack(&path, name, &CodeJudge)?.to_string();
        self.packed.insert(path, reference.clone());
        Ok(reference)
    }
}

/// Returns a path without the dots that joining leaves inside: `./k.wasm` for `././k.wasm`.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
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

    /// Reads a manifest and checks it against an empty store.
    fn checked(manifest: &str) -> Result<Plan, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("m.yaml");
        std::fs::write(&file, manifest).expect("a manifest");
        let objects = crate::manifest::read(&[file]).expect("objects");
        let images = ImageStore::open(&folder.path().join("images")).expect("a store");
        check(objects, &images).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_pod_may_leave_its_name_to_the_api() {
        let pod = |names: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{{names}}}\nspec:\n  containers: [{{name: c, image: i}}]\n"
            )
        };
        for names in [
            "generateName: job-".to_owned(),
            "name: '', generateName: job-".to_owned(),
            format!("generateName: {}-", "a".repeat(250)),
        ] {
            let plan = checked(&pod(&names));
            let plan = plan.unwrap_or_else(|error| panic!("{names}: {error}"));
            assert!(
                plan.objects[0].value["metadata"]["name"]
                    .as_str()
                    .is_none_or(str::is_empty)
            );
        }
        let refusal = checked(&pod("generateName: Job_")).expect_err("no name begins so");
        assert!(refusal.contains("Job_"), "{refusal}");
    }

    #[test]
    fn what_pods_need_is_created_before_them_and_what_is_not_a_manifests_is_refused() {
        let plan = checked(
            "\
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {serviceAccountName: a, priorityClassName: c, containers: [{name: c, image: i}]}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: b}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}
subjects: [{kind: ServiceAccount, name: a, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r}
rules: [{apiGroups: [''], resources: [pods], verbs: [list]}]
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: c}, value: 5}
---
{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: []}}
---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: 5}}}
",
        );
        let plan = plan.expect("it is accepted");
        let kinds: Vec<&str> = plan.objects.iter().map(|one| one.kind.as_str()).collect();
        assert_eq!(kinds.last(), Some(&"Pod"), "{kinds:?}");
        assert_eq!(kinds.len(), 7, "{kinds:?}");
        let refusal = checked("apiVersion: v1\nkind: Node\nmetadata: {name: edge}\n");
        assert!(refusal.expect_err("it is the agent's").contains("Node"));
    }

    #[test]
    fn a_file_is_packed_once_however_many_containers_name_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let images = ImageStore::open(&folder.path().join("images")).expect("a store");
        let file = folder.path().join("k.wasm");
        // Exports an empty `_start` and a `memory`.
        let module =
            b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\x07\x13\x02\
            \x06_start\0\0\x06memory\x02\0\x0a\x04\x01\x02\0\x0b";
        std::fs::write(&file, module).expect("a module");
        let mut packer = Packer::new(&images);
        let mut pack = |image: &str| {
            let mut container = serde_json::json!({"image": image});
            packer
                .pack_image(&mut container, folder.path())
                .map(|()| container)
        };
        let first = pack("./k.wasm").expect("packed");
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(pack("k.wasm").expect("packed before"), first);
        assert!(pack("./other.wasm").is_err());
    }

    #[test]
    fn a_path_is_shown_without_superfluous_dots() {
        for (folder, image, expected) in [
            (".", "./k.wasm", "./k.wasm"),
            (".", "k.wasm", "./k.wasm"),
            ("a/b", "../k.wasm", "a/b/../k.wasm"),
            ("/a", "./dir/./k.wasm", "/a/dir/k.wasm"),
        ] {
            let path = tidy(&Path::new(folder).join(image));
            let shown = path.display().to_string().replace('\\', "/");
            assert_eq!(shown, expected, "{image} in {folder}");
        }
    }

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
