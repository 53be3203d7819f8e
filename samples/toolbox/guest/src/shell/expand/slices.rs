//! What `${…}` does with parts of a value.

use crate::pattern;

use super::super::syntax::End;

/// Takes what matches a pattern off an end.
pub(super) fn trim(value: &str, pattern: &str, from: End, longest: bool) -> String {
    let mut cuts: Vec<usize> = value.char_indices().map(|(at, _)| at).collect();
    cuts.push(value.len());
    // The shortest match from the start is at the first cut, the shortest from the end at the last one.
    let from_front = (from == End::Start) != longest;
    if !from_front {
        cuts.reverse();
    }
    for cut in cuts {
        let (head, tail) = value.split_at(cut);
        let (piece, rest) = match from {
            End::Start => (head, tail),
            End::Finish => (tail, head),
        };
        if pattern::matches(pattern, piece) {
            return rest.to_owned();
        }
    }
    value.to_owned()
}

/// A part of a value by characters; a negative offset or length counts from the end.
pub(super) fn slice(value: &str, offset: i64, length: Option<i64>) -> String {
    let chars: Vec<char> = value.chars().collect();
    let count = i64::try_from(chars.len()).unwrap_or(i64::MAX);
    let place = |at: i64| at.clamp(0, count) as usize;
    let start = if offset < 0 { count + offset } else { offset };
    if start < 0 {
        return String::new();
    }
    let end = match length {
        None => count,
        Some(length) if length < 0 => count.saturating_add(length),
        Some(length) => start.saturating_add(length),
    };
    let (start, end) = (place(start), place(end));
    chars.get(start..end).unwrap_or_default().iter().collect()
}

/// Replaces what matches a pattern, the longest from the left, once or everywhere.
pub(super) fn replace(value: &str, pattern: &str, text: &str, all: bool) -> String {
    let chars: Vec<char> = value.chars().collect();
    let (mut replaced, mut at) = (String::new(), 0);
    while at < chars.len() {
        let length = (1..=chars.len() - at).rev().find(|length| {
            let piece: String = chars[at..at + length].iter().collect();
            pattern::matches(pattern, &piece)
        });
        match length {
            Some(length) => {
                replaced.push_str(text);
                at += length;
                if !all {
                    break;
                }
            }
            None => {
                replaced.push(chars[at]);
                at += 1;
            }
        }
    }
    replaced.extend(&chars[at..]);
    replaced
}
