//! A guest's answer on its way to the client.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// A body that ends with an error if its guest failed, so that a client does not take half an
/// answer for a whole one. (The host's body ends quietly when its guest's store is dropped.)
pub(super) struct GuestBody {
    body: HyperOutgoingBody,
    failed: Arc<AtomicBool>,
}

impl GuestBody {
    pub(super) fn new(body: HyperOutgoingBody, failed: Arc<AtomicBool>) -> Self {
        Self { body, failed }
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None if self.failed.load(Ordering::Acquire) => {
                Poll::Ready(Some(Err(Error::HttpProtocolError)))
            }
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
