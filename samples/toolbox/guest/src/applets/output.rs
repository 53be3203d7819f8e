//! `echo`, `printf`, `true`, `false`, `yes`, `seq`.

use super::{escapes, real};
use crate::applet::{Context, Failure, Outcome};

applets! {
    "echo" => echo,
    "printf" => printf,
    "true" => succeed,
    "false" => fail,
    "yes" => yes,
    "seq" => seq,
}

async fn succeed(_context: Context) -> Outcome {
    Ok(0)
}

async fn fail(_context: Context) -> Outcome {
    Ok(1)
}

/// As busybox has it: `-n`, `-e`, `-E`; escapes only with `-e`.
async fn echo(context: Context) -> Outcome {
    let (mut ends_line, mut escaped) = (true, false);
    let mut words = context.arguments();
    while let Some((first, rest)) = words.split_first() {
        let letters = first.strip_prefix('-').unwrap_or_default();
        if letters.is_empty() || !letters.chars().all(|c| matches!(c, 'n' | 'e' | 'E')) {
            break;
        }
        for letter in letters.chars() {
            match letter {
                'n' => ends_line = false,
                letter => escaped = letter == 'e',
            }
        }
        words = rest;
    }
    let text = words.join(" ");
    let bytes = if escaped {
        let (bytes, stopped) = escapes::unescape_until_stop(&text);
        ends_line &= !stopped;
        bytes
    } else {
        text.into_bytes()
    };
    context.write(bytes).await?;
    if ends_line {
        context.write("\n").await?;
    }
    context.end(0).await
}

async fn yes(context: Context) -> Outcome {
    let words = match context.arguments() {
        [] => "y".to_owned(),
        words => words.join(" "),
    };
    loop {
        context.line(&words).await?;
    }
}

async fn seq(context: Context) -> Outcome {
    let (mut separator, mut wide) = ("\n".to_owned(), false);
    let mut words = context.arguments();
    // Negative numbers are no options.
    while let Some((first, rest)) = words.split_first() {
        match (first.as_str(), rest) {
            ("-w", _) => (wide, words) = (true, rest),
            ("-s", [value, rest @ ..]) => (separator, words) = (value.clone(), rest),
            (joined, _) if joined.len() > 2 && joined.starts_with("-s") => {
                separator = joined[2..].to_owned();
                words = rest;
            }
            _ => break,
        }
    }
    let mut numbers = Vec::new();
    for word in words {
        let parsed = word.parse::<f64>().ok().filter(|number| number.is_finite());
        numbers.push(parsed.ok_or_else(|| Failure::new(format!("invalid number `{word}`")))?);
    }
    let (first, step, last) = match numbers.as_slice() {
        [last] => (1.0, 1.0, *last),
        [first, last] => (*first, 1.0, *last),
        [first, step, last] => (*first, *step, *last),
        _ => return Err(Failure::usage("seq [FIRST [STEP]] LAST")),
    };
    if step == 0.0 {
        return Err(Failure::new("the step is zero"));
    }
    let places = words.iter().map(|word| decimals(word)).max().unwrap_or(0);
    let shown = |value: f64| format!("{value:.places$}");
    let width = if wide {
        shown(first).len().max(shown(last).len())
    } else {
        0
    };
    let mut index = 0_u64;
    loop {
        let value = step.mul_add(index as f64, first);
        // Half a step of the last place is the error that sums have.
        let beyond = (value - last) * step.signum() > step.abs() * 1e-9;
        if beyond {
            break;
        }
        if index > 0 {
            context.write(&separator).await?;
        }
        context.write(format!("{:0>width$}", shown(value))).await?;
        index += 1;
    }
    if index > 0 {
        context.write("\n").await?;
    }
    context.end(0).await
}

fn decimals(word: &str) -> usize {
    word.split_once('.').map_or(0, |(_, digits)| digits.len())
}

async fn printf(context: Context) -> Outcome {
    let Some((format, arguments)) = context.arguments().split_first() else {
        return Err(Failure::usage("a format is expected"));
    };
    let mut printer = Printer {
        arguments,
        output: Vec::new(),
        problems: Vec::new(),
        stopped: false,
    };
    loop {
        let before = printer.arguments.len();
        printer.print(format)?;
        let used = printer.arguments.len() < before;
        if printer.arguments.is_empty() || !used || printer.stopped {
            break;
        }
    }
    context.write(&printer.output).await?;
    for problem in &printer.problems {
        context.complain(&Failure::new(problem)).await?;
    }
    context.end(i32::from(!printer.problems.is_empty())).await
}

/// Prints a format with its arguments, again until they are used up.
struct Printer<'a> {
    arguments: &'a [String],
    output: Vec<u8>,
    problems: Vec<String>,
    stopped: bool,
}

/// What stands between `%` and the letter.
#[derive(Default)]
struct Shape {
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// Fields are at most so wide.
const WIDTH_MAX: usize = 64 * 1024;

impl<'a> Printer<'a> {
    fn print(&mut self, format: &str) -> Result<(), Failure> {
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            let (plain, behind) = rest.split_at(at);
            self.literal(plain);
            if self.stopped {
                return Ok(());
            }
            rest = self.conversion(&behind[1..])?;
        }
        self.literal(rest);
        Ok(())
    }

    fn literal(&mut self, text: &str) {
        let (bytes, stopped) = escapes::unescape_until_stop(text);
        self.output.extend_from_slice(&bytes);
        self.stopped |= stopped;
    }

    fn argument(&mut self) -> Option<&'a str> {
        let (first, rest) = self.arguments.split_first()?;
        self.arguments = rest;
        Some(first)
    }

    fn conversion<'b>(&mut self, text: &'b str) -> Result<&'b str, Failure> {
        let mut shape = Shape::default();
        let mut rest = text.trim_start_matches(['-', '0', '+', ' ', '#']);
        let flags = &text[..text.len() - rest.len()];
        shape.left = flags.contains('-');
        shape.zero = flags.contains('0');
        shape.plus = flags.contains('+');
        shape.space = flags.contains(' ');
        shape.alternate = flags.contains('#');
        let width = self.size(&mut rest);
        if width < 0 {
            shape.left = true;
        }
        shape.width = usize::try_from(width.unsigned_abs())
            .unwrap_or(0)
            .min(WIDTH_MAX);
        if let Some(behind) = rest.strip_prefix('.') {
            rest = behind;
            let precision = self.size(&mut rest);
            shape.precision = usize::try_from(precision)
                .ok()
                .map(|size| size.min(WIDTH_MAX));
        }
        rest = rest.trim_start_matches(['l', 'h', 'j', 'z', 'q', 'L']);
        let Some(letter) = rest.chars().next() else {
            return Err(Failure::new("a letter is expected after `%`"));
        };
        self.convert(letter, &shape)?;
        Ok(&rest[letter.len_utf8()..])
    }

    /// A width or precision: digits, or `*` for the next argument.
    fn size(&mut self, rest: &mut &str) -> i64 {
        if let Some(behind) = rest.strip_prefix('*') {
            *rest = behind;
            return self
                .argument()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0);
        }
        let length = rest.chars().take_while(char::is_ascii_digit).count();
        let (digits, behind) = rest.split_at(length);
        *rest = behind;
        digits.parse().unwrap_or(0)
    }

    fn convert(&mut self, letter: char, shape: &Shape) -> Result<(), Failure> {
        match letter {
            '%' => self.output.push(b'%'),
            's' => {
                let text = self.argument().unwrap_or_default();
                let cut = shape.precision.unwrap_or(usize::MAX);
                let text: String = text.chars().take(cut).collect();
                self.pad(text.as_bytes(), text.chars().count(), shape);
            }
            'b' => {
                let text = self.argument().unwrap_or_default();
                let (bytes, stopped) = escapes::unescape_until_stop(text);
                self.stopped |= stopped;
                self.pad(&bytes, bytes.len(), shape);
            }
            'c' => {
                let text = self.argument().unwrap_or_default();
                let text: String = text.chars().take(1).collect();
                self.pad(text.as_bytes(), text.len(), shape);
            }
            'q' => {
                let text = crate::shell::quote(self.argument().unwrap_or_default());
                self.pad(text.as_bytes(), text.len(), shape);
            }
            'd' | 'i' => {
                let value = self.integer();
                let sign = match (value < 0, shape.plus, shape.space) {
                    (true, ..) => "-",
                    (false, true, _) => "+",
                    (false, false, true) => " ",
                    (false, false, false) => "",
                };
                self.number(sign, value.unsigned_abs().to_string(), shape);
            }
            'u' | 'o' | 'x' | 'X' => {
                let value = self.integer() as u64;
                let (prefix, digits) = match letter {
                    'o' => ("0", format!("{value:o}")),
                    'x' => ("0x", format!("{value:x}")),
                    'X' => ("0X", format!("{value:X}")),
                    _ => ("", value.to_string()),
                };
                let prefix = if shape.alternate { prefix } else { "" };
                self.number(prefix, digits, shape);
            }
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' => self.real(letter, shape),
            other => return Err(Failure::new(format!("unknown conversion `%{other}`"))),
        }
        Ok(())
    }

    fn integer(&mut self) -> i64 {
        let Some(word) = self.argument() else {
            return 0;
        };
        if let Some(letter) = word.strip_prefix(['\'', '"']) {
            return letter.chars().next().map_or(0, |c| i64::from(u32::from(c)));
        }
        let text = word.trim();
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (radix, digits) = match digits.as_bytes() {
            [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
            [b'0', _, ..] => (8, &digits[1..]),
            _ => (10, digits),
        };
        let length = digits.chars().take_while(|c| c.is_digit(radix)).count();
        let value = i64::from_str_radix(&digits[..length], radix)
            .or_else(|_| u64::from_str_radix(&digits[..length], radix).map(|value| value as i64));
        if (value.is_err() && !word.is_empty()) || length < digits.len() {
            self.problems.push(format!("invalid number `{word}`"));
        }
        let value = value.unwrap_or(0);
        if negative {
            value.wrapping_neg()
        } else {
            value
        }
    }

    fn number(&mut self, prefix: &str, digits: String, shape: &Shape) {
        let least = shape.precision.unwrap_or(0);
        let digits = format!("{digits:0>least$}");
        let fills = shape.zero && !shape.left && shape.precision.is_none();
        let least = shape.width.saturating_sub(prefix.len());
        let digits = if fills {
            format!("{digits:0>least$}")
        } else {
            digits
        };
        let text = format!("{prefix}{digits}");
        self.pad(text.as_bytes(), text.len(), shape);
    }

    fn real(&mut self, letter: char, shape: &Shape) {
        let word = self.argument().unwrap_or("0");
        let value: f64 = word.trim().parse().unwrap_or_else(|_| {
            self.problems.push(format!("invalid number `{word}`"));
            0.0
        });
        let text = real::format(value.abs(), letter, shape.precision);
        let sign = match (value.is_sign_negative(), shape.plus) {
            (true, _) => "-",
            (false, true) => "+",
            (false, false) => "",
        };
        let shape = Shape {
            precision: None,
            ..*shape
        };
        self.number(sign, text, &shape);
    }

    fn pad(&mut self, bytes: &[u8], columns: usize, shape: &Shape) {
        let fill = vec![b' '; shape.width.saturating_sub(columns)];
        if !shape.left {
            self.output.extend_from_slice(&fill);
        }
        self.output.extend_from_slice(bytes);
        if shape.left {
            self.output.extend_from_slice(&fill);
        }
    }
}
