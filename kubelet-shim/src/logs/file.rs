//! One log file in CRI format with its older pieces: `0.log`, `0.log.1` … `0.log.4`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::StdStream;
use super::feed::Feed;
use super::shelf::{OPEN_LOGS_MAX, Place, Shelf};

/// The open files of all logs of this process, as descriptors are the process's.
static SHELF: Shelf = Shelf::new(OPEN_LOGS_MAX);

/// A log file is put aside when it is this long; the kubelet's default.
pub(crate) const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Log files kept per instance, the one being written included; the kubelet's default.
pub(crate) const LOG_FILES_MAX: u32 = 5;

/// Lines that wait are written when they are this many bytes.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// How long a log that failed is left alone before it is tried again.
const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// A file that is made at the first line, so a silent container costs no descriptor.
pub(crate) struct LogFile {
    path: PathBuf,
    open: Open,
    /// Lines in the file's form that are not in it yet.
    waiting: Vec<u8>,
    bytes_max: u64,
    /// Since a file could not be put aside: when that is tried again.
    rotate_again: Option<Timestamp>,
    /// Whether what fails now was told.
    told: bool,
    feed: Arc<Feed>,
}

enum Open {
    /// Nothing was written yet.
    Not,
    /// Being written, with its length. It may have lost its place, and is opened again then.
    Yes(Arc<Place>, u64),
    /// It could not be written; said once, then lines are dropped until this time.
    Failed(Timestamp),
}

impl LogFile {
    pub(crate) fn new(path: PathBuf) -> LogFile {
        LogFile {
            path,
            open: Open::Not,
            waiting: Vec::new(),
            bytes_max: LOG_BYTES_MAX,
            rotate_again: None,
            told: false,
            feed: Arc::default(),
        }
    }

    /// Returns what readers are told by.
    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// The same with a smaller bound.
    #[cfg(test)]
    pub(super) fn bounded(path: PathBuf, bytes_max: u64) -> LogFile {
        let mut file = LogFile::new(path);
        file.bytes_max = bytes_max;
        file
    }

    /// Takes one line, which is in the file after the next [flush](Self::flush) at the latest.
    pub(crate) fn append(&mut self, at: Timestamp, stream: StdStream, line: &[u8], is_whole: bool) {
        if let Open::Failed(until) = self.open {
            if at < until {
                return;
            }
            self.open = Open::Not;
        }
        let begin = self.waiting.len();
        let name = match stream {
            StdStream::Stdout => "stdout",
            StdStream::Stderr => "stderr",
        };
        let tag = if is_whole { 'F' } else { 'P' };
        write!(self.waiting, "{at:.9} {name} {tag} ").expect("memory takes all bytes");
        self.waiting.extend_from_slice(line);
        self.waiting.push(b'\n');
        if self.is_over() {
            let line = self.waiting.split_off(begin);
            self.flush(at);
            self.waiting = line;
            let may_rotate = self.rotate_again.is_none_or(|again| at >= again);
            if matches!(self.open, Open::Yes(..)) && self.is_over() && may_rotate {
                self.put_aside(at);
            }
        }
        if self.waiting.len() >= WAITING_BYTES_MAX {
            self.flush(at);
        }
    }

    /// Says whether the file would be longer than its bound with what waits.
    fn is_over(&self) -> bool {
        let length = match self.open {
            Open::Yes(_, length) => length,
            Open::Not | Open::Failed(_) => 0,
        };
        length + self.waiting.len() as u64 > self.bytes_max
    }

    /// Writes what waits. A disk that is full must not end a container, so failures are only logged.
    pub(crate) fn flush(&mut self, at: Timestamp) {
        if self.waiting.is_empty() {
            return;
        }
        if let Err(error) = self.try_flush() {
            self.complain(&error, "failed to write a container log; lines are lost");
            self.open = Open::Failed(after(at, RETRY_AFTER));
        }
        self.waiting.clear();
        if self.waiting.capacity() > super::LINE_BYTES_MAX / 4 {
            self.waiting = Vec::new();
        }
        self.feed.tell();
    }

    fn complain(&mut self, error: &io::Error, what: &str) {
        if !self.told {
            tracing::warn!(path = %self.path.display(), %error, "{what}");
        }
        self.told = true;
    }

    fn try_flush(&mut self) -> io::Result<()> {
        if matches!(self.open, Open::Not) {
            self.open = open(&self.path)?;
        }
        let added = self.waiting.len() as u64;
        let most = self.bytes_max.saturating_mul(LOG_FILES_MAX.into());
        if let Open::Yes(place, length) = &mut self.open {
            if *length + added > most {
                // It cannot be put aside, and holds as much as all pieces together may.
                return Ok(());
            }
            let written = place.with(|file| file.write_all(&self.waiting));
            match written {
                Some(result) => result?,
                None => {
                    let mut file = append_to(&self.path)?;
                    file.write_all(&self.waiting)?;
                    *place = SHELF.put(file);
                }
            }
            *length += added;
            self.told &= self.rotate_again.is_some();
        }
        Ok(())
    }

    /// Puts the file aside; when that fails, it is written on, and put aside later.
    fn put_aside(&mut self, at: Timestamp) {
        self.rotate_again = match self.rotate() {
            Ok(()) => None,
            Err(error) => {
                self.complain(
                    &error,
                    "failed to put a container log aside; it is written on",
                );
                Some(after(at, RETRY_AFTER))
            }
        };
    }

    /// Puts the file aside and, if there are all, drops the oldest piece. It is closed first: Windows renames
    /// no open file.
    fn rotate(&mut self) -> io::Result<()> {
        if let Open::Yes(place, _) = std::mem::replace(&mut self.open, Open::Not) {
            place.close();
        }
        let mut rotations = self.feed.rotations();
        // What a rotation left half-way is filled first, so that no piece is lost by trying again.
        let mut places = 1..LOG_FILES_MAX;
        let free = places.find(|index| !piece(&self.path, *index).exists());
        let last = free.unwrap_or(LOG_FILES_MAX - 1);
        for index in (1..=last).rev() {
            let (older, newer) = (piece(&self.path, index), piece(&self.path, index - 1));
            match fs::rename(&newer, &older) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        *rotations += 1;
        Ok(())
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        if let Open::Yes(place, _) = &self.open {
            place.close();
        }
    }
}

fn after(at: Timestamp, time: SignedDuration) -> Timestamp {
    at.checked_add(time).unwrap_or(Timestamp::MAX)
}

fn open(path: &Path) -> io::Result<Open> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = append_to(path)?;
    let length = file.metadata()?.len();
    Ok(Open::Yes(SHELF.put(file), length))
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The file that holds the `index`th older piece; the one being written is number 0.
pub(super) fn piece(path: &Path, index: u32) -> PathBuf {
    if index == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    PathBuf::from(name)
}

/// Removes the log of one attempt with its older pieces.
pub(crate) fn remove_attempt(path: &Path) {
    for path in (0..LOG_FILES_MAX).map(|index| piece(path, index)) {
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "failed to remove a container log");
            }
        }
    }
}
