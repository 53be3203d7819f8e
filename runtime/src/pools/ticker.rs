//! The clock of slices: one thread that ticks while guests are polled and sleeps otherwise.

use crate::account::SLICE;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};

/// The side of the workers. A turn costs them two atomic operations and, when nobody was polled for
/// a whole slice before it, waking the thread.
pub(super) struct Ticker {
    /// Workers that are polling now.
    polling: AtomicUsize,
    /// Whether a worker has begun to poll since the last look.
    lately: AtomicBool,
    /// Whether the thread sleeps until it is woken.
    asleep: AtomicBool,
    stopped: AtomicBool,
}

impl Ticker {
    pub(super) fn new() -> Self {
        Self {
            polling: AtomicUsize::new(0),
            lately: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    /// Says that a worker begins to poll.
    pub(super) fn enter(&self, thread: &Thread) {
        self.polling.fetch_add(1, Ordering::SeqCst);
        self.lately.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            thread.unpark();
        }
    }

    /// Says that a worker has ended to poll.
    pub(super) fn leave(&self) {
        self.polling.fetch_sub(1, Ordering::SeqCst);
    }

    /// Lets the thread end.
    pub(super) fn stop(&self, thread: &Thread) {
        self.stopped.store(true, Ordering::SeqCst);
        thread.unpark();
    }

    /// Is the thread: calls `tick` once a slice while some worker polls.
    pub(super) fn run(self: &Arc<Self>, tick: impl Fn()) {
        while !self.stopped.load(Ordering::SeqCst) {
            if self.lately.swap(false, Ordering::SeqCst) || self.is_polling() {
                thread::sleep(SLICE);
                if self.is_polling() {
                    tick();
                }
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            // Whoever entered before the store did not see it; whoever enters after it wakes us.
            if !self.is_polling() && !self.stopped.load(Ordering::SeqCst) {
                thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
    }

    fn is_polling(&self) -> bool {
        self.polling.load(Ordering::SeqCst) > 0
    }
}
