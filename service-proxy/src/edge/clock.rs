//! The time, which tests can move on.

#[cfg(test)]
pub(super) use moved::{later, now};
#[cfg(not(test))]
pub(super) use real::now;

#[cfg(not(test))]
mod real {
    use std::time::Instant;

    /// Returns the time.
    pub(in crate::edge) fn now() -> Instant {
        Instant::now()
    }
}

#[cfg(test)]
mod moved {
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    thread_local! {
        /// A test has one thread, on which its edge runs.
        static AHEAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// Returns the time.
    pub(in crate::edge) fn now() -> Instant {
        Instant::now() + AHEAD.get()
    }

    /// Moves the time on.
    pub(in crate::edge) fn later(by: Duration) {
        AHEAD.set(AHEAD.get() + by);
    }
}
