//! Keeps the cluster's books: collects garbage, empties namespaces, furnishes new ones, ends pods on
//! tainted nodes, tells which pods stand behind which Services.
//!
//! Every controller is an ordinary client of the API: it would run unchanged beside a real API
//! server. A wake-up carries no information; it puts a key in line, and who works on the key looks
//! at what is there by then.

mod catalogue;
mod events;
mod furnish;
mod garbage;
mod listed;
mod namespaces;
mod pods;
mod queue;
mod quotas;
mod requests;
mod services;
mod taints;
mod thin;
mod volumes;

use std::{future::Future, net::SocketAddr, time::Duration};

use crate::service_ranges::ServiceRanges;
use futures::future::BoxFuture;
use ipnet::IpNet;
use kube::Client;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

pub use volumes::LocalVolumes;

use services::{
    balancers,
    fixed::{self, Places},
};

pub(crate) use volumes::seed_class;

pub(crate) use furnish::{DEFAULT_ACCOUNT, ROOT_CA, ROOT_CA_FILE, first_root_ca};

/// The pause before a controller that broke down is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// What controllers need to know.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The certificates in PEM by which pods know the API.
    pub(crate) root_ca: String,
    /// The addresses that load balancers are given of; without any, none is given.
    pub(crate) load_balancer_pool: Vec<IpNet>,
    /// Where pods reach the API, if they do.
    pub(crate) api_endpoint: Option<SocketAddr>,
    /// Where pods reach the cluster's DNS, if they do.
    pub(crate) dns_endpoints: Vec<SocketAddr>,
    /// Where Services have their addresses.
    pub(crate) service_ranges: ServiceRanges,
    /// Where claims get folders, if they get any.
    pub(crate) local_volumes: Option<LocalVolumes>,
}

/// One controller: its name, and what makes it run.
struct Controller {
    name: &'static str,
    start: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

/// Runs all controllers until `stop`, each in a task of its own; one that breaks down is a bug,
/// is logged, and starts again.
pub(crate) async fn run(client: Client, config: Config, stop: CancellationToken) {
    let controllers = controllers(client, config);
    let mut tasks = JoinSet::new();
    let mut running: Vec<(Id, usize)> = Vec::new();
    for (index, controller) in controllers.iter().enumerate() {
        running.push((tasks.spawn((controller.start)()).id(), index));
    }
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => break,
            ended = tasks.join_next_with_id() => ended,
        };
        let (id, error) = match ended {
            None => break,
            Some(Ok((id, ()))) => (id, None),
            Some(Err(error)) => (error.id(), Some(error)),
        };
        let Some(position) = running.iter().position(|(known, _)| *known == id) else {
            continue;
        };
        let (_, index) = running.swap_remove(position);
        let Some(controller) = controllers.get(index) else {
            continue;
        };
        tracing::error!(
            controller = controller.name,
            ?error,
            "broke down, starts again"
        );
        let again = (controller.start)();
        let task = tasks.spawn(async move {
            tokio::time::sleep(RESTART_DELAY).await;
            again.await;
        });
        running.push((task.id(), index));
    }
    // Nothing they do needs an end: each step is one request, and a restart looks at everything.
    tasks.shutdown().await;
}

fn controllers(client: Client, config: Config) -> Vec<Controller> {
    let (root_ca, local) = (config.root_ca, config.local_volumes);
    let pool = config.load_balancer_pool;
    let places = Places {
        api: config.api_endpoint,
        dns: config.dns_endpoints,
        ranges: config.service_ranges,
    };
    let mut controllers = vec![
        controller("services", &client, services::run),
        controller("namespaces", &client, namespaces::run),
        controller("garbage", &client, garbage::run),
        controller("pods", &client, pods::run),
        controller("quotas", &client, quotas::run),
        controller("taints", &client, taints::run),
        controller("volumes", &client, move |client| {
            volumes::run(client, local.clone())
        }),
        controller("furnish", &client, move |client| {
            furnish::run(client, root_ca.clone())
        }),
    ];
    if places.are_known() {
        let run = move |client| fixed::run(client, places.clone());
        controllers.push(controller("fixed services", &client, run));
    }
    if !pool.is_empty() {
        let run = move |client| balancers::run(client, pool.clone());
        controllers.push(controller("load balancers", &client, run));
    }
    controllers
}

fn controller<F>(
    name: &'static str,
    client: &Client,
    run: impl Fn(Client) -> F + Send + Sync + 'static,
) -> Controller
where
    F: Future<Output = ()> + Send + 'static,
{
    let client = client.clone();
    let start = Box::new(move || -> BoxFuture<'static, ()> { Box::pin(run(client.clone())) });
    Controller { name, start }
}
