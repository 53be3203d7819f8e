//! Delays between restarts and between pulls, by the contract's numbers (B.4).

use std::time::Duration;

use crate::time::Moment;

/// First delay of either back-off.
pub(crate) const DELAY_FIRST: Duration = Duration::from_secs(10);

/// Longest delay of either back-off.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(300);

/// A quiet time longer than this starts afresh.
pub(crate) const RESET_AFTER: Duration = Duration::from_secs(600);

/// Holds back restarts of a container that keeps ending.
///
/// The first restart is immediate and arms the delay; every further one waits the armed delay, counted
/// from the end, and doubles it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CrashBackoff(Option<Entry>);

/// Holds back pulls of an image that keep failing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PullBackoff(Option<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    delay: Duration,
    updated: Moment,
}

impl CrashBackoff {
    /// Returns the delay a container that ended at `ended` must wait, if any.
    pub(crate) fn delay_after(&self, ended: Moment) -> Option<Duration> {
        let entry = self.0?;
        (ended.since(entry.updated) <= RESET_AFTER).then_some(entry.delay)
    }

    /// Notes a restart at `now` of a container that ended at `ended`.
    pub(crate) fn restarted(&mut self, ended: Moment, now: Moment) {
        let delay = match self.delay_after(ended) {
            Some(delay) => (delay * 2).min(DELAY_MAX),
            None => DELAY_FIRST,
        };
        self.0 = Some(Entry {
            delay,
            updated: now,
        });
    }
}

impl PullBackoff {
    /// Notes a failure at `now` and returns the delay before the next try.
    pub(crate) fn failed(&mut self, now: Moment) -> Duration {
        let delay = match self.0 {
            Some(entry) if now.since(entry.updated) <= RESET_AFTER => {
                (entry.delay * 2).min(DELAY_MAX)
            }
            Some(_) | None => DELAY_FIRST,
        };
        self.0 = Some(Entry {
            delay,
            updated: now,
        });
        delay
    }

    /// Notes a success.
    pub(crate) fn cleared(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;
    use jiff::Timestamp;

    #[test]
    fn crashes_wait_ten_seconds_doubling_to_five_minutes() {
        let mut now = Clock::manual(Timestamp::UNIX_EPOCH).0.now();
        let mut backoff = CrashBackoff::default();
        let mut waited = Vec::new();
        for _ in 0..9 {
            let ended = now;
            let delay = backoff.delay_after(ended).unwrap_or_default();
            waited.push(delay.as_secs());
            now = now.after(delay);
            backoff.restarted(ended, now);
            now = now.after(Duration::from_secs(1));
        }
        assert_eq!(waited, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_start_afresh() {
        let start = Clock::manual(Timestamp::UNIX_EPOCH).0.now();
        let mut backoff = CrashBackoff::default();
        backoff.restarted(start, start);
        backoff.restarted(start, start);
        let at_limit = start.after(RESET_AFTER);
        assert_eq!(backoff.delay_after(at_limit), Some(DELAY_FIRST * 2));
        let beyond = at_limit.after(Duration::from_millis(1));
        assert_eq!(backoff.delay_after(beyond), None);
        backoff.restarted(beyond, beyond);
        assert_eq!(backoff.delay_after(beyond), Some(DELAY_FIRST));
    }

    #[test]
    fn pulls_wait_from_the_first_failure_on_and_a_success_clears() {
        let mut now = Clock::manual(Timestamp::UNIX_EPOCH).0.now();
        let mut backoff = PullBackoff::default();
        let mut waited = Vec::new();
        for _ in 0..7 {
            let delay = backoff.failed(now);
            waited.push(delay.as_secs());
            now = now.after(delay);
        }
        assert_eq!(waited, [10, 20, 40, 80, 160, 300, 300]);
        backoff.cleared();
        assert_eq!(backoff.failed(now), DELAY_FIRST);
    }
}
