//! What the edge did, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start. All only grow.
#[derive(Debug, Default)]
pub struct EdgeCounters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections handed over to a pod of this node.
    pub handed_over: AtomicU64,
    /// Handed-over connections that came back since their listener closed, and were given to another
    /// endpoint or reset.
    pub given_back: AtomicU64,
    /// Connections relayed to an endpoint elsewhere.
    pub relayed: AtomicU64,
    /// Relayed connections that one side broke off.
    pub reset: AtomicU64,
    /// Connections reset since there was no endpoint, or none took them.
    pub refused: AtomicU64,
    /// Connections reset since a policy or a source range drops them.
    pub dropped: AtomicU64,
    /// Connections reset since the edge held as many as it may, in all or of that client.
    pub over_limit: AtomicU64,
    /// Times that accepting or connecting met the end of the process' descriptors or of the system's
    /// memory for sockets.
    pub exhausted: AtomicU64,
    /// Ports that could not be opened, each time it was tried.
    pub listen_failures: AtomicU64,
    /// UDP flows begun.
    pub udp_flows: AtomicU64,
    /// Datagrams lost since their flow had no place or no endpoint, or a socket took no more.
    pub udp_lost: AtomicU64,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
