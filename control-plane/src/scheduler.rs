//! Gives pods without a node a node that has room for them.
//!
//! An ordinary client of the API: it watches pods, nodes and namespaces, keeps the few facts that
//! matter, and answers with bindings. It would run unchanged beside a real API server. Pods that fit
//! nowhere are told so in their conditions and tried again when something changes; a more important
//! one may push others off a node.
//!
//! One task decides, one pod after the other, in memory; what follows from a decision is written by
//! up to [`WRITES_MAX`] requests at once.

mod announce;
mod claims;
mod cluster;
mod facts;
mod fit;
mod preempt;
mod queue;
mod score;
mod terms;
mod topology;
mod view;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod},
    api::storage::v1::StorageClass,
};
use kube::{
    Client, ResourceExt,
    api::ApiResource,
    runtime::watcher::{self, Event},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use announce::{Announcer, Nomination, Refusal, Target};
use claims::{Claims, Verdict};
use cluster::{Change, Cluster, Course, Listing, Nominee, Placed, PodKey};
use facts::PodFacts;
use fit::{Candidate, Unfit};
use preempt::{Hopeless, Plan, Victim};
use queue::{Queue, Waiting};
use view::{NamespaceView, NodeView, PodView};

use crate::{changes::changes, control_plane::FirstNode};

/// The scheduler name of pods that are ours to place.
const SCHEDULER_NAME: &str = "default-scheduler";

/// Requests under way at once: enough to share one durable write of the store, few enough to leave
/// the API to others.
const WRITES_MAX: usize = 128;

/// Pods that are tried between two looks at what has changed.
const TRIES_MAX: usize = 64;

/// How long a pod that fits nowhere waits for a change before it is tried without one, in case a
/// change was missed; the stock scheduler's number.
const PARKED_MAX: Duration = Duration::from_secs(5 * 60);

/// How long pods wait for a first node that follows. Else each pod of a manifest would be refused, with a
/// write of its status and an event, only to be placed a moment later.
const FIRST_NODE_MAX: Duration = Duration::from_secs(5);

/// What came of writing a decision down.
struct Done {
    key: PodKey,
    uid: Arc<str>,
    outcome: Outcome,
}

enum Outcome {
    Bound(Result<(), kube::Error>),
    Refused(Result<Arc<str>, kube::Error>),
    /// Its claims were told which node they are for.
    Selected(Result<(), kube::Error>),
    /// The victims that were asked to leave.
    Preempted(Result<(Arc<str>, Vec<Victim>), kube::Error>),
}

/// Runs until `stop`.
pub(crate) async fn run(client: Client, first: FirstNode, stop: CancellationToken) {
    let mut scheduler = Scheduler::new(client, first);
    // Every step of the loop leaves the scheduler consistent, so it can stop between any two.
    tokio::select! {
        () = scheduler.run() => {}
        () = stop.cancelled() => {}
    }
}

/// Invariant: a pod is in `queue`, or placed in `cluster`, or both while its binding is written.
struct Scheduler {
    client: Client,
    announcer: Announcer,
    cluster: Cluster,
    queue: Queue,
    pods: Listing<PodKey>,
    claims: Claims,
    /// Until when the first node is waited for; nothing once there was one.
    first_node: Option<Instant>,
    writes: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Scheduler {
    fn new(client: Client, first: FirstNode) -> Scheduler {
        Scheduler {
            announcer: Announcer::new(client.clone()),
            client,
            cluster: Cluster::default(),
            queue: Queue::default(),
            pods: Listing::default(),
            claims: Claims::default(),
            first_node: match first {
                FirstNode::Unknown => None,
                FirstNode::Follows => Some(Instant::now() + FIRST_NODE_MAX),
            },
            writes: FuturesUnordered::new(),
        }
    }

    async fn run(&mut self) {
        let all = watcher::Config::default;
        let resource = ApiResource::erase::<Pod>(&());
        let mut pods = changes::<PodView>(self.client.clone(), &resource, all());
        let resource = ApiResource::erase::<Node>(&());
        let mut nodes = changes::<NodeView>(self.client.clone(), &resource, all());
        let resource = ApiResource::erase::<Namespace>(&());
        let mut namespaces = changes::<NamespaceView>(self.client.clone(), &resource, all());
        let mut claims = changes::<PersistentVolumeClaim>(self.client.clone(), &(), all());
        let mut volumes = changes::<PersistentVolume>(self.client.clone(), &(), all());
        let mut classes = changes::<StorageClass>(self.client.clone(), &(), all());
        let mut look_again = Instant::now() + PARKED_MAX;
        loop {
            let has_more = self.try_some();
            let dues = [self.queue.next_due(), self.first_node];
            let due = dues.into_iter().flatten().fold(look_again, Instant::min);
            // Streams, writes and the timer lose nothing when another branch wins. News comes first,
            // so that a pod is not judged by an older picture than need be.
            tokio::select! {
                biased;
                Some(event) = namespaces.next() => {
                    let change = self.cluster.on_namespace(event);
                    self.wake(change);
                }
                Some(event) = nodes.next() => {
                    // Nodes change rarely, and a first node is what everyone waits for.
                    if self.cluster.on_node(event) == Change::Room {
                        self.queue.wake_all_at_once();
                    }
                }
                Some(event) = classes.next() => {
                    let change = self.claims.on_class(event);
                    self.wake(change);
                }
                Some(event) = volumes.next() => {
                    let change = self.claims.on_volume(event);
                    self.wake(change);
                }
                Some(event) = claims.next() => {
                    let change = self.claims.on_claim(event);
                    self.wake(change);
                }
                Some(event) = pods.next() => self.on_pod_event(event),
                Some(done) = self.writes.next(), if !self.writes.is_empty() => self.finish(done),
                () = sleep_until(due) => {
                    if Instant::now() >= look_again {
                        look_again = Instant::now() + PARKED_MAX;
                        self.queue.wake_all(Instant::now());
                    }
                }
                // Others on this thread have their turn before the next pods are tried.
                () = tokio::task::yield_now(), if has_more => (),
                else => return,
            }
        }
    }

    fn wake(&mut self, change: Change) {
        match change {
            Change::Nothing => (),
            Change::Company => self.queue.wake_sociable(Instant::now()),
            Change::Room => self.queue.wake_all(Instant::now()),
        }
    }

    /// Tries a few pods; says whether more could be tried at once.
    fn try_some(&mut self) -> bool {
        // Before all lists are known, every verdict would be a guess.
        if !(self.cluster.is_known() && self.pods.is_known()) || self.awaits_first_node() {
            return false;
        }
        for _ in 0..TRIES_MAX {
            if self.writes.len() >= WRITES_MAX {
                return false;
            }
            match self.queue.next(Instant::now()) {
                Some(key) => self.place(&key),
                None => return false,
            }
        }
        self.queue.has_active()
    }

    fn awaits_first_node(&mut self) -> bool {
        let is_over = self.first_node.is_some_and(|until| until <= Instant::now());
        // A node joins first and is ready, and rid of its taint, a moment later.
        if is_over || self.cluster.nodes.values().any(|node| !node.is_not_ready()) {
            self.first_node = None;
        }
        self.first_node.is_some()
    }

    fn place(&mut self, key: &PodKey) {
        let Some(waiting) = self.queue.get(key).cloned() else {
            return;
        };
        let verdict = self.claims.verdict(key, &waiting.facts, &self.cluster);
        let (reach, select) = match verdict {
            Some(Verdict::Ready(reach)) => (reach, Vec::new()),
            Some(Verdict::Select(reach, select)) => (reach, select),
            Some(Verdict::Waits(why)) => return self.refuse_everywhere(key, &waiting, &why),
            None => return self.queue.park(key, Instant::now()),
        };
        let mut waiting = waiting;
        if !reach.is_empty() {
            Arc::make_mut(&mut waiting.facts).reach = reach;
        }
        let facts = &waiting.facts;
        match fit::choose(&mut self.cluster, Candidate { key, facts }) {
            Ok(node) if !select.is_empty() => self.select(key, &waiting, node, select),
            Ok(node) => self.assign(key, &waiting, node),
            Err(unfit) => self.push_or_refuse(key, &waiting, &unfit),
        }
    }

    /// Has claims bound for a node; the pod is tried again when they are.
    fn select(&mut self, key: &PodKey, waiting: &Waiting, node: Arc<str>, claims: Vec<String>) {
        let (announcer, target) = (self.announcer.clone(), target(key, waiting));
        self.write(key, waiting, async move {
            Outcome::Selected(announcer.select(&target, &node, &claims).await)
        });
    }

    /// Tells a pod that it waits wherever it could go.
    fn refuse_everywhere(&mut self, key: &PodKey, waiting: &Waiting, why: &str) {
        let mut unhelpful = Unfit::default();
        for _ in 0..self.cluster.nodes.len() {
            unhelpful.add(["Preemption is not helpful for scheduling"]);
        }
        let nodes = self.cluster.nodes.len();
        let message = format!(
            "0/{nodes} nodes are available: {why}. preemption: {}",
            unhelpful.message()
        );
        self.refuse(key, waiting, message, Nomination::Keep);
    }

    /// Counts a pod on its node and writes the binding.
    fn assign(&mut self, key: &PodKey, waiting: &Waiting, node: Arc<str>) {
        // Counted before the answer, so that the next pod does not take the same room.
        let placed = Placed {
            uid: Arc::clone(&waiting.uid),
            node: Arc::clone(&node),
            facts: Arc::clone(&waiting.facts),
            since: Timestamp::now().as_second(),
            course: Course::Assumed,
        };
        let change = self.cluster.put(key.clone(), placed);
        self.wake(change);
        let (announcer, target) = (self.announcer.clone(), target(key, waiting));
        self.write(key, waiting, async move {
            Outcome::Bound(announcer.bind(&target, &node).await)
        });
    }

    fn push_or_refuse(&mut self, key: &PodKey, waiting: &Waiting, unfit: &Unfit) {
        let facts = &waiting.facts;
        let plan = match unfit.has_nodes() {
            true => preempt::plan(&mut self.cluster, Candidate { key, facts }, unfit).map(Some),
            false => Ok(None),
        };
        match plan {
            Ok(Some(plan)) => self.push(key, waiting, unfit.message(), plan),
            Ok(None) => self.refuse(key, waiting, unfit.message(), Nomination::Keep),
            Err(hopeless) => {
                let message = format!("{} preemption: {}", unfit.message(), hopeless.text());
                let nomination = match &hopeless {
                    Hopeless::Everywhere(_) if self.cluster.nominees.remove(key).is_some() => {
                        Nomination::Clear
                    }
                    Hopeless::Everywhere(_) | Hopeless::NotEligible(_) => Nomination::Keep,
                };
                self.refuse(key, waiting, message, nomination);
            }
        }
    }

    fn refuse(&mut self, key: &PodKey, waiting: &Waiting, message: String, change: Nomination) {
        let known = waiting.told.as_deref() == Some(message.as_str());
        if known && matches!(change, Nomination::Keep) {
            self.queue.park(key, Instant::now());
            return;
        }
        let refusal = Refusal {
            message: message.into(),
            repeated: waiting.told.is_some(),
        };
        let (announcer, target) = (self.announcer.clone(), target(key, waiting));
        self.write(key, waiting, async move {
            let written = announcer.refuse(&target, &refusal, &change).await;
            Outcome::Refused(written.map(|()| refusal.message))
        });
    }

    /// Reserves a node for the pod and asks its victims to leave.
    fn push(&mut self, key: &PodKey, waiting: &Waiting, message: String, plan: Plan) {
        let nominee = Nominee {
            uid: Arc::clone(&waiting.uid),
            node: Arc::clone(&plan.node),
            facts: Arc::clone(&waiting.facts),
        };
        let priority = waiting.facts.priority;
        let nominees = self.cluster.nominees.iter();
        let outdone: Vec<(PodKey, Arc<str>)> = nominees
            .filter(|(_, one)| one.node == plan.node && one.facts.priority < priority)
            .map(|(key, one)| (key.clone(), Arc::clone(&one.uid)))
            .collect();
        for (key, _) in &outdone {
            self.cluster.nominees.remove(key);
        }
        self.cluster.nominees.insert(key.clone(), nominee);
        tracing::info!(pod = %key, node = %plan.node, victims = plan.victims.len(), "preempting");
        let refusal = Refusal {
            message: message.into(),
            repeated: waiting.told.is_some(),
        };
        let (announcer, target) = (self.announcer.clone(), target(key, waiting));
        self.write(key, waiting, async move {
            let nomination = Nomination::Set(Arc::clone(&plan.node));
            let told = announcer.refuse(&target, &refusal, &nomination).await;
            for (key, uid) in &outdone {
                announcer.clear_nomination(key, uid).await;
            }
            let evicted = match told {
                Ok(()) => announcer.evict(&target, &plan).await,
                Err(error) => Err(error),
            };
            Outcome::Preempted(evicted.map(|()| (refusal.message, plan.victims)))
        });
    }

    fn write(
        &mut self,
        key: &PodKey,
        waiting: &Waiting,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let (key, uid) = (key.clone(), Arc::clone(&waiting.uid));
        let done = work.map(|outcome| Done { key, uid, outcome });
        self.writes.push(done.boxed());
    }

    fn finish(&mut self, done: Done) {
        let (key, now) = (&done.key, Instant::now());
        let is_same = |waiting: &Waiting| waiting.uid == done.uid;
        let waits = self.queue.get(key).is_some_and(is_same);
        match done.outcome {
            Outcome::Bound(Ok(())) => {
                if waits {
                    self.queue.remove(key);
                }
                self.cluster.nominees.remove(key);
            }
            Outcome::Bound(Err(error)) => {
                let placed = self.cluster.placed(key);
                if placed.is_some_and(|one| one.course == Course::Assumed && one.uid == done.uid) {
                    self.cluster.take(key);
                    self.wake(Change::Room);
                }
                self.try_later(key, waits, &error);
            }
            Outcome::Refused(Ok(message)) if waits => {
                self.queue.told(key, message);
                self.queue.park(key, now);
            }
            Outcome::Preempted(Ok((message, victims))) => {
                for victim in &victims {
                    self.cluster.mark_leaving(&victim.key);
                }
                if waits {
                    self.queue.told(key, message);
                    self.queue.park(key, now);
                }
            }
            Outcome::Selected(Ok(())) if waits => self.queue.park(key, now),
            Outcome::Refused(Ok(_)) | Outcome::Selected(Ok(())) => (),
            Outcome::Refused(Err(error))
            | Outcome::Selected(Err(error))
            | Outcome::Preempted(Err(error)) => {
                self.try_later(key, waits, &error);
            }
        }
    }

    /// If the pod is gone or placed by someone else, the watch will say so.
    fn try_later(&mut self, key: &PodKey, waits: bool, error: &kube::Error) {
        match error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => {
                tracing::debug!(pod = %key, %error, "pod has changed meanwhile");
            }
            error => tracing::warn!(pod = %key, %error, "decision not written, it is tried again"),
        }
        if waits {
            self.queue.retry(key, Instant::now());
        }
    }

    fn on_pod_event(&mut self, event: Event<PodView>) {
        match event {
            Event::Apply(pod) => self.set_pod(&pod),
            Event::InitApply(pod) => {
                self.pods.saw(PodKey::of(&pod));
                self.set_pod(&pod);
            }
            Event::Delete(pod) => self.forget(&PodKey::of(&pod)),
            Event::Init => self.pods.begin(),
            Event::InitDone => {
                let seen = self.pods.end();
                let keys = self.queue.keys().chain(self.cluster.placed_keys());
                let gone = keys.filter(|key| !seen.contains(*key));
                let gone: Vec<PodKey> = gone.cloned().collect();
                gone.iter().for_each(|key| self.forget(key));
            }
        }
    }

    fn set_pod(&mut self, pod: &PodView) {
        let key = PodKey::of(pod);
        let status = pod.status.clone().unwrap_or_default();
        let node = pod.spec.node_name.as_deref();
        let node = node.filter(|node| !node.is_empty());
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let Some(node) = node.filter(|_| !ended) else {
            return match ended || !is_ours(pod) {
                true => self.forget(&key),
                false => self.set_waiting(key, pod),
            };
        };
        let created = pod.creation_timestamp().map(|time| time.0);
        let started = status.start_time.or(created);
        let placed = Placed {
            uid: pod.uid().unwrap_or_default().into(),
            node: node.into(),
            facts: self.cluster.share(PodFacts::of(pod)),
            since: started.map_or(i64::MAX, Timestamp::as_second),
            course: match pod.metadata.deletion_timestamp {
                Some(_) => Course::Leaving,
                None => Course::Bound,
            },
        };
        self.queue.remove(&key);
        self.cluster.nominees.remove(&key);
        let change = self.cluster.put(key, placed);
        self.wake(change);
    }

    fn set_waiting(&mut self, key: PodKey, pod: &PodView) {
        let uid: Arc<str> = pod.uid().unwrap_or_default().into();
        match self.cluster.placed(&key) {
            // Its binding is on its way through the watch; this is the state before.
            Some(placed) if placed.uid == uid && placed.course == Course::Assumed => return,
            // Another pod of the same name, whose end the watch has missed.
            Some(_) => self.forget(&key),
            None => (),
        }
        let status = pod.status.clone().unwrap_or_default();
        let facts = self.cluster.share(PodFacts::of(pod));
        if self.queue.get(&key).is_none_or(|known| known.uid != uid) {
            // What an earlier scheduler has promised; later on, we know better than the watch.
            self.cluster.nominees.remove(&key);
            if let Some(node) = status.nominated_node_name.filter(|node| !node.is_empty()) {
                let (uid, facts) = (Arc::clone(&uid), Arc::clone(&facts));
                let node = node.into();
                let nominee = Nominee { uid, node, facts };
                self.cluster.nominees.insert(key.clone(), nominee);
            }
        }
        let refused = status.conditions.into_iter().find(|one| {
            one.kind == "PodScheduled" && one.reason.as_deref() == Some("Unschedulable")
        });
        let created = pod.creation_timestamp().map(|time| time.0);
        let waiting = Waiting {
            uid,
            facts,
            generation: pod.metadata.generation,
            created: created.map_or(i64::MAX, Timestamp::as_second),
            told: refused.and_then(|one| one.message).map(Arc::from),
        };
        self.queue.set(key, waiting);
    }

    /// Drops a pod that is gone or has ended; its room may let others in.
    fn forget(&mut self, key: &PodKey) {
        self.queue.remove(key);
        let nominated = self.cluster.nominees.remove(key).is_some();
        if self.cluster.take(key).is_some() || nominated {
            self.wake(Change::Room);
        }
    }
}

/// Says whether a pod without a node may be placed, and by us.
fn is_ours(pod: &PodView) -> bool {
    let scheduler = pod.spec.scheduler_name.as_deref();
    scheduler.unwrap_or(SCHEDULER_NAME) == SCHEDULER_NAME
        && pod.metadata.deletion_timestamp.is_none()
        && pod.spec.scheduling_gates.is_empty()
}

fn target(key: &PodKey, waiting: &Waiting) -> Target {
    Target {
        key: key.clone(),
        uid: Arc::clone(&waiting.uid),
        generation: waiting.generation,
    }
}

#[cfg(test)]
mod tests;
