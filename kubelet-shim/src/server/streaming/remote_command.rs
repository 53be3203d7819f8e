//! `exec` and `attach` on the wire: which streams a client opens for them, and how it learns the end
//! (contract E.4).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_tungstenite::WebSocketStream;

use super::super::session::{Session, Streams, Wanted};
use super::channels::{ChannelProtocol, Form, HalfClose};
use super::header_block::Headers;
use super::output::Output;
use super::spdy::{self, INPUT_BYTES_MAX, Outgoing, Stream};
use super::upgrade::Offer;
use super::websocket;

/// How long a client may take to open its streams; the kubelet's number (contract E.4).
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Sizes of a terminal that wait; whoever drags a window sends more than anybody needs.
const SIZES_MAX: usize = 8;

/// The longest text of one size of a terminal.
const SIZE_BYTES_MAX: usize = 1024;

/// The channels of a WebSocket.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// How a client learns how the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// As a `Status` in JSON.
    Status,
    /// As text, if it failed.
    Text,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Spdy { ending: Ending, resize: Resize },
    Channels(ChannelProtocol, Ending),
}

/// Whether a client tells the size of its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resize {
    Told,
    Untold,
}

const fn channels(form: Form, half_close: HalfClose, ending: Ending) -> Protocol {
    Protocol::Channels(ChannelProtocol { form, half_close }, ending)
}

const fn spdy(ending: Ending, resize: Resize) -> Protocol {
    Protocol::Spdy { ending, resize }
}

const V1_CHANNELS: Protocol = channels(Form::Binary, HalfClose::Unknown, Ending::Text);

/// Every generation of the protocol.
pub(super) const OFFER: Offer<Protocol> = Offer {
    spdy: &[
        ("v4.channel.k8s.io", spdy(Ending::Status, Resize::Told)),
        ("v3.channel.k8s.io", spdy(Ending::Text, Resize::Told)),
        ("v2.channel.k8s.io", spdy(Ending::Text, Resize::Untold)),
        ("channel.k8s.io", spdy(Ending::Text, Resize::Untold)),
    ],
    web_socket: &[
        (
            "v5.channel.k8s.io",
            channels(Form::Binary, HalfClose::Possible, Ending::Status),
        ),
        (
            "v4.channel.k8s.io",
            channels(Form::Binary, HalfClose::Unknown, Ending::Status),
        ),
        (
            "v4.base64.channel.k8s.io",
            channels(Form::Base64, HalfClose::Unknown, Ending::Status),
        ),
        ("channel.k8s.io", V1_CHANNELS),
        (
            "base64.channel.k8s.io",
            channels(Form::Base64, HalfClose::Unknown, Ending::Text),
        ),
    ],
    unnamed: V1_CHANNELS,
};

/// Runs a session over SPDY streams.
pub(super) async fn over_spdy<S: AsyncRead + AsyncWrite>(
    io: S,
    session: Session,
    (ending, resize): (Ending, Resize),
    places: Arc<Semaphore>,
) {
    let work = |mut opened: mpsc::Receiver<Stream>| async move {
        let wanted = session.wanted();
        let collected = collect(&mut opened, wanted, resize);
        let collected = tokio::time::timeout(CREATION_TIMEOUT, collected).await;
        // Further streams are refused.
        drop(opened);
        let Ok(Some(opened)) = collected else {
            tracing::debug!("a client did not open the streams it asked for");
            return;
        };
        let Opened {
            stdin,
            stdout,
            stderr,
            error,
            resize,
        } = opened;
        let ((stdin, _stdin), (_, stdout)) = (stdin.unzip(), stdout.unzip());
        let ((_, stderr), (resize, _resize)) = (stderr.unzip(), resize.unzip());
        let streams = Ends {
            stdin,
            stdout,
            stderr,
            resize,
        };
        run(session, streams, error, ending).await;
    };
    spdy::serve(io, places, is_expected, work).await;
}

/// Runs a session over the channels of a WebSocket.
pub(super) async fn over_channels<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<S>,
    session: Session,
    protocol: ChannelProtocol,
    ending: Ending,
) {
    let wanted = session.wanted();
    let mut inputs = HashMap::new();
    let mut input = |is_wanted: bool, channel: u8| {
        is_wanted.then(|| {
            let (pipe, input) = tokio::io::duplex(INPUT_BYTES_MAX);
            inputs.insert(channel, pipe);
            input
        })
    };
    let (stdin, resize) = (input(wanted.stdin, STDIN), input(wanted.tty, RESIZE));
    let work = |outputs: websocket::Outputs| async move {
        let output = |is_wanted: bool, channel| is_wanted.then(|| outputs.channel(channel));
        // The first message, an empty one, says that the connection is open.
        let first = [(wanted.stdout, STDOUT), (wanted.stderr, STDERR)];
        let first = first.iter().find(|(is_wanted, _)| *is_wanted);
        outputs
            .greet(first.map_or(ERROR, |(_, channel)| *channel))
            .await;
        let streams = Ends {
            stdin,
            stdout: output(wanted.stdout, STDOUT),
            stderr: output(wanted.stderr, STDERR),
            resize,
        };
        let error = outputs.channel(ERROR);
        drop(outputs);
        run(session, streams, error, ending).await;
    };
    websocket::serve(socket, protocol, inputs, work).await;
}

/// This side's ends of a session's streams.
struct Ends<T> {
    stdin: Option<DuplexStream>,
    stdout: Option<Output<T>>,
    stderr: Option<Output<T>>,
    resize: Option<DuplexStream>,
}

async fn run<T>(session: Session, ends: Ends<T>, mut error: Output<T>, ending: Ending)
where
    T: From<super::output::Piece> + Send + 'static,
{
    let (told, sizes) = mpsc::channel(SIZES_MAX);
    let streams = Streams {
        stdin: ends.stdin.map(|end| Box::new(end) as _),
        stdout: ends.stdout.map(|end| Box::new(end) as _),
        stderr: ends.stderr.map(|end| Box::new(end) as _),
        resize: ends.resize.is_some().then_some(sizes),
    };
    let follow = async {
        if let Some(resize) = ends.resize {
            follow_sizes(resize, told).await;
        }
        std::future::pending().await
    };
    let status = tokio::select! {
        status = session.run(streams) => status,
        // Never ends; what it does not read is no loss.
        () = follow => return,
    };
    let text = ending.text(&status);
    // A client that is gone needs no status.
    let _ = error.write_all(&text).await;
    let _ = error.shutdown().await;
}

impl Ending {
    fn text(self, status: &Status) -> Vec<u8> {
        match self {
            Ending::Status => serde_json::to_vec(status).unwrap_or_default(),
            Ending::Text if status.status.as_deref() == Some("Success") => Vec::new(),
            Ending::Text => status.message.clone().unwrap_or_default().into_bytes(),
        }
    }
}

/// The streams of a session over SPDY.
struct Opened {
    stdin: Option<(DuplexStream, Output<Outgoing>)>,
    stdout: Option<(DuplexStream, Output<Outgoing>)>,
    stderr: Option<(DuplexStream, Output<Outgoing>)>,
    resize: Option<(DuplexStream, Output<Outgoing>)>,
    error: Output<Outgoing>,
}

fn is_expected(headers: &Headers) -> bool {
    let kind = headers.get("streamtype");
    kind.is_some_and(|kind| ["error", "stdin", "stdout", "stderr", "resize"].contains(&kind))
}

/// Waits for the streams of a session; nothing if the client opens other ones.
async fn collect(
    opened: &mut mpsc::Receiver<Stream>,
    wanted: Wanted,
    resize: Resize,
) -> Option<Opened> {
    let resize = wanted.tty && resize == Resize::Told;
    let mut missing: Vec<&str> = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", resize),
    ]
    .into_iter()
    .filter_map(|(kind, is_wanted)| is_wanted.then_some(kind))
    .collect();
    let mut found = HashMap::new();
    while !missing.is_empty() {
        let stream = opened.recv().await?;
        let kind = stream.headers.get("streamtype")?;
        let place = missing.iter().position(|missing| *missing == kind)?;
        let kind = missing.swap_remove(place);
        found.insert(kind, (stream.input, stream.output));
    }
    Some(Opened {
        stdin: found.remove("stdin"),
        stdout: found.remove("stdout"),
        stderr: found.remove("stderr"),
        resize: found.remove("resize"),
        error: found.remove("error")?.1,
    })
}

/// The size of a terminal, as clients tell it.
#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// Reads the sizes that a client tells, one JSON object after the other, and ends with the first that
/// cannot be read.
async fn follow_sizes(mut input: DuplexStream, told: mpsc::Sender<(u16, u16)>) {
    let mut text = Vec::new();
    loop {
        let mut sizes = serde_json::Deserializer::from_slice(&text).into_iter::<Size>();
        let failure = loop {
            match sizes.next() {
                // The newest is dropped when nobody reads them: the client tells the next one.
                Some(Ok(Size { width, height })) => drop(told.try_send((width, height))),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        let read = sizes.byte_offset();
        if failure.is_some_and(|error| !error.is_eof()) {
            return;
        }
        text.drain(..read);
        let mut piece = [0; SIZE_BYTES_MAX];
        match input.read(&mut piece).await {
            Ok(length) if length > 0 && text.len() + length <= 2 * SIZE_BYTES_MAX => {
                text.extend(&piece[..length]);
            }
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(pieces: &[&str], expected: &[(u16, u16)]) {
        let (mut client, input) = tokio::io::duplex(4096);
        let (told, mut sizes) = mpsc::channel(SIZES_MAX);
        let write = async {
            for piece in pieces {
                // Refused once the reader has given up.
                let _ = client.write_all(piece.as_bytes()).await;
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        tokio::join!(write, follow_sizes(input, told));
        let mut found = Vec::new();
        while let Some(size) = sizes.recv().await {
            found.push(size);
        }
        assert_eq!(found, expected, "{pieces:?}");
    }

    #[tokio::test]
    async fn sizes_of_a_terminal_are_read_in_any_pieces() {
        let size = r#"{"Width":80,"Height":24}"#;
        check(&[size], &[(80, 24)]).await;
        check(
            &[
                "{\"Wid",
                "th\":1,\"Height\":2}\n{\"Width\":3,",
                "\"Height\":4}",
            ],
            &[(1, 2), (3, 4)],
        )
        .await;
        check(&[size, "nonsense", size], &[(80, 24)]).await;
        check(&[r#"{"Width":70000,"Height":24}"#], &[]).await;
        check(&["{\"Width\":", &" ".repeat(4096), "1,\"Height\":1}"], &[]).await;
        let many = size.repeat(20);
        check(&[&many], &[(80, 24); SIZES_MAX]).await;
    }

    #[test]
    fn the_end_is_told_as_the_generation_has_it() {
        let success = Status {
            status: Some("Success".to_owned()),
            ..Status::default()
        };
        let failure = Status {
            status: Some("Failure".to_owned()),
            message: Some("it broke".to_owned()),
            ..Status::default()
        };
        assert_eq!(Ending::Text.text(&success), b"");
        assert_eq!(Ending::Text.text(&failure), b"it broke");
        let text = Ending::Status.text(&failure);
        let status: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(
            (&status["status"], &status["message"]),
            (&"Failure".into(), &"it broke".into())
        );
    }
}
