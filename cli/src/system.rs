//! The composition root of `run` and `up`: every part is built here, in the order of their start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_control_plane::{
    ApiServer, ControlPlane, ControlPlaneConfig, FirstNode, Identity, KindInfo, LocalVolumes,
    Purpose, Scope, ServerConfig, Subject,
};
use coracle_kubelet_shim::{Agent, AgentConfig, AtStop, HostPathPolicy, NodeSettings, OutputLine};
use coracle_network::{EgressRules, Fabric, FabricConfig, LinkLocal};
use coracle_registry::ImageStore;
use coracle_runtime::{CompilerCommand, Runtime, RuntimeConfig};
use coracle_service_proxy::ServicePlace;
use tokio::sync::{mpsc, watch};

use crate::console::{Console, Doing, LayerBars};
use crate::kubeconfig::Access;
use crate::kubelet::{InMemoryKubelet, PodsOfFabric};
use crate::manifest::Object;
use crate::ranges::Ranges;
use crate::services::{self, OwnCluster, ServiceSettings, Services};
use crate::toolbox::toolbox;

/// The name of the one node.
pub(crate) const NODE_NAME: &str = "coracle";
/// What the process itself needs beside its guests, in bytes.
const OWN_MEMORY: u64 = 256 * 1024 * 1024;
/// The agent, API and proxy need little of the machine; guests have threads of their own.
const AGENT_THREADS_MAX: usize = 4;
/// How long requests may go on once the API takes no more.
const API_DRAIN: Duration = Duration::from_secs(2);
/// The folder of the agent's in which claims get one each.
const CLAIMS: &str = "claims";
/// The user that a kubeconfig names, in the group that may do everything.
const ADMIN: &str = "kubernetes-admin";
const ADMIN_GROUP: &str = "system:masters";

/// What was asked for, and where files go.
pub(crate) struct Settings {
    /// Shared by all processes: images and compiled code.
    pub(crate) data_dir: PathBuf,
    /// The agent's own: volumes and logs.
    pub(crate) agent_dir: PathBuf,
    /// Where objects are kept.
    pub(crate) state: State,
    /// The keys of the cluster.
    pub(crate) identity: Arc<Identity>,
    /// Where the API listens, if it is for others than this process.
    pub(crate) listen: Option<SocketAddr>,
    /// Where it has its addresses.
    pub(crate) ranges: Ranges,
    /// How Services are served.
    pub(crate) services: ServiceSettings,
    /// Whether pods may reach 169.254.0.0/16.
    pub(crate) link_local: LinkLocal,
    /// The image store in `data_dir`.
    pub(crate) images: ImageStore,
    /// Takes every line that containers write.
    pub(crate) output: Option<mpsc::Sender<OutputLine>>,
    /// Where lines go.
    pub(crate) console: Console,
}

/// Where objects are kept.
pub(crate) enum State {
    /// Until the process ends.
    Memory,
    /// In this folder, over restarts.
    Folder(PathBuf),
}

/// The parts, with an API that accepts objects and nothing that acts on them yet.
pub(crate) struct System {
    control_plane: ControlPlane,
    identity: Arc<Identity>,
    api: ApiServer,
    ranges: Ranges,
    services: ServiceSettings,
    agent: AgentConfig,
}

/// The parts at work.
pub(crate) struct Running {
    control_plane: ControlPlane,
    api: ApiServer,
    agent: Agent,
    services: Services,
    kubelet: Arc<InMemoryKubelet>,
    runtime: Runtime,
}

/// Opens the image store of a data folder.
///
/// # Errors
///
/// Fails when its folders cannot be created.
pub(crate) fn open_images(data_dir: &Path) -> anyhow::Result<ImageStore> {
    let dir = data_dir.join("images");
    ImageStore::open(&dir)
        .with_context(|| format!("failed to open the images in `{}`", dir.display()))
}

/// Starts the threads of the agent, the API and the proxy; guests have threads of their own.
///
/// # Errors
///
/// Fails when the system gives no thread.
pub(crate) fn agent_threads() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores().clamp(1, AGENT_THREADS_MAX))
        .thread_name("agent")
        .enable_all()
        .build()
        .context("failed to start the agent's threads")
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Lays out the pods' network.
///
/// # Errors
///
/// Fails when the range of addresses cannot be used.
pub(crate) fn fabric(config: FabricConfig) -> anyhow::Result<Fabric> {
    Fabric::new(config).context("failed to set up the pods' network")
}

/// Starts what runs guests; compiled code is kept below `data_dir`.
///
/// # Errors
///
/// Fails when the engine refuses this machine or the program's own path is not to be had.
pub(crate) fn wasm_runtime(data_dir: &Path) -> anyhow::Result<Runtime> {
    let program = std::env::current_exe().context("failed to find the program's own file")?;
    Runtime::new(RuntimeConfig {
        cache_dir: data_dir.join("code"),
        compiler: CompilerCommand {
            program,
            args: vec!["compile-child".to_owned()],
        },
        interactive_threads: cores(),
        batch_threads: cores(),
        memory_budget: memory_budget(),
        mappings_max: None,
    })
    .context("failed to start the Wasm runtime")
}

/// Ends what runs guests, and says what it had to leave behind.
pub(crate) async fn end_wasm_runtime(runtime: Runtime) {
    let abandoned = runtime.capacity().abandoned_operations;
    if abandoned > 0 {
        tracing::warn!(abandoned, "file operations of ended guests were abandoned");
    }
    runtime.shutdown().await;
    tracing::debug!("the Wasm runtime has ended");
}

/// Returns the memory that guests may use together: the machine's or the cgroup's less our own.
pub(crate) fn memory_budget() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let total = system
        .cgroup_limits()
        .map_or(system.total_memory(), |limits| {
            limits.total_memory.min(system.total_memory())
        });
    total.saturating_sub(OWN_MEMORY.max(total / 20))
}

impl System {
    /// Builds the parts.
    ///
    /// # Errors
    ///
    /// Fails when the API's address, the engine, the network or the program's own path is not to be had.
    pub(crate) async fn build(settings: Settings) -> anyhow::Result<Self> {
        let fabric = fabric(FabricConfig {
            pod_cidr: settings.ranges.pods.v4,
            pod_cidr6: settings.ranges.pods.v6,
            egress: EgressRules {
                link_local: settings.link_local,
            },
            ..FabricConfig::default()
        })?;
        let config = ControlPlaneConfig {
            identity: Arc::clone(&settings.identity),
            load_balancer_pool: settings.ranges.balancers.clone(),
            service_ranges: settings.ranges.services,
            api_endpoint: Some(services::api_endpoint(&fabric)),
            dns_endpoints: services::dns_endpoints(&fabric),
            local_volumes: Some(LocalVolumes {
                folder: settings.agent_dir.join(CLAIMS),
                node: NODE_NAME.to_owned(),
            }),
            first_node: FirstNode::Follows,
            ..ControlPlaneConfig::default()
        };
        // What is kept runs again at the next start.
        let at_stop = match &settings.state {
            State::Memory => AtStop::PodsEnd,
            State::Folder(_) => AtStop::PodsWait,
        };
        let control_plane = match settings.state {
            State::Memory => ControlPlane::start(config).await,
            State::Folder(folder) => ControlPlane::open(config, folder)
                .await
                .context("failed to open the cluster's state")?,
        };
        let api = serve(&control_plane, settings.listen, &fabric).await?;
        let runtime = wasm_runtime(&settings.data_dir)?;
        let ips = services::node_ips(NodeSettings::default().ips.main, fabric.pod_cidr6());
        let agent = AgentConfig {
            node_name: NODE_NAME.to_owned(),
            data_dir: settings.agent_dir,
            client: control_plane.client("default"),
            images: settings.images,
            runtime,
            fabric,
            host_path: HostPathPolicy::Allow,
            output: settings.output,
            pull_progress: LayerBars::new(settings.console, Doing::Pulling),
            toolbox: Some(toolbox()),
            node: NodeSettings {
                ips,
                memory_bytes: Some(memory_budget()),
                at_stop,
                ..NodeSettings::default()
            },
        };
        Ok(Self {
            control_plane,
            identity: settings.identity,
            api,
            ranges: settings.ranges,
            services: settings.services,
            agent,
        })
    }

    /// Returns what a client needs to reach the API as its administrator, if it listens.
    ///
    /// # Errors
    ///
    /// Fails when no certificate can be made.
    pub(crate) fn access(&self) -> anyhow::Result<Option<Access>> {
        let Some(server) = self.api.address() else {
            return Ok(None);
        };
        let admin = Subject {
            name: ADMIN.to_owned(),
            group: Some(ADMIN_GROUP.to_owned()),
            purpose: Purpose::Client,
        };
        Ok(Some(Access {
            server,
            authority: self.identity.authority_pem().to_owned(),
            admin: self.identity.issue(&admin, jiff::Timestamp::now())?,
        }))
    }

    /// Creates the objects through the API, with the namespaces that they name.
    ///
    /// # Errors
    ///
    /// Fails with the API's own words for the first object that it refuses.
    pub(crate) async fn apply(&self, objects: &[Object]) -> anyhow::Result<()> {
        let client = self.control_plane.client("default");
        for namespace in missing_namespaces(objects) {
            let body = serde_json::json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
            });
            create(&client, "/api/v1/namespaces", &body)
                .await
                .with_context(|| format!("failed to create the namespace `{namespace}`"))?;
        }
        for object in objects {
            let Some(info) = coracle_control_plane::served(&object.api_version, &object.kind)
            else {
                bail!("{object} is of a kind that is not served");
            };
            let path = collection_path(info, &object.namespace);
            let made = match is_default_account(object) {
                true => put(&client, &path, object).await,
                false => create(&client, &path, &object.value).await,
            };
            made.with_context(|| format!("{object} was refused"))?;
        }
        Ok(())
    }

    /// Starts the agent, and with it the pods.
    ///
    /// # Errors
    ///
    /// Fails when the node cannot be registered.
    pub(crate) async fn start(self) -> anyhow::Result<Running> {
        let runtime = self.agent.runtime.clone();
        let fabric = self.agent.fabric.clone();
        let services = Services::start(
            self.control_plane.client("default"),
            NODE_NAME,
            fabric.clone(),
            OwnCluster {
                api: self.api.entrance(),
                ranges: &self.ranges,
            },
            &self.services,
        )
        .await?;
        let agent = Agent::start(self.agent)
            .await
            .context("failed to start the node agent")?;
        let kubelet = Arc::new(InMemoryKubelet::new(agent.kubelet()));
        let kubelets = self.control_plane.kubelets();
        kubelets.register(NODE_NAME, kubelet.clone());
        kubelets.reach_pods(Arc::new(PodsOfFabric(fabric)));
        Ok(Running {
            control_plane: self.control_plane,
            api: self.api,
            agent,
            services,
            kubelet,
            runtime,
        })
    }
}

impl Running {
    /// Returns a client of the embedded API.
    pub(crate) fn client(&self) -> kube::Client {
        self.control_plane.client("default")
    }

    /// Follows where Services are reached on this machine.
    pub(crate) fn places(&self) -> watch::Receiver<Arc<[ServicePlace]>> {
        self.services.places()
    }

    /// Compiles what `exec` finds in every container; for a cluster that stays.
    pub(crate) fn prepare_toolbox(&self) -> impl Future<Output = ()> + Send + 'static {
        self.agent.prepare_toolbox()
    }

    /// Ends the pods in order, then the parts in the reverse order of their start.
    pub(crate) async fn stop(self, deadline: Duration) {
        self.agent.stop(deadline).await;
        tracing::debug!("the pods have ended");
        self.services.stop().await;
        // Until here, clients could see how they ended.
        self.api.stop(API_DRAIN).await;
        tracing::debug!("the API is closed");
        end_wasm_runtime(self.runtime).await;
        let kubelets = self.control_plane.kubelets();
        self.control_plane.stop().await;
        kubelets.remove(NODE_NAME);
        self.kubelet.stop().await;
        tracing::debug!("the control plane has ended");
    }
}

/// Opens the API to other processes and to pods, and tells its certificate what this machine is called
/// by both.
async fn serve(
    control_plane: &ControlPlane,
    listen: Option<SocketAddr>,
    fabric: &Fabric,
) -> anyhow::Result<ApiServer> {
    let host = sysinfo::System::host_name();
    let config = ServerConfig {
        listen,
        names: host
            .into_iter()
            .chain([fabric.node_ip().to_string()])
            .collect(),
    };
    ApiServer::bind(config, control_plane.service())
        .await
        .context("failed to open the API")
}

/// Returns the namespaces that objects name and no manifest creates. kubectl would refuse them; a run
/// starts from an empty cluster, so it makes them.
fn missing_namespaces(objects: &[Object]) -> Vec<String> {
    let mut wanted: Vec<String> = objects
        .iter()
        .filter(|object| object.kind != "Namespace" && object.namespace != "default")
        .map(|object| object.namespace.clone())
        .collect();
    wanted.sort();
    wanted.dedup();
    wanted.retain(|namespace| {
        !objects
            .iter()
            .any(|object| object.kind == "Namespace" && object.name == *namespace)
            && !["kube-system", "kube-node-lease", "kube-public"].contains(&namespace.as_str())
    });
    wanted
}

/// Returns the path that objects of a kind are created under.
fn collection_path(info: &KindInfo, namespace: &str) -> String {
    let root = match info.group {
        "" => format!("/api/{}", info.version),
        group => format!("/apis/{group}/{}", info.version),
    };
    match info.scope {
        Scope::Cluster => format!("{root}/{}", info.plural),
        Scope::Namespaced => format!("{root}/namespaces/{namespace}/{}", info.plural),
    }
}

/// Says whether an object is the account that every namespace is given; a manifest may say more about it.
fn is_default_account(object: &Object) -> bool {
    object.kind == "ServiceAccount" && object.name == "default"
}

/// Creates one object, or adds what it says to the one that is there already.
async fn put(client: &kube::Client, path: &str, object: &Object) -> anyhow::Result<()> {
    let query = "fieldManager=coracle-run&force=true&fieldValidation=Strict";
    let request = http::Request::patch(format!("{path}/{}?{query}", object.name))
        .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(serde_json::to_vec(&object.value)?)?;
    ask(client, request).await
}

/// Posts one object; unknown fields are refused, as kubectl asks for by default.
async fn create(client: &kube::Client, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
    let request = http::Request::post(format!("{path}?fieldValidation=Strict"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(body)?)?;
    ask(client, request).await
}

async fn ask(client: &kube::Client, request: http::Request<Vec<u8>>) -> anyhow::Result<()> {
    match client.request::<serde_json::Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => bail!("{}", status.message),
        Err(error) => Err(error).context("failed to ask the embedded API"),
    }
}
