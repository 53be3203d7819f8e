//! The file system a container sees: an immutable image tree, a writable layer over it, and mounts.
//!
//! Nothing of an image is unpacked. A [`Tree`] is built once per image and shared by every container; a
//! container's own changes live in memory with file data in numbered files of a host folder that is made
//! at the first write. Only [`MountSource::HostDir`] and [`MountSource::HostFile`] reach the host's file
//! system, through `cap-std`. Paths are resolved here and nowhere else, so links and `..` mean the same
//! on every platform and never leave the container's root.
//!
//! ```text
//! FileSystemSpec ── FileSystem::new ──▶ overlay (tree + changes) + mount table
//!                                          ▲ resolve: path → node, one version of a live tree per walk
//! wasi:filesystem ── wasi ── operations ───┘
//! ```
//!
//! What can block: host folders, image layers and numbered files are read and written on tokio's blocking
//! threads, one operation at a time per call or stream. When a guest is ended, an operation that has
//! begun is abandoned and counted (`crate::blocking`): it runs to its end on its thread, at most
//! [`IO_BYTES_MAX`] bytes or one copy of a file into the writable layer, and its result is dropped.

mod handle;
mod host;
mod live;
mod mounts;
mod node;
mod open_files;
mod operations;
mod overlay;
mod path;
mod position;
mod resolve;
mod space;
mod tree;
mod user;
mod wasi;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;

use self::mounts::Mounts;
use self::node::{Layer, Mode, NodeRef};
use self::operations::{How, Opening};
use self::overlay::Overlay;
use self::resolve::{Last, Walk};
use self::user::Permissions;

use crate::account::{Account, PodAccount};

pub use live::LiveTree;
pub use tree::{FileExtent, FileSource, Meta, Tree, TreeBuilder};
pub use user::User;
pub(crate) use wasi::posix::is_interface;
pub(crate) use wasi::{FsCtx, FsState, FsView, add_to_linker};

/// The most bytes one read or write moves, and so the most the host holds for one call of a guest.
pub const IO_BYTES_MAX: usize = 1 << 20;

/// The largest file [`FileSystem::read_file`] returns: enough for any program, too little to hurt the agent.
pub const READ_FILE_MAX: u64 = 256 << 20;

/// A container's file system, shared by its instances.
///
/// It ends with its last user; the numbered files of its writable layer are removed then.
pub struct FileSystem {
    overlay: Arc<Overlay>,
    mounts: Mounts,
    user: User,
    /// Whose the files are that its programs open; nobody's before the container is started.
    pod: OnceLock<PodAccount>,
}

/// What a container's file system is made of.
#[derive(Debug)]
pub struct FileSystemSpec {
    /// The image's root; shared between containers.
    pub root: Arc<Tree>,
    /// Where changes to the root go.
    pub upper: Upper,
    /// What is mounted over the root. Order is irrelevant: the longest matching path wins.
    pub mounts: Vec<Mount>,
    /// Who the container runs as. What the host reads by a path, it reads as root.
    pub user: User,
}

/// What happens to a write outside every mount.
#[derive(Clone, Debug)]
pub enum Upper {
    /// Kept until the file system is dropped: the tree of changes in memory, file data in numbered files.
    Writable {
        /// The host folder of the numbered files, made at the first write of data.
        dir: PathBuf,
        /// The bytes the changes may take, a fixed charge per entry included.
        limit: u64,
    },
    /// Refused as `read-only`.
    ReadOnly,
}

/// One mount of a container.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Absolute path in the container; links of the image on the way to it are followed.
    pub path: String,
    /// What appears there.
    pub source: MountSource,
    /// A path inside the source that is mounted in its place, frozen when the file system is made.
    pub sub_path: Option<String>,
    /// Whether the container may change it.
    pub access: Access,
    /// The group that everything of it belongs to and may use it, as `fsGroup` says. A volume in memory
    /// knows its own.
    pub group: Option<u32>,
}

/// Where a mount's content comes from.
#[derive(Clone, Debug)]
pub enum MountSource {
    /// A folder of the host, which must exist.
    HostDir(PathBuf),
    /// A file of the host, which must exist.
    HostFile(PathBuf),
    /// A tree in memory that its owner may swap; never writable for the container.
    Live(LiveTree),
    /// A tree that never changes, such as an image's; never writable for the container.
    Tree(Arc<Tree>),
    /// A volume that is held in memory.
    Memory(MemoryVolume),
}

/// An empty volume that is held in memory: shared by whoever mounts it, and gone with the last of them and
/// of its clones. Its files and names are charged to a pod.
#[derive(Clone)]
pub struct MemoryVolume(Arc<Overlay>);

impl MemoryVolume {
    /// Makes a volume that is charged to `pod` and holds at most `limit` bytes, in whole
    /// pages. Beyond either a write fails
    /// with `insufficient-space`. Everybody may write in it, and what is made in it belongs to `group`.
    pub fn new(pod: PodAccount, limit: Option<u64>, group: Option<u32>) -> MemoryVolume {
        let top = Permissions::of_root(0o777).shared_with(group, true);
        let meta = Meta {
            mode: top.mode,
            uid: top.uid,
            gid: top.gid,
            mtime: SystemTime::now(),
        };
        let tree = Arc::new(TreeBuilder::new().top(meta).build());
        let limit = limit.unwrap_or(u64::MAX);
        MemoryVolume(Arc::new(Overlay::in_memory(tree, pod, limit)))
    }

    /// Makes one with an empty file in it, [`MemoryVolume::FILE`], that everybody may write: to be mounted
    /// by that name where a container writes something for the host, whatever it runs as.
    pub fn with_file(pod: PodAccount, limit: u64) -> MemoryVolume {
        static TREE: LazyLock<Arc<Tree>> = LazyLock::new(|| Arc::new(Tree::of_open_file()));
        MemoryVolume(Arc::new(Overlay::in_memory(TREE.clone(), pod, limit)))
    }

    /// The name of the file that [`MemoryVolume::with_file`] makes.
    pub const FILE: &str = "file";

    /// Returns the bytes it holds, in whole pages.
    pub fn used_bytes(&self) -> u64 {
        self.0.writable().map_or(0, |store| store.used())
    }

    fn overlay(&self) -> &Arc<Overlay> {
        &self.0
    }
}

impl fmt::Debug for MemoryVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryVolume")
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}

impl Mount {
    /// Whether making a file system with this mount waits for the host's disk.
    pub fn may_block(&self) -> bool {
        match self.source {
            MountSource::HostDir(_) | MountSource::HostFile(_) => true,
            MountSource::Live(_) | MountSource::Tree(_) | MountSource::Memory(_) => false,
        }
    }
}

/// Whether a container may change what is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Changes reach the source.
    ReadWrite,
    /// Changes are refused as `read-only`.
    ReadOnly,
}

/// Why a tree or a file system could not be made, or a file not be read by the host.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A path that climbs out, is absolute, holds a NUL or an empty component, or is over-long.
    #[error("refused path `{path}`: {reason}")]
    BadPath {
        /// The path as given, shortened.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry that contradicts an earlier one, as a file used as a folder.
    #[error("entry `{path}` {reason}")]
    Conflict {
        /// The path of the later entry.
        path: String,
        /// What it contradicts.
        reason: &'static str,
    },
    /// More entries than a tree may have.
    #[error("more than {limit} entries in one tree")]
    TooManyEntries {
        /// The limit.
        limit: usize,
    },
    /// A mount whose source or place cannot be used.
    #[error("failed to mount `{source_name}` at `{path}`")]
    Mount {
        /// The path in the container.
        path: String,
        /// The source, as a person would name it.
        source_name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file the host looked up in a container.
    #[error("failed to read `{path}` in the container")]
    Read {
        /// The path in the container.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl FileSystem {
    /// Puts a file system together. This opens host folders and makes missing sub-paths of them, so it
    /// may block; it makes no host folder for the writable layer.
    pub fn new(spec: FileSystemSpec) -> Result<Arc<FileSystem>, FsError> {
        let overlay = Arc::new(Overlay::new(spec.root, spec.upper));
        let mut files = FileSystem {
            overlay,
            mounts: Mounts::none(),
            user: spec.user,
            pod: OnceLock::new(),
        };
        let mut mounts = spec.mounts;
        // A mount's path runs through the mounts above it, so those come first.
        mounts.sort_by_key(|mount| {
            mount
                .path
                .split('/')
                .filter(|name| !name.is_empty())
                .count()
        });
        for mount in mounts {
            files.add_mount(mount)?;
        }
        Ok(Arc::new(files))
    }

    /// Finds a file by its absolute path, as the container would, and returns where its bytes are. May
    /// block.
    pub fn open_extent(&self, path: &str) -> Result<FileSource, FsError> {
        let refuse = |source| FsError::Read {
            path: path::shorten(path),
            source,
        };
        let mut walk = Walk::of_host(self, Mode::Blocking);
        let root = walk.root();
        let found = walk
            .to(root, path, Last::Follow)
            .map_err(|fault| refuse(fault.into()))?;
        let (node, kind) = found
            .node
            .ok_or_else(|| refuse(io::ErrorKind::NotFound.into()))?;
        match self.open_found(&node, kind, How::read(), Mode::Blocking) {
            Ok(Opening::File(file)) => file.into_source().map_err(refuse),
            Ok(Opening::Dir(_)) => Err(refuse(io::ErrorKind::IsADirectory.into())),
            Err(fault) => Err(refuse(fault.into())),
        }
    }

    /// Reads a file by its absolute path, as the container would; at most [`READ_FILE_MAX`] bytes. May
    /// block.
    pub fn read_file(&self, path: &str) -> Result<Bytes, FsError> {
        let refuse = |source| FsError::Read {
            path: path::shorten(path),
            source,
        };
        let extent = match self.open_extent(path)? {
            FileSource::Bytes(bytes) => return Ok(bytes),
            FileSource::Extent(extent) => extent,
        };
        if extent.len > READ_FILE_MAX {
            return Err(refuse(io::ErrorKind::FileTooLarge.into()));
        }
        extent.read_all().map_err(refuse)
    }

    /// The bytes the container's changes take of the limit of its writable layer.
    pub fn used_bytes(&self) -> u64 {
        self.overlay.writable().map_or(0, |store| store.used())
    }

    /// Says whose memory the names of the container's changes take, and whose its open files are. The
    /// first call counts.
    pub(crate) fn charge_to(&self, account: &Arc<Account>) {
        let _ = self.pod.set(account.pod().clone());
        if let Ok(store) = self.overlay.writable() {
            store.charge_names_to(account);
        }
    }

    /// Returns who the container runs as.
    pub fn user(&self) -> &User {
        &self.user
    }

    fn overlay(&self, layer: Layer) -> &Arc<Overlay> {
        match layer {
            Layer::Own => &self.overlay,
            Layer::Mounted(mount) => self.mounts.memory(mount),
        }
    }

    /// The folder a container's paths begin at.
    fn root(&self) -> NodeRef {
        Walk::new(self, Mode::Inline).root()
    }
}

impl fmt::Debug for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSystem")
            .field("mounts", &self.mounts)
            .finish_non_exhaustive()
    }
}
