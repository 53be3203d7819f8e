//! The images on this machine: content-addressed files that many processes share.
//!
//! ```text
//! images/
//!   blobs/<sha256>          manifests, configurations, modules, uncompressed tars
//!   layers/<diff id>.json   the index of a tar
//!   images/<manifest>.json  a complete image: what it consists of, how it starts
//!   names/<hash>.json       a name and the image it stands for
//!   locks/ leases/ tmp/
//! ```
//!
//! Files appear by atomic rename and never change. A record in `images/` is written last, so what it
//! names is complete. Three kinds of lock files keep processes apart, always taken in this order:
//! `intake` (shared by whoever adds, exclusive for the sweep that deletes what no record names), one
//! per digest (exclusive: one flight), and one lease per image (shared by its users, exclusive to
//! remove it).

mod admit;
mod files;
mod intake;
mod lock;
mod reclaim;
mod record;
mod supersede;
mod sweep;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub(crate) use admit::{Candidate, form_of};
pub use files::FileStamp;
use files::write_atomically;
pub(crate) use intake::{Expected, Intake, StreamFault};
use lock::{FileLock, Flights};
pub use reclaim::{ImageUse, Reclaim};
pub(crate) use record::{Content, ImageRecord};
pub use record::{Inspection, Listed, Removed};

use crate::digest::Digest;
use crate::image::{Image, ImageContent, ModuleFile};
use crate::reference::Reference;
use crate::remote::RetryPolicy;
use crate::rootfs::Root;
use crate::rootfs::merge::Stack;

/// The images of one data folder. Clones share it, and so may other processes.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageStore")
            .field("dir", &self.inner.dir)
            .finish_non_exhaustive()
    }
}

/// How a store speaks to registries.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// Which registries are spoken to without TLS.
    pub plain_http: PlainHttp,
    /// How often and after which waits a failed request is repeated.
    pub retries: RetryPolicy,
}

/// Which registries are spoken to without TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// Those on this machine only.
    #[default]
    Loopback,
    /// All of them: what travels can be read and changed on the way, except under a digest.
    Always,
}

/// A failure of the store itself: the disk, or another process.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read, written, renamed or removed.
    #[error("failed to {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A record cannot be understood: written by another version, or damaged.
    #[error("`{}` is not a valid record", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A layer does not fit on those below it.
    #[error("layer content `{diff_id}` does not fit on the layers below it")]
    Layers {
        /// The digest of the layer's tar.
        diff_id: String,
        /// What is wrong.
        #[source]
        source: crate::refusal::TarFault,
    },
    /// No image has this name.
    #[error("there is no image `{reference}` in the store")]
    NotFound {
        /// The name that was given.
        reference: String,
    },
    /// A run uses the image.
    #[error("image `{reference}` is in use by a running process")]
    InUse {
        /// The name that was given.
        reference: String,
    },
    /// A worker thread ended without an answer.
    #[error("a worker of the store ended without an answer")]
    Worker,
}

pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) flights: Flights,
    /// Made when it is first needed.
    pub(crate) http: std::sync::OnceLock<crate::remote::HttpClient>,
    /// Whom that client trusts.
    pub(crate) trust: Arc<crate::remote::SystemTrust>,
    /// Roots and leases that someone holds, so that every holder shares one.
    roots: Mutex<HashMap<Digest, Weak<Root>>>,
    leases: Mutex<HashMap<Digest, Weak<Lease>>>,
}

/// Held by whoever uses an image; nobody removes its files meanwhile. The age of its file tells when
/// the image was used last.
#[derive(Debug)]
pub(crate) struct Lease {
    lock: FileLock,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lock.touch();
    }
}

impl ImageStore {
    /// Opens the store in a folder, creates it if needed, and removes what killed processes left.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be created.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, StoreOptions::default())
    }

    /// Opens the store with settings of its own.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be created.
    pub fn open_with(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        for part in [
            "blobs", "layers", "images", "names", "locks", "leases", "tmp",
        ] {
            let path = dir.join(part);
            std::fs::create_dir_all(&path).map_err(|source| StoreError::File {
                action: "create",
                path,
                source,
            })?;
        }
        let inner = Inner {
            dir: dir.to_owned(),
            options,
            flights: Flights::default(),
            http: std::sync::OnceLock::new(),
            trust: Arc::default(),
            roots: Mutex::default(),
            leases: Mutex::default(),
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        if store.has_leftovers() {
            store.sweep()?;
        }
        Ok(store)
    }

    /// Returns the image that a name stands for, if it is here and whole. Makes no network call.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn find(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        match self.lookup(reference)? {
            Some(digest) => self.image(reference, digest),
            None => Ok(None),
        }
    }

    /// Returns the digest of the manifest that a name stands for.
    pub(crate) fn lookup(&self, reference: &Reference) -> Result<Option<Digest>, StoreError> {
        // A digest is a promise: a record that breaks it, of an older version, counts as absent.
        if let Some(name) = self.name(reference)?
            && name.is_honest(reference)
        {
            return Ok(Some(name.manifest));
        }
        // A digest names its content wherever it came from.
        Ok(reference.digest().and_then(|digest| digest.parse().ok()))
    }

    /// Returns a stored image under a name, or nothing if any part of it is missing.
    pub(crate) fn image(
        &self,
        reference: &Reference,
        manifest: Digest,
    ) -> Result<Option<Image>, StoreError> {
        // The lease comes first: what is seen to be here afterwards cannot go away.
        let lease = self.lease(manifest)?;
        let Some(record) = self.record(manifest)? else {
            return Ok(None);
        };
        let content = match &record.content {
            Content::Module { digest, size } => {
                let path = self.blob_path(*digest);
                if files::length(&path)? != Some(*size) {
                    return Ok(None);
                }
                ImageContent::Module(ModuleFile {
                    path,
                    digest: digest.to_string(),
                    size: *size,
                })
            }
            Content::Root { config, layers } => match self.root(*config, layers)? {
                Some(root) => ImageContent::Root(root),
                None => return Ok(None),
            },
        };
        Ok(Some(Image {
            reference: reference.clone(),
            digest: manifest.to_string(),
            size: record.size,
            config: record.config,
            content,
            _lease: lease,
        }))
    }

    /// Returns the merged file system of stored layers, or nothing if one is missing.
    fn root(&self, config: Digest, layers: &[Digest]) -> Result<Option<Arc<Root>>, StoreError> {
        let known = locked(&self.inner.roots)
            .get(&config)
            .and_then(Weak::upgrade);
        if known.is_some() {
            return Ok(known);
        }
        let mut stack = Stack::default();
        for layer in layers {
            let Some(index) = self.layer_index(*layer)? else {
                return Ok(None);
            };
            stack
                .push(&Arc::from(self.blob_path(*layer)), &index)
                .map_err(|source| StoreError::Layers {
                    diff_id: layer.to_string(),
                    source,
                })?;
        }
        let root = Arc::new(Root::new(config, stack.finish()));
        let mut roots = locked(&self.inner.roots);
        roots.retain(|_, root| root.strong_count() > 0);
        roots.insert(config, Arc::downgrade(&root));
        Ok(Some(root))
    }

    fn lease(&self, manifest: Digest) -> Result<Arc<Lease>, StoreError> {
        if let Some(lease) = locked(&self.inner.leases)
            .get(&manifest)
            .and_then(Weak::upgrade)
        {
            return Ok(lease);
        }
        let lock = FileLock::shared(&self.lease_path(manifest))?;
        lock.touch();
        let lease = Arc::new(Lease { lock });
        let mut leases = locked(&self.inner.leases);
        leases.retain(|_, lease| lease.strong_count() > 0);
        leases.insert(manifest, Arc::downgrade(&lease));
        Ok(lease)
    }
}

/// A thread that panicked leaves these maps whole: every change to them is one call.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
