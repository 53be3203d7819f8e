//! Who may have an instance: a count of what instances take of the machine's limits.
//!
//! An instance maps memories and a stack, and the kernel allows a process only so many mappings. At
//! that limit not only the instance fails: giving memory back fails too, and so does starting a
//! thread, which ends the whole process. So every instance takes a [`Place`] before it maps
//! anything, and what the rest of the process needs is never given away.

use super::BindingLimit;
use super::host::HostLimits;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Mappings of a stack: it and its guard.
const MAPPINGS_PER_STACK: u32 = 2;
/// Mappings of a memory that its data were copied into: it and what lies behind it.
const MAPPINGS_PER_COPIED_MEMORY: u32 = 2;
/// Mappings of a memory that its data are mapped into: what lies before the image, the image, what
/// lies behind it in the memory, and the guard.
const MAPPINGS_PER_MAPPED_MEMORY: u32 = 4;
/// Mappings of a compiled file in one engine, measured: its head, its code, its data; and one for the
/// image of its memory.
const MAPPINGS_PER_CODE: u32 = 4;

/// What one instance, or one loaded program, takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    mappings: u32,
    memories: u32,
}

/// How the data of a program come into its memories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filling {
    /// They are copied.
    Copied,
    /// They are mapped from the compiled file.
    Mapped,
}

impl Needs {
    /// What an instance with `memories` takes.
    pub(crate) fn instance(memories: u32, filling: Filling) -> Self {
        let each = match filling {
            Filling::Copied => MAPPINGS_PER_COPIED_MEMORY,
            Filling::Mapped => MAPPINGS_PER_MAPPED_MEMORY,
        };
        Self {
            mappings: memories.saturating_mul(each) + MAPPINGS_PER_STACK,
            memories,
        }
    }

    /// What code takes that is loaded into so many engines.
    pub(crate) fn code(engines: u32) -> Self {
        Self {
            mappings: engines.saturating_mul(MAPPINGS_PER_CODE),
            memories: 0,
        }
    }

    /// The small program that a capacity is counted in: one memory, data copied.
    pub(super) fn smallest() -> Self {
        Self::instance(1, Filling::Copied)
    }

    /// How many of it fit into so many mappings.
    pub(super) fn fits(self, mappings: u64) -> u64 {
        mappings / u64::from(self.mappings)
    }
}

/// The right to have an instance; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _mappings: OwnedSemaphorePermit,
    _memories: OwnedSemaphorePermit,
}

/// The machine has no room for one more instance.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "no room for another instance: {limit} allows {allowed} {unit} and {taken} are taken: {advice}"
)]
pub struct Full {
    /// The limit that binds.
    pub limit: BindingLimit,
    /// How many the limit leaves to instances.
    pub allowed: u64,
    /// How many instances have of them.
    pub taken: u64,
    unit: &'static str,
    advice: &'static str,
}

/// What is left of the machine's limits. Taking and giving back are atomic counts.
pub(crate) struct Places {
    mappings: Pool,
    memories: Pool,
}

/// One limited thing.
struct Pool {
    free: Arc<Semaphore>,
    all: u64,
    limit: BindingLimit,
}

impl Pool {
    fn new(all: u64, limit: BindingLimit) -> Self {
        let all = all.min(Semaphore::MAX_PERMITS as u64);
        Self {
            // Cannot be cut: it is at most a `usize`.
            free: Arc::new(Semaphore::new(
                usize::try_from(all).unwrap_or(usize::MAX >> 3),
            )),
            all,
            limit,
        }
    }

    fn take(&self, count: u32) -> Result<OwnedSemaphorePermit, Full> {
        let permit = self.free.clone().try_acquire_many_owned(count);
        permit.map_err(|_| self.full())
    }

    async fn wait(&self, count: u32) -> Result<OwnedSemaphorePermit, Full> {
        if u64::from(count) > self.all {
            return Err(self.full());
        }
        let permit = self.free.clone().acquire_many_owned(count).await;
        permit.map_err(|_| self.full())
    }

    fn full(&self) -> Full {
        Full {
            limit: self.limit,
            allowed: self.all,
            taken: self
                .all
                .saturating_sub(self.free.available_permits() as u64),
            unit: match self.limit {
                BindingLimit::MemoryMappings => "memory mappings",
                BindingLimit::AddressSpaceLimit | BindingLimit::AddressSpace => "memories",
            },
            advice: self.limit.advice(),
        }
    }
}

impl Places {
    pub(super) fn new(host: &HostLimits) -> Self {
        let (memories, limit) = host.memories();
        Self {
            mappings: Pool::new(host.mappings(), BindingLimit::MemoryMappings),
            memories: Pool::new(memories, limit),
        }
    }

    /// Takes a place at once.
    pub(crate) fn take(&self, needs: Needs) -> Result<Place, Full> {
        Ok(Place {
            _mappings: self.mappings.take(needs.mappings)?,
            _memories: self.memories.take(needs.memories)?,
        })
    }

    /// Waits for a place until `deadline` has passed. May be dropped: what was taken goes back.
    pub(crate) async fn wait(&self, needs: Needs, deadline: Duration) -> Result<Place, Full> {
        let both = async {
            Ok(Place {
                _mappings: self.mappings.wait(needs.mappings).await?,
                _memories: self.memories.wait(needs.memories).await?,
            })
        };
        match tokio::time::timeout(deadline, both).await {
            Ok(settled) => settled,
            Err(_elapsed) => match self.memories.take(needs.memories) {
                Ok(_) => Err(self.mappings.full()),
                Err(full) => Err(full),
            },
        }
    }

    /// How many small instances could start now.
    pub(super) fn free(&self) -> u64 {
        let mappings = Needs::smallest().fits(self.mappings.free.available_permits() as u64);
        mappings.min(self.memories.free.available_permits() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(mappings: u64, memories: u64) -> Places {
        Places {
            mappings: Pool::new(mappings, BindingLimit::MemoryMappings),
            memories: Pool::new(memories, BindingLimit::AddressSpace),
        }
    }

    #[test]
    fn an_instance_takes_what_it_maps_and_gives_it_back() {
        let places = places(9, 9);
        let small = Needs::instance(1, Filling::Copied);
        let (first, second) = (places.take(small), places.take(small));
        assert!(first.is_ok() && second.is_ok());
        let full = places.take(small).expect_err("one mapping is left");
        assert_eq!((full.allowed, full.taken), (9, 8));
        assert_eq!(
            full.to_string(),
            "no room for another instance: vm.max_map_count allows 9 memory mappings and 8 are taken: \
             raise it, for example with `sysctl -w vm.max_map_count=1048576`"
        );
        drop(first);
        assert!(places.take(small).is_ok());
    }

    #[test]
    fn a_program_with_more_memories_takes_more() {
        let places = places(100, 4);
        assert!(places.take(Needs::instance(25, Filling::Mapped)).is_err());
        let full = places.take(Needs::instance(5, Filling::Copied));
        let full = full.expect_err("five memories do not fit");
        assert_eq!(full.limit, BindingLimit::AddressSpace);
        // What was taken before the refusal came back.
        assert_eq!(places.free(), 4);
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_comes_back() {
        let places = places(4, 4);
        let small = Needs::instance(1, Filling::Copied);
        let first = places.take(small).expect("there is room");
        assert!(places.wait(small, Duration::ZERO).await.is_err());
        let patient = places.wait(small, Duration::MAX);
        let (waited, ()) = tokio::join!(patient, async { drop(first) });
        assert!(waited.is_ok());
        // More than there ever is waits for nothing.
        let never = places.wait(Needs::instance(2, Filling::Copied), Duration::MAX);
        assert!(never.await.is_err());
    }
}
