//! The group commit: gathers waiting writes, makes them durable with one sync, then shows them.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::sync::watch;

use super::{
    JournalLimits,
    compactor::{Compactor, Ending, Signal},
    frame::{Entry, Form, GROUP_BYTES_AIM, GroupBuffer, Link},
    journal::Journal,
    lock::FolderLock,
    seal::Sealer,
};
use crate::{
    intake::{Next, Waiting},
    record::Change,
    store::{Shared, WriteError},
};

/// Owns the journal. When it is dropped, every write that waits is refused.
pub(crate) struct Writer<I> {
    shared: Arc<Shared<I>>,
    journal: Journal,
    sealer: Sealer,
    sealed: fn(&str) -> bool,
    limits: JournalLimits,
    buffer: GroupBuffer,
    /// When the first group of the segment being written was appended.
    begun: Option<Instant>,
}

/// What a writer is made of, beside the store it serves.
pub(crate) struct Parts {
    pub(crate) journal: Journal,
    pub(crate) sealer: Sealer,
    pub(crate) sealed: fn(&str) -> bool,
    pub(crate) limits: JournalLimits,
}

impl<I> Writer<I> {
    pub(crate) fn new(shared: Arc<Shared<I>>, parts: Parts) -> Writer<I> {
        Writer {
            shared,
            begun: (parts.journal.segment_bytes() > 0).then(Instant::now),
            journal: parts.journal,
            sealer: parts.sealer,
            sealed: parts.sealed,
            limits: parts.limits,
            buffer: GroupBuffer::default(),
        }
    }

    /// Makes one group durable and answers it; tells of a segment that was closed on the way.
    pub(crate) fn commit(&mut self, group: Vec<Waiting<I>>, now: Instant) -> Option<Link> {
        self.buffer.clear();
        if let Err(error) = self.encode(&group) {
            self.shared.refuse(group, error);
            return None;
        }
        if self.buffer.is_empty() {
            self.shared.show(group);
            return None;
        }
        let (written, closed) = self.journal.append(&mut self.buffer);
        match written {
            Ok(()) => {
                if closed.is_some() {
                    self.begun = None;
                }
                self.begun.get_or_insert(now);
                self.shared.count_sync();
                self.shared.show(group);
            }
            Err(error) => {
                tracing::warn!(error = %error, writes = group.len(), "writes were refused");
                self.begun = None;
                self.shared.refuse(group, WriteError::from(&error));
            }
        }
        closed
    }

    fn encode(&mut self, group: &[Waiting<I>]) -> Result<(), WriteError> {
        for (change, record) in group.iter().filter_map(Waiting::write) {
            let mut entry = Entry {
                revision: record.revision,
                change,
                form: Form::Plain,
                key: &record.key,
                value: &record.value,
            };
            let seal;
            if change == Change::Deleted {
                entry.value = &[];
            } else if (self.sealed)(&record.key) {
                seal = self
                    .sealer
                    .seal(&record.key, record.revision, &record.value)
                    .ok_or(WriteError::Sealing)?;
                (entry.form, entry.value) = (Form::Sealed, &seal);
            }
            self.buffer.push(&entry);
        }
        Ok(())
    }

    /// Closes the segment if it is long or old enough; tells of it.
    pub(crate) fn rotate_if_due(&mut self, now: Instant) -> Option<Link> {
        let is_old = self.deadline().is_some_and(|deadline| deadline <= now);
        if is_old || self.journal.segment_bytes() >= self.limits.segment_bytes {
            return self.rotate();
        }
        None
    }

    pub(crate) fn rotate(&mut self) -> Option<Link> {
        self.begun = None;
        match self.journal.rotate() {
            Ok(closed) => closed,
            Err(error) => {
                tracing::warn!(error = %error, "no new segment; the next write tries again");
                None
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.begun?.checked_add(self.limits.segment_age)
    }

    /// Commits groups until the store is closed or its last handle is gone.
    fn run(mut self, signal: &Signal) {
        loop {
            let closed = match self.intake().next(self.deadline(), GROUP_BYTES_AIM) {
                Next::Group(group) => self.commit(group, Instant::now()),
                Next::Nothing => None,
                Next::End(Ending::Closed) => {
                    self.rotate()
                        .into_iter()
                        .for_each(|link| signal.closed(link));
                    signal.stop(Ending::Closed);
                    return;
                }
                Next::End(Ending::Abandoned) => return signal.stop(Ending::Abandoned),
            };
            let rotated = self.rotate_if_due(Instant::now());
            closed
                .into_iter()
                .chain(rotated)
                .for_each(|link| signal.closed(link));
        }
    }

    fn intake(&self) -> &crate::intake::Intake<I> {
        self.shared
            .intake
            .as_ref()
            .expect("a store with a writer has an intake")
    }
}

impl<I> Drop for Writer<I> {
    fn drop(&mut self) {
        self.shared.refuse_all(WriteError::Closed);
    }
}

/// Starts the two threads of a store; the returned channel closes when both have ended and the
/// folder is free again.
pub(crate) fn start<I: Send + Sync + 'static>(
    writer: Writer<I>,
    compactor: Compactor,
    due: Vec<Link>,
    lock: FolderLock,
) -> std::io::Result<watch::Receiver<()>> {
    let signal = Arc::new(Signal::new(&compactor));
    due.into_iter().for_each(|link| signal.closed(link));
    let orders = Arc::clone(&signal);
    let compacting: JoinHandle<()> = thread::Builder::new()
        .name(String::from("store-compactor"))
        .spawn(move || compactor.run(&orders))?;
    let (ended, ends) = watch::channel(());
    let stop = Arc::clone(&signal);
    let writing = thread::Builder::new()
        .name(String::from("store-journal"))
        .spawn(move || {
            // Dropped in the reverse order: the folder is free before anybody is told.
            let _ended = ended;
            let _lock = lock;
            let _stop = StopOnExit {
                signal,
                compacting: Some(compacting),
            };
            writer.run(&stop);
        });
    writing.map(|_| ends)
}

/// Ends the compactor with the writer, even when that panics, and waits for it.
struct StopOnExit {
    signal: Arc<Signal>,
    compacting: Option<JoinHandle<()>>,
}

impl Drop for StopOnExit {
    fn drop(&mut self) {
        self.signal.stop(Ending::Abandoned);
        if let Some(Err(_)) = self.compacting.take().map(JoinHandle::join) {
            tracing::error!("the compactor panicked; the journal was not cut");
        }
    }
}
