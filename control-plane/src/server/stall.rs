//! A stream whose reader must go on reading: one that takes nothing for too long is given up.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// A stream that fails with `TimedOut` when a write makes no progress for too long.
pub(super) struct WriteDeadline<S> {
    stream: S,
    limit: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteDeadline<S> {
    /// `limit` is how long the peer may take nothing of what is written to it.
    pub(super) fn new(stream: S, limit: Duration) -> WriteDeadline<S> {
        WriteDeadline {
            stream,
            limit,
            stalled: None,
        }
    }

    /// Returns the stream, without a limit.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Passes a write's outcome on, unless it has been waiting for too long.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let limit = self.limit;
        let sleep = || Box::pin(tokio::time::sleep(limit));
        ready!(self.stalled.get_or_insert_with(sleep).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteDeadline<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.watch(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_stops_reading_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut ours = WriteDeadline::new(ours, Duration::from_millis(1));
        ours.write_all(&[0; 4]).await.unwrap();
        let error = ours.write_all(&[0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_reader_that_goes_on_may_take_longer_than_the_limit() {
        let (ours, theirs) = tokio::io::duplex(4);
        let mut ours = WriteDeadline::new(ours, Duration::from_secs(600));
        let mut theirs = theirs;
        let read = tokio::io::AsyncReadExt::read_exact;
        let (mut first, mut second) = ([0; 8], [0; 8]);
        let reading = async {
            read(&mut theirs, &mut first).await.unwrap();
            read(&mut theirs, &mut second).await.unwrap();
        };
        let (written, ()) = tokio::join!(ours.write_all(&[0; 16]), reading);
        written.unwrap();
        assert!(ours.stalled.is_none());
    }
}
