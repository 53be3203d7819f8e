//! Images for tests, and a store to put them in.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_registry::{
    ImageStore, Judge, Progress, PullOptions, Reference, RetryPolicy, StoreOptions,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::server::{Registry, digest_of};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A module that says nothing; what it holds tells one from another.
pub(crate) fn wasm(content: &[u8]) -> Vec<u8> {
    [b"\0asm\x01\0\0\0", content].concat()
}

/// Refuses modules that contain `forbidden` and takes all others.
pub(crate) struct NoForbidden;

impl Judge for NoForbidden {
    fn judge(&self, wasm: &[u8]) -> Result<(), String> {
        match wasm.windows(9).any(|window| window == b"forbidden") {
            true => Err("import `forbidden` is not offered".to_owned()),
            false => Ok(()),
        }
    }
}

/// Remembers what it was told.
#[derive(Default)]
pub(crate) struct Watcher {
    pub(crate) retries: Mutex<Vec<String>>,
    pub(crate) bytes: Mutex<u64>,
}

impl Progress for Watcher {
    fn started(&self, _layer: &str, _total: u64) {}
    fn advanced(&self, _layer: &str, bytes: u64) {
        *self.bytes.lock().expect("no panic") += bytes;
    }
    fn finished(&self, _layer: &str) {}
    fn retrying(&self, what: &str, _wait: Duration) {
        self.retries.lock().expect("no panic").push(what.to_owned());
    }
}

/// A store in a folder of its own.
pub(crate) struct Place {
    pub(crate) store: ImageStore,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) watcher: Arc<Watcher>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let store = open(dir.path().to_owned());
        Self {
            store,
            dir,
            watcher: Arc::default(),
        }
    }

    pub(crate) fn options(&self) -> PullOptions {
        let progress = self.watcher.clone();
        PullOptions {
            credentials: None,
            judge: Arc::new(NoForbidden),
            progress,
        }
    }

    /// Returns the files in the parts of the store that hold content.
    pub(crate) fn content(&self) -> Vec<String> {
        let mut names = Vec::new();
        for part in ["blobs", "layers", "images", "names", "tmp"] {
            let entries = std::fs::read_dir(self.dir.path().join(part)).expect("a folder");
            names.extend(
                entries.map(|entry| format!("{part}/{:?}", entry.expect("an entry").file_name())),
            );
        }
        names
    }
}

/// Opens a store that does not wait long between attempts.
pub(crate) fn open(dir: PathBuf) -> ImageStore {
    let wait = Duration::from_millis(1);
    let retries = RetryPolicy {
        attempts: 3,
        first_wait: wait,
        longest_wait: wait,
    };
    let options = StoreOptions {
        retries,
        ..StoreOptions::default()
    };
    ImageStore::open_with(&dir, options).expect("a store")
}

pub(crate) fn reference(registry: &Registry, name: &str) -> Reference {
    format!("{}/{name}", registry.address)
        .parse()
        .expect("a reference")
}

/// Puts a CNCF Wasm artifact into the registry and returns the module's digest.
pub(crate) fn artifact(registry: &Registry, tag: &str, module: Vec<u8>) -> String {
    typed_artifact(
        registry,
        tag,
        module,
        ("application/vnd.wasm.config.v0+json", "application/wasm"),
    )
}

pub(crate) fn typed_artifact(
    registry: &Registry,
    tag: &str,
    module: Vec<u8>,
    (config_type, layer_type): (&str, &str),
) -> String {
    let size = module.len();
    let digest = registry.blob(module);
    let config = serde_json::to_vec(&json!({"architecture": "wasm", "os": "wasip2",
        "layerDigests": [digest]}))
    .expect("json");
    let config_size = config.len();
    let config = registry.blob(config);
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": config_type, "digest": config, "size": config_size},
        "layers": [{"mediaType": layer_type, "digest": digest, "size": size,
            "urls": ["http://127.0.0.1:1/elsewhere"]}]});
    registry.manifest(
        tag,
        OCI_MANIFEST,
        serde_json::to_vec(&manifest).expect("json"),
    );
    digest
}

/// An image in the making.
pub(crate) struct Made {
    pub(crate) config: serde_json::Value,
    pub(crate) layers: Vec<serde_json::Value>,
    pub(crate) digests: Vec<String>,
}

/// Puts layers (as tars) and a configuration for `wasi/wasm` into the registry, gzip-compressed.
pub(crate) fn prepare(registry: &Registry, tars: &[Vec<u8>]) -> Made {
    let mut layers = Vec::new();
    let mut digests = Vec::new();
    for tar in tars {
        let packed = gzip(tar);
        let size = packed.len();
        let digest = registry.blob(packed);
        layers.push(
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest, "size": size}),
        );
        digests.push(digest);
    }
    let diff_ids: Vec<String> = tars.iter().map(|tar| digest_of(tar)).collect();
    let config = json!({"architecture": "wasm", "os": "wasi",
        "config": {"Entrypoint": ["/app.wasm"], "Cmd": ["serve"], "Env": ["A=b=c"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    Made {
        config,
        layers,
        digests,
    }
}

impl Made {
    /// Puts the manifest into the registry and returns its digest and length.
    pub(crate) fn publish(&self, registry: &Registry, tag: &str) -> (String, usize) {
        let config = serde_json::to_vec(&self.config).expect("json");
        let size = config.len();
        let config = registry.blob(config);
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": config, "size": size},
            "layers": self.layers});
        let bytes = serde_json::to_vec(&manifest).expect("json");
        let len = bytes.len();
        (registry.manifest(tag, OCI_MANIFEST, bytes), len)
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// Returns a tar of files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Written by hand: the library refuses to write hostile names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *bytes).expect("memory");
    }
    tar.into_inner().expect("memory")
}

/// Returns bytes that do not compress well.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Returns an error and its causes in one line.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line += &format!(": {cause}");
        source = cause.source();
    }
    line
}
