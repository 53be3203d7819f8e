//! Folders on this machine as volumes: the class `local-path`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::table::IS_DEFAULT_CLASS;

/// The class that is there from the start.
const CLASS: &str = "local-path";

/// Who makes its volumes.
pub(super) const PROVISIONER: &str = "coracle.dev/local-path";

/// Where claims get folders.
#[derive(Clone, Debug)]
pub struct LocalVolumes {
    /// The folder in which each volume gets one.
    pub folder: PathBuf,
    /// The node whose pods can reach it.
    pub node: String,
}

/// Returns the class of claims that name none.
pub(crate) fn seed_class() -> Value {
    json!({
        "metadata": {"name": CLASS, "annotations": {IS_DEFAULT_CLASS: "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    })
}

impl LocalVolumes {
    /// Returns the folder of a volume, which whoever mounts it makes.
    pub(super) fn path(&self, volume: &str) -> String {
        self.folder.join(volume).to_string_lossy().into_owned()
    }

    /// Returns the folder that a volume names, if it is one of ours.
    pub(super) fn own(&self, path: &str) -> Option<PathBuf> {
        let path = Path::new(path);
        let is_ours = path.parent() == Some(&self.folder) && path.file_name().is_some();
        is_ours.then(|| path.to_owned())
    }

    /// Removes the folder of a volume. Blocks.
    pub(super) fn remove(&self, folder: &Path) -> io::Result<()> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_volumes_are_ours() {
        let local = LocalVolumes {
            folder: PathBuf::from("/data/claims"),
            node: "n".to_owned(),
        };
        let check =
            |path: &str, expected| assert_eq!(local.own(path).is_some(), expected, "{path}");
        check(&local.path("pvc-1"), true);
        check("/data/claims", false);
        check("/data/claims/..", false);
        check("/data/claims/pvc-1/inner", false);
        check("/etc", false);
    }
}
