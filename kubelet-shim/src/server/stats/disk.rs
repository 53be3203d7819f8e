//! What the files of pods take: root file systems, logs, volumes. Walked at most once in a while.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Machine;
use crate::folders::{FolderBook, Held, PodFolders, held};
use crate::images::blocking;
use crate::worker::log_dir;

/// How long a measurement is shown, so that who asks often does not make the disk walked as often.
const SHOWN_FOR: Duration = Duration::from_secs(10);

/// The latest measurement.
#[derive(Default)]
pub(in crate::server) struct Disk(Mutex<Option<(Instant, Arc<Measurement>)>>);

/// By the UID of the pod.
pub(super) type Measurement = HashMap<Arc<str>, PodHeld>;

/// What one pod holds on the disk.
#[derive(Debug, Default)]
pub(super) struct PodHeld {
    /// Root file system and logs of each container.
    pub(super) containers: HashMap<Arc<str>, (Held, Held)>,
    /// Name, claim and content of each volume.
    pub(super) volumes: Vec<(String, Option<String>, Held)>,
}

impl Disk {
    pub(super) async fn measure(
        &self,
        book: &FolderBook,
        data_dir: &Arc<Path>,
    ) -> Arc<Measurement> {
        let known = self.0.lock().clone();
        if let Some((at, known)) = known
            && at.elapsed() < SHOWN_FOR
        {
            return known;
        }
        let (pods, data_dir) = (book.all(), data_dir.clone());
        let walk = move || {
            let pods = pods.iter();
            let measured = pods.map(|pod| (pod.key.uid.clone(), walk(pod, &data_dir)));
            Arc::new(measured.collect::<Measurement>())
        };
        let measured = blocking(walk).await;
        *self.0.lock() = Some((Instant::now(), measured.clone()));
        measured
    }
}

fn walk(pod: &PodFolders, data_dir: &Path) -> PodHeld {
    let layers = data_dir.join("layers").join(&*pod.key.uid);
    let logs = log_dir(data_dir, &pod.key);
    let containers = pod.containers.iter().map(|name| {
        let both = (held(&layers.join(&**name)), held(&logs.join(&**name)));
        (name.clone(), both)
    });
    let volumes = pod.volumes.iter();
    PodHeld {
        containers: containers.collect(),
        volumes: volumes
            .map(|it| (it.name.clone(), it.claim.clone(), held(&it.folder)))
            .collect(),
    }
}

impl PodHeld {
    /// What goes with the pod: layers, logs and the volumes without a claim.
    pub(super) fn ephemeral(&self) -> Held {
        let containers = self
            .containers
            .values()
            .map(|(root, logs)| root.plus(*logs));
        let volumes = self.volumes.iter();
        let own = volumes
            .filter(|(_, claim, _)| claim.is_none())
            .map(|it| it.2);
        containers.chain(own).fold(Held::default(), Held::plus)
    }

    /// The volumes as `/stats/summary` lists them.
    pub(super) fn volumes(&self, now: &str, namespace: &str, machine: &Machine) -> Vec<Value> {
        let volumes = self.volumes.iter().map(|(name, claim, held)| {
            let mut volume = fs_stats(now, machine, *held);
            volume["name"] = json!(name);
            if let Some(claim) = claim {
                volume["pvcRef"] = json!({"name": claim, "namespace": namespace});
            }
            volume
        });
        volumes.collect()
    }
}

/// The content of a folder on the node's disk.
pub(super) fn fs_stats(now: &str, machine: &Machine, held: Held) -> Value {
    json!({
        "time": now,
        "availableBytes": machine.disk_available,
        "capacityBytes": machine.disk_total,
        "usedBytes": held.bytes,
        "inodesUsed": held.entries,
    })
}
