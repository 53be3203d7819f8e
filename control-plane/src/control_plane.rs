//! The parts of the control plane, wired together.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use coracle_store::{JournalLimits, Limits, OpenError, StoreConfig};
use ipnet::IpNet;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    authorize, certificates,
    controllers::{self, LocalVolumes},
    identity::Identity,
    kinds,
    kubelets::Kubelets,
    object::{self, ObjectStore},
    scheduler,
    service::ApiService,
    service_ranges::ServiceRanges,
    validate::small::SYSTEM_PRIORITIES,
    verbs::{self, Machine},
};

/// The namespaces that exist from the start.
const FIRST_NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// How long the state may take to be brought in order at the end. What is not done by then is done
/// at the next start; nothing is lost.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The runtime classes that exist from the start: all mean the one sandbox that the agent has.
const RUNTIME_CLASSES: &[&str] = &["coracle", "wasi", "wasm", "wasmtime"];

/// What controllers are called in the objects that they write.
const MANAGER: &str = "kube-controller-manager";

/// What a control plane needs to know.
#[derive(Clone, Debug)]
pub struct ControlPlaneConfig {
    /// The version of the program, as `/version` reports it behind the Kubernetes version.
    pub build: String,
    /// How much history is kept for watches.
    pub history: Limits,
    /// The cluster's keys.
    pub identity: Arc<Identity>,
    /// The addresses that Services of the type LoadBalancer are given of. Without any, nothing is
    /// given, and whoever else looks after such Services is not disturbed.
    pub load_balancer_pool: Vec<IpNet>,
    /// Where Services have their addresses.
    pub service_ranges: ServiceRanges,
    /// Where pods reach the API: what stands behind the Service `kubernetes`. Without it, that has no
    /// endpoints.
    pub api_endpoint: Option<SocketAddr>,
    /// Where pods reach the cluster's DNS, at most one in each family that Services have: what stands
    /// behind the Service `kube-dns` in `kube-system`. Without any, there is no such Service.
    pub dns_endpoints: Vec<SocketAddr>,
    /// Where claims of the class `local-path` get folders; without it there is no such class.
    pub local_volumes: Option<LocalVolumes>,
    /// Whether a node will join soon.
    pub first_node: FirstNode,
}

/// What pods are told that come before any node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstNode {
    /// That there is none, at once, as Kubernetes does.
    #[default]
    Unknown,
    /// Nothing for a while: an agent starts in the same process, after the objects of a manifest.
    Follows,
}

/// Why a manifest cannot be applied, as the API would say it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Refusal {
    /// The whole sentence.
    pub message: String,
}

/// Why a control plane cannot start on the state in a folder.
#[derive(Debug, Error)]
pub enum StartError {
    /// The folder cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The cluster began with its Services in another range: the address of its API is in every pod's
    /// environment, and cannot be changed.
    #[error(
        "the API of the cluster in `{folder}` is at `{api}` for pods, not in `{range}`; start it with the range of \
         Services that it began with"
    )]
    OtherRange {
        /// The folder.
        folder: PathBuf,
        /// Where the API is.
        api: String,
        /// Where it would be.
        range: IpNet,
    },
    /// Reading the state came upon something that the program does not expect.
    #[error(
        "reading the state in `{folder}` broke off; this is a bug: keep the folder for a report"
    )]
    Broken {
        /// The folder.
        folder: PathBuf,
        /// Where it broke off.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    machine: Arc<Machine>,
    stop: CancellationToken,
    roles: JoinHandle<()>,
    signer: JoinHandle<()>,
    scheduler: JoinHandle<()>,
    controllers: JoinHandle<()>,
    events: JoinHandle<()>,
}

impl Default for ControlPlaneConfig {
    fn default() -> Self {
        let build = env!("CARGO_PKG_VERSION").to_owned();
        let identity = Identity::in_memory(jiff::Timestamp::now())
            .expect("the system has random numbers, and the names are well-formed");
        ControlPlaneConfig {
            build,
            history: Limits::default(),
            identity: Arc::new(identity),
            load_balancer_pool: Vec::new(),
            service_ranges: ServiceRanges::default(),
            api_endpoint: None,
            dns_endpoints: Vec::new(),
            local_volumes: None,
            first_node: FirstNode::default(),
        }
    }
}

impl ControlPlane {
    /// Starts the API with its first namespaces, and its controllers; needs a tokio runtime. The
    /// state is in memory and ends with it.
    pub async fn start(config: ControlPlaneConfig) -> ControlPlane {
        let store = ObjectStore::in_memory(config.history);
        ControlPlane::over(store, config).await
    }

    /// Starts the API on the state in a folder, where everything acknowledged is kept.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be used: another process has it, or its files are damaged.
    pub async fn open(
        config: ControlPlaneConfig,
        folder: PathBuf,
    ) -> Result<ControlPlane, StartError> {
        let store = StoreConfig {
            folder,
            limits: config.history,
            journal: JournalLimits::default(),
            sealed: object::is_sealed,
        };
        let folder = store.folder.clone();
        let opened = tokio::task::spawn_blocking(|| ObjectStore::open(store, object::index));
        let broken = folder.clone();
        let store = opened.await.map_err(|source| StartError::Broken {
            folder: broken,
            source,
        })??;
        let ranges = config.service_ranges;
        match api_address(&store) {
            Some(api) if api != ranges.api().to_string() => {
                let range = IpNet::V4(ranges.v4());
                return Err(StartError::OtherRange { folder, api, range });
            }
            Some(_) | None => {}
        }
        Ok(ControlPlane::over(store, config).await)
    }

    async fn over(store: ObjectStore, config: ControlPlaneConfig) -> ControlPlane {
        let clock = jiff::Timestamp::now;
        let root_ca = config.identity.authority_pem().to_owned();
        let local_volumes = config.local_volumes.clone();
        let first_node = config.first_node;
        let books = controllers::Config {
            root_ca: root_ca.clone(),
            load_balancer_pool: config.load_balancer_pool.clone(),
            api_endpoint: config.api_endpoint,
            dns_endpoints: config.dns_endpoints.clone(),
            service_ranges: config.service_ranges,
            local_volumes: local_volumes.clone(),
        };
        let machine = Arc::new(Machine::new(store, config, clock));
        for name in FIRST_NAMESPACES {
            let namespace = json!({"metadata": {"name": name}});
            machine.seed("/api/v1/namespaces", &namespace).await;
            // A controller would do it too, but the first pods may come before it.
            let account = json!({"metadata": {"name": controllers::DEFAULT_ACCOUNT}});
            let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
            machine.seed(&path, &account).await;
        }
        let certificates = controllers::first_root_ca(root_ca.clone());
        let certificates = serde_json::to_value(certificates).expect("a ConfigMap is an object");
        let path = "/api/v1/namespaces/default/configmaps";
        machine.seed(path, &certificates).await;
        seed_client_authority(&machine, &root_ca).await;
        machine.seed_policy().await;
        seed_classes(&machine).await;
        seed_api_service(&machine).await;
        if local_volumes.is_some() {
            let path = "/apis/storage.k8s.io/v1/storageclasses";
            machine.seed(path, &controllers::seed_class()).await;
        }
        let stop = CancellationToken::new();
        let api = ApiService::new(Arc::clone(&machine));
        let client = |agent| kube::Client::new(api.clone().called(agent), "default");
        let (manager, scheduling) = (client(MANAGER), client("kube-scheduler"));
        let roles = tokio::spawn(authorize::gather_roles(manager.clone(), stop.clone()));
        let identity = Arc::clone(machine.identity());
        let signing = certificates::run(manager.clone(), identity, stop.clone());
        let signer = tokio::spawn(signing);
        let scheduler = tokio::spawn(scheduler::run(scheduling, first_node, stop.clone()));
        let controllers = tokio::spawn(controllers::run(manager, books, stop.clone()));
        let events = verbs::expire_events(Arc::clone(&machine), stop.clone());
        let events = tokio::spawn(events);
        ControlPlane {
            machine,
            stop,
            roles,
            signer,
            scheduler,
            controllers,
            events,
        }
    }

    /// Returns the API as a service, for clients in this process.
    pub fn service(&self) -> ApiService {
        ApiService::new(Arc::clone(&self.machine))
    }

    /// Returns a client whose requests never leave the process; needs a tokio runtime.
    pub fn client(&self, namespace: &str) -> kube::Client {
        kube::Client::new(self.service().called("coracle"), namespace)
    }

    /// Returns where the ways to the nodes' kubelets are named.
    pub fn kubelets(&self) -> Kubelets {
        self.machine.kubelets().clone()
    }

    /// Stops the controllers and ends all watches; clients still held are refused from then on.
    pub async fn stop(self) {
        self.stop.cancel();
        for (name, task) in [
            ("controllers", self.controllers),
            ("expiry of events", self.events),
            ("scheduler", self.scheduler),
            ("signer", self.signer),
            ("roles", self.roles),
        ] {
            if let Err(error) = task.await {
                tracing::error!(%error, name, "a controller did not end by itself");
            }
        }
        self.machine.stop();
        let closing = self.machine.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::debug!("the state is closed without a checkpoint");
        }
    }
}

/// Says who vouches for the clients of this cluster, to servers that are asked in its name: kubelets.
async fn seed_client_authority(machine: &Machine, authority: &str) {
    let map = json!({
        "metadata": {"name": "extension-apiserver-authentication"},
        "data": {"client-ca-file": authority},
    });
    let path = "/api/v1/namespaces/kube-system/configmaps";
    machine.seed(path, &map).await;
}

/// Creates the priority and runtime classes that pods can name without anybody's doing.
async fn seed_classes(machine: &Machine) {
    for (name, value, about) in SYSTEM_PRIORITIES {
        let class = json!({
            "metadata": {"name": name},
            "value": value,
            "description": about,
        });
        let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
        machine.seed(path, &class).await;
    }
    for name in RUNTIME_CLASSES {
        let class = json!({"metadata": {"name": name}, "handler": name});
        machine
            .seed("/apis/node.k8s.io/v1/runtimeclasses", &class)
            .await;
    }
}

/// Returns the address by which pods know the API, if the cluster has begun.
fn api_address(store: &ObjectStore) -> Option<String> {
    let info = kinds::served("v1", "Service")?;
    let record = store.get(&object::key(info, Some("default"), "kubernetes"))?;
    let service = object::parse(&record);
    Some(service["spec"]["clusterIP"].as_str()?.to_owned())
}

/// Creates the service by which pods know the API, at the first address there is.
async fn seed_api_service(machine: &Machine) {
    let service = json!({
        "metadata": {
            "name": "kubernetes",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": machine.service_ranges().api().to_string(),
            "ports": [{"name": "https", "port": 443, "targetPort": 6443}],
        },
    });
    machine
        .seed("/api/v1/namespaces/default/services", &service)
        .await;
}

/// Checks one object as strictly as a create with `fieldValidation=Strict`, without a server.
///
/// Images that are paths are refused here too, so pack them first.
pub fn check_manifest(manifest: &Value) -> Result<(), Refusal> {
    let word = |name: &str| {
        manifest
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (version, kind) = (word("apiVersion"), word("kind"));
    let Some(info) = kinds::served(version, kind) else {
        let message = format!("no matches for kind \"{kind}\" in version \"{version}\"");
        return Err(Refusal { message });
    };
    verbs::check(info, manifest).map_err(|error| Refusal {
        message: error.message,
    })
}
