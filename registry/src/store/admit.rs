//! The last step before an image is recorded: its program is found and judged.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use super::{Content, ImageRecord, ImageStore, StoreError};
use crate::digest::Digest;
use crate::image::{ImageConfig, Judge};
use crate::manifest::{ConfigFile, Descriptor, MODULE_BYTES_MAX, Manifest, WasmConfig};
use crate::refusal::{Fault, LayerFault, Refusal};
use crate::rootfs::index::WASM_MAGIC;
use crate::rootfs::{EntryKind, Root, RootEntry};

/// The most modules beside the program that are judged on arrival; the rest is judged when used.
const OTHERS_JUDGED_MAX: usize = 64;

/// An image whose content is stored and verified, before it has a record.
pub(crate) struct Candidate<'a> {
    pub(crate) digest: Digest,
    pub(crate) manifest_bytes: &'a [u8],
    pub(crate) manifest: &'a Manifest,
    pub(crate) config_bytes: &'a [u8],
}

impl Candidate<'_> {
    /// Judges a bare module and returns the image's record.
    pub(crate) fn admit_module(
        &self,
        store: &ImageStore,
        module: &Descriptor,
        judge: &dyn Judge,
    ) -> Result<ImageRecord, Fault> {
        let name = module.digest.to_string();
        let wasm = read_extent(&store.blob_path(module.digest), 0, module.size)?;
        let kind = judged(&name, &wasm, judge)?;
        let content = Content::Module {
            digest: module.digest,
            size: module.size,
        };
        let created = WasmConfig::created(self.config_bytes);
        self.record(
            store,
            kind,
            (created, ImageConfig::default()),
            content,
            vec![module.digest],
        )
    }

    /// Judges the program of an image with a file system and returns the image's record.
    ///
    /// The program's refusal is final. Other modules may be tools that a pod never starts: what is
    /// wrong with them is only logged, and told again when a container or an exec names them.
    pub(crate) fn admit_root(
        &self,
        store: &ImageStore,
        config: &ConfigFile,
        judge: &dyn Judge,
    ) -> Result<(ImageRecord, Arc<Root>), Fault> {
        let diff_ids = &config.rootfs.diff_ids;
        let root = store.root(self.manifest.config.digest, diff_ids);
        let root = root.map_err(|error| self.layer_fault(diff_ids, error))?;
        // Whoever removed a layer behind the lock broke a promise; the next attempt fetches it.
        let root = root.ok_or(StoreError::Worker)?;
        let settings = config.settings();
        judge_program(&root, &settings, judge)?;
        judge_others(&root, &settings, judge)?;
        let mut layers = diff_ids.clone();
        layers.sort();
        layers.dedup();
        let content = Content::Root {
            config: self.manifest.config.digest,
            layers: diff_ids.clone(),
        };
        let about = (config.created.clone(), settings);
        let record = self.record(store, "image", about, content, layers)?;
        Ok((record, root))
    }

    fn record(
        &self,
        store: &ImageStore,
        kind: &str,
        (created, config): (Option<String>, ImageConfig),
        content: Content,
        mut blobs: Vec<Digest>,
    ) -> Result<ImageRecord, Fault> {
        store.put_bytes(self.manifest.config.digest, self.config_bytes)?;
        store.put_bytes(self.digest, self.manifest_bytes)?;
        blobs.extend([self.manifest.config.digest, self.digest]);
        let mut size = 0;
        for blob in &blobs {
            size += super::files::length(&store.blob_path(*blob))?.unwrap_or(0);
        }
        Ok(ImageRecord {
            manifest: self.digest,
            media_type: self.manifest.media_type.clone(),
            kind: kind.to_owned(),
            size,
            created,
            config,
            content,
            blobs,
        })
    }

    /// A layer that does not fit is the image's fault as long as the image is not recorded.
    fn layer_fault(&self, diff_ids: &[Digest], error: StoreError) -> Fault {
        match error {
            StoreError::Layers { diff_id, source } => {
                let at = diff_ids
                    .iter()
                    .position(|known| known.to_string() == diff_id);
                let layer = at.map_or(self.digest, |at| self.manifest.layers[at].digest);
                Refusal::layer(layer, LayerFault::Tar(source)).into()
            }
            other => other.into(),
        }
    }
}

fn judge_program(root: &Root, settings: &ImageConfig, judge: &dyn Judge) -> Result<(), Fault> {
    let program = settings.program().ok_or(Refusal::NoProgram)?;
    let missing = || Refusal::ProgramMissing {
        path: program.to_owned(),
    };
    let entry = located(root, settings).ok_or_else(missing)?;
    let EntryKind::File(extent) = &entry.kind else {
        return Err(missing().into());
    };
    let path = format!("/{}", entry.path);
    if extent.len > MODULE_BYTES_MAX {
        return Err(Refusal::LargeModule {
            size: extent.len,
            max: MODULE_BYTES_MAX,
        }
        .into());
    }
    if entry.wasm.is_none() {
        return Err(Refusal::NotWasm { path }.into());
    }
    let wasm = read_extent(&extent.layer, extent.offset, extent.len)?;
    judged(&path, &wasm, judge).map(drop)
}

/// Returns the file that the image starts by itself.
fn located<'a>(root: &'a Root, settings: &ImageConfig) -> Option<&'a RootEntry> {
    let places = settings.places_of(settings.program()?);
    let mut entries = places.iter().filter_map(|place| root.resolve(place));
    entries.find(|entry| matches!(entry.kind, EntryKind::File(_)))
}

fn judge_others(root: &Root, settings: &ImageConfig, judge: &dyn Judge) -> Result<(), Fault> {
    let program = located(root, settings).map(|entry| &entry.wasm);
    let others = root
        .entries()
        .filter(|entry| entry.wasm.is_some() && Some(&entry.wasm) != program);
    for entry in others.take(OTHERS_JUDGED_MAX) {
        let EntryKind::File(extent) = &entry.kind else {
            continue;
        };
        if extent.len > MODULE_BYTES_MAX {
            continue;
        }
        let wasm = read_extent(&extent.layer, extent.offset, extent.len)?;
        if let Err(reason) = judge.judge(&wasm) {
            tracing::warn!(
                path = entry.path,
                reason,
                "a module beside the program cannot run"
            );
        }
    }
    Ok(())
}

/// Returns whether the bytes are a `component` or a `module` that can run.
fn judged(path: &str, wasm: &[u8], judge: &dyn Judge) -> Result<&'static str, Fault> {
    // The judge goes first: it can tell what the bytes are instead.
    judge.judge(wasm).map_err(|reason| Refusal::Judged {
        path: path.to_owned(),
        reason,
    })?;
    if !wasm.starts_with(WASM_MAGIC) {
        return Err(Refusal::NotWasm {
            path: path.to_owned(),
        }
        .into());
    }
    Ok(form_of(wasm))
}

/// Tells a component from a core module by the second half of the version field.
pub(crate) fn form_of(wasm: &[u8]) -> &'static str {
    if wasm.get(6..8) == Some(&[1, 0]) {
        "component"
    } else {
        "module"
    }
}

fn read_extent(path: &Path, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| StoreError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}
