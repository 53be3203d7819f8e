//! Hands out numbers of a range, each to one holder, as late as possible again: pod addresses and
//! loopback addresses.

/// A set of numbers `0..len`, kept as bits.
#[derive(Debug)]
pub(crate) struct AddressPool {
    words: Vec<u64>,
    len: u32,
    free: u32,
    next: u32,
}

impl AddressPool {
    /// Returns the pool of `0..len` with `reserved` taken for good.
    pub(crate) fn new(len: u32, reserved: &[u32]) -> AddressPool {
        let words = vec![0; len.div_ceil(u64::BITS) as usize];
        let mut pool = AddressPool {
            words,
            len,
            free: len,
            next: 0,
        };
        for index in reserved {
            pool.take_exactly(*index);
        }
        pool
    }

    /// Takes the next free number after the last one taken, so that a freed one rests for a round.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if self.free == 0 {
            return None;
        }
        let index = self.free_from(self.next).or_else(|| self.free_from(0))?;
        self.take_exactly(index);
        self.next = if index + 1 == self.len { 0 } else { index + 1 };
        Some(index)
    }

    /// Takes `wanted` if it is free, else any.
    pub(crate) fn take_preferring(&mut self, wanted: u32) -> Option<u32> {
        if self.take_exactly(wanted) {
            Some(wanted)
        } else {
            self.take()
        }
    }

    /// Gives a number back.
    pub(crate) fn give_back(&mut self, index: u32) {
        let (word, bit) = place(index);
        if index < self.len && self.words[word] & bit != 0 {
            self.words[word] &= !bit;
            self.free += 1;
        }
    }

    /// Takes `index` if it is free.
    pub(crate) fn take_exactly(&mut self, index: u32) -> bool {
        let (word, bit) = place(index);
        let free = index < self.len && self.words[word] & bit == 0;
        if free {
            self.words[word] |= bit;
            self.free -= 1;
        }
        free
    }

    /// Returns the first free number from `start`; looks at 64 numbers at once.
    fn free_from(&self, start: u32) -> Option<u32> {
        let (first, bit) = place(start);
        let mut below_start = bit - 1;
        for (number, word) in self.words.iter().enumerate().skip(first) {
            let taken = word | std::mem::take(&mut below_start);
            if taken != u64::MAX {
                let index = number as u32 * u64::BITS + taken.trailing_ones();
                return (index < self.len).then_some(index);
            }
        }
        None
    }
}

fn place(index: u32) -> (usize, u64) {
    ((index / u64::BITS) as usize, 1 << (index % u64::BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_freed_address_rests_until_the_others_had_their_turn() {
        let mut pool = AddressPool::new(4, &[0]);
        assert_eq!((pool.take(), pool.take()), (Some(1), Some(2)));
        pool.give_back(1);
        assert_eq!(
            (pool.take(), pool.take(), pool.take()),
            (Some(3), Some(1), None)
        );
    }

    #[test]
    fn a_wanted_address_is_given_when_it_is_free() {
        let mut pool = AddressPool::new(100, &[0]);
        assert_eq!(pool.take_preferring(70), Some(70));
        assert_eq!(pool.take_preferring(70), Some(1));
        assert_eq!(pool.take_preferring(4_000_000), Some(2));
    }

    #[test]
    fn giving_back_twice_or_something_foreign_is_harmless() {
        let mut pool = AddressPool::new(2, &[]);
        assert_eq!(pool.take(), Some(0));
        pool.give_back(0);
        pool.give_back(0);
        pool.give_back(7);
        assert_eq!(
            (pool.take(), pool.take(), pool.take()),
            (Some(1), Some(0), None)
        );
    }

    proptest! {
        /// However numbers come and go, no number is held twice and none is lost.
        #[test]
        fn behaves_like_a_set(
            len in 1u32..200,
            steps in prop::collection::vec(any::<Option<u32>>(), 0..400),
        ) {
            let mut pool = AddressPool::new(len, &[]);
            let mut held = BTreeSet::new();
            for step in steps {
                match step {
                    None => match pool.take() {
                        Some(index) => prop_assert!(index < len && held.insert(index)),
                        None => prop_assert_eq!(held.len(), len as usize),
                    },
                    Some(index) => {
                        pool.give_back(index % len);
                        held.remove(&(index % len));
                    }
                }
            }
        }
    }
}
