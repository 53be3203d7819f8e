//! The host ports we publish beyond loopback. Guests are kept away from them: a guest reaches a pod
//! as a pod, and a rule that names who may reach it must not be passed by going out and in again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::Protocol;

/// Every published address that is not covered by the rule for loopback.
#[derive(Debug, Default)]
pub(crate) struct OutsidePorts {
    /// How many there are, read first: usually none.
    count: AtomicUsize,
    ports: RwLock<HashMap<(Protocol, SocketAddr), usize>>,
}

/// A port of the host that leads into the fabric, known as such until this is dropped.
#[derive(Debug)]
pub struct Announced {
    ports: Arc<OutsidePorts>,
    key: (Protocol, SocketAddr),
}

impl OutsidePorts {
    /// Enters `address`; nothing if it is on loopback, which guests never reach.
    pub(crate) fn announce(
        self: &Arc<Self>,
        protocol: Protocol,
        address: SocketAddr,
    ) -> Option<Announced> {
        if address.ip().is_loopback() {
            return None;
        }
        let key = (protocol, address);
        *self.ports.write().entry(key).or_default() += 1;
        self.count.fetch_add(1, Ordering::Release);
        Some(Announced {
            ports: Arc::clone(self),
            key,
        })
    }

    /// Tells whether `to` is a port of ours. A port published on every address of the host is ours
    /// on each of them, whatever they are at this moment.
    pub(crate) fn is_ours(&self, protocol: Protocol, to: SocketAddr) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let everywhere = match to.ip() {
            IpAddr::V4(_) => IpAddr::from([0u8; 4]),
            IpAddr::V6(_) => IpAddr::from([0u16; 8]),
        };
        let ports = self.ports.read();
        let exact = ports.contains_key(&(protocol, SocketAddr::new(to.ip(), to.port())));
        let wildcard = ports.contains_key(&(protocol, SocketAddr::new(everywhere, to.port())));
        drop(ports);
        exact || (wildcard && is_local(to.ip()))
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut ports = self.ports.ports.write();
        if let Some(uses) = ports.get_mut(&self.key) {
            *uses -= 1;
            if *uses == 0 {
                ports.remove(&self.key);
            }
        }
        self.ports.count.fetch_sub(1, Ordering::Release);
    }
}

/// Tells whether `ip` is the host's own: only then can a socket be bound to it.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}
