//! Which addresses `wasi:sockets` lets a socket name at all, before the network is asked.

use std::net::{IpAddr, SocketAddr};
use wasmtime_wasi::p2::SocketResult;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};

/// Checks an address to bind to.
pub(super) fn check_local(address: SocketAddr, family: IpAddressFamily) -> SocketResult<()> {
    require(is_of(address.ip(), family) && is_unicast(address.ip()))
}

/// Checks an address to connect or send to.
pub(super) fn check_remote(address: SocketAddr, family: IpAddressFamily) -> SocketResult<()> {
    let ip = address.ip();
    let named = !ip.to_canonical().is_unspecified() && address.port() != 0;
    require(is_of(ip, family) && is_unicast(ip) && named)
}

/// Checks an address to send one datagram to. A socket at `[::]` hears IPv4 too and shows such peers mapped,
/// so it may answer them.
pub(super) fn check_recipient(address: SocketAddr, family: IpAddressFamily) -> SocketResult<()> {
    match (family, address.ip().to_canonical()) {
        (IpAddressFamily::Ipv6, IpAddr::V4(ip)) if address.is_ipv6() => {
            let address = SocketAddr::new(IpAddr::V4(ip), address.port());
            check_remote(address, IpAddressFamily::Ipv4)
        }
        _ => check_remote(address, family),
    }
}

fn require(condition: bool) -> SocketResult<()> {
    if condition {
        Ok(())
    } else {
        Err(ErrorCode::InvalidArgument.into())
    }
}

fn is_of(ip: IpAddr, family: IpAddressFamily) -> bool {
    match (family, ip) {
        (IpAddressFamily::Ipv4, IpAddr::V4(_)) => true,
        // The sockets of WASI are never dual stack: neither mapped nor compatible addresses.
        (IpAddressFamily::Ipv6, IpAddr::V6(ip)) => match ip.to_ipv4() {
            None => true,
            Some(_) => ip.is_loopback() || ip.is_unspecified(),
        },
        (IpAddressFamily::Ipv4, IpAddr::V6(_)) | (IpAddressFamily::Ipv6, IpAddr::V4(_)) => false,
    }
}

fn is_unicast(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_of_a_socket_of_ipv6_may_answer_one_of_ipv4() {
        use IpAddressFamily::{Ipv4, Ipv6};
        let cases = [
            ("[::ffff:10.0.0.1]:80", Ipv6, true),
            ("[::ffff:10.0.0.1]:80", Ipv4, false),
            ("[::ffff:10.0.0.1]:0", Ipv6, false),
            ("[::ffff:0.0.0.0]:80", Ipv6, false),
            ("[::ffff:224.0.0.1]:80", Ipv6, false),
            ("10.0.0.1:80", Ipv6, false),
            ("10.0.0.1:80", Ipv4, true),
            ("[fd00::1]:80", Ipv6, true),
            ("[::10.0.0.1]:80", Ipv6, false),
        ];
        for (text, family, expected) in cases {
            let address: SocketAddr = text.parse().expect("address");
            assert_eq!(check_recipient(address, family).is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn only_addresses_of_the_sockets_kind_are_let_through() {
        use IpAddressFamily::{Ipv4, Ipv6};
        // Address, family, whether it may be bound, whether it may be connected to.
        let cases = [
            ("10.0.0.1:80", Ipv4, true, true),
            ("0.0.0.0:80", Ipv4, true, false),
            ("10.0.0.1:0", Ipv4, true, false),
            ("224.0.0.1:80", Ipv4, false, false),
            ("255.255.255.255:80", Ipv4, false, false),
            ("10.0.0.1:80", Ipv6, false, false),
            ("[::1]:80", Ipv6, true, true),
            ("[::1]:80", Ipv4, false, false),
            ("[::]:80", Ipv6, true, false),
            ("[::ffff:10.0.0.1]:80", Ipv6, false, false),
            ("[ff02::1]:80", Ipv6, false, false),
        ];
        for (text, family, local, remote) in cases {
            let address: SocketAddr = text.parse().expect("address");
            assert_eq!(check_local(address, family).is_ok(), local, "bind {text}");
            assert_eq!(
                check_remote(address, family).is_ok(),
                remote,
                "connect {text}"
            );
        }
    }
}
