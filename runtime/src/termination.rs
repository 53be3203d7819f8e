//! How a guest learns that its container is asked to end: `coracle:lifecycle/termination`, whose WIT is
//! in `wit/coracle-lifecycle`.

use parking_lot::Mutex;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

/// The interface, at the version that is served.
const INTERFACE: &str = "coracle:lifecycle/termination@0.1.0";

/// The interface's own text, and the world that a core module is given which imports it.
pub(crate) const WIT: &str = include_str!("../wit/coracle-lifecycle/termination.wit");
/// The name of that world.
pub(crate) const WORLD: &str = "guest";

/// What a core module may import, so that programs built for preview 1 can be told too.
const CORE_IMPORTS: [(&str, &str); 5] = [
    (INTERFACE, "subscribe"),
    (INTERFACE, "requested"),
    (POLL, "[method]pollable.ready"),
    (POLL, "[method]pollable.block"),
    (POLL, "[resource-drop]pollable"),
];

/// The interface of what `subscribe` gives, at the version that [`WIT`] names.
const POLL: &str = "wasi:io/poll@0.2.0";

/// Tasks that wait at once; each is one instance of a container.
const WAITERS_MAX: usize = 1_024;

/// Whether a container was asked to end. Set once.
#[derive(Default)]
pub(crate) struct Closing {
    asked: AtomicBool,
    waiters: Mutex<Vec<Waker>>,
}

impl Closing {
    /// Notes that the container was asked to end.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        for waiter in std::mem::take(&mut *self.waiters.lock()) {
            waiter.wake();
        }
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Becomes ready when the container was asked to end.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiters = self.waiters.lock();
        // Looked at under the lock, so that nobody lines up behind the only wake-up.
        if self.is_asked() {
            return Poll::Ready(());
        }
        if !waiters.iter().any(|waiter| waiter.will_wake(cx.waker())) {
            if waiters.len() == WAITERS_MAX {
                // The oldest looks again at once and lines up behind.
                waiters.remove(0).wake();
            }
            waiters.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Gives the host functions their part of a store's data.
pub(crate) trait TerminationView: Send {
    fn termination(&mut self) -> (&mut ResourceTable, &Arc<Closing>);
}

/// What a guest's pollable stands for.
struct Request(Arc<Closing>);

#[async_trait::async_trait]
impl Pollable for Request {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.poll(cx)).await;
    }
}

/// Adds the interface.
pub(crate) fn add_to_linker<T: TerminationView + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    let mut interface = linker.instance(INTERFACE)?;
    interface.func_wrap("subscribe", |mut store: StoreContextMut<'_, T>, ()| {
        let (table, closing) = store.data_mut().termination();
        let request = table.push(Request(closing.clone()))?;
        let pollable: Resource<DynPollable> = subscribe(table, request)?;
        Ok((pollable,))
    })?;
    interface.func_wrap("requested", |mut store: StoreContextMut<'_, T>, ()| {
        let (_, closing) = store.data_mut().termination();
        Ok((closing.is_asked(),))
    })
}

/// Tells whether the name of an import is the interface's, in any release that is served.
pub(crate) fn is_interface(name: &str) -> bool {
    let Some(("coracle:lifecycle/termination", version)) = name.split_once('@') else {
        return false;
    };
    semver::Version::parse(version)
        .is_ok_and(|version| (version.major, version.minor) == (0, 1) && version.pre.is_empty())
}

/// Tells whether `module.name` is an import of a core module that [`WIT`]'s world has.
pub(crate) fn is_core_import(module: &str, name: &str) -> bool {
    CORE_IMPORTS.contains(&(module, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_release_that_is_compatible_is_the_interface() {
        for (name, expected) in [
            ("coracle:lifecycle/termination@0.1.0", true),
            ("coracle:lifecycle/termination@0.1.7", true),
            ("coracle:lifecycle/termination@0.2.0", false),
            ("coracle:lifecycle/termination@0.1.0-draft", false),
            ("coracle:lifecycle/termination", false),
            ("coracle:lifecycle/other@0.1.0", false),
        ] {
            assert_eq!(is_interface(name), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn everyone_who_waits_is_told_and_so_is_who_comes_late() {
        let closing = Arc::new(Closing::default());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let closing = closing.clone();
                tokio::spawn(async move { poll_fn(|cx| closing.poll(cx)).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(!closing.is_asked());
        closing.ask();
        for waiter in waiting {
            waiter.await.expect("it is told");
        }
        poll_fn(|cx| closing.poll(cx)).await;
    }
}
