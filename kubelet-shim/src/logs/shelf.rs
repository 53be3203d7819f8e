//! The log files that are open: a bounded number for all containers, so that a node with ten thousand
//! of them that once wrote a line has not ten thousand descriptors.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Log files open at once. More containers than this seldom write at the same time, and one that does
/// while others have all places opens its file again: some microseconds.
pub(super) const OPEN_LOGS_MAX: usize = 256;

/// Places for open files, handed round like the hand of a clock: who has written since the hand last came
/// by keeps its place once more.
pub(super) struct Shelf {
    turn: Mutex<Turn>,
}

struct Turn {
    places: Vec<Arc<Place>>,
    hand: usize,
    places_max: usize,
}

/// An open file, unless somebody else needed its place.
pub(super) struct Place {
    file: Mutex<Option<File>>,
    was_used: AtomicBool,
}

impl Place {
    /// Does something with the file if it is still open. Never waits for the shelf.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut File) -> R) -> Option<R> {
        self.was_used.store(true, Ordering::Relaxed);
        self.file.lock().as_mut().map(act)
    }

    /// Closes the file.
    pub(super) fn close(&self) {
        let file = self.file.lock().take();
        drop(file);
    }
}

impl Shelf {
    pub(super) const fn new(places_max: usize) -> Shelf {
        Shelf {
            turn: Mutex::new(Turn {
                places: Vec::new(),
                hand: 0,
                places_max,
            }),
        }
    }

    /// Puts an open file in; closes one that was not used lately if there is no place.
    pub(super) fn put(&self, file: File) -> Arc<Place> {
        let place = Arc::new(Place {
            file: Mutex::new(Some(file)),
            was_used: AtomicBool::new(true),
        });
        let closed = self.turn.lock().put(place.clone());
        // Outside of the shelf's lock: its owner may be writing.
        if let Some(old) = closed {
            old.close();
        }
        place
    }
}

impl Turn {
    fn put(&mut self, place: Arc<Place>) -> Option<Arc<Place>> {
        // A place that only the shelf knows is of a log that is gone.
        if self.places.len() >= self.places_max {
            self.places.retain(|place| Arc::strong_count(place) > 1);
        }
        if self.places.len() < self.places_max {
            self.places.push(place);
            return None;
        }
        // Ends: at the second round nobody's use is left.
        loop {
            self.hand = (self.hand + 1) % self.places.len();
            let here = &mut self.places[self.hand];
            if !here.was_used.swap(false, Ordering::Relaxed) {
                return Some(std::mem::replace(here, place));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_open(place: &Place) -> bool {
        place.file.lock().is_some()
    }

    #[test]
    fn the_file_that_was_not_used_lately_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(folder.path().join(name)).unwrap();
        let shelf = Shelf::new(2);
        let (first, second) = (shelf.put(file("1")), shelf.put(file("2")));
        // Both were used when they came; from here on only one is.
        let third = shelf.put(file("3"));
        let kept = if is_open(&first) { &first } else { &second };
        assert!(is_open(&third) && (is_open(&first) != is_open(&second)));
        assert!(kept.with(|_| ()).is_some());
        let _ = third.with(|_| ());
        drop(third);
        let fourth = shelf.put(file("4"));
        assert!(
            is_open(&fourth) && is_open(kept),
            "a log that is gone has no place"
        );
    }
}
