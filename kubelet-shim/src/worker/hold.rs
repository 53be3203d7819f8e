//! What a worker holds for one container; letting go ends it.

use std::sync::Arc;

use coracle_runtime::{Instance, WorkloadKind};
use futures::future::AbortHandle;

use crate::exec::ExecTarget;
use crate::images::SharedImage;
use crate::probes::Watch;

/// What belongs to one container. Invariant: no instance outlives it.
#[derive(Default)]
pub(super) struct Hold {
    /// The image its latest instance came from, or the next will.
    pub(super) image: Option<Arc<SharedImage>>,
    /// What its latest instance runs as.
    pub(super) kind: Option<WorkloadKind>,
    /// The living instance.
    pub(super) instance: Option<Instance>,
    /// Where more programs can be started while the instance lives.
    pub(super) exec: Option<Arc<ExecTarget>>,
    /// Abandons the fetch or start under way.
    pub(super) abort: Option<AbortHandle>,
    /// Abandons the hook under way.
    pub(super) hook: Option<AbortHandle>,
    /// Its probes at work, by kind, each with the instance it is for.
    pub(super) watches: [Option<(u32, Watch)>; 3],
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(instance) = &self.instance {
            instance.kill();
        }
    }
}
