//! Four requests of rtnetlink: list the routes, add one, remove one; list the addresses.
//!
//! Written out, for the crates that know all of netlink bring other feature sets of what the engine is
//! built from, and this is all that is ever asked.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Route;

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const RT_TABLE_LOCAL: u8 = 255;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
/// Kinds of routes that lead somewhere or explicitly nowhere: unicast, local, blackhole, unreachable,
/// prohibit. Broadcast and multicast ones go with an interface's unicast route.
const RTN_LEADING: [u8; 5] = [1, RTN_LOCAL, 6, 7, 8];

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;

/// The loopback interface is the first of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

const HEADER_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;
const INTERFACE_ADDRESS_BYTES: usize = 8;
const ATTRIBUTE_BYTES: usize = 4;

/// The kernel answers a listing in parts of at most 32 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A conversation with the kernel.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A route as a message has it.
struct Entry {
    destination: IpNet,
    device: Option<u32>,
    kind: u8,
    protocol: u8,
}

impl Netlink {
    /// Opens a socket.
    pub(super) fn open() -> io::Result<Netlink> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // `NETLINK_ROUTE`.
            None,
        )?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Lists the routes of all tables and both families; those with protocol `tag` are marked.
    pub(super) fn routes(&mut self, tag: u8) -> io::Result<Vec<Route>> {
        let request = route_message(AddressFamily::UNSPEC, 0, 0);
        self.send(RTM_GETROUTE, NLM_F_DUMP, &request)?;
        let mut entries = Vec::new();
        self.receive(|kind, body| {
            if kind == RTM_NEWROUTE {
                entries.extend(parse_route(body));
            }
        })?;
        let leading = entries
            .into_iter()
            .filter(|entry| RTN_LEADING.contains(&entry.kind));
        let named = leading.map(|entry| Route {
            destination: entry.destination,
            device: entry.device.and_then(|index| self.device(index)),
            is_tagged: entry.kind == RTN_LOCAL && entry.protocol == tag,
        });
        Ok(named.collect())
    }

    /// Lists the addresses of all interfaces.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<IpAddr>> {
        self.send(RTM_GETADDR, NLM_F_DUMP, &[0; INTERFACE_ADDRESS_BYTES])?;
        let mut addresses = Vec::new();
        self.receive(|kind, body| {
            if kind == RTM_NEWADDR {
                addresses.extend(parse_address(body));
            }
        })?;
        Ok(addresses)
    }

    /// Makes a range local, with `source` as the address that this machine's clients come from.
    pub(super) fn add(&mut self, range: IpNet, source: IpAddr, tag: u8) -> io::Result<()> {
        let mut request = local_route(range, tag);
        attribute(&mut request, RTA_PREFSRC, &octets(source));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.send(RTM_NEWROUTE, flags, &request)?;
        self.receive(|_, _| {})
    }

    /// Removes what [`Netlink::add`] has added.
    pub(super) fn remove(&mut self, range: IpNet, tag: u8) -> io::Result<()> {
        self.send(RTM_DELROUTE, NLM_F_ACK, &local_route(range, tag))?;
        self.receive(|_, _| {})
    }

    fn device(&self, index: u32) -> Option<String> {
        rustix::net::netdevice::index_to_name(&self.socket, index).ok()
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = HEADER_BYTES + body.len();
        let mut message = Vec::with_capacity(length);
        message.extend((length as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &message, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Reads the answer to the last request to its end.
    fn receive(&self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        loop {
            let (bytes, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..bytes];
            while let Some((kind, sequence, body)) = next_message(&mut rest) {
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return told(body),
                    _ => each(kind, body),
                }
            }
        }
    }
}

/// Returns what an acknowledgement says.
fn told(body: &[u8]) -> io::Result<()> {
    match body.first_chunk() {
        Some(code) => match i32::from_ne_bytes(*code) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        },
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Takes the first message off: its kind, its sequence number, its body.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, u32, &'a [u8])> {
    let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*rest.get(8..)?.first_chunk()?);
    let body = rest.get(HEADER_BYTES..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((kind, sequence, body))
}

/// Reads a route; nothing for one of a family that is neither of IP's.
fn parse_route(body: &[u8]) -> Option<Entry> {
    let header: &[u8; ROUTE_BYTES] = body.first_chunk()?;
    let [family, prefix, _, _, _, protocol, _, kind, ..] = *header;
    let is_v4 = u16::from(family) == AddressFamily::INET.as_raw();
    if !is_v4 && u16::from(family) != AddressFamily::INET6.as_raw() {
        return None;
    }
    // Absent for a default route.
    let mut address = match is_v4 {
        true => IpAddr::from([0u8; 4]),
        false => IpAddr::from([0u8; 16]),
    };
    let mut device = None;
    let mut rest = &body[ROUTE_BYTES..];
    while let Some((kind, value)) = next_attribute(&mut rest) {
        match kind {
            RTA_DST if is_v4 => address = IpAddr::from(*value.first_chunk::<4>()?),
            RTA_DST => address = IpAddr::from(*value.first_chunk::<16>()?),
            RTA_OIF => device = Some(u32::from_ne_bytes(*value.first_chunk()?)),
            _ => {}
        }
    }
    Some(Entry {
        destination: IpNet::new(address, prefix).ok()?,
        device,
        kind,
        protocol,
    })
}

/// Reads the address of an interface; nothing for one of a family that is neither of IP's.
fn parse_address(body: &[u8]) -> Option<IpAddr> {
    let family = u16::from(*body.first()?);
    let is_v4 = family == AddressFamily::INET.as_raw();
    if !is_v4 && family != AddressFamily::INET6.as_raw() {
        return None;
    }
    let (mut address, mut local) = (None, None);
    let mut rest = body.get(INTERFACE_ADDRESS_BYTES..)?;
    while let Some((kind, value)) = next_attribute(&mut rest) {
        let read = match is_v4 {
            true => value.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
            false => value
                .first_chunk::<16>()
                .map(|octets| IpAddr::from(*octets)),
        };
        match kind {
            IFA_ADDRESS => address = read,
            IFA_LOCAL => local = read,
            _ => {}
        }
    }
    // Where the two differ, the other one is the other end's of a link between two.
    local.or(address)
}

fn next_attribute<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
    let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
    let value = rest.get(ATTRIBUTE_BYTES..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((kind, value))
}

fn local_route(range: IpNet, tag: u8) -> Vec<u8> {
    let family = match range {
        IpNet::V4(_) => AddressFamily::INET,
        IpNet::V6(_) => AddressFamily::INET6,
    };
    let mut message = route_message(family, range.prefix_len(), tag);
    attribute(&mut message, RTA_DST, &octets(range.network()));
    attribute(&mut message, RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
    message
}

fn route_message(family: AddressFamily, prefix: u8, tag: u8) -> Vec<u8> {
    let family = u8::try_from(family.as_raw()).expect("the families of IP are small numbers");
    let flags = 0u32.to_ne_bytes();
    let mut message = vec![
        family,
        prefix,
        0,
        0,
        RT_TABLE_LOCAL,
        tag,
        RT_SCOPE_HOST,
        RTN_LOCAL,
    ];
    message.extend(flags);
    message
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_BYTES + value.len()).expect("addresses are short");
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_it_is_written() {
        for range in ["10.96.0.0/16", "fd00:10::/108"] {
            let range: IpNet = range.parse().unwrap();
            let entry = parse_route(&local_route(range, 201)).expect("a route");
            assert_eq!(entry.destination, range);
            assert_eq!(entry.device, Some(LOOPBACK_INDEX));
            assert_eq!((entry.kind, entry.protocol), (RTN_LOCAL, 201));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(0u8.., 0..300)) {
            let mut rest = &bytes[..];
            while let Some((_, _, body)) = next_message(&mut rest) {
                let _ = parse_route(body);
                let _ = parse_address(body);
            }
            let _ = parse_route(&bytes);
            let _ = parse_address(&bytes);
        }
    }
}
