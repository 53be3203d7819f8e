//! The files of a layout, whether they lie in a folder or in a tar.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::LoadError;
use crate::rootfs::index::{self, LayerKind};

/// Where the files of a layout are read from.
pub(super) enum Source {
    Folder(PathBuf),
    /// Nothing is unpacked: each file is a stretch of the tar.
    Tar {
        path: PathBuf,
        members: HashMap<String, (u64, u64)>,
    },
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
    /// Opens a folder or a tar.
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let unreadable = |source| LoadError::Read {
            path: path.to_owned(),
            source,
        };
        if path.metadata().map_err(unreadable)?.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let mut file = File::open(path).map_err(unreadable)?;
        let index = index::read(&mut file).map_err(|source| LoadError::Archive {
            path: path.to_owned(),
            source,
        })?;
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
        Ok(Self::Tar {
            path: path.to_owned(),
            members,
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
            Self::Tar { path, members } => {
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
