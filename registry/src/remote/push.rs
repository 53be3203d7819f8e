//! Pushing: an image of the store to a registry.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use oci_distribution::errors::OciDistributionError;
use reqwest::header::HeaderValue;
use tokio_util::io::ReaderStream;

use super::auth::Access;
use super::credentials::Credentials;
use super::download::Downloads;
use super::error::RegistryError;
use super::session::Session;
use crate::digest::Digest;
use crate::image::Progress;
use crate::manifest::{Document, OCI_CONFIG, OCI_MANIFEST, TAR_LAYER};
use crate::reference::Reference;
use crate::refusal::FailureClass;
use crate::store::{Content, Expected, ImageRecord, ImageStore, StoreError};

/// What is read from a file at once on its way out.
const UPLOAD_CHUNK_BYTES: usize = 256 << 10;

/// How an image is pushed.
#[derive(Clone)]
pub struct PushOptions {
    /// What proves to the registry who we are; by default what Docker's own file says.
    pub credentials: Option<Credentials>,
    /// Watches.
    pub progress: Arc<dyn Progress>,
}

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry did not take it.
    #[error("failed to push image `{image}`")]
    Registry {
        /// The image.
        image: String,
        /// What the registry did.
        #[source]
        source: RegistryError,
    },
    /// The store does not hold it, or failed.
    #[error("failed to read image `{image}`")]
    Store {
        /// The image.
        image: String,
        /// What failed.
        #[source]
        source: StoreError,
    },
    /// The name cannot be pushed to.
    #[error("image `{image}` has no tag to push to")]
    NoTag {
        /// The image.
        image: String,
    },
    /// The name is one of this machine's own.
    #[error("image `{image}` has a name of this machine; build or load it under a registry's name")]
    Local {
        /// The image.
        image: String,
    },
}

impl PushError {
    /// Returns whether trying again later can help.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Registry { source, .. } => source.class(),
            Self::Store { .. } | Self::NoTag { .. } | Self::Local { .. } => FailureClass::Final,
        }
    }
}

/// Why a push failed, before the image's name is put to it.
enum PushFault {
    Registry(RegistryError),
    Store(StoreError),
}

impl From<StoreError> for PushFault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl ImageStore {
    /// Sends an image to the registry of its name and returns the digest it has there.
    ///
    /// Layers that came compressed rest uncompressed in the store. Where the registry does not have
    /// the compressed form any more, they are sent as they are, and the manifest's digest changes; the
    /// configuration's, and with it the image's identity, stays.
    ///
    /// # Errors
    ///
    /// [`PushError::class`] tells whether trying again can help.
    pub async fn push(
        &self,
        reference: &Reference,
        options: &PushOptions,
    ) -> Result<String, PushError> {
        let image = reference.to_string();
        if reference.is_local() {
            return Err(PushError::Local { image });
        }
        if reference.tag().is_none() || reference.digest().is_some() {
            return Err(PushError::NoTag { image });
        }
        match self.push_to(reference, options).await {
            Ok(digest) => Ok(digest.to_string()),
            Err(PushFault::Registry(source)) => Err(PushError::Registry { image, source }),
            Err(PushFault::Store(source)) => Err(PushError::Store { image, source }),
        }
    }

    async fn push_to(
        &self,
        reference: &Reference,
        options: &PushOptions,
    ) -> Result<Digest, PushFault> {
        let missing = || StoreError::NotFound {
            reference: reference.to_string(),
        };
        let manifest = self.lookup(reference)?.ok_or_else(missing)?;
        // Held to the end: nobody removes the files meanwhile.
        let _image = self.image(reference, manifest)?.ok_or_else(missing)?;
        let record = self.record(manifest)?.ok_or_else(missing)?;
        let session = Session::new(self, reference, options.credentials.clone(), Access::Push)
            .map_err(PushFault::Registry)?;
        session.renew().await.map_err(PushFault::Registry)?;
        Push {
            store: self,
            session,
            options,
            record,
        }
        .run()
        .await
    }
}

/// One push under way.
struct Push<'a> {
    store: &'a ImageStore,
    session: Session,
    options: &'a PushOptions,
    record: ImageRecord,
}

impl Push<'_> {
    async fn run(&self) -> Result<Digest, PushFault> {
        let manifest = self.store.blob_path(self.record.manifest);
        let bytes = std::fs::read(&manifest).map_err(|source| StoreError::File {
            action: "read",
            path: manifest.clone(),
            source,
        })?;
        let mut document: Document =
            serde_json::from_slice(&bytes).map_err(|source| StoreError::Record {
                path: manifest,
                source,
            })?;
        let restated = self.layers(&mut document).await?;
        if let Some(config) = &document.config {
            self.blob(config.expected(), self.store.blob_path(config.digest))
                .await?;
        }
        let bytes = if restated {
            document.media_type = Some(OCI_MANIFEST.to_owned());
            if let Some(config) = &mut document.config {
                config.media_type = OCI_CONFIG.to_owned();
            }
            serde_json::to_vec(&document).expect("manifests have text keys and finite numbers")
        } else {
            bytes
        };
        let digest = Digest::of(&bytes);
        let media_type = if restated {
            OCI_MANIFEST
        } else {
            &self.record.media_type
        };
        self.manifest(bytes.into(), media_type).await?;
        Ok(digest)
    }

    /// Sends the layers; returns whether the manifest now names other blobs than before.
    async fn layers(&self, document: &mut Document) -> Result<bool, PushFault> {
        let stored: Vec<Digest> = match &self.record.content {
            Content::Module { digest, .. } => vec![*digest],
            Content::Root { layers, .. } => layers.clone(),
        };
        let is_module = matches!(self.record.content, Content::Module { .. });
        let mut restated = false;
        for (at, layer) in document.layers.iter_mut().flatten().enumerate() {
            // Of an artifact only the module is here; what stood beside it was not taken.
            let own = if is_module {
                layer.digest
            } else {
                stored.get(at).copied().unwrap_or(layer.digest)
            };
            let path = self.store.blob_path(own);
            if own != layer.digest && !self.there(layer.digest).await? {
                let length = path.metadata().map(|metadata| metadata.len());
                layer.size = length.map_err(|source| StoreError::File {
                    action: "look at",
                    path: path.clone(),
                    source,
                })?;
                layer.digest = own;
                layer.media_type = TAR_LAYER.to_owned();
                restated = true;
            }
            if own == layer.digest {
                self.blob(layer.expected(), path).await?;
            }
        }
        Ok(restated)
    }

    async fn there(&self, digest: Digest) -> Result<bool, PushFault> {
        let name = digest.to_string();
        let request = || async {
            let client = self.session.client().await?;
            let there = client
                .blob_exists(self.session.reference().wire(), &name)
                .await;
            there.map_err(|error| self.library(&name, error))
        };
        self.downloads()
            .repeat(&name, request)
            .await
            .map_err(PushFault::Registry)
    }

    async fn blob(&self, expected: Expected, path: PathBuf) -> Result<(), PushFault> {
        if self.there(expected.digest).await? {
            return Ok(());
        }
        let name = expected.digest.to_string();
        self.options.progress.started(&name, expected.size);
        let request = || self.upload(&name, expected.size, &path);
        let sent = self.downloads().repeat(&name, request).await;
        self.options.progress.finished(&name);
        sent.map_err(PushFault::Registry)
    }

    async fn upload(&self, name: &str, size: u64, path: &PathBuf) -> Result<(), RegistryError> {
        let client = self.session.client().await?;
        let file = tokio::fs::File::open(path).await;
        let file = file.map_err(|error| self.library(name, error.into()))?;
        let progress = self.options.progress.clone();
        let label = name.to_owned();
        let stream = ReaderStream::with_capacity(file, UPLOAD_CHUNK_BYTES)
            .inspect_ok(move |chunk: &Bytes| progress.advanced(&label, chunk.len() as u64))
            .map_err(OciDistributionError::from);
        let reference = self.session.reference().wire();
        let sent = client
            .push_blob_stream(reference, stream, name, Some(size))
            .await;
        sent.map(drop).map_err(|error| self.library(name, error))
    }

    async fn manifest(&self, bytes: Bytes, media_type: &str) -> Result<(), PushFault> {
        let what = self.session.reference().to_string();
        let media_type = HeaderValue::from_str(media_type).map_err(|_| StoreError::Worker)?;
        let request = || async {
            let client = self.session.client().await?;
            let reference = self.session.reference().wire();
            let sent = client
                .push_manifest_raw(reference, bytes.clone(), media_type.clone())
                .await;
            sent.map(drop).map_err(|error| self.library(&what, error))
        };
        self.downloads()
            .repeat(&what, request)
            .await
            .map_err(PushFault::Registry)
    }

    fn library(&self, what: &str, error: OciDistributionError) -> RegistryError {
        let repository = self.session.reference().repository();
        RegistryError::from_library(self.session.registry(), (repository, what), error)
    }

    fn downloads(&self) -> Downloads<'_> {
        Downloads {
            session: &self.session,
            retries: self.store.inner.options.retries,
            progress: &*self.options.progress,
        }
    }
}
