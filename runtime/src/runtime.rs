//! The crate's front door: prepare code, start containers, say what the machine can hold.

use crate::account::{Account, NodeBudget, NodeMemory, PodAccount};
use crate::blocking;
use crate::cache::{Cache, CodeDigest, Entry};
use crate::compile::{CompileError, Compiler, CompilerCommand};
use crate::engine::{Capacity, Engines, Full};
use crate::fs::FileExtent;
use crate::instance::{Instance, Life};
use crate::judge::{Refusal, WorkloadKind, examine};
use crate::pools::{Pools, PoolsConfig};
use crate::program::{Loaded, Loader, Program};
use crate::spec::{ExecSpec, HandlerOptions, Limits, OnStop, PodLimits, RunAs, SandboxSpec};
use crate::store::Container;
use crate::{command, handler};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use thiserror::Error;

/// What a runtime is made of.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// The folder of compiled code; several processes may share it.
    pub cache_dir: PathBuf,
    /// How to start a compiler child.
    pub compiler: CompilerCommand,
    /// Threads that poll guests which yield before their slice is over.
    pub interactive_threads: usize,
    /// Threads of lower priority for guests that compute.
    pub batch_threads: usize,
    /// Bytes that all guests together may use.
    pub memory_budget: u64,
    /// Memory mappings that instances and code may take, where that is to be less than the machine allows.
    pub mappings_max: Option<u64>,
}

/// Some Wasm, named by its content.
#[derive(Clone, Debug)]
pub struct Code {
    /// `sha256:` and the digest of the bytes, in lower case.
    pub digest: String,
    /// The bytes.
    pub bytes: CodeBytes,
}

impl Code {
    /// Names `bytes` by their content.
    pub fn of(bytes: Bytes) -> Self {
        Self {
            digest: CodeDigest::of(&bytes).to_string(),
            bytes: CodeBytes::InMemory(bytes),
        }
    }
}

/// Where the bytes of some Wasm are.
#[derive(Clone, Debug)]
pub enum CodeBytes {
    /// In memory.
    InMemory(Bytes),
    /// In a piece of a file, for example of an image's layer.
    Extent(FileExtent),
}

/// The runtime could not be made.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The engine refuses this machine.
    #[error("failed to set up the engine: {0:#}")]
    Engine(wasmtime::Error),
    /// The folder of compiled code cannot be used.
    #[error("failed to open the code cache `{folder}`")]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The threads for guests could not be started.
    #[error("failed to start the guest threads")]
    Threads(#[source] std::io::Error),
}

/// Code could not be prepared.
#[derive(Clone, Debug, Error)]
pub enum PrepareError {
    /// The digest is not of the form `sha256:…`.
    #[error("`{0}` is no sha256 digest")]
    Digest(String),
    /// The bytes cannot be run here.
    #[error("failed to accept `{digest}`")]
    Refused {
        /// The code's digest.
        digest: String,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// The bytes could not be read.
    #[error("failed to read `{digest}`")]
    Read {
        /// The code's digest.
        digest: String,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The code could not be compiled.
    #[error("failed to compile `{digest}`")]
    Compile {
        /// The code's digest.
        digest: String,
        /// What went wrong.
        #[source]
        source: CompileError,
    },
    /// The cache of compiled code could not be written.
    #[error("failed to keep the compiled code of `{digest}`")]
    Cache {
        /// The code's digest.
        digest: String,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The compiled code does not fit what this runtime offers.
    #[error("failed to link `{digest}`: {reason}")]
    Link {
        /// The code's digest.
        digest: String,
        /// The import that does not fit.
        reason: String,
    },
    /// The machine allows this process no more code; it may when something else has ended.
    #[error("failed to load `{digest}`")]
    Full {
        /// The code's digest.
        digest: String,
        /// The limit, and what to do about it.
        #[source]
        source: Full,
    },
}

/// A container could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The program has no entry point of the wanted kind.
    #[error("`{digest}` exports no `wasi:cli/run`")]
    NoCommand {
        /// The program's digest.
        digest: String,
    },
    /// A handler's port cannot be listened on.
    #[error("failed to listen on port {port} of the pod")]
    Listen {
        /// The port.
        port: u16,
        /// What the network said.
        #[source]
        source: coracle_network::NetError,
    },
    /// The machine allows this process no more instances; it may when another one has ended.
    #[error("failed to make an instance")]
    Full(#[source] Full),
    /// The container that the program was to run in has ended.
    #[error("the container has ended")]
    Ended,
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
}

/// Runs containers. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    engines: Arc<Engines>,
    loader: Arc<Loader>,
    pools: Arc<Pools>,
    cache: Cache,
    compiler: Compiler,
    budget: Arc<NodeBudget>,
    programs: Mutex<Programs>,
    lives: Mutex<Lives>,
}

/// Programs that somebody uses or prepares.
#[derive(Default)]
struct Programs {
    loaded: HashMap<CodeDigest, Weak<Loaded>>,
    flights: HashMap<CodeDigest, WeakShared<Flight>>,
}

type Flight = BoxFuture<'static, Result<Program, PrepareError>>;

/// Containers that may still run; swept when it has grown to twice its live size.
#[derive(Default)]
struct Lives {
    shutting_down: bool,
    all: Vec<Weak<Life>>,
    sweep_at: usize,
}

impl Lives {
    const SWEEP_MIN: usize = 64;

    fn add(&mut self, life: &Arc<Life>) {
        if self.all.len() >= self.sweep_at.max(Self::SWEEP_MIN) {
            self.all.retain(|life| life.strong_count() > 0);
            self.sweep_at = self.all.len() * 2;
        }
        self.all.push(Arc::downgrade(life));
    }
}

impl Runtime {
    /// Sets up the engine, the code cache and the guest threads.
    ///
    /// # Errors
    /// The machine cannot run the engine, the folder cannot be written, threads are exhausted.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let engines = Engines::new(config.mappings_max).map_err(RuntimeError::Engine)?;
        let loader = Loader::new(engines.clone()).map_err(RuntimeError::Engine)?;
        let cache = Cache::open(&config.cache_dir, &engines.compatibility()).map_err(|source| {
            RuntimeError::Cache {
                folder: config.cache_dir.clone(),
                source,
            }
        })?;
        let ticking = engines.clone();
        let pools = Pools::new(PoolsConfig {
            interactive: config.interactive_threads,
            batch: config.batch_threads,
            tick: Arc::new(move || ticking.tick()),
        })
        .map_err(RuntimeError::Threads)?;
        let inner = Inner {
            engines,
            loader,
            pools: Arc::new(pools),
            cache,
            compiler: Compiler::new(config.compiler),
            budget: Arc::new(NodeBudget::new(config.memory_budget)),
            programs: Mutex::default(),
            lives: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Adapts and compiles `code` unless a cache has it, and links it.
    ///
    /// Calls for the same digest share one preparation; it goes on while one caller is left.
    /// Needs a tokio runtime with input, output and time.
    ///
    /// # Errors
    /// See [`PrepareError`]; all but [`PrepareError::Read`], [`PrepareError::Cache`] and [`PrepareError::Full`]
    /// are final.
    pub async fn prepare(&self, code: Code) -> Result<Program, PrepareError> {
        let digest = CodeDigest::parse(&code.digest)
            .ok_or_else(|| PrepareError::Digest(code.digest.clone()))?;
        let flight = {
            let mut programs = self.inner.programs.lock();
            if let Some(loaded) = programs.loaded.get(&digest).and_then(Weak::upgrade) {
                return Ok(Program::from_inner(loaded));
            }
            match programs.flights.get(&digest).and_then(WeakShared::upgrade) {
                Some(flight) => flight,
                None => programs.board(&self.inner, digest, code.bytes),
            }
        };
        flight.await
    }

    /// Makes the account of a pod, which its containers share.
    pub fn pod(&self, limits: PodLimits) -> PodAccount {
        PodAccount::new(limits, self.inner.budget.clone())
    }

    /// Returns the memory of all guests, and what of it is used.
    pub fn memory(&self) -> NodeMemory {
        self.inner.budget.state()
    }

    /// Waits until less than `least` bytes of that are left, or a guest was refused some. Each time is told once,
    /// to one who waits; what happened while nobody waited is told at the next wait. Cancel safe.
    pub async fn memory_falls_short(&self, least: u64) {
        self.inner.budget.falls_short(least).await;
    }

    /// Starts a container and returns at once; how it goes is told by the instance.
    ///
    /// # Errors
    /// The program lacks the wanted entry point, the machine has no room for its instance, a handler's
    /// port is taken, or the runtime ends.
    pub fn start(&self, spec: SandboxSpec) -> Result<Instance, StartError> {
        let inner = &self.inner;
        let account = Arc::new(Account::new(&spec.id, &spec.limits, spec.pod.clone()));
        spec.files.charge_to(&account);
        let container = Container::new(spec, account);
        if inner.lives.lock().shutting_down {
            return Err(StartError::ShuttingDown);
        }
        let kind = match container.spec.run_as {
            RunAs::ByKind => container.spec.program.kind(),
            RunAs::Command => WorkloadKind::Command,
        };
        let life = match kind {
            WorkloadKind::Command => {
                command::start(container, &inner.pools, inner.engines.places())?
            }
            WorkloadKind::Handler => {
                handler::start(container, &inner.pools, inner.engines.places())?
            }
        };
        self.keep(&life);
        Ok(Instance::new(life))
    }

    /// Runs one more program in a container: in its files and network, on its account. The program
    /// is ended by force when the container has ended; its own end leaves the container alone.
    ///
    /// # Errors
    /// The program exports no `wasi:cli/run`, the machine has no room for its instance, the container has
    /// ended, or the runtime ends.
    pub fn exec(&self, container: &Instance, spec: ExecSpec) -> Result<Instance, StartError> {
        if self.inner.lives.lock().shutting_down {
            return Err(StartError::ShuttingDown);
        }
        let host = container.life();
        let lent = host.lend().ok_or(StartError::Ended)?;
        let guest = SandboxSpec {
            id: lent.id,
            program: spec.program,
            run_as: RunAs::Command,
            args: spec.args,
            env: spec.env,
            working_dir: spec.working_dir,
            files: lent.files,
            network: lent.network,
            stdin: spec.stdin,
            stdout: spec.stdout,
            stderr: spec.stderr,
            terminal: spec.terminal,
            on_stop: OnStop::AtOnce,
            pod: lent.account.pod().clone(),
            // The container's account has them already, and a command serves nothing.
            limits: Limits::default(),
            handler: HandlerOptions::on_port(0),
        };
        let guest = Container::new(guest, lent.account);
        let life = command::start(guest, &self.inner.pools, self.inner.engines.places())?;
        host.adopt(&life);
        self.keep(&life);
        Ok(Instance::new(life))
    }

    /// Remembers a life for the runtime's end, which may have come meanwhile.
    fn keep(&self, life: &Arc<Life>) {
        let mut lives = self.inner.lives.lock();
        lives.add(life);
        if lives.shutting_down {
            drop(lives);
            life.kill();
        }
    }

    /// Returns how many instances this machine can hold, and the limit that says so.
    pub fn capacity(&self) -> Capacity {
        self.inner.engines.capacity(blocking::abandoned())
    }

    /// Ends every container at once, and waits until the last one and the guest threads are gone.
    /// Nothing starts any more.
    pub async fn shutdown(&self) {
        let lives: Vec<_> = {
            let mut lives = self.inner.lives.lock();
            lives.shutting_down = true;
            lives
                .all
                .drain(..)
                .filter_map(|life| life.upgrade())
                .collect()
        };
        for life in &lives {
            life.kill();
        }
        for life in lives {
            life.exited().await;
        }
        let pools = self.inner.pools.clone();
        // Joining threads blocks, if only for a moment; a runtime that ends itself needs no answer.
        let _ = blocking::run(move || pools.shutdown()).await;
    }
}

impl Programs {
    fn board(
        &mut self,
        inner: &Arc<Inner>,
        digest: CodeDigest,
        bytes: CodeBytes,
    ) -> Shared<Flight> {
        self.loaded.retain(|_, loaded| loaded.strong_count() > 0);
        self.flights.retain(|_, flight| flight.upgrade().is_some());
        let preparing = Preparation {
            inner: inner.clone(),
            digest: digest.clone(),
        };
        let flight = preparing.run(bytes).boxed().shared();
        let weak = flight
            .downgrade()
            .expect("the flight has not been polled yet");
        self.flights.insert(digest, weak);
        flight
    }
}

/// One flight: everything between the bytes and a linked program.
struct Preparation {
    inner: Arc<Inner>,
    digest: CodeDigest,
}

impl Preparation {
    async fn run(self, bytes: CodeBytes) -> Result<Program, PrepareError> {
        let cached = match self.find().await? {
            Some(entry) => self.load(entry).await.ok(),
            None => None,
        };
        let program = match cached {
            Some(program) => program,
            None => self.make(bytes).await?,
        };
        let mut programs = self.inner.programs.lock();
        programs
            .loaded
            .insert(self.digest.clone(), Arc::downgrade(program.inner()));
        programs.flights.remove(&self.digest);
        drop(programs);
        Ok(program)
    }

    /// Compiles under the entry's lock, unless another process did while this one waited.
    async fn make(&self, bytes: CodeBytes) -> Result<Program, PrepareError> {
        let lock = self
            .inner
            .cache
            .lock(&self.digest)
            .await
            .map_err(|e| self.cache_error(e))?;
        if let Some(entry) = self.find().await? {
            match self.load(entry).await {
                Ok(program) => return Ok(program),
                Err(error) => {
                    tracing::warn!(digest = %self.digest, %error, "compiled code does not load");
                    lock.discard();
                }
            }
        }
        let wasm = read(bytes).await.map_err(|e| self.read_error(e))?;
        examine(&wasm).map_err(|source| PrepareError::Refused {
            digest: self.digest(),
            source,
        })?;
        let draft = lock.draft();
        let artefact = self
            .inner
            .compiler
            .compile(self.digest.as_str(), &wasm, &draft)
            .await
            .map_err(|source| PrepareError::Compile {
                digest: self.digest(),
                source,
            })?;
        lock.publish(&artefact).map_err(|e| self.cache_error(e))?;
        match self.find().await? {
            Some(entry) => self.load(entry).await,
            None => Err(self.cache_error(std::io::Error::other("it changed after it was written"))),
        }
    }

    async fn find(&self) -> Result<Option<Entry>, PrepareError> {
        let (inner, digest) = (self.inner.clone(), self.digest.clone());
        blocking::run(move || inner.cache.find(&digest))
            .await
            .map_err(|e| self.cache_error(e))
    }

    async fn load(&self, entry: Entry) -> Result<Program, PrepareError> {
        let (loader, digest) = (self.inner.loader.clone(), self.digest.clone());
        let place = loader.place(&entry.artefact);
        let place = place.map_err(|source| PrepareError::Full {
            digest: self.digest(),
            source,
        })?;
        let loaded = blocking::run(move || Loaded::new(digest, &entry, &loader, place))
            .await
            .map_err(|e| self.cache_error(e))?;
        match loaded {
            Ok(loaded) => Ok(Program::from_inner(Arc::new(loaded))),
            Err(error) => Err(PrepareError::Link {
                digest: self.digest(),
                reason: format!("{error:#}"),
            }),
        }
    }

    fn digest(&self) -> String {
        self.digest.to_string()
    }

    fn cache_error(&self, source: std::io::Error) -> PrepareError {
        PrepareError::Cache {
            digest: self.digest(),
            source: Arc::new(source),
        }
    }

    fn read_error(&self, source: std::io::Error) -> PrepareError {
        PrepareError::Read {
            digest: self.digest(),
            source: Arc::new(source),
        }
    }
}

/// Reads the bytes into memory.
async fn read(bytes: CodeBytes) -> std::io::Result<Bytes> {
    match bytes {
        CodeBytes::InMemory(bytes) => Ok(bytes),
        CodeBytes::Extent(extent) => blocking::run(move || extent.read_all()).await?,
    }
}
