//! What the store hands out: an image with its settings and its content.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::reference::Reference;
use crate::rootfs::Root;
use crate::store::Lease;

/// Where programs lie in an image that does not say it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image that is complete in the store and was verified when it arrived.
///
/// While any clone lives, no process removes its files.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name it was asked for by.
    pub reference: Reference,
    /// The digest of its manifest, `sha256:…`.
    pub digest: String,
    /// The bytes its content takes in the store.
    pub size: u64,
    /// How its program wants to be started.
    pub config: ImageConfig,
    /// The program, alone or in a file system.
    pub content: ImageContent,
    /// Held for as long as any clone lives.
    pub(crate) _lease: Arc<Lease>,
}

/// How an image's program wants to be started; empty for a bare module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The first words of the command line; a pod's `command` replaces them.
    pub entrypoint: Vec<String>,
    /// The words that follow; a pod's `args` replace them.
    pub cmd: Vec<String>,
    /// Environment variables in order.
    pub env: Vec<(String, String)>,
    /// The folder to start in; empty means `/`.
    pub working_dir: String,
    /// The user as the image states it: name or number, perhaps with a group.
    pub user: String,
    /// Ports as the image states them, for example `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Labels in the order of their names.
    pub labels: Vec<(String, String)>,
}

/// The two forms of an image.
#[derive(Debug, Clone)]
pub enum ImageContent {
    /// A Wasm artifact: one module or component and nothing else.
    Module(ModuleFile),
    /// A file system that holds one or more modules.
    Root(Arc<Root>),
}

/// A module or component in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleFile {
    /// Where its bytes lie; they are never changed.
    pub path: PathBuf,
    /// The sha256 of its bytes, `sha256:…`.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
}

/// Decides on arrival whether a module can run here.
pub trait Judge: Send + Sync {
    /// Returns the reason for refusing a module, for example the import that is not offered.
    ///
    /// # Errors
    ///
    /// The text stands behind the image's name in the refusal.
    fn judge(&self, wasm: &[u8]) -> Result<(), String>;
}

/// Watches a pull, a push or a load. Calls arrive from several threads.
pub trait Progress: Send + Sync {
    /// A layer of `total` bytes begins to move.
    fn started(&self, layer: &str, total: u64);
    /// `bytes` more of it have moved.
    fn advanced(&self, layer: &str, bytes: u64);
    /// The layer is complete, or was given up.
    fn finished(&self, layer: &str);
    /// Something failed and is tried again after a wait.
    fn retrying(&self, what: &str, wait: std::time::Duration);
}

/// A watcher that does not look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn started(&self, _layer: &str, _total: u64) {}
    fn advanced(&self, _layer: &str, _bytes: u64) {}
    fn finished(&self, _layer: &str) {}
    fn retrying(&self, _what: &str, _wait: std::time::Duration) {}
}

impl ImageConfig {
    /// Returns the path of the program that the image starts by itself, if it names one.
    pub fn program(&self) -> Option<&str> {
        self.entrypoint
            .first()
            .or(self.cmd.first())
            .map(String::as_str)
    }

    /// Returns the paths where a program may lie, as a shell looks: a path as it is, a bare name along
    /// `PATH` and then in the working folder.
    pub fn places_of(&self, program: &str) -> Vec<String> {
        let below = |folder: &str| format!("/{}/{program}", folder.trim_matches('/'));
        if program.starts_with('/') {
            return vec![program.to_owned()];
        }
        if program.contains('/') {
            return vec![below(&self.working_dir)];
        }
        let path = self.env.iter().rev().find(|(name, _)| name == "PATH");
        let path = path.map_or(DEFAULT_PATH, |(_, value)| value.as_str());
        path.split(':')
            .chain([self.working_dir.as_str()])
            .map(below)
            .collect()
    }
}

impl ModuleFile {
    /// Returns the file's place.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
