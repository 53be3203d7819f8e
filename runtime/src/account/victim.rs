//! Which container ends when the node's memory is used up: what each has in, the choice out.

use crate::spec::QosClass;
use std::cmp::Reverse;

/// What one container has and asked for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its pod's: the lowest ends first.
    pub(super) class: QosClass,
    /// What comes back when it ends.
    pub(super) own: u64,
    /// What its pod holds beside its containers.
    pub(super) shared: u64,
    pub(super) request: u64,
}

/// Chooses the one furthest above its request in the lowest class; of equals the one that has more, then
/// the first. One that has nothing is never chosen: its end would make no room.
pub(super) fn choose(standings: &[Standing]) -> Option<usize> {
    let used = |one: &Standing| i128::from(one.own) + i128::from(one.shared);
    let above = |one: &Standing| used(one) - i128::from(one.request);
    let having = standings.iter().enumerate().filter(|(_, one)| one.own > 0);
    having
        .min_by_key(|(_, one)| (one.class, Reverse(above(one)), Reverse(one.own)))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::QosClass::{BestEffort, Burstable, Guaranteed};

    #[test]
    fn the_one_furthest_above_its_request_in_the_lowest_class_is_chosen() {
        let check = |standings: &[(QosClass, u64, u64)], expected: Option<usize>| {
            let standings: Vec<_> = standings
                .iter()
                .map(|&(class, used, request)| Standing {
                    class,
                    own: used,
                    shared: 0,
                    request,
                })
                .collect();
            assert_eq!(choose(&standings), expected, "{standings:?}");
        };
        check(&[], None);
        check(&[(BestEffort, 0, 0), (Guaranteed, 0, 9)], None);
        check(&[(Burstable, 900, 1), (BestEffort, 1, 0)], Some(1));
        check(&[(Guaranteed, 900, 900), (Burstable, 1, 500)], Some(1));
        check(&[(Burstable, 500, 400), (Burstable, 300, 100)], Some(1));
        check(&[(BestEffort, 10, 0), (BestEffort, 20, 0)], Some(1));
        // All below their requests: the nearest.
        check(&[(Burstable, 10, 100), (Burstable, 50, 60)], Some(1));
        check(&[(Burstable, 50, 40), (Burstable, 70, 60)], Some(1));
        check(&[(Guaranteed, 50, 50), (Guaranteed, 50, 50)], Some(0));
        check(&[(BestEffort, 0, 0), (Guaranteed, 50, 50)], Some(1));
        check(
            &[(BestEffort, u64::MAX, 0), (BestEffort, 1, u64::MAX)],
            Some(0),
        );
    }

    #[test]
    fn what_a_pod_holds_beside_counts_but_is_not_had_by_an_end() {
        let standing = |own, shared| Standing {
            class: Burstable,
            own,
            shared,
            request: 0,
        };
        assert_eq!(choose(&[standing(50, 0), standing(10, 100)]), Some(1));
        assert_eq!(choose(&[standing(50, 0), standing(0, 100)]), Some(0));
    }
}
