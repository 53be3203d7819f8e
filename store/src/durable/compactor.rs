//! Brings the compacted state up to the journal, and cuts the journal off behind it.
//!
//! A checkpoint applies all closed segments to the older copy. A segment is removed once both
//! copies hold it, so whichever copy is lost, the other one and the journal make the state whole.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use thiserror::Error;

use super::{
    base::{Base, BaseError, Bases, Mark, Resting, Side},
    files::Folder,
    frame::{Entry, Link, StoreId},
    journal::{self, JournalError, segment_name},
};
use crate::record::Change;

/// Entries are collected up to here before they go to a copy, in the order of their keys: a key
/// that is written often reaches it once.
const FOLD_BYTES: usize = 4 << 20;

/// A checkpoint that failed is tried again after this: a full disk may have been emptied.
const RETRY: Duration = Duration::from_secs(30);

/// Why a checkpoint was not made; the journal then stays as long as it is.
#[derive(Debug, Error)]
pub(crate) enum CheckpointError {
    #[error("failed to read the journal")]
    Journal(#[from] JournalError),
    #[error("failed to write the compacted state")]
    Base(#[from] BaseError),
    #[error("failed to cut the journal")]
    Cut(#[source] std::io::Error),
    #[error("the store ends, and too much of the journal is left to apply")]
    Ending,
}

/// Makes checkpoints; owned by one thread.
pub(crate) struct Compactor {
    folder: Arc<dyn Folder>,
    bases: Box<dyn Bases>,
    store: StoreId,
    marks: [Option<Mark>; 2],
    /// Closed segments that are still there, oldest first.
    closed: Vec<Link>,
    /// Set when the store ends; a checkpoint of more than `ending_bytes` is then not made.
    is_ending: Arc<AtomicBool>,
    ending_bytes: u64,
}

/// How the writer speaks to the compactor's thread.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    is_ending: Arc<AtomicBool>,
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    /// Bounded by the segments there are.
    closed: Vec<Link>,
    stop: Option<Ending>,
}

/// How a store ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With one last checkpoint.
    Closed,
    /// At once; the journal holds everything.
    Abandoned,
}

/// Collects the newest entry of each key.
struct Fold {
    entries: BTreeMap<String, Option<Vec<u8>>>,
    bytes: usize,
}

impl Compactor {
    pub(crate) fn new(
        folder: Arc<dyn Folder>,
        bases: Box<dyn Bases>,
        store: StoreId,
        marks: [Option<Mark>; 2],
        closed: Vec<Link>,
    ) -> Compactor {
        Compactor {
            folder,
            bases,
            store,
            marks,
            closed,
            is_ending: Arc::default(),
            ending_bytes: u64::MAX,
        }
    }

    /// Limits what is still applied once the store ends; the next start reads it from the journal.
    pub(crate) fn limit_ending(&mut self, bytes: u64) {
        self.ending_bytes = bytes;
    }

    pub(crate) fn is_ending(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_ending)
    }

    pub(crate) fn add(&mut self, link: Link) {
        if self
            .closed
            .last()
            .is_none_or(|last| last.number < link.number)
        {
            self.closed.push(link);
        }
    }

    /// Makes a checkpoint if a closed segment is in neither copy.
    pub(crate) fn checkpoint(&mut self) -> Result<(), CheckpointError> {
        let applied = |mark: &Option<Mark>| mark.map_or(0, |mark| mark.applied);
        let newest = self.marks.iter().map(applied).max().unwrap_or(0);
        let target = self.closed.last().map_or(0, |link| link.number);
        if target <= newest {
            return Ok(());
        }
        let older = Side::BOTH
            .into_iter()
            .min_by_key(|side| applied(self.mark(*side)));
        let side = older.unwrap_or(Side::A);
        let held = applied(self.mark(side));
        self.refuse_when_ending(held)?;
        Mark::remove(&*self.folder, side)?;
        // What a panic leaves half done is a copy without a mark, which nobody reads.
        let made = catch_unwind(AssertUnwindSafe(|| match self.mark(side).take() {
            Some(mark) => self.write(side, mark),
            None => self.rebuild(side),
        }));
        match made.unwrap_or(Err(CheckpointError::Base(BaseError::Panicked))) {
            Ok(mark) => *self.mark(side) = Some(mark),
            Err(error) => {
                // It would be made anew in any case, and a full disk needs the room now.
                if let Err(error) = self.bases.wipe(side) {
                    tracing::debug!(error = %error, "a copy that counts for nothing stays");
                }
                return Err(error);
            }
        }
        self.cut()
    }

    fn mark(&mut self, side: Side) -> &mut Option<Mark> {
        let [a, b] = &mut self.marks;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    fn rebuild(&mut self, side: Side) -> Result<Mark, CheckpointError> {
        let other = *self.mark(side.other());
        match other {
            Some(_) => self.bases.duplicate(side.other(), side)?,
            None => self.bases.wipe(side)?,
        }
        self.write(side, other.unwrap_or_default())
    }

    /// Applies the closed segments that the copy does not hold, and marks it again.
    fn write(&mut self, side: Side, mut mark: Mark) -> Result<Mark, CheckpointError> {
        let base = self.bases.open(side)?;
        let held = mark.applied;
        for link in self.closed.iter().filter(|link| link.number > held) {
            self.refuse_when_ending(link.number - 1)?;
            apply(&*self.folder, self.store, *link, &*base, &mut mark)?;
        }
        mark.applied = self.closed.last().map_or(mark.applied, |link| link.number);
        // The journal is cut only behind what was read back.
        tally(&*base, &mark, &mut |_, _| ())?;
        base.close()?;
        mark.write(&*self.folder, side, self.store)?;
        Ok(mark)
    }

    /// Refuses to apply what is behind `applied` if the store ends and it is too much.
    fn refuse_when_ending(&self, applied: u64) -> Result<(), CheckpointError> {
        let left = self.closed.iter().filter(|link| link.number > applied);
        let bytes: u64 = left.map(|link| link.len).sum();
        match self.is_ending.load(Ordering::Relaxed) && bytes > self.ending_bytes {
            true => Err(CheckpointError::Ending),
            false => Ok(()),
        }
    }

    /// Removes the segments that both copies hold.
    fn cut(&mut self) -> Result<(), CheckpointError> {
        let [Some(a), Some(b)] = self.marks else {
            return Ok(());
        };
        let both = a.applied.min(b.applied);
        while let Some(link) = self.closed.first().filter(|link| link.number <= both) {
            match self.folder.remove(&segment_name(link.number)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(CheckpointError::Cut(error));
                }
                _ => drop(self.closed.remove(0)),
            }
        }
        Ok(())
    }

    /// Makes checkpoints when told to, until told to stop.
    pub(crate) fn run(mut self, signal: &Signal) {
        let mut wait = None;
        loop {
            let (closed, stop) = signal.next(wait);
            closed.into_iter().for_each(|link| self.add(link));
            if stop == Some(Ending::Abandoned) {
                return;
            }
            wait = match self.checkpoint() {
                Ok(()) | Err(CheckpointError::Ending) => None,
                Err(error) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(error = %error, source, "no checkpoint; the journal grows");
                    Some(RETRY)
                }
            };
            if stop.is_some() {
                return;
            }
        }
    }
}

fn apply(
    folder: &dyn Folder,
    store: StoreId,
    link: Link,
    base: &dyn Base,
    mark: &mut Mark,
) -> Result<(), CheckpointError> {
    let mut fold = Fold {
        entries: BTreeMap::new(),
        bytes: 0,
    };
    let mut failure = None;
    let mut newest = mark.revision;
    journal::read_closed(folder, store, link, &mut |entry| {
        newest = newest.max(entry.revision);
        if failure.is_none() {
            fold.add(entry);
        }
        if fold.bytes >= FOLD_BYTES {
            failure = fold.pour(base, mark).err();
        }
    })?;
    if let Some(error) = failure {
        return Err(CheckpointError::Base(error));
    }
    fold.pour(base, mark)?;
    mark.revision = newest;
    Ok(())
}

impl Fold {
    fn add(&mut self, entry: &Entry<'_>) {
        let resting = match entry.change {
            Change::Created | Change::Updated => {
                Some(Resting::encode(entry.revision, entry.form, entry.value))
            }
            Change::Deleted => None,
        };
        self.bytes += entry.key.len() + resting.as_ref().map_or(0, Vec::len);
        self.entries.insert(entry.key.to_owned(), resting);
    }

    fn pour(&mut self, base: &dyn Base, mark: &mut Mark) -> Result<(), BaseError> {
        self.bytes = 0;
        for (key, entry) in std::mem::take(&mut self.entries) {
            let old = match &entry {
                Some(entry) => base.insert(&key, entry)?,
                None => base.remove(&key)?,
            };
            if let Some(entry) = &entry {
                mark.add(key.as_bytes(), entry);
            }
            if let Some(old) = old {
                mark.subtract(key.as_bytes(), &old);
            }
        }
        Ok(())
    }
}

/// Reads a copy whole; an error if it does not hold what its mark says.
pub(crate) fn load(
    bases: &dyn Bases,
    side: Side,
    mark: &Mark,
) -> Result<BTreeMap<String, Resting>, BaseError> {
    let read = || {
        let base = bases.open(side)?;
        let mut values = BTreeMap::new();
        tally(&*base, mark, &mut |key, entry| {
            if let (Ok(key), Some(entry)) = (std::str::from_utf8(key), Resting::decode(entry)) {
                values.insert(key.to_owned(), entry);
            }
        })?;
        // Opening may have written.
        base.close()?;
        match values.len() as u64 == mark.entries {
            true => Ok(values),
            false => Err(BaseError::Content),
        }
    };
    // The database asserts much about files that may be damaged.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(BaseError::Panicked))
}

/// Reads every entry; an error if they are not those that the mark was made for.
fn tally(
    base: &dyn Base,
    mark: &Mark,
    each: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<(), BaseError> {
    let mut found = Mark {
        applied: mark.applied,
        revision: mark.revision,
        ..Mark::default()
    };
    base.each(&mut |key, entry| {
        found.add(key, entry);
        each(key, entry);
    })?;
    match found == *mark {
        true => Ok(()),
        false => Err(BaseError::Content),
    }
}

impl Signal {
    /// Makes a signal for one compactor.
    pub(crate) fn new(compactor: &Compactor) -> Signal {
        Signal {
            is_ending: compactor.is_ending(),
            ..Signal::default()
        }
    }

    /// Tells of a segment that was closed: a checkpoint is due.
    pub(crate) fn closed(&self, link: Link) {
        self.orders.lock().closed.push(link);
        self.changed.notify_one();
    }

    /// Stops the compactor, unless it was told before how to end.
    pub(crate) fn stop(&self, ending: Ending) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.orders.lock().stop.get_or_insert(ending);
        self.changed.notify_one();
    }

    /// Waits for orders, or for the time to try again.
    fn next(&self, wait: Option<Duration>) -> (Vec<Link>, Option<Ending>) {
        let mut orders = self.orders.lock();
        while orders.closed.is_empty() && orders.stop.is_none() {
            match wait {
                None => self.changed.wait(&mut orders),
                Some(wait) if self.changed.wait_for(&mut orders, wait).timed_out() => break,
                Some(_) => (),
            }
        }
        (std::mem::take(&mut orders.closed), orders.stop)
    }
}
