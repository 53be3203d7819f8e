//! The endpoints that slices name for one port of a Service, usable or not, in the order of their addresses.
//!
//! A change of one slice touches the endpoints that this slice names and no others, so that it costs little
//! with a hundred thousand of them. Only who is chosen is listed anew.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use coracle_network::Endpoint;

use crate::topology::{self, Chosen, Standing};

/// What a slice says of an endpoint.
pub(super) type Entry = (SocketAddr, Standing);

/// The endpoints. One that is not ready for a while is the same afterwards, with its counters.
#[derive(Debug, Default)]
pub(super) struct Roster {
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    address: SocketAddr,
    /// By the entry that is believed.
    standing: Standing,
    /// The entries for it, of all slices.
    entries: usize,
    endpoint: Arc<Endpoint>,
}

/// Whether anything is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Same,
    Changed,
}

/// What becomes of one address.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// Entries of the slice for it, before and after.
    before: usize,
    after: usize,
    /// The one of those after that is believed.
    best: Option<Standing>,
}

/// What an address is to be.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Gone,
    Stands { standing: Standing, entries: usize },
}

impl Roster {
    /// Takes all entries there are, in any order.
    pub(super) fn renew(&mut self, entries: impl Iterator<Item = Entry>) {
        let mut all = entries.collect::<Vec<_>>();
        // Slices are in order within themselves more often than not, which a stable sort makes use of.
        all.sort_by_key(|(address, _)| *address);
        // Both are in the order of addresses: one walk through both finds who was there before.
        let mut before = std::mem::take(&mut self.known).into_iter().peekable();
        let same_address = all.chunk_by(|one, other| one.0 == other.0);
        self.known = same_address
            .filter_map(|same| {
                let (address, _) = *same.first()?;
                while before.next_if(|one| one.address < address).is_some() {}
                let kept = before.next_if(|one| one.address == address);
                Some(Known {
                    address,
                    standing: believed(same.iter().map(|(_, standing)| *standing))?,
                    entries: same.len(),
                    endpoint: kept.map_or_else(|| Endpoint::new(address), |one| one.endpoint),
                })
            })
            .collect();
    }

    /// Takes what one slice says instead of what it said. `all` gives the entries of all slices, this one
    /// included; it is asked only where another slice names the same address.
    pub(super) fn turn<I: Iterator<Item = Entry>>(
        &mut self,
        before: impl Iterator<Item = Entry>,
        after: impl Iterator<Item = Entry>,
        all: impl FnOnce() -> I,
    ) -> Outcome {
        let mut turns = BTreeMap::<SocketAddr, Turn>::new();
        for (address, _) in before {
            turns.entry(address).or_default().before += 1;
        }
        for (address, standing) in after {
            let turn = turns.entry(address).or_default();
            turn.after += 1;
            turn.best = believed(turn.best.into_iter().chain([standing]));
        }
        let shared = |(address, turn): (&SocketAddr, &mut Turn)| {
            let known = self.find(*address).map_or(0, |at| self.known[at].entries);
            (known > turn.before).then_some(*address)
        };
        let shared = turns.iter_mut().filter_map(shared).collect::<Vec<_>>();
        if !shared.is_empty() {
            let is_shared = |(address, _): &Entry| shared.binary_search(address).is_ok();
            for (address, standing) in all().filter(is_shared) {
                let turn = turns.entry(address).or_default();
                turn.best = believed(turn.best.into_iter().chain([standing]));
            }
        }
        let fates = turns.into_iter().map(|(address, turn)| {
            let known = self.find(address).map_or(0, |at| self.known[at].entries);
            let entries = known.saturating_sub(turn.before) + turn.after;
            let standing = turn.best.filter(|_| entries > 0);
            let stands = |standing| Fate::Stands { standing, entries };
            (address, standing.map_or(Fate::Gone, stands))
        });
        let fates = fates.collect::<Vec<_>>();
        self.settle(fates)
    }

    /// Chooses the endpoints for each policy.
    pub(super) fn chosen(&self) -> (Vec<Arc<Endpoint>>, Vec<Arc<Endpoint>>) {
        let standings = self.known.iter().map(|known| known.standing);
        let Chosen { cluster, local } = topology::choose(standings);
        let pick = |places: Vec<usize>| {
            let picked = places.into_iter().map(|place| &self.known[place].endpoint);
            picked.cloned().collect::<Vec<_>>()
        };
        (pick(cluster), pick(local))
    }

    /// Does what is to be done with addresses, which are in order.
    fn settle(&mut self, fates: Vec<(SocketAddr, Fate)>) -> Outcome {
        let mut outcome = Outcome::Same;
        let mut others = Vec::new();
        for (address, fate) in fates {
            match (self.find(address), fate) {
                (Some(at), Fate::Stands { standing, entries }) => {
                    let known = &mut self.known[at];
                    known.entries = entries;
                    if std::mem::replace(&mut known.standing, standing) != standing {
                        outcome = Outcome::Changed;
                    }
                }
                (None, Fate::Gone) => {}
                (Some(_), Fate::Gone) | (None, Fate::Stands { .. }) => {
                    others.push((address, fate));
                }
            }
        }
        if others.is_empty() {
            return outcome;
        }
        self.merge(others);
        Outcome::Changed
    }

    /// Takes addresses in that are not known, and those out that are.
    fn merge(&mut self, others: Vec<(SocketAddr, Fate)>) {
        let known = std::mem::take(&mut self.known);
        let mut merged = Vec::with_capacity(known.len() + others.len());
        let mut known = known.into_iter().peekable();
        for (address, fate) in others {
            while let Some(one) = known.next_if(|one| one.address < address) {
                merged.push(one);
            }
            match fate {
                Fate::Gone => drop(known.next_if(|one| one.address == address)),
                Fate::Stands { standing, entries } => merged.push(Known {
                    address,
                    standing,
                    entries,
                    endpoint: Endpoint::new(address),
                }),
            }
        }
        merged.extend(known);
        self.known = merged;
    }

    fn find(&self, address: SocketAddr) -> Option<usize> {
        self.known
            .binary_search_by_key(&address, |known| known.address)
            .ok()
    }
}

/// Returns which of several entries for one address is believed: while a pod moves between slices, the old
/// entry may say less than the new one. Of equals the first.
fn believed(entries: impl Iterator<Item = Standing>) -> Option<Standing> {
    let rank = |one: &Standing| {
        let condition = one.condition;
        (
            condition.is_ready,
            !condition.is_terminating,
            condition.is_serving,
        )
    };
    entries.reduce(|one, other| {
        if rank(&other) > rank(&one) {
            other
        } else {
            one
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::Condition;
    use crate::topology::Hint;

    fn standing(ready: bool, terminating: bool) -> Standing {
        Standing {
            condition: Condition {
                is_ready: ready,
                is_serving: true,
                is_terminating: terminating,
            },
            is_local: ready != terminating,
            for_nodes: Hint::Missing,
            for_zones: Hint::Missing,
        }
    }

    fn entry((number, ready, terminating): (u8, bool, bool)) -> Entry {
        let address = SocketAddr::from(([10, 0, 0, number], 80));
        (address, standing(ready, terminating))
    }

    fn addresses(endpoints: &[Arc<Endpoint>]) -> Vec<SocketAddr> {
        endpoints.iter().map(|one| one.address()).collect()
    }

    /// A few slices over few addresses, so that they meet.
    fn slices() -> impl Strategy<Value = Vec<Vec<(u8, bool, bool)>>> {
        let slice = proptest::collection::vec((0..12u8, any::<bool>(), any::<bool>()), 0..6);
        proptest::collection::vec(slice, 4)
    }

    proptest! {
        /// Whatever slices become, one after the other, is what they are together at once.
        #[test]
        fn slice_by_slice_is_as_all_at_once(steps in proptest::collection::vec(slices(), 1..5)) {
            let mut now = vec![Vec::new(); 4];
            let mut roster = Roster::default();
            for (number, slice) in steps.into_iter().flat_map(|step| step.into_iter().enumerate()) {
                let before = std::mem::replace(&mut now[number], slice.clone());
                let kept: Vec<_> = roster.known.iter().map(|one| Arc::clone(&one.endpoint)).collect();
                let was = roster.chosen();
                let outcome = roster.turn(
                    before.into_iter().map(entry),
                    slice.into_iter().map(entry),
                    || now.iter().flatten().copied().map(entry),
                );
                let mut whole = Roster::default();
                whole.renew(now.iter().flatten().copied().map(entry));
                let facts = |roster: &Roster| -> Vec<_> {
                    let known = roster.known.iter();
                    known.map(|one| (one.address, one.standing, one.entries)).collect()
                };
                prop_assert_eq!(facts(&roster), facts(&whole));
                let (is, all) = (roster.chosen(), whole.chosen());
                prop_assert_eq!(addresses(&is.0), addresses(&all.0));
                prop_assert_eq!(addresses(&is.1), addresses(&all.1));
                if outcome == Outcome::Same {
                    prop_assert_eq!(addresses(&was.0), addresses(&is.0));
                    prop_assert_eq!(addresses(&was.1), addresses(&is.1));
                }
                // Who stayed is who it was.
                for one in &roster.known {
                    let before = kept.iter().find(|kept| kept.address() == one.address);
                    prop_assert!(before.is_none_or(|kept| Arc::ptr_eq(kept, &one.endpoint)));
                }
            }
        }
    }
}
