//! Where things lie in the store, and files that appear whole or not at all.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use super::{ImageStore, StoreError};
use crate::digest::Digest;
use crate::rootfs::index::LayerIndex;

/// How often a file in use is tried again, and how long each time is waited before.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Which version of a file lies at a path: records are replaced by a rename and never changed, so the same
/// stamp means the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    modified: Option<SystemTime>,
    length: u64,
    /// The file's number, where the system tells one.
    number: u64,
}

impl FileStamp {
    /// Looks at a path, without reading the file; nothing if no file is there. Takes microseconds on a
    /// local disk, so it may be called where waiting is not allowed.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            number: number(&metadata),
        })
    }
}

#[cfg(unix)]
fn number(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn number(_metadata: &std::fs::Metadata) -> u64 {
    0
}

impl ImageStore {
    pub(crate) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.inner.dir.join("blobs").join(digest.hex())
    }

    pub(crate) fn layer_path(&self, diff_id: Digest) -> PathBuf {
        self.json_path("layers", diff_id)
    }

    pub(crate) fn lease_path(&self, manifest: Digest) -> PathBuf {
        self.inner.dir.join("leases").join(manifest.hex())
    }

    pub(crate) fn flight_path(&self, digest: Digest) -> PathBuf {
        self.inner.dir.join("locks").join(digest.hex())
    }

    pub(crate) fn intake_path(&self) -> PathBuf {
        self.inner.dir.join("locks").join("intake")
    }

    pub(crate) fn json_path(&self, part: &str, digest: Digest) -> PathBuf {
        self.inner
            .dir
            .join(part)
            .join(digest.hex())
            .with_extension("json")
    }

    /// Creates a file that vanishes unless it is moved into place.
    pub(crate) fn temporary(&self) -> Result<NamedTempFile, StoreError> {
        let path = self.inner.dir.join("tmp");
        NamedTempFile::new_in(&path).map_err(|source| StoreError::File {
            action: "create a file in",
            path,
            source,
        })
    }

    /// Returns the index of a layer if it and the tar beside it are whole.
    pub(crate) fn layer_index(&self, diff_id: Digest) -> Result<Option<LayerIndex>, StoreError> {
        let index: Option<LayerIndex> = read_json(&self.layer_path(diff_id))?;
        let whole = length(&self.blob_path(diff_id))?;
        Ok(index.filter(|index| whole == Some(index.size)))
    }
}

/// Returns a file's length, or nothing if there is no such file.
pub(crate) fn length(path: &Path) -> Result<Option<u64>, StoreError> {
    match path.metadata() {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::File {
            action: "look at",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Reads a record, or nothing if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match std::fs::read(path) {
        // A power cut can leave a file without its bytes; it counts as never written.
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => {
            serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| StoreError::Record {
                    path: path.to_owned(),
                    source,
                })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::File {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes a record so that every reader sees the old or the new one.
pub(crate) fn write_json(
    store: &ImageStore,
    path: &Path,
    value: &impl Serialize,
) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(value).expect("records have text keys and finite numbers");
    write_atomically(store, path, &bytes)
}

/// Writes a small file so that it appears whole or not at all.
pub(crate) fn write_atomically(
    store: &ImageStore,
    path: &Path,
    bytes: &[u8],
) -> Result<(), StoreError> {
    let mut file = store.temporary()?;
    file.write_all(bytes).map_err(|source| StoreError::File {
        action: "write",
        path: file.path().to_owned(),
        source,
    })?;
    persist(file, path)
}

/// Moves a finished file into place, over what may be there.
///
/// Windows refuses to replace a file that somebody has open or replaces just now, which takes its reader or
/// writer no longer than it does us: there it is tried again for half a second.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> Result<(), StoreError> {
    let mut moved = file.persist(path);
    for _ in 0..BUSY_TRIES {
        match moved {
            Err(error) if is_busy(&error.error) => {
                thread::sleep(BUSY_PAUSE);
                moved = error.file.persist(path);
            }
            _ => break,
        }
    }
    moved.map(drop).map_err(|error| StoreError::File {
        action: "move a file to",
        path: path.to_owned(),
        source: error.error,
    })
}

/// Tells whether a file could not be replaced because it is in use.
fn is_busy(error: &io::Error) -> bool {
    cfg!(windows) && error.kind() == io::ErrorKind::PermissionDenied
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::File {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Returns the files of a folder of the store.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let fault = |source| StoreError::File {
        action: "list",
        path: dir.to_owned(),
        source,
    };
    let entries = std::fs::read_dir(dir).map_err(fault)?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(fault))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITERS: usize = 4;
    const RECORDS: usize = 100;

    #[test]
    fn a_record_that_many_replace_at_once_is_always_there_and_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = ImageStore::open(folder.path()).expect("the store opens");
        let path = store.json_path("names", Digest::of(b"name"));
        write_json(&store, &path, &vec![0; 64]).expect("it is written");
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (store, path) = (&store, &path);
                scope.spawn(move || {
                    for _ in 0..RECORDS {
                        let record = vec![writer; 64];
                        write_json(store, path, &record).expect("it is written");
                        let read: Option<Vec<usize>> = read_json(path).expect("it is read");
                        let read = read.expect("it is there");
                        assert!(read.len() == 64 && read.iter().all(|part| *part == read[0]));
                    }
                });
            }
        });
    }
}
