//! A container's root file system, made from layers without unpacking them to host paths.
//!
//! A layer rests as its uncompressed tar beside an index of its entries. A [`Root`] is the merged
//! indexes: it says which bytes of which layer file are which path. Names that other systems cannot
//! store, letter case, links and modes all survive, and there is nothing to climb out of.

pub(crate) mod index;
pub(crate) mod inflate;
pub(crate) mod merge;
mod tar_entry;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::digest::Digest;

/// The most symbolic links that are followed for one path, as on Linux.
const LINKS_FOLLOWED_MAX: usize = 40;

/// An image's file system: every entry of its merged layers, in the order of their paths.
#[derive(Debug)]
pub struct Root {
    digest: String,
    entries: Vec<RootEntry>,
}

/// One file, folder or link of a [`Root`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootEntry {
    /// The path below `/`, without a leading slash; the root itself has no entry.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// When its content last changed.
    pub mtime: SystemTime,
    /// The sha256 (`sha256:…`) of a file that begins like a Wasm module or component.
    pub wasm: Option<String>,
}

/// What an entry of a [`Root`] is. Devices and sockets of an image are left out: no guest could open
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Dir,
    /// A file; hard links share an extent.
    File(Extent),
    /// A symbolic link and its target, as written.
    Symlink(String),
}

/// A stretch of a layer file. The file never changes while an [`Image`](crate::Image) that uses it
/// lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The layer's uncompressed tar.
    pub layer: Arc<Path>,
    /// Where the bytes begin.
    pub offset: u64,
    /// How many there are.
    pub len: u64,
}

impl Root {
    pub(crate) fn new(digest: Digest, entries: Vec<RootEntry>) -> Self {
        Self {
            digest: digest.to_string(),
            entries,
        }
    }

    /// Returns every entry, parents before their children.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &RootEntry> {
        self.entries.iter()
    }

    /// Returns the digest of the configuration that names the layers: equal roots have equal ones.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the entry at a path, with or without a leading slash. Links are not followed.
    pub fn find(&self, path: &str) -> Option<&RootEntry> {
        let path = path.trim_matches('/');
        let found = self
            .entries
            .binary_search_by(|entry| entry.path.as_str().cmp(path));
        found.ok().map(|at| &self.entries[at])
    }

    /// Returns the entry that a path leads to, following symbolic links inside the image.
    pub fn resolve(&self, path: &str) -> Option<&RootEntry> {
        let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(name) = left.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = if at.is_empty() {
                name
            } else {
                format!("{at}/{name}")
            };
            match &self.find(&next)?.kind {
                EntryKind::Symlink(target) => {
                    links += 1;
                    if links > LINKS_FOLLOWED_MAX {
                        return None;
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    left.extend(target.split('/').rev().map(str::to_owned));
                }
                EntryKind::Dir | EntryKind::File(_) => at = next,
            }
        }
        self.find(&at)
    }
}
