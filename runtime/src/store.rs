//! What a guest's store holds, and the linker that connects a guest to it.

use crate::account::{Account, Held};
use crate::fs::{FsCtx, FsState, FsView};
use crate::http_types;
use crate::outgoing::{self, OutgoingHttp, Trust};
use crate::random;
use crate::sockets::{NetCtx, NetState, NetView};
use crate::spec::{ContainerId, OnStop, SandboxSpec};
use crate::stdio::{GuestInput, GuestOutput};
use crate::termination::{self, Closing, TerminationView};
use std::sync::Arc;
use std::time::Instant;
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime::{Engine, ResourceLimiterAsync, Store};
use wasmtime_wasi::p2::bindings::cli::environment;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_io::IoView;

/// Bytes charged for one entry of a table: a pointer.
const TABLE_ENTRY_BYTES: u64 = 8;
/// Memories of one instance. Each takes mappings and 4 GiB of address space that nobody charges, however
/// small it is; the engine's own limit is 10,000.
const MEMORIES_MAX: usize = 128;
/// Resources of one instance at once, of all kinds: its 1,024 sockets and as many open files with the
/// streams and pollables of each. They live in our memory and are not charged one by one, and one may
/// be as large as [`FIELDS_BYTES_MAX`]; the engine's own limit is a million.
const RESOURCES_MAX: usize = 8_192;
/// Resources for which there is room from the beginning: those of one request and its answer.
const RESOURCES_USUAL: usize = 8;
/// Bytes of the header fields that a guest puts together, as of a request's head that we read.
pub(crate) const FIELDS_BYTES_MAX: usize = 64 * 1024;
/// Random bytes for one call of the kinds that are made without a pause: 64 MiB, the engine's own limit, would
/// keep a guest thread from everybody else for a good part of a second. Secure ones come in pieces.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// Bytes that one host call copies out of a guest's memory, as a list or a text, before it looks at them;
/// the engine's own limit is 128 MiB. No interface of ours takes more than a mebibyte at once.
pub(crate) const CALL_BYTES_MAX: usize = 16 << 20;

/// What every instance of one container shares, or what one program in a container runs with.
pub(crate) struct Container {
    pub(crate) spec: SandboxSpec,
    pub(crate) account: Arc<Account>,
    pub(crate) closing: Arc<Closing>,
    trust: Arc<Trust>,
}

impl Container {
    pub(crate) fn new(spec: SandboxSpec, account: Arc<Account>) -> Arc<Self> {
        let (files, env) = (spec.files.clone(), spec.env.clone());
        let trust = Trust::new(outgoing::of_process, files, env, account.clone());
        Arc::new(Self {
            spec,
            account,
            closing: Arc::default(),
            trust: Arc::new(trust),
        })
    }

    /// Whether its program learns from us that it is asked to end.
    pub(crate) fn is_told(&self) -> bool {
        self.spec.program.inner().is_told()
    }

    /// What closes the inputs of a program that is given its grace without being told.
    fn closing_inputs(&self) -> Option<Arc<Closing>> {
        let silently = !self.is_told() && self.spec.on_stop == OnStop::Grace;
        silently.then(|| self.closing.clone())
    }
    pub(crate) fn id(&self) -> &ContainerId {
        &self.spec.id
    }

    /// Makes a store for a fresh instance of this container.
    pub(crate) fn new_store(self: &Arc<Self>, engine: &Engine) -> Store<Guest> {
        let mut store = Store::new(engine, Guest::new(self.clone()));
        store.limiter_async(|guest| &mut guest.memory);
        store.set_hostcall_fuel(CALL_BYTES_MAX);
        // One tick from now, then every tick: a busy guest gives its thread back so often.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }
}

/// The data of one guest's store. A handler has an instance for each request, and most of these only answer:
/// what not every guest uses is made when it is first used.
pub(crate) struct Guest {
    container: Arc<Container>,
    table: ResourceTable,
    http: WasiHttpCtx,
    memory: MemoryMeter,
    wasi: Option<Box<Wasi>>,
    outgoing: Option<OutgoingHttp>,
    files: Option<FsState>,
    network: Option<NetState>,
}

/// Clocks, random numbers and standard streams.
struct Wasi {
    ctx: WasiCtx,
    outputs: Outputs,
}

/// What a guest writes its lines to. Clones are the same streams.
#[derive(Clone)]
pub(crate) struct Outputs {
    pub(crate) stdout: GuestOutput,
    pub(crate) stderr: GuestOutput,
}

impl Outputs {
    /// Waits until the container's outputs have taken what the guest wrote.
    pub(crate) async fn drained(&self) {
        self.stdout.drained().await;
        self.stderr.drained().await;
    }
}

impl Wasi {
    fn new(container: &Container) -> Box<Self> {
        let spec = &container.spec;
        let stdout = GuestOutput::new(spec.stdout.clone(), spec.terminal);
        let stderr = GuestOutput::new(spec.stderr.clone(), spec.terminal);
        let ctx = WasiCtx::builder()
            .stdin(GuestInput::new(
                spec.stdin.clone(),
                spec.terminal,
                container.closing_inputs(),
            ))
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .max_random_size(RANDOM_BYTES_MAX)
            .build();
        let outputs = Outputs { stdout, stderr };
        Box::new(Self { ctx, outputs })
    }
}

impl Guest {
    fn new(container: Arc<Container>) -> Self {
        let mut table = ResourceTable::with_capacity(RESOURCES_USUAL);
        table.set_max_capacity(RESOURCES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        Self {
            table,
            http,
            memory: MemoryMeter {
                account: container.account.clone(),
                charged: 0,
                refused_at: None,
            },
            wasi: None,
            outgoing: None,
            files: None,
            network: None,
            container,
        }
    }

    /// Returns its resources.
    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// Returns what it writes its lines to, if it ever looked at it.
    pub(crate) fn outputs(&self) -> Option<&Outputs> {
        Some(&self.wasi.as_ref()?.outputs)
    }

    /// Returns what it writes its lines to.
    pub(crate) fn open_outputs(&mut self) -> &Outputs {
        let wasi = self.wasi.get_or_insert_with(|| Wasi::new(&self.container));
        &wasi.outputs
    }

    /// Returns the bytes of its memories and tables.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.charged
    }

    /// Charges `bytes` that we hold for this guest; a container for which there is no room ends.
    pub(crate) fn hold(&self, bytes: u64) -> Option<Held> {
        Held::new(&self.container.account, bytes)
    }

    /// Returns when this instance was last refused memory.
    pub(crate) fn refused_memory_at(&self) -> Option<Instant> {
        self.memory.refused_at
    }
}

impl IoView for Guest {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| Wasi::new(&self.container));
        WasiCtxView {
            ctx: &mut wasi.ctx,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let container = &self.container;
        let outgoing = self.outgoing.get_or_insert_with(|| {
            let (network, account) = (&container.spec.network, &container.account);
            OutgoingHttp::new(network.clone(), account.clone(), container.trust.clone())
        });
        WasiHttpCtxView {
            hooks: outgoing,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

impl FsView for Guest {
    fn fs(&mut self) -> FsCtx<'_> {
        let files = &self.container.spec.files;
        FsCtx {
            table: &mut self.table,
            state: self
                .files
                .get_or_insert_with(|| FsState::new(files.clone())),
        }
    }
}

impl NetView for Guest {
    fn net(&mut self) -> NetCtx<'_> {
        let container = &self.container;
        NetCtx {
            table: &mut self.table,
            state: self.network.get_or_insert_with(|| {
                NetState::new(container.spec.network.clone(), container.closing_inputs())
            }),
        }
    }
}

impl TerminationView for Guest {
    fn termination(&mut self) -> (&mut ResourceTable, &Arc<Closing>) {
        (&mut self.table, &self.container.closing)
    }
}

/// Charges the guest's memories and tables to the container's account.
struct MemoryMeter {
    account: Arc<Account>,
    /// Everything charged for this store; given back when it is dropped. A growth that was
    /// allowed here and then refused by the system stays charged until then: the engine reports
    /// failed growths also when it never asked, so giving back at a report could free too much.
    charged: u64,
    /// Kept per instance: what one program of a container is refused is no other's cause of death.
    refused_at: Option<Instant>,
}

impl MemoryMeter {
    async fn grow(&mut self, bytes: u64) -> bool {
        if self.account.grow_or_make_room(bytes).await.is_err() {
            self.refused_at = Some(Instant::now());
            return false;
        }
        self.charged += bytes;
        true
    }
}

#[async_trait::async_trait]
impl ResourceLimiterAsync for MemoryMeter {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current) as u64).await)
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let bytes = desired.saturating_sub(current) as u64 * TABLE_ENTRY_BYTES;
        Ok(self.grow(bytes).await)
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

impl Drop for MemoryMeter {
    fn drop(&mut self) {
        self.account.shrink(self.charged);
    }
}

/// Makes the linker that offers a guest everything [`crate::judge()`] accepts.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    // Streams and pollables need the table alone; what sockets have of their own comes after.
    linker.allow_shadowing(true);
    wasmtime_wasi_io::add_to_linker_async(&mut linker)?;
    linker.allow_shadowing(false);
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    http_types::add_to_linker(&mut linker)?;
    // Files, sockets and the environment are the container's, not the host's; the first two set
    // and reset the linker's permission to shadow by themselves.
    crate::fs::add_to_linker(&mut linker)?;
    crate::sockets::add_to_linker(&mut linker)?;
    termination::add_to_linker(&mut linker)?;
    random::add_to_linker(&mut linker)?;
    linker.allow_shadowing(true);
    environment::add_to_linker::<Guest, Environment>(&mut linker, |guest| EnvironmentView {
        spec: &guest.container.spec,
    })?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// `wasi:cli/environment` from the container's description, so that a fresh instance copies
/// nothing that its guest does not ask for.
struct Environment;

struct EnvironmentView<'a> {
    spec: &'a SandboxSpec,
}

impl HasData for Environment {
    type Data<'a> = EnvironmentView<'a>;
}

impl environment::Host for EnvironmentView<'_> {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.spec.env.to_vec())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.spec.args.clone())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(Some(self.spec.working_dir.clone()))
    }
}
