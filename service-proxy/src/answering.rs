//! A small HTTP/1 server for questions that are answered at once: health and metrics.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Clients of one port at once: load balancers and scrapers, a handful each.
const CONNECTIONS_MAX: usize = 128;
/// How long a client may take for a request's head, and be idle.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may hold a place, whatever it does: whoever asks on comes again.
const CONNECTION_MAX: Duration = Duration::from_secs(600);
/// The rest before accepting again where the system refuses, for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers: a request's path in, an answer out.
pub(crate) type Answers = Arc<dyn Fn(&str) -> Response<Full<Bytes>> + Send + Sync>;

/// Returns an answer of text.
pub(crate) fn text(status: StatusCode, media: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(media),
    );
    let no_sniff = header::HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, no_sniff);
    answer
}

/// Returns the answer for paths that are not served.
pub(crate) fn not_found() -> Response<Full<Bytes>> {
    let body = "404 page not found\n".to_owned();
    text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", body)
}

/// Listens at once; needs a tokio runtime.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )?;
    // On Windows this would let two processes listen on one address.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(CONNECTIONS_MAX).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// Answers until `stop`; every connection is closed when this returns.
pub(crate) async fn serve(listener: TcpListener, answers: Answers, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (
                place.expect("nobody closes the places"),
                listener.accept().await,
            )
        };
        let (place, accepted) = tokio::select! {
            // Cancel-safe: a connection that is not accepted stays in the backlog.
            next = next => next,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (answers, stop) = (Arc::clone(&answers), stop.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = converse(stream, answers) => (),
                        () = stop.cancelled() => (),
                        () = tokio::time::sleep(CONNECTION_MAX) => (),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn converse(stream: tokio::net::TcpStream, answers: Answers) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let answer = answers(request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}
