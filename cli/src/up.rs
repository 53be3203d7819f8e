//! `coracle up`: the Kubernetes API on a socket and a node that runs what it is given.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_control_plane::Identity;

use crate::console::Console;
use crate::data_dir::Claim;
use crate::exit::Exit;
use crate::kubeconfig;
use crate::proxy::{NodePorts, parse_node_ports};
use crate::ranges::RangeArgs;
use crate::run::parse_duration;
use crate::services::{Plan, ServiceSettings};
use crate::signals::Signals;
use crate::system;

/// Serve the Kubernetes API and run what it is given, until Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Objects are kept in `state` below the data folder: what was acknowledged is there after a crash. The \
API has a certificate authority of its own, in `pki`. The kubeconfig that is written names its \
administrator; only its owner can read it. One process at a time can be up on a data folder.

Services are reached on loopback addresses of this machine; `kubectl describe service` says which. With \
`--plan host`, as root on Linux, they are reached at the addresses that `kubectl get services` shows, and \
pods at theirs.

Exit codes: 0 when it was ended by a signal; 125 when Coracle itself refuses, such as a port that is \
taken or a data folder in use; 130 after a second signal; 2 for wrong usage.")]
pub(crate) struct UpArgs {
    /// Where the API listens; port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6443")]
    listen: SocketAddr,

    /// Write how to reach the API to this file, for kubectl; other entries in it stay
    /// [default: `kubeconfig` in the data folder]
    #[arg(long, value_name = "FILE")]
    write_kubeconfig: Option<PathBuf>,

    /// How long pods may take to end, where their own grace period is longer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    stop_timeout: Duration,

    /// Let pods reach 169.254.0.0/16, where clouds serve credentials
    #[arg(long)]
    allow_link_local: bool,

    /// Where Services are reached on this machine
    #[arg(long, value_enum, default_value = "loopback")]
    plan: Plan,

    /// Serve node ports only on addresses of this machine within these ranges; `primary` stands for the
    /// node's own [default: 127.0.0.1, and ::1 where pods have addresses of IPv6; under `host` the node's own
    /// too]
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = parse_node_ports)]
    nodeport_addresses: Vec<NodePorts>,

    /// Addresses for Services of the type LoadBalancer [default: 10.97.0.0/24 and fd00:10:97::/120, or others
    /// where these overlap those of pods or Services]
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    load_balancer_pool: Vec<ipnet::IpNet>,

    #[command(flatten)]
    ranges: RangeArgs,

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

/// Serves until a signal comes.
///
/// # Errors
///
/// Whatever Coracle refuses: a data folder in use, a port that is taken, damaged keys.
pub(crate) fn run(args: UpArgs, data_dir: &Path) -> anyhow::Result<Exit> {
    let ranges = args.ranges.ranges(args.load_balancer_pool)?;
    let claim = Claim::take(data_dir, "up")?;
    let console = Console::new();
    let settings = system::Settings {
        data_dir: data_dir.to_owned(),
        agent_dir: data_dir.join("node"),
        state: system::State::Folder(data_dir.join("state")),
        identity: Arc::new(Identity::open(
            &data_dir.join("pki"),
            jiff::Timestamp::now(),
        )?),
        listen: Some(args.listen),
        ranges,
        services: ServiceSettings {
            plan: Some(args.plan),
            node_ports: args.nodeport_addresses,
            cluster_cidrs: Vec::new(),
            dns: args.dns_listen,
            healthz: args.proxy_healthz_bind_address,
            metrics: args.proxy_metrics_bind_address,
        },
        link_local: match args.allow_link_local {
            true => coracle_network::LinkLocal::Open,
            false => coracle_network::LinkLocal::Closed,
        },
        images: system::open_images(data_dir)?,
        output: None,
        console,
    };
    let file = args
        .write_kubeconfig
        .unwrap_or_else(|| data_dir.join("kubeconfig"));
    let runtime = system::agent_threads()?;
    let outcome = runtime.block_on(serve(settings, &file, args.stop_timeout));
    // A blocking file operation of a guest that was ended may still be under way; it is abandoned.
    runtime.shutdown_timeout(Duration::from_millis(200));
    drop(claim);
    outcome
}

/// Starts the parts, tells the user what to type next, and ends everything in order.
async fn serve(
    settings: system::Settings,
    kubeconfig: &Path,
    stop_timeout: Duration,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::install()?;
    let console = settings.console.clone();
    let system = system::System::build(settings).await?;
    let access = system.access()?.expect("an address to listen on is set");
    let running = system.start().await?;
    let toolbox = running.prepare_toolbox();
    tokio::spawn(async {
        toolbox.await;
        coracle_runtime::release_start_code();
    });
    // Whoever reads the file or these lines finds a node that takes pods.
    access.write(kubeconfig)?;
    let told = format!(
        "the API listens on {}\n{}",
        access.url(),
        kubeconfig::next_step(kubeconfig)
    );
    console.output(told.as_bytes());
    signals.next().await;
    console.progress("ending the pods; a second signal ends at once");
    signals.exit_on_next(Exit::Interrupted);
    running.stop(stop_timeout).await;
    Ok(console.outcome(Exit::Success))
}
