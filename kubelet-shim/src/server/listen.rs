//! The kubelet API behind a socket: TLS, who is at the other end, HTTP/1.1, and an end to everything.
//!
//! Tasks: one that accepts; one per connection, until its client leaves or the server stops.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::guard::{Caller, Guard};
use super::streaming::AfterUpgrade;
use super::{KubeletBody, KubeletService, text};

/// Connections at once; an API server holds a handful, and one for each stream.
const CONNECTIONS_MAX: usize = 4096;
/// How long a client may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take, which includes the time until it begins.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(100);
/// What is read ahead of one request.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// How long accepting rests when the system refuses, for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// How the kubelet API is served to others.
pub struct KubeletListenerConfig {
    /// The address; with port 0 the system chooses one.
    pub listen: SocketAddr,
    /// The node's names and addresses, for a certificate of our own.
    pub names: Vec<String>,
    /// The certificate chain and its key; one signed by itself is made when unset.
    pub certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// Who vouches for client certificates. Without any, only tokens are taken.
    pub client_authorities: Vec<CertificateDer<'static>>,
}

/// Why the kubelet API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum KubeletServerError {
    /// The address is not to be had.
    #[error("failed to listen on `{address}` for the kubelet API")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No certificate can be made.
    #[error("failed to make the node's certificate")]
    Certificate(#[from] rcgen::Error),
    /// TLS cannot be set up; the certificate does not fit its key, mostly.
    #[error("failed to set up TLS for the kubelet API")]
    Tls(#[from] rustls::Error),
}

/// A socket that listens already and answers once there is something to answer for: the Node object
/// names its port before the agent runs.
pub struct KubeletListener {
    listener: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    authorities: Vec<CertificateDer<'static>>,
}

/// The kubelet API at work. Dropping it ends everything at once.
pub struct KubeletServer {
    front: Arc<Front>,
    accepting: JoinHandle<()>,
}

struct Front {
    service: KubeletService,
    guard: Guard,
    acceptor: TlsAcceptor,
    tasks: TaskTracker,
    stopping: CancellationToken,
    ended: CancellationToken,
}

impl KubeletListener {
    /// Listens.
    ///
    /// # Errors
    ///
    /// Fails when the address is taken, or the certificate is not fit for use.
    pub async fn bind(config: KubeletListenerConfig) -> Result<Self, KubeletServerError> {
        let KubeletListenerConfig {
            listen: address,
            names,
            certificate,
            client_authorities,
        } = config;
        let (chain, key) = match certificate {
            Some(pair) => pair,
            None => self_signed(names)?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(AnyCertificate))
            .with_single_cert(chain, key)?;
        // Streams are upgraded connections, which HTTP/2 does not have.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let refuse = |source| KubeletServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        Ok(Self {
            address: listener.local_addr().map_err(refuse)?,
            listener,
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            authorities: client_authorities,
        })
    }

    /// Returns the address that it really listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for an agent; `client` asks the API server who callers are and what they may do.
    ///
    /// # Errors
    ///
    /// Fails when an authority's certificate cannot be used.
    pub fn serve(
        self,
        service: KubeletService,
        client: kube::Client,
    ) -> Result<KubeletServer, KubeletServerError> {
        let node_name = service.node_name().to_owned();
        let front = Arc::new(Front {
            service,
            guard: Guard::new(node_name, client, &self.authorities)?,
            acceptor: self.acceptor,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let accepting = tokio::spawn(accept(self.listener, Arc::clone(&front)));
        Ok(KubeletServer { front, accepting })
    }
}

impl KubeletServer {
    /// Takes no more requests, lets those under way be answered until `deadline`, then closes what is
    /// still open. Nothing of the server is left when this returns.
    pub async fn stop(mut self, deadline: Duration) {
        self.front.stopping.cancel();
        if let Err(error) = (&mut self.accepting).await {
            tracing::error!(%error, "broken promise: accepting connections ends by itself");
        }
        self.front.tasks.close();
        let served = tokio::time::timeout(deadline, self.front.tasks.wait());
        if served.await.is_err() {
            self.front.ended.cancel();
            self.front.tasks.wait().await;
        }
    }
}

impl Drop for KubeletServer {
    fn drop(&mut self) {
        self.front.stopping.cancel();
        self.front.ended.cancel();
    }
}

fn self_signed(
    names: Vec<String>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rcgen::Error> {
    let made = rcgen::generate_simple_self_signed(names)?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![made.cert.der().clone()], key.into()))
}

/// Takes connections until the server stops; no error of the system ends it.
async fn accept(listener: TcpListener, front: Arc<Front>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            // Cancel-safe: a connection that is not accepted stays in the backlog.
            next = next => next,
            () = front.stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let shared = Arc::clone(&front);
                front.tasks.spawn(async move {
                    let ended = shared.ended.clone();
                    ended.run_until_cancelled(connection(shared, stream)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection to the kubelet API");
                let pause = tokio::time::sleep(ACCEPT_PAUSE);
                front.stopping.run_until_cancelled(pause).await;
            }
        }
    }
}

async fn connection(front: Arc<Front>, stream: TcpStream) {
    // Answers are written whole; waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, front.acceptor.accept(stream));
    let stream = match front.stopping.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => return tracing::debug!(%error, "a TLS handshake failed"),
        Some(Err(_)) => return tracing::debug!("a TLS handshake took too long"),
        None => return,
    };
    let (_, session) = stream.get_ref();
    let peer = front
        .guard
        .identify(session.peer_certificates().unwrap_or_default());
    let peer = Arc::new(peer);
    let shared = Arc::clone(&front);
    let after = AfterUpgrade::default();
    let place = after.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        let (front, peer) = (Arc::clone(&shared), Arc::clone(&peer));
        async move { Ok::<_, Infallible>(answer(&front, peer.as_ref().as_ref(), request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = front.stopping.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    match ended {
        // What it became ends with the server: it has no end of its own.
        Ok(()) => drop(front.stopping.run_until_cancelled(after.run()).await),
        Err(error) => tracing::debug!(%error, "a connection to the kubelet API broke"),
    }
}

async fn answer(
    front: &Front,
    peer: Option<&Caller>,
    request: Request<Incoming>,
) -> Response<KubeletBody> {
    let (method, path) = (request.method(), request.uri().path());
    let admitted = front
        .guard
        .admit(peer, method, path, request.headers())
        .await;
    match admitted {
        Ok(()) => match front.service.clone().call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        },
        Err(refusal) => text(refusal.code, refusal.text),
    }
}

/// Takes every certificate whose key the client has; whether anybody vouches for it is asked afterwards,
/// so that the client gets an answer instead of a broken handshake.
#[derive(Debug)]
struct AnyCertificate;

impl AnyCertificate {
    fn algorithms() -> rustls::crypto::WebPkiSupportedAlgorithms {
        rustls::crypto::ring::default_provider().signature_verification_algorithms
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &Self::algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &Self::algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::algorithms().supported_schemes()
    }
}
