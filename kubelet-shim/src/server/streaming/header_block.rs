//! SPDY/3.1 header blocks: names and values, compressed over the life of a connection. Pure.
//!
//! Both sides compress all blocks of one direction as one zlib stream that starts from a known
//! dictionary; a block that cannot be read ends the connection, for the state is lost with it.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use thiserror::Error;

/// Bytes that a block may have when it is not compressed any more: stops compressed bombs. A stream
/// of Kubernetes names a type, a port and a request in some hundred bytes.
const PLAIN_BYTES_MAX: usize = 16 << 10;

/// Names in one block.
const NAMES_MAX: u32 = 64;

/// The words of the dictionary that both sides begin with, each behind its length (SPDY draft 3.1,
/// section 2.6.10.1).
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset \
    accept-encoding accept-language accept-ranges age allow authorization cache-control connection \
    content-base content-encoding content-language content-length content-location content-md5 \
    content-range content-type date etag expect expires from host if-match if-modified-since \
    if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer \
    transfer-encoding upgrade user-agent vary via warning www-authenticate method get status \
    200_OK version HTTP/1.1 url public set-cookie keep-alive origin";

/// What stands behind the words.
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411\
    412413414415416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently\
    400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error\
    501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec \
    00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=\
    gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// Names and values that a stream is opened with. Names are in lower case and occur once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Headers(Vec<(String, String)>);

/// Reads the blocks of one direction.
pub(super) struct BlockReader(Decompress);

/// Writes the blocks of one direction.
pub(super) struct BlockWriter(Compress);

/// Why a block cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum BlockError {
    #[error("a header block is not compressed as it should be")]
    Compression,
    #[error("a header block has more than {PLAIN_BYTES_MAX} bytes")]
    TooLong,
    #[error("a header block has more than {NAMES_MAX} names")]
    TooMany,
    #[error("a header block ends too early or too late")]
    Length,
    #[error("a header is no text")]
    Text,
    #[error("the name of a header is empty, not in lower case or used twice")]
    Name,
}

impl Headers {
    /// Returns the first value under a name in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.split('\0').next().unwrap_or_default())
    }

    fn read(plain: &[u8]) -> Result<Headers, BlockError> {
        let mut rest = plain;
        let count = number(&mut rest)?;
        if count > NAMES_MAX {
            return Err(BlockError::TooMany);
        }
        let mut headers = Headers::default();
        for _ in 0..count {
            let (name, value) = (text(&mut rest)?, text(&mut rest)?);
            let is_lower = !name.bytes().any(|letter| letter.is_ascii_uppercase());
            if name.is_empty() || !is_lower || headers.get(name).is_some() {
                return Err(BlockError::Name);
            }
            headers.0.push((name.to_owned(), value.to_owned()));
        }
        match rest {
            [] => Ok(headers),
            _ => Err(BlockError::Length),
        }
    }

    fn write(&self) -> Vec<u8> {
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        let mut plain = length(self.0.len()).to_vec();
        for part in self.0.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(length(part.len()));
            plain.extend(part.as_bytes());
        }
        plain
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Headers {
        let own = |(name, value): (&str, &str)| (name.to_ascii_lowercase(), value.to_owned());
        Headers(pairs.into_iter().map(own).collect())
    }
}

impl BlockReader {
    pub(super) fn new() -> BlockReader {
        BlockReader(Decompress::new(true))
    }

    /// Reads one block; after a failure no further one can be read.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, BlockError> {
        let mut plain = Vec::with_capacity(PLAIN_BYTES_MAX + 1);
        let mut rest = block;
        while !rest.is_empty() {
            let before = (self.0.total_in(), self.0.total_out());
            let read = self
                .0
                .decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before.0);
            rest = taken
                .ok()
                .and_then(|taken| rest.get(taken..))
                .unwrap_or(&[]);
            match read {
                Ok(Status::Ok | Status::BufError) if plain.len() > PLAIN_BYTES_MAX => {
                    return Err(BlockError::TooLong);
                }
                Ok(Status::Ok | Status::BufError)
                    if (self.0.total_in(), self.0.total_out()) != before => {}
                // The stream goes on for as long as the connection does.
                Ok(Status::Ok | Status::BufError | Status::StreamEnd) => {
                    return Err(BlockError::Compression);
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    let set = self.0.set_dictionary(&dictionary());
                    set.map_err(|_| BlockError::Compression)?;
                }
                Err(_) => return Err(BlockError::Compression),
            }
        }
        Headers::read(&plain)
    }
}

impl BlockWriter {
    pub(super) fn new() -> BlockWriter {
        let mut compress = Compress::new(Compression::fast(), true);
        let set = compress.set_dictionary(&dictionary());
        set.expect("a compressor that has compressed nothing takes a dictionary");
        BlockWriter(compress)
    }

    /// Writes one block.
    pub(super) fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let plain = headers.write();
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut rest = plain.as_slice();
        loop {
            let before = self.0.total_in();
            let written = self.0.compress_vec(rest, &mut block, FlushCompress::Sync);
            written.expect("a compressor with room for its output does not fail");
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or(&[]);
            // A flush is complete when it leaves room.
            if rest.is_empty() && block.len() < block.capacity() {
                return block;
            }
            block.reserve(block.capacity());
        }
    }
}

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS.split(' ') {
        let length = u32::try_from(word.len()).unwrap_or_default();
        dictionary.extend(length.to_be_bytes());
        dictionary.extend(word.replace('_', " ").as_bytes());
    }
    dictionary.extend(DICTIONARY_TAIL.as_bytes());
    dictionary
}

fn number(rest: &mut &[u8]) -> Result<u32, BlockError> {
    let (number, behind) = rest.split_first_chunk().ok_or(BlockError::Length)?;
    *rest = behind;
    Ok(u32::from_be_bytes(*number))
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, BlockError> {
    let length = number(rest)?;
    let length = usize::try_from(length).map_err(|_| BlockError::Length)?;
    let (text, behind) = rest.split_at_checked(length).ok_or(BlockError::Length)?;
    *rest = behind;
    std::str::from_utf8(text).map_err(|_| BlockError::Text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Compresses what is no list of names, as a hostile client may.
    fn hostile(plain: &[u8]) -> Result<Headers, BlockError> {
        let mut writer = BlockWriter::new().0;
        let mut block = Vec::with_capacity(plain.len() + 1024);
        writer
            .compress_vec(plain, &mut block, FlushCompress::Sync)
            .expect("compressed");
        BlockReader::new().read(&block)
    }

    #[test]
    fn the_dictionary_is_that_of_the_draft() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        // Its checksum stands at the beginning of every connection's first block.
        let (mut low, mut high) = (1_u32, 0_u32);
        for byte in dictionary {
            low = (low + u32::from(byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        assert_eq!(high << 16 | low, 0xe3c6_a7c2);
    }

    #[test]
    fn what_another_library_wrote_is_read() {
        // Written by zlib 1.3 with the dictionary: two blocks of one connection.
        let blocks: [&[u8]; 2] = [
            &[
                0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0x25, 0x3a, 0x70, 0x3a, 0x2b, 0x29, 0x4a,
                0x4d, 0xcc, 0x85, 0x16, 0x25, 0xac, 0xa9, 0xa0, 0x80, 0x86, 0x14, 0xcb, 0x45, 0xe0,
                0x1c, 0x60, 0x61, 0x60, 0x61, 0x00, 0xa4, 0x39, 0x8b, 0x20, 0xd1, 0x98, 0x09, 0x4a,
                0xde, 0x8c, 0x06, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff,
            ],
            &[
                0xc2, 0xaa, 0x19, 0x54, 0x0e, 0x25, 0x12, 0xd6, 0x0b, 0x00, 0x00, 0x00, 0xff, 0xff,
            ],
        ];
        let mut reader = BlockReader::new();
        for (block, kind) in blocks.into_iter().zip(["error", "data"]) {
            let headers = [("streamtype", kind), ("port", "8080"), ("requestid", "0")];
            assert_eq!(reader.read(block), Ok(headers.into_iter().collect()));
        }
        let cut = reader.read(&[0x62, 0x00]);
        assert!(cut.is_err(), "{cut:?}");
    }

    #[test]
    fn bombs_and_nonsense_are_refused() {
        assert_eq!(hostile(&[0; 100_000]), Err(BlockError::TooLong));
        assert_eq!(hostile(&[0xff; 4]), Err(BlockError::TooMany));
        assert_eq!(hostile(&[0, 0, 0, 1]), Err(BlockError::Length));
        assert_eq!(hostile(&[0, 0, 0, 0, 0]), Err(BlockError::Length));
        assert_eq!(
            hostile(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
            Err(BlockError::Length)
        );
        let one = |name: &[u8]| {
            let mut plain = vec![0, 0, 0, 1, 0, 0, 0, 1];
            plain.extend(name);
            plain.extend([0, 0, 0, 0]);
            hostile(&plain)
        };
        assert_eq!(one(b"A"), Err(BlockError::Name));
        assert_eq!(one(b"\xff"), Err(BlockError::Text));
        assert!(one(b"a").is_ok());
        let twice = hostile(b"\0\0\0\x02\0\0\0\x01a\0\0\0\0\0\0\0\x01a\0\0\0\0");
        assert_eq!(twice, Err(BlockError::Name));
        assert_eq!(
            BlockReader::new().read(b"no zlib at all"),
            Err(BlockError::Compression)
        );
    }

    #[test]
    fn the_first_of_several_values_counts() {
        let headers: Headers = [("Port", "80\x0081")].into_iter().collect();
        assert_eq!(headers.get("port"), Some("80"));
        assert_eq!(headers.get("requestid"), None);
    }

    proptest! {
        #[test]
        fn blocks_of_one_connection_are_read_as_they_were_written(
            blocks in prop::collection::vec(
                prop::collection::btree_map("[a-z]{1,12}", "\\PC{0,40}", 0..8), 1..6),
        ) {
            let (mut writer, mut reader) = (BlockWriter::new(), BlockReader::new());
            for block in blocks {
                let headers: Headers =
                    block.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                prop_assert_eq!(reader.read(&writer.write(&headers)), Ok(headers));
            }
        }

        #[test]
        fn no_bytes_break_the_reader(
            plain in prop::collection::vec(any::<u8>(), 0..200),
            block in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = hostile(&plain);
            let _ = BlockReader::new().read(&block);
        }
    }
}
