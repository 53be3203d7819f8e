//! Where a request's instance comes from: the pool, else memory of its own, or a kept one.

use crate::engine::{Place, Places};
use crate::spec::Instances;
use crate::store::{Container, Guest};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{PoolConcurrencyLimitError, Result, Store};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

/// Requests that one kept instance serves before it is replaced: bounds what a leak can grow to.
const REQUESTS_PER_INSTANCE_MAX: u32 = 1_024;
/// Instances kept between requests.
const KEPT_MAX: usize = 16;

/// An instance, with the right to have one.
pub(super) struct Leased {
    pub(super) store: Store<Guest>,
    pub(super) proxy: Proxy,
    /// Requests served before this one.
    pub(super) served: u32,
    /// Its place, if it is none of the pool's. Dropped after the store.
    place: Option<Place>,
    permit: OwnedSemaphorePermit,
}

/// An instance between two requests.
struct Kept {
    store: Store<Guest>,
    proxy: Proxy,
    served: u32,
    place: Option<Place>,
    used_since_sweep: bool,
}

/// Makes and keeps the instances of one container.
pub(super) struct InstanceSource {
    permits: Arc<Semaphore>,
    reuse: AtomicBool,
    /// Whether this component needs more than a slot of the pool has.
    pool_unfit: AtomicBool,
    kept: Mutex<Vec<Kept>>,
    places: Arc<Places>,
}

impl InstanceSource {
    pub(super) fn new(container: &Container, places: Arc<Places>) -> Self {
        let options = &container.spec.handler;
        Self {
            permits: Arc::new(Semaphore::new(options.instances_max)),
            reuse: AtomicBool::new(options.instances == Instances::Reuse),
            pool_unfit: AtomicBool::new(false),
            kept: Mutex::default(),
            places,
        }
    }

    /// Waits for the right to have an instance; nothing if the container's deadline passed.
    pub(super) async fn permit(&self, container: &Container) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        let waiting = self.permits.clone().acquire_owned();
        let deadline = container.spec.handler.queue_deadline;
        tokio::time::timeout(deadline, waiting).await.ok()?.ok()
    }

    /// Returns a kept instance, or makes one. Where the pool has no slot it waits for a place: the error
    /// is [`crate::Full`] when the container's deadline has passed.
    pub(super) async fn lease(
        &self,
        container: &Arc<Container>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Leased> {
        let kept = self.kept.lock().pop();
        if let Some(Kept {
            store,
            proxy,
            served,
            place,
            ..
        }) = kept
        {
            return Ok(Leased {
                store,
                proxy,
                served,
                place,
                permit,
            });
        }
        let loaded = container.spec.program.inner();
        if let Some(pre) = loaded.pooled_handler()
            && !self.pool_unfit.load(Ordering::Relaxed)
        {
            match instantiate(container, pre).await {
                Ok((store, proxy)) => {
                    return Ok(Leased {
                        store,
                        proxy,
                        served: 0,
                        place: None,
                        permit,
                    });
                }
                Err(error) if error.is::<PoolConcurrencyLimitError>() => {}
                Err(error) if error.is::<wasmtime::Trap>() => return Err(error),
                Err(_unfit) => self.pool_unfit.store(true, Ordering::Relaxed),
            }
        }
        let pre = loaded
            .handler()
            .expect("a handler's program exports a handler");
        let deadline = container.spec.handler.queue_deadline;
        let place = self.places.wait(loaded.needs(), deadline).await?;
        let (store, proxy) = instantiate(container, pre).await?;
        Ok(Leased {
            store,
            proxy,
            served: 0,
            place: Some(place),
            permit,
        })
    }

    /// Takes back an instance that has answered well.
    pub(super) fn give_back(&self, leased: Leased) {
        let Leased {
            store,
            proxy,
            served,
            place,
            permit,
        } = leased;
        let served = served + 1;
        if self.reuse.load(Ordering::Relaxed) && served < REQUESTS_PER_INSTANCE_MAX {
            let mut kept = self.kept.lock();
            if kept.len() < KEPT_MAX {
                kept.push(Kept {
                    store,
                    proxy,
                    served,
                    place,
                    used_since_sweep: true,
                });
            }
        }
        drop(permit);
    }

    /// Notes that an instance failed; a failure of one that was used before ends reuse.
    pub(super) fn failed(&self, container: &Container, served: u32) {
        if served > 0 && self.reuse.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                container = %container.id(),
                "a reused instance failed, requests get fresh instances from now on"
            );
            self.kept.lock().clear();
        }
    }

    /// Drops the kept instances that were not used since the last call.
    pub(super) fn sweep(&self) {
        let mut kept = self.kept.lock();
        kept.retain_mut(|kept| std::mem::take(&mut kept.used_since_sweep));
    }
}

async fn instantiate(
    container: &Arc<Container>,
    pre: &ProxyPre<Guest>,
) -> Result<(Store<Guest>, Proxy)> {
    let mut store = container.new_store(pre.engine());
    let proxy = pre.instantiate_async(&mut store).await?;
    Ok((store, proxy))
}
