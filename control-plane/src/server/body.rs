//! Bodies on their way to a connection: they keep it busy, and end with the server.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::service::{ApiBody, BrokenOff};

/// A request under way on a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy(watch::Sender<usize>);

/// The body of an answer.
pub(super) struct ServedBody {
    body: ApiBody,
    /// Set for bodies without an end of their own.
    stopping: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _busy: Busy,
}

impl Busy {
    pub(super) fn new(running: watch::Sender<usize>) -> Busy {
        running.send_modify(|running| *running = running.saturating_add(1));
        Busy(running)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0
            .send_modify(|running| *running = running.saturating_sub(1));
    }
}

impl ServedBody {
    pub(super) fn new(body: ApiBody, busy: Busy, stopping: &CancellationToken) -> ServedBody {
        let endless = body.is_endless();
        ServedBody {
            body,
            stopping: endless.then(|| Box::pin(stopping.clone().cancelled_owned())),
            _busy: busy,
        }
    }
}

impl Body for ServedBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(stopping) = &mut self.stopping
            && stopping.as_mut().poll(cx).is_ready()
        {
            // Nobody shall take what was passed on so far for the whole.
            let broken = self.body.is_passed_on().then_some(Err(BrokenOff));
            return Poll::Ready(broken);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
