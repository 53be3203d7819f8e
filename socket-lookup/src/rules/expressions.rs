//! The rules, expression by expression: what a packet is asked, and what becomes of it.
//!
//! The numbers are those of `linux/netfilter/nf_tables.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::Transport;
use crate::netfilter::Attributes;

const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;

const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;

const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFT_CMP_EQ: u32 = 0;

const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;

const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_FLAGS: u16 = 5;
const NFT_LOOKUP_F_INV: u32 = 1;

const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFT_REG_VERDICT: u32 = 0;
const NF_ACCEPT: u32 = 1;

const NFTA_TPROXY_FAMILY: u16 = 1;
const NFTA_TPROXY_REG_ADDR: u16 = 2;
const NFTA_TPROXY_REG_PORT: u16 = 3;

const NFTA_REJECT_TYPE: u16 = 1;
const NFTA_REJECT_ICMP_CODE: u16 = 2;
const NFT_REJECT_TCP_RST: u32 = 1;
const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
const NFT_REJECT_ICMPX_PORT_UNREACH: u8 = 1;

const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;

/// The first of the registers of 4 bytes, `NFT_REG32_00`; 16 of them, and an address of IPv6 has four.
const REGISTER: u32 = 8;
const REGISTER_BYTES: usize = 4;

/// Where a TCP header has its flags, and which of them tell a first packet.
const TCP_FLAGS_OFFSET: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;

/// Where the headers of both transports have the port asked for.
const PORT_OFFSET: u32 = 2;
const PORT_BYTES: u32 = 2;

/// What the program `nft` calls the parts of a key: `ipv4_addr`, `ipv6_addr`, `inet_proto`,
/// `inet_service`, by its numbers; a row of them has six bits for each.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_BITS: u32 = 6;

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A rule, or its beginning.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    expressions: Attributes,
}

impl Family {
    pub(super) const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub(super) fn of(ip: IpAddr) -> Family {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Returns the name of the set of addresses and ports.
    pub(super) fn served(self) -> &'static str {
        match self {
            Family::V4 => "served4",
            Family::V6 => "served6",
        }
    }

    /// Returns the name of the set of ports at all addresses.
    pub(super) fn everywhere(self) -> &'static str {
        match self {
            Family::V4 => "everywhere4",
            Family::V6 => "everywhere6",
        }
    }

    /// Returns the type and the bytes of a key of the first set.
    pub(super) fn served_key(self) -> (u32, u32) {
        let address = match self {
            Family::V4 => TYPE_IPV4,
            Family::V6 => TYPE_IPV6,
        };
        let ports = (TYPE_PROTOCOL << TYPE_BITS) | TYPE_PORT;
        let of_type = (address << (2 * TYPE_BITS)) | ports;
        (of_type, self.address_bytes() + 2 * REGISTER_BYTES as u32)
    }

    /// Returns those of the second.
    pub(super) fn everywhere_key(self) -> (u32, u32) {
        let of_type = (TYPE_PROTOCOL << TYPE_BITS) | TYPE_PORT;
        (of_type, 2 * REGISTER_BYTES as u32)
    }

    /// `NFPROTO_IPV4` and `NFPROTO_IPV6`, which are the families' numbers too.
    fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }

    fn address_bytes(self) -> u32 {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    /// Where a packet has the address it is for.
    fn address_offset(self) -> u32 {
        match self {
            Family::V4 => 16,
            Family::V6 => 24,
        }
    }

    /// How many registers an address takes.
    fn registers(self) -> u32 {
        self.address_bytes() / REGISTER_BYTES as u32
    }
}

/// Returns the set and the key of an address and port.
pub(super) fn key(transport: Transport, at: SocketAddr) -> (&'static str, Vec<u8>) {
    let family = Family::of(at.ip());
    let [high, low] = at.port().to_be_bytes();
    // Each part begins a register.
    let port = [transport.number(), 0, 0, 0, high, low, 0, 0];
    match at.ip().is_unspecified() {
        true => (family.everywhere(), port.to_vec()),
        false => (family.served(), [&octets(at.ip())[..], &port].concat()),
    }
}

impl Rule {
    /// Begins a rule for packets to what is in the set of a family.
    pub(super) fn served(family: Family, transport: Transport) -> Rule {
        let key = Rule::of(family).transport(transport).address(family);
        let ports = REGISTER + family.registers();
        key.ports(ports).found_in(family.served(), 0)
    }

    /// Begins a rule for packets to a port that is served at all addresses of this machine.
    pub(super) fn everywhere(family: Family, transport: Transport) -> Rule {
        let of = Rule::of(family).transport(transport).ports(REGISTER);
        of.found_in(family.everywhere(), 0).for_this_machine()
    }

    /// Begins a rule for packets to a range.
    fn within(range: IpNet) -> Rule {
        let family = Family::of(range.addr());
        let rule = Rule::of(family).address(family);
        let mask = octets(range.netmask());
        rule.masked(&mask).equals(&octets(range.network()))
    }

    /// Refuses packets that ask for something in a range that is not served.
    pub(super) fn refuse(range: IpNet, transport: Transport) -> Rule {
        let family = Family::of(range.addr());
        let rule = Rule::within(range).transport(transport);
        let rule = match transport {
            // All others belong to something that is established, or are answered as the kernel does.
            Transport::Tcp => rule
                .payload(
                    NFT_PAYLOAD_TRANSPORT_HEADER,
                    (TCP_FLAGS_OFFSET, 1),
                    REGISTER,
                )
                .masked(&[FIN_SYN_RST_ACK])
                .equals(&[SYN]),
            Transport::Udp => rule,
        };
        let ports = REGISTER + family.registers();
        let rule = rule.address(family).ports(ports);
        let rule = rule.found_in(family.served(), NFT_LOOKUP_F_INV);
        let refusal = match transport {
            Transport::Tcp => Attributes::default()
                .number(NFTA_REJECT_TYPE, NFT_REJECT_TCP_RST)
                .bytes(NFTA_REJECT_ICMP_CODE, &[0]),
            Transport::Udp => Attributes::default()
                .number(NFTA_REJECT_TYPE, NFT_REJECT_ICMPX_UNREACH)
                .bytes(NFTA_REJECT_ICMP_CODE, &[NFT_REJECT_ICMPX_PORT_UNREACH]),
        };
        rule.add("reject", &refusal)
    }

    /// Ends a rule: packets belong to the socket at an address, at a port or at the one asked for.
    pub(super) fn lead(self, to: IpAddr, port: Option<u16>) -> Rule {
        let family = Family::of(to);
        let at = REGISTER + family.registers();
        let proxy = Attributes::default()
            .number(NFTA_TPROXY_FAMILY, u32::from(family.number()))
            .number(NFTA_TPROXY_REG_ADDR, REGISTER);
        let rule = self.load(&octets(to), REGISTER);
        let (rule, proxy) = match port {
            Some(port) => {
                let proxy = proxy.number(NFTA_TPROXY_REG_PORT, at);
                (rule.load(&port.to_be_bytes(), at), proxy)
            }
            None => (rule, proxy),
        };
        rule.add("tproxy", &proxy).accept()
    }

    /// Ends a rule: packets go their way.
    fn accept(self) -> Rule {
        let accept = Attributes::default()
            .number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)
            .verdict(NFTA_IMMEDIATE_DATA, NF_ACCEPT);
        self.add("immediate", &accept)
    }

    /// Returns the expressions, for a message.
    pub(super) fn expressions(&self) -> &Attributes {
        &self.expressions
    }

    fn of(family: Family) -> Rule {
        Rule::default()
            .meta(NFT_META_NFPROTO, REGISTER)
            .equals(&[family.number()])
    }

    fn transport(self, transport: Transport) -> Rule {
        self.meta(NFT_META_L4PROTO, REGISTER)
            .equals(&[transport.number()])
    }

    /// Loads the address a packet is for into the first registers.
    fn address(self, family: Family) -> Rule {
        let place = (family.address_offset(), family.address_bytes());
        self.payload(NFT_PAYLOAD_NETWORK_HEADER, place, REGISTER)
    }

    /// Loads the transport and the port a packet is for into two registers.
    fn ports(self, register: u32) -> Rule {
        let place = (PORT_OFFSET, PORT_BYTES);
        self.meta(NFT_META_L4PROTO, register).payload(
            NFT_PAYLOAD_TRANSPORT_HEADER,
            place,
            register + 1,
        )
    }

    /// Goes on only for an address of this machine: what passes through with a socket is dropped by the
    /// kernel.
    fn for_this_machine(self) -> Rule {
        let lookup = Attributes::default()
            .number(NFTA_FIB_DREG, REGISTER)
            .number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE)
            .number(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
        self.add("fib", &lookup).equals(&RTN_LOCAL.to_ne_bytes())
    }

    fn meta(self, what: u32, register: u32) -> Rule {
        let meta = Attributes::default()
            .number(NFTA_META_DREG, register)
            .number(NFTA_META_KEY, what);
        self.add("meta", &meta)
    }

    fn payload(self, header: u32, (offset, bytes): (u32, u32), register: u32) -> Rule {
        let payload = Attributes::default()
            .number(NFTA_PAYLOAD_DREG, register)
            .number(NFTA_PAYLOAD_BASE, header)
            .number(NFTA_PAYLOAD_OFFSET, offset)
            .number(NFTA_PAYLOAD_LEN, bytes);
        self.add("payload", &payload)
    }

    /// Goes on only where the first registers are this.
    fn equals(self, value: &[u8]) -> Rule {
        let compared = Attributes::default()
            .number(NFTA_CMP_SREG, REGISTER)
            .number(NFTA_CMP_OP, NFT_CMP_EQ)
            .value(NFTA_CMP_DATA, value);
        self.add("cmp", &compared)
    }

    /// Keeps of the first registers what is in a mask.
    fn masked(self, mask: &[u8]) -> Rule {
        let bytes = u32::try_from(mask.len()).expect("an address is short");
        let masked = Attributes::default()
            .number(NFTA_BITWISE_SREG, REGISTER)
            .number(NFTA_BITWISE_DREG, REGISTER)
            .number(NFTA_BITWISE_LEN, bytes)
            .value(NFTA_BITWISE_MASK, mask)
            .value(NFTA_BITWISE_XOR, &vec![0; mask.len()]);
        self.add("bitwise", &masked)
    }

    /// Goes on only where a set has the key that begins in the first register, or has not.
    fn found_in(self, set: &str, flags: u32) -> Rule {
        let lookup = Attributes::default()
            .text(NFTA_LOOKUP_SET, set)
            .number(NFTA_LOOKUP_SREG, REGISTER)
            .number(NFTA_LOOKUP_FLAGS, flags);
        self.add("lookup", &lookup)
    }

    fn load(self, value: &[u8], register: u32) -> Rule {
        let loaded = Attributes::default()
            .number(NFTA_IMMEDIATE_DREG, register)
            .value(NFTA_IMMEDIATE_DATA, value);
        self.add("immediate", &loaded)
    }

    fn add(self, name: &str, data: &Attributes) -> Rule {
        Rule {
            expressions: self.expressions.expression(name, data),
        }
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::octets(&ip).to_vec(),
        IpAddr::V6(ip) => Ipv6Addr::octets(&ip).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_as_long_as_its_set_says() {
        for (at, bytes) in [("10.96.0.1:443", 12), ("[fd00:10::1]:53", 24)] {
            let at: SocketAddr = at.parse().expect("an address");
            let family = Family::of(at.ip());
            let (set, key) = key(Transport::Udp, at);
            assert_eq!((set, key.len()), (family.served(), bytes));
            assert_eq!(family.served_key().1 as usize, bytes);
        }
        let everywhere = "0.0.0.0:80".parse().expect("an address");
        let (set, key) = key(Transport::Tcp, everywhere);
        assert_eq!(set, "everywhere4");
        assert_eq!(key, [6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(Family::V4.everywhere_key().1 as usize, key.len());
    }
}
