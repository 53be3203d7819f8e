//! Where a cluster of this process has its addresses: those of pods, of Services and of load balancers.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, ensure};
use coracle_control_plane::ServiceRanges;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Where pods have addresses unless it is said otherwise, as most clusters have them.
const PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
/// The same of IPv6, and for Services, as the tool kind has them.
const PODS_6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 64);
const SERVICES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);
const SERVICES_6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 112);
/// Where Services of the type LoadBalancer have theirs: the first range that overlaps no other.
const BALANCERS: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 97, 0, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 97, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 97, 0), 24),
];
const BALANCERS_6: [Ipv6Net; 3] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x97, 0, 0, 0, 0, 0), 120),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd01, 0x10, 0x97, 0, 0, 0, 0, 0), 120),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd02, 0x10, 0x97, 0, 0, 0, 0, 0), 120),
];

/// Where pods and Services have their addresses, as it was asked for on the command line.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RangeArgs {
    /// Give pods and Services addresses of IPv6 too: each pod one, and Services that ask for one
    #[arg(long)]
    dual_stack: bool,

    /// The pods' addresses: a range of IPv4, or with `,` one of IPv6 too, which means `--dual-stack`
    /// [default: 10.244.0.0/16 and fd00:10:244::/64]
    #[arg(long, value_name = "CIDRS", value_parser = parse_pair)]
    pod_cidr: Option<Pair>,

    /// The Services' addresses, likewise [default: 10.96.0.0/16 and fd00:10:96::/112]
    #[arg(long, value_name = "CIDRS", value_parser = parse_pair)]
    service_cidr: Option<Pair>,
}

/// A range of IPv4, the main family, and perhaps one of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) v4: Ipv4Net,
    pub(crate) v6: Option<Ipv6Net>,
}

/// Where a cluster has its addresses; none of the ranges overlaps another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    pub(crate) pods: Pair,
    pub(crate) services: ServiceRanges,
    /// Those of Services of the type LoadBalancer.
    pub(crate) balancers: Vec<IpNet>,
}

impl RangeArgs {
    /// Returns the ranges; of load balancers those that were named, if any.
    ///
    /// # Errors
    ///
    /// Fails where ranges overlap, or one cannot be one of Services.
    pub(crate) fn ranges(&self, balancers: Vec<IpNet>) -> anyhow::Result<Ranges> {
        let named = [self.pod_cidr, self.service_cidr].into_iter().flatten();
        let is_dual = self.dual_stack || named.into_iter().any(|pair| pair.v6.is_some());
        let pair = |named: Option<Pair>, v4: Ipv4Net, v6: Ipv6Net| Pair {
            v4: named.map_or(v4, |pair| pair.v4).trunc(),
            v6: is_dual.then(|| named.and_then(|pair| pair.v6).unwrap_or(v6).trunc()),
        };
        let pods = pair(self.pod_cidr, PODS, PODS_6);
        let services = pair(self.service_cidr, SERVICES, SERVICES_6);
        for (pods, services) in pods.iter().zip(services.iter()) {
            ensure!(
                !overlap(&pods, &services),
                "the addresses of pods, `{pods}`, and of Services, `{services}`, overlap; name others with \
                 `--pod-cidr` and `--service-cidr`"
            );
        }
        let others = pods.iter().chain(services.iter()).collect::<Vec<_>>();
        let balancers = match balancers.is_empty() {
            false => balancers,
            true => free_balancers(&others, is_dual),
        };
        for pool in &balancers {
            let other = others.iter().find(|other| overlap(pool, other));
            ensure!(
                other.is_none(),
                "the addresses of load balancers, `{pool}`, overlap `{}`; name others with \
                 `--load-balancer-pool`",
                other.map(IpNet::to_string).unwrap_or_default()
            );
        }
        Ok(Ranges {
            pods,
            services: ServiceRanges::new(services.v4, services.v6)
                .context("`--service-cidr` cannot be used")?,
            balancers,
        })
    }
}

impl Pair {
    /// Returns the ranges, that of the main family first.
    pub(crate) fn iter(self) -> impl Iterator<Item = IpNet> {
        [IpNet::V4(self.v4)]
            .into_iter()
            .chain(self.v6.map(IpNet::V6))
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// Returns ranges of load balancers that overlap none of the others: there may be none.
fn free_balancers(others: &[IpNet], is_dual: bool) -> Vec<IpNet> {
    let is_free = |range: &IpNet| !others.iter().any(|other| overlap(range, other));
    let v4 = BALANCERS.map(IpNet::V4).into_iter().find(is_free);
    let v6 = BALANCERS_6.map(IpNet::V6).into_iter().find(is_free);
    v4.into_iter().chain(v6.filter(|_| is_dual)).collect()
}

/// Parses `10.244.0.0/16` or `10.244.0.0/16,fd00:10:244::/64`.
pub(crate) fn parse_pair(text: &str) -> Result<Pair, String> {
    let ranges = text.split(',').map(|range| {
        let parsed = range.parse::<IpNet>();
        parsed.map_err(|_| format!("`{range}` is no range of addresses, like 10.244.0.0/16"))
    });
    match *ranges.collect::<Result<Vec<_>, _>>()? {
        [IpNet::V4(v4)] => Ok(Pair { v4, v6: None }),
        [IpNet::V4(v4), IpNet::V6(v6)] => Ok(Pair { v4, v6: Some(v6) }),
        [IpNet::V6(_)] => Err("a range of IPv4 is needed too, and before it".to_owned()),
        [IpNet::V6(_), IpNet::V4(_)] => {
            Err("the range of IPv4 comes first: it is the main family here".to_owned())
        }
        [_, _] => Err("two ranges must be one of IPv4 and one of IPv6".to_owned()),
        _ => Err("more than two ranges; one of IPv4 and one of IPv6 can be used".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dual_stack: bool, pods: Option<&str>, services: Option<&str>) -> RangeArgs {
        let pair = |text: &str| parse_pair(text).expect("a pair");
        RangeArgs {
            dual_stack,
            pod_cidr: pods.map(pair),
            service_cidr: services.map(pair),
        }
    }

    fn told(ranges: &Ranges) -> String {
        let all = ranges.pods.iter().chain(ranges.services.iter());
        let all = all.chain(ranges.balancers.iter().copied());
        all.map(|range| range.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_pair_is_ipv4_and_ipv6() {
        let rows = [
            ("10.0.0.0/16", Ok(1)),
            ("10.0.0.0/16,fd00::/64", Ok(2)),
            ("fd00::/64,10.0.0.0/16", Err("comes first")),
            ("fd00::/64", Err("IPv4 is needed")),
            (
                "10.0.0.0/16,10.1.0.0/16",
                Err("one of IPv4 and one of IPv6"),
            ),
            ("fd00::/64,fd01::/64", Err("one of IPv4 and one of IPv6")),
            ("10.0.0.0/16,fd00::/64,fd01::/64", Err("more than two")),
            ("10.0.0.0", Err("`10.0.0.0` is no range")),
            ("", Err("`` is no range")),
        ];
        for (text, expected) in rows {
            match (parse_pair(text), expected) {
                (Ok(pair), Ok(count)) => assert_eq!(pair.iter().count(), count, "{text}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                (parsed, _) => panic!("{text}: {parsed:?}"),
            }
        }
    }

    #[test]
    fn what_is_not_named_is_as_everywhere() {
        let check = |args: RangeArgs, expected: &str| {
            let ranges = args.ranges(Vec::new()).expect("in order");
            assert_eq!(told(&ranges), expected);
        };
        check(
            args(false, None, None),
            "10.244.0.0/16 10.96.0.0/16 10.97.0.0/24",
        );
        let both = "10.244.0.0/16 fd00:10:244::/64 10.96.0.0/16 fd00:10:96::/112 10.97.0.0/24 \
                    fd00:10:97::/120";
        check(args(true, None, None), both);
        // A pair in one place means both families everywhere.
        check(
            args(
                false,
                Some("10.42.7.0/16,fd00:42::/64"),
                Some("10.43.0.0/16"),
            ),
            "10.42.0.0/16 fd00:42::/64 10.43.0.0/16 fd00:10:96::/112 10.97.0.0/24 fd00:10:97::/120",
        );
        // The range that kubeadm has holds the one that load balancers have here otherwise.
        check(
            args(false, None, Some("10.96.0.0/12")),
            "10.244.0.0/16 10.96.0.0/12 172.30.97.0/24",
        );
    }

    #[test]
    fn ranges_do_not_overlap() {
        let check = |args: RangeArgs, balancers: &[&str], expected: &str| {
            let balancers = balancers
                .iter()
                .map(|range| range.parse().expect("a range"));
            let refused = args.ranges(balancers.collect()).expect_err("refused");
            let refused = format!("{refused:#}");
            assert!(refused.contains(expected), "{refused}");
        };
        let named = args(false, Some("10.0.0.0/8"), None);
        check(
            named,
            &[],
            "of pods, `10.0.0.0/8`, and of Services, `10.96.0.0/16`, overlap",
        );
        let named = args(false, Some("10.42.0.0/16,fd00:10::/32"), None);
        check(
            named,
            &[],
            "`fd00:10::/32`, and of Services, `fd00:10:96::/112`",
        );
        let pool = ["10.96.7.0/24"];
        check(
            args(false, None, None),
            &pool,
            "`10.96.7.0/24`, overlap `10.96.0.0/16`",
        );
        let named = args(false, None, Some("10.96.0.0/29"));
        check(
            named,
            &[],
            "`--service-cidr` cannot be used: `10.96.0.0/29` has too few",
        );
    }
}
