//! Where a cluster's Services have their addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

/// The most bits of a range that tell its addresses apart, as kube-apiserver had it before addresses were
/// objects.
const HOST_BITS_MAX: u8 = 20;

/// The fewest, so that the address of the cluster's DNS is in the range.
const HOST_BITS_MIN: u8 = 4;

/// Ranges in which an address means something else than a Service.
const RESERVED: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// The only ones of IPv6 in which it does not: unique local addresses and global ones.
const USABLE_6: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3),
];

/// The place of the API itself inside of the cluster.
const API_PLACE: u8 = 1;

/// The place of the cluster's DNS, as clusters of today have it: one of those that are given out last.
const DNS_PLACE: u8 = 10;

/// The ranges of a cluster's Services; IPv4 is the main family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRanges {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
}

/// Why a range cannot be one of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ServiceRangeError {
    /// It has not room for the Services that every cluster has.
    #[error("`{0}` has too few addresses for Services: at least 16, a prefix of {longest}, are needed",
        longest = .0.max_prefix_len() - HOST_BITS_MIN)]
    TooSmall(IpNet),
    /// More than can be looked after.
    #[error("`{0}` has too many addresses for Services: at most 2^20, a prefix of {shortest}, can be used",
        shortest = .0.max_prefix_len() - HOST_BITS_MAX)]
    TooLarge(IpNet),
    /// Its addresses are loopback, of one link, of groups or nobody's.
    #[error("`{0}` is reserved: Services cannot have its addresses")]
    Reserved(IpNet),
}

impl ServiceRanges {
    /// Returns these ranges; addresses beyond the prefix do not count. Without one of IPv6, Services that
    /// ask for its addresses are refused.
    ///
    /// # Errors
    ///
    /// Fails for a range of fewer than 16 addresses or more than 2^20, and for one that is reserved.
    pub fn new(v4: Ipv4Net, v6: Option<Ipv6Net>) -> Result<ServiceRanges, ServiceRangeError> {
        let (v4, v6) = (v4.trunc(), v6.map(|range| range.trunc()));
        for range in [IpNet::V4(v4)].into_iter().chain(v6.map(IpNet::V6)) {
            match range.max_prefix_len() - range.prefix_len() {
                bits if bits < HOST_BITS_MIN => return Err(ServiceRangeError::TooSmall(range)),
                bits if bits > HOST_BITS_MAX => return Err(ServiceRangeError::TooLarge(range)),
                _ if is_reserved(range) => return Err(ServiceRangeError::Reserved(range)),
                _ => {}
            }
        }
        Ok(ServiceRanges { v4, v6 })
    }

    /// Returns the ranges, that of the main family first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + use<> {
        [IpNet::V4(self.v4)]
            .into_iter()
            .chain(self.v6.map(IpNet::V6))
    }

    /// Returns the range of the main family.
    pub fn v4(&self) -> Ipv4Net {
        self.v4
    }

    /// Tells whether Services may have addresses of both families.
    pub fn are_of_both_families(&self) -> bool {
        self.v6.is_some()
    }

    /// Returns the address of the API inside of the cluster: the first of the main range.
    pub fn api(&self) -> Ipv4Addr {
        at(self.v4, API_PLACE)
    }

    /// Returns the addresses of the cluster's DNS: the tenth of each range.
    pub fn dns(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let second = self.v6.map(|range| {
            IpAddr::V6(Ipv6Addr::from_bits(
                range.network().to_bits() + u128::from(DNS_PLACE),
            ))
        });
        [IpAddr::V4(at(self.v4, DNS_PLACE))]
            .into_iter()
            .chain(second)
    }
}

impl Default for ServiceRanges {
    /// `10.96.0.0/16` alone, which is rarely a network of the machine's.
    fn default() -> ServiceRanges {
        ServiceRanges {
            v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            v6: None,
        }
    }
}

/// Tells whether some of a range's addresses mean something else than a Service.
fn is_reserved(range: IpNet) -> bool {
    match range {
        IpNet::V4(range) => RESERVED.iter().any(|reserved| {
            reserved.contains(&range.network()) || range.contains(&reserved.network())
        }),
        IpNet::V6(range) => !USABLE_6.iter().any(|usable| usable.contains(&range)),
    }
}

fn at(range: Ipv4Net, place: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(range.network().to_bits() + u32::from(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_services_has_16_addresses_to_a_million() {
        let check = |v4: &str, v6: Option<&str>, expected: Result<&str, &str>| {
            let v6 = v6.map(|range| range.parse().expect("a range"));
            let made = ServiceRanges::new(v4.parse().expect("a range"), v6);
            let told = made.map(|ranges| {
                let dns = ranges.dns().map(|ip| ip.to_string()).collect::<Vec<_>>();
                format!("{} {}", ranges.api(), dns.join(" "))
            });
            let told = told.map_err(|error| error.to_string());
            assert_eq!(told.as_deref().map_err(String::as_str), expected);
        };
        check("10.96.0.0/16", None, Ok("10.96.0.1 10.96.0.10"));
        check("10.96.0.0/12", None, Ok("10.96.0.1 10.96.0.10"));
        let both = Ok("10.43.0.1 10.43.0.10 fd00:43::a");
        check("10.43.7.7/16", Some("fd00:43::/108"), both);
        check("10.43.0.16/28", None, Ok("10.43.0.17 10.43.0.26"));
        for reserved in [
            "127.64.0.0/16",
            "224.0.0.0/16",
            "169.254.0.0/20",
            "169.240.0.0/12",
        ] {
            let refused = format!("`{reserved}` is reserved: Services cannot have its addresses");
            check(reserved, None, Err(&refused));
        }
        for reserved in ["fe80::/112", "::/112", "ff02::/112"] {
            let refused = format!("`{reserved}` is reserved: Services cannot have its addresses");
            check("10.43.0.0/16", Some(reserved), Err(&refused));
        }
        check(
            "10.43.0.16/29",
            None,
            Err(
                "`10.43.0.16/29` has too few addresses for Services: at least 16, a prefix of 28, are needed",
            ),
        );
        check(
            "10.43.0.0/16",
            Some("fd00:43::/64"),
            Err(
                "`fd00:43::/64` has too many addresses for Services: at most 2^20, a prefix of 108, can be used",
            ),
        );
    }
}
