//! Where dense instances have their memories and stacks: equal slots of reserved address space.
//!
//! A slot that nobody has is address space without a page; the one that has it makes a part of it
//! accessible and takes it back at its end. The kernel joins neighbouring areas that are alike, so a
//! memory costs two mappings, itself and what lies behind it, and a stack the same. Mapped one by
//! one, as the engine does it, an instance costs seven.
//!
//! ```text
//! guard │ memory, 4 GiB │ guard │ memory, 4 GiB │ … │ guard
//! guard │ stack         │ guard │ stack         │ … │ guard
//! ```

use parking_lot::Mutex;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use wasmtime::{LinearMemory, MemoryCreator, MemoryType, StackCreator, StackMemory};

/// What the code of a 32-bit memory may reach without a check: the engine's own reservation.
const MEMORY_BYTES: usize = 4 << 30;
/// What no memory reaches, on both sides of each: the engine's own guard.
const MEMORY_GUARD_BYTES: usize = 32 << 20;
/// The stack of a guest with the host functions it calls: the engine's own size.
const STACK_BYTES: usize = 2 << 20;
/// Below each stack. With it no stack holds a whole aligned piece of two mebibytes, which the kernel
/// may be told to fill with one huge page at the first touch.
const STACK_GUARD_BYTES: usize = 1 << 20;
/// How far apart the stacks are.
const STACK_STRIDE_BYTES: usize = 4 << 20;
/// Chunks begin at a multiple of this: the reach of one page of the page table.
const ALIGNMENT_BYTES: usize = 2 << 20;
/// Slots that are reserved at once. One reservation is one mapping while nobody has a slot of it.
const SLOTS_PER_CHUNK: usize = 64;

/// Slots of one kind.
pub(super) struct Slots {
    /// From slot to slot.
    stride: usize,
    /// At the beginning of a slot, never accessible.
    guard: usize,
    ground: Mutex<Ground>,
}

#[derive(Default)]
struct Ground {
    /// Slots that nobody has, the last used last: their page tables are there already.
    free: Vec<usize>,
    reserved: Vec<Reservation>,
}

/// A piece of address space, given back when dropped.
struct Reservation {
    start: usize,
    bytes: usize,
}

/// A slot that somebody has.
struct Slot {
    slots: Arc<Slots>,
    start: usize,
}

impl Slots {
    pub(super) fn for_memories() -> Arc<Self> {
        Self::new(MEMORY_GUARD_BYTES + MEMORY_BYTES, MEMORY_GUARD_BYTES)
    }

    pub(super) fn for_stacks() -> Arc<Self> {
        Self::new(STACK_STRIDE_BYTES, STACK_GUARD_BYTES)
    }

    fn new(stride: usize, guard: usize) -> Arc<Self> {
        Arc::new(Self {
            stride,
            guard,
            ground: Mutex::default(),
        })
    }

    fn take(self: &Arc<Self>) -> io::Result<Slot> {
        let mut ground = self.ground.lock();
        if ground.free.is_empty() {
            // One slot at a time where the address space is short.
            let reserved = self.reserve(SLOTS_PER_CHUNK).or_else(|_| self.reserve(1))?;
            let first = reserved.start.next_multiple_of(ALIGNMENT_BYTES);
            let count = (reserved.start + reserved.bytes - first - self.guard) / self.stride;
            let slots = (0..count).rev().map(|index| first + index * self.stride);
            ground.free.extend(slots);
            ground.reserved.push(reserved);
        }
        let start = ground.free.pop().expect("a reservation has a slot");
        drop(ground);
        Ok(Slot {
            slots: self.clone(),
            start,
        })
    }

    /// Reserves so many slots, a guard behind the last, and what the alignment may cost.
    fn reserve(&self, slots: usize) -> io::Result<Reservation> {
        let bytes = slots * self.stride + self.guard + ALIGNMENT_BYTES;
        let start = map_nothing(None, bytes)?;
        Ok(Reservation { start, bytes })
    }

    fn give_back(&self, start: usize) {
        if let Err(error) = map_nothing(Some(start), self.stride) {
            // Leaves the slot to nobody: what is in it must not reach another guest.
            tracing::error!(%error, "failed to give back the memory of an instance");
            return;
        }
        self.ground.lock().free.push(start);
    }
}

impl Slot {
    /// The first byte behind the guard.
    fn base(&self) -> usize {
        self.start + self.slots.guard
    }

    /// Makes a part of the slot accessible, in bytes from its base; the caller keeps within the slot.
    fn open(&self, part: Range<usize>) -> io::Result<()> {
        let (start, end) = (page_floor(part.start), part.end);
        debug_assert!(end <= self.slots.stride - self.slots.guard);
        if start >= end {
            return Ok(());
        }
        let address = (self.base() + start) as *mut libc::c_void;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        #[expect(unsafe_code, reason = "memory of a guest is made accessible")]
        // SAFETY: the range lies in a slot that this value has alone, so no other Rust object is there.
        let result = unsafe { libc::mprotect(address, end - start, access) };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.give_back(self.start);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "address space is given back")]
        // SAFETY: it was mapped by `reserve`, and every slot of it is back: a slot holds the `Slots`
        // whose drop this is.
        let result = unsafe { libc::munmap(self.start as *mut libc::c_void, self.bytes) };
        debug_assert_eq!(result, 0);
    }
}

/// Maps address space without access and without a page, somewhere or over what is there.
fn map_nothing(at: Option<usize>, bytes: usize) -> io::Result<usize> {
    let (address, fixed) = match at {
        Some(address) => (address, libc::MAP_FIXED),
        None => (0, 0),
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    let address = address as *mut libc::c_void;
    #[expect(unsafe_code, reason = "address space is reserved and given back")]
    // SAFETY: without an address it touches no mapping; with one it is a slot that its owner gives
    // back, and nothing refers to it any more.
    let start = unsafe { libc::mmap(address, bytes, libc::PROT_NONE, flags, -1, 0) };
    match start {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        start => Ok(start as usize),
    }
}

/// The memory of a guest ends at a multiple of 64 KiB, which is one of every page size in use.
fn page_floor(bytes: usize) -> usize {
    bytes - bytes % (64 << 10)
}

/// Gives dense instances their memories.
pub(super) struct MemorySlots(pub(super) Arc<Slots>);

/// The memory of a guest in a slot.
struct SlotMemory {
    slot: Slot,
    bytes: usize,
}

#[expect(unsafe_code, reason = "the engine trusts what it is given here")]
// SAFETY: a memory starts zeroed, since its slot was mapped afresh after its last use; from its base the
// slot reserves `MEMORY_BYTES`, and the guard of the next slot or of the chunk follows.
unsafe impl MemoryCreator for MemorySlots {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let fits = reserved.unwrap_or(0) <= MEMORY_BYTES && guard <= MEMORY_GUARD_BYTES;
        // Invariant: other memories are compiled for the engine that maps them.
        if ty.is_64() || ty.is_shared() || !fits || minimum > MEMORY_BYTES {
            return Err("the memory does not fit a slot".into());
        }
        let failed = |error: io::Error| format!("failed to map a memory: {error}");
        let slot = self.0.take().map_err(failed)?;
        slot.open(0..minimum).map_err(failed)?;
        Ok(Box::new(SlotMemory {
            slot,
            bytes: minimum,
        }))
    }
}

#[expect(unsafe_code, reason = "the engine trusts what it is given here")]
// SAFETY: the base never moves while the slot is held, and `bytes` of it are accessible.
unsafe impl LinearMemory for SlotMemory {
    fn byte_size(&self) -> usize {
        self.bytes
    }

    fn byte_capacity(&self) -> usize {
        MEMORY_BYTES
    }

    fn grow_to(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if bytes > MEMORY_BYTES {
            return Err(wasmtime::Error::msg("a memory cannot be larger than 4 GiB"));
        }
        self.slot.open(self.bytes..bytes)?;
        self.bytes = bytes;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot.base() as *mut u8
    }
}

/// Gives dense instances their stacks.
pub(super) struct StackSlots(pub(super) Arc<Slots>);

/// The stack of a guest in a slot.
struct SlotStack(Slot);

#[expect(unsafe_code, reason = "the engine trusts what it is given here")]
// SAFETY: a stack starts zeroed, since its slot was mapped afresh after its last use, and its guard lies
// below it.
unsafe impl StackCreator for StackSlots {
    fn new_stack(&self, size: usize, _zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        if size > STACK_BYTES {
            return Err(wasmtime::Error::msg("the stack does not fit a slot"));
        }
        let slot = self.0.take()?;
        slot.open(0..STACK_BYTES)?;
        Ok(Box::new(SlotStack(slot)))
    }
}

#[expect(unsafe_code, reason = "the engine trusts what it is given here")]
// SAFETY: the range is accessible and nobody else's as long as the slot is held; the guard is not.
unsafe impl StackMemory for SlotStack {
    fn top(&self) -> *mut u8 {
        self.range().end as *mut u8
    }

    fn range(&self) -> Range<usize> {
        self.0.base()..self.0.base() + STACK_BYTES
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.0.start as *mut u8..self.0.base() as *mut u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who may read and write what lies at `address`, and how far, by the kernel's own list.
    fn mapping(address: usize) -> (String, Range<usize>) {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("the kernel lists mappings");
        let found = maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let parse = |text| usize::from_str_radix(text, 16).expect("an address");
            let range = parse(start)..parse(end);
            range
                .contains(&address)
                .then(|| (rest[..4].to_owned(), range))
        });
        found.expect("it is mapped")
    }

    #[test]
    fn a_slot_that_came_back_is_empty_and_without_access() {
        let slots = Slots::for_stacks();
        let slot = slots.take().expect("there is address space");
        slot.open(0..STACK_BYTES).expect("it is ours");
        let base = slot.base();
        assert_eq!(mapping(base), ("rw-p".into(), base..base + STACK_BYTES));
        assert_eq!(mapping(base - 1).0, "---p", "the guard");
        assert_eq!(
            mapping(base + STACK_BYTES).0,
            "---p",
            "the next one's guard"
        );
        #[expect(unsafe_code, reason = "a test writes as a guest would")]
        // SAFETY: the slot is open and held here alone.
        unsafe {
            *(base as *mut u8) = 7;
        }
        drop(slot);
        let (access, joined) = mapping(base);
        assert_eq!(access, "---p");
        assert!(joined.len() > STACK_STRIDE_BYTES, "it is one with the rest");
        let again = slots.take().expect("there is address space");
        again.open(0..STACK_BYTES).expect("it is ours");
        assert_eq!(again.base(), base, "the last used comes first");
        #[expect(unsafe_code, reason = "a test reads as a guest would")]
        // SAFETY: the slot is open and held here alone.
        let byte = unsafe { *(base as *const u8) };
        assert_eq!(byte, 0);
    }

    #[test]
    fn slots_lie_apart_and_within_their_reservation() {
        let slots = Slots::for_memories();
        let held: Vec<Slot> = (0..=SLOTS_PER_CHUNK)
            .map(|_| slots.take().expect("there is address space"))
            .collect();
        let mut bases: Vec<usize> = held.iter().map(Slot::base).collect();
        bases.sort_unstable();
        let apart = MEMORY_BYTES + MEMORY_GUARD_BYTES;
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= apart));
        for base in bases {
            let (access, around) = mapping(base);
            assert_eq!(access, "---p");
            assert!(around.start <= base - MEMORY_GUARD_BYTES);
            assert!(around.end >= base + apart);
        }
    }
}
