//! Two copies of the compacted state that lose whatever may be lost.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::SharedFate;
use crate::durable::base::{Base, BaseError, Bases, Side};

type Entries = BTreeMap<String, Vec<u8>>;

/// The simulated copies; clones share them.
#[derive(Clone)]
pub(crate) struct Shelf {
    fate: SharedFate,
    copies: Arc<Mutex<[Copy; 2]>>,
}

/// A copy that is open for writing is not durable at all until it is closed.
#[derive(Clone, Default)]
struct Copy {
    entries: Entries,
    is_dirty: bool,
}

struct OpenCopy {
    shelf: Shelf,
    side: Side,
}

impl Shelf {
    pub(crate) fn new(fate: SharedFate) -> Shelf {
        Shelf {
            fate,
            copies: Arc::default(),
        }
    }

    /// A copy that was being written when the power failed holds anything, or nothing.
    pub(crate) fn cut(&self) {
        let (mut copies, mut fate) = (self.copies.lock(), self.fate.lock());
        for copy in copies.iter_mut().filter(|copy| copy.is_dirty) {
            let keep = fate.one_in(2);
            copy.entries.retain(|_, _| keep && fate.one_in(2));
            copy.is_dirty = false;
        }
    }

    /// Changes one entry of a copy behind its back.
    pub(crate) fn damage(&self, side: Side) {
        let mut copies = self.copies.lock();
        let entry = copies[index(side)].entries.values_mut().next().unwrap();
        *entry.last_mut().unwrap() ^= 1;
    }

    pub(crate) fn holds(&self, needle: &[u8]) -> bool {
        let copies = self.copies.lock();
        let mut values = copies.iter().flat_map(|copy| copy.entries.values());
        values.any(|value| value.windows(needle.len()).any(|part| part == needle))
    }

    fn spend(&self) -> Result<(), BaseError> {
        let mut fate = self.fate.lock();
        let failed = |source| BaseError::Files {
            path: "simulated".into(),
            source,
        };
        fate.spend().map_err(failed)?;
        match fate.faulty() {
            true => Err(BaseError::Panicked),
            false => Ok(()),
        }
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::A => 0,
        Side::B => 1,
    }
}

impl Bases for Shelf {
    fn open(&self, side: Side) -> Result<Box<dyn Base>, BaseError> {
        self.spend()?;
        Ok(Box::new(OpenCopy {
            shelf: self.clone(),
            side,
        }))
    }

    fn wipe(&self, side: Side) -> Result<(), BaseError> {
        self.spend()?;
        self.copies.lock()[index(side)] = Copy::default();
        Ok(())
    }

    fn duplicate(&self, from: Side, to: Side) -> Result<(), BaseError> {
        self.spend()?;
        let mut copies = self.copies.lock();
        copies[index(to)] = Copy {
            entries: copies[index(from)].entries.clone(),
            is_dirty: true,
        };
        Ok(())
    }
}

impl OpenCopy {
    fn write<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> Result<T, BaseError> {
        self.shelf.spend()?;
        let mut copies = self.shelf.copies.lock();
        let copy = &mut copies[index(self.side)];
        copy.is_dirty = true;
        Ok(change(&mut copy.entries))
    }
}

impl Base for OpenCopy {
    fn insert(&self, key: &str, entry: &[u8]) -> Result<Option<Vec<u8>>, BaseError> {
        self.write(|entries| entries.insert(key.to_owned(), entry.to_vec()))
    }

    fn remove(&self, key: &str) -> Result<Option<Vec<u8>>, BaseError> {
        self.write(|entries| entries.remove(key))
    }

    fn each(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), BaseError> {
        self.shelf.spend()?;
        let entries = self.shelf.copies.lock()[index(self.side)].entries.clone();
        for (key, entry) in &entries {
            each(key.as_bytes(), entry);
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), BaseError> {
        self.shelf.spend()?;
        self.shelf.copies.lock()[index(self.side)].is_dirty = false;
        Ok(())
    }
}
