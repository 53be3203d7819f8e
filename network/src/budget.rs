//! What a pod's in-memory sockets may hold in buffers together, so that no guest fills the host by
//! connecting to itself.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes buffered for one pod; four hundred busy connections with both directions full.
pub(crate) const BUFFER_BYTES_PER_POD_MAX: usize = 48 * 1024 * 1024;

/// An account of buffered bytes with an upper bound.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// Returns an empty account that takes up to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Budget {
        Budget {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    /// Takes `bytes` and tells whether they fit; nothing is taken when they do not.
    pub(crate) fn charge(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used
            .try_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }

    /// Tells whether `bytes` more would fit now.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.used()
            .checked_add(bytes)
            .is_some_and(|sum| sum <= self.limit)
    }

    /// Takes `bytes` even beyond the limit; for the little every connection is promised.
    pub(crate) fn charge_always(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back what was taken.
    pub(crate) fn refund(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes taken now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}
