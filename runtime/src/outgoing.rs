//! `wasi:http` requests of guests, sent over the pod's network.
//!
//! A request inside the fabric meets no kernel socket, be it of `http` or `https`. Each request has a
//! connection of its own.

use crate::account::{Account, Held};
use crate::http_types::is_forbidden;
use coracle_network::{NetError, PodNetwork, Stream};
use futures_util::future::{Either, select};
use http::uri::Scheme;
use http::{HeaderName, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

#[cfg(test)]
mod tests;
mod tls;
mod trust;

pub(crate) use trust::{Trust, of_process};

/// How long to look for the destination, connect to it and shake hands, if the guest does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait for an answer to begin, and then for each piece of it, if the guest does not say.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// Requests of one instance at once. Each has a connection, and a handler serves 4,096: one guest that
/// lets its requests lie must not take them all.
const REQUESTS_MAX: usize = 512;
/// What is read of an answer before its guest takes it, and what waits to be written: the head of an answer has
/// to fit.
const BUFFER_BYTES: usize = 64 * 1024;
/// What a request under way is charged: both buffers, as if they were full.
const REQUEST_BYTES: u64 = 2 * BUFFER_BYTES as u64;
/// The port of `http`.
const HTTP_PORT: u16 = 80;
/// The port of `https`.
const HTTPS_PORT: u16 = 443;

/// Sends the requests of one instance.
pub(crate) struct OutgoingHttp {
    network: PodNetwork,
    /// Whose memory the requests take.
    account: Arc<Account>,
    /// Whom servers of `https` have to be vouched for by.
    trust: Arc<Trust>,
    /// One permit for each request that may be under way beside the others.
    room: Arc<Semaphore>,
}

/// The place of a request among those under way, and the memory it takes.
struct Place {
    _permit: OwnedSemaphorePermit,
    _held: Held,
}

/// The rest of an exchange: what moves the body once the head of the answer is there.
type Rest = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = (Response<WasiBody>, Rest);

impl OutgoingHttp {
    /// Makes the sender of an instance of a container with `account` whose pod has `network` and whose
    /// program has `trust`.
    pub(crate) fn new(network: PodNetwork, account: Arc<Account>, trust: Arc<Trust>) -> Self {
        let room = Arc::new(Semaphore::new(REQUESTS_MAX));
        Self {
            network,
            account,
            trust,
            room,
        }
    }
}

impl OutgoingHttp {
    /// Takes the place of one more request. A container that has no memory for it ends.
    fn place(&self) -> Result<Place, Error> {
        let permit = self.room.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::ConnectionLimitReached)?;
        let held = Held::new(&self.account, REQUEST_BYTES);
        let held = held.ok_or_else(|| Error::InternalError(Some("out of memory".to_owned())))?;
        Ok(Place {
            _permit: permit,
            _held: held,
        })
    }
}

impl WasiHttpHooks for OutgoingHttp {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answer, Error>> + Send> {
        let (network, trust) = (self.network.clone(), self.trust.clone());
        let options = options.unwrap_or_default();
        let place = self.place();
        Box::new(async move {
            let place = place?;
            let destination = Destination::of(request.uri())?;
            let timeout = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
            let connecting = destination.reach(&network, &trust);
            let connected = tokio::time::timeout(timeout, connecting).await;
            match connected.map_err(|_| Error::ConnectionTimeout)?? {
                Wire::Plain(stream) => exchange(stream, request, options, place).await,
                Wire::Tls(stream) => exchange(stream, request, options, place).await,
            }
        })
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

/// Sends `request` over `stream` and waits for the head of the answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut request: Request<WasiBody>,
    options: RequestOptions,
    place: Place,
) -> Result<Answer, Error> {
    *request.uri_mut() = origin_form(request.uri());
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failure)?;
    let mut connection = Box::pin(connection);
    let answering = async {
        let sending = pin!(sender.send_request(request));
        match select(sending, &mut connection).await {
            Either::Left((response, _)) => Ok((response.map_err(failure)?, Connection::Open)),
            Either::Right((Ok(()), sending)) => {
                Ok((sending.await.map_err(failure)?, Connection::Over))
            }
            Either::Right((Err(error), _)) => Err(failure(error)),
        }
    };
    let timeout = options.first_byte_timeout.unwrap_or(ANSWER_TIMEOUT);
    let (response, state) = tokio::time::timeout(timeout, answering)
        .await
        .map_err(|_| Error::ConnectionReadTimeout)??;
    let between_bytes = options.between_bytes_timeout.unwrap_or(ANSWER_TIMEOUT);
    let response = response.map(|body| TimedBody::new(body, between_bytes).boxed_unsync());
    let rest: Rest = match state {
        Connection::Open => Box::new(async move {
            let ended = connection.await.map_err(failure);
            drop(place);
            ended
        }),
        Connection::Over => Box::new(std::future::ready(Ok(()))),
    };
    Ok((response, rest))
}

/// Whether there is more of a connection than the answer that was read.
enum Connection {
    Open,
    Over,
}

/// Names what ended an exchange.
fn failure(error: hyper::Error) -> Error {
    tls::cause(&error).unwrap_or(Error::Hyper(error))
}

/// Returns what follows the method in a request that is not sent to a proxy.
fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    path.map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// Whom to ask.
struct Destination {
    /// A name or an address.
    host: String,
    port: u16,
    /// Whom the server has to prove to be, for `https`.
    server: Option<ServerName<'static>>,
}

/// A connection that is ready for requests.
enum Wire {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

impl Destination {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|ip| ip.strip_suffix(']'))
            .unwrap_or(host);
        let (default_port, server) = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => (HTTP_PORT, None),
            Some(scheme) if *scheme == Scheme::HTTPS => (HTTPS_PORT, Some(tls::server_name(host)?)),
            _ => return Err(Error::HttpProtocolError),
        };
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(default_port),
            server,
        })
    }

    /// Connects, and shakes hands if that is to be done.
    async fn reach(self, network: &PodNetwork, trust: &Arc<Trust>) -> Result<Wire, Error> {
        let stream = self.connect(network).await?;
        Ok(match self.server {
            None => Wire::Plain(stream),
            Some(server) => {
                let connector = trust.connector(&self.host).await?;
                Wire::Tls(Box::new(
                    tls::shake_hands(&connector, server, stream).await?,
                ))
            }
        })
    }

    /// Connects to the first address that answers.
    async fn connect(&self, network: &PodNetwork) -> Result<Stream, Error> {
        let addresses: Vec<IpAddr> = network.resolve(&self.host).await.map_err(refuse)?;
        let mut failure = NetError::NameNotFound;
        for address in addresses {
            match network
                .connect(None, SocketAddr::new(address, self.port))
                .await
            {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(refuse(failure))
    }
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
            return Poll::Ready(frame.map(|frame| frame.map_err(failure)));
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
