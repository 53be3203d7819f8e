//! Reverse names: the name under `in-addr.arpa` or `ip6.arpa` that stands for an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hexadecimal digits of an IPv6 address, each a label.
const NIBBLES: usize = 32;

/// What a reverse name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reverse {
    /// An address.
    Address(IpAddr),
    /// Not a whole address, or none at all.
    Part,
}

impl Reverse {
    /// Reads a name in lower case without a final dot; nothing if it is no reverse name.
    pub(super) fn parse(name: &str) -> Option<Reverse> {
        if let Some(octets) = name.strip_suffix("in-addr.arpa") {
            return Some(
                below(octets)?
                    .and_then(v4)
                    .map_or(Reverse::Part, |ip| Reverse::Address(IpAddr::V4(ip))),
            );
        }
        let nibbles = name.strip_suffix("ip6.arpa")?;
        Some(
            below(nibbles)?
                .and_then(v6)
                .map_or(Reverse::Part, |ip| Reverse::Address(IpAddr::V6(ip))),
        )
    }
}

/// Takes the dot off that separates what is below a name; nothing if another label was cut.
fn below(rest: &str) -> Option<Option<&str>> {
    match rest.is_empty() {
        true => Some(None),
        false => rest.strip_suffix('.').map(Some),
    }
}

fn v4(reversed: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut labels = reversed.split('.');
    for octet in octets.iter_mut().rev() {
        let label = labels.next()?;
        let is_canonical = label.bytes().all(|byte| byte.is_ascii_digit())
            && (label == "0" || !label.starts_with('0'));
        *octet = is_canonical.then(|| label.parse().ok())??;
    }
    labels.next().is_none().then_some(octets.into())
}

fn v6(reversed: &str) -> Option<Ipv6Addr> {
    let mut bits = 0_u128;
    let mut count = 0;
    for label in reversed.split('.').rev() {
        let [digit] = label.as_bytes() else {
            return None;
        };
        bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
        count += 1;
        if count > NIBBLES {
            return None;
        }
    }
    (count == NIBBLES).then_some(bits.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_addresses_are_read_and_parts_are_told_apart() {
        let address = |text: &str| Some(Reverse::Address(text.parse().expect("an address")));
        let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        for (name, expected) in [
            ("4.3.2.10.in-addr.arpa", address("10.2.3.4")),
            (six, address("2001:db8::1")),
            ("in-addr.arpa", Some(Reverse::Part)),
            ("10.in-addr.arpa", Some(Reverse::Part)),
            ("5.4.3.2.1.in-addr.arpa", Some(Reverse::Part)),
            ("04.3.2.10.in-addr.arpa", Some(Reverse::Part)),
            ("+4.3.2.10.in-addr.arpa", Some(Reverse::Part)),
            ("256.3.2.10.in-addr.arpa", Some(Reverse::Part)),
            ("g.ip6.arpa", Some(Reverse::Part)),
            ("xin-addr.arpa", None),
            ("example.com", None),
            ("", None),
        ] {
            assert_eq!(Reverse::parse(name), expected, "{name}");
        }
    }
}
