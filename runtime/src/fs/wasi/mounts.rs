//! `coracle:posix/mounts`: what is mounted and how much fits there. Its WIT is in `wit/coracle-posix`.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, Lower};

use super::{FsView, on_any_thread};
use crate::fs::space::{Holder, Mounted, Space};

/// The interface, at the version that is served.
const MOUNTS: &str = "coracle:posix/mounts@0.1.0";

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
enum WireHolder {
    #[component(name = "image")]
    Image,
    #[component(name = "memory")]
    Memory,
    #[component(name = "folder")]
    Folder,
    #[component(name = "configuration")]
    Configuration,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct WireSpace {
    size: u64,
    used: u64,
    available: u64,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct WireMount {
    path: String,
    holder: WireHolder,
    #[component(name = "read-only")]
    read_only: bool,
    space: Option<WireSpace>,
}

/// Adds the interface.
pub(super) fn add_to_linker<T: FsView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut mounts = linker.instance(MOUNTS)?;
    mounts.func_wrap_async("list", |mut store: StoreContextMut<'_, T>, ()| {
        let files = Arc::clone(&store.data_mut().fs().state.files);
        let done = on_any_thread(move |mode| files.mounted(mode));
        Box::new(async move {
            // Nothing fails but a host that is shutting down.
            let all = done.await.unwrap_or_default();
            let wire: Vec<_> = all.into_iter().map(WireMount::from).collect();
            Ok((wire,))
        })
    })
}

impl From<Mounted> for WireMount {
    fn from(mounted: Mounted) -> WireMount {
        WireMount {
            path: mounted.path,
            holder: match mounted.holder {
                Holder::Image => WireHolder::Image,
                Holder::Memory => WireHolder::Memory,
                Holder::Folder => WireHolder::Folder,
                Holder::Configuration => WireHolder::Configuration,
            },
            read_only: mounted.is_read_only,
            space: mounted.space.map(WireSpace::from),
        }
    }
}

impl From<Space> for WireSpace {
    fn from(space: Space) -> WireSpace {
        WireSpace {
            size: space.size,
            used: space.used,
            available: space.available,
        }
    }
}
