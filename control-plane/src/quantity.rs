//! Kubernetes' quantities: `500m`, `1.5Gi`, `1e3`, kept exactly and written in canonical form.

use std::fmt;

/// What the stock server says to a quantity that is none.
pub(crate) const FORMAT_MESSAGE: &str = "quantities must match the regular expression \
     '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// A fixed-point number with the family of suffixes it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantity {
    nano: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

const NANO: i128 = 1_000_000_000;

/// Larger numbers are capped, as the stock server does: 2⁶³ − 1.
const NANO_MAX: i128 = i64::MAX as i128 * NANO;

const BINARY: &[(&str, i128)] = &[
    ("Ei", 1 << 60),
    ("Pi", 1 << 50),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
];

/// Suffixes with their value in billionths, largest first.
const DECIMAL: &[(&str, i128)] = &[
    ("E", NANO * 1_000_000_000_000_000_000),
    ("P", NANO * 1_000_000_000_000_000),
    ("T", NANO * 1_000_000_000_000),
    ("G", NANO * 1_000_000_000),
    ("M", NANO * 1_000_000),
    ("k", NANO * 1_000),
    ("", NANO),
    ("m", 1_000_000),
    ("u", 1_000),
    ("n", 1),
];

impl Quantity {
    /// Reads a quantity; nothing if the text is none.
    pub(crate) fn parse(text: &str) -> Option<Quantity> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (scale, format) = suffix_scale(suffix)?;
        let magnitude = scaled(number, scale)?.min(NANO_MAX);
        let nano = if text.starts_with('-') {
            -magnitude
        } else {
            magnitude
        };
        Some(Quantity { nano, format })
    }

    /// Returns a whole number.
    pub(crate) fn whole(number: i64) -> Quantity {
        Quantity {
            nano: i128::from(number) * NANO,
            format: Format::Decimal,
        }
    }

    /// Returns the number in thousandths, rounded up.
    pub(crate) fn milli(self) -> i64 {
        saturate(div_ceil(self.nano, 1_000_000))
    }

    /// Returns the number rounded up to thousandths, if it is finer.
    pub(crate) fn rounded_to_milli(self) -> Option<Quantity> {
        const MILLI: i128 = 1_000_000;
        let nano = div_ceil(self.nano, MILLI) * MILLI;
        (nano != self.nano).then_some(Quantity { nano, ..self })
    }

    /// Returns the number rounded up to a whole one.
    pub(crate) fn rounded_up(self) -> Quantity {
        let nano = (div_ceil(self.nano, NANO) * NANO).min(NANO_MAX);
        Quantity { nano, ..self }
    }

    pub(crate) fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Says whether the number is a whole one.
    pub(crate) fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    /// Says whether the number is a whole number of times `unit`, none included.
    pub(crate) fn is_multiple_of(self, unit: Quantity) -> bool {
        unit.nano > 0 && self.nano % unit.nano == 0
    }

    /// Adds two amounts; the sum is written in the family of the first that is not zero.
    pub(crate) fn plus(self, other: Quantity) -> Quantity {
        let nano = (self.nano + other.nano).clamp(-NANO_MAX, NANO_MAX);
        let format = if self.nano == 0 {
            other.format
        } else {
            self.format
        };
        Quantity { nano, format }
    }

    /// Takes an amount away from another.
    pub(crate) fn minus(self, other: Quantity) -> Quantity {
        let nano = (self.nano - other.nano).clamp(-NANO_MAX, NANO_MAX);
        Quantity { nano, ..self }
    }

    /// Orders by amount, whatever the suffixes.
    pub(crate) fn exceeds(self, other: Quantity) -> bool {
        self.nano > other.nano
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::Binary && self.nano % NANO == 0 && self.nano.abs() >= 1024 * NANO
        {
            let units = self.nano / NANO;
            let fits = |&&(_, scale): &&(&str, i128)| units % scale == 0;
            return match BINARY.iter().find(fits) {
                Some((suffix, scale)) => write!(f, "{}{suffix}", units / scale),
                None => write!(f, "{units}"),
            };
        }
        let fits = |&&(_, scale): &&(&str, i128)| self.nano % scale == 0;
        let (suffix, scale) = DECIMAL
            .iter()
            .find(fits)
            .expect("one billionth divides every number");
        let number = self.nano / scale;
        match self.format {
            Format::Exponent if *scale != NANO => {
                write!(f, "{number}e{}", exponent(*scale))
            }
            _ => write!(f, "{number}{suffix}"),
        }
    }
}

fn exponent(mut scale: i128) -> i32 {
    let mut exponent = -9;
    while scale > 1 {
        scale /= 10;
        exponent += 1;
    }
    exponent
}

/// Returns what a suffix multiplies with, as a fraction of billionths.
fn suffix_scale(suffix: &str) -> Option<(Scale, Format)> {
    if let Some((_, scale)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((
            Scale {
                nano: scale * NANO,
                tenths: 0,
            },
            Format::Binary,
        ));
    }
    if let Some((_, nano)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((
            Scale {
                nano: *nano,
                tenths: 0,
            },
            Format::Decimal,
        ));
    }
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = digits.parse().ok()?;
    let nano = 10_i128.checked_pow(u32::try_from(power.clamp(-9, 18) + 9).ok()?)?;
    // Smaller powers than 10⁻⁹ round up to one billionth, larger ones are capped by the limit.
    Some((
        Scale {
            nano,
            tenths: power.saturating_sub(power.clamp(-9, 18)),
        },
        Format::Exponent,
    ))
}

/// Invariant: the number is worth `nano` × 10^`tenths` billionths a unit.
struct Scale {
    nano: i128,
    tenths: i32,
}

/// Multiplies decimal digits with a scale, rounding away from zero; nothing if they are none.
fn scaled(number: &str, scale: Scale) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let mut total: i128 = 0;
    for digit in whole.bytes() {
        total = total
            .checked_mul(10)?
            .checked_add(i128::from(digit - b'0') * scale.nano)?;
        total = total.min(NANO_MAX * 2);
    }
    let (mut unit, mut rest) = (scale.nano, false);
    for digit in fraction.bytes().map(|digit| i128::from(digit - b'0')) {
        // Below a billionth only "something" is left, which rounds up.
        rest |= digit != 0 && unit * digit % 10 != 0;
        total += unit * digit / 10;
        rest |= unit % 10 != 0 && digit != 0;
        unit /= 10;
    }
    match scale.tenths {
        0 => Some(total + i128::from(rest)),
        above if above > 0 => Some(if total == 0 { 0 } else { NANO_MAX }),
        _ => Some(i128::from(total != 0 || rest)),
    }
}

fn div_ceil(number: i128, by: i128) -> i128 {
    number.div_euclid(by) + i128::from(number.rem_euclid(by) != 0)
}

fn saturate(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, canonical: Option<&str>) {
        let found = Quantity::parse(text).map(|quantity| quantity.to_string());
        assert_eq!(found.as_deref(), canonical, "{text}");
    }

    #[test]
    fn quantities_have_one_canonical_form() {
        for (text, canonical) in [
            ("0", "0"),
            ("1", "1"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("1E3", "1e3"),
            ("129M", "129M"),
            ("0.1m", "100u"),
            ("-1", "-1"),
            ("+2k", "2k"),
            ("1e-12", "1e-9"),
            ("100E", "9223372036854775807"),
        ] {
            check(text, Some(canonical));
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "", "x", "1x", "1.2.3", "--1", "1ki", "1 Gi", "Gi", ".", "1e", "1e1.5",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn amounts_round_up() {
        let quantity = |text| Quantity::parse(text).expect("a quantity");
        assert_eq!(quantity("100u").milli(), 1);
        assert_eq!(quantity("-0.5m").milli(), 0);
        assert_eq!(quantity("1500m").rounded_up().to_string(), "2");
        assert_eq!(quantity("1Gi").rounded_up().to_string(), "1Gi");
        assert!(quantity("1Gi").exceeds(quantity("1G")));
    }

    proptest! {
        #[test]
        fn the_canonical_form_reads_back_as_itself(text in "[+-]?[0-9]{0,25}\\.?[0-9]{0,12}(m|k|M|Gi|Ki|e[-+]?[0-9]{1,3})?") {
            if let Some(quantity) = Quantity::parse(&text) {
                let again = Quantity::parse(&quantity.to_string()).expect("canonical text parses");
                prop_assert_eq!(again.nano, quantity.nano);
                prop_assert_eq!(again.to_string(), quantity.to_string());
            }
        }

        #[test]
        fn no_text_breaks_the_reader(text in ".*") {
            let _ = Quantity::parse(&text);
        }
    }
}
