//! Compiled code, loaded into the engines and linked with what we offer.

use crate::cache::{CodeDigest, Entry};
use crate::engine::Engines;
use crate::judge::WorkloadKind;
use crate::store::{self, Guest};
use crate::termination;
use std::fmt;
use std::sync::{Arc, OnceLock};
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Result};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// Code that is ready to be started, any number of times. Clones share it.
#[derive(Clone)]
pub struct Program {
    inner: Arc<Loaded>,
}

impl Program {
    /// Returns how the program runs unless told otherwise.
    pub fn kind(&self) -> WorkloadKind {
        self.inner.kind
    }

    /// Returns the digest of the Wasm bytes it was made from.
    pub fn digest(&self) -> &str {
        self.inner.digest.as_str()
    }

    pub(crate) fn inner(&self) -> &Arc<Loaded> {
        &self.inner
    }

    pub(crate) fn from_inner(inner: Arc<Loaded>) -> Self {
        Self { inner }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("kind", &self.kind())
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

/// The engines with a linker for each; a linker costs about a millisecond to build.
pub(crate) struct Loader {
    engines: Arc<Engines>,
    on_demand: Linker<Guest>,
    pooled: OnceLock<Option<Linker<Guest>>>,
}

impl Loader {
    pub(crate) fn new(engines: Arc<Engines>) -> Result<Arc<Self>> {
        let on_demand = store::linker(engines.on_demand())?;
        Ok(Arc::new(Self {
            engines,
            on_demand,
            pooled: OnceLock::new(),
        }))
    }

    fn pooled(&self) -> Option<&Linker<Guest>> {
        let build = || {
            self.engines
                .pooled()
                .and_then(|engine| store::linker(engine).ok())
        };
        self.pooled.get_or_init(build).as_ref()
    }
}

/// Code mapped from the cache and type-checked against the linkers.
pub(crate) struct Loaded {
    digest: CodeDigest,
    kind: WorkloadKind,
    is_told: bool,
    command: Option<CommandPre<Guest>>,
    handler: Option<ProxyPre<Guest>>,
    pooled_handler: Option<ProxyPre<Guest>>,
}

impl Loaded {
    /// Maps `entry` and links it; an error is a damaged file or an import that is not offered.
    ///
    /// Blocks for as long as reading the file takes.
    pub(crate) fn new(digest: CodeDigest, entry: &Entry, loader: &Loader) -> Result<Self> {
        let on_demand = map(loader.engines.on_demand(), entry)?;
        let pre = loader.on_demand.instantiate_pre(&on_demand)?;
        let is_told = on_demand
            .component_type()
            .imports(loader.engines.on_demand())
            .any(|(name, _)| termination::is_interface(name));
        let artefact = &entry.artefact;
        let command = artefact
            .command
            .then(|| CommandPre::new(pre.clone()))
            .transpose()?;
        let handler = artefact.handler.then(|| ProxyPre::new(pre)).transpose()?;
        let pooled_handler = match (&handler, loader.pooled()) {
            (Some(_), Some(linker)) => {
                let pooled = map(linker.engine(), entry)?;
                Some(ProxyPre::new(linker.instantiate_pre(&pooled)?)?)
            }
            (None, _) | (_, None) => None,
        };
        let kind = if artefact.handler {
            WorkloadKind::Handler
        } else {
            WorkloadKind::Command
        };
        Ok(Self {
            digest,
            kind,
            is_told,
            command,
            handler,
            pooled_handler,
        })
    }

    /// Whether it learns from us that its container is asked to end.
    pub(crate) fn is_told(&self) -> bool {
        self.is_told
    }

    pub(crate) fn command(&self) -> Option<&CommandPre<Guest>> {
        self.command.as_ref()
    }

    /// The handler in the engine that maps memory for each instance.
    pub(crate) fn handler(&self) -> Option<&ProxyPre<Guest>> {
        self.handler.as_ref()
    }

    /// The handler in the pool, where this machine allows one.
    pub(crate) fn pooled_handler(&self) -> Option<&ProxyPre<Guest>> {
        self.pooled_handler.as_ref()
    }
}

#[expect(unsafe_code, reason = "mapping machine code is unsafe by nature")]
fn map(engine: &Engine, entry: &Entry) -> Result<Component> {
    // SAFETY: the file was written by a compiler child of this program (or of another process of
    // the same user with the same version), is never changed in place, and its SHA-256 was right
    // when this process first looked; the engine checks version and settings itself.
    let mapped = unsafe { Component::deserialize_file(engine, &entry.path) };
    if cfg!(windows) && mapped.is_err() {
        // Not every file system there maps code for execution, and wine never does. A copy in memory is
        // not shared between processes, but runs; what else is wrong with the file is found out again.
        if let Ok(code) = std::fs::read(&entry.path) {
            // SAFETY: as above, for the same bytes.
            return unsafe { Component::deserialize(engine, code) };
        }
    }
    mapped
}
