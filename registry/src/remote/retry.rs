//! Waiting between attempts.

use std::time::Duration;

/// How often and after which waits a failed request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in a row that may bring nothing, the first one included.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    /// Five attempts within about four seconds: a restart of a registry or a lost connection. Longer
    /// outages are the caller's to wait out, as a node agent does anyway.
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(5),
        }
    }
}

impl RetryPolicy {
    /// Returns the wait after so many failures in a row, or nothing when it is time to give up.
    ///
    /// A quarter of the wait is left to chance, so that many clients do not return together.
    pub(super) fn wait(&self, failures: u32, chance: f64) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        let doubled = self
            .first_wait
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        Some(
            doubled
                .min(self.longest_wait)
                .mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_end() {
        let policy = RetryPolicy {
            attempts: 6,
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_millis(500),
        };
        let waits: Vec<_> = (1..=6).map(|failures| policy.wait(failures, 0.0)).collect();
        let millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(
            waits,
            [
                millis(100),
                millis(200),
                millis(400),
                millis(500),
                millis(500),
                None
            ]
        );
        assert_eq!(policy.wait(1, 1.0), millis(75));
    }
}
