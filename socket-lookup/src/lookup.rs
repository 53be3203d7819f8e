//! The table of what is served, and the program that reads it.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ipnet::IpNet;

use crate::program::{self, COUNTS, Counted, KEY_BYTES};
use crate::syscall::{self, Map, MapKind};

/// Most ranges that are kept to the table: each is a few instructions for every lookup that it does not
/// answer, and a jump over all of them has to fit into 15 bits.
pub const RANGES_MAX: usize = 256;

/// The network namespace of the thread that asks, not of the process' first one.
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Bytes of the number of a socket's place.
const SLOT_BYTES: usize = 4;

/// Bytes of the number of a count, and of a count.
const COUNT_KEY_BYTES: usize = 4;
const COUNT_BYTES: usize = 8;

/// A program at work in a network namespace. Dropping it detaches the program: what the table named is
/// refused or reached as it would be without it, and established connections stay.
#[derive(Debug)]
pub struct SocketLookup {
    table: Map,
    sockets: Map,
    counts: Map,
    _link: OwnedFd,
}

/// How often an entry of the table did not lead to a socket, since the start. Each was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failures {
    /// Nobody was in the place: its socket was closed, or never put there.
    pub no_socket: u64,
    /// The kernel did not take the socket in the place (`bpf_sk_assign` failed): it is of another family
    /// than the address, say.
    pub not_assigned: u64,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Why no program could be attached. In every case nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// More than [`RANGES_MAX`].
    #[error("there are {count} ranges, and {RANGES_MAX} at most are kept to a table")]
    TooManyRanges {
        /// How many were asked for.
        count: usize,
    },
    /// The kernel makes no such maps, or not for this user: that needs the capability `CAP_BPF` in the
    /// first user namespace, and a container runtime that does not forbid it.
    #[error("failed to make a map in the kernel")]
    Map(#[source] io::Error),
    /// The kernel does not load such a program: it is older than 5.9, or this user may not.
    #[error("failed to load a program that chooses sockets")]
    Load(#[source] io::Error),
    /// The program could not be attached to the network namespace: that needs `CAP_NET_ADMIN`.
    #[error("failed to attach a program to the network namespace")]
    Attach(#[source] io::Error),
}

impl Transport {
    pub(crate) fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }
}

impl SocketLookup {
    /// Attaches a program with an empty table of at most `entries_max` entries to the network namespace
    /// of the calling thread, with places for `sockets_max` sockets. From here on nothing is reached in
    /// `ranges` but what the table names.
    ///
    /// Kernel memory: 16 bytes for each entry that there may be, about 100 for each that there is.
    ///
    /// # Errors
    ///
    /// Fails where the kernel or the user's rights do not allow it.
    pub fn attach(
        ranges: &[IpNet],
        entries_max: u32,
        sockets_max: u32,
    ) -> Result<SocketLookup, LookupError> {
        if ranges.len() > RANGES_MAX {
            let count = ranges.len();
            return Err(LookupError::TooManyRanges { count });
        }
        let table = Map::new(MapKind::Hash, KEY_BYTES, SLOT_BYTES, entries_max);
        let table = table.map_err(LookupError::Map)?;
        let sockets = Map::new(MapKind::Sockets, SLOT_BYTES, SLOT_BYTES, sockets_max);
        let sockets = sockets.map_err(LookupError::Map)?;
        let counts = Map::new(MapKind::Array, COUNT_KEY_BYTES, COUNT_BYTES, COUNTS);
        let counts = counts.map_err(LookupError::Map)?;
        let (table_number, sockets_number) = (table.number(), sockets.number());
        let program = program::assemble(ranges, table_number, sockets_number, counts.number());
        let program = syscall::load(&program).map_err(LookupError::Load)?;
        let namespace = File::open(NAMESPACE).map_err(LookupError::Attach)?;
        let link = syscall::attach(&program, namespace.as_fd()).map_err(LookupError::Attach)?;
        Ok(SocketLookup {
            table,
            sockets,
            counts,
            _link: link,
        })
    }

    /// Returns how often an entry did not lead to a socket.
    ///
    /// # Errors
    ///
    /// Fails where the kernel does.
    pub fn failures(&self) -> io::Result<Failures> {
        let count = |counted: Counted| {
            let mut value = [0; COUNT_BYTES];
            self.counts
                .read(&(counted as u32).to_ne_bytes(), &mut value)?;
            Ok::<_, io::Error>(u64::from_ne_bytes(value))
        };
        Ok(Failures {
            no_socket: count(Counted::NoSocket)?,
            not_assigned: count(Counted::NotAssigned)?,
        })
    }

    /// Puts a socket into a place: a listening one of TCP, or a bound one of UDP. It leaves by itself when
    /// it is closed, and what leads to an empty place is refused.
    ///
    /// # Errors
    ///
    /// Fails for a place beyond those that were asked for, and for a socket that is none of these.
    pub fn put_socket(&self, place: u32, socket: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd().as_raw_fd().cast_unsigned();
        self.sockets
            .insert(&place.to_ne_bytes(), &socket.to_ne_bytes())
    }

    /// Makes an address and port lead to the socket in a place, which must be of the address' family. The
    /// unspecified address stands for all that are in none of the ranges. A further call for the same
    /// address and port counts from then on.
    ///
    /// # Errors
    ///
    /// Fails where the table is full.
    pub fn serve(&self, transport: Transport, at: SocketAddr, place: u32) -> io::Result<()> {
        let key = program::key(at.ip(), at.port(), transport.number());
        self.table.insert(&key, &place.to_ne_bytes())
    }

    /// Takes an address and port out of the table. What is established stays; one that is not in it is
    /// none to take out.
    ///
    /// # Errors
    ///
    /// Fails where the kernel does, which leaves the entry in the table.
    pub fn end(&self, transport: Transport, at: SocketAddr) -> io::Result<()> {
        let key = program::key(at.ip(), at.port(), transport.number());
        match self.table.remove(&key) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            ended => ended,
        }
    }
}
