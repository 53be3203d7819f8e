//! Writes a pod's status: at most one patch under way per pod, and none when nothing changed.
//!
//! A status that is overtaken before it is sent is not sent. So while many pods start, the server is
//! told less of each, and always the newest.

mod patch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use kube::Api;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::conditions::PASSING;
use super::{PublishedUrl, Refused};
use crate::acknowledged;
use crate::spec::PodKey;
use crate::time::Moment;

/// Status patches under way at once, over all pods: enough to hide the round trip to a real server
/// without holding its request limit.
pub(crate) const STATUS_WRITES_MAX: usize = 32;

/// That a new pod's containers are being made is told when it takes longer than this: a tenth of a second
/// goes by unnoticed, and most starts need less, so that their first status says that they run.
const START_UNTOLD_MAX: Duration = Duration::from_millis(100);

/// That a new pod runs is told when it is not ready this long after that: the readiness probe is asked for
/// at once, and while many pods start its answer needs some milliseconds. An attempt that fails ends the
/// wait, since the next one comes only after a whole period.
const READY_AWAITED_MAX: Duration = Duration::from_millis(20);

/// Delay after the first failed write; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// Failed writes are at most this many doublings apart: 16 s.
const RETRY_DOUBLINGS_MAX: u32 = 6;

/// Remembers what the API server has been told about one pod.
pub(crate) struct Reporter {
    key: PodKey,
    api: Api<Pod>,
    writes: Arc<Semaphore>,
    /// The patch that was accepted last.
    accepted: Option<Bytes>,
    /// The patch under way.
    pending: Option<Arc<Outgoing>>,
    start: Start,
    /// The first attempts of the readiness probes may still make the pod ready at once.
    awaits_ready: bool,
    conditions: Vec<PodCondition>,
    /// The server may have conditions that are gone by now.
    had_passing: bool,
    /// The conditions of which the server may have a reason or a message.
    explained: Explained,
    /// After failures: how many in a row, and when the next try is due.
    failures: u32,
    not_before: Option<Moment>,
}

/// The conditions that were once told with a reason or a message, by their type. Only of these does a patch say
/// that there is none now, so that the first one of a pod is no longer than it has to be.
#[derive(Debug, Default)]
struct Explained {
    reasons: BTreeSet<String>,
    messages: BTreeSet<String>,
}

/// A patch that is written when its turn comes. Until then a newer one may take its place.
#[derive(Debug)]
struct Outgoing(Mutex<Patch>);

#[derive(Debug)]
enum Patch {
    /// Its turn has not come.
    Waiting(Bytes),
    /// What was sent does not change any more.
    Sent(Bytes),
}

/// What the server has been told of the pod's start. Each state is left for a later one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Nothing, and nothing had to be.
    Untold,
    /// Nothing; that containers are being made is told at this time.
    Making(Moment),
    /// Nothing; that they run and are not ready is told at this time.
    Readying(Moment),
    /// Something, or an earlier agent told of it.
    Told,
}

/// How a write came out.
#[derive(Debug)]
pub(crate) enum Written {
    /// The server has it.
    Accepted,
    /// The pod is gone, or another took its name: nothing is left to report.
    Gone,
    /// It may work later.
    Failed(kube::Error),
}

impl Reporter {
    /// Starts with the conditions found on the object, of which those of others are kept.
    pub(crate) fn new(
        key: PodKey,
        client: kube::Client,
        writes: Arc<Semaphore>,
        conditions: Vec<PodCondition>,
    ) -> Reporter {
        let api = Api::namespaced(client, &key.namespace);
        Reporter {
            key,
            api,
            writes,
            accepted: None,
            pending: None,
            start: match conditions.iter().any(|one| one.type_ == "Ready") {
                true => Start::Told,
                false => Start::Untold,
            },
            awaits_ready: true,
            had_passing: has_passing(&conditions),
            explained: Explained::of(&conditions),
            conditions,
            failures: 0,
            not_before: None,
        }
    }

    /// The conditions published last, for their transition times.
    pub(crate) fn conditions(&self) -> &[PodCondition] {
        &self.conditions
    }

    /// Whether the server knows everything that was offered.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_none() && self.not_before.is_none() && self.due().is_none()
    }

    /// When a failed write is tried again, and how often it has failed in a row.
    pub(crate) fn retry(&self) -> Option<(Moment, u32)> {
        self.not_before.map(|at| (at, self.failures))
    }

    /// When a status that was held back is to be offered again.
    pub(crate) fn due(&self) -> Option<Moment> {
        match self.start {
            Start::Making(at) | Start::Readying(at) => Some(at),
            Start::Untold | Start::Told => None,
        }
    }

    /// Returns a write when the status differs from what the server knows and none is under way.
    ///
    /// A status that changes while a write waits for its turn goes out with it; one that changes while a
    /// write is under way is offered again after it. So any number of changes in between cost one write.
    pub(crate) fn offer(
        &mut self,
        status: &PodStatus,
        published: &[PublishedUrl],
        refused: &[Refused],
        now: Moment,
    ) -> Option<impl Future<Output = Written> + Send + use<>> {
        if self.not_before.is_some_and(|at| !now.reached(at)) {
            return None;
        }
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.is_sent())
        {
            return None;
        }
        if refused.is_empty() && self.is_held(status, now) {
            return None;
        }
        self.not_before = None;
        let conditions = status.conditions.as_deref().unwrap_or_default();
        self.had_passing |= has_passing(conditions);
        let about = patch::About {
            uid: &self.key.uid,
            published,
            refused,
            had_passing: self.had_passing,
            explained: &self.explained,
        };
        let patch = patch::of(status, &about);
        if self.pending.is_none() && self.accepted.as_ref() == Some(&patch) {
            return None;
        }
        self.conditions = status.conditions.clone().unwrap_or_default();
        if let Some(pending) = &self.pending {
            pending.replace(patch);
            return None;
        }
        let outgoing = Arc::new(Outgoing(Mutex::new(Patch::Waiting(patch))));
        self.pending = Some(outgoing.clone());
        let (api, writes) = (self.api.clone(), self.writes.clone());
        let key = self.key.clone();
        Some(async move {
            // The semaphore is never closed; without a permit the write only goes unmetered.
            let _permit = writes.acquire_owned().await.ok();
            match acknowledged::patch_status(&api, &key.name, outgoing.send()).await {
                Ok(()) => Written::Accepted,
                Err(error) if is_gone(&api, &key, &error).await => Written::Gone,
                Err(error) => Written::Failed(error),
            }
        })
    }

    /// Holds nothing back any more: the pod is on its way out.
    pub(crate) fn hurry(&mut self) {
        self.start = Start::Told;
    }

    /// Waits no longer for the pod to become ready at once, and says whether something was held back for
    /// that, which is to be offered again.
    pub(crate) fn give_up_ready(&mut self) -> bool {
        self.awaits_ready = false;
        matches!(self.start, Start::Readying(_))
    }

    /// Whether nobody has to be told of this status yet.
    fn is_held(&mut self, status: &PodStatus, now: Moment) -> bool {
        self.start = match (self.start, stage(status)) {
            (Start::Untold, Stage::Making) => Start::Making(now.after(START_UNTOLD_MAX)),
            (Start::Making(at), Stage::Making) if !now.reached(at) => Start::Making(at),
            (Start::Untold | Start::Making(_), Stage::Readying) if self.awaits_ready => {
                Start::Readying(now.after(READY_AWAITED_MAX))
            }
            (Start::Readying(at), Stage::Readying) if self.awaits_ready && !now.reached(at) => {
                Start::Readying(at)
            }
            (Start::Untold | Start::Making(_) | Start::Readying(_) | Start::Told, _) => Start::Told,
        };
        self.start != Start::Told
    }

    /// Notes how the write came out.
    pub(crate) fn written(&mut self, outcome: &Written, now: Moment) {
        let patch = self.pending.take();
        // A write that failed may have come through all the same.
        self.explained.note(&self.conditions);
        match outcome {
            Written::Accepted => {
                self.accepted = patch.map(|patch| patch.send());
                self.failures = 0;
            }
            Written::Gone => {}
            Written::Failed(_) => {
                self.failures = self.failures.saturating_add(1);
                let delay = RETRY_FIRST.saturating_mul(1 << self.failures.min(RETRY_DOUBLINGS_MAX));
                self.not_before = Some(now.after(delay));
            }
        }
    }
}

impl Outgoing {
    fn is_sent(&self) -> bool {
        matches!(*self.0.lock(), Patch::Sent(_))
    }

    /// Takes the place of what waits; too late for what is sent.
    fn replace(&self, patch: Bytes) {
        if let Patch::Waiting(waiting) = &mut *self.0.lock() {
            *waiting = patch;
        }
    }

    /// Returns what goes out; it does not change any more.
    fn send(&self) -> Bytes {
        let mut patch = self.0.lock();
        let (Patch::Waiting(bytes) | Patch::Sent(bytes)) = &*patch;
        let bytes = bytes.clone();
        *patch = Patch::Sent(bytes.clone());
        bytes
    }
}

impl Explained {
    fn of(conditions: &[PodCondition]) -> Explained {
        let mut explained = Explained::default();
        explained.note(conditions);
        explained
    }

    fn note(&mut self, conditions: &[PodCondition]) {
        for condition in conditions {
            for (known, text) in [
                (&mut self.reasons, &condition.reason),
                (&mut self.messages, &condition.message),
            ] {
                if text.is_some() && !known.contains(&condition.type_) {
                    known.insert(condition.type_.clone());
                }
            }
        }
    }
}

/// How far a status says that a pod's start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its containers are being made, and nothing is wrong.
    Making,
    /// All of them run for the first time; some are not ready.
    Readying,
    /// Anything else.
    Other,
}

fn stage(status: &PodStatus) -> Stage {
    let waits = |one: &ContainerStatus| {
        let waiting = one.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        matches!(reason, Some("ContainerCreating" | "PodInitializing"))
    };
    let runs = |one: &ContainerStatus| {
        let running = one.state.as_ref().and_then(|state| state.running.as_ref());
        running.is_some() && one.restart_count == 0 && one.started == Some(true)
    };
    let inits = || status.init_container_statuses.iter().flatten();
    let apps = || status.container_statuses.iter().flatten();
    match status.phase.as_deref() {
        _ if status.reason.is_some() => Stage::Other,
        Some("Pending") if inits().chain(apps()).all(|one| waits(one) || runs(one)) => {
            Stage::Making
        }
        Some("Running") if apps().all(runs) && apps().any(|one| !one.ready) => Stage::Readying,
        Some(_) | None => Stage::Other,
    }
}

fn has_passing(conditions: &[PodCondition]) -> bool {
    let is_passing = |one: &PodCondition| PASSING.contains(&one.type_.as_str());
    conditions.iter().any(is_passing)
}

/// Whether the object is gone or another one has its name. A conflict alone does not tell, so it is looked
/// up.
pub(crate) async fn is_gone(api: &Api<Pod>, key: &PodKey, error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    match status.code {
        404 => true,
        409 | 422 => match api.get_metadata_opt(&key.name).await {
            Ok(found) => {
                found.is_none_or(|object| object.metadata.uid.as_deref() != Some(&*key.uid))
            }
            Err(_) => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests;
