//! Which pods are this node's, and one worker for each: the pod source and the keeper of workers.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};

use super::labels::NodeLabels;
use super::{rejection, sweep};
use crate::allocation::{Demand, Shortage};
use crate::images::blocking;
use crate::lifecycle::{EndCause, Ending, Intent};
use crate::readable::{self, News};
use crate::seen::SeenPod;
use crate::spec::{FieldRefusal, HostPathPolicy, PodKey, PodSpecPlan, check_pod};
use crate::worker::{Desired, Node, Remains, Worker, log_dir, remove};

/// Grace of a pod whose object vanished (contract B.9).
const VANISHED_GRACE: Duration = Duration::from_secs(1);

/// A worker that broke is started again after this, so that a bug which repeats costs little.
const RESTART_DELAY: Duration = Duration::from_secs(10);

/// Whether the agent is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shutdown {
    No,
    /// Each pod may take this long.
    Within(Duration),
}

/// The pods of this node.
pub(super) struct Pods {
    node: Arc<Node>,
    labels: NodeLabels,
    host_path: HostPathPolicy,
    slots: HashMap<Arc<str>, Slot>,
    workers: JoinSet<Remains>,
    by_task: HashMap<task::Id, Arc<str>>,
    /// Pods seen since a full list began.
    listed: Option<HashSet<Arc<str>>>,
    /// Pods of the first list that never had an address: those that had one keep theirs, so all of them
    /// must be known before a new one is given out. `None` once the first list is complete.
    newcomers: Option<Vec<Pod>>,
    /// What was on the disk before the first pod; looked at once that list is complete.
    leftovers: Vec<sweep::Leftover>,
}

/// What is known of one pod, by UID.
struct Slot {
    key: PodKey,
    stage: Stage,
    /// Its object is gone; the slot goes with its worker.
    vanished: bool,
}

enum Stage {
    /// A worker has it.
    Working { desired: watch::Sender<Desired> },
    /// Nothing is left to do while the object stays.
    Over,
    /// Its object is being removed.
    Leaving,
}

impl Pods {
    pub(super) fn new(node: Arc<Node>, labels: NodeLabels, host_path: HostPathPolicy) -> Pods {
        Pods {
            node,
            labels,
            host_path,
            slots: HashMap::new(),
            workers: JoinSet::new(),
            by_task: HashMap::new(),
            listed: None,
            newcomers: Some(Vec::new()),
            leftovers: Vec::new(),
        }
    }

    /// Follows the API server until the agent stops, then until every worker has ended.
    pub(super) async fn run(mut self, node_name: String, mut stopping: watch::Receiver<Shutdown>) {
        let data_dir = self.node.site.data_dir.clone();
        self.leftovers = blocking(move || sweep::find(&data_dir)).await;
        let config = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
        let mut events = readable::watch::<SeenPod>(self.node.site.client.clone(), config);
        let deadline = loop {
            tokio::select! {
                // Safe to cancel: the value stays readable.
                changed = stopping.changed() => {
                    let shutdown = *stopping.borrow_and_update();
                    match (changed, shutdown) {
                        (Ok(()), Shutdown::Within(deadline)) => break deadline,
                        (Ok(()), Shutdown::No) => {}
                        (Err(_), _) => break Duration::ZERO,
                    }
                }
                // Safe to cancel: a stream gives an event only when it returns.
                event = events.next() => match event {
                    Some(Ok(News::Event(event))) => self.observe(event).await,
                    Some(Ok(News::Unread(metadata))) => self.note_unread(metadata.uid.as_deref()),
                    Some(Err(error)) => tracing::warn!(%error, "failed to watch pods"),
                    None => break Duration::ZERO,
                },
                // Safe to cancel: an ended task is taken out only when it is returned.
                Some(ended) = self.workers.join_next_with_id() => self.reap(ended),
            }
        };
        self.stop(deadline).await;
    }

    async fn stop(mut self, deadline: Duration) {
        for slot in self.slots.values() {
            if let Stage::Working { desired } = &slot.stage {
                let grace = desired.borrow().renewal.spec.grace.min(deadline);
                let intent = Intent::End(Ending {
                    cause: EndCause::Shutdown,
                    grace,
                });
                desired.send_if_modified(|known| {
                    // A pod that already ends for another reason keeps it.
                    let is_running = known.intent == Intent::Run;
                    if is_running {
                        known.intent = intent;
                    }
                    is_running
                });
            }
        }
        while let Some(ended) = self.workers.join_next_with_id().await {
            if let Err(error) = ended {
                tracing::error!(%error, "broken promise: a pod worker does not panic");
            }
        }
    }

    async fn observe(&mut self, event: Event<SeenPod>) {
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(SeenPod(pod)) => {
                if let (Some(listed), Some(uid)) = (&mut self.listed, &pod.metadata.uid) {
                    listed.insert(uid.as_str().into());
                }
                match &mut self.newcomers {
                    Some(newcomers) if address(&pod).is_none() => newcomers.push(pod),
                    Some(_) | None => self.apply(&pod).await,
                }
            }
            Event::InitDone => {
                for pod in self.newcomers.take().into_iter().flatten() {
                    self.apply(&pod).await;
                }
                // Only a complete list proves that an object is gone.
                let Some(listed) = self.listed.take() else {
                    return;
                };
                let gone: Vec<_> = self
                    .slots
                    .keys()
                    .filter(|uid| !listed.contains(*uid))
                    .cloned()
                    .collect();
                gone.iter().for_each(|uid| self.vanish(uid));
                self.sweep(listed);
            }
            Event::Apply(SeenPod(pod)) => self.apply(&pod).await,
            Event::Delete(SeenPod(pod)) => {
                if let Some(uid) = pod.metadata.uid.as_deref() {
                    self.vanish(uid);
                }
            }
        }
    }

    /// A pod that cannot be read is there: if it is known, it goes on as it was.
    fn note_unread(&mut self, uid: Option<&str>) {
        if let (Some(listed), Some(uid)) = (&mut self.listed, uid) {
            listed.insert(uid.into());
        }
    }

    /// Removes what earlier agents left of pods that are gone; once.
    fn sweep(&mut self, living: HashSet<Arc<str>>) {
        let leftovers = std::mem::take(&mut self.leftovers);
        if leftovers.is_empty() {
            return;
        }
        self.workers.spawn_blocking(move || {
            sweep::remove(leftovers, &living);
            Remains::Nothing
        });
    }

    async fn apply(&mut self, pod: &Pod) {
        let Some(uid) = pod.metadata.uid.as_deref().filter(|uid| !uid.is_empty()) else {
            return;
        };
        let intent = intent(pod);
        match self.slots.get(uid).map(|slot| &slot.stage) {
            Some(Stage::Working { desired }) => {
                let check = || check_pod(pod, self.host_path);
                desired.send_if_modified(|known| known.learn(pod, intent, check));
            }
            Some(Stage::Over) => {
                if intent != Intent::Run {
                    self.leave(uid);
                }
            }
            Some(Stage::Leaving) => {}
            None => self.accept(pod, uid, intent).await,
        }
    }

    /// First sight of a pod.
    async fn accept(&mut self, pod: &Pod, uid: &str, intent: Intent) {
        let checked = check_pod(pod, self.host_path);
        let key = match &checked {
            Ok(spec) => spec.key.clone(),
            Err(_) => PodKey {
                namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
                name: pod.metadata.name.as_deref().unwrap_or_default().into(),
                uid: uid.into(),
            },
        };
        let slot = Slot {
            key: key.clone(),
            stage: Stage::Over,
            vanished: false,
        };
        self.slots.insert(uid.into(), slot);
        self.open_logs(&key, pod);
        if is_terminal(pod) {
            if intent != Intent::Run {
                self.leave(uid);
            }
            return;
        }
        let refusal = match checked {
            Ok(spec) => match self.labels.mismatch(&spec.node_selector).await {
                None => match self.admit(&spec, pod) {
                    Ok(()) => return self.begin(Arc::new(spec), pod, intent),
                    Err(shortage) => rejection::Rejection {
                        reason: shortage.code(),
                        message: shortage.to_string(),
                    },
                },
                Some(message) => rejection::Rejection {
                    reason: "NodeAffinity",
                    message,
                },
            },
            Err(refusals) => rejection::Rejection {
                reason: "PodFeatureUnsupported",
                message: listed(&refusals),
            },
        };
        tracing::info!(pod = %key, reason = refusal.reason, message = refusal.message, "pod is rejected");
        let task = rejection::reject(self.node.clone(), key, pod.clone(), refusal);
        let task = async move {
            task.await;
            Remains::Object
        };
        let handle = self.workers.spawn(task);
        self.by_task.insert(handle.id(), uid.into());
    }

    /// Lets the logs of a pod be read, also those of one that has ended under an earlier agent.
    fn open_logs(&self, key: &PodKey, pod: &Pod) {
        if !check_path(key) {
            return;
        }
        let spec = pod.spec.iter();
        let inits = spec
            .clone()
            .flat_map(|spec| spec.init_containers.iter().flatten());
        let late = spec
            .clone()
            .flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        let late = late.map(|container| container.name.as_str());
        let names = inits.chain(spec.flat_map(|spec| &spec.containers));
        let names = names.map(|container| container.name.as_str()).chain(late);
        self.node
            .logs
            .open(key, names.filter(|name| is_path_part(name)));
        if let Some(status) = &pod.status {
            self.node.logs.note(key, status);
        }
    }

    /// Takes note of what a pod requests, if the node has room for it. One that ran here before keeps what it
    /// was promised.
    fn admit(&self, spec: &PodSpecPlan, pod: &Pod) -> Result<(), Shortage> {
        let demand = |spec: &PodSpecPlan| {
            let containers = spec.containers.iter();
            Demand::of_pod(spec, containers.map(|one| (one.role, one.resources)))
        };
        let ledger = &self.node.ledger;
        match pod.status.as_ref().filter(|s| s.start_time.is_some()) {
            Some(status) => {
                ledger.note(&spec.key.uid, demand(&spec.as_allocated(status)));
                Ok(())
            }
            None => ledger.admit(&spec.key.uid, demand(spec)),
        }
    }

    fn begin(&mut self, spec: Arc<PodSpecPlan>, pod: &Pod, intent: Intent) {
        tracing::info!(pod = %spec.key, "pod is accepted");
        if let Some(ip) = address(pod)
            && !self.node.site.fabric.keep(&spec.key.uid, ip)
        {
            tracing::debug!(pod = %spec.key, %ip, "the pod's former address is not to be had");
        }
        let (desired, receiver) = watch::channel(Desired::new(spec.clone(), pod, intent));
        let uid = spec.key.uid.clone();
        let worker = Worker::new(self.node.clone(), spec, pod.status.as_ref(), receiver);
        let handle = self.workers.spawn(worker.run());
        self.by_task.insert(handle.id(), uid.clone());
        if let Some(slot) = self.slots.get_mut(&uid) {
            slot.stage = Stage::Working { desired };
        }
    }

    /// The object of a pod is gone.
    fn vanish(&mut self, uid: &str) {
        let Some(slot) = self.slots.get_mut(uid) else {
            return;
        };
        slot.vanished = true;
        match &slot.stage {
            Stage::Working { desired } => {
                let ending = Ending {
                    cause: EndCause::Vanished,
                    grace: VANISHED_GRACE,
                };
                desired.send_modify(|known| known.intent = Intent::End(ending));
                // To a scheduler its place is free already, and the pod that is sent there must not be refused.
                self.node.ledger.release(uid);
            }
            Stage::Over | Stage::Leaving => self.forget(uid),
        }
    }

    /// Removes the object of a pod on which nothing is left to do.
    fn leave(&mut self, uid: &str) {
        let Some(slot) = self.slots.get_mut(uid) else {
            return;
        };
        slot.stage = Stage::Leaving;
        let (client, key) = (self.node.site.client.clone(), slot.key.clone());
        let handle = self.workers.spawn(async move {
            while !remove(client.clone(), key.clone()).await {}
            Remains::Nothing
        });
        self.by_task.insert(handle.id(), uid.into());
    }

    fn reap(&mut self, ended: Result<(task::Id, Remains), JoinError>) {
        let (id, end) = match ended {
            Ok((id, remains)) => (id, Ok(remains)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(uid) = self.by_task.remove(&id) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(&uid) else {
            return;
        };
        if slot.vanished {
            return self.forget(&uid);
        }
        match (end, &slot.stage) {
            (Ok(remains), Stage::Working { desired }) => {
                // A deletion may have come when the worker had just ended.
                let is_unwanted = desired.borrow().intent != Intent::Run;
                slot.stage = Stage::Over;
                self.node.ledger.release(&uid);
                if is_unwanted && remains == Remains::Object {
                    self.leave(&uid);
                }
            }
            (Ok(_), Stage::Over | Stage::Leaving) => {}
            (Err(error), _) => {
                let pod = &slot.key;
                tracing::error!(%pod, %error, "broken promise: a pod worker does not panic");
                self.restart(&uid);
            }
        }
    }

    /// Gives a pod whose worker broke a new one; what the old one held ended with it.
    fn restart(&mut self, uid: &str) {
        let Some(slot) = self.slots.get_mut(uid) else {
            return;
        };
        let Stage::Working { desired } = &slot.stage else {
            return;
        };
        let (node, receiver) = (self.node.clone(), desired.subscribe());
        let handle = self.workers.spawn(async move {
            tokio::time::sleep(RESTART_DELAY).await;
            let spec = receiver.borrow().renewal.spec.clone();
            let api = Api::<Pod>::namespaced(node.site.client.clone(), &spec.key.namespace);
            let status = api
                .get_opt(&spec.key.name)
                .await
                .ok()
                .flatten()
                .and_then(|p| p.status);
            Worker::new(node, spec, status.as_ref(), receiver)
                .run()
                .await
        });
        self.by_task.insert(handle.id(), uid.into());
    }

    fn forget(&mut self, uid: &str) {
        let Some(slot) = self.slots.remove(uid) else {
            return;
        };
        self.node.logs.close(&slot.key);
        self.node.execs.sweep(&slot.key);
        self.node.ledger.release(uid);
        self.node.site.fabric.release(&slot.key.uid);
        let logs = log_dir(&self.node.site.data_dir, &slot.key);
        let is_safe = check_path(&slot.key);
        let handle = self.workers.spawn_blocking(move || {
            if is_safe
                && let Err(error) = std::fs::remove_dir_all(&logs)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %logs.display(), %error, "failed to remove a pod's logs");
            }
            Remains::Nothing
        });
        self.by_task.insert(handle.id(), uid.into());
    }
}

/// Names of rejected pods were not checked, and they become part of a path.
fn check_path(key: &PodKey) -> bool {
    let parts = [&key.namespace, &key.name, &key.uid];
    parts.into_iter().all(|part| is_path_part(part))
}

fn is_path_part(part: &str) -> bool {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    !part.is_empty() && !part.starts_with('.') && part.chars().all(is_safe)
}

fn intent(pod: &Pod) -> Intent {
    if pod.metadata.deletion_timestamp.is_none() {
        return Intent::Run;
    }
    let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Intent::End(Ending {
        cause: EndCause::Deleted,
        grace,
    })
}

/// The address that the pod had under an earlier agent.
fn address(pod: &Pod) -> Option<Ipv4Addr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

fn is_terminal(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn listed(refusals: &[FieldRefusal]) -> String {
    let list: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    list.join("; ")
}
