//! What happens in a world under a seed, and what must be true of it afterwards.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Fate, SharedFate,
    disk::Disk,
    life::{KEYS, Life, SECRET, Values, Write, apply},
    shelf::Shelf,
};
use crate::{Expect, Revision, durable::OpenError};

/// How many worlds the test goes through; together they take a few seconds.
const SEEDS: u64 = 10_000;
const LIFETIMES: usize = 4;
const STEPS: usize = 16;

/// A disk, its copies, and what whoever uses them knows for certain.
pub(super) struct World {
    seed: u64,
    pub(super) fate: SharedFate,
    pub(super) disk: Disk,
    pub(super) shelf: Shelf,
    known: Known,
}

/// Invariant: `values` holds exactly what was acknowledged.
struct Known {
    values: Values,
    newest: u64,
    /// Groups that were refused since the last one that was not: one of them may be there.
    doubtful: Vec<Vec<Write>>,
    /// What a watcher of `/a/` must have seen since the store was opened.
    seen: Vec<u64>,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let fate = Fate::new(seed);
        World {
            seed,
            disk: Disk::new(Arc::clone(&fate)),
            shelf: Shelf::new(Arc::clone(&fate)),
            fate,
            known: Known {
                values: BTreeMap::new(),
                newest: 1,
                doubtful: Vec::new(),
                seen: Vec::new(),
            },
        }
    }

    pub(super) fn try_open(&self) -> Result<Life, OpenError> {
        Life::begin(&self.disk, &self.shelf)
    }

    /// Opens the store, through power cuts during the start, and checks what it holds.
    fn open(&mut self) -> Life {
        for _ in 0..3 {
            self.set_power(|fate| (!fate.one_in(3)).then(|| fate.below(40)));
            let life = self.try_open();
            let is_dark = self.fate.lock().is_dark();
            self.set_power(|_| None);
            match (life, is_dark) {
                (Ok(life), false) => return self.check(life),
                (_, true) => self.cut(),
                (Err(error), false) => panic!("seed {}: {error:?}", self.seed),
            }
        }
        match self.try_open() {
            Ok(life) => self.check(life),
            Err(error) => panic!("seed {}: {error:?}", self.seed),
        }
    }

    fn set_power(&self, power: impl FnOnce(&mut Fate) -> Option<usize>) {
        let mut fate = self.fate.lock();
        let power = power(&mut fate);
        fate.power = power.map(|power| u32::try_from(power).unwrap());
    }

    pub(super) fn cut(&self) {
        self.disk.cut();
        self.shelf.cut();
    }

    /// Everything acknowledged is there, and at most one of the groups in doubt, whole.
    fn check(&mut self, life: Life) -> Life {
        let (found, at) = (life.contents(), life.store.revision().get());
        let known = &mut self.known;
        if at != known.newest {
            let mut groups = known.doubtful.iter();
            let last = |group: &&Vec<Write>| group.last().is_some_and(|w| w.revision == at);
            let Some(group) = groups.find(last) else {
                panic!("seed {}: revision {at} after {}", self.seed, known.newest);
            };
            group
                .iter()
                .for_each(|write| apply(&mut known.values, write));
            known.newest = at;
        }
        assert_eq!(found, known.values, "seed {}, at revision {at}", self.seed);
        known.doubtful.clear();
        known.seen.clear();
        life
    }

    /// Commits a group, and learns from the answers.
    fn commit(&mut self, life: &mut Life) {
        let aim = [1, 100, 1 << 20][self.fate.lock().below(3)];
        let (committed, answers) = life.commit(aim);
        let known = &mut self.known;
        let is_refused = answers.iter().any(|(_, answer)| answer.is_err());
        for (write, answer) in &answers {
            let Ok(at) = answer else { continue };
            assert!(
                !is_refused,
                "seed {}: a group is whole or not at all",
                self.seed
            );
            assert!(
                *at == write.revision && *at > known.newest,
                "seed {}",
                self.seed
            );
            apply(&mut known.values, write);
            known.newest = *at;
            // The journal went on, so what it refused before is fenced off.
            known.doubtful.clear();
            if write.key.starts_with("/a/") {
                known.seen.push(*at);
            }
        }
        if is_refused {
            let all = answers.into_iter().map(|(write, _)| write);
            let group = all.filter(|write| committed.contains(&write.revision));
            known.doubtful.push(group.collect());
        }
        assert_eq!(
            life.contents(),
            known.values,
            "seed {}: shown too early",
            self.seed
        );
    }

    fn step(&mut self, life: &mut Life) {
        let chance = self.fate.lock().below(20);
        match chance {
            0..=9 => self.write(life),
            10..=13 => self.commit(life),
            14 => life.rotate(),
            15..=16 => drop(life.checkpoint()),
            17 => {
                let room = self.fate.lock().below(400);
                self.disk.set_room(Some(room));
            }
            18 => self.disk.set_room(None),
            _ => {
                let faults = [None, None, Some(6), Some(20)];
                let mut fate = self.fate.lock();
                let at = fate.below(faults.len());
                fate.faults = faults[at];
            }
        }
    }

    /// Sends a write that is right if everything before it succeeds, or one that is wrong.
    fn write(&mut self, life: &mut Life) {
        let mut fate = self.fate.lock();
        let (key, kind, size) = (KEYS[fate.below(KEYS.len())], fate.below(8), fate.below(60));
        let mut value = SECRET.to_vec();
        value.extend(fate.number().to_le_bytes());
        value.resize(value.len() + size, b'.');
        drop(fate);
        let found = life.ahead.get(key).map(|(at, _)| Revision::from(*at));
        match (found, kind) {
            (Some(at), 0) => life.send(key, Expect::At(at), None),
            (Some(at), 1..=4) => life.send(key, Expect::At(at), Some(value)),
            (Some(_), 5) => life.send(key, Expect::Present, Some(value)),
            (None, 0..=5) => life.send(key, Expect::Absent, Some(value)),
            (Some(_), _) => life.send_wrong(key, Expect::Absent),
            (None, _) => life.send_wrong(key, Expect::Present),
        }
    }

    /// One process: starts, works, and ends by a power cut or by being killed.
    fn live(&mut self) {
        let mut life = self.open();
        self.set_power(|fate| (!fate.one_in(4)).then(|| 5 + fate.below(90)));
        for _ in 0..STEPS {
            self.step(&mut life);
            if self.fate.lock().is_dark() {
                break;
            }
        }
        assert_eq!(life.watched(), self.known.seen, "seed {}", self.seed);
        drop(life);
        let mut fate = self.fate.lock();
        fate.faults = None;
        fate.power = None;
        let is_cut = fate.one_in(2);
        drop(fate);
        self.disk.set_room(None);
        // A killed process leaves to the system what it wrote.
        if is_cut {
            self.cut();
        }
    }
}

#[test]
fn ten_thousand_power_cuts_lose_nothing_acknowledged() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..LIFETIMES {
            world.live();
        }
        drop(world.open());
    }
}

/// Not cut at all: the store is a map that survives restarts and checkpoints.
#[test]
fn without_faults_the_store_is_a_map_that_survives_restarts() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        for _ in 0..4 {
            let mut life = world.try_open().unwrap();
            life = world.check(life);
            for _ in 0..40 {
                world.write(&mut life);
                if world.fate.lock().one_in(3) {
                    world.commit(&mut life);
                }
                life.pass(Duration::from_secs(60));
                life.checkpoint().unwrap();
            }
            world.commit(&mut life);
            while life.is_waiting() {
                world.commit(&mut life);
            }
        }
    }
}
