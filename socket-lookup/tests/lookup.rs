//! The program at work, each test in a network namespace of its own: it runs itself again under
//! `unshare`. Who is not root may load no such program, and then it is tested that this is said.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use coracle_socket_lookup::{Failures, LookupError, RANGES_MAX, SocketLookup, Transport};
use coracle_tests::{By, Inside, enter_namespace};

#[path = "place/namespace.rs"]
mod namespace;

use namespace::{ENTRIES_MAX, PATIENCE, PREPARE, assert_refused, at, ranges, refusal};

const TCP_4: u32 = 0;
const TCP_6: u32 = 1;
const UDP_4: u32 = 2;

/// Runs the test of this name again in a namespace of its own. Who it is in that second run.
fn enter(test: &str) -> Option<Inside> {
    enter_namespace(test, PREPARE, By::Same)
}

/// Attaches a program. Nothing for a user who may not, which is told by the error.
fn attach(inside: Inside) -> Option<SocketLookup> {
    let attached = SocketLookup::attach(&ranges(), ENTRIES_MAX, 3);
    if inside == Inside::User {
        let refused = attached.expect_err("no namespace of one's own gives the right");
        assert!(matches!(refused, LookupError::Map(_)), "{refused:?}");
        return None;
    }
    Some(attached.unwrap())
}

/// Listens at the first address of the range, which no entry names.
fn listen(lookup: &SocketLookup) -> TcpListener {
    let listener = TcpListener::bind("10.244.0.0:0").unwrap();
    lookup.put_socket(TCP_4, &listener).unwrap();
    listener
}

#[test]
fn one_listener_is_reached_at_every_address_of_the_table_and_nothing_else_is() {
    let Some(lookup) =
        enter("one_listener_is_reached_at_every_address_of_the_table_and_nothing_else_is")
            .and_then(attach)
    else {
        return;
    };
    let listener = listen(&lookup);
    // A program of this machine that listens on all addresses.
    let _daemon = TcpListener::bind("0.0.0.0:8022").unwrap();
    for served in ["10.244.0.1:80", "10.244.255.9:443", "10.244.0.1:8443"] {
        lookup.serve(Transport::Tcp, at(served), TCP_4).unwrap();
        let client = TcpStream::connect(served).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), at(served));
        assert_eq!(peer, client.local_addr().unwrap());
        assert_eq!(peer.ip(), at("192.0.2.1:0").ip());
    }
    assert_refused(&["10.244.0.1:81", "10.244.0.2:80", "10.244.0.1:8022"]);
    let itself = listener.local_addr().unwrap();
    assert_eq!(refusal(itself), ErrorKind::ConnectionRefused);
    // Beyond the ranges nothing has changed.
    drop(TcpStream::connect("192.0.2.1:8022").unwrap());
    drop(TcpStream::connect("127.0.0.1:8022").unwrap());
}

#[test]
fn an_entry_that_is_taken_out_refuses_and_what_is_established_stays() {
    let Some(lookup) =
        enter("an_entry_that_is_taken_out_refuses_and_what_is_established_stays").and_then(attach)
    else {
        return;
    };
    let listener = listen(&lookup);
    let web = at("10.244.0.1:80");
    lookup.serve(Transport::Tcp, web, TCP_4).unwrap();
    let mut client = TcpStream::connect(web).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    lookup.end(Transport::Tcp, web).unwrap();
    assert_eq!(refusal(web), ErrorKind::ConnectionRefused);
    accepted.write_all(b"still here").unwrap();
    drop(accepted);
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "still here");
    // Harmless where there is none.
    lookup.end(Transport::Tcp, web).unwrap();
    // An entry whose socket is gone refuses too.
    lookup.serve(Transport::Tcp, web, TCP_4).unwrap();
    drop(listener);
    assert_eq!(refusal(web), ErrorKind::ConnectionRefused);
}

#[test]
fn an_entry_without_an_address_stands_for_all_but_the_ranges() {
    let Some(lookup) =
        enter("an_entry_without_an_address_stands_for_all_but_the_ranges").and_then(attach)
    else {
        return;
    };
    let listener = listen(&lookup);
    let node_port = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 30_080));
    lookup.serve(Transport::Tcp, node_port, TCP_4).unwrap();
    for served in ["192.0.2.1:30080", "127.0.0.1:30080"] {
        let _client = TcpStream::connect(served).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), at(served));
    }
    assert_refused(&["10.244.0.1:30080", "[2001:db8::1]:30080"]);
}

#[test]
fn addresses_of_ipv6_have_a_listener_of_their_own() {
    let Some(lookup) = enter("addresses_of_ipv6_have_a_listener_of_their_own").and_then(attach)
    else {
        return;
    };
    let listener = TcpListener::bind("[::1]:0").unwrap();
    lookup.put_socket(TCP_6, &listener).unwrap();
    let everywhere = at("[::]:30080");
    lookup.serve(Transport::Tcp, everywhere, TCP_6).unwrap();
    for served in ["[fd00:10::7]:443", "[2001:db8::1]:30080", "[::1]:30080"] {
        if at(served).port() == 443 {
            lookup.serve(Transport::Tcp, at(served), TCP_6).unwrap();
        }
        let _client = TcpStream::connect(served).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), at(served));
    }
    assert_refused(&["[fd00:10::7]:30080", "[fd00:10::8]:443", "192.0.2.1:30080"]);
}

#[test]
fn datagrams_reach_the_socket_of_their_entry_and_others_are_refused() {
    let Some(lookup) =
        enter("datagrams_reach_the_socket_of_their_entry_and_others_are_refused").and_then(attach)
    else {
        return;
    };
    let served = UdpSocket::bind("10.244.0.0:53").unwrap();
    lookup.put_socket(UDP_4, &served).unwrap();
    let dns = at("10.244.0.1:53");
    lookup.serve(Transport::Udp, dns, UDP_4).unwrap();
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
    assert_eq!(refusal(dns), ErrorKind::ConnectionRefused);
    client.connect("10.244.0.2:53").unwrap();
    client.send(b"question").unwrap();
    let refused = client.recv(&mut buffer).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_full_table_and_too_many_ranges_are_told() {
    let Some(inside) = enter("a_full_table_and_too_many_ranges_are_told") else {
        return;
    };
    let many = vec![ranges()[0]; RANGES_MAX + 1];
    let refused = SocketLookup::attach(&many, ENTRIES_MAX, 1).unwrap_err();
    assert!(matches!(refused, LookupError::TooManyRanges { .. }));
    let Some(lookup) = attach(inside) else {
        return;
    };
    let pod = |number: u32| {
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 1)) + number);
        SocketAddr::from((ip, 80))
    };
    for number in 0..ENTRIES_MAX {
        lookup.serve(Transport::Tcp, pod(number), TCP_4).unwrap();
    }
    let full = lookup.serve(Transport::Tcp, pod(ENTRIES_MAX), TCP_4);
    assert_eq!(full.unwrap_err().kind(), ErrorKind::ArgumentListTooLong);
    lookup.end(Transport::Tcp, pod(0)).unwrap();
    lookup
        .serve(Transport::Tcp, pod(ENTRIES_MAX), TCP_4)
        .unwrap();
    // The most ranges that are taken are taken by the kernel's verifier, too.
    let most = vec![ranges()[1]; RANGES_MAX];
    drop(SocketLookup::attach(&most, ENTRIES_MAX, 1).unwrap());
}

/// Holds a program until it is killed: what `nothing_is_left_of_a_process_that_was_killed` kills.
#[test]
fn a_process_that_holds_a_program() {
    if std::env::var_os("CORACLE_TEST_HOLD").is_none() {
        return;
    }
    let lookup = attach(Inside::Root).expect("root");
    let listener = listen(&lookup);
    lookup
        .serve(Transport::Tcp, at("10.244.0.1:80"), TCP_4)
        .unwrap();
    println!("held");
    for accepted in listener.incoming() {
        drop(accepted);
    }
}

#[test]
fn nothing_is_left_of_a_process_that_was_killed() {
    let inside = enter("nothing_is_left_of_a_process_that_was_killed");
    if inside.and_then(attach).is_none() {
        return;
    }
    let daemon = TcpListener::bind("0.0.0.0:80").unwrap();
    let web = at("10.244.0.1:80");
    for _ in 0..2 {
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_that_holds_a_program", "--nocapture"])
            .env("CORACLE_TEST_HOLD", "1")
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
        drop(TcpStream::connect(web).unwrap());
        assert_eq!(refusal(at("10.244.0.2:80")), ErrorKind::ConnectionRefused);
        holder.kill().unwrap();
        holder.wait().unwrap();
        // The kernel is as it was before: the route alone leads to who listens on all addresses.
        drop(TcpStream::connect("10.244.0.2:80").unwrap());
        daemon.accept().unwrap();
    }
}

#[test]
fn entries_that_lead_to_no_socket_are_counted() {
    let Some(lookup) = enter("entries_that_lead_to_no_socket_are_counted").and_then(attach) else {
        return;
    };
    let _listener = listen(&lookup);
    assert_eq!(lookup.failures().unwrap(), Failures::default());
    // A place where nobody is, and the socket of another family.
    let (nobody, other) = (at("10.244.0.1:81"), at("[fd00:10::1]:80"));
    lookup.serve(Transport::Tcp, nobody, UDP_4).unwrap();
    lookup.serve(Transport::Tcp, other, TCP_4).unwrap();
    for failing in [nobody, nobody, other] {
        assert_eq!(refusal(failing), ErrorKind::ConnectionRefused, "{failing}");
    }
    // What is not in the table is refused without being a failure.
    assert_eq!(refusal(at("10.244.0.9:80")), ErrorKind::ConnectionRefused);
    let expected = Failures {
        no_socket: 2,
        not_assigned: 1,
    };
    assert_eq!(lookup.failures().unwrap(), expected);
}
