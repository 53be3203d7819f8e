//! The one task that follows the API and keeps routing up to date.
//!
//! ```text
//! news ──► facts ──► compiler ──► routes, at once
//!                       └───────► fronts, health, listeners: once for all news that are there
//! ```
//!
//! Nothing is programmed until Services and EndpointSlices were both listed: a Service that seems to
//! have no endpoints would be refused. There is no pause that batches news; whatever has come while
//! some were dealt with is dealt with together.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use coracle_network::{ServiceTable, Zone};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::compile::{Change, Compiler};
use crate::edge::Edge;
use crate::events::{About, EventSink, Reason};
use crate::facts::{Addressing, NodeFacts, ServiceFacts, ServiceKey, SliceFacts, SliceKey};
use crate::health::{Health, HealthChecks};
use crate::metrics::Metrics;
use crate::places::Directory;
use crate::records;
use crate::watch::News;

/// News that are dealt with before listeners follow: a list of ten thousand is dealt with in ten steps
/// between which everything else of the thread has its turn.
const BATCH_MAX: usize = 1_000;

/// When the change that a slice tells of was made, as its controller has written it down.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Where the follower puts what it makes of the news.
pub(crate) struct Outlets {
    /// What connections are decided by.
    pub(crate) table: Arc<ServiceTable>,
    /// The names of the cluster, if anybody asks here.
    pub(crate) zone: Option<Arc<Zone>>,
    /// What listens for the world outside.
    pub(crate) edge: Option<Arc<Edge>>,
    /// How the proxy is.
    pub(crate) health: Arc<Health>,
    /// The ports of Services for health checks.
    pub(crate) checks: HealthChecks,
    /// Where node ports are served on this machine, if they are.
    pub(crate) node_ports: Option<watch::Receiver<Arc<[IpAddr]>>>,
    /// What the proxy counts.
    pub(crate) metrics: Arc<Metrics>,
    /// What the API is told.
    pub(crate) events: EventSink,
    /// The Services as whoever tells about them knows them.
    pub(crate) directory: Arc<Directory>,
    /// Whether what the API had at the start is routed.
    pub(crate) synced: watch::Sender<bool>,
}

/// What a list says of one kind: objects that it does not name are gone.
struct Listing<K> {
    named: Option<HashSet<K>>,
    is_synced: bool,
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Listing {
            named: None,
            is_synced: false,
        }
    }
}

impl<K: std::hash::Hash + Eq> Listing<K> {
    fn begin(&mut self) {
        self.named = Some(HashSet::new());
    }

    fn name(&mut self, key: K) {
        if let Some(named) = &mut self.named {
            named.insert(key);
        }
    }

    fn end(&mut self) -> HashSet<K> {
        self.is_synced = true;
        self.named.take().unwrap_or_default()
    }
}

/// The state of the task.
pub(crate) struct Follower {
    compiler: Compiler,
    out: Outlets,
    services: Listing<ServiceKey>,
    slices: Listing<SliceKey>,
    /// What the news since the last commit ask for.
    change: Change,
}

impl Follower {
    /// Returns a follower that knows nothing yet.
    pub(crate) fn new(compiler: Compiler, out: Outlets) -> Follower {
        Follower {
            compiler,
            out,
            services: Listing::default(),
            slices: Listing::default(),
            change: Change::Nothing,
        }
    }

    /// Follows the news until `stop`, and closes the ports for health checks.
    pub(crate) async fn follow(
        mut self,
        mut news: BoxStream<'static, News>,
        stop: CancellationToken,
    ) {
        self.take_node_ports();
        loop {
            let next = tokio::select! {
                // Cancel-safe: the stream keeps what was not taken.
                next = news.next() => next,
                // Cancel-safe: what has changed is looked at when it is taken.
                () = moved(&mut self.out.node_ports) => {
                    let began = Instant::now();
                    self.take_node_ports();
                    self.commit(began);
                    continue;
                }
                () = stop.cancelled() => break,
            };
            let Some(next) = next else {
                break;
            };
            let began = Instant::now();
            self.take(next);
            for _ in 1..BATCH_MAX {
                let Some(Some(next)) = news.next().now_or_never() else {
                    break;
                };
                self.take(next);
            }
            self.commit(began);
        }
        self.out.checks.stop().await;
    }

    /// Deals with news that have come together: when this returns, what they say is routed.
    pub(crate) fn deal(&mut self, news: impl IntoIterator<Item = News>) {
        let began = Instant::now();
        news.into_iter().for_each(|one| self.take(one));
        self.commit(began);
    }

    fn take(&mut self, news: News) {
        let change = match news {
            News::Service(event) => self.take_service(*event),
            News::Slice(event) => self.take_slice(*event),
            News::Node(event) => self.take_node(*event),
        };
        self.change = self.change.max(change);
    }

    fn take_service(&mut self, event: Event<DeserializeGuard<Service>>) -> Change {
        match event {
            Event::Init => {
                self.services.begin();
                Change::Nothing
            }
            Event::InitDone => {
                let named = self.services.end();
                for key in self.compiler.services_beside(&named) {
                    self.remove_service(&key);
                }
                // Even an empty list is a first set of fronts.
                Change::Fronts
            }
            Event::Delete(guard) => {
                let Some(key) = service_key(guard.meta()) else {
                    return Change::Nothing;
                };
                self.remove_service(&key)
            }
            Event::Apply(guard) | Event::InitApply(guard) => {
                let Some(key) = service_key(guard.meta()) else {
                    return Change::Nothing;
                };
                self.services.name(key.clone());
                let Some(service) = self.parsed("Service", guard) else {
                    return Change::Nothing;
                };
                let Some(facts) = ServiceFacts::of(&service) else {
                    return Change::Nothing;
                };
                self.tell_refusals(&facts);
                self.out.metrics.service_changed();
                let facts = Arc::new(facts);
                self.out.directory.set(Arc::clone(&facts));
                let change = self.compiler.set_service(facts);
                self.name(&key);
                self.follow_health(&key);
                change
            }
        }
    }

    fn take_slice(&mut self, event: Event<DeserializeGuard<EndpointSlice>>) -> Change {
        match event {
            Event::Init => {
                self.slices.begin();
                Change::Nothing
            }
            Event::InitDone => {
                let named = self.slices.end();
                let gone = self.compiler.slices_beside(&named);
                let changes = gone.iter().map(|key| self.remove_slice(key));
                changes.max().unwrap_or(Change::Nothing).max(Change::Fronts)
            }
            Event::Delete(guard) => {
                let Some(key) = SliceKey::of(guard.meta()) else {
                    return Change::Nothing;
                };
                self.remove_slice(&key)
            }
            Event::Apply(guard) | Event::InitApply(guard) => {
                let Some(key) = SliceKey::of(guard.meta()) else {
                    return Change::Nothing;
                };
                self.slices.name(key.clone());
                let is_new = self.slices.named.is_none();
                let Some(slice) = self.parsed("EndpointSlice", guard) else {
                    return Change::Nothing;
                };
                let Some(facts) = SliceFacts::of(&slice) else {
                    return self.remove_slice(&key);
                };
                let service = facts.service.clone();
                let before = self.compiler.owner(&key).filter(|one| **one != service);
                let before = before.cloned();
                let change = self.compiler.set_slice(key, facts);
                if let Some(before) = before {
                    self.follow_endpoints(&before);
                }
                self.out
                    .metrics
                    .slice_changed(trigger(&slice).filter(|_| is_new));
                self.follow_endpoints(&service);
                change
            }
        }
    }

    fn remove_slice(&mut self, key: &SliceKey) -> Change {
        let owner = self.compiler.owner(key).cloned();
        let change = self.compiler.remove_slice(key);
        if let Some(owner) = owner {
            self.out.metrics.slice_changed(None);
            self.follow_endpoints(&owner);
        }
        change
    }

    fn remove_service(&mut self, key: &ServiceKey) -> Change {
        self.out.metrics.service_changed();
        self.out.directory.remove(key);
        let change = self.compiler.remove_service(key);
        self.name(key);
        self.follow_health(key);
        change
    }

    /// Brings up to date what depends on the endpoints of a Service beside its routes.
    fn follow_endpoints(&mut self, key: &ServiceKey) {
        self.follow_health(key);
        let service = self.compiler.service(key);
        if service.is_some_and(|service| service.addressing == Addressing::Headless) {
            self.name(key);
        }
    }

    /// Gives a Service the records that it has now.
    fn name(&self, key: &ServiceKey) {
        let Some(zone) = &self.out.zone else { return };
        let service = self.compiler.service(key);
        let slices = self.compiler.slices(key);
        match service.and_then(|service| records::of(service, slices)) {
            Some(records) => zone.set(&key.namespace, &key.name, records),
            None => zone.remove(&key.namespace, &key.name),
        }
    }

    fn take_node(&mut self, event: Event<DeserializeGuard<Node>>) -> Change {
        let facts = match event {
            Event::Init | Event::InitDone => return Change::Nothing,
            Event::Delete(_) => NodeFacts {
                zone: None,
                is_leaving: true,
            },
            Event::Apply(guard) | Event::InitApply(guard) => {
                let Some(node) = self.parsed("Node", guard) else {
                    return Change::Nothing;
                };
                NodeFacts::of(&node)
            }
        };
        self.out.health.set_leaving(facts.is_leaving);
        self.compiler.set_zone(facts.zone)
    }

    /// Takes note of where node ports are served now: pods reach them there too, and load balancers ask.
    fn take_node_ports(&mut self) {
        let Some(node_ports) = &mut self.out.node_ports else {
            return;
        };
        let now = Arc::clone(&node_ports.borrow_and_update());
        // Loopback is each pod's own.
        let of_node = now.iter().copied();
        let of_node = of_node.filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
        let change = self.compiler.set_node_ips(of_node);
        self.change = self.change.max(change);
        for (key, message) in self.out.checks.listen_at(&now) {
            self.tell_health(&key, message);
        }
    }

    /// Returns an object that could be parsed; what could not be is told, and stays as it was.
    fn parsed<K>(&self, kind: &'static str, guard: DeserializeGuard<K>) -> Option<K> {
        match guard.0 {
            Ok(object) => Some(object),
            Err(invalid) => {
                let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
                let name = invalid.metadata.name.as_deref().unwrap_or_default();
                let error = invalid.error;
                tracing::warn!(kind, namespace, name, error, "an object is skipped");
                self.out.metrics.skipped();
                None
            }
        }
    }

    /// Tells what of a Service is not served, once for each change of that.
    fn tell_refusals(&self, facts: &ServiceFacts) {
        if !facts.is_proxied() {
            return;
        }
        let known = self.compiler.service(&facts.key);
        let told = known.map_or(&[][..], |known| &known.refusals);
        for refusal in facts.refusals.iter().filter(|one| !told.contains(one)) {
            let message = refusal.to_string();
            self.out
                .events
                .tell(About::service(facts), Reason::NotServed, message);
        }
    }

    fn follow_health(&mut self, key: &ServiceKey) {
        let asked = self.compiler.local_health(key);
        if let Err(message) = self.out.checks.set(key, asked) {
            self.tell_health(key, message);
        }
    }

    fn tell_health(&self, key: &ServiceKey, message: String) {
        if let Some(facts) = self.compiler.service(key) {
            let about = About::service(facts);
            self.out.events.tell(about, Reason::HealthCheck, message);
        }
    }

    /// Brings fronts up to date where the news asked for it.
    fn commit(&mut self, began: Instant) {
        if !self.services.is_synced || !self.slices.is_synced {
            return;
        }
        let change = std::mem::replace(&mut self.change, Change::Nothing);
        match change {
            Change::Fronts => self.out.table.set_fronts(self.compiler.fronts()),
            Change::Nothing | Change::Routes | Change::Reachability => {}
        }
        if let Some(edge) = self.out.edge.as_ref().filter(|_| change > Change::Nothing) {
            edge.apply(self.out.table.fronts());
        }
        self.out.health.updated();
        self.out.metrics.synced(began.elapsed());
        self.out
            .synced
            .send_if_modified(|done| !std::mem::replace(done, true));
    }
}

/// Returns once node ports are served at other addresses; never where they are not, or are no more.
async fn moved(node_ports: &mut Option<watch::Receiver<Arc<[IpAddr]>>>) {
    let is_there = match node_ports {
        Some(node_ports) => node_ports.changed().await.is_ok(),
        None => false,
    };
    if !is_there {
        std::future::pending().await
    }
}

fn service_key(metadata: &ObjectMeta) -> Option<ServiceKey> {
    Some(ServiceKey {
        namespace: metadata.namespace.clone()?,
        name: metadata.name.clone()?,
    })
}

fn trigger(slice: &EndpointSlice) -> Option<Timestamp> {
    slice.annotations().get(TRIGGER_ANNOTATION)?.parse().ok()
}

#[cfg(test)]
mod tests;
