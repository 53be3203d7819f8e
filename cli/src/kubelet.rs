//! The API's ways to the agent and the pods of the same process: streams in memory.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use coracle_control_plane::{KubeletDialer, KubeletStream, PodDialer};
use coracle_kubelet_shim::KubeletService;
use coracle_network::Fabric;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
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

/// Reaches the pods of the network in this process, and others by that of the machine.
pub(crate) struct PodsOfFabric(pub(crate) Fabric);

impl PodDialer for PodsOfFabric {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<KubeletStream>> {
        let fabric = self.0.clone();
        async move {
            let stream: KubeletStream = match fabric.is_inside(to.ip()) {
                true => Box::pin(fabric.dial(to).await?),
                false => Box::pin(TcpStream::connect(to).await?),
            };
            Ok(stream)
        }
        .boxed()
    }
}
