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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn bytes_are_told_while_they_are_written_and_the_rest_at_the_end() {
        let endpoint = Endpoint::new(([10, 244, 0, 2], 80).into());
        let told = || {
            let counters = endpoint.counters();
            let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            (read(&counters.received_bytes), read(&counters.sent_bytes))
        };
        let mut up = Tally::default();
        // Those from before the endpoint was known count as well.
        up.add(16 * 1024);
        up.count_at(&endpoint, Way::Received);
        assert_eq!(told(), (0, 0));
        up.add(1);
        assert_eq!(told(), (16 * 1024 + 1, 0));
        up.add(16 * 1024 - 1);
        assert_eq!(told(), (16 * 1024 + 1, 0));
        let mut down = Tally::default();
        down.count_at(&endpoint, Way::Sent);
        down.add(16 * 1024);
        assert_eq!(told(), (16 * 1024 + 1, 16 * 1024));
        drop((up, down));
        assert_eq!(told(), (32 * 1024, 16 * 1024));
    }
}
