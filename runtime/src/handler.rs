//! Handlers: we listen on the pod's port, and every request meets a fresh instance.
//!
//! One acceptor task per container, one task per connection, no instance while nothing is asked.
//! A connection's task also runs the guests of its requests: they share its thread, its reactor
//! and its account, so a request crosses no thread.

use crate::engine::Places;
use crate::instance::{End, Ending, Life, Phase, Verdict};
use crate::pools::Pools;
use crate::runtime::StartError;
use crate::spec::Instances;
use crate::store::Container;
use connection::serve_connection;
use coracle_network::Listener;
use instances::InstanceSource;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

mod body;
mod connection;
mod guest;
mod instances;
mod replies;
mod socket;
mod timer;

/// Connections that may wait to be accepted, as `listen` usually has it.
const BACKLOG: usize = 128;
/// Connections of one container at once; more stay in the backlog. An idle one costs some 10 KiB.
const CONNECTIONS_MAX: usize = 4_096;
/// How long to leave a listener alone that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often kept instances are looked at, and the ones unused since then dropped.
const SWEEP_PERIOD: Duration = Duration::from_secs(10);

/// What the connections of one container share.
struct Server {
    container: Arc<Container>,
    /// Weak: the pools hold this container's tasks, and end them when the runtime is dropped.
    pools: Weak<Pools>,
    life: Arc<Life>,
    instances: InstanceSource,
    connections: Arc<Semaphore>,
}

/// Listens on the handler's port and starts to accept.
pub(crate) fn start(
    container: Arc<Container>,
    pools: &Arc<Pools>,
    places: &Arc<Places>,
) -> Result<Arc<Life>, StartError> {
    let options = container.spec.handler;
    let network = &container.spec.network;
    // Where pods have two addresses, at both.
    let everywhere = match network.ip6() {
        Some(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let address = SocketAddr::new(everywhere, options.port);
    let listener = network
        .reserve_tcp(address)
        .and_then(|port| network.listen(port, BACKLOG))
        .map_err(|source| StartError::Listen {
            port: options.port,
            source,
        })?;
    let life = Life::new(&container, Ending::Drain);
    let end = End::of(&life);
    let server = Arc::new(Server {
        instances: InstanceSource::new(&container, places.clone()),
        container,
        pools: Arc::downgrade(pools),
        life: life.clone(),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    });
    life.spawn(pools, accept(server, listener, end));
    Ok(life)
}

/// Accepts until the container was asked to end and its delay is over, or its network is gone.
async fn accept(server: Arc<Server>, listener: Listener, end: Arc<End>) {
    // A handler has no end of its own: however it comes, it was asked for.
    end.say(Verdict::stopped());
    tokio::select! {
        // All three may be dropped at any await: an accepted connection is handed on before the
        // next one.
        () = accept_forever(&server, &listener, &end) => {}
        () = drained(server.life.phase(), server.container.spec.handler.drain_delay) => {}
        () = sweep(&server) => {}
    }
}

async fn accept_forever(server: &Arc<Server>, listener: &Listener, end: &Arc<End>) {
    loop {
        let permit = server.connections.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok(stream) => {
                let Some(pools) = server.pools.upgrade() else {
                    return;
                };
                let (serving, end) = (server.clone(), end.clone());
                server.life.spawn(&pools, async move {
                    serve_connection(serving, stream).await;
                    drop(permit);
                    drop(end);
                });
            }
            Err(error) if is_passing(&error) => {
                tracing::warn!(container = %server.container.id(), %error, "failed to accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The pod's network is gone, and with it every client.
            Err(_detached) => return,
        }
    }
}

/// Tells failures of one connection, or of the moment, from the end of the listener.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    /// `EMFILE` and `ENFILE`, which have no kind of their own.
    const OUT_OF_DESCRIPTORS: [i32; 2] = [24, 23];
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::Interrupted
            | ErrorKind::OutOfMemory
    ) || error
        .raw_os_error()
        .is_some_and(|code| OUT_OF_DESCRIPTORS.contains(&code))
}

/// Returns `delay` after the container was asked to end.
async fn drained(mut phase: watch::Receiver<Phase>, delay: Duration) {
    // An error means that the life is gone, and so is every reason to accept.
    let _ = phase
        .wait_for(|phase| !matches!(phase, Phase::Running))
        .await;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// Drops kept instances that nobody has used for a while; never returns.
async fn sweep(server: &Server) {
    if server.container.spec.handler.instances == Instances::Fresh {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(SWEEP_PERIOD).await;
        server.instances.sweep();
    }
}
