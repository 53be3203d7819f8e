//! How the API reaches the kubelets of its nodes: HTTP/1.1 over a stream that somebody else opens.
//!
//! In one process the stream is memory, to a remote node it is TLS; here both look alike.

mod connect;
mod log;
mod reach;
mod remote;

use std::{
    collections::HashMap,
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either, select},
    stream::{self, BoxStream},
};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use connect::{Asked, CONNECT_PARAMETERS, Joined, connect};
pub(crate) use log::{LogStream, PARAMETERS, answer};
use reach::Answered;
pub(crate) use remote::Remote;

/// How long a kubelet may take until it begins to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A stream to a kubelet.
pub type KubeletStream = Pin<Box<dyn DuplexStream>>;

/// Both directions of a connection.
pub trait DuplexStream: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> DuplexStream for S {}

/// Opens streams to the kubelet of one node.
pub trait KubeletDialer: Send + Sync {
    /// Opens one; it is closed when it is dropped.
    fn dial(&self) -> BoxFuture<'static, io::Result<KubeletStream>>;
}

/// The kubelets that can be reached, by the names of their nodes. Clones share everything.
#[derive(Clone, Default)]
pub struct Kubelets(Arc<Ways>);

/// The ways to kubelets.
#[derive(Default)]
struct Ways {
    /// Those of this process, and others that were named.
    named: RwLock<HashMap<String, Arc<dyn KubeletDialer>>>,
    /// Those that a Node object tells.
    told: Option<Remote>,
}

/// Why a kubelet did not answer.
#[derive(Debug, Error)]
pub(crate) enum KubeletError {
    #[error("no kubelet of node `{0}` is connected")]
    Unknown(String),
    #[error("failed to reach the kubelet of node `{node}`")]
    Dial { node: String, source: io::Error },
    #[error("failed to ask the kubelet of node `{node}`")]
    Ask { node: String, source: hyper::Error },
    #[error("the kubelet of node `{0}` does not answer")]
    Silent(String),
}

impl fmt::Debug for Kubelets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kubelets = self.0.named.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(kubelets.keys()).finish()
    }
}

impl Kubelets {
    /// Knows also the kubelets that Node objects tell of.
    pub(crate) fn with_remote(remote: Remote) -> Kubelets {
        Kubelets(Arc::new(Ways {
            named: RwLock::default(),
            told: Some(remote),
        }))
    }

    /// Names the way to a node's kubelet, in place of an earlier one.
    pub fn register(&self, node: &str, dialer: Arc<dyn KubeletDialer>) {
        let mut kubelets = self.0.named.write().unwrap_or_else(PoisonError::into_inner);
        kubelets.insert(node.to_owned(), dialer);
    }

    /// Forgets the way to a node's kubelet.
    pub fn remove(&self, node: &str) {
        let mut kubelets = self.0.named.write().unwrap_or_else(PoisonError::into_inner);
        kubelets.remove(node);
    }

    /// Asks a kubelet with a GET; the connection lives as long as the body of the answer.
    pub(crate) async fn get(
        &self,
        node: &str,
        path: &str,
    ) -> Result<Response<KubeletBody>, KubeletError> {
        let asked = async {
            let stream = self.dial(node).await?;
            ask(stream, node, path).await.map_err(failed(node))
        };
        in_time(node, asked).await
    }

    /// Asks a kubelet to carry something else than HTTP.
    async fn upgrade(
        &self,
        node: &str,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Answered, KubeletError> {
        let asked = async {
            let stream = self.dial(node).await?;
            let asked = reach::upgrade(stream, node, (method, path), headers).await;
            asked.map_err(failed(node))
        };
        in_time(node, asked).await
    }

    async fn dial(&self, node: &str) -> Result<KubeletStream, KubeletError> {
        let dialer = {
            let kubelets = self.0.named.read().unwrap_or_else(PoisonError::into_inner);
            kubelets.get(node).cloned()
        };
        let dialled = match (dialer, &self.0.told) {
            (Some(dialer), _) => Some(dialer.dial().await),
            (None, Some(remote)) => remote.dial(node).await,
            (None, None) => None,
        };
        let dialled = dialled.ok_or_else(|| KubeletError::Unknown(node.to_owned()))?;
        dialled.map_err(|source| KubeletError::Dial {
            node: node.to_owned(),
            source,
        })
    }
}

fn failed(node: &str) -> impl FnOnce(hyper::Error) -> KubeletError {
    let node = node.to_owned();
    |source| KubeletError::Ask { node, source }
}

async fn in_time<T>(
    node: &str,
    asked: impl Future<Output = Result<T, KubeletError>>,
) -> Result<T, KubeletError> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
    answer.unwrap_or_else(|_| Err(KubeletError::Silent(node.to_owned())))
}

/// The body of a kubelet's answer, together with the connection that brings it.
pub(crate) struct KubeletBody {
    body: Incoming,
    connection: Connection,
    _sender: http1::SendRequest<Empty<Bytes>>,
}

/// A connection at work; nothing once it has ended.
struct Connection(Option<BoxFuture<'static, ()>>);

impl Connection {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) {
        if let Some(connection) = &mut self.0
            && connection.poll_unpin(cx).is_ready()
        {
            self.0 = None;
        }
    }
}

async fn ask(
    stream: KubeletStream,
    node: &str,
    path: &str,
) -> Result<Response<KubeletBody>, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it ended, the body tells.
    let connection = connection.map(drop).boxed();
    let request = Request::get(path)
        .header(http::header::HOST, node)
        .body(Empty::new())
        .expect("names of nodes, pods and containers are valid in a path and a header");
    let sending = sender.send_request(request).boxed();
    let (answer, connection) = match select(sending, connection).await {
        Either::Left((answer, connection)) => (answer?, Connection(Some(connection))),
        Either::Right(((), sending)) => (sending.await?, Connection(None)),
    };
    Ok(answer.map(|body| KubeletBody {
        body,
        connection,
        _sender: sender,
    }))
}

impl KubeletBody {
    /// Returns what arrives, piece by piece. Nothing runs unless the stream is asked.
    pub(crate) fn into_stream(self) -> BoxStream<'static, Result<Bytes, hyper::Error>> {
        let pieces = stream::unfold(self, |mut body| async {
            let piece = body.next().await?;
            Some((piece, body))
        });
        pieces.boxed()
    }

    /// Returns the whole body, as far as it is not longer than `limit`.
    pub(crate) async fn into_text(self, limit: usize) -> String {
        let mut text = Vec::new();
        let mut pieces = self.into_stream();
        while let Some(Ok(piece)) = pieces.next().await {
            let room = limit.saturating_sub(text.len());
            text.extend_from_slice(&piece[..piece.len().min(room)]);
            if room <= piece.len() {
                break;
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        let piece = poll_fn(|cx| {
            loop {
                // The connection fills the body, in this same task.
                self.connection.poll(cx);
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => break Poll::Ready(Some(Ok(data))),
                        // Trailers say nothing about a log.
                        Err(_) => continue,
                    },
                    Poll::Ready(Some(Err(error))) => break Poll::Ready(Some(Err(error))),
                    Poll::Ready(None) => break Poll::Ready(None),
                    Poll::Pending => break Poll::Pending,
                }
            }
        });
        piece.await
    }
}
