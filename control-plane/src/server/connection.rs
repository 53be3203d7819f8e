//! One connection: its handshake, its requests, and the ways in which it ends.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Request, Response, header};
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::watch, time::Instant};
use tower::Service;

use super::{
    Front,
    body::{Busy, ServedBody},
    relay::relay,
    stall::WriteDeadline,
    wire::Wire,
};
use crate::{
    caller::Caller, identity::Peer, kubelets::Joined, proxy, service::ApiBody, status::ApiError,
};

/// How long a client may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of an HTTP/1 request may take, which includes the time until it begins:
/// longer than the 90 s for which clients keep idle connections, so that they close first.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(100);
/// How long a connection may be without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a client may take to say goodbye on an idle connection.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take nothing of what is written to it.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);
/// How long a request's body and the making of its answer may take, as on a stock server. What
/// flows afterwards, such as a watch, has its own limits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// HTTP/2 finds out by itself that a silent peer is gone: it asks this often …
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// … and waits this long for the answer.
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests and watches at once on one connection, as a stock server; a client opens another one.
const STREAMS_MAX: u32 = 250;
/// Streams that a peer may reset before they are served, and faults of its own making, until the
/// connection is closed: the defences against floods, at the library's own values.
const RESETS_MAX: usize = 20;
const FAULTS_MAX: usize = 1024;
/// Header fields of one request: a token has a few thousand bytes.
const HEADER_BYTES_MAX: u32 = 32 << 10;
/// What is read ahead of one request, and kept of an answer that is not taken.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Prepares what all HTTP/1 connections share.
pub(super) fn http1(timer: TokioTimer) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(timer)
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX);
    builder
}

/// Where an answer that ends HTTP on a connection leaves what follows: the connection itself, once it
/// is free, and that to a kubelet.
#[derive(Clone, Default)]
struct Handover(Arc<Mutex<Option<(OnUpgrade, Upgraded)>>>);

impl Handover {
    fn leave(&self, client: OnUpgrade, kubelet: Upgraded) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some((client, kubelet));
    }

    fn take(&self) -> Option<(OnUpgrade, Upgraded)> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place.take()
    }
}

/// Runs the tasks of HTTP/2 requests where the server can wait for them and end them.
#[derive(Clone)]
struct Tracked(Arc<Front>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tracked {
    fn execute(&self, task: F) {
        let ended = self.0.ended.clone();
        let task = async move {
            ended.run_until_cancelled(task).await;
        };
        self.0.tasks.spawn(task);
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(front: Arc<Front>, stream: Wire) {
    stream.send_at_once();
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, front.acceptor.accept(stream));
    let stream = tokio::select! {
        // Cancel-safe: a connection that is given up is closed with what it holds.
        stream = handshake => stream,
        () = front.stopping.cancelled() => return,
    };
    let stream = match stream {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    let peer = Arc::new(front.certificates.identify(chain, (front.clock)()));
    let second = session.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(WriteDeadline::new(stream, WRITE_STALL_MAX));
    let (busy, requests) = watch::channel(0);
    let (shared, joined) = (Arc::clone(&front), Handover::default());
    let handover = joined.clone();
    let service = service_fn(move |request| {
        let (front, peer) = (Arc::clone(&shared), Arc::clone(&peer));
        let (busy, handover) = (Busy::new(busy.clone()), handover.clone());
        async move { Ok::<_, Infallible>(answer(front, &peer, busy, handover, request).await) }
    });
    if second {
        let connection = http2(&front).serve_connection(io, service);
        drive(&front, requests, connection, |it| it.graceful_shutdown()).await;
    } else {
        let connection = front.http1.serve_connection(io, service).with_upgrades();
        drive(&front, requests, connection, |it| it.graceful_shutdown()).await;
        if let Some((client, kubelet)) = joined.take() {
            tokio::select! {
                () = relay(client, kubelet) => (),
                // Like a watch it has no end of its own; what it started on its node ends with it.
                () = front.stopping.cancelled() => (),
            }
        }
    }
}

fn http2(front: &Arc<Front>) -> http2::Builder<Tracked> {
    let mut builder = http2::Builder::new(Tracked(Arc::clone(front)));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(FAULTS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buf_size(BUFFER_BYTES_MAX);
    builder
}

/// Drives a connection until it ends by itself, is idle for too long or the server stops.
async fn drive<C>(
    front: &Front,
    mut requests: watch::Receiver<usize>,
    connection: C,
    say_goodbye: fn(Pin<&mut C>),
) where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let idle = tokio::select! {
        ended = &mut connection => return note(ended),
        () = idle(&mut requests) => true,
        () = front.stopping.cancelled() => false,
    };
    say_goodbye(connection.as_mut());
    tokio::select! {
        ended = &mut connection => note(ended),
        () = tokio::time::sleep(GOODBYE_TIMEOUT), if idle => (),
        () = front.ended.cancelled() => (),
    }
}

/// Returns when there has been no request for too long.
async fn idle(requests: &mut watch::Receiver<usize>) {
    loop {
        let quiet = requests.wait_for(|running| *running == 0).await.is_ok();
        match tokio::time::timeout(IDLE_TIMEOUT, requests.changed()).await {
            Ok(Ok(())) if quiet => (),
            Err(_) => return,
            // Without senders the connection is gone and ends by itself.
            Ok(_) => std::future::pending().await,
        }
    }
}

fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Finds out who asks and passes the request on; whatever goes wrong is an answer.
async fn answer(
    front: Arc<Front>,
    peer: &Peer,
    busy: Busy,
    handover: Handover,
    mut request: Request<Incoming>,
) -> Response<ServedBody> {
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let upgrade = upgrade.then(|| hyper::upgrade::on(&mut request));
    let made = match authenticate(&front, peer, request.headers_mut()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            make(&front, request).await
        }
        Err(error) => Err(error),
    };
    let mut answer = made.unwrap_or_else(|error: ApiError| error.into());
    let joined = answer.extensions_mut().remove::<Joined>();
    if let (Some(client), Some(kubelet)) = (upgrade, joined.and_then(|joined| joined.take())) {
        handover.leave(client, kubelet);
    }
    answer.map(|body| ServedBody::new(body, busy, &front.stopping))
}

/// Has the answer made, once there is a slot for it.
async fn make(front: &Front, request: Request<Incoming>) -> Result<Response<ApiBody>, ApiError> {
    let passed_on = proxy::is_meant(request.uri().path());
    let slots = if passed_on {
        &front.passed_on
    } else {
        &front.requests
    };
    let until = Instant::now() + REQUEST_TIMEOUT;
    let late = |_| ApiError::timeout("request did not complete within the allotted timeout");
    let slot = tokio::time::timeout_at(until, slots.acquire()).await;
    let _slot = slot.map_err(late)?.expect("nobody closes the slots");
    let making = front.service.clone().call(request);
    let made = if passed_on {
        // Whoever is asked may think about it for as long as the client waits, as on a stock server.
        making.await
    } else {
        tokio::time::timeout_at(until, making).await.map_err(late)?
    };
    Ok(made.unwrap_or_else(|never| match never {}))
}

/// Says who asks: by certificate, else by token, else nobody known if neither was offered.
fn authenticate(front: &Front, peer: &Peer, headers: &mut HeaderMap) -> Result<Caller, ApiError> {
    // What proves who asks is nobody else's business from here on.
    let offered = headers.remove(header::AUTHORIZATION);
    match peer {
        Peer::Named { caller, expires } if (front.clock)() < *expires => return Ok(caller.clone()),
        Peer::Unnamed if offered.is_none() => return Ok(Caller::anonymous()),
        Peer::Named { .. } | Peer::Unnamed | Peer::Refused => (),
    }
    let token = offered.as_ref().and_then(|value| value.to_str().ok());
    let token = token.and_then(bearer);
    token
        .and_then(|token| front.service.authenticate(token))
        .ok_or_else(ApiError::unauthorized)
}

/// Reads `Bearer token`; the scheme's letters may be of any case.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
