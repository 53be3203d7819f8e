//! The index of one layer: what a tar holds and where, read without unpacking it.

use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use tar::EntryType;

use super::tar_entry::{Overrides, checked_path, checked_target};
use crate::digest::{Digest, Hashing};

/// The most entries of one layer. Large language runtimes have about 60,000.
pub(crate) const ENTRIES_MAX: usize = 300_000;
/// Every module and component begins so.
pub(crate) const WASM_MAGIC: &[u8; 4] = b"\0asm";
/// Names with this prefix remove what lower layers hold; they are no files.
const WHITEOUT: &str = ".wh.";
/// This name in a folder hides everything that lower layers hold in it.
const OPAQUE: &str = ".wh..wh..opq";

/// What a layer adds and removes.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerIndex {
    /// The length of the tar, to notice a file that was cut short.
    pub(crate) size: u64,
    pub(crate) entries: Vec<LayerEntry>,
    /// Paths that lower layers lose.
    pub(crate) whiteouts: Vec<String>,
    /// Folders whose content in lower layers is hidden.
    pub(crate) opaque: Vec<String>,
}

/// An entry of a layer, in the order of the tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerEntry {
    pub(crate) path: String,
    pub(crate) kind: LayerKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u64,
}

/// What an entry of a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LayerKind {
    Dir,
    File {
        offset: u64,
        len: u64,
        wasm: Option<Digest>,
    },
    Symlink {
        target: String,
    },
    Hardlink {
        target: String,
    },
}

/// Why a layer's tar is refused.
#[derive(Debug, thiserror::Error)]
pub enum TarFault {
    /// The bytes are no tar.
    #[error("it is not a readable tar archive")]
    Read(#[source] io::Error),
    /// The tar ends inside an entry.
    #[error("the archive ends inside an entry")]
    Truncated,
    /// A name climbs out of the root.
    #[error("entry `{path}` climbs out with `..`")]
    Climbs {
        /// The name as written.
        path: String,
    },
    /// A name is absolute.
    #[error("entry `{path}` has an absolute name")]
    Absolute {
        /// The name as written.
        path: String,
    },
    /// An entry lies below something that is no folder: a link or a file.
    #[error("entry `{path}` goes through `{through}`, which is not a folder")]
    Through {
        /// The entry.
        path: String,
        /// The link or file on its way.
        through: String,
    },
    /// A hard link leads to nothing in the image.
    #[error("hard link `{path}` leads to `{target}`, which the image does not hold")]
    HardLink {
        /// The link.
        path: String,
        /// Where it points.
        target: String,
    },
    /// A name contains a NUL byte.
    #[error("the name or target of entry `{path}` contains a NUL byte")]
    NulInName {
        /// The name as far as it can be shown.
        path: String,
    },
    /// A name or target is empty or longer than any file system takes.
    #[error("the name or target of entry `{path}` is empty or too long")]
    LongName {
        /// The beginning of the name.
        path: String,
    },
    /// An extended header is far larger than names and numbers need.
    #[error("an extended header has {size} bytes")]
    LongHeader {
        /// Its size.
        size: u64,
    },
    /// A numeric field is not a number or out of range.
    #[error("a number in a header is out of range")]
    Number,
    /// An entry has two sizes, so two readers would see two archives.
    #[error("an entry states two different sizes")]
    TwoSizes,
    /// Sparse files are not stored in one piece.
    #[error("sparse files are not served")]
    Sparse,
    /// More entries than `ENTRIES_MAX`.
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooManyEntries,
}

/// Reads the index of a complete, uncompressed tar.
///
/// Everything is checked that one layer can tell; what depends on lower layers is checked when
/// layers are merged.
pub(crate) fn read(file: &mut File) -> Result<LayerIndex, TarFault> {
    let size = file.metadata().map_err(TarFault::Read)?.len();
    let mut index = LayerIndex {
        size,
        ..LayerIndex::default()
    };
    let mut overrides = Overrides::default();
    let mut headers = 0usize;
    let mut archive = tar::Archive::new(file);
    let entries = archive.entries_with_seek().map_err(unreadable)?;
    // `raw` hands over extended headers as entries: the library would read them without a bound.
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        headers += 1;
        // An entry has up to three headers before it.
        if index.entries.len() >= ENTRIES_MAX || headers > 4 * ENTRIES_MAX {
            return Err(TarFault::TooManyEntries);
        }
        let end = entry
            .raw_file_position()
            .checked_add(entry.size())
            .ok_or(TarFault::Number)?;
        if end > size {
            return Err(TarFault::Truncated);
        }
        if !overrides.absorb(&mut entry)? {
            index.add(std::mem::take(&mut overrides), &mut entry)?;
        }
    }
    Ok(index)
}

impl LayerIndex {
    fn add(
        &mut self,
        overrides: Overrides,
        entry: &mut tar::Entry<'_, impl Read>,
    ) -> Result<(), TarFault> {
        let head = overrides.apply(entry.header())?;
        let Some(path) = checked_path(&head.path)? else {
            return Ok(());
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        if name.starts_with(WHITEOUT) {
            return self.remove(&path);
        }
        let kind = match head.kind {
            EntryType::Directory => LayerKind::Dir,
            // Before POSIX a folder was a file whose name ends with a slash.
            EntryType::Regular | EntryType::Continuous if head.path.ends_with(b"/") => {
                LayerKind::Dir
            }
            EntryType::Regular | EntryType::Continuous => LayerKind::File {
                offset: entry.raw_file_position(),
                len: entry.size(),
                wasm: wasm_digest(entry)?,
            },
            EntryType::Symlink => match checked_target(&head.link, &path)? {
                Some(target) => LayerKind::Symlink { target },
                None => return Ok(()),
            },
            EntryType::Link => match checked_path(&head.link)? {
                Some(target) => LayerKind::Hardlink { target },
                None => return Ok(()),
            },
            EntryType::GNUSparse => return Err(TarFault::Sparse),
            // Devices, pipes and what nobody knows: no guest could open them.
            _ => return Ok(()),
        };
        let (mode, uid, gid, mtime) = (head.mode, head.uid, head.gid, head.mtime);
        if path.is_empty() {
            return match kind {
                LayerKind::Dir => Ok(()),
                _ => Err(TarFault::LongName { path }),
            };
        }
        self.entries.push(LayerEntry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime,
        });
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<(), TarFault> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if self.whiteouts.len() + self.opaque.len() >= ENTRIES_MAX {
            return Err(TarFault::TooManyEntries);
        }
        if name == OPAQUE {
            self.opaque.push(folder.to_owned());
            return Ok(());
        }
        let gone = &name[WHITEOUT.len()..];
        // `.wh..wh.` begins the private names of an old union file system; they remove nothing.
        if gone.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(gone, "" | "." | "..") {
            return Err(TarFault::Climbs {
                path: path.to_owned(),
            });
        }
        self.whiteouts.push(if folder.is_empty() {
            gone.to_owned()
        } else {
            format!("{folder}/{gone}")
        });
        Ok(())
    }
}

/// The library quotes what it cannot read, and that may be any bytes: they are no text for a terminal.
fn unreadable(error: io::Error) -> TarFault {
    let mut texts = vec![error.to_string()];
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    let is_text = |letter: char| letter == ' ' || letter.is_ascii_graphic();
    if texts.iter().all(|text| text.chars().all(is_text)) {
        return TarFault::Read(error);
    }
    let plain = "a header holds bytes that are no text";
    TarFault::Read(io::Error::new(error.kind(), plain))
}

/// Returns the digest of an entry's bytes if they begin like a module.
fn wasm_digest(entry: &mut tar::Entry<'_, impl Read>) -> Result<Option<Digest>, TarFault> {
    let mut hashing = Hashing::new(entry);
    let mut head = [0; WASM_MAGIC.len()];
    match hashing.read_exact(&mut head) {
        Ok(()) if &head == WASM_MAGIC => {}
        Ok(()) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(TarFault::Read(error)),
    }
    io::copy(&mut hashing, &mut io::sink()).map_err(TarFault::Read)?;
    let (_, _, digest) = hashing.finish();
    Ok(Some(digest))
}

#[cfg(test)]
mod tests;
