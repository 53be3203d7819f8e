//! Asks the host's resolver, which blocks the thread that asks it.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::Permits;
use crate::error::NetError;
use crate::platform;

/// Asks on a thread for blocking work. The look-up keeps its place in the counts until the system
/// returns, even if the caller goes away: only then is the thread free.
pub(super) async fn look_up(name: String, permits: Permits) -> Result<Vec<IpAddr>, NetError> {
    let lookup = tokio::task::spawn_blocking(move || {
        let found = (name.as_str(), 0).to_socket_addrs().map(distinct);
        drop(permits);
        found
    });
    match lookup.await {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Err(error)) if platform::is_temporary_lookup_failure(&error) => {
            Err(NetError::ResolverUnavailable)
        }
        Ok(Ok(_) | Err(_)) => Err(NetError::NameNotFound),
        Err(error) => Err(NetError::Io(io::Error::other(error))),
    }
}

fn distinct(found: impl Iterator<Item = SocketAddr>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in found.map(|found| found.ip().to_canonical()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}
