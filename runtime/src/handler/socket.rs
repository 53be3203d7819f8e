//! A connection's socket, whose small writes are put off to the end of the thread's turn.

use crate::pools::{Late, put_off};
use coracle_network::Stream;
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held back for a connection at most: as much as a connection of HTTP/1.1 buffers at first. A
/// larger write wakes its reader for something that is worth it.
const HELD_MAX_BYTES: usize = 8 * 1024;

/// A stream that sends small writes together with those of other connections of its thread. Only those to the
/// kernel: a peer in this process is woken without its help.
pub(super) struct Socket(Arc<Sending>);

struct Sending {
    stream: Stream,
    held: Mutex<Held>,
}

/// What was taken and not yet sent.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// Whether it is sent without the connection's help, later in this turn.
    put_off: bool,
    /// Why it could not be sent.
    error: Option<io::Error>,
    /// The connection, which sends by itself what could not be sent then.
    waker: Option<Waker>,
}

impl Socket {
    pub(super) fn new(stream: Stream) -> Self {
        Self(Arc::new(Sending {
            stream,
            held: Mutex::default(),
        }))
    }

    /// Takes a write if it can be put off.
    fn hold(&self, cx: &Context<'_>, bufs: &[IoSlice<'_>]) -> Option<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if length > HELD_MAX_BYTES || !self.0.stream.is_kernel() {
            return None;
        }
        let mut held = self.0.held.lock();
        if let Some(error) = held.error.take() {
            return Some(Err(error));
        }
        if held.bytes.len() + length > HELD_MAX_BYTES {
            return None;
        }
        if !held.put_off {
            if !held.bytes.is_empty() || !put_off(self.0.clone()) {
                return None;
            }
            held.put_off = true;
        }
        bufs.iter()
            .for_each(|buf| held.bytes.extend_from_slice(buf));
        held.remember(cx);
        Some(Ok(length))
    }

    /// Sends what is held.
    fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.held.lock();
        loop {
            if let Some(error) = held.error.take() {
                return Poll::Ready(Err(error));
            }
            if held.bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.0.stream.poll_write_ready(cx))?;
            held.send(&self.0.stream);
        }
    }
}

impl Held {
    fn remember(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    /// Sends as much as the kernel takes now.
    fn send(&mut self, stream: &Stream) {
        match stream.try_write(&self.bytes) {
            Ok(sent) if sent == self.bytes.len() => self.bytes = Vec::new(),
            Ok(sent) => drop(self.bytes.drain(..sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                self.bytes = Vec::new();
                self.error = Some(error);
            }
        }
    }
}

impl Late for Sending {
    fn act(&self) {
        let mut held = self.held.lock();
        held.put_off = false;
        held.send(&self.stream);
        if (!held.bytes.is_empty() || held.error.is_some())
            && let Some(waker) = held.waker.take()
        {
            drop(held);
            waker.wake();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut &self.0.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(held) = self.hold(cx, bufs) {
            return Poll::Ready(held);
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut &self.0.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.held.lock();
        if held.put_off {
            held.remember(cx);
            return Poll::Ready(Ok(()));
        }
        drop(held);
        self.poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut &self.0.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pools::tests::{Fixture, account, fixture, wait};
    use coracle_network::{
        Fabric, FabricConfig, HostAddress, Listener, PodIdentity, PodNetwork, Protocol,
        PublishPort, Published,
    };
    use std::future::poll_fn;
    use std::io::Read as _;
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::task::Wake;
    use tokio::io::AsyncWriteExt as _;
    /// Comes back after the thread's look at its reactor, so in another turn.
    use tokio::task::yield_now;

    const PORT: u16 = 80;
    const SMALL: usize = 3_000;

    /// A pod that the host can reach.
    struct Pod {
        published: Published,
        _network: PodNetwork,
        _fabric: Fabric,
    }

    fn listener() -> (Listener, Pod) {
        let fabric = Fabric::new(FabricConfig::default()).expect("the default layout is valid");
        let identity = PodIdentity {
            namespace: "default".to_owned(),
            name: "a".to_owned(),
            uid: "a".to_owned(),
            hostname: "a".to_owned(),
            subdomain: None,
        };
        let pod = fabric.attach(identity).expect("an address is free");
        let port = PublishPort {
            protocol: Protocol::Tcp,
            port: PORT,
            host: HostAddress::Loopback,
        };
        let published = pod.publish(port).expect("a port is free");
        let any = std::net::SocketAddr::from(([0, 0, 0, 0], PORT));
        let port = pod.reserve_tcp(any).expect("nobody has it");
        let listener = pod.listen(port, 16).expect("nobody listens");
        let pod = Pod {
            published,
            _network: pod,
            _fabric: fabric,
        };
        (listener, pod)
    }

    /// A connection that is told of what could not be sent.
    #[derive(Default)]
    struct Told(AtomicBool);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn held(socket: &Socket) -> usize {
        socket.0.held.lock().bytes.len()
    }

    #[test]
    fn small_writes_are_sent_at_the_end_of_the_turn_in_their_order() {
        let Fixture { pools, .. } = fixture(1, 1);
        let (listener, pod) = listener();
        let (full, is_full) = mpsc::channel();
        let server = pools.spawn(account(None), async move {
            let mut socket = Socket::new(listener.accept().await.expect("a connection comes"));
            // The reactor has seen that it can be written to.
            poll_fn(|cx| socket.0.stream.poll_write_ready(cx))
                .await
                .expect("open");
            socket.write_all(&[b'a'; SMALL]).await.expect("open");
            socket.flush().await.expect("open");
            socket.write_all(&[b'b'; SMALL]).await.expect("open");
            assert_eq!(held(&socket), 2 * SMALL);
            yield_now().await;
            assert_eq!(held(&socket), 0);

            socket.write_all(&[b'c'; SMALL]).await.expect("open");
            socket
                .write_all(&[b'd'; HELD_MAX_BYTES + 1])
                .await
                .expect("open");
            assert_eq!(
                held(&socket),
                0,
                "a large write goes at once, and what was before it"
            );

            let mut rounds = 0;
            while held(&socket) == 0 {
                let told = Arc::new(Told::default());
                let waker = told.clone().into();
                let written = Pin::new(&mut socket)
                    .poll_write(&mut Context::from_waker(&waker), &[b'e'; SMALL]);
                assert!(matches!(written, Poll::Ready(Ok(SMALL))));
                rounds += 1;
                yield_now().await;
                let all_sent = held(&socket) == 0;
                assert_ne!(told.0.load(Ordering::SeqCst), all_sent);
            }
            // The client reads nothing before the kernel takes no more.
            full.send(()).expect("the client waits for it");
            socket.write_all(&[b'f'; SMALL]).await.expect("open");
            socket.shutdown().await.expect("open");
            rounds
        });
        let mut client = TcpStream::connect(pod.published.address).expect("a listener is there");
        is_full.recv().expect("the kernel's buffers are bounded");
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("an orderly end");
        let rounds: usize = wait(server).expect("no panic");
        let mut expected = [b'a'; SMALL].to_vec();
        expected.extend([b'b'; SMALL]);
        expected.extend([b'c'; SMALL]);
        expected.extend([b'd'; HELD_MAX_BYTES + 1]);
        expected.resize(expected.len() + rounds * SMALL, b'e');
        expected.extend([b'f'; SMALL]);
        assert!(
            received == expected,
            "{} bytes, not {}",
            received.len(),
            expected.len()
        );
    }

    #[test]
    fn a_write_that_failed_later_is_told_with_the_next_one() {
        let Fixture { pools, .. } = fixture(1, 1);
        let (listener, pod) = listener();
        let server = pools.spawn(account(None), async move {
            let mut socket = Socket::new(listener.accept().await.expect("a connection comes"));
            loop {
                if let Err(error) = socket.write_all(&[b'a'; SMALL]).await {
                    return error.kind();
                }
                yield_now().await;
            }
        });
        let client = TcpStream::connect(pod.published.address).expect("a listener is there");
        drop(client);
        let kind = wait(server).expect("no panic");
        let gone = [
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::ConnectionAborted,
        ];
        assert!(gone.contains(&kind), "{kind}");
    }
}
