//! Numbers and escapes within texts, and bytes that are no text.

/// Bytes that are no UTF-8 are held as characters from here on, in the last private plane, and written as
/// they were read. Such a character in the input is held as its four bytes.
const BYTES_FROM: u32 = 0x0010_ff00;

/// Takes bytes as text.
pub(super) fn decode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        // All of these characters begin so.
        if valid.as_bytes().contains(&0xf4) {
            for c in valid.chars() {
                if u32::from(c) >= BYTES_FROM {
                    let mut bytes = [0; 4];
                    text.extend(c.encode_utf8(&mut bytes).bytes().map(held));
                } else {
                    text.push(c);
                }
            }
        } else {
            text.push_str(valid);
        }
        text.extend(chunk.invalid().iter().copied().map(held));
    }
    text
}

/// The character that stands for a byte.
pub(super) fn held(byte: u8) -> char {
    char::from_u32(BYTES_FROM + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Writes text as the bytes it was.
pub(super) fn encode(text: &str, bytes: &mut Vec<u8>) {
    if !text.as_bytes().contains(&0xf4) {
        bytes.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        let byte = u32::from(c)
            .checked_sub(BYTES_FROM)
            .and_then(|byte| u8::try_from(byte).ok());
        match byte {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The number that a text begins with, 0 when there is none, and how long it is.
pub(super) fn leading_number(text: &str) -> (f64, usize) {
    let bytes = text.as_bytes();
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|b| b.is_ascii_digit()).count()
    };
    let start = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let mut end = digits(start);
    let mut count = end - start;
    if bytes.get(end) == Some(&b'.') {
        let behind = digits(end + 1);
        count += behind - end - 1;
        if count > 0 {
            end = behind;
        }
    }
    if count == 0 {
        return (0.0, 0);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let behind = digits(end + 1 + sign);
        if behind > end + 1 + sign {
            end = behind;
        }
    }
    (text[..end].parse().unwrap_or(0.0), end)
}

/// What a text is as a number.
pub(super) fn number(text: &str) -> f64 {
    leading_number(text.trim_start_matches(BLANKS)).0
}

/// What a text is as a number when all of it is one.
pub(super) fn whole_number(text: &str) -> Option<f64> {
    let text = text.trim_matches(BLANKS);
    let (value, length) = leading_number(text);
    (length > 0 && length == text.len()).then_some(value)
}

/// Blanks around numbers and between fields.
pub(super) const BLANKS: [char; 3] = [' ', '\t', '\n'];

/// Replaces the escapes of a text between quotes; unknown ones stay, so that "\." is an expression for a
/// point.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            None => out.push('\\'),
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('v') => out.push('\u{b}'),
            Some(c @ ('\\' | '"' | '/')) => out.push(c),
            Some('\n') => {}
            Some(first @ '0'..='7') => {
                let mut code = first.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else {
                        break;
                    };
                    code = code * 8 + digit;
                    chars.next();
                }
                out.push_str(&decode(&[(code & 0xff) as u8]));
            }
            Some(other) => out.extend(['\\', other]),
        }
    }
    out
}
