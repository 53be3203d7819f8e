//! Where things lie in the store, and files that appear whole or not at all.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use super::{ImageStore, StoreError};
use crate::digest::Digest;
use crate::rootfs::index::LayerIndex;

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
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> Result<(), StoreError> {
    file.persist(path)
        .map(drop)
        .map_err(|error| StoreError::File {
            action: "move a file to",
            path: path.to_owned(),
            source: error.error,
        })
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
