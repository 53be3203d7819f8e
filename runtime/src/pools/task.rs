//! One guest task: a future with its account, and the state that says who may touch it.
//!
//! ```text
//!          wake              a worker takes it           blocked
//! Idle ─────────▶ Queued ─────────────────▶ Running ─────────────▶ Idle
//!                   ▲                         │ wake
//!                   └──── back in a queue ─── Woken
//! ```
//!
//! `Idle`: only a waker can bring it back. `Queued`: it is in a run queue, or parked by its worker
//! for want of quota; waking it again changes nothing. `Running`: one worker polls it; a wake makes
//! it `Woken`. `Ended`: its future is gone; queue entries that are left over are dropped when met.

use super::Shared;
use crate::account::Account;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const WOKEN: u8 = 3;
const ENDED: u8 = 4;

/// How much a task may use without blocking before it moves to the batch pool: two whole slices.
const BATCH_AFTER: Duration = crate::account::SLICE.saturating_mul(2);

/// A poll that is over so soon does not keep another task waiting that it woke: a fraction of what waking
/// another thread takes until that thread is at work.
const BRIEF: Duration = Duration::from_micros(50);
/// After so many brief polls on end the next one is taken to be brief, too.
const BRIEF_AFTER: u8 = 4;

/// A future of some container, to be polled by one worker at a time.
pub(super) struct Task {
    pub(super) id: u64,
    pub(super) account: Arc<Account>,
    shared: Arc<Shared>,
    state: AtomicU8,
    aborted: AtomicBool,
    /// Nanoseconds used since the task last blocked.
    unblocked_nanos: AtomicU64,
    is_batch: AtomicBool,
    /// Its last polls on end that were brief and left it blocked, up to [`BRIEF_AFTER`].
    brief_polls: AtomicU8,
    /// When it gave way, by its worker's count; 0 if it was polled since.
    gave_way: AtomicU64,
    /// The task's worker in each pool, in the order of [`PoolKind`].
    homes: [AtomicUsize; 2],
    future: Mutex<Option<BoxFuture<'static, ()>>>,
}

/// Which threads poll a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PoolKind {
    /// Those that answer quickly.
    Interactive,
    /// Those of lower priority, for guests that compute.
    Batch,
}

/// What a poll left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polled {
    /// The task waits for a wake.
    Blocked,
    /// The task was woken meanwhile and belongs back into a queue.
    Again,
    /// The future is gone or must go.
    Ended,
}

impl Task {
    pub(super) fn new(
        id: u64,
        homes: [usize; 2],
        shared: Arc<Shared>,
        account: Arc<Account>,
        future: BoxFuture<'static, ()>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            account,
            shared,
            state: AtomicU8::new(QUEUED),
            aborted: AtomicBool::new(false),
            unblocked_nanos: AtomicU64::new(0),
            is_batch: AtomicBool::new(false),
            brief_polls: AtomicU8::new(0),
            gave_way: AtomicU64::new(0),
            homes: homes.map(AtomicUsize::new),
            future: Mutex::new(Some(future)),
        })
    }

    /// The worker of a pool that the task belongs to.
    pub(super) fn home(&self, pool: PoolKind) -> usize {
        self.homes[pool as usize].load(Ordering::Relaxed)
    }

    /// Gives the task another worker of a pool; returns the one it had.
    pub(super) fn move_home(&self, pool: PoolKind, to: usize) -> usize {
        self.homes[pool as usize].swap(to, Ordering::Relaxed)
    }

    pub(super) fn pool(&self) -> PoolKind {
        match self.is_batch.load(Ordering::Relaxed) {
            true => PoolKind::Batch,
            false => PoolKind::Interactive,
        }
    }

    /// Tells whether its next poll is likely to block soon.
    pub(super) fn is_brief(&self) -> bool {
        self.brief_polls.load(Ordering::Relaxed) == BRIEF_AFTER
    }

    /// Notes a poll after which the task waits.
    fn note_blocked(&self, used: Duration) {
        let polls = self.brief_polls.load(Ordering::Relaxed);
        let polls = match used < BRIEF {
            true => (polls + 1).min(BRIEF_AFTER),
            false => 0,
        };
        self.brief_polls.store(polls, Ordering::Relaxed);
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }

    /// Asks for the end of the task, from any thread, also from inside its own poll or drop. Its
    /// future is dropped by a worker.
    pub(super) fn abort(self: &Arc<Self>) {
        self.aborted.store(true, Ordering::SeqCst);
        if self.state.load(Ordering::SeqCst) == QUEUED {
            // A second entry, in front: the first may be far behind, or parked.
            self.shared.enqueue_first(self.clone());
        } else {
            self.clone().wake();
        }
    }

    /// Takes a queued task for polling; false if this entry of the queue is left over.
    pub(super) fn begin(&self) -> bool {
        self.change(QUEUED, RUNNING)
    }

    /// Notes when the task gave way. A mistake, of one that is polled elsewhere meanwhile, costs a poll.
    pub(super) fn give_way(&self, time: u64) {
        self.gave_way.store(time, Ordering::Relaxed);
    }

    /// Tells whether the task gave way then and was not polled since.
    pub(super) fn gives_way(&self, time: u64) -> bool {
        self.gave_way.load(Ordering::Relaxed) == time
    }

    /// Makes a task that was begun queued again, without having polled it.
    pub(super) fn put_back(&self) {
        self.state.store(QUEUED, Ordering::SeqCst);
    }

    /// Polls the future of a task that was begun.
    pub(super) fn poll(self: &Arc<Self>) -> Poll<()> {
        self.gave_way.store(0, Ordering::Relaxed);
        let waker = self.clone().into();
        let mut context = Context::from_waker(&waker);
        match self.future.lock().as_mut() {
            Some(future) => future.as_mut().poll(&mut context),
            None => Poll::Ready(()),
        }
    }

    /// Decides where a task goes that was polled for `used` and is not ready.
    pub(super) fn after_poll(&self, used: Duration) -> Polled {
        if self.state.load(Ordering::SeqCst) == RUNNING {
            let (was, nanos) = (self.pool(), self.unblocked_nanos.swap(0, Ordering::Relaxed));
            self.note_blocked(used);
            self.is_batch.store(false, Ordering::Relaxed);
            if self.change(RUNNING, IDLE) {
                return Polled::Blocked;
            }
            // Woken in between: it did not block after all.
            self.unblocked_nanos.store(nanos, Ordering::Relaxed);
            self.is_batch
                .store(was == PoolKind::Batch, Ordering::Relaxed);
        }
        self.brief_polls.store(0, Ordering::Relaxed);
        let used = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
        let nanos = self
            .unblocked_nanos
            .load(Ordering::Relaxed)
            .saturating_add(used);
        self.unblocked_nanos.store(nanos, Ordering::Relaxed);
        if u128::from(nanos) >= BATCH_AFTER.as_nanos() {
            self.is_batch.store(true, Ordering::Relaxed);
        }
        if self.is_aborted() {
            return Polled::Ended;
        }
        // An abort that comes in here is met when the task is taken next.
        self.put_back();
        Polled::Again
    }

    /// Drops the future. Its destructor may wake and abort this very task.
    pub(super) fn end(&self) {
        self.state.store(ENDED, Ordering::SeqCst);
        let future = self.future.lock().take();
        if catch_unwind(AssertUnwindSafe(|| drop(future))).is_err() {
            tracing::error!("a guest task panicked while it was dropped");
        }
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        loop {
            match self.state.load(Ordering::SeqCst) {
                IDLE => {
                    if self.change(IDLE, QUEUED) {
                        return Shared::enqueue_woken(&self.shared, self.clone());
                    }
                }
                RUNNING => {
                    if self.change(RUNNING, WOKEN) {
                        return;
                    }
                }
                // Queued or woken already, or over.
                _ => return,
            }
        }
    }
}
