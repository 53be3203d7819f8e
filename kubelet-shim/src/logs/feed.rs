//! What the writer of a log tells its readers: when the file was put aside, that there is more, that
//! there will be no more.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Shared by the writer of one instance's log and everyone who reads it.
///
/// A reader asks to be notified, then reads to the end of the file, then waits: so nothing is missed and
/// nobody polls.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    rotations: Mutex<u64>,
    ended: AtomicBool,
    news: Notify,
}

/// Ends the feed when the last holder is gone: the log itself and both of its streams.
#[derive(Debug)]
pub(super) struct FeedEnd(pub(super) std::sync::Arc<Feed>);

impl Drop for FeedEnd {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.news.notify_waiters();
    }
}

impl Feed {
    /// Tells readers that there is more.
    pub(super) fn tell(&self) {
        self.news.notify_waiters();
    }

    /// Returns how often the file was put aside. While the guard is held, files keep their names.
    pub(super) fn rotations(&self) -> MutexGuard<'_, u64> {
        self.rotations.lock()
    }

    /// Says whether nothing will be written any more.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn news(&self) -> &Notify {
        &self.news
    }
}
