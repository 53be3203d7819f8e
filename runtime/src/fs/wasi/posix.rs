//! `coracle:posix`: users, owners and modes, which WASI has not. Its WIT is in `wit/coracle-posix`.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::{FsView, on_any_thread};
use crate::fs::FileSystem;
use crate::fs::node::{Mode, Outcome};
use crate::fs::resolve::Last;
use crate::fs::user::{NewPermissions, Permissions, User};

/// The interfaces, at the version that is served.
const IDENTITY: &str = "coracle:posix/identity@0.1.0";
const PERMISSIONS: &str = "coracle:posix/permissions@0.1.0";

#[derive(ComponentType, Lower)]
#[component(record)]
struct WireUser {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct WirePermissions {
    mode: u32,
    uid: u32,
    gid: u32,
}

#[derive(ComponentType, Lift, Lower, Clone, Copy, Debug)]
#[component(enum)]
#[repr(u8)]
enum WireError {
    #[component(name = "access")]
    Access,
    #[component(name = "not-permitted")]
    NotPermitted,
    #[component(name = "no-entry")]
    NoEntry,
    #[component(name = "not-directory")]
    NotDirectory,
    #[component(name = "loop")]
    Loop,
    #[component(name = "read-only")]
    ReadOnly,
    #[component(name = "invalid")]
    Invalid,
    #[component(name = "unsupported")]
    Unsupported,
    #[component(name = "io")]
    Io,
}

/// Adds both interfaces.
pub(crate) fn add_to_linker<T: FsView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut identity = linker.instance(IDENTITY)?;
    identity.func_wrap("get-user", |mut store: StoreContextMut<'_, T>, ()| {
        let user = store.data_mut().fs().state.files.user().clone();
        Ok((WireUser::from(user),))
    })?;
    let mut permissions = linker.instance(PERMISSIONS)?;
    permissions.func_wrap_async(
        "get",
        |store: StoreContextMut<'_, T>, (path, follow): (String, bool)| {
            run(store, move |files, mode| {
                let found = files.permissions_at(absolute(&path)?, last(follow), mode)?;
                Ok(WirePermissions::from(found))
            })
        },
    )?;
    permissions.func_wrap_async(
        "set-mode",
        |store: StoreContextMut<'_, T>, (path, follow, mode): (String, bool, u32)| {
            let new = NewPermissions {
                mode: Some(mode),
                ..NewPermissions::default()
            };
            change(store, path, follow, new)
        },
    )?;
    permissions.func_wrap_async(
        "set-owner",
        |store: StoreContextMut<'_, T>, (path, follow, uid, gid): (String, bool, _, _)| {
            let new = NewPermissions {
                mode: None,
                uid,
                gid,
            };
            change(store, path, follow, new)
        },
    )
}

/// Tells whether the name of an import is that of one of the interfaces, in any release that is served.
pub(crate) fn is_interface(name: &str) -> bool {
    let Some((
        "coracle:posix/identity" | "coracle:posix/permissions" | "coracle:posix/mounts",
        version,
    )) = name.split_once('@')
    else {
        return false;
    };
    semver::Version::parse(version)
        .is_ok_and(|version| (version.major, version.minor) == (0, 1) && version.pre.is_empty())
}

type Answer<'a, A> =
    Box<dyn Future<Output = wasmtime::Result<(Result<A, WireError>,)>> + Send + 'a>;

fn change<T: FsView>(
    store: StoreContextMut<'_, T>,
    path: String,
    follow: bool,
    new: NewPermissions,
) -> Answer<'_, ()> {
    run(store, move |files, mode| {
        files.set_permissions_at(absolute(&path)?, last(follow), new, mode)
    })
}

fn run<T: FsView, A: Send + 'static>(
    mut store: StoreContextMut<'_, T>,
    work: impl Fn(&FileSystem, Mode) -> Outcome<A> + Send + 'static,
) -> Answer<'_, A> {
    let files = Arc::clone(&store.data_mut().fs().state.files);
    let done = on_any_thread(move |mode| work(&files, mode));
    Box::new(async move {
        match done.await {
            Ok(answer) => Ok((Ok(answer),)),
            // What is no code is a defect of the host and ends the guest.
            Err(error) => Ok((Err(error.downcast()?.into()),)),
        }
    })
}

fn absolute(path: &str) -> Result<&str, ErrorCode> {
    let below = path.strip_prefix('/').ok_or(ErrorCode::Invalid)?;
    Ok(if below.is_empty() { "." } else { below })
}

fn last(follow: bool) -> Last {
    match follow {
        true => Last::Follow,
        false => Last::Keep,
    }
}

impl From<User> for WireUser {
    fn from(User { uid, gid, groups }: User) -> WireUser {
        WireUser { uid, gid, groups }
    }
}

impl From<Permissions> for WirePermissions {
    fn from(Permissions { mode, uid, gid }: Permissions) -> WirePermissions {
        WirePermissions { mode, uid, gid }
    }
}

impl From<ErrorCode> for WireError {
    fn from(code: ErrorCode) -> WireError {
        match code {
            ErrorCode::Access => WireError::Access,
            ErrorCode::NotPermitted => WireError::NotPermitted,
            ErrorCode::NoEntry => WireError::NoEntry,
            ErrorCode::NotDirectory => WireError::NotDirectory,
            ErrorCode::Loop => WireError::Loop,
            ErrorCode::ReadOnly => WireError::ReadOnly,
            ErrorCode::Invalid | ErrorCode::NameTooLong | ErrorCode::IllegalByteSequence => {
                WireError::Invalid
            }
            ErrorCode::Unsupported => WireError::Unsupported,
            _ => WireError::Io,
        }
    }
}
