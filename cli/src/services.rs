//! Services for the pods of a node: the proxy on their network, and the API as a place in it where it is
//! in the same process.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use coracle_control_plane::Entrance;
use coracle_kubelet_shim::NodeIps;
use coracle_network::{Fabric, Listener, Upstream};
use coracle_service_proxy::edge::{EdgeConfig, EdgePlan, machine_addresses};
use coracle_service_proxy::{
    DnsConfig, DnsServer, PodRanges, Policies, PoliciesConfig, Proxy, ProxyConfig, ServicePlace,
};
use ipnet::{IpNet, Ipv6Net};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::proxy::{NodePorts, cluster_service_cidrs, node_port_places, pod_ranges};
use crate::ranges::Ranges;

/// The port of the node's address in the pods' network where the API is: the endpoint of the Service
/// `kubernetes`.
const API_PORT: u16 = 6443;
/// The port of the same address where names are answered: the endpoint of the Service `kube-dns`.
const DNS_PORT: u16 = 53;
/// The Service by which a cluster's DNS is known.
const CLUSTER_DNS: (&str, &str) = ("kube-system", "kube-dns");
/// Addresses that nobody has, of both families: they are for documents.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NOBODY_6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// Connections to the API that wait to be accepted: the most that a queue of the network takes.
const API_BACKLOG: usize = 4_096;
/// Printed addresses that are remembered: several for each of ten thousand Services.
const PRINTED_MAX: usize = 65_536;
/// How long relayed connections may go on once the pods have ended: those to endpoints elsewhere.
const RELAY_GRACE: Duration = Duration::from_millis(200);
/// How long the start of pods waits for the list of Services, and for that of NetworkPolicies.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);
/// The rest after accepting failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where Services are reached on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Plan {
    /// On loopback addresses of this process; needs no privilege
    Loopback,
    /// At their true addresses; needs root on Linux, of the network's namespace of users at least. One
    /// socket stands for all of them by a program in the kernel, by rules of nftables where none may be
    /// loaded; without either each has one. `-v` says which
    Host,
}

impl Plan {
    /// Returns the plan of the listeners.
    pub(crate) fn edge(self) -> EdgePlan {
        match self {
            Self::Loopback => EdgePlan::Loopback,
            Self::Host => EdgePlan::Host,
        }
    }
}

/// How Services are served, as it was asked for on the command line.
#[derive(Clone, Debug)]
pub(crate) struct ServiceSettings {
    /// Where they are reached on this machine, if it was said.
    pub(crate) plan: Option<Plan>,
    /// Which addresses of this machine serve node ports; if it was not said, as the plan has it.
    pub(crate) node_ports: Vec<NodePorts>,
    /// The ranges of the cluster's pods, if they were named: else what the Nodes have.
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// Where the names of the cluster are answered on this machine.
    pub(crate) dns: Option<SocketAddr>,
    /// Where `/healthz` and `/livez` are answered.
    pub(crate) healthz: Option<SocketAddr>,
    /// Where `/metrics` is answered.
    pub(crate) metrics: Option<SocketAddr>,
}

/// The addresses of Services that were printed already.
#[derive(Default)]
pub(crate) struct Printed {
    known: HashSet<(String, String)>,
}

impl Printed {
    /// Returns URL and Service of the addresses that were not printed before.
    pub(crate) fn news(&mut self, places: &[ServicePlace]) -> Vec<(String, String)> {
        if self.known.len() > PRINTED_MAX {
            self.known.clear();
        }
        let all = places.iter().filter(|place| !is_the_clusters_own(place));
        let all = all.filter_map(|place| Some((place.url()?, service_name(place))));
        all.filter(|one| self.known.insert(one.clone())).collect()
    }
}

/// The Services by which pods know the cluster are nobody's application.
fn is_the_clusters_own(place: &ServicePlace) -> bool {
    let name = &place.name;
    name.namespace == "kube-system" || (name.namespace == "default" && name.service == "kubernetes")
}

/// Returns how a line names a Service: by its port too, where that has a name.
fn service_name(place: &ServicePlace) -> String {
    let name = &place.name;
    let namespace = match name.namespace.as_str() {
        "default" => String::new(),
        other => format!("{other}/"),
    };
    let port = match name.port.as_str() {
        "" => String::new(),
        port => format!(":{port}"),
    };
    format!("{namespace}service/{}{port}", name.service)
}

/// The cluster of this process, as far as its pods reach it.
pub(crate) struct OwnCluster<'a> {
    /// What lets them in to the API.
    pub(crate) api: Entrance,
    /// Where it has its addresses.
    pub(crate) ranges: &'a Ranges,
}

/// What makes Services reachable.
pub(crate) struct Services {
    policies: Policies,
    dns: DnsServer,
    proxy: Proxy,
    /// What lets pods in to the API of this process.
    admitting: Option<Admitting>,
}

struct Admitting {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Services {
    /// Opens the API of this process to pods and starts the proxy. When this returns, what the API has
    /// is routed.
    ///
    /// # Errors
    ///
    /// Fails when the API's port in the pods' network is taken, and where the settings cannot be met.
    pub(crate) async fn start(
        client: kube::Client,
        node: &str,
        fabric: Fabric,
        own: OwnCluster<'_>,
        settings: &ServiceSettings,
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let listener = listen(&fabric).context("failed to open the API to pods")?;
        let admitting = Admitting {
            task: tokio::spawn(admit(listener, own.api, stop.clone())),
            stop,
        };
        let plan = settings.plan.unwrap_or(Plan::Loopback);
        let ground = Ground {
            client,
            node,
            ips: node_ips(machine_address(), fabric.pod_cidr6()),
            ranges: {
                let balancers = own.ranges.balancers.iter().copied();
                own.ranges.services.iter().chain(balancers).collect()
            },
            health_check_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            pod_ranges: PodRanges::Given,
        };
        let (policies, dns, proxy) = ground.start(fabric, plan.edge(), settings).await?;
        Ok(Self {
            policies,
            dns,
            proxy,
            admitting: Some(admitting),
        })
    }

    /// Starts the proxy of a node of a cluster that is there already. Without a plan only pods reach
    /// Services by it. Names that are not the cluster's are asked of its DNS.
    ///
    /// # Errors
    ///
    /// Fails where the settings cannot be met.
    pub(crate) async fn join(
        client: kube::Client,
        node: &str,
        ips: NodeIps,
        fabric: Fabric,
        settings: &ServiceSettings,
    ) -> anyhow::Result<Self> {
        let ranges = match cluster_service_cidrs(&client).await {
            Ok(ranges) => ranges,
            // They only tell an unknown Service from an address elsewhere.
            Err(error) => {
                tracing::warn!(%error, "failed to ask for the addresses of Services");
                Vec::new()
            }
        };
        if let Some(dns) = cluster_dns(&client, fabric.node_ip()).await {
            fabric.set_upstream(Upstream::Servers(vec![dns]));
        }
        let ground = Ground {
            client,
            node,
            ips,
            ranges,
            health_check_ip: ips.main,
            pod_ranges: pod_ranges(&settings.cluster_cidrs),
        };
        let plan = settings.plan.map_or(EdgePlan::Nowhere, Plan::edge);
        let (policies, dns, proxy) = ground.start(fabric, plan, settings).await?;
        Ok(Self {
            policies,
            dns,
            proxy,
            admitting: None,
        })
    }

    /// Follows where Services are reached on this machine.
    pub(crate) fn places(&self) -> watch::Receiver<Arc<[ServicePlace]>> {
        self.proxy.places()
    }

    /// Ends the parts in the reverse order of their start.
    pub(crate) async fn stop(self) {
        self.proxy.stop(RELAY_GRACE).await;
        self.dns.stop().await;
        self.policies.stop().await;
        let Some(admitting) = self.admitting else {
            return;
        };
        admitting.stop.cancel();
        if let Err(error) = admitting.task.await {
            tracing::error!(%error, "accepting pods' connections to the API did not end by itself");
        }
    }
}

/// Returns the node's addresses: the main one, and where pods have addresses of both families, the
/// machine's first of the other family that is neither loopback nor of one link alone, if it has one.
pub(crate) fn node_ips(main: IpAddr, second_pods: Option<Ipv6Net>) -> NodeIps {
    let is_apart = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let second = second_pods.and_then(|_| {
        let nobody = match main {
            IpAddr::V4(_) => NOBODY_6,
            IpAddr::V6(_) => NOBODY,
        };
        let all = machine_addresses().unwrap_or_else(|_| source(nobody).into_iter().collect());
        let mut all = all.into_iter();
        all.find(|ip| ip.is_ipv4() != main.is_ipv4() && is_apart(ip))
    });
    NodeIps { main, second }
}

/// What a node's proxy stands on.
struct Ground<'a> {
    client: kube::Client,
    node: &'a str,
    ips: NodeIps,
    ranges: Vec<IpNet>,
    health_check_ip: IpAddr,
    pod_ranges: PodRanges,
}

impl Ground<'_> {
    /// Starts the parts, in the order in which pods may depend on them.
    async fn start(
        self,
        fabric: Fabric,
        plan: EdgePlan,
        settings: &ServiceSettings,
    ) -> anyhow::Result<(Policies, DnsServer, Proxy)> {
        fabric.policies().add_node_addresses(self.ips.iter());
        let policies = Policies::start(PoliciesConfig {
            client: self.client.clone(),
            fabric: fabric.clone(),
            node_name: Some(self.node.to_owned()),
        });
        let dns = DnsServer::start(DnsConfig {
            fabric: fabric.clone(),
            listen: settings.dns,
        })
        .await
        .context("failed to start the DNS server")?;
        let proxy = self.proxy(fabric, plan, settings).await?;
        let synced = tokio::time::timeout(SYNC_TIMEOUT, policies.synced()).await;
        if synced.is_err() {
            tracing::warn!(
                "the API does not list NetworkPolicies yet; pods start, and reach nothing before it does"
            );
        }
        Ok((policies, dns, proxy))
    }

    /// Starts the proxy, and returns it when what the API has is routed: the first pods may ask for a
    /// Service as soon as they run.
    async fn proxy(
        self,
        fabric: Fabric,
        plan: EdgePlan,
        settings: &ServiceSettings,
    ) -> anyhow::Result<Proxy> {
        let pods = fabric.pod_cidrs();
        let mut zone_ranges = self.ranges.clone();
        zone_ranges.extend(&pods);
        fabric.zone().set_ranges(zone_ranges);
        let node_addresses = self.ips.iter().collect::<Vec<_>>();
        let mut node_ips = node_addresses.clone();
        node_ips.extend(fabric.node_ips());
        node_ips.dedup();
        // Nothing is reached by IPv6 at a node that has no address of it.
        let has_v6 = node_addresses.iter().any(IpAddr::is_ipv6);
        let mut edge_ranges = self.ranges.clone();
        edge_ranges.retain(|range| has_v6 || range.addr().is_ipv4());
        let (node_ports, node_port_ranges) = match settings.node_ports.as_slice() {
            [] => (None, Vec::new()),
            asked => {
                let (addresses, ranges) = node_port_places(asked, &node_addresses);
                (Some(addresses), ranges)
            }
        };
        let health_checks = (plan != EdgePlan::Nowhere).then_some(self.health_check_ip);
        let proxy = Proxy::start(ProxyConfig {
            client: self.client,
            node_name: Some(self.node.to_owned()),
            host: self.node.to_owned(),
            service_cidrs: self.ranges.clone(),
            edge: Some(EdgeConfig {
                plan,
                ranges: edge_ranges,
                node_addresses,
                node_port_addresses: node_ports,
                node_port_ranges,
                pod_ranges: pods
                    .into_iter()
                    .chain(settings.cluster_cidrs.iter().copied())
                    .collect(),
                ..EdgeConfig::default()
            }),
            node_ips,
            fabric: Some(fabric),
            pod_ranges: self.pod_ranges,
            health_check_ips: health_checks.into_iter().collect(),
            healthz: settings.healthz,
            metrics: settings.metrics,
        })
        .context("failed to start the service proxy")?;
        let synced = tokio::time::timeout(SYNC_TIMEOUT, proxy.synced()).await;
        if synced.is_err() {
            tracing::warn!("the API does not list Services yet; pods start before they reach any");
        }
        Ok(proxy)
    }
}

/// Returns the address by which this machine reaches others, loopback where it reaches none.
pub(crate) fn machine_address() -> IpAddr {
    source(NOBODY).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Returns the address by which this machine reaches another one. Nothing is sent: the socket only asks for
/// the route.
fn source(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Returns where pods reach the API of this process.
pub(crate) fn api_endpoint(fabric: &Fabric) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(fabric.node_ip()), API_PORT)
}

/// Returns where pods reach the cluster's DNS, in each family that they have.
pub(crate) fn dns_endpoints(fabric: &Fabric) -> Vec<SocketAddr> {
    let ips = fabric.node_ips().into_iter();
    ips.map(|ip| SocketAddr::new(ip, DNS_PORT)).collect()
}

/// Returns the address of a cluster's DNS, where it is customary to be. What is answered here does not
/// need it; without it the machine's own resolver answers the rest. None where its endpoint is this
/// node's own address among pods: that would be the DNS here, asking itself.
async fn cluster_dns(client: &kube::Client, node: Ipv4Addr) -> Option<IpAddr> {
    let (namespace, name) = CLUSTER_DNS;
    let asked = async {
        let services = Api::<Service>::namespaced(client.clone(), namespace);
        let service = services.get_opt(name).await?;
        let of_it = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
        let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
        Ok::<_, kube::Error>((service, slices.list(&of_it).await?))
    };
    let (service, slices) = match asked.await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "failed to ask for the DNS of the cluster");
            return None;
        }
    };
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten());
    let mut addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
    if addresses.any(|address| address.parse() == Ok(node)) {
        return None;
    }
    service?.spec?.cluster_ip?.parse().ok()
}

fn listen(fabric: &Fabric) -> Result<Listener, coracle_network::NetError> {
    let host = fabric.host();
    let port = host.reserve_tcp(api_endpoint(fabric))?;
    host.listen(port, API_BACKLOG)
}

/// Lets pods' connections to the API in, as long as it has places for them.
async fn admit(listener: Listener, api: Entrance, stop: CancellationToken) {
    loop {
        let next = async {
            let place = api.place().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            // Cancel-safe: a connection that is not accepted stays in the queue.
            next = next => next,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok(stream) => api.take(place, stream),
            Err(error) => {
                tracing::warn!(%error, "failed to accept a pod's connection to the API");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_network::{FrontAddress, FrontKind, Protocol, ServicePortName};

    use super::*;

    fn place(namespace: &str, service: &str, at: Result<&str, &str>) -> ServicePlace {
        ServicePlace {
            name: ServicePortName {
                namespace: namespace.to_owned(),
                service: service.to_owned(),
                port: "http".to_owned(),
                protocol: Protocol::Tcp,
            },
            kind: FrontKind::ClusterIp,
            front: FrontAddress {
                ip: None,
                port: 80,
                protocol: Protocol::Tcp,
            },
            scheme: "http",
            at: at
                .map(|at| at.parse().expect("an address"))
                .map_err(str::to_owned),
        }
    }

    #[test]
    fn an_address_is_printed_when_it_is_new_and_the_clusters_own_never() {
        let mut printed = Printed::default();
        let web = place("default", "web", Ok("127.64.0.9:80"));
        let line = |url: &str, name: &str| vec![(url.to_owned(), name.to_owned())];
        let all = [
            web.clone(),
            place("default", "kubernetes", Ok("127.64.0.8:443")),
            place("kube-system", "kube-dns", Ok("127.64.0.7:53")),
            place("default", "lost", Err("in use")),
        ];
        let first = line("http://127.64.0.9:80", "service/web:http");
        assert_eq!(printed.news(&all), first);
        assert_eq!(printed.news(&all), []);
        let other = place("shop", "web", Ok("127.64.0.10:80"));
        let second = line("http://127.64.0.10:80", "shop/service/web:http");
        assert_eq!(printed.news(&[other]), second);
        // One that was gone for a while is no news.
        assert_eq!(printed.news(&[web]), []);
    }
}
