//! The rules of `CategorizeEndpoints`, each a test named after it.

use super::*;

const READY: Condition = Condition {
    is_ready: true,
    is_serving: true,
    is_terminating: false,
};
const NOT_READY: Condition = Condition {
    is_ready: false,
    is_serving: false,
    is_terminating: false,
};
const ENDING: Condition = Condition {
    is_ready: false,
    is_serving: true,
    is_terminating: true,
};
const ENDED: Condition = Condition {
    is_ready: false,
    is_serving: false,
    is_terminating: true,
};

/// An endpoint as a row has it: condition, node, hints for nodes, hints for zones.
type Row = (
    Condition,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

fn here() -> Place {
    Place {
        node: Some("here".to_owned()),
        zone: Some("a".to_owned()),
    }
}

fn check(place: &Place, rows: &[Row], cluster: &[usize], local: &[usize]) {
    let owned = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let hints = rows
        .iter()
        .map(|row| (owned(row.2), owned(row.3)))
        .collect::<Vec<_>>();
    let candidates = rows.iter().zip(&hints).map(|(row, hints)| Candidate {
        condition: row.0,
        node: (!row.1.is_empty()).then_some(row.1),
        for_nodes: &hints.0,
        for_zones: &hints.1,
    });
    let chosen = choose(candidates.map(|one| one.standing(place)));
    let expected = Chosen {
        cluster: cluster.to_vec(),
        local: local.to_vec(),
    };
    assert_eq!(chosen, expected, "for {rows:?} at {place:?}");
}

#[test]
fn every_ready_endpoint_is_of_the_cluster_and_those_of_the_node_are_local() {
    let rows: &[Row] = &[
        (READY, "here", &[], &[]),
        (READY, "there", &[], &[]),
        (NOT_READY, "here", &[], &[]),
        (READY, "", &[], &[]),
    ];
    check(&here(), rows, &[0, 1, 3], &[0]);
}

#[test]
fn nothing_is_local_to_a_proxy_without_a_node() {
    let rows: &[Row] = &[(READY, "here", &[], &[]), (READY, "", &[], &[])];
    check(&Place::default(), rows, &[0, 1], &[]);
}

/// Connections are refused only when nobody could answer them.
#[test]
fn endpoints_that_serve_until_they_end_are_used_when_none_is_ready() {
    let rows: &[Row] = &[
        (ENDING, "there", &[], &[]),
        (ENDED, "here", &[], &[]),
        (NOT_READY, "here", &[], &[]),
        (ENDING, "here", &[], &[]),
    ];
    check(&here(), rows, &[0, 3], &[3]);
    let rows: &[Row] = &[(ENDING, "there", &[], &[]), (READY, "there", &[], &[])];
    check(&here(), rows, &[1], &[]);
}

#[test]
fn the_sets_fall_back_each_for_itself() {
    let rows: &[Row] = &[(READY, "there", &[], &[]), (ENDING, "here", &[], &[])];
    check(&here(), rows, &[0], &[1]);
}

#[test]
fn no_endpoint_is_chosen_that_neither_is_ready_nor_serves() {
    let rows: &[Row] = &[(NOT_READY, "here", &[], &[]), (ENDED, "here", &[], &[])];
    check(&here(), rows, &[], &[]);
    check(&here(), &[], &[], &[]);
}

#[test]
fn hints_for_zones_hold_if_every_ready_endpoint_has_them_and_one_names_ours() {
    let rows: &[Row] = &[
        (READY, "here", &[], &["a"]),
        (READY, "there", &[], &["b"]),
        (READY, "far", &[], &["a", "b"]),
    ];
    check(&here(), rows, &[0, 2], &[0]);
    let rows: &[Row] = &[(READY, "here", &[], &["a"]), (READY, "there", &[], &[])];
    check(&here(), rows, &[0, 1], &[0]);
    let rows: &[Row] = &[(READY, "here", &[], &["b"]), (READY, "there", &[], &["c"])];
    check(&here(), rows, &[0, 1], &[0]);
    let unknown = Place {
        zone: None,
        ..here()
    };
    let rows: &[Row] = &[(READY, "here", &[], &["a"]), (READY, "there", &[], &["b"])];
    check(&unknown, rows, &[0, 1], &[0]);
}

#[test]
fn hints_of_endpoints_that_are_not_ready_do_not_count() {
    let rows: &[Row] = &[
        (READY, "here", &[], &["a"]),
        (NOT_READY, "there", &[], &[]),
        (READY, "there", &[], &["b"]),
    ];
    check(&here(), rows, &[0], &[0]);
}

#[test]
fn hints_for_nodes_come_before_hints_for_zones() {
    let rows: &[Row] = &[
        (READY, "here", &["here"], &["b"]),
        (READY, "there", &["there"], &["a"]),
    ];
    check(&here(), rows, &[0], &[0]);
    let rows: &[Row] = &[
        (READY, "far", &["far"], &["b"]),
        (READY, "there", &["there"], &["a"]),
    ];
    check(&here(), rows, &[1], &[]);
}

/// Hints say who shall be used by whom, and only the policy `Cluster` asks that.
#[test]
fn the_policy_local_knows_no_hints() {
    let rows: &[Row] = &[(READY, "here", &[], &["b"]), (READY, "there", &[], &["a"])];
    check(&here(), rows, &[1], &[0]);
}

#[test]
fn endpoints_that_are_ending_are_used_whatever_their_hints_say() {
    let rows: &[Row] = &[(ENDING, "there", &[], &["b"]), (ENDING, "far", &[], &["a"])];
    check(&here(), rows, &[0, 1], &[]);
}
