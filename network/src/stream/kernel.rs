//! A connection over a kernel socket, driven by whoever holds the stream: no task copies for it.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::budget::Budget;
use crate::error::NetError;
use crate::services::Endpoint;

/// Kernel sockets a pod holds at once, published and egress together, so that one pod cannot use up
/// the process's descriptors.
pub(crate) const KERNEL_SOCKETS_PER_POD_MAX: usize = 4_096;

/// Whether the system tells of each arrival at a socket, also while the one before was not read: epoll and
/// kqueue do, as mio uses them.
const TELLS_EACH_ARRIVAL: bool = cfg!(any(target_os = "linux", target_vendor = "apple"));

/// A connected kernel socket and its place in the pod's count.
pub(crate) struct KernelSocket {
    tcp: TcpStream,
    ended: AtomicBool,
    traffic: Option<Traffic>,
    place: Place,
}

/// Where the bytes of a connection that a Service balanced are counted, as they pass: beside a system
/// call the addition is nothing.
pub(crate) struct Traffic {
    endpoint: Arc<Endpoint>,
    holder: Holder,
}

/// Which side of a connection holds the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A pod that connected to the endpoint.
    Client,
    /// The endpoint.
    Server,
}

impl Traffic {
    /// Returns the count of a fresh connection.
    pub(crate) fn new(endpoint: Arc<Endpoint>, holder: Holder) -> Traffic {
        Traffic { endpoint, holder }
    }

    fn count_read(&self, bytes: usize) {
        let bytes = bytes as u64;
        match self.holder {
            Holder::Client => self.endpoint.counters().add_sent(bytes),
            Holder::Server => self.endpoint.counters().add_received(bytes),
        }
    }

    fn count_written(&self, bytes: usize) {
        let bytes = bytes as u64;
        match self.holder {
            Holder::Client => self.endpoint.counters().add_received(bytes),
            Holder::Server => self.endpoint.counters().add_sent(bytes),
        }
    }
}

/// How many kernel sockets a pod holds, and where it is counted what passes through them.
#[derive(Debug)]
pub(crate) struct KernelCount {
    held: Arc<AtomicUsize>,
    budget: Arc<Budget>,
}

/// One place in a pod's count of kernel sockets, given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    held: Arc<AtomicUsize>,
    budget: Arc<Budget>,
}

impl KernelCount {
    /// Returns a count of none, of the pod with this account.
    pub(crate) fn new(budget: Arc<Budget>) -> KernelCount {
        KernelCount {
            held: Arc::default(),
            budget,
        }
    }

    /// Takes a place.
    pub(crate) fn take(&self) -> Result<Place, NetError> {
        let fits = |held: usize| (held < KERNEL_SOCKETS_PER_POD_MAX).then_some(held + 1);
        match self
            .held
            .try_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        {
            Ok(_) => Ok(Place {
                held: Arc::clone(&self.held),
                budget: Arc::clone(&self.budget),
            }),
            Err(_) => Err(NetError::Limit("host sockets of a pod")),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl KernelSocket {
    /// Takes a connected socket over.
    pub(crate) fn new(tcp: TcpStream, place: Place, traffic: Option<Traffic>) -> Arc<KernelSocket> {
        Arc::new(KernelSocket {
            tcp,
            ended: AtomicBool::new(false),
            traffic,
            place,
        })
    }

    pub(super) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let room = buf.len();
        let read = self.read_with(room, || self.tcp.try_read(buf))?;
        self.count_read(read);
        Ok(read)
    }

    /// Reads with `read` into a buffer with so much room. A read that leaves room has emptied the socket: the
    /// next one waits for the reactor to say that there is more, instead of asking the kernel.
    ///
    /// tokio does so in its own `poll_read`, for the systems that tell each arrival anew; the end of the stream
    /// stays known there.
    fn read_with(
        &self,
        room: usize,
        read: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut some = None;
        let result = self.tcp.try_io(Interest::READABLE, || {
            let read = read()?;
            if TELLS_EACH_ARRIVAL && 0 < read && read < room {
                some = Some(read);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(read)
        });
        some.map_or(result, Ok)
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_read_ready(cx)
    }

    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            self.check()?;
            ready!(self.tcp.poll_read_ready(cx))?;
            let room = buf.remaining();
            match self.read_with(room, || self.tcp.try_read_buf(buf)) {
                Ok(read) => {
                    self.count_read(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    pub(super) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.check()?;
        let written = match bufs {
            [single] => self.tcp.try_write(single),
            several => self.tcp.try_write_vectored(several),
        }?;
        self.place.budget.count_sent(written as u64);
        if let Some(traffic) = &self.traffic {
            traffic.count_written(written);
        }
        Ok(written)
    }

    fn count_read(&self, read: usize) {
        self.place.budget.count_received(read as u64);
        if let Some(traffic) = &self.traffic {
            traffic.count_read(read);
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(cx)
    }

    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            self.check()?;
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.try_write(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match SockRef::from(&self.tcp).shutdown(how) {
            // The other side reset it first: there is nothing left to shut down.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Makes closing the socket a reset instead of an orderly end.
    pub(super) fn reset_on_close(&self) {
        if let Err(error) = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "failed to reset a host connection, it is closed instead");
        }
    }

    /// Ends the connection under its holder, whose every further operation fails. Shutting both
    /// directions down makes the kernel report readiness, which wakes a waiting holder.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.reset_on_close();
        if let Err(error) = self.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "failed to shut a host connection down");
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.ended.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}
