//! Asks the node's containers how they are: one task for all probes of all pods.
//!
//! A worker [watches](Prober::watch) one probe of one living instance for as long as it holds the
//! [`Watch`]. The prober's task sleeps until the earliest attempt is due, keeps a bounded number of
//! attempts under way (one that is due waits for a place), and tells the worker what is news: a verdict
//! that changed, an attempt that failed. An attempt that changes nothing wakes nobody. Which probes are
//! watched, and what follows from a verdict, the planner decides.
//!
//! Attempts dial the pod's network from the node's address in it; no kernel socket is involved.

mod attempt;
mod exec;
mod grpc;
mod http;
mod metrics;
mod registry;
mod tally;
mod tls;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{Fabric, PodNetwork};
use futures::StreamExt;
use futures::future::{AbortRegistration, Abortable};
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(crate) use attempt::{OUTPUT_BYTES_MAX, Reach, Refusal};
pub(crate) use http::{Agent as HttpAgent, get as http_get};
pub(crate) use metrics::ProbeMetrics;
pub use metrics::Whose;
use registry::{Due, Shared};

use crate::exec::ExecTarget;
use crate::lifecycle::Verdict;
use crate::spec::{PodKey, Probe, ProbeKind};
use crate::status::whole_seconds;
use crate::time::Moment;

/// Attempts under way at once on a node. One costs a few kilobytes; a timeout is a second unless the pod
/// says otherwise, so this is four times what 10,000 silent pods with a period of ten seconds need.
const ATTEMPTS_MAX: usize = 4096;

/// Of these for one pod, so that one whose probes never answer leaves places to the others; what is due beyond
/// that waits its turn.
const ATTEMPTS_PER_POD_MAX: usize = 16;

/// News of one pod that wait for its worker. What finds no room is told again after the next attempt.
pub const NEWS_MAX: usize = 32;

/// The node's probes. Clones are the same.
#[derive(Clone)]
pub struct Prober {
    registry: Arc<Shared>,
    reach: Reach,
    metrics: ProbeMetrics,
    started: Instant,
}

/// One probe to be watched.
pub struct Watched {
    /// Index of the container in the pod's plan; comes back with the news.
    pub container: usize,
    /// Which instance of it; comes back with the news.
    pub attempt: u32,
    /// Which probe.
    pub kind: ProbeKind,
    /// What to do.
    pub probe: Arc<Probe>,
    /// Address of the pod.
    pub pod_ip: IpAddr,
    /// Whose it is; attempts of a pod are limited together, and counted by this.
    pub whose: Whose,
    /// When the first attempt is due.
    pub first: Instant,
    /// Who answers a `host` that is a name.
    pub names: Names,
    /// Where a program can be run in the container.
    pub programs: Programs,
    /// Takes the news.
    pub news: mpsc::Sender<News>,
}

/// Where a probe of kind `exec` runs its program; nowhere by default.
#[derive(Clone, Default)]
pub struct Programs(pub(crate) Option<Arc<ExecTarget>>);

/// Who answers the names that a pod's probes and hooks are sent to; nobody by default.
#[derive(Clone, Default)]
pub struct Names(pub(crate) Option<PodNetwork>);

impl Names {
    /// Looks a name up as the pod would.
    pub(crate) async fn look_up(&self, name: &str) -> Result<IpAddr, String> {
        let unknown = || format!("dial tcp: lookup {name}: no such host");
        let network = self.0.as_ref().ok_or_else(unknown)?;
        let found = network.resolve(name).await.unwrap_or_default();
        let first = found.iter().find(|ip| ip.is_ipv4()).or(found.first());
        first.copied().ok_or_else(unknown)
    }
}

/// Keeps a probe at work; dropping it ends it, an attempt under way included.
pub struct Watch {
    registry: Arc<Shared>,
    id: u64,
}

/// What a worker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Index of the container in the pod's plan.
    pub container: usize,
    /// Which instance of it.
    pub attempt: u32,
    /// Which probe.
    pub kind: ProbeKind,
    /// What happened.
    pub what: What,
}

/// What happened to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An attempt failed; the text is its output.
    Failed(String),
    /// An attempt succeeded with a warning.
    Warned(String),
    /// An attempt could not be made and counts for nothing.
    Errored(String),
    /// The attempts amount to something else than before.
    Verdict(Verdict),
}

impl Prober {
    /// Makes a prober and the future that does its work; it never ends by itself.
    pub fn new(fabric: Fabric) -> (Prober, impl Future<Output = ()> + Send + use<>) {
        let registry = Arc::<Shared>::default();
        let reach = Reach::new(fabric);
        let prober = Prober {
            registry: registry.clone(),
            reach: reach.clone(),
            metrics: ProbeMetrics::default(),
            started: Instant::now(),
        };
        let metrics = prober.metrics.clone();
        (prober, run(registry, reach, metrics))
    }

    /// What the probes have come to.
    pub(crate) fn metrics(&self) -> &ProbeMetrics {
        &self.metrics
    }

    /// The way to pods, for whoever else asks them something.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// When a probe of an instance that started at `since` is first due.
    ///
    /// The delay counts from the start as the API shows it, in whole seconds. Startup and readiness are
    /// asked for at once, so that a container that is up is known to be. Liveness waits somewhere within
    /// its period while the agent is younger than that, so that the pods an agent finds are not all
    /// probed in one moment (contract C.2).
    pub(crate) fn first_due(
        &self,
        whose: (&PodKey, usize, ProbeKind),
        probe: &Probe,
        since: Timestamp,
        now: Moment,
    ) -> Instant {
        let shown = whole_seconds(since);
        let age = Duration::try_from(now.wall().duration_since(shown)).unwrap_or_default();
        let left = probe.initial_delay.saturating_sub(age);
        let is_young = now.instant().saturating_duration_since(self.started) < probe.period;
        let spread = match whose.2 {
            ProbeKind::Liveness if is_young => {
                let mut hasher = DefaultHasher::new();
                whose.hash(&mut hasher);
                let parts = u64::try_from(probe.period.as_millis()).unwrap_or(u64::MAX);
                Duration::from_millis(hasher.finish() % parts.max(1))
            }
            ProbeKind::Liveness | ProbeKind::Startup | ProbeKind::Readiness => Duration::ZERO,
        };
        now.after(left.saturating_add(spread)).instant()
    }

    /// Puts a probe to work.
    #[must_use = "the probe ends with it"]
    pub fn watch(&self, watched: Watched) -> Watch {
        let id = self.registry.insert(watched);
        Watch {
            registry: self.registry.clone(),
            id,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.registry.remove(self.id);
    }
}

/// Starts what is due while there is room, and takes in what comes out.
async fn run(registry: Arc<Shared>, reach: Reach, metrics: ProbeMetrics) {
    let mut attempts = FuturesUnordered::new();
    let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        let mut next = None;
        while attempts.len() < ATTEMPTS_MAX {
            match registry.take_due(Instant::now()) {
                Due::Now(job, registration) => {
                    attempts.push(one(&reach, job, registration));
                }
                Due::At(at) => {
                    next = Some(at);
                    break;
                }
                Due::Never => break,
            }
        }
        if let Some(at) = next
            && timer.deadline() != at
        {
            timer.as_mut().reset(at);
        }
        tokio::select! {
            // Safe to cancel: a finished attempt is taken out only when it is returned.
            Some((id, ended)) = attempts.next() => {
                if let Some(Attempted { whose, kind, ended, took }) = ended {
                    metrics.note(&whose, kind, &ended, took);
                    registry.settle(id, ended, Instant::now());
                }
            }
            // Safe to cancel: what changed is read from the registry.
            () = registry.changed() => {}
            // Safe to cancel: the registry is asked again.
            () = timer.as_mut(), if next.is_some() => {}
        }
    }
}

/// An attempt that came out.
struct Attempted {
    whose: Whose,
    kind: ProbeKind,
    ended: attempt::Ended,
    took: Duration,
}

/// One attempt; nothing when it was abandoned.
async fn one(
    reach: &Reach,
    job: registry::Job,
    registration: AbortRegistration,
) -> (u64, Option<Attempted>) {
    let (id, began) = (job.id, Instant::now());
    let ended = Abortable::new(attempt::run(reach, &job), registration).await;
    let attempted = ended.ok().map(|ended| Attempted {
        whose: job.whose,
        kind: job.kind,
        ended,
        took: began.elapsed(),
    });
    (id, attempted)
}

#[cfg(test)]
mod tests;
