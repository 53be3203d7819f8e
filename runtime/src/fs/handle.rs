//! Open files.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::host::HostFile;
use super::node::{Kind, Mode, NewTimes, Outcome, Stat, Times};
use super::overlay::{Overlay, OverlayFile, WriteAt, read_source};
use super::tree::{Node, NodeKind};
use super::user::Permissions;
use super::{Access, FileExtent, FileSource, Tree};

/// An open file of any storage. Clones are the same opening, which ends with the last of them: the
/// descriptor, its streams and operations in flight hold one each.
#[derive(Clone)]
pub(super) struct FileHandle {
    opened: Arc<Opened>,
    rights: Rights,
}

/// What an opening may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) read: bool,
    pub(super) write: bool,
}

/// Whose file is open.
pub(super) enum Opened {
    Overlay(OverlayOpening),
    Live { tree: Arc<Tree>, index: u32 },
    Host { file: HostFile, access: Access },
}

/// Holds a file of the container's root or of a volume in memory open.
pub(super) struct OverlayOpening {
    overlay: Arc<Overlay>,
    file: Arc<OverlayFile>,
    access: Access,
}

/// How much of a file is to reach its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    Data,
    All,
}

impl FileHandle {
    pub(super) fn new(opened: Opened, rights: Rights) -> FileHandle {
        FileHandle {
            opened: Arc::new(opened),
            rights,
        }
    }

    pub(super) fn rights(&self) -> Rights {
        self.rights
    }

    /// Fails with `bad-descriptor` when the file was not opened for writing.
    pub(super) fn require_write(&self) -> Result<(), ErrorCode> {
        if self.rights.write {
            Ok(())
        } else {
            Err(ErrorCode::BadDescriptor)
        }
    }

    /// Fails with `bad-descriptor` when the file was not opened for reading.
    pub(super) fn require_read(&self) -> Result<(), ErrorCode> {
        if self.rights.read {
            Ok(())
        } else {
            Err(ErrorCode::BadDescriptor)
        }
    }

    /// Reads up to `len` bytes, none only at the end of the file.
    pub(super) fn read(&self, offset: u64, len: usize, mode: Mode) -> Outcome<Bytes> {
        self.require_read()?;
        match &*self.opened {
            Opened::Overlay(opening) => opening.file.read(offset, len, mode),
            Opened::Live { tree, index } => match source_of(tree.node(*index)) {
                Some(source) => read_source(source, offset, len, mode),
                None => Err(ErrorCode::Io.into()),
            },
            Opened::Host { file, .. } => {
                mode.require_blocking()?;
                file.read(offset, len)
            }
        }
    }

    /// Writes all of `bytes`.
    pub(super) fn write(&self, at: WriteAt, bytes: &[u8], mode: Mode) -> Outcome<()> {
        self.require_write()?;
        match &*self.opened {
            Opened::Overlay(opening) => opening.file.write(at, bytes, mode),
            Opened::Live { .. } => Err(ErrorCode::ReadOnly.into()),
            Opened::Host { file, .. } => {
                mode.require_blocking()?;
                file.write(at, bytes)
            }
        }
    }

    pub(super) fn set_len(&self, len: u64, mode: Mode) -> Outcome<()> {
        self.require_write()?;
        match &*self.opened {
            Opened::Overlay(opening) => opening.file.set_len(len, mode),
            Opened::Live { .. } => Err(ErrorCode::ReadOnly.into()),
            Opened::Host { file, .. } => {
                mode.require_blocking()?;
                file.set_len(len)
            }
        }
    }

    pub(super) fn stat(&self, mode: Mode) -> Outcome<Stat> {
        match &*self.opened {
            Opened::Overlay(opening) => Ok(opening.file.stat()),
            Opened::Live { tree, index } => Ok(stat_node(tree.node(*index))),
            Opened::Host { file, .. } => {
                mode.require_blocking()?;
                file.stat()
            }
        }
    }

    /// Sets times; as in POSIX this needs no right to write, but a mount or root that may be changed.
    pub(super) fn set_times(&self, times: NewTimes, mode: Mode) -> Outcome<()> {
        match &*self.opened {
            Opened::Overlay(OverlayOpening {
                access: Access::ReadOnly,
                ..
            }) => Err(ErrorCode::ReadOnly.into()),
            Opened::Overlay(opening) => Ok(opening.file.set_times(times)?),
            Opened::Live { .. } => Err(ErrorCode::ReadOnly.into()),
            Opened::Host {
                access: Access::ReadOnly,
                ..
            } => Err(ErrorCode::ReadOnly.into()),
            Opened::Host { file, .. } => {
                mode.require_blocking()?;
                file.set_times(times)
            }
        }
    }

    /// Brings what was written to the disk. The writable layer ends with its container, so there is
    /// nothing to bring anywhere for its files.
    pub(super) fn sync(&self, what: Sync, mode: Mode) -> Outcome<()> {
        match (&*self.opened, what) {
            (Opened::Host { .. }, _) if !self.rights.write => Ok(()),
            (Opened::Host { .. }, _) if mode == Mode::Inline => mode.require_blocking(),
            (Opened::Host { file, .. }, Sync::Data) => file.sync_data(),
            (Opened::Host { file, .. }, Sync::All) => file.sync(),
            (Opened::Overlay(_) | Opened::Live { .. }, _) => Ok(()),
        }
    }

    /// Identifies the file among all of the process.
    pub(super) fn identity(&self, mode: Mode) -> Outcome<(u64, u64)> {
        match &*self.opened {
            Opened::Overlay(opening) => Ok(opening.overlay.identity(opening.file.inode())),
            Opened::Live { tree, index } => Ok(tree_identity(tree, *index)),
            Opened::Host { file, .. } => {
                mode.require_blocking()?;
                file.identity()
            }
        }
    }

    /// The file's bytes for the host.
    pub(super) fn into_source(self) -> io::Result<FileSource> {
        let lost = || io::Error::from(io::ErrorKind::InvalidData);
        match Arc::into_inner(self.opened).ok_or_else(lost)? {
            Opened::Overlay(opening) => opening.file.source(),
            Opened::Live { tree, index } => source_of(tree.node(index)).cloned().ok_or_else(lost),
            Opened::Host { file, .. } => {
                let file = file.into_file();
                let len = file.metadata()?.len();
                Ok(FileSource::Extent(FileExtent {
                    file: Arc::new(file),
                    offset: 0,
                    len,
                }))
            }
        }
    }
}

impl OverlayOpening {
    /// Takes over an opening that [`Overlay::open`] or [`Overlay::create`] counted.
    pub(super) fn new(
        overlay: &Arc<Overlay>,
        file: Arc<OverlayFile>,
        access: Access,
    ) -> OverlayOpening {
        OverlayOpening {
            overlay: Arc::clone(overlay),
            file,
            access,
        }
    }
}

impl Drop for OverlayOpening {
    fn drop(&mut self) {
        self.overlay.release(&self.file);
    }
}

/// What a node of a tree looks like.
pub(super) fn stat_node(node: &Node) -> Stat {
    let (kind, size) = match &node.kind {
        NodeKind::Dir(_) => (Kind::Dir, 0),
        NodeKind::File(source) => (Kind::File, source.len()),
        NodeKind::Symlink(target) => (Kind::Symlink, target.len() as u64),
    };
    Stat {
        kind,
        size,
        links: u64::from(node.links),
        times: Times::all(node.meta.mtime),
        permissions: Permissions::from(&node.meta),
    }
}

/// Identifies a node of a live tree; the numbers of trees are counted, so no address equals one.
pub(super) fn tree_identity(tree: &Tree, index: u32) -> (u64, u64) {
    (u64::MAX - tree.id(), u64::from(index))
}

fn source_of(node: &Node) -> Option<&FileSource> {
    match &node.kind {
        NodeKind::File(source) => Some(source),
        NodeKind::Dir(_) | NodeKind::Symlink(_) => None,
    }
}
