//! What can be done with a path: every operation resolves it and hands over to the storage it leads to.

use std::sync::Arc;

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::handle::{FileHandle, Opened, OverlayOpening, Rights, stat_node, tree_identity};
use super::host::HostOpen;
use super::node::{Fault, Kind, Layer, Mode, NewTimes, NodeRef, Outcome, Stat, Times};
use super::overlay::OverlayFile;
use super::resolve::{Found, Last, Walk, join};
use super::user::{NEW_DIR, NewPermissions, Permissions, Wish};
use super::{Access, FileSystem, path};

/// How often a file that appears and vanishes between our look and our creating it is looked up again.
const RACES_MAX: usize = 16;

/// How something is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) last: Last,
    pub(super) create: bool,
    pub(super) exclusive: bool,
    pub(super) directory: bool,
    pub(super) truncate: bool,
    pub(super) rights: Rights,
}

impl How {
    /// To read what is there.
    pub(super) fn read() -> How {
        How {
            last: Last::Follow,
            create: false,
            exclusive: false,
            directory: false,
            truncate: false,
            rights: Rights {
                read: true,
                write: false,
            },
        }
    }
}

/// What was opened.
pub(super) enum Opening {
    Dir(NodeRef),
    File(FileHandle),
}

/// A name in a folder that is about to change.
struct Spot {
    parent: NodeRef,
    name: String,
}

/// Where two names stand that one operation joins.
enum Same<'a> {
    Overlay(Layer, u64, u64),
    Host {
        mount: usize,
        from: &'a str,
        to: &'a str,
    },
}

impl FileSystem {
    pub(super) fn open_at(
        &self,
        base: &NodeRef,
        path: &str,
        how: How,
        mode: Mode,
    ) -> Outcome<Opening> {
        path::from_guest(path)?;
        if how.directory && (how.create || how.truncate || how.exclusive) {
            return Err(ErrorCode::Invalid.into());
        }
        let last = if how.create && how.exclusive {
            Last::Keep
        } else {
            how.last
        };
        for _ in 0..RACES_MAX {
            let found = Walk::new(self, mode).to(base.clone(), path, last)?;
            let opened = match &found.node {
                Some(_) if how.create && how.exclusive => Err(ErrorCode::Exist.into()),
                Some((node, kind)) => self
                    .require_rights(node, *kind, how, mode)
                    .and_then(|()| self.open_found(node, *kind, how, mode)),
                None if !how.create => Err(ErrorCode::NoEntry.into()),
                None if found.wants_dir => Err(ErrorCode::IsDirectory.into()),
                None => self.create(found, how, mode),
            };
            match opened {
                Err(Fault::Code(ErrorCode::Exist)) if !how.exclusive => {}
                done => return done,
            }
        }
        Err(ErrorCode::Busy.into())
    }

    /// Fails with `access` unless the container's user may open an entry like that. A folder's names are
    /// asked for later, if at all.
    fn require_rights(&self, node: &NodeRef, kind: Kind, how: How, mode: Mode) -> Outcome<()> {
        if kind != Kind::File {
            return Ok(());
        }
        if how.rights.read {
            self.require(Wish::READ, node, mode)?;
        }
        if how.rights.write || how.truncate {
            self.require(Wish::WRITE, node, mode)?;
        }
        Ok(())
    }

    /// Fails with `access` unless the container's user may do something with an entry. What of a host
    /// folder the process itself may do, its containers may.
    pub(super) fn require(&self, wish: Wish, node: &NodeRef, mode: Mode) -> Outcome<()> {
        if self.user.is_root() || matches!(node, NodeRef::Host { .. }) {
            return Ok(());
        }
        Ok(self
            .user
            .require(wish, self.stat(node, mode)?.permissions)?)
    }

    /// Opens what a path led to.
    pub(super) fn open_found(
        &self,
        node: &NodeRef,
        kind: Kind,
        how: How,
        mode: Mode,
    ) -> Outcome<Opening> {
        let changes = how.rights.write || how.truncate;
        match kind {
            Kind::Dir if changes || how.create => return Err(ErrorCode::IsDirectory.into()),
            Kind::Dir => return Ok(Opening::Dir(node.clone())),
            _ if how.directory => return Err(ErrorCode::NotDirectory.into()),
            Kind::Symlink => return Err(ErrorCode::Loop.into()),
            Kind::Other => return Err(ErrorCode::Unsupported.into()),
            Kind::File => {}
        }
        if changes {
            self.refuse_read_only(node)?;
        }
        let opened = match node {
            NodeRef::Overlay(layer, inode) => {
                let file = self.overlay(*layer).open(*inode)?;
                let opening = self.opening(*layer, Arc::clone(&file));
                if how.truncate {
                    file.set_len(0, mode)?;
                }
                Opened::Overlay(opening)
            }
            NodeRef::Live { tree, index, .. } => Opened::Live {
                tree: Arc::clone(tree),
                index: *index,
            },
            NodeRef::Host { mount, path } => {
                mode.require_blocking()?;
                let Rights { read, write } = how.rights;
                let how = HostOpen {
                    read,
                    write,
                    truncate: how.truncate,
                    create_new: false,
                };
                let file = self.mounts.host(*mount).open(path, how, self.pod.get())?;
                Opened::Host {
                    file,
                    access: self.mounts.mount(*mount).access,
                }
            }
            NodeRef::Made(_) => return Err(ErrorCode::IsDirectory.into()),
        };
        Ok(Opening::File(FileHandle::new(opened, how.rights)))
    }

    fn create(&self, found: Found, how: How, mode: Mode) -> Outcome<Opening> {
        let Spot { parent, name } = self.spot(found, mode)?;
        let opened = match &parent {
            NodeRef::Overlay(layer, inode) => {
                let file = self.overlay(*layer).create(*inode, &name, &self.user)?;
                Opened::Overlay(self.opening(*layer, file))
            }
            NodeRef::Host { mount, path } => {
                mode.require_blocking()?;
                let Rights { read, write } = how.rights;
                let how = HostOpen {
                    read,
                    write,
                    truncate: false,
                    create_new: true,
                };
                let file =
                    self.mounts
                        .host(*mount)
                        .open(&join(path, &name), how, self.pod.get())?;
                Opened::Host {
                    file,
                    access: self.mounts.mount(*mount).access,
                }
            }
            NodeRef::Live { .. } | NodeRef::Made(_) => return Err(ErrorCode::ReadOnly.into()),
        };
        Ok(Opening::File(FileHandle::new(opened, how.rights)))
    }

    fn opening(&self, layer: Layer, file: Arc<OverlayFile>) -> OverlayOpening {
        let access = match layer {
            Layer::Own => Access::ReadWrite,
            Layer::Mounted(mount) => self.mounts.mount(mount).access,
        };
        OverlayOpening::new(self.overlay(layer), file, access)
    }

    /// The entry a path leads to.
    pub(super) fn find(
        &self,
        base: &NodeRef,
        path: &str,
        last: Last,
        mode: Mode,
    ) -> Outcome<(NodeRef, Kind)> {
        path::from_guest(path)?;
        let found = Walk::new(self, mode).to(base.clone(), path, last)?;
        Ok(found.node.ok_or(ErrorCode::NoEntry)?)
    }

    pub(super) fn stat(&self, node: &NodeRef, mode: Mode) -> Outcome<Stat> {
        match node {
            NodeRef::Overlay(layer, inode) => Ok(self.overlay(*layer).stat(*inode)?),
            NodeRef::Live { mount, tree, index } => {
                let mut stat = stat_node(tree.node(*index));
                let (group, is_dir) = (self.mounts.mount(*mount).group, stat.kind == Kind::Dir);
                if stat.kind != Kind::Symlink {
                    stat.permissions = stat.permissions.shown_to(group, is_dir);
                }
                Ok(stat)
            }
            NodeRef::Host { mount, path } => {
                mode.require_blocking()?;
                let mut stat = self.mounts.host(*mount).stat(path)?;
                // The process owns what is there; here that is the container's, and the volume is root's.
                if !path.is_empty() {
                    stat.permissions.uid = self.user.uid;
                    stat.permissions.gid = self.user.gid;
                }
                let group = self.mounts.mount(*mount).group;
                stat.permissions = match (stat.kind, group) {
                    (Kind::Dir, group) => stat.permissions.shared_with(group, true),
                    (_, Some(gid)) => Permissions {
                        gid,
                        ..stat.permissions
                    },
                    (_, None) => stat.permissions,
                };
                Ok(stat)
            }
            NodeRef::Made(_) => {
                let times = Times::all(std::time::SystemTime::UNIX_EPOCH);
                Ok(Stat {
                    kind: Kind::Dir,
                    size: 0,
                    links: 1,
                    times,
                    permissions: Permissions::of_root(NEW_DIR),
                })
            }
        }
    }

    /// Returns who may do what with the entry that a path leads to.
    pub(super) fn permissions_at(
        &self,
        path: &str,
        last: Last,
        mode: Mode,
    ) -> Outcome<Permissions> {
        let (node, _) = self.find(&self.root(), path, last, mode)?;
        Ok(self.stat(&node, mode)?.permissions)
    }

    /// Changes who may do what with the entry that a path leads to.
    pub(super) fn set_permissions_at(
        &self,
        path: &str,
        last: Last,
        new: NewPermissions,
        mode: Mode,
    ) -> Outcome<()> {
        let (node, _) = self.find(&self.root(), path, last, mode)?;
        self.refuse_read_only(&node)?;
        match &node {
            NodeRef::Overlay(layer, inode) => {
                let overlay = self.overlay(*layer);
                Ok(overlay.set_permissions(*inode, new, &self.user)?)
            }
            NodeRef::Host { mount, path } => {
                let known = self.stat(&node, mode)?.permissions;
                let changed = self.user.change(known, new)?;
                if (changed.uid, changed.gid) != (known.uid, known.gid) {
                    return Err(ErrorCode::Unsupported.into());
                }
                self.mounts.host(*mount).set_mode(path, changed.mode)
            }
            NodeRef::Live { .. } | NodeRef::Made(_) => Err(ErrorCode::ReadOnly.into()),
        }
    }

    /// Identifies an entry among all of the process.
    pub(super) fn identity(&self, node: &NodeRef, mode: Mode) -> Outcome<(u64, u64)> {
        match node {
            NodeRef::Overlay(layer, inode) => Ok(self.overlay(*layer).identity(*inode)),
            NodeRef::Live { tree, index, .. } => Ok(tree_identity(tree, *index)),
            NodeRef::Host { mount, path } => {
                mode.require_blocking()?;
                self.mounts.host(*mount).identity(path)
            }
            NodeRef::Made(place) => Ok((std::ptr::from_ref(self).addr() as u64, *place as u64)),
        }
    }

    /// The entries of a folder with what is mounted in it, sorted by name.
    pub(super) fn list(&self, node: &NodeRef, mode: Mode) -> Outcome<Vec<(String, Kind)>> {
        self.require(Wish::READ, node, mode)?;
        let mut list = match node {
            NodeRef::Overlay(layer, inode) => self.overlay(*layer).list(*inode)?,
            NodeRef::Live { mount, tree, index } => {
                let children = tree.node(*index).children().iter();
                let entry = |(name, index): &(Box<str>, u32)| {
                    let node = NodeRef::Live {
                        mount: *mount,
                        tree: Arc::clone(tree),
                        index: *index,
                    };
                    Ok((name.to_string(), self.stat(&node, mode)?.kind))
                };
                children.map(entry).collect::<Outcome<_>>()?
            }
            NodeRef::Host { mount, path } => {
                mode.require_blocking()?;
                self.mounts.host(*mount).list(path)?
            }
            NodeRef::Made(_) => Vec::new(),
        };
        for (name, kind) in self.mounts.children_of(node) {
            match list.binary_search_by(|(other, _)| other.as_str().cmp(name)) {
                Ok(at) => list[at].1 = kind,
                Err(at) => list.insert(at, (name.to_owned(), kind)),
            }
        }
        Ok(list)
    }

    pub(super) fn set_times(&self, node: &NodeRef, times: NewTimes, mode: Mode) -> Outcome<()> {
        self.refuse_read_only(node)?;
        if self.require(Wish::WRITE, node, mode).is_err() {
            self.user.require_own(self.stat(node, mode)?.permissions)?;
        }
        match node {
            NodeRef::Overlay(layer, inode) => Ok(self.overlay(*layer).set_times(*inode, times)?),
            NodeRef::Host { mount, path } => {
                mode.require_blocking()?;
                self.mounts.host(*mount).set_times(path, times)
            }
            NodeRef::Live { .. } | NodeRef::Made(_) => Err(ErrorCode::ReadOnly.into()),
        }
    }

    pub(super) fn read_link_at(&self, base: &NodeRef, path: &str, mode: Mode) -> Outcome<String> {
        match self.find(base, path, Last::Keep, mode)? {
            (node, Kind::Symlink) => Walk::new(self, mode).read_link(&node),
            _ => Err(ErrorCode::Invalid.into()),
        }
    }

    pub(super) fn make_dir_at(&self, base: &NodeRef, path: &str, mode: Mode) -> Outcome<()> {
        let Spot { parent, name } = self.free_spot(base, path, mode)?;
        match &parent {
            NodeRef::Overlay(layer, inode) => {
                Ok(self.overlay(*layer).make_dir(*inode, &name, &self.user)?)
            }
            NodeRef::Host { mount, path } => {
                mode.require_blocking()?;
                self.mounts.host(*mount).make_dir(&join(path, &name))
            }
            NodeRef::Live { .. } | NodeRef::Made(_) => Err(ErrorCode::ReadOnly.into()),
        }
    }

    /// Makes a link. Its target may be absolute: it never leads out of the container.
    pub(super) fn make_symlink_at(
        &self,
        target: &str,
        base: &NodeRef,
        path: &str,
        mode: Mode,
    ) -> Outcome<()> {
        if target.is_empty() {
            return Err(ErrorCode::NoEntry.into());
        }
        path::anywhere(target)?;
        if path.ends_with('/') {
            return Err(ErrorCode::NoEntry.into());
        }
        let Spot { parent, name } = self.free_spot(base, path, mode)?;
        match &parent {
            NodeRef::Overlay(layer, inode) => Ok(self
                .overlay(*layer)
                .make_symlink(*inode, &name, target, &self.user)?),
            NodeRef::Host { mount, path } => {
                mode.require_blocking()?;
                self.mounts.host(*mount).symlink(target, &join(path, &name))
            }
            NodeRef::Live { .. } | NodeRef::Made(_) => Err(ErrorCode::ReadOnly.into()),
        }
    }

    pub(super) fn unlink_at(&self, base: &NodeRef, path: &str, mode: Mode) -> Outcome<()> {
        let (Spot { parent, name }, kind) = self.taken_spot(base, path, mode)?;
        if kind == Kind::Dir {
            return Err(ErrorCode::IsDirectory.into());
        }
        match &parent {
            NodeRef::Overlay(layer, inode) => Ok(self.overlay(*layer).unlink(*inode, &name)?),
            NodeRef::Host { mount, path } => {
                mode.require_blocking()?;
                self.mounts.host(*mount).unlink(&join(path, &name))
            }
            NodeRef::Live { .. } | NodeRef::Made(_) => Err(ErrorCode::ReadOnly.into()),
        }
    }

    pub(super) fn remove_dir_at(&self, base: &NodeRef, path: &str, mode: Mode) -> Outcome<()> {
        let (Spot { parent, name }, kind) = self.taken_spot(base, path, mode)?;
        if kind != Kind::Dir {
            return Err(ErrorCode::NotDirectory.into());
        }
        match &parent {
            NodeRef::Overlay(layer, inode) => Ok(self.overlay(*layer).remove_dir(*inode, &name)?),
            NodeRef::Host { mount, path } => {
                mode.require_blocking()?;
                self.mounts.host(*mount).remove_dir(&join(path, &name))
            }
            NodeRef::Live { .. } | NodeRef::Made(_) => Err(ErrorCode::ReadOnly.into()),
        }
    }

    pub(super) fn rename_at(
        &self,
        (old_base, old_path): (&NodeRef, &str),
        (new_base, new_path): (&NodeRef, &str),
        mode: Mode,
    ) -> Outcome<()> {
        path::from_guest(old_path)?;
        path::from_guest(new_path)?;
        let from = Walk::new(self, mode).to(old_base.clone(), old_path, Last::Keep)?;
        let to = Walk::new(self, mode).to(new_base.clone(), new_path, Last::Keep)?;
        let (_, kind) = from.node.as_ref().ok_or(ErrorCode::NoEntry)?;
        if to.wants_dir && *kind != Kind::Dir {
            return Err(ErrorCode::NotDirectory.into());
        }
        for found in [&from, &to] {
            self.require_removal(found, mode)?;
        }
        let (from, to) = (self.spot(from, mode)?, self.spot(to, mode)?);
        match same(&from.parent, &to.parent)? {
            Same::Overlay(layer, old, new) => Ok(self
                .overlay(layer)
                .rename((old, &from.name), (new, &to.name))?),
            Same::Host {
                mount,
                from: old,
                to: new,
            } => {
                mode.require_blocking()?;
                let (old, new) = (join(old, &from.name), join(new, &to.name));
                self.mounts.host(mount).rename(&old, &new)
            }
        }
    }

    pub(super) fn link_at(
        &self,
        (old_base, old_path, last): (&NodeRef, &str, Last),
        (new_base, new_path): (&NodeRef, &str),
        mode: Mode,
    ) -> Outcome<()> {
        let (source, kind) = self.find(old_base, old_path, last, mode)?;
        let Spot { parent, name } = self.free_spot(new_base, new_path, mode)?;
        if kind == Kind::Dir {
            return Err(ErrorCode::NotPermitted.into());
        }
        if new_path.ends_with('/') {
            return Err(ErrorCode::NoEntry.into());
        }
        match same(&source, &parent)? {
            Same::Overlay(layer, inode, dir) => Ok(self.overlay(layer).link(inode, dir, &name)?),
            Same::Host { mount, from, to } => {
                mode.require_blocking()?;
                self.mounts.host(mount).link(from, &join(to, &name))
            }
        }
    }

    /// A name that is free for something new.
    fn free_spot(&self, base: &NodeRef, path: &str, mode: Mode) -> Outcome<Spot> {
        path::from_guest(path)?;
        let found = Walk::new(self, mode).to(base.clone(), path, Last::Keep)?;
        if found.node.is_some() {
            return Err(ErrorCode::Exist.into());
        }
        self.spot(found, mode)
    }

    /// A name that something has.
    fn taken_spot(&self, base: &NodeRef, path: &str, mode: Mode) -> Outcome<(Spot, Kind)> {
        path::from_guest(path)?;
        let found = Walk::new(self, mode).to(base.clone(), path, Last::Keep)?;
        let kind = found.node.as_ref().ok_or(ErrorCode::NoEntry)?.1;
        self.require_removal(&found, mode)?;
        Ok((self.spot(found, mode)?, kind))
    }

    /// Fails where a name is not to be taken from what has it.
    fn require_removal(&self, found: &Found, mode: Mode) -> Outcome<()> {
        let Some((node, _)) = &found.node else {
            return Ok(());
        };
        if self.user.is_root() || matches!(found.parent, NodeRef::Host { .. }) {
            return Ok(());
        }
        let of = self.stat(node, mode)?.permissions;
        let from = self.stat(&found.parent, mode)?.permissions;
        Ok(self.user.require_removal(of, from)?)
    }

    /// A name that may change: no `.`, no mount, nothing read-only, and nothing of others.
    fn spot(&self, found: Found, mode: Mode) -> Outcome<Spot> {
        let name = found.name.ok_or(ErrorCode::Busy)?;
        if self.mounts.holds(&found.parent, &name) {
            return Err(ErrorCode::Busy.into());
        }
        self.refuse_read_only(&found.parent)?;
        self.require(Wish::CHANGE, &found.parent, mode)?;
        Ok(Spot {
            parent: found.parent,
            name,
        })
    }
}

/// Where two nodes stand, if it is the same storage.
fn same<'a>(from: &'a NodeRef, to: &'a NodeRef) -> Outcome<Same<'a>> {
    match (from, to) {
        (NodeRef::Overlay(a, from), NodeRef::Overlay(b, to)) if a == b => {
            Ok(Same::Overlay(*a, *from, *to))
        }
        (
            NodeRef::Host {
                mount: a,
                path: from,
            },
            NodeRef::Host { mount: b, path: to },
        ) if a == b => Ok(Same::Host {
            mount: *a,
            from,
            to,
        }),
        _ => Err(ErrorCode::CrossDevice.into()),
    }
}
