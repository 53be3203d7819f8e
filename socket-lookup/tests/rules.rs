//! The rules at work, each test in a network namespace of its own, as root of a namespace of users: who
//! may load no program.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};

use coracle_socket_lookup::{
    RANGES_MAX, RulesError, SocketLookup, SocketRules, Transport, make_transparent,
};
use coracle_tests::{By, Inside, enter_namespace};

#[path = "place/namespace.rs"]
mod namespace;

use namespace::{ENTRIES_MAX, PATIENCE, PREPARE, assert_refused, at, ranges};

/// Set in processes that a test starts beside itself.
const HOLD: &str = "CORACLE_TEST_HOLD";
const BEYOND: &str = "CORACLE_TEST_BEYOND";

/// Runs the test of this name again in a namespace of its own; the rules in that second run.
fn enter(test: &str) -> Option<SocketRules> {
    let inside = enter_namespace(test, PREPARE, By::RootOfNamespace)?;
    assert_eq!(inside, Inside::User);
    Some(attach())
}

fn attach() -> SocketRules {
    SocketRules::attach(&ranges(), ENTRIES_MAX).unwrap()
}

/// Listens at the first address of a range, which no entry names.
fn listen(rules: &SocketRules, base: &str) -> TcpListener {
    let listener = TcpListener::bind(base).unwrap();
    make_transparent(&listener).unwrap();
    rules.lead(listener.local_addr().unwrap()).unwrap();
    listener
}

fn listen_4(rules: &SocketRules) -> TcpListener {
    listen(rules, "10.244.0.0:0")
}

/// Starts a test of this program that holds something, and waits until it does.
fn hold(test: &str, variable: &str) -> (Child, ChildStdout) {
    let mut unshare = Command::new("unshare");
    if variable == BEYOND {
        unshare.arg("--net");
    }
    let mut holder = unshare
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(variable, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = holder.stdout.take().unwrap();
    let mut heard = Vec::new();
    while !heard.windows(4).any(|four| four == b"held") {
        let mut byte = [0; 1];
        told.read_exact(&mut byte).unwrap();
        heard.extend(byte);
    }
    (holder, told)
}

#[test]
fn one_listener_is_reached_at_every_address_of_the_table_and_nothing_else_is() {
    let Some(rules) =
        enter("one_listener_is_reached_at_every_address_of_the_table_and_nothing_else_is")
    else {
        return;
    };
    SocketLookup::attach(&ranges(), 1, 1).expect_err("no program is loaded for this user");
    let listener = listen_4(&rules);
    // A program of this machine that listens on all addresses.
    let _daemon = TcpListener::bind("0.0.0.0:8022").unwrap();
    for served in ["10.244.0.1:80", "10.244.255.9:443", "10.244.0.1:8443"] {
        rules.serve(Transport::Tcp, at(served)).unwrap();
        rules.serve(Transport::Tcp, at(served)).unwrap();
        let client = TcpStream::connect(served).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), at(served));
        assert_eq!(peer, client.local_addr().unwrap());
        assert_eq!(peer.ip(), at("192.0.2.1:0").ip());
    }
    assert_refused(&["10.244.0.1:81", "10.244.0.2:80", "10.244.0.1:8022"]);
    let itself = listener.local_addr().unwrap().to_string();
    assert_refused(&[&itself]);
    // Beyond the ranges nothing has changed.
    drop(TcpStream::connect("192.0.2.1:8022").unwrap());
    drop(TcpStream::connect("127.0.0.1:8022").unwrap());
}

#[test]
fn an_entry_that_is_taken_out_refuses_and_what_is_established_stays() {
    let Some(rules) = enter("an_entry_that_is_taken_out_refuses_and_what_is_established_stays")
    else {
        return;
    };
    let listener = listen_4(&rules);
    let web = at("10.244.0.1:80");
    rules.serve(Transport::Tcp, web).unwrap();
    let mut client = TcpStream::connect(web).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    rules.end(Transport::Tcp, web).unwrap();
    assert_refused(&["10.244.0.1:80"]);
    client.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    accepted.read_exact(&mut heard).unwrap();
    accepted.write_all(&heard).unwrap();
    drop(accepted);
    let mut answered = String::new();
    client.read_to_string(&mut answered).unwrap();
    assert_eq!(answered, "still here");
    // Harmless where there is none.
    rules.end(Transport::Tcp, web).unwrap();
    // An entry whose socket is gone refuses too.
    rules.serve(Transport::Tcp, web).unwrap();
    drop(listener);
    assert_refused(&["10.244.0.1:80"]);
}

#[test]
fn an_entry_without_an_address_stands_for_this_machines_but_for_the_ranges() {
    let Some(rules) =
        enter("an_entry_without_an_address_stands_for_this_machines_but_for_the_ranges")
    else {
        return;
    };
    let listener = listen_4(&rules);
    let node_port = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 30_080));
    rules.serve(Transport::Tcp, node_port).unwrap();
    for served in ["192.0.2.1:30080", "127.0.0.1:30080"] {
        let _client = TcpStream::connect(served).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), at(served));
    }
    assert_refused(&["10.244.0.1:30080", "[2001:db8::1]:30080"]);
}

#[test]
fn addresses_of_ipv6_have_a_listener_of_their_own() {
    let Some(rules) = enter("addresses_of_ipv6_have_a_listener_of_their_own") else {
        return;
    };
    let listener = listen(&rules, "[::1]:0");
    let everywhere = at("[::]:30080");
    rules.serve(Transport::Tcp, everywhere).unwrap();
    rules.serve(Transport::Tcp, at("[fd00:10::7]:443")).unwrap();
    for served in ["[fd00:10::7]:443", "[2001:db8::1]:30080", "[::1]:30080"] {
        let _client = TcpStream::connect(served).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), at(served));
    }
    assert_refused(&["[fd00:10::7]:30080", "[fd00:10::8]:443", "192.0.2.1:30080"]);
}

#[test]
fn datagrams_reach_the_socket_of_their_port_and_others_are_refused() {
    let Some(rules) = enter("datagrams_reach_the_socket_of_their_port_and_others_are_refused")
    else {
        return;
    };
    let _listener = listen_4(&rules);
    let served = UdpSocket::bind("10.244.0.0:53").unwrap();
    make_transparent(&served).unwrap();
    let _daemon = UdpSocket::bind("0.0.0.0:5353").unwrap();
    let dns = at("10.244.0.1:53");
    rules.serve(Transport::Udp, dns).unwrap();
    let client = UdpSocket::bind("192.0.2.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"question", dns).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = served.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..length], from),
        (&b"question"[..], client.local_addr().unwrap())
    );
    // The same address and port over TCP is another entry.
    assert_refused(&["10.244.0.1:53"]);
    for unserved in ["10.244.0.2:53", "10.244.0.1:5353"] {
        client.connect(unserved).unwrap();
        client.send(b"question").unwrap();
        let refused = client.recv(&mut buffer).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{unserved}");
    }
}

/// Answers beyond the machine: what `what_passes_through_this_machine_is_none_of_its_business` asks.
#[test]
fn a_process_that_answers_beyond() {
    if std::env::var_os(BEYOND).is_none() {
        return;
    }
    println!("held");
    // Its address comes later.
    let listener = loop {
        if let Ok(listener) = TcpListener::bind("203.0.113.9:30080") {
            break listener;
        }
        std::thread::yield_now();
    };
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.write_all(b"beyond").unwrap();
}

#[test]
fn what_passes_through_this_machine_is_none_of_its_business() {
    let Some(rules) = enter("what_passes_through_this_machine_is_none_of_its_business") else {
        return;
    };
    let listener = listen_4(&rules);
    let node_port = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 30_080));
    rules.serve(Transport::Tcp, node_port).unwrap();
    let (mut beyond, told) = hold("a_process_that_answers_beyond", BEYOND);
    // A client in a namespace of its own asks this machine, and the other one through it.
    let script = format!(
        "set -e; beyond={}; exec 4< <(echo $BASHPID; exec unshare --net sleep 60); read -u 4 client; \
        until [ \"$(readlink /proc/$client/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do :; done; \
        ip link add left type veth peer name right netns $client; \
        ip link add near type veth peer name far netns $beyond; \
        ip address add 198.51.100.1/24 dev left; ip link set left up; \
        ip address add 203.0.113.1/24 dev near; ip link set near up; \
        echo 1 > /proc/sys/net/ipv4/ip_forward; \
        there() {{ nsenter --net=/proc/$client/ns/net \"$@\"; }}; \
        there ip address add 198.51.100.2/24 dev right; there ip link set right up; \
        there ip route add default via 198.51.100.1; \
        beyond() {{ nsenter --net=/proc/$beyond/ns/net \"$@\"; }}; \
        beyond ip address add 203.0.113.9/24 dev far; beyond ip link set far up; \
        beyond ip route add default via 203.0.113.1; \
        there timeout 60 bash -c 'exec 3<>/dev/tcp/198.51.100.1/30080; echo node'; \
        there timeout 60 bash -c 'until exec 3<>/dev/tcp/203.0.113.9/30080; do :; done; cat <&3'; \
        kill $client",
        beyond.id()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let answers = String::from_utf8_lossy(&output.stdout);
    assert_eq!(answers, "node\nbeyond", "{output:?}");
    beyond.wait().unwrap();
    drop((listener, told));
}

#[test]
fn a_full_table_too_many_ranges_and_a_second_process_are_told() {
    let Some(rules) = enter("a_full_table_too_many_ranges_and_a_second_process_are_told") else {
        return;
    };
    let many = vec![ranges()[0]; RANGES_MAX + 1];
    let refused = SocketRules::attach(&many, ENTRIES_MAX).unwrap_err();
    assert!(matches!(refused, RulesError::TooManyRanges { .. }));
    let refused = SocketRules::attach(&ranges(), ENTRIES_MAX).unwrap_err();
    assert!(matches!(refused, RulesError::Taken { .. }), "{refused:?}");
    let pod = |number: u32| {
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 1)) + number);
        SocketAddr::from((ip, 80))
    };
    for number in 0..ENTRIES_MAX {
        rules.serve(Transport::Tcp, pod(number)).unwrap();
    }
    let full = rules.serve(Transport::Tcp, pod(ENTRIES_MAX));
    assert_eq!(full.unwrap_err().kind(), ErrorKind::StorageFull);
    rules.end(Transport::Tcp, pod(0)).unwrap();
    rules.serve(Transport::Tcp, pod(ENTRIES_MAX)).unwrap();
    drop(rules);
    let most = vec![ranges()[1]; RANGES_MAX];
    drop(SocketRules::attach(&most, ENTRIES_MAX).unwrap());
}

/// Holds rules until it is killed: what `nothing_is_left_of_a_process_that_was_killed` kills.
#[test]
fn a_process_that_holds_rules() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let rules = attach();
    let listener = listen_4(&rules);
    rules.serve(Transport::Tcp, at("10.244.0.1:80")).unwrap();
    println!("held");
    for accepted in listener.incoming() {
        drop(accepted);
    }
}

#[test]
fn nothing_is_left_of_a_process_that_was_killed() {
    let Some(rules) = enter("nothing_is_left_of_a_process_that_was_killed") else {
        return;
    };
    drop(rules);
    let daemon = TcpListener::bind("0.0.0.0:80").unwrap();
    let web = at("10.244.0.1:80");
    for _ in 0..2 {
        let (mut holder, _told) = hold("a_process_that_holds_rules", HOLD);
        drop(TcpStream::connect(web).unwrap());
        assert_refused(&["10.244.0.2:80"]);
        holder.kill().unwrap();
        holder.wait().unwrap();
        // The kernel is as it was before: the route alone leads to who listens on all addresses.
        drop(TcpStream::connect("10.244.0.2:80").unwrap());
        daemon.accept().unwrap();
    }
}
