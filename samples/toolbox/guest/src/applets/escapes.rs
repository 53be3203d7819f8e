//! Backslash escapes, as `echo -e`, `printf` and `$'…'` know them.

/// Replaces escapes; those that are unknown stay as they are.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    unescape_until_stop(text).0
}

/// As [`unescape`], up to `\c`; says whether that stood there.
pub(crate) fn unescape_until_stop(text: &str) -> (Vec<u8>, bool) {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let Some(letter) = rest.chars().next() else {
            bytes.push(b'\\');
            break;
        };
        let behind = &rest[letter.len_utf8()..];
        let simple = match letter {
            'a' => Some(7),
            'b' => Some(8),
            'e' | 'E' => Some(0x1b),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' => Some(b'\\'),
            '\'' => Some(b'\''),
            '"' => Some(b'"'),
            'c' => return (bytes, true),
            _ => None,
        };
        rest = match (letter, simple) {
            (_, Some(byte)) => {
                bytes.push(byte);
                behind
            }
            ('x', None) => digits(behind, 16, 2, &mut bytes).unwrap_or_else(|| {
                bytes.extend_from_slice(b"\\x");
                behind
            }),
            ('0', None) => digits(behind, 8, 3, &mut bytes).unwrap_or_else(|| {
                bytes.push(0);
                behind
            }),
            ('1'..='7', None) => digits(rest, 8, 3, &mut bytes).unwrap_or(behind),
            (other, None) => {
                bytes.push(b'\\');
                bytes.extend_from_slice(other.to_string().as_bytes());
                behind
            }
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    (bytes, false)
}

/// Reads the digits of a byte and returns what follows them.
fn digits<'a>(text: &'a str, radix: u32, most: usize, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let length = text
        .chars()
        .take(most)
        .take_while(|c| c.is_digit(radix))
        .count();
    let value = u32::from_str_radix(&text[..length], radix).ok()?;
    bytes.push((value & 0xff) as u8);
    Some(&text[length..])
}
