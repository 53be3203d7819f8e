//! The headers of tar archives: ustar, with GNU's and pax' records for what does not fit.

/// Everything is a multiple of this.
pub(super) const BLOCK: usize = 512;
/// What a name has room for.
const NAME_BYTES: usize = 100;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// A symbolic link.
    Link,
    HardLink,
    Other,
}

/// An entry without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
    /// When it was changed, in seconds since 1970.
    pub(super) seconds: u64,
    /// What a link leads to.
    pub(super) target: String,
}

/// What records said about the entry that follows them.
#[derive(Debug, Default)]
pub(super) struct Extra {
    name: Option<String>,
    target: Option<String>,
    size: Option<u64>,
    seconds: Option<u64>,
}

/// How many bytes follow a content to fill its last block.
pub(super) fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over == 0 { 0 } else { BLOCK - over }
}

impl Entry {
    /// The header, after records for a long name or target.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (letter, text) in [(b'K', &self.target), (b'L', &self.name)] {
            if text.len() > NAME_BYTES {
                let mut content = text.clone().into_bytes();
                content.push(0);
                let size = content.len() as u64;
                bytes.extend_from_slice(&block("././@LongLink", letter, size, 0, ""));
                bytes.extend_from_slice(&content);
                bytes.resize(bytes.len() + padding(size), 0);
            }
        }
        let letter = match self.kind {
            Kind::File | Kind::Other => b'0',
            Kind::HardLink => b'1',
            Kind::Link => b'2',
            Kind::Folder => b'5',
        };
        let header = block(&self.name, letter, self.size, self.seconds, &self.target);
        bytes.extend_from_slice(&header);
        bytes
    }
}

fn block(name: &str, letter: u8, size: u64, seconds: u64, target: &str) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8], most: usize| {
        let length = bytes.len().min(most);
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    let mode = match letter {
        b'5' => "0000755",
        b'2' => "0000777",
        _ => "0000644",
    };
    put(0, name.as_bytes(), NAME_BYTES);
    put(100, mode.as_bytes(), 8);
    put(108, b"0000000", 8);
    put(116, b"0000000", 8);
    let size = if size < 1 << 33 {
        format!("{size:011o}\0").into_bytes()
    } else {
        // GNU's way for what is too large for octal digits.
        let mut bytes = vec![0x80, 0, 0, 0];
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes
    };
    put(124, &size, 12);
    put(136, format!("{seconds:011o}").as_bytes(), 12);
    put(148, b"        ", 8);
    put(156, &[letter], 1);
    put(157, target.as_bytes(), NAME_BYTES);
    put(257, b"ustar  \0", 8);
    put(265, b"root", 32);
    put(297, b"root", 32);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A header as it was read.
pub(super) struct Head {
    letter: u8,
    name: String,
    target: String,
    size: u64,
    seconds: u64,
}

/// Reads a header; `None` when its checksum is wrong.
pub(super) fn parse(block: &[u8; BLOCK]) -> Option<Head> {
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            u64::from(if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            })
        })
        .sum();
    if number(&block[148..156]) != Some(sum) {
        return None;
    }
    let mut name = text(&block[..NAME_BYTES]);
    let posix = &block[257..263] == b"ustar\0";
    let prefix = text(&block[345..500]);
    if posix && !prefix.is_empty() {
        name = format!("{prefix}/{name}");
    }
    Some(Head {
        letter: block[156],
        name,
        target: text(&block[157..257]),
        size: number(&block[124..136])?,
        seconds: number(&block[136..148]).unwrap_or(0),
    })
}

impl Head {
    /// Whether it belongs to the entry that follows.
    pub(super) fn is_record(&self) -> bool {
        matches!(self.letter, b'L' | b'K' | b'x' | b'g')
    }

    /// The length of its content.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Takes note of what a record says.
    pub(super) fn note(&self, content: &[u8], extra: &mut Extra) {
        match self.letter {
            b'L' => extra.name = Some(text(content)),
            b'K' => extra.target = Some(text(content)),
            b'x' => pax(content, extra),
            // What holds for all entries is nothing that matters here.
            _ => {}
        }
    }

    /// The entry, with what records said.
    pub(super) fn entry(self, extra: Extra) -> Entry {
        let name = extra.name.unwrap_or(self.name);
        let kind = match self.letter {
            b'5' => Kind::Folder,
            0 | b'0' | b'7' if name.ends_with('/') => Kind::Folder,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Link,
            _ => Kind::Other,
        };
        // Links and folders have no content, whatever their size says.
        let size = match kind {
            Kind::File | Kind::Other => extra.size.unwrap_or(self.size),
            Kind::Folder | Kind::Link | Kind::HardLink => 0,
        };
        Entry {
            name,
            kind,
            size,
            seconds: extra.seconds.unwrap_or(self.seconds),
            target: extra.target.unwrap_or(self.target),
        }
    }
}

/// Reads `length key=value` lines.
fn pax(content: &[u8], extra: &mut Extra) {
    let mut rest = content;
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let length = std::str::from_utf8(&rest[..space]).ok();
        let length = length.and_then(|digits| digits.parse::<usize>().ok());
        let Some(length) = length.filter(|length| *length > space + 1 && *length <= rest.len())
        else {
            return;
        };
        let record = String::from_utf8_lossy(&rest[space + 1..length - 1]);
        rest = &rest[length..];
        let Some((key, value)) = record.split_once('=') else {
            continue;
        };
        match key {
            "path" => extra.name = Some(value.to_owned()),
            "linkpath" => extra.target = Some(value.to_owned()),
            "size" => extra.size = value.parse().ok(),
            "mtime" => extra.seconds = value.split('.').next().and_then(|text| text.parse().ok()),
            _ => {}
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// A number in octal digits, or in GNU's binary form.
fn number(bytes: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = bytes {
        let (high, low) = rest.split_at(rest.len().checked_sub(8)?);
        if high.iter().any(|byte| *byte != 0) {
            return None;
        }
        return Some(u64::from_be_bytes(low.try_into().ok()?));
    }
    let digits = text(bytes);
    let digits = digits.trim_matches([' ', '\0']);
    if digits.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(entry: &Entry) {
        let bytes = entry.to_bytes();
        let mut extra = Extra::default();
        let mut at = 0;
        loop {
            let block = bytes[at..at + BLOCK].try_into().expect("a whole block");
            let head = parse(&block).expect("the sum is right");
            at += BLOCK;
            if !head.is_record() {
                assert_eq!(&head.entry(extra), entry);
                assert_eq!(at, bytes.len());
                return;
            }
            let length = usize::try_from(head.size()).expect("it is short");
            head.note(&bytes[at..at + length], &mut extra);
            at += length + padding(head.size());
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let entry = Entry {
            name: "a/b".to_owned(),
            kind: Kind::File,
            size: 7,
            seconds: 1_700_000_000,
            target: String::new(),
        };
        check(&entry);
        check(&Entry {
            name: "long/".repeat(60),
            kind: Kind::Folder,
            size: 0,
            ..entry.clone()
        });
        check(&Entry {
            kind: Kind::Link,
            target: "x".repeat(101),
            size: 0,
            ..entry.clone()
        });
        check(&Entry {
            size: 1 << 40,
            ..entry
        });
    }

    #[test]
    fn a_wrong_sum_is_no_header() {
        assert!(parse(&[7; BLOCK]).is_none());
    }

    #[test]
    fn pax_records_count_their_own_length() {
        let mut extra = Extra::default();
        pax(b"99 path=dir/file\n20 mtime=123.456789\n", &mut extra);
        assert_eq!((extra.name.as_deref(), extra.seconds), (None, None));
        let mut extra = Extra::default();
        pax(b"17 path=dir/file\n20 mtime=123.456789\n", &mut extra);
        assert_eq!(extra.name.as_deref(), Some("dir/file"));
        assert_eq!(extra.seconds, Some(123));
    }
}
