use coracle_tests::{By, enter_namespace};

use super::*;

/// Returns the tables of ours that there are.
fn tables() -> Vec<String> {
    let listed = Netfilter::open().unwrap().list(Kind::GetTable).unwrap();
    let named = listed
        .iter()
        .filter_map(|table| netfilter::text(table, NFTA_TABLE_NAME));
    named.collect()
}

#[test]
fn a_table_is_named_after_its_first_range() {
    let named = |range: &str| name(&[range.parse().unwrap()]);
    assert_eq!(named("10.96.7.0/16"), "coracle_10_96_0_0_16");
    assert_eq!(named("fd00:10::/108"), "coracle_fd00_10___108");
    assert_eq!(name(&[]), "coracle_node");
}

#[test]
fn tables_without_an_owner_are_removed_at_the_end_and_by_who_comes_after_a_kill() {
    let test = "rules::tests::\
        tables_without_an_owner_are_removed_at_the_end_and_by_who_comes_after_a_kill";
    if enter_namespace(test, "ip link set lo up", By::RootOfNamespace).is_none() {
        return;
    }
    let [first, second] = ["10.96.0.0/16", "10.97.0.0/16"].map(|range| range.parse().unwrap());
    let make = |range, owner| SocketRules::make(&[range], 4, owner).unwrap();
    // What a killed process leaves, on a kernel that knows no owners: its tables, and no claim. The chain
    // is in the way of the one of that name, so a table that were used again would be told.
    let leave = |range: IpNet| {
        let table = name(&[range]);
        let attributes = Attributes::default().text(NFTA_TABLE_NAME, &table);
        let chain = Attributes::default()
            .text(NFTA_CHAIN_TABLE, &table)
            .text(NFTA_CHAIN_NAME, PREROUTING);
        let changes = [
            Change::new(Kind::NewTable, attributes),
            Change::new(Kind::NewChain, chain),
        ];
        Netfilter::open().unwrap().commit(&changes).unwrap();
    };
    leave(first);
    leave(second);
    let others = Attributes::default().text(NFTA_TABLE_NAME, "somebody");
    let others = Change::new(Kind::NewTable, others);
    Netfilter::open().unwrap().commit(&[others]).unwrap();
    let held = make(first, Owner::Nobody);
    assert_eq!(tables(), ["somebody", &name(&[first])]);
    // One that is claimed stays.
    let beside = make(second, Owner::Nobody);
    assert_eq!(tables(), ["somebody", &name(&[first]), &name(&[second])]);
    drop(beside);
    drop(held);
    assert_eq!(tables(), ["somebody"]);
    let owned = make(first, Owner::Socket);
    assert_eq!(tables(), ["somebody", &name(&[first])]);
    drop(owned);
    assert_eq!(tables(), ["somebody"]);
}
