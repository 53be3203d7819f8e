//! The bytes of the journal; pure.
//!
//! ```text
//! segment = header, group …        header = magic, version, store, number, previous, its length, crc
//! group   = header, record …       header = magic, payload length, records, payload crc, crc
//! record  = revision, kind, key length, value length, key, value
//! ```
//!
//! A group is what one sync makes durable, so it is read whole or not at all. The checksum of a
//! group's header covers the store's random identity, the segment and the place in it: bytes of a
//! stored value can therefore not pass for a group when a damaged segment is searched for more.
//! All numbers are little-endian.

use crate::record::{Change, Revision};

/// The longest key: far above what Kubernetes allows, and it fits the frame's two bytes.
pub(crate) const KEY_BYTES_MAX: usize = 4096;
/// The longest value; an object of the API is limited to a fraction of this.
pub(crate) const VALUE_BYTES_MAX: usize = 8 << 20;
/// A group is closed once it is this long, so one sync never waits for more.
pub(crate) const GROUP_BYTES_AIM: usize = 4 << 20;
/// The longest payload: the aim, and one more record of the greatest size with its seal.
const PAYLOAD_BYTES_MAX: usize = GROUP_BYTES_AIM + VALUE_BYTES_MAX + (64 << 10);

pub(crate) const SEGMENT_HEADER_BYTES: usize = 56;
pub(crate) const GROUP_HEADER_BYTES: usize = 20;
const RECORD_HEADER_BYTES: usize = 15;

const SEGMENT_MAGIC: [u8; 8] = *b"CORACLEJ";
const SEGMENT_VERSION: u32 = 1;
/// Its bytes occur in no UTF-8 text, which makes the search for groups quick.
const GROUP_MAGIC: [u8; 4] = [0xf5, b'g', 0xff, b'c'];

const KIND_CREATED: u8 = 0;
const KIND_UPDATED: u8 = 1;
const KIND_DELETED: u8 = 2;
const KIND_SEALED: u8 = 0x10;

/// Tells the files of one store from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreId(pub(crate) [u8; 16]);

/// A segment and how many of its bytes count; what follows them was refused or is torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) number: u64,
    pub(crate) len: u64,
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store: StoreId,
    pub(crate) number: u64,
    /// The segment this one continues; absent for the first of a store.
    pub(crate) previous: Option<Link>,
}

/// Where a group stands: part of its checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) store: StoreId,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// What a group's header promises of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// At most `PAYLOAD_BYTES_MAX`, so a damaged length cannot ask for memory.
    pub(crate) payload: usize,
    pub(crate) records: u32,
    crc: u32,
}

/// Whether a value's bytes are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Sealed,
}

/// One write, as the journal holds it; a deletion has an empty value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) revision: Revision,
    pub(crate) change: Change,
    pub(crate) form: Form,
    pub(crate) key: &'a str,
    pub(crate) value: &'a [u8],
}

/// Collects records into one group.
#[derive(Debug, Default)]
pub(crate) struct GroupBuffer {
    bytes: Vec<u8>,
    records: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let previous = self.previous.unwrap_or(Link { number: 0, len: 0 });
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        bytes.extend_from_slice(&SEGMENT_MAGIC);
        bytes.extend_from_slice(&SEGMENT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.store.0);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&previous.number.to_le_bytes());
        bytes.extend_from_slice(&previous.len.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.try_into().expect("the parts add up to the header")
    }

    /// Returns nothing for bytes that are no header of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let mut cursor = Cursor(bytes.get(..SEGMENT_HEADER_BYTES)?);
        let covered = &bytes[..SEGMENT_HEADER_BYTES - 4];
        let known = cursor.take::<8>()? == SEGMENT_MAGIC && cursor.u32()? == SEGMENT_VERSION;
        let store = StoreId(cursor.take()?);
        let number = cursor.u64()?;
        let previous = Link {
            number: cursor.u64()?,
            len: cursor.u64()?,
        };
        let header = SegmentHeader {
            store,
            number,
            previous: (previous.number != 0).then_some(previous),
        };
        (known && cursor.u32()? == crc32fast::hash(covered)).then_some(header)
    }
}

impl GroupHeader {
    /// Returns nothing for bytes that are no group's header at this place.
    pub(crate) fn decode(bytes: &[u8], place: Place) -> Option<GroupHeader> {
        let mut cursor = Cursor(bytes.get(..GROUP_HEADER_BYTES)?);
        let covered = &bytes[..GROUP_HEADER_BYTES - 4];
        let known = cursor.take::<4>()? == GROUP_MAGIC;
        let payload = usize::try_from(cursor.u32()?).ok()?;
        let header = GroupHeader {
            payload,
            records: cursor.u32()?,
            crc: cursor.u32()?,
        };
        let valid = known && cursor.u32()? == place.checksum(covered);
        (valid && payload <= PAYLOAD_BYTES_MAX).then_some(header)
    }

    /// Reads the records of `payload`; nothing if it is not what the header promises.
    pub(crate) fn entries<'a>(&self, payload: &'a [u8]) -> Option<Vec<Entry<'a>>> {
        if payload.len() != self.payload || crc32fast::hash(payload) != self.crc {
            return None;
        }
        let mut cursor = Cursor(payload);
        let mut entries = Vec::new();
        while !cursor.0.is_empty() {
            entries.push(cursor.entry()?);
        }
        (u32::try_from(entries.len()).ok()? == self.records).then_some(entries)
    }
}

/// Tells whether a group's header begins anywhere in `bytes`, which stand at `place`.
pub(crate) fn holds_a_group(bytes: &[u8], place: Place) -> bool {
    let windows = bytes.windows(GROUP_HEADER_BYTES).zip(place.offset..);
    let mut starts = windows.filter(|(window, _)| window.starts_with(&GROUP_MAGIC));
    starts.any(|(window, offset)| GroupHeader::decode(window, Place { offset, ..place }).is_some())
}

impl Place {
    fn checksum(&self, covered: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.store.0);
        hasher.update(&self.segment.to_le_bytes());
        hasher.update(&self.offset.to_le_bytes());
        hasher.update(covered);
        hasher.finalize()
    }
}

impl GroupBuffer {
    /// Makes a group of records that were read.
    pub(crate) fn holding(payload: &[u8], records: u32) -> GroupBuffer {
        let mut group = GroupBuffer::default();
        group.clear();
        group.bytes.extend_from_slice(payload);
        group.records = records;
        group
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(GROUP_HEADER_BYTES, 0);
        self.records = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Appends one record. Key and value are within the limits: whoever took the write checked.
    pub(crate) fn push(&mut self, entry: &Entry<'_>) {
        let key_len = u16::try_from(entry.key.len()).expect("the key is within its limit");
        let value_len = u32::try_from(entry.value.len()).expect("the value is within its limit");
        let kind = match entry.change {
            Change::Created => KIND_CREATED,
            Change::Updated => KIND_UPDATED,
            Change::Deleted => KIND_DELETED,
        };
        let form = match entry.form {
            Form::Plain => 0,
            Form::Sealed => KIND_SEALED,
        };
        let bytes = &mut self.bytes;
        bytes.extend_from_slice(&entry.revision.get().to_le_bytes());
        bytes.push(kind | form);
        bytes.extend_from_slice(&key_len.to_le_bytes());
        bytes.extend_from_slice(&value_len.to_le_bytes());
        bytes.extend_from_slice(entry.key.as_bytes());
        bytes.extend_from_slice(entry.value);
        self.records += 1;
    }

    /// Completes the group for the place it will stand at.
    pub(crate) fn finish(&mut self, place: Place) -> &[u8] {
        let payload = &self.bytes[GROUP_HEADER_BYTES..];
        let payload_len = u32::try_from(payload.len()).expect("a group is within its limit");
        let crc = crc32fast::hash(payload);
        let (header, _) = self.bytes.split_at_mut(GROUP_HEADER_BYTES);
        header[..4].copy_from_slice(&GROUP_MAGIC);
        header[4..8].copy_from_slice(&payload_len.to_le_bytes());
        header[8..12].copy_from_slice(&self.records.to_le_bytes());
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        let checksum = place.checksum(&header[..16]);
        header[16..].copy_from_slice(&checksum.to_le_bytes());
        &self.bytes
    }
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let mut head = Cursor(self.slice(RECORD_HEADER_BYTES)?);
        let revision = Revision::from(head.u64()?);
        let [kind] = head.take()?;
        let key_len = usize::from(u16::from_le_bytes(head.take()?));
        let value_len = usize::try_from(head.u32()?).ok()?;
        let change = match kind & !KIND_SEALED {
            KIND_CREATED => Change::Created,
            KIND_UPDATED => Change::Updated,
            KIND_DELETED => Change::Deleted,
            _ => return None,
        };
        let form = match kind & KIND_SEALED {
            0 => Form::Plain,
            _ => Form::Sealed,
        };
        let key = std::str::from_utf8(self.slice(key_len)?).ok()?;
        let value = self.slice(value_len)?;
        Some(Entry {
            revision,
            change,
            form,
            key,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place {
        store: StoreId([7; 16]),
        segment: 3,
        offset: 56,
    };

    fn entry(key: &'static str, value: &'static [u8], at: u64, change: Change) -> Entry<'static> {
        Entry {
            revision: Revision::from(at),
            change,
            form: if at.is_multiple_of(2) {
                Form::Sealed
            } else {
                Form::Plain
            },
            key,
            value,
        }
    }

    fn group() -> (Vec<Entry<'static>>, Vec<u8>) {
        let entries = vec![
            entry("/a/x", b"one", 5, Change::Created),
            entry("/a/x", b"", 6, Change::Updated),
            entry("/a/x", b"", 9, Change::Deleted),
        ];
        let mut buffer = GroupBuffer::default();
        buffer.clear();
        entries.iter().for_each(|entry| buffer.push(entry));
        let bytes = buffer.finish(PLACE).to_vec();
        (entries, bytes)
    }

    fn read(bytes: &[u8], place: Place) -> Option<Vec<Entry<'_>>> {
        let header = GroupHeader::decode(bytes, place)?;
        header.entries(bytes.get(GROUP_HEADER_BYTES..)?)
    }

    #[test]
    fn a_group_is_read_as_it_was_written_and_only_at_its_place() {
        let (entries, bytes) = group();
        assert_eq!(read(&bytes, PLACE), Some(entries));
        assert_eq!(
            read(
                &bytes,
                Place {
                    offset: 57,
                    ..PLACE
                }
            ),
            None
        );
        assert_eq!(
            read(
                &bytes,
                Place {
                    segment: 4,
                    ..PLACE
                }
            ),
            None
        );
        let other = StoreId([8; 16]);
        assert_eq!(
            read(
                &bytes,
                Place {
                    store: other,
                    ..PLACE
                }
            ),
            None
        );
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let (_, bytes) = group();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert_eq!(read(&damaged, PLACE), None, "byte {at}");
        }
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len], PLACE), None, "{len} bytes");
        }
    }

    #[test]
    fn a_segment_header_is_read_as_it_was_written() {
        for previous in [None, Some(Link { number: 4, len: 99 })] {
            let header = SegmentHeader {
                store: PLACE.store,
                number: 5,
                previous,
            };
            let bytes = header.encode();
            assert_eq!(SegmentHeader::decode(&bytes), Some(header));
            for at in 0..bytes.len() {
                let mut damaged = bytes;
                damaged[at] ^= 1;
                assert_eq!(SegmentHeader::decode(&damaged), None, "byte {at}");
            }
        }
    }

    #[test]
    fn a_group_is_found_behind_damage_but_not_inside_of_a_value() {
        let (_, bytes) = group();
        let shifted = Place {
            offset: PLACE.offset - 3,
            ..PLACE
        };
        let behind: Vec<u8> = [b"???", bytes.as_slice()].concat();
        assert!(holds_a_group(&behind, shifted));
        // The same bytes as the value of a key: they stand elsewhere, so their checksum is wrong.
        assert!(!holds_a_group(
            &behind,
            Place {
                offset: 4000,
                ..PLACE
            }
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(SegmentHeader::decode(&bytes), None);
            prop_assert_eq!(read(&bytes, PLACE), None);
            prop_assert!(!holds_a_group(&bytes, PLACE));
        }

        /// The checksum guards the records; here it is forged, so the parser meets the bytes itself.
        #[test]
        fn arbitrary_records_are_bounded_by_their_payload(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let header = GroupHeader { payload: payload.len(), records: 1, crc: crc32fast::hash(&payload) };
            if let Some(entries) = header.entries(&payload) {
                let bytes: usize = entries.iter().map(|e| e.key.len() + e.value.len()).sum();
                prop_assert!(bytes <= payload.len());
            }
        }
    }
}
