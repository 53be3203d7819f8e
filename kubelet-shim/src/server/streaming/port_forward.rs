//! Port-forward on the wire: connections into a pod, over pairs of SPDY streams or of channels
//! (contract E.5).

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::time::Duration;

use coracle_network::{Fabric, NetError};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::FuturesUnordered;
use thiserror::Error;
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channels::{ChannelProtocol, Form, HalfClose};
use super::frames::StreamId;
use super::header_block::Headers;
use super::spdy::{INPUT_BYTES_MAX, Stream};
use super::upgrade::Offer;
use super::websocket::Outputs;
use crate::spec::PodKey;

/// How long the second stream of a pair may come after the first (contract E.5).
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection waits for a place in the backlog of a pod's listener.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Ports of one client that has channels: two for each, and their numbers end at 255.
const PORTS_MAX: usize = 64;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Spdy,
    /// The bytes of SPDY in a WebSocket's messages.
    Tunnel,
    Channels(ChannelProtocol),
}

const BINARY: Protocol = Protocol::Channels(ChannelProtocol {
    form: Form::Binary,
    half_close: HalfClose::Unknown,
});

pub(super) const OFFER: Offer<Protocol> = Offer {
    spdy: &[("portforward.k8s.io", Protocol::Spdy)],
    web_socket: &[
        ("SPDY/3.1+portforward.k8s.io", Protocol::Tunnel),
        ("v4.channel.k8s.io", BINARY),
        (
            "v4.base64.channel.k8s.io",
            Protocol::Channels(ChannelProtocol {
                form: Form::Base64,
                half_close: HalfClose::Unknown,
            }),
        ),
    ],
    unnamed: BINARY,
};

/// Makes connections into one pod.
#[derive(Clone)]
pub(super) struct Forwarder {
    pub(super) fabric: Fabric,
    pub(super) pod: PodKey,
}

/// Why a port cannot be reached.
#[derive(Debug, Error)]
enum ForwardError {
    #[error("failed to connect to localhost:{port} inside pod: {source}")]
    Dial { port: u16, source: NetError },
    #[error("failed to connect to localhost:{0} inside pod: its backlog stays full")]
    Busy(u16),
}

impl Forwarder {
    /// Connects, and copies both ways until the pod ends the connection.
    async fn forward(
        &self,
        port: u16,
        mut input: DuplexStream,
        output: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), ForwardError> {
        let dialled = self.fabric.dial_inside(&self.pod.uid, port);
        let stream = tokio::time::timeout(DIAL_TIMEOUT, dialled)
            .await
            .map_err(|_| ForwardError::Busy(port))?
            .map_err(|source| ForwardError::Dial { port, source })?;
        let (mut from_pod, mut to_pod) = tokio::io::split(stream);
        let inwards = async {
            // A failure is one of the connection, which the other direction meets too.
            let _ = tokio::io::copy(&mut input, &mut to_pod).await;
            let _ = to_pod.shutdown().await;
        };
        let outwards = tokio::io::copy(&mut from_pod, output);
        // A connection that a pod breaks is the client's to notice, as without a forward.
        both(inwards, outwards).await;
        Ok(())
    }

    /// Words a failure as a kubelet does.
    fn text(&self, port: u16, error: &ForwardError) -> String {
        let PodKey {
            namespace,
            name,
            uid,
        } = &self.pod;
        format!("error forwarding port {port} to pod {name}_{namespace}, uid {uid}: {error}")
    }

    /// Serves one pair of streams or channels.
    async fn serve(
        &self,
        port: u16,
        input: DuplexStream,
        output: &mut (impl AsyncWrite + Unpin),
        error: &mut (impl AsyncWrite + Unpin),
    ) {
        let forwarded = self.forward(port, input, output).await;
        // A client that is gone has no use for the rest.
        if let Err(failure) = forwarded {
            tracing::debug!(pod = %self.pod, port, %failure, "failed to forward a port");
            let _ = error.write_all(self.text(port, &failure).as_bytes()).await;
        }
        let _ = output.shutdown().await;
        let _ = error.shutdown().await;
    }
}

/// Returns when the second future has ended; the first is driven for as long.
async fn both(first: impl Future<Output = ()>, second: impl Future) {
    let first = async {
        first.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = first => (),
        _ = second => (),
    }
}

/// A stream whose partner has not come yet.
struct Half {
    stream: Stream,
    kind: Kind,
    port: u16,
}

/// The streams of one connection that wait for their partners; as many as it may have.
#[derive(Default)]
struct Halves {
    waiting: HashMap<String, Half>,
    /// Until when they wait, the first to come in front; of those that have gone too, for as long as
    /// one in front of them waits.
    deadlines: VecDeque<(Instant, String, StreamId)>,
}

/// What becomes of a stream that was opened.
enum Taken {
    Waits,
    Pair {
        port: u16,
        data: Stream,
        error: Stream,
    },
    /// Two streams want to be the same half.
    Twice(Half, String),
}

impl Halves {
    fn take(&mut self, stream: Stream, (kind, port): (Kind, u16), now: Instant) -> Taken {
        while let Some((_, name, first)) = self.deadlines.front()
            && self
                .waiting
                .get(name)
                .is_none_or(|half| half.stream.id != *first)
        {
            self.deadlines.pop_front();
        }
        let name = request(&stream, kind);
        match self.waiting.remove(&name) {
            None => {
                let deadline = now + PAIR_TIMEOUT;
                self.deadlines
                    .push_back((deadline, name.clone(), stream.id));
                self.waiting.insert(name, Half { stream, kind, port });
                Taken::Waits
            }
            Some(half) if half.kind == kind => {
                let text =
                    format!("error processing stream for request {name}: stream already assigned");
                Taken::Twice(half, text)
            }
            // The port of the stream for data counts.
            Some(half) => match kind {
                Kind::Data => Taken::Pair {
                    port,
                    data: stream,
                    error: half.stream,
                },
                Kind::Error => Taken::Pair {
                    port: half.port,
                    data: half.stream,
                    error: stream,
                },
            },
        }
    }

    /// Returns when the next one has waited for long enough.
    async fn ripe(&self) {
        match self.deadlines.front() {
            Some((at, ..)) => tokio::time::sleep_until(*at).await,
            None => std::future::pending().await,
        }
    }

    /// Returns the one that has, unless its partner came.
    fn expire(&mut self) -> Option<(Half, String)> {
        let (_, name, first) = self.deadlines.pop_front()?;
        let half = self.waiting.get(&name)?;
        let half = (half.stream.id == first).then(|| self.waiting.remove(&name))??;
        Some((
            half,
            format!("request {name}: timed out waiting for streams"),
        ))
    }
}

/// What a stream of a pair is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// Reads what a stream is for; nothing if it is for nothing here.
fn purpose(headers: &Headers) -> Option<(Kind, u16)> {
    let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    match headers.get("streamtype")? {
        "data" => Some((Kind::Data, port)),
        "error" => Some((Kind::Error, port)),
        _ => None,
    }
}

/// Says whether a stream is one of a pair.
pub(super) fn is_expected(headers: &Headers) -> bool {
    purpose(headers).is_some()
}

/// Returns the name that the two streams of a pair share. An old client gives none: its streams are
/// numbered one after the other, the one for errors first.
fn request(stream: &Stream, kind: Kind) -> String {
    match (stream.headers.get("requestid"), kind) {
        (Some(id), _) if !id.is_empty() => format!("id {id}"),
        (_, Kind::Error) => stream.id.to_string(),
        (_, Kind::Data) => stream.id.saturating_sub(2).to_string(),
    }
}

/// Serves the pairs of one connection until its client is gone.
pub(super) async fn over_spdy(forwarder: Forwarder, mut opened: mpsc::Receiver<Stream>) {
    let mut halves = Halves::default();
    let mut serving: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            // Cancel-safe: a stream that is not taken stays in the channel.
            stream = opened.recv() => {
                let Some(stream) = stream else { return };
                let Some(purpose) = purpose(&stream.headers) else { continue };
                match halves.take(stream, purpose, Instant::now()) {
                    Taken::Waits => (),
                    Taken::Pair { port, data, error } => {
                        serving.push(pair(&forwarder, port, data, error).boxed());
                    }
                    Taken::Twice(half, text) => serving.push(fail(half, text).boxed()),
                }
            }
            // Cancel-safe: a future that has ended is taken out only when it is returned.
            Some(()) = serving.next() => (),
            // Cancel-safe: the deadline stays in the queue.
            () = halves.ripe() => {
                if let Some((half, text)) = halves.expire() {
                    serving.push(fail(half, text).boxed());
                }
            }
        }
    }
}

async fn pair(forwarder: &Forwarder, port: u16, data: Stream, error: Stream) {
    let Stream {
        input,
        mut output,
        reset,
        place: _data_place,
        ..
    } = data;
    let Stream {
        output: mut errors,
        place: _error_place,
        ..
    } = error;
    tokio::select! {
        // A stream that is reset ends too: nothing is said on it then.
        biased;
        // A client that wants nothing more of the connection: the pod meets its end.
        () = reset.cancelled() => drop(errors.shutdown().await),
        () = forwarder.serve(port, input, &mut output, &mut errors) => (),
    }
}

/// Ends a stream without a partner.
async fn fail(half: Half, text: String) {
    tracing::debug!(text, "a stream has no partner");
    let mut output = half.stream.output;
    if half.kind == Kind::Error {
        let _ = output.write_all(text.as_bytes()).await;
    }
    let _ = output.shutdown().await;
}

/// Reads which ports a client with channels wants.
///
/// # Errors
///
/// Fails with a kubelet's text.
pub(super) fn ports(query: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    let named = form_urlencoded::parse(query.as_bytes());
    for (_, text) in named.filter(|(name, _)| name == "port") {
        if text.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for port in text.split(',') {
            match port.parse::<u16>() {
                Ok(0) => return Err(format!("port {text:?} must be > 0")),
                Ok(port) => ports.push(port),
                Err(error) => return Err(format!("unable to parse {text:?} as a port: {error}")),
            }
        }
    }
    match ports.len() {
        0 => Err("query parameter \"port\" is required".to_owned()),
        PORTS_MAX.. => Err(format!("more than {} ports", PORTS_MAX - 1)),
        _ => Ok(ports),
    }
}

/// Returns the inputs of the channels on which bytes for the ports arrive, and this side's ends.
pub(super) fn pipes(ports: &[u16]) -> (HashMap<u8, DuplexStream>, Vec<(u16, DuplexStream)>) {
    let pipe = |(channel, port): (u8, &u16)| {
        let (pipe, input) = tokio::io::duplex(INPUT_BYTES_MAX);
        ((channel, pipe), (*port, input))
    };
    (0..).step_by(2).zip(ports).map(pipe).unzip()
}

/// Serves one connection per port; each channel begins with its port.
pub(super) async fn over_channels(
    forwarder: Forwarder,
    ports: Vec<(u16, DuplexStream)>,
    outputs: Outputs,
) {
    let one = |(channel, (port, input)): (u8, (u16, DuplexStream))| {
        let mut data = outputs.channel(channel);
        let mut error = outputs.channel(channel + 1);
        let forwarder = &forwarder;
        async move {
            let mark = port.to_le_bytes();
            // A client that is gone ends all of this.
            let _ = data.write_all(&mark).await;
            let _ = error.write_all(&mark).await;
            forwarder.serve(port, input, &mut data, &mut error).await;
        }
    };
    join_all((0..).step_by(2).zip(ports).map(one)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_ports(query: &str, expected: Result<&[u16], &str>) {
        let expected = expected.map(<[u16]>::to_vec).map_err(str::to_owned);
        assert_eq!(ports(query), expected, "{query}");
    }

    #[test]
    fn ports_are_read_as_a_kubelet_reads_them() {
        check_ports("port=80&port=81,82", Ok(&[80, 81, 82]));
        check_ports("", Err("query parameter \"port\" is required"));
        check_ports("port=", Err("query parameter \"port\" cannot be empty"));
        check_ports("port=0", Err("port \"0\" must be > 0"));
        check_ports(
            "port=65536",
            Err("unable to parse \"65536\" as a port: number too large to fit in target type"),
        );
        let many = format!("port={}", vec!["1"; PORTS_MAX].join(","));
        check_ports(&many, Err("more than 63 ports"));
    }

    fn check_purpose(headers: &[(&str, &str)], expected: Option<(Kind, u16)>) {
        let found = purpose(&headers.iter().copied().collect());
        assert_eq!(found, expected, "{headers:?}");
    }

    #[test]
    fn only_streams_of_a_pair_are_expected() {
        let port = ("port", "80");
        check_purpose(&[port, ("streamtype", "data")], Some((Kind::Data, 80)));
        check_purpose(&[port, ("streamtype", "error")], Some((Kind::Error, 80)));
        check_purpose(&[port, ("streamtype", "stdin")], None);
        check_purpose(&[port], None);
        check_purpose(&[("streamtype", "data")], None);
        check_purpose(&[("port", "0"), ("streamtype", "data")], None);
        check_purpose(&[("port", "65536"), ("streamtype", "data")], None);
    }

    use std::sync::Arc;

    use coracle_network::{EgressRules, FabricConfig, PodIdentity, PodNetwork, PublishPlan};
    use futures::SinkExt;
    use tokio::io::AsyncReadExt;
    use tokio::sync::Semaphore;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::super::client::SpdyClient;
    use super::super::frames::Last;
    use super::super::{spdy, websocket};

    /// Makes a pod in which somebody listens on port 80 and sends back what is sent, in capitals.
    fn pod() -> (Forwarder, PodNetwork, impl Future<Output = ()>) {
        let fabric = Fabric::new(FabricConfig {
            publish: PublishPlan::Nowhere,
            egress: EgressRules::default(),
            ..FabricConfig::default()
        });
        let fabric = fabric.expect("a fabric");
        let identity = PodIdentity {
            namespace: "d".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            hostname: "p".to_owned(),
            subdomain: None,
        };
        let network = fabric.attach(identity).expect("attached");
        let any = "0.0.0.0:80".parse().expect("an address");
        let port = network.reserve_tcp(any).expect("free");
        let listener = network.listen(port, 8).expect("listens");
        let serve = async move {
            let mut talks = FuturesUnordered::new();
            loop {
                tokio::select! {
                    stream = listener.accept() => talks.push(shout(stream.expect("accepted"))),
                    Some(()) = talks.next() => (),
                }
            }
        };
        let pod = PodKey {
            namespace: "d".into(),
            name: "p".into(),
            uid: "u".into(),
        };
        (Forwarder { fabric, pod }, network, serve)
    }

    async fn shout(mut stream: coracle_network::Stream) {
        let mut bytes = [0; 100];
        while let Ok(length @ 1..) = stream.read(&mut bytes).await {
            let bytes = bytes[..length].to_ascii_uppercase();
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = stream.shutdown().await;
    }

    async fn check<F: Future<Output = ()>>(talk: impl FnOnce(SpdyClient) -> F) {
        let (forwarder, _network, pod) = pod();
        let (near, far) = tokio::io::duplex(1 << 16);
        let places = Arc::new(Semaphore::new(100));
        let work = |opened| over_spdy(forwarder, opened);
        let server = spdy::serve(near, places, is_expected, work);
        let talk = async { tokio::join!(server, talk(SpdyClient::new(far))) };
        tokio::select! {
            _ = talk => (),
            () = pod => (),
        }
    }

    #[tokio::test]
    async fn pairs_of_streams_are_connections_into_the_pod() {
        check(async |mut client| {
            // Two at once, with their streams in any order.
            for (stream, kind, request) in [
                (1, "error", "a"),
                (3, "data", "b"),
                (5, "data", "a"),
                (7, "error", "b"),
            ] {
                let headers = [("streamtype", kind), ("port", "80"), ("requestid", request)];
                client.open(stream, &headers).await;
            }
            client.send(5, b"hello ", Last::No).await;
            client.send(3, b"second", Last::Yes).await;
            client.send(5, b"there", Last::Yes).await;
            assert_eq!(client.all(3).await, "SECOND");
            assert_eq!(client.all(5).await, "HELLO THERE");
        })
        .await;
    }

    #[tokio::test]
    async fn an_old_client_numbers_its_streams_in_pairs() {
        check(async |mut client| {
            client
                .open(1, &[("streamtype", "error"), ("port", "80")])
                .await;
            client
                .open(3, &[("streamtype", "data"), ("port", "80")])
                .await;
            client.send(3, b"old", Last::Yes).await;
            assert_eq!(client.all(3).await, "OLD");
        })
        .await;
    }

    #[tokio::test]
    async fn a_port_on_which_nobody_listens_is_an_error_of_that_connection() {
        check(async |mut client| {
            for (stream, kind, port) in [
                (1, "error", "81"),
                (3, "data", "81"),
                (5, "error", "80"),
                (7, "data", "80"),
            ] {
                client
                    .open(stream, &[("streamtype", kind), ("port", port)])
                    .await;
            }
            let said = client.all(1).await;
            assert_eq!(
                said,
                "error forwarding port 81 to pod p_d, uid u: failed to connect to localhost:81 \
                 inside pod: connection refused"
            );
            client.send(7, b"still", Last::Yes).await;
            assert_eq!(client.all(7).await, "STILL");
        })
        .await;
    }

    #[tokio::test]
    async fn a_client_with_channels_has_two_for_each_port() {
        let (forwarder, _network, pod) = pod();
        let (near, far) = tokio::io::duplex(1 << 16);
        let Protocol::Channels(protocol) = BINARY else {
            panic!("channels");
        };
        let (pipes, ends) = pipes(&[80, 81]);
        let server = async {
            let socket = websocket::accept(near).await;
            let work = |outputs| over_channels(forwarder, ends, outputs);
            websocket::serve(socket, protocol, pipes, work).await;
        };
        let talk = async {
            let mut socket = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
            let hello = Message::Binary(b"\0hello".as_slice().into());
            socket.send(hello).await.expect("sent");
            let mut heard: HashMap<u8, Vec<u8>> = HashMap::new();
            while heard.get(&0).is_none_or(|bytes| bytes.len() < 7) {
                match socket.next().await.expect("a message").expect("a message") {
                    Message::Binary(bytes) => {
                        let channel = heard.entry(bytes[0]).or_default();
                        channel.extend(&bytes[1..]);
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(heard[&0], b"\x50\0HELLO");
            assert_eq!(heard[&1], b"\x50\0");
            assert_eq!(heard[&2], b"\x51\0");
            assert!(heard[&3].starts_with(b"\x51\0error forwarding port 81"));
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(server, talk) } => (),
            () = pod => (),
        }
    }
}
