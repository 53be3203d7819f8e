//! What is mounted in a container, and how much of it is used.

use super::Access;
use super::FileSystem;
use super::mounts::Source;
use super::node::{Mode, Outcome};
use super::overlay::Store;

/// What holds the files of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// An image: the container's root with its changes, or a volume.
    Image,
    /// The memory of the pod.
    Memory,
    /// A folder of the machine.
    Folder,
    /// What the cluster says: ConfigMaps, Secrets, tokens and the like.
    Configuration,
}

/// A root or a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) path: String,
    pub(super) holder: Holder,
    pub(super) is_read_only: bool,
    pub(super) space: Option<Space>,
}

/// Bytes of what holds the files, which a mount may share with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) size: u64,
    pub(super) used: u64,
    pub(super) available: u64,
}

impl Space {
    /// Of what has a limit of its own; nothing where there is none.
    fn of(store: &Store) -> Option<Space> {
        let size = Some(store.limit()).filter(|limit| *limit < u64::MAX)?;
        let used = store.used();
        Some(Space {
            size,
            used,
            available: size.saturating_sub(used),
        })
    }
}

impl FileSystem {
    /// Lists the root and what is mounted, by path.
    pub(super) fn mounted(&self, mode: Mode) -> Outcome<Vec<Mounted>> {
        let root = self.overlay.writable();
        let mut all = vec![Mounted {
            path: "/".to_owned(),
            holder: Holder::Image,
            is_read_only: root.is_err(),
            space: root.ok().and_then(|store| Space::of(store)),
        }];
        for (path, mount) in self.mounts.all() {
            let (holder, space) = match &mount.source {
                Source::Live(_) => (Holder::Configuration, None),
                Source::Frozen { .. } => (Holder::Image, None),
                Source::Host(host) => {
                    mode.require_blocking()?;
                    (Holder::Folder, host.space())
                }
                Source::Memory { volume, .. } => {
                    let store = volume.writable().ok();
                    (Holder::Memory, store.and_then(|store| Space::of(store)))
                }
            };
            all.push(Mounted {
                path,
                holder,
                // Trees are never the container's to change.
                is_read_only: mount.access == Access::ReadOnly
                    || matches!(&mount.source, Source::Live(_) | Source::Frozen { .. }),
                space,
            });
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(all)
    }
}
