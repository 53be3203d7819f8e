//! What is watched, and when each is due next: shared by the workers and the prober's task.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use futures::future::{AbortHandle, AbortRegistration};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::attempt::Ended;
use super::tally::Tally;
use super::{ATTEMPTS_PER_POD_MAX, Names, News, Programs, Watched, What, Whose};
use crate::lifecycle::Verdict;
use crate::spec::{Probe, ProbeKind};

/// The registry behind its lock, which is held for look-ups only.
#[derive(Default)]
pub(super) struct Shared {
    registry: Mutex<Registry>,
    changed: Notify,
}

/// Everything watched. Invariant: an entry that waits is in `due` once, one that is held is in `pods` once, any
/// other in neither.
#[derive(Default)]
pub(super) struct Registry {
    entries: HashMap<u64, Entry>,
    due: BTreeSet<(Instant, u64)>,
    /// Pods with attempts under way, by UID.
    pods: HashMap<Arc<str>, Crowd>,
    next_id: u64,
}

/// The attempts of one pod.
#[derive(Default)]
struct Crowd {
    under_way: usize,
    /// Due, and held until one that is under way comes out.
    held: VecDeque<u64>,
}

pub(super) struct Entry {
    watched: Watched,
    tally: Tally,
    /// The verdict that the worker knows.
    told: Option<Verdict>,
    stage: Stage,
}

/// Where a probe stands.
enum Stage {
    /// Its next attempt is due then.
    Waits(Instant),
    /// Its attempt is due and its pod has as many under way as it may.
    Held(Instant),
    /// An attempt is under way; `due` is when it should have begun.
    UnderWay { due: Instant, abort: AbortHandle },
    /// It has nothing more to find out.
    OnHold,
}

/// An attempt to be made.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) kind: ProbeKind,
    pub(super) probe: Arc<Probe>,
    pub(super) pod_ip: IpAddr,
    pub(super) whose: Whose,
    pub(super) names: Names,
    pub(super) programs: Programs,
}

/// What is to be done next.
pub(super) enum Due {
    /// This attempt.
    Now(Job, AbortRegistration),
    /// Nothing before then.
    At(Instant),
    /// Nothing until something changes.
    Never,
}

impl Shared {
    pub(super) fn insert(&self, watched: Watched) -> u64 {
        let id = self.registry.lock().insert(watched);
        self.changed.notify_one();
        id
    }

    pub(super) fn remove(&self, id: u64) {
        let gone = self.registry.lock().remove(id);
        drop(gone);
    }

    pub(super) fn take_due(&self, now: Instant) -> Due {
        self.registry.lock().take_due(now)
    }

    pub(super) fn settle(&self, id: u64, ended: Ended, now: Instant) {
        self.registry.lock().settle(id, ended, now);
    }

    /// Returns when something was added since the last call returned.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Registry {
    pub(super) fn insert(&mut self, watched: Watched) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let tally = Tally::new(watched.kind);
        self.due.insert((watched.first, id));
        let entry = Entry {
            stage: Stage::Waits(watched.first),
            told: tally.verdict(),
            tally,
            watched,
        };
        self.entries.insert(id, entry);
        id
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        match &entry.stage {
            Stage::Waits(due) => drop(self.due.remove(&(*due, id))),
            Stage::Held(_) => {
                if let Some(crowd) = self.pods.get_mut(&entry.watched.whose.uid) {
                    crowd.held.retain(|held| *held != id);
                }
            }
            Stage::UnderWay { abort, .. } => {
                abort.abort();
                self.leave(&entry.watched.whose.uid);
            }
            Stage::OnHold => {}
        }
        Some(entry)
    }

    /// An attempt of a pod is over: one that was held for it is due again.
    fn leave(&mut self, uid: &Arc<str>) {
        let Some(crowd) = self.pods.get_mut(uid) else {
            return;
        };
        crowd.under_way = crowd.under_way.saturating_sub(1);
        if let Some(id) = crowd.held.pop_front()
            && let Some(entry) = self.entries.get_mut(&id)
            && let Stage::Held(due) = entry.stage
        {
            entry.stage = Stage::Waits(due);
            self.due.insert((due, id));
        }
        if crowd.under_way == 0 && crowd.held.is_empty() {
            self.pods.remove(uid);
        }
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Due {
        loop {
            let Some(&(due, id)) = self.due.first() else {
                return Due::Never;
            };
            if due > now {
                return Due::At(due);
            }
            self.due.pop_first();
            // Invariant: only entries are due.
            if let Some((job, registration)) = self.begin(id, due) {
                return Due::Now(job, registration);
            }
        }
    }

    /// Begins an attempt, unless its pod has as many under way as it may.
    fn begin(&mut self, id: u64, due: Instant) -> Option<(Job, AbortRegistration)> {
        let entry = self.entries.get_mut(&id)?;
        let crowd = self
            .pods
            .entry(entry.watched.whose.uid.clone())
            .or_default();
        if crowd.under_way >= ATTEMPTS_PER_POD_MAX {
            entry.stage = Stage::Held(due);
            crowd.held.push_back(id);
            return None;
        }
        crowd.under_way += 1;
        let (abort, registration) = AbortHandle::new_pair();
        entry.stage = Stage::UnderWay { due, abort };
        let job = Job {
            id,
            kind: entry.watched.kind,
            probe: entry.watched.probe.clone(),
            pod_ip: entry.watched.pod_ip,
            whose: entry.watched.whose.clone(),
            names: entry.watched.names.clone(),
            programs: entry.watched.programs.clone(),
        };
        Some((job, registration))
    }

    /// Counts an attempt that came out, tells of it, and says when the next is due.
    pub(super) fn settle(&mut self, id: u64, ended: Ended, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let Stage::UnderWay { due, .. } = entry.stage else {
            return;
        };
        entry.note(ended);
        let uid = entry.watched.whose.uid.clone();
        if entry.tally.is_on_hold() && entry.told == entry.tally.verdict() {
            entry.stage = Stage::OnHold;
        } else {
            // As a ticker does that keeps one missed tick.
            let next = (due + entry.watched.probe.period).max(now);
            entry.stage = Stage::Waits(next);
            self.due.insert((next, id));
        }
        self.leave(&uid);
    }
}

impl Entry {
    fn note(&mut self, ended: Ended) {
        // A verdict that found no room is final all the same; only the telling is repeated.
        if !self.tally.is_on_hold() {
            let (attempt, what) = match ended {
                Ended::Good => (Some(Verdict::Success), None),
                Ended::Warned(text) => (Some(Verdict::Success), Some(What::Warned(text))),
                Ended::Failed(text) => (Some(Verdict::Failure), Some(What::Failed(text))),
                Ended::Errored(text) => (None, Some(What::Errored(text))),
            };
            if let Some(what) = what {
                // News is no state: what finds no room is lost.
                let _ = self.tell(what);
            }
            if let Some(attempt) = attempt {
                self.tally.note(&self.watched.probe, attempt);
            }
        }
        let verdict = self.tally.verdict();
        if verdict != self.told
            && let Some(verdict) = verdict
            && self.tell(What::Verdict(verdict)).is_ok()
        {
            self.told = Some(verdict);
        }
    }

    fn tell(&self, what: What) -> Result<(), TrySendError<News>> {
        self.watched.news.try_send(News {
            container: self.watched.container,
            attempt: self.watched.attempt,
            kind: self.watched.kind,
            what,
        })
    }
}
