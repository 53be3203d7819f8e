//! `wasi:sockets/ip-name-lookup`: names as the pod's network answers them.

use super::error::{code_of, refuse};
use super::{NetCtx, Slot, ours, ours_owned, theirs};
use coracle_network::NetError;
use futures_util::future::BoxFuture;
use std::future::poll_fn;
use std::net::IpAddr;
use std::task::{Context, Poll, Waker};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::SocketResult;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{self, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

/// The longest name of the DNS, with its final dot.
const NAME_BYTES_MAX: usize = 254;

/// A look-up of a guest.
struct Lookup {
    answer: Answer,
    _slot: Slot,
}

enum Answer {
    Asked(BoxFuture<'static, Result<Vec<IpAddr>, NetError>>),
    Found(std::vec::IntoIter<IpAddr>),
    Failed(ErrorCode),
}

impl Lookup {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Answer::Asked(asked) = &mut self.answer {
            self.answer = match std::task::ready!(asked.as_mut().poll(cx)) {
                Ok(addresses) => Answer::Found(addresses.into_iter()),
                Err(error) => Answer::Failed(code_of(&error)),
            };
        }
        Poll::Ready(())
    }
}

#[async_trait::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

impl ip_name_lookup::Host for NetCtx<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        self.check_network(&network)?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_whitespace) {
            return Err(refuse(NetError::InvalidArgument));
        }
        let slot = self.state.slot()?;
        let network = self.state.network.clone();
        let asked = Box::pin(async move { network.resolve(&name).await });
        let mut lookup = Lookup {
            answer: Answer::Asked(asked),
            _slot: slot,
        };
        // Most names are answered here and now; the others are asked for from now on.
        let _ = lookup.poll(&mut Context::from_waker(Waker::noop()));
        Ok(theirs(self.table.push(lookup)?))
    }
}

impl ip_name_lookup::HostResolveAddressStream for NetCtx<'_> {
    fn resolve_next_address(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> SocketResult<Option<IpAddress>> {
        let lookup: &mut Lookup = self.table.get_mut(&ours(&stream))?;
        let _ = lookup.poll(&mut Context::from_waker(Waker::noop()));
        match &mut lookup.answer {
            Answer::Asked(_) => Err(ErrorCode::WouldBlock.into()),
            Answer::Found(addresses) => Ok(addresses
                .next()
                .map(|address| address.to_canonical().into())),
            Answer::Failed(code) => Err((*code).into()),
        }
    }

    fn subscribe(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<_, Lookup>(&stream))
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<_, Lookup>(stream))?;
        Ok(())
    }
}
