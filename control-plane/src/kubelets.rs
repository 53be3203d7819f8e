//! How the API reaches the kubelets of its nodes, and pods: HTTP/1.1 over a stream that somebody else opens.
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
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body;
use hyper::{body::Incoming, client::conn::http1};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

pub(crate) use connect::{Asked, CONNECT_PARAMETERS, Joined, connect, is_upgrade};
pub(crate) use log::{LogStream, PARAMETERS, answer, unreachable};
pub(crate) use reach::{Answered, SentBody, exchange};
pub(crate) use remote::{Remote, secured};

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

/// Opens streams to pods.
pub trait PodDialer: Send + Sync {
    /// Opens one to an address and port of a pod; it is closed when it is dropped.
    fn dial(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<KubeletStream>>;
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
    /// The way to addresses of pods; without it they are those of the machine's network.
    pods: RwLock<Option<Arc<dyn PodDialer>>>,
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
            pods: RwLock::default(),
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
        let request = Request::get(path)
            .body(reach::nothing())
            .expect("names of pods and containers are valid in a path");
        match self.ask_in_time(node, request).await? {
            Answered::Plain(answer) => Ok(answer),
            // Nobody asked it to.
            Answered::Switched { .. } => Err(KubeletError::Silent(node.to_owned())),
        }
    }

    /// Asks a kubelet to carry something else than HTTP.
    async fn upgrade(
        &self,
        node: &str,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Answered, KubeletError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .body(reach::nothing())
            .expect("names of pods and containers are valid in a path");
        *request.headers_mut() = headers;
        self.ask_in_time(node, request).await
    }

    async fn ask_in_time(
        &self,
        node: &str,
        request: Request<SentBody>,
    ) -> Result<Answered, KubeletError> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.ask(node, request)).await;
        answer.unwrap_or_else(|_| Err(KubeletError::Silent(node.to_owned())))
    }

    /// Asks a kubelet, however long it takes.
    pub(crate) async fn ask(
        &self,
        node: &str,
        mut request: Request<SentBody>,
    ) -> Result<Answered, KubeletError> {
        let host = HeaderValue::from_str(node).expect("the name of a node is valid in a header");
        request.headers_mut().insert(header::HOST, host);
        let stream = self.dial(node).await?;
        let asked = exchange(stream, request).await;
        asked.map_err(|source| KubeletError::Ask {
            node: node.to_owned(),
            source,
        })
    }

    /// Names the way to pods' addresses, in place of the machine's own network.
    pub fn reach_pods(&self, dialer: Arc<dyn PodDialer>) {
        let mut place = self.0.pods.write().unwrap_or_else(PoisonError::into_inner);
        *place = Some(dialer);
    }

    /// Opens a stream to a pod's address and port.
    pub(crate) async fn dial_pod(&self, to: SocketAddr) -> io::Result<KubeletStream> {
        let dialer = {
            let pods = self.0.pods.read().unwrap_or_else(PoisonError::into_inner);
            pods.clone()
        };
        match dialer {
            Some(dialer) => dialer.dial(to).await,
            None => Ok(Box::pin(TcpStream::connect(to).await?)),
        }
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

/// The body of a kubelet's answer, together with the connection that brings it.
pub(crate) struct KubeletBody {
    body: Incoming,
    connection: Connection,
    _sender: http1::SendRequest<SentBody>,
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
