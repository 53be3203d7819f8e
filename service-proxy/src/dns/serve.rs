//! Answers requests that arrive in datagrams and streams, of the fabric and of the kernel alike.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{NetError, Zone};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::forward::Forwarder;
use super::places::Places;
use super::request::{Outcome, decide};
use super::road::{Connection, Datagrams, read_message, write_message};
use super::wire::{self, Transport};

/// The longest request read; one question with its extension is a few hundred bytes.
const REQUEST_BYTES_MAX: usize = 4096;

/// Streams open at once, and of these from one client.
const CONNECTIONS_MAX: usize = 512;
const CONNECTIONS_PER_CLIENT_MAX: usize = 16;

/// How long a client may take for one request, and to take one answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a socket rests after an error that is not of one peer only.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What all servers share.
pub(crate) struct Service {
    pub(crate) zone: Arc<Zone>,
    pub(crate) forwarder: Forwarder,
    connections: Arc<Places>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A socket that streams come from.
pub(crate) trait Accept: Send + 'static {
    /// What comes.
    type Stream: Connection + 'static;

    /// Waits for one and tells from whom. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, IpAddr)>> + Send;
}

impl Accept for coracle_network::Listener {
    type Stream = coracle_network::Stream;

    async fn accept(&self) -> io::Result<(Self::Stream, IpAddr)> {
        let stream = coracle_network::Listener::accept(self).await?;
        let peer = stream.peer_addr().ip();
        Ok((stream, peer.to_canonical()))
    }
}

impl Accept for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Stream, IpAddr)> {
        let (stream, peer) = tokio::net::TcpListener::accept(self).await?;
        Ok((stream, peer.ip().to_canonical()))
    }
}

impl Service {
    pub(crate) fn new(zone: Arc<Zone>, forwarder: Forwarder) -> Arc<Service> {
        Arc::new(Service {
            zone,
            forwarder,
            connections: Places::new(CONNECTIONS_MAX, CONNECTIONS_PER_CLIENT_MAX),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Begins to answer datagrams.
    pub(crate) fn serve_datagrams(self: &Arc<Self>, socket: impl Datagrams) {
        let (service, socket) = (Arc::clone(self), Arc::new(socket));
        self.tasks.spawn(async move {
            // Safe to cancel: receiving takes nothing before it is done.
            let serving = service.datagrams(socket);
            service.stop.run_until_cancelled(serving).await;
        });
    }

    /// Begins to answer streams.
    pub(crate) fn serve_streams(self: &Arc<Self>, listener: impl Accept + Sync) {
        let service = Arc::clone(self);
        self.tasks.spawn(async move {
            // Safe to cancel: accepting takes nothing before it is done.
            let serving = service.streams(listener);
            service.stop.run_until_cancelled(serving).await;
        });
    }

    /// Asks all of it to end.
    pub(crate) fn begin_to_stop(&self) {
        self.stop.cancel();
    }

    /// Ends all of it: requests under way are not answered.
    pub(crate) async fn stop(&self) {
        self.begin_to_stop();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn datagrams<D: Datagrams>(self: &Arc<Self>, socket: Arc<D>) {
        let mut buffer = [0; REQUEST_BYTES_MAX];
        loop {
            let (length, client) = match socket.receive(&mut buffer).await {
                Ok(received) => received,
                Err(error) => match rest_after(error).await {
                    Next::Again => continue,
                    Next::End => return,
                },
            };
            let place = match decide(&self.zone, &buffer[..length]) {
                Outcome::Drop => continue,
                Outcome::Refuse(bytes) => {
                    send(&*socket, &bytes, client).await;
                    continue;
                }
                Outcome::Answer(answer, asked) => {
                    let bytes = wire::fit(*answer, asked.as_ref(), Transport::Udp);
                    send(&*socket, &bytes, client).await;
                    continue;
                }
                Outcome::Forward(forward) => {
                    (self.forwarder.enter(client.ip().to_canonical()), forward)
                }
            };
            match place {
                (Some(place), forward) => {
                    let (service, socket) = (Arc::clone(self), Arc::clone(&socket));
                    self.tasks.spawn(async move {
                        // Safe to cancel: the client asks again.
                        let answering = async {
                            let bytes = service.forwarded(*forward, Transport::Udp).await;
                            send(&*socket, &bytes, client).await;
                        };
                        service.stop.run_until_cancelled(answering).await;
                        drop(place);
                    });
                }
                (None, forward) => {
                    let (answer, asked) = forward.failed();
                    let bytes = wire::fit(answer, asked.as_ref(), Transport::Udp);
                    send(&*socket, &bytes, client).await;
                }
            }
        }
    }

    async fn streams(self: &Arc<Self>, listener: impl Accept) {
        loop {
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => match rest_after(error).await {
                    Next::Again => continue,
                    Next::End => return,
                },
            };
            let Some(place) = self.connections.take(client) else {
                continue;
            };
            let service = Arc::clone(self);
            self.tasks.spawn(async move {
                // Safe to cancel: the stream ends, and the client asks again.
                let serving = service.connection(stream, client);
                service.stop.run_until_cancelled(serving).await;
                drop(place);
            });
        }
    }

    /// Answers the requests of a stream, one after the other.
    async fn connection(&self, mut stream: impl Connection, client: IpAddr) {
        loop {
            let reading = read_message(&mut stream, REQUEST_BYTES_MAX);
            let Ok(Ok(Some(request))) = tokio::time::timeout(CLIENT_TIMEOUT, reading).await else {
                return;
            };
            let Some(answer) = self.answer(&request, client).await else {
                return;
            };
            let writing = write_message(&mut stream, &answer);
            let Ok(Ok(())) = tokio::time::timeout(CLIENT_TIMEOUT, writing).await else {
                return;
            };
        }
    }

    /// Answers one request of a stream; nothing if the stream is to be closed.
    async fn answer(&self, request: &[u8], client: IpAddr) -> Option<Vec<u8>> {
        match decide(&self.zone, request) {
            Outcome::Drop => None,
            Outcome::Refuse(bytes) => Some(bytes),
            Outcome::Answer(answer, asked) => {
                Some(wire::fit(*answer, asked.as_ref(), Transport::Tcp))
            }
            Outcome::Forward(forward) => match self.forwarder.enter(client) {
                Some(_place) => Some(self.forwarded(*forward, Transport::Tcp).await),
                None => {
                    let (answer, asked) = forward.failed();
                    Some(wire::fit(answer, asked.as_ref(), Transport::Tcp))
                }
            },
        }
    }

    async fn forwarded(&self, forward: super::request::Forward, transport: Transport) -> Vec<u8> {
        let said = self.forwarder.forward(&forward.question).await;
        let (answer, asked) = match said {
            Some(said) => forward.answered(said),
            None => forward.failed(),
        };
        wire::fit(answer, asked.as_ref(), transport)
    }
}

/// Sends an answer. One that is lost is asked for again, as in every network.
async fn send(socket: &impl Datagrams, bytes: &[u8], to: std::net::SocketAddr) {
    if let Err(error) = socket.send(bytes, to).await {
        tracing::trace!(%to, %error, "an answer was not sent");
    }
}

/// What a server does after an error.
enum Next {
    Again,
    End,
}

async fn rest_after(error: io::Error) -> Next {
    if let Some(NetError::Detached) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return Next::End;
    }
    let is_of_peer = matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
    );
    if !is_of_peer {
        tracing::warn!(%error, "a socket for questions about names failed");
        tokio::time::sleep(ERROR_PAUSE).await;
    }
    Next::Again
}
