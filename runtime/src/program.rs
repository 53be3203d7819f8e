//! Compiled code, loaded into the engines and linked with what we offer.

use crate::cache::{CodeDigest, Entry};
use crate::compile::Artefact;
use crate::engine::{Engines, Filling, Full, Needs, Place};
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

/// Memories that an instance is taken to have whose component does not say: as many as one may have.
const MEMORIES_UNKNOWN: u32 = 128;

/// The engines with a linker for each; a linker costs about a millisecond to build.
pub(crate) struct Loader {
    engines: Arc<Engines>,
    dense: Linker<Guest>,
    on_demand: OnceLock<Linker<Guest>>,
    pooled: OnceLock<Option<Linker<Guest>>>,
}

impl Loader {
    pub(crate) fn new(engines: Arc<Engines>) -> Result<Arc<Self>> {
        let dense = store::linker(engines.dense())?;
        Ok(Arc::new(Self {
            engines,
            dense,
            on_demand: OnceLock::new(),
            pooled: OnceLock::new(),
        }))
    }

    /// Takes the mappings of code that is loaded as `artefact` says.
    pub(crate) fn place(&self, artefact: &Artefact) -> Result<Place, Full> {
        let engines = if artefact.handler { 2 } else { 1 };
        self.engines.places().take(Needs::code(engines))
    }

    fn on_demand(&self) -> Result<&Linker<Guest>> {
        if let Some(linker) = self.on_demand.get() {
            return Ok(linker);
        }
        let linker = store::linker(self.engines.on_demand())?;
        Ok(self.on_demand.get_or_init(|| linker))
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
    needs: Needs,
    /// Last, so that the code is unmapped before.
    _place: Place,
}

impl Loaded {
    /// Maps `entry` and links it, in the `place` it was given; an error is a damaged file or an import
    /// that is not offered.
    ///
    /// Blocks for as long as reading the file takes.
    pub(crate) fn new(
        digest: CodeDigest,
        entry: &Entry,
        loader: &Loader,
        place: Place,
    ) -> Result<Self> {
        let artefact = &entry.artefact;
        let (linker, filling) = match artefact.dense {
            true => (&loader.dense, Filling::Copied),
            false => (loader.on_demand()?, Filling::Mapped),
        };
        let component = map(linker.engine(), entry)?;
        let pre = linker.instantiate_pre(&component)?;
        let is_told = component
            .component_type()
            .imports(linker.engine())
            .any(|(name, _)| termination::is_interface(name));
        let memories = component.resources_required();
        let memories = memories.map_or(MEMORIES_UNKNOWN, |resources| resources.num_memories);
        let command = artefact
            .command
            .then(|| CommandPre::new(pre.clone()))
            .transpose()?;
        let handler = artefact.handler.then(|| ProxyPre::new(pre)).transpose()?;
        // The pool is not asked for before there is a handler: it takes time and mappings.
        let pool = handler.as_ref().and_then(|_| loader.pooled());
        let pooled_handler = match pool {
            Some(linker) => {
                let pooled = map(linker.engine(), entry)?;
                Some(ProxyPre::new(linker.instantiate_pre(&pooled)?)?)
            }
            None => None,
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
            needs: Needs::instance(memories, filling),
            _place: place,
        })
    }

    /// Whether it learns from us that its container is asked to end.
    pub(crate) fn is_told(&self) -> bool {
        self.is_told
    }

    pub(crate) fn command(&self) -> Option<&CommandPre<Guest>> {
        self.command.as_ref()
    }

    /// What an instance beside the pool takes.
    pub(crate) fn needs(&self) -> Needs {
        self.needs
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
