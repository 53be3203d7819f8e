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
