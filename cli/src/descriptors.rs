//! The process's limit of open files, which counts every published port and every connection.

/// Raises the soft limit to the hard one; a shell's usual 256 or 1,024 would end at a few hundred pods.
///
/// A system that refuses leaves the limit as it is: what then fails is told where it fails.
#[cfg(unix)]
pub(crate) fn raise_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    /// macOS refuses more than its `OPEN_MAX` even where the hard limit is unlimited.
    #[cfg(target_os = "macos")]
    const OPEN_FILES_MAX: u64 = 10_240;
    #[cfg(not(target_os = "macos"))]
    const OPEN_FILES_MAX: u64 = 1 << 20;

    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, wanted, "the limit of open files stays");
        }
    }
}

/// Windows has no such limit.
#[cfg(not(unix))]
pub(crate) fn raise_limit() {}
