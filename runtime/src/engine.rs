//! The configurations of the engine, and how many instances this machine lets them hold.
//!
//! *Pooled* keeps slots ready and suits handlers, which need a fresh instance for every request; *on
//! demand* maps memory for each instance. Both share every setting that decides about machine code, so
//! they load the same compiled files. *Dense* suits commands with few data, of which there are many at
//! once: it copies their data, where the others map them, and has memories and stacks in [`slots`], so
//! that an instance costs four mappings and not seven. Its code is compiled for it alone.

use sha2::{Digest, Sha256};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

mod host;
mod places;
#[cfg(target_os = "linux")]
mod slots;

use host::HostLimits;
pub use places::Full;
pub(crate) use places::{Filling, Needs, Place, Places};

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

/// Mappings left to the rest of the process: libraries and the allocator (200 measured with 10,000 pods),
/// and four of each thread, of which the agent may start 512 for files and each guest thread 64.
const MAPPINGS_RESERVED: u64 = 4_096;
/// Mappings of a pooled instance with all it may have: its stack with the guard, and for each memory what
/// lies before the image, the image, what lies behind it, and the guard. A slot keeps them when it is free.
const MAPPINGS_PER_POOLED: u64 = 2 + 4 * POOL_MEMORIES_PER_INSTANCE;
/// The pool takes at most this part of the mappings and of the address space: commands need the rest.
const POOL_SHARE: u64 = 4;
/// Address space of one linear memory: 4 GiB and a guard region on both sides.
const ADDRESS_SPACE_PER_MEMORY: u64 = (4 << 30) + 2 * (32 << 20);
/// Data of a program that are copied into each instance: as many pages as a mapping of its own and the
/// page table for it cost the kernel, some times over. Larger ones are mapped, and shared.
pub(crate) const COPIED_DATA_BYTES_MAX: u64 = 64 * 1024;

/// How many guest instances can be alive at once, and what keeps them from being more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Instances alive at once beside those of the pool: commands, programs started by `exec`, requests
    /// for which the pool has no slot. One with several memories, or with many data, counts more than once.
    pub instances: u64,
    /// How many of them could start now.
    pub free: u64,
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

impl BindingLimit {
    /// What its owner can do about it.
    fn advice(self) -> &'static str {
        match self {
            BindingLimit::MemoryMappings => {
                "raise it, for example with `sysctl -w vm.max_map_count=1048576`"
            }
            BindingLimit::AddressSpaceLimit => "raise it, for example with `ulimit -v unlimited`",
            BindingLimit::AddressSpace => "use another node",
        }
    }
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

/// All configurations of the engine.
pub(crate) struct Engines {
    dense: Engine,
    on_demand: Engine,
    /// Made when the first handler starts: its reservations cost start-up time. Nothing inside if
    /// the machine does not allow them.
    pooled: OnceLock<Option<Engine>>,
    host: HostLimits,
    places: Arc<Places>,
}

impl Engines {
    /// Builds the engines for commands; fails only on a processor that the compiler does not know.
    /// Instances and code take at most `mappings_max` mappings, if that is less than the machine allows.
    pub(crate) fn new(mappings_max: Option<u64>) -> wasmtime::Result<Arc<Self>> {
        let host = HostLimits {
            mappings_max,
            ..HostLimits::read()
        };
        Ok(Arc::new(Self {
            dense: Engine::new(&dense_config())?,
            on_demand: Engine::new(&code_config())?,
            pooled: OnceLock::new(),
            places: Arc::new(Places::new(&host)),
            host,
        }))
    }

    /// Returns the engine for commands with few data.
    pub(crate) fn dense(&self) -> &Engine {
        &self.dense
    }

    /// Returns the engine that maps memory and data for each instance.
    pub(crate) fn on_demand(&self) -> &Engine {
        &self.on_demand
    }

    /// Returns the engine for handlers, or nothing where the machine allows no pool.
    pub(crate) fn pooled(&self) -> Option<&Engine> {
        self.pooled.get_or_init(|| self.build_pooled()).as_ref()
    }

    /// Returns who may have an instance beside the pool.
    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Lets every running guest yield at its next loop or call.
    pub(crate) fn tick(&self) {
        self.dense.increment_epoch();
        self.on_demand.increment_epoch();
        if let Some(Some(pooled)) = self.pooled.get() {
            pooled.increment_epoch();
        }
    }

    /// Returns a stable text for everything that decides about machine code.
    pub(crate) fn compatibility(&self) -> String {
        compatibility(&[&self.on_demand, &self.dense])
    }

    pub(crate) fn capacity(&self, abandoned_operations: u64) -> Capacity {
        let (instances, limit) = self.host.instances();
        let pooled = match self.pooled.get() {
            Some(None) => 0,
            Some(Some(_)) | None => self.host.pool_instances().unwrap_or(0),
        };
        Capacity {
            instances,
            free: self.places.free(),
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
    /// How many small instances fit, and the limit that says so.
    fn instances(&self) -> (u64, BindingLimit) {
        let mappings = Needs::smallest().fits(self.mappings());
        let (memories, limit) = self.memories();
        if mappings <= memories {
            (mappings, BindingLimit::MemoryMappings)
        } else {
            (memories, limit)
        }
    }

    /// The mappings that instances and code may take: neither those of the pool, which may come later,
    /// nor those of the rest of the process.
    fn mappings(&self) -> u64 {
        // A system without such a limit is bound by address space long before.
        let all = self.free_mappings().unwrap_or(u64::from(u32::MAX));
        let pool = self.pool_instances().unwrap_or(0) * MAPPINGS_PER_POOLED;
        let left = all.saturating_sub(pool);
        self.mappings_max.map_or(left, |most| most.min(left))
    }

    fn free_mappings(&self) -> Option<u64> {
        let count = self.max_map_count?;
        Some(count.saturating_sub(MAPPINGS_RESERVED))
    }

    /// The memories for which there is address space beside the pool, and the limit that says so.
    fn memories(&self) -> (u64, BindingLimit) {
        let (all, limit) = self.all_memories();
        let pool = self.pool_instances().unwrap_or(0) * POOL_MEMORIES_PER_INSTANCE;
        (all.saturating_sub(pool), limit)
    }

    fn all_memories(&self) -> (u64, BindingLimit) {
        let space = self.address_space / ADDRESS_SPACE_PER_MEMORY;
        match self.address_space_limit {
            Some(bytes) if bytes < self.address_space => {
                let memories = bytes / ADDRESS_SPACE_PER_MEMORY;
                (memories, BindingLimit::AddressSpaceLimit)
            }
            Some(_) | None => (space, BindingLimit::AddressSpace),
        }
    }

    fn pool_instances(&self) -> Option<u64> {
        let by_memories = self.all_memories().0 / (POOL_SHARE * POOL_MEMORIES_PER_INSTANCE);
        let by_mappings = self
            .free_mappings()
            .map_or(u64::MAX, |count| count / (POOL_SHARE * MAPPINGS_PER_POOLED));
        let instances = by_memories.min(by_mappings).min(POOL_INSTANCES_MAX);
        (instances >= POOL_INSTANCES_MIN).then_some(instances)
    }
}

/// The settings that decide about machine code, equal on demand, in the pool and in the compiler child.
/// Cranelift only.
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

/// The settings of the dense configuration, here and in the compiler child.
pub(crate) fn dense_config() -> Config {
    let mut config = code_config();
    config.memory_init_cow(false);
    #[cfg(target_os = "linux")]
    {
        let memories = slots::MemorySlots(slots::Slots::for_memories());
        let stacks = slots::StackSlots(slots::Slots::for_stacks());
        config
            .with_host_memory(Arc::new(memories))
            .with_host_stack(Arc::new(stacks));
    }
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

/// Returns a stable text for everything of `engines` that decides about machine code.
fn compatibility(engines: &[&Engine]) -> String {
    let mut hasher = StableHasher(Sha256::new());
    for engine in engines {
        engine.precompile_compatibility_hash().hash(&mut hasher);
    }
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
            mappings_max: None,
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
    fn the_usual_limit_of_mappings_leaves_room_for_ten_thousand_commands_and_the_pool() {
        let usual = limits(Some(65_530), None);
        assert!(usual.instances().0 >= 12_000, "{usual:?}");
        assert_eq!(usual.pool_instances(), Some(POOL_INSTANCES_MAX));
        let pool = POOL_INSTANCES_MAX * MAPPINGS_PER_POOLED;
        assert!(usual.mappings() + pool + MAPPINGS_RESERVED <= 65_530);
    }

    #[test]
    fn a_tight_machine_leaves_no_pool() {
        assert_eq!(limits(Some(65_530), Some(32 << 30)).pool_instances(), None);
        assert_eq!(limits(Some(4_200), None).pool_instances(), None);
        assert_eq!(limits(Some(1_000), None).instances().0, 0);
    }

    #[test]
    fn the_pool_loads_the_code_that_is_compiled_for_mapped_memory() {
        let engines = Engines::new(None).expect("engine");
        let pooled = engines.pooled().expect("this machine allows a pool");
        let own = |engine| compatibility(&[engine]);
        assert_eq!(own(engines.on_demand()), own(pooled));
        assert_ne!(own(engines.dense()), own(pooled));
    }
}
