//! The rules a path must keep before anything looks at what it names.

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::FsError;

/// The longest name of one entry, as on every common file system.
pub(super) const NAME_BYTES_MAX: usize = 255;
/// The longest path or link target (Linux's `PATH_MAX`); also bounds the depth of a tree.
pub(super) const PATH_BYTES_MAX: usize = 4096;
/// How many links one resolution follows before it is called a loop (Linux's number).
pub(super) const LINKS_MAX: usize = 40;

/// Splits a path of an image or volume into its names; refuses anything but plain relative names.
/// `""`, `"."` are the root.
pub(super) fn strict(path: &str) -> Result<Vec<&str>, FsError> {
    let refuse = |reason| FsError::BadPath {
        path: shorten(path),
        reason,
    };
    if path.len() > PATH_BYTES_MAX {
        return Err(refuse("it is longer than 4096 bytes"));
    }
    if path.contains('\0') {
        return Err(refuse("it holds a NUL"));
    }
    if path.starts_with('/') {
        return Err(refuse("it is absolute"));
    }
    if path.is_empty() || path == "." {
        return Ok(Vec::new());
    }
    path.split('/')
        .map(|name| match name {
            "" | "." => Err(refuse("it has an empty or `.` component")),
            ".." => Err(refuse("it has a `..` component")),
            name if name.len() > NAME_BYTES_MAX => Err(refuse("a name is longer than 255 bytes")),
            name => Ok(name),
        })
        .collect()
}

/// Checks the target of a symbolic link; what it points at does not matter, it is resolved inside the root.
pub(super) fn link_target(path: &str, target: &str) -> Result<(), FsError> {
    let refuse = |reason| FsError::BadPath {
        path: shorten(path),
        reason,
    };
    if target.is_empty() || target.contains('\0') {
        return Err(refuse("its link target is empty or holds a NUL"));
    }
    if target.len() > PATH_BYTES_MAX {
        return Err(refuse("its link target is longer than 4096 bytes"));
    }
    Ok(())
}

/// Checks a path a guest gave relative to one of its descriptors. Where it leads is not looked at: `..`
/// ends at the root whatever the path.
pub(super) fn from_guest(path: &str) -> Result<(), ErrorCode> {
    if path.is_empty() {
        return Err(ErrorCode::NoEntry);
    }
    if path.starts_with('/') {
        return Err(ErrorCode::NotPermitted);
    }
    anywhere(path)
}

/// Checks what holds for every path that is resolved, absolute ones included.
pub(super) fn anywhere(path: &str) -> Result<(), ErrorCode> {
    if path.len() > PATH_BYTES_MAX || path.split('/').any(|name| name.len() > NAME_BYTES_MAX) {
        return Err(ErrorCode::NameTooLong);
    }
    if path.contains('\0') {
        return Err(ErrorCode::Invalid);
    }
    Ok(())
}

/// At most 128 characters of a hostile text, for a message.
pub(super) fn shorten(text: &str) -> String {
    text.chars()
        .take(128)
        .flat_map(char::escape_debug)
        .collect()
}
