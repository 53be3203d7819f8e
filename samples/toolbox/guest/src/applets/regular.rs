//! POSIX regular expressions, written as the ones of the `regex-lite` crate.
//!
//! Two things differ from POSIX: of alternatives the first that matches is taken, not the longest, and
//! there are no back-references in patterns, which are refused.

use regex_lite::{Regex, RegexBuilder};

use crate::applet::Failure;

/// A compiled expression may take this much memory.
const COMPILED_BYTES_MAX: usize = 4 << 20;

/// How an expression is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// As in `grep` and `sed`: brackets and bars are special with a backslash.
    Basic,
    /// As in `grep -E` and `sed -E`.
    Extended,
    /// As in `awk`: extended, and with the escapes of its texts, which count within sets too.
    Awk,
    /// No expression but text.
    Fixed,
}

/// Whether upper and lower case differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Matters,
    Ignored,
}

/// Compiles an expression.
pub(crate) fn compile(text: &str, dialect: Dialect, case: Case) -> Result<Regex, Failure> {
    let translated = match dialect {
        Dialect::Fixed => regex_lite::escape(text),
        Dialect::Basic | Dialect::Extended | Dialect::Awk => translate(text, dialect)?,
    };
    RegexBuilder::new(&translated)
        .case_insensitive(case == Case::Ignored)
        .dot_matches_new_line(true)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|_| Failure::usage(format!("bad regular expression `{text}`")))
}

fn translate(text: &str, dialect: Dialect) -> Result<String, Failure> {
    let chars: Vec<char> = text.chars().collect();
    let extended = dialect != Dialect::Basic;
    let mut out = String::new();
    let mut at = 0;
    // Whether an expression begins here, where a star is only a star and `^` an anchor.
    let mut begins = true;
    while at < chars.len() {
        let c = chars[at];
        at += 1;
        let began = std::mem::replace(&mut begins, false);
        match c {
            '\\' => {
                let Some(next) = chars.get(at).copied() else {
                    return Err(Failure::usage("trailing backslash"));
                };
                at += 1;
                begins = matches!(next, '(' | '|') && !extended;
                match awk_escape(&chars, at - 1).filter(|_| dialect == Dialect::Awk) {
                    Some((text, end)) => {
                        out.push_str(&text);
                        at = end;
                    }
                    None => escaped(next, extended, &mut out)?,
                }
            }
            '[' => at = bracket(&chars, at, dialect, &mut out)?,
            '*' if began => {
                out.push_str("\\*");
            }
            '+' | '?' if began && extended => out.extend(['\\', c]),
            '^' if began || extended => {
                out.push('^');
                begins = true;
            }
            '$' if extended || ends(&chars[at..]) => out.push('$'),
            '(' | '|' if extended => {
                out.push(c);
                begins = true;
            }
            '{' if extended && !interval(&chars[at..]) => out.push_str("\\{"),
            ')' | '+' | '?' | '{' | '}' if extended => out.push(c),
            '.' | '*' => out.push(c),
            c => out.push_str(&regex_lite::escape(&c.to_string())),
        }
    }
    Ok(out)
}

/// What a backslash means in `awk` only, and where what is written so ends.
fn awk_escape(chars: &[char], at: usize) -> Option<(String, usize)> {
    let simple = match chars.get(at)? {
        'y' => return Some(("\\b".to_owned(), at + 1)),
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        '0'..='7' => {
            let digits: String = chars[at..]
                .iter()
                .take(3)
                .take_while(|c| c.is_digit(8))
                .collect();
            let code = u32::from_str_radix(&digits, 8).ok()?;
            let text = regex_lite::escape(&char::from_u32(code)?.to_string());
            return Some((text, at + digits.len()));
        }
        _ => return None,
    };
    Some((simple.to_string(), at + 1))
}

fn escaped(next: char, extended: bool, out: &mut String) -> Result<(), Failure> {
    match next {
        '(' | ')' | '{' | '}' | '|' | '+' | '?' if !extended => out.push(next),
        '1'..='9' => {
            let text = format!("the back-reference `\\{next}` in a pattern is not supported");
            return Err(Failure::usage(text));
        }
        '<' | '>' | 'b' => out.push_str("\\b"),
        'w' | 'W' | 's' | 'S' | 'B' | 'd' | 'D' => out.extend(['\\', next]),
        'n' => out.push('\n'),
        't' => out.push('\t'),
        'r' => out.push('\r'),
        '`' => out.push_str("\\A"),
        '\'' => out.push_str("\\z"),
        next => out.push_str(&regex_lite::escape(&next.to_string())),
    }
    Ok(())
}

/// Whether a basic expression, or a part of it, ends here.
fn ends(rest: &[char]) -> bool {
    matches!(rest, [] | ['\\', ')' | '|', ..])
}

/// Whether what follows a brace is a repetition.
fn interval(rest: &[char]) -> bool {
    let end = rest.iter().position(|c| *c == '}');
    end.is_some_and(|end| {
        end > 0 && rest[0] != ',' && rest[..end].iter().all(|c| c.is_ascii_digit() || *c == ',')
    })
}

/// Translates a set, in which a backslash is only that except in `awk`; returns where it ends.
fn bracket(
    chars: &[char],
    start: usize,
    dialect: Dialect,
    out: &mut String,
) -> Result<usize, Failure> {
    let mut at = start;
    out.push('[');
    if chars.get(at) == Some(&'^') {
        out.push('^');
        at += 1;
    }
    let first = at;
    loop {
        let Some(c) = chars.get(at).copied() else {
            return Err(Failure::usage("unmatched ["));
        };
        at += 1;
        match c {
            ']' if at > first + 1 => {
                out.push(']');
                return Ok(at);
            }
            '[' if matches!(chars.get(at), Some(':' | '.' | '=')) => {
                let kind = chars[at];
                let rest = &chars[at + 1..];
                let end = rest
                    .windows(2)
                    .position(|pair| pair == [kind, ']'])
                    .ok_or_else(|| Failure::usage("unmatched ["))?;
                let name: String = rest[..end].iter().collect();
                if kind == ':' {
                    out.push_str(&format!("[:{name}:]"));
                } else {
                    out.push_str(&regex_lite::escape(&name));
                }
                at += end + 3;
            }
            '-' if at > first + 1 && chars.get(at).is_some_and(|next| *next != ']') => {
                out.push('-');
            }
            '\\' if dialect == Dialect::Awk && at < chars.len() => {
                if let Some((text, end)) = awk_escape(chars, at) {
                    out.push_str(&text);
                    at = end;
                    continue;
                }
                match chars[at] {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    c if c.is_alphanumeric() => out.push(c),
                    c => out.extend(['\\', c]),
                }
                at += 1;
            }
            // GNU's sed knows these two within sets.
            '\\' if matches!(chars.get(at), Some('n' | 't')) => {
                out.push(if chars[at] == 'n' { '\n' } else { '\t' });
                at += 1;
            }
            c if c.is_alphanumeric() || c == ' ' || c == '_' => out.push(c),
            '\\' | '[' | ']' | '^' | '-' | '&' | '~' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
}

/// Bytes as text: as they are when they are UTF-8, else each byte as the character of its number.
pub(crate) struct Text {
    /// The text.
    pub(crate) text: String,
    by_bytes: bool,
}

impl Text {
    /// Takes bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self {
                text: text.to_owned(),
                by_bytes: false,
            },
            Err(_) => Self {
                text: bytes.iter().map(|byte| char::from(*byte)).collect(),
                by_bytes: true,
            },
        }
    }

    /// Gives the bytes of a text that was made of this one.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        if !self.by_bytes {
            return self.text.clone().into_bytes();
        }
        let mut bytes = Vec::new();
        for c in self.text.chars() {
            match u8::try_from(u32::from(c)) {
                Ok(byte) => bytes.push(byte),
                Err(_) => bytes.extend_from_slice(c.to_string().as_bytes()),
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_match_as_posix_says() {
        for (expression, dialect, text, expected) in [
            ("a*b", Dialect::Basic, "aab", true),
            ("a+b", Dialect::Basic, "aab", false),
            ("a\\+b", Dialect::Basic, "aab", true),
            ("a+b", Dialect::Extended, "aab", true),
            ("*a", Dialect::Basic, "*a", true),
            ("a|b", Dialect::Basic, "b", false),
            ("a\\|b", Dialect::Basic, "b", true),
            ("^a$", Dialect::Basic, "a", true),
            ("a^b", Dialect::Basic, "a^b", true),
            ("a$b", Dialect::Basic, "a$b", true),
            ("\\(ab\\)\\{2\\}", Dialect::Basic, "abab", true),
            ("(ab){2}", Dialect::Extended, "abab", true),
            ("a{x", Dialect::Extended, "a{x", true),
            ("[]a]", Dialect::Basic, "]", true),
            ("[^]a]", Dialect::Basic, "]", false),
            ("[[:digit:]]", Dialect::Basic, "7", true),
            ("[\\.]", Dialect::Basic, "\\", true),
            ("[a-c]", Dialect::Basic, "b", true),
            ("[a-]", Dialect::Basic, "-", true),
            ("\\.", Dialect::Basic, "x", false),
            ("\\<in\\>", Dialect::Basic, "go in now", true),
            ("a.c", Dialect::Fixed, "abc", false),
        ] {
            let found = compile(expression, dialect, Case::Matters).expect("it is one");
            assert_eq!(found.is_match(text), expected, "{expression} ~ {text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for expression in ["[a", "a\\", "\\(a\\)\\1", "\\(a"] {
            assert!(compile(expression, Dialect::Basic, Case::Matters).is_err());
        }
    }

    #[test]
    fn bytes_that_are_no_text_come_back_as_they_were() {
        for bytes in [&b"plain"[..], "grün".as_bytes(), &[0xff, b'a', 0x80]] {
            assert_eq!(Text::of(bytes).bytes(), bytes);
        }
    }
}
