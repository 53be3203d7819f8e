//! A body that a guest writes, of an answer or of a request that goes out.
//!
//! Guest and connection share one state. What is written stays in it until the connection takes it, so a
//! body that is whole before the connection looks has a known length and is sent with its head.
//!
//! ```text
//! AtWork ──finish──▶ Finished ──trailers taken──▶ Finished without
//!    ├─────guest drops it, or finishes with another length than declared──▶ GivenUp ──told──▶ Finished
//!    └─────the instance ends────▶ Finished
//! ```
//!
//! An instance that ends with a trap finishes its bodies, too: whoever sends an answer knows that its guest
//! failed, and breaks it off.

use super::{Types, ours, ours_owned};
use crate::store::Guest;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use wasmtime::StoreContextMut;
use wasmtime::component::{Resource, ResourceTableError, ResourceType};
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::{HostOutgoingBody, StreamContext};
use wasmtime_wasi_http::{Error, FieldMap};

/// Bytes that may wait to be taken: some dozen times what hyper buffers itself, so that a fast guest is
/// seldom suspended, and a fraction of what the smallest guest has as memory.
const WAITING_BYTES_MAX: usize = 256 * 1024;
/// Pieces that may wait, however small they are. A guest in Rust or C writes 4 KiB at a time.
const WAITING_PIECES_MAX: usize = 64;
/// What a guest may write at once at least, if it may write: it need not write crumbs when room comes back.
const PERMIT_BYTES_MIN: usize = 64 * 1024;

/// The guest's side: what stands behind `outgoing-body`.
pub(super) struct OutgoingBody {
    shared: Arc<Mutex<State>>,
    of: StreamContext,
}

/// The stream by which a guest writes a body.
pub(super) struct BodyStream {
    shared: Arc<Mutex<State>>,
    of: StreamContext,
}

/// The connection's side.
pub(crate) struct WrittenBody {
    shared: Arc<Mutex<State>>,
}

/// A body under way.
struct State {
    waiting: Waiting,
    writer: Writer,
    stream: Lent,
    /// What the message's head says about the length.
    declared: Option<u64>,
    written: u64,
    has_reader: bool,
    reader: Option<Waker>,
    /// Whoever waits for room.
    guest: Option<Waker>,
}

/// What the writer of a body is about.
enum Writer {
    AtWork,
    /// There will be no more bytes; trailers that nobody has taken yet.
    Finished(Option<HeaderMap>),
    /// The body must not be taken for a whole one.
    GivenUp,
}

/// Where the stream of a body is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lent {
    Here,
    WithGuest,
    Back,
}

/// Written and not yet taken. The first piece has a place of its own: most bodies have no other.
#[derive(Default)]
struct Waiting {
    first: Bytes,
    rest: VecDeque<Bytes>,
    pieces: usize,
    bytes: usize,
}

impl Waiting {
    fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.bytes += piece.len();
        if self.pieces == 0 {
            self.first = piece;
        } else {
            self.rest.push_back(piece);
        }
        self.pieces += 1;
    }

    fn pop(&mut self) -> Option<Bytes> {
        let piece = match self.first.is_empty() {
            true => self.rest.pop_front()?,
            false => std::mem::take(&mut self.first),
        };
        self.bytes -= piece.len();
        self.pieces -= 1;
        Some(piece)
    }

    /// How much may come now.
    fn permit(&self) -> usize {
        let room = WAITING_BYTES_MAX - self.bytes;
        match self.pieces < WAITING_PIECES_MAX && room >= PERMIT_BYTES_MIN {
            true => room,
            false => 0,
        }
    }
}

impl OutgoingBody {
    /// Makes the two sides of a body whose message's head declares a length, or none.
    pub(super) fn new(of: StreamContext, declared: Option<u64>) -> (Self, WrittenBody) {
        let shared = Arc::new(Mutex::new(State {
            waiting: Waiting::default(),
            writer: Writer::AtWork,
            stream: Lent::Here,
            declared,
            written: 0,
            has_reader: true,
            reader: None,
            guest: None,
        }));
        let body = WrittenBody {
            shared: shared.clone(),
        };
        (Self { shared, of }, body)
    }

    /// Returns the stream, once.
    pub(super) fn take_stream(&self) -> Option<BodyStream> {
        let mut state = self.shared.lock();
        if state.stream != Lent::Here {
            return None;
        }
        state.stream = Lent::WithGuest;
        Some(BodyStream {
            shared: self.shared.clone(),
            of: self.of,
        })
    }

    /// Tells whether the guest may let the body go: not before its stream.
    pub(super) fn check_stream(&self) -> Result<(), ResourceTableError> {
        match self.shared.lock().stream {
            Lent::Here | Lent::Back => Ok(()),
            Lent::WithGuest => Err(ResourceTableError::HasChildren),
        }
    }

    /// Ends the body, in good order if it has the length that was declared.
    pub(super) fn finish(self, trailers: Option<HeaderMap>) -> Result<(), ErrorCode> {
        let (written, declared) = {
            let state = self.shared.lock();
            (state.written, state.declared)
        };
        if declared.is_some_and(|declared| declared != written) {
            self.end(Writer::GivenUp);
            return Err(self.of.as_body_size_error(written));
        }
        self.end(Writer::Finished(trailers));
        Ok(())
    }

    /// Lets the other side know that the body is not whole.
    pub(super) fn give_up(self) {
        self.end(Writer::GivenUp);
    }

    fn end(&self, how: Writer) {
        let mut state = self.shared.lock();
        if matches!(state.writer, Writer::AtWork) {
            state.writer = how;
        }
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }
}

impl Drop for OutgoingBody {
    fn drop(&mut self) {
        self.end(Writer::Finished(None));
    }
}

impl BodyStream {
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.lock();
        if !state.has_reader || state.waiting.permit() > 0 {
            return Poll::Ready(());
        }
        remember(&mut state.guest, cx);
        Poll::Pending
    }
}

#[async_trait::async_trait]
impl Pollable for BodyStream {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_writable(cx)).await;
    }
}

#[async_trait::async_trait]
impl OutputStream for BodyStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut state = self.shared.lock();
        if !state.has_reader {
            return Err(StreamError::Closed);
        }
        if bytes.len() > state.waiting.permit() {
            return Err(StreamError::trap("write exceeded budget"));
        }
        state.written = state.written.saturating_add(bytes.len() as u64);
        let written = state.written;
        if state.declared.is_some_and(|declared| written > declared) {
            let error = self.of.as_body_size_error(written);
            return Err(StreamError::LastOperationFailed(error.into()));
        }
        state.waiting.push(bytes);
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        // The connection takes what waits whenever it can.
        match self.shared.lock().has_reader {
            true => Ok(()),
            false => Err(StreamError::Closed),
        }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let state = self.shared.lock();
        match state.has_reader {
            true => Ok(state.waiting.permit()),
            false => Err(StreamError::Closed),
        }
    }
}

impl Drop for BodyStream {
    fn drop(&mut self) {
        self.shared.lock().stream = Lent::Back;
    }
}

impl Body for WrittenBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut state = self.shared.lock();
        if let Some(piece) = state.waiting.pop() {
            // Once there is room for more, the guest is told.
            let guest = match state.waiting.permit() {
                0 => None,
                _ => state.guest.take(),
            };
            drop(state);
            wake(guest);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &mut state.writer {
            Writer::AtWork => {
                remember(&mut state.reader, cx);
                Poll::Pending
            }
            Writer::Finished(trailers) => Poll::Ready(trailers.take().map(Frame::trailers).map(Ok)),
            Writer::GivenUp => {
                state.writer = Writer::Finished(None);
                Poll::Ready(Some(Err(Error::HttpProtocolError)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.lock();
        state.waiting.pieces == 0 && matches!(state.writer, Writer::Finished(None))
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.shared.lock();
        let bytes = state.waiting.bytes as u64;
        // A message that says its length has no place for trailers.
        if let Writer::Finished(None) = state.writer {
            return SizeHint::with_exact(bytes);
        }
        let mut hint = SizeHint::new();
        hint.set_lower(bytes);
        hint
    }
}

impl Drop for WrittenBody {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.has_reader = false;
        let waiting = std::mem::take(&mut state.waiting);
        let guest = state.guest.take();
        drop(state);
        drop(waiting);
        wake(guest);
    }
}

/// Keeps the waker of whoever waits.
fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// Never under the lock: who is woken may take it.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

pub(super) fn add_to(types: &mut Types<'_>) -> wasmtime::Result<()> {
    types.resource(
        "outgoing-body",
        ResourceType::host::<HostOutgoingBody>(),
        |mut store, index| {
            let body = Resource::<OutgoingBody>::new_own(index);
            let table = store.data_mut().table();
            table.get(&body)?.check_stream()?;
            table.delete(body)?.give_up();
            Ok(())
        },
    )?;
    types.func_wrap(
        "[method]outgoing-body.write",
        |mut store: StoreContextMut<'_, Guest>, (body,): (Resource<HostOutgoingBody>,)| {
            let table = store.data_mut().table();
            let body: &OutgoingBody = table.get(&ours(&body))?;
            let Some(stream) = body.take_stream() else {
                return Ok((Err(()),));
            };
            let stream: DynOutputStream = Box::new(stream);
            Ok((Ok(table.push(stream)?),))
        },
    )?;
    types.func_wrap("[static]outgoing-body.finish", finish)
}

fn finish(
    mut store: StoreContextMut<'_, Guest>,
    (body, trailers): (Resource<HostOutgoingBody>, Option<Resource<FieldMap>>),
) -> wasmtime::Result<(Result<(), ErrorCode>,)> {
    let table = store.data_mut().table();
    let body = ours_owned::<_, OutgoingBody>(&body);
    table.get(&body)?.check_stream()?;
    let body = table.delete(body)?;
    let trailers = trailers.map(|trailers| table.delete(trailers));
    let trailers = trailers.transpose()?.map(HeaderMap::from);
    Ok((body.finish(trailers),))
}
