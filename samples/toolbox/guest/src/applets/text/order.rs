//! `sort`.

use std::cmp::Ordering;

use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::stream::Mode;

/// Long names of options.
const LONG: &[(&str, char)] = &[
    ("reverse", 'r'),
    ("numeric-sort", 'n'),
    ("unique", 'u'),
    ("key", 'k'),
    ("field-separator", 't'),
    ("output", 'o'),
    ("check", 'c'),
    ("ignore-case", 'f'),
    ("version-sort", 'V'),
    ("human-numeric-sort", 'h'),
    ("stable", 's'),
];

/// How keys are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Manner {
    numeric: bool,
    human: bool,
    version: bool,
    ignores_case: bool,
    skips_blanks: bool,
    reversed: bool,
}

/// A part of the line that is compared: fields and characters, from 1; 0 is the end.
struct Key {
    first: (usize, usize),
    last: Option<(usize, usize)>,
    manner: Manner,
}

pub(super) async fn sort(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "rnuk:t:o:cfVhsbdgimzM", LONG)?;
    let mut manner = Manner::default();
    for (letter, _) in options.given() {
        manner.add(letter);
    }
    let separator = options.value('t').and_then(|text| text.chars().next());
    let keys: Vec<Key> = options
        .values('k')
        .map(|text| Key::read(text, manner))
        .collect::<Result<_, _>>()?;
    let lines = super::lines(&context, &options.operands).await?;
    let mut lines: Vec<String> = lines
        .iter()
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let by_keys = |a: &String, b: &String| -> Ordering {
        if keys.is_empty() {
            return manner.compare(a, b);
        }
        keys.iter()
            .map(|key| {
                let (a, b) = (key.of(a, separator), key.of(b, separator));
                key.manner.compare(&a, &b)
            })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    let in_order = |a: &String, b: &String| {
        let order = by_keys(a, b);
        if order.is_ne() || options.has('s') || options.has('u') {
            return order;
        }
        if manner.reversed { b.cmp(a) } else { a.cmp(b) }
    };
    if options.has('c') {
        let disorder = lines
            .windows(2)
            .find(|pair| in_order(&pair[0], &pair[1]).is_gt());
        return match disorder {
            Some(pair) => Err(Failure::new(format!("disorder: {}", pair[1]))),
            None => Ok(0),
        };
    }
    lines.sort_by(in_order);
    if options.has('u') {
        lines.dedup_by(|a, b| by_keys(a, b).is_eq());
    }
    let mut text = String::new();
    for line in &lines {
        text.push_str(line);
        text.push('\n');
    }
    match options.value('o') {
        Some(name) => {
            context
                .create(name, Mode::Write)?
                .write(text.as_bytes())
                .await?
        }
        None => context.write(text).await?,
    }
    context.end(0).await
}

impl Manner {
    fn add(&mut self, letter: char) {
        match letter {
            'n' | 'g' => self.numeric = true,
            'h' => self.human = true,
            'V' => self.version = true,
            'f' => self.ignores_case = true,
            'b' => self.skips_blanks = true,
            'r' => self.reversed = true,
            _ => {}
        }
    }

    fn compare(self, a: &str, b: &str) -> Ordering {
        let order = if self.human {
            number(a, true).total_cmp(&number(b, true))
        } else if self.numeric {
            number(a, false).total_cmp(&number(b, false))
        } else if self.version {
            by_version(a, b)
        } else {
            let trim = |text: &str| match self.skips_blanks {
                true => text.trim_start().to_owned(),
                false => text.to_owned(),
            };
            let (a, b) = (trim(a), trim(b));
            if self.ignores_case {
                a.to_uppercase().cmp(&b.to_uppercase())
            } else {
                a.cmp(&b)
            }
        };
        if self.reversed {
            order.reverse()
        } else {
            order
        }
    }
}

/// The number at the start of a text, zero when there is none.
fn number(text: &str, human: bool) -> f64 {
    let text = text.trim_start();
    let end = text
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || *c == '.' || (*at == 0 && *c == '-')))
        .map_or(text.len(), |(at, _)| at);
    let value = text[..end].parse().unwrap_or(0.0);
    let unit = if human {
        text[end..].chars().next()
    } else {
        None
    };
    let power = unit.and_then(|unit| "KMGTP".find(unit.to_ascii_uppercase()));
    let exponent = power.map_or(0, |at| i32::try_from(at + 1).unwrap_or(0));
    value * 1024_f64.powi(exponent)
}

/// Runs of digits are compared as numbers.
fn by_version(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).count();
        match (digits(a), digits(b)) {
            (0, _) | (_, 0) => match (a.chars().next(), b.chars().next()) {
                (Some(x), Some(y)) if x == y => {
                    a = &a[x.len_utf8()..];
                    b = &b[y.len_utf8()..];
                }
                (x, y) => return x.cmp(&y),
            },
            (n, m) => {
                let (x, y) = (
                    a[..n].trim_start_matches('0'),
                    b[..m].trim_start_matches('0'),
                );
                let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
                if order.is_ne() {
                    return order;
                }
                (a, b) = (&a[n..], &b[m..]);
            }
        }
    }
}

impl Key {
    /// Reads `FIELD[.CHAR][LETTERS][,FIELD[.CHAR][LETTERS]]`.
    fn read(text: &str, general: Manner) -> Result<Self, Failure> {
        let invalid = || Failure::usage(format!("invalid key `{text}`"));
        let mut own = Manner::default();
        let mut place = |part: &str| -> Result<(usize, usize), Failure> {
            let digits = part.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            part[digits.len()..]
                .chars()
                .for_each(|letter| own.add(letter));
            let (field, char) = digits.split_once('.').unwrap_or((digits, "0"));
            let number = |text: &str| text.parse::<usize>().map_err(|_| invalid());
            Ok((number(field)?, number(char)?))
        };
        let (first, last) = match text.split_once(',') {
            Some((first, last)) => (place(first)?, Some(place(last)?)),
            None => (place(text)?, None),
        };
        if first.0 == 0 {
            return Err(invalid());
        }
        let manner = if own == Manner::default() {
            general
        } else {
            own
        };
        Ok(Self {
            first,
            last,
            manner,
        })
    }

    /// The part of a line that this key is.
    fn of(&self, line: &str, separator: Option<char>) -> String {
        let fields = fields(line, separator);
        let start = match fields.get(self.first.0 - 1) {
            Some((start, end)) => skip(line, *start, *end, self.first.1.saturating_sub(1)),
            None => line.len(),
        };
        let end = match self.last {
            None => line.len(),
            Some((field, char)) => match fields.get(field.saturating_sub(1)) {
                Some((_, end)) if char == 0 => *end,
                Some((start, end)) => skip(line, *start, *end, char),
                None => line.len(),
            },
        };
        line.get(start..end.max(start))
            .unwrap_or_default()
            .to_owned()
    }
}

fn skip(line: &str, start: usize, end: usize, chars: usize) -> usize {
    let field = &line[start..end];
    field
        .char_indices()
        .nth(chars)
        .map_or(end, |(at, _)| start + at)
}

/// Where fields begin and end. Without a separator a field takes the blanks before it.
fn fields(line: &str, separator: Option<char>) -> Vec<(usize, usize)> {
    let mut fields = Vec::new();
    let mut start = 0;
    if let Some(separator) = separator {
        for (at, _) in line.match_indices(separator) {
            fields.push((start, at));
            start = at + separator.len_utf8();
        }
        fields.push((start, line.len()));
        return fields;
    }
    let mut inside = false;
    for (at, c) in line.char_indices() {
        let blank = c == ' ' || c == '\t';
        if blank && inside {
            fields.push((start, at));
            start = at;
        }
        inside = !blank;
    }
    fields.push((start, line.len()));
    fields
}
