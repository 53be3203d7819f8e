//! The compacted state: two copies, written in turn, so that one is always at rest.
//!
//! sled reuses room inside its files on the strength of `sync_file_range`, which makes neither
//! sizes nor a disk's cache durable: a power cut while it writes may cost it what it held before.
//! So a copy counts only with its *mark*, a file that says what it holds. The mark is removed,
//! durably, before the copy is opened for writing, and written again after the copy was closed and
//! everything in its folder was synced. A copy without a mark is made anew from the other one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    files::{Folder, read_whole, sync_all_under, write_whole},
    frame::{Form, StoreId},
};
use crate::record::Revision;

/// Pages sled keeps in memory while a copy is open, which is only during a checkpoint or a start.
const SLED_CACHE_BYTES: u64 = 16 << 20;
const MARK_MAGIC: &[u8; 8] = b"CORACLEB";
const MARK_BYTES: usize = 8 + 16 + 4 * 8 + 4;
const FORM_SEALED: u8 = 1;

/// One of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

/// What a copy holds, as its mark says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The newest segment that is in it, whole.
    pub(crate) applied: u64,
    /// The newest revision that is in it.
    pub(crate) revision: Revision,
    pub(crate) entries: u64,
    /// The sum over the checksums of all entries: tells when one is missing or changed.
    pub(crate) digest: u64,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a copy of the compacted state cannot be used.
#[derive(Debug, Error)]
pub enum BaseError {
    /// The database cannot be opened.
    #[error("failed to open the database `{path}`")]
    Open {
        /// Its folder.
        path: PathBuf,
        /// What it says.
        #[source]
        source: Cause,
    },
    /// The database cannot be read.
    #[error("failed to read the database")]
    Read(#[source] Cause),
    /// The database cannot be written.
    #[error("failed to write the database")]
    Write(#[source] Cause),
    /// The database's files cannot be copied, removed or made durable.
    #[error("failed to change the database's files in `{path}`")]
    Files {
        /// Its folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The database does not hold what its mark says.
    #[error("the database does not hold what was written to it")]
    Content,
    /// The database's code panicked.
    #[error("the database panicked")]
    Panicked,
    /// The mark cannot be read, removed or written.
    #[error("failed to read or write `{name}`")]
    Mark {
        /// The mark's file.
        name: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// What keeps the two copies; sled, or a simulation of what sled may do.
pub(crate) trait Bases: Send {
    /// Opens a copy, an empty one if there is none.
    fn open(&self, side: Side) -> Result<Box<dyn Base>, BaseError>;
    /// Removes a copy.
    fn wipe(&self, side: Side) -> Result<(), BaseError>;
    /// Makes a copy anew from the other one, which is not open.
    fn duplicate(&self, from: Side, to: Side) -> Result<(), BaseError>;
}

/// An open copy. Only what was closed is durable.
pub(crate) trait Base {
    /// Writes an entry and returns the one it replaces.
    fn insert(&self, key: &str, entry: &[u8]) -> Result<Option<Vec<u8>>, BaseError>;
    /// Removes an entry and returns it.
    fn remove(&self, key: &str) -> Result<Option<Vec<u8>>, BaseError>;
    /// Reads every entry.
    fn each(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BaseError>;
    /// Makes everything durable, file content and names.
    fn close(self: Box<Self>) -> Result<(), BaseError>;
}

/// A value at rest: in a copy, and while the store starts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resting {
    pub(crate) revision: Revision,
    pub(crate) form: Form,
    pub(crate) value: Vec<u8>,
}

/// Keeps the copies in two sled databases.
#[derive(Debug)]
pub(crate) struct SledBases {
    folder: PathBuf,
}

struct SledBase {
    path: PathBuf,
    db: sled::Db,
}

impl Side {
    pub(crate) const BOTH: [Side; 2] = [Side::A, Side::B];

    pub(crate) fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    pub(crate) fn mark_name(self) -> &'static str {
        match self {
            Side::A => "base-a.mark",
            Side::B => "base-b.mark",
        }
    }

    fn folder_name(self) -> &'static str {
        match self {
            Side::A => "base-a",
            Side::B => "base-b",
        }
    }
}

impl Mark {
    fn encode(&self, store: StoreId) -> Vec<u8> {
        let mut bytes = MARK_MAGIC.to_vec();
        bytes.extend_from_slice(&store.0);
        for number in [self.applied, self.revision.get(), self.entries, self.digest] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], store: StoreId) -> Option<Mark> {
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        let rest = covered.strip_prefix(MARK_MAGIC)?;
        let rest = rest.strip_prefix(&store.0)?;
        let (numbers, []) = rest.as_chunks::<8>() else {
            return None;
        };
        let &[applied, revision, entries, digest] = numbers else {
            return None;
        };
        let valid = crc32fast::hash(covered) == u32::from_le_bytes(*crc);
        valid.then_some(Mark {
            applied: u64::from_le_bytes(applied),
            revision: Revision::from(u64::from_le_bytes(revision)),
            entries: u64::from_le_bytes(entries),
            digest: u64::from_le_bytes(digest),
        })
    }

    /// Reads a copy's mark. A damaged one counts as none: the copy is then made anew.
    pub(crate) fn read(
        folder: &dyn Folder,
        side: Side,
        store: StoreId,
    ) -> Result<Option<Mark>, BaseError> {
        let name = side.mark_name();
        let bytes = read_whole(folder, name, MARK_BYTES + 1)
            .map_err(|source| BaseError::Mark { name, source })?;
        let mark = bytes.as_deref().map(|bytes| Mark::decode(bytes, store));
        if mark == Some(None) {
            tracing::warn!(name, "a mark is damaged; its copy is not used");
        }
        Ok(mark.flatten())
    }

    pub(crate) fn write(
        &self,
        folder: &dyn Folder,
        side: Side,
        store: StoreId,
    ) -> Result<(), BaseError> {
        let name = side.mark_name();
        write_whole(folder, name, &self.encode(store))
            .map_err(|source| BaseError::Mark { name, source })
    }

    /// Removes a copy's mark, durably: from now on the copy counts for nothing.
    pub(crate) fn remove(folder: &dyn Folder, side: Side) -> Result<(), BaseError> {
        let name = side.mark_name();
        let removed = match folder.remove(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        removed
            .and_then(|()| folder.sync())
            .map_err(|source| BaseError::Mark { name, source })
    }

    pub(crate) fn add(&mut self, key: &[u8], entry: &[u8]) {
        self.entries = self.entries.wrapping_add(1);
        self.digest = self.digest.wrapping_add(checksum(key, entry));
    }

    pub(crate) fn subtract(&mut self, key: &[u8], entry: &[u8]) {
        self.entries = self.entries.wrapping_sub(1);
        self.digest = self.digest.wrapping_sub(checksum(key, entry));
    }
}

fn checksum(key: &[u8], entry: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[0xff]);
    hasher.update(entry);
    u64::from(hasher.finalize()) + 1
}

impl Resting {
    pub(crate) fn encode(revision: Revision, form: Form, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(9 + value.len());
        bytes.extend_from_slice(&revision.get().to_le_bytes());
        bytes.push(match form {
            Form::Plain => 0,
            Form::Sealed => FORM_SEALED,
        });
        bytes.extend_from_slice(value);
        bytes
    }

    pub(crate) fn decode(entry: &[u8]) -> Option<Resting> {
        let (revision, rest) = entry.split_first_chunk::<8>()?;
        let (form, value) = rest.split_first()?;
        Some(Resting {
            revision: Revision::from(u64::from_le_bytes(*revision)),
            form: match *form {
                0 => Form::Plain,
                FORM_SEALED => Form::Sealed,
                _ => return None,
            },
            value: value.to_vec(),
        })
    }
}

impl SledBases {
    pub(crate) fn new(folder: &Path) -> SledBases {
        SledBases {
            folder: folder.to_owned(),
        }
    }

    fn path(&self, side: Side) -> PathBuf {
        self.folder.join(side.folder_name())
    }
}

impl Bases for SledBases {
    fn open(&self, side: Side) -> Result<Box<dyn Base>, BaseError> {
        let path = self.path(side);
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(SLED_CACHE_BYTES)
            .flush_every_ms(None);
        match config.open() {
            Ok(db) => Ok(Box::new(SledBase { path, db })),
            Err(error) => Err(BaseError::Open {
                path,
                source: Box::new(error),
            }),
        }
    }

    fn wipe(&self, side: Side) -> Result<(), BaseError> {
        let path = self.path(side);
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(BaseError::Files { path, source })
            }
            _ => Ok(()),
        }
    }

    fn duplicate(&self, from: Side, to: Side) -> Result<(), BaseError> {
        self.wipe(to)?;
        let path = self.path(to);
        copy_folder(&self.path(from), &path).map_err(|source| BaseError::Files { path, source })
    }
}

impl Base for SledBase {
    fn insert(&self, key: &str, entry: &[u8]) -> Result<Option<Vec<u8>>, BaseError> {
        let old = self.db.insert(key, entry).map_err(write_failure)?;
        Ok(old.map(|old| old.to_vec()))
    }

    fn remove(&self, key: &str) -> Result<Option<Vec<u8>>, BaseError> {
        let old = self.db.remove(key).map_err(write_failure)?;
        Ok(old.map(|old| old.to_vec()))
    }

    fn each(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BaseError> {
        for pair in self.db.iter() {
            let (key, entry) = pair.map_err(|error| BaseError::Read(Box::new(error)))?;
            each(&key, &entry);
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), BaseError> {
        let SledBase { path, db } = *self;
        db.flush().map_err(write_failure)?;
        // Dropping writes too, and afterwards nobody does: only now is a sync the last word. It
        // reaches every file, the ones of large values included, which sled itself never syncs.
        drop(db);
        let parent = path.parent().unwrap_or(&path);
        sync_all_under(&path)
            .and_then(|()| super::files::sync_folder(parent))
            .map_err(|source| BaseError::Files {
                path: path.clone(),
                source,
            })
    }
}

fn write_failure(error: sled::Error) -> BaseError {
    BaseError::Write(Box::new(error))
}

/// Copies a folder; durability comes with the copy's first close.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
