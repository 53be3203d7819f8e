//! Writes on their way to the journal of a durable store.
//!
//! A write is judged and gets its revision when it is taken in, against the state as it will be
//! once everything before it is durable. So the order of revisions is the order in the journal and
//! the order of announcement, and two writers to one key may share a sync. A write that is refused
//! because of one that is not durable yet learns so only when that one is: nobody is told of a
//! state that could still be lost. When a group fails, everything behind it was judged by what has
//! not happened, and is refused with it; the revisions are not used again.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::Arc,
    task::Waker,
    time::Instant,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use crate::{
    durable::{Ending, KEY_BYTES_MAX, VALUE_BYTES_MAX},
    record::{Change, Record, Revision},
    store::{Expect, Intent, Shared, WriteError, judge},
};

/// Writes that wait for the journal; more wait at the door, unjudged and without a revision.
const WAITING_MAX: usize = 4096;
/// What a write costs beyond key and value: its frame and the seal, rounded up.
const WRITE_OVERHEAD_BYTES: usize = 64;
/// Bytes that wait for the journal; the last one taken in may exceed it.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// What the owner of a write is told.
pub(crate) type Outcome<I> = Result<Arc<Record<I>>, WriteError>;

/// The queue before the journal.
#[derive(Debug)]
pub(crate) struct Intake<I> {
    pending: Mutex<Pending<I>>,
    filled: Condvar,
    room: Notify,
}

#[derive(Debug)]
struct Pending<I> {
    /// The newest revision that was given to a write.
    pub(crate) assigned: Revision,
    queue: VecDeque<Waiting<I>>,
    bytes: usize,
    /// What keys will hold; only those with a write that is not shown yet.
    ahead: HashMap<Arc<str>, Ahead<I>>,
    ending: Option<Ending>,
}

/// The state of a key after its last pending write.
#[derive(Debug)]
struct Ahead<I> {
    revision: Revision,
    /// Absent when that write deletes the key.
    record: Option<Arc<Record<I>>>,
}

/// An answer that waits for the journal.
#[derive(Debug)]
pub(crate) enum Waiting<I> {
    /// A write to make durable.
    Write {
        change: Change,
        record: Arc<Record<I>>,
        owner: oneshot::Sender<Outcome<I>>,
    },
    /// A write that fails if what is before it does not.
    Refusal {
        error: WriteError,
        owner: oneshot::Sender<Outcome<I>>,
    },
}

/// What the writer does next.
pub(crate) enum Next<I> {
    Group(Vec<Waiting<I>>),
    /// The deadline passed.
    Nothing,
    /// The queue is empty and stays so.
    End(Ending),
}

/// What became of a write at the door.
enum Taken<I, F> {
    Waits(oneshot::Receiver<Outcome<I>>),
    /// There is no room; the caller gets its closure back and waits.
    Full(F),
}

impl<I> Waiting<I> {
    pub(crate) fn write(&self) -> Option<(Change, &Arc<Record<I>>)> {
        match self {
            Waiting::Write { change, record, .. } => Some((*change, record)),
            Waiting::Refusal { .. } => None,
        }
    }

    /// What it takes in the queue and, at most, in the journal.
    fn bytes(&self) -> usize {
        self.write().map_or(0, |(_, record)| {
            WRITE_OVERHEAD_BYTES + record.key.len() + record.value.len()
        })
    }

    /// Tells the owner; one that has gone away is not missed.
    pub(crate) fn answer(self, failure: Option<WriteError>) {
        let (owner, outcome) = match self {
            Waiting::Write { record, owner, .. } => (owner, Ok(record)),
            Waiting::Refusal { error, owner } => (owner, Err(error)),
        };
        drop(owner.send(failure.map_or(outcome, Err)));
    }
}

impl<I> Intake<I> {
    pub(crate) fn new(newest: Revision) -> Intake<I> {
        Intake {
            pending: Mutex::new(Pending {
                assigned: newest,
                queue: VecDeque::new(),
                bytes: 0,
                ahead: HashMap::new(),
                ending: None,
            }),
            filled: Condvar::new(),
            room: Notify::new(),
        }
    }

    /// Lets no further write in; the writer ends once the queue is empty.
    pub(crate) fn end(&self, ending: Ending) {
        self.pending.lock().ending.get_or_insert(ending);
        self.filled.notify_one();
        self.room.notify_waiters();
    }

    /// Waits for the next group of about `bytes_aim`.
    pub(crate) fn next(&self, deadline: Option<Instant>, bytes_aim: usize) -> Next<I> {
        let mut pending = self.pending.lock();
        while pending.queue.is_empty() {
            if let Some(ending) = pending.ending {
                return Next::End(ending);
            }
            match deadline {
                None => self.filled.wait(&mut pending),
                Some(at) if self.filled.wait_until(&mut pending, at).timed_out() => {
                    return Next::Nothing;
                }
                Some(_) => (),
            }
        }
        let group = pending.take(bytes_aim);
        drop(pending);
        self.room.notify_waiters();
        Next::Group(group)
    }

    /// Forgets about a group that is shown now.
    pub(crate) fn settle(&self, group: &[Waiting<I>]) {
        let mut pending = self.pending.lock();
        for (_, record) in group.iter().filter_map(Waiting::write) {
            let last = pending.ahead.get(&record.key);
            if last.is_some_and(|ahead| ahead.revision == record.revision) {
                pending.ahead.remove(&record.key);
            }
        }
    }

    /// Empties the queue, because what it was judged by has not happened.
    pub(crate) fn forsake(&self) -> Vec<Waiting<I>> {
        let mut pending = self.pending.lock();
        pending.ahead.clear();
        let all = pending.take(usize::MAX);
        drop(pending);
        self.room.notify_waiters();
        all
    }
}

impl<I> Shared<I> {
    /// Takes a write in as soon as there is room, and waits until its fate is known.
    pub(crate) async fn write_durably(
        &self,
        intake: &Intake<I>,
        key: &str,
        expect: Expect,
        intent: Intent,
        mut render: impl FnOnce(Revision) -> (Bytes, I),
    ) -> Outcome<I> {
        loop {
            let mut room = pin!(intake.room.notified());
            room.as_mut().enable();
            match self.take_in(intake, key, expect, intent, render)? {
                // The owner's end is lost only with the writer.
                Taken::Waits(fate) => return fate.await.unwrap_or(Err(WriteError::Closed)),
                Taken::Full(unused) => render = unused,
            }
            room.await;
        }
    }

    fn take_in<F: FnOnce(Revision) -> (Bytes, I)>(
        &self,
        intake: &Intake<I>,
        key: &str,
        expect: Expect,
        intent: Intent,
        render: F,
    ) -> Result<Taken<I, F>, WriteError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(WriteError::TooLarge);
        }
        let mut pending = intake.pending.lock();
        if pending.ending.is_some() {
            return Err(WriteError::Closed);
        }
        if pending.is_full() {
            return Ok(Taken::Full(render));
        }
        let (owner, fate) = oneshot::channel();
        let judged = match pending.ahead.get(key) {
            Some(ahead) => match judge(ahead.record.as_ref(), key, expect, intent) {
                Ok(verdict) => verdict,
                Err(error) => {
                    pending.push(Waiting::Refusal { error, owner });
                    drop(pending);
                    intake.filled.notify_one();
                    return Ok(Taken::Waits(fate));
                }
            },
            None => judge(self.state.read().get(key), key, expect, intent)?,
        };
        let (change, key) = judged;
        let revision = pending.assigned.next();
        let (value, index) = render(revision);
        if value.len() > VALUE_BYTES_MAX {
            return Err(WriteError::TooLarge);
        }
        let record = Arc::new(Record {
            key,
            revision,
            value,
            index,
        });
        pending.push(Waiting::Write {
            change,
            record,
            owner,
        });
        drop(pending);
        intake.filled.notify_one();
        Ok(Taken::Waits(fate))
    }

    /// Shows a group that is durable, and tells its owners.
    pub(crate) fn show(&self, group: Vec<Waiting<I>>) {
        let writes = group.iter().filter_map(Waiting::write);
        let wakers = self.apply(writes);
        if let Some(intake) = &self.intake {
            intake.settle(&group);
        }
        wakers.into_iter().for_each(Waker::wake);
        group.into_iter().for_each(|waiting| waiting.answer(None));
    }

    /// Refuses a group and everything that was judged by it.
    pub(crate) fn refuse(&self, group: Vec<Waiting<I>>, error: WriteError) {
        // The queue first: whoever tries again at once is judged by what is there.
        let behind = self.intake.as_ref().map(Intake::forsake);
        let all = group.into_iter().chain(behind.into_iter().flatten());
        all.for_each(|waiting| waiting.answer(Some(error)));
    }

    /// Refuses everything, now and later.
    pub(crate) fn refuse_all(&self, error: WriteError) {
        if let Some(intake) = &self.intake {
            intake.end(Ending::Abandoned);
        }
        self.refuse(Vec::new(), error);
    }
}

impl<I> Pending<I> {
    fn is_full(&self) -> bool {
        self.queue.len() >= WAITING_MAX || self.bytes >= WAITING_BYTES_MAX
    }

    fn push(&mut self, waiting: Waiting<I>) {
        self.bytes += waiting.bytes();
        if let Some((change, record)) = waiting.write() {
            self.assigned = record.revision;
            let ahead = Ahead {
                revision: record.revision,
                record: (change != Change::Deleted).then(|| Arc::clone(record)),
            };
            self.ahead.insert(Arc::clone(&record.key), ahead);
        }
        self.queue.push_back(waiting);
    }

    /// Takes from the front until `bytes_aim` is reached, at least one.
    fn take(&mut self, bytes_aim: usize) -> Vec<Waiting<I>> {
        let mut bytes = 0;
        let mut group = Vec::with_capacity(self.queue.len());
        while bytes < bytes_aim
            && let Some(waiting) = self.queue.pop_front()
        {
            bytes += waiting.bytes();
            group.push(waiting);
        }
        self.bytes -= bytes;
        group
    }
}
