use super::*;

const NODE: &str = "10.244.0.1";
const A: &str = "10.244.0.2";
const B: &str = "10.244.0.3";
const C: &str = "10.244.0.4";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a range")
}

fn set(ips: &[&str]) -> Arc<AddressSet> {
    let set = AddressSet::default();
    ips.iter().for_each(|text| set.insert(ip(text)));
    Arc::new(set)
}

fn tcp(first: u16, last: u16) -> PortMatch {
    PortMatch::Range {
        protocol: Protocol::Tcp,
        first,
        last,
    }
}

fn from_set(ips: &[&str], ports: Option<Vec<PortMatch>>) -> Rule {
    let peers = Peers::Any {
        sets: vec![set(ips)],
        blocks: Vec::new(),
    };
    Rule { peers, ports }
}

/// Judges connections from A to B with rules for both.
struct World {
    table: PolicyTable,
    a: Arc<PodPolicy>,
    b: Arc<PodPolicy>,
}

impl World {
    fn new(a: Option<PodRules>, b: Option<PodRules>) -> World {
        let table = PolicyTable::new(ip(NODE));
        // One before it is attached, one after.
        table.set("a", a);
        let (a, policy) = (table.attach("a"), table.attach("b"));
        table.set("b", b);
        World {
            table,
            a,
            b: policy,
        }
    }

    fn judge(&self, protocol: Protocol, from: &str, to: &str) -> Verdict {
        let (from, to): (IpAddr, SocketAddr) = (ip(from), to.parse().expect("address and port"));
        let policy = |ip: IpAddr| match ip.to_canonical().to_string().as_str() {
            A => Some(&*self.a),
            B => Some(&*self.b),
            _ => None,
        };
        self.table.judge(Crossing {
            protocol,
            from,
            to,
            source: policy(from),
            target: policy(to.ip()),
        })
    }

    #[track_caller]
    fn check(&self, rows: &[(&str, &str, Verdict)]) {
        for (from, to, expected) in rows {
            let found = self.judge(Protocol::Tcp, from, to);
            assert_eq!(found, *expected, "{from} -> {to}");
        }
    }
}

fn ingress(rules: Vec<Rule>) -> Option<PodRules> {
    Some(PodRules {
        ingress: Some(rules),
        egress: None,
    })
}

fn egress(rules: Vec<Rule>) -> Option<PodRules> {
    Some(PodRules {
        ingress: None,
        egress: Some(rules),
    })
}

use Verdict::{Admit, Drop};

#[test]
fn without_rules_everything_is_open() {
    let world = World::new(None, None);
    world.check(&[(A, "10.244.0.3:80", Admit), (B, "10.244.0.2:80", Admit)]);
    let world = World::new(Some(PodRules::default()), Some(PodRules::default()));
    world.check(&[(A, "10.244.0.3:80", Admit), (B, "10.244.0.2:80", Admit)]);
}

#[test]
fn a_direction_with_no_rule_that_admits_is_closed_and_the_other_one_is_not() {
    let world = World::new(None, ingress(Vec::new()));
    world.check(&[
        (A, "10.244.0.3:80", Drop),
        ("192.0.2.1", "10.244.0.3:80", Drop),
        (B, "10.244.0.2:80", Admit),
        (B, "192.0.2.1:80", Admit),
    ]);
    let world = World::new(egress(Vec::new()), None);
    world.check(&[
        (A, "10.244.0.3:80", Drop),
        (A, "192.0.2.1:80", Drop),
        (B, "10.244.0.2:80", Admit),
    ]);
}

#[test]
fn both_sides_have_to_admit() {
    let open = || from_set(&[A, B], None);
    for (out, into, expected) in [
        (vec![open()], vec![open()], Admit),
        (vec![open()], vec![], Drop),
        (vec![], vec![open()], Drop),
    ] {
        let world = World::new(egress(out), ingress(into));
        world.check(&[(A, "10.244.0.3:80", expected)]);
    }
}

#[test]
fn a_rule_admits_its_peers_on_its_ports_and_rules_add_up() {
    let rules = vec![
        from_set(&[A], Some(vec![tcp(80, 80), tcp(8000, 8010)])),
        from_set(&[C], None),
    ];
    let world = World::new(None, ingress(rules));
    world.check(&[
        (A, "10.244.0.3:80", Admit),
        (A, "10.244.0.3:81", Drop),
        (A, "10.244.0.3:7999", Drop),
        (A, "10.244.0.3:8000", Admit),
        (A, "10.244.0.3:8010", Admit),
        (A, "10.244.0.3:8011", Drop),
        (C, "10.244.0.3:81", Admit),
        ("10.244.0.9", "10.244.0.3:80", Drop),
    ]);
    assert_eq!(world.judge(Protocol::Udp, A, "10.244.0.3:80"), Drop);
    assert_eq!(world.judge(Protocol::Udp, C, "10.244.0.3:80"), Admit);
}

#[test]
fn a_rule_without_peers_admits_everyone_on_its_ports() {
    let rule = Rule {
        peers: Peers::All,
        ports: Some(vec![tcp(80, 80)]),
    };
    let world = World::new(None, ingress(vec![rule]));
    world.check(&[
        ("192.0.2.1", "10.244.0.3:80", Admit),
        (A, "10.244.0.3:81", Drop),
    ]);
}

#[test]
fn a_block_leaves_its_exceptions_out() {
    let block = AddressBlock {
        cidr: net("192.0.2.0/24"),
        except: vec![net("192.0.2.128/25"), net("192.0.2.7/32")],
    };
    let peers = Peers::Any {
        sets: Vec::new(),
        blocks: vec![block],
    };
    let rule = Rule { peers, ports: None };
    let world = World::new(egress(vec![rule.clone()]), ingress(vec![rule]));
    world.check(&[
        (A, "192.0.2.1:80", Admit),
        (A, "192.0.2.7:80", Drop),
        (A, "192.0.2.200:80", Drop),
        (A, "198.51.100.1:80", Drop),
        (A, "[::ffff:192.0.2.1]:80", Admit),
        (A, "[2001:db8::1]:80", Drop),
        ("192.0.2.1", "10.244.0.3:80", Admit),
        ("192.0.2.7", "10.244.0.3:80", Drop),
    ]);
}

#[test]
fn a_named_port_is_the_destinations() {
    let named = Arc::new(NamedPorts::new(Protocol::Tcp));
    named.insert(ip(B), 8080);
    named.insert(ip(C), 9090);
    let rule = from_set(&[B, C], Some(vec![PortMatch::Named(Arc::clone(&named))]));
    let world = World::new(egress(vec![rule]), None);
    world.check(&[
        (A, "10.244.0.3:8080", Admit),
        (A, "10.244.0.3:9090", Drop),
        (A, "10.244.0.4:9090", Admit),
    ]);
    assert_eq!(world.judge(Protocol::Udp, A, "10.244.0.3:8080"), Drop);
    named.remove(ip(B), 8080);
    world.check(&[(A, "10.244.0.3:8080", Drop)]);
}

#[test]
fn the_node_and_the_pod_itself_are_never_kept_out() {
    let world = World::new(egress(Vec::new()), ingress(Vec::new()));
    world.table.add_node_addresses([ip("192.0.2.9")]);
    world.check(&[
        (NODE, "10.244.0.3:80", Admit),
        ("192.0.2.9", "10.244.0.3:80", Admit),
        ("192.0.2.10", "10.244.0.3:80", Drop),
        (A, "10.244.0.1:53", Admit),
        (A, "192.0.2.9:80", Admit),
        (A, "10.244.0.2:80", Admit),
        (B, "10.244.0.3:80", Admit),
    ]);
}

#[test]
fn rules_follow_their_sets() {
    let peers = set(&[]);
    let rule = Rule {
        peers: Peers::Any {
            sets: vec![Arc::clone(&peers)],
            blocks: Vec::new(),
        },
        ports: None,
    };
    let world = World::new(None, ingress(vec![rule]));
    world.check(&[(A, "10.244.0.3:80", Drop)]);
    // Two holders of one address: a pod that goes, and the next one that got its address.
    peers.insert(ip(A));
    peers.insert(ip(A));
    peers.remove(ip(A));
    world.check(&[(A, "10.244.0.3:80", Admit)]);
    peers.remove(ip(A));
    peers.remove(ip(A));
    world.check(&[(A, "10.244.0.3:80", Drop)]);
}

#[test]
fn rules_outlive_the_attachment_and_nothing_else_does() {
    let world = World::new(None, ingress(Vec::new()));
    assert_eq!(world.table.selected(), ["b"]);
    world.table.detach("b");
    let again = world.table.attach("b");
    assert!(again.is_selected());
    world.table.set("b", None);
    assert!(!again.is_selected());
    world.table.set("b", ingress(Vec::new()));
    assert!(again.is_selected());
    world.table.set("b", None);
    world.table.detach("b");
    world.table.detach("a");
    world.table.set("never", ingress(Vec::new()));
    world.table.set("never", None);
    assert!(world.table.pods.lock().is_empty());
}
