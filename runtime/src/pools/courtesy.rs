//! Tasks that gave way: they wait for something that another task of the same thread is about to bring, and
//! no longer than those who wait for that thread now.
//!
//! A guest that has written to its neighbour and finds no answer yet would be told so, ask to wait, and
//! be told again: three calls into the host where one is enough, if the neighbour is polled first.

use super::task::Task;
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// Whether whoever is polled here has woken somebody who waits for this thread.
    static HAS_WOKEN: Cell<bool> = const { Cell::new(false) };
    /// Whether whoever is polled here waits no longer than those who wait for this thread.
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Notes that whoever is polled here has woken somebody who waits for this thread.
pub(super) fn note_woken() {
    HAS_WOKEN.set(true);
}

/// Lets the task that is polled here wait until those have been polled who wait for this thread, if it
/// woke one of them: then it has to wait for a wake, which comes once they have been, at the latest.
/// Says whether it may. Elsewhere than on a guest thread, and to who woke nobody, it says no.
pub(crate) fn give_way() -> bool {
    let may = HAS_WOKEN.take();
    if may {
        GIVES_WAY.set(true);
    }
    may
}

/// Begins a poll.
pub(super) fn begin() {
    HAS_WOKEN.set(false);
    GIVES_WAY.set(false);
}

/// Tells whether the task gave way that was polled last.
pub(super) fn gave_way() -> bool {
    GIVES_WAY.take()
}

/// The tasks of one thread that gave way and were not polled since.
#[derive(Default)]
pub(super) struct GivingWay {
    /// In the order in which they came, with what tells this time from others of the same task.
    tasks: Vec<(u64, Arc<Task>)>,
    /// How many of them gave way in an earlier turn.
    earlier: usize,
    last: u64,
}

impl GivingWay {
    /// Adds a task that waits for a wake.
    pub(super) fn add(&mut self, task: Arc<Task>) {
        self.last += 1;
        task.give_way(self.last);
        self.tasks.push((self.last, task));
    }

    /// Ends a turn of the thread: who has waited for a whole one has waited long enough.
    pub(super) fn end_turn(&mut self) {
        self.tasks.drain(..self.earlier).for_each(wake);
        self.tasks.retain(|(time, task)| task.gives_way(*time));
        self.earlier = self.tasks.len();
    }

    /// Wakes all of them: nobody waits for the thread any more.
    pub(super) fn end_all(&mut self) {
        self.earlier = 0;
        self.tasks.drain(..).for_each(wake);
    }
}

fn wake((time, task): (u64, Arc<Task>)) {
    if task.gives_way(time) {
        std::task::Wake::wake(task);
    }
}
