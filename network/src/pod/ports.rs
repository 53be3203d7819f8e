//! A pod's table of ports: who holds which port on which of the pod's addresses. Pure, one table
//! per protocol.
//!
//! A pod has its own address, `127.0.0.1` and `::1`, and where pods have two addresses, one of IPv6. A
//! socket holds a port on a set of them:
//!
//! | bound to | holds the port on |
//! |---|---|
//! | an address of the pod, `127.0.0.1` or `::1` | that address |
//! | `0.0.0.0` | the pod's address of IPv4 and `127.0.0.1` |
//! | `[::]` | all: a listener on `[::]` takes IPv4 too, as on a Linux host |
//!
//! `::ffff:a.b.c.d` means `a.b.c.d`. Two sockets clash when they hold the same port on the same
//! address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::{Rng, RngExt};

use crate::egress::Family;
use crate::error::NetError;

/// The ports handed out when a socket asks for any: the range Linux uses.
pub(crate) const EPHEMERAL_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// Ports held at once. Well below the ephemeral range, so a random draw seldom meets a taken port.
pub(crate) const PORTS_PER_POD_MAX: usize = 16_384;

/// Draws before giving up; at the limit above all of them miss less than once in 10¹⁵ times.
const EPHEMERAL_DRAWS: usize = 64;

/// A set of a pod's own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Slots(u8);

impl Slots {
    /// The address in the pod CIDR.
    pub(crate) const POD: Slots = Slots(1);
    /// `127.0.0.1`.
    pub(crate) const LOOPBACK_4: Slots = Slots(2);
    /// `::1`.
    pub(crate) const LOOPBACK_6: Slots = Slots(4);
    /// The address in the range of IPv6, if the pod has one.
    pub(crate) const POD_6: Slots = Slots(8);

    /// Returns the pod's own address of a family.
    pub(crate) fn own(family: Family) -> Slots {
        match family {
            Family::V4 => Slots::POD,
            Family::V6 => Slots::POD_6,
        }
    }

    /// Returns what binding to `local` holds in the pod at `pod`, and at `second` if it has a second
    /// address; nothing if the address is not the pod's.
    pub(crate) fn bound_to(
        local: IpAddr,
        pod: Ipv4Addr,
        second: Option<Ipv6Addr>,
    ) -> Option<Slots> {
        match local.to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Some(Slots::POD.and(Slots::LOOPBACK_4)),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                let loopback = Slots::LOOPBACK_4.and(Slots::LOOPBACK_6);
                Some(Slots::POD.and(Slots::POD_6).and(loopback))
            }
            IpAddr::V4(Ipv4Addr::LOCALHOST) => Some(Slots::LOOPBACK_4),
            IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(Slots::LOOPBACK_6),
            IpAddr::V4(ip) if ip == pod => Some(Slots::POD),
            IpAddr::V6(ip) if second == Some(ip) => Some(Slots::POD_6),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    /// Tells whether the two sets share an address.
    pub(crate) fn meets(self, other: Slots) -> bool {
        self.0 & other.0 != 0
    }

    fn and(self, other: Slots) -> Slots {
        Slots(self.0 | other.0)
    }
}

/// Who holds which port.
#[derive(Debug)]
pub(crate) struct PortTable<T> {
    ports: HashMap<u16, Holders<T>>,
    held: usize,
    state: TableState,
}

/// Whether the table takes new holders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TableState {
    Open,
    Closed,
}

/// The holders of one port; disjoint sets of four addresses are at most four.
type Holders<T> = [Option<Holder<T>>; 4];

#[derive(Debug)]
struct Holder<T> {
    slots: Slots,
    value: T,
}

impl<T> PortTable<T> {
    /// Returns an empty table; it owns no memory until a port is held.
    pub(crate) fn new() -> PortTable<T> {
        PortTable {
            ports: HashMap::new(),
            held: 0,
            state: TableState::Open,
        }
    }

    /// Holds `port` on `slots`; another holder on one of them is [`NetError::AddressInUse`].
    pub(crate) fn reserve(&mut self, slots: Slots, port: u16, value: T) -> Result<(), NetError> {
        self.admit()?;
        if !self.is_free(slots, port) {
            return Err(NetError::AddressInUse);
        }
        let holders = self.ports.entry(port).or_default();
        let vacant = holders.iter_mut().find(|holder| holder.is_none());
        *vacant.expect("disjoint sets of four addresses leave a place") =
            Some(Holder { slots, value });
        self.held += 1;
        Ok(())
    }

    /// Holds a random free port of [`EPHEMERAL_PORTS`] on `slots` and returns it.
    pub(crate) fn reserve_ephemeral(
        &mut self,
        slots: Slots,
        value: T,
        random: &mut impl Rng,
    ) -> Result<u16, NetError> {
        self.admit()?;
        let port = (0..EPHEMERAL_DRAWS)
            .map(|_| random.random_range(EPHEMERAL_PORTS))
            .find(|port| self.is_free(slots, *port))
            .ok_or(NetError::AddressInUse)?;
        self.reserve(slots, port, value)?;
        Ok(port)
    }

    /// Lets go of what was held on exactly `slots` and returns it.
    pub(crate) fn release(&mut self, slots: Slots, port: u16) -> Option<T> {
        let holders = self.ports.get_mut(&port)?;
        let place = holders
            .iter_mut()
            .find(|place| place.as_ref().is_some_and(|holder| holder.slots == slots))?;
        let holder = place.take()?;
        if holders.iter().all(Option::is_none) {
            self.ports.remove(&port);
        }
        self.held -= 1;
        if self.held == 0 {
            self.ports.shrink_to_fit();
        }
        Some(holder.value)
    }

    /// Returns who holds `port` on one of `slots`.
    pub(crate) fn find(&self, slots: Slots, port: u16) -> Option<&T> {
        let holders = self.ports.get(&port)?.iter().flatten();
        holders
            .filter(|holder| holder.slots.meets(slots))
            .map(|holder| &holder.value)
            .next()
    }

    /// Replaces what is held on exactly `slots`.
    pub(crate) fn replace(&mut self, slots: Slots, port: u16, value: T) -> Result<(), NetError> {
        let holders = self
            .ports
            .get_mut(&port)
            .ok_or(NetError::Detached)?
            .iter_mut()
            .flatten();
        let mut exact = holders.filter(|holder| holder.slots == slots);
        exact.next().ok_or(NetError::Detached)?.value = value;
        Ok(())
    }

    /// Returns who holds which port on which addresses.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slots, u16, &T)> {
        let ports = self.ports.iter();
        ports.flat_map(|(port, holders)| {
            let holders = holders.iter().flatten();
            holders.map(|holder| (holder.slots, *port, &holder.value))
        })
    }

    /// Takes everything out and refuses whatever follows.
    pub(crate) fn close(&mut self) -> Vec<(Slots, u16, T)> {
        self.state = TableState::Closed;
        self.held = 0;
        let ports = std::mem::take(&mut self.ports);
        let holders = ports
            .into_iter()
            .flat_map(|(port, holders)| holders.into_iter().flatten().map(move |one| (port, one)));
        holders
            .map(|(port, holder)| (holder.slots, port, holder.value))
            .collect()
    }

    fn admit(&self) -> Result<(), NetError> {
        match self.state {
            TableState::Closed => Err(NetError::Detached),
            TableState::Open if self.held >= PORTS_PER_POD_MAX => {
                Err(NetError::Limit("ports of a pod"))
            }
            TableState::Open => Ok(()),
        }
    }

    fn is_free(&self, slots: Slots, port: u16) -> bool {
        self.find(slots, port).is_none()
    }
}

#[cfg(test)]
mod tests;
