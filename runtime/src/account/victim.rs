//! Which container ends when the node's memory is used up: what each has in, the choice out.

use crate::spec::Limits;
use std::cmp::Reverse;

/// A container's quality of service by its own requests and limits; the first ends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// It asked for nothing and is not limited.
    BestEffort,
    /// Everything between the two others.
    Burstable,
    /// It asked for exactly what it is limited to, of both resources.
    Guaranteed,
}

/// What one container has and asked for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) class: Class,
    pub(super) used: u64,
    pub(super) request: u64,
}

impl Class {
    pub(super) fn of(limits: &Limits) -> Self {
        let Limits {
            memory,
            memory_request,
            cpu_milli,
            cpu_request_milli,
        } = *limits;
        let asked = memory_request > 0 || cpu_request_milli > 0;
        if !asked && memory.is_none() && cpu_milli.is_none() {
            Class::BestEffort
        } else if memory == Some(memory_request) && cpu_milli == Some(cpu_request_milli) {
            Class::Guaranteed
        } else {
            Class::Burstable
        }
    }
}

/// Chooses the one furthest above its request in the lowest class; of equals the one that has more, then
/// the first. One that has nothing is never chosen: its end would make no room.
pub(super) fn choose(standings: &[Standing]) -> Option<usize> {
    let above = |one: &Standing| i128::from(one.used) - i128::from(one.request);
    let having = standings.iter().enumerate().filter(|(_, one)| one.used > 0);
    having
        .min_by_key(|(_, one)| (one.class, Reverse(above(one)), Reverse(one.used)))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::Class::{BestEffort, Burstable, Guaranteed};
    use super::*;

    #[test]
    fn the_one_furthest_above_its_request_in_the_lowest_class_is_chosen() {
        let check = |standings: &[(Class, u64, u64)], expected: Option<usize>| {
            let standings: Vec<_> = standings
                .iter()
                .map(|&(class, used, request)| Standing {
                    class,
                    used,
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
    fn a_class_follows_from_requests_and_limits() {
        let check = |memory, memory_request, cpu_milli, cpu_request_milli, expected| {
            let limits = Limits {
                memory,
                memory_request,
                cpu_milli,
                cpu_request_milli,
            };
            assert_eq!(Class::of(&limits), expected, "{limits:?}");
        };
        check(None, 0, None, 0, BestEffort);
        check(Some(9), 9, Some(5), 5, Guaranteed);
        check(Some(9), 9, None, 0, Burstable);
        check(Some(9), 8, Some(5), 5, Burstable);
        check(Some(9), 9, Some(5), 4, Burstable);
        check(None, 9, None, 0, Burstable);
        check(None, 0, None, 5, Burstable);
        check(Some(9), 0, None, 0, Burstable);
    }
}
