//! `sub`, `gsub` and `gensub`.

use regex_lite::{Captures, Regex};

/// Which matches are replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    First,
    All,
    /// Only the one of this number.
    Number(u64),
}

/// How the replacement is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `&` is the match, `\\&` is `&`.
    Plain,
    /// And `\\1` is what the first group matched.
    Groups,
}

/// Replaces matches; gives the new text and how many were replaced.
pub(super) fn substitute(
    text: &str,
    expression: &Regex,
    replacement: &str,
    which: Which,
    style: Style,
) -> (String, u64) {
    let mut out = String::with_capacity(text.len());
    let (mut from, mut seen, mut count) = (0, 0, 0);
    for captures in expression.captures_iter(text) {
        let Some(whole) = captures.get(0) else {
            continue;
        };
        seen += 1;
        if matches!(which, Which::Number(number) if number != seen) {
            continue;
        }
        out.push_str(&text[from..whole.start()]);
        replace(&captures, replacement, style, &mut out);
        from = whole.end();
        count += 1;
        if which != Which::All {
            break;
        }
    }
    out.push_str(&text[from..]);
    (out, count)
}

fn replace(captures: &Captures<'_>, replacement: &str, style: Style, out: &mut String) {
    let group = |number: usize| captures.get(number).map_or("", |found| found.as_str());
    let mut chars = replacement.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek().copied()) {
            ('&', _) => out.push_str(group(0)),
            ('\\', Some(next @ ('&' | '\\'))) => {
                out.push(next);
                chars.next();
            }
            ('\\', Some(digit @ '0'..='9')) if style == Style::Groups => {
                out.push_str(group(digit.to_digit(10).unwrap_or(0) as usize));
                chars.next();
            }
            (c, _) => out.push(c),
        }
    }
}
