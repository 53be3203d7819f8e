//! Times as objects carry them: whole seconds.

use jiff::Timestamp;

/// Returns the second that a time lies in. Rounded down: nothing happens in the future.
pub(crate) fn second_of(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Returns the second that it is, as events and conditions tell it.
pub(crate) fn now() -> String {
    second_of(Timestamp::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who reads an event of which the age is negative doubts the clock.
    #[test]
    fn nothing_happens_in_the_future() {
        for (time, second) in [
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T00:00:00.499Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T00:00:59.999999999Z", "2026-01-01T00:00:59Z"),
        ] {
            let parsed = time.parse().expect("a time");
            assert_eq!(second_of(parsed).to_string(), second, "{time}");
        }
    }
}
