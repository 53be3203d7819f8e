//! Finds what a folder holds: the newest whole copy, and the journal from there on.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    RecoveryError,
    base::{BaseError, Bases, Mark, Resting, Side},
    compactor::{Compactor, load},
    files::Folder,
    frame::{Entry, Link, StoreId},
    journal::{self, Chain, Journal, JournalError, Tail, is_segment, segment_name},
};
use crate::record::{Change, Revision};

/// What a folder holds, ready to go on from.
pub(crate) struct Recovered {
    pub(crate) values: BTreeMap<String, Resting>,
    pub(crate) revision: Revision,
    pub(crate) journal: Journal,
    pub(crate) compactor: Compactor,
    /// Segments that are in no copy yet.
    pub(crate) unapplied: Vec<Link>,
}

/// What there is of the compacted state.
#[derive(Default)]
struct Copies {
    /// Copies that count, as far as they were looked at.
    marks: [Option<Mark>; 2],
    loaded: Option<(Mark, BTreeMap<String, Resting>)>,
    /// Why the last damaged one was not used.
    damage: Option<BaseError>,
}

/// Values while the journal is replayed over them.
struct Replay {
    values: BTreeMap<String, Resting>,
    revision: Revision,
    /// The revision that came where a greater one should have.
    disorder: Option<Revision>,
}

/// Tells whether the folder holds no store yet.
pub(crate) fn is_new(folder: &dyn Folder) -> io::Result<bool> {
    let names = folder.names()?;
    let marks = Side::BOTH.map(Side::mark_name);
    let belongs = |name: &String| is_segment(name) || marks.contains(&name.as_str());
    Ok(!names.iter().any(belongs))
}

/// Reads everything; an error if anything that was acknowledged cannot be read.
pub(crate) fn recover(
    folder: &Arc<dyn Folder>,
    bases: Box<dyn Bases>,
    store: StoreId,
) -> Result<Recovered, RecoveryError> {
    let chain = journal::chain(&**folder, store)?;
    let copies = choose(&**folder, &*bases, store)?;
    let (mark, values) = copies.loaded.unwrap_or_default();
    if let Err(error) = require(&chain, &mark) {
        // The journal was cut behind a copy that is damaged now: that is what to tell.
        let damage = copies.damage.map(RecoveryError::Base);
        return Err(damage.unwrap_or(RecoveryError::Journal(error)));
    }
    let mut replay = Replay {
        values,
        // Revision 0 means "any" to clients, so the empty store is already at 1.
        revision: mark.revision.max(Revision::from(1)),
        disorder: None,
    };
    let tail = replay.run(&**folder, store, &chain, &mark)?;
    let journal = Journal::resume(Arc::clone(folder), store, &chain, tail);
    let journal = journal.map_err(RecoveryError::Files)?;
    // Only now are the names durable that make the others mean nothing.
    remove_orphans(&**folder, &chain);
    let newer = |link: &&Link| link.number > mark.applied;
    let unapplied = chain.closed.iter().filter(newer).copied().collect();
    Ok(Recovered {
        values: replay.values,
        revision: replay.revision,
        journal,
        compactor: Compactor::new(Arc::clone(folder), bases, store, copies.marks, chain.closed),
        unapplied,
    })
}

/// Loads the newest copy that is whole; a damaged one loses its mark.
fn choose(folder: &dyn Folder, bases: &dyn Bases, store: StoreId) -> Result<Copies, RecoveryError> {
    let mut copies = Copies::default();
    for (mark, side) in copies.marks.iter_mut().zip(Side::BOTH) {
        *mark = Mark::read(folder, side, store).map_err(RecoveryError::Base)?;
    }
    let present = copies.marks.iter().enumerate();
    let mut candidates: Vec<(usize, Mark)> = present
        .filter_map(|(at, mark)| mark.map(|mark| (at, mark)))
        .collect();
    candidates.sort_by_key(|(_, mark)| std::cmp::Reverse(mark.applied));
    for (at, mark) in candidates {
        let side = Side::BOTH[at];
        match load(bases, side, &mark) {
            Ok(values) => {
                copies.loaded = Some((mark, values));
                break;
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let name = side.mark_name();
                tracing::warn!(error = %error, source, name, "a copy is damaged and not used");
                copies.marks[at] = None;
                copies.damage = Some(error);
            }
        }
    }
    Ok(copies)
}

/// Checks that the chain reaches from the copy to the newest segment without a gap.
fn require(chain: &Chain, mark: &Mark) -> Result<(), JournalError> {
    let needed = match (chain.before, chain.head) {
        (Some(before), _) if before > mark.applied => Some(before),
        (_, Some(head)) if head.number > mark.applied => None,
        // A newer segment is made before the last one is applied.
        (_, None) if mark.applied == 0 => None,
        (_, _) => Some(mark.applied + 1),
    };
    match needed {
        Some(number) => Err(JournalError::Missing {
            name: segment_name(number),
        }),
        None => Ok(()),
    }
}

impl Replay {
    /// Applies what is newer than the copy, and returns where the newest segment ends.
    fn run(
        &mut self,
        folder: &dyn Folder,
        store: StoreId,
        chain: &Chain,
        mark: &Mark,
    ) -> Result<Tail, RecoveryError> {
        for link in chain
            .closed
            .iter()
            .filter(|link| link.number > mark.applied)
        {
            journal::read_closed(folder, store, *link, &mut |entry| self.apply(entry))?;
        }
        let tail = match chain.head {
            Some(head) => {
                journal::read_head(folder, store, head.number, &mut |entry| self.apply(entry))?
            }
            None => Tail::default(),
        };
        match self.disorder {
            Some(revision) => Err(RecoveryError::Disorder { revision }),
            None => Ok(tail),
        }
    }

    fn apply(&mut self, entry: &Entry<'_>) {
        if entry.revision <= self.revision {
            self.disorder.get_or_insert(entry.revision);
        }
        self.revision = entry.revision;
        match entry.change {
            Change::Created | Change::Updated => {
                let resting = Resting {
                    revision: entry.revision,
                    form: entry.form,
                    value: entry.value.to_vec(),
                };
                self.values.insert(entry.key.to_owned(), resting);
            }
            Change::Deleted => drop(self.values.remove(entry.key)),
        }
    }
}

fn remove_orphans(folder: &dyn Folder, chain: &Chain) {
    for name in &chain.orphans {
        if let Err(error) = folder.remove(name) {
            tracing::debug!(error = %error, name, "a file that means nothing stays");
        }
    }
}
