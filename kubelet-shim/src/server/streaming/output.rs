//! One direction of a stream on its way out: bytes become pieces in the connection's bounded queue.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::frames::Last;

/// Bytes in one piece: what `kubectl` and the stock servers copy at a time.
const PIECE_BYTES_MAX: usize = 32 << 10;

/// Pieces and answers that wait until the client takes them: a quarter of a megabyte per
/// connection, then whoever writes waits.
pub(super) const QUEUE_MAX: usize = 8;

/// Bytes of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) stream: u32,
    pub(super) bytes: Bytes,
    pub(super) last: Last,
}

/// The writing end of a stream. Shutting it down tells the client that nothing more comes; dropping
/// it does not.
pub(super) struct Output<T> {
    stream: u32,
    queue: PollSender<T>,
}

impl<T: From<Piece> + Send + 'static> Output<T> {
    pub(super) fn new(stream: u32, queue: mpsc::Sender<T>) -> Output<T> {
        Output {
            stream,
            queue: PollSender::new(queue),
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: Last,
    ) -> Poll<io::Result<()>> {
        // The queue is gone with its connection.
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.queue.poll_reserve(cx)).map_err(closed)?;
        let piece = Piece {
            stream: self.stream,
            bytes: Bytes::copy_from_slice(bytes),
            last,
        };
        Poll::Ready(self.queue.send_item(piece.into()).map_err(closed))
    }
}

impl<T: From<Piece> + Send + 'static> AsyncWrite for Output<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let piece = &bytes[..bytes.len().min(PIECE_BYTES_MAX)];
        ready!(self.poll_send(cx, piece, Last::No))?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whatever is queued is written as soon as the client takes it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx, &[], Last::Yes)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn bytes_become_pieces_and_a_last_one() {
        let (queue, mut pieces) = mpsc::channel::<Piece>(QUEUE_MAX);
        let mut output = Output::new(7, queue);
        output
            .write_all(&[1; PIECE_BYTES_MAX + 1])
            .await
            .expect("written");
        output.shutdown().await.expect("shut down");
        drop(output);
        let mut found = Vec::new();
        while let Some(piece) = pieces.recv().await {
            assert_eq!(piece.stream, 7);
            found.push((piece.bytes.len(), piece.last));
        }
        let expected = [(PIECE_BYTES_MAX, Last::No), (1, Last::No), (0, Last::Yes)];
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn writing_fails_when_the_connection_is_gone() {
        let (queue, pieces) = mpsc::channel::<Piece>(QUEUE_MAX);
        drop(pieces);
        let error = Output::new(1, queue)
            .write_all(&[1])
            .await
            .expect_err("gone");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
