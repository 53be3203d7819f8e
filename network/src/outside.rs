//! Pods at their own addresses outside the fabric: on a machine that is ours, what pods serve is reached
//! there, and what they send within the cluster comes from there.
//!
//! Whoever gives pods their addresses outside implements [`Outside`]; the fabric tells it which ports
//! are served. It is told while the pod's table of ports is locked, so that news about one port never
//! overtake each other.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ipnet::IpNet;

use crate::egress::Family;
use crate::pod::Pod;
use crate::pod::ports::Slots;
use crate::publish::Protocol;

/// What gives pods their addresses outside of the fabric.
///
/// [`Outside::open`] and [`Outside::close`] are called with a lock of the pod held: they must be quick
/// and must not call into the fabric.
pub trait Outside: Send + Sync {
    /// A pod serves a port from now on: connections and datagrams that come for it from outside are to
    /// be given to [`Fabric::hand_over`](crate::Fabric::hand_over) and
    /// [`Fabric::send_datagram`](crate::Fabric::send_datagram). May be said of one port more than once.
    fn open(&self, protocol: Protocol, at: SocketAddr);

    /// A port is served no longer. May be said of one that never was.
    fn close(&self, protocol: Protocol, at: SocketAddr);

    /// Sends a datagram from a port of a pod that is open. Never waits: what there is no room for is lost.
    ///
    /// # Errors
    ///
    /// What the kernel says of the datagram or its destination.
    fn send(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) -> io::Result<()>;

    /// Reaches a port of a pod at a port of the host, too, while the pod serves it and until what this
    /// returns is dropped. Nothing where such ports have sockets of their own, which the fabric opens.
    /// Called without a lock of the pod.
    ///
    /// # Errors
    ///
    /// `AddrInUse` where another pod or a program of this machine has the port, `AddrNotAvailable` where
    /// the address is none of the host's own, `PermissionDenied` where this user may not open it,
    /// `Unsupported` where nothing is served in the address' family: the fabric opens a socket then.
    fn publish(&self, port: HostPort) -> Option<io::Result<HeldPort>>;
}

/// A port of the host that stands for one of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; all that it has if none is given.
    pub ip: Option<IpAddr>,
    /// The host's port.
    pub port: u16,
    /// The pod's.
    pub pod: SocketAddrV4,
}

/// A published port of the host; dropping it gives the port up. Established connections stay.
pub struct HeldPort(#[expect(dead_code, reason = "held to be dropped")] Box<dyn Send + Sync>);

impl HeldPort {
    /// Wraps what gives the port up when it is dropped.
    pub fn new(held: impl Send + Sync + 'static) -> HeldPort {
        HeldPort(Box::new(held))
    }
}

impl fmt::Debug for HeldPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldPort").finish_non_exhaustive()
    }
}

/// Who gives pods their addresses, if anybody does, and where pods are seen at them.
#[derive(Default)]
pub(crate) struct Abroad {
    outside: ArcSwapOption<Arc<dyn Outside>>,
    /// The ranges of the cluster's pods, of all nodes.
    ranges: ArcSwapOption<Vec<IpNet>>,
}

impl Abroad {
    /// Sets who gives pods their addresses, or nobody.
    pub(crate) fn set(&self, outside: Option<Arc<dyn Outside>>) {
        self.outside.store(outside.map(Arc::new));
    }

    /// Sets the ranges within which pods are seen at their own addresses.
    pub(crate) fn set_ranges(&self, ranges: Vec<IpNet>) {
        self.ranges.store(Some(Arc::new(ranges)));
    }

    /// Returns who sends what goes to an address from the pod's own: nobody where the address is none of
    /// the cluster's, or pods have no addresses of its family outside.
    pub(crate) fn towards(&self, to: IpAddr) -> Option<Arc<dyn Outside>> {
        let outside = self.outside.load_full()?;
        let ranges = self.ranges.load_full()?;
        let is_within = ranges.iter().any(|range| range.contains(&to));
        is_within.then(|| Arc::clone(&*outside))
    }

    /// Has a port published by whoever gives pods their addresses; nothing where nobody does, or does that.
    pub(crate) fn publish(&self, port: HostPort) -> Option<io::Result<HeldPort>> {
        let outside = self.outside.load_full()?;
        outside.publish(port)
    }

    fn tell(&self, tell: impl FnOnce(&dyn Outside)) {
        if let Some(outside) = &*self.outside.load() {
            tell(&***outside);
        }
    }
}

impl Pod {
    /// Tells that a port is served. To be called with its table locked.
    pub(crate) fn opened_outside(&self, protocol: Protocol, slots: Slots, port: u16) {
        for at in self.places_outside(slots, port) {
            let abroad = self.fabric().abroad();
            abroad.tell(|outside| outside.open(protocol, at));
        }
    }

    /// Tells that a port is served no longer. To be called with its table locked.
    pub(crate) fn closed_outside(&self, protocol: Protocol, slots: Slots, port: u16) {
        for at in self.places_outside(slots, port) {
            let abroad = self.fabric().abroad();
            abroad.tell(|outside| outside.close(protocol, at));
        }
    }

    /// Returns where a port is the pod's own.
    fn places_outside(&self, slots: Slots, port: u16) -> impl Iterator<Item = SocketAddr> {
        let v4 = slots.meets(Slots::POD).then(|| self.ip().into());
        let v6 = slots.meets(Slots::POD_6).then(|| self.ip6()).flatten();
        let all = [v4, v6.map(IpAddr::V6)].into_iter().flatten();
        all.map(move |ip| SocketAddr::new(ip, port))
    }

    /// Returns the address that connections to `to` come from, where it is the pod's own.
    pub(crate) fn source_abroad(&self, to: IpAddr) -> Option<IpAddr> {
        let source = self.address(Family::of(to));
        let has_one = !self.is_node() && source.is_ipv4() == to.is_ipv4();
        (has_one && self.fabric().abroad().towards(to).is_some()).then_some(source)
    }
}
