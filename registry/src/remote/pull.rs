//! Pulling: from a name to an image in the store.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Semaphore, mpsc};

use super::auth::Access;
use super::credentials::Credentials;
use super::download::{Downloads, channel};
use super::error::RegistryError;
use super::session::{Fetched, Session};
use crate::digest::Digest;
use crate::image::{Image, Judge, Progress};
use crate::manifest::{self, ConfigFile, Descriptor, Form, Manifest, Parsed};
use crate::reference::Reference;
use crate::refusal::{FailureClass, Fault, LayerFault, Refusal};
use crate::rootfs::Root;
use crate::rootfs::inflate::{Compression, UnpackBudget};
use crate::store::{Candidate, ImageRecord, ImageStore, Intake, StoreError, StreamFault};

/// Layers of one image that travel at the same time; more only compete for the same line.
const PARALLEL_LAYERS: usize = 6;

/// How an image is pulled.
#[derive(Clone)]
pub struct PullOptions {
    /// What proves to the registry who we are; by default what Docker's own file says.
    pub credentials: Option<Credentials>,
    /// Decides whether the image's program can run here.
    pub judge: Arc<dyn Judge>,
    /// Watches.
    pub progress: Arc<dyn Progress>,
}

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry did not give it.
    #[error("failed to pull image `{image}`")]
    Registry {
        /// The image.
        image: String,
        /// What the registry did.
        #[source]
        source: RegistryError,
    },
    /// The image is not taken.
    #[error("image `{image}` is refused")]
    Refused {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// The store failed.
    #[error("failed to store image `{image}`")]
    Store {
        /// The image.
        image: String,
        /// What failed.
        #[source]
        source: StoreError,
    },
    /// The name is one of this machine's own, and the store does not hold it.
    #[error("image `{image}` was packed on this machine and is not in the store any more")]
    Local {
        /// The image.
        image: String,
    },
}

impl PullError {
    /// Returns whether trying again later can help.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Registry { source, .. } => source.class(),
            Self::Refused { .. } | Self::Store { .. } | Self::Local { .. } => FailureClass::Final,
        }
    }
}

/// Why a pull failed, before the image's name is put to it.
enum PullFault {
    Registry(RegistryError),
    Content(Fault),
}

impl From<Fault> for PullFault {
    fn from(fault: Fault) -> Self {
        Self::Content(fault)
    }
}

impl From<Refusal> for PullFault {
    fn from(refusal: Refusal) -> Self {
        Self::Content(refusal.into())
    }
}

impl From<StoreError> for PullFault {
    fn from(error: StoreError) -> Self {
        Self::Content(error.into())
    }
}

impl PullFault {
    fn of(self, reference: &Reference) -> PullError {
        let image = reference.to_string();
        match self {
            Self::Registry(source) => PullError::Registry { image, source },
            Self::Content(Fault::Refused(source)) => PullError::Refused { image, source },
            Self::Content(Fault::Store(source)) => PullError::Store { image, source },
        }
    }
}

impl ImageStore {
    /// Brings an image into the store and returns it.
    ///
    /// Asks the registry what a tag means now; what is here already is not fetched again, and a name
    /// with a digest that is here makes no request at all. Any number of tasks and processes may pull
    /// the same image: one fetches, the others wait. After a refusal nothing stays; after a broken
    /// connection complete layers stay for the next attempt. Dropping the future ends the pull.
    ///
    /// # Errors
    ///
    /// [`PullError::class`] tells whether trying again can help.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Image, PullError> {
        let pull = async {
            if reference.digest().is_some()
                && let Some(image) = self.find(reference)?
            {
                return Ok(image);
            }
            let session = Session::new(self, reference, options.credentials.clone(), Access::Pull)
                .map_err(PullFault::Registry)?;
            Pull {
                store: self,
                session,
                options,
            }
            .run()
            .await
        };
        if reference.is_local() {
            let found = self
                .find(reference)
                .map_err(|error| PullFault::from(error).of(reference))?;
            return found.ok_or_else(|| PullError::Local {
                image: reference.to_string(),
            });
        }
        pull.await.map_err(|fault: PullFault| fault.of(reference))
    }
}

/// One pull under way.
struct Pull<'a> {
    store: &'a ImageStore,
    session: Session,
    options: &'a PullOptions,
}

/// A manifest whose digest is certain.
struct Known {
    /// What the name stands for at the registry: the manifest or the index above it.
    resolved: Digest,
    digest: Digest,
    bytes: Bytes,
    manifest: Manifest,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Image, PullFault> {
        let reference = self.session.reference();
        if let Some(image) = self.unchanged().await? {
            return Ok(image);
        }
        let known = self.resolve().await?;
        let path = self.store.flight_path(known.digest);
        let _flight = self.store.inner.flights.board(known.digest, &path).await?;
        if let Some(image) = self.store.image(reference, known.digest)? {
            self.store
                .give_name(reference, known.digest, known.resolved)?;
            return Ok(image);
        }
        let mut intake = Intake::begin(self.store).await?;
        let (record, _root) = match self.fetch(&known).await {
            Ok(fetched) => fetched,
            Err(PullFault::Registry(error)) if error.class() == FailureClass::Retry => {
                intake.keep_for_later();
                return Err(PullFault::Registry(error));
            }
            Err(fault) => return Err(fault),
        };
        intake.commit(&record, &[(reference, known.resolved)])?;
        let image = self.store.image(reference, known.digest)?;
        image.ok_or_else(|| StoreError::Worker.into())
    }

    fn downloads(&self) -> Downloads<'_> {
        Downloads {
            session: &self.session,
            retries: self.store.inner.options.retries,
            progress: &*self.options.progress,
        }
    }

    /// Returns the stored image if the registry says that the tag still means it.
    async fn unchanged(&self) -> Result<Option<Image>, PullFault> {
        let reference = self.session.reference();
        let (Some(tag), None) = (reference.tag(), reference.digest()) else {
            return Ok(None);
        };
        let Some(name) = self.store.name(reference)? else {
            return Ok(None);
        };
        let stated = self
            .downloads()
            .repeat(&reference.to_string(), || self.session.resolve(tag))
            .await
            .map_err(PullFault::Registry)?;
        if stated.as_deref() != Some(name.resolved.to_string().as_str()) {
            return Ok(None);
        }
        Ok(self.store.image(reference, name.manifest)?)
    }

    /// Finds out which manifest is meant.
    async fn resolve(&self) -> Result<Known, PullFault> {
        let reference = self.session.reference();
        let name = reference.digest().or(reference.tag()).unwrap_or("latest");
        let top = self.document(name).await?;
        let resolved = Digest::of(&top.bytes);
        if let Some(expected) = reference.digest().or(top.stated_digest.as_deref())
            && expected != resolved.to_string()
        {
            return Err(wrong_digest(expected, resolved));
        }
        match manifest::parse(&top.bytes, top.content_type.as_deref())? {
            Parsed::Manifest(manifest) => Ok(Known {
                resolved,
                digest: resolved,
                bytes: top.bytes,
                manifest,
            }),
            Parsed::Index(entries) => self.choose(resolved, &entries).await,
        }
    }

    async fn choose(&self, resolved: Digest, entries: &[Descriptor]) -> Result<Known, PullFault> {
        let entry = manifest::choose(entries)?;
        let name = entry.digest.to_string();
        let fetched = self.document(&name).await?;
        let digest = Digest::of(&fetched.bytes);
        if digest != entry.digest {
            return Err(wrong_digest(&name, digest));
        }
        if fetched.bytes.len() as u64 != entry.size {
            let reason = format!("the index gives its length as {}", entry.size);
            return Err(Refusal::Manifest { reason }.into());
        }
        match manifest::parse(&fetched.bytes, Some(&entry.media_type))? {
            Parsed::Manifest(mut manifest) => {
                // Some builders annotate the index's entry only.
                manifest.annotations.extend(entry.annotations.clone());
                Ok(Known {
                    resolved,
                    digest,
                    bytes: fetched.bytes,
                    manifest,
                })
            }
            Parsed::Index(_) => {
                let reason = "its index leads to another index".to_owned();
                Err(Refusal::Manifest { reason }.into())
            }
        }
    }

    async fn document(&self, name: &str) -> Result<Fetched, PullFault> {
        let what = self.session.reference().to_string();
        let request = || self.session.manifest(name);
        self.downloads()
            .repeat(&what, request)
            .await
            .map_err(PullFault::Registry)
    }

    /// Brings in everything the manifest names and has it judged.
    async fn fetch(&self, known: &Known) -> Result<(ImageRecord, Option<Arc<Root>>), PullFault> {
        let manifest = &known.manifest;
        let form = manifest.form()?;
        let config_bytes = self.config(manifest).await?;
        let config = match &form {
            Form::Module(module) => {
                self.module(module).await?;
                None
            }
            Form::Layers(layers) => {
                let config = ConfigFile::parse(&config_bytes, manifest)?;
                self.layers(layers, &config.rootfs.diff_ids).await?;
                Some(config)
            }
        };
        let (store, judge) = (self.store.clone(), self.options.judge.clone());
        let (digest, manifest_bytes) = (known.digest, known.bytes.clone());
        let manifest = manifest.clone();
        let admitted = in_worker(move || {
            let (manifest, manifest_bytes) = (&manifest, &manifest_bytes[..]);
            let candidate = Candidate {
                digest,
                manifest_bytes,
                manifest,
                config_bytes: &config_bytes,
            };
            match (&form, &config) {
                (Form::Layers(_), Some(config)) => {
                    let (record, root) = candidate.admit_root(&store, config, &*judge)?;
                    Ok((record, Some(root)))
                }
                (Form::Module(module), _) => {
                    Ok((candidate.admit_module(&store, module, &*judge)?, None))
                }
                (Form::Layers(_), None) => Err(Fault::Store(StoreError::Worker)),
            }
        });
        Ok(admitted.await??)
    }

    /// Fetches the configuration into memory; its size is bounded by the manifest's check.
    async fn config(&self, manifest: &Manifest) -> Result<Vec<u8>, PullFault> {
        let expected = manifest.config.expected();
        if expected.size == 0 {
            return Ok(Vec::new());
        }
        let (sink, mut arriving) = channel();
        let read = in_worker(move || {
            let mut bytes = Vec::new();
            let mut bounded = std::io::Read::take(&mut arriving, expected.size + 1);
            std::io::Read::read_to_end(&mut bounded, &mut bytes).map(|_| bytes)
        });
        let downloads = self.downloads();
        let (sent, read) = tokio::join!(downloads.blob(expected, sink), read);
        sent.map_err(PullFault::Registry)?;
        let bytes = read?.map_err(|_| StoreError::Worker)?;
        if Digest::of(&bytes) != expected.digest {
            return Err(wrong_digest(
                &expected.digest.to_string(),
                Digest::of(&bytes),
            ));
        }
        Ok(bytes)
    }

    async fn module(&self, module: &Descriptor) -> Result<(), PullFault> {
        let expected = module.expected();
        let _flight = self.board_below(module.digest).await?;
        if self.store.has_blob(expected)? {
            return Ok(());
        }
        self.stream(module, move |store, arriving| {
            store.put_blob(arriving, expected)
        })
        .await
    }

    async fn layers(
        &self,
        layers: &[(Descriptor, Compression)],
        diff_ids: &[Digest],
    ) -> Result<(), PullFault> {
        let budget = Arc::new(UnpackBudget::default());
        let places = Semaphore::new(PARALLEL_LAYERS);
        let (working, mut ended) = mpsc::channel(1);
        let mut running: FuturesUnordered<_> = layers
            .iter()
            .zip(diff_ids)
            .map(|((layer, compression), diff_id)| {
                let (budget, places, working) = (budget.clone(), &places, working.clone());
                async move {
                    let _place = places.acquire().await.map_err(|_| StoreError::Worker)?;
                    let form = (*compression, *diff_id);
                    self.layer(layer, form, budget, working).await
                }
            })
            .collect();
        let mut outcome = Ok(());
        while outcome.is_ok()
            && let Some(layer) = running.next().await
        {
            outcome = layer;
        }
        // After a failure nothing more arrives for the others. Their workers end by that, and are waited
        // for: what they still store would stay after the image has been cleaned away.
        drop((running, working));
        let _all_ended: Option<Infallible> = ended.recv().await;
        outcome
    }

    async fn layer(
        &self,
        layer: &Descriptor,
        form: (Compression, Digest),
        budget: Arc<UnpackBudget>,
        working: mpsc::Sender<Infallible>,
    ) -> Result<(), PullFault> {
        let _flight = self.board_below(form.1).await?;
        if let Some(index) = self.store.layer_index(form.1)? {
            let bomb = |_| Refusal::layer(layer.digest, LayerFault::Bomb);
            return Ok(budget.take(index.size).map_err(bomb)?);
        }
        let expected = layer.expected();
        let put = move |store: &ImageStore, arriving: super::download::Arriving| {
            let _until_stored = working;
            store.put_layer(arriving, expected, form, &budget)
        };
        self.stream(layer, put).await
    }

    /// A manifest and one of its layers can have the same digest only by a lie; waiting for oneself
    /// would never end.
    async fn board_below(&self, digest: Digest) -> Result<impl Sized + use<>, PullFault> {
        let path = self.store.flight_path(digest).with_extension("layer");
        let name = Digest::of(digest.hex().as_bytes());
        Ok(self.store.inner.flights.board(name, &path).await?)
    }

    /// Moves one blob from the registry through a worker thread that checks and stores it.
    async fn stream(
        &self,
        blob: &Descriptor,
        put: impl FnOnce(&ImageStore, super::download::Arriving) -> Result<(), StreamFault>
        + Send
        + 'static,
    ) -> Result<(), PullFault> {
        let name = blob.digest.to_string();
        self.options.progress.started(&name, blob.size);
        let (sink, arriving) = channel();
        let store = self.store.clone();
        let worker = in_worker(move || put(&store, arriving));
        let downloads = self.downloads();
        let (sent, stored) = tokio::join!(downloads.blob(blob.expected(), sink), worker);
        self.options.progress.finished(&name);
        sent.map_err(PullFault::Registry)?;
        Ok(stored?.map_err(|fault| Fault::of_layer(blob.digest, fault))?)
    }
}

fn wrong_digest(expected: &str, actual: Digest) -> PullFault {
    let (expected, actual) = (expected.to_owned(), actual.to_string());
    Refusal::Digest { expected, actual }.into()
}

/// Runs what would block a task. A panic there is this image's failure and no one else's.
async fn in_worker<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| StoreError::Worker)
}
