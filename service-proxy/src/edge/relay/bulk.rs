//! Pipes for bulk: bytes go from socket to socket inside the kernel.
//!
//! A pipe costs two descriptors and the pages it holds, so there are few of them: they come from a pool
//! with a bound, are held only while bytes are under way, and a direction that gets none copies.

#[cfg(target_os = "linux")]
#[path = "bulk/linux.rs"]
mod system;
#[cfg(not(target_os = "linux"))]
#[path = "bulk/elsewhere.rs"]
mod system;

pub(in crate::edge) use system::{Pipe, Pipes, is_impossible};

/// Pipes in use at once; a slow reader may hold one for long, and with it 512 KiB of the kernel's
/// memory: 32 MiB in all.
pub(in crate::edge) const PIPES_MAX: usize = 64;
