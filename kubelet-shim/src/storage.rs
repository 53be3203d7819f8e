//! What pods keep on the node's disk, and what is said of those that keep too much (contract B.10).
//!
//! One task measures all pods of the node that have a limit, as a kubelet's eviction monitor does. Of a
//! writable layer the runtime counts the bytes itself; only folders and logs are looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use coracle_runtime::fs::FileSystem;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::images::blocking;
use crate::spec::{Medium, PodSpecPlan, Role, SizeLimit, VolumeSource};

/// How often pods are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// Entries of a folder that are looked at: one with more is over any limit that a person writes.
const ENTRIES_MAX: usize = 1 << 20;

/// Pods that are known before the list of them is first cleared of those that are gone.
const SWEEP_MIN: usize = 64;

/// The pods of the node that have a limit. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct StorageMonitor {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    all: Vec<Weak<PodStorage>>,
    sweep_at: usize,
}

/// What one pod keeps on the disk, and what it may keep there.
pub(crate) struct PodStorage {
    volumes: Vec<VolumeFolder>,
    /// What the containers may keep together, volumes on the disk included.
    total: Option<u64>,
    containers: Mutex<Vec<ContainerStorage>>,
    excess: watch::Sender<Option<Arc<str>>>,
}

/// A volume on the disk.
#[derive(Debug)]
struct VolumeFolder {
    name: String,
    folder: PathBuf,
    limit: Option<SizeLimit>,
}

/// What one container keeps on the disk beside volumes.
struct ContainerStorage {
    name: Arc<str>,
    limit: Option<u64>,
    logs: PathBuf,
    files: Weak<FileSystem>,
}

impl PodStorage {
    /// Describes a pod by its plan; nothing when it has no limit. `excess` is told once, when the pod keeps too
    /// much; `volume` and `logs` say where a volume and a container's logs are.
    pub(crate) fn of(
        pod: &PodSpecPlan,
        excess: watch::Sender<Option<Arc<str>>>,
        volume: impl Fn(&str) -> PathBuf,
        logs: impl Fn(&str) -> PathBuf,
    ) -> Option<Arc<PodStorage>> {
        let lasting = || {
            let containers = pod.containers.iter();
            containers.filter(|one| one.role != Role::Ephemeral)
        };
        let on_disk = pod.volumes.iter().filter_map(|one| match &one.source {
            VolumeSource::EmptyDir {
                medium: Medium::Disk,
                limit,
            } => Some(VolumeFolder {
                name: one.name.clone(),
                folder: volume(&one.name),
                limit: limit.clone(),
            }),
            VolumeSource::EmptyDir {
                medium: Medium::Memory,
                ..
            }
            | VolumeSource::HostPath { .. }
            | VolumeSource::Claim { .. }
            | VolumeSource::Files(_)
            | VolumeSource::Image { .. } => None,
        });
        let volumes: Vec<_> = on_disk.collect();
        let total = total(lasting().map(|one| (one.role, one.resources.storage_limit)));
        if total.is_none() && volumes.iter().all(|volume| volume.limit.is_none()) {
            return None;
        }
        let containers = lasting().map(|one| ContainerStorage {
            name: one.name.clone(),
            limit: one.resources.storage_limit,
            logs: logs(&one.name),
            files: Weak::new(),
        });
        Some(Arc::new(PodStorage {
            volumes,
            total,
            containers: Mutex::new(containers.collect()),
            excess,
        }))
    }

    /// Notes which file system a container has now.
    pub(crate) fn note(&self, container: &str, files: &Arc<FileSystem>) {
        let mut containers = self.containers.lock();
        if let Some(known) = containers.iter_mut().find(|one| *one.name == *container) {
            known.files = Arc::downgrade(files);
        }
    }

    /// Measures, and returns what a kubelet says of the first limit that is exceeded. Blocks.
    fn measure(&self) -> Option<String> {
        let mut sum: u64 = 0;
        for volume in &self.volumes {
            let limit = volume.limit.as_ref();
            // Nobody asks how much more than that it is.
            let enough = limit.map(|limit| limit.bytes).max(self.total);
            let Some(enough) = enough else { continue };
            let held = held(&volume.folder, enough);
            if let Some(limit) = limit.filter(|limit| held > limit.bytes) {
                return Some(format!(
                    "Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ",
                    volume.name, limit.text
                ));
            }
            sum = sum.saturating_add(held);
        }
        let total = self.total?;
        let containers = self.containers.lock();
        let used = |one: &ContainerStorage| {
            let layer = one.files.upgrade().map_or(0, |files| files.used_bytes());
            layer.saturating_add(held(&one.logs, total))
        };
        let used: Vec<u64> = containers.iter().map(used).collect();
        let all = used.iter().fold(sum, |sum, used| sum.saturating_add(*used));
        if all > total {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
                crate::spec::bytes_text(total)
            ));
        }
        let mut pairs = containers.iter().zip(used);
        pairs.find_map(|(one, used)| {
            let limit = one.limit.filter(|limit| used > *limit)?;
            Some(format!(
                "Container {} exceeded its local ephemeral storage limit \"{}\". ",
                one.name,
                crate::spec::bytes_text(limit)
            ))
        })
    }
}

impl StorageMonitor {
    /// Measures a pod from now on, for as long as it is held.
    pub(crate) fn watch(&self, pod: &Arc<PodStorage>) {
        let mut known = self.known.lock();
        if known.all.len() >= known.sweep_at.max(SWEEP_MIN) {
            known.all.retain(|pod| pod.strong_count() > 0);
            known.sweep_at = known.all.len() * 2;
        }
        known.all.push(Arc::downgrade(pod));
    }

    fn pods(&self) -> Vec<Arc<PodStorage>> {
        let known = self.known.lock();
        let living = known.all.iter().filter_map(Weak::upgrade);
        // One that has been told is on its way out.
        living.filter(|pod| pod.excess.borrow().is_none()).collect()
    }
}

/// Measures all pods for as long as it is polled.
pub(crate) async fn run(monitor: StorageMonitor) {
    loop {
        tokio::time::sleep(MEASURE_EVERY).await;
        let pods = monitor.pods();
        if pods.is_empty() {
            continue;
        }
        blocking(move || {
            for pod in pods {
                if let Some(message) = pod.measure() {
                    pod.excess.send_replace(Some(message.into()));
                }
            }
        })
        .await;
    }
}

/// Sums up what containers may keep; one without a limit adds nothing, as under a kubelet.
fn total(limits: impl Iterator<Item = (Role, Option<u64>)>) -> Option<u64> {
    let (mut together, mut sidecars, mut peak) = (0_u64, 0_u64, 0_u64);
    let mut any = false;
    for (role, limit) in limits {
        let own = limit.unwrap_or(0);
        any |= limit.is_some();
        match role {
            Role::App => together = together.saturating_add(own),
            Role::Sidecar => {
                sidecars = sidecars.saturating_add(own);
                peak = peak.max(sidecars);
            }
            Role::Init => peak = peak.max(sidecars.saturating_add(own)),
            Role::Ephemeral => {}
        }
    }
    any.then(|| together.saturating_add(sidecars).max(peak))
}

/// Returns how long the files of a folder are together, or anything above `enough`. Links are not followed,
/// and what cannot be read any more has been removed meanwhile.
fn held(folder: &Path, enough: u64) -> u64 {
    let mut sum: u64 = 0;
    let mut seen = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            seen += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                sum = sum.saturating_add(metadata.len());
            }
            if seen > ENTRIES_MAX {
                return u64::MAX;
            }
            if sum > enough {
                return sum;
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use coracle_runtime::fs::{FileSystemSpec, Tree, Upper, User};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::{HostPathPolicy, check_pod};

    /// A pod of two containers with what each and the volumes hold, by name.
    fn measured(spec: Value, holds: &[(&str, usize)]) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut pod =
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
        for container in pod["spec"]["containers"]
            .as_array_mut()
            .expect("containers")
        {
            container["image"] = json!("i");
        }
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let plan = check_pod(&pod, HostPathPolicy::Refuse).expect("a plan");
        for (path, bytes) in holds {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, vec![0; *bytes]).expect("a file");
        }
        let place = |kind: &'static str| {
            let folder = folder.path().join(kind);
            move |name: &str| folder.join(name)
        };
        let excess = watch::Sender::new(None);
        PodStorage::of(&plan, excess, place("volumes"), place("logs"))?.measure()
    }

    #[test]
    fn all_files_of_a_volume_count_together() {
        for (limit, is_over) in [("1Ki", false), ("1023", true)] {
            let spec = json!({
                "containers": [{"name": "a"}],
                "volumes": [{"name": "x", "emptyDir": {"sizeLimit": limit}}],
            });
            let found = measured(spec, &[("volumes/x/a", 600), ("volumes/x/deep/b", 424)]);
            let text = format!("Usage of EmptyDir volume \"x\" exceeds the limit \"{limit}\". ");
            assert_eq!(found, is_over.then_some(text), "{limit}");
        }
    }

    fn two(first: Value, second: Value) -> Value {
        json!({
            "containers": [
                {"name": "a", "resources": {"limits": first}},
                {"name": "b", "resources": {"limits": second}},
            ],
            "volumes": [{"name": "x", "emptyDir": {}}],
        })
    }

    #[test]
    fn a_container_may_keep_what_its_limit_says() {
        let limited = json!({"ephemeral-storage": "1Ki"});
        let spec = || two(limited.clone(), json!({"ephemeral-storage": "1Mi"}));
        assert_eq!(measured(spec(), &[("logs/a/0.log", 1024)]), None);
        assert_eq!(
            measured(spec(), &[("logs/a/0.log", 1000), ("logs/a/0.log.1", 25)]).as_deref(),
            Some("Container a exceeded its local ephemeral storage limit \"1Ki\". ")
        );
        assert_eq!(measured(spec(), &[("logs/b/0.log", 2048)]), None);
    }

    #[test]
    fn containers_and_volumes_count_together_against_what_is_limited() {
        let limited = json!({"ephemeral-storage": "1Ki"});
        let text = "Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. ";
        let spec = || two(limited.clone(), json!({}));
        let fits = [("logs/a/0", 500), ("logs/b/0", 500), ("volumes/x/f", 24)];
        assert_eq!(measured(spec(), &fits), None);
        let over = [("logs/a/0", 500), ("logs/b/0", 500), ("volumes/x/f", 25)];
        assert_eq!(measured(spec(), &over).as_deref(), Some(text));
    }

    #[test]
    fn a_pod_without_limits_is_not_measured() {
        assert_eq!(
            measured(two(json!({}), json!({})), &[("volumes/x/f", 1 << 20)]),
            None
        );
    }

    /// What is written over an image is counted where it is written, and not looked for.
    #[test]
    fn a_writable_layer_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = FileSystem::new(FileSystemSpec {
            root: Arc::new(Tree::empty()),
            upper: Upper::Writable {
                dir: folder.path().join("layer"),
                limit: 1 << 20,
            },
            mounts: Vec::new(),
            user: User::default(),
        });
        let files = files.expect("an empty root");
        let storage = PodStorage {
            volumes: Vec::new(),
            total: Some(files.used_bytes()),
            containers: Mutex::new(vec![ContainerStorage {
                name: "a".into(),
                limit: None,
                logs: folder.path().join("logs"),
                files: Weak::new(),
            }]),
            excess: watch::Sender::new(None),
        };
        storage.note("a", &files);
        assert_eq!(storage.measure(), None);
    }
}
