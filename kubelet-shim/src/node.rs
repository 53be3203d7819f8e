//! The agent's own Node object and its heartbeat (contract A.1–A.4).

mod images;
pub(crate) mod pressure;
pub(crate) mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_registry::ImageStore;
use coracle_runtime::Runtime;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeFeatures, NodeRuntimeHandler, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::time::Instant;

use crate::agent::NodeSettings;
use crate::eviction::{Evictor, memory_least};
use crate::ground::RUNTIME_HANDLERS;
use crate::status::whole_seconds;
use crate::time::Clock;

use crate::images::blocking;
use pressure::{DiskLeast, Least, Signals, Watchman};
use room::UnusedImages;

/// How often the lease is renewed, and the machine looked at.
const LEASE_EVERY: Duration = Duration::from_secs(10);

/// How long a lease holds.
const LEASE_SECONDS: i32 = 40;

/// How often an unchanged status is written all the same.
const STATUS_EVERY: Duration = Duration::from_secs(300);

/// How often the images in the store are listed: each is a file.
const IMAGES_EVERY: Duration = Duration::from_secs(60);

/// First delay after a failed registration; doubles to the last.
const REGISTER_RETRY_FIRST: Duration = Duration::from_millis(100);

/// Longest delay between tries to register.
const REGISTER_RETRY_MAX: Duration = Duration::from_secs(7);

/// Registration is given up after this; the caller says that the API is not there.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(60);

/// Most pods a node offers to the scheduler, whatever the machine allows.
const PODS_MAX: u64 = 100_000;

/// The kubelet API takes `v5.channel.k8s.io` itself, so an API server need not translate it.
const WEB_SOCKETS: &str = "ExtendWebSocketsToKubelet";

/// Says that a rule of a container may start all containers again.
const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// This node as it shows itself.
pub(crate) struct Registration {
    client: kube::Client,
    name: String,
    clock: Clock,
    status: NodeStatus,
    /// Whether two addresses of the Node are of one type, now or when it was found.
    has_same_types: bool,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    uid: Option<String>,
    /// What the API has been told, for the times of change.
    conditions: Vec<NodeCondition>,
    watchman: Watchman,
    evictor: Evictor,
    data_dir: Arc<Path>,
    store: ImageStore,
    unused_images: UnusedImages,
    images: Vec<ContainerImage>,
}

/// What a registration watches.
pub(crate) struct Watched {
    /// The folder whose disk may run full.
    pub(crate) data_dir: Arc<Path>,
    /// The images that are told.
    pub(crate) images: ImageStore,
    /// Who knows whether guests ran short of memory.
    pub(crate) evictor: Evictor,
    /// What is to be left.
    pub(crate) least: Least,
}

/// What a node has to give.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amounts {
    pub(crate) cpu_milli: u64,
    /// What is offered to pods.
    pub(crate) memory: u64,
    /// What of the capacity is to be left: with less, pods are evicted.
    pub(crate) memory_least: u64,
    pub(crate) storage: u64,
    pub(crate) pods: u64,
}

impl Amounts {
    /// Takes what the settings say, and the machine's own where they say nothing.
    pub(crate) fn find(
        settings: &NodeSettings,
        runtime: &Runtime,
        data_dir: &std::path::Path,
    ) -> Amounts {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cores = u64::try_from(cores).unwrap_or(1);
        let memory = settings.memory_bytes.unwrap_or_else(machine_memory);
        let memory_least = memory_least(runtime.memory().budget);
        Amounts {
            cpu_milli: settings.cpu_milli.unwrap_or(cores * 1000),
            memory: memory.saturating_sub(memory_least),
            memory_least,
            // A folder whose disk cannot be measured still gets pods; it only shows no room.
            storage: fs4::total_space(data_dir).unwrap_or(0),
            pods: settings
                .pods
                .unwrap_or_else(|| runtime.capacity().instances.min(PODS_MAX)),
        }
    }
}

impl Amounts {
    /// Returns what is to be left of everything.
    pub(crate) fn least(&self, disk: DiskLeast) -> Least {
        Least {
            memory: self.memory_least,
            disk,
        }
    }
}

fn machine_memory() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let total = system.total_memory();
    system
        .cgroup_limits()
        .map_or(total, |limits| limits.total_memory.min(total))
}

impl Registration {
    pub(crate) fn new(
        client: kube::Client,
        name: &str,
        settings: &NodeSettings,
        amounts: Amounts,
        watched: Watched,
    ) -> Registration {
        let status = status(name, settings, amounts);
        Registration {
            client,
            name: name.to_owned(),
            clock: settings.clock.clone(),
            has_same_types: has_same_types(&status),
            status,
            labels: labels(name, settings),
            taints: settings.taints.clone(),
            uid: None,
            conditions: Vec::new(),
            watchman: Watchman::new(watched.least),
            evictor: watched.evictor,
            data_dir: watched.data_dir,
            store: watched.images,
            unused_images: settings.unused_images,
            images: Vec::new(),
        }
    }

    /// The labels pods may select this node by.
    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Creates the Node, or takes over the one of that name, and posts Ready; tries until it works.
    pub(crate) async fn register(&mut self) -> Result<(), kube::Error> {
        let began = Instant::now();
        let mut delay = REGISTER_RETRY_FIRST;
        loop {
            let Err(error) = self.try_register().await else {
                return Ok(());
            };
            if began.elapsed() > REGISTER_TIMEOUT {
                return Err(error);
            }
            tracing::warn!(node = %self.name, %error, "failed to register the node");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(REGISTER_RETRY_MAX);
        }
    }

    async fn try_register(&mut self) -> Result<(), kube::Error> {
        let api = Api::<Node>::all(self.client.clone());
        let node = Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: Some(self.taints.clone()).filter(|taints| !taints.is_empty()),
                ..NodeSpec::default()
            }),
            ..Node::default()
        };
        let registered = match api.create(&PostParams::default(), &node).await {
            Ok(node) => node,
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Taints, foreign labels and `unschedulable` stay as they are.
                let labels = serde_json::json!({"metadata": {"labels": self.labels}});
                api.patch(&self.name, &PatchParams::default(), &Patch::Merge(labels))
                    .await?
            }
            Err(error) => return Err(error),
        };
        self.uid = registered.metadata.uid;
        let known = registered.status.unwrap_or_default();
        self.has_same_types |= has_same_types(&known);
        self.conditions = known.conditions.unwrap_or_default();
        self.list_images().await;
        let conditions = self.look().await;
        self.post_status(conditions).await?;
        self.renew_lease().await
    }

    /// Renews the lease and the status for as long as it is polled.
    pub(crate) async fn keep_alive(mut self) {
        let mut status_at = Instant::now() + STATUS_EVERY;
        let mut images_at = Instant::now() + IMAGES_EVERY;
        loop {
            tokio::time::sleep(LEASE_EVERY).await;
            if let Err(error) = self.renew_lease().await {
                tracing::warn!(node = %self.name, %error, "failed to renew the node's lease");
            }
            let mut is_due = Instant::now() >= status_at;
            if Instant::now() >= images_at {
                images_at = Instant::now() + IMAGES_EVERY;
                self.make_room().await;
                is_due |= self.list_images().await;
            }
            let conditions = self.look().await;
            is_due |= differ(&self.conditions, &conditions);
            if !is_due {
                continue;
            }
            match self.post_status(conditions).await {
                Ok(()) => status_at = Instant::now() + STATUS_EVERY,
                // What has changed is found to have changed at the next look, too.
                Err(error) => {
                    tracing::warn!(node = %self.name, %error, "failed to post the node's status");
                }
            }
        }
    }

    /// Measures the machine, and says what its conditions are.
    async fn look(&mut self) -> Vec<NodeCondition> {
        let data_dir = self.data_dir.clone();
        let mut signals = blocking(move || Signals::measure(&data_dir)).await;
        if self.evictor.was_short() {
            signals.memory_available = Some(0);
        }
        let now = self.clock.now();
        let short = self.watchman.note(signals, now);
        conditions(&self.conditions, short, now.wall())
    }

    /// Removes images that nobody uses if that was asked for and the disk runs full.
    async fn make_room(&self) {
        if self.unused_images == UnusedImages::Stay {
            return;
        }
        let (store, data_dir) = (self.store.clone(), self.data_dir.clone());
        blocking(move || {
            if let Some((left, all)) = Signals::measure(&data_dir).disk {
                room::make(&store, left, all);
            }
        })
        .await;
    }

    /// Lists the images in the store, and says whether there are others than before.
    async fn list_images(&mut self) -> bool {
        let store = self.store.clone();
        match blocking(move || store.list()).await {
            Ok(listed) => {
                let images = images::of(listed);
                let has_changed = images != self.images;
                self.images = images;
                has_changed
            }
            Err(error) => {
                tracing::warn!(node = %self.name, %error, "failed to list the images");
                false
            }
        }
    }

    async fn post_status(&mut self, conditions: Vec<NodeCondition>) -> Result<(), kube::Error> {
        let mut status = self.status.clone();
        status.conditions = Some(conditions.clone());
        status.images = Some(self.images.clone());
        let mut patch = serde_json::json!({"status": status});
        // Addresses are merged by their type, so that what a cloud has added stays; not where two share one.
        if self.has_same_types
            && let Some(addresses) = patch["status"]["addresses"].as_array_mut()
        {
            addresses.insert(0, serde_json::json!({"$patch": "replace"}));
        }
        let api = Api::<Node>::all(self.client.clone());
        api.patch_status(
            &self.name,
            &PatchParams::default(),
            &Patch::Strategic(patch),
        )
        .await?;
        for condition in &conditions {
            let known = self.conditions.iter().find(|c| c.type_ == condition.type_);
            if known.is_some_and(|known| known.status != condition.status) {
                let (kind, status) = (&condition.type_, &condition.status);
                tracing::warn!(node = %self.name, %kind, %status, "a condition of the node has changed");
            }
        }
        self.conditions = conditions;
        Ok(())
    }

    async fn renew_lease(&self) -> Result<(), kube::Error> {
        let api = Api::<Lease>::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let now = MicroTime(self.clock.now().wall());
        let spec = LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let patch = Patch::Merge(serde_json::json!({"spec": spec}));
        match api.patch(&self.name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(drop),
        }
        let owner = self.uid.clone().map(|uid| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.name.clone(),
            uid,
            ..OwnerReference::default()
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(LEASE_NAMESPACE.to_owned()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
        };
        api.create(&PostParams::default(), &lease).await.map(drop)
    }
}

fn labels(name: &str, settings: &NodeSettings) -> BTreeMap<String, String> {
    let mut labels = settings.labels.clone();
    let own = [
        ("kubernetes.io/hostname", name),
        // The API's word list has no `wasi`; pods select Wasm nodes by our own label.
        ("kubernetes.io/os", std::env::consts::OS),
        ("kubernetes.io/arch", architecture()),
        ("coracle.dev/runtime", "wasm"),
    ];
    for (key, value) in own {
        labels
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    labels
}

/// The machine's architecture in Kubernetes' words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn status(name: &str, settings: &NodeSettings, amounts: Amounts) -> NodeStatus {
    let quantities = |memory: u64| -> BTreeMap<String, Quantity> {
        let amounts = [
            ("cpu", format!("{}m", amounts.cpu_milli)),
            ("memory", memory.to_string()),
            ("ephemeral-storage", amounts.storage.to_string()),
            ("pods", amounts.pods.to_string()),
        ];
        let named = amounts.into_iter();
        named
            .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
            .collect()
    };
    let address = |type_: &str, address: String| NodeAddress {
        type_: type_.to_owned(),
        address,
    };
    let version = env!("CARGO_PKG_VERSION");
    NodeStatus {
        addresses: Some({
            let ips = settings.ips.iter();
            let ips = ips.map(|ip| address("InternalIP", ip.to_string()));
            ips.chain([address("Hostname", name.to_owned())]).collect()
        }),
        capacity: Some(quantities(amounts.memory + amounts.memory_least)),
        allocatable: Some(quantities(amounts.memory)),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().to_owned(),
            operating_system: std::env::consts::OS.to_owned(),
            os_image: "Coracle".to_owned(),
            kernel_version: sysinfo::System::kernel_version().unwrap_or_default(),
            container_runtime_version: format!("coracle://{version}"),
            // Shaped as semver within the API's skew, since controllers parse it.
            kubelet_version: format!("v1.36.0+coracle-{version}"),
            ..NodeSystemInfo::default()
        }),
        // In order.
        declared_features: Some(vec![WEB_SOCKETS.to_owned(), RESTART_ALL.to_owned()]),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(true),
        }),
        daemon_endpoints: settings.kubelet_port.map(|port| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: port.into() }),
        }),
        runtime_handlers: Some(runtime_handlers()),
        ..NodeStatus::default()
    }
}

/// The default one, which has no name, and those that RuntimeClasses may name.
fn runtime_handlers() -> Vec<NodeRuntimeHandler> {
    let names = iter::once("").chain(RUNTIME_HANDLERS);
    let handler = |name: &str| NodeRuntimeHandler {
        name: Some(name.to_owned()),
        ..NodeRuntimeHandler::default()
    };
    names.map(handler).collect()
}

/// Whether two lists of conditions say different things, heartbeats aside.
fn differ(known: &[NodeCondition], new: &[NodeCondition]) -> bool {
    let says = |all: &[NodeCondition], one: &NodeCondition| {
        let mut all = all.iter();
        all.any(|known| known.type_ == one.type_ && known.status == one.status)
    };
    new.iter().any(|condition| !says(known, condition))
}

/// Returns the agent's conditions; the time of a change moves only when there is one.
fn conditions(known: &[NodeCondition], short: [bool; 3], now: Timestamp) -> Vec<NodeCondition> {
    let [memory, disk, pids] = short;
    let pressure = |is_short: bool, bad, good| {
        if is_short {
            ("True", bad)
        } else {
            ("False", good)
        }
    };
    let rows = [
        (
            "MemoryPressure",
            pressure(
                memory,
                (
                    "KubeletHasInsufficientMemory",
                    "kubelet has insufficient memory available",
                ),
                (
                    "KubeletHasSufficientMemory",
                    "kubelet has sufficient memory available",
                ),
            ),
        ),
        (
            "DiskPressure",
            pressure(
                disk,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
        ),
        (
            "PIDPressure",
            pressure(
                pids,
                (
                    "KubeletHasInsufficientPID",
                    "kubelet has insufficient PID available",
                ),
                (
                    "KubeletHasSufficientPID",
                    "kubelet has sufficient PID available",
                ),
            ),
        ),
        (
            "Ready",
            ("True", ("KubeletReady", "kubelet is posting ready status")),
        ),
    ];
    let rows = rows.into_iter();
    rows.map(|(type_, (status, (reason, message)))| {
        let mut known = known.iter();
        let same = known.find(|known| known.type_ == type_ && known.status == status);
        let since = same.and_then(|known| known.last_transition_time.clone());
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(whole_seconds(now))),
            last_transition_time: since.or_else(|| Some(Time(whole_seconds(now)))),
        }
    })
    .collect()
}

/// Tells whether two addresses are of one type, as those of both families are.
fn has_same_types(status: &NodeStatus) -> bool {
    let mut types = BTreeSet::new();
    let mut all = status.addresses.iter().flatten();
    all.any(|address| !types.insert(&address.type_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_type_are_those_of_two_families() {
        let of = |types: &[&str]| {
            let addresses = types.iter().map(|type_| NodeAddress {
                type_: (*type_).to_owned(),
                ..NodeAddress::default()
            });
            has_same_types(&NodeStatus {
                addresses: Some(addresses.collect()),
                ..NodeStatus::default()
            })
        };
        assert!(of(&["InternalIP", "InternalIP", "Hostname"]));
        assert!(!of(&["InternalIP", "ExternalIP", "Hostname"]));
    }

    #[test]
    fn the_time_of_a_condition_moves_only_when_it_changes() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let time = |all: &[NodeCondition], type_: &str| {
            let mut all = all.iter();
            let found = all.find(|c| c.type_ == type_).expect("it is there");
            (
                found.status.clone(),
                found.last_transition_time.clone().map(|t| t.0.as_second()),
            )
        };
        let first = conditions(&[], [false; 3], at(10));
        let same = conditions(&first, [false; 3], at(20));
        assert!(!differ(&first, &same));
        assert_eq!(time(&same, "Ready"), ("True".to_owned(), Some(10)));
        let short = conditions(&same, [true, false, false], at(30));
        assert!(differ(&same, &short));
        let memory = time(&short, "MemoryPressure");
        assert_eq!(memory, ("True".to_owned(), Some(30)));
        assert_eq!(time(&short, "DiskPressure"), ("False".to_owned(), Some(10)));
        let reason = short[0].reason.as_deref();
        assert_eq!(reason, Some("KubeletHasInsufficientMemory"));
    }
}
