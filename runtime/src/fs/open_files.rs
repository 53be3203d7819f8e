//! How many files of the machine guests hold open.
//!
//! A process has so many descriptors and no more, and they are everybody's: of connections, listeners, logs.
//! Half of them are for guests' files, and a pod has an eighth of that half. What lies in an image or in
//! memory takes none.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use crate::account::PodAccount;

/// Which part of the process's descriptors is for guests' files.
const GUESTS_PART: usize = 2;
/// Which part of that a pod may have.
const POD_PART: usize = 8;
/// However few there are, a pod may have so many.
const POD_LEAST: usize = 16;
/// Descriptors where the system tells no limit, as on Windows, or none that counts.
const DESCRIPTORS_MAX: usize = 1 << 20;

/// Files that guests of this process hold open. Descriptors are the process's, and so is this.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// An open file that is counted, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    /// `None` before a container is started, and for what the host itself opens.
    pod: Option<PodAccount>,
}

/// How many may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Most {
    all: usize,
    of_pod: usize,
}

impl Most {
    fn of(descriptors: usize) -> Most {
        let all = descriptors / GUESTS_PART;
        Most {
            all,
            of_pod: (all / POD_PART).max(POD_LEAST),
        }
    }

    /// Of this process; asked when the first file is opened, and kept.
    fn here() -> Most {
        static MOST: OnceLock<Most> = OnceLock::new();
        *MOST.get_or_init(|| Most::of(descriptors().min(DESCRIPTORS_MAX)))
    }
}

impl Counted {
    /// Counts one more.
    ///
    /// # Errors
    /// The pod, or all together, have as many open as they may. WASI has no `EMFILE` and no `ENFILE`; the
    /// code is the one by which it tells of any want of resources, `ENOMEM` in C.
    pub(super) fn take(pod: Option<&PodAccount>) -> Result<Counted, ErrorCode> {
        let most = Most::here();
        if OPEN.fetch_add(1, Ordering::Relaxed) >= most.all {
            OPEN.fetch_sub(1, Ordering::Relaxed);
            return Err(ErrorCode::InsufficientMemory);
        }
        // From here on dropping it gives back.
        let mut counted = Counted { pod: None };
        if let Some(pod) = pod {
            if !pod.open_file(most.of_pod) {
                return Err(ErrorCode::InsufficientMemory);
            }
            counted.pod = Some(pod.clone());
        }
        Ok(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
        if let Some(pod) = &self.pod {
            pod.close_file();
        }
    }
}

/// How many descriptors the process may have.
#[cfg(unix)]
#[expect(unsafe_code, reason = "the kernel is asked for a limit")]
fn descriptors() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one `rlimit`.
    let told = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    match told {
        0 => usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX),
        _ => DESCRIPTORS_MAX,
    }
}

/// How many descriptors the process may have.
#[cfg(not(unix))]
fn descriptors() -> usize {
    DESCRIPTORS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_descriptors_are_for_guests_and_an_eighth_of_them_for_a_pod() {
        let check = |descriptors, all, of_pod| {
            assert_eq!(Most::of(descriptors), Most { all, of_pod });
        };
        check(1 << 20, 1 << 19, 1 << 16);
        check(1024, 512, 64);
        check(100, 50, POD_LEAST);
    }
}
