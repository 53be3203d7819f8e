//! What stands behind a descriptor: files, pipes, captured output, the standard streams, small devices.
//!
//! What was read ahead stays with the stream, so that the next program that reads from it misses nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;

use crate::{platform, reactor, terminal};

/// How much is read at once.
const CHUNK_BYTES: usize = 32 * 1024;
/// What a pipe holds before its writer waits.
const PIPE_BYTES_MAX: usize = 64 * 1024;
/// A line of a stream may be this long.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A stream that several descriptors may share.
pub(crate) type Handle = Rc<Stream>;

/// A stream.
pub(crate) struct Stream {
    kind: Kind,
    ahead: RefCell<Ahead>,
}

enum Kind {
    Stdin,
    Stdout,
    Stderr,
    File(RefCell<File>),
    PipeReader(PipeEnd),
    PipeWriter(PipeEnd),
    Capture(Rc<RefCell<Vec<u8>>>),
    /// Bytes that are all read ahead, as of a here-document.
    Bytes,
    Null,
    Zero,
    Random,
}

/// What was read and not yet taken.
#[derive(Default)]
struct Ahead {
    bytes: Vec<u8>,
    taken: usize,
}

impl Ahead {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let piece = self.rest()[..length].to_vec();
        self.taken += length;
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
        }
        piece
    }

    fn add(&mut self, more: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(more);
    }
}

#[derive(Default)]
struct Pipe {
    buffer: RefCell<VecDeque<u8>>,
    reader_gone: Cell<bool>,
    writer_gone: Cell<bool>,
}

struct PipeEnd {
    pipe: Rc<Pipe>,
    writes: bool,
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let gone = if self.writes {
            &self.pipe.writer_gone
        } else {
            &self.pipe.reader_gone
        };
        gone.set(true);
        reactor::progressed();
    }
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Read,
    Write,
    Append,
    ReadWrite,
}

impl Stream {
    fn new(kind: Kind) -> Handle {
        Rc::new(Self {
            kind,
            ahead: RefCell::default(),
        })
    }

    /// The standard streams of the instance, as descriptors 0, 1 and 2.
    pub(crate) fn standard() -> Descriptors {
        let mut descriptors = Descriptors::default();
        for (number, kind) in [(0, Kind::Stdin), (1, Kind::Stdout), (2, Kind::Stderr)] {
            descriptors.set(number, Self::new(kind));
        }
        descriptors
    }

    /// A stream with nothing in it, that loses what is written.
    pub(crate) fn null() -> Handle {
        Self::new(Kind::Null)
    }

    /// A stream to read `bytes` from.
    pub(crate) fn of_bytes(bytes: Vec<u8>) -> Handle {
        let stream = Self::new(Kind::Bytes);
        stream.ahead.borrow_mut().bytes = bytes;
        stream
    }

    /// A stream that collects what is written.
    pub(crate) fn capture() -> (Handle, Rc<RefCell<Vec<u8>>>) {
        let bytes = Rc::new(RefCell::new(Vec::new()));
        (Self::new(Kind::Capture(Rc::clone(&bytes))), bytes)
    }

    /// The two ends of a pipe, to read and to write.
    pub(crate) fn pipe() -> (Handle, Handle) {
        let pipe = Rc::new(Pipe::default());
        let end = |writes| PipeEnd {
            pipe: Rc::clone(&pipe),
            writes,
        };
        let (reader, writer) = (end(false), end(true));
        (
            Self::new(Kind::PipeReader(reader)),
            Self::new(Kind::PipeWriter(writer)),
        )
    }

    /// Opens a file or one of the devices that a shell knows by name. `path` is absolute.
    pub(crate) fn open(path: &Path, mode: Mode) -> io::Result<Handle> {
        match path.to_str() {
            Some("/dev/null") => return Ok(Self::new(Kind::Null)),
            Some("/dev/zero") => return Ok(Self::new(Kind::Zero)),
            Some("/dev/random" | "/dev/urandom") => return Ok(Self::new(Kind::Random)),
            Some("/dev/tty") if platform::is_terminal() => return Ok(Self::new(Kind::Stdout)),
            Some(_) | None => {}
        }
        let mut options = OpenOptions::new();
        match mode {
            Mode::Read => options.read(true),
            Mode::Write => options.write(true).create(true).truncate(true),
            Mode::Append => options.append(true).create(true),
            Mode::ReadWrite => options.read(true).write(true).create(true).truncate(false),
        };
        if mode == Mode::Read && path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let file = options.open(path)?;
        Ok(Self::new(Kind::File(RefCell::new(file))))
    }

    /// Whether it is the instance's terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.kind, Kind::Stdin | Kind::Stdout | Kind::Stderr) && platform::is_terminal()
    }

    /// Whether a line can be taken without waiting.
    pub(crate) fn has_line(&self) -> bool {
        self.ahead.borrow().rest().contains(&b'\n')
    }

    /// Takes some bytes, at most `max`; none are the end.
    pub(crate) async fn read(&self, max: usize) -> io::Result<Vec<u8>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        if self.ahead.borrow().rest().is_empty() {
            let more = self.fetch(max.max(CHUNK_BYTES)).await?;
            self.ahead.borrow_mut().add(&more);
        }
        let mut ahead = self.ahead.borrow_mut();
        let length = ahead.rest().len().min(max);
        Ok(ahead.take(length))
    }

    /// Takes the next line with its end, or what comes after the last one.
    pub(crate) async fn read_line(&self) -> io::Result<Option<Vec<u8>>> {
        self.read_until(b'\n').await
    }

    /// Takes everything up to and with the next `end`.
    pub(crate) async fn read_until(&self, end: u8) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            {
                let mut ahead = self.ahead.borrow_mut();
                let found = ahead.rest()[searched..].iter().position(|b| *b == end);
                if let Some(position) = found {
                    return Ok(Some(ahead.take(searched + position + 1)));
                }
                searched = ahead.rest().len();
                if searched > LINE_BYTES_MAX {
                    return Err(io::Error::other("line too long"));
                }
            }
            let more = self.fetch(CHUNK_BYTES).await?;
            let mut ahead = self.ahead.borrow_mut();
            if more.is_empty() {
                let rest = ahead.take(searched);
                return Ok((!rest.is_empty()).then_some(rest));
            }
            ahead.add(&more);
        }
    }

    /// Takes everything up to the end.
    pub(crate) async fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let piece = self.read(CHUNK_BYTES).await?;
            if piece.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&piece);
        }
    }

    /// Writes all bytes; a reader that is gone is a broken pipe.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match &self.kind {
            Kind::Stdout if platform::is_terminal() => {
                platform::write_stdout(&terminal::rendered(bytes)).await
            }
            Kind::Stderr if platform::is_terminal() => {
                platform::write_stderr(&terminal::rendered(bytes)).await
            }
            Kind::Stdout => platform::write_stdout(bytes).await,
            Kind::Stderr => platform::write_stderr(bytes).await,
            Kind::File(file) => file.borrow_mut().write_all(bytes),
            Kind::PipeWriter(end) => end.pipe.write(bytes).await,
            Kind::Capture(captured) => {
                captured.borrow_mut().extend_from_slice(bytes);
                Ok(())
            }
            Kind::Null | Kind::Zero | Kind::Random => Ok(()),
            Kind::Stdin | Kind::PipeReader(_) | Kind::Bytes => {
                Err(io::Error::other("not open for writing"))
            }
        }
    }

    async fn fetch(&self, max: usize) -> io::Result<Vec<u8>> {
        match &self.kind {
            Kind::Stdin if platform::is_terminal() => terminal::read().await,
            Kind::Stdin => platform::read_stdin(max).await,
            Kind::File(file) => {
                let mut bytes = vec![0; max];
                let length = file.borrow_mut().read(&mut bytes)?;
                bytes.truncate(length);
                Ok(bytes)
            }
            Kind::PipeReader(end) => Ok(end.pipe.read(max).await),
            Kind::Bytes | Kind::Null => Ok(Vec::new()),
            Kind::Zero => Ok(vec![0; max]),
            Kind::Random => Ok(platform::random(max)),
            Kind::Stdout | Kind::Stderr | Kind::PipeWriter(_) | Kind::Capture(_) => {
                Err(io::Error::other("not open for reading"))
            }
        }
    }
}

impl Pipe {
    async fn read(&self, max: usize) -> Vec<u8> {
        reactor::wait_until_some(|| {
            let mut buffer = self.buffer.borrow_mut();
            if buffer.is_empty() {
                return self.writer_gone.get().then(Vec::new);
            }
            reactor::progressed();
            let length = buffer.len().min(max);
            Some(buffer.drain(..length).collect())
        })
        .await
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        reactor::wait_until_some(|| {
            if self.reader_gone.get() {
                return Some(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let mut buffer = self.buffer.borrow_mut();
            let length = bytes.len().min(PIPE_BYTES_MAX - buffer.len());
            if length > 0 {
                let (now, later) = bytes.split_at(length);
                buffer.extend(now);
                bytes = later;
                reactor::progressed();
            }
            bytes.is_empty().then_some(Ok(()))
        })
        .await
    }
}

/// The open descriptors of a program, by number.
#[derive(Clone, Default)]
pub(crate) struct Descriptors(BTreeMap<u32, Handle>);

impl Descriptors {
    /// What stands behind a number.
    pub(crate) fn get(&self, number: u32) -> io::Result<Handle> {
        let found = self.0.get(&number).map(Rc::clone);
        found.ok_or_else(|| io::Error::other(format!("{number}: bad file descriptor")))
    }

    /// Puts a stream behind a number.
    pub(crate) fn set(&mut self, number: u32, handle: Handle) {
        self.0.insert(number, handle);
    }

    /// Closes a number.
    pub(crate) fn close(&mut self, number: u32) {
        self.0.remove(&number);
    }
}
