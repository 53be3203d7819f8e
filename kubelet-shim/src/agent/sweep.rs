//! What earlier agents left on the disk of pods that are gone: found before the first pod is accepted,
//! removed when the API server's list has named those that are not gone.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folders below the data folder with one entry for each pod, whose name ends with the pod's UID.
const FOLDERS: [&str; 3] = ["volumes", "layers", "pods"];

/// Separates the UID from what is before it in a name, if there is something.
const BEFORE_UID: char = '_';

/// Something on the disk that belongs to one pod.
#[derive(Debug)]
pub(super) struct Leftover {
    uid: String,
    path: PathBuf,
}

/// Finds what is there of any pod. Touches the disk.
pub(super) fn find(data_dir: &Path) -> Vec<Leftover> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        let folder = data_dir.join(folder);
        match entries(&folder, &mut found) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %folder.display(), %error, "failed to look for leftovers");
            }
        }
    }
    found
}

fn entries(folder: &Path, found: &mut Vec<Leftover>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let uid = name.rsplit(BEFORE_UID).next().unwrap_or_default();
        found.push(Leftover {
            uid: uid.to_owned(),
            path: entry.path(),
        });
    }
    Ok(())
}

/// Removes what belongs to none of the pods with these UIDs. Touches the disk.
pub(super) fn remove(leftovers: Vec<Leftover>, living: &HashSet<Arc<str>>) {
    for Leftover { uid, path } in leftovers {
        if living.contains(uid.as_str()) {
            continue;
        }
        tracing::info!(path = %path.display(), "removing what a pod left that is gone");
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "failed to remove what a pod left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_no_pod_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let made = [
            "volumes/a-1/data",
            "volumes/b-2/data",
            "layers/a-1/web/0",
            "layers/c-3/web/0",
            "pods/default_web_a-1/web",
            "pods/default_web_b-2/web",
            "other/b-2",
        ];
        for path in made {
            fs::create_dir_all(dir.path().join(path)).expect("a folder");
        }
        let leftovers = find(dir.path());
        let later = "volumes/d-4/data";
        fs::create_dir_all(dir.path().join(later)).expect("a folder");
        remove(leftovers, &HashSet::from([Arc::from("a-1")]));
        let left: Vec<_> = made
            .into_iter()
            .chain([later])
            .filter(|path| dir.path().join(path).exists())
            .collect();
        let expected = [
            "volumes/a-1/data",
            "layers/a-1/web/0",
            "pods/default_web_a-1/web",
            "other/b-2",
            later,
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn a_folder_that_is_not_there_is_no_fault() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(find(dir.path()).is_empty());
    }
}
