//! Wires the agent's parts and ends them again.

mod labels;
mod pods;
mod rejection;
mod sweep;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_network::Fabric;
use coracle_registry::{ImageStore, Progress};
use coracle_runtime::Runtime;
use k8s_openapi::api::core::v1::Taint;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use crate::allocation::Ledger;
use crate::events;
use crate::eviction::Evictor;
use crate::exec::{ExecBook, Toolbox, Tools};
use crate::folders::FolderBook;
use crate::ground::Site;
use crate::identity_files::MachineResolver;
use crate::images::Images;
use crate::logs::{LogBook, OutputLine};
use crate::metrics::Metrics;
use crate::node::pressure::{self, DiskLeast, Least};
use crate::node::room::UnusedImages;
use crate::node::{Amounts, Registration, Watched};
use crate::objects::{self, ObjectSource};
use crate::probes::Prober;
use crate::server::{KubeletService, Whereabouts};
use crate::spec::HostPathPolicy;
use crate::status::STATUS_WRITES_MAX;
use crate::storage::{self, StorageMonitor};
use crate::time::Clock;
use crate::worker::Node;

use labels::NodeLabels;
use pods::{Pods, Shutdown};

/// Zone of names inside the cluster.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// What a stopping agent allows beyond its pods' grace: last status writes, and guests that are being
/// ended by force.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// A person's own machine is often fuller than a server may be, and still has room for volumes and logs.
const DISK_LEAST: DiskLeast = DiskLeast::Bytes(256 << 20);

/// What an agent is made from.
pub struct AgentConfig {
    /// Name of the Node object; pods with this `spec.nodeName` run here.
    pub node_name: String,
    /// Folder of volumes, writable layers and logs; this agent's own.
    pub data_dir: PathBuf,
    /// The API server, whichever it is.
    pub client: kube::Client,
    /// Where images come from.
    pub images: ImageStore,
    /// What runs them.
    pub runtime: Runtime,
    /// What connects them.
    pub fabric: Fabric,
    /// Whether pods may mount folders of the machine.
    pub host_path: HostPathPolicy,
    /// Takes every line that containers write. When it is full, they wait.
    pub output: Option<mpsc::Sender<OutputLine>>,
    /// Watches pulls.
    pub pull_progress: Arc<dyn Progress>,
    /// What every container can run beside the programs of its image.
    pub toolbox: Option<Toolbox>,
    /// What the node says about itself.
    pub node: NodeSettings,
}

/// What a node says about itself, and how it behaves.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The node's addresses, `status.hostIPs` of its pods.
    pub ips: NodeIps,
    /// Labels beside the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints a new Node begins with; those of a Node that is there already stay as they are.
    pub taints: Vec<Taint>,
    /// The port of the kubelet API, as the Node tells API servers; none when it is reached otherwise.
    pub kubelet_port: Option<u16>,
    /// Whether declared ports without a `hostPort` are published.
    pub declared_ports: DeclaredPorts,
    /// What the agent's end means for its pods.
    pub at_stop: AtStop,
    /// Allocatable CPU in thousandths; all of the machine's when unset.
    pub cpu_milli: Option<u64>,
    /// Allocatable memory in bytes; all of the machine's when unset.
    pub memory_bytes: Option<u64>,
    /// When the node is short of disk, so that no more pods come to it.
    pub disk_least: DiskLeast,
    /// What becomes of images that no pod uses.
    pub unused_images: UnusedImages,
    /// Most pods; what the runtime's capacity allows when unset.
    pub pods: Option<u64>,
    /// The clock.
    pub clock: Clock,
}

/// The addresses of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIps {
    /// The one of its main family, `status.hostIP` of its pods.
    pub main: IpAddr,
    /// The one of the other family, if it has one.
    pub second: Option<IpAddr>,
}

/// What the end of an agent means for the pods it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtStop {
    /// They have ended, and their status says how.
    PodsEnd,
    /// They wait for the next agent, which starts their containers again.
    PodsWait,
}

/// What happens to a declared port without a `hostPort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclaredPorts {
    /// It is published on loopback, for a person at this machine.
    Loopback,
    /// It is reachable inside the pod network only.
    Unpublished,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The data folder cannot be made.
    #[error("failed to make the data folder `{path}`")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The API server did not take the Node.
    #[error("failed to register node `{name}`")]
    Register {
        /// The node's name.
        name: String,
        /// What the server said.
        #[source]
        source: kube::Error,
    },
}

/// A node agent at work. Dropping it ends everything at once, as [`Agent::kill`] does.
pub struct Agent {
    kubelet: KubeletService,
    tools: Arc<Tools>,
    runtime: Runtime,
    shutdown: watch::Sender<Shutdown>,
    pods: JoinHandle<()>,
    heartbeat: JoinHandle<()>,
    prober: JoinHandle<()>,
    storage: JoinHandle<()>,
    evictor: JoinHandle<()>,
    events: JoinHandle<()>,
    objects: JoinHandle<()>,
}

impl NodeIps {
    /// Returns the addresses, the main one first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        [self.main].into_iter().chain(self.second)
    }
}

impl Default for NodeSettings {
    /// A node for one person at one machine: loopback address, declared ports published, all resources.
    fn default() -> NodeSettings {
        NodeSettings {
            ips: NodeIps {
                main: IpAddr::V4(Ipv4Addr::LOCALHOST),
                second: None,
            },
            labels: BTreeMap::new(),
            taints: Vec::new(),
            kubelet_port: None,
            declared_ports: DeclaredPorts::Loopback,
            at_stop: AtStop::PodsEnd,
            cpu_milli: None,
            memory_bytes: None,
            disk_least: DISK_LEAST,
            unused_images: UnusedImages::Stay,
            pods: None,
            clock: Clock::system(),
        }
    }
}

impl Agent {
    /// Registers the node and begins to run its pods.
    ///
    /// # Errors
    ///
    /// Fails when the data folder cannot be made or the API server does not take the Node within a
    /// minute. Nothing runs then.
    pub async fn start(config: AgentConfig) -> Result<Agent, AgentError> {
        make_data_dir(&config.data_dir).await?;
        let settings = &config.node;
        let amounts = Amounts::find(settings, &config.runtime, &config.data_dir);
        let execs = Arc::<ExecBook>::default();
        let evictor = Evictor::new(config.runtime.clone(), Arc::clone(&execs));
        let least = amounts.least(settings.disk_least);
        let registration = register(&config, amounts, evictor.clone(), least).await?;
        let (client, clock) = (config.client.clone(), settings.clock.clone());
        let (sink, write_events) = events::channel(client, config.node_name.as_str().into(), clock);
        let logs = Arc::<LogBook>::default();
        let tools = Arc::new(Tools::new(config.toolbox.clone()));
        let folders = Arc::<FolderBook>::default();
        let metrics = Metrics::new(&config.node_name, Arc::clone(&execs));
        let (prober, probe) = Prober::new(config.fabric.clone());
        let objects = ObjectSource::new(config.client.clone(), settings.clock.clone());
        let whereabouts = Whereabouts {
            logs: Arc::clone(&logs),
            execs: Arc::clone(&execs),
            fabric: config.fabric.clone(),
            folders: Arc::clone(&folders),
            metrics: metrics.clone(),
            least,
            probes: prober.metrics().clone(),
        };
        let kubelet = KubeletService::new(
            config.node_name.clone(),
            config.data_dir.clone(),
            config.client.clone(),
            settings.clock.clone(),
            whereabouts,
        );
        let storage = StorageMonitor::default();
        let node = Node {
            clock: settings.clock.clone(),
            site: site(&config, &objects, amounts),
            images: Images::new(config.images, config.pull_progress),
            runtime: config.runtime.clone(),
            output: config.output,
            events: sink,
            logs: Arc::clone(&logs),
            execs: Arc::clone(&execs),
            tools: Arc::clone(&tools),
            writes: Arc::new(Semaphore::new(STATUS_WRITES_MAX)),
            host_ips: settings.ips,
            at_stop: settings.at_stop,
            prober,
            ledger: Ledger::new(amounts),
            storage: storage.clone(),
            evictor: evictor.clone(),
            folders,
            metrics,
        };
        let (shutdown, stopping) = watch::channel(Shutdown::No);
        let labels = NodeLabels::new(config.client, &config.node_name, registration.labels());
        let pods = Pods::new(Arc::new(node), labels, config.host_path);
        Ok(Agent {
            kubelet,
            tools,
            runtime: config.runtime,
            shutdown,
            pods: tokio::spawn(pods.run(config.node_name, stopping)),
            heartbeat: tokio::spawn(registration.keep_alive()),
            prober: tokio::spawn(probe),
            storage: tokio::spawn(storage::run(storage)),
            evictor: tokio::spawn(evictor.run(pressure::memory_available)),
            events: tokio::spawn(write_events),
            objects: tokio::spawn(objects::run(objects)),
        })
    }

    /// Returns the kubelet API: logs of this node's pods, and whether it is well.
    pub fn kubelet(&self) -> KubeletService {
        self.kubelet.clone()
    }

    /// Compiles the toolbox, unless an earlier agent on these folders did, so that the first exec does not
    /// wait for it. Nothing depends on its end, and a failure is told again by the exec that meets it.
    pub fn prepare_toolbox(&self) -> impl Future<Output = ()> + Send + 'static {
        let (tools, runtime) = (Arc::clone(&self.tools), self.runtime.clone());
        async move { tools.prepare(&runtime).await }
    }

    /// Ends every pod, each within the smaller of its grace and `deadline`, reports how they ended, and
    /// returns when all is gone. What has not ended by then, or a little later, is ended by force.
    pub async fn stop(mut self, deadline: Duration) {
        self.shutdown.send_replace(Shutdown::Within(deadline));
        let limit = deadline.saturating_add(STOP_SLACK);
        if tokio::time::timeout(limit, &mut self.pods).await.is_err() {
            tracing::warn!("pods did not end in time and are ended by force");
            self.pods.abort();
        }
        self.heartbeat.abort();
        self.prober.abort();
        self.storage.abort();
        self.evictor.abort();
        self.objects.abort();
        // The sinks are gone with the pods, so the writer ends when it has written what is queued.
        if tokio::time::timeout(STOP_SLACK, &mut self.events)
            .await
            .is_err()
        {
            self.events.abort();
        }
    }

    /// Ends everything at once; nothing is reported.
    pub fn kill(self) {
        drop(self);
    }
}

/// What laying a pod's ground needs.
fn site(config: &AgentConfig, objects: &ObjectSource, amounts: Amounts) -> Site {
    Site {
        client: config.client.clone(),
        fabric: config.fabric.clone(),
        data_dir: config.data_dir.as_path().into(),
        declared_ports: config.node.declared_ports,
        cluster_domain: CLUSTER_DOMAIN.into(),
        objects: objects.clone(),
        clock: config.node.clock.clone(),
        amounts,
        resolver: MachineResolver::new(),
    }
}

async fn make_data_dir(path: &Path) -> Result<(), AgentError> {
    let made = tokio::fs::create_dir_all(path).await;
    made.map_err(|source| AgentError::DataDir {
        path: path.to_owned(),
        source,
    })
}

/// Makes the Node known to the API server.
async fn register(
    config: &AgentConfig,
    amounts: Amounts,
    evictor: Evictor,
    least: Least,
) -> Result<Registration, AgentError> {
    let (client, name) = (config.client.clone(), &config.node_name);
    let mut registration = Registration::new(
        client,
        name,
        &config.node,
        amounts,
        Watched {
            data_dir: config.data_dir.as_path().into(),
            images: config.images.clone(),
            evictor,
            least,
        },
    );
    match registration.register().await {
        Ok(()) => Ok(registration),
        Err(source) => Err(AgentError::Register {
            name: name.clone(),
            source,
        }),
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.pods.abort();
        self.heartbeat.abort();
        self.prober.abort();
        self.storage.abort();
        self.evictor.abort();
        self.events.abort();
        self.objects.abort();
    }
}
