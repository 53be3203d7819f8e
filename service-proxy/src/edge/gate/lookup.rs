//! Linux: the kernel's table of what is served, and the sockets that it leads to.

use std::io;
use std::net::SocketAddr;

use coracle_network::Protocol;
use coracle_socket_lookup::{SocketLookup, Transport};
use ipnet::IpNet;
use socket2::Socket;

/// Entries of the table: a port of each of ten thousand pods, and some of each of ten thousand Services
/// at all their addresses. The kernel takes 16 bytes for each that there may be.
const ENTRIES_MAX: u32 = 131_072;

/// A socket's place is its port, in one half of the places for each family. Nothing has port 0, which is
/// where the listening sockets are.
const PLACES_PER_FAMILY: u32 = 1 << 16;

pub(in crate::edge) use coracle_socket_lookup::Failures;
pub(super) use coracle_socket_lookup::LookupError;

/// The table.
pub(super) struct Lookup(SocketLookup);

impl Lookup {
    /// Keeps ranges to a table that has no entries yet.
    pub(super) fn attach(ranges: &[IpNet]) -> Result<Lookup, LookupError> {
        SocketLookup::attach(ranges, ENTRIES_MAX, 2 * PLACES_PER_FAMILY).map(Lookup)
    }

    /// Makes a listening socket the one of its family.
    pub(super) fn put_listener(&self, bound: SocketAddr, socket: &Socket) -> io::Result<()> {
        self.0.put_socket(place(bound, 0), socket)
    }

    /// Makes a UDP socket the one of its family and port.
    pub(super) fn put_udp(&self, bound: SocketAddr, socket: &Socket) -> io::Result<()> {
        self.0.put_socket(place(bound, bound.port()), socket)
    }

    /// Makes an address and port lead to the socket for it.
    pub(super) fn serve(&self, protocol: Protocol, at: SocketAddr) -> io::Result<()> {
        match protocol {
            Protocol::Tcp => self.0.serve(Transport::Tcp, at, place(at, 0)),
            Protocol::Udp => self.0.serve(Transport::Udp, at, place(at, at.port())),
        }
    }

    /// Returns how often an entry did not lead to a socket.
    pub(super) fn failures(&self) -> io::Result<Failures> {
        self.0.failures()
    }

    /// Makes the kernel refuse an address and port.
    pub(super) fn end(&self, protocol: Protocol, at: SocketAddr) -> io::Result<()> {
        match protocol {
            Protocol::Tcp => self.0.end(Transport::Tcp, at),
            Protocol::Udp => self.0.end(Transport::Udp, at),
        }
    }
}

fn place(of: SocketAddr, port: u16) -> u32 {
    let half = match of {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(_) => PLACES_PER_FAMILY,
    };
    half + u32::from(port)
}
