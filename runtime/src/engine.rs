//! The two configurations of the engine, and how many instances this machine lets them hold.
//!
//! Both share every setting that decides about machine code, so they load the same compiled
//! files: *on demand* maps memory for each instance and suits commands, *pooled* keeps slots
//! ready and suits handlers, which need a fresh instance for every request.

use sha2::{Digest, Sha256};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

mod host;

use host::HostLimits;

/// Slots of the pool at most. A slot serves one request at a time, in well under a millisecond
/// for small guests; more would cost page tables and start-up time for nothing.
const POOL_INSTANCES_MAX: u64 = 1_024;
/// A pool smaller than this is not worth its reservations.
const POOL_INSTANCES_MIN: u64 = 16;
/// What one pooled component may hold on average; one that needs more still starts while others
/// need less.
const POOL_MEMORIES_PER_INSTANCE: u64 = 2;
const POOL_TABLES_PER_INSTANCE: u64 = 4;
const POOL_CORE_INSTANCES_PER_INSTANCE: u64 = 8;
/// Bytes of a used slot that are wiped by hand instead of given back to the kernel: covers what
/// small guests dirty; more made no measurable difference.
const POOL_MEMORY_KEEP_RESIDENT: usize = 256 * 1024;
const POOL_TABLE_KEEP_RESIDENT: usize = 8 * 1024;
/// Entries of a pooled table. Large interpreters need several thousand.
const POOL_TABLE_ELEMENTS: usize = 20_000;

/// Memory mappings of one suspended instance with its stack, measured: on demand 6, pooled 5
/// and one more to spare for a second memory.
const MAPPINGS_PER_INSTANCE: u64 = 6;
/// Mappings left to the rest of the process: code images, threads, libraries.
const MAPPINGS_RESERVED: u64 = 4_096;
/// Address space of one linear memory: 4 GiB and a guard region on both sides.
const ADDRESS_SPACE_PER_MEMORY: u64 = (4 << 30) + 2 * (32 << 20);

/// How many guest instances can be alive at once, and what keeps them from being more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Instances alive at once, commands and requests being served together.
    pub instances: u64,
    /// Requests that can be served at once from the pool; 0 when this machine allows no pool and
    /// every request maps memory of its own.
    pub pooled: u64,
    /// The limit that decided `instances`.
    pub limit: BindingLimit,
    /// Host operations whose guest was ended and that the kernel has not finished yet. Such an
    /// operation keeps a thread of the blocking pool until it returns.
    pub abandoned_operations: u64,
}

/// The limit of the machine that binds the number of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingLimit {
    /// `vm.max_map_count`: memory mappings of one process.
    MemoryMappings,
    /// The process's `RLIMIT_AS`.
    AddressSpaceLimit,
    /// The bits of an address that the processor offers to programs.
    AddressSpace,
}

impl fmt::Display for BindingLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BindingLimit::MemoryMappings => "vm.max_map_count",
            BindingLimit::AddressSpaceLimit => "the address space limit of the process (ulimit -v)",
            BindingLimit::AddressSpace => "the virtual address space",
        })
    }
}

/// Both configurations of the engine.
pub(crate) struct Engines {
    on_demand: Engine,
    /// Made when the first handler starts: its reservations cost start-up time. Nothing inside if
    /// the machine does not allow them.
    pooled: OnceLock<Option<Engine>>,
    host: HostLimits,
}

impl Engines {
    /// Builds the engine for commands; fails only on a processor that the compiler does not know.
    pub(crate) fn new() -> wasmtime::Result<Arc<Self>> {
        let on_demand = Engine::new(&code_config())?;
        Ok(Arc::new(Self {
            on_demand,
            pooled: OnceLock::new(),
            host: HostLimits::read(),
        }))
    }

    pub(crate) fn on_demand(&self) -> &Engine {
        &self.on_demand
    }

    /// Returns the engine for handlers, or nothing where the machine allows no pool.
    pub(crate) fn pooled(&self) -> Option<&Engine> {
        self.pooled.get_or_init(|| self.build_pooled()).as_ref()
    }

    /// Lets every running guest yield at its next loop or call.
    pub(crate) fn tick(&self) {
        self.on_demand.increment_epoch();
        if let Some(Some(pooled)) = self.pooled.get() {
            pooled.increment_epoch();
        }
    }

    pub(crate) fn capacity(&self, abandoned_operations: u64) -> Capacity {
        let (instances, limit) = self.host.instances();
        let pooled = match self.pooled.get() {
            Some(None) => 0,
            Some(Some(_)) | None => self.host.pool_instances().unwrap_or(0),
        };
        Capacity {
            instances,
            pooled,
            limit,
            abandoned_operations,
        }
    }

    fn build_pooled(&self) -> Option<Engine> {
        let instances = self.host.pool_instances()?;
        let mut config = code_config();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances)));
        match Engine::new(&config) {
            Ok(engine) => Some(engine),
            Err(error) => {
                tracing::warn!(
                    %error,
                    instances,
                    "no instance pool on this machine, requests map memory of their own"
                );
                None
            }
        }
    }
}

impl HostLimits {
    /// How many instances fit, and the limit that says so.
    fn instances(&self) -> (u64, BindingLimit) {
        let mappings = self.max_map_count.map(|count| {
            let free = count.saturating_sub(MAPPINGS_RESERVED);
            (free / MAPPINGS_PER_INSTANCE, BindingLimit::MemoryMappings)
        });
        let limited = self.address_space_limit.map(|bytes| {
            (
                bytes / ADDRESS_SPACE_PER_MEMORY,
                BindingLimit::AddressSpaceLimit,
            )
        });
        let space = (
            self.address_space / ADDRESS_SPACE_PER_MEMORY,
            BindingLimit::AddressSpace,
        );
        [mappings, limited, Some(space)]
            .into_iter()
            .flatten()
            .min_by_key(|(instances, _)| *instances)
            .unwrap_or(space)
    }

    /// The pool takes at most a quarter of what fits: commands need the rest.
    fn pool_instances(&self) -> Option<u64> {
        let quarter = self.instances().0 / (2 * POOL_MEMORIES_PER_INSTANCE);
        let instances = quarter.min(POOL_INSTANCES_MAX);
        (instances >= POOL_INSTANCES_MIN).then_some(instances)
    }
}

/// The settings that decide about machine code, equal in both configurations and in the compiler
/// child. Cranelift only.
pub(crate) fn code_config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // The state for concurrent calls costs 4 to 5 µs a request, and WASI 0.2 has no use for it.
        .concurrency_support(false)
        // Decided here and not by an environment variable of whoever starts the process.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

fn pool(instances: u64) -> PoolingAllocationConfig {
    let count = |per_instance: u64| u32::try_from(instances * per_instance).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(count(1))
        .total_stacks(count(1))
        .total_gc_heaps(count(1))
        .total_memories(count(POOL_MEMORIES_PER_INSTANCE))
        .total_tables(count(POOL_TABLES_PER_INSTANCE))
        .total_core_instances(count(POOL_CORE_INSTANCES_PER_INSTANCE))
        .table_elements(POOL_TABLE_ELEMENTS)
        .linear_memory_keep_resident(POOL_MEMORY_KEEP_RESIDENT)
        .table_keep_resident(POOL_TABLE_KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto)
        // A slot that last held the same component starts without mapping its image again: with
        // fewer warm slots than busy components a request costs twice as much.
        .max_unused_warm_slots(count(1));
    pool
}

/// Returns a stable text for everything of `engine` that decides about machine code.
pub(crate) fn compatibility(engine: &Engine) -> String {
    let mut hasher = StableHasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hex(&hasher.0.finalize()[..16])
}

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
            text
        })
}

/// The standard library's hasher may differ between builds of this program; this one may not,
/// since its value names folders that outlive the process.
struct StableHasher(Sha256);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        u64::from_le_bytes(digest[..8].try_into().expect("a digest has eight bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(map_count: Option<u64>, address_space_limit: Option<u64>) -> HostLimits {
        HostLimits {
            max_map_count: map_count,
            address_space_limit,
            address_space: 1 << 47,
        }
    }

    #[test]
    fn the_limit_that_binds_is_named() {
        let check = |limits: HostLimits, expected: BindingLimit| {
            assert_eq!(limits.instances().1, expected, "{limits:?}");
        };
        check(limits(Some(65_530), None), BindingLimit::MemoryMappings);
        check(limits(Some(4_000_000), None), BindingLimit::AddressSpace);
        check(limits(None, None), BindingLimit::AddressSpace);
        check(
            limits(Some(65_530), Some(64 << 30)),
            BindingLimit::AddressSpaceLimit,
        );
    }

    #[test]
    fn a_tight_address_space_leaves_no_pool() {
        assert_eq!(limits(Some(65_530), Some(32 << 30)).pool_instances(), None);
        assert_eq!(
            limits(Some(65_530), None).pool_instances(),
            Some(POOL_INSTANCES_MAX)
        );
    }

    #[test]
    fn both_configurations_load_the_same_code() {
        let engines = Engines::new().expect("engine");
        let pooled = engines.pooled().expect("this machine allows a pool");
        assert_eq!(compatibility(engines.on_demand()), compatibility(pooled));
    }
}
