//! `wasi:http` requests of guests, sent over the pod's network.
//!
//! A request inside the fabric meets no kernel socket. There is no TLS yet: `https` is refused by name.

use coracle_network::{NetError, PodNetwork, Stream};
use futures_util::future::{Either, select};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// How long to look for the destination and connect to it, if the guest does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait for an answer to begin, and then for each piece of it, if the guest does not say.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// The port of `http`.
const HTTP_PORT: u16 = 80;

/// Sends the requests of one instance.
pub(crate) struct OutgoingHttp {
    network: PodNetwork,
}

/// The rest of an exchange: what moves the body once the head of the answer is there.
type Rest = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = (Response<WasiBody>, Rest);

impl OutgoingHttp {
    /// Makes the sender of an instance whose pod has `network`.
    pub(crate) fn new(network: PodNetwork) -> Self {
        Self { network }
    }
}

impl WasiHttpHooks for OutgoingHttp {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answer, Error>> + Send> {
        let (network, options) = (self.network.clone(), options.unwrap_or_default());
        Box::new(exchange(network, request, options))
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        tracing::debug!(%error, "a guest's request failed");
        if error.is_incomplete_message() {
            ErrorCode::HttpResponseIncomplete
        } else if error.is_parse() {
            ErrorCode::HttpProtocolError
        } else if error.is_timeout() {
            ErrorCode::HttpResponseTimeout
        } else {
            ErrorCode::ConnectionTerminated
        }
    }
}

async fn exchange(
    network: PodNetwork,
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<Answer, Error> {
    let authority = destination(request.uri())?;
    let timeout = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let connecting = connect(&network, &authority);
    let stream = tokio::time::timeout(timeout, connecting)
        .await
        .map_err(|_| Error::ConnectionTimeout)??;
    *request.uri_mut() = origin_form(request.uri());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = Box::pin(connection);
    let answering = async {
        let sending = pin!(sender.send_request(request));
        match select(sending, &mut connection).await {
            Either::Left((response, _)) => Ok((response?, Connection::Open)),
            Either::Right((Ok(()), sending)) => Ok((sending.await?, Connection::Over)),
            Either::Right((Err(error), _)) => Err(Error::from(error)),
        }
    };
    let timeout = options.first_byte_timeout.unwrap_or(ANSWER_TIMEOUT);
    let (response, state) = tokio::time::timeout(timeout, answering)
        .await
        .map_err(|_| Error::ConnectionReadTimeout)??;
    let between_bytes = options.between_bytes_timeout.unwrap_or(ANSWER_TIMEOUT);
    let response = response.map(|body| TimedBody::new(body, between_bytes).boxed_unsync());
    let rest: Rest = match state {
        Connection::Open => Box::new(async move { Ok(connection.await?) }),
        Connection::Over => Box::new(std::future::ready(Ok(()))),
    };
    Ok((response, rest))
}

/// Whether there is more of a connection than the answer that was read.
enum Connection {
    Open,
    Over,
}

/// Returns whom to ask.
fn destination(uri: &Uri) -> Result<Authority, Error> {
    if uri.scheme() != Some(&Scheme::HTTP) {
        let text = "only `http` is offered to guests, not `https`";
        return Err(Error::InternalError(Some(text.to_owned())));
    }
    uri.authority().cloned().ok_or(Error::HttpRequestUriInvalid)
}

/// Returns what follows the method in a request that is not sent to a proxy.
fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    path.map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// Connects to the first address of the destination that answers.
async fn connect(network: &PodNetwork, authority: &Authority) -> Result<Stream, Error> {
    let host = authority.host();
    let host = host
        .strip_prefix('[')
        .and_then(|ip| ip.strip_suffix(']'))
        .unwrap_or(host);
    let port = authority.port_u16().unwrap_or(HTTP_PORT);
    let addresses: Vec<IpAddr> = network.resolve(host).await.map_err(refuse)?;
    let mut failure = NetError::NameNotFound;
    for address in addresses {
        match network.connect(None, SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(refuse(failure))
}

fn refuse(error: NetError) -> Error {
    let dns = |rcode: &str| Error::DnsError {
        rcode: Some(rcode.to_owned()),
        info_code: None,
    };
    match error {
        NetError::NameNotFound => dns("NXDOMAIN"),
        NetError::ResolverUnavailable => dns("SERVFAIL"),
        NetError::ConnectionRefused => Error::ConnectionRefused,
        NetError::ConnectionReset | NetError::ConnectionAborted => Error::ConnectionTerminated,
        NetError::Unreachable => Error::DestinationIpUnroutable,
        NetError::AccessDenied => Error::DestinationIpProhibited,
        NetError::TimedOut => Error::ConnectionTimeout,
        NetError::Limit(_) => Error::ConnectionLimitReached,
        NetError::Io(source) => Error::Connect(source),
        _ => Error::DestinationUnavailable,
    }
}

/// The body of an answer, each piece of which has to come in time.
struct TimedBody {
    body: Incoming,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer runs: only while somebody waits.
    is_waiting: bool,
}

impl TimedBody {
    fn new(body: Incoming, timeout: Duration) -> Self {
        Self {
            body,
            timeout,
            timer: Box::pin(tokio::time::sleep(timeout)),
            is_waiting: false,
        }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.is_waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        if !self.is_waiting {
            // A timeout beyond all clocks is none.
            let Some(deadline) = Instant::now().checked_add(self.timeout) else {
                return Poll::Pending;
            };
            self.timer.as_mut().reset(deadline);
            self.is_waiting = true;
        }
        self.timer
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::tests::pods;
    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Nothing arrives at all in the tests that wait for it.
    const SOON: Duration = Duration::from_millis(20);

    /// Sends one request from the first pod; the second answers every connection to port 80 with
    /// `answer`, byte for byte, and keeps it open.
    async fn ask(
        uri: &str,
        answer: &'static str,
        options: RequestOptions,
    ) -> Result<String, Error> {
        let (_fabric, asking, answering) = pods();
        let port = answering
            .reserve_tcp("0.0.0.0:80".parse().expect("address"))
            .expect("port");
        let listener = answering.listen(port, 8).expect("listener");
        let serving = async {
            let mut kept = Vec::new();
            loop {
                let mut stream = listener.accept().await.expect("connection");
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await.expect("request");
                assert!(head[..length].starts_with(b"GET /path?query HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.expect("answer");
                kept.push(stream);
            }
        };
        let uri = uri.replace("POD", &answering.ip().to_string());
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::get(uri)
            .header("host", "pod")
            .body(body)
            .expect("request");
        let mut outgoing = OutgoingHttp::new(asking);
        let processed = Box::new(std::future::ready(Ok(())));
        let exchange = Box::into_pin(outgoing.send_request(request, Some(options), processed));
        let exchange = async {
            let (response, rest) = exchange.await?;
            let moving = async {
                // The connection is kept, so this ends only with the test.
                let _ = Box::into_pin(rest).await;
                std::future::pending::<()>().await;
            };
            let body = tokio::select! {
                body = response.into_body().collect() => body,
                () = moving => unreachable!("never ends"),
            };
            Ok(String::from_utf8_lossy(&body?.to_bytes()).into_owned())
        };
        tokio::select! {
            result = exchange => result,
            () = serving => unreachable!("serves for ever"),
        }
    }

    #[tokio::test]
    async fn a_pod_is_asked_by_its_address() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let body = ask("http://POD/path?query", answer, RequestOptions::default()).await;
        assert_eq!(body.expect("answer"), "hello");
    }

    #[tokio::test]
    async fn what_fails_is_named() {
        let none = RequestOptions::default();
        let soon = RequestOptions {
            first_byte_timeout: Some(SOON),
            ..none
        };
        let piecemeal = RequestOptions {
            between_bytes_timeout: Some(SOON),
            ..none
        };
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe";
        let cases = [
            ("https://POD/path?query", "", none, "not `https`"),
            ("http://POD:81/path?query", "", none, "connection refused"),
            (
                "http://nobody.default.pod.cluster.local/",
                "",
                none,
                "NXDOMAIN",
            ),
            ("http://10.244.77.77/path?query", "", none, "unroutable"),
            ("http://169.254.169.254/path?query", "", none, "prohibited"),
            ("http://POD/path?query", "", soon, "read timeout"),
            ("http://POD/path?query", half, piecemeal, "read timeout"),
            ("http://POD/path?query", "HTP\r\n\r\n", none, "hyper error"),
        ];
        for (uri, answer, options, expected) in cases {
            let error = ask(uri, answer, options).await.expect_err(uri).to_string();
            assert!(error.contains(expected), "{uri}: {error}");
        }
    }
}
