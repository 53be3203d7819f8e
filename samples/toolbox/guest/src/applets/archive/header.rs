//! The headers of tar archives: ustar, with GNU's and pax' records for what does not fit.

use crate::ownership::{Permissions, Table};

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
    pub(super) permissions: Permissions,
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
                let record = Head {
                    letter,
                    name: "././@LongLink".to_owned(),
                    target: String::new(),
                    size,
                    seconds: 0,
                    permissions: Permissions {
                        mode: 0o644,
                        uid: 0,
                        gid: 0,
                    },
                };
                bytes.extend_from_slice(&record.to_block());
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
        let head = Head {
            letter,
            name: self.name.clone(),
            target: self.target.clone(),
            size: self.size,
            seconds: self.seconds,
            permissions: self.permissions,
        };
        bytes.extend_from_slice(&head.to_block());
        bytes
    }
}

/// The largest number of a user or group that seven octal digits hold.
const ID_MAX: u32 = 0o7_777_777;

/// A header as it was read.
pub(super) struct Head {
    letter: u8,
    name: String,
    target: String,
    size: u64,
    seconds: u64,
    permissions: Permissions,
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
        permissions: Permissions {
            mode: small(&block[100..108]) & 0o7777,
            uid: small(&block[108..116]),
            gid: small(&block[116..124]),
        },
    })
}

impl Head {
    /// The block that says this.
    fn to_block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8], most: usize| {
            let length = bytes.len().min(most);
            block[at..at + length].copy_from_slice(&bytes[..length]);
        };
        let Permissions { mode, uid, gid } = self.permissions;
        put(0, self.name.as_bytes(), NAME_BYTES);
        for (at, number) in [(100, mode), (108, uid), (116, gid)] {
            put(at, format!("{:07o}", number.min(ID_MAX)).as_bytes(), 8);
        }
        let size = if self.size < 1 << 33 {
            format!("{:011o}\0", self.size).into_bytes()
        } else {
            // GNU's way for what is too large for octal digits.
            let mut bytes = vec![0x80, 0, 0, 0];
            bytes.extend_from_slice(&self.size.to_be_bytes());
            bytes
        };
        put(124, &size, 12);
        put(136, format!("{:011o}", self.seconds).as_bytes(), 12);
        put(148, b"        ", 8);
        put(156, &[self.letter], 1);
        put(157, self.target.as_bytes(), NAME_BYTES);
        put(257, b"ustar  \0", 8);
        for (at, name) in [
            (265, Table::Users.name(uid)),
            (297, Table::Groups.name(gid)),
        ] {
            put(at, name.unwrap_or_default().as_bytes(), 31);
        }
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

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
            permissions: self.permissions,
        }
    }
}

/// A number that is at most 32 bits long; 0 for what is none.
fn small(digits: &[u8]) -> u32 {
    let number = number(digits).and_then(|number| u32::try_from(number).ok());
    number.unwrap_or(0)
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
            permissions: Permissions {
                mode: 0o4750,
                uid: 1000,
                gid: 2000,
            },
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
