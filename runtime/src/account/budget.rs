//! The memory of the node, and who ends when it is used up.

use super::{Account, MemoryRefused, victim};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Accounts that are known before the list of them is first cleared of those that are gone.
const SWEEP_MIN: usize = 64;

/// The memory of all guests of a node, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeMemory {
    /// What there is.
    pub budget: u64,
    /// What is charged to pods now.
    pub used: u64,
}

impl NodeMemory {
    /// Returns what is left.
    pub fn available(&self) -> u64 {
        self.budget.saturating_sub(self.used)
    }
}

/// The bytes that all containers of the node may use together.
pub(crate) struct NodeBudget {
    limit: u64,
    used: AtomicU64,
    /// Told at every giving back.
    freed: Notify,
    /// What may be used before somebody is told.
    line: AtomicU64,
    /// Told when the line is passed, and when there was not enough.
    short: Notify,
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
            line: AtomicU64::new(bytes),
            short: Notify::new(),
            accounts: Mutex::default(),
        }
    }

    /// Remembers a container that can be ended.
    pub(super) fn enrol(&self, account: &Arc<Account>) {
        self.accounts.lock().add(account);
    }

    /// Returns what there is and what of it is used.
    pub(crate) fn state(&self) -> NodeMemory {
        NodeMemory {
            budget: self.limit,
            used: self.used.load(Ordering::Relaxed),
        }
    }

    /// Waits until less than `least` bytes are left, or somebody was refused some, since this was last waited for.
    pub(crate) async fn falls_short(&self, least: u64) {
        let line = self.limit.saturating_sub(least);
        self.line.store(line, Ordering::Relaxed);
        self.short.notified().await;
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
        let line = self.line.load(Ordering::Relaxed);
        match taken {
            Ok(before) => {
                if before <= line && before + bytes > line {
                    self.short.notify_one();
                }
                Ok(())
            }
            Err(_) => {
                self.short.notify_one();
                Err(MemoryRefused::Node)
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn who_waits_is_told_when_little_is_left_and_when_it_was_not_enough() {
        let budget = NodeBudget::new(100);
        let told = |budget: &NodeBudget| budget.falls_short(10).now_or_never().is_some();
        assert!(!told(&budget));
        assert_eq!(budget.take(90), Ok(()));
        assert!(!told(&budget), "10 are left");
        assert_eq!(budget.take(1), Ok(()));
        assert!(told(&budget) && !told(&budget), "once");
        assert_eq!(budget.take(1), Ok(()));
        assert!(!told(&budget), "the line is passed already");
        assert_eq!(budget.take(9), Err(MemoryRefused::Node));
        assert!(told(&budget));
        budget.give_back(50);
        assert_eq!(budget.take(49), Ok(()));
        assert!(told(&budget), "it is passed again");
        assert_eq!(budget.state().available(), 9);
    }
}
