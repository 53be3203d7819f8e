//! The composition root of `run`: every part is built here, in the order in which they start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_control_plane::{ControlPlane, ControlPlaneConfig, KindInfo, Scope};
use coracle_kubelet_shim::{Agent, AgentConfig, HostPathPolicy, NodeSettings, OutputLine};
use coracle_network::{EgressRules, Fabric, FabricConfig, LinkLocal, PublishPlan};
use coracle_registry::ImageStore;
use coracle_runtime::{CompilerCommand, Runtime, RuntimeConfig};
use tokio::sync::mpsc;

use crate::console::{Console, PullBars};
use crate::manifest::Object;

use super::output;

/// The name of the one node of a run.
pub(super) const NODE_NAME: &str = "coracle";
/// What the process itself needs beside its guests, in bytes.
const OWN_MEMORY: u64 = 256 * 1024 * 1024;
/// The agent, API and proxy need little of the machine; guests have threads of their own.
const AGENT_THREADS_MAX: usize = 4;

/// What a run was asked for and where its files go.
pub(super) struct Settings {
    /// Shared by all processes: images and compiled code.
    pub(super) data_dir: PathBuf,
    /// This run's own: volumes and logs.
    pub(super) run_dir: PathBuf,
    /// Whether pods may reach 169.254.0.0/16.
    pub(super) link_local: LinkLocal,
    /// The image store in `data_dir`.
    pub(super) images: ImageStore,
    /// Where lines go.
    pub(super) console: Console,
}

/// The parts of a run, with an API that accepts objects and nothing that acts on them yet.
pub(super) struct System {
    control_plane: ControlPlane,
    agent: AgentConfig,
}

/// The parts of a run at work.
pub(super) struct Running {
    control_plane: ControlPlane,
    agent: Agent,
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

/// Returns how many threads the agent gets.
pub(super) fn agent_threads() -> usize {
    cores().clamp(1, AGENT_THREADS_MAX)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Returns the memory that guests may use together: the machine's or the cgroup's less our own.
fn memory_budget() -> u64 {
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
    /// Builds the parts; returns them with the lines that containers will write.
    ///
    /// # Errors
    ///
    /// Fails when the engine, the network or the program's own path is not to be had.
    pub(super) async fn build(
        settings: Settings,
    ) -> anyhow::Result<(Self, mpsc::Receiver<OutputLine>)> {
        let control_plane = ControlPlane::start(ControlPlaneConfig::default()).await;
        let fabric = Fabric::new(FabricConfig {
            publish: PublishPlan::Loopback,
            egress: EgressRules {
                link_local: settings.link_local,
            },
            ..FabricConfig::default()
        })
        .context("failed to set up the pods' network")?;
        let program = std::env::current_exe().context("failed to find the program's own file")?;
        let runtime = Runtime::new(RuntimeConfig {
            cache_dir: settings.data_dir.join("code"),
            compiler: CompilerCommand {
                program,
                args: vec!["compile-child".to_owned()],
            },
            interactive_threads: cores(),
            batch_threads: cores(),
            memory_budget: memory_budget(),
        })
        .context("failed to start the Wasm runtime")?;
        let (sender, lines) = mpsc::channel(output::LINES_MAX);
        let agent = AgentConfig {
            node_name: NODE_NAME.to_owned(),
            data_dir: settings.run_dir,
            client: control_plane.client("default"),
            images: settings.images,
            runtime,
            fabric,
            host_path: HostPathPolicy::Allow,
            output: Some(sender),
            pull_progress: PullBars::new(settings.console),
            node: NodeSettings {
                memory_bytes: Some(memory_budget()),
                ..NodeSettings::default()
            },
        };
        Ok((
            Self {
                control_plane,
                agent,
            },
            lines,
        ))
    }

    /// Creates the objects through the API, with the namespaces that they name.
    ///
    /// # Errors
    ///
    /// Fails with the API's own words for the first object that it refuses.
    pub(super) async fn apply(&self, objects: &[Object]) -> anyhow::Result<()> {
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
            create(&client, &path, &object.value)
                .await
                .with_context(|| format!("{object} was refused"))?;
        }
        Ok(())
    }

    /// Starts the agent, and with it the pods.
    ///
    /// # Errors
    ///
    /// Fails when the node cannot be registered.
    pub(super) async fn start(self) -> anyhow::Result<Running> {
        let runtime = self.agent.runtime.clone();
        let agent = Agent::start(self.agent)
            .await
            .context("failed to start the node agent")?;
        Ok(Running {
            control_plane: self.control_plane,
            agent,
            runtime,
        })
    }
}

impl Running {
    /// Returns a client of the embedded API.
    pub(super) fn client(&self) -> kube::Client {
        self.control_plane.client("default")
    }

    /// Ends the pods in order, then the parts in the reverse order of their start.
    pub(super) async fn stop(self, deadline: Duration) {
        self.agent.stop(deadline).await;
        let abandoned = self.runtime.capacity().abandoned_operations;
        if abandoned > 0 {
            tracing::warn!(abandoned, "file operations of ended guests were abandoned");
        }
        self.runtime.shutdown().await;
        self.control_plane.stop().await;
    }
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

/// Posts one object; unknown fields are refused, as kubectl asks for by default.
async fn create(client: &kube::Client, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
    let request = http::Request::post(format!("{path}?fieldValidation=Strict"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(body)?)?;
    match client.request::<serde_json::Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => bail!("{}", status.message),
        Err(error) => Err(error).context("failed to ask the embedded API"),
    }
}
