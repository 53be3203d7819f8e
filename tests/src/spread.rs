//! What several values of one figure come down to.

use std::fmt;

/// Median and range of several values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub least: f64,
    /// The one in the middle; of an even number, the upper of the two.
    pub median: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Looks at the finite ones of the values; `None` when there is none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let finite = values.iter().copied().filter(|value| value.is_finite());
        let mut sorted: Vec<f64> = finite.collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            least: *sorted.first()?,
            median: *sorted.get(sorted.len() / 2)?,
            most: *sorted.last()?,
        })
    }
}

/// The median and, where the values differ, the range.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short(self.median))?;
        if self.least == self.most {
            return Ok(());
        }
        write!(f, " ({}–{})", short(self.least), short(self.most))
    }
}

/// Returns a number with the three digits that count, large ones with a mark at each thousand.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{value:.4}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        ..1e15 => grouped(value.round() as i64),
        _ => format!("{value:.2e}"),
    }
}

fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("-{text}") } else { text }
}

/// Returns the value below which `share` of all lie, by nearest rank; `None` of no value.
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(last)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(100.0));
        assert_eq!(percentile(&values, 0.99), Some(198.0));
        assert_eq!(percentile(&values, 1.0), Some(200.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn a_spread_leaves_out_what_was_not_measured() {
        let spread = Spread::of(&[3.0, f64::NAN, 1.0]).expect("two are finite");
        assert_eq!(spread.to_string(), "3.00 (1.00–3.00)");
        assert_eq!(
            Spread::of(&[7.0, 7.0]).map(|it| it.to_string()),
            Some("7.00".into())
        );
        assert_eq!(Spread::of(&[f64::INFINITY]), None);
    }

    #[test]
    fn a_number_has_the_digits_that_count() {
        let told = [0.0, 0.012_34, 1.234, 56.78, 999.4, 12_345.6, -1_234_567.0];
        let told = told.map(short);
        let expected = ["0", "0.0123", "1.23", "56.8", "999", "12,346", "-1,234,567"];
        assert_eq!(told, expected);
    }
}
