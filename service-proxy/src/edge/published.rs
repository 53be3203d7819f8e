//! What the edge says about itself: where each front is reached outside, or why not.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use coracle_network::FrontAddress;

/// Where fronts are reached outside the fabric. A front whose Service has no endpoint is not in it: its
/// connections are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    places: HashMap<FrontAddress, Vec<PublishedAt>>,
}

/// One place of a front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishedAt {
    /// It is served at this address.
    Address(SocketAddr),
    /// It is not, and is tried again when the table changes and every few seconds.
    Failed(ListenFailure),
}

/// Why a port could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to listen on {at}: {reason}")]
pub struct ListenFailure {
    /// The address that was wanted.
    pub at: SocketAddr,
    /// Why not, in words.
    pub reason: String,
}

impl Published {
    /// Returns the places of a front.
    pub fn places(&self, front: &FrontAddress) -> &[PublishedAt] {
        self.places.get(front).map_or(&[], Vec::as_slice)
    }

    /// Returns the address of a front, the first if it has several.
    pub fn address(&self, front: &FrontAddress) -> Option<SocketAddr> {
        self.places(front).iter().find_map(|place| match place {
            PublishedAt::Address(address) => Some(*address),
            PublishedAt::Failed(_) => None,
        })
    }

    /// Returns all fronts with their places.
    pub fn iter(&self) -> impl Iterator<Item = (&FrontAddress, &[PublishedAt])> {
        let places = self.places.iter();
        places.map(|(front, places)| (front, places.as_slice()))
    }

    /// Adds a place of a front; they are kept in the order of their addresses.
    pub(super) fn insert(&mut self, front: FrontAddress, at: PublishedAt) {
        let places = self.places.entry(front).or_default();
        let position = places.partition_point(|other| other.order() < at.order());
        places.insert(position, at);
    }
}

impl PublishedAt {
    fn order(&self) -> SocketAddr {
        match self {
            PublishedAt::Address(address) => *address,
            PublishedAt::Failed(failure) => failure.at,
        }
    }
}

impl ListenFailure {
    pub(super) fn new(at: SocketAddr, error: &io::Error) -> ListenFailure {
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => "the port is taken".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not open the port".to_owned(),
            io::ErrorKind::AddrNotAvailable => "the address is none of this machine's".to_owned(),
            _ => error.to_string(),
        };
        ListenFailure { at, reason }
    }
}
