//! Stacks the indexes of an image's layers into one tree.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::index::{LayerEntry, LayerIndex, LayerKind, TarFault};
use super::{EntryKind, Extent, RootEntry};

/// The most entries of a whole image.
const ROOT_ENTRIES_MAX: usize = super::index::ENTRIES_MAX;

/// The tree while layers are being stacked.
///
/// Invariant: the parent of every entry is in the tree and is a folder.
#[derive(Default)]
pub(crate) struct Stack {
    entries: BTreeMap<String, RootEntry>,
}

impl Stack {
    /// Puts a layer on top: first it removes, then it adds, whatever their order in the tar.
    pub(crate) fn push(&mut self, layer: &Arc<Path>, index: &LayerIndex) -> Result<(), TarFault> {
        for folder in &index.opaque {
            self.remove_below(folder);
        }
        for path in &index.whiteouts {
            self.remove_below(path);
            self.entries.remove(path);
        }
        for entry in &index.entries {
            self.add(layer, entry)?;
            if self.entries.len() > ROOT_ENTRIES_MAX {
                return Err(TarFault::TooManyEntries);
            }
        }
        Ok(())
    }

    /// Returns the entries in the order of their paths.
    pub(crate) fn finish(self) -> Vec<RootEntry> {
        self.entries.into_values().collect()
    }

    fn add(&mut self, layer: &Arc<Path>, entry: &LayerEntry) -> Result<(), TarFault> {
        self.ensure_parents(&entry.path)?;
        let made = match &entry.kind {
            LayerKind::Dir => root_entry(entry, EntryKind::Dir, None),
            LayerKind::File { offset, len, wasm } => {
                let extent = Extent {
                    layer: layer.clone(),
                    offset: *offset,
                    len: *len,
                };
                root_entry(
                    entry,
                    EntryKind::File(extent),
                    wasm.map(|digest| digest.to_string()),
                )
            }
            LayerKind::Symlink { target } => {
                root_entry(entry, EntryKind::Symlink(target.clone()), None)
            }
            LayerKind::Hardlink { target } => self.linked(&entry.path, target)?,
        };
        if made.kind != EntryKind::Dir {
            self.remove_below(&entry.path);
        }
        self.entries.insert(entry.path.clone(), made);
        Ok(())
    }

    /// A hard link is the other name's file: same bytes, same owner, same mode.
    fn linked(&self, path: &str, target: &str) -> Result<RootEntry, TarFault> {
        let fault = || TarFault::HardLink {
            path: path.to_owned(),
            target: target.to_owned(),
        };
        let other = self.entries.get(target).ok_or_else(fault)?;
        if other.kind == EntryKind::Dir {
            return Err(fault());
        }
        Ok(RootEntry {
            path: path.to_owned(),
            ..other.clone()
        })
    }

    fn ensure_parents(&mut self, path: &str) -> Result<(), TarFault> {
        let Some((parent, _)) = path.rsplit_once('/') else {
            return Ok(());
        };
        match self.entries.get(parent) {
            Some(entry) if entry.kind == EntryKind::Dir => return Ok(()),
            Some(_) => {
                return Err(TarFault::Through {
                    path: path.to_owned(),
                    through: parent.to_owned(),
                });
            }
            None => {}
        }
        // From the top down, so the invariant holds at every step.
        for (end, _) in path.match_indices('/') {
            let folder = &path[..end];
            match self.entries.get(folder) {
                Some(entry) if entry.kind == EntryKind::Dir => {}
                Some(_) => {
                    let (path, through) = (path.to_owned(), folder.to_owned());
                    return Err(TarFault::Through { path, through });
                }
                None => {
                    self.entries
                        .insert(folder.to_owned(), implied_folder(folder));
                    if self.entries.len() > ROOT_ENTRIES_MAX {
                        return Err(TarFault::TooManyEntries);
                    }
                }
            }
        }
        Ok(())
    }

    fn remove_below(&mut self, folder: &str) {
        if folder.is_empty() {
            self.entries.clear();
            return;
        }
        let prefix = format!("{folder}/");
        let below: Vec<String> = self
            .entries
            .range(prefix.clone()..)
            .take_while(|(path, _)| path.starts_with(&prefix))
            .map(|(path, _)| path.clone())
            .collect();
        for path in below {
            self.entries.remove(&path);
        }
    }
}

fn root_entry(entry: &LayerEntry, kind: EntryKind, wasm: Option<String>) -> RootEntry {
    RootEntry {
        path: entry.path.clone(),
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        // A year beyond what the system's clock can say counts as 1970.
        mtime: SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(entry.mtime))
            .unwrap_or(SystemTime::UNIX_EPOCH),
        wasm,
    }
}

/// A folder that no layer lists, as every unpacker makes it.
fn implied_folder(path: &str) -> RootEntry {
    RootEntry {
        path: path.to_owned(),
        kind: EntryKind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: SystemTime::UNIX_EPOCH,
        wasm: None,
    }
}

#[cfg(test)]
mod tests;
