//! Streams over an open file.
//!
//! A stream has at most one operation in flight. Dropping a stream waits for it, so that a guest cannot
//! pile up operations; dropping the guest abandons it.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::FutureExt;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::{Slot, code_of};
use crate::blocking;
use crate::fs::handle::FileHandle;
use crate::fs::node::{Fault, Mode, Outcome};
use crate::fs::overlay::WriteAt;

/// The most bytes a stream holds; as upstream's.
const STREAM_BYTES_MAX: usize = 64 << 10;

/// An operation that runs whether or not it is waited for.
struct InFlight<T>(Pin<Box<dyn Future<Output = io::Result<Outcome<T>>> + Send>>);

/// Reads a file from a position on.
pub(super) struct FileInput {
    file: FileHandle,
    position: u64,
    state: Input,
    _slot: Slot,
}

enum Input {
    Idle,
    Reading(InFlight<Bytes>),
    /// Never empty.
    Read(Bytes),
    Failed(ErrorCode),
    Ended,
}

/// Writes a file from a position on, or at its end.
pub(super) struct FileOutput {
    file: FileHandle,
    at: WriteAt,
    state: Output,
    _slot: Slot,
}

enum Output {
    Idle,
    Writing(InFlight<()>),
    Failed(ErrorCode),
    Ended,
}

/// Begins an operation on a blocking thread.
fn begin<T: Send + 'static>(
    operation: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> InFlight<T> {
    let mut running = Box::pin(blocking::run(operation));
    // Futures do nothing before they are polled.
    match running.as_mut().now_or_never() {
        None => InFlight(running),
        Some(done) => InFlight(Box::pin(std::future::ready(done))),
    }
}

impl<T> InFlight<T> {
    async fn done(&mut self) -> Result<T, ErrorCode> {
        match self.0.as_mut().await {
            Ok(done) => done.map_err(code_of),
            Err(_panicked_or_shut_down) => Err(ErrorCode::Io),
        }
    }
}

impl FileInput {
    pub(super) fn new(file: FileHandle, position: u64, slot: Slot) -> FileInput {
        FileInput {
            file,
            position,
            state: Input::Idle,
            _slot: slot,
        }
    }

    /// Reads at once what is in memory, else begins to read.
    fn begin(&mut self, size: usize) {
        let size = size.clamp(1, STREAM_BYTES_MAX);
        let position = self.position;
        self.state = match self.file.read(position, size, Mode::Inline) {
            Err(Fault::Blocks) => {
                let file = self.file.clone();
                Input::Reading(begin(move || file.read(position, size, Mode::Blocking)))
            }
            done => Input::after(done.map_err(code_of)),
        };
    }

    async fn settle(&mut self) {
        if let Input::Reading(reading) = &mut self.state {
            self.state = Input::after(reading.done().await);
        }
    }
}

impl Input {
    fn after(done: Result<Bytes, ErrorCode>) -> Input {
        match done {
            Ok(bytes) if bytes.is_empty() => Input::Ended,
            Ok(bytes) => Input::Read(bytes),
            Err(code) => Input::Failed(code),
        }
    }
}

#[async_trait]
impl InputStream for FileInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        if let Input::Idle = self.state {
            self.begin(size);
        }
        match &mut self.state {
            Input::Idle | Input::Reading(_) => Ok(Bytes::new()),
            Input::Ended => Err(StreamError::Closed),
            Input::Failed(code) => {
                let code = *code;
                self.state = Input::Ended;
                Err(StreamError::LastOperationFailed(code.into()))
            }
            Input::Read(bytes) => {
                let part = bytes.split_to(bytes.len().min(size));
                if bytes.is_empty() {
                    self.state = Input::Idle;
                }
                self.position += part.len() as u64;
                Ok(part)
            }
        }
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size > 0 && matches!(self.state, Input::Idle) {
            self.begin(size);
        }
        self.settle().await;
        self.read(size)
    }

    async fn cancel(&mut self) {
        self.settle().await;
    }
}

#[async_trait]
impl Pollable for FileInput {
    async fn ready(&mut self) {
        if let Input::Idle = self.state {
            self.begin(STREAM_BYTES_MAX);
        }
        self.settle().await;
    }
}

impl FileOutput {
    pub(super) fn new(file: FileHandle, at: WriteAt, slot: Slot) -> FileOutput {
        FileOutput {
            file,
            at,
            state: Output::Idle,
            _slot: slot,
        }
    }

    /// The failure of the last write, once.
    fn failure(&mut self) -> StreamResult<()> {
        match self.state {
            Output::Idle | Output::Writing(_) => Ok(()),
            Output::Ended => Err(StreamError::Closed),
            Output::Failed(code) => {
                self.state = Output::Ended;
                Err(StreamError::LastOperationFailed(code.into()))
            }
        }
    }
}

#[async_trait]
impl OutputStream for FileOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        match self.state {
            Output::Ended => return Err(StreamError::Closed),
            Output::Idle if bytes.len() <= STREAM_BYTES_MAX => {}
            Output::Idle | Output::Writing(_) | Output::Failed(_) => {
                let why = "a write exceeds what `check-write` permitted";
                return Err(StreamError::Trap(wasmtime::format_err!("{why}")));
            }
        }
        let at = self.at;
        if let WriteAt::Offset(offset) = &mut self.at {
            // The file refuses a write that ends beyond what can be counted.
            *offset = offset.saturating_add(bytes.len() as u64);
        }
        let file = self.file.clone();
        self.state = Output::Writing(begin(move || file.write(at, &bytes, Mode::Blocking)));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.failure()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.failure()?;
        Ok(if matches!(self.state, Output::Writing(_)) {
            0
        } else {
            STREAM_BYTES_MAX
        })
    }

    async fn cancel(&mut self) {
        self.ready().await;
        self.state = Output::Ended;
    }
}

#[async_trait]
impl Pollable for FileOutput {
    async fn ready(&mut self) {
        if let Output::Writing(writing) = &mut self.state {
            self.state = match writing.done().await {
                Ok(()) => Output::Idle,
                Err(code) => Output::Failed(code),
            };
        }
    }
}
