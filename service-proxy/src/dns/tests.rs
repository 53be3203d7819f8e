//! The server in one process: pods ask it, and other pods are the name servers it asks.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use coracle_network::{
    FabricConfig, NameClient, NameSource, NetError, PodIdentity, PodNetwork, PublishPlan,
    ResolverConfig, ServiceRecords, Upstream,
};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record as WireRecord, RecordType};

use super::road::{Datagrams, read_message, write_message};
use super::*;

/// Longer than anything here takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

fn fabric() -> Fabric {
    let config = FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    };
    Fabric::new(config).expect("the default layout is valid")
}

fn pod(fabric: &Fabric, name: &str) -> PodNetwork {
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
        hostname: name.to_owned(),
        subdomain: None,
    };
    fabric.attach(identity).expect("an address is free")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

async fn serve(fabric: &Fabric) -> DnsServer {
    let config = DnsConfig {
        fabric: fabric.clone(),
        listen: None,
    };
    DnsServer::start(config).await.expect("the port is free")
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut request = Message::query();
    request.add_query(Query::query(Name::from_str(name).expect("a name"), kind));
    request
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it does not take that long")
}

async fn ask_over(socket: &impl Datagrams, server: SocketAddr, request: &Message) -> Message {
    let bytes = request.to_vec().expect("a request is written");
    socket.send(&bytes, server).await.expect("sent");
    let mut buffer = [0; 4096];
    let (length, from) = soon(socket.receive(&mut buffer)).await.expect("answered");
    assert_eq!(from, server);
    Message::from_vec(&buffer[..length]).expect("our answers are read")
}

async fn ask_stream(stream: &mut impl road::Connection, request: &Message) -> Message {
    let bytes = request.to_vec().expect("a request is written");
    write_message(stream, &bytes).await.expect("sent");
    let answer = soon(read_message(stream, 65_535)).await.expect("answered");
    Message::from_vec(&answer.expect("the stream goes on")).expect("our answers are read")
}

fn data(answer: &Message) -> Vec<String> {
    let records = answer.answers.iter();
    records.map(|record| record.data.to_string()).collect()
}

fn cluster(address: &str) -> ServiceRecords {
    ServiceRecords::Cluster {
        ips: vec![ip(address)],
        ports: Vec::new(),
    }
}

const WEB: &str = "web.default.svc.cluster.local.";

#[tokio::test]
async fn guests_with_a_resolver_of_their_own_ask_the_node() {
    let fabric = fabric();
    let server = serve(&fabric).await;
    fabric.zone().set("default", "web", cluster("10.96.0.7"));
    let asking = pod(&fabric, "a");
    let node = SocketAddr::new(fabric.node_ip().into(), 53);
    let socket = asking.bind_udp(any(0)).expect("a port is free");
    let web = question(WEB, RecordType::A);
    let answer = ask_over(&socket, node, &web).await;
    assert_eq!(answer.metadata.id, web.metadata.id);
    assert_eq!(data(&answer), ["10.96.0.7"]);
    let mut stream = asking.connect(None, node).await.expect("it listens");
    for _ in 0..2 {
        assert_eq!(data(&ask_stream(&mut stream, &web).await), ["10.96.0.7"]);
    }
    let unknown = question("x.default.svc.cluster.local.", RecordType::A);
    let answer = ask_over(&socket, node, &unknown).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    server.stop().await;
    let refused = asking.connect(None, node).await;
    assert!(matches!(refused, Err(NetError::ConnectionRefused)));
}

#[tokio::test]
async fn guests_of_both_families_ask_the_node_by_either() {
    let fabric = Fabric::new(FabricConfig {
        publish: PublishPlan::Nowhere,
        pod_cidr6: Some("fd00:10:244::/64".parse().expect("a range")),
        ..FabricConfig::default()
    });
    let fabric = fabric.expect("the layout is valid");
    let _server = serve(&fabric).await;
    fabric.zone().set("default", "web", cluster("10.96.0.7"));
    let asking = pod(&fabric, "a");
    let web = question(WEB, RecordType::A);
    for (node, own) in fabric.node_ips().into_iter().zip(["0.0.0.0:0", "[::]:0"]) {
        let node = SocketAddr::new(node, 53);
        let own = own.parse().expect("an address");
        let socket = asking.bind_udp(own).expect("a port is free");
        let answer = ask_over(&socket, node, &web).await;
        assert_eq!(data(&answer), ["10.96.0.7"], "{node}");
        let mut stream = asking.connect(None, node).await.expect("it listens");
        let answer = ask_stream(&mut stream, &web).await;
        assert_eq!(data(&answer), ["10.96.0.7"], "{node}");
        // A name server in a pod's own file is asked by its family too.
        let found = crate::dns::client::DnsClient::new(fabric.node_ip());
        let found = found.look_up(&asking, &[node.ip()], WEB).await;
        assert_eq!(found.expect("an answer"), [ip("10.96.0.7")], "{node}");
    }
}

#[tokio::test]
async fn garbage_harms_nobody_and_ends_a_stream() {
    let fabric = fabric();
    let server = serve(&fabric).await;
    fabric.zone().set("default", "web", cluster("10.96.0.7"));
    let asking = pod(&fabric, "a");
    let node = SocketAddr::new(fabric.node_ip().into(), 53);
    let socket = asking.bind_udp(any(0)).expect("a port is free");
    for garbage in [&[][..], &[0; 11], &[0xff; 600], &[0x80; 60]] {
        Datagrams::send(&socket, garbage, node).await.expect("sent");
    }
    let answer = ask_over(&socket, node, &question(WEB, RecordType::A)).await;
    assert_eq!(data(&answer), ["10.96.0.7"]);
    let mut stream = asking.connect(None, node).await.expect("it listens");
    // A length that no question has.
    tokio::io::AsyncWriteExt::write_all(&mut stream, &[0xff, 0xff, 0])
        .await
        .expect("sent");
    let ended = soon(read_message(&mut stream, 65_535)).await;
    assert!(matches!(ended, Ok(None) | Err(_)), "{ended:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_machine_asks_too_where_it_is_told_to_listen() {
    let fabric = fabric();
    let config = DnsConfig {
        fabric: fabric.clone(),
        listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
    };
    let server = DnsServer::start(config).await.expect("a port is free");
    let address = server.listening().expect("it was told to");
    fabric.zone().set("default", "web", cluster("10.96.0.7"));
    let web = question(WEB, RecordType::A);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await;
    let socket = socket.expect("a port is free");
    assert_eq!(data(&ask_over(&socket, address, &web).await), ["10.96.0.7"]);
    let stream = tokio::net::TcpStream::connect(address).await;
    let mut stream = stream.expect("it listens");
    assert_eq!(data(&ask_stream(&mut stream, &web).await), ["10.96.0.7"]);
    let taken = DnsConfig {
        fabric: self::fabric(),
        listen: Some(address),
    };
    let taken = DnsServer::start(taken).await;
    assert!(matches!(taken, Err(DnsError::Listen { .. })), "{taken:?}");
    server.stop().await;
}

/// A name server in a pod: knows `example.com`, lies first, cuts what it says over UDP about `big.test`,
/// and never answers about `silent.test`.
fn name_server(place: &PodNetwork) {
    let socket = place.bind_udp(any(53)).expect("the port is free");
    let port = place.reserve_tcp(any(53)).expect("the port is free");
    let listener = place.listen(port, 16).expect("a reserved port listens");
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.receive(&mut buffer).await {
            let request = Message::from_vec(&buffer[..length]).expect("a question");
            let Some(mut answer) = said(&request) else {
                continue;
            };
            let mut lie = answer.clone();
            lie.metadata.id ^= 1;
            lie.answers.clear();
            if answer.queries[0].name.to_ascii() == "big.test." {
                answer.answers.clear();
                answer.metadata.truncation = true;
            }
            for message in [lie, answer] {
                let bytes = message.to_vec().expect("written");
                Datagrams::send(&socket, &bytes, from).await.expect("sent");
            }
        }
    });
    tokio::spawn(async move {
        while let Ok(mut stream) = listener.accept().await {
            let bytes = read_message(&mut stream, 65_535).await;
            let bytes = bytes.expect("read").expect("a question");
            let request = Message::from_vec(&bytes).expect("a question");
            let answer = said(&request).expect("nobody asks for silence here");
            let bytes = answer.to_vec().expect("written");
            write_message(&mut stream, &bytes).await.expect("sent");
        }
    });
}

fn said(request: &Message) -> Option<Message> {
    let question = request.queries[0].clone();
    let mut answer = Message::response(request.metadata.id, OpCode::Query);
    answer.add_query(question.clone());
    let count = match question.name.to_ascii().as_str() {
        "silent.test." => return None,
        "example.com." => 1,
        "big.test." => 100,
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            0
        }
    };
    if question.query_type == RecordType::A {
        for last in 1..=count {
            let data = hickory_proto::rr::rdata::A(Ipv4Addr::new(192, 0, 2, last));
            let data = hickory_proto::rr::RData::A(data);
            answer.add_answer(WireRecord::from_rdata(question.name.clone(), 60, data));
        }
    }
    Some(answer)
}

#[tokio::test]
async fn names_of_others_are_asked_for_upstream() {
    let fabric = fabric();
    let server = serve(&fabric).await;
    let upstream = pod(&fabric, "upstream");
    name_server(&upstream);
    fabric.set_upstream(Upstream::Servers(vec![upstream.ip().into()]));
    let target = "example.com".to_owned();
    fabric
        .zone()
        .set("default", "out", ServiceRecords::External { target });
    let asking = pod(&fabric, "a");
    let node = SocketAddr::new(fabric.node_ip().into(), 53);
    let socket = asking.bind_udp(any(0)).expect("a port is free");
    let ask = async |name| ask_over(&socket, node, &question(name, RecordType::A)).await;
    let answer = ask("example.com.").await;
    assert_eq!(data(&answer), ["192.0.2.1"]);
    assert!(!answer.metadata.authoritative);
    let answer = ask("out.default.svc.cluster.local.").await;
    assert_eq!(data(&answer), ["example.com.", "192.0.2.1"]);
    let unknown = ask("unknown.test.").await.metadata.response_code;
    assert_eq!(unknown, ResponseCode::NXDomain);
    // Cut on the way to us, and again on the way to the guest, who comes back over TCP.
    let answer = ask("big.test.").await;
    assert!(answer.metadata.truncation && answer.answers.len() < 100);
    let mut stream = asking.connect(None, node).await.expect("it listens");
    let answer = ask_stream(&mut stream, &question("big.test.", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 100);
    server.stop().await;
}

#[tokio::test]
async fn a_guest_that_asks_for_too_much_at_once_fails_at_once_and_others_do_not() {
    let fabric = fabric();
    let server = serve(&fabric).await;
    let upstream = pod(&fabric, "upstream");
    name_server(&upstream);
    fabric.set_upstream(Upstream::Servers(vec![upstream.ip().into()]));
    let node = SocketAddr::new(fabric.node_ip().into(), 53);
    let greedy = pod(&fabric, "greedy");
    let socket = greedy.bind_udp(any(0)).expect("a port is free");
    let silent = question("silent.test.", RecordType::A);
    let bytes = silent.to_vec().expect("written");
    for _ in 0..32 {
        Datagrams::send(&socket, &bytes, node).await.expect("sent");
    }
    let answer = ask_over(&socket, node, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(answer.queries[0].name.to_ascii(), "example.com.");
    let modest = pod(&fabric, "modest");
    let socket = modest.bind_udp(any(0)).expect("a port is free");
    let answer = ask_over(&socket, node, &question("example.com.", RecordType::A)).await;
    assert_eq!(data(&answer), ["192.0.2.1"]);
    server.stop().await;
}

#[tokio::test]
async fn pods_resolve_by_name_servers_upstream_and_of_their_own() {
    let fabric = fabric();
    let server = serve(&fabric).await;
    let upstream = pod(&fabric, "upstream");
    name_server(&upstream);
    let servers = vec![IpAddr::from(upstream.ip())];
    fabric.set_upstream(Upstream::Servers(servers.clone()));
    let asking = pod(&fabric, "a");
    let found = soon(asking.resolve("example.com")).await;
    assert_eq!(found.expect("known upstream"), [ip("192.0.2.1")]);
    let own = pod(&fabric, "own");
    own.set_resolver(ResolverConfig {
        source: NameSource::Servers(servers),
        searches: vec!["test".to_owned()],
        ndots: 1,
    });
    let found = soon(own.resolve("big")).await.expect("known there");
    assert_eq!(found.len(), 100);
    let unknown = soon(own.resolve(WEB)).await;
    assert!(
        matches!(unknown, Err(NetError::NameNotFound)),
        "{unknown:?}"
    );
    upstream.detach();
    let failed = soon(asking.resolve("example.com.")).await;
    assert!(matches!(failed, Err(NetError::ResolverUnavailable)));
    server.stop().await;
}
