//! The memory of the node, and who ends when it is used up.

use super::{Account, MemoryRefused, victim};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Accounts that are known before the list of them is first cleared of those that are gone.
const SWEEP_MIN: usize = 64;

/// The bytes that all containers of the node may use together.
pub(crate) struct NodeBudget {
    limit: u64,
    used: AtomicU64,
    /// Told at every giving back.
    freed: Notify,
    accounts: Mutex<Known>,
}

/// Accounts of containers that can be ended; swept when it has grown to twice its live size.
#[derive(Default)]
struct Known {
    all: Vec<Weak<Account>>,
    sweep_at: usize,
}

impl NodeBudget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            limit: bytes,
            used: AtomicU64::new(0),
            freed: Notify::new(),
            accounts: Mutex::default(),
        }
    }

    /// Remembers a container that can be ended.
    pub(super) fn enrol(&self, account: &Arc<Account>) {
        self.accounts.lock().add(account);
    }

    /// Waits for the next giving back.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Chooses who ends so that `asking` can have `bytes`, and ends them; tells whether there will be room.
    ///
    /// Whoever asks stands for what it would have then, so that one container cannot end the others by
    /// asking for more than any of them has.
    pub(super) fn make_room(&self, asking: &Account, bytes: u64) -> bool {
        if bytes > self.limit {
            return false;
        }
        let used = self.used.load(Ordering::Relaxed);
        let missing = used.saturating_add(bytes).saturating_sub(self.limit);
        let (victims, enough) = {
            let known = self.accounts.lock();
            let accounts: Vec<_> = known.all.iter().filter_map(Weak::upgrade).collect();
            doom(&accounts, asking, bytes, missing)
        };
        for victim in victims {
            tracing::warn!(container = %victim.id, asking = %asking.id, "the node's memory is used up");
            if let Some(end) = victim.end.get() {
                end();
            }
        }
        enough
    }

    pub(super) fn take(&self, bytes: u64) -> Result<(), MemoryRefused> {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(|_| ()).map_err(|_| MemoryRefused::Node)
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.freed.notify_waiters();
    }
}

impl Known {
    fn add(&mut self, account: &Arc<Account>) {
        if self.all.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.all.retain(|account| account.strong_count() > 0);
            self.sweep_at = self.all.len() * 2;
        }
        self.all.push(Arc::downgrade(account));
    }
}

/// Dooms accounts until what the doomed have is at least `missing`, or the one that asks is among them.
/// Returns the newly doomed, and whether that is enough.
fn doom(
    accounts: &[Arc<Account>],
    asking: &Account,
    bytes: u64,
    missing: u64,
) -> (Vec<Arc<Account>>, bool) {
    let is_doomed = |account: &Account| account.doomed.load(Ordering::Relaxed);
    let (mut coming, mut living) = (0_u64, Vec::new());
    for account in accounts {
        if is_doomed(account) {
            coming = coming.saturating_add(account.memory());
        } else {
            living.push(account.clone());
        }
    }
    let mut victims = Vec::new();
    while coming < missing && !is_doomed(asking) {
        let standing = |account: &Arc<Account>| account.standing(asking, bytes);
        let standings: Vec<_> = living.iter().map(standing).collect();
        let Some(chosen) = victim::choose(&standings) else {
            return (victims, false);
        };
        let victim = living.swap_remove(chosen);
        victim.doomed.store(true, Ordering::Relaxed);
        coming = coming.saturating_add(victim.memory());
        victims.push(victim);
    }
    (victims, true)
}
