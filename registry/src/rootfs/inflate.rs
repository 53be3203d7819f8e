//! Turns a layer as it travels into its uncompressed tar, hashing both sides in one pass.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::{Digest, Hashing};

/// The most bytes that all layers of an image may have once they are uncompressed.
pub(crate) const UNPACKED_BYTES_MAX: u64 = 4 << 30;
/// Large enough that hashing and writing run at full speed, small enough for the second-level cache.
const BUFFER_BYTES: usize = 128 << 10;
/// The largest window (2^27 bytes, 128 MiB) is what `zstd` itself accepts without being asked.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// As many of a file's first bytes tell how it is compressed.
pub(crate) const HEAD_BYTES: u64 = 4;

/// How a layer is compressed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What is left of an image's allowance; its layers share one.
#[derive(Debug)]
pub(crate) struct UnpackBudget(AtomicU64);

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inflated {
    /// Length and digest of the bytes that arrived.
    pub(crate) arrived: (u64, Digest),
    /// Length and digest of the tar.
    pub(crate) tar: (u64, Digest),
}

/// Why nothing came out.
#[derive(Debug)]
pub(crate) enum InflateFault {
    /// The compressed stream is damaged, or its source failed.
    Read(io::Error),
    /// The tar cannot be stored.
    Write(io::Error),
    /// The budget is used up.
    Bomb,
}

impl Compression {
    /// Tells by its first bytes, of which [`HEAD_BYTES`] are enough, how a file is compressed.
    pub(crate) fn of_head(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Tells by its first bytes how a file is compressed.
    pub(crate) fn of_file(path: &Path) -> io::Result<Self> {
        let mut head = Vec::new();
        File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
        Ok(Self::of_head(&head))
    }
}

impl Default for UnpackBudget {
    fn default() -> Self {
        Self::new(UNPACKED_BYTES_MAX)
    }
}

impl UnpackBudget {
    /// Allows this many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Takes from the allowance; refuses what exceeds it.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), InflateFault> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .map(drop)
            .map_err(|_| InflateFault::Bomb)
    }
}

/// Uncompresses all of `source` into `sink`.
pub(crate) fn inflate(
    source: impl Read,
    compression: Compression,
    sink: impl Write,
    budget: &UnpackBudget,
) -> Result<Inflated, InflateFault> {
    let mut source = BufReader::with_capacity(BUFFER_BYTES, Hashing::new(source));
    let tar = match compression {
        Compression::None => copy(&mut source, sink, budget)?,
        Compression::Gzip => copy(
            flate2::bufread::MultiGzDecoder::new(&mut source),
            sink,
            budget,
        )?,
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut source)
                .map_err(InflateFault::Read)?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(InflateFault::Read)?;
            copy(decoder, sink, budget)?
        }
    };
    // A digest covers what follows the compressed stream, too.
    loop {
        let left = source.fill_buf().map_err(InflateFault::Read)?.len();
        if left == 0 {
            break;
        }
        source.consume(left);
    }
    let (_, count, digest) = source.into_inner().finish();
    Ok(Inflated {
        arrived: (count, digest),
        tar,
    })
}

fn copy(
    mut source: impl Read,
    sink: impl Write,
    budget: &UnpackBudget,
) -> Result<(u64, Digest), InflateFault> {
    let mut sink = Hashing::new(sink);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        // A decoder gives what it has at hand; whole buffers make fewer and larger writes.
        let mut filled = 0;
        while filled < buffer.len() {
            match source.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(InflateFault::Read(error)),
            }
        }
        if filled == 0 {
            let (_, count, digest) = sink.finish();
            return Ok((count, digest));
        }
        budget.take(filled as u64)?;
        sink.write_all(&buffer[..filled])
            .map_err(InflateFault::Write)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn check(packed: &[u8], compression: Compression, expected: &[u8]) {
        let mut out = Vec::new();
        let done = inflate(packed, compression, &mut out, &UnpackBudget::default());
        let done = done.expect("it can be uncompressed");
        assert_eq!(out, expected);
        assert_eq!(done.arrived, (packed.len() as u64, Digest::of(packed)));
        assert_eq!(done.tar, (expected.len() as u64, Digest::of(expected)));
    }

    #[test]
    fn every_compression_gives_the_bytes_and_both_digests() {
        let bytes: Vec<u8> = (0..400_000u32)
            .flat_map(|at| (at / 7).to_le_bytes())
            .collect();
        let (first, second) = bytes.split_at(100_000);
        check(&bytes, Compression::None, &bytes);
        check(&gzip(&bytes), Compression::Gzip, &bytes);
        // Parallel compressors write several members after each other.
        check(
            &[gzip(first), gzip(second)].concat(),
            Compression::Gzip,
            &bytes,
        );
        let zstd = |bytes| zstd::stream::encode_all(bytes, 1).expect("memory");
        check(&zstd(&bytes[..]), Compression::Zstd, &bytes);
        check(
            &[zstd(first), zstd(second)].concat(),
            Compression::Zstd,
            &bytes,
        );
        check(b"", Compression::None, b"");
    }

    #[test]
    fn a_bomb_stops_at_the_budget() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(bomb.len() < 1 << 20);
        struct Counting(u64);
        impl Write for Counting {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len() as u64;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let budget = UnpackBudget::new(1 << 20);
        let mut sink = Counting(0);
        let ended = inflate(&bomb[..], Compression::Gzip, &mut sink, &budget);
        assert!(matches!(ended, Err(InflateFault::Bomb)), "{ended:?}");
        assert!(sink.0 <= 1 << 20);
        // What one layer has used is gone for the next.
        let rest = inflate(&bomb[..], Compression::Gzip, &mut sink, &budget);
        assert!(matches!(rest, Err(InflateFault::Bomb)));
    }

    #[test]
    fn a_damaged_stream_is_an_error_and_not_its_beginning() {
        for cut in [1, 10, 100, 2000] {
            let mut packed = gzip(
                &(0..50_000u32)
                    .flat_map(u32::to_le_bytes)
                    .collect::<Vec<_>>(),
            );
            packed.truncate(packed.len() - cut);
            let ended = inflate(
                &packed[..],
                Compression::Gzip,
                io::sink(),
                &UnpackBudget::default(),
            );
            assert!(matches!(ended, Err(InflateFault::Read(_))), "{ended:?}");
        }
    }
}
