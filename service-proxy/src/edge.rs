//! How the world outside the fabric reaches Services: a listening socket for each published address
//! and port that has endpoints, each connection given to an endpoint.
//!
//! Where the kernel can be told so, one socket stands for all of them (`gate`), and pods are reached at
//! their own addresses too.
//!
//! Entry point: [`Edge::start`], then [`Edge::apply`] whenever the table of Services or the endpoints of
//! one of them change. Tasks: one that keeps the sockets as the table says, one for each core that
//! watches them, one for each relayed connection.
//!
//! A pod of this node is given the accepted stream itself, and then the edge has no part in the
//! connection any more. An endpoint elsewhere is connected to and relayed. What the fabric would drop is
//! reset here, since the kernel has accepted it already; what it would refuse is reset too, or refused
//! by the kernel where the Service has no endpoint at all.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use coracle_network::{Fabric, Fronts};
use ipnet::IpNet;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

mod addresses;
mod clock;
mod counters;
mod dispatch;
mod doors;
mod gate;
mod keeper;
mod limits;
mod published;
mod relay;
mod sockets;
mod udp;

#[cfg(target_os = "linux")]
pub use addresses::routes::RouteError;
pub use counters::EdgeCounters;
pub use published::{ListenFailure, Published, PublishedAt};

use addresses::Addresses;
use dispatch::{Dispatcher, Neighbourhood};
use doors::Doors;
use gate::board::Board;
use gate::pods::{Placed, Pods};
use gate::{Failures, Families, Gate, Way};
use keeper::Keeper;
use limits::Connections;
use relay::Relays;
use relay::bulk::{PIPES_MAX, Pipes};
use udp::ports::UdpPorts;

/// How long to wait for connections that were told to end.
const ABORT_INTERVAL: Duration = Duration::from_millis(50);

/// Where Services are reached outside the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EdgePlan {
    /// By every user: each address of a Service stands for one of this process' block of
    /// `127.64.0.0/10`, with the same port if it can be had; node ports on `127.0.0.1`, and on `::1`
    /// where pods have addresses of IPv6. Where only `127.0.0.1` exists (macOS), on free ports of it.
    #[default]
    Loopback,
    /// On Linux with privilege: the ranges of Services and of this node's pods are made local by routes,
    /// and their addresses are the true ones; node ports on the node's addresses and those of loopback as
    /// above. Pods come from their own addresses wherever [`EdgeConfig::pod_ranges`] are.
    Host,
    /// Not at all.
    Nowhere,
}

/// How the addresses of [`EdgePlan::Host`] are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// The kernel keeps a table of what is served, and one listening socket stands for all of it: a program
    /// of ours reads it.
    SocketLookup,
    /// The same by rules of nftables, where no program may be loaded.
    SocketRules,
    /// Each address and port has a socket.
    Sockets,
}

/// How an edge is laid out.
#[derive(Debug, Clone)]
pub struct EdgeConfig {
    /// Where Services are reached.
    pub plan: EdgePlan,
    /// The ranges of cluster IPs and load-balancer addresses that [`EdgePlan::Host`] makes local.
    pub ranges: Vec<IpNet>,
    /// The node's addresses. Who comes from one of them, or from loopback, is the node itself. The first
    /// of each family is the source of what the node sends into the ranges.
    pub node_addresses: Vec<IpAddr>,
    /// Where node ports are served; if that is not said, as the plan has it.
    pub node_port_addresses: Option<Vec<IpAddr>>,
    /// Ranges in which this machine's addresses serve node ports too. Which it has is looked at every few
    /// seconds.
    pub node_port_ranges: Vec<IpNet>,
    /// The ranges of pods, of this node and others. Who comes from one of them is a pod.
    pub pod_ranges: Vec<IpNet>,
    /// Connections relayed at once, two descriptors each. What is handed over to pods is not counted.
    pub connections_max: usize,
    /// Those of one client address.
    pub connections_per_client_max: usize,
    /// UDP flows at once, a descriptor each when the endpoint is elsewhere.
    pub udp_flows_max: usize,
    /// Those of one client address.
    pub udp_flows_per_client_max: usize,
}

/// Why an edge could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The ranges of Services could not be made local.
    #[cfg(target_os = "linux")]
    #[error("failed to make the addresses of Services local")]
    Routes(#[source] RouteError),
    /// This system has no such routes.
    #[cfg(not(target_os = "linux"))]
    #[error("the addresses of Services can be made local on Linux only")]
    HostPlanUnsupported,
}

/// The listeners and relays of a node. Dropping it closes the listeners; relayed connections go on.
pub struct Edge {
    fronts: watch::Sender<Arc<Fronts>>,
    published: watch::Receiver<Arc<Published>>,
    node_ports: watch::Receiver<Arc<[IpAddr]>>,
    dispatcher: Arc<Dispatcher>,
    flows: Arc<Connections>,
    keeper: JoinHandle<()>,
    /// Dropping it tells the keeper to stop.
    stop: DropGuard,
    pods: Option<Placed>,
    /// The ranges of pods of the configuration, and of this node.
    given_ranges: Vec<IpNet>,
    gate: Option<Arc<Gate>>,
    mechanism: Option<Mechanism>,
    #[cfg(target_os = "linux")]
    _routes: Option<addresses::routes::Routes>,
}

impl Default for EdgeConfig {
    fn default() -> EdgeConfig {
        EdgeConfig {
            plan: EdgePlan::default(),
            ranges: Vec::new(),
            node_addresses: Vec::new(),
            node_port_addresses: None,
            node_port_ranges: Vec::new(),
            pod_ranges: Vec::new(),
            connections_max: 16_384,
            // Half, so that one client alone never keeps the others out.
            connections_per_client_max: 8_192,
            udp_flows_max: 16_384,
            udp_flows_per_client_max: 8_192,
        }
    }
}

impl EdgeConfig {
    fn node_ports(&self) -> Vec<IpAddr> {
        if let Some(given) = &self.node_port_addresses {
            return given.clone();
        }
        let mut all = match self.plan {
            EdgePlan::Host => self.node_addresses.clone(),
            EdgePlan::Loopback | EdgePlan::Nowhere => Vec::new(),
        };
        all.push(Ipv4Addr::LOCALHOST.into());
        // Where it is not there, as in most containers, nothing is missing.
        if self.pod_ranges.iter().any(is_ipv6) && has_loopback_of_ipv6() {
            all.push(Ipv6Addr::LOCALHOST.into());
        }
        all
    }
}

impl Edge {
    /// Starts an edge that serves nothing yet. Endpoints in `fabric` are given streams, all others are
    /// connected to. Needs a tokio runtime, on which it runs.
    ///
    /// # Errors
    ///
    /// Only [`EdgePlan::Host`] can fail: without privilege, off Linux, or where a range overlaps a route
    /// of this machine.
    pub fn start(config: EdgeConfig, fabric: Option<Fabric>) -> Result<Edge, EdgeError> {
        Edge::start_by(config, fabric, &Way::ALL)
    }

    /// Starts one that tells the kernel what is served by the first of these ways that it takes.
    fn start_by(
        config: EdgeConfig,
        fabric: Option<Fabric>,
        ways: &[Way],
    ) -> Result<Edge, EdgeError> {
        #[cfg(target_os = "linux")]
        let routes = match config.plan {
            EdgePlan::Host => Some(
                addresses::routes::Routes::claim(
                    &local_ranges(&config, fabric.as_ref()),
                    &config.node_addresses,
                )
                .map_err(EdgeError::Routes)?,
            ),
            EdgePlan::Loopback | EdgePlan::Nowhere => None,
        };
        #[cfg(not(target_os = "linux"))]
        if config.plan == EdgePlan::Host {
            return Err(EdgeError::HostPlanUnsupported);
        }
        let block = fabric.as_ref().and_then(Fabric::loopback_block);
        let addresses = Addresses::new(&config, block);
        let (fronts, fronts_seen) = watch::channel(Arc::new(Fronts::default()));
        let (published_here, published) = watch::channel(Arc::default());
        let (node_ports_here, node_ports) = watch::channel(addresses.node_ports());
        let stop = CancellationToken::new();
        let flows = Connections::new(config.udp_flows_max, config.udp_flows_per_client_max);
        let dispatcher = dispatcher(&config, fabric.clone());
        let ground = match config.plan {
            EdgePlan::Host => Ground::open(ways, &config, &dispatcher, &flows),
            EdgePlan::Loopback | EdgePlan::Nowhere => Ground::default(),
        };
        let given_ranges = dispatcher.neighbourhood.pods.load().to_vec();
        let keeper = Keeper {
            addresses,
            dispatcher: Arc::clone(&dispatcher),
            flows: Arc::clone(&flows),
            gate: ground.gate.clone(),
            doors: Doors::start(),
            fronts: fronts_seen,
            published: published_here,
            node_ports: node_ports_here,
            stop: stop.clone(),
            sockets: HashMap::new(),
            failed: HashMap::new(),
            ports: HashMap::new(),
        };
        Ok(Edge {
            fronts,
            published,
            node_ports,
            dispatcher,
            flows,
            keeper: tokio::spawn(keeper.run()),
            stop: stop.drop_guard(),
            pods: ground.pods,
            given_ranges,
            gate: ground.gate,
            mechanism: ground.mechanism,
            #[cfg(target_os = "linux")]
            _routes: routes,
        })
    }

    /// Serves these fronts from now on. Called when they change, and when the endpoints of one of their
    /// Services do: a Service without any has no listener, and UDP flows to one that is gone end.
    /// Established connections stay. Returns at once; [`Edge::published`] tells what came of it.
    pub fn apply(&self, fronts: Arc<Fronts>) {
        self.fronts.send_replace(fronts);
    }

    /// Says which ranges of pods there are beside those of the configuration: who comes from one of them is
    /// a pod, and by [`EdgePlan::Host`] pods of this node come from their own addresses there.
    pub fn set_pod_ranges(&self, ranges: Vec<IpNet>) {
        let mut all = self.given_ranges.clone();
        all.extend(ranges);
        if let (Some(_), Some(fabric)) = (&self.pods, &self.dispatcher.fabric) {
            fabric.set_cluster_ranges(all.clone());
        }
        self.dispatcher.neighbourhood.pods.store(Arc::new(all));
    }

    /// Follows where fronts are reached.
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.published.clone()
    }

    /// Follows at which addresses node ports are served; an unspecified one stands for all of its family.
    pub fn node_ports(&self) -> watch::Receiver<Arc<[IpAddr]>> {
        self.node_ports.clone()
    }

    /// Returns what the edge did so far.
    pub fn counters(&self) -> &EdgeCounters {
        &self.dispatcher.counters
    }

    /// Returns how many connections are relayed now.
    pub fn relayed_now(&self) -> usize {
        self.dispatcher.connections.count()
    }

    /// Returns how many UDP flows there are now.
    pub fn udp_flows_now(&self) -> usize {
        self.flows.count()
    }

    /// Returns how the true addresses are served; nothing by plans that do not serve them.
    pub fn mechanism(&self) -> Option<Mechanism> {
        self.mechanism
    }

    /// Returns how often the kernel's table led to no socket; nothing where there is no such table.
    pub(crate) fn failures(&self) -> Option<Failures> {
        let failures = self.gate.as_ref()?.failures();
        let told = |error: &io::Error| tracing::debug!(%error, "the kernel's counts are not read");
        failures.inspect_err(told).ok().flatten()
    }

    /// Returns when accepting or connecting has met the end of descriptors, or of the system's memory for
    /// sockets, since this was asked last. Cancel safe.
    pub(crate) async fn exhausted(&self) {
        self.dispatcher.exhausted.notified().await;
    }

    /// Closes all listeners, lets relayed connections end within `grace` and resets those that have
    /// not. What pods were given is theirs.
    pub async fn stop(self, grace: Duration) {
        drop(self.stop);
        // It ends by itself; were it to panic, its sockets are closed as well.
        drop(self.keeper.await);
        // The last who may serve something by the gate.
        drop(self.pods);
        if let Some(mut gate) = self.gate.and_then(Arc::into_inner) {
            gate.close().await;
        }
        let connections = &self.dispatcher.connections;
        let mut patience = grace;
        // Again until nothing is left: one that was connecting may have become a relay meanwhile.
        while tokio::time::timeout(patience, connections.emptied())
            .await
            .is_err()
        {
            connections.abort_all();
            patience = ABORT_INTERVAL;
        }
    }
}

/// Returns the addresses of this machine's interfaces, loopback among them.
///
/// # Errors
///
/// What the system says; of the kind `Unsupported` elsewhere than on Linux.
pub fn machine_addresses() -> io::Result<Vec<IpAddr>> {
    #[cfg(target_os = "linux")]
    let listed = addresses::routes::machine_addresses();
    #[cfg(not(target_os = "linux"))]
    let listed = Err(io::ErrorKind::Unsupported.into());
    listed
}

/// What serves true addresses.
#[derive(Default)]
struct Ground {
    gate: Option<Arc<Gate>>,
    pods: Option<Placed>,
    mechanism: Option<Mechanism>,
}

impl Ground {
    /// Opens a gate, or goes without one where the kernel or this user's rights do not allow it, and gives
    /// pods their addresses.
    fn open(
        ways: &[Way],
        config: &EdgeConfig,
        dispatcher: &Arc<Dispatcher>,
        flows: &Arc<Connections>,
    ) -> Ground {
        let fabric = dispatcher.fabric.as_ref();
        let board = Board::new(dispatcher);
        let ranges = local_ranges(config, fabric);
        let gate = ways.iter().find_map(|way| {
            let udp = UdpPorts::new(&board, dispatcher, flows);
            match Gate::open(*way, &ranges, families(config), &board, udp) {
                Ok(gate) => {
                    let by = way.told();
                    tracing::info!("one socket stands for all addresses, by {by}");
                    Some((*way, Arc::new(gate)))
                }
                Err(error) => {
                    let (error, by) = (&error as &dyn std::error::Error, way.told());
                    tracing::warn!(error, "addresses are not served by {by}");
                    None
                }
            }
        });
        let pods = match &gate {
            Some((_, gate)) => Pods::at_gate(Arc::clone(gate), dispatcher),
            None => {
                tracing::warn!("each address and port has a socket of its own");
                Pods::by_sockets(&board, dispatcher, flows)
            }
        };
        if let Some(fabric) = fabric {
            fabric.set_cluster_ranges(dispatcher.neighbourhood.pods.load().to_vec());
        }
        let (way, gate) = gate.unzip();
        Ground {
            mechanism: Some(way.map_or(Mechanism::Sockets, Way::mechanism)),
            pods: fabric.map(|fabric| pods.place(fabric)),
            gate,
        }
    }
}

fn is_ipv6(range: &IpNet) -> bool {
    range.addr().is_ipv6()
}

/// Tells whether something can be served at `::1`.
fn has_loopback_of_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn families(config: &EdgeConfig) -> Families {
    let mut ranges = config.ranges.iter();
    let mut own = config
        .node_ports()
        .into_iter()
        .chain(config.node_addresses.iter().copied());
    let mut followed = config.node_port_ranges.iter();
    match ranges.any(is_ipv6) || followed.any(is_ipv6) || own.any(|ip| ip.is_ipv6()) {
        true => Families::Both,
        false => Families::V4,
    }
}

/// Returns the ranges that routes make local: those of Services, and those of this node's pods. Where the
/// node has no address of IPv6, nothing comes from there, and pods are reached by IPv4 alone.
fn local_ranges(config: &EdgeConfig, fabric: Option<&Fabric>) -> Vec<IpNet> {
    let pods = fabric.map(Fabric::pod_cidrs).unwrap_or_default();
    let has_v6 = config.node_addresses.iter().any(IpAddr::is_ipv6);
    let pods = pods
        .into_iter()
        .filter(|range| has_v6 || range.addr().is_ipv4());
    config.ranges.iter().copied().chain(pods).collect()
}

fn dispatcher(config: &EdgeConfig, fabric: Option<Fabric>) -> Arc<Dispatcher> {
    let mut pods = config.pod_ranges.clone();
    pods.extend(fabric.iter().flat_map(Fabric::pod_cidrs));
    let counters = Arc::default();
    let relays = Relays {
        pipes: Pipes::new(PIPES_MAX),
        counters: Arc::clone(&counters),
    };
    Arc::new(Dispatcher {
        fabric,
        neighbourhood: Neighbourhood {
            node: config.node_addresses.clone(),
            pods: ArcSwap::from_pointee(pods),
        },
        connections: Connections::new(config.connections_max, config.connections_per_client_max),
        relays: Arc::new(relays),
        counters,
        runtime: tokio::runtime::Handle::current(),
        is_paced: AtomicBool::new(false),
        exhausted: Notify::new(),
    })
}

#[cfg(test)]
mod tests;
