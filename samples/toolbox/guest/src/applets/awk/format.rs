//! `printf` and `sprintf`.

use super::text;
use super::value::Value;
use crate::applets::real;

/// Fields are at most so wide.
const WIDTH_MAX: usize = 64 * 1024;

/// What stands between `%` and the letter.
#[derive(Default, Clone, Copy)]
struct Shape {
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// Writes a number with a fraction as C does, with its sign.
pub(super) fn real(value: f64, letter: char, precision: Option<usize>) -> String {
    let sign = if value.is_sign_negative() { "-" } else { "" };
    format!("{sign}{}", real_digits(value, letter, precision))
}

fn real_digits(value: f64, letter: char, precision: Option<usize>) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return "inf".to_owned();
    }
    real::format(value.abs(), letter, precision)
}

/// Fills a format; arguments that are missing are nothing. Numbers within `%s` are written as `numbers`
/// says.
pub(super) fn format(format: &str, arguments: &[Value], numbers: &str) -> Result<String, String> {
    let mut printer = Printer {
        arguments,
        numbers,
        out: String::with_capacity(format.len()),
    };
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        printer.out.push_str(&rest[..at]);
        rest = printer.conversion(&rest[at + 1..])?;
    }
    printer.out.push_str(rest);
    Ok(printer.out)
}

struct Printer<'a> {
    arguments: &'a [Value],
    numbers: &'a str,
    out: String,
}

impl<'a> Printer<'a> {
    fn next(&mut self) -> Value {
        let Some((first, rest)) = self.arguments.split_first() else {
            return Value::Unset;
        };
        self.arguments = rest;
        first.clone()
    }

    fn conversion<'b>(&mut self, text: &'b str) -> Result<&'b str, String> {
        let mut rest = text.trim_start_matches(['-', '0', '+', ' ', '#']);
        let flags = &text[..text.len() - rest.len()];
        let mut shape = Shape {
            left: flags.contains('-'),
            zero: flags.contains('0'),
            plus: flags.contains('+'),
            space: flags.contains(' '),
            alternate: flags.contains('#'),
            ..Shape::default()
        };
        let width = self.size(&mut rest);
        shape.left |= width < 0;
        shape.width = bounded(width.unsigned_abs());
        if let Some(behind) = rest.strip_prefix('.') {
            rest = behind;
            let precision = self.size(&mut rest);
            shape.precision = u64::try_from(precision).ok().map(bounded);
        }
        rest = rest.trim_start_matches(['l', 'h', 'j', 'z', 'q', 'L']);
        let Some(letter) = rest.chars().next() else {
            // A sign at the end is only that.
            self.out.push('%');
            self.out.push_str(text);
            return Ok("");
        };
        self.convert(letter, shape)?;
        Ok(&rest[letter.len_utf8()..])
    }

    /// A width or precision: digits, or `*` for the next argument.
    fn size(&mut self, rest: &mut &str) -> i64 {
        if let Some(behind) = rest.strip_prefix('*') {
            *rest = behind;
            return self.next().number() as i64;
        }
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, behind) = rest.split_at(length);
        *rest = behind;
        digits.parse().unwrap_or(0)
    }

    fn convert(&mut self, letter: char, shape: Shape) -> Result<(), String> {
        match letter {
            '%' => self.out.push('%'),
            's' => {
                let text = self.next().to_text(self.numbers);
                let cut = shape.precision.and_then(|cut| text.char_indices().nth(cut));
                let text = cut.map_or(&*text, |(at, _)| &text[..at]);
                self.pad(text, shape);
            }
            'c' => {
                let text = character(&self.next());
                self.pad(&text, shape);
            }
            'd' | 'i' => {
                let value = self.next().number();
                if value.is_finite() {
                    let digits = format!("{:.0}", value.trunc().abs());
                    let negative = value.trunc() < 0.0;
                    self.number(sign(negative, shape), digits, shape);
                } else {
                    self.fraction(value, 'f', shape);
                }
            }
            'u' | 'o' | 'x' | 'X' => {
                // Negative numbers as in two's complement.
                let value = self.next().number();
                let value = if value < 0.0 {
                    value as i64 as u64
                } else {
                    value as u64
                };
                let (prefix, digits) = match letter {
                    'o' => ("0", format!("{value:o}")),
                    'x' => ("0x", format!("{value:x}")),
                    'X' => ("0X", format!("{value:X}")),
                    _ => ("", value.to_string()),
                };
                let prefix = if shape.alternate && value != 0 {
                    prefix
                } else {
                    ""
                };
                self.number(prefix, digits, shape);
            }
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
                let value = self.next().number();
                self.fraction(value, letter, shape);
            }
            other => return Err(format!("unknown conversion `%{other}`")),
        }
        Ok(())
    }

    fn fraction(&mut self, value: f64, letter: char, shape: Shape) {
        let digits = real_digits(value, letter, shape.precision);
        let shape = Shape {
            precision: None,
            zero: shape.zero && value.is_finite(),
            ..shape
        };
        let negative = value.is_sign_negative() && !value.is_nan();
        self.number(sign(negative, shape), digits, shape);
    }

    fn number(&mut self, prefix: &str, digits: String, shape: Shape) {
        let least = shape.precision.unwrap_or(0);
        let mut digits = format!("{digits:0>least$}");
        if shape.zero && !shape.left && shape.precision.is_none() {
            let least = shape.width.saturating_sub(prefix.len());
            digits = format!("{digits:0>least$}");
        }
        self.pad(&format!("{prefix}{digits}"), shape);
    }

    fn pad(&mut self, text: &str, shape: Shape) {
        let fill = shape.width.saturating_sub(text.chars().count());
        if !shape.left {
            self.out.extend(std::iter::repeat_n(' ', fill));
        }
        self.out.push_str(text);
        if shape.left {
            self.out.extend(std::iter::repeat_n(' ', fill));
        }
    }
}

fn bounded(size: u64) -> usize {
    usize::try_from(size).unwrap_or(WIDTH_MAX).min(WIDTH_MAX)
}

fn sign(negative: bool, shape: Shape) -> &'static str {
    match (negative, shape.plus, shape.space) {
        (true, ..) => "-",
        (false, true, _) => "+",
        (false, false, true) => " ",
        (false, false, false) => "",
    }
}

/// The character of a number, or the first of a text.
fn character(value: &Value) -> String {
    let code = match value {
        Value::Number(code) => *code,
        Value::Input(text) => match text::whole_number(text) {
            Some(code) => code,
            None => return text.chars().take(1).collect(),
        },
        Value::Text(text) => return text.chars().take(1).collect(),
        Value::Unset | Value::Regex(_) | Value::Array(_) | Value::Perhaps(_) => {
            return String::new();
        }
    };
    let code = code as u32;
    match u8::try_from(code) {
        Ok(byte) if byte < 0x80 => char::from(byte).to_string(),
        _ => char::from_u32(code).map_or_else(String::new, |c| c.to_string()),
    }
}
