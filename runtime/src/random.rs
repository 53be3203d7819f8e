//! Random bytes for a guest, as many as it asks for: made in pieces, between which others run.
//!
//! A program built for preview 1 asks for all it needs in one `random_get`, which is one call here.

use crate::store::Guest;
use wasmtime::component::Linker;
use wasmtime::{StoreContextMut, bail};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p2::bindings::random::random::Host as _;

/// The interface, at the version by which the engine's own host offers it.
const INTERFACE: &str = "wasi:random/random@0.2.12";

/// Bytes that are made without a pause: a fraction of a slice.
pub(crate) const PIECE_BYTES: u64 = 1 << 18;

/// Replaces the engine's host, which makes all bytes of a call without a pause.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut instance = linker.instance(INTERFACE)?;
    instance.func_wrap_async("get-random-bytes", |store, (len,): (u64,)| {
        Box::new(async move { Ok((bytes(store, len).await?,)) })
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Makes `len` bytes. They are charged to the container until it has them.
async fn bytes(mut store: StoreContextMut<'_, Guest>, len: u64) -> wasmtime::Result<Vec<u8>> {
    let guest = store.data_mut();
    if len > guest.memory_bytes() {
        bail!("{len} random bytes are more than the guest has memory for");
    }
    let Some(_held) = guest.hold(len) else {
        bail!("the container has no memory for {len} random bytes");
    };
    let mut bytes = Vec::new();
    let mut left = len;
    while left > 0 {
        let piece = left.min(PIECE_BYTES);
        bytes.extend(
            store
                .data_mut()
                .ctx()
                .ctx
                .random()
                .get_random_bytes(piece)?,
        );
        left -= piece;
        if left > 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(bytes)
}
