//! The files of a layout, whether they lie in a folder or in a tar.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use tempfile::NamedTempFile;

use super::LoadError;
use crate::refusal::LayerFault;
use crate::rootfs::index::{self, LayerIndex, LayerKind};
use crate::rootfs::inflate::{Compression, HEAD_BYTES, InflateFault, UnpackBudget, inflate};
use crate::store::{ImageStore, Intake, StoreError};

/// Where the files of a layout are read from.
pub(super) enum Source {
    Folder(PathBuf),
    /// Nothing is unpacked: each file is a stretch of the tar.
    Tar {
        path: PathBuf,
        members: HashMap<String, (u64, u64)>,
        /// The tar itself, if it came compressed or as a stream.
        _kept: Option<Kept>,
    },
}

/// An archive's uncompressed tar, in the store for as long as it is read.
pub(super) struct Kept {
    file: NamedTempFile,
    /// Keeps sweeps from it; dropped after it.
    _intake: Intake,
}

/// One file of a layout.
pub(super) struct Member {
    pub(super) len: u64,
    bytes: io::Take<File>,
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl Source {
    /// Opens a folder or a tar, which may be compressed, or a pipe that gives one.
    pub(super) fn open(store: &ImageStore, path: &Path) -> Result<Self, LoadError> {
        let unreadable = |source| LoadError::Read {
            path: path.to_owned(),
            source,
        };
        let kind = path.metadata().map_err(unreadable)?;
        if kind.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if !kind.is_file() {
            let mut pipe = File::open(path).map_err(unreadable)?;
            return Self::stream(store, path, &mut pipe);
        }
        match Compression::of_file(path).map_err(unreadable)? {
            Compression::None => Self::tar(path, path.to_owned(), None),
            compression => {
                let packed = File::open(path).map_err(unreadable)?;
                Self::keep(store, path, packed, compression)
            }
        }
    }

    /// Reads a tar, which may be compressed, from a stream; errors call it by this path.
    pub(super) fn stream(
        store: &ImageStore,
        path: &Path,
        stream: &mut dyn Read,
    ) -> Result<Self, LoadError> {
        let mut head = Vec::new();
        let read = (&mut *stream).take(HEAD_BYTES).read_to_end(&mut head);
        read.map_err(|source| LoadError::Read {
            path: path.to_owned(),
            source,
        })?;
        let compression = Compression::of_head(&head);
        Self::keep(store, path, head.chain(stream), compression)
    }

    fn keep(
        store: &ImageStore,
        path: &Path,
        archive: impl Read,
        compression: Compression,
    ) -> Result<Self, LoadError> {
        let kept = Kept::of(store, path, archive, compression)?;
        let tar = kept.file.path().to_owned();
        Self::tar(path, tar, Some(kept))
    }

    fn tar(path: &Path, tar: PathBuf, kept: Option<Kept>) -> Result<Self, LoadError> {
        let mut file = File::open(&tar).map_err(|source| LoadError::Read {
            path: path.to_owned(),
            source,
        })?;
        let index = index::read(&mut file).map_err(|source| LoadError::Archive {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::Tar {
            path: tar,
            members: members_of(index),
            _kept: kept,
        })
    }

    /// Returns a file by its place in the layout.
    pub(super) fn member(&self, place: &str) -> io::Result<Option<Member>> {
        match self {
            Self::Folder(folder) => {
                // A place may come from a file of the folder itself. On Windows `C:x` and `\x` lead
                // elsewhere too, though neither is absolute.
                let leads_inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
                if !Path::new(place).components().all(leads_inside) {
                    return Ok(None);
                }
                match File::open(folder.join(place)) {
                    Ok(file) => {
                        let len = file.metadata()?.len();
                        Ok(Some(Member {
                            len,
                            bytes: file.take(len),
                        }))
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Self::Tar { path, members, .. } => {
                let Some(&(offset, len)) = members.get(place) else {
                    return Ok(None);
                };
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(offset))?;
                Ok(Some(Member {
                    len,
                    bytes: file.take(len),
                }))
            }
        }
    }
}

impl Kept {
    fn of(
        store: &ImageStore,
        path: &Path,
        archive: impl Read,
        compression: Compression,
    ) -> Result<Self, LoadError> {
        let failed = |source| LoadError::Store {
            path: path.to_owned(),
            source,
        };
        let refused = |source| LoadError::Compressed {
            path: path.to_owned(),
            source,
        };
        let intake = Intake::begin_blocking(store).map_err(failed)?;
        let mut file = store.temporary().map_err(failed)?;
        let budget = UnpackBudget::default();
        let inflated = inflate(archive, compression, file.as_file_mut(), &budget);
        inflated.map_err(|fault| match fault {
            InflateFault::Bomb => refused(LayerFault::Bomb),
            InflateFault::Read(error) => refused(LayerFault::Inflate(error)),
            InflateFault::Write(source) => failed(StoreError::File {
                action: "write",
                path: file.path().to_owned(),
                source,
            }),
        })?;
        Ok(Self {
            file,
            _intake: intake,
        })
    }
}

/// Returns where in the tar each file of the layout lies.
fn members_of(index: LayerIndex) -> HashMap<String, (u64, u64)> {
    let mut members = HashMap::new();
    for entry in index.entries {
        match entry.kind {
            LayerKind::File { offset, len, .. } => {
                members.insert(entry.path, (offset, len));
            }
            // `docker save` links layers that are the same.
            LayerKind::Hardlink { target } => {
                if let Some(place) = members.get(&target).copied() {
                    members.insert(entry.path, place);
                }
            }
            LayerKind::Symlink { target } => {
                let folder = entry.path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let target = beside(folder, &target);
                if let Some(place) = members.get(&target).copied() {
                    members.insert(entry.path, place);
                }
            }
            LayerKind::Dir => {}
        }
    }
    members
}

/// Returns where a relative link in a folder of the archive leads, as a place in the archive.
fn beside(folder: &str, target: &str) -> String {
    let mut names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join("/")
}
