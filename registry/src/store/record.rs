//! The records that say which images are here and what they are called.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::files::{FileStamp, list, read_json, remove, write_json};
use super::lock::{FileLock, Mode};
use super::{ImageStore, StoreError};
use crate::digest::Digest;
use crate::image::ImageConfig;
use crate::reference::Reference;

/// A complete image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) manifest: Digest,
    pub(crate) media_type: String,
    /// What `image ls` calls it.
    pub(crate) kind: String,
    /// Bytes in the store.
    pub(crate) size: u64,
    /// When the image says it was made, as it says it.
    pub(crate) created: Option<String>,
    pub(crate) config: ImageConfig,
    pub(crate) content: Content,
    /// Every file in `blobs/` that the image needs, its manifest among them.
    pub(crate) blobs: Vec<Digest>,
}

/// Which stored files make up the image's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Content {
    Module { digest: Digest, size: u64 },
    Root { config: Digest, layers: Vec<Digest> },
}

/// A name and what it stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Name {
    pub(crate) reference: String,
    pub(crate) manifest: Digest,
    /// What the registry answered under this name: the manifest, or the index above it.
    pub(crate) resolved: Digest,
    /// Seconds since 1970 when the name was given.
    pub(crate) stored: u64,
    /// The whole path of the local file that was packed under this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
}

impl Name {
    /// Returns whether a digest in the name is that of what it stands for.
    pub(crate) fn is_honest(&self, reference: &Reference) -> bool {
        let of = |digest: Digest| reference.digest() == Some(digest.to_string().as_str());
        reference.digest().is_none() || of(self.manifest) || of(self.resolved)
    }
}

/// A name in the store and the image it stands for.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// The full name.
    pub reference: String,
    /// Registry and repository.
    pub repository: String,
    /// The tag, if the name has one.
    pub tag: Option<String>,
    /// The digest of the manifest.
    pub digest: String,
    /// `component`, `module` or `image`.
    pub kind: String,
    /// Bytes in the store; layers shared with other images count in each.
    pub size: u64,
    /// When the image says it was made.
    pub created: Option<String>,
    /// When it arrived, in seconds since 1970.
    pub stored: u64,
}

/// Everything that is known about a stored image.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// All names of the image.
    pub names: Vec<String>,
    /// The digest of its manifest.
    pub digest: String,
    /// `component`, `module` or `image`.
    pub kind: String,
    /// Bytes in the store.
    pub size: u64,
    /// When the image says it was made.
    pub created: Option<String>,
    /// How its program wants to be started.
    pub config: ImageConfig,
    /// The digests of its content: a module, or the uncompressed layers from bottom to top.
    pub content: Vec<String>,
    /// The manifest as the registry sent it.
    pub manifest: serde_json::Value,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The name that is gone.
    pub reference: String,
    /// The image that went with its last name.
    pub deleted: Option<String>,
}

impl ImageStore {
    /// Returns every name in the store, in order.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let mut listed = Vec::new();
        for name in self.names()? {
            let Ok(reference) = name.reference.parse::<Reference>() else {
                continue;
            };
            let Some(record) = self.record(name.manifest)? else {
                continue;
            };
            listed.push(Listed {
                repository: format!("{}/{}", reference.registry(), reference.repository()),
                tag: reference.tag().map(str::to_owned),
                digest: record.manifest.to_string(),
                kind: record.kind,
                size: record.size,
                created: record.created,
                stored: name.stored,
                reference: name.reference,
            });
        }
        listed.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(listed)
    }

    /// Returns everything that is known about a stored image.
    ///
    /// # Errors
    ///
    /// Fails when no image has this name or the store cannot be read.
    pub fn inspect(&self, reference: &Reference) -> Result<Inspection, StoreError> {
        let missing = || StoreError::NotFound {
            reference: reference.to_string(),
        };
        let manifest = self.lookup(reference)?.ok_or_else(missing)?;
        let record = self.record(manifest)?.ok_or_else(missing)?;
        let names = self
            .names()?
            .into_iter()
            .filter(|name| name.manifest == manifest);
        Ok(Inspection {
            names: names.map(|name| name.reference).collect(),
            digest: manifest.to_string(),
            kind: record.kind,
            size: record.size,
            created: record.created,
            config: record.config,
            content: match record.content {
                Content::Module { digest, .. } => vec![digest.to_string()],
                Content::Root { layers, .. } => layers.iter().map(Digest::to_string).collect(),
            },
            manifest: read_json(&self.blob_path(manifest))?.ok_or_else(missing)?,
        })
    }

    /// Takes a name away, and with its last name the image and everything only it needs.
    ///
    /// # Errors
    ///
    /// Fails when no image has this name, or when it would go and a running process uses it.
    pub fn remove(&self, reference: &Reference) -> Result<Removed, StoreError> {
        let missing = || StoreError::NotFound {
            reference: reference.to_string(),
        };
        let named = self.name(reference)?;
        // A name that lies about its digest can be taken away, too.
        let manifest = match &named {
            Some(name) => name.manifest,
            None => self.lookup(reference)?.ok_or_else(missing)?,
        };
        self.record(manifest)?.ok_or_else(missing)?;
        let others = self.names()?.into_iter().any(|name| {
            name.manifest == manifest
                && named
                    .as_ref()
                    .is_none_or(|named| named.reference != name.reference)
        });
        if others && named.is_none() {
            // A bare digest that has other names: each of them would have to be named.
            return Err(StoreError::InUse {
                reference: reference.to_string(),
            });
        }
        let mut deleted = None;
        if !others {
            let lease = FileLock::attempt(&self.lease_path(manifest), Mode::Exclusive)?;
            if lease.is_none() {
                return Err(StoreError::InUse {
                    reference: reference.to_string(),
                });
            }
            remove(&self.json_path("images", manifest))?;
            deleted = Some(manifest.to_string());
        }
        remove(&self.name_path(reference))?;
        self.sweep()?;
        Ok(Removed {
            reference: reference.to_string(),
            deleted,
        })
    }

    /// Returns what a name stands for, as it was last pulled, loaded or built.
    pub(crate) fn name(&self, reference: &Reference) -> Result<Option<Name>, StoreError> {
        read_json(&self.name_path(reference))
    }

    /// Tells when a name is given to another image or taken away: until then its stamp stays the same.
    /// Nothing if the name is not here. Does not wait for the disk.
    #[must_use]
    pub fn stamp(&self, reference: &Reference) -> Option<FileStamp> {
        FileStamp::of(&self.name_path(reference))
    }

    /// Gives an image a name, taking the name from another image if needed.
    pub(crate) fn give_name(
        &self,
        reference: &Reference,
        manifest: Digest,
        resolved: Digest,
    ) -> Result<(), StoreError> {
        let stored = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let reference_text = reference.canonical();
        let name = Name {
            reference: reference_text,
            manifest,
            resolved,
            stored,
            origin: None,
        };
        self.put_name(reference, &name)
    }

    pub(super) fn put_name(&self, reference: &Reference, name: &Name) -> Result<(), StoreError> {
        write_json(self, &self.name_path(reference), name)
    }

    pub(crate) fn record(&self, manifest: Digest) -> Result<Option<ImageRecord>, StoreError> {
        read_json(&self.json_path("images", manifest))
    }

    pub(crate) fn put_record(&self, record: &ImageRecord) -> Result<(), StoreError> {
        write_json(self, &self.json_path("images", record.manifest), record)
    }

    pub(crate) fn records(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let files = list(&self.inner.dir.join("images"))?;
        files
            .iter()
            .filter_map(|path| read_json(path).transpose())
            .collect()
    }

    /// Returns the images that have a name.
    pub(crate) fn named(&self) -> Result<std::collections::HashSet<Digest>, StoreError> {
        Ok(self
            .names()?
            .into_iter()
            .map(|name| name.manifest)
            .collect())
    }

    pub(super) fn names(&self) -> Result<Vec<Name>, StoreError> {
        let files = list(&self.inner.dir.join("names"))?;
        files
            .iter()
            .filter_map(|path| read_json(path).transpose())
            .collect()
    }

    /// A name's file is called by the name's hash: names hold letters that file systems do not.
    pub(super) fn name_path(&self, reference: &Reference) -> PathBuf {
        self.json_path("names", Digest::of(reference.canonical().as_bytes()))
    }
}
