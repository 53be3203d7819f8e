//! Pods at their own addresses outside: which ports are told, and how datagrams leave from there.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, Weak};

use coracle_network::{
    Fabric, HeldPort, HostAddress, HostPort, NetError, Outside, Peers, PodIdentity, PodNetwork,
    PodRules, Protocol, PublishError, PublishPort, Rule, UdpFlow,
};

use crate::fixture::*;

/// Writes down what it is told and asked to send.
#[derive(Default)]
struct Witness {
    told: Mutex<Vec<(Told, Protocol, SocketAddr)>>,
    sent: Mutex<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
    /// Held as long as a port is.
    published: Mutex<Vec<(HostPort, Weak<()>)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Open,
    Closed,
}

impl Outside for Witness {
    fn open(&self, protocol: Protocol, at: SocketAddr) {
        self.told.lock().unwrap().push((Told::Open, protocol, at));
    }

    fn close(&self, protocol: Protocol, at: SocketAddr) {
        self.told.lock().unwrap().push((Told::Closed, protocol, at));
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let sent = (from, to, datagram.to_vec());
        self.sent.lock().unwrap().push(sent);
        Ok(())
    }

    fn publish(&self, port: HostPort) -> Option<io::Result<HeldPort>> {
        match port.port {
            1 => return None,
            2 => return Some(Err(io::ErrorKind::AddrInUse.into())),
            _ => {}
        }
        let held = Arc::new(());
        let known = (port, Arc::downgrade(&held));
        self.published.lock().unwrap().push(known);
        Some(Ok(HeldPort::new(held)))
    }
}

impl Witness {
    fn told(&self) -> Vec<(Told, Protocol, SocketAddr)> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

/// A remote node's pod.
const REMOTE: &str = "10.200.1.2:5353";

fn witnessed() -> (Fabric, Arc<Witness>) {
    let (fabric, witness) = (fabric(), Arc::<Witness>::default());
    fabric.set_outside(witness.clone());
    fabric.set_cluster_ranges(vec!["10.200.0.0/16".parse().unwrap()]);
    (fabric, witness)
}

fn of(pod: &PodNetwork, port: u16) -> SocketAddr {
    SocketAddr::new(pod.ip().into(), port)
}

#[test]
fn ports_are_told_while_they_are_served_at_the_pods_address() {
    let (fabric, witness) = witnessed();
    let a = pod(&fabric, "a");
    let web = listen(&a, "0.0.0.0:80");
    let dns = a.bind_udp(address("0.0.0.0:53")).unwrap();
    // Neither is anybody's business outside: on loopback, and a client's.
    let _own = listen(&a, "127.0.0.1:81");
    let _client = a.bind_udp(address("0.0.0.0:0")).unwrap();
    // Held, not yet listening.
    let _held = a.reserve_tcp(address("0.0.0.0:82")).unwrap();
    let opened = [
        (Told::Open, Protocol::Tcp, of(&a, 80)),
        (Told::Open, Protocol::Udp, of(&a, 53)),
    ];
    assert_eq!(witness.told(), opened);
    drop((web, dns));
    let closed = [
        (Told::Closed, Protocol::Tcp, of(&a, 80)),
        (Told::Closed, Protocol::Udp, of(&a, 53)),
    ];
    assert_eq!(witness.told(), closed);
}

#[test]
fn a_pod_that_is_detached_serves_nothing_and_later_listeners_are_heard_of() {
    let (fabric, witness) = witnessed();
    let a = pod(&fabric, "a");
    let _web = listen(&a, "0.0.0.0:80");
    witness.told();
    a.detach();
    let closed = (Told::Closed, Protocol::Tcp, of(&a, 80));
    assert_eq!(witness.told(), [closed]);
    fabric.clear_outside();
    let b = pod(&fabric, "b");
    let _web = listen(&b, "0.0.0.0:80");
    let _dns = b.bind_udp(address("0.0.0.0:53")).unwrap();
    assert_eq!(witness.told(), []);
    fabric.set_outside(witness.clone());
    let opened = [
        (Told::Open, Protocol::Tcp, of(&b, 80)),
        (Told::Open, Protocol::Udp, of(&b, 53)),
    ];
    assert_eq!(witness.told(), opened);
}

#[tokio::test]
async fn datagrams_into_the_cluster_leave_from_the_pods_own_port() {
    let (fabric, witness) = witnessed();
    let a = pod(&fabric, "a");
    let client = a.bind_udp(address("0.0.0.0:0")).unwrap();
    let own = of(&a, client.local_addr().port());
    client.try_send_to(b"question", address(REMOTE)).unwrap();
    assert_eq!(witness.told(), [(Told::Open, Protocol::Udp, own)]);
    let sent = std::mem::take(&mut *witness.sent.lock().unwrap());
    assert_eq!(sent, [(own, address(REMOTE), b"question".to_vec())]);
    // The answer is one of the flow that whoever received it keeps.
    let flow = UdpFlow::new(address(REMOTE), |_| {});
    fabric.send_datagram(own, b"answer", &flow).unwrap();
    assert_eq!(
        receive(&client).await,
        (b"answer".to_vec(), address(REMOTE))
    );
    drop(client);
    assert_eq!(witness.told(), [(Told::Closed, Protocol::Udp, own)]);
}

#[tokio::test]
async fn an_answer_is_admitted_where_a_question_would_not_be() {
    let (fabric, _witness) = witnessed();
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: "a".to_owned(),
        uid: "a".to_owned(),
        hostname: "a".to_owned(),
        subdomain: None,
    };
    let a = fabric.attach(identity).unwrap();
    let rules = PodRules {
        ingress: Some(Vec::<Rule>::new()),
        egress: Some(vec![Rule {
            peers: Peers::Any {
                sets: Vec::new(),
                blocks: vec![coracle_network::AddressBlock {
                    cidr: "0.0.0.0/0".parse().unwrap(),
                    except: Vec::new(),
                }],
            },
            ports: None,
        }]),
    };
    fabric.policies().set("a", Some(rules));
    let client = a.bind_udp(address("0.0.0.0:7000")).unwrap();
    let flow = UdpFlow::new(address(REMOTE), |_| {});
    let to = at(a.ip(), 7000);
    fabric.send_datagram(to, b"unasked", &flow).unwrap();
    client.try_send_to(b"question", address(REMOTE)).unwrap();
    fabric.send_datagram(to, b"answer", &flow).unwrap();
    assert_eq!(receive(&client).await.0, b"answer");
}

#[tokio::test]
async fn a_datagram_elsewhere_leaves_by_the_host() {
    let (fabric, witness) = witnessed();
    let a = pod(&fabric, "a");
    let client = a.bind_udp(address("0.0.0.0:7000")).unwrap();
    witness.told();
    // Whatever comes of it: nothing was to be sent from the pod's address.
    let to = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 9), 9));
    let _ = client.try_send_to(b"question", to);
    assert!(witness.sent.lock().unwrap().is_empty());
    // The host's loopback stays closed, whatever the cluster's ranges are.
    fabric.set_cluster_ranges(vec!["0.0.0.0/0".parse().unwrap()]);
    let refused = client.try_send_to(b"question", address("127.0.0.9:9"));
    let refused = refused.unwrap_err();
    assert_eq!(
        refused.kind(),
        io::Error::from(NetError::AccessDenied).kind()
    );
    assert!(witness.sent.lock().unwrap().is_empty());
}

#[tokio::test]
async fn ports_of_the_host_are_published_by_whoever_does_it() {
    let (fabric, witness) = witnessed();
    let a = pod(&fabric, "a");
    let publish = |ip: Option<&str>, port| {
        a.publish(PublishPort {
            protocol: Protocol::Tcp,
            port: 80,
            host: HostAddress::HostPort {
                ip: ip.map(|ip| ip.parse().unwrap()),
                port,
            },
        })
    };
    // Somebody has the port, so the fabric binds none.
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let published = publish(None, taken.port()).unwrap();
    assert_eq!(published.address, taken);
    let (asked, held) = witness.published.lock().unwrap()[0].clone();
    let expected = HostPort {
        protocol: Protocol::Tcp,
        ip: None,
        port: taken.port(),
        pod: SocketAddrV4::new(a.ip(), 80),
    };
    assert_eq!(asked, expected);
    assert!(held.upgrade().is_some());
    drop(published);
    assert!(held.upgrade().is_none());
    let refused = publish(Some("::ffff:127.0.0.1"), 2).unwrap_err();
    assert!(
        matches!(refused, PublishError::PortInUse { address: at } if at == address("127.0.0.1:2")),
        "{refused}"
    );
    // Detached, it is given up too.
    let _published = publish(Some("127.0.0.1"), taken.port()).unwrap();
    let (asked, held) = witness.published.lock().unwrap()[1].clone();
    assert_eq!(asked.ip, Some(Ipv4Addr::LOCALHOST.into()));
    a.detach();
    assert!(held.upgrade().is_none());
}
