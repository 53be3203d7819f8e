//! Keeps revisions of opaque values, with compare-and-swap, history and watches; knows no kind.
//!
//! - [`Store`] is the entry point: one global [`Revision`] counts every write.
//! - Keys are paths such as `/pods/default/web`. The first segment names a *collection*; watch
//!   history is kept per collection, so a busy one never shortens the window of a quiet one.
//! - A write is acknowledged by its future, reads and watches are answered from memory.
//! - A store in memory has no tasks: a [`Watcher`] reads the shared history at its own pace and is
//!   only woken. A durable one has two threads: `store-journal` takes writes and gives
//!   acknowledgements, `store-compactor` takes closed segments and gives checkpoints.

mod collection;
mod durable;
mod intake;
mod record;
mod store;
mod watch;

pub use durable::{
    BaseError, JournalError, JournalLimits, KeyError, OpenError, RecoveryError, StoreConfig,
};
pub use record::{Change, Event, Record, Revision};
pub use store::{Expect, Limits, Page, Range, RangeError, Store, WriteError};
pub use watch::{WatchError, Watcher};
