//! An answer's body on its way to the client.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use wasmtime_wasi_http::Error;

use crate::http_types::WrittenBody;

/// A body of ours or of a guest's. That of a guest ends with an error if its guest failed, so that a client
/// does not take half an answer for a whole one.
pub(super) enum AnswerBody {
    /// What the runtime says in a guest's place.
    Ours(Full<Bytes>),
    /// What a guest has written, or writes.
    Guests(WrittenBody, Arc<Fate>),
    /// A guest answered with a head alone.
    None,
}

/// How a guest ended that had one request to answer, as far as it has.
#[derive(Default)]
pub(super) struct Fate(AtomicU8);

/// What became of a request beside its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its guest is at work, or ended well.
    Fine,
    /// Its guest failed.
    Failed,
    /// There was no instance for it.
    NoInstance,
}

impl Fate {
    pub(super) fn is(&self, end: End) {
        let code = match end {
            End::Fine => 0,
            End::Failed => 1,
            End::NoInstance => 2,
        };
        self.0.store(code, Ordering::Release);
    }

    pub(super) fn end(&self) -> End {
        match self.0.load(Ordering::Acquire) {
            0 => End::Fine,
            1 => End::Failed,
            _ => End::NoInstance,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            AnswerBody::Ours(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            AnswerBody::Guests(body, fate) => {
                match std::task::ready!(Pin::new(body).poll_frame(cx)) {
                    None if fate.end() == End::Failed => {
                        Poll::Ready(Some(Err(Error::HttpProtocolError)))
                    }
                    frame => Poll::Ready(frame),
                }
            }
            AnswerBody::None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Ours(body) => body.is_end_stream(),
            AnswerBody::Guests(body, fate) => body.is_end_stream() && fate.end() != End::Failed,
            AnswerBody::None => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Ours(body) => body.size_hint(),
            // A whole body would be believed.
            AnswerBody::Guests(_, fate) if fate.end() == End::Failed => SizeHint::default(),
            AnswerBody::Guests(body, _) => body.size_hint(),
            AnswerBody::None => SizeHint::with_exact(0),
        }
    }
}
