//! Counts the bytes of a pipe at the pods on both sides, and at the endpoint of a Service, while the
//! connection lives.

use std::sync::Arc;

use crate::budget::Budget;
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
    /// The pod that reads; nothing while the pod that writes is the same, for what a pod says to itself
    /// crosses no network.
    reader: Option<Arc<Budget>>,
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
    /// Counts what is written to `reader`, too.
    pub(super) fn between(writer: &Arc<Budget>, reader: &Arc<Budget>) -> Tally {
        let mut tally = Tally::default();
        tally.read_by(writer, reader);
        tally
    }

    /// Names the pod that reads. What an earlier one was told stays told there.
    pub(super) fn read_by(&mut self, writer: &Arc<Budget>, reader: &Arc<Budget>) {
        self.reader = match Arc::ptr_eq(writer, reader) {
            true => None,
            false => Some(Arc::clone(reader)),
        };
    }

    /// Adds bytes of the pod that writes.
    pub(super) fn add(&mut self, bytes: usize, writer: &Budget) {
        self.gathered += bytes as u64;
        if self.gathered >= GATHERED_BYTES_MAX {
            self.tell(writer);
        }
    }

    /// Names the endpoint. What an earlier one was told stays told there.
    pub(super) fn count_at(&mut self, endpoint: &Arc<Endpoint>, way: Way) {
        self.told_to = Some((Arc::clone(endpoint), way));
    }

    /// Tells what is gathered; the last time at the end of the pipe.
    pub(super) fn tell(&mut self, writer: &Budget) {
        let bytes = std::mem::take(&mut self.gathered);
        if let Some(reader) = &self.reader {
            writer.count_sent(bytes);
            reader.count_received(bytes);
        }
        match &self.told_to {
            Some((endpoint, Way::Received)) => endpoint.counters().add_received(bytes),
            Some((endpoint, Way::Sent)) => endpoint.counters().add_sent(bytes),
            None => {}
        }
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
        let pod = Budget::new(0);
        let mut up = Tally::default();
        // Those from before the endpoint was known count as well.
        up.add(16 * 1024 - 1, &pod);
        up.count_at(&endpoint, Way::Received);
        assert_eq!(told(), (0, 0));
        up.add(2, &pod);
        assert_eq!(told(), (16 * 1024 + 1, 0));
        up.add(16 * 1024 - 1, &pod);
        assert_eq!(told(), (16 * 1024 + 1, 0));
        let mut down = Tally::default();
        down.count_at(&endpoint, Way::Sent);
        down.add(16 * 1024, &pod);
        assert_eq!(told(), (16 * 1024 + 1, 16 * 1024));
        up.tell(&pod);
        down.tell(&pod);
        assert_eq!(told(), (32 * 1024, 16 * 1024));
    }

    #[test]
    fn both_pods_are_told_and_a_pod_that_speaks_to_itself_is_not() {
        let (one, other) = (Arc::new(Budget::new(0)), Arc::new(Budget::new(0)));
        let mut way = Tally::between(&one, &other);
        way.add(16 * 1024, &one);
        way.add(1, &one);
        assert_eq!(one.traffic().sent, 16 * 1024);
        way.tell(&one);
        let mut own = Tally::between(&one, &one);
        own.add(16 * 1024, &one);
        assert_eq!(
            (one.traffic().sent, one.traffic().received),
            (16 * 1024 + 1, 0)
        );
        assert_eq!(
            (other.traffic().sent, other.traffic().received),
            (0, 16 * 1024 + 1)
        );
    }
}
