//! `wasi:sockets` over a pod's network.
//!
//! The traits are upstream's generated ones, so its types, error mapping and linking are shared. Their
//! resource types stand for upstream's own sockets; the table holds ours under the same index, which
//! is safe because nothing else reads these resources once all seven interfaces are shadowed.
//!
//! No call waits: what is not done at once is a future that is driven by whoever asks or polls for it.
//! No task is started for a socket, except to deliver what a guest has written before its peer reads.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coracle_network::PodNetwork;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::sockets::{
    instance_network, ip_name_lookup, network, tcp, tcp_create_socket, udp, udp_create_socket,
};
use wasmtime_wasi::p2::{SocketError, SocketResult};

use self::network::{ErrorCode, Network};
use self::stream::Connections;
use crate::termination::Closing;

mod address;
mod error;
mod guest_streams;
mod lookup;
mod options;
mod stream;
mod tcp_socket;
mod udp_socket;

#[cfg(test)]
pub(crate) mod tests;

/// The most sockets and look-ups one instance holds at a time, as file descriptors usually are.
const SOCKETS_MAX: usize = 1024;
/// The most bytes taken from a socket by one call; no datagram is longer.
const READ_BYTES_MAX: usize = 64 * 1024;

/// What an instance keeps about its network.
pub(crate) struct NetState {
    network: PodNetwork,
    open: Arc<AtomicUsize>,
    connections: Connections,
    /// Ends its listeners when the container is asked to end.
    closing: Option<Arc<Closing>>,
}

/// Gives the host functions their part of a store's data.
pub(crate) trait NetView: Send {
    /// The part.
    fn net(&mut self) -> NetCtx<'_>;
}

/// The part of a store's data that the host functions use.
pub(crate) struct NetCtx<'a> {
    /// The instance's resources.
    pub(crate) table: &'a mut ResourceTable,
    /// Its network.
    pub(crate) state: &'a mut NetState,
}

/// Ties the host functions to [`NetCtx`].
struct HasNet;

/// What stands for `wasi:sockets/network`: the right to use the pod's network, which all have.
struct NetworkHandle;

/// One of an instance's [`SOCKETS_MAX`], given back when dropped.
struct Slot {
    open: Arc<AtomicUsize>,
}

thread_local! {
    /// Where reads land first: how much there is to read is known only afterwards, and a buffer of
    /// the full length for each read would cost more than the copy out of this one.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into());
}

/// Adds the seven interfaces of `wasi:sockets`, in place of what the linker has for them, and what is called
/// for each message on the streams of their connections.
pub(crate) fn add_to_linker<T: NetView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    network::add_to_linker::<T, HasNet>(linker, &network::LinkOptions::default(), T::net)?;
    instance_network::add_to_linker::<T, HasNet>(linker, T::net)?;
    tcp::add_to_linker::<T, HasNet>(linker, T::net)?;
    tcp_create_socket::add_to_linker::<T, HasNet>(linker, T::net)?;
    udp::add_to_linker::<T, HasNet>(linker, T::net)?;
    udp_create_socket::add_to_linker::<T, HasNet>(linker, T::net)?;
    ip_name_lookup::add_to_linker::<T, HasNet>(linker, T::net)?;
    guest_streams::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

impl NetState {
    /// Makes the state of an instance whose pod has `network`; its listeners give no more connections
    /// once `closing` is asked for.
    pub(crate) fn new(network: PodNetwork, closing: Option<Arc<Closing>>) -> Self {
        Self {
            network,
            closing,
            open: Arc::default(),
            connections: Connections::default(),
        }
    }

    fn slot(&self) -> SocketResult<Slot> {
        let taken = self.open.fetch_add(1, Ordering::Relaxed);
        let slot = Slot {
            open: self.open.clone(),
        };
        match taken < SOCKETS_MAX {
            true => Ok(slot),
            false => Err(ErrorCode::NewSocketLimit.into()),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HasData for HasNet {
    type Data<'a> = NetCtx<'a>;
}

impl NetCtx<'_> {
    /// Refuses a network that is none of ours.
    fn check_network(&self, network: &Resource<Network>) -> SocketResult<()> {
        self.table.get(&ours::<_, NetworkHandle>(network))?;
        Ok(())
    }
}

impl network::Host for NetCtx<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let error = self.table.get(&error)?;
        Ok(error
            .downcast_ref::<std::io::Error>()
            .map(error::code_of_io))
    }
}

impl network::HostNetwork for NetCtx<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<_, NetworkHandle>(network))?;
        Ok(())
    }
}

impl instance_network::Host for NetCtx<'_> {
    fn instance_network(&mut self) -> wasmtime::Result<Resource<Network>> {
        Ok(theirs(self.table.push(NetworkHandle)?))
    }
}

/// Names what the table holds for a resource of upstream's type.
fn ours<T: 'static, U: 'static>(resource: &Resource<T>) -> Resource<U> {
    Resource::new_borrow(resource.rep())
}

/// As [`ours`], to take it out of the table.
fn ours_owned<T: 'static, U: 'static>(resource: Resource<T>) -> Resource<U> {
    Resource::new_own(resource.rep())
}

/// Names a resource of ours as upstream's type, for the guest.
fn theirs<T: 'static, U: 'static>(resource: Resource<U>) -> Resource<T> {
    Resource::new_own(resource.rep())
}

/// Lends the thread's buffer for one read that does not wait.
fn with_scratch<R>(read: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|buffer| read(buffer))
}
