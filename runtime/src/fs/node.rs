//! What every kind of storage says about its entries, and why an operation stops.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::Tree;
use super::user::Permissions;

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dir,
    File,
    Symlink,
    /// A device, pipe or socket of a host folder: listed, never opened.
    Other,
}

/// A place in the container's file system.
#[derive(Clone, Debug)]
pub(super) enum NodeRef {
    /// An inode of the root and its writable layer, or of a volume in memory.
    Overlay(Layer, u64),
    /// A node of one version of a tree in memory.
    Live {
        mount: usize,
        tree: Arc<Tree>,
        index: u32,
    },
    /// A path below a mounted host folder, free of links when it was resolved; `""` is the folder itself.
    Host { mount: usize, path: String },
    /// A folder that exists only because something is mounted below it.
    Made(usize),
}

/// Which inodes are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// Those of the container's root.
    Own,
    /// Those of the volume in memory that is mounted as this.
    Mounted(usize),
}

/// What an entry looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) links: u64,
    pub(super) times: Times,
    pub(super) permissions: Permissions,
}

/// The three times of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) accessed: SystemTime,
    pub(super) modified: SystemTime,
    pub(super) changed: SystemTime,
}

/// Times to set; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NewTimes {
    pub(super) accessed: Option<SystemTime>,
    pub(super) modified: Option<SystemTime>,
}

/// Whether this thread may wait for the host's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// No: what would wait ends with [`Fault::Blocks`] before it changes anything.
    Inline,
    /// Yes.
    Blocking,
}

/// Why an operation stopped.
#[derive(Debug)]
pub(super) enum Fault {
    /// It failed; the guest sees the code.
    Code(ErrorCode),
    /// It must be repeated on a thread that may block.
    Blocks,
}

pub(super) type Outcome<T> = Result<T, Fault>;

impl Times {
    pub(super) fn all(time: SystemTime) -> Times {
        Times {
            accessed: time,
            modified: time,
            changed: time,
        }
    }

    /// Sets what is given; the entry itself changed now.
    pub(super) fn set(&mut self, new: NewTimes) {
        self.accessed = new.accessed.unwrap_or(self.accessed);
        self.modified = new.modified.unwrap_or(self.modified);
        self.changed = SystemTime::now();
    }

    /// Its content changed now.
    pub(super) fn touch(&mut self) {
        self.modified = SystemTime::now();
        self.changed = self.modified;
    }
}

impl Mode {
    /// Stops an operation here unless this thread may block.
    pub(super) fn require_blocking(self) -> Outcome<()> {
        match self {
            Mode::Inline => Err(Fault::Blocks),
            Mode::Blocking => Ok(()),
        }
    }
}

impl From<ErrorCode> for Fault {
    fn from(code: ErrorCode) -> Fault {
        Fault::Code(code)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Code(ErrorCode::from(&error))
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        match fault {
            Fault::Code(ErrorCode::NoEntry) => io::ErrorKind::NotFound.into(),
            Fault::Code(code) => io::Error::other(code),
            Fault::Blocks => io::ErrorKind::WouldBlock.into(),
        }
    }
}
