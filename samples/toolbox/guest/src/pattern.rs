//! Patterns of the shell: `*`, `?`, `[…]`, with `\` before what is meant literally.

/// Whether a whole text matches a pattern.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on when a match fails: the last star takes one more character.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == '*' {
            retry = Some((p + 1, t));
            p += 1;
            continue;
        }
        if t == text.len() && p == pattern.len() {
            return true;
        }
        let step = (t < text.len())
            .then(|| match_one(&pattern[p..], text[t]))
            .flatten();
        match (step, retry) {
            (Some(length), _) => (p, t) = (p + length, t + 1),
            (None, Some((after_star, taken))) if taken < text.len() => {
                retry = Some((after_star, taken + 1));
                (p, t) = (after_star, taken + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Whether a pattern has anything in it that matches more than one text.
pub(crate) fn is_pattern(pattern: &str) -> bool {
    let mut escaped = false;
    for c in pattern.chars() {
        if !escaped && matches!(c, '*' | '?' | '[') {
            return true;
        }
        escaped = !escaped && c == '\\';
    }
    false
}

/// Writes a text as the pattern that matches just that.
pub(crate) fn escape(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '!' | '-' | '^') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// Takes the escapes from a pattern.
pub(crate) fn unescape(pattern: &str) -> String {
    let mut text = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        text.push(if c == '\\' {
            chars.next().unwrap_or(c)
        } else {
            c
        });
    }
    text
}

/// Matches one character; returns how much of the pattern that took.
fn match_one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        [] => None,
        ['?', ..] => Some(1),
        ['\\', literal, ..] => (*literal == c).then_some(2),
        ['[', rest @ ..] => match match_set(rest, c) {
            Some((true, length)) => Some(length + 1),
            Some((false, _)) => None,
            None => (c == '[').then_some(1),
        },
        [literal, ..] => (*literal == c).then_some(1),
    }
}

/// Matches a set after its bracket; `None` when nothing closes it.
fn match_set(set: &[char], c: char) -> Option<(bool, usize)> {
    let negated = matches!(set.first(), Some('!' | '^'));
    let start = usize::from(negated);
    let (mut at, mut found) = (start, false);
    loop {
        let first = *set.get(at)?;
        if first == ']' && at > start {
            return Some((found != negated, at + 1));
        }
        if first == '[' && set.get(at + 1) == Some(&':') {
            if let Some((class, length)) = class_name(&set[at + 2..]) {
                found |= in_class(&class, c);
                at += 2 + length;
                continue;
            }
        }
        let (low, length) = literal(&set[at..])?;
        at += length;
        let ranged = set.get(at) == Some(&'-') && set.get(at + 1).is_some_and(|c| *c != ']');
        if ranged {
            let (high, length) = literal(&set[at + 1..])?;
            found |= (low..=high).contains(&c);
            at += 1 + length;
        } else {
            found |= low == c;
        }
    }
}

fn literal(set: &[char]) -> Option<(char, usize)> {
    match set {
        ['\\', literal, ..] => Some((*literal, 2)),
        [literal, ..] => Some((*literal, 1)),
        [] => None,
    }
}

fn class_name(set: &[char]) -> Option<(String, usize)> {
    let end = set.windows(2).position(|pair| pair == [':', ']'])?;
    Some((set[..end].iter().collect(), end + 2))
}

/// Whether a character belongs to a class such as `alpha`.
pub(crate) fn in_class(class: &str, c: char) -> bool {
    match class {
        "alnum" => c.is_alphanumeric(),
        "alpha" => c.is_alphabetic(),
        "blank" => c == ' ' || c == '\t',
        "cntrl" => c.is_control(),
        "digit" => c.is_ascii_digit(),
        "graph" => !c.is_whitespace() && !c.is_control(),
        "lower" => c.is_lowercase(),
        "print" => !c.is_control(),
        "punct" => c.is_ascii_punctuation(),
        "space" => c.is_whitespace(),
        "upper" => c.is_uppercase(),
        "xdigit" => c.is_ascii_hexdigit(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("a*b*c", "axbxbxc", true),
            ("?", "ä", true),
            ("?", "", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[[:digit:]]*", "7up", true),
            ("[[:digit:]]*", "up7", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[a", "[a", true),
            ("*.tar.gz", "x.tar.gz", true),
            ("[a\\-z]", "b", false),
            ("[a\\-z]", "-", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} ~ {text}");
        }
    }

    #[test]
    fn an_escaped_text_matches_itself() {
        for text in ["*", "[a]", "\\", "plain"] {
            assert!(matches(&escape(text), text), "for {text}");
            assert!(!is_pattern(&escape(text)), "for {text}");
            assert_eq!(unescape(&escape(text)), text);
        }
    }
}
