//! A pod's connections, kept so that detaching the pod ends them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::error::NetError;
use crate::stream::kernel::KernelSocket;
use crate::stream::memory::Connection;

/// Connections a pod has at once, each side counted where it lives.
pub(crate) const CONNECTIONS_PER_POD_MAX: usize = 65_536;

/// Above this many places an emptied register gives its memory back.
const IDLE_PLACES_MAX: usize = 16;

/// The register of one pod's connections.
pub(crate) struct Live {
    next: u64,
    state: Register,
}

enum Register {
    /// Takes connections.
    Open(HashMap<u64, Held>),
    /// The pod is detached: everything was ended, nothing is taken.
    Closed,
}

/// A connection that is ended when its pod is detached. Weak: its streams own it.
pub(crate) enum Held {
    /// Between two pods, or a pod and the host side.
    Memory(Weak<Connection>),
    /// A kernel socket.
    Kernel(Weak<KernelSocket>),
}

impl Live {
    /// Returns an empty register.
    pub(crate) fn new() -> Live {
        Live {
            next: 0,
            state: Register::Open(HashMap::new()),
        }
    }

    /// Takes a connection in and returns the number to remove it by.
    pub(crate) fn insert(&mut self, held: Held) -> Result<u64, NetError> {
        match &mut self.state {
            Register::Closed => Err(NetError::Detached),
            Register::Open(map) if map.len() >= CONNECTIONS_PER_POD_MAX => {
                Err(NetError::Limit("connections of a pod"))
            }
            Register::Open(map) => {
                self.next += 1;
                map.insert(self.next, held);
                Ok(self.next)
            }
        }
    }

    /// Forgets a connection.
    pub(crate) fn remove(&mut self, id: u64) {
        if let Register::Open(map) = &mut self.state {
            map.remove(&id);
            if map.is_empty() && map.capacity() > IDLE_PLACES_MAX {
                map.shrink_to_fit();
            }
        }
    }

    /// Refuses what follows and returns what is to be ended.
    pub(crate) fn close(&mut self) -> Vec<Held> {
        match std::mem::replace(&mut self.state, Register::Closed) {
            Register::Open(map) => map.into_values().collect(),
            Register::Closed => Vec::new(),
        }
    }
}

impl Held {
    /// Ends the connection if it is still there.
    pub(crate) fn end(self) {
        match self {
            Held::Memory(connection) => {
                if let Some(connection) = connection.upgrade() {
                    connection.reset();
                }
            }
            Held::Kernel(socket) => {
                if let Some(socket) = socket.upgrade() {
                    socket.end();
                }
            }
        }
    }

    /// Returns an entry for an in-memory connection.
    pub(crate) fn memory(connection: &Arc<Connection>) -> Held {
        Held::Memory(Arc::downgrade(connection))
    }
}
