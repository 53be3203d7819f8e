//! The container's root: an immutable tree and the changes made to it. A volume in memory is the same over an
//! empty tree, with the data of its files in memory too.
//!
//! Entries are inodes. The numbers below the tree's length are the tree's own nodes, the others were made
//! by the container. The table holds only inodes that differ from the tree or are held open, so a
//! container that writes nothing has an empty one; an inode found there speaks instead of the tree's
//! node of the same number, whatever names lead to it. Thus copying up moves nothing but data, a folder
//! of the image is renamed without touching what is in it, and hard links stay one file.
//!
//! One lock guards the table. It is held for look-ups and changes in memory only, never during I/O.

mod changes;
mod file;
mod pages;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use self::file::Known;
pub(super) use self::file::{OverlayFile, WriteAt, read_source};
pub(super) use self::store::Store;
use super::node::{Kind, NewTimes, Stat, Times};
use super::tree::{Node, NodeKind};
use super::user::{NewPermissions, Permissions, User};
use super::{Tree, Upper};
use crate::account::PodAccount;

/// The root's inode.
pub(super) const ROOT: u64 = 0;
/// The most entries a container may add; about 100 MB of the agent's memory at the worst.
const ADDED_ENTRIES_MAX: usize = 1 << 18;

/// The root of a container with its changes.
pub(super) struct Overlay {
    tree: Arc<Tree>,
    /// `None` when the root is read-only.
    store: Option<Arc<Store>>,
    state: Mutex<State>,
}

struct State {
    tree: Arc<Tree>,
    inodes: HashMap<u64, Inode>,
    next: u64,
    /// How many names the changes hold, against [`ADDED_ENTRIES_MAX`].
    added: usize,
}

enum Inode {
    Dir(Dir),
    File(Arc<OverlayFile>),
    Symlink(Symlink),
}

/// A folder that was changed, made or moved.
struct Dir {
    parent: u64,
    /// What differs from the tree's folder of this number, if there is one: an inode, or `None` for a
    /// name of the tree that was removed.
    changes: BTreeMap<Box<str>, Option<u64>>,
    times: Times,
    permissions: Permissions,
    state: DirState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DirState {
    Linked,
    /// Removed while it may be held open. A folder of the tree stays so for good: without this entry
    /// its old content would show again through an open descriptor.
    Removed,
}

struct Symlink {
    target: Box<str>,
    links: u64,
    times: Times,
    permissions: Permissions,
}

impl Overlay {
    pub(super) fn new(tree: Arc<Tree>, upper: Upper) -> Overlay {
        let store = match upper {
            Upper::Writable { dir, limit } => Some(Arc::new(Store::new(dir, limit))),
            Upper::ReadOnly => None,
        };
        let next = tree.entries() as u64;
        let state = State {
            tree: Arc::clone(&tree),
            inodes: HashMap::new(),
            next,
            added: 0,
        };
        Overlay {
            tree,
            store,
            state: Mutex::new(state),
        }
    }

    /// A volume whose changes are held in memory and charged to a pod.
    pub(super) fn in_memory(tree: Arc<Tree>, pod: PodAccount, limit: u64) -> Overlay {
        let mut overlay = Overlay::new(tree, Upper::ReadOnly);
        overlay.store = Some(Arc::new(Store::in_memory(pod, limit)));
        overlay
    }

    /// Fails with `read-only` when the root is.
    pub(super) fn writable(&self) -> Result<&Arc<Store>, ErrorCode> {
        self.store.as_ref().ok_or(ErrorCode::ReadOnly)
    }

    /// The inode called `name` in a folder.
    pub(super) fn lookup(&self, dir: u64, name: &str) -> Result<Option<(u64, Kind)>, ErrorCode> {
        let state = self.state.lock();
        let Some(inode) = state.child(dir, name)? else {
            return Ok(None);
        };
        Ok(Some((inode, state.kind(inode)?)))
    }

    /// The folder that holds a folder; the root holds itself.
    pub(super) fn parent(&self, dir: u64) -> u64 {
        self.state.lock().parent(dir)
    }

    /// The names from one folder down to another.
    pub(super) fn names_from(&self, top: u64, dir: u64) -> Result<Vec<String>, ErrorCode> {
        let state = self.state.lock();
        let mut names = Vec::new();
        let mut at = dir;
        while at != top {
            if at == ROOT {
                return Err(ErrorCode::NoEntry);
            }
            let parent = state.parent(at);
            let list = state.list(parent)?;
            let (name, _) = list
                .iter()
                .find(|(_, i)| *i == at)
                .ok_or(ErrorCode::NoEntry)?;
            names.push(name.to_string());
            at = parent;
        }
        names.reverse();
        Ok(names)
    }

    pub(super) fn list(&self, dir: u64) -> Result<Vec<(String, Kind)>, ErrorCode> {
        let state = self.state.lock();
        let list = state.list(dir)?;
        list.into_iter()
            .map(|(name, inode)| Ok((name.to_owned(), state.kind(inode)?)))
            .collect()
    }

    pub(super) fn read_link(&self, inode: u64) -> Result<String, ErrorCode> {
        let state = self.state.lock();
        if let Some(Inode::Symlink(link)) = state.inodes.get(&inode) {
            return Ok(link.target.to_string());
        }
        match self.tree.get(inode).map(|node| &node.kind) {
            Some(NodeKind::Symlink(target)) => Ok(target.to_string()),
            _ => Err(ErrorCode::Invalid),
        }
    }

    pub(super) fn stat(&self, inode: u64) -> Result<Stat, ErrorCode> {
        self.state.lock().stat(inode)
    }

    /// Identifies an inode among all file systems of the process.
    pub(super) fn identity(&self, inode: u64) -> (u64, u64) {
        (std::ptr::from_ref(self).addr() as u64, inode)
    }

    /// Opens a file; [`Overlay::release`] takes it back.
    pub(super) fn open(&self, inode: u64) -> Result<Arc<OverlayFile>, ErrorCode> {
        let mut state = self.state.lock();
        let file = state.file(inode, self.store.as_ref())?;
        file.opened();
        Ok(file)
    }

    /// Ends one opening of a file. What has no name and no opening left is gone, and what still is as in
    /// the tree leaves the table.
    pub(super) fn release(&self, file: &OverlayFile) {
        let mut state = self.state.lock();
        if !file.closed() {
            return;
        }
        if file.is_unlinked() || !file.differs() {
            state.inodes.remove(&file.inode());
        }
        drop(state);
        file.close_idle();
    }

    pub(super) fn set_times(&self, inode: u64, times: NewTimes) -> Result<(), ErrorCode> {
        self.writable()?;
        let mut state = self.state.lock();
        match state.kind(inode)? {
            Kind::Dir => state.dir_mut(inode)?.times.set(times),
            Kind::Symlink => state.symlink_mut(inode)?.times.set(times),
            Kind::File | Kind::Other => {
                state.file(inode, self.store.as_ref())?.set_times(times)?;
            }
        }
        Ok(())
    }
}

impl Overlay {
    /// Changes permissions, if `user` may.
    pub(super) fn set_permissions(
        &self,
        inode: u64,
        new: NewPermissions,
        user: &User,
    ) -> Result<(), ErrorCode> {
        self.writable()?;
        let mut state = self.state.lock();
        let changed = user.change(state.stat(inode)?.permissions, new)?;
        match state.kind(inode)? {
            Kind::Dir => {
                let dir = state.dir_mut(inode)?;
                dir.permissions = changed;
                dir.times.changed = SystemTime::now();
            }
            Kind::Symlink => {
                let link = state.symlink_mut(inode)?;
                link.permissions = changed;
                link.times.changed = SystemTime::now();
            }
            Kind::File | Kind::Other => {
                let file = state.file(inode, self.store.as_ref())?;
                file.set_permissions(changed);
            }
        }
        Ok(())
    }
}

impl State {
    fn lower(&self, inode: u64) -> Result<&Node, ErrorCode> {
        self.tree.get(inode).ok_or(ErrorCode::NoEntry)
    }

    /// A folder's own entry, when it has one; fails when it was removed or is no folder.
    fn dir(&self, inode: u64) -> Result<Option<&Dir>, ErrorCode> {
        match self.inodes.get(&inode) {
            Some(Inode::Dir(dir)) if dir.state == DirState::Linked => Ok(Some(dir)),
            Some(Inode::Dir(_)) => Err(ErrorCode::NoEntry),
            Some(Inode::File(_) | Inode::Symlink(_)) => Err(ErrorCode::NotDirectory),
            None => match self.lower(inode)?.kind {
                NodeKind::Dir(_) => Ok(None),
                NodeKind::File(_) | NodeKind::Symlink(_) => Err(ErrorCode::NotDirectory),
            },
        }
    }

    fn child(&self, dir: u64, name: &str) -> Result<Option<u64>, ErrorCode> {
        if let Some(change) = self.dir(dir)?.and_then(|dir| dir.changes.get(name)) {
            return Ok(*change);
        }
        Ok(self.lower_child(dir, name))
    }

    fn lower_child(&self, dir: u64, name: &str) -> Option<u64> {
        self.tree.get(dir)?.child(name).map(u64::from)
    }

    /// The names and inodes of a folder, sorted.
    fn list(&self, inode: u64) -> Result<Vec<(&str, u64)>, ErrorCode> {
        let dir = self.dir(inode)?;
        let lower = self.tree.get(inode).map_or(&[][..], Node::children);
        let lower = lower
            .iter()
            .map(|(name, child)| (name.as_ref(), u64::from(*child)));
        let Some(dir) = dir else {
            return Ok(lower.collect());
        };
        let mut list: Vec<_> = lower
            .filter(|(name, _)| !dir.changes.contains_key(*name))
            .collect();
        list.extend(
            dir.changes
                .iter()
                .filter_map(|(name, inode)| Some((name.as_ref(), (*inode)?))),
        );
        list.sort_unstable();
        Ok(list)
    }

    fn is_empty(&self, inode: u64) -> Result<bool, ErrorCode> {
        let Some(dir) = self.dir(inode)? else {
            return Ok(self.lower(inode)?.children().is_empty());
        };
        let lower = self.tree.get(inode).map_or(&[][..], Node::children);
        Ok(dir.changes.values().all(Option::is_none)
            && lower.iter().all(|(name, _)| dir.changes.contains_key(name)))
    }

    fn parent(&self, inode: u64) -> u64 {
        match self.inodes.get(&inode) {
            Some(Inode::Dir(dir)) => dir.parent,
            _ => self
                .tree
                .get(inode)
                .map_or(ROOT, |node| u64::from(node.parent)),
        }
    }

    fn kind(&self, inode: u64) -> Result<Kind, ErrorCode> {
        Ok(match self.inodes.get(&inode) {
            Some(Inode::Dir(_)) => Kind::Dir,
            Some(Inode::File(_)) => Kind::File,
            Some(Inode::Symlink(_)) => Kind::Symlink,
            None => match self.lower(inode)?.kind {
                NodeKind::Dir(_) => Kind::Dir,
                NodeKind::File(_) => Kind::File,
                NodeKind::Symlink(_) => Kind::Symlink,
            },
        })
    }

    fn stat(&self, inode: u64) -> Result<Stat, ErrorCode> {
        let dir = |times, permissions| Stat {
            kind: Kind::Dir,
            size: 0,
            links: 1,
            times,
            permissions,
        };
        let symlink = |target: &str, links, times, permissions| Stat {
            kind: Kind::Symlink,
            size: target.len() as u64,
            links,
            times,
            permissions,
        };
        Ok(match self.inodes.get(&inode) {
            Some(Inode::Dir(state)) if state.state == DirState::Removed => {
                return Err(ErrorCode::NoEntry);
            }
            Some(Inode::Dir(state)) => dir(state.times, state.permissions),
            Some(Inode::File(file)) => file.stat(),
            Some(Inode::Symlink(link)) => {
                symlink(&link.target, link.links, link.times, link.permissions)
            }
            None => {
                let node = self.lower(inode)?;
                let times = Times::all(node.meta.mtime);
                let links = u64::from(node.links);
                let permissions = Permissions::from(&node.meta);
                match &node.kind {
                    NodeKind::Dir(_) => dir(times, permissions),
                    NodeKind::Symlink(target) => symlink(target, links, times, permissions),
                    NodeKind::File(source) => Stat {
                        kind: Kind::File,
                        size: source.len(),
                        links,
                        times,
                        permissions,
                    },
                }
            }
        })
    }

    /// The entry of a folder in the table, made from the tree's when it has none.
    fn dir_mut(&mut self, inode: u64) -> Result<&mut Dir, ErrorCode> {
        if self.dir(inode)?.is_none() {
            let node = self.lower(inode)?;
            let (parent, times) = (u64::from(node.parent), Times::all(node.meta.mtime));
            let dir = Dir::new(parent, times, Permissions::from(&node.meta));
            self.inodes.insert(inode, Inode::Dir(dir));
        }
        match self.inodes.get_mut(&inode) {
            Some(Inode::Dir(dir)) => Ok(dir),
            _ => Err(ErrorCode::NotDirectory),
        }
    }

    fn symlink_mut(&mut self, inode: u64) -> Result<&mut Symlink, ErrorCode> {
        if !self.inodes.contains_key(&inode) {
            let node = self.lower(inode)?;
            if let NodeKind::Symlink(target) = &node.kind {
                let (target, links) = (target.clone(), u64::from(node.links));
                let times = Times::all(node.meta.mtime);
                let permissions = Permissions::from(&node.meta);
                self.inodes.insert(
                    inode,
                    Inode::Symlink(Symlink {
                        target,
                        links,
                        times,
                        permissions,
                    }),
                );
            }
        }
        match self.inodes.get_mut(&inode) {
            Some(Inode::Symlink(link)) => Ok(link),
            _ => Err(ErrorCode::Invalid),
        }
    }

    /// The file with this number, in the table from now on.
    fn file(
        &mut self,
        inode: u64,
        store: Option<&Arc<Store>>,
    ) -> Result<Arc<OverlayFile>, ErrorCode> {
        match self.inodes.get(&inode) {
            Some(Inode::File(file)) => return Ok(Arc::clone(file)),
            Some(Inode::Dir(_)) => return Err(ErrorCode::IsDirectory),
            Some(Inode::Symlink(_)) => return Err(ErrorCode::Loop),
            None => {}
        }
        let node = self.lower(inode)?;
        let NodeKind::File(source) = &node.kind else {
            return Err(ErrorCode::IsDirectory);
        };
        let known = Known {
            links: u64::from(node.links),
            times: Times::all(node.meta.mtime),
            permissions: Permissions::from(&node.meta),
        };
        let file = OverlayFile::of_tree(inode, source.clone(), known, store);
        let file = Arc::new(file);
        self.inodes.insert(inode, Inode::File(Arc::clone(&file)));
        Ok(file)
    }
}

impl Dir {
    fn new(parent: u64, times: Times, permissions: Permissions) -> Dir {
        Dir {
            parent,
            changes: BTreeMap::new(),
            times,
            permissions,
            state: DirState::Linked,
        }
    }

    fn now(parent: u64, permissions: Permissions) -> Dir {
        Dir::new(parent, Times::all(SystemTime::now()), permissions)
    }
}
