//! The kubelet's HTTP API: the one way in which an API server reaches what runs on this node.
//!
//! A service for requests from memory, and [`KubeletService::serve`] for those of a connection. It knows
//! nothing of who asks: whoever opens a port for it authenticates and authorises first.

mod about;
mod container_logs;
mod guard;
mod listen;
mod run;
mod session;
mod stats;
mod streaming;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use coracle_network::Fabric;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::Service as _;

pub use listen::{KubeletListener, KubeletListenerConfig, KubeletServer, KubeletServerError};
use session::Place;

use crate::exec::ExecBook;
use crate::folders::FolderBook;
use crate::logs::LogBook;
use crate::metrics::Metrics;
use crate::node::pressure::Least;
use crate::probes::ProbeMetrics;
use crate::time::Clock;
use streaming::{AfterUpgrade, CONNECTIONS_MAX, STREAMS_MAX, Wish};

/// Logs read at once: each costs at most a few open files and a block of memory while it is sent.
const LOG_READERS_MAX: usize = 1024;

/// Paths of a kubelet that this one does not answer yet.
const UNSERVED: &[&str] = &["checkpoint", "cri", "debug", "flagz", "logs", "statusz"];

/// The body of an answer; that of a log comes as it is written.
pub type KubeletBody = UnsyncBoxBody<Bytes, io::Error>;

/// The kubelet API of one agent. Clones share everything.
#[derive(Clone)]
pub struct KubeletService(Arc<Shared>);

struct Shared {
    node_name: String,
    data_dir: Arc<std::path::Path>,
    client: kube::Client,
    clock: Clock,
    book: Arc<LogBook>,
    execs: Arc<ExecBook>,
    fabric: Fabric,
    log_readers: Arc<Semaphore>,
    meter: stats::Meter,
    disk: stats::Disk,
    folders: Arc<FolderBook>,
    metrics: Metrics,
    least: Least,
    probes: ProbeMetrics,
    connections: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// Where what runs on the node is found.
pub(crate) struct Whereabouts {
    pub(crate) logs: Arc<LogBook>,
    pub(crate) execs: Arc<ExecBook>,
    pub(crate) fabric: Fabric,
    pub(crate) folders: Arc<FolderBook>,
    pub(crate) metrics: Metrics,
    pub(crate) least: Least,
    pub(crate) probes: ProbeMetrics,
}

/// What a request is refused with: plain text, as a kubelet writes it.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: StatusCode,
    text: String,
}

impl Refusal {
    fn new(code: StatusCode, text: impl Into<String>) -> Refusal {
        let text = text.into();
        Refusal { code, text }
    }
}

impl KubeletService {
    pub(crate) fn new(
        node_name: String,
        data_dir: PathBuf,
        client: kube::Client,
        clock: Clock,
        whereabouts: Whereabouts,
    ) -> KubeletService {
        let Whereabouts {
            logs,
            execs,
            fabric,
            folders,
            metrics,
            least,
            probes,
        } = whereabouts;
        KubeletService(Arc::new(Shared {
            node_name,
            data_dir: data_dir.into(),
            client,
            clock,
            book: logs,
            execs,
            fabric,
            log_readers: Arc::new(Semaphore::new(LOG_READERS_MAX)),
            meter: stats::Meter::default(),
            disk: stats::Disk::default(),
            folders,
            metrics,
            least,
            probes,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }))
    }

    /// The name of the node it answers for.
    fn node_name(&self) -> &str {
        &self.0.node_name
    }

    /// Answers the requests of one connection until the other side closes it, and carries the streams
    /// of an exec, attach or port-forward if one of them asked for that. Dropping this ends them.
    ///
    /// # Errors
    ///
    /// Fails when the connection breaks or what arrives is no HTTP/1.1.
    pub async fn serve<S>(self, stream: S) -> Result<(), hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let after = AfterUpgrade::default();
        let place = after.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(place.clone());
            self.clone().call(request)
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await?;
        after.run().await;
        Ok(())
    }
}

impl<B: Send + 'static> tower::Service<Request<B>> for KubeletService {
    type Response = Response<KubeletBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<KubeletBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // No path served here takes a body.
        let (head, _) = request.into_parts();
        let shared = self.0.clone();
        Box::pin(async move {
            let _coming = shared.metrics.request_comes();
            let (method, uri, began) = (head.method.clone(), head.uri.clone(), Instant::now());
            let answer = shared.answer(head).await;
            shared
                .metrics
                .request_done(&method, uri.path(), began.elapsed());
            Ok(answer.unwrap_or_else(|refusal| text(refusal.code, refusal.text)))
        })
    }
}

impl Shared {
    async fn answer(&self, head: Parts) -> Result<Response<KubeletBody>, Refusal> {
        let (uri, method) = (head.uri.clone(), head.method.clone());
        let query = uri.query().unwrap_or_default();
        let segments: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
        if let Some(wish) = Wish::read(&segments) {
            return self.upgrade(wish, head);
        }
        if let [first, ..] = segments.as_slice()
            && UNSERVED.contains(first)
        {
            let text = format!("`/{first}` is not served by this node yet");
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text));
        }
        let is_read = method == Method::GET;
        match segments.as_slice() {
            ["run", ..] if method != Method::POST => {
                let code = StatusCode::METHOD_NOT_ALLOWED;
                Err(Refusal::new(code, "Method Not Allowed"))
            }
            ["run", namespace, pod, uid @ .., container] if uid.len() <= 1 => {
                let uid = uid.first().copied();
                let place = Place {
                    namespace,
                    pod,
                    uid,
                    container,
                };
                self.run(place, query).await
            }
            [
                "healthz" | "pods" | "runningpods" | "stats" | "metrics" | "configz"
                | "containerLogs",
                ..,
            ] if !is_read => {
                let code = StatusCode::METHOD_NOT_ALLOWED;
                Err(Refusal::new(code, "Method Not Allowed"))
            }
            ["healthz"] | ["healthz", "ping"] => Ok(text(StatusCode::OK, "ok")),
            ["pods"] => self.pods().await,
            ["stats", "summary"] => self.summary(query).await,
            ["metrics"] => Ok(self.agent_metrics()),
            ["metrics", "cadvisor"] => Ok(self.cadvisor_metrics().await),
            ["metrics", "probes"] => Ok(self.probe_metrics()),
            ["metrics", "resource"] => Ok(self.resource_metrics().await),
            ["configz"] => Ok(self.configz()),
            ["runningpods"] => Ok(self.running_pods()),
            ["stats" | "metrics", ..] => {
                let text = format!("`{}` is not served by this node yet", uri.path());
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text))
            }
            ["containerLogs", namespace, pod, container] => {
                self.container_logs(namespace, pod, container, query).await
            }
            _ => Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found")),
        }
    }

    /// The pods of this node, as the API server has them: the agent itself keeps no whole objects.
    async fn pods(&self) -> Result<Response<KubeletBody>, Refusal> {
        let fields = format!("spec.nodeName={}", self.node_name);
        let api = Api::<Pod>::all(self.client.clone());
        let list = api.list(&ListParams::default().fields(&fields)).await;
        let list = list.map_err(|error| {
            let code = StatusCode::INTERNAL_SERVER_ERROR;
            Refusal::new(code, format!("failed to list this node's pods: {error}"))
        })?;
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {},
            "items": list.items});
        let mut response = Response::new(whole(list.to_string()));
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Ok(response)
    }
}

fn whole(text: impl Into<Bytes>) -> KubeletBody {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<KubeletBody> {
    let mut response = Response::new(whole(text));
    *response.status_mut() = code;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
