//! A control plane, a node agent, and pods that are easy to describe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_control_plane::{ControlPlane, ControlPlaneConfig, LocalVolumes};
use coracle_kubelet_shim::{Agent, AgentConfig, HostPathPolicy, NodeSettings, OutputLine, Toolbox};
use coracle_network::{Fabric, FabricConfig};
use coracle_registry::{ImageStore, Judge, Quiet};
use coracle_runtime::{CompilerCommand, Runtime, RuntimeConfig};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::{ListParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Longest wait for anything; only a broken promise takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) control_plane: ControlPlane,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) agent: Agent,
    pub(crate) lines: mpsc::Receiver<OutputLine>,
    pub(crate) fabric: Fabric,
    images: ImageStore,
}

/// What a node has for its pods.
pub(crate) struct Means {
    pub(crate) toolbox: Option<Toolbox>,
    /// Bytes for all guests.
    pub(crate) memory: u64,
    /// As the kernel's limit of mappings.
    pub(crate) mappings: Option<u64>,
}

impl Default for Means {
    fn default() -> Means {
        Means {
            toolbox: None,
            memory: 1 << 30,
            mappings: None,
        }
    }
}

struct AnyCode;

impl Judge for AnyCode {
    fn judge(&self, wasm: &[u8]) -> Result<(), String> {
        coracle_runtime::judge(wasm)
            .map(drop)
            .map_err(|refusal| refusal.to_string())
    }
}

impl World {
    pub(crate) async fn new() -> World {
        World::with_toolbox(None).await
    }

    /// A world whose containers have `toolbox` beside their images.
    pub(crate) async fn with_toolbox(toolbox: Option<Toolbox>) -> World {
        World::with(Means {
            toolbox,
            ..Means::default()
        })
        .await
    }

    /// A world whose node has these means.
    pub(crate) async fn with(means: Means) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let config = ControlPlaneConfig {
            local_volumes: Some(LocalVolumes {
                folder: folder.path().join("claims"),
                node: "node-1".to_owned(),
            }),
            ..ControlPlaneConfig::default()
        };
        let control_plane = ControlPlane::start(config).await;
        let images = ImageStore::open(&folder.path().join("images")).expect("an image store");
        let program = std::env::current_exe().expect("the program's own path");
        let runtime = Runtime::new(RuntimeConfig {
            // Shared by all tests and runs, so that each guest is compiled once.
            cache_dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join("agent-code"),
            compiler: CompilerCommand {
                program,
                args: vec!["compile-child".to_owned()],
            },
            interactive_threads: 1,
            batch_threads: 1,
            memory_budget: means.memory,
            mappings_max: means.mappings,
        })
        .expect("a runtime");
        let (sender, lines) = mpsc::channel(256);
        let fabric = Fabric::new(FabricConfig::default()).expect("a network");
        let agent = Agent::start(AgentConfig {
            node_name: "node-1".to_owned(),
            data_dir: folder.path().join("node"),
            client: control_plane.client("default"),
            images: images.clone(),
            runtime,
            fabric: fabric.clone(),
            host_path: HostPathPolicy::Refuse,
            output: Some(sender),
            pull_progress: Arc::new(Quiet),
            toolbox: means.toolbox,
            node: NodeSettings::default(),
        })
        .await
        .expect("an agent");
        World {
            control_plane,
            folder,
            agent,
            lines,
            fabric,
            images,
        }
    }

    /// Puts a guest into the image store and returns its reference.
    pub(crate) fn image(&self, name: &str, wasm: &[u8]) -> String {
        let path = self.folder.path().join(format!("{name}.wasm"));
        std::fs::write(&path, wasm).expect("a file");
        self.packed(&path, name)
    }

    /// Puts one of the samples into the image store and returns its reference.
    pub(crate) fn sample(&self, name: &str) -> String {
        let samples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../samples");
        self.packed(&samples.join(name).join(format!("{name}.wasm")), name)
    }

    fn packed(&self, path: &Path, name: &str) -> String {
        self.images
            .pack(path, name, &AnyCode)
            .expect("a program that runs here")
            .to_string()
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.control_plane.client("default"), "default")
    }

    pub(crate) async fn create<K>(&self, object: Value)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).expect("an object");
        self.api::<K>()
            .create(&PostParams::default(), &object)
            .await
            .expect("it is created");
    }

    /// Creates a pod from its specification.
    pub(crate) async fn pod(&self, name: &str, spec: Value) {
        self.create::<Pod>(json!({"metadata": {"name": name}, "spec": spec}))
            .await;
    }

    /// Waits until a pod is as wanted.
    pub(crate) async fn until(&self, name: &str, wanted: fn(&Pod) -> bool) -> Pod {
        let condition = move |pod: Option<&Pod>| pod.is_some_and(wanted);
        let found = await_condition(self.api::<Pod>(), name, condition);
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(pod) => pod.expect("a watch").expect("a pod"),
            Err(_) => panic!("not in time: {:#?}", self.api::<Pod>().get_opt(name).await),
        }
    }

    /// Waits until a pod's object is gone.
    pub(crate) async fn until_gone(&self, name: &str) {
        let gone = await_condition(self.api::<Pod>(), name, |pod: Option<&Pod>| pod.is_none());
        match tokio::time::timeout(PATIENCE, gone).await {
            Ok(found) => drop(found.expect("a watch")),
            Err(_) => panic!("not in time: {:#?}", self.api::<Pod>().get_opt(name).await),
        }
    }

    /// The reasons of all events about a pod, once `last` is among them.
    pub(crate) async fn events(&self, pod: &str, last: &str) -> Vec<String> {
        let api = self.api::<Event>();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let events = api.list(&ListParams::default()).await.expect("events");
            let about = events
                .items
                .iter()
                .filter(|e| e.involved_object.name.as_deref() == Some(pod));
            let reasons: Vec<String> = about.filter_map(|e| e.reason.clone()).collect();
            if reasons.iter().any(|reason| reason == last) {
                return reasons;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no {last} in {reasons:?}"
            );
            tokio::task::yield_now().await;
        }
    }

    /// Waits for an event about a pod with this reason and this message, and returns the message.
    pub(crate) async fn message(&self, pod: &str, reason: &str, message: &str) -> String {
        let api = self.api::<Event>();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let events = api.list(&ListParams::default()).await.expect("events");
            let about = events
                .items
                .into_iter()
                .filter(|e| e.involved_object.name.as_deref() == Some(pod))
                .filter(|e| e.reason.as_deref() == Some(reason));
            let messages: Vec<String> = about.filter_map(|e| e.message).collect();
            if let Some(found) = messages.iter().find(|found| *found == message) {
                return found.clone();
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no {message:?} in {messages:?}"
            );
            tokio::task::yield_now().await;
        }
    }

    /// Returns the next line that any container wrote.
    pub(crate) async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        let line = line.expect("a line in time").expect("a line");
        String::from_utf8_lossy(&line.line).into_owned()
    }

    /// Whether a file of this name is anywhere in the node's folder.
    pub(crate) fn holds_file(&self, name: &str) -> bool {
        let mut folders = vec![self.folder.path().join("node")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name() == *name {
                    return true;
                }
                if entry.path().is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        false
    }

    /// Ends everything in order.
    pub(crate) async fn stop(self) {
        self.agent.stop(Duration::from_secs(3)).await;
        self.control_plane.stop().await;
    }
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .unwrap_or_default()
}

pub(crate) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

pub(crate) fn waiting_reason(pod: &Pod) -> Option<&str> {
    container(pod)?
        .state
        .as_ref()?
        .waiting
        .as_ref()?
        .reason
        .as_deref()
}

pub(crate) fn exit_code(pod: &Pod) -> Option<i32> {
    Some(
        container(pod)?
            .state
            .as_ref()?
            .terminated
            .as_ref()?
            .exit_code,
    )
}

pub(crate) fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(name)
        .map(String::as_str)
}
