//! A runtime with a network, and containers that are easy to describe.

use bytes::Bytes;
use coracle_network::{
    EgressRules, Fabric, FabricConfig, LinkLocal, PodIdentity, PodNetwork, PublishPlan,
};
use coracle_runtime::fs::{FileSystem, FileSystemSpec, Tree, Upper, User};
use coracle_runtime::{
    Chunk, Code, CodeBytes, CompilerCommand, ContainerId, HandlerOptions, Input, Instance, Limits,
    OnStop, Output, PodAccount, PodLimits, PrepareError, Program, QosClass, RunAs, Runtime,
    RuntimeConfig, SandboxSpec, StartError, Terminal,
};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

/// The port that handlers of the tests listen on.
pub(crate) const PORT: u16 = 80;

/// Everything a test needs; tests share one folder of compiled code, and nothing else.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) fabric: Fabric,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            runtime: runtime(&shared_cache(), compiler(&[])),
            fabric: fabric(),
        }
    }

    /// One whose instances and code may take so many memory mappings together.
    pub(crate) fn with_mappings(mappings: u64) -> Self {
        let config = RuntimeConfig {
            mappings_max: Some(mappings),
            ..config(&shared_cache(), compiler(&[]))
        };
        Self {
            runtime: Runtime::new(config).expect("this machine runs the engine"),
            fabric: fabric(),
        }
    }

    /// Attaches a new pod.
    pub(crate) fn pod(&self) -> PodNetwork {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("pod-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let identity = PodIdentity {
            namespace: "default".into(),
            uid: name.clone(),
            hostname: name.clone(),
            name,
            subdomain: None,
        };
        self.fabric.attach(identity).expect("a free address")
    }

    /// Makes the account of a pod that is bounded by the node alone.
    pub(crate) fn pod_account(&self, class: QosClass) -> PodAccount {
        self.runtime.pod(PodLimits {
            class,
            ..PodLimits::default()
        })
    }

    pub(crate) async fn prepare(&self, wasm: &[u8]) -> Program {
        prepare(&self.runtime, wasm)
            .await
            .expect("a program that runs here")
    }

    /// Describes a container that runs `wasm` in a pod of its own.
    pub(crate) async fn container(&self, wasm: &[u8]) -> Container {
        let program = self.prepare(wasm).await;
        let (stdout, stderr) = (Arc::new(Sink::default()), Arc::new(Sink::default()));
        let files = FileSystem::new(FileSystemSpec {
            root: Arc::new(Tree::empty()),
            upper: Upper::ReadOnly,
            mounts: Vec::new(),
            user: User::default(),
        });
        let spec = SandboxSpec {
            id: ContainerId {
                namespace: "default".into(),
                pod: "pod".into(),
                container: "main".into(),
            },
            program,
            run_as: RunAs::ByKind,
            args: vec!["program".into()],
            env: Arc::default(),
            working_dir: "/".into(),
            files: files.expect("an empty root"),
            network: self.pod(),
            stdin: None,
            stdout: stdout.clone(),
            stderr: stderr.clone(),
            terminal: Terminal::Absent,
            on_stop: OnStop::AtOnce,
            pod: self.pod_account(QosClass::Burstable),
            limits: Limits {
                memory: None,
                memory_request: 0,
                cpu_milli: None,
                cpu_request_milli: 100,
            },
            handler: HandlerOptions::on_port(PORT),
        };
        Container {
            spec,
            stdout,
            stderr,
            runtime: self.runtime.clone(),
        }
    }
}

/// A container before its start.
pub(crate) struct Container {
    pub(crate) spec: SandboxSpec,
    pub(crate) stdout: Arc<Sink>,
    pub(crate) stderr: Arc<Sink>,
    runtime: Runtime,
}

impl Container {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut SandboxSpec)) -> Self {
        change(&mut self.spec);
        self
    }

    pub(crate) fn try_start(self) -> Result<Instance, StartError> {
        self.runtime.start(self.spec)
    }

    pub(crate) fn start(self) -> Instance {
        self.try_start().expect("it starts")
    }
}

/// Keeps what a guest writes.
#[derive(Default)]
pub(crate) struct Sink(parking_lot::Mutex<Vec<u8>>);

impl Sink {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl Output for Sink {
    fn write(&self, bytes: &[u8]) -> usize {
        self.0.lock().extend_from_slice(bytes);
        bytes.len()
    }

    fn poll_ready(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// Gives a guest what the test says.
#[derive(Default)]
pub(crate) struct Typed(parking_lot::Mutex<Line>);

#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    ended: bool,
    waker: Option<Waker>,
}

impl Typed {
    pub(crate) fn say(&self, text: &str) {
        let mut line = self.0.lock();
        line.bytes.extend_from_slice(text.as_bytes());
        line.waker.take().into_iter().for_each(Waker::wake);
    }

    pub(crate) fn end(&self) {
        let mut line = self.0.lock();
        line.ended = true;
        line.waker.take().into_iter().for_each(Waker::wake);
    }
}

impl Input for Typed {
    fn read(&self, max: usize) -> Chunk {
        let mut line = self.0.lock();
        let taken = max.min(line.bytes.len());
        match (taken, line.ended) {
            (0, true) => Chunk::End,
            (0, false) => Chunk::NotYet,
            (taken, _) => Chunk::Data(line.bytes.drain(..taken).collect::<Vec<u8>>().into()),
        }
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut line = self.0.lock();
        if line.ended || !line.bytes.is_empty() {
            return Poll::Ready(());
        }
        line.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

pub(crate) fn compiler(args: &[&str]) -> CompilerCommand {
    CompilerCommand {
        program: PathBuf::from(env!("CARGO_BIN_EXE_coracle-compile-child")),
        args: args.iter().map(ToString::to_string).collect(),
    }
}

pub(crate) fn runtime(cache: &Path, compiler: CompilerCommand) -> Runtime {
    Runtime::new(config(cache, compiler)).expect("this machine runs the engine")
}

fn config(cache: &Path, compiler: CompilerCommand) -> RuntimeConfig {
    RuntimeConfig {
        cache_dir: cache.to_owned(),
        compiler,
        interactive_threads: 2,
        batch_threads: 1,
        memory_budget: 4 << 30,
        mappings_max: None,
    }
}

pub(crate) async fn prepare(runtime: &Runtime, wasm: &[u8]) -> Result<Program, PrepareError> {
    let bytes = CodeBytes::InMemory(Bytes::copy_from_slice(wasm));
    runtime
        .prepare(Code {
            digest: digest(wasm),
            bytes,
        })
        .await
}

pub(crate) fn digest(wasm: &[u8]) -> String {
    let hex: String = Sha256::digest(wasm)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

fn fabric() -> Fabric {
    Fabric::new(FabricConfig {
        pod_cidr: "10.244.0.0/16".parse().expect("a network"),
        cluster_domain: "cluster.local".into(),
        publish: PublishPlan::Nowhere,
        egress: EgressRules {
            link_local: LinkLocal::Closed,
        },
        ..FabricConfig::default()
    })
    .expect("a fabric without privilege")
}

/// The tests' processes share compiled code, as the processes of a machine do.
fn shared_cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("runtime-code")
}
