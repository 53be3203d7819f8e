//! `coracle node`: this machine as a node of a Kubernetes cluster that is there already.

mod flags;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use coracle_kubelet_shim::{
    Agent, AgentConfig, AtStop, DeclaredPorts, DiskLeast, HostPathPolicy, KubeletListener,
    KubeletListenerConfig, KubeletServer, NodeIps, NodeSettings, UnusedImages,
};
use coracle_network::{EgressRules, FabricConfig, LinkLocal};
use coracle_runtime::Runtime;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Taint};
use kube::Api;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use self::flags::{parse_eviction, parse_label, parse_taint};
use crate::cluster::ClusterArgs;
use crate::console::{Console, Doing, LayerBars};
use crate::data_dir::Claim;
use crate::exit::Exit;
use crate::proxy::{NodePorts, parse_node_ports};
use crate::ranges::{Pair, parse_pair};
use crate::run::parse_duration;
use crate::services::{Plan, ServiceSettings, Services, node_ips};
use crate::signals::Signals;
use crate::system;
use crate::toolbox::toolbox;

/// Where a kubelet's API is looked for.
const KUBELET_PORT: u16 = 10250;
/// How long requests to the kubelet API may go on once it takes no more.
const KUBELET_DRAIN: Duration = Duration::from_secs(1);
/// How long the API server may take to answer the first question.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Where a cluster says who vouches for its clients, to servers that are asked in its name.
const AUTHENTICATION: (&str, &str) = ("kube-system", "extension-apiserver-authentication");
/// The longest name of a node, as of every DNS subdomain.
const NAME_BYTES_MAX: usize = 253;

/// Join a Kubernetes cluster as a node that runs Wasm pods, until Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The node does what a kubelet does: it registers itself, runs the pods that are bound to it and answers \
`kubectl logs`. Pods of other images than Wasm end as `Failed` with a message that says so; in a cluster \
with ordinary nodes, keep them away with a taint and let Wasm pods tolerate it:

  coracle node --kubeconfig admin.conf --register-with-taints coracle.dev/runtime=wasm:NoSchedule

Every Wasm node has the label `coracle.dev/runtime: wasm` for node selectors.

Exit codes: 0 when it was ended by a signal; 125 when Coracle itself refuses, such as an API server that \
does not take the node; 130 after a second signal; 2 for wrong usage.")]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    /// The name of the Node [default: this machine's host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,

    /// The node's address, or one of each family [default: the one from which the API server is reached;
    /// where the cluster has given the node pod addresses of both families, one of the other family too]
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,

    /// Where the kubelet API listens; port 0 lets the system choose [default: port 10250 of the node's
    /// address]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// Certificate of the kubelet API, in PEM [default: one signed by itself]
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,

    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,

    /// Who vouches for those who ask the kubelet API, in PEM [default: what the cluster publishes in
    /// the ConfigMap `extension-apiserver-authentication`]
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,

    /// Labels of the Node, as `key=value`
    #[arg(long, value_name = "LABELS", value_delimiter = ',', value_parser = parse_label)]
    node_labels: Vec<(String, String)>,

    /// Taints of the Node when it is new, as `key=value:Effect`
    #[arg(long, value_name = "TAINTS", value_delimiter = ',', value_parser = parse_taint)]
    register_with_taints: Vec<Taint>,

    /// When the node has the condition DiskPressure and takes no more pods: with less than so many
    /// percent, or bytes (`10Gi`), left where its files are
    #[arg(long, value_name = "SIGNAL<QUANTITY", default_value = "nodefs.available<15%", value_parser = parse_eviction)]
    eviction_hard: DiskLeast,

    /// The pods' addresses: a range of IPv4, or with `,` one of IPv6 too [default: what the cluster has given
    /// the Node, else 10.244.0.0/16]
    #[arg(long, value_name = "CIDRS", value_parser = parse_pair)]
    pod_cidr: Option<Pair>,

    /// Most pods [default: what the machine can hold]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    max_pods: Option<u64>,

    /// What ending the node means for its pods
    #[arg(long, value_enum, default_value = "wait")]
    at_stop: AtStopArg,

    /// How long pods may take to end, where their own grace period is longer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    stop_timeout: Duration,

    /// Also publish the declared ports of pods on loopback addresses of this machine
    #[arg(long)]
    publish_ports: bool,

    /// Let pods mount folders of this machine (`hostPath`)
    #[arg(long)]
    allow_host_path: bool,

    /// Let pods reach 169.254.0.0/16, where clouds serve credentials
    #[arg(long)]
    allow_link_local: bool,

    /// Also serve Services on this machine, as kube-proxy does, and by `host` pods at their own addresses;
    /// pods reach Services without it
    #[arg(long, value_enum)]
    plan: Option<Plan>,

    /// Serve node ports only on addresses of this machine within these ranges; `primary` stands for the
    /// node's own [default: 127.0.0.1, and ::1 where pods have addresses of IPv6; under `host` the node's own
    /// too]
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = parse_node_ports)]
    nodeport_addresses: Vec<NodePorts>,

    /// The addresses of the cluster's pods, on all nodes: who comes from there is inside of the cluster
    /// [default: what the Nodes have]
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    cluster_cidr: Vec<ipnet::IpNet>,

    /// Also answer the names of the cluster here, over UDP and TCP [default: pods only]
    #[arg(long, value_name = "ADDRESS:PORT")]
    dns_listen: Option<SocketAddr>,

    /// Where the service proxy answers `/healthz` and `/livez` [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    proxy_healthz_bind_address: Option<SocketAddr>,

    /// Where the service proxy answers `/metrics` [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    proxy_metrics_bind_address: Option<SocketAddr>,
}

/// What ending the node means for its pods.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum AtStopArg {
    /// They wait for the node to come back, and are started again then
    Wait,
    /// They have ended, and their status says how
    End,
}

impl NodeArgs {
    fn service_settings(&self) -> ServiceSettings {
        ServiceSettings {
            plan: self.plan,
            node_ports: self.nodeport_addresses.clone(),
            cluster_cidrs: self.cluster_cidr.clone(),
            dns: self.dns_listen,
            healthz: self.proxy_healthz_bind_address,
            metrics: self.proxy_metrics_bind_address,
        }
    }
}

/// Works as a node until a signal comes.
///
/// # Errors
///
/// Whatever Coracle refuses: a kubeconfig that leads nowhere, a port that is taken, a node that the API
/// server does not take.
pub(crate) fn run(args: NodeArgs, data_dir: &Path) -> anyhow::Result<Exit> {
    let runtime = system::agent_threads()?;
    let outcome = runtime.block_on(serve(args, data_dir));
    // A blocking file operation of a guest that was ended may still be under way; it is abandoned.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

async fn serve(args: NodeArgs, data_dir: &Path) -> anyhow::Result<Exit> {
    let mut signals = Signals::install()?;
    let console = Console::new();
    let config = args.cluster.client_config().await?;
    let server = config.cluster_url.to_string();
    let client = kube::Client::try_from(config.clone())
        .with_context(|| format!("failed to set up a client of `{server}`"))?;
    let name = node_name(args.node_name.as_deref())?;
    // Before anything is claimed: most first tries end here.
    let known = tokio::time::timeout(CONNECT_TIMEOUT, known_node(&client, &name))
        .await
        .with_context(|| format!("the API server `{server}` does not answer"))?
        .with_context(|| format!("failed to ask the API server `{server}` for node `{name}`"))?;
    let agent_dir = data_dir.join("nodes").join(&name);
    std::fs::create_dir_all(&agent_dir)
        .with_context(|| format!("failed to create `{}`", agent_dir.display()))?;
    let claim = Claim::take(&agent_dir, "node")?;
    let (ips, pods) = addresses(&args, known.as_ref(), &config.cluster_url)?;
    let listener = listen(&args, &name, ips, &client).await?;
    let address = listener.address();
    let runtime = system::wasm_runtime(data_dir)?;
    let config = agent_config(
        &args,
        &name,
        address.port(),
        Place {
            data_dir,
            agent_dir,
            ips,
            pods,
            client: client.clone(),
            runtime: runtime.clone(),
            console: console.clone(),
        },
    )?;
    let settings = args.service_settings();
    let fabric = config.fabric.clone();
    let services = Services::join(client.clone(), &name, ips, fabric, &settings).await?;
    let agent = Agent::start(config)
        .await
        .context("failed to start the node agent")?;
    let kubelet = listener.serve(agent.kubelet(), client)?;
    let toolbox = agent.prepare_toolbox();
    tokio::spawn(async {
        toolbox.await;
        coracle_runtime::release_start_code();
    });
    let told =
        format!("node {name} has joined {server}\nthe kubelet API listens on https://{address}\n");
    console.output(told.as_bytes());
    signals.next().await;
    console.progress(match args.at_stop {
        AtStopArg::Wait => "leaving; the pods wait for this node to come back",
        AtStopArg::End => "ending the pods; a second signal ends at once",
    });
    signals.exit_on_next(Exit::Interrupted);
    stop(agent, services, kubelet, runtime, args.stop_timeout).await;
    drop(claim);
    Ok(console.outcome(Exit::Success))
}

/// Returns the node's addresses and the ranges of its pods, if they are known.
fn addresses(
    args: &NodeArgs,
    known: Option<&Node>,
    server: &http::Uri,
) -> anyhow::Result<(NodeIps, Option<Pair>)> {
    let pods = match args.pod_cidr {
        Some(named) => Some(named),
        None => given_cidrs(known)?,
    };
    let second_pods = pods.and_then(|pods| pods.v6);
    let ips = match args.node_ip.as_slice() {
        [] => node_ips(own_address(server)?, second_pods),
        [main] => node_ips(*main, second_pods),
        [main, second] if main.is_ipv4() != second.is_ipv4() => NodeIps {
            main: *main,
            second: Some(*second),
        },
        _ => bail!("`--node-ip` takes one address, or one of IPv4 and one of IPv6"),
    };
    Ok((ips, pods))
}

/// Opens the kubelet API.
async fn listen(
    args: &NodeArgs,
    name: &str,
    ips: NodeIps,
    client: &kube::Client,
) -> anyhow::Result<KubeletListener> {
    let names = [name.to_owned()].into_iter();
    let listen = args.listen;
    KubeletListener::bind(KubeletListenerConfig {
        listen: listen.unwrap_or_else(|| SocketAddr::new(ips.main, KUBELET_PORT)),
        names: names.chain(ips.iter().map(|ip| ip.to_string())).collect(),
        certificate: certificate(args)?,
        client_authorities: client_authorities(args, client).await?,
    })
    .await
    .context("failed to open the kubelet API; choose another address with `--listen`")
}

/// Ends the parts in the reverse order of their start; logs can be read until the pods are gone.
async fn stop(
    agent: Agent,
    services: Services,
    kubelet: KubeletServer,
    runtime: Runtime,
    deadline: Duration,
) {
    agent.stop(deadline).await;
    services.stop().await;
    kubelet.stop(KUBELET_DRAIN).await;
    system::end_wasm_runtime(runtime).await;
}

/// What the agent is made from, beside what was typed.
struct Place<'a> {
    data_dir: &'a Path,
    agent_dir: PathBuf,
    ips: NodeIps,
    pods: Option<Pair>,
    client: kube::Client,
    runtime: Runtime,
    console: Console,
}

fn agent_config(
    args: &NodeArgs,
    name: &str,
    port: u16,
    place: Place<'_>,
) -> anyhow::Result<AgentConfig> {
    let mut network = FabricConfig {
        egress: EgressRules {
            link_local: match args.allow_link_local {
                true => LinkLocal::Open,
                false => LinkLocal::Closed,
            },
        },
        ..FabricConfig::default()
    };
    if let Some(Pair { v4, v6 }) = place.pods {
        network.pod_cidr = v4;
        network.pod_cidr6 = v6;
    }
    Ok(AgentConfig {
        node_name: name.to_owned(),
        data_dir: place.agent_dir,
        client: place.client,
        images: system::open_images(place.data_dir)?,
        runtime: place.runtime,
        fabric: system::fabric(network)?,
        host_path: match args.allow_host_path {
            true => HostPathPolicy::Allow,
            false => HostPathPolicy::Refuse,
        },
        output: None,
        pull_progress: LayerBars::new(place.console, Doing::Pulling),
        toolbox: Some(toolbox()),
        node: NodeSettings {
            ips: place.ips,
            labels: args.node_labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            taints: args.register_with_taints.clone(),
            kubelet_port: Some(port),
            declared_ports: match args.publish_ports {
                true => DeclaredPorts::Loopback,
                false => DeclaredPorts::Unpublished,
            },
            at_stop: match args.at_stop {
                AtStopArg::Wait => AtStop::PodsWait,
                AtStopArg::End => AtStop::PodsEnd,
            },
            memory_bytes: Some(system::memory_budget()),
            disk_least: args.eviction_hard,
            unused_images: UnusedImages::GoWhenFull,
            pods: args.max_pods,
            ..NodeSettings::default()
        },
    })
}

/// Returns the Node of that name, if the cluster has one.
async fn known_node(client: &kube::Client, name: &str) -> kube::Result<Option<Node>> {
    Api::<Node>::all(client.clone()).get_opt(name).await
}

/// Returns the ranges of addresses that the cluster has given to the Node.
fn given_cidrs(known: Option<&Node>) -> anyhow::Result<Option<Pair>> {
    let spec = known.and_then(|node| node.spec.as_ref());
    let Some(first) = spec.and_then(|spec| spec.pod_cidr.as_deref()) else {
        return Ok(None);
    };
    let v4 = first.parse().with_context(|| {
        format!("the cluster has given this node the pod addresses `{first}`, which are not IPv4")
    })?;
    let mut others = spec
        .into_iter()
        .flat_map(|spec| spec.pod_cidrs.iter().flatten());
    let v6 = others.find_map(|range| range.parse().ok());
    Ok(Some(Pair { v4, v6 }))
}

/// Returns the name that was asked for, or this machine's; a node's name is a DNS subdomain.
fn node_name(asked: Option<&str>) -> anyhow::Result<String> {
    let name = match asked {
        Some(name) => name.to_owned(),
        None => sysinfo::System::host_name()
            .map(|name| name.to_lowercase())
            .context("this machine has no host name; name the node with `--node-name`")?,
    };
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let ends = [label.as_bytes().first(), label.as_bytes().last()];
        label.bytes().all(inner) && ends.iter().all(|end| end.is_some_and(|byte| *byte != b'-'))
    };
    ensure!(
        name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label),
        "`{name}` cannot be the name of a node: lower-case letters, digits, `-` and `.` make one; name it \
         with `--node-name`"
    );
    Ok(name)
}

/// Returns the address of this machine from which the API server is reached. Nothing is sent.
fn own_address(server: &http::Uri) -> anyhow::Result<IpAddr> {
    let host = server.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = server.port_u16().unwrap_or(443);
    let found = (host, port).to_socket_addrs().and_then(|mut addresses| {
        let to = addresses
            .next()
            .ok_or_else(|| std::io::Error::other("the name has no address"))?;
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    });
    found.with_context(|| {
        format!("failed to find this node's address towards `{host}`; name it with `--node-ip`")
    })
}

type CertifiedKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn certificate(args: &NodeArgs) -> anyhow::Result<Option<CertifiedKey>> {
    let (Some(chain), Some(key)) = (&args.tls_cert_file, &args.tls_private_key_file) else {
        return Ok(None);
    };
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("failed to read the key in `{}`", key.display()))?;
    Ok(Some((certificates(chain)?, key)))
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("failed to read the certificates in `{}`", file.display()))?;
    ensure!(
        !read.is_empty(),
        "there is no certificate in `{}`",
        file.display()
    );
    Ok(read)
}

/// Who vouches for those who ask the kubelet API: a file that was named, else what the cluster says.
async fn client_authorities(
    args: &NodeArgs,
    client: &kube::Client,
) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    if let Some(file) = &args.client_ca_file {
        return certificates(file);
    }
    let (namespace, name) = AUTHENTICATION;
    let published = Api::<ConfigMap>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await;
    let map = match published {
        Ok(map) => map,
        // Not everyone who may join may read it; tokens are reviewed all the same.
        Err(error) => {
            tracing::warn!(%error, "failed to read who vouches for clients; only tokens are taken");
            None
        }
    };
    let text = map.and_then(|map| map.data?.remove("client-ca-file"));
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| {
            format!("failed to read the certificates in ConfigMap `{namespace}/{name}`")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_like_a_host() {
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        let rows = [
            ("edge-1", true),
            ("edge-1.example", true),
            ("Edge", false),
            ("-edge", false),
            ("edge-", false),
            ("a..b", false),
            ("", false),
            (long.as_str(), false),
        ];
        for (name, expected) in rows {
            assert_eq!(node_name(Some(name)).is_ok(), expected, "for {name:?}");
        }
    }

    #[test]
    fn the_own_address_is_the_one_towards_the_server() {
        let server = "https://127.0.0.1:6443/".parse().expect("a URI");
        let own = own_address(&server).expect("loopback is there");
        assert_eq!(own, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
}
