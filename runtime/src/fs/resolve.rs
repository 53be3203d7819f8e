//! Path resolution: from a folder and a path to an entry, through links and mounts, never out of the root.

use std::sync::Arc;

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::mounts::Source;
use super::node::{Fault, Kind, Layer, Mode, NodeRef, Outcome};
use super::overlay::ROOT;
use super::tree::NodeKind;
use super::user::Wish;
use super::{FileSystem, Tree, path};

/// What happens to a link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Follow,
    Keep,
}

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Found {
    /// The folder the last name stands in.
    pub(super) parent: NodeRef,
    /// The last name; `None` when the path ends in `.`, `..` or at the root.
    pub(super) name: Option<String>,
    /// What has that name.
    pub(super) node: Option<(NodeRef, Kind)>,
    /// Whether the path ended in `/`.
    pub(super) wants_dir: bool,
}

/// One resolution. It sees one version of each live tree, however often it passes through.
pub(super) struct Walk<'a> {
    files: &'a FileSystem,
    mode: Mode,
    links: usize,
    versions: Vec<(usize, Arc<Tree>)>,
    /// For the host itself, which may pass everywhere.
    is_hosts: bool,
}

/// The names still to go, the next one last.
struct Todo {
    names: Vec<String>,
    wants_dir: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(files: &'a FileSystem, mode: Mode) -> Walk<'a> {
        Walk {
            files,
            mode,
            links: 0,
            versions: Vec::new(),
            is_hosts: false,
        }
    }

    /// A resolution for the host itself, whom no folder keeps out.
    pub(super) fn of_host(files: &'a FileSystem, mode: Mode) -> Walk<'a> {
        let mut walk = Walk::new(files, mode);
        walk.is_hosts = true;
        walk
    }

    /// Follows `path` from the folder `start`.
    pub(super) fn to(&mut self, start: NodeRef, path: &str, last: Last) -> Outcome<Found> {
        if let NodeRef::Live { mount, tree, .. } = &start {
            // A descriptor keeps the version it was opened in, so what it leads to does too.
            self.versions.push((*mount, Arc::clone(tree)));
        }
        let mut at = if path.starts_with('/') {
            self.root()
        } else {
            start
        };
        let mut todo = Todo {
            names: Vec::new(),
            wants_dir: false,
        };
        todo.push(path)?;
        while let Some(name) = todo.names.pop() {
            self.enter(&at)?;
            if name == ".." {
                at = self.up(&at)?;
                continue;
            }
            let is_last = todo.names.is_empty();
            match self.lookup(&at, &name)? {
                None if is_last => {
                    let wants_dir = todo.wants_dir;
                    return Ok(Found {
                        parent: at,
                        name: Some(name),
                        node: None,
                        wants_dir,
                    });
                }
                None => return Err(ErrorCode::NoEntry.into()),
                Some((link, Kind::Symlink))
                    if !is_last || last == Last::Follow || todo.wants_dir =>
                {
                    self.links += 1;
                    if self.links > path::LINKS_MAX {
                        return Err(ErrorCode::Loop.into());
                    }
                    let target = self.read_link(&link)?;
                    if target.starts_with('/') {
                        at = self.root();
                    }
                    todo.push(&target)?;
                }
                Some((next, Kind::Dir)) if !is_last => at = next,
                Some(_) if !is_last => return Err(ErrorCode::NotDirectory.into()),
                Some((node, kind)) => {
                    if todo.wants_dir && kind != Kind::Dir {
                        return Err(ErrorCode::NotDirectory.into());
                    }
                    let (node, wants_dir) = (Some((node, kind)), todo.wants_dir);
                    return Ok(Found {
                        parent: at,
                        name: Some(name),
                        node,
                        wants_dir,
                    });
                }
            }
        }
        let node = Some((at.clone(), Kind::Dir));
        Ok(Found {
            parent: at,
            name: None,
            node,
            wants_dir: todo.wants_dir,
        })
    }

    /// Fails with `access` where a folder keeps the container's user out.
    fn enter(&self, dir: &NodeRef) -> Outcome<()> {
        match self.is_hosts {
            true => Ok(()),
            false => self.files.require(Wish::SEARCH, dir, self.mode),
        }
    }

    /// The container's root.
    pub(super) fn root(&mut self) -> NodeRef {
        match self.files.mounts.place(0).mount {
            Some(mount) => self.mount_root(mount).0,
            None => NodeRef::Overlay(Layer::Own, ROOT),
        }
    }

    /// What is called `name` in a folder, a mount before what it covers.
    pub(super) fn lookup(&mut self, dir: &NodeRef, name: &str) -> Outcome<Option<(NodeRef, Kind)>> {
        let mounts = &self.files.mounts;
        let place = mounts
            .place_of(dir)
            .and_then(|place| mounts.place(place).children.get(name));
        match place {
            None => self.below(dir, name),
            Some(place) => self.at_place(*place, dir).map(Some),
        }
    }

    pub(super) fn read_link(&self, link: &NodeRef) -> Outcome<String> {
        match link {
            NodeRef::Overlay(layer, inode) => Ok(self.files.overlay(*layer).read_link(*inode)?),
            NodeRef::Live { tree, index, .. } => match &tree.node(*index).kind {
                NodeKind::Symlink(target) => Ok(target.to_string()),
                NodeKind::Dir(_) | NodeKind::File(_) => Err(ErrorCode::Invalid.into()),
            },
            NodeRef::Host { mount, path } => {
                self.mode.require_blocking()?;
                self.files.mounts.host(*mount).read_link(path)
            }
            NodeRef::Made(_) => Err(ErrorCode::Invalid.into()),
        }
    }

    /// The entry at a place whose parent folder is `dir`.
    fn at_place(&mut self, place: usize, dir: &NodeRef) -> Outcome<(NodeRef, Kind)> {
        let Some(mount) = self.files.mounts.place(place).mount else {
            let name = &self.files.mounts.place(place).name;
            return match self.below(dir, name) {
                Ok(Some((node, Kind::Dir))) => Ok((node, Kind::Dir)),
                Err(Fault::Blocks) => Err(Fault::Blocks),
                Ok(_) | Err(Fault::Code(_)) => Ok((NodeRef::Made(place), Kind::Dir)),
            };
        };
        Ok(self.mount_root(mount))
    }

    fn mount_root(&mut self, mount: usize) -> (NodeRef, Kind) {
        let (tree, index) = match &self.files.mounts.mount(mount).source {
            Source::Host(host) => {
                let (path, kind) = host.top();
                return (
                    NodeRef::Host {
                        mount,
                        path: path.to_owned(),
                    },
                    kind,
                );
            }
            Source::Memory { inode, kind, .. } => {
                return (NodeRef::Overlay(Layer::Mounted(mount), *inode), *kind);
            }
            Source::Frozen { tree, index } => (Arc::clone(tree), *index),
            Source::Live(live) => {
                let seen = self.versions.iter().find(|(seen, _)| *seen == mount);
                let tree = seen.map_or_else(|| live.load(), |(_, tree)| Arc::clone(tree));
                if seen.is_none() {
                    self.versions.push((mount, Arc::clone(&tree)));
                }
                (tree, 0)
            }
        };
        let kind = kind_in(&tree, index);
        (NodeRef::Live { mount, tree, index }, kind)
    }

    /// What is called `name` in a folder itself, mounts aside.
    fn below(&mut self, dir: &NodeRef, name: &str) -> Outcome<Option<(NodeRef, Kind)>> {
        match dir {
            NodeRef::Made(_) => Ok(None),
            NodeRef::Overlay(layer, inode) => {
                let found = self.files.overlay(*layer).lookup(*inode, name)?;
                Ok(found.map(|(inode, kind)| (NodeRef::Overlay(*layer, inode), kind)))
            }
            NodeRef::Live { mount, tree, index } => Ok(tree.child(*index, name).map(|index| {
                let kind = kind_in(tree, index);
                (
                    NodeRef::Live {
                        mount: *mount,
                        tree: Arc::clone(tree),
                        index,
                    },
                    kind,
                )
            })),
            NodeRef::Host { mount, path } => {
                self.mode.require_blocking()?;
                let path = join(path, name);
                match self.files.mounts.host(*mount).kind(&path) {
                    Ok(kind) => Ok(Some((
                        NodeRef::Host {
                            mount: *mount,
                            path,
                        },
                        kind,
                    ))),
                    Err(Fault::Code(ErrorCode::NoEntry)) => Ok(None),
                    Err(fault) => Err(fault),
                }
            }
        }
    }

    /// The folder above a folder; the root is above itself.
    fn up(&mut self, dir: &NodeRef) -> Outcome<NodeRef> {
        let mounts = &self.files.mounts;
        let place = match dir {
            NodeRef::Overlay(Layer::Mounted(mount), inode)
                if [mounts.mount(*mount).top_inode(), ROOT].contains(inode) =>
            {
                mounts.mount(*mount).place
            }
            NodeRef::Overlay(layer, inode) => {
                let parent = self.files.overlay(*layer).parent(*inode);
                return Ok(NodeRef::Overlay(*layer, parent));
            }
            NodeRef::Live { mount, tree, index } if *index != mounts.mount(*mount).top() => {
                let index = tree.node(*index).parent;
                return Ok(NodeRef::Live {
                    mount: *mount,
                    tree: Arc::clone(tree),
                    index,
                });
            }
            NodeRef::Host { mount, path } if !path.is_empty() => {
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                return Ok(NodeRef::Host {
                    mount: *mount,
                    path: parent.to_owned(),
                });
            }
            NodeRef::Live { mount, .. } | NodeRef::Host { mount, .. } => mounts.mount(*mount).place,
            NodeRef::Made(place) => *place,
        };
        self.folder_at(mounts.place(place).parent)
    }

    /// The folder at a place.
    fn folder_at(&mut self, place: usize) -> Outcome<NodeRef> {
        if place == 0 {
            return Ok(self.root());
        }
        let parent = self.folder_at(self.files.mounts.place(place).parent)?;
        Ok(self.at_place(place, &parent)?.0)
    }
}

impl Todo {
    /// Puts a path before what is still to go.
    fn push(&mut self, path: &str) -> Result<(), ErrorCode> {
        path::anywhere(path)?;
        if self.names.is_empty() {
            self.wants_dir |= path.ends_with('/') || path == "." || path.ends_with("/.");
        }
        let names = path.split('/').filter(|name| !matches!(*name, "" | "."));
        self.names.extend(names.rev().map(str::to_owned));
        Ok(())
    }
}

/// A name below a path of a host folder.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}

fn kind_in(tree: &Tree, index: u32) -> Kind {
    match tree.node(index).kind {
        NodeKind::Dir(_) => Kind::Dir,
        NodeKind::File(_) => Kind::File,
        NodeKind::Symlink(_) => Kind::Symlink,
    }
}
