//! The world outside: clocks, standard streams, names, connections, links.
//!
//! In a pod that is WASI, asked directly where std would block the whole instance or offers nothing.
//! Natively, for the tests of parsers and programs, it is std, blocking.

#[cfg(not(target_os = "wasi"))]
mod native;
#[cfg(target_os = "wasi")]
mod wasi;

#[cfg(not(target_os = "wasi"))]
pub(crate) use native::*;
#[cfg(target_os = "wasi")]
pub(crate) use wasi::*;

/// What is mounted somewhere.
pub(crate) struct Mount {
    /// Absolute.
    pub(crate) path: String,
    /// The kind of file system, by the name that Linux has for the like.
    pub(crate) kind: &'static str,
    pub(crate) read_only: bool,
    /// None where there is no limit, or it is not known.
    pub(crate) space: Option<Space>,
}

/// Bytes of a file system.
#[derive(Clone, Copy)]
pub(crate) struct Space {
    pub(crate) size: u64,
    pub(crate) used: u64,
    pub(crate) available: u64,
}

/// A request to a server in the web.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) secure: bool,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}
