//! A store between two crashes, driven by hand instead of by its threads.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{disk::Disk, shelf::Shelf};
use crate::{
    Expect, Limits, Range, Record, Revision, Store, Watcher, WriteError,
    durable::{self, JournalLimits, OpenError, Opened, StoreConfig, compactor::CheckpointError},
    intake::{Next, Waiting},
};

pub(super) const KEYS: [&str; 6] = ["/a/x", "/a/y", "/b/x", "/b/y", "/secrets/x", "/secrets/y"];
pub(super) const SECRET: &[u8] = b"plain-secret";

/// Keys with the revision and the bytes of their value.
pub(super) type Values = BTreeMap<String, (u64, Vec<u8>)>;

#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) revision: u64,
    pub(super) key: &'static str,
    /// Absent for a deletion.
    pub(super) value: Option<Vec<u8>>,
}

/// A write, and the revision its owner was told.
pub(super) type Answer = (Write, Result<u64, WriteError>);

type Outcome = Result<Arc<Record<u64>>, WriteError>;
type Pending = Pin<Box<dyn Future<Output = Outcome>>>;

pub(super) struct Life {
    pub(super) store: Store<u64>,
    pub(super) opened: Opened<u64>,
    /// What the store will hold when everything that waits has succeeded.
    pub(super) ahead: Values,
    watcher: Watcher<u64>,
    waiting: Vec<(Write, Pending)>,
    wrong: Vec<Pending>,
    now: Instant,
}

pub(super) fn apply(values: &mut Values, write: &Write) {
    match &write.value {
        Some(value) => drop(values.insert(write.key.to_owned(), (write.revision, value.clone()))),
        None => drop(values.remove(write.key)),
    }
}

fn config() -> StoreConfig {
    StoreConfig {
        folder: "simulated".into(),
        limits: Limits::default(),
        journal: JournalLimits {
            segment_bytes: 300,
            segment_age: Duration::from_secs(300),
        },
        sealed: |key| key.starts_with("/secrets/"),
    }
}

fn length(_: &str, value: &Bytes) -> Result<u64, std::io::Error> {
    Ok(value.len() as u64)
}

fn poll(future: &mut Pending) -> Poll<Outcome> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

impl Life {
    pub(super) fn begin(disk: &Disk, shelf: &Shelf) -> Result<Life, OpenError> {
        let (folder, bases) = (Arc::new(disk.clone()), Box::new(shelf.clone()));
        let opened = durable::read(&config(), folder, bases, length)?;
        let store = Store::over(Arc::clone(&opened.shared), None);
        let watcher = store.watch("/a/", store.revision()).unwrap();
        let mut life = Life {
            store,
            opened,
            ahead: Values::new(),
            watcher,
            waiting: Vec::new(),
            wrong: Vec::new(),
            now: Instant::now(),
        };
        life.ahead = life.contents();
        Ok(life)
    }

    pub(super) fn contents(&self) -> Values {
        let mut values = Values::new();
        for prefix in ["/a/", "/b/", "/secrets/"] {
            let range = Range {
                prefix,
                after: None,
                limit: None,
                at: None,
            };
            let page = self.store.range(&range, |_| true).unwrap();
            values.extend(page.records.iter().map(|record| {
                let value = (record.revision.get(), record.value.to_vec());
                (record.key.to_string(), value)
            }));
        }
        values
    }

    /// Sends a write that must be taken in, and not be acknowledged before it is durable.
    pub(super) fn send(&mut self, key: &'static str, expect: Expect, value: Option<Vec<u8>>) {
        let given = Arc::new(OnceLock::new());
        let mut sent = self.call(key, expect, value.clone(), Arc::clone(&given));
        assert!(poll(&mut sent).is_pending());
        let write = Write {
            revision: given.get().expect("a right write is taken in").get(),
            key,
            value,
        };
        apply(&mut self.ahead, &write);
        self.waiting.push((write, sent));
    }

    /// Sends a write that must fail, now or when what is before it has succeeded.
    pub(super) fn send_wrong(&mut self, key: &'static str, expect: Expect) {
        let given = Arc::new(OnceLock::new());
        let mut sent = self.call(key, expect, Some(Vec::new()), Arc::clone(&given));
        match poll(&mut sent) {
            Poll::Pending => self.wrong.push(sent),
            Poll::Ready(answer) => assert!(answer.is_err()),
        }
        assert_eq!(given.get(), None, "a wrong write gets no revision");
    }

    fn call(
        &self,
        key: &'static str,
        expect: Expect,
        value: Option<Vec<u8>>,
        given: Arc<OnceLock<Revision>>,
    ) -> Pending {
        let store = self.store.clone();
        Box::pin(async move {
            let content = Bytes::from(value.clone().unwrap_or_default());
            let render = move |at: Revision| {
                given.set(at).unwrap();
                (content, at.get())
            };
            match value {
                Some(_) => store.put(key, expect, render).await,
                None => store.delete(key, expect, render).await,
            }
        })
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns how many wrong writes have not been answered yet.
    pub(super) fn wrong_waiting(&self) -> usize {
        self.wrong.len()
    }

    /// Commits one group; returns its revisions, and what became of every write answered now.
    pub(super) fn commit(&mut self, aim: usize) -> (Vec<u64>, Vec<Answer>) {
        let Some(intake) = &self.opened.shared.intake else {
            panic!("a durable store has an intake");
        };
        // A deadline that has passed: the store's own thread would wait here.
        let group = match intake.next(Some(Instant::now()), aim) {
            Next::Group(group) => group,
            Next::Nothing | Next::End(_) => Vec::new(),
        };
        let writes = group.iter().filter_map(Waiting::write);
        let revisions = writes.map(|(_, record)| record.revision.get()).collect();
        if !group.is_empty() {
            let closed = self.opened.writer.commit(group, self.now);
            let rotated = self.opened.writer.rotate_if_due(self.now);
            let closed = closed.into_iter().chain(rotated);
            closed.for_each(|link| self.opened.compactor.add(link));
        }
        (revisions, self.answers())
    }

    fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for (write, mut sent) in std::mem::take(&mut self.waiting) {
            match poll(&mut sent) {
                Poll::Pending => self.waiting.push((write, sent)),
                Poll::Ready(answer) => {
                    answers.push((write, answer.map(|record| record.revision.get())));
                }
            }
        }
        self.wrong.retain_mut(|sent| match poll(sent) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                assert!(answer.is_err());
                false
            }
        });
        if answers.iter().any(|(_, answer)| answer.is_err()) {
            assert!(
                self.waiting.is_empty(),
                "what is behind a refused group is refused"
            );
            self.ahead = self.contents();
        }
        answers
    }

    pub(super) fn rotate(&mut self) {
        let closed = self.opened.writer.rotate();
        closed
            .into_iter()
            .for_each(|link| self.opened.compactor.add(link));
    }

    pub(super) fn checkpoint(&mut self) -> Result<(), CheckpointError> {
        self.opened.compactor.checkpoint()
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Returns the revisions of the events that the watcher has seen.
    pub(super) fn watched(&mut self) -> Vec<u64> {
        let mut batch = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while self.watcher.poll_batch(&mut context, &mut batch).is_ready() {}
        batch.iter().map(|event| event.revision().get()).collect()
    }
}
