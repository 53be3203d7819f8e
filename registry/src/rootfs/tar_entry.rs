//! One entry of a hostile tar, read with bounds and checked.

use std::io::{self, Read};
use std::ops::Range;

use tar::{EntryType, PaxExtensions};

use super::index::TarFault;

/// Linux' own limit for a path.
const PATH_BYTES_MAX: usize = 4096;
/// Linux' own limit for one name.
const NAME_BYTES_MAX: usize = 255;
/// Extended headers hold a few names and numbers; vendors' attributes stay far below this.
const EXTENDED_HEADER_BYTES_MAX: u64 = 1 << 20;

// Where the numbers of a header lie; every form of tar has these in the same place.
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const MTIME: Range<usize> = 136..148;

/// What the headers before an entry say about it: GNU long names and pax records.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<u64>,
}

/// An entry's header with everything that precedes it applied.
pub(super) struct Head {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u64,
}

impl Overrides {
    /// Takes in a header that describes the next entry; returns whether it was one.
    pub(super) fn absorb(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
    ) -> Result<bool, TarFault> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(long_name(entry)?),
            EntryType::GNULongLink => self.link = Some(long_name(entry)?),
            EntryType::XHeader => self.records(&bounded(entry)?)?,
            // What a global header can say (comments, a character set) changes no entry here.
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn records(&mut self, bytes: &[u8]) -> Result<(), TarFault> {
        for record in PaxExtensions::new(bytes) {
            let record = record.map_err(TarFault::Read)?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value).ok_or(TarFault::Number)?),
                b"uid" => self.uid = Some(number(value).ok_or(TarFault::Number)?),
                b"gid" => self.gid = Some(number(value).ok_or(TarFault::Number)?),
                // A time before 1970 counts as 1970; parts of a second are cut off.
                b"mtime" => self.mtime = Some(number(value).unwrap_or(0)),
                key if key.starts_with(b"GNU.sparse") => return Err(TarFault::Sparse),
                _ => {}
            }
        }
        Ok(())
    }

    /// Joins the overrides with the entry's own header.
    pub(super) fn apply(self, header: &tar::Header) -> Result<Head, TarFault> {
        if self
            .size
            .is_some_and(|size| header.entry_size().ok() != Some(size))
        {
            return Err(TarFault::TwoSizes);
        }
        let small = |own: u64, other: Option<u64>| {
            u32::try_from(other.unwrap_or(own)).map_err(|_| TarFault::Number)
        };
        Ok(Head {
            kind: header.entry_type(),
            path: self
                .path
                .unwrap_or_else(|| header.path_bytes().into_owned()),
            link: self.link.unwrap_or_else(|| {
                header
                    .link_name_bytes()
                    .map(std::borrow::Cow::into_owned)
                    .unwrap_or_default()
            }),
            mode: small(
                field(header, MODE, |header| header.mode().map(u64::from))?,
                None,
            )? & 0o7777,
            uid: small(field(header, UID, tar::Header::uid)?, self.uid)?,
            gid: small(field(header, GID, tar::Header::gid)?, self.gid)?,
            mtime: self
                .mtime
                .map_or_else(|| field(header, MTIME, tar::Header::mtime), Ok)?,
        })
    }
}

/// Returns an entry's path below the root, or nothing when it is not Unicode: WASI's paths are text,
/// so no guest could name it.
pub(super) fn checked_path(raw: &[u8]) -> Result<Option<String>, TarFault> {
    let shown = || String::from_utf8_lossy(&raw[..raw.len().min(NAME_BYTES_MAX)]).into_owned();
    if raw.contains(&0) {
        return Err(TarFault::NulInName { path: shown() });
    }
    if raw.len() > PATH_BYTES_MAX {
        return Err(TarFault::LongName { path: shown() });
    }
    // Some builders write the root folder itself as `/`.
    if raw.first() == Some(&b'/') && raw != b"/" {
        return Err(TarFault::Absolute { path: shown() });
    }
    let mut names = Vec::new();
    for name in raw.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(TarFault::Climbs { path: shown() }),
            name if name.len() > NAME_BYTES_MAX => {
                return Err(TarFault::LongName { path: shown() });
            }
            name => names.push(name),
        }
    }
    Ok(String::from_utf8(names.join(&b'/')).ok())
}

/// Returns a symbolic link's target as text, or nothing when it is not Unicode.
pub(super) fn checked_target(raw: &[u8], path: &str) -> Result<Option<String>, TarFault> {
    if raw.contains(&0) {
        return Err(TarFault::NulInName {
            path: path.to_owned(),
        });
    }
    if raw.is_empty() || raw.len() > PATH_BYTES_MAX {
        return Err(TarFault::LongName {
            path: path.to_owned(),
        });
    }
    Ok(String::from_utf8(raw.to_vec()).ok())
}

fn bounded(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, TarFault> {
    let size = entry.header().entry_size().map_err(TarFault::Read)?;
    if size > EXTENDED_HEADER_BYTES_MAX {
        return Err(TarFault::LongHeader { size });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(TarFault::Read)?;
    if bytes.len() as u64 != size {
        return Err(TarFault::Truncated);
    }
    Ok(bytes)
}

fn long_name(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, TarFault> {
    let mut name = bounded(entry)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// Returns a number of a header. Some writers leave a field blank; every reader takes it for 0.
fn field(
    header: &tar::Header,
    place: Range<usize>,
    read: impl Fn(&tar::Header) -> io::Result<u64>,
) -> Result<u64, TarFault> {
    if header.as_bytes()[place]
        .iter()
        .all(|byte| matches!(byte, 0 | b' '))
    {
        return Ok(0);
    }
    read(header).map_err(TarFault::Read)
}

fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.split('.').next()?.parse().ok()
}
