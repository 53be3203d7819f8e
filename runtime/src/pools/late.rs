//! What tasks put off until later in their thread's turn, so that it is done at once for many of them.
//!
//! An answer that is sent wakes its reader, which takes the processor from the guests that are yet to answer,
//! and sleeps again before the next of them has: answers that are sent one after the other wake it once.

use crate::account::Account;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long something is put off at most, but for the poll in which that time passes.
const LATE_MAX: Duration = Duration::from_micros(200);

thread_local! {
    /// Whether this is a guest thread in its turn.
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
    /// What is put off on this thread.
    static LATE: RefCell<Vec<Arc<dyn Late>>> = const { RefCell::new(Vec::new()) };
}

/// What can be put off.
pub(crate) trait Late: Send + Sync {
    /// Does it.
    fn act(&self);
}

/// Puts `what` off until the thread polls a task of another container, or looks at its reactor. Says no where
/// there is no later: elsewhere than in a task that is polled by a guest thread.
pub(crate) fn put_off(what: Arc<dyn Late>) -> bool {
    let may = IN_TURN.get();
    if may {
        LATE.with_borrow_mut(|late| late.push(what));
    }
    may
}

/// What a thread's tasks have put off in its turn. The container that did is charged for it.
#[derive(Default)]
pub(super) struct PutOff(Option<(Arc<Account>, Instant)>);

impl PutOff {
    pub(super) fn begin_turn(&self) {
        IN_TURN.set(true);
    }

    /// Is called before a task of `account` is polled; returns the time.
    pub(super) fn before_poll(&mut self, account: &Arc<Account>, now: Instant) -> Instant {
        match &self.0 {
            Some((of, since)) if !Arc::ptr_eq(of, account) || now - *since >= LATE_MAX => {
                self.act(now)
            }
            Some(_) | None => now,
        }
    }

    /// Is called after a task of `account` was polled.
    pub(super) fn after_poll(&mut self, account: &Arc<Account>, now: Instant) {
        if self.0.is_none() && LATE.with_borrow(|late| !late.is_empty()) {
            self.0 = Some((account.clone(), now));
        }
    }

    pub(super) fn end_turn(&mut self, now: Instant) {
        IN_TURN.set(false);
        self.act(now);
    }

    fn act(&mut self, began: Instant) -> Instant {
        let account = self.0.take();
        let late = LATE.take();
        if late.is_empty() {
            return began;
        }
        // That may wake others, but puts nothing off.
        late.into_iter().for_each(|what| what.act());
        let ended = Instant::now();
        if let Some((account, _)) = account {
            account.charge(ended - began, ended);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pools::tests::account;
    use parking_lot::Mutex;

    /// Counts how often it was done.
    #[derive(Default)]
    struct Counter(Mutex<u32>);

    impl Late for Counter {
        fn act(&self) {
            *self.0.lock() += 1;
        }
    }

    #[test]
    fn what_is_put_off_waits_for_the_containers_other_tasks_and_for_nobody_else() {
        let (ours, theirs, counter) = (account(None), account(None), Arc::<Counter>::default());
        let done = || *counter.0.lock();
        let mut turn = PutOff::default();
        let now = Instant::now();
        turn.begin_turn();
        let put_off_at = |turn: &mut PutOff, time| {
            assert!(put_off(counter.clone()));
            turn.after_poll(&ours, time);
        };

        put_off_at(&mut turn, now);
        let later = now + LATE_MAX / 2;
        turn.before_poll(&ours, later);
        put_off_at(&mut turn, later);
        turn.before_poll(&ours, now + LATE_MAX - Duration::from_nanos(1));
        assert_eq!(done(), 0);
        turn.before_poll(&ours, now + LATE_MAX);
        assert_eq!(done(), 2, "the first has waited for long enough");

        put_off_at(&mut turn, later);
        turn.before_poll(&theirs, later);
        assert_eq!(done(), 3, "another container does not keep it waiting");

        put_off_at(&mut turn, later);
        turn.end_turn(later);
        assert_eq!(done(), 4, "nothing is left at the end of a turn");
    }

    #[test]
    fn who_puts_something_off_pays_for_it() {
        struct Slow;
        impl Late for Slow {
            fn act(&self) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let (ours, mut turn) = (account(None), PutOff::default());
        turn.begin_turn();
        assert!(put_off(Arc::new(Slow)));
        let now = Instant::now();
        turn.after_poll(&ours, now);
        turn.end_turn(now);
        assert!(ours.cpu() >= Duration::from_millis(2));
    }

    #[test]
    fn outside_of_a_turn_nothing_is_put_off() {
        let counter = Arc::<Counter>::default();
        assert!(!put_off(counter.clone()));
        let mut turn = PutOff::default();
        turn.begin_turn();
        turn.end_turn(Instant::now());
        assert!(!put_off(counter));
    }
}
