//! Power cuts, full disks and failing syncs, simulated under a seed.
//!
//! A *world* holds a disk and two copies of the compacted state. Every operation on either costs
//! one unit of power; when it runs out, nothing changes any more and every call fails. Then the
//! world is *cut*: what was not synced survives in part, at random. A store is opened again on what
//! is left and must hold exactly what was acknowledged, and at most one group more.

mod disk;
mod faults;
mod life;
mod scenario;
mod shelf;

use std::{io, sync::Arc};

use parking_lot::Mutex;
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

/// What all parts of a world share: chance, and the faults in force.
#[derive(Debug)]
pub(super) struct Fate {
    random: SmallRng,
    /// Operations until the power fails; absent, it never does.
    power: Option<u32>,
    /// One operation in so many fails.
    faults: Option<u32>,
}

pub(super) type SharedFate = Arc<Mutex<Fate>>;

impl Fate {
    fn new(seed: u64) -> SharedFate {
        Arc::new(Mutex::new(Fate {
            random: SmallRng::seed_from_u64(seed),
            power: None,
            faults: None,
        }))
    }

    /// Pays for one operation.
    fn spend(&mut self) -> io::Result<()> {
        if let Some(power) = &mut self.power {
            let Some(left) = power.checked_sub(1) else {
                return Err(io::Error::other("the power is cut"));
            };
            *power = left;
        }
        Ok(())
    }

    fn is_dark(&self) -> bool {
        self.power == Some(0)
    }

    /// Tells whether this operation fails by itself.
    fn faulty(&mut self) -> bool {
        self.faults.is_some_and(|one_in| self.one_in(one_in))
    }

    fn one_in(&mut self, chances: u32) -> bool {
        self.random.random_range(0..chances) == 0
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    fn number(&mut self) -> u64 {
        self.random.next_u64()
    }
}
