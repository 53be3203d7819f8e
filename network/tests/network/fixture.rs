//! What the scenarios share: a fabric with pods, and connections with both ends in hand.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use coracle_network::{
    Fabric, FabricConfig, HostAddress, Listener, PodIdentity, PodNetwork, Protocol, PublishPlan,
    PublishPort, Stream, UdpSocket,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[path = "fixture/services.rs"]
mod services;

pub(crate) use services::*;

/// How long a busy machine may take for what is to happen at once.
const DEADLINE: Duration = Duration::from_secs(20);

/// A fabric that publishes nothing by itself, for tests that stay in memory.
pub(crate) fn fabric() -> Fabric {
    let config = FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    };
    Fabric::new(config).expect("the default layout is valid")
}

/// A fabric that publishes on loopback.
pub(crate) fn publishing_fabric() -> Fabric {
    Fabric::new(FabricConfig::default()).expect("the default layout is valid")
}

/// Attaches a pod of its own UID.
pub(crate) fn pod(fabric: &Fabric, name: &str) -> PodNetwork {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: NEXT.fetch_add(1, Ordering::Relaxed).to_string(),
        hostname: name.to_owned(),
        subdomain: None,
    };
    fabric.attach(identity).expect("an address is free")
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

pub(crate) fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

pub(crate) fn listen(pod: &PodNetwork, local: &str) -> Listener {
    let port = pod.reserve_tcp(address(local)).expect("the port is free");
    pod.listen(port, 16).expect("a reserved port listens")
}

/// Connects and accepts.
pub(crate) async fn pair(
    client: &PodNetwork,
    listener: &Listener,
    to: SocketAddr,
) -> (Stream, Stream) {
    let dialled = soon(client.connect(None, to)).await;
    let dialled = dialled.expect("a listener is there");
    (dialled, accept(listener).await)
}

/// Accepts one connection.
pub(crate) async fn accept(listener: &Listener) -> Stream {
    let accepted = soon(listener.accept()).await;
    accepted.expect("a connection waits")
}

/// Waits for what is to happen at once, so that a test that fails does not hang.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    let happened = tokio::time::timeout(DEADLINE, what).await;
    happened.expect("it happens before the deadline")
}

/// Sends `text` from one end and checks that the other receives it.
pub(crate) async fn say(from: &mut Stream, to: &mut Stream, text: &str) {
    from.write_all(text.as_bytes())
        .await
        .expect("the connection is open");
    let mut heard = vec![0; text.len()];
    soon(to.read_exact(&mut heard))
        .await
        .expect("the bytes arrive");
    assert_eq!(heard, text.as_bytes());
}

/// Polls once without anybody to wake.
pub(crate) fn poll_once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

pub(crate) fn on_loopback(protocol: Protocol, port: u16) -> PublishPort {
    PublishPort {
        protocol,
        port,
        host: HostAddress::Loopback,
    }
}

pub(crate) fn on_host_port(protocol: Protocol, port: u16, host: SocketAddr) -> PublishPort {
    let ip = Some(host.ip());
    PublishPort {
        protocol,
        port,
        host: HostAddress::HostPort {
            ip,
            port: host.port(),
        },
    }
}

/// Receives one datagram.
pub(crate) async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buf = vec![0; 65_536];
    loop {
        match socket.try_recv_from(&mut buf) {
            Ok((length, from)) => return (buf[..length].to_vec(), from),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                soon(poll_fn(|cx| socket.poll_recv_ready(cx)))
                    .await
                    .expect("attached");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
