//! Listener.

use crate::Stream;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll};

/// A listening TCP socket of a pod.
#[derive(Debug)]
pub struct Listener;
impl Listener {
    /// Accept.
    pub fn poll_accept(&self, _cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        Poll::Pending
    }
    /// Accept.
    pub async fn accept(&self) -> io::Result<Stream> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }
    /// Local address.
    pub fn local_addr(&self) -> SocketAddr {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    }
}
