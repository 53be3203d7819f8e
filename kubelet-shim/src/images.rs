//! Images as containers need them: one immutable file tree per image, shared, and the code in it.

mod keys;

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use coracle_registry::{
    Credentials, EntryKind, Extent, FailureClass, FileStamp, Image, ImageContent, ImageStore,
    Judge, Progress, PullError, PullOptions, Reference, Root,
};
use coracle_runtime::fs::{FileExtent, FileSource, FsError, Meta, Tree, TreeBuilder};
use coracle_runtime::{Code, CodeBytes};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::environment::ImageDefaults;
use crate::lifecycle::{Outlook, Problem};
use crate::spec::PullPolicy;

pub(crate) use keys::PullKeys;

/// Pulls under way at once: layers of one image already arrive in parallel.
const PULLS_MAX: usize = 4;

/// Where a program is looked for when the container's environment names no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Gives out images. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Images(Arc<Inner>);

struct Inner {
    store: ImageStore,
    progress: Arc<dyn Progress>,
    pulls: Semaphore,
    /// One tree is built at a time, so that a burst of pods of one image builds it once.
    builds: Semaphore,
    built: Mutex<HashMap<String, Weak<SharedImage>>>,
    /// What names stood for when they were looked up last, while somebody uses it. Whoever uses an image
    /// holds its files, so it is whole for as long as its name is not given to another.
    found: Mutex<HashMap<String, Found>>,
}

/// An image ready to be run; its files stay in the store while this lives.
pub(crate) struct SharedImage {
    image: Image,
    /// The root that containers see.
    pub(crate) tree: Arc<Tree>,
    /// How its program wants to be started.
    pub(crate) defaults: ImageDefaults,
    layers: HashMap<Arc<Path>, Arc<File>>,
    /// The file of an image that is one module.
    module: Option<FileExtent>,
}

struct Found {
    stamp: FileStamp,
    image: Weak<SharedImage>,
}

/// An image and how it came here.
pub(crate) struct Fetched {
    pub(crate) image: Arc<SharedImage>,
    pub(crate) origin: Origin,
}

/// How an image came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was in the store.
    Present,
    /// It was pulled.
    Pulled {
        /// Time the pull itself took.
        took: Duration,
        /// The same with the time spent waiting for its turn.
        waited: Duration,
    },
}

/// Why a program cannot be found in an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("no command is given, neither by the pod nor by the image")]
    NoCommand,
    #[error("`{0}` is not in the image")]
    NotFound(String),
    #[error("`{0}` is no WebAssembly program")]
    NotWasm(String),
}

/// Why an image cannot be used although it is here.
#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("failed to open `{path}`")]
    Open {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("failed to build the root file system")]
    Tree(#[from] FsError),
}

struct CodeJudge;

impl Judge for CodeJudge {
    fn judge(&self, wasm: &[u8]) -> Result<(), String> {
        coracle_runtime::judge(wasm)
            .map(drop)
            .map_err(|refusal| refusal.to_string())
    }
}

impl Images {
    pub(crate) fn new(store: ImageStore, progress: Arc<dyn Progress>) -> Images {
        Images(Arc::new(Inner {
            store,
            progress,
            pulls: Semaphore::new(PULLS_MAX),
            builds: Semaphore::new(1),
            built: Mutex::new(HashMap::new()),
            found: Mutex::new(HashMap::new()),
        }))
    }

    /// Returns an image by its pull policy. `pulling` is called before the registry is asked.
    pub(crate) async fn fetch(
        &self,
        name: &str,
        policy: PullPolicy,
        keys: &PullKeys,
        pulling: impl FnOnce() + Send,
    ) -> Result<Fetched, Problem> {
        let reference: Reference = name.parse().map_err(|error| Problem {
            reason: "InvalidImageName",
            message: describe(&error).into(),
            outlook: Outlook::Refused,
        })?;
        // Taken first: a name that is given away meanwhile has another one.
        let stamp = self.0.store.stamp(&reference);
        let present = match policy {
            PullPolicy::Always => None,
            PullPolicy::IfNotPresent | PullPolicy::Never => {
                if let Some(image) = self.in_use(name, stamp) {
                    return Ok(Fetched {
                        image,
                        origin: Origin::Present,
                    });
                }
                self.find(&reference).await?
            }
        };
        let (image, origin) = match (present, policy) {
            (Some(image), _) => (image, Origin::Present),
            (None, PullPolicy::Never) => {
                let message =
                    format!("Container image \"{name}\" is not present with pull policy of Never");
                return Err(Problem {
                    reason: "ErrImageNeverPull",
                    message: message.into(),
                    outlook: Outlook::Refused,
                });
            }
            (None, PullPolicy::Always | PullPolicy::IfNotPresent) => {
                pulling();
                self.pull(&reference, keys).await?
            }
        };
        let image = self.share(image).await.map_err(|error| Problem {
            reason: "ImageInspectError",
            message: describe(&error).into(),
            outlook: Outlook::MayMend,
        })?;
        if let (Some(stamp), Origin::Present) = (stamp, origin) {
            self.remember(name, stamp, &image);
        }
        Ok(Fetched { image, origin })
    }

    /// Returns the image that a name stood for under this stamp, if somebody uses it: most pods of a burst
    /// are of one image, and neither a thread nor a file is needed to find it again.
    fn in_use(&self, name: &str, stamp: Option<FileStamp>) -> Option<Arc<SharedImage>> {
        let found = self.0.found.lock();
        let known = found.get(name)?;
        (Some(known.stamp) == stamp).then(|| known.image.upgrade())?
    }

    fn remember(&self, name: &str, stamp: FileStamp, image: &Arc<SharedImage>) {
        let image = Arc::downgrade(image);
        let mut found = self.0.found.lock();
        found.retain(|_, known| known.image.strong_count() > 0);
        found.insert(name.to_owned(), Found { stamp, image });
    }

    async fn find(&self, reference: &Reference) -> Result<Option<Image>, Problem> {
        let (store, reference) = (self.0.store.clone(), reference.clone());
        let found = blocking(move || store.find(&reference)).await;
        found.map_err(|error| Problem {
            reason: "ImageInspectError",
            message: describe(&error).into(),
            outlook: Outlook::MayMend,
        })
    }

    /// Pulls with each of the pod's credentials until one opens the registry, and without any where the
    /// pod has none.
    async fn pull(
        &self,
        reference: &Reference,
        keys: &PullKeys,
    ) -> Result<(Image, Origin), Problem> {
        let asked = tokio::time::Instant::now();
        // Never closed; without a permit the pull only goes uncounted.
        let _permit = self.0.pulls.acquire().await.ok();
        let began = tokio::time::Instant::now();
        let mut credentials = keys.find(reference).await.into_iter();
        let mut pulled = self.pull_with(reference, credentials.next()).await;
        for next in credentials {
            match &pulled {
                Err(error) if error.class() == FailureClass::Final => {
                    pulled = self.pull_with(reference, Some(next)).await;
                }
                Ok(_) | Err(_) => break,
            }
        }
        match pulled {
            Ok(image) => Ok((
                image,
                Origin::Pulled {
                    took: began.elapsed(),
                    waited: asked.elapsed(),
                },
            )),
            Err(error) => Err(Problem {
                reason: "ErrImagePull",
                message: describe(&error).into(),
                outlook: match error.class() {
                    FailureClass::Retry => Outlook::MayMend,
                    FailureClass::Final => Outlook::Refused,
                },
            }),
        }
    }

    async fn pull_with(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Image, PullError> {
        let options = PullOptions {
            credentials,
            judge: Arc::new(CodeJudge),
            progress: self.0.progress.clone(),
        };
        // Boxed, since the compiler cannot see through the whole depth of it that it is `Send`.
        let pull: BoxFuture<'_, Result<Image, PullError>> =
            Box::pin(self.0.store.pull(reference, &options));
        pull.await
    }

    /// Returns the one tree of an image, building it when no container uses it yet.
    async fn share(&self, image: Image) -> Result<Arc<SharedImage>, BuildError> {
        if let Some(known) = self.known(&image.digest) {
            return Ok(known);
        }
        let _turn = self.0.builds.acquire().await.ok();
        if let Some(known) = self.known(&image.digest) {
            return Ok(known);
        }
        let digest = image.digest.clone();
        let shared = Arc::new(blocking(move || SharedImage::build(image)).await?);
        let mut built = self.0.built.lock();
        built.retain(|_, image| image.strong_count() > 0);
        built.insert(digest, Arc::downgrade(&shared));
        Ok(shared)
    }

    fn known(&self, digest: &str) -> Option<Arc<SharedImage>> {
        self.0.built.lock().get(digest).and_then(Weak::upgrade)
    }
}

impl SharedImage {
    /// `repository@digest`, as `imageID` shows it.
    pub(crate) fn id(&self) -> String {
        let reference = &self.image.reference;
        format!(
            "{}/{}@{}",
            reference.registry(),
            reference.repository(),
            self.image.digest
        )
    }

    /// Size in bytes, for the pull event.
    pub(crate) fn size(&self) -> u64 {
        self.image.size
    }

    /// The image's user, for `runAsNonRoot`.
    pub(crate) fn user(&self) -> &str {
        &self.image.config.user
    }

    /// Finds the code that a command line starts: the module itself, or what its first word names.
    pub(crate) fn code(
        &self,
        args: &[String],
        working_dir: &str,
        path: Option<&str>,
    ) -> Result<Code, ProgramError> {
        match &self.image.content {
            ImageContent::Module(module) => {
                let extent = self
                    .module
                    .clone()
                    .ok_or_else(|| ProgramError::NotFound(String::new()))?;
                Ok(Code {
                    digest: module.digest.clone(),
                    bytes: CodeBytes::Extent(extent),
                })
            }
            ImageContent::Root(root) => {
                let program = args.first().ok_or(ProgramError::NoCommand)?;
                self.code_in(root, program, working_dir, path)
            }
        }
    }

    /// Whether it is a program by itself, without files.
    pub(crate) fn is_one_program(&self) -> bool {
        match &self.image.content {
            ImageContent::Module(_) => true,
            ImageContent::Root(_) => false,
        }
    }

    /// Looks a program up among the [`candidates`].
    fn code_in(
        &self,
        root: &Root,
        program: &str,
        working_dir: &str,
        path: Option<&str>,
    ) -> Result<Code, ProgramError> {
        let mut seen_other = false;
        for candidate in candidates(program, working_dir, path) {
            let Some(entry) = root.resolve(&candidate) else {
                continue;
            };
            let (EntryKind::File(extent), Some(digest)) = (&entry.kind, &entry.wasm) else {
                seen_other = true;
                continue;
            };
            if let Some(extent) = self.extent(extent) {
                return Ok(Code {
                    digest: digest.clone(),
                    bytes: CodeBytes::Extent(extent),
                });
            }
        }
        Err(if seen_other {
            ProgramError::NotWasm(program.to_owned())
        } else {
            ProgramError::NotFound(program.to_owned())
        })
    }

    /// Returns the digest of a program at a path of the image, if `extent` is its content.
    pub(crate) fn digest_of(&self, path: &str, extent: &FileExtent) -> Option<&str> {
        let (digest, of_image) = match &self.image.content {
            ImageContent::Module(module) => (&module.digest, self.module.clone()?),
            ImageContent::Root(root) => {
                let entry = root.resolve(path)?;
                let EntryKind::File(at) = &entry.kind else {
                    return None;
                };
                (entry.wasm.as_ref()?, self.extent(at)?)
            }
        };
        let is_same = Arc::ptr_eq(&of_image.file, &extent.file)
            && (of_image.offset, of_image.len) == (extent.offset, extent.len);
        is_same.then_some(digest)
    }

    fn extent(&self, extent: &Extent) -> Option<FileExtent> {
        let file = self.layers.get(&extent.layer)?.clone();
        Some(FileExtent {
            file,
            offset: extent.offset,
            len: extent.len,
        })
    }

    fn build(image: Image) -> Result<SharedImage, BuildError> {
        let mut tree = TreeBuilder::new();
        let mut layers = HashMap::new();
        let mut module = None;
        let mut defaults = ImageDefaults {
            entrypoint: image.config.entrypoint.clone(),
            cmd: image.config.cmd.clone(),
            env: image.config.env.clone(),
            working_dir: image.config.working_dir.clone(),
        };
        match &image.content {
            ImageContent::Module(file) => {
                let opened = Arc::new(open(&file.path)?);
                let extent = FileExtent {
                    file: opened,
                    offset: 0,
                    len: file.size,
                };
                let name = module_name(&image.reference);
                let meta = Meta::new(0o755, SystemTime::UNIX_EPOCH);
                tree.file(&name, meta, FileSource::Extent(extent.clone()))?;
                module = Some(extent);
                if defaults.entrypoint.is_empty() && defaults.cmd.is_empty() {
                    defaults.entrypoint.push(format!("/{name}"));
                }
            }
            ImageContent::Root(root) => add_entries(&mut tree, root, &mut layers)?,
        }
        let root = match &image.content {
            ImageContent::Module(_) => None,
            ImageContent::Root(root) => Some(&**root),
        };
        add_standard_folders(&mut tree, root)?;
        Ok(SharedImage {
            image,
            tree: Arc::new(tree.build()),
            defaults,
            layers,
            module,
        })
    }
}

/// The places where a program is looked for, as a shell would: a path as it is, a bare name along `PATH`,
/// then in the working folder, since images of one module often name it so.
pub(crate) fn candidates(program: &str, working_dir: &str, path: Option<&str>) -> Vec<String> {
    if program.starts_with('/') {
        return vec![program.to_owned()];
    }
    if program.contains('/') {
        return vec![format!("{working_dir}/{program}")];
    }
    let folders = path.unwrap_or(DEFAULT_PATH).split(':').chain([working_dir]);
    folders
        .map(|folder| format!("{folder}/{program}"))
        .collect()
}

fn add_entries(
    tree: &mut TreeBuilder,
    root: &Root,
    layers: &mut HashMap<Arc<Path>, Arc<File>>,
) -> Result<(), BuildError> {
    for entry in root.entries() {
        let meta = Meta {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
        };
        match &entry.kind {
            EntryKind::Dir => {
                tree.dir(&entry.path, meta)?;
            }
            EntryKind::Symlink(target) => {
                tree.symlink(&entry.path, target, meta)?;
            }
            EntryKind::File(extent) => {
                let file = match layers.get(&extent.layer) {
                    Some(file) => file.clone(),
                    None => {
                        let file = Arc::new(open(&extent.layer)?);
                        layers.insert(extent.layer.clone(), file.clone());
                        file
                    }
                };
                let extent = FileExtent {
                    file,
                    offset: extent.offset,
                    len: extent.len,
                };
                tree.file(&entry.path, meta, FileSource::Extent(extent))?;
            }
        }
    }
    Ok(())
}

/// Adds the folders that programs expect everywhere, where the image has nothing in their place.
fn add_standard_folders(tree: &mut TreeBuilder, root: Option<&Root>) -> Result<(), BuildError> {
    for (path, mode) in [("dev", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
        if root.is_none_or(|root| root.find(path).is_none()) {
            tree.dir(path, Meta::new(mode, SystemTime::UNIX_EPOCH))?;
        }
    }
    Ok(())
}

/// The name of a bare module in its root: `hello.wasm` for `registry.example/team/hello:1`.
fn module_name(reference: &Reference) -> String {
    let repository = reference.repository();
    let last = repository.rsplit('/').next().unwrap_or(repository);
    format!("{last}.wasm")
}

fn open(path: &Path) -> Result<File, BuildError> {
    File::open(path).map_err(|source| BuildError::Open {
        path: path.display().to_string(),
        source,
    })
}

/// Runs something that may wait for a disk where waiting is allowed.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The work's own panic goes on in the worker that asked for it; a cancelled one has no runtime
        // left to report to.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => panic!("the runtime is gone"),
        },
    }
}

/// Writes an error with everything that caused it.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
