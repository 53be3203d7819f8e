//! Loading: images from an OCI image layout (a folder or a tar of it) or from `docker save`.

mod source;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::digest::Digest;
use crate::image::{Image, Judge, Progress};
use crate::manifest::{
    self, CONFIG_BYTES_MAX, ConfigFile, Descriptor, Document, Form, MANIFEST_BYTES_MAX, Manifest,
    OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Parsed, TAR_LAYER,
};
use crate::reference::{LOCAL_REGISTRY, Reference};
use crate::refusal::{Fault, LayerFault, Refusal};
use crate::rootfs::inflate::UnpackBudget;
use crate::store::{Candidate, ImageStore, Intake, StoreError};
use source::{Member, Source};

/// The most images of one archive.
const IMAGES_MAX: usize = 1000;

/// Why an archive was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The file is no tar.
    #[error("`{}` is not an archive of images", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: crate::refusal::TarFault,
    },
    /// The archive or folder is of another kind.
    #[error("`{}` is neither an OCI image layout nor the output of `docker save`", path.display())]
    Kind {
        /// The archive.
        path: PathBuf,
    },
    /// The archive is compressed, and cannot be uncompressed.
    #[error("`{}` is not a whole archive", path.display())]
    Compressed {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: LayerFault,
    },
    /// One name was given for several images.
    #[error("`{}` holds {count} images, and one name cannot be given to all", path.display())]
    Several {
        /// The archive.
        path: PathBuf,
        /// How many images it holds.
        count: usize,
    },
    /// The name has a digest, which only content can give: the image would be run for another one.
    #[error("image `{image}` cannot be loaded under a digest; name it with a tag")]
    Pinned {
        /// The image.
        image: String,
    },
    /// An image of it is not taken.
    #[error("image `{image}` of `{}` is refused", path.display())]
    Refused {
        /// The archive.
        path: PathBuf,
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<Refusal>,
    },
    /// The store failed.
    #[error("failed to store an image of `{}`", path.display())]
    Store {
        /// The archive.
        path: PathBuf,
        /// What failed.
        #[source]
        source: StoreError,
    },
}

/// One image as the archive describes it.
struct Found {
    name: Reference,
    /// The digest under which the archive lists it.
    resolved: Digest,
    digest: Digest,
    bytes: Vec<u8>,
    manifest: Manifest,
    /// Where content lies that has no place by its digest.
    places: BTreeMap<Digest, String>,
}

/// An entry of `manifest.json` in the output of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl ImageStore {
    /// Brings every image of an archive or layout folder into the store.
    ///
    /// The archive may be compressed as a whole. An image gets the name it has in the archive, or `name`
    /// if one is given, for which the archive must hold one image. What is refused stops the load; images
    /// before it stay.
    ///
    /// # Errors
    ///
    /// Fails on the first image that is refused, naming it and the layer, and on a name with a digest
    /// that the image does not have.
    pub fn load(
        &self,
        path: &Path,
        name: Option<&Reference>,
        judge: &dyn Judge,
        progress: &dyn Progress,
    ) -> Result<Vec<Image>, LoadError> {
        let source = || Source::open(self, path);
        self.load_from(source, path, name, judge, progress)
    }

    /// Brings every image of an archive that comes as a stream into the store, as [`ImageStore::load`]
    /// does; the archive lies in the store meanwhile.
    ///
    /// # Errors
    ///
    /// Fails as [`ImageStore::load`] does; the archive is called `-`.
    pub fn load_stream(
        &self,
        stream: &mut dyn Read,
        name: Option<&Reference>,
        judge: &dyn Judge,
        progress: &dyn Progress,
    ) -> Result<Vec<Image>, LoadError> {
        let path = Path::new("-");
        let source = || Source::stream(self, path, stream);
        self.load_from(source, path, name, judge, progress)
    }

    fn load_from(
        &self,
        source: impl FnOnce() -> Result<Source, LoadError>,
        path: &Path,
        name: Option<&Reference>,
        judge: &dyn Judge,
        progress: &dyn Progress,
    ) -> Result<Vec<Image>, LoadError> {
        if let Some(name) = name.filter(|name| name.digest().is_some()) {
            return Err(LoadError::Pinned {
                image: name.to_string(),
            });
        }
        let load = Load {
            store: self,
            path,
            source: source()?,
            judge,
            progress,
        };
        let mut found = load.find()?;
        if let Some(name) = name {
            load.rename(&mut found, name)?;
        }
        load.check_names(&found)?;
        found.iter().map(|found| load.bring_in(found)).collect()
    }
}

struct Load<'a> {
    store: &'a ImageStore,
    path: &'a Path,
    source: Source,
    judge: &'a dyn Judge,
    progress: &'a dyn Progress,
}

impl Load<'_> {
    fn find(&self) -> Result<Vec<Found>, LoadError> {
        if let Some(bytes) = self.small("index.json")? {
            let unnamed = || self.path.display().to_string();
            return self
                .layout(&bytes)
                .map_err(|fault| self.fault(unnamed(), fault));
        }
        if let Some(bytes) = self.small("manifest.json")? {
            let unnamed = || self.path.display().to_string();
            return self
                .saved(&bytes)
                .map_err(|fault| self.fault(unnamed(), fault));
        }
        Err(LoadError::Kind {
            path: self.path.to_owned(),
        })
    }

    /// Gives the one image of the archive, whatever it is called there, this name.
    fn rename(&self, found: &mut Vec<Found>, name: &Reference) -> Result<(), LoadError> {
        // An image with several names is listed under each.
        found.sort_by_key(|found| found.digest);
        found.dedup_by_key(|found| found.digest);
        let count = found.len();
        match found.as_mut_slice() {
            [only] => only.name = name.clone(),
            _ => {
                let path = self.path.to_owned();
                return Err(LoadError::Several { path, count });
            }
        }
        Ok(())
    }

    /// Refuses an archive that calls content by a digest that it does not have.
    fn check_names(&self, found: &[Found]) -> Result<(), LoadError> {
        for found in found {
            let actual = found.resolved.to_string();
            if let Some(expected) = found.name.digest()
                && expected != actual
            {
                let expected = expected.to_owned();
                let refusal = Refusal::Digest { expected, actual };
                return Err(self.fault(found.name.to_string(), refusal.into()));
            }
        }
        Ok(())
    }

    /// Reads the images of an OCI layout.
    fn layout(&self, bytes: &[u8]) -> Result<Vec<Found>, Fault> {
        let Parsed::Index(entries) = manifest::parse(bytes, Some(OCI_INDEX))? else {
            let reason = "`index.json` is not an index".to_owned();
            return Err(Refusal::Manifest { reason }.into());
        };
        // Several entries without names are the platforms of one image.
        let named = entries.iter().any(|entry| stated_name(entry).is_some());
        let entries = if named {
            entries
        } else {
            vec![manifest::choose(&entries)?.clone()]
        };
        let entries = entries.iter().take(IMAGES_MAX);
        entries.map(|entry| self.layout_image(entry)).collect()
    }

    fn layout_image(&self, entry: &Descriptor) -> Result<Found, Fault> {
        let name = self.name_of(stated_name(entry));
        let mut annotations = entry.annotations.clone();
        let mut chosen = entry.clone();
        let mut bytes = self.document(entry)?;
        if let Parsed::Index(below) = manifest::parse(&bytes, Some(&entry.media_type))? {
            chosen = manifest::choose(&below)?.clone();
            annotations.extend(chosen.annotations.clone());
            bytes = self.document(&chosen)?;
        }
        let Parsed::Manifest(mut manifest) = manifest::parse(&bytes, Some(&chosen.media_type))?
        else {
            let reason = "its index leads to another index".to_owned();
            return Err(Refusal::Manifest { reason }.into());
        };
        manifest.annotations.extend(annotations);
        let (resolved, digest) = (entry.digest, chosen.digest);
        Ok(Found {
            name,
            resolved,
            digest,
            bytes,
            manifest,
            places: BTreeMap::new(),
        })
    }

    /// Reads the images of `docker save`, whose layers are plain tars at places of their own.
    fn saved(&self, bytes: &[u8]) -> Result<Vec<Found>, Fault> {
        let saved: Vec<Saved> =
            serde_json::from_slice(bytes).map_err(|error| Refusal::Manifest {
                reason: error.to_string(),
            })?;
        // An image with several names has them all in one entry.
        let named = saved.iter().flat_map(|saved| {
            let names = saved.repo_tags.as_deref().unwrap_or_default();
            let unnamed = names.is_empty().then_some((saved, None));
            let names = names.iter().map(move |name| (saved, Some(name.as_str())));
            unnamed.into_iter().chain(names)
        });
        named
            .take(IMAGES_MAX)
            .map(|(saved, name)| self.saved_image(saved, name))
            .collect()
    }

    fn saved_image(&self, saved: &Saved, name: Option<&str>) -> Result<Found, Fault> {
        let name = self.name_of(name);
        let missing = |what: &str| Refusal::Manifest {
            reason: format!("there is no `{what}`"),
        };
        let config_bytes = self.whole(&saved.config, CONFIG_BYTES_MAX)?;
        let config_bytes = config_bytes.ok_or_else(|| missing(&saved.config))?;
        let config: ConfigFile =
            serde_json::from_slice(&config_bytes).map_err(|error| Refusal::Config {
                reason: error.to_string(),
            })?;
        let mut places = BTreeMap::new();
        let mut layers = Vec::new();
        for (place, diff_id) in saved.layers.iter().zip(&config.rootfs.diff_ids) {
            let member = self.member(place)?.ok_or_else(|| missing(place))?;
            layers.push(descriptor(TAR_LAYER, *diff_id, member.len));
            places.insert(*diff_id, place.clone());
        }
        let config = descriptor(
            OCI_CONFIG,
            Digest::of(&config_bytes),
            config_bytes.len() as u64,
        );
        places.insert(config.digest, saved.config.clone());
        let document = Document {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            config: Some(config),
            layers: Some(layers),
            ..Document::default()
        };
        let bytes = serde_json::to_vec(&document).expect("manifests have text keys");
        let Parsed::Manifest(manifest) = manifest::parse(&bytes, None)? else {
            return Err(missing("layers").into());
        };
        let digest = Digest::of(&bytes);
        Ok(Found {
            name,
            resolved: digest,
            digest,
            bytes,
            manifest,
            places,
        })
    }

    fn bring_in(&self, found: &Found) -> Result<Image, LoadError> {
        let image = found.name.to_string();
        let brought = || {
            if let Some(image) = self.store.image(&found.name, found.digest)? {
                self.store
                    .give_name(&found.name, found.digest, found.resolved)?;
                return Ok(image);
            }
            let mut intake = Intake::begin_blocking(self.store)?;
            let record = self.content(found)?;
            intake.commit(&record, &[(&found.name, found.resolved)])?;
            let image = self.store.image(&found.name, found.digest)?;
            image.ok_or(Fault::Store(StoreError::Worker))
        };
        brought().map_err(|fault| self.fault(image, fault))
    }

    fn content(&self, found: &Found) -> Result<crate::store::ImageRecord, Fault> {
        let manifest = &found.manifest;
        let form = manifest.form()?;
        let config_bytes = self.config(found)?;
        let candidate = Candidate {
            digest: found.digest,
            manifest_bytes: &found.bytes,
            manifest,
            config_bytes: &config_bytes,
        };
        match form {
            Form::Module(module) => {
                let put = |member| self.store.put_blob(member, module.expected());
                self.blob(found, &module, put)?;
                candidate.admit_module(self.store, &module, self.judge)
            }
            Form::Layers(layers) => {
                let config = ConfigFile::parse(&config_bytes, manifest)?;
                let budget = UnpackBudget::default();
                for ((layer, compression), diff_id) in layers.iter().zip(&config.rootfs.diff_ids) {
                    let form = (*compression, *diff_id);
                    let expected = layer.expected();
                    let put = |member| self.store.put_layer(member, expected, form, &budget);
                    self.blob(found, layer, put)?;
                }
                Ok(candidate.admit_root(self.store, &config, self.judge)?.0)
            }
        }
    }

    fn blob(
        &self,
        found: &Found,
        blob: &Descriptor,
        put: impl FnOnce(Member) -> Result<(), crate::store::StreamFault>,
    ) -> Result<(), Fault> {
        let name = blob.digest.to_string();
        let member = self.member(&found.place(blob.digest))?;
        let member = member.ok_or_else(|| Refusal::layer(blob.digest, LayerFault::Missing))?;
        self.progress.started(&name, blob.size);
        let stored = put(member).map_err(|fault| Fault::of_layer(blob.digest, fault));
        self.progress.advanced(&name, blob.size);
        self.progress.finished(&name);
        stored
    }

    fn config(&self, found: &Found) -> Result<Vec<u8>, Fault> {
        let config = &found.manifest.config;
        let bytes = self.whole(&found.place(config.digest), CONFIG_BYTES_MAX)?;
        let bytes = bytes.ok_or_else(|| Refusal::Config {
            reason: "it is missing".to_owned(),
        })?;
        verified(config, bytes)
    }

    fn document(&self, entry: &Descriptor) -> Result<Vec<u8>, Fault> {
        let bytes = self.whole(&place_of(entry.digest), MANIFEST_BYTES_MAX)?;
        let missing = || Refusal::Manifest {
            reason: format!("`{}` is missing", entry.digest),
        };
        verified(entry, bytes.ok_or_else(missing)?)
    }

    fn small(&self, place: &str) -> Result<Option<Vec<u8>>, LoadError> {
        self.whole(place, MANIFEST_BYTES_MAX)
            .map_err(|fault| self.fault(place.to_owned(), fault))
    }

    /// Reads a member that must be small.
    fn whole(&self, place: &str, max: u64) -> Result<Option<Vec<u8>>, Fault> {
        let Some(mut member) = self.member(place)? else {
            return Ok(None);
        };
        if member.len > max {
            let reason = format!("`{place}` has {} bytes", member.len);
            return Err(Refusal::Manifest { reason }.into());
        }
        let mut bytes = Vec::new();
        let read = member.read_to_end(&mut bytes);
        read.map_err(|source| self.unreadable(place, source))?;
        Ok(Some(bytes))
    }

    fn member(&self, place: &str) -> Result<Option<Member>, Fault> {
        self.source
            .member(place)
            .map_err(|source| self.unreadable(place, source))
    }

    fn unreadable(&self, place: &str, source: std::io::Error) -> Fault {
        StoreError::File {
            action: "read",
            path: self.path.join(place),
            source,
        }
        .into()
    }

    fn fault(&self, image: String, fault: Fault) -> LoadError {
        let path = self.path.to_owned();
        match fault {
            Fault::Refused(source) => LoadError::Refused {
                path,
                image,
                source: Box::new(source),
            },
            Fault::Store(source) => LoadError::Store { path, source },
        }
    }

    /// Turns what an archive says about a name into one; tools write tags, names, or nothing.
    fn name_of(&self, stated: Option<&str>) -> Reference {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let stem = repository_from(&stem);
        let tag = stated.filter(|text| !text.contains(['/', ':']));
        let candidates = [
            stated
                .filter(|text| text.contains(['/', ':']))
                .map(str::to_owned),
            tag.map(|tag| format!("{LOCAL_REGISTRY}/{stem}:{tag}")),
            Some(format!("{LOCAL_REGISTRY}/{stem}")),
        ];
        let mut names = candidates
            .iter()
            .flatten()
            .filter_map(|text| Reference::from_str(text).ok());
        names.next().unwrap_or_else(|| {
            let fallback = format!("{LOCAL_REGISTRY}/loaded");
            fallback.parse().expect("a constant name parses")
        })
    }
}

impl Found {
    fn place(&self, digest: Digest) -> String {
        self.places
            .get(&digest)
            .cloned()
            .unwrap_or_else(|| place_of(digest))
    }
}

/// Returns text as a repository name: lower case, and nothing but letters, digits and dashes.
pub(crate) fn repository_from(text: &str) -> String {
    let lower: String = text
        .to_lowercase()
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .collect();
    let parts: Vec<&str> = lower.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        "image".to_owned()
    } else {
        parts.join("-")
    }
}

fn place_of(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn stated_name(entry: &Descriptor) -> Option<&str> {
    let names = [
        "io.containerd.image.name",
        "org.opencontainers.image.ref.name",
    ];
    names
        .iter()
        .find_map(|name| entry.annotations.get(*name))
        .map(String::as_str)
}

fn verified(descriptor: &Descriptor, bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
    let actual = Digest::of(&bytes);
    if actual != descriptor.digest || bytes.len() as u64 != descriptor.size {
        let (expected, actual) = (descriptor.digest.to_string(), actual.to_string());
        return Err(Refusal::Digest { expected, actual }.into());
    }
    Ok(bytes)
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    let media_type = media_type.to_owned();
    Descriptor {
        media_type,
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    }
}
