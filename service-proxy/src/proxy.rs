//! The parts of a proxy, wired together: what it follows, where it serves, and how it ends.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{Fabric, ServiceTable};
use ipnet::IpNet;
use kube::Client;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::answering::{self, Answers};
use crate::compile::{Compiler, Ground};
use crate::edge::{Edge, EdgeConfig, EdgeError};
use crate::events;
use crate::exhaustion;
use crate::follower::{Follower, Outlets};
use crate::health::{self, Health, HealthChecks};
use crate::metrics::{self, Metrics};
use crate::places::{Directory, ServicePlace, Teller};
use crate::ranges;
use crate::watch::news;

/// How long events may take to be written at the end.
const EVENTS_TIMEOUT: Duration = Duration::from_millis(500);

/// What a proxy follows and where it serves.
pub struct ProxyConfig {
    /// A client of the API.
    pub client: Client,
    /// The node's name, by which endpoints are local and hints are read; nothing beside a cluster.
    pub node_name: Option<String>,
    /// What speaks in events: the node's name, or this machine's.
    pub host: String,
    /// The node's addresses, on which pods reach node ports; those that the edge serves them at besides.
    pub node_ips: Vec<IpAddr>,
    /// Ranges in which only Services have addresses, so that an unknown one is refused.
    pub service_cidrs: Vec<IpNet>,
    /// The pods' network, whose table is filled; without one a table of the proxy's own.
    pub fabric: Option<Fabric>,
    /// Where Services are reached outside the pods' network; nothing for nowhere.
    pub edge: Option<EdgeConfig>,
    /// Where the ranges of pods of other nodes come from.
    pub pod_ranges: PodRanges,
    /// Where `healthCheckNodePort`s are asked beside the addresses at which the edge serves node ports.
    pub health_check_ips: Vec<IpAddr>,
    /// Where `/healthz` and `/livez` are answered.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` is answered.
    pub metrics: Option<SocketAddr>,
}

/// Where an edge has its ranges of pods from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodRanges {
    /// From its configuration.
    Given,
    /// From its configuration and from the Nodes of the cluster, which are followed.
    OfNodes,
}

/// Why a proxy cannot start.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// Services cannot be reached where it was asked for.
    #[error("failed to open the addresses of Services")]
    Edge(#[from] EdgeError),
    /// The port for health is not to be had.
    #[error("failed to listen on `{address}` for questions about health")]
    Healthz {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The port for metrics is not to be had.
    #[error("failed to listen on `{address}` for metrics")]
    Metrics {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A proxy at work. Dropping it ends it at once; what was routed stays in the table.
pub struct Proxy {
    table: Arc<ServiceTable>,
    edge: Option<Arc<Edge>>,
    places: watch::Receiver<Arc<[ServicePlace]>>,
    stop: CancellationToken,
    following: JoinHandle<()>,
    writing: JoinHandle<()>,
    beside: Vec<JoinHandle<()>>,
    synced: watch::Receiver<bool>,
    healthz: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
}

fn open_edge(
    config: Option<EdgeConfig>,
    fabric: Option<&Fabric>,
) -> Result<Option<Arc<Edge>>, ProxyError> {
    let edge = config.map(|config| Edge::start(config, fabric.cloned()));
    Ok(edge.transpose()?.map(Arc::new))
}

impl Proxy {
    /// Starts to follow the API; needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails when an address that was asked for is not to be had.
    pub fn start(config: ProxyConfig) -> Result<Proxy, ProxyError> {
        let table = match &config.fabric {
            Some(fabric) => Arc::clone(fabric.services()),
            None => Arc::default(),
        };
        let edge = open_edge(config.edge, config.fabric.as_ref())?;
        let health = Arc::new(Health::default());
        let metrics = Metrics::new(Arc::clone(&table), edge.as_ref().map(Arc::downgrade));
        let metrics = Arc::new(metrics);
        let stop = CancellationToken::new();
        let mut beside = Vec::new();
        let healthz = config.healthz.map(|address| {
            let counted = Arc::clone(&metrics);
            let answers = health::own_answers(Arc::clone(&health), move |path, code| {
                counted.asked(path, code);
            });
            answer(address, answers, &stop, &mut beside)
                .map_err(|source| ProxyError::Healthz { address, source })
        });
        let metrics_at = config.metrics.map(|address| {
            let answers = metrics::answers(Arc::clone(&metrics));
            answer(address, answers, &stop, &mut beside)
                .map_err(|source| ProxyError::Metrics { address, source })
        });
        let (healthz, metrics_at) = (healthz.transpose()?, metrics_at.transpose()?);
        let (events, writing) = events::channel(config.client.clone(), config.host);
        let (done, synced) = watch::channel(false);
        let directory = Arc::<Directory>::default();
        let ground = Ground {
            service_cidrs: config.service_cidrs,
            node_ips: config.node_ips,
        };
        let outlets = Outlets {
            table: Arc::clone(&table),
            zone: config.fabric.as_ref().map(|one| Arc::clone(one.zone())),
            edge: edge.clone(),
            checks: HealthChecks::new(config.health_check_ips, Arc::clone(&health)),
            node_ports: edge.as_ref().map(|edge| edge.node_ports()),
            health,
            metrics,
            events: events.clone(),
            directory: Arc::clone(&directory),
            synced: done,
        };
        let (teller, places) = Teller::new(Arc::clone(&table), directory, events.clone());
        if let Some(edge) = &edge {
            let (weak, node) = (Arc::downgrade(edge), config.node_name.clone());
            let telling = exhaustion::tell(weak, node, events, stop.clone());
            beside.push(tokio::spawn(telling));
            let telling = teller.tell_all(edge.published(), stop.clone());
            beside.push(tokio::spawn(telling));
            beside.extend(follow_nodes(config.pod_ranges, &config.client, edge, &stop));
        }
        let compiler = Compiler::new(ground, config.node_name.clone());
        let follower = Follower::new(compiler, outlets);
        let news = news(&config.client, config.node_name.as_deref());
        let following = tokio::spawn(follower.follow(news, stop.clone()));
        Ok(Proxy {
            table,
            edge,
            places,
            stop,
            following,
            writing: tokio::spawn(writing),
            beside,
            synced,
            healthz,
            metrics: metrics_at,
        })
    }

    /// Returns the table that the proxy fills.
    pub fn table(&self) -> &Arc<ServiceTable> {
        &self.table
    }

    /// Follows where Services are reached outside the pods' network.
    pub fn places(&self) -> watch::Receiver<Arc<[ServicePlace]>> {
        self.places.clone()
    }

    /// Returns where questions about health are answered.
    pub fn healthz_address(&self) -> Option<SocketAddr> {
        self.healthz
    }

    /// Returns where metrics are answered.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Returns once what the API had at the start is routed. Cancel safe.
    pub async fn synced(&self) {
        // An error means that the proxy has ended; whoever waits has nothing more to wait for.
        let _ = self.synced.clone().wait_for(|done| *done).await;
    }

    /// Stops following and closes every port; relayed connections may end within `grace`. What was
    /// routed stays in the table.
    pub async fn stop(mut self, grace: Duration) {
        self.stop.cancel();
        if let Err(error) = (&mut self.following).await {
            tracing::error!(%error, "following the API did not end by itself");
        }
        for task in std::mem::take(&mut self.beside) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the proxy did not end by itself");
            }
        }
        if let Some(edge) = self.edge.take().and_then(Arc::into_inner) {
            edge.stop(grace).await;
        }
        let written = tokio::time::timeout(EVENTS_TIMEOUT, &mut self.writing).await;
        if written.is_err() {
            tracing::debug!("events about Services were left unwritten");
            self.writing.abort();
        }
    }
}

/// Follows the Nodes' ranges of pods, if the edge is to have them.
fn follow_nodes(
    ranges: PodRanges,
    client: &Client,
    edge: &Arc<Edge>,
    stop: &CancellationToken,
) -> Option<JoinHandle<()>> {
    let following = ranges::follow(client.clone(), Arc::clone(edge), stop.clone());
    (ranges == PodRanges::OfNodes).then(|| tokio::spawn(following))
}

/// Answers at an address until `stop`, in a task that is put beside the others, and returns where.
fn answer(
    address: SocketAddr,
    answers: Answers,
    stop: &CancellationToken,
    beside: &mut Vec<JoinHandle<()>>,
) -> io::Result<SocketAddr> {
    let listener = answering::listen(address)?;
    let address = listener.local_addr()?;
    let serving = answering::serve(listener, answers, stop.clone());
    beside.push(tokio::spawn(serving));
    Ok(address)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
