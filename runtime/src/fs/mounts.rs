//! What is mounted where: the sources, and the paths at which they replace what lies below.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::host::HostRoot;
use super::node::{Kind, Layer, Mode, NodeRef, Outcome};
use super::overlay::{Overlay, ROOT};
use super::resolve::{Last, Walk};
use super::tree::NodeKind;
use super::user::{NewPermissions, User};
use super::{Access, FileSystem, FsError, LiveTree, Mount, MountSource, Tree, path};

/// The mounts of a container.
///
/// Places form a tree of paths that has a node for every mount and every folder above one. Folders with a
/// place can be neither moved nor removed, so a place stays what it is.
pub(super) struct Mounts {
    mounted: Vec<Mounted>,
    /// `places[0]` is `/`.
    places: Vec<Place>,
    /// The inodes of the container's root that have a place.
    inodes: HashMap<u64, usize>,
}

pub(super) struct Mounted {
    pub(super) source: Source,
    pub(super) access: Access,
    /// The group that everything of it belongs to.
    pub(super) group: Option<u32>,
    pub(super) place: usize,
}

pub(super) enum Source {
    /// Every walk takes the version of its moment.
    Live(LiveTree),
    /// A sub-path of a tree, frozen.
    Frozen {
        tree: Arc<Tree>,
        index: u32,
    },
    Host(HostRoot),
    /// A volume in memory, or what a sub-path leads to in one.
    Memory {
        volume: Arc<Overlay>,
        inode: u64,
        kind: Kind,
    },
}

pub(super) struct Place {
    pub(super) name: Box<str>,
    pub(super) parent: usize,
    pub(super) children: BTreeMap<Box<str>, usize>,
    pub(super) mount: Option<usize>,
}

impl Mounts {
    pub(super) fn none() -> Mounts {
        let root = Place {
            name: "".into(),
            parent: 0,
            children: BTreeMap::new(),
            mount: None,
        };
        Mounts {
            mounted: Vec::new(),
            places: vec![root],
            inodes: HashMap::from([(ROOT, 0)]),
        }
    }

    pub(super) fn mount(&self, index: usize) -> &Mounted {
        &self.mounted[index]
    }

    /// The mounts with their paths.
    pub(super) fn all(&self) -> impl Iterator<Item = (String, &Mounted)> {
        let path = |mounted: &Mounted| {
            let mut names = Vec::new();
            let mut place = mounted.place;
            while place != 0 {
                names.push(self.places[place].name.as_ref());
                place = self.places[place].parent;
            }
            names.reverse();
            format!("/{}", names.join("/"))
        };
        self.mounted.iter().map(move |one| (path(one), one))
    }

    /// The host folder behind a mount that a node says is one.
    pub(super) fn host(&self, index: usize) -> &HostRoot {
        match &self.mounted[index].source {
            Source::Host(host) => host,
            Source::Live(_) | Source::Frozen { .. } | Source::Memory { .. } => {
                unreachable!("`NodeRef::Host` is made for host mounts only")
            }
        }
    }

    /// The volume in memory behind a mount that a node says is one.
    pub(super) fn memory(&self, index: usize) -> &Arc<Overlay> {
        match &self.mounted[index].source {
            Source::Memory { volume, .. } => volume,
            Source::Live(_) | Source::Frozen { .. } | Source::Host(_) => {
                unreachable!("`Layer::Mounted` is made for volumes in memory only")
            }
        }
    }

    /// What appears in a folder because something is mounted there or below.
    pub(super) fn children_of(&self, node: &NodeRef) -> Vec<(&str, Kind)> {
        let Some(place) = self.place_of(node) else {
            return Vec::new();
        };
        let kind = |child: &usize| match self.places[*child].mount {
            Some(mount) => self.mounted[mount].source.root_kind(),
            None => Kind::Dir,
        };
        self.places[place]
            .children
            .iter()
            .map(|(name, child)| (name.as_ref(), kind(child)))
            .collect()
    }

    pub(super) fn place(&self, index: usize) -> &Place {
        &self.places[index]
    }

    /// The place of a folder, if it has one.
    pub(super) fn place_of(&self, node: &NodeRef) -> Option<usize> {
        let below = |mount: usize, names: &[&str]| {
            let top = self.mounted[mount].place;
            if self.places[top].children.is_empty() {
                return None;
            }
            names
                .iter()
                .try_fold(top, |at, name| self.places[at].children.get(*name).copied())
        };
        match node {
            NodeRef::Made(place) => Some(*place),
            NodeRef::Overlay(Layer::Own, inode) => self.inodes.get(inode).copied(),
            NodeRef::Overlay(Layer::Mounted(mount), inode) => {
                let mounted = &self.mounted[*mount];
                if self.places[mounted.place].children.is_empty() {
                    return None;
                }
                let names = self.memory(*mount).names_from(mounted.top_inode(), *inode);
                let names = names.ok()?;
                below(
                    *mount,
                    &names.iter().map(String::as_str).collect::<Vec<_>>(),
                )
            }
            NodeRef::Host { mount, path } if path.is_empty() => below(*mount, &[]),
            NodeRef::Host { mount, path } => below(*mount, &path.split('/').collect::<Vec<_>>()),
            NodeRef::Live { mount, tree, index } => {
                if self.places[self.mounted[*mount].place].children.is_empty() {
                    return None;
                }
                below(
                    *mount,
                    &tree.names_below(self.mounted[*mount].top(), *index),
                )
            }
        }
    }

    /// Whether a name of a folder is a mount or leads to one.
    pub(super) fn holds(&self, parent: &NodeRef, name: &str) -> bool {
        let place = self.place_of(parent);
        place.is_some_and(|place| self.places[place].children.contains_key(name))
    }

    fn child_place(&mut self, parent: usize, name: &str) -> usize {
        if let Some(found) = self.places[parent].children.get(name) {
            return *found;
        }
        let index = self.places.len();
        let children = BTreeMap::new();
        self.places.push(Place {
            name: name.into(),
            parent,
            children,
            mount: None,
        });
        self.places[parent].children.insert(name.into(), index);
        index
    }
}

impl Mounted {
    /// The node of a tree that is mounted.
    pub(super) fn top(&self) -> u32 {
        match &self.source {
            Source::Frozen { index, .. } => *index,
            Source::Live(_) | Source::Host(_) | Source::Memory { .. } => 0,
        }
    }

    /// The inode of a volume in memory that is mounted.
    pub(super) fn top_inode(&self) -> u64 {
        match &self.source {
            Source::Memory { inode, .. } => *inode,
            Source::Live(_) | Source::Host(_) | Source::Frozen { .. } => ROOT,
        }
    }
}

impl Source {
    fn open(source: MountSource, sub_path: Option<&str>) -> io::Result<Source> {
        match source {
            MountSource::HostDir(dir) => Ok(Source::Host(HostRoot::folder(&dir, sub_path)?)),
            MountSource::HostFile(_) if sub_path.is_some() => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a file has no sub-path",
            )),
            MountSource::HostFile(file) => Ok(Source::Host(HostRoot::file(&file)?)),
            MountSource::Live(live) => match sub_path {
                None => Ok(Source::Live(live)),
                Some(sub_path) => frozen(live.load(), sub_path),
            },
            MountSource::Tree(tree) => frozen(tree, sub_path.unwrap_or_default()),
            MountSource::Memory(volume) => inside(volume.overlay(), sub_path.unwrap_or_default()),
        }
    }

    pub(super) fn root_kind(&self) -> Kind {
        match self {
            Source::Live(_) => Kind::Dir,
            Source::Frozen { tree, index } => match tree.node(*index).kind {
                NodeKind::Dir(_) => Kind::Dir,
                NodeKind::File(_) | NodeKind::Symlink(_) => Kind::File,
            },
            Source::Host(host) => host.top().1,
            Source::Memory { kind, .. } => *kind,
        }
    }
}

/// The part of a tree below a sub-path, following links inside the tree. What is
/// missing is an empty folder, as in Kubernetes.
fn frozen(tree: Arc<Tree>, sub_path: &str) -> io::Result<Source> {
    let bad = |error: FsError| io::Error::new(io::ErrorKind::InvalidInput, error);
    path::strict(sub_path).map_err(bad)?;
    // A file system of this tree alone resolves the links as a container would, and no further.
    let alone = FileSystem::of_tree(Arc::clone(&tree));
    let root = NodeRef::Overlay(Layer::Own, ROOT);
    let found = Walk::of_host(&alone, Mode::Blocking).to(root, sub_path, Last::Follow);
    match found.map(|found| found.node) {
        Ok(Some((NodeRef::Overlay(_, inode), _))) => {
            let index = u32::try_from(inode).expect("a tree alone has its own nodes only");
            Ok(Source::Frozen { tree, index })
        }
        _ => Ok(Source::Frozen {
            tree: Arc::new(Tree::empty()),
            index: 0,
        }),
    }
}

/// What a sub-path leads to in a volume in memory, following links inside the volume. Folders that are
/// missing are made, as in Kubernetes.
fn inside(volume: &Arc<Overlay>, sub_path: &str) -> io::Result<Source> {
    let bad = |error: FsError| io::Error::new(io::ErrorKind::InvalidInput, error);
    let names = path::strict(sub_path).map_err(bad)?;
    let source = |inode, kind| Source::Memory {
        volume: Arc::clone(volume),
        inode,
        kind,
    };
    // A file system of this volume alone resolves the links as a container would, and no further.
    let alone = FileSystem {
        overlay: Arc::clone(volume),
        mounts: Mounts::none(),
        user: User::default(),
        pod: OnceLock::new(),
    };
    let root = NodeRef::Overlay(Layer::Own, ROOT);
    let found = Walk::new(&alone, Mode::Blocking).to(root, sub_path, Last::Follow);
    if let Ok(Some((NodeRef::Overlay(_, inode), kind))) = found.map(|found| found.node) {
        return Ok(source(inode, kind));
    }
    // As from Kubernetes, a new folder has the mode of the volume's own.
    let of_volume = volume.stat(ROOT).map_err(io::Error::other)?.permissions;
    let of_volume = NewPermissions {
        mode: Some(of_volume.mode),
        ..NewPermissions::default()
    };
    let mut at = ROOT;
    for name in names {
        let is_new = match volume.make_dir(at, name, &alone.user) {
            Ok(()) => true,
            Err(ErrorCode::Exist) => false,
            Err(code) => return Err(io::Error::other(code)),
        };
        at = match volume.lookup(at, name).map_err(io::Error::other)? {
            Some((inode, Kind::Dir)) => inode,
            Some(_) | None => return Err(io::ErrorKind::NotADirectory.into()),
        };
        if is_new {
            let set = volume.set_permissions(at, of_volume, &alone.user);
            set.map_err(io::Error::other)?;
        }
    }
    Ok(source(at, Kind::Dir))
}

impl FileSystem {
    /// Adds a mount. The links of what is mounted so far are followed on the way to its path, and folders
    /// of the root that are missing there are made.
    pub(super) fn add_mount(&mut self, mount: Mount) -> Result<(), FsError> {
        let source_name = name_of(&mount.source);
        let refuse = |source| FsError::Mount {
            path: path::shorten(&mount.path),
            source_name,
            source,
        };
        let names = match self.mount_names(&mount.path) {
            Ok(names) => names,
            Err(error) => return Err(refuse(error)),
        };
        let source = match Source::open(mount.source, mount.sub_path.as_deref()) {
            Ok(source) => source,
            Err(error) => return Err(refuse(error)),
        };
        let index = self.mounts.mounted.len();
        let place = match self.make_place(&names, source.root_kind()) {
            Ok(place) => place,
            Err(code) => return Err(refuse(io::Error::other(code))),
        };
        if self.mounts.places[place].mount.is_some() {
            let twice = "something is mounted there already";
            return Err(refuse(io::Error::new(io::ErrorKind::AlreadyExists, twice)));
        }
        self.mounts.mounted.push(Mounted {
            source,
            access: mount.access,
            group: mount.group,
            place,
        });
        self.mounts.places[place].mount = Some(index);
        Ok(())
    }

    /// The names of a mount's path with the links on the way resolved.
    fn mount_names(&self, path: &str) -> io::Result<Vec<String>> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        let rest = path
            .strip_prefix('/')
            .ok_or_else(|| invalid("the path is not absolute"))?;
        let rest = path::strict(rest.trim_end_matches('/'))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut node = NodeRef::Overlay(Layer::Own, ROOT);
        let mut names = Vec::new();
        for (done, name) in rest.iter().enumerate() {
            let mut walk = Walk::of_host(self, Mode::Blocking);
            let found = walk.to(node.clone(), name, Last::Follow);
            match found.map(|found| found.node) {
                Ok(Some((next, Kind::Dir))) => {
                    names = self.names_of(&next).map_err(io::Error::other)?;
                    node = next;
                }
                Ok(_) | Err(_) => {
                    names.extend(rest[done..].iter().map(|name| (*name).to_owned()));
                    break;
                }
            }
        }
        Ok(names)
    }

    /// The names from the container's root to a folder.
    fn names_of(&self, node: &NodeRef) -> Result<Vec<String>, ErrorCode> {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let (place, below) = match node {
            NodeRef::Overlay(Layer::Own, inode) => {
                return self.overlay.names_from(ROOT, *inode);
            }
            NodeRef::Overlay(Layer::Mounted(mount), inode) => {
                let mounted = self.mounts.mount(*mount);
                let volume = self.mounts.memory(*mount);
                (
                    mounted.place,
                    volume.names_from(mounted.top_inode(), *inode)?,
                )
            }
            NodeRef::Made(place) => (*place, Vec::new()),
            NodeRef::Host { mount, path } if path.is_empty() => {
                (self.mounts.mount(*mount).place, vec![])
            }
            NodeRef::Host { mount, path } => (
                self.mounts.mount(*mount).place,
                owned(path.split('/').collect()),
            ),
            NodeRef::Live { mount, tree, index } => {
                let mounted = self.mounts.mount(*mount);
                (
                    mounted.place,
                    owned(tree.names_below(mounted.top(), *index)),
                )
            }
        };
        let mut names = Vec::new();
        let mut at = place;
        while at != 0 {
            names.push(self.mounts.place(at).name.to_string());
            at = self.mounts.place(at).parent;
        }
        names.reverse();
        names.extend(below);
        Ok(names)
    }

    /// Makes the place at a path without links. Folders that the container's root lacks are made in it,
    /// so a container may use them beside what is mounted below.
    fn make_place(&mut self, names: &[String], kind: Kind) -> Result<usize, ErrorCode> {
        let mut place = 0;
        // The inode of the folder at `place`, as long as the path runs through the container's root.
        let mut inode = self.mounts.places[0].mount.is_none().then_some(ROOT);
        for (position, name) in names.iter().enumerate() {
            let is_last = position + 1 == names.len();
            place = self.mounts.child_place(place, name);
            let Some(parent) = inode else { continue };
            inode = match self.overlay.lookup(parent, name)? {
                Some((found, Kind::Dir)) => Some(found),
                None if !is_last || kind == Kind::Dir => {
                    Some(self.overlay.make_mount_point(parent, name)?)
                }
                // A mount covers whatever is there; the way to one is made up over it.
                None | Some(_) => None,
            };
            if self.mounts.places[place].mount.is_some() {
                inode = None;
            }
            if let Some(inode) = inode {
                self.mounts.inodes.insert(inode, place);
            }
        }
        Ok(place)
    }

    /// Whether what `node` belongs to may be changed.
    pub(super) fn refuse_read_only(&self, node: &NodeRef) -> Outcome<()> {
        let writable = match node {
            NodeRef::Overlay(Layer::Own, _) => self.overlay.writable().is_ok(),
            NodeRef::Overlay(Layer::Mounted(mount), _) | NodeRef::Host { mount, .. } => {
                self.mounts.mount(*mount).access == Access::ReadWrite
            }
            NodeRef::Live { .. } | NodeRef::Made(_) => false,
        };
        if writable {
            Ok(())
        } else {
            Err(ErrorCode::ReadOnly.into())
        }
    }

    fn of_tree(tree: Arc<Tree>) -> FileSystem {
        let overlay = Arc::new(Overlay::new(tree, super::Upper::ReadOnly));
        FileSystem {
            overlay,
            mounts: Mounts::none(),
            user: User::default(),
            pod: OnceLock::new(),
        }
    }
}

fn name_of(source: &MountSource) -> String {
    match source {
        MountSource::HostDir(path) | MountSource::HostFile(path) => path.display().to_string(),
        MountSource::Live(_) | MountSource::Memory(_) => "a volume in memory".to_owned(),
        MountSource::Tree(_) => "an image".to_owned(),
    }
}

impl fmt::Debug for Mounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mounts({})", self.mounted.len())
    }
}
