//! The API's way to the agent in the same process: the kubelet API over a stream in memory.

use std::io;
use std::time::Duration;

use coracle_control_plane::{KubeletDialer, KubeletStream};
use coracle_kubelet_shim::KubeletService;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes that one side may write before the other has read them.
const STREAM_BYTES: usize = 64 * 1024;

/// How long answers may go on once nobody shall ask any more.
const DRAIN: Duration = Duration::from_secs(1);

/// Serves the kubelet API to whoever dials.
pub(crate) struct InMemoryKubelet {
    service: KubeletService,
    connections: TaskTracker,
    stopping: CancellationToken,
}

impl InMemoryKubelet {
    pub(crate) fn new(service: KubeletService) -> Self {
        Self {
            service,
            connections: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Waits until all connections have ended, and ends those that do not.
    pub(crate) async fn stop(&self) {
        self.connections.close();
        if tokio::time::timeout(DRAIN, self.connections.wait())
            .await
            .is_err()
        {
            self.stopping.cancel();
            self.connections.wait().await;
        }
    }
}

impl KubeletDialer for InMemoryKubelet {
    fn dial(&self) -> BoxFuture<'static, io::Result<KubeletStream>> {
        let (near, far) = tokio::io::duplex(STREAM_BYTES);
        let (service, stopping) = (self.service.clone(), self.stopping.clone());
        self.connections.spawn(async move {
            // A connection that is dropped is closed for the other side too.
            tokio::select! {
                served = service.serve(far) => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "a connection to the kubelet API broke");
                    }
                }
                () = stopping.cancelled() => {}
            }
        });
        let near: KubeletStream = Box::pin(near);
        std::future::ready(Ok(near)).boxed()
    }
}
