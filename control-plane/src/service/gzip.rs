//! Compressed answers, for clients that take them and bodies that are worth it.

use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, header};

use super::body::ListParts;

/// A body from this size on is compressed: the stock server's threshold.
pub(super) const COMPRESSED_BYTES_MIN: usize = 128 << 10;

/// How much compressed text is gathered before it is sent.
const PIECE_BYTES_MIN: usize = 16 << 10;

/// How much is compressed at a time, so that one large object does not hold up other requests.
const INPUT_BYTES_MAX: usize = 256 << 10;

/// Compresses a body as it is read; holds a piece of it at a time.
#[derive(Debug)]
pub(crate) struct Compressor {
    source: Source,
    /// Absent when everything has been sent.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

#[derive(Debug)]
pub(super) enum Source {
    Bytes(Bytes),
    /// A list, and what is left of the piece that was taken from it last.
    List(Box<ListParts>, Bytes),
}

/// Says whether the client takes gzip.
pub(crate) fn is_accepted(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(header::ACCEPT_ENCODING).iter();
    let offers = offers.filter_map(|offer| offer.to_str().ok());
    offers.flat_map(|offer| offer.split(',')).any(|offer| {
        let (coding, quality) = offer.split_once(';').unwrap_or((offer, ""));
        let refused = quality
            .trim()
            .strip_prefix("q=")
            .is_some_and(|quality| quality.parse::<f32>().is_ok_and(|quality| quality <= 0.0));
        coding.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

impl Compressor {
    pub(super) fn of_bytes(bytes: Bytes) -> Compressor {
        Compressor::new(Source::Bytes(bytes))
    }

    pub(super) fn of_list(parts: ListParts) -> Compressor {
        Compressor::new(Source::List(Box::new(parts), Bytes::new()))
    }

    fn new(source: Source) -> Compressor {
        // The fastest level, as the stock server: the network is rarely slower than that.
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Compressor {
            source,
            encoder: Some(encoder),
        }
    }

    /// Returns the next piece.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let encoder = self.encoder.as_mut()?;
        while encoder.get_ref().len() < PIECE_BYTES_MIN {
            let Some(input) = self.source.next() else {
                let encoder = self.encoder.take()?;
                let rest = encoder.finish().expect("writing to memory does not fail");
                return Some(Bytes::from(rest));
            };
            encoder
                .write_all(&input)
                .expect("writing to memory does not fail");
        }
        Some(Bytes::from(std::mem::take(encoder.get_mut())))
    }
}

impl Source {
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let rest = match self {
            Source::Bytes(rest) => rest,
            Source::List(parts, rest) => {
                if rest.is_empty() {
                    *rest = parts.next()?;
                }
                rest
            }
        };
        let next = rest.split_to(rest.len().min(INPUT_BYTES_MAX));
        // Only a list has empty pieces: what separates elements in YAML.
        (!next.is_empty() || matches!(self, Source::List(..))).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn check(accept: &str, expected: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT_ENCODING,
            accept.parse().expect("a header value"),
        );
        assert_eq!(is_accepted(&headers), expected, "{accept}");
    }

    #[test]
    fn gzip_is_used_only_if_the_client_names_it() {
        check("gzip", true);
        check("deflate, gzip;q=1.0, *;q=0.5", true);
        check("br", false);
        check("gzip;q=0", false);
        assert!(!is_accepted(&HeaderMap::new()));
    }

    #[test]
    fn what_is_compressed_comes_out_again_in_pieces() {
        // Digits of a fixed recurrence compress, but not into one piece.
        let mut state = 1_u32;
        let digit = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'0' + (state >> 24) as u8 % 10
        };
        let text: Vec<u8> = (0..1_000_000).map(digit).collect();
        let mut compressor = Compressor::of_bytes(Bytes::from(text.clone()));
        let pieces: Vec<_> = std::iter::from_fn(|| compressor.next()).collect();
        assert!(pieces.len() > 2);
        let mut found = Vec::new();
        let compressed = pieces.concat();
        flate2::read::GzDecoder::new(compressed.as_slice())
            .read_to_end(&mut found)
            .expect("gzip");
        assert!(found == text);
    }
}
