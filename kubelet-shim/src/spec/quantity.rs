//! Kubernetes quantities: `100m`, `1.5`, `64Mi`, `2e3`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Why a quantity is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuantityError {
    /// Not a number with a known suffix.
    #[error("is no quantity")]
    Malformed,
    /// Below zero.
    #[error("is negative")]
    Negative,
    /// More than 64 bits hold.
    #[error("is out of range")]
    OutOfRange,
}

/// Longest text a quantity may have; real ones have under twenty characters.
const TEXT_MAX: usize = 64;

/// Returns the whole units, rounded up as the API server does.
pub(crate) fn units(quantity: &Quantity) -> Result<u64, QuantityError> {
    scaled(&quantity.0, 1)
}

/// Returns thousandths, rounded up.
pub(crate) fn milli(quantity: &Quantity) -> Result<u64, QuantityError> {
    scaled(&quantity.0, 1000)
}

fn scaled(text: &str, scale: u128) -> Result<u64, QuantityError> {
    if text.len() > TEXT_MAX {
        return Err(QuantityError::Malformed);
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if unsigned.starts_with('-') {
        return Err(QuantityError::Negative);
    }
    let digits_end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(QuantityError::Malformed);
    }
    let mantissa = parse_digits(whole, fraction)?;
    let (multiplier, tens) = suffix_factor(suffix)?;
    // value = mantissa × multiplier × 10^(tens − fraction digits) × scale
    let exponent = tens - i32::try_from(fraction.len()).map_err(|_| QuantityError::Malformed)?;
    let value = mantissa
        .checked_mul(multiplier)
        .and_then(|v| v.checked_mul(scale))
        .ok_or(QuantityError::OutOfRange)?;
    let value = if exponent >= 0 {
        power_of_ten(exponent).and_then(|p| value.checked_mul(p))
    } else {
        Some(power_of_ten(-exponent).map_or(u128::from(value > 0), |p| value.div_ceil(p)))
    };
    value
        .and_then(|v| u64::try_from(v).ok())
        .ok_or(QuantityError::OutOfRange)
}

fn parse_digits(whole: &str, fraction: &str) -> Result<u128, QuantityError> {
    let mut mantissa: u128 = 0;
    for digit in whole.chars().chain(fraction.chars()) {
        let digit = digit.to_digit(10).ok_or(QuantityError::Malformed)?;
        mantissa = mantissa
            .checked_mul(10)
            .and_then(|m| m.checked_add(u128::from(digit)))
            .ok_or(QuantityError::OutOfRange)?;
    }
    Ok(mantissa)
}

/// Returns a binary multiplier and a power of ten.
fn suffix_factor(suffix: &str) -> Result<(u128, i32), QuantityError> {
    let factor = match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        other => {
            let exponent = other
                .strip_prefix(['e', 'E'])
                .ok_or(QuantityError::Malformed)?;
            (
                1,
                exponent
                    .parse::<i8>()
                    .map_err(|_| QuantityError::Malformed)?
                    .into(),
            )
        }
    };
    Ok(factor)
}

fn power_of_ten(exponent: i32) -> Option<u128> {
    10u128.checked_pow(u32::try_from(exponent).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Result<(u64, u64), QuantityError>) {
        let quantity = Quantity(text.to_owned());
        let found = units(&quantity).and_then(|u| Ok((u, milli(&quantity)?)));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        check("0", Ok((0, 0)));
        check("1", Ok((1, 1000)));
        check("100m", Ok((1, 100)));
        check("1.5", Ok((2, 1500)));
        check(".5", Ok((1, 500)));
        check("64Mi", Ok((67_108_864, 67_108_864_000)));
        check("2k", Ok((2000, 2_000_000)));
        check("1e3", Ok((1000, 1_000_000)));
        check("1E3", Ok((1000, 1_000_000)));
        check("12e-1", Ok((2, 1200)));
        check("1n", Ok((1, 1)));
        check("1.5Gi", Ok((1_610_612_736, 1_610_612_736_000)));
        for bad in ["", "m", "1.2.3", "1Zi", "1 Mi", "ten", "1e", "e3", "."] {
            check(bad, Err(QuantityError::Malformed));
        }
        check("-1", Err(QuantityError::Negative));
        check("100E", Err(QuantityError::OutOfRange));
        check("1e99", Err(QuantityError::OutOfRange));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in ".{0,80}") {
            let _ = units(&Quantity(text.clone()));
            let _ = milli(&Quantity(text));
        }

        #[test]
        fn whole_numbers_stay_what_they_are(n in 0u64..u64::MAX / 1000) {
            prop_assert_eq!(milli(&Quantity(n.to_string())), Ok(n * 1000));
        }
    }
}
