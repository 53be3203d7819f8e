//! `coracle proxy`: the load balancer alone, beside any cluster, as a kube-proxy in user space.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use coracle_service_proxy::edge::EdgeConfig;
use coracle_service_proxy::{PodRanges, Proxy, ProxyConfig};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Api;
use kube::api::ListParams;

use crate::cluster::ClusterArgs;
use crate::console::Console;
use crate::exit::Exit;
use crate::run::parse_duration;
use crate::services::{Plan, Printed, machine_address};
use crate::signals::Signals;
use crate::system;

/// How long the API server may take to answer the first question.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Balance connections to the Services of any cluster, until Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
It does what kube-proxy does, in user space: it follows Services and EndpointSlices and gives each \
connection to an endpoint. Flags that kube-proxy has have its names. Nothing runs in the cluster for it and \
nothing is left behind when it ends.

`--plan loopback` is for every user: node ports on this machine's addresses, each other address of a \
Service on a loopback address of this process; the line printed says which.

`--plan host` is for root on Linux: Services at their true addresses, by a route that is removed at the \
end; not beside another kube-proxy on this machine.

What it does not do: SCTP; the source addresses of clients, since endpoints elsewhere see this machine.

Exit codes: 0 when it was ended by a signal; 125 when Coracle itself refuses, such as an API server that \
does not answer or a port that is taken; 130 after a second signal; 2 for wrong usage.")]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    /// The name of this machine's Node, by which endpoints are local [default: this machine's host name]
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,

    /// Where Services are reached
    #[arg(long, value_enum, default_value = "loopback")]
    plan: Plan,

    /// The pods' addresses: who comes from there is inside of the cluster [default: what the Nodes have]
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,

    /// The Services' addresses, for `--plan host` [default: what the cluster says]
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    service_cluster_ip_range: Vec<IpNet>,

    /// Serve node ports only on addresses of this machine within these ranges; `primary` stands for
    /// the Node's own [default: all addresses]
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = parse_node_ports)]
    nodeport_addresses: Vec<NodePorts>,

    /// Where `/healthz` and `/livez` are answered; `none` for nowhere
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:10256", value_parser = parse_bind)]
    healthz_bind_address: Bind,

    /// Where `/metrics` is answered; `none` for nowhere
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10249", value_parser = parse_bind)]
    metrics_bind_address: Bind,

    /// How long relayed connections may go on at the end
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    stop_timeout: Duration,
}

impl ProxyArgs {
    /// Returns the addresses that node ports are served on, and ranges in which it looks for more.
    fn node_port_places(&self, node: &[IpAddr]) -> (Vec<IpAddr>, Vec<IpNet>) {
        match self.nodeport_addresses.as_slice() {
            [] => (all_addresses(node), Vec::new()),
            asked => node_port_places(asked, node),
        }
    }
}

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bind(pub(crate) Option<SocketAddr>);

/// Which addresses of this machine serve node ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodePorts {
    /// The Node's own.
    Primary,
    /// Those in a range.
    Within(IpNet),
}

/// Balances until a signal comes.
///
/// # Errors
///
/// Whatever Coracle refuses: a kubeconfig that leads nowhere, a port that is taken, routes that cannot
/// be set.
pub(crate) fn run(args: ProxyArgs) -> anyhow::Result<Exit> {
    let runtime = system::agent_threads()?;
    let outcome = runtime.block_on(serve(args));
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

async fn serve(args: ProxyArgs) -> anyhow::Result<Exit> {
    let mut signals = Signals::install()?;
    let console = Console::new();
    let config = args.cluster.client_config().await?;
    let server = config.cluster_url.to_string();
    let client = kube::Client::try_from(config)
        .with_context(|| format!("failed to set up a client of `{server}`"))?;
    let host = match &args.hostname_override {
        Some(name) => name.clone(),
        None => sysinfo::System::host_name()
            .unwrap_or_default()
            .to_lowercase(),
    };
    // Before anything is opened: most first tries end here.
    let node = tokio::time::timeout(CONNECT_TIMEOUT, known_node(&client, &host))
        .await
        .with_context(|| format!("the API server `{server}` does not answer"))?
        .with_context(|| format!("failed to ask the API server `{server}` for node `{host}`"))?;
    if node.is_none() {
        console.progress(&format!(
            "the cluster has no node `{host}`, so no endpoint is local to this machine; name its node with \
             `--hostname-override`"
        ));
    }
    let mut node_ips = node.as_ref().map(addresses).unwrap_or_default();
    if node_ips.is_empty() {
        node_ips.push(machine_address());
    }
    let service_cidrs = service_cidrs(&args, &client).await?;
    if let Plan::Loopback = args.plan {
        console.progress(
            "cluster IPs and load-balancer addresses are reached on loopback addresses of this process \
             only; `--plan host`, as root on Linux, serves the true ones",
        );
    }
    let (node_port_addresses, node_port_ranges) = args.node_port_places(&node_ips);
    let proxy = Proxy::start(ProxyConfig {
        client,
        node_name: node.is_some().then(|| host.clone()),
        host,
        node_ips: node_ips.clone(),
        service_cidrs: service_cidrs.clone(),
        fabric: None,
        edge: Some(EdgeConfig {
            plan: args.plan.edge(),
            ranges: service_cidrs,
            node_addresses: node_ips,
            node_port_addresses: Some(node_port_addresses),
            node_port_ranges,
            pod_ranges: args.cluster_cidr.clone(),
            ..EdgeConfig::default()
        }),
        pod_ranges: pod_ranges(&args.cluster_cidr),
        health_check_ips: Vec::new(),
        healthz: args.healthz_bind_address.0,
        metrics: args.metrics_bind_address.0,
    })
    .context("failed to start the service proxy")?;
    console.output(told(&server, &proxy).as_bytes());
    tokio::select! {
        () = signals.next() => (),
        // Cancel-safe: what was not printed is not missed at the end.
        () = print_places(&console, &proxy) => (),
    }
    console.progress("ending; a second signal ends at once");
    signals.exit_on_next(Exit::Interrupted);
    proxy.stop(args.stop_timeout).await;
    Ok(console.outcome(Exit::Success))
}

fn told(server: &str, proxy: &Proxy) -> String {
    let mut told = format!("balancing the Services of {server}\n");
    for (what, at) in [
        ("health is", proxy.healthz_address()),
        ("metrics are", proxy.metrics_address()),
    ] {
        if let Some(at) = at {
            told.push_str(&format!("{what} served on http://{at}\n"));
        }
    }
    told
}

/// Prints where Services are reached, as long as the proxy lives.
async fn print_places(console: &Console, proxy: &Proxy) {
    let mut places = proxy.places();
    let mut printed = Printed::default();
    while places.changed().await.is_ok() {
        let now = places.borrow_and_update().clone();
        for (url, name) in printed.news(&now) {
            console.output(format!("{url}  {name}\n").as_bytes());
        }
    }
    // The tasks of a proxy end before it only by a bug, and then it still waits for its signal.
    std::future::pending().await
}

/// Returns the Node of that name, if there can be one and the cluster has it.
async fn known_node(client: &kube::Client, name: &str) -> kube::Result<Option<Node>> {
    let nodes = Api::<Node>::all(client.clone());
    if name.is_empty() {
        // Asked all the same: an API server that does not answer must be found out here.
        nodes.list(&ListParams::default().limit(1)).await?;
        return Ok(None);
    }
    nodes.get_opt(name).await
}

/// Returns the addresses of a Node.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let status = node.status.iter();
    let addresses = status.flat_map(|status| status.addresses.iter().flatten());
    let mut ips = addresses
        .filter_map(|one| one.address.parse::<IpAddr>().ok())
        .collect::<Vec<_>>();
    ips.dedup();
    ips
}

/// Returns the ranges of Services: those named, or those that the cluster tells. Only the plan that
/// makes them local cannot do without.
async fn service_cidrs(args: &ProxyArgs, client: &kube::Client) -> anyhow::Result<Vec<IpNet>> {
    if !args.service_cluster_ip_range.is_empty() {
        return Ok(args.service_cluster_ip_range.clone());
    }
    let known = cluster_service_cidrs(client).await;
    match (args.plan, known) {
        (Plan::Host, Ok(ranges)) if ranges.is_empty() => anyhow::bail!(
            "the cluster does not tell the addresses of its Services; name them with \
             `--service-cluster-ip-range`"
        ),
        (Plan::Host, Err(error)) => Err(error).context(
            "failed to ask for the addresses of Services; name them with `--service-cluster-ip-range`",
        ),
        (_, Ok(ranges)) => Ok(ranges),
        (Plan::Loopback, Err(_)) => Ok(Vec::new()),
    }
}

/// Returns the ranges of Services that a cluster tells: none where it does not know that kind.
pub(crate) async fn cluster_service_cidrs(client: &kube::Client) -> kube::Result<Vec<IpNet>> {
    let listed = Api::<ServiceCIDR>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let listed = match listed {
        Ok(listed) => listed.items,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error),
    };
    let specs = listed.into_iter().filter_map(|one| one.spec?.cidrs);
    Ok(specs
        .flatten()
        .filter_map(|cidr| cidr.parse().ok())
        .collect())
}

/// Tells where the ranges of pods come from, if some were named on the command line.
pub(crate) fn pod_ranges(named: &[IpNet]) -> PodRanges {
    match named {
        [] => PodRanges::OfNodes,
        _ => PodRanges::Given,
    }
}

/// Returns what stands for all addresses: of IPv6 where the Node has one.
fn all_addresses(node: &[IpAddr]) -> Vec<IpAddr> {
    let v6 = node.iter().any(IpAddr::is_ipv6);
    let v6 = v6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    [v4].into_iter().chain(v6).collect()
}

/// Returns the addresses that serve node ports in any case, and the ranges in which the edge looks for this
/// machine's addresses again and again.
pub(crate) fn node_port_places(asked: &[NodePorts], node: &[IpAddr]) -> (Vec<IpAddr>, Vec<IpNet>) {
    let (mut chosen, mut followed) = (Vec::new(), Vec::new());
    for one in asked {
        match one {
            NodePorts::Primary => chosen.extend(node),
            NodePorts::Within(range) if range.prefix_len() == 0 => {
                chosen.push(match range {
                    IpNet::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    IpNet::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                });
            }
            NodePorts::Within(range) => followed.push(*range),
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    (chosen, followed)
}

/// Parses `10.0.0.0/8` or `primary`.
pub(crate) fn parse_node_ports(text: &str) -> Result<NodePorts, String> {
    match text {
        "primary" => Ok(NodePorts::Primary),
        _ => text
            .parse()
            .map(NodePorts::Within)
            .map_err(|_| "a range is `address/bits`".to_owned()),
    }
}

/// Parses `0.0.0.0:10256` or `none`.
pub(crate) fn parse_bind(text: &str) -> Result<Bind, String> {
    match text {
        "none" => Ok(Bind(None)),
        _ => text
            .parse()
            .map(|address| Bind(Some(address)))
            .map_err(|_| "an address is `address:port`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect()
    }

    #[test]
    fn node_ports_are_served_where_they_were_asked_for() {
        let node = ips(&["192.0.2.7", "2001:db8::7"]);
        let rows: [(&[&str], &[&str], &[&str]); 5] = [
            (&["primary"], &["192.0.2.7", "2001:db8::7"], &[]),
            (&["0.0.0.0/0", "::/0"], &["0.0.0.0", "::"], &[]),
            (&["192.0.2.0/24"], &[], &["192.0.2.0/24"]),
            (&["127.0.0.0/8"], &[], &["127.0.0.0/8"]),
            (
                &["198.51.100.0/24", "primary", "127.0.0.1/32"],
                &["192.0.2.7", "2001:db8::7"],
                &["198.51.100.0/24", "127.0.0.1/32"],
            ),
        ];
        for (asked, expected, followed) in rows {
            let asked = asked
                .iter()
                .map(|text| parse_node_ports(text).expect("a range"));
            let asked = asked.collect::<Vec<_>>();
            let (chosen, ranges) = node_port_places(&asked, &node);
            assert_eq!(chosen, ips(expected), "for {asked:?}");
            let ranges = ranges.iter().map(IpNet::to_string).collect::<Vec<_>>();
            assert_eq!(ranges, followed, "for {asked:?}");
        }
        assert_eq!(all_addresses(&node), ips(&["0.0.0.0", "::"]));
        assert_eq!(all_addresses(&node[..1]), ips(&["0.0.0.0"]));
    }

    #[test]
    fn an_address_to_listen_on_may_be_none() {
        assert_eq!(parse_bind("none"), Ok(Bind(None)));
        assert_eq!(
            parse_bind("0.0.0.0:10256"),
            Ok(Bind(Some("0.0.0.0:10256".parse().expect("an address"))))
        );
        assert!(parse_bind("10256").is_err());
        assert!(parse_node_ports("10.0.0.0").is_err());
    }
}
