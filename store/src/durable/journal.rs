//! The journal: a chain of segments, each appended to and synced group by group.
//!
//! ```text
//!            append, sync                    append or sync failed,
//!   ┌────► Writing ──────────────────────────► or a rotation half done ──► Fenced
//!   │         │ rotate: the next segment                                     │
//!   │         └──► Writing                                                   │
//!   └──────────────────────── begin: the next segment ◄──────────────────────┘
//! ```
//!
//! Every segment's header names the one it continues and how many bytes of that one count. A file
//! that failed is therefore never trusted or written again: the next segment says where it ended,
//! whatever the disk makes of its tail. A journal that has just been opened is `Fenced` too, so a
//! tail torn by a crash is fenced off in the same way. Nothing is written to the old segment once
//! the new one may be visible. A segment gets its name only after its header is durable.

use std::{
    collections::BTreeSet,
    io::{self, BufReader, Read},
    sync::Arc,
};

use thiserror::Error;

use super::{
    files::{Appendable, Folder, UNFINISHED, read_whole},
    frame::{
        self, Entry, GROUP_HEADER_BYTES, GroupBuffer, GroupHeader, Link, Place,
        SEGMENT_HEADER_BYTES, SegmentHeader, StoreId,
    },
};

const NAME_PREFIX: &str = "journal-";

/// Why the journal cannot be read.
#[derive(Debug, Error)]
pub enum JournalError {
    /// A file cannot be read.
    #[error("failed to read `{name}`")]
    Read {
        /// The file.
        name: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file does not begin as a segment of this store.
    #[error("`{name}` is damaged or belongs to another store")]
    Header {
        /// The file.
        name: String,
    },
    /// Bytes that were durable once are not what was written.
    #[error("`{name}` is damaged at byte {offset}, in the middle of what was acknowledged")]
    Damaged {
        /// The file.
        name: String,
        /// The first byte that is not as written.
        offset: u64,
    },
    /// A segment that is needed is not there.
    #[error("`{name}` is missing")]
    Missing {
        /// The file.
        name: String,
    },
}

/// The segments of a folder, as their headers tell.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// Segments that are continued, oldest first.
    pub(crate) closed: Vec<Link>,
    /// The newest segment, which may end torn.
    pub(crate) head: Option<SegmentHeader>,
    /// The segment the oldest one continues; it was cut off, or is missing.
    pub(crate) before: Option<u64>,
    /// Files that belong to nothing: unfinished, or a segment whose place another one took.
    pub(crate) orphans: Vec<String>,
}

/// Where the newest segment ends.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Where the last whole group begins.
    last: u64,
    /// The records of that group.
    last_group: Vec<u8>,
    last_records: u32,
    /// Where it ends.
    end: u64,
}

/// Appends groups; owned by one thread.
pub(crate) struct Journal {
    folder: Arc<dyn Folder>,
    store: StoreId,
    state: State,
    /// The greatest number a segment was ever begun with; numbers are not used twice.
    highest: u64,
}

/// See the module's diagram.
enum State {
    Writing(Segment),
    Fenced(Fence),
}

struct Segment {
    file: Box<dyn Appendable>,
    number: u64,
    /// Invariant: every byte up to here is durable.
    len: u64,
    previous: Option<Link>,
}

/// Where the journal ended when it could not be written any more.
#[derive(Default)]
struct Fence {
    previous: Option<Link>,
    /// The failed segment, cut back as soon as that works.
    file: Option<(Box<dyn Appendable>, u64)>,
    /// A segment without groups; its successor takes its place in the chain.
    superseded: Option<String>,
    /// The group the next segment begins with, or an empty one.
    carried: GroupBuffer,
}

pub(crate) fn segment_name(number: u64) -> String {
    format!("{NAME_PREFIX}{number:020}")
}

fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix(NAME_PREFIX)?.parse().ok()
}

/// Tells whether a file of this name is a segment.
pub(crate) fn is_segment(name: &str) -> bool {
    segment_number(name).is_some()
}

/// Follows the chain from its newest segment to the oldest that is there.
pub(crate) fn chain(folder: &dyn Folder, store: StoreId) -> Result<Chain, JournalError> {
    let names = folder.names().map_err(|source| JournalError::Read {
        name: String::from("."),
        source,
    })?;
    let (unfinished, names): (Vec<_>, Vec<_>) = names
        .into_iter()
        .partition(|name| name.ends_with(UNFINISHED));
    let mut present: BTreeSet<u64> = names.iter().filter_map(|n| segment_number(n)).collect();
    let mut chain = Chain {
        orphans: unfinished,
        ..Chain::default()
    };
    let Some(newest) = present.pop_last() else {
        return Ok(chain);
    };
    let head = header(folder, store, newest)?;
    chain.head = Some(head);
    let mut previous = head.previous;
    while let Some(link) = previous {
        if !present.remove(&link.number) {
            chain.before = Some(link.number);
            break;
        }
        chain.closed.insert(0, link);
        previous = header(folder, store, link.number)?.previous;
    }
    let oldest = chain.closed.first().map_or(newest, |link| link.number);
    // A segment older than the chain was cut off, and not yet removed.
    let (cut, skipped): (Vec<_>, Vec<_>) = present.into_iter().partition(|n| *n < oldest);
    chain
        .orphans
        .extend(cut.into_iter().chain(skipped).map(segment_name));
    Ok(chain)
}

fn header(folder: &dyn Folder, store: StoreId, number: u64) -> Result<SegmentHeader, JournalError> {
    let name = segment_name(number);
    let bytes = match read_whole(folder, &name, SEGMENT_HEADER_BYTES) {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(source) => return Err(JournalError::Read { name, source }),
    };
    match SegmentHeader::decode(&bytes) {
        Some(header) if header.store == store && header.number == number => {
            // A chain that leads upwards would never end.
            let descends = header.previous.is_none_or(|link| link.number < number);
            descends
                .then_some(header)
                .ok_or(JournalError::Header { name })
        }
        _ => Err(JournalError::Header { name }),
    }
}

/// Reads a continued segment; all of it must be as it was written.
pub(crate) fn read_closed(
    folder: &dyn Folder,
    store: StoreId,
    link: Link,
    each: &mut dyn FnMut(&Entry<'_>),
) -> Result<(), JournalError> {
    let end = read_groups(folder, store, link.number, Some(link.len), each)?.end;
    if end == link.len {
        return Ok(());
    }
    Err(JournalError::Damaged {
        name: segment_name(link.number),
        offset: end,
    })
}

/// Reads the newest segment up to its last whole group.
///
/// What follows is a group that was never acknowledged, unless yet another group follows it.
pub(crate) fn read_head(
    folder: &dyn Folder,
    store: StoreId,
    number: u64,
    each: &mut dyn FnMut(&Entry<'_>),
) -> Result<Tail, JournalError> {
    let tail = read_groups(folder, store, number, None, each)?;
    let end = tail.end;
    let name = segment_name(number);
    let from = end.saturating_add(1);
    let mut rest = Vec::new();
    let read = folder
        .read(&name, from)
        .and_then(|mut file| file.read_to_end(&mut rest));
    if let Err(source) = read {
        return Err(JournalError::Read { name, source });
    }
    let place = Place {
        store,
        segment: number,
        offset: from,
    };
    if frame::holds_a_group(&rest, place) {
        return Err(JournalError::Damaged { name, offset: end });
    }
    if !rest.is_empty() {
        tracing::info!(name, end, "a group that was never acknowledged is cut off");
    }
    Ok(tail)
}

/// Reads whole groups up to `limit`.
fn read_groups(
    folder: &dyn Folder,
    store: StoreId,
    number: u64,
    limit: Option<u64>,
    each: &mut dyn FnMut(&Entry<'_>),
) -> Result<Tail, JournalError> {
    let failed = |source| JournalError::Read {
        name: segment_name(number),
        source,
    };
    let start = SEGMENT_HEADER_BYTES as u64;
    let file = folder.read(&segment_name(number), start).map_err(failed)?;
    let bytes = limit.map_or(u64::MAX, |limit| limit.saturating_sub(start));
    let mut reader = BufReader::new(file.take(bytes));
    let mut place = Place {
        store,
        segment: number,
        offset: start,
    };
    let (mut head, mut payload) = (Vec::new(), Vec::new());
    let mut tail = Tail {
        last: start,
        end: start,
        ..Tail::default()
    };
    loop {
        read_up_to(&mut reader, GROUP_HEADER_BYTES, &mut head).map_err(failed)?;
        let Some(header) = GroupHeader::decode(&head, place) else {
            break;
        };
        read_up_to(&mut reader, header.payload, &mut payload).map_err(failed)?;
        let Some(entries) = header.entries(&payload) else {
            break;
        };
        entries.iter().for_each(&mut *each);
        tail.last = place.offset;
        place.offset += (GROUP_HEADER_BYTES + payload.len()) as u64;
        tail.end = place.offset;
        std::mem::swap(&mut tail.last_group, &mut payload);
        tail.last_records = header.records;
    }
    Ok(tail)
}

/// Grows `bytes` with what is there, never to a length that is only claimed.
fn read_up_to(reader: &mut impl Read, len: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    reader.take(len as u64).read_to_end(bytes).map(drop)
}

impl Journal {
    /// Continues a chain whose newest segment ends at `tail`; no segment is begun yet.
    ///
    /// The last group is carried over to the next segment. If its sync failed and the process died
    /// before it could cut the group off, the system shows bytes that are not on the disk, and no
    /// further sync would tell.
    pub(crate) fn resume(
        folder: Arc<dyn Folder>,
        store: StoreId,
        chain: &Chain,
        tail: Tail,
    ) -> Result<Journal, io::Error> {
        let mut fence = Fence::default();
        if let Some(head) = chain.head {
            // What was read is shown to clients, so it must be durable first.
            let mut file = folder.append(&segment_name(head.number))?;
            file.truncate(tail.end)?;
            file.sync()?;
            folder.sync()?;
            fence = Fence::behind(head.number, tail.last, head.previous);
            fence.carried = GroupBuffer::holding(&tail.last_group, tail.last_records);
        }
        let orphans = chain.orphans.iter().filter_map(|name| segment_number(name));
        let head = chain.head.map(|head| head.number);
        Ok(Journal {
            folder,
            store,
            state: State::Fenced(fence),
            highest: orphans.chain(head).max().unwrap_or(0),
        })
    }

    /// Makes a group durable; the segment that was closed on the way, if any, is told.
    ///
    /// After an error the group is not in the journal, and the next call tries a new segment.
    pub(crate) fn append(&mut self, group: &mut GroupBuffer) -> (io::Result<()>, Option<Link>) {
        let closed = match self.begin() {
            Ok(closed) => closed,
            Err(error) => return (Err(error), None),
        };
        let State::Writing(segment) = &mut self.state else {
            unreachable!("`begin` leaves a segment to write to");
        };
        let place = Place {
            store: self.store,
            segment: segment.number,
            offset: segment.len,
        };
        let bytes = group.finish(place);
        let written = segment
            .file
            .append(bytes)
            .and_then(|()| segment.file.sync());
        match written {
            Ok(()) => {
                segment.len += bytes.len() as u64;
            }
            Err(_) => {
                self.fence();
                self.cut_back();
            }
        }
        (written, closed)
    }

    /// Begins a segment if the last one may not be written to.
    pub(crate) fn begin(&mut self) -> io::Result<Option<Link>> {
        self.cut_back();
        let State::Fenced(fence) = &mut self.state else {
            return Ok(None);
        };
        let number = self.highest + 1;
        let header = SegmentHeader {
            store: self.store,
            number,
            previous: fence.previous,
        };
        let name = segment_name(number);
        let unfinished = format!("{name}{UNFINISHED}");
        let mut file = self.folder.create(&unfinished)?;
        file.append(&header.encode())?;
        let mut len = SEGMENT_HEADER_BYTES as u64;
        if !fence.carried.is_empty() {
            let place = Place {
                store: self.store,
                segment: number,
                offset: len,
            };
            let group = fence.carried.finish(place);
            file.append(group)?;
            len += group.len() as u64;
        }
        file.sync()?;
        // From here on the number may be on the disk, whatever the calls return.
        self.highest = number;
        self.folder.rename(&unfinished, &name)?;
        self.folder.sync()?;
        let segment = Segment {
            file,
            number,
            len,
            previous: fence.previous,
        };
        match std::mem::replace(&mut self.state, State::Writing(segment)) {
            State::Fenced(fence) => Ok(self.leave(fence)),
            State::Writing(_) => Ok(None),
        }
    }

    /// Returns the segment that is closed now, or removes it if it holds nothing.
    fn leave(&self, fence: Fence) -> Option<Link> {
        let Some(name) = fence.superseded else {
            return fence.previous;
        };
        if let Err(error) = self.folder.remove(&name) {
            tracing::debug!(error = %error, name, "an empty segment stays until the next start");
        }
        None
    }

    /// Closes a segment that holds groups, and begins the next; the old one is told.
    ///
    /// An error leaves the journal able to go on.
    pub(crate) fn rotate(&mut self) -> io::Result<Option<Link>> {
        let State::Writing(segment) = &self.state else {
            return self.begin();
        };
        if segment.len == SEGMENT_HEADER_BYTES as u64 {
            return Ok(None);
        }
        self.fence();
        self.begin()
    }

    /// Returns the bytes of groups in the segment being written.
    pub(crate) fn segment_bytes(&self) -> u64 {
        match &self.state {
            State::Writing(segment) => segment.len - SEGMENT_HEADER_BYTES as u64,
            State::Fenced(_) => 0,
        }
    }

    fn fence(&mut self) {
        let empty = State::Fenced(Fence::default());
        if let State::Writing(segment) = std::mem::replace(&mut self.state, empty) {
            let mut fence = Fence::behind(segment.number, segment.len, segment.previous);
            fence.file = Some((segment.file, segment.len));
            self.state = State::Fenced(fence);
        }
    }

    /// Frees the room of a refused tail, and hides it from a restart. Neither is relied on.
    fn cut_back(&mut self) {
        if let State::Fenced(fence) = &mut self.state
            && let Some((file, len)) = &mut fence.file
            && let Err(error) = file.truncate(*len)
        {
            tracing::debug!(error = %error, "the failed segment keeps its tail for now");
        }
    }
}

impl Fence {
    fn behind(number: u64, len: u64, previous: Option<Link>) -> Fence {
        let is_empty = len <= SEGMENT_HEADER_BYTES as u64;
        Fence {
            previous: if is_empty {
                previous
            } else {
                Some(Link { number, len })
            },
            file: None,
            superseded: is_empty.then(|| segment_name(number)),
            carried: GroupBuffer::default(),
        }
    }
}
