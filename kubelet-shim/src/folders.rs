//! Where the files of this node's pods are, and how much they hold.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_network::{PodTraffic, TrafficMeter};
use parking_lot::Mutex;

use crate::spec::PodKey;

/// Entries that are counted of one folder; a larger one is shown as large as that.
const ENTRIES_MAX: u64 = 1 << 20;

/// The volumes that pods have on this node's disk. The pods' workers write it.
#[derive(Debug, Default)]
pub(crate) struct FolderBook(Mutex<HashMap<Arc<str>, Arc<PodFolders>>>);

/// The volumes of one pod that are worth measuring, and what reads its traffic.
#[derive(Debug)]
pub(crate) struct PodFolders {
    pub(crate) key: PodKey,
    pub(crate) containers: Vec<Arc<str>>,
    pub(crate) volumes: Vec<VolumePlace>,
    pub(crate) traffic: TrafficMeter,
}

/// One volume.
#[derive(Debug)]
pub(crate) struct VolumePlace {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    /// The claim behind it; without one it is the pod's own and goes with it.
    pub(crate) claim: Option<String>,
}

/// What a folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

impl FolderBook {
    /// Notes a pod that stands on its ground.
    pub(crate) fn note(&self, pod: PodFolders) {
        self.0.lock().insert(pod.key.uid.clone(), Arc::new(pod));
    }

    /// Forgets a pod.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// Returns the pods that are attached to the network, with what passed through their sockets.
    pub(crate) fn traffic(&self) -> Vec<(PodKey, PodTraffic)> {
        let pods = self.all().into_iter();
        pods.filter_map(|pod| Some((pod.key.clone(), pod.traffic.read()?)))
            .collect()
    }

    /// Returns what is known now.
    pub(crate) fn all(&self) -> Vec<Arc<PodFolders>> {
        self.0.lock().values().cloned().collect()
    }
}

/// Measures a folder; links are not followed, and what cannot be read has been removed meanwhile. Blocks.
pub(crate) fn held(folder: &Path) -> Held {
    let mut held = Held::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            held.entries += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                held.bytes = held.bytes.saturating_add(metadata.len());
            }
            if held.entries >= ENTRIES_MAX {
                return held;
            }
        }
    }
    held
}

impl Held {
    /// Both together.
    pub(crate) fn plus(self, other: Held) -> Held {
        Held {
            bytes: self.bytes.saturating_add(other.bytes),
            entries: self.entries.saturating_add(other.entries),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_what_is_in_it_and_below() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(held(folder.path()), Held::default());
        fs::create_dir(folder.path().join("deep")).unwrap();
        fs::write(folder.path().join("a"), [0; 600]).unwrap();
        fs::write(folder.path().join("deep/b"), [0; 424]).unwrap();
        let expected = Held {
            bytes: 1024,
            entries: 3,
        };
        assert_eq!(held(folder.path()), expected);
        assert_eq!(held(&folder.path().join("none")), Held::default());
    }
}
