//! What a guest calls for each message on a connection: four functions of `wasi:io/streams`, without looking
//! up the stream behind its two types, without bytes in between, and without a future where nothing waits.
//! Streams of files, terminals and HTTP go the way they would without these.
//!
//! By wasi-libc a message that is sent is `check-write`, `write` and `blocking-flush`, and one that is
//! received is `read`; if that gives nothing, `block` and `read` again.

use super::stream::Connection;
use super::{NetCtx, NetView};
use crate::store::CALL_BYTES_MAX;
use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use wasmtime::component::{
    Linker, LinkerInstance, Resource, ResourceTable, ResourceType, WasmList,
};
use wasmtime::{StoreContextMut, bail};
use wasmtime_wasi_io::bindings::wasi::io::streams::{
    self, Host as _, HostInputStream as _, HostOutputStream as _,
};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, StreamResult};

/// The interface, at the version by which the engine's own host offers it.
const INTERFACE: &str = "wasi:io/streams@0.2.12";

/// What a function tells the guest.
type Told<R> = wasmtime::Result<(Result<R, streams::StreamError>,)>;
/// What a function tells the guest when it has waited.
type Telling<'a, R> = Box<dyn Future<Output = Told<R>> + Send + 'a>;

/// Tells the guest that it has flushed. Boxing it takes no memory.
struct Flushed;

impl Future for Flushed {
    type Output = Told<()>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Told<()>> {
        Poll::Ready(Ok((Ok(()),)))
    }
}

/// Replaces the functions, and those that forget a stream.
pub(super) fn add_to_linker<T: NetView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut streams = linker.instance(INTERFACE)?;
    add_writing(&mut streams)?;
    streams.func_wrap_async("[method]input-stream.read", read::<T>)?;
    let input = ResourceType::host::<DynInputStream>();
    streams.resource_async(
        "input-stream",
        input,
        |mut store: StoreContextMut<'_, T>, rep| {
            Box::new(async move {
                let table = forget(&mut store, rep);
                streams::HostInputStream::drop(table, Resource::new_own(rep)).await
            })
        },
    )?;
    let output = ResourceType::host::<DynOutputStream>();
    streams.resource_async(
        "output-stream",
        output,
        |mut store: StoreContextMut<'_, T>, rep| {
            Box::new(async move {
                let table = forget(&mut store, rep);
                streams::HostOutputStream::drop(table, Resource::new_own(rep)).await
            })
        },
    )
}

fn add_writing<T: NetView + 'static>(streams: &mut LinkerInstance<'_, T>) -> wasmtime::Result<()> {
    streams.func_wrap("[method]output-stream.check-write", check_write::<T>)?;
    streams.func_wrap("[method]output-stream.write", write::<T>)?;
    streams.func_wrap_async("[method]output-stream.blocking-flush", blocking_flush::<T>)
}

fn check_write<T: NetView>(
    mut store: StoreContextMut<'_, T>,
    (stream,): (Resource<DynOutputStream>,),
) -> Told<u64> {
    let NetCtx { table, state } = store.data_mut().net();
    let permitted = match state.connections.get(stream.rep()) {
        Some(connection) => connection.check_write().map(|bytes| bytes as u64),
        None => table.check_write(stream),
    };
    told(table, permitted)
}

fn write<T: NetView + 'static>(
    mut store: StoreContextMut<'_, T>,
    (stream, bytes): (Resource<DynOutputStream>, WasmList<u8>),
) -> Told<()> {
    let connection = connection(&mut store, stream.rep());
    let bytes = bytes.as_le_slice(&store);
    let written = match connection {
        Some(connection) => connection.write(bytes),
        None if bytes.len() > CALL_BYTES_MAX => {
            bail!("{} bytes are more than one call may write", bytes.len())
        }
        None => {
            let bytes = bytes.to_vec();
            store.data_mut().net().table.write(stream, bytes)
        }
    };
    told(store.data_mut().net().table, written)
}

fn blocking_flush<T: NetView + 'static>(
    mut store: StoreContextMut<'_, T>,
    (stream,): (Resource<DynOutputStream>,),
) -> Telling<'_, ()> {
    let NetCtx { table, state } = store.data_mut().net();
    let Some(connection) = state.connections.get(stream.rep()) else {
        return Box::new(async move {
            let NetCtx { table, .. } = store.data_mut().net();
            let flushed = table.blocking_flush(stream).await;
            told(table, flushed)
        });
    };
    let mut now = Context::from_waker(Waker::noop());
    match connection.poll_flush(&mut now) {
        Poll::Ready(Ok(())) => return Box::new(Flushed),
        Poll::Ready(failed) => return Box::new(ready(told(table, failed))),
        Poll::Pending => {}
    }
    let connection = connection.clone();
    Box::new(async move {
        let flushed = poll_fn(|cx| connection.poll_flush(cx)).await;
        told(store.data_mut().net().table, flushed)
    })
}

fn read<T: NetView + 'static>(
    mut store: StoreContextMut<'_, T>,
    (stream, len): (Resource<DynInputStream>, u64),
) -> Telling<'_, Vec<u8>> {
    let NetCtx { table, state } = store.data_mut().net();
    let Some(connection) = state.connections.get(stream.rep()) else {
        let read = table.read(stream, len);
        return Box::new(ready(told(table, read)));
    };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    match connection.read(len) {
        Ok(bytes) if bytes.is_empty() && len > 0 => {
            let connection = connection.clone();
            Box::new(async move {
                connection.wait_for_answer().await;
                told(store.data_mut().net().table, connection.read(len))
            })
        }
        read => Box::new(ready(told(table, read))),
    }
}

/// Returns the connection that a stream stands for, if it does.
fn connection<T: NetView>(
    store: &mut StoreContextMut<'_, T>,
    stream: u32,
) -> Option<Arc<Connection>> {
    store
        .data_mut()
        .net()
        .state
        .connections
        .get(stream)
        .cloned()
}

/// Forgets what a stream stands for that the guest drops; returns the table that has it.
fn forget<'a, T: NetView>(
    store: &'a mut StoreContextMut<'_, T>,
    stream: u32,
) -> &'a mut ResourceTable {
    let NetCtx { table, state } = store.data_mut().net();
    state.connections.remove(stream);
    table
}

/// Gives a failure the form in which the guest has it; what is a trap stays one.
fn told<R>(table: &mut ResourceTable, result: StreamResult<R>) -> Told<R> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(table.convert_stream_error(error)?),)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Guest;
    use wasmtime::Engine;

    /// Under any other name ours would be offered beside the engine's, and never called.
    #[test]
    fn the_engine_offers_the_functions_by_the_same_names() {
        let mut linker = Linker::<Guest>::new(&Engine::default());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("nothing is there twice");
        let taken = |error: &wasmtime::Error| format!("{error:?}").contains("defined twice");
        let added = add_to_linker(&mut linker).expect_err("each name is taken");
        assert!(taken(&added), "{added:?}");
    }
}
