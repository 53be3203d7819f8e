use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 5);
const SECOND: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);

fn slots(local: &str) -> Slots {
    let local = local.parse().expect("an address");
    Slots::bound_to(local, POD, Some(SECOND)).expect("one of the pod's own")
}

#[test]
fn only_the_pods_own_addresses_can_be_bound() {
    for foreign in [
        "10.244.0.6",
        "127.0.0.2",
        "8.8.8.8",
        "fe80::1",
        "::ffff:10.0.0.1",
        "::2",
    ] {
        let foreign = foreign.parse().expect("an address");
        assert_eq!(
            Slots::bound_to(foreign, POD, Some(SECOND)),
            None,
            "{foreign}"
        );
    }
    assert_eq!(slots("::ffff:10.244.0.5"), slots("10.244.0.5"));
    assert_eq!(slots("::ffff:127.0.0.1"), slots("127.0.0.1"));
    assert_eq!(slots("::ffff:0.0.0.0"), slots("0.0.0.0"));
}

#[test]
fn two_sockets_clash_exactly_where_they_share_an_address() {
    fn check(first: &str, second: &str, clash: bool) {
        for (first, second) in [(first, second), (second, first)] {
            let mut table = PortTable::new();
            table
                .reserve(slots(first), 80, ())
                .expect("an empty table is free");
            let result = table.reserve(slots(second), 80, ());
            assert_eq!(
                matches!(result, Err(NetError::AddressInUse)),
                clash,
                "{first} {second}"
            );
            table
                .reserve(slots(second), 81, ())
                .expect("another port is free");
        }
    }
    check("0.0.0.0", "0.0.0.0", true);
    check("0.0.0.0", "127.0.0.1", true);
    check("0.0.0.0", "10.244.0.5", true);
    check("0.0.0.0", "::1", false);
    check("0.0.0.0", "::", true);
    check("::", "127.0.0.1", true);
    check("::", "::1", true);
    check("127.0.0.1", "10.244.0.5", false);
    check("127.0.0.1", "::1", false);
    check("fd00::5", "10.244.0.5", false);
    check("fd00::5", "0.0.0.0", false);
    check("fd00::5", "::", true);
}

#[test]
fn a_port_has_up_to_four_holders_and_each_is_found_at_its_address() {
    let mut table = PortTable::new();
    let all = ["10.244.0.5", "127.0.0.1", "::1", "fd00::5"];
    for (value, local) in all.into_iter().enumerate() {
        table
            .reserve(slots(local), 80, value)
            .expect("addresses differ");
    }
    assert_eq!(table.find(Slots::POD, 80), Some(&0));
    assert_eq!(table.find(Slots::LOOPBACK_4, 80), Some(&1));
    assert_eq!(table.find(Slots::LOOPBACK_6, 80), Some(&2));
    assert_eq!(table.find(Slots::POD_6, 80), Some(&3));
    assert_eq!(table.release(Slots::LOOPBACK_4, 80), Some(1));
    assert_eq!(table.find(Slots::LOOPBACK_4, 80), None);
    assert_eq!(table.find(Slots::POD, 80), Some(&0));
}

#[test]
fn random_ports_are_in_range_distinct_and_not_in_a_row() {
    let mut table = PortTable::new();
    let mut random = StdRng::seed_from_u64(1);
    let mut take = || {
        table
            .reserve_ephemeral(Slots::POD, (), &mut random)
            .expect("free")
    };
    let ports = (0..1000).map(|_| take()).collect::<Vec<_>>();
    assert!(ports.iter().all(|port| EPHEMERAL_PORTS.contains(port)));
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
    let in_a_row = ports
        .windows(2)
        .filter(|pair| pair[0].abs_diff(pair[1]) == 1)
        .count();
    assert!(in_a_row < 10);
}

#[test]
fn a_pod_has_a_named_limit_of_ports() {
    let mut table = PortTable::new();
    let mut random = StdRng::seed_from_u64(2);
    for _ in 0..PORTS_PER_POD_MAX {
        table
            .reserve_ephemeral(Slots::POD, (), &mut random)
            .expect("below the limit");
    }
    let refused = table.reserve(Slots::LOOPBACK_4, 80, ());
    assert!(matches!(refused, Err(NetError::Limit("ports of a pod"))));
}

#[test]
fn a_closed_table_gives_everything_out_and_takes_nothing() {
    let mut table = PortTable::new();
    table.reserve(Slots::POD, 80, "a").expect("free");
    table.reserve(Slots::LOOPBACK_6, 80, "b").expect("free");
    let mut held = table.close();
    held.sort_unstable_by_key(|(_, _, name)| *name);
    let expected = [(Slots::POD, 80, "a"), (Slots::LOOPBACK_6, 80, "b")];
    assert_eq!(held, expected);
    assert!(matches!(
        table.reserve(Slots::POD, 81, "c"),
        Err(NetError::Detached)
    ));
    assert_eq!(table.release(Slots::POD, 80), None);
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(usize, u16),
    Release(usize, u16),
    Ephemeral(usize),
}

const LOCALS: [&str; 5] = ["10.244.0.5", "127.0.0.1", "::1", "0.0.0.0", "::"];
const SINGLE: [Slots; 3] = [Slots::POD, Slots::LOOPBACK_4, Slots::LOOPBACK_6];

fn step() -> impl Strategy<Value = Step> {
    let local = 0..LOCALS.len();
    prop_oneof![
        3 => (local.clone(), 1u16..6).prop_map(|(local, port)| Step::Reserve(local, port)),
        3 => (local.clone(), 1u16..6).prop_map(|(local, port)| Step::Release(local, port)),
        1 => local.prop_map(Step::Ephemeral),
    ]
}

proptest! {
    /// The table is a map from (port, address) to holder, whatever is held and released.
    #[test]
    fn behaves_like_a_map_of_addresses(seed: u64, steps in prop::collection::vec(step(), 0..80)) {
        let mut table = PortTable::new();
        let mut random = StdRng::seed_from_u64(seed);
        // What the model knows: for each port and single address, who holds it and by which
        // binding.
        let mut model = BTreeMap::<(u16, u8), (usize, usize)>::new();
        for (number, step) in steps.into_iter().enumerate() {
            let covered = |local: usize| {
                SINGLE.into_iter().filter(move |slot| slot.meets(slots(LOCALS[local])))
            };
            match step {
                Step::Reserve(local, port) => {
                    let free = covered(local).all(|slot| !model.contains_key(&(port, slot.0)));
                    let result = table.reserve(slots(LOCALS[local]), port, number);
                    prop_assert_eq!(result.is_ok(), free);
                    if free {
                        model.extend(covered(local).map(|slot| ((port, slot.0), (number, local))));
                    }
                }
                Step::Ephemeral(local) => {
                    let port = table
                        .reserve_ephemeral(slots(LOCALS[local]), number, &mut random)
                        .expect("nearly all ports are free");
                    for slot in covered(local) {
                        prop_assert!(model.insert((port, slot.0), (number, local)).is_none());
                    }
                }
                Step::Release(local, port) => {
                    let first = covered(local).next().expect("a binding covers an address");
                    let held = model.get(&(port, first.0)).filter(|held| held.1 == local).copied();
                    let released = table.release(slots(LOCALS[local]), port);
                    prop_assert_eq!(released, held.map(|held| held.0));
                    if held.is_some() {
                        model.retain(|key, value| key.0 != port || value.1 != local);
                    }
                }
            }
            for port in 1..6 {
                for slot in SINGLE {
                    let expected = model.get(&(port, slot.0)).map(|held| &held.0);
                    prop_assert_eq!(table.find(slot, port), expected);
                }
            }
        }
    }
}
