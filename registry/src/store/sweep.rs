//! Deletes what no image needs: the files of removed and refused images and of killed processes.

use std::collections::HashSet;

use super::files::{list, remove};
use super::lock::{FileLock, Mode};
use super::{Content, ImageRecord, ImageStore, StoreError};
use crate::digest::Digest;

impl ImageStore {
    /// Returns whether a process ended in the middle of adding something, or could not sweep.
    pub(super) fn has_leftovers(&self) -> bool {
        list(&self.inner.dir.join("tmp")).is_ok_and(|files| !files.is_empty())
    }

    /// Returns whether a sweep was put off because someone was adding.
    pub(super) fn sweep_is_due(&self) -> bool {
        self.sweep_mark().exists()
    }

    fn sweep_mark(&self) -> std::path::PathBuf {
        self.inner.dir.join("tmp").join("sweep")
    }

    /// Deletes every file that no record names.
    ///
    /// Does nothing while anyone adds to the store: what arrives is not named yet. A mark stays then,
    /// and whoever finishes adding sweeps.
    pub(crate) fn sweep(&self) -> Result<(), StoreError> {
        let Some(_alone) = FileLock::attempt(&self.intake_path(), Mode::Exclusive)? else {
            let mark = self.sweep_mark();
            return std::fs::write(&mark, b"").map_err(|source| StoreError::File {
                action: "write",
                path: mark,
                source,
            });
        };
        let named = self.named()?;
        let mut blobs = HashSet::new();
        let mut layers = HashSet::new();
        for record in self.records()? {
            if self.dismiss_unnamed(&record, &named)? {
                continue;
            }
            blobs.extend(record.blobs.iter().map(|digest| self.blob_path(*digest)));
            if let Content::Root { layers: stack, .. } = &record.content {
                layers.extend(stack.iter().map(|digest| self.layer_path(*digest)));
                blobs.extend(stack.iter().map(|digest| self.blob_path(*digest)));
            }
        }
        self.keep_only("blobs", &blobs)?;
        self.keep_only("layers", &layers)?;
        // Nobody is adding, so nobody's temporary file is alive.
        self.keep_only("tmp", &HashSet::new())
    }

    /// Removes an image whose last name was given to another one, unless someone uses it.
    fn dismiss_unnamed(
        &self,
        record: &ImageRecord,
        named: &HashSet<Digest>,
    ) -> Result<bool, StoreError> {
        if named.contains(&record.manifest) {
            return Ok(false);
        }
        let Some(_unused) = FileLock::attempt(&self.lease_path(record.manifest), Mode::Exclusive)?
        else {
            return Ok(false);
        };
        remove(&self.json_path("images", record.manifest))?;
        Ok(true)
    }

    fn keep_only(&self, part: &str, kept: &HashSet<std::path::PathBuf>) -> Result<(), StoreError> {
        for path in list(&self.inner.dir.join(part))? {
            if !kept.contains(&path) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}
