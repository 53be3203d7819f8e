//! A pod's publications: entering them, lending them to what serves their port, taking them off
//! again.
//!
//! A publication and what serves its port may come in either order, at once on two threads. Each
//! enters itself first and then looks for the other, so at least one of them sees both.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use super::Pod;
use super::ports::Slots;
use crate::error::PublishError;
use crate::listener::Joined;
use crate::outside::HostPort;
use crate::publish::{
    self, Holder, HostAddress, PUBLICATIONS_PER_POD_MAX, Protocol, Publication, PublishPort,
    Published,
};

/// All addresses of the host, in either family.
const EVERYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// The pod's publications and its loopback address on the host.
pub(super) struct Publishing {
    list: Vec<Arc<Publication>>,
    loopback: Option<Ipv4Addr>,
    life: Life,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Attached,
    Detached,
}

impl Publishing {
    /// Returns the state of a pod that publishes nothing.
    pub(super) fn new() -> Publishing {
        Publishing {
            list: Vec::new(),
            loopback: None,
            life: Life::Attached,
        }
    }

    /// Refuses what follows and returns what there was.
    pub(super) fn close(&mut self) -> (Vec<Arc<Publication>>, Option<Ipv4Addr>) {
        self.life = Life::Detached;
        (std::mem::take(&mut self.list), self.loopback.take())
    }
}

impl Pod {
    /// Returns the publications of a port.
    pub(super) fn publications_of(&self, protocol: Protocol, port: u16) -> Vec<Arc<Publication>> {
        let publishing = self.publishing.lock();
        let matching = publishing
            .list
            .iter()
            .filter(|entry| entry.is_for(protocol, port));
        matching.cloned().collect()
    }

    /// Binds and enters a publication, and lends it to whatever serves the port already.
    pub(super) fn publish(self: &Arc<Self>, port: &PublishPort) -> Result<Published, PublishError> {
        if port.port == 0 || matches!(port.host, HostAddress::HostPort { port: 0, .. }) {
            return Err(PublishError::PortZero);
        }
        let (bound, everywhere) = match port.host {
            HostAddress::HostPort {
                ip,
                port: host_port,
            } => match self.publish_outside(port, ip, host_port) {
                Some(held) => (held?, ip.is_none()),
                None => (
                    publish::bind_host_port(port.protocol, ip, host_port)?,
                    false,
                ),
            },
            HostAddress::Loopback => (self.bind_loopback(port)?, false),
        };
        let at = bound.address;
        let known = match everywhere {
            true => EVERYWHERE.map(|ip| SocketAddr::new(ip, at.port())).to_vec(),
            false => vec![at],
        };
        let announce = |at| self.fabric.outside().announce(port.protocol, at);
        let announced = known.into_iter().filter_map(announce).collect();
        let publication = Publication::new(port, bound, announced);
        let mut publishing = self.publishing.lock();
        if publishing.life == Life::Detached {
            return Err(PublishError::Detached);
        }
        if publishing.list.len() >= PUBLICATIONS_PER_POD_MAX {
            return Err(PublishError::TooMany {
                limit: PUBLICATIONS_PER_POD_MAX,
            });
        }
        publishing.list.push(Arc::clone(&publication));
        drop(publishing);
        Pod::join_publication(self, &publication);
        let address = publication.address();
        Ok(Published {
            address,
            publication,
            pod: Arc::downgrade(self),
        })
    }

    /// Has a port published by whoever gives pods their addresses outside; nothing where nobody does, or
    /// not in that family.
    fn publish_outside(
        &self,
        port: &PublishPort,
        ip: Option<IpAddr>,
        host_port: u16,
    ) -> Option<Result<publish::Bound, PublishError>> {
        let held = self.fabric.abroad().publish(HostPort {
            protocol: port.protocol,
            ip: ip.map(|ip| ip.to_canonical()),
            port: host_port,
            pod: SocketAddrV4::new(self.ip, port.port),
        })?;
        if let Err(error) = &held
            && error.kind() == io::ErrorKind::Unsupported
        {
            return None;
        }
        let address = publish::host_address(ip, host_port);
        let bound = held.map(|held| publish::Bound {
            holder: Holder::Outside(held),
            address,
        });
        Some(bound.map_err(|source| publish::refusal(address, source)))
    }

    fn bind_loopback(&self, port: &PublishPort) -> Result<publish::Bound, PublishError> {
        let mut publishing = self.publishing.lock();
        if publishing.life == Life::Detached {
            return Err(PublishError::Detached);
        }
        let ip = match publishing.loopback {
            Some(ip) => Some(ip),
            None => self.fabric.take_loopback(self.ip)?,
        };
        publishing.loopback = ip;
        drop(publishing);
        match ip {
            Some(ip) => publish::bind_loopback(port.protocol, ip, port.port),
            None => publish::bind_loopback(port.protocol, Ipv4Addr::LOCALHOST, 0),
        }
    }

    /// Lends a publication to whatever serves its port now, if anything does.
    pub(crate) fn join_publication(pod: &Arc<Pod>, publication: &Arc<Publication>) {
        let port = publication.port();
        let result = match publication.protocol() {
            // A listener found closed has left the table, so another look finds its successor or
            // nobody.
            Protocol::Tcp => loop {
                match pod
                    .listening(Slots::POD, port)
                    .map(|backlog| backlog.join(publication))
                {
                    None | Some(Ok(Joined::Open)) => break Ok(()),
                    Some(Ok(Joined::Closed)) => {}
                    Some(Err(error)) => break Err(error),
                }
            },
            Protocol::Udp => {
                let inbox = pod.udp.lock().find(Slots::POD, port).cloned();
                if let Some(inbox) = inbox {
                    inbox.join(publication);
                }
                Ok(())
            }
        };
        if let Err(error) = result {
            let address = publication.address();
            tracing::warn!(%address, %error, "a published port cannot accept connections");
        }
    }

    /// Returns the publications a UDP socket on `port` serves.
    pub(crate) fn udp_publications(&self, port: u16) -> Vec<Arc<Publication>> {
        self.publications_of(Protocol::Udp, port)
    }

    /// Takes a publication off the pod and out of whatever serves it.
    pub(crate) fn unpublish(&self, publication: &Arc<Publication>) {
        self.publishing
            .lock()
            .list
            .retain(|entry| !Arc::ptr_eq(entry, publication));
        publication.end();
        match publication.protocol() {
            Protocol::Tcp => {
                if let Some(backlog) = self.listening(Slots::POD, publication.port()) {
                    backlog.leave(publication);
                }
            }
            Protocol::Udp => {
                let inbox = self
                    .udp
                    .lock()
                    .find(Slots::POD, publication.port())
                    .cloned();
                if let Some(inbox) = inbox {
                    inbox.leave(publication);
                }
            }
        }
    }
}
