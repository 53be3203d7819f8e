//! A SPDY/3.1 connection: frames in, streams out.
//!
//! Kubernetes' SPDY has no flow control: neither side sends or minds windows. A stream whose reader
//! is slow therefore holds up the streams behind it once its buffer is full, as in a stock kubelet.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;

use thiserror::Error;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter,
    DuplexStream,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::drive::{Activity, LIMITS, PING_INTERVAL, drive};
use super::frames::{Control, FrameError, HEAD_BYTES, Head, Last, REFUSED, StreamId};
use super::header_block::{BlockReader, BlockWriter, Headers};
use super::output::{Output, Piece, QUEUE_MAX};

/// Streams of one connection at once: 128 connections of a `kubectl port-forward`.
const STREAMS_MAX: usize = 256;

/// Bytes of one stream that wait for their reader.
pub(super) const INPUT_BYTES_MAX: usize = 32 << 10;

/// Streams that wait until somebody minds them.
const OPENED_MAX: usize = 16;

/// A stream that a client opened.
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) headers: Headers,
    /// What the client sends; ends when the client ends its direction or resets the stream.
    pub(super) input: DuplexStream,
    pub(super) output: Output<Outgoing>,
    /// Cancelled when the client wants nothing more of the stream.
    pub(super) reset: CancellationToken,
    /// Held for as long as the stream takes memory.
    pub(super) place: Arc<Place>,
}

/// A stream's places, in its connection and on its node.
pub(super) struct Place {
    _in_connection: OwnedSemaphorePermit,
    _on_node: OwnedSemaphorePermit,
}

/// What waits to be written.
pub(super) enum Outgoing {
    Piece(Piece),
    Control(Control),
}

/// Says whether a stream with these headers is expected; any other is refused.
pub(super) type Expected = fn(&Headers) -> bool;

/// Reads frames and hands streams out.
struct Reader<R> {
    io: BufReader<R>,
    blocks: BlockReader,
    inputs: HashMap<StreamId, Input>,
    newest: StreamId,
    expected: Expected,
    opened: mpsc::Sender<Stream>,
    queue: mpsc::WeakSender<Outgoing>,
    places: Arc<Semaphore>,
    places_on_node: Arc<Semaphore>,
    activity: Arc<Activity>,
}

/// Where a stream's bytes go.
struct Input {
    /// Nothing once nobody reads it any more.
    pipe: Option<DuplexStream>,
    reset: CancellationToken,
    _place: Arc<Place>,
}

/// Why nothing more is read of a connection.
#[derive(Debug, Error)]
enum ReadError {
    #[error("failed to read")]
    Io(#[from] io::Error),
    #[error("failed to understand a frame")]
    Frame(#[from] FrameError),
    #[error("stream {0} is opened out of order")]
    Order(StreamId),
}

impl From<Piece> for Outgoing {
    fn from(piece: Piece) -> Outgoing {
        Outgoing::Piece(piece)
    }
}

/// Serves a connection: `work` takes the streams that are opened, and when it is done the connection
/// ends.
pub(super) async fn serve<S, F>(
    io: S,
    places_on_node: Arc<Semaphore>,
    expected: Expected,
    work: impl FnOnce(mpsc::Receiver<Stream>) -> F,
) where
    S: AsyncRead + AsyncWrite,
    F: Future<Output = ()>,
{
    let (input, output) = tokio::io::split(io);
    let (opened, streams) = mpsc::channel(OPENED_MAX);
    let (queue, queued) = mpsc::channel(QUEUE_MAX);
    let activity = Arc::new(Activity::new(LIMITS));
    let reader = Reader {
        io: BufReader::new(input),
        blocks: BlockReader::new(),
        inputs: HashMap::new(),
        newest: 0,
        expected,
        opened,
        queue: queue.downgrade(),
        places: Arc::new(Semaphore::new(STREAMS_MAX)),
        places_on_node,
        activity: Arc::clone(&activity),
    };
    let work = work(streams);
    let work = async move {
        // The queue is open for as long as the work goes on, whether or not there are streams.
        let _queue = queue;
        work.await;
    };
    let write = write(output, queued, &activity);
    drive(&activity, reader.run(), write, work).await;
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads until the client is gone or cannot be understood.
    async fn run(mut self) {
        let error = loop {
            if let Err(error) = self.frame().await {
                break error;
            }
        };
        match error {
            ReadError::Io(error) => tracing::debug!(%error, "a client of streams is gone"),
            error => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no SPDY client");
            }
        }
    }

    async fn frame(&mut self) -> Result<(), ReadError> {
        let mut head = [0; HEAD_BYTES];
        self.io.read_exact(&mut head).await?;
        match Head::read(head)? {
            Head::Data {
                stream,
                last,
                length,
            } => {
                self.activity.note();
                self.data(stream, length as usize).await?;
                if last == Last::Yes {
                    // Dropping the pipe is its end.
                    self.inputs.remove(&stream);
                }
                Ok(())
            }
            Head::Control(head) => {
                let mut payload = vec![0; head.length()];
                self.io.read_exact(&mut payload).await?;
                let control = Control::read(head, &payload, &mut self.blocks)?;
                self.control(control).await
            }
        }
    }

    /// Passes the bytes of one frame on; those of a stream that is gone are thrown away.
    async fn data(&mut self, stream: StreamId, length: usize) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let bytes = self.io.fill_buf().await?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let bytes = &bytes[..bytes.len().min(left)];
            if let Some(input) = self.inputs.get_mut(&stream)
                && let Some(pipe) = &mut input.pipe
                && pipe.write_all(bytes).await.is_err()
            {
                input.pipe = None;
            }
            let taken = bytes.len();
            self.io.consume(taken);
            left -= taken;
        }
        Ok(())
    }

    async fn control(&mut self, control: Control) -> Result<(), ReadError> {
        match control {
            Control::Open {
                stream,
                last,
                headers,
            } => self.open(stream, last, headers).await?,
            Control::Reset { stream, .. } => {
                if let Some(input) = self.inputs.remove(&stream) {
                    input.reset.cancel();
                }
            }
            Control::Headers { stream, last, .. } => {
                if last == Last::Yes {
                    self.inputs.remove(&stream);
                }
            }
            // Even numbers are those of our own pings.
            Control::Ping(id) if !id.is_multiple_of(2) => self.send(Control::Ping(id)).await,
            Control::Ping(_)
            | Control::Reply { .. }
            | Control::Settings
            | Control::GoAway { .. }
            | Control::WindowUpdate { .. }
            | Control::Unknown(_) => (),
        }
        Ok(())
    }

    async fn open(
        &mut self,
        stream: StreamId,
        last: Last,
        headers: Headers,
    ) -> Result<(), ReadError> {
        if stream.is_multiple_of(2) || stream <= self.newest {
            return Err(ReadError::Order(stream));
        }
        self.newest = stream;
        let place = self.place().filter(|_| (self.expected)(&headers));
        let (Some(place), Some(queue)) = (place, self.queue.upgrade()) else {
            self.refuse(stream).await;
            return Ok(());
        };
        let (pipe, input) = tokio::io::duplex(INPUT_BYTES_MAX);
        let (place, reset) = (Arc::new(place), CancellationToken::new());
        let entry = Input {
            pipe: Some(pipe),
            reset: reset.clone(),
            _place: Arc::clone(&place),
        };
        let opened = Stream {
            id: stream,
            headers,
            input,
            output: Output::new(stream, queue),
            reset,
            place,
        };
        let headers = Headers::default();
        self.send(Control::Reply { stream, headers }).await;
        if self.opened.send(opened).await.is_err() {
            // Whoever serves this connection has all the streams it wants.
            self.refuse(stream).await;
        } else if last == Last::No {
            self.inputs.insert(stream, entry);
        }
        Ok(())
    }

    fn place(&self) -> Option<Place> {
        let place = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        Some(Place {
            _in_connection: place(&self.places)?,
            _on_node: place(&self.places_on_node)?,
        })
    }

    async fn refuse(&mut self, stream: StreamId) {
        let reason = REFUSED;
        self.send(Control::Reset { stream, reason }).await;
    }

    /// Queues an answer; nobody misses it once the connection ends.
    async fn send(&mut self, control: Control) {
        if let Some(queue) = self.queue.upgrade() {
            let _ = queue.send(Outgoing::Control(control)).await;
        }
    }
}

/// Writes what is queued until nobody can queue anything any more.
async fn write<W: AsyncWrite + Unpin>(
    io: W,
    mut queued: mpsc::Receiver<Outgoing>,
    activity: &Activity,
) -> io::Result<()> {
    let mut io = BufWriter::new(io);
    let mut blocks = BlockWriter::new();
    let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ping = 0_u32;
    loop {
        tokio::select! {
            // Cancel-safe: what is not taken stays queued.
            next = queued.recv() => match next {
                Some(Outgoing::Piece(piece)) => {
                    activity.note();
                    let head = Head::data(piece.stream, piece.last, piece.bytes.len());
                    io.write_all(&head).await?;
                    io.write_all(&piece.bytes).await?;
                }
                Some(Outgoing::Control(control)) => {
                    io.write_all(&control.write(&mut blocks)).await?;
                }
                None => break,
            },
            // Cancel-safe: a tick is not lost.
            _ = pings.tick() => {
                ping = ping.wrapping_add(2);
                io.write_all(&Control::Ping(ping).write(&mut blocks)).await?;
            }
        }
        if queued.is_empty() {
            io.flush().await?;
        }
    }
    let goodbye = Control::GoAway { last_taken: 0 };
    io.write_all(&goodbye.write(&mut blocks)).await?;
    io.shutdown().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::client::{Heard, SpdyClient};
    use super::*;

    fn is_any(headers: &Headers) -> bool {
        headers.get("refuse").is_none()
    }

    /// Runs `talk` with a server that returns what it is sent on a stream, stream by stream.
    async fn check<F: Future<Output = ()>>(talk: impl FnOnce(SpdyClient) -> F) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let places = Arc::new(Semaphore::new(3));
        let server = serve(near, places, is_any, |mut opened| async move {
            while let Some(mut stream) = opened.recv().await {
                tokio::select! {
                    // A stream that is reset ends too: nothing is said on it then.
                    biased;
                    () = stream.reset.cancelled() => {}
                    copied = tokio::io::copy(&mut stream.input, &mut stream.output) => {
                        copied.expect("copied");
                        stream.output.shutdown().await.expect("shut down");
                    }
                }
            }
        });
        tokio::join!(server, talk(SpdyClient::new(far)));
    }

    fn reply(stream: StreamId) -> Option<Heard> {
        let headers = Headers::default();
        Some(Heard::Control(Control::Reply { stream, headers }))
    }

    fn refusal(stream: StreamId) -> Option<Heard> {
        let reason = REFUSED;
        Some(Heard::Control(Control::Reset { stream, reason }))
    }

    #[tokio::test]
    async fn a_stream_carries_bytes_both_ways_and_ends_one_way_at_a_time() {
        check(async |mut client| {
            client.open(1, &[("streamtype", "data")]).await;
            assert_eq!(client.hear().await, reply(1));
            client.send(1, b"hello", Last::No).await;
            let heard = Some(Heard::Data(1, b"hello".to_vec(), Last::No));
            assert_eq!(client.hear().await, heard);
            client.send(1, b"", Last::Yes).await;
            assert_eq!(client.hear().await, Some(Heard::Data(1, vec![], Last::Yes)));
            // A late byte of a stream that ended is nobody's.
            client.send(1, b"late", Last::No).await;
            client.say(Control::Ping(1)).await;
            assert_eq!(client.hear().await, Some(Heard::Control(Control::Ping(1))));
        })
        .await;
    }

    #[tokio::test]
    async fn streams_that_are_not_expected_or_too_many_are_refused() {
        check(async |mut client| {
            client.open(1, &[("refuse", "")]).await;
            assert_eq!(client.hear().await, refusal(1));
            for stream in [3, 5, 7] {
                client.open(stream, &[]).await;
                assert_eq!(client.hear().await, reply(stream));
            }
            client.open(9, &[]).await;
            assert_eq!(client.hear().await, refusal(9));
            // A stream that is reset gives its place back once its server has noticed.
            let reason = 5;
            client.say(Control::Reset { stream: 3, reason }).await;
            let mut next = 11;
            loop {
                client.open(next, &[]).await;
                let heard = client.hear().await;
                if heard == reply(next) {
                    break;
                }
                assert_eq!(heard, refusal(next));
                next += 2;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn streams_are_opened_in_order_by_clients() {
        for (first, second) in [(2, 3), (3, 1), (1, 1)] {
            check(async |mut client| {
                client.open(first, &[]).await;
                client.open(second, &[]).await;
                while client.hear().await.is_some() {}
            })
            .await;
        }
    }

    #[tokio::test]
    async fn unknown_frames_are_skipped() {
        check(async |mut client| {
            client.say(Control::Settings).await;
            client.say(Control::Unknown(77)).await;
            let (stream, delta) = (1, 1);
            client.say(Control::WindowUpdate { stream, delta }).await;
            client.say(Control::GoAway { last_taken: 0 }).await;
            client.say(Control::Ping(2)).await;
            client.say(Control::Ping(3)).await;
            assert_eq!(client.hear().await, Some(Heard::Control(Control::Ping(3))));
        })
        .await;
    }

    proptest! {
        #[test]
        fn no_bytes_keep_a_connection_alive_or_break_the_server(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            is_control: bool,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.expect("a runtime").block_on(check(async |mut client| {
                let mut bytes = bytes;
                if is_control && bytes.len() > 8 {
                    let length = bytes.len() as u16 - 8;
                    let [high, low] = length.to_be_bytes();
                    let kind = bytes[3] % 12;
                    bytes[..4].copy_from_slice(&[0x80, 3, 0, kind]);
                    bytes[5..8].copy_from_slice(&[0, high, low]);
                }
                // Refused as soon as the server has had enough.
                let _ = client.io.write_all(&bytes).await;
            }));
        }
    }
}
