//! Linux: the kernel's table of what is served, and the sockets that it leads to.

use std::io;
use std::net::SocketAddr;

use coracle_network::Protocol;
use coracle_socket_lookup::{SocketLookup, SocketRules, Transport, make_transparent};
use ipnet::IpNet;
use socket2::Socket;

use super::Way;
use crate::edge::sockets;

/// Entries of the table: a port of each of ten thousand pods, and some of each of ten thousand Services
/// at all their addresses. A program takes 16 bytes of the kernel for each that there may be.
const ENTRIES_MAX: u32 = 131_072;

/// A socket's place is its port, in one half of the places for each family. Nothing has port 0, which is
/// where the listening sockets are.
const PLACES_PER_FAMILY: u32 = 1 << 16;

pub(in crate::edge) use coracle_socket_lookup::Failures;

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub(in crate::edge) enum LookupError {
    /// No program can be loaded.
    #[error(transparent)]
    Program(coracle_socket_lookup::LookupError),
    /// No rules can be made.
    #[error(transparent)]
    Rules(coracle_socket_lookup::RulesError),
}

/// The table.
pub(super) enum Lookup {
    /// One that a program reads.
    Program(SocketLookup),
    /// One of nftables.
    Rules(SocketRules),
}

impl Lookup {
    /// Keeps ranges to a table that has no entries yet.
    pub(super) fn attach(way: Way, ranges: &[IpNet]) -> Result<Lookup, LookupError> {
        match way {
            Way::Program => SocketLookup::attach(ranges, ENTRIES_MAX, 2 * PLACES_PER_FAMILY)
                .map(Lookup::Program)
                .map_err(LookupError::Program),
            Way::Rules => SocketRules::attach(ranges, ENTRIES_MAX)
                .map(Lookup::Rules)
                .map_err(LookupError::Rules),
        }
    }

    /// Makes a listening socket the one of its family.
    pub(super) fn put_listener(&self, bound: SocketAddr, socket: &Socket) -> io::Result<()> {
        match self {
            Lookup::Program(program) => program.put_socket(place(bound, 0), socket),
            Lookup::Rules(rules) => {
                make_transparent(socket)?;
                rules.lead(sockets::bound_to(socket)?)
            }
        }
    }

    /// Makes a UDP socket the one of its family and port.
    pub(super) fn put_udp(&self, bound: SocketAddr, socket: &Socket) -> io::Result<()> {
        match self {
            Lookup::Program(program) => program.put_socket(place(bound, bound.port()), socket),
            Lookup::Rules(_) => make_transparent(socket),
        }
    }

    /// Makes an address and port lead to the socket for it.
    pub(super) fn serve(&self, protocol: Protocol, at: SocketAddr) -> io::Result<()> {
        match (self, protocol) {
            (Lookup::Program(program), Protocol::Tcp) => {
                program.serve(Transport::Tcp, at, place(at, 0))
            }
            (Lookup::Program(program), Protocol::Udp) => {
                program.serve(Transport::Udp, at, place(at, at.port()))
            }
            (Lookup::Rules(rules), _) => rules.serve(transport(protocol), at),
        }
    }

    /// Returns how often an entry did not lead to a socket; nothing where that is not counted.
    pub(super) fn failures(&self) -> io::Result<Option<Failures>> {
        match self {
            Lookup::Program(program) => program.failures().map(Some),
            Lookup::Rules(_) => Ok(None),
        }
    }

    /// Makes the kernel refuse an address and port.
    pub(super) fn end(&self, protocol: Protocol, at: SocketAddr) -> io::Result<()> {
        match self {
            Lookup::Program(program) => program.end(transport(protocol), at),
            Lookup::Rules(rules) => rules.end(transport(protocol), at),
        }
    }
}

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    }
}

fn place(of: SocketAddr, port: u16) -> u32 {
    let half = match of {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(_) => PLACES_PER_FAMILY,
    };
    half + u32::from(port)
}
