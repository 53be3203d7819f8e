//! Writes numbers with fractions as C's `%f`, `%e` and `%g` do.

/// Digits behind the point unless a precision is given.
const PLACES: usize = 6;

/// Writes a number that is not negative.
pub(crate) fn format(value: f64, letter: char, precision: Option<usize>) -> String {
    let places = precision.unwrap_or(PLACES);
    let text = match letter {
        'f' | 'F' => format!("{value:.places$}"),
        'e' | 'E' => scientific(value, places),
        _ => general(value, places.max(1)),
    };
    if letter.is_uppercase() {
        text.to_uppercase()
    } else {
        text
    }
}

/// The exponent has a sign and at least two digits.
fn scientific(value: f64, places: usize) -> String {
    let text = format!("{value:.places$e}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The shorter of both, without zeros at the end.
fn general(value: f64, digits: usize) -> String {
    if !value.is_finite() || value == 0.0 {
        return format!("{value}").to_lowercase();
    }
    let text = format!("{value:.*e}", digits - 1);
    let exponent = text
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok());
    let exponent: i32 = exponent.unwrap_or(0);
    let most = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= most {
        let text = scientific(value, digits - 1);
        return match text.split_once('e') {
            Some((digits, exponent)) => format!("{}e{exponent}", without_zeros(digits)),
            None => text,
        };
    }
    let places = usize::try_from(most - 1 - exponent).unwrap_or(0);
    without_zeros(&format!("{value:.places$}")).to_owned()
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_look_as_in_c() {
        for (value, letter, precision, expected) in [
            (3.14159, 'f', None, "3.141590"),
            (3.14159, 'f', Some(2), "3.14"),
            (12345.678, 'e', None, "1.234568e+04"),
            (0.00012, 'E', Some(1), "1.2E-04"),
            (100_000.0, 'g', None, "100000"),
            (1_000_000.0, 'g', None, "1e+06"),
            (0.0001, 'g', None, "0.0001"),
            (0.25, 'g', None, "0.25"),
            (0.0, 'g', None, "0"),
        ] {
            assert_eq!(super::format(value, letter, precision), expected);
        }
    }
}
