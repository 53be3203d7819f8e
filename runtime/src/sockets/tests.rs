//! The host functions as a guest calls them, without a guest.

use super::*;
use coracle_network::{EgressRules, Fabric, FabricConfig, LinkLocal, PodIdentity, PublishPlan};
use std::net::{IpAddr, SocketAddr};
use wasmtime_wasi::p2::bindings::sockets::network::{IpAddress, IpAddressFamily};
use wasmtime_wasi_io::poll::Pollable as _;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, StreamError};

use self::ip_name_lookup::{Host as _, HostResolveAddressStream as _};
use self::tcp::{HostTcpSocket as _, ShutdownType};
use self::tcp_create_socket::Host as _;
use self::udp::{HostIncomingDatagramStream as _, HostOutgoingDatagramStream as _};
use self::udp_create_socket::Host as _;
use instance_network::Host as _;

/// A fabric with two pods.
pub(crate) fn pods() -> (Fabric, PodNetwork, PodNetwork) {
    let fabric = Fabric::new(FabricConfig {
        pod_cidr: "10.244.0.0/16".parse().expect("range"),
        cluster_domain: "cluster.local".into(),
        publish: PublishPlan::Nowhere,
        egress: EgressRules {
            link_local: LinkLocal::Closed,
        },
        ..FabricConfig::default()
    })
    .expect("fabric");
    let attach = |name: &str| {
        let identity = PodIdentity {
            namespace: "default".into(),
            name: name.into(),
            uid: name.into(),
            hostname: name.into(),
            subdomain: None,
        };
        fabric.attach(identity).expect("pod")
    };
    let (first, second) = (attach("first"), attach("second"));
    (fabric, first, second)
}

/// What a store would hold.
struct Guest {
    table: ResourceTable,
    state: NetState,
}

impl Guest {
    fn of(network: &PodNetwork) -> Self {
        Self {
            table: ResourceTable::new(),
            state: NetState::new(network.clone(), None),
        }
    }

    fn net(&mut self) -> NetCtx<'_> {
        NetCtx {
            table: &mut self.table,
            state: &mut self.state,
        }
    }

    fn network(&mut self) -> Resource<Network> {
        self.net().instance_network().expect("network")
    }

    fn tcp(&mut self) -> Resource<tcp::TcpSocket> {
        self.net()
            .create_tcp_socket(IpAddressFamily::Ipv4)
            .expect("socket")
    }

    async fn listen(&mut self, address: &str) -> SocketResult<Resource<tcp::TcpSocket>> {
        let (socket, network) = (self.tcp(), self.network());
        let mut net = self.net();
        net.start_bind(again(&socket), network, parse(address).into())
            .await?;
        net.finish_bind(again(&socket))?;
        net.start_listen(again(&socket)).await?;
        net.finish_listen(again(&socket))?;
        Ok(socket)
    }

    fn connect(
        &mut self,
        to: SocketAddr,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let (socket, network) = (self.tcp(), self.network());
        self.net()
            .start_connect(again(&socket), network, to.into())?;
        self.net().finish_connect(socket)
    }

    fn write(&mut self, stream: &Resource<DynOutputStream>, bytes: Vec<u8>) {
        let stream = self.table.get_mut(stream).expect("stream");
        assert!(stream.check_write().expect("open") >= bytes.len());
        stream.write(bytes.into()).expect("written");
    }

    async fn read(&mut self, stream: &Resource<DynInputStream>) -> Result<Vec<u8>, StreamError> {
        let stream = self.table.get_mut(stream).expect("stream");
        stream.ready().await;
        stream.read(READ_BYTES_MAX).map(|bytes| bytes.to_vec())
    }

    async fn udp(&mut self, address: &str) -> Resource<udp::UdpSocket> {
        let network = self.network();
        let mut net = self.net();
        let socket = net
            .create_udp_socket(IpAddressFamily::Ipv4)
            .await
            .expect("socket");
        let address = parse(address).into();
        let bound =
            udp::HostUdpSocket::start_bind(&mut net, again(&socket), network, address).await;
        bound.expect("address");
        udp::HostUdpSocket::finish_bind(&mut net, again(&socket)).expect("bound");
        socket
    }
}

/// Names a resource again, as a guest does that calls a method.
fn again<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

fn parse(address: &str) -> SocketAddr {
    address.parse().expect("address")
}

fn code<T>(result: SocketResult<T>) -> ErrorCode {
    result
        .err()
        .expect("a failure")
        .downcast()
        .expect("an error code, not a trap")
}

#[tokio::test]
async fn two_pods_talk_and_meet_the_end() {
    let (_fabric, first, second) = pods();
    let (mut server, mut client) = (Guest::of(&first), Guest::of(&second));
    let listener = server.listen("0.0.0.0:80").await.expect("listening");
    assert_eq!(
        code(server.net().accept(again(&listener))),
        ErrorCode::WouldBlock
    );
    let (input, output) = client
        .connect(SocketAddr::new(first.ip().into(), 80))
        .expect("connected");
    let (socket, from, to) = server.net().accept(again(&listener)).expect("accepted");
    let local = server.net().local_address(again(&socket)).expect("address");
    assert_eq!(
        SocketAddr::from(local),
        SocketAddr::new(first.ip().into(), 80)
    );
    let peer = server
        .net()
        .remote_address(again(&socket))
        .expect("address");
    assert_eq!(SocketAddr::from(peer).ip(), second.ip());
    client.write(&output, b"question".to_vec());
    assert_eq!(server.read(&from).await.expect("bytes"), b"question");
    server.write(&to, b"answer".to_vec());
    server
        .net()
        .shutdown(again(&socket), ShutdownType::Send)
        .expect("shut down");
    server
        .net()
        .shutdown(again(&socket), ShutdownType::Send)
        .expect("idempotent");
    assert_eq!(client.read(&input).await.expect("bytes"), b"answer");
    assert!(matches!(
        client.read(&input).await,
        Err(StreamError::Closed)
    ));
}

/// What a connection does not take at once still arrives, all of it and in order, even if the
/// writer never asks again and shuts its half down.
#[tokio::test]
async fn what_was_written_arrives_though_nobody_polls_the_writer() {
    let (_fabric, first, second) = pods();
    let (mut server, mut client) = (Guest::of(&first), Guest::of(&second));
    let listener = server.listen("0.0.0.0:80").await.expect("listening");
    let (input, _output) = client
        .connect(SocketAddr::new(first.ip().into(), 80))
        .expect("connected");
    let (socket, _from, to) = server.net().accept(listener).expect("accepted");
    let block: Vec<u8> = (0..64 * 1024).map(|i| (i % 251) as u8).collect();
    let mut written = Vec::new();
    while server
        .table
        .get_mut(&to)
        .expect("stream")
        .check_write()
        .expect("open")
        > 0
    {
        server.write(&to, block.clone());
        written.extend_from_slice(&block);
        assert!(
            written.len() < 1 << 20,
            "the connection takes bytes without end"
        );
    }
    server
        .net()
        .shutdown(socket, ShutdownType::Send)
        .expect("shut down");
    let mut read = Vec::new();
    loop {
        match client.read(&input).await {
            Ok(bytes) => read.extend(bytes),
            Err(StreamError::Closed) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(read == written, "{} of {} bytes", read.len(), written.len());
}

#[tokio::test]
async fn failures_have_their_codes() {
    let (_fabric, first, second) = pods();
    let (mut guest, mut other) = (Guest::of(&first), Guest::of(&second));
    let listener = guest.listen("0.0.0.0:80").await.expect("listening");
    assert_eq!(
        code(guest.listen("0.0.0.0:80").await),
        ErrorCode::AddressInUse
    );
    assert_eq!(
        code(guest.listen("10.9.9.9:80").await),
        ErrorCode::AddressNotBindable
    );
    assert!(
        other.listen("0.0.0.0:80").await.is_ok(),
        "each pod has ports of its own"
    );
    let refused = guest.connect(SocketAddr::new(second.ip().into(), 81));
    assert_eq!(code(refused), ErrorCode::ConnectionRefused);
    let nobody = guest.connect(parse("10.244.77.77:80"));
    assert_eq!(code(nobody), ErrorCode::RemoteUnreachable);
    assert_eq!(
        code(guest.connect(parse("169.254.169.254:80"))),
        ErrorCode::AccessDenied
    );
    assert_eq!(
        code(guest.connect(parse("0.0.0.0:80"))),
        ErrorCode::InvalidArgument
    );
    let mut net = guest.net();
    let backlog = net.set_listen_backlog_size(again(&listener), 5);
    assert_eq!(code(backlog), ErrorCode::NotSupported);
    assert_eq!(
        code(net.start_listen(again(&listener)).await),
        ErrorCode::InvalidState
    );
    assert_eq!(
        code(net.finish_connect(again(&listener))),
        ErrorCode::NotInProgress
    );
    assert_eq!(code(net.remote_address(listener)), ErrorCode::InvalidState);
}

#[tokio::test]
async fn operations_come_in_order() {
    let (_fabric, first, _second) = pods();
    let mut guest = Guest::of(&first);
    let (socket, network) = (guest.tcp(), guest.network());
    let mut net = guest.net();
    assert_eq!(
        code(net.finish_bind(again(&socket))),
        ErrorCode::NotInProgress
    );
    assert_eq!(
        code(net.start_listen(again(&socket)).await),
        ErrorCode::InvalidState
    );
    let address = parse("127.0.0.1:0").into();
    net.start_bind(again(&socket), again(&network), address)
        .await
        .expect("binding");
    let twice = net
        .start_bind(again(&socket), again(&network), address)
        .await;
    assert_eq!(code(twice), ErrorCode::ConcurrencyConflict);
    assert_eq!(
        code(net.local_address(again(&socket))),
        ErrorCode::InvalidState
    );
    net.finish_bind(again(&socket)).expect("bound");
    let bound = SocketAddr::from(net.local_address(again(&socket)).expect("address"));
    assert!(bound.ip().is_loopback() && bound.port() != 0);
    let twice = net.start_bind(again(&socket), network, address).await;
    assert_eq!(code(twice), ErrorCode::InvalidState);
}

#[tokio::test]
async fn the_number_of_sockets_is_bounded_and_dropped_ones_do_not_count() {
    let (_fabric, first, _second) = pods();
    let mut guest = Guest::of(&first);
    let mut sockets: Vec<_> = (0..SOCKETS_MAX).map(|_| guest.tcp()).collect();
    let one_more = guest.net().create_tcp_socket(IpAddressFamily::Ipv4);
    assert_eq!(code(one_more), ErrorCode::NewSocketLimit);
    let last = sockets.pop().expect("sockets");
    tcp::HostTcpSocket::drop(&mut guest.net(), last).expect("dropped");
    guest.tcp();
}

#[tokio::test]
async fn datagrams_carry_their_sender_and_a_connected_socket_hears_its_peer_only() {
    let (_fabric, first, second) = pods();
    let (mut server, mut client) = (Guest::of(&first), Guest::of(&second));
    let echo = server.udp("0.0.0.0:7").await;
    let (from, _to) = udp::HostUdpSocket::stream(&mut server.net(), again(&echo), None)
        .await
        .expect("streams");
    let socket = client.udp("0.0.0.0:0").await;
    let peer = SocketAddr::new(first.ip().into(), 7);
    let (_input, output) =
        udp::HostUdpSocket::stream(&mut client.net(), again(&socket), Some(peer.into()))
            .await
            .expect("streams");
    let datagram = |text: &str, to: Option<SocketAddr>| udp::OutgoingDatagram {
        data: text.as_bytes().to_vec(),
        remote_address: to.map(Into::into),
    };
    let mut net = client.net();
    assert!(net.check_send(again(&output)).expect("open") >= 2);
    let sent = net.send(
        again(&output),
        vec![datagram("a", None), datagram("b", Some(peer))],
    );
    assert_eq!(sent.expect("sent"), 2);
    net.check_send(again(&output)).expect("open");
    let elsewhere = Some(SocketAddr::new(first.ip().into(), 8));
    let strayed = net.send(again(&output), vec![datagram("c", elsewhere)]);
    assert_eq!(code(strayed), ErrorCode::InvalidArgument);
    let unpermitted = net.send(output, vec![datagram("d", None)]);
    assert!(
        unpermitted.is_err_and(|error| error.downcast().is_err()),
        "a trap"
    );
    let received = server.net().receive(again(&from), 16).expect("datagrams");
    let texts: Vec<_> = received
        .iter()
        .map(|datagram| datagram.data.as_slice())
        .collect();
    assert_eq!(texts, [b"a", b"b"]);
    assert_eq!(
        SocketAddr::from(received[0].remote_address).ip(),
        second.ip()
    );
    assert!(server.net().receive(from, 16).expect("none").is_empty());
    let twice = udp::HostUdpSocket::stream(&mut client.net(), socket, None).await;
    assert!(
        twice.is_err_and(|error| error.downcast().is_err()),
        "a trap"
    );
}

#[tokio::test]
async fn names_are_the_pods() {
    let (_fabric, first, _second) = pods();
    let mut guest = Guest::of(&first);
    let network = guest.network();
    let mut net = guest.net();
    for (name, expected) in [
        ("first", first.ip().to_string()),
        ("10.1.2.3", "10.1.2.3".into()),
    ] {
        let lookup = net
            .resolve_addresses(again(&network), name.into())
            .expect(name);
        let address = net
            .resolve_next_address(again(&lookup))
            .expect(name)
            .expect(name);
        let expected = IpAddress::from(expected.parse::<IpAddr>().expect("address"));
        assert_eq!(format!("{address:?}"), format!("{expected:?}"));
        assert!(net.resolve_next_address(lookup).expect(name).is_none());
    }
    let unknown = "nobody.default.svc.cluster.local".to_owned();
    let lookup = net
        .resolve_addresses(again(&network), unknown)
        .expect("asked");
    assert_eq!(
        code(net.resolve_next_address(lookup)),
        ErrorCode::NameUnresolvable
    );
    assert_eq!(
        code(net.resolve_addresses(network, String::new())),
        ErrorCode::InvalidArgument
    );
}
