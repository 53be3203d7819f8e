//! The namespace that each test runs in, and how it looks from within.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ipnet::IpNet;

/// Loopback is up, the node has an address of each family, and a range of each is local. The kernel makes an
/// address of IPv6 its own a moment after it has it.
pub(crate) const PREPARE: &str = "ip link set lo up && ip address add 192.0.2.1/32 dev lo \
    && ip address add 2001:db8::1/128 dev lo nodad \
    && until ip -6 route get 2001:db8::1 >/dev/null 2>&1; do :; done \
    && ip route add local 10.244.0.0/16 dev lo src 192.0.2.1 \
    && ip route add local fd00:10::/108 dev lo src 2001:db8::1";

pub(crate) const ENTRIES_MAX: u32 = 64;

/// How long an answer may take that does come, however busy the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn ranges() -> [IpNet; 2] {
    ["10.244.0.0/16", "fd00:10::/108"].map(|range| range.parse().unwrap())
}

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn refusal(to: SocketAddr) -> ErrorKind {
    let refused = TcpStream::connect_timeout(&to, PATIENCE);
    refused.map(drop).expect_err("refused").kind()
}

pub(crate) fn assert_refused(all: &[&str]) {
    for unserved in all {
        assert_eq!(
            refusal(at(unserved)),
            ErrorKind::ConnectionRefused,
            "{unserved}"
        );
    }
}
