//! The wire format of protobuf: numbered fields, each written in one of four ways.

use super::Malformed;

/// How a length and so many bytes are marked.
pub(super) const DELIMITED: u8 = 2;

/// How a number of variable length is marked.
const VARINT: u8 = 0;

/// A `u64` has as many groups of seven bits.
const VARINT_BYTES_MAX: usize = 10;

/// What is left of a message.
pub(super) struct Reader<'a>(&'a [u8]);

/// A field's value as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64,
    Delimited(&'a [u8]),
    Fixed32,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// Returns the next field, or nothing at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|&number| number > 0);
        let number = number.ok_or(Malformed::IllegalTag(tag >> 3))?;
        let wire = match (tag & 7) as u8 {
            VARINT => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Fixed64)?,
            DELIMITED => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| Malformed::Ended)?;
                Wire::Delimited(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Fixed32)?,
            other => return Err(Malformed::IllegalWire(other)),
        };
        Ok(Some((number, wire)))
    }

    /// Says whether everything has been read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a number, as packed lists have them one behind the other.
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for index in 0..VARINT_BYTES_MAX {
            let byte = self.take(1)?.first().copied().unwrap_or_default();
            let group = u64::from(byte & 0x7f);
            // Of the last group only one bit has room.
            if index == VARINT_BYTES_MAX - 1 && group > 1 {
                return Err(Malformed::Overflow);
            }
            number |= group << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed::Overflow)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Ended)?;
        self.0 = rest;
        Ok(taken)
    }
}

impl<'a> Wire<'a> {
    /// Returns the value of a field that is a number.
    pub(super) fn number(self, field: &str) -> Result<u64, Malformed> {
        match self {
            Wire::Varint(number) => Ok(number),
            _ => Err(self.wrong(field)),
        }
    }

    /// Returns the value of a field that is text, bytes or a message.
    pub(super) fn bytes(self, field: &str) -> Result<&'a [u8], Malformed> {
        match self {
            Wire::Delimited(bytes) => Ok(bytes),
            _ => Err(self.wrong(field)),
        }
    }

    /// Returns the value of a field that is text.
    pub(super) fn text(self, field: &str) -> Result<String, Malformed> {
        let bytes = self.bytes(field)?;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned)
            .map_err(|_| Malformed::NoText(field.to_owned()))
    }

    fn wrong(self, field: &str) -> Malformed {
        let wire = match self {
            Wire::Varint(_) => VARINT,
            Wire::Fixed64 => 1,
            Wire::Delimited(_) => DELIMITED,
            Wire::Fixed32 => 5,
        };
        let field = field.to_owned();
        Malformed::WrongWire { wire, field }
    }
}

/// Writes the number of a field and how its value is written.
pub(super) fn key(out: &mut Vec<u8>, number: u32, wire: u8) {
    varint(out, u64::from(number) << 3 | u64::from(wire));
}

/// Writes a field that is a number.
pub(crate) fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, VARINT);
    varint(out, value);
}

/// Writes a field that is text, bytes or a message.
pub(crate) fn delimited(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    key(out, field, DELIMITED);
    varint(out, value.len() as u64);
    out.extend(value);
}

/// Writes a number of variable length.
pub(super) fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
