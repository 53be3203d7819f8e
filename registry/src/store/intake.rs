//! Adding to the store: every byte is checked before it has a name.

use std::io::{self, Read, Write};

use super::files::{length, persist, write_json};
use super::lock::{FileLock, Mode};
use super::{ImageRecord, ImageStore, StoreError, write_atomically};
use crate::digest::{Digest, Hashing};
use crate::reference::Reference;
use crate::refusal::LayerFault;
use crate::rootfs::index;
use crate::rootfs::inflate::{Compression, InflateFault, UnpackBudget, inflate};

/// The right to add: while one lives, nothing that has no record yet is swept away.
///
/// An intake that ends without a record sweeps what it brought in.
pub(crate) struct Intake {
    store: ImageStore,
    lock: Option<FileLock>,
    ending: Ending,
}

/// What happens when an intake ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The image was refused, the work was dropped, or an older image lost its name.
    Sweep,
    /// Everything is recorded, or the registry broke off and the next attempt finds what is here.
    Leave,
}

/// What is expected of bytes on their way in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Why streamed content was not stored.
#[derive(Debug)]
pub(crate) enum StreamFault {
    /// The content is refused.
    Layer(LayerFault),
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for StreamFault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<LayerFault> for StreamFault {
    fn from(fault: LayerFault) -> Self {
        Self::Layer(fault)
    }
}

impl Intake {
    /// Begins to add, waiting while a sweep runs.
    pub(crate) async fn begin(store: &ImageStore) -> Result<Self, StoreError> {
        let lock = FileLock::wait_async(&store.intake_path(), Mode::Shared).await?;
        Ok(Self {
            store: store.clone(),
            lock: Some(lock),
            ending: Ending::Sweep,
        })
    }

    /// Begins to add, blocking the thread while a sweep runs.
    pub(crate) fn begin_blocking(store: &ImageStore) -> Result<Self, StoreError> {
        let lock = FileLock::wait(&store.intake_path(), Mode::Shared)?;
        Ok(Self {
            store: store.clone(),
            lock: Some(lock),
            ending: Ending::Sweep,
        })
    }

    /// Leaves verified content for the next attempt.
    pub(crate) fn keep_for_later(mut self) {
        self.ending = Ending::Leave;
    }

    /// Records an image whose every part is stored, and names it.
    pub(crate) fn commit(
        &mut self,
        record: &ImageRecord,
        names: &[(&Reference, Digest)],
    ) -> Result<(), StoreError> {
        self.store.put_record(record)?;
        let mut ending = Ending::Leave;
        for (reference, resolved) in names {
            let before = self.store.name(reference)?;
            if before.is_some_and(|before| before.manifest != record.manifest) {
                ending = Ending::Sweep;
            }
            self.store
                .give_name(reference, record.manifest, *resolved)?;
        }
        self.ending = ending;
        Ok(())
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        drop(self.lock.take());
        let swept = match self.ending {
            Ending::Leave if !self.store.sweep_is_due() => Ok(()),
            Ending::Leave | Ending::Sweep => self.store.sweep(),
        };
        if let Err(error) = swept {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "unneeded files stay in the image store"
            );
        }
    }
}

impl ImageStore {
    /// Returns whether a blob of this length is here.
    pub(crate) fn has_blob(&self, expected: Expected) -> Result<bool, StoreError> {
        Ok(length(&self.blob_path(expected.digest))? == Some(expected.size))
    }

    /// Stores bytes that are known to have this digest.
    pub(crate) fn put_bytes(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        debug_assert_eq!(Digest::of(bytes), digest);
        write_atomically(self, &self.blob_path(digest), bytes)
    }

    /// Stores a blob as it arrives, if it is what was expected.
    pub(crate) fn put_blob(
        &self,
        source: impl Read,
        expected: Expected,
    ) -> Result<(), StreamFault> {
        let mut file = self.temporary()?;
        let mut hashing = Hashing::new(source.take(expected.size.saturating_add(1)));
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = match hashing.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(LayerFault::Inflate(error).into()),
            };
            file.write_all(&buffer[..count])
                .map_err(|source| StoreError::File {
                    action: "write",
                    path: file.path().to_owned(),
                    source,
                })?;
        }
        let (_, size, digest) = hashing.finish();
        check_arrived(expected, size, digest)?;
        persist(file, &self.blob_path(digest))?;
        Ok(())
    }

    /// Stores a layer as an uncompressed tar with its index, if it is what was expected.
    pub(crate) fn put_layer(
        &self,
        source: impl Read,
        expected: Expected,
        (compression, diff_id): (Compression, Digest),
        budget: &UnpackBudget,
    ) -> Result<(), StreamFault> {
        let mut file = self.temporary()?;
        let source = source.take(expected.size.saturating_add(1));
        let inflated = match inflate(source, compression, file.as_file_mut(), budget) {
            Ok(inflated) => inflated,
            Err(InflateFault::Bomb) => return Err(LayerFault::Bomb.into()),
            Err(InflateFault::Read(error)) => return Err(LayerFault::Inflate(error).into()),
            Err(InflateFault::Write(source)) => {
                let path = file.path().to_owned();
                return Err(StoreError::File {
                    action: "write",
                    path,
                    source,
                }
                .into());
            }
        };
        check_arrived(expected, inflated.arrived.0, inflated.arrived.1)?;
        if inflated.tar.1 != diff_id {
            let (expected, actual) = (diff_id.to_string(), inflated.tar.1.to_string());
            return Err(LayerFault::DiffId { expected, actual }.into());
        }
        let rewound = io::Seek::rewind(file.as_file_mut());
        rewound.map_err(|source| StoreError::File {
            action: "read",
            path: file.path().to_owned(),
            source,
        })?;
        let index = index::read(file.as_file_mut()).map_err(LayerFault::Tar)?;
        persist(file, &self.blob_path(diff_id))?;
        write_json(self, &self.layer_path(diff_id), &index)?;
        Ok(())
    }
}

fn check_arrived(expected: Expected, size: u64, digest: Digest) -> Result<(), LayerFault> {
    if size != expected.size {
        return Err(LayerFault::Size {
            expected: expected.size,
            actual: size,
        });
    }
    if digest != expected.digest {
        return Err(LayerFault::Digest {
            actual: digest.to_string(),
        });
    }
    Ok(())
}
