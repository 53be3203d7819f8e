//! Counts the bytes of a pipe at the endpoint of a Service, while the connection lives.

use std::sync::Arc;

use crate::services::Endpoint;

/// Bytes that are gathered before they are told: an endpoint's counters are shared by all of its
/// connections, and a locked addition for each small write would cost a tenth of a round trip. What is
/// told is behind by less than this.
const GATHERED_BYTES_MAX: u64 = 16 * 1024;

/// What was written to a pipe.
#[derive(Default)]
pub(super) struct Tally {
    /// Bytes that are not told yet.
    gathered: u64,
    told_to: Option<(Arc<Endpoint>, Way)>,
}

/// Which way the bytes of a pipe go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the endpoint.
    Received,
    /// From the endpoint.
    Sent,
}

impl Tally {
    /// Adds bytes.
    pub(super) fn add(&mut self, bytes: usize) {
        self.gathered += bytes as u64;
        if self.gathered >= GATHERED_BYTES_MAX {
            self.tell();
        }
    }

    /// Names the endpoint. What an earlier one was told stays told there.
    pub(super) fn count_at(&mut self, endpoint: &Arc<Endpoint>, way: Way) {
        self.told_to = Some((Arc::clone(endpoint), way));
    }

    fn tell(&mut self) {
        let Some((endpoint, way)) = &self.told_to else {
            return;
        };
        let bytes = std::mem::take(&mut self.gathered);
        match way {
            Way::Received => endpoint.counters().add_received(bytes),
            Way::Sent => endpoint.counters().add_sent(bytes),
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.tell();
    }
}
