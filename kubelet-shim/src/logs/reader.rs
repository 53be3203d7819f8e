//! Reads one instance's log back: all its pieces in order, and what is still being written.
//!
//! Files are read on threads that may block, a bounded piece at a time and only when the one who asked
//! takes more. So a slow reader costs its own buffer and neither the guest nor the agent waits for it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::LINE_BYTES_MAX;
use super::feed::Feed;
use super::file::{LOG_FILES_MAX, piece};
use crate::images::blocking;

/// Bytes read at once.
const BLOCK_BYTES: usize = 64 * 1024;

/// The longest line of a file: time, stream and tag stand before what the guest wrote. A longer one was
/// not written by us and is skipped.
const RAW_LINE_BYTES_MAX: usize = LINE_BYTES_MAX + 128;

/// Which part of a log is wanted, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogQuery {
    /// Go on with what is written later, until the instance has ended.
    pub(crate) follow: bool,
    /// Only so many lines before the end.
    pub(crate) tail: Option<u64>,
    /// Only lines of this time or later.
    pub(crate) since: Option<Timestamp>,
    /// Each line begins with its time.
    pub(crate) timestamps: bool,
    /// No more than this.
    pub(crate) bytes: Option<u64>,
}

/// Reads a log. Its files stay open and readable when they are put aside.
pub(crate) struct LogReader {
    path: PathBuf,
    /// None when nothing more can come, or nothing more is wanted.
    feed: Option<Arc<Feed>>,
    /// Files still to be read, oldest first.
    pieces: VecDeque<Piece>,
    /// The number of the file to open after those.
    next: u64,
    writer: Writer,
}

/// One file of a log. The first one that an instance wrote has number 0.
struct Piece {
    file: File,
    number: u64,
    /// What may still be read of it; what is appended later is of no interest without `follow`.
    left: u64,
}

/// How far reading has come.
enum Step {
    Some(Bytes),
    /// Everything there is was read; there may be more later.
    CaughtUp,
    Done,
}

/// Turns lines of the file into what was asked for.
struct Writer {
    timestamps: bool,
    /// In the file's own form, which has a fixed width and so sorts like time.
    since: Option<String>,
    left: Option<u64>,
    carry: Vec<u8>,
    at_line_start: bool,
    out: Vec<u8>,
}

impl LogReader {
    /// Opens a log; one that nothing was written to is empty.
    ///
    /// # Errors
    ///
    /// Fails when a file that is there cannot be opened.
    pub(crate) async fn open(
        path: PathBuf,
        feed: Option<Arc<Feed>>,
        query: LogQuery,
    ) -> io::Result<LogReader> {
        blocking(move || LogReader::open_now(path, feed, &query)).await
    }

    fn open_now(path: PathBuf, feed: Option<Arc<Feed>>, query: &LogQuery) -> io::Result<LogReader> {
        let mut pieces = VecDeque::new();
        let mut newest = u64::from(LOG_FILES_MAX);
        {
            let rotations = feed.as_ref().map(|feed| feed.rotations());
            if let Some(rotations) = &rotations {
                newest = **rotations;
            }
            for index in (0..LOG_FILES_MAX).rev() {
                let file = match File::open(piece(&path, index)) {
                    Ok(file) => file,
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                let left = match query.follow {
                    true => u64::MAX,
                    false => file.metadata()?.len(),
                };
                pieces.push_back(Piece {
                    file,
                    number: newest.saturating_sub(u64::from(index)),
                    left,
                });
            }
        }
        let next = match pieces.back() {
            Some(last) if last.number == newest => newest + 1,
            Some(_) | None => newest,
        };
        let mut reader = LogReader {
            path,
            feed: feed.filter(|_| query.follow),
            pieces,
            next,
            writer: Writer::new(query),
        };
        if let Some(lines) = query.tail {
            reader.skip_to_tail(lines)?;
        }
        Ok(reader)
    }

    /// Moves to where the last lines begin, looking from the end.
    fn skip_to_tail(&mut self, lines: u64) -> io::Result<()> {
        let mut tail = Tail::new(lines);
        for index in (0..self.pieces.len()).rev() {
            let piece = &mut self.pieces[index];
            let length = piece.file.metadata()?.len();
            if let Some(start) = tail.start(&mut piece.file, length)? {
                piece.file.seek(SeekFrom::Start(start))?;
                piece.left = piece.left.saturating_sub(start);
                self.pieces.drain(..index);
                return Ok(());
            }
            piece.file.rewind()?;
        }
        Ok(())
    }

    /// Returns what comes next, with the reader to ask again; waits for it while the log is followed.
    pub(crate) async fn next(mut self) -> Option<(io::Result<Bytes>, Option<LogReader>)> {
        loop {
            let feed = self.feed.clone();
            // Made before the files are looked at: it hears of everything told from here on.
            let news = feed.as_ref().map(|feed| feed.news().notified());
            let (reader, step) = blocking(move || {
                let step = self.step();
                (self, step)
            })
            .await;
            self = reader;
            match step {
                Ok(Step::Some(bytes)) => return Some((Ok(bytes), Some(self))),
                Ok(Step::Done) => return None,
                Ok(Step::CaughtUp) => {
                    if let Some(news) = news {
                        news.await;
                    }
                }
                Err(error) => return Some((Err(error), None)),
            }
        }
    }

    fn step(&mut self) -> io::Result<Step> {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            if self.writer.is_full() {
                return Ok(Step::Done);
            }
            // Looked up before reading: what was true then is true of everything read after.
            let ended = self.feed.as_ref().is_none_or(|feed| feed.is_ended());
            let newest = self.feed.as_ref().map_or(0, |feed| *feed.rotations());
            let has_more_files = self.pieces.len() > 1;
            let Some(piece) = self.pieces.front_mut() else {
                match self.open_next(newest)? {
                    true => continue,
                    false if ended => return Ok(Step::Done),
                    false => return Ok(Step::CaughtUp),
                }
            };
            let room = usize::try_from(piece.left).unwrap_or(BLOCK_BYTES);
            let count = piece.file.read(&mut block[..room.min(BLOCK_BYTES)])?;
            if count > 0 {
                piece.left = piece.left.saturating_sub(count as u64);
                self.writer.take(&block[..count]);
                match self.writer.flush() {
                    Some(bytes) => return Ok(Step::Some(bytes)),
                    None => continue,
                }
            }
            let is_put_aside = has_more_files || piece.number < newest;
            match is_put_aside {
                true => drop(self.pieces.pop_front()),
                false if ended => return Ok(Step::Done),
                false => return Ok(Step::CaughtUp),
            }
        }
    }

    /// Opens the file that follows the last one; false when it is not there.
    fn open_next(&mut self, newest: u64) -> io::Result<bool> {
        let Some(feed) = self.feed.clone() else {
            return Ok(false);
        };
        let rotations = feed.rotations();
        let oldest = rotations.saturating_sub(u64::from(LOG_FILES_MAX) - 1);
        // A reader that is this slow has lost what was thrown away meanwhile.
        self.next = self.next.max(oldest);
        while self.next <= *rotations {
            let index = u32::try_from(*rotations - self.next).unwrap_or(u32::MAX);
            let number = self.next;
            match File::open(piece(&self.path, index)) {
                Ok(file) => {
                    let left = u64::MAX;
                    self.pieces.push_back(Piece { file, number, left });
                    self.next += 1;
                    return Ok(true);
                }
                // The newest is made with its first line.
                Err(error) if error.kind() == ErrorKind::NotFound && number >= newest => break,
                Err(error) if error.kind() == ErrorKind::NotFound => self.next += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl Writer {
    fn new(query: &LogQuery) -> Writer {
        Writer {
            timestamps: query.timestamps,
            since: query.since.map(|since| format!("{since:.9}")),
            left: query.bytes,
            carry: Vec::new(),
            at_line_start: true,
            out: Vec::new(),
        }
    }

    /// Says whether all that is wanted was given.
    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    fn take(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(at);
            rest = &after[1..];
            if self.carry.is_empty() {
                self.line(line);
            } else {
                let mut whole = std::mem::take(&mut self.carry);
                whole.extend_from_slice(line);
                self.line(&whole);
            }
        }
        if self.carry.len() + rest.len() <= RAW_LINE_BYTES_MAX {
            self.carry.extend_from_slice(rest);
        }
    }

    fn line(&mut self, raw: &[u8]) {
        let Some(line) = RawLine::parse(raw) else {
            return;
        };
        if let Some(since) = &self.since
            && line.time < since.as_bytes()
        {
            return;
        }
        if self.timestamps && self.at_line_start {
            self.put(line.time);
            self.put(b" ");
        }
        self.put(line.text);
        if line.is_whole {
            self.put(b"\n");
        }
        self.at_line_start = line.is_whole;
    }

    fn put(&mut self, bytes: &[u8]) {
        let room = self.left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let bytes = &bytes[..bytes.len().min(room)];
        self.out.extend_from_slice(bytes);
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes.len() as u64);
        }
    }

    fn flush(&mut self) -> Option<Bytes> {
        let out = std::mem::take(&mut self.out);
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}

/// One line of the file, taken apart.
struct RawLine<'a> {
    time: &'a [u8],
    is_whole: bool,
    text: &'a [u8],
}

impl<'a> RawLine<'a> {
    /// Reads `time stream tag text`; nothing if it is not of that form.
    fn parse(raw: &'a [u8]) -> Option<RawLine<'a>> {
        let mut parts = raw.splitn(4, |byte| *byte == b' ');
        let (time, _stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
        let text = parts.next()?;
        let is_whole = match tag {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(RawLine {
            time,
            is_whole,
            text,
        })
    }
}

/// Finds where the last lines begin, looking from the end through one file after the other.
struct Tail {
    wanted: u64,
    found: u64,
    has_last: bool,
}

impl Tail {
    fn new(wanted: u64) -> Tail {
        Tail {
            wanted,
            found: 0,
            has_last: false,
        }
    }

    /// Returns the offset in this file, if the lines begin here.
    fn start(&mut self, file: &mut File, length: u64) -> io::Result<Option<u64>> {
        if self.wanted == 0 {
            return Ok(Some(length));
        }
        let mut end = length;
        let mut block = vec![0; BLOCK_BYTES];
        while end > 0 {
            let begin = end.saturating_sub(BLOCK_BYTES as u64);
            let size = usize::try_from(end - begin).unwrap_or(BLOCK_BYTES);
            file.seek(SeekFrom::Start(begin))?;
            file.read_exact(&mut block[..size])?;
            let mut stop = size;
            while stop > 0 {
                let line_end = stop - usize::from(block[stop - 1] == b'\n');
                let before = block[..line_end].iter().rposition(|byte| *byte == b'\n');
                let start = match before {
                    Some(at) => at + 1,
                    None if begin == 0 => 0,
                    None => break,
                };
                if self.ends_before(&block[start..line_end]) {
                    return Ok(Some(begin + stop as u64));
                }
                stop = start;
            }
            // A line that fills a whole block is none of ours; it is passed over.
            end = match stop == size {
                true => begin,
                false => begin + stop as u64,
            };
        }
        Ok(None)
    }

    /// Counts a line; true when enough lines come after it.
    fn ends_before(&mut self, raw: &[u8]) -> bool {
        let is_last = !std::mem::replace(&mut self.has_last, true);
        if !is_last && RawLine::parse(raw).is_some_and(|line| line.is_whole) {
            self.found += 1;
        }
        self.found == self.wanted
    }
}

#[cfg(test)]
mod tests;
