//! The changes of names: making, linking, removing and renaming entries of the container's root.

use std::sync::Arc;
use std::time::SystemTime;

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::file::OverlayFile;
use super::store::Store;
use super::{ADDED_ENTRIES_MAX, Dir, DirState, Inode, Overlay, ROOT, State, Symlink};
use crate::fs::node::{Kind, Times};
use crate::fs::user::{LINK_MODE, NEW_DIR, NEW_FILE, Permissions, User};

/// What an added name costs of the byte limit beside its own length, so that entries without data are
/// bounded too.
const ENTRY_CHARGE: u64 = 256;

/// A file that lost its last name; dropped when the table is unlocked, since that removes its data.
type Gone = Option<Arc<OverlayFile>>;

impl Overlay {
    /// Makes an empty file and opens it.
    pub(in crate::fs) fn create(
        &self,
        parent: u64,
        name: &str,
        user: &User,
    ) -> Result<Arc<OverlayFile>, ErrorCode> {
        let store = self.writable()?;
        let mut state = self.state.lock();
        let permissions = user.makes(NEW_FILE, state.stat(parent)?.permissions);
        let file = Arc::new(OverlayFile::empty(state.next, permissions, store));
        state.insert_new(store, parent, name, Inode::File(Arc::clone(&file)))?;
        file.add_links(1);
        file.opened();
        Ok(file)
    }

    pub(in crate::fs) fn make_dir(
        &self,
        parent: u64,
        name: &str,
        user: &User,
    ) -> Result<(), ErrorCode> {
        let store = self.writable()?;
        let mut state = self.state.lock();
        let permissions = user.makes_dir(state.stat(parent)?.permissions);
        let dir = Inode::Dir(Dir::now(parent, permissions));
        state.insert_new(store, parent, name, dir)
    }

    /// Makes a folder to mount on, which costs the container nothing and needs no writable root.
    pub(in crate::fs) fn make_mount_point(
        &self,
        parent: u64,
        name: &str,
    ) -> Result<u64, ErrorCode> {
        let mut state = self.state.lock();
        let inode = state.next;
        state
            .dir_mut(parent)?
            .changes
            .insert(name.into(), Some(inode));
        let dir = Dir::now(parent, Permissions::of_root(NEW_DIR));
        state.inodes.insert(inode, Inode::Dir(dir));
        state.next += 1;
        Ok(inode)
    }

    pub(in crate::fs) fn make_symlink(
        &self,
        parent: u64,
        name: &str,
        target: &str,
        user: &User,
    ) -> Result<(), ErrorCode> {
        let store = self.writable()?;
        let length = target.len() as u64;
        store.charge_entry(length)?;
        let mut state = self.state.lock();
        let made = state.stat(parent).and_then(|folder| {
            let link = Inode::Symlink(Symlink {
                target: target.into(),
                links: 1,
                times: Times::all(SystemTime::now()),
                permissions: user.makes(LINK_MODE, folder.permissions),
            });
            state.insert_new(store, parent, name, link)
        });
        made.inspect_err(|_| store.refund_entry(length))
    }

    /// Gives a file or link another name.
    pub(in crate::fs) fn link(&self, inode: u64, parent: u64, name: &str) -> Result<(), ErrorCode> {
        let store = self.writable()?;
        let mut state = self.state.lock();
        if state.kind(inode)? == Kind::Dir {
            return Err(ErrorCode::NotPermitted);
        }
        state.refuse_existing(parent, name)?;
        state.put_name(store, parent, name, inode)?;
        state.count_links(inode, 1, store)?;
        Ok(())
    }

    /// Removes a file or link.
    pub(in crate::fs) fn unlink(&self, parent: u64, name: &str) -> Result<(), ErrorCode> {
        let store = self.writable()?;
        let _gone: Gone;
        let mut state = self.state.lock();
        let inode = state.child(parent, name)?.ok_or(ErrorCode::NoEntry)?;
        if state.kind(inode)? == Kind::Dir {
            return Err(ErrorCode::IsDirectory);
        }
        state.remove_name(store, parent, name)?;
        _gone = state.count_links(inode, -1, store)?;
        Ok(())
    }

    /// Removes an empty folder.
    pub(in crate::fs) fn remove_dir(&self, parent: u64, name: &str) -> Result<(), ErrorCode> {
        let store = self.writable()?;
        let mut state = self.state.lock();
        let inode = state.child(parent, name)?.ok_or(ErrorCode::NoEntry)?;
        state.refuse_full(inode)?;
        state.remove_name(store, parent, name)?;
        state.forget_dir(inode)
    }

    /// Moves an entry, in place of what has the new name: a file or link over a file or link, a folder
    /// over an empty folder.
    pub(in crate::fs) fn rename(
        &self,
        (from, old): (u64, &str),
        (to, new): (u64, &str),
    ) -> Result<(), ErrorCode> {
        let store = self.writable()?;
        let _gone: Gone;
        let mut state = self.state.lock();
        let inode = state.child(from, old)?.ok_or(ErrorCode::NoEntry)?;
        let moved = state.kind(inode)?;
        if moved == Kind::Dir && state.is_within(to, inode) {
            return Err(ErrorCode::Invalid);
        }
        let replaced = state.child(to, new)?;
        if replaced == Some(inode) {
            return Ok(());
        }
        if let Some(replaced) = replaced {
            if state.is_within(from, replaced) {
                return Err(ErrorCode::NotEmpty);
            }
            match (moved, state.kind(replaced)?) {
                (Kind::Dir, Kind::Dir) => state.refuse_full(replaced)?,
                (Kind::Dir, _) => return Err(ErrorCode::NotDirectory),
                (_, Kind::Dir) => return Err(ErrorCode::IsDirectory),
                _ => {}
            }
        }
        state.put_name(store, to, new, inode)?;
        state.remove_name(store, from, old)?;
        if moved == Kind::Dir {
            state.dir_mut(inode)?.parent = to;
        }
        _gone = match replaced {
            None => None,
            Some(replaced) if moved == Kind::Dir => {
                state.forget_dir(replaced)?;
                None
            }
            Some(replaced) => state.count_links(replaced, -1, store)?,
        };
        Ok(())
    }
}

impl State {
    fn insert_new(
        &mut self,
        store: &Store,
        parent: u64,
        name: &str,
        made: Inode,
    ) -> Result<(), ErrorCode> {
        self.refuse_existing(parent, name)?;
        let inode = self.next;
        self.put_name(store, parent, name, inode)?;
        self.inodes.insert(inode, made);
        self.next += 1;
        Ok(())
    }

    fn refuse_existing(&self, parent: u64, name: &str) -> Result<(), ErrorCode> {
        match self.child(parent, name)? {
            Some(_) => Err(ErrorCode::Exist),
            None => Ok(()),
        }
    }

    fn refuse_full(&self, dir: u64) -> Result<(), ErrorCode> {
        if self.is_empty(dir)? {
            Ok(())
        } else {
            Err(ErrorCode::NotEmpty)
        }
    }

    /// Makes a name of a folder lead to an inode, whatever it led to before; a name that is new among
    /// the changes is charged.
    fn put_name(
        &mut self,
        store: &Store,
        parent: u64,
        name: &str,
        inode: u64,
    ) -> Result<(), ErrorCode> {
        let added = self.added;
        let dir = self.dir_mut(parent)?;
        let is_new = !matches!(dir.changes.get(name), Some(Some(_)));
        if is_new {
            if added >= ADDED_ENTRIES_MAX {
                return Err(ErrorCode::InsufficientSpace);
            }
            store.charge_entry(charge_of(name))?;
        }
        dir.changes.insert(name.into(), Some(inode));
        dir.times.touch();
        self.added += usize::from(is_new);
        Ok(())
    }

    /// Takes a name from a folder, hiding the tree's if there is one.
    fn remove_name(&mut self, store: &Store, parent: u64, name: &str) -> Result<(), ErrorCode> {
        let hides = self.lower_child(parent, name).is_some();
        let dir = self.dir_mut(parent)?;
        let old = if hides {
            dir.changes.insert(name.into(), None)
        } else {
            dir.changes.remove(name)
        };
        dir.times.touch();
        if let Some(Some(_)) = old {
            self.added -= 1;
            store.refund_entry(charge_of(name));
        }
        Ok(())
    }

    /// Counts a name of a file or link more or less; the last one takes the inode with it, unless it is
    /// held open.
    fn count_links(
        &mut self,
        inode: u64,
        change: i64,
        store: &Arc<Store>,
    ) -> Result<Gone, ErrorCode> {
        match self.kind(inode)? {
            Kind::Dir => {}
            Kind::Symlink => {
                let link = self.symlink_mut(inode)?;
                link.links = link.links.saturating_add_signed(change);
                if link.links == 0 {
                    let length = link.target.len() as u64;
                    self.inodes.remove(&inode);
                    if self.tree.get(inode).is_none() {
                        store.refund_entry(length);
                    }
                }
            }
            Kind::File | Kind::Other => {
                let file = self.file(inode, Some(store))?;
                if file.add_links(change) == 0 && !file.is_open() {
                    self.inodes.remove(&inode);
                    return Ok(Some(file));
                }
            }
        }
        Ok(None)
    }

    /// Forgets an empty folder that lost its name.
    fn forget_dir(&mut self, inode: u64) -> Result<(), ErrorCode> {
        if self.tree.get(inode).is_none() {
            self.inodes.remove(&inode);
        } else {
            let dir = self.dir_mut(inode)?;
            dir.changes.clear();
            dir.state = DirState::Removed;
        }
        Ok(())
    }

    /// Whether `dir` is `top` or below it.
    fn is_within(&self, dir: u64, top: u64) -> bool {
        let mut at = dir;
        loop {
            if at == top {
                return true;
            }
            if at == ROOT {
                return false;
            }
            at = self.parent(at);
        }
    }
}

fn charge_of(name: &str) -> u64 {
    ENTRY_CHARGE + name.len() as u64
}
