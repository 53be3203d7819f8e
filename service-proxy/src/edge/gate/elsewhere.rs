//! Elsewhere than on Linux no kernel keeps such a table.

use std::io;
use std::net::SocketAddr;

use coracle_network::Protocol;
use ipnet::IpNet;
use socket2::Socket;

use super::Way;

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
#[error("only Linux keeps one")]
pub(in crate::edge) struct LookupError;

/// As the table's on Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Failures {
    /// Nobody was in a place.
    pub(crate) no_socket: u64,
    /// The socket in a place was not taken.
    pub(crate) not_assigned: u64,
}

/// The table that there never is.
pub(super) enum Lookup {}

impl Lookup {
    /// Fails.
    pub(super) fn attach(_way: Way, _ranges: &[IpNet]) -> Result<Lookup, LookupError> {
        Err(LookupError)
    }

    /// Cannot be called.
    pub(super) fn put_listener(&self, _bound: SocketAddr, _socket: &Socket) -> io::Result<()> {
        match *self {}
    }

    /// Cannot be called.
    pub(super) fn put_udp(&self, _bound: SocketAddr, _socket: &Socket) -> io::Result<()> {
        match *self {}
    }

    /// Cannot be called.
    pub(super) fn serve(&self, _protocol: Protocol, _at: SocketAddr) -> io::Result<()> {
        match *self {}
    }

    /// Cannot be called.
    pub(super) fn failures(&self) -> io::Result<Option<Failures>> {
        match *self {}
    }

    /// Cannot be called.
    pub(super) fn end(&self, _protocol: Protocol, _at: SocketAddr) -> io::Result<()> {
        match *self {}
    }
}
