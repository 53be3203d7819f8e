//! The clock everything here is given: monotonic for deciding, wall time for telling.
//!
//! Decisions compare [`Moment`]s by their monotonic half, so a changed system clock neither lengthens a
//! back-off nor ends a grace period early; what is published carries the wall half.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Source of [`Moment`]s. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Stands still until its hand is moved.
    Manual {
        start: Moment,
        hand: Hand,
    },
}

/// Moves a manual clock.
#[derive(Clone, Debug, Default)]
pub struct Hand(Arc<AtomicU64>);

/// One point in time, seen by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Compared when something is decided.
    mono: Instant,
    /// Shown when something is reported.
    wall: Timestamp,
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that shows `wall` until its hand is moved.
    pub fn manual(wall: Timestamp) -> (Clock, Hand) {
        let hand = Hand::default();
        let start = Moment {
            mono: Instant::now(),
            wall,
        };
        (
            Clock(Source::Manual {
                start,
                hand: hand.clone(),
            }),
            hand,
        )
    }

    /// Returns the present moment.
    pub fn now(&self) -> Moment {
        match &self.0 {
            Source::System => Moment {
                mono: Instant::now(),
                wall: Timestamp::now(),
            },
            Source::Manual { start, hand } => {
                start.after(Duration::from_millis(hand.0.load(Ordering::Relaxed)))
            }
        }
    }
}

impl Hand {
    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Moment {
    /// Returns the moment `delay` later.
    pub fn after(self, delay: Duration) -> Moment {
        let mono = self.mono.checked_add(delay).unwrap_or(self.mono);
        Moment {
            mono,
            wall: shifted(self.wall, delay),
        }
    }

    /// Returns the moment `age` earlier, or as early as the monotonic clock reaches.
    pub fn before(self, age: Duration) -> Moment {
        let Some(mono) = self.mono.checked_sub(age) else {
            return self;
        };
        let wall = SignedDuration::try_from(age).ok();
        let wall = wall
            .and_then(|age| self.wall.checked_sub(age).ok())
            .unwrap_or(self.wall);
        Moment { mono, wall }
    }

    /// Returns how long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Moment) -> Duration {
        self.mono.saturating_duration_since(earlier.mono)
    }

    /// Whether this moment is `other` or later.
    pub fn reached(self, other: Moment) -> bool {
        self.mono >= other.mono
    }

    /// Returns the earlier of two moments.
    pub fn min(self, other: Moment) -> Moment {
        if self.reached(other) { other } else { self }
    }

    /// The wall time to publish.
    pub fn wall(self) -> Timestamp {
        self.wall
    }

    /// The timer's view of this moment.
    pub fn instant(self) -> Instant {
        self.mono
    }
}

fn shifted(wall: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| wall.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_move_with_the_hand() {
        let (clock, hand) = Clock::manual(Timestamp::UNIX_EPOCH);
        let before = clock.now();
        hand.advance(Duration::from_secs(7));
        let after = clock.now();
        assert_eq!(after.since(before), Duration::from_secs(7));
        assert_eq!(after.wall().as_second(), 7);
        assert_eq!(before.since(after), Duration::ZERO);
    }
}
