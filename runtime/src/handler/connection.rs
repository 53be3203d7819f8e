//! One connection: its protocol and the guests of its requests, all in one task.

use super::Server;
use super::body::AnswerBody;
use super::guest;
use super::replies::Reply;
use super::socket::Socket;
use super::timer::HeadTimer;
use crate::instance::Phase;
use coracle_network::Stream;
use futures_util::stream::{FuturesUnordered, Stream as _};
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long a connection may be idle, or take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(75);
/// Bytes of a request's head at most, and of what is buffered for a connection.
const BUFFER_MAX_BYTES: usize = 64 * 1024;
/// Requests of one HTTP/2 connection at once.
const STREAMS_MAX: u32 = 128;
/// How long guests that have answered may go on after their client is gone.
const LINGER: Duration = Duration::from_secs(30);

/// Serves `stream` until either side closes it.
pub(super) async fn serve_connection(server: Arc<Server>, stream: Stream) {
    let crew = Crew::default();
    let phase = server.life.phase();
    crew.add(Box::pin(talk(server, stream, crew.clone(), phase)));
    let mut everyone = Everyone {
        all: FuturesUnordered::new(),
        crew,
    };
    everyone.until(Done::Connection).await;
    // Whoever is still at work after that is ended with the task.
    let _ = tokio::time::timeout(LINGER, everyone.until(Done::Everyone)).await;
}

/// Speaks HTTP/1.1, or HTTP/2 to a client that begins with it.
async fn talk(
    server: Arc<Server>,
    stream: Stream,
    crew: Crew,
    mut phase: watch::Receiver<Phase>,
) -> Part {
    let mut builder = auto::Builder::new(crew.clone());
    builder
        .http1()
        .timer(HeadTimer::default())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(BUFFER_MAX_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(BUFFER_MAX_BYTES as u32);
    let drain_delay = server.container.spec.handler.drain_delay;
    let begun = Arc::new(Notify::new());
    let service = service_fn({
        let begun = begun.clone();
        move |request| {
            begun.notify_one();
            answer(server.clone(), crew.clone(), request)
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Socket::new(stream)), service));
    let draining = async {
        // An error means that the life is gone, which ends this task as well.
        let _ = phase
            .wait_for(|phase| !matches!(phase, Phase::Running))
            .await;
        // Whoever was accepted has its first request answered as long as we still accept: a shutdown
        // before the first byte would close the connection without a word.
        if !drain_delay.is_zero() {
            let _ = tokio::time::timeout(drain_delay, begun.notified()).await;
        }
    };
    tokio::select! {
        biased;
        // A broken connection is the client's affair: there is nobody left to tell.
        _closed = connection.as_mut() => return Part::Connection,
        () = draining => connection.as_mut().graceful_shutdown(),
    }
    let _closed = connection.await;
    Part::Connection
}

async fn answer(
    server: Arc<Server>,
    crew: Crew,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 {
        return Ok(Reply::ManyHosts.response());
    }
    if hosts == 0 && request.uri().authority().is_none() {
        return Ok(Reply::NoHost.response());
    }
    Ok(guest::answer(&server, &crew, request).await)
}

/// Work that was begun and is not yet polled: the door through which the protocol's side hands
/// guests (and HTTP/2 its streams) to the connection's task.
#[derive(Clone, Default)]
pub(super) struct Crew {
    waiting: Arc<Mutex<Vec<guest::Work>>>,
}

impl Crew {
    pub(super) fn add(&self, work: guest::Work) {
        self.waiting.lock().push(work);
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Crew {
    fn execute(&self, future: F) {
        self.add(Box::pin(async move {
            future.await;
            Part::Guest
        }));
    }
}

/// What a connection's task is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The protocol's side.
    Connection,
    /// A guest, or a stream of HTTP/2.
    Guest,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Connection,
    Everyone,
}

/// The connection and its guests. Each is polled only when it was woken itself: a guest that
/// writes its body must not make the protocol's side look at its socket, nor the other way round.
struct Everyone {
    all: FuturesUnordered<guest::Work>,
    crew: Crew,
}

impl Everyone {
    async fn until(&mut self, done: Done) {
        std::future::poll_fn(|cx| self.poll(cx, done)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>, done: Done) -> Poll<()> {
        loop {
            self.all.extend(self.crew.waiting.lock().drain(..));
            match Pin::new(&mut self.all).poll_next(cx) {
                Poll::Ready(Some(Part::Connection)) if done == Done::Connection => {
                    return Poll::Ready(());
                }
                Poll::Ready(Some(Part::Connection | Part::Guest)) => {}
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if self.crew.waiting.lock().is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
    }
}
