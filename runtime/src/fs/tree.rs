//! An immutable tree of folders, files and links, built once and shared by every container that shows it.
//!
//! The nodes stand in one array and name each other by index, so a tree of any depth is dropped without
//! recursion, a node knows its parent, and ten thousand containers share it by one pointer.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use super::{FsError, path, position};

/// The most entries of one tree; about 400 MB of memory, far above any real image.
const ENTRIES_MAX: usize = 1 << 22;
/// The mode of a folder that an entry's path implies and no entry describes.
const IMPLIED_DIR_MODE: u32 = 0o755;

/// Who owns an entry, who may use it, when it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, without the file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of content.
    pub mtime: SystemTime,
}

impl Meta {
    /// Describes an entry owned by root.
    pub fn new(mode: u32, mtime: SystemTime) -> Meta {
        Meta {
            mode,
            uid: 0,
            gid: 0,
            mtime,
        }
    }
}

/// Where the bytes of a file in a tree are.
#[derive(Clone)]
pub enum FileSource {
    /// In memory.
    Bytes(Bytes),
    /// In a part of a host file.
    Extent(FileExtent),
}

/// A part of an open host file, such as one entry of a layer's tar.
#[derive(Clone)]
pub struct FileExtent {
    /// The open file; only read at given positions.
    pub file: Arc<File>,
    /// Where the bytes begin.
    pub offset: u64,
    /// How many bytes there are.
    pub len: u64,
}

/// An immutable tree: the root of an image, or one version of a volume's content.
pub struct Tree {
    /// Distinguishes the nodes of this tree from those of every other tree of the process.
    id: u64,
    /// `nodes[0]` is the root.
    nodes: Box<[Node]>,
}

/// One entry. Invariant: `parent` of a folder is the folder that holds it; the root is its own parent.
pub(super) struct Node {
    pub(super) parent: u32,
    pub(super) links: u32,
    pub(super) meta: Meta,
    pub(super) kind: NodeKind,
}

pub(super) enum NodeKind {
    /// Sorted by name.
    Dir(Box<[(Box<str>, u32)]>),
    File(FileSource),
    Symlink(Box<str>),
}

/// Collects the entries of a [`Tree`]. Every path is relative to the root and checked: `..`, an absolute
/// path, a NUL, an over-long name and a file used as a folder are refused. Missing parents are made up
/// (0755, owned by root). A file or link that repeats a path replaces the earlier one.
pub struct TreeBuilder {
    nodes: Vec<Building>,
}

struct Building {
    parent: u32,
    links: u32,
    meta: Meta,
    kind: BuildingKind,
}

enum BuildingKind {
    Dir(BTreeMap<Box<str>, u32>),
    File(FileSource),
    Symlink(Box<str>),
}

const ROOT: u32 = 0;

impl FileSource {
    /// The number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a size, not a collection")]
    pub fn len(&self) -> u64 {
        match self {
            FileSource::Bytes(bytes) => bytes.len() as u64,
            FileSource::Extent(extent) => extent.len,
        }
    }
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the content: it may be a Secret's.
        match self {
            FileSource::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            FileSource::Extent(extent) => extent.fmt(f),
        }
    }
}

impl FileSource {
    /// Reads the first bytes, at most `max` and at most [`super::IO_BYTES_MAX`]. May block.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn head(&self, max: usize) -> io::Result<Bytes> {
        match self {
            FileSource::Bytes(bytes) => Ok(bytes.slice(..bytes.len().min(max))),
            FileSource::Extent(extent) => {
                let head = FileExtent {
                    len: extent.len.min(max as u64),
                    ..extent.clone()
                };
                position::read_chunk(&head, 0)
            }
        }
    }
}

impl FileExtent {
    /// Reads the whole part; a file that ends before it is an error. Blocks.
    pub(crate) fn read_all(&self) -> io::Result<Bytes> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < self.len {
            let chunk = position::read_chunk(self, bytes.len() as u64)?;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }
}

impl fmt::Debug for FileExtent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileExtent({}+{})", self.offset, self.len)
    }
}

impl Tree {
    /// A tree with nothing but its root.
    pub fn empty() -> Tree {
        TreeBuilder::new().build()
    }

    /// One empty file that everybody may write.
    pub(super) fn of_open_file() -> Tree {
        let mut tree = TreeBuilder::new();
        let meta = Meta::new(0o666, SystemTime::UNIX_EPOCH);
        let empty = FileSource::Bytes(Bytes::new());
        let added = tree.file(super::MemoryVolume::FILE, meta, empty);
        added.expect("it is a plain name and the only one");
        tree.build()
    }

    /// The number of entries, the root included.
    pub fn entries(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    /// The node when `index` is one of this tree; an overlay's own inodes are above.
    pub(super) fn get(&self, index: u64) -> Option<&Node> {
        self.nodes.get(usize::try_from(index).ok()?)
    }

    pub(super) fn child(&self, dir: u32, name: &str) -> Option<u32> {
        self.node(dir).child(name)
    }

    /// The names from `top` down to the folder `index`.
    pub(super) fn names_below(&self, top: u32, index: u32) -> Vec<&str> {
        let mut names = Vec::new();
        let mut at = index;
        while at != top && at != ROOT {
            let parent = self.node(at).parent;
            let name = self
                .node(parent)
                .children()
                .iter()
                .find(|(_, child)| *child == at);
            names.push(name.map_or("", |(name, _)| name));
            at = parent;
        }
        names.reverse();
        names
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tree({} entries)", self.nodes.len())
    }
}

impl Node {
    pub(super) fn children(&self) -> &[(Box<str>, u32)] {
        match &self.kind {
            NodeKind::Dir(children) => children,
            NodeKind::File(_) | NodeKind::Symlink(_) => &[],
        }
    }

    pub(super) fn child(&self, name: &str) -> Option<u32> {
        let children = self.children();
        let found = children
            .binary_search_by(|(other, _)| other.as_ref().cmp(name))
            .ok()?;
        Some(children[found].1)
    }
}

impl Default for TreeBuilder {
    fn default() -> TreeBuilder {
        TreeBuilder::new()
    }
}

impl TreeBuilder {
    /// Starts with an empty root.
    pub fn new() -> TreeBuilder {
        TreeBuilder {
            nodes: vec![Building::implied_dir(ROOT)],
        }
    }

    /// Adds a folder, or describes one that is there; `""` and `"."` are the root.
    pub fn dir(&mut self, path: &str, meta: Meta) -> Result<&mut Self, FsError> {
        let names = path::strict(path)?;
        let index = self.dir_index(&names, path)?;
        self.nodes[index as usize].meta = meta;
        Ok(self)
    }

    /// Describes the root itself.
    pub fn top(mut self, meta: Meta) -> TreeBuilder {
        self.nodes[ROOT as usize].meta = meta;
        self
    }

    /// Adds a file.
    pub fn file(
        &mut self,
        path: &str,
        meta: Meta,
        source: FileSource,
    ) -> Result<&mut Self, FsError> {
        self.leaf(path, meta, BuildingKind::File(source))
    }

    /// Adds a symbolic link. Its target is resolved when it is followed, inside the container's root.
    pub fn symlink(&mut self, path: &str, target: &str, meta: Meta) -> Result<&mut Self, FsError> {
        path::link_target(path, target)?;
        self.leaf(path, meta, BuildingKind::Symlink(target.into()))
    }

    /// Adds another name of the file or link `to`, which must have been added before.
    pub fn hardlink(&mut self, path: &str, to: &str) -> Result<&mut Self, FsError> {
        let conflict = |reason| FsError::Conflict {
            path: path::shorten(path),
            reason,
        };
        let target = self
            .find(&path::strict(to)?)
            .ok_or(conflict("is a hard link to something that is not there"))?;
        if matches!(self.nodes[target as usize].kind, BuildingKind::Dir(_)) {
            return Err(conflict("is a hard link to a folder"));
        }
        let names = path::strict(path)?;
        if self.find(&names) == Some(target) {
            return Ok(self);
        }
        self.nodes[target as usize].links += 1;
        self.place(path, &names, Placed::Existing(target))?;
        Ok(self)
    }

    /// Freezes the tree.
    pub fn build(self) -> Tree {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let nodes = self.nodes.into_iter().map(Building::freeze).collect();
        Tree {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            nodes,
        }
    }

    fn leaf(&mut self, path: &str, meta: Meta, kind: BuildingKind) -> Result<&mut Self, FsError> {
        let names = path::strict(path)?;
        self.place(path, &names, Placed::New(meta, kind))?;
        Ok(self)
    }

    /// Puts a file or link under its name, in place of an earlier file or link.
    fn place(&mut self, path: &str, names: &[&str], placed: Placed) -> Result<(), FsError> {
        let conflict = |reason| FsError::Conflict {
            path: path::shorten(path),
            reason,
        };
        let (name, parents) = names
            .split_last()
            .ok_or(conflict("would replace the root"))?;
        let parent = self.dir_index(parents, path)?;
        let old = self.children(parent).get(*name).copied();
        if let Some(old) = old {
            let node = &mut self.nodes[old as usize];
            if matches!(node.kind, BuildingKind::Dir(_)) {
                return Err(conflict("would replace a folder"));
            }
            node.links -= 1;
            if let (0, Placed::New(meta, kind)) = (node.links, &placed) {
                *node = Building {
                    parent,
                    links: 1,
                    meta: *meta,
                    kind: kind.clone(),
                };
                return Ok(());
            }
        }
        let index = match placed {
            Placed::Existing(index) => index,
            Placed::New(meta, kind) => self.push(Building {
                parent,
                links: 1,
                meta,
                kind,
            })?,
        };
        self.children(parent).insert((*name).into(), index);
        Ok(())
    }

    fn find(&self, names: &[&str]) -> Option<u32> {
        names
            .iter()
            .try_fold(ROOT, |at, name| match &self.nodes[at as usize].kind {
                BuildingKind::Dir(children) => children.get(*name).copied(),
                BuildingKind::File(_) | BuildingKind::Symlink(_) => None,
            })
    }

    /// The folder at `names`, made up as far as it is missing.
    fn dir_index(&mut self, names: &[&str], path: &str) -> Result<u32, FsError> {
        let mut at = ROOT;
        for name in names {
            let next = u32::try_from(self.nodes.len()).expect("the tree has a limit below u32");
            at = match self.children(at).entry((*name).into()) {
                Entry::Occupied(found) => *found.get(),
                Entry::Vacant(free) => {
                    free.insert(next);
                    self.push(Building::implied_dir(at))?
                }
            };
            if !matches!(self.nodes[at as usize].kind, BuildingKind::Dir(_)) {
                let path = path::shorten(path);
                return Err(FsError::Conflict {
                    path,
                    reason: "uses a file or link as a folder",
                });
            }
        }
        Ok(at)
    }

    /// The children of a node that the caller found to be a folder.
    fn children(&mut self, dir: u32) -> &mut BTreeMap<Box<str>, u32> {
        match &mut self.nodes[dir as usize].kind {
            BuildingKind::Dir(children) => children,
            BuildingKind::File(_) | BuildingKind::Symlink(_) => {
                unreachable!("`dir_index` returns folders only")
            }
        }
    }

    fn push(&mut self, node: Building) -> Result<u32, FsError> {
        if self.nodes.len() >= ENTRIES_MAX {
            return Err(FsError::TooManyEntries { limit: ENTRIES_MAX });
        }
        self.nodes.push(node);
        Ok(u32::try_from(self.nodes.len() - 1).expect("the tree has a limit below u32"))
    }
}

impl fmt::Debug for TreeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeBuilder({} entries)", self.nodes.len())
    }
}

/// What [`TreeBuilder::place`] puts under a name.
enum Placed {
    New(Meta, BuildingKind),
    Existing(u32),
}

impl Clone for BuildingKind {
    fn clone(&self) -> BuildingKind {
        match self {
            BuildingKind::Dir(children) => BuildingKind::Dir(children.clone()),
            BuildingKind::File(source) => BuildingKind::File(source.clone()),
            BuildingKind::Symlink(target) => BuildingKind::Symlink(target.clone()),
        }
    }
}

impl Building {
    fn implied_dir(parent: u32) -> Building {
        let meta = Meta::new(IMPLIED_DIR_MODE, SystemTime::UNIX_EPOCH);
        Building {
            parent,
            links: 1,
            meta,
            kind: BuildingKind::Dir(BTreeMap::new()),
        }
    }

    fn freeze(self) -> Node {
        let kind = match self.kind {
            BuildingKind::Dir(children) => NodeKind::Dir(children.into_iter().collect()),
            BuildingKind::File(source) => NodeKind::File(source),
            BuildingKind::Symlink(target) => NodeKind::Symlink(target),
        };
        Node {
            parent: self.parent,
            links: self.links,
            meta: self.meta,
            kind,
        }
    }
}
