//! How many connections the edge itself holds, in all and for one client. Those that were handed over
//! to a pod are the pod's, and bounded there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The connections under way.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    per_client_max: usize,
    state: Mutex<State>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    by_client: HashMap<IpAddr, usize>,
    entries: HashMap<u64, Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    client: IpAddr,
    /// The connection's task, once it has one.
    task: Option<AbortHandle>,
}

/// A place for one connection, given back on drop.
#[derive(Debug)]
pub(super) struct Permit {
    connections: Arc<Connections>,
    id: u64,
}

/// Which bound a connection met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// That on all of them.
    Edge,
    /// That on those of this client.
    Client,
}

impl Connections {
    /// Returns none, with room for `max` and for `per_client_max` of each client.
    pub(super) fn new(max: usize, per_client_max: usize) -> Arc<Connections> {
        Arc::new(Connections {
            max,
            per_client_max,
            state: Mutex::default(),
            emptied: Notify::new(),
        })
    }

    /// Takes a place for a connection of `client`.
    pub(super) fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Permit, Full> {
        let client = client.to_canonical();
        let mut state = self.state.lock();
        if state.entries.len() >= self.max {
            return Err(Full::Edge);
        }
        let held = state.by_client.entry(client).or_default();
        if *held >= self.per_client_max {
            return Err(Full::Client);
        }
        *held += 1;
        let id = state.next;
        state.next += 1;
        state.entries.insert(id, Entry { client, task: None });
        Ok(Permit {
            connections: Arc::clone(self),
            id,
        })
    }

    /// Notes which task a connection has, so that [`Connections::abort_all`] finds it.
    pub(super) fn note_task(&self, connection: u64, task: AbortHandle) {
        // One that has ended already has no entry any more.
        if let Some(entry) = self.state.lock().entries.get_mut(&connection) {
            entry.task = Some(task);
        }
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// Waits until there are none.
    pub(super) async fn emptied(&self) {
        let mut emptied = pin!(self.emptied.notified());
        loop {
            // Registered before looking, so that the last one to go is not missed.
            emptied.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            emptied.as_mut().await;
            emptied.set(self.emptied.notified());
        }
    }

    /// Ends all of them; each is reset.
    pub(super) fn abort_all(&self) {
        let state = self.state.lock();
        let tasks = state
            .entries
            .values()
            .filter_map(|entry| entry.task.clone());
        let tasks = tasks.collect::<Vec<_>>();
        drop(state);
        tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Permit {
    /// Returns the connection's number.
    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.connections.state.lock();
        let Some(entry) = state.entries.remove(&self.id) else {
            return;
        };
        if let Some(held) = state.by_client.get_mut(&entry.client) {
            *held -= 1;
            if *held == 0 {
                state.by_client.remove(&entry.client);
            }
        }
        let is_empty = state.entries.is_empty();
        drop(state);
        if is_empty {
            self.connections.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn client(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn one_client_alone_cannot_take_all_places() {
        let connections = Connections::new(3, 2);
        let held = [1, 2].map(|_| connections.enter(client(1)).expect("free"));
        assert_eq!(connections.enter(client(1)).err(), Some(Full::Client));
        let other = connections.enter(client(2)).expect("free");
        assert_eq!(connections.enter(client(3)).err(), Some(Full::Edge));
        drop(held);
        assert_eq!(connections.count(), 1);
        drop(connections.enter(client(1)).expect("given back"));
        drop(other);
        assert_eq!(connections.count(), 0);
        assert!(connections.state.lock().by_client.is_empty());
    }

    #[test]
    fn a_mapped_address_is_the_client_it_maps() {
        let connections = Connections::new(9, 1);
        let _held = connections.enter(client(1)).expect("free");
        let mapped = IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
        assert_eq!(connections.enter(mapped).err(), Some(Full::Client));
    }
}
