//! One pod's worker: observe, plan, execute, report; woken by events and by the timer its plan asked for.
//!
//! The worker is the only owner of everything a pod has here. Work that waits runs as futures inside the
//! worker's own task, so a panic anywhere in it ends this one task, and dropping it ends the pod's
//! instances, ports and address.

mod care;
mod execute;
mod hold;
mod resize;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_runtime::Runtime;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

pub(crate) use execute::{Report, log_dir, log_path};
use hold::Hold;

use crate::agent::{AtStop, NodeIps};
use crate::allocation::Ledger;
use crate::events::{EventSink, PodEvents, Severity};
use crate::eviction::Evictor;
use crate::exec::{ExecBook, Tools};
use crate::folders::FolderBook;
use crate::ground::{GroundKit, Site};
use crate::images::Images;
use crate::lifecycle::{EndCause, Intent, PodFacts, plan};
use crate::logs::{LogBook, OutputLine};
use crate::metrics::Metrics;
use crate::probes::{NEWS_MAX, News, Prober};
use crate::spec::{FieldRefusal, LeftOut, PodKey, PodSpecPlan, Renewal};
use crate::status::{self, Reporter, Surroundings, Written, is_gone};
use crate::storage::StorageMonitor;
use crate::time::{Clock, Moment};

/// Plans in a row without waiting. A plan comes to rest within a handful; more is a broken promise.
const ROUNDS_MAX: usize = 64;

/// A stopping agent gives up on a server that took none of this many writes in a row.
const LAST_WRITES_MAX: u32 = 5;

/// Delay before a failed deletion of a pod's object is tried again.
const REMOVAL_RETRY: Duration = Duration::from_secs(1);

/// What all workers of a node share.
pub(crate) struct Node {
    pub(crate) clock: Clock,
    pub(crate) site: Site,
    pub(crate) images: Images,
    pub(crate) runtime: Runtime,
    pub(crate) output: Option<mpsc::Sender<OutputLine>>,
    pub(crate) events: EventSink,
    /// Told which logs can be read.
    pub(crate) logs: Arc<LogBook>,
    /// Told where programs can be started.
    pub(crate) execs: Arc<ExecBook>,
    /// What every container has beside its image.
    pub(crate) tools: Arc<Tools>,
    pub(crate) writes: Arc<Semaphore>,
    pub(crate) host_ips: NodeIps,
    pub(crate) at_stop: AtStop,
    pub(crate) prober: Prober,
    /// What is promised to which pod.
    pub(crate) ledger: Ledger,
    /// Measures what pods keep on the disk.
    pub(crate) storage: StorageMonitor,
    /// Chooses who goes when memory is short.
    pub(crate) evictor: Evictor,
    /// Told where the files of pods are.
    pub(crate) folders: Arc<FolderBook>,
    pub(crate) metrics: Metrics,
}

/// What is wanted of a pod now.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// The plan to follow.
    pub(crate) renewal: Renewal,
    pub(crate) intent: Intent,
    /// The conditions that the pod's readiness gates name, as others have written them.
    pub(crate) gates: Vec<PodCondition>,
    about: Arc<About>,
}

/// What of a pod's metadata may change while it runs, and shows in it.
#[derive(Debug, PartialEq, Eq)]
struct About {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Desired {
    pub(crate) fn new(spec: Arc<PodSpecPlan>, pod: &Pod, intent: Intent) -> Desired {
        Desired {
            renewal: Renewal::new(spec, pod.metadata.generation),
            intent,
            gates: gates(pod),
            about: About::of(pod).into(),
        }
    }

    /// Takes a newer version of the pod; false when it says nothing new.
    pub(crate) fn learn(
        &mut self,
        pod: &Pod,
        intent: Intent,
        check: impl FnOnce() -> Result<PodSpecPlan, Vec<FieldRefusal>>,
    ) -> bool {
        let is_renewed = self.renewal.learn(pod.metadata.generation, check);
        let is_same = |known: &BTreeMap<_, _>, new: &Option<BTreeMap<_, _>>| match new {
            Some(new) => known == new,
            None => known.is_empty(),
        };
        if self.intent == intent
            && self.gates == gates(pod)
            && is_same(&self.about.labels, &pod.metadata.labels)
            && is_same(&self.about.annotations, &pod.metadata.annotations)
        {
            return is_renewed;
        }
        self.intent = intent;
        self.gates = gates(pod);
        self.about = About::of(pod).into();
        true
    }
}

impl About {
    fn of(pod: &Pod) -> About {
        About {
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        }
    }
}

/// The conditions that the pod's readiness gates name.
fn gates(pod: &Pod) -> Vec<PodCondition> {
    let named: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten())
        .map(|gate| gate.condition_type.as_str())
        .collect();
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .filter(|condition| named.contains(&condition.type_.as_str()))
        .cloned()
        .collect()
}

/// The addresses that a pod's object names.
fn addresses(status: &PodStatus) -> Vec<IpAddr> {
    let ips = status.pod_ips.iter().flatten();
    ips.filter_map(|one| one.ip.parse().ok()).collect()
}

/// What is left when a worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remains {
    /// The object may still be there.
    Object,
    /// The object is gone, or was never this task's matter.
    Nothing,
}

/// Runs one pod.
pub(crate) struct Worker {
    node: Arc<Node>,
    spec: Arc<PodSpecPlan>,
    /// Which plan of the pod that is.
    turn: u64,
    /// What was told of a specification that is not followed.
    objection: Option<Arc<str>>,
    desired: watch::Receiver<Desired>,
    facts: PodFacts,
    kit: Option<Arc<GroundKit>>,
    /// The addresses it has, or had last, the main one first.
    pod_ips: Vec<IpAddr>,
    holds: Vec<Hold>,
    reporter: Reporter,
    events: Arc<PodEvents>,
    under_way: FuturesUnordered<BoxFuture<'static, Report>>,
    object: Object,
    /// What probes say, and the way to say it; only of a pod that has probes.
    news: Option<(mpsc::Sender<News>, mpsc::Receiver<News>)>,
    /// Told when the node has more room for others.
    room: watch::Receiver<u64>,
    /// A resize was begun and is not followed by all that lives.
    is_resizing: bool,
    /// Told when the pod is to go: it keeps more on the disk than it may, or the node is short of memory. Only
    /// while its ground stands.
    excess: Option<watch::Receiver<Option<Arc<str>>>>,
    /// When the agent saw the pod first, until it is shown to run.
    awaited_since: Option<Instant>,
}

/// Whether what was taken in may change the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Change,
    NoChange,
}

/// How far the pod's object in the API is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    /// It is there.
    There,
    /// Its deletion was sent.
    Leaving,
    /// It is gone; nothing is reported any more.
    Gone,
}

impl Worker {
    /// Makes a worker for an accepted pod; `status` is what its object says so far.
    pub(crate) fn new(
        node: Arc<Node>,
        spec: Arc<PodSpecPlan>,
        status: Option<&PodStatus>,
        desired: watch::Receiver<Desired>,
    ) -> Worker {
        let now = node.clock.now();
        let wanted = desired.borrow().renewal.clone();
        let spec = match status {
            Some(status) => spec.as_allocated(status).into(),
            None => spec,
        };
        // What is wished for beyond that is asked for like any later wish.
        let turn = match spec.is_resized(&wanted.spec) {
            true => wanted.turn.wrapping_sub(1),
            false => wanted.turn,
        };
        let facts = match status {
            Some(status) => PodFacts::recover(&spec, status, now),
            None => PodFacts::new(&spec, now),
        };
        let conditions: Vec<PodCondition> = status
            .and_then(|s| s.conditions.clone())
            .unwrap_or_default();
        let client = node.site.client.clone();
        let mut reporter = Reporter::new(spec.key.clone(), client, node.writes.clone(), conditions);
        if !spec.containers.iter().all(care::is_asked_at_once) {
            reporter.give_up_ready();
        }
        let events = Arc::new(PodEvents::new(node.events.clone(), spec.key.clone()));
        let holds = spec.containers.iter().map(|_| Hold::default()).collect();
        let room = node.ledger.room();
        let is_probed = spec.containers.iter().any(care::has_probes);
        Worker {
            node,
            spec,
            turn,
            objection: None,
            desired,
            facts,
            kit: None,
            pod_ips: status.map(addresses).unwrap_or_default(),
            holds,
            reporter,
            events,
            under_way: FuturesUnordered::new(),
            object: Object::There,
            news: is_probed.then(|| mpsc::channel(NEWS_MAX)),
            room,
            is_resizing: false,
            excess: None,
            awaited_since: Some(Instant::now()),
        }
    }

    /// Works until nothing is left to do for the pod, now or later, and says what is left of its object.
    pub(crate) async fn run(mut self) -> Remains {
        self.take_up_containers(&[]);
        loop {
            let began = Instant::now();
            let (wake, is_finished) = self.advance();
            self.care();
            self.give_back();
            self.report();
            self.node.metrics.turn(began.elapsed());
            if is_finished && self.is_done() || !self.wait(wake).await {
                return match self.object {
                    Object::There | Object::Leaving => Remains::Object,
                    Object::Gone => Remains::Nothing,
                };
            }
        }
    }

    /// Plans and takes steps in hand until the plan rests.
    fn advance(&mut self) -> (Option<Moment>, bool) {
        let Desired {
            renewal,
            intent,
            about,
            gates: _,
        } = self.desired.borrow_and_update().clone();
        self.describe(&about);
        self.adopt(renewal);
        self.describe(&about);
        for _ in 0..ROUNDS_MAX {
            let now = self.node.clock.now();
            let plan = plan(&self.spec, intent, &self.facts, now);
            if plan.steps.is_empty() {
                self.tell_of_completion();
                return (plan.wake, plan.finished);
            }
            for step in &plan.steps {
                tracing::debug!(pod = %self.spec.key, ?step, "step");
                self.facts.begin(&self.spec, step, now);
                self.execute(step);
            }
        }
        tracing::error!(pod = %self.spec.key, "broken promise: a plan comes to rest");
        (
            Some(self.node.clock.now().after(Duration::from_secs(1))),
            false,
        )
    }

    /// Takes labels and annotations in: volumes show them at once, variables at the next start.
    fn describe(&mut self, about: &About) {
        if self.spec.labels == about.labels && self.spec.annotations == about.annotations {
            return;
        }
        let spec = Arc::make_mut(&mut self.spec);
        spec.labels.clone_from(&about.labels);
        spec.annotations.clone_from(&about.annotations);
        if let Some(kit) = &self.kit {
            kit.files.describe(&self.spec);
        }
    }

    /// Takes a changed plan in, and tells of one that is not followed. What lives goes on until the planner
    /// says otherwise.
    fn adopt(&mut self, renewal: Renewal) {
        if self.objection != renewal.objection {
            if let Some(objection) = &renewal.objection {
                self.events
                    .emit(Severity::Warning, "FailedValidation", &**objection, None);
            }
            self.objection = renewal.objection;
        }
        let has_room = self.waits_for_room() && self.room.has_changed().unwrap_or(false);
        if self.turn != renewal.turn || has_room {
            if !has_room {
                tracing::info!(pod = %self.spec.key, "the pod's specification has changed");
            }
            // What is given back from here on is looked at again.
            self.room.mark_unchanged();
            let spec = self.allot(&renewal.spec);
            let known = std::mem::replace(&mut self.spec, spec);
            self.turn = renewal.turn;
            self.take_up_containers(&known.left_out);
            if known.is_resized(&self.spec) {
                self.tell_of_start();
            }
            if let Some(kit) = &self.kit {
                kit.files.describe(&self.spec);
                kit.memory.follow(&self.spec);
            }
        }
    }

    /// Makes room for ephemeral containers that came, and tells of those that are not started.
    fn take_up_containers(&mut self, told: &[LeftOut]) {
        self.facts.extend(&self.spec);
        self.holds
            .resize_with(self.facts.containers.len(), Hold::default);
        let names = self.spec.containers.iter().map(|c| &*c.name);
        // Whoever asks for the log of one that is not started is told why there is none.
        let left_out = self.spec.left_out.iter().map(|one| &*one.name);
        self.node.logs.extend(&self.spec.key, names.chain(left_out));
        for left_out in &self.spec.left_out {
            if !told.contains(left_out) {
                let message = format!("an ephemeral container is not started: {}", left_out.why());
                self.events
                    .emit(Severity::Warning, "FailedValidation", message, None);
            }
        }
    }

    /// Ends a pod that keeps more on the disk than it may, or more memory than the node has left.
    fn evict_for(&mut self, excess: &Arc<str>) {
        if self.facts.evict(&self.spec, excess.clone()) {
            self.events
                .emit(Severity::Warning, "Evicted", excess.to_string(), None);
        }
    }

    /// Gives back what the node has promised, once nothing of the pod runs or will run. That comes before its
    /// end is told and its object goes: whoever learns of either counts on it.
    fn give_back(&mut self) {
        if status::phase(&self.spec, &self.facts).is_terminal() {
            // Nothing is left that could have more.
            self.facts.pending_resize = None;
            self.node.ledger.release(&self.spec.key.uid);
        }
    }

    /// Offers the present status; nothing happens when the server knows it.
    fn report(&mut self) {
        let cause = self.cause();
        if cause.is_some() {
            self.reporter.hurry();
        }
        if self.object == Object::Gone || cause == Some(EndCause::Vanished) {
            return;
        }
        let now = self.node.clock.now();
        // One look: a second one, while the first is held, waits for whoever waits to write, for ever.
        let (generation, gates) = {
            let desired = self.desired.borrow();
            (desired.renewal.generation, desired.gates.clone())
        };
        let surroundings = Surroundings {
            host_ips: self.node.host_ips,
            has_network: self.kit.is_some(),
            pod_ips: self.pod_ips.clone(),
            generation,
            gates,
        };
        let previous = self.reporter.conditions();
        let status = status::render(&self.spec, &self.facts, &surroundings, previous, now);
        self.node.logs.note(&self.spec.key, &status);
        if status.phase.as_deref() == Some("Running")
            && let Some(since) = self.awaited_since.take()
        {
            self.node.metrics.pod_runs(since.elapsed());
        }
        if self.cause() == Some(EndCause::Shutdown) && self.node.at_stop == AtStop::PodsWait {
            // To the API this is a node that is away for a while, and no end of the pod.
            return;
        }
        let (published, refused) = (self.published(), self.refused());
        if let Some(write) = self.reporter.offer(&status, &published, &refused, now) {
            self.under_way
                .push(Box::pin(async { Report::Written(write.await) }));
        }
    }

    fn cause(&self) -> Option<EndCause> {
        self.facts.ending.map(|(ending, _)| ending.cause)
    }

    /// Called when the plan is finished: sees the object out, and says whether that is done too.
    fn is_done(&mut self) -> bool {
        let gave_up = self
            .reporter
            .retry()
            .is_some_and(|(_, times)| times >= LAST_WRITES_MAX);
        match (self.object, self.cause()) {
            (Object::Gone, _) | (_, Some(EndCause::Vanished)) => true,
            (_, Some(EndCause::Shutdown)) => self.reporter.is_settled() || gave_up,
            (Object::There, Some(EndCause::Deleted)) => {
                if self.reporter.is_settled() {
                    self.object = Object::Leaving;
                    let removal = remove(self.node.site.client.clone(), self.spec.key.clone());
                    self.under_way
                        .push(Box::pin(async { Report::Removed(removal.await) }));
                }
                false
            }
            (Object::Leaving, _) => false,
            (Object::There, Some(EndCause::Deadline | EndCause::Evicted) | None) => {
                self.reporter.is_settled()
            }
        }
    }

    /// Waits for whatever comes first; false when nobody wants the pod any more.
    async fn wait(&mut self, wake: Option<Moment>) -> bool {
        let retry = self.reporter.retry().map(|(at, _)| at);
        let times = [wake, retry, self.reporter.due()].into_iter().flatten();
        let wake = times.reduce(Moment::min);
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.instant()).await,
                None => std::future::pending().await,
            }
        };
        let mut timer = std::pin::pin!(timer);
        let waits_for_room = self.waits_for_room();
        loop {
            let news = async {
                match &mut self.news {
                    Some((_, news)) => news.recv().await,
                    None => std::future::pending().await,
                }
            };
            let excess = async {
                match &mut self.excess {
                    Some(excess) => excess.changed().await.map(|()| excess.borrow().clone()),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Safe to cancel: a change stays marked until it is read.
                changed = self.desired.changed() => return changed.is_ok(),
                // Safe to cancel: a finished future is taken out only when it is returned.
                Some(report) = self.under_way.next() => {
                    self.take(report);
                    return true;
                }
                // Safe to cancel: news is taken out only when it is returned.
                Some(news) = news => match self.take_news(news) {
                    Taken::Change => return true,
                    Taken::NoChange => {}
                },
                // Safe to cancel: the pod's ground holds a sender, and what it says is told once.
                Ok(Some(excess)) = excess => {
                    self.evict_for(&excess);
                    return true;
                }
                // Safe to cancel: a change stays marked until the plan is adopted again.
                Ok(()) = self.room.changed(), if waits_for_room => {
                    self.room.mark_changed();
                    return true;
                }
                // Safe to cancel: the plan is asked again and names its timer anew.
                () = timer.as_mut() => return true,
            }
        }
    }
}

/// Deletes a pod's object for good; true when it is gone.
pub(crate) async fn remove(client: kube::Client, key: PodKey) -> bool {
    let api = Api::namespaced(client, &key.namespace);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(key.uid.to_string()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&key.name, &params).await {
        Ok(_) => true,
        Err(error) if is_gone(&api, &key, &error).await => true,
        Err(error) => {
            tracing::warn!(pod = %key, %error, "failed to remove a deleted pod");
            tokio::time::sleep(REMOVAL_RETRY).await;
            false
        }
    }
}

impl Worker {
    fn written(&mut self, outcome: &Written) {
        self.reporter.written(outcome, self.node.clock.now());
        match outcome {
            Written::Accepted => {}
            Written::Gone => self.object = Object::Gone,
            Written::Failed(error) => {
                tracing::warn!(pod = %self.spec.key, %error, "failed to write a pod's status");
            }
        }
    }

    fn removed(&mut self, is_gone: bool) {
        self.object = if is_gone { Object::Gone } else { Object::There };
    }
}

#[cfg(test)]
mod tests;
