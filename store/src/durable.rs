//! Keeps a store in a folder: what was acknowledged is there after any crash.
//!
//! ```text
//! put ─► intake ─► writer ─► journal (append, sync) ─► memory: readers, watchers ─► owner
//!                               │ closed segments
//!                               └─► compactor ─► base a, base b (sled) ─► journal is cut
//! start: newest whole base ─► journal from there on ─► memory
//! ```
//!
//! In the folder: `lock`, `store.key` and `store.id`, `journal-…`, and for each of the two copies
//! of the compacted state its folder `base-…` and its mark. `docs/decisions/0004` says why.

mod base;
mod compactor;
mod files;
mod frame;
mod journal;
mod lock;
mod recovery;
mod seal;
#[cfg(test)]
mod simulation;
mod writer;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::watch;

use self::{
    base::{Bases, Resting, SledBases},
    compactor::Compactor,
    files::{Folder, RealFolder},
    frame::{Form, Link},
    lock::FolderLock,
    seal::Sealer,
    writer::{Parts, Writer},
};
use crate::{
    intake::Intake,
    record::{Record, Revision},
    store::{Limits, Shared, State},
};

pub use self::{base::BaseError, journal::JournalError, seal::KeyError};
pub(crate) use self::{
    compactor::Ending,
    frame::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
};

/// At this many segments that are in no copy a store makes a checkpoint when it starts.
const UNAPPLIED_SEGMENTS_MAX: usize = 8;
/// A store that is closed applies at most this many full segments: one that was just closed, and
/// the one before it. A store that was busier ends without, so that it ends soon.
const ENDING_SEGMENTS: u64 = 2;

/// How to keep a store in a folder.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The folder; it is made if it does not exist, and belongs to one process at a time.
    pub folder: PathBuf,
    /// How much history is kept in memory.
    pub limits: Limits,
    /// When the journal is cut.
    pub journal: JournalLimits,
    /// Tells the keys whose values are sealed before they reach a file.
    pub sealed: fn(&str) -> bool,
}

/// When a segment of the journal is closed and goes to the compacted state.
#[derive(Clone, Copy, Debug)]
pub struct JournalLimits {
    /// Bytes in a segment. A few segments are kept, so the journal is a few times as long.
    pub segment_bytes: u64,
    /// How long a segment that holds writes stays open.
    pub segment_age: Duration,
}

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has the folder.
    #[error("the store in `{folder}` is in use{}", by(*.pid))]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process, if it left its number.
        pid: Option<u32>,
    },
    /// The folder cannot be made or locked.
    #[error("failed to take the folder `{folder}`")]
    Lock {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The store's key cannot be used.
    #[error("failed to use the key in `{folder}`")]
    Key {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// The files do not hold everything that was acknowledged.
    #[error(
        "failed to read the store in `{folder}`; nothing was changed: \
         restore the folder from a backup, or move it away to begin an empty store"
    )]
    Recovery {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with them.
        #[source]
        source: RecoveryError,
    },
    /// A value cannot be opened with the store's key.
    #[error("the sealed value of `{key}` is damaged")]
    Unsealed {
        /// The key of the value.
        key: String,
    },
    /// The owner does not understand a value.
    #[error("failed to read the value of `{key}`")]
    Index {
        /// The key of the value.
        key: String,
        /// What the owner says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system gives no threads.
    #[error("failed to start the store's threads")]
    Threads(#[source] io::Error),
}

/// Why the files of a store cannot be read.
#[derive(Debug, Error)]
pub enum RecoveryError {
    /// The journal is damaged, or a part of it is gone.
    #[error("the journal is not whole")]
    Journal(#[from] JournalError),
    /// The journal is whole, but not in order.
    #[error("revision {revision} stands in the journal where a newer one should")]
    Disorder {
        /// The revision.
        revision: Revision,
    },
    /// Neither copy of the compacted state can be read, and the journal alone is not enough.
    #[error("the compacted state cannot be read")]
    Base(#[source] BaseError),
    /// Files cannot be read or written.
    #[error("failed to read or write files")]
    Files(#[source] io::Error),
}

/// Keeps the threads of a durable store; dropping it ends them.
#[derive(Debug)]
pub(crate) struct Keeper<I> {
    shared: Arc<Shared<I>>,
    /// Closes when the folder is free again.
    ends: watch::Receiver<()>,
}

/// A store that was read, before its threads start.
pub(crate) struct Opened<I> {
    pub(crate) shared: Arc<Shared<I>>,
    pub(crate) writer: Writer<I>,
    pub(crate) compactor: Compactor,
    /// Segments the compactor begins with.
    pub(crate) due: Vec<Link>,
}

impl Default for JournalLimits {
    fn default() -> Self {
        JournalLimits {
            // Read again at a start: a second's work.
            segment_bytes: 64 << 20,
            segment_age: Duration::from_secs(300),
        }
    }
}

impl<I> Keeper<I> {
    pub(crate) async fn close(&self) {
        self.end(Ending::Closed);
        let mut ends = self.ends.clone();
        // Nothing is ever sent: the channel closes.
        while ends.changed().await.is_ok() {}
    }

    fn end(&self, ending: Ending) {
        if let Some(intake) = &self.shared.intake {
            intake.end(ending);
        }
    }
}

impl<I> Drop for Keeper<I> {
    fn drop(&mut self) {
        self.end(Ending::Abandoned);
    }
}

/// Opens a folder and starts the threads that serve it.
pub(crate) fn open<I: Send + Sync + 'static, E>(
    config: StoreConfig,
    index: impl Fn(&str, &Bytes) -> Result<I, E>,
) -> Result<(Arc<Shared<I>>, Keeper<I>), OpenError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let folder = config.folder.clone();
    let real = RealFolder::open(&folder).map_err(|source| OpenError::Lock {
        folder: folder.clone(),
        source,
    })?;
    let lock = FolderLock::take(&folder)?;
    let bases = Box::new(SledBases::new(&folder));
    let opened = read(&config, Arc::new(real), bases, index)?;
    let ends = writer::start(opened.writer, opened.compactor, opened.due, lock)
        .map_err(OpenError::Threads)?;
    let keeper = Keeper {
        shared: Arc::clone(&opened.shared),
        ends,
    };
    Ok((opened.shared, keeper))
}

/// Reads what a folder holds, and makes it ready to be written to.
pub(crate) fn read<I, E>(
    config: &StoreConfig,
    folder: Arc<dyn Folder>,
    bases: Box<dyn Bases>,
    index: impl Fn(&str, &Bytes) -> Result<I, E>,
) -> Result<Opened<I>, OpenError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = || config.folder.clone();
    let unread = |source| OpenError::Recovery {
        folder: path(),
        source,
    };
    let is_new = recovery::is_new(&*folder).map_err(|e| unread(RecoveryError::Files(e)))?;
    let sealer = Sealer::establish(&*folder, is_new).map_err(|source| OpenError::Key {
        folder: path(),
        source,
    })?;
    let mut found = recovery::recover(&folder, bases, sealer.id()).map_err(unread)?;
    let state = restore(found.values, found.revision, &sealer, index)?;
    match found.journal.begin() {
        Ok(closed) => closed.into_iter().for_each(|link| {
            found.compactor.add(link);
            found.unapplied.push(link);
        }),
        // It can be read, and the first write that finds room begins the segment.
        Err(error) if is_full(&error) => {
            tracing::warn!(folder = %config.folder.display(), "no space is left for writes");
        }
        Err(error) => return Err(unread(RecoveryError::Files(error))),
    }
    let ending = config.journal.segment_bytes.saturating_mul(ENDING_SEGMENTS);
    found.compactor.limit_ending(ending);
    let bytes: u64 = found.unapplied.iter().map(|link| link.len).sum();
    let is_due =
        found.unapplied.len() >= UNAPPLIED_SEGMENTS_MAX || bytes >= config.journal.segment_bytes;
    let intake = Intake::new(found.revision);
    let shared = Arc::new(Shared::new(state, Some(intake), config.limits));
    let parts = Parts {
        journal: found.journal,
        sealer,
        sealed: config.sealed,
        limits: config.journal,
    };
    Ok(Opened {
        writer: Writer::new(Arc::clone(&shared), parts),
        shared,
        compactor: found.compactor,
        due: if is_due { found.unapplied } else { Vec::new() },
    })
}

fn restore<I, E>(
    values: BTreeMap<String, Resting>,
    revision: Revision,
    sealer: &Sealer,
    index: impl Fn(&str, &Bytes) -> Result<I, E>,
) -> Result<State<I>, OpenError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut state = State::new(revision, revision);
    for (key, resting) in values {
        let value = match resting.form {
            Form::Plain => Some(resting.value),
            Form::Sealed => sealer.open(&key, resting.revision, &resting.value),
        };
        let Some(value) = value.map(Bytes::from) else {
            return Err(OpenError::Unsealed { key });
        };
        match index(&key, &value) {
            Ok(index) => state.restore(Record {
                key: Arc::from(key),
                revision: resting.revision,
                value,
                index,
            }),
            Err(source) => {
                return Err(OpenError::Index {
                    key,
                    source: source.into(),
                });
            }
        }
    }
    Ok(state)
}

/// Tells whether an error says that the disk, or a share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}
