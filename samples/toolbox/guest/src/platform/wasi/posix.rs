//! `coracle:posix`: users, owners and modes. The functions are declared by hand, as in `samples/graceful`;
//! numbers are those of the component model's layout.

use std::io;
use std::path::Path;

use crate::ownership::{Permissions, User};

#[link(wasm_import_module = "coracle:posix/identity@0.1.0")]
unsafe extern "C" {
    #[link_name = "get-user"]
    fn get_user(answer: *mut WireUser);
}

#[link(wasm_import_module = "coracle:posix/permissions@0.1.0")]
unsafe extern "C" {
    #[link_name = "get"]
    fn get(path: *const u8, length: usize, follow: i32, answer: *mut WireAnswer);
    #[link_name = "set-mode"]
    fn wire_set_mode(path: *const u8, length: usize, follow: i32, mode: u32, answer: *mut WireDone);
    #[link_name = "set-owner"]
    fn wire_set_owner(
        path: *const u8,
        length: usize,
        follow: i32,
        has_uid: i32,
        uid: u32,
        has_gid: i32,
        gid: u32,
        answer: *mut WireDone,
    );
}

#[repr(C)]
struct WireUser {
    uid: u32,
    gid: u32,
    groups: *mut u32,
    length: usize,
}

/// `result<permissions, error>`: of a failure the first byte of the mode is the error.
#[repr(C)]
struct WireAnswer {
    failed: u8,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// `result<_, error>`
#[repr(C)]
struct WireDone {
    failed: u8,
    error: u8,
}

pub(crate) fn user() -> User {
    let mut wire = WireUser {
        uid: 0,
        gid: 0,
        groups: std::ptr::null_mut(),
        length: 0,
    };
    // SAFETY: the host writes a record of this layout.
    unsafe { get_user(&raw mut wire) };
    let groups = match wire.length {
        0 => Vec::new(),
        // SAFETY: the host had the list allocated by this program for so many numbers, and wrote them all.
        length => unsafe { Vec::from_raw_parts(wire.groups, length, length) },
    };
    User {
        uid: wire.uid,
        gid: wire.gid,
        groups,
    }
}

pub(crate) fn permissions(path: &Path, follow: bool) -> io::Result<Permissions> {
    let path = text(path)?;
    let mut answer = WireAnswer {
        failed: 1,
        mode: 0,
        uid: 0,
        gid: 0,
    };
    // SAFETY: the path outlives the call, and the host writes an answer of this layout.
    unsafe { get(path.as_ptr(), path.len(), follow.into(), &raw mut answer) };
    if answer.failed != 0 {
        return Err(error(answer.mode as u8));
    }
    Ok(Permissions {
        mode: answer.mode,
        uid: answer.uid,
        gid: answer.gid,
    })
}

pub(crate) fn set_mode(path: &Path, follow: bool, mode: u32) -> io::Result<()> {
    let path = text(path)?;
    done(|answer| {
        // SAFETY: as above.
        unsafe { wire_set_mode(path.as_ptr(), path.len(), follow.into(), mode, answer) }
    })
}

pub(crate) fn set_owner(
    path: &Path,
    follow: bool,
    uid: Option<u32>,
    gid: Option<u32>,
) -> io::Result<()> {
    let path = text(path)?;
    let part = |id: Option<u32>| (id.is_some().into(), id.unwrap_or(0));
    let ((has_uid, uid), (has_gid, gid)) = (part(uid), part(gid));
    done(|answer| {
        // SAFETY: as above.
        unsafe {
            wire_set_owner(
                path.as_ptr(),
                path.len(),
                follow.into(),
                has_uid,
                uid,
                has_gid,
                gid,
                answer,
            )
        }
    })
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str()
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn done(call: impl FnOnce(*mut WireDone)) -> io::Result<()> {
    let mut answer = WireDone {
        failed: 1,
        error: 0,
    };
    call(&raw mut answer);
    match answer.failed {
        0 => Ok(()),
        _ => Err(error(answer.error)),
    }
}

/// The errors by their numbers in the interface.
fn error(code: u8) -> io::Error {
    let kind = match code {
        0 => io::ErrorKind::PermissionDenied,
        1 => return io::Error::other("Operation not permitted"),
        2 => io::ErrorKind::NotFound,
        3 => io::ErrorKind::NotADirectory,
        4 => return io::Error::other("Too many levels of symbolic links"),
        5 => io::ErrorKind::ReadOnlyFilesystem,
        6 => io::ErrorKind::InvalidInput,
        7 => io::ErrorKind::Unsupported,
        _ => return io::Error::other("Input/output error"),
    };
    kind.into()
}
