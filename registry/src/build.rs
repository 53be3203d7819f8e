//! Building: local files into an image. Equal input gives equal digests.

mod tarball;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::archive::repository_from;
use crate::digest::Digest;
use crate::image::{Image, Judge};
use crate::manifest::{
    self, ConfigFile, Descriptor, Document, Form, MODULE_BYTES_MAX, OCI_CONFIG, OCI_MANIFEST,
    Parsed, RootFs, Runtime, TAR_LAYER, WASM_CONFIG, WASM_LAYER, WasmConfig,
};
use crate::reference::{LOCAL_REGISTRY, Reference, ReferenceError};
use crate::refusal::{Fault, LayerFault, Refusal, TarFault};
use crate::rootfs::inflate::{Compression, UnpackBudget};
use crate::store::{
    Candidate, Expected, ImageRecord, ImageStore, Intake, StoreError, StreamFault, form_of,
};

/// The time that built images state, so that equal input gives equal digests.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildSpec {
    /// The name of the image.
    pub reference: Reference,
    /// The module or component.
    pub module: PathBuf,
    /// What becomes of it.
    pub form: BuildForm,
}

/// The two forms an image can have.
#[derive(Debug, Clone)]
pub enum BuildForm {
    /// A CNCF Wasm artifact: the module alone.
    Artifact,
    /// An OCI image for `wasi/wasm` with a file system.
    Image(Box<ImageForm>),
}

/// The file system and settings of an image to build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageForm {
    /// Folders that become one layer each, from bottom to top.
    pub folders: Vec<PathBuf>,
    /// Tar files (plain, gzip or zstd) that become one layer each, above the folders.
    pub layers: Vec<PathBuf>,
    /// The first words of the command line; empty for the module alone.
    pub entrypoint: Vec<String>,
    /// The words that follow.
    pub cmd: Vec<String>,
    /// Environment variables as `NAME=value`.
    pub env: Vec<String>,
    /// The folder to start in.
    pub working_dir: String,
    /// The user.
    pub user: String,
    /// Ports as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file has a name that no guest could use.
    #[error("the name of `{}` is not Unicode", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// A tar layer is refused.
    #[error("layer `{}` is refused", path.display())]
    Layer {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: LayerFault,
    },
    /// The result would not run here.
    #[error("`{}` is refused", path.display())]
    Refused {
        /// The module.
        path: PathBuf,
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
    /// The name has a digest, which only content can give: the image would be run for another one.
    #[error("image `{image}` cannot be built under a digest; name it with a tag")]
    Pinned {
        /// The image.
        image: String,
    },
    /// The name to pack under is none.
    #[error("`{name}` cannot name an image")]
    PackName {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: ReferenceError,
    },
}

/// Why a local module was not packed.
pub type PackError = BuildError;

/// A built image before it is stored under a name.
struct Built {
    config: Vec<u8>,
    manifest: Vec<u8>,
    settings: Option<ConfigFile>,
}

impl ImageStore {
    /// Builds an image from local files and stores it under its name.
    ///
    /// # Errors
    ///
    /// Fails when the name has a digest, a file cannot be read or the result would not run here.
    pub fn build(&self, spec: &BuildSpec, judge: &dyn Judge) -> Result<Image, BuildError> {
        if spec.reference.digest().is_some() {
            return Err(BuildError::Pinned {
                image: spec.reference.to_string(),
            });
        }
        self.build_as_named(spec, judge)
    }

    /// Builds under a name whose digest, if it has one, is the result's.
    fn build_as_named(&self, spec: &BuildSpec, judge: &dyn Judge) -> Result<Image, BuildError> {
        let wasm = read_module(&spec.module)?;
        let store = |source| BuildError::Store {
            image: spec.reference.to_string(),
            source,
        };
        let mut intake = Intake::begin_blocking(self).map_err(store)?;
        let built = match &spec.form {
            BuildForm::Artifact => artifact(&wasm),
            BuildForm::Image(form) => self.image_of(&spec.module, form, &spec.reference)?,
        };
        let digest = Digest::of(&built.manifest);
        let record = self.admit(&spec.module, &built, &wasm, judge, store)?;
        intake
            .commit(&record, &[(&spec.reference, digest)])
            .map_err(store)?;
        let image = self.image(&spec.reference, digest).map_err(store)?;
        image.ok_or_else(|| store(StoreError::Worker))
    }

    /// Stores a local module under a name that tells its content: `coracle.local/<name>@sha256:…`.
    ///
    /// What the same file held before goes, unless it was packed just now or is in use.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read or would not run here.
    pub fn pack(&self, wasm: &Path, name: &str, judge: &dyn Judge) -> Result<Reference, PackError> {
        let bytes = read_module(wasm)?;
        let digest = Digest::of(&artifact(&bytes).manifest);
        let text = format!("{LOCAL_REGISTRY}/{}@{digest}", repository_from(name));
        let reference: Reference = text.parse().map_err(|source| BuildError::PackName {
            name: name.to_owned(),
            source,
        })?;
        let module = wasm.to_owned();
        let spec = BuildSpec {
            reference: reference.clone(),
            module,
            form: BuildForm::Artifact,
        };
        let _image = self.build_as_named(&spec, judge)?;
        self.supersede(&reference, wasm, SystemTime::now())
            .map_err(|source| BuildError::Store {
                image: reference.to_string(),
                source,
            })?;
        Ok(reference)
    }

    fn admit(
        &self,
        path: &Path,
        built: &Built,
        wasm: &[u8],
        judge: &dyn Judge,
        store: impl Fn(StoreError) -> BuildError,
    ) -> Result<ImageRecord, BuildError> {
        let admitted = || -> Result<ImageRecord, Fault> {
            let Parsed::Manifest(manifest) = manifest::parse(&built.manifest, None)? else {
                return Err(StoreError::Worker.into());
            };
            let candidate = Candidate {
                digest: Digest::of(&built.manifest),
                manifest_bytes: &built.manifest,
                manifest: &manifest,
                config_bytes: &built.config,
            };
            match (manifest.form()?, &built.settings) {
                (Form::Layers(_), Some(config)) => Ok(candidate.admit_root(self, config, judge)?.0),
                (Form::Module(module), _) => {
                    if !self.has_blob(module.expected())? {
                        self.put_bytes(module.digest, wasm)?;
                    }
                    candidate.admit_module(self, &module, judge)
                }
                (Form::Layers(_), None) => Err(StoreError::Worker.into()),
            }
        };
        admitted().map_err(|fault| match fault {
            Fault::Refused(source) => BuildError::Refused {
                path: path.to_owned(),
                source,
            },
            Fault::Store(error) => store(error),
        })
    }

    fn image_of(
        &self,
        module: &Path,
        form: &ImageForm,
        reference: &Reference,
    ) -> Result<Built, BuildError> {
        let store = |source| BuildError::Store {
            image: reference.to_string(),
            source,
        };
        let budget = UnpackBudget::default();
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        let mut add = |(expected, diff_id): (Expected, Digest)| {
            diff_ids.push(diff_id);
            layers.push(expected);
        };
        for folder in &form.folders {
            let tar = tarball::of_folder(self.temporary().map_err(store)?, folder)?;
            add(self.put_tar(folder, tar.path(), &budget, &store)?);
        }
        for layer in &form.layers {
            add(self.put_tar(layer, layer, &budget, &store)?);
        }
        let (tar, inside) = tarball::of_module(self.temporary().map_err(store)?, module)?;
        add(self.put_tar(module, tar.path(), &budget, &store)?);
        Ok(image_files(form, &inside, &diff_ids, &layers))
    }

    /// Stores a local tar as an uncompressed layer and returns what it is then.
    fn put_tar(
        &self,
        origin: &Path,
        tar: &Path,
        budget: &UnpackBudget,
        store: &impl Fn(StoreError) -> BuildError,
    ) -> Result<(Expected, Digest), BuildError> {
        let unreadable = |source| BuildError::Read {
            path: origin.to_owned(),
            source,
        };
        let compression = Compression::of_file(tar).map_err(unreadable)?;
        // Once to learn its digest, once to store it: its tar is not known before.
        let open = || File::open(tar).map_err(unreadable);
        let fresh = UnpackBudget::default();
        let seen = crate::rootfs::inflate::inflate(open()?, compression, std::io::sink(), &fresh);
        let refused = |source| BuildError::Layer {
            path: origin.to_owned(),
            source,
        };
        let seen = seen.map_err(|fault| match fault {
            crate::rootfs::inflate::InflateFault::Bomb => refused(LayerFault::Bomb),
            crate::rootfs::inflate::InflateFault::Read(error)
            | crate::rootfs::inflate::InflateFault::Write(error) => {
                refused(LayerFault::Inflate(error))
            }
        })?;
        let expected = Expected {
            digest: seen.arrived.1,
            size: seen.arrived.0,
        };
        let put = self.put_layer(open()?, expected, (compression, seen.tar.1), budget);
        put.map_err(|fault| match fault {
            StreamFault::Layer(source) => refused(source),
            StreamFault::Store(error) => store(error),
        })?;
        Ok((
            Expected {
                digest: seen.tar.1,
                size: seen.tar.0,
            },
            seen.tar.1,
        ))
    }
}

/// Returns the documents of a bare module's artifact.
fn artifact(wasm: &[u8]) -> Built {
    let digest = Digest::of(wasm);
    let config = WasmConfig {
        created: Some(NO_TIME.to_owned()),
        architecture: "wasm".to_owned(),
        os: if form_of(wasm) == "component" {
            "wasip2"
        } else {
            "wasip1"
        }
        .to_owned(),
        layer_digests: vec![digest],
    };
    let config = serde_json::to_vec(&config).expect("a configuration has text keys");
    let layer = descriptor(
        WASM_LAYER,
        Expected {
            digest,
            size: wasm.len() as u64,
        },
    );
    let manifest = document(WASM_CONFIG, &config, vec![layer]);
    Built {
        config,
        manifest,
        settings: None,
    }
}

/// Returns the documents of an image with layers.
fn image_files(form: &ImageForm, inside: &str, diff_ids: &[Digest], layers: &[Expected]) -> Built {
    let entrypoint = match form.entrypoint.as_slice() {
        [] => vec![inside.to_owned()],
        words => words.to_vec(),
    };
    let ports = form.exposed_ports.iter();
    let settings = ConfigFile {
        created: Some(NO_TIME.to_owned()),
        architecture: "wasm".to_owned(),
        os: "wasi".to_owned(),
        config: Runtime {
            user: form.user.clone(),
            exposed_ports: ports
                .map(|port| (port.clone(), serde_json::json!({})))
                .collect(),
            env: form.env.clone(),
            entrypoint,
            cmd: form.cmd.clone(),
            working_dir: form.working_dir.clone(),
            labels: form.labels.clone(),
        },
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: diff_ids.to_vec(),
        },
    };
    let config = serde_json::to_vec(&settings).expect("a configuration has text keys");
    let layers = layers
        .iter()
        .map(|layer| descriptor(TAR_LAYER, *layer))
        .collect();
    let manifest = document(OCI_CONFIG, &config, layers);
    Built {
        config,
        manifest,
        settings: Some(settings),
    }
}

fn document(config_type: &str, config: &[u8], layers: Vec<Descriptor>) -> Vec<u8> {
    let size = config.len() as u64;
    let config = descriptor(
        config_type,
        Expected {
            digest: Digest::of(config),
            size,
        },
    );
    let document = Document {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config: Some(config),
        layers: Some(layers),
        ..Document::default()
    };
    serde_json::to_vec(&document).expect("a manifest has text keys")
}

fn descriptor(media_type: &str, Expected { digest, size }: Expected) -> Descriptor {
    let media_type = media_type.to_owned();
    Descriptor {
        media_type,
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

fn read_module(path: &Path) -> Result<Vec<u8>, BuildError> {
    let unreadable = |source| BuildError::Read {
        path: path.to_owned(),
        source,
    };
    let size = path.metadata().map_err(unreadable)?.len();
    if size > MODULE_BYTES_MAX {
        let source = Refusal::LargeModule {
            size,
            max: MODULE_BYTES_MAX,
        };
        return Err(BuildError::Refused {
            path: path.to_owned(),
            source,
        });
    }
    std::fs::read(path).map_err(unreadable)
}

impl From<TarFault> for LayerFault {
    fn from(fault: TarFault) -> Self {
        Self::Tar(fault)
    }
}
