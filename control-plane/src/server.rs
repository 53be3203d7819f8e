//! The API behind a socket: TLS, who is at the other end, HTTP, and an end to everything.
//!
//! ```text
//! accept ──► handshake ──► connection (HTTP/1 or 2, as agreed) ──► request: who? ──► ApiService
//! ```
//!
//! - The accepting task takes connections while there are slots for them. An [`Entrance`] takes those
//!   that were accepted elsewhere, such as in a network that is not the kernel's.
//! - A task per connection serves it until its client leaves, is idle for too long or the server
//!   stops; HTTP/2 adds a task per request. All of them are tracked and awaited by
//!   [`ApiServer::stop`]: first no new requests and no watches, at the deadline nothing at all.

mod body;
mod connection;
mod relay;
mod stall;
mod wire;

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::TokioTimer;
use jiff::Timestamp;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    identity::{AnyCertificate, ClientCertificates, Purpose, Serving, Subject},
    service::ApiService,
};

use wire::Wire;

/// Connections at once. Each costs a descriptor and some 20 KB; a client with thousands of watches
/// shares few connections over HTTP/2.
const CONNECTIONS_MAX: usize = 16_384;
/// Of those that come through an [`Entrance`], which are clients of another kind and must not keep the
/// first ones out. A pod keeps one or two.
const ENTRANCE_CONNECTIONS_MAX: usize = 16_384;
/// Requests whose answer is being made; more of them wait. Times the largest body, this bounds
/// what bodies can take of the memory. Watches count only until they begin.
const REQUESTS_MAX: usize = 256;
/// Connections that the system keeps until they are accepted.
const BACKLOG: u32 = 1024;
/// How long accepting rests when the system refuses, for want of descriptors mostly.
const ACCEPT_PAUSES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

/// Names under which pods and people of a cluster know its API.
const CLUSTER_NAMES: &[&str] = &[
    "127.0.0.1",
    "::1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
];

/// Where an API server listens.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The address; with port 0 the system chooses one. Without one only an [`Entrance`] leads in.
    pub listen: Option<SocketAddr>,
    /// Names and addresses of this machine that the certificate shall carry, beside the well-known
    /// ones and the address listened on.
    pub names: Vec<String>,
}

/// Why the server cannot start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The address is not to be had.
    #[error("failed to listen on `{address}`")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server's certificate cannot be made.
    #[error("failed to make the server's certificate")]
    Certificate(#[from] rcgen::Error),
    /// TLS cannot be set up.
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
}

/// An API server at work. Dropping it ends everything at once.
#[derive(Debug)]
pub struct ApiServer {
    address: Option<SocketAddr>,
    front: Arc<Front>,
    accepting: Option<JoinHandle<()>>,
}

/// Takes connections that were accepted elsewhere; clones share the places.
#[derive(Clone, Debug)]
pub struct Entrance {
    front: Arc<Front>,
    places: Arc<Semaphore>,
}

/// What all connections share.
struct Front {
    service: ApiService,
    acceptor: TlsAcceptor,
    certificates: Arc<ClientCertificates>,
    clock: fn() -> Timestamp,
    requests: Semaphore,
    /// Those that are passed on to pods and kubelets wait for one another, and keep nobody else.
    passed_on: Semaphore,
    tasks: TaskTracker,
    /// No more connections, requests and watches.
    stopping: CancellationToken,
    /// Nothing at all any more.
    ended: CancellationToken,
    http1: hyper::server::conn::http1::Builder,
}

impl ApiServer {
    /// Listens, and serves `service` to everyone who can prove who they are.
    ///
    /// # Errors
    ///
    /// Fails when the address is taken or the certificate cannot be made.
    pub async fn bind(config: ServerConfig, service: ApiService) -> Result<ApiServer, ServerError> {
        let listening = config.listen.map(|address| {
            let listener = listen(address);
            let listener = listener.map_err(|source| ServerError::Listen { address, source })?;
            let address = listener.local_addr().unwrap_or(address);
            Ok::<_, ServerError>((listener, address))
        });
        let (listener, address) = listening.transpose()?.unzip();
        let (identity, clock) = (Arc::clone(service.identity()), service.clock());
        let names = CLUSTER_NAMES.iter().map(|name| (*name).to_owned());
        let names: BTreeSet<_> = names
            .chain(config.names)
            .chain([service.service_ranges().api().to_string()])
            .chain(address.map(|address| address.ip().to_string()))
            .collect();
        let subject = Subject {
            name: "kubernetes".to_owned(),
            group: None,
            purpose: Purpose::Server(names.into_iter().collect()),
        };
        let certificates = Arc::new(ClientCertificates::new(identity.authority())?);
        let serving = Serving::new(identity, subject, clock)?;
        let front = Arc::new(Front {
            service,
            acceptor: acceptor(serving, &certificates)?,
            certificates,
            clock,
            requests: Semaphore::new(REQUESTS_MAX),
            passed_on: Semaphore::new(REQUESTS_MAX),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            ended: CancellationToken::new(),
            http1: connection::http1(TokioTimer::new()),
        });
        let accepting = listener.map(|listener| tokio::spawn(accept(listener, Arc::clone(&front))));
        Ok(ApiServer {
            address,
            front,
            accepting,
        })
    }

    /// Returns the address that the server really listens on, if it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Returns a way in for connections that were accepted elsewhere.
    pub fn entrance(&self) -> Entrance {
        Entrance {
            front: Arc::clone(&self.front),
            places: Arc::new(Semaphore::new(ENTRANCE_CONNECTIONS_MAX)),
        }
    }

    /// Takes no more requests, ends the watches, lets the rest be answered until `deadline`, then
    /// closes what is still open. Nothing of the server is left when this returns.
    pub async fn stop(mut self, deadline: Duration) {
        self.front.stopping.cancel();
        if let Some(accepting) = &mut self.accepting
            && let Err(error) = accepting.await
        {
            tracing::error!(%error, "accepting connections did not end by itself");
        }
        self.front.tasks.close();
        if tokio::time::timeout(deadline, self.front.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("connections are closed with requests on them");
            self.front.ended.cancel();
            self.front.tasks.wait().await;
        }
    }
}

impl Entrance {
    /// Waits for a place, so that whoever accepts connections leaves the others in their queue.
    /// Cancel safe.
    pub async fn place(&self) -> EntrancePlace {
        let place = Arc::clone(&self.places).acquire_owned().await;
        EntrancePlace(place.expect("nobody closes the places"))
    }

    /// Serves a connection in a place; a server that stops closes it.
    pub fn take(
        &self,
        place: EntrancePlace,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) {
        if self.front.stopping.is_cancelled() {
            return;
        }
        let shared = Arc::clone(&self.front);
        self.front.tasks.spawn(async move {
            connection::serve(shared, Wire::Given(Box::new(stream))).await;
            drop(place);
        });
    }
}

/// A place for one connection.
#[derive(Debug)]
pub struct EntrancePlace(
    #[expect(dead_code, reason = "it is held, and free again when it is dropped")]
    OwnedSemaphorePermit,
);

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.front.stopping.cancel();
        self.front.ended.cancel();
    }
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").finish_non_exhaustive()
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // On Windows this would let two processes listen on one address.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    // Accepted sockets inherit it: a peer that is gone without a word is found out in the end.
    socket.set_keepalive(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn acceptor(
    serving: Serving,
    certificates: &Arc<ClientCertificates>,
) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AnyCertificate(Arc::clone(certificates))))
        .with_cert_resolver(Arc::new(serving));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes connections until the server stops; no error of the system ends it.
async fn accept(listener: TcpListener, front: Arc<Front>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut failures = 0;
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            let slot = slot.expect("nobody closes the slots");
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            // Cancel-safe: a connection that is not accepted stays in the backlog.
            next = next => next,
            () = front.stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                failures = 0;
                let shared = Arc::clone(&front);
                front.tasks.spawn(async move {
                    connection::serve(shared, Wire::Kernel(stream)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                let pause = ACCEPT_PAUSES.get(failures).or(ACCEPT_PAUSES.last());
                failures = failures.saturating_add(1);
                tokio::select! {
                    () = tokio::time::sleep(pause.copied().unwrap_or_default()) => (),
                    () = front.stopping.cancelled() => return,
                }
            }
        }
    }
}
