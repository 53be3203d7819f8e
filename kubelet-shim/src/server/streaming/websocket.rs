//! WebSocket connections: messages of channels in and out, and a tunnel that carries plain bytes.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::channels::{ChannelProtocol, Said};
use super::drive::{Activity, LIMITS, PING_INTERVAL, drive};
use super::frames::Last;
use super::output::{Output, Piece, QUEUE_MAX};

/// The longest message of a client; `kubectl` sends 32 KiB at a time.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Bytes that the tunnel puts in one message.
const TUNNEL_BYTES_MAX: usize = 32 << 10;

/// Takes over a connection whose handshake is done.
pub(super) async fn accept<S>(io: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        // Every message is written at once: whoever types waits for the echo.
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MESSAGE_BYTES_MAX);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Makes outputs for the channels of one connection.
pub(super) struct Outputs(mpsc::Sender<Piece>);

impl Outputs {
    pub(super) fn channel(&self, channel: u8) -> Output<Piece> {
        Output::new(u32::from(channel), self.0.clone())
    }

    /// Sends an empty message, which says that the connection is open.
    pub(super) async fn greet(&self, channel: u8) {
        let piece = Piece {
            stream: u32::from(channel),
            bytes: Bytes::new(),
            last: Last::No,
        };
        // Only a connection that ended takes none.
        let _ = self.0.send(piece).await;
    }
}

/// Serves a connection of channels: what arrives goes into `inputs`, and `work` writes to outputs.
/// When it is done the connection ends.
pub(super) async fn serve<S, F>(
    socket: WebSocketStream<S>,
    protocol: ChannelProtocol,
    inputs: HashMap<u8, DuplexStream>,
    work: impl FnOnce(Outputs) -> F,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    let (sink, stream) = socket.split();
    let (queue, queued) = mpsc::channel(QUEUE_MAX);
    let activity = Activity::new(LIMITS);
    let outputs = Outputs(queue.clone());
    let work = work(outputs);
    let work = async move {
        // The queue is open for as long as the work goes on.
        let _queue = queue;
        work.await;
    };
    let read = read(stream, protocol, inputs, &activity);
    let write = write(sink, protocol, queued, &activity);
    drive(&activity, read, write, work).await;
}

async fn read(
    mut messages: impl Stream<Item = Result<Message, Error>> + Unpin,
    protocol: ChannelProtocol,
    mut inputs: HashMap<u8, DuplexStream>,
    activity: &Activity,
) {
    while let Some(message) = messages.next().await {
        let said = match message {
            Ok(message @ (Message::Binary(_) | Message::Text(_))) => protocol.read(&message),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
            // The library answers, and the next message is the end.
            Ok(Message::Close(_)) => continue,
            Err(error) => return tracing::debug!(%error, "a WebSocket client is gone"),
        };
        activity.note();
        match said {
            Ok(Said::Bytes { channel, bytes }) => {
                if let Some(pipe) = inputs.get_mut(&channel)
                    && pipe.write_all(&bytes).await.is_err()
                {
                    // Nobody reads it any more.
                    inputs.remove(&channel);
                }
            }
            // Dropping the pipe is its end.
            Ok(Said::End { channel }) => drop(inputs.remove(&channel)),
            Ok(Said::Nothing) => (),
            Err(error) => return tracing::debug!(%error, "no client of channels"),
        }
    }
}

/// Writes what is queued until nobody can queue anything any more.
async fn write(
    mut sink: impl Sink<Message, Error = Error> + Unpin,
    protocol: ChannelProtocol,
    mut queued: mpsc::Receiver<Piece>,
    activity: &Activity,
) -> io::Result<()> {
    let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            // Cancel-safe: what is not taken stays queued.
            next = queued.recv() => match next {
                // A server does not say that a channel ended; the end of all is that of each.
                Some(Piece { last: Last::Yes, .. }) => continue,
                Some(piece) => {
                    activity.note();
                    let channel = u8::try_from(piece.stream).unwrap_or(u8::MAX);
                    protocol.write(channel, &piece.bytes)
                }
                None => break,
            },
            // Cancel-safe: a tick is not lost.
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        sink.send(message).await.map_err(into_io)?;
    }
    let goodbye = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    sink.send(Message::Close(Some(goodbye)))
        .await
        .map_err(into_io)
}

/// A WebSocket whose binary messages are one stream of bytes.
pub(super) struct Tunnel<S> {
    socket: WebSocketStream<S>,
    /// What of the latest message was not read yet.
    rest: Bytes,
}

impl<S> Tunnel<S> {
    pub(super) fn new(socket: WebSocketStream<S>) -> Tunnel<S> {
        Tunnel {
            socket,
            rest: Bytes::new(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.socket.poll_next_unpin(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Text(_))) => {
                    let text = "a tunnel carries binary messages only";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Some(Ok(
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) | Message::Close(_),
                )) => (),
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.socket.poll_ready_unpin(cx)).map_err(into_io)?;
        let bytes = &bytes[..bytes.len().min(TUNNEL_BYTES_MAX)];
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        self.socket.start_send_unpin(message).map_err(into_io)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush_unpin(cx).map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_close_unpin(cx).map_err(into_io)
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        error => io::Error::other(error),
    }
}
